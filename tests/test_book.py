"""The page of the notes is correct: commands run, tests exist, networks equal those of the book."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn import functional as F

from conf import validation
from tests.conftest import ROOT, UNDRAWN, configure

FOLDER = ROOT / "conf" / "experiment" / "book"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines() if line.startswith("| ")]
NOTES = [row for row in ROWS if len(row) == 5 and row[0] != "notes"]
LADDER = [row for row in ROWS if row[0].startswith("`python")]
SECTIONS = {
    *("0", "1-1-1", "1-1-2", "1-1-3", "2-1-1", "2-2-1", "2-2-2", "3-1-1", "5", "6.1.1", "6.1.2", "6.2.1", "7.1.1"),
    *("4.1", "4.2", "4.2.1", "4.2.2", "4.2.3", "4.2.4", "4.2.5", "4.2.6"),
}
COMMANDS = list(dict.fromkeys(row[3].strip("`") for row in NOTES))


def overrides_of(command: str) -> list[str]:
    program, script, *words = shlex.split(command)
    assert (program, script) == ("python", "train.py")
    return words


def network(experiment: str, **shape: Any) -> nn.Module:
    """An experiment's initialized network, by default for images of 3×32×32 and two classes."""
    cfg = configure(f"+experiment=book/{experiment}").lit_module
    torch.manual_seed(0)
    net = instantiate(cfg.net, _convert_="all")(**({"input_shape": (3, 32, 32), "num_classes": 2} | shape))
    if cfg.init:
        instantiate(cfg.init, _convert_="all")(net)
    return net


def test_every_section_has_its_rows() -> None:
    assert {row[0] for row in NOTES} == SECTIONS
    assert len(NOTES) == 25
    named = {re.search(r"book/(\w+)", row[0])[1] for row in LADDER}  # type: ignore[index]
    assert named == {path.stem for path in FOLDER.glob("*.yaml")}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(run: Callable[..., Path], images: Path, command: str) -> None:
    words = [word.replace("=DIR", f"={images}") for word in overrides_of(command)]
    quick = ["trainer=debug", "devices=cpu", *UNDRAWN]
    folder = run(*words, *[choice for choice in quick if choice not in words])
    assert (folder / "summary.json").is_file()


@pytest.mark.parametrize("row", NOTES, ids=lambda row: f"{row[0]} {row[1]}")
def test_named_test_and_files_exist(row: list[str]) -> None:
    file, test = row[4].strip("`").split("::")
    assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")
    for path in re.findall(r"`((?:lit_modules|datamodules)/[\w/]+\.py)`", row[2]):
        assert (ROOT / path).is_file()
    for group in re.findall(r"`((?:callbacks|lit_module)/\w+)`", row[2]):
        assert (ROOT / "conf" / group).exists() or (ROOT / "conf" / f"{group}.yaml").exists()
    cfg = configure()
    for key in re.findall(r"`((?:lit_module|trainer)\.[\w.]+)`", row[2]):
        *parents, name = key.split(".")
        node: Any = cfg
        for parent in parents:
            node = node[parent]
        assert name in node, key


@pytest.mark.parametrize("row", LADDER, ids=lambda row: row[0])
def test_rung_is_composed_and_has_its_parameter_count(row: list[str]) -> None:
    (experiment,) = [word.removeprefix("+experiment=book/") for word in overrides_of(row[0].strip("`"))[:1]]
    validation.check(configure(*overrides_of(row[0].strip("`"))))
    count = sum(parameter.numel() for parameter in network(experiment).parameters())
    assert count == int(row[2].replace(",", ""))


@pytest.mark.parametrize("experiment", [path.stem for path in sorted(FOLDER.glob("*.yaml"))])
def test_rungs_share_their_settings(experiment: str) -> None:
    cfg = configure(f"+experiment=book/{experiment}")
    assert (cfg.trainer.max_epochs, cfg.datamodule.batch_size, cfg.datamodule.dataset) == (100, 64, "CIFAR10")
    assert cfg.datamodule.classes == ["airplane", "bird"]
    assert cfg.lit_module.scheduler is None and cfg.lit_module.loss._target_ == "torch.nn.CrossEntropyLoss"
    optimizer = instantiate(cfg.lit_module.optimizer, _convert_="all")([nn.Parameter(torch.zeros(1))])
    expected = torch.optim.SGD(
        [nn.Parameter(torch.zeros(1))],
        lr=0.003 if "res_deep" in experiment else 0.01,
        weight_decay=0.002 if experiment == "l2" else 0,
    )
    assert type(optimizer) is torch.optim.SGD and optimizer.defaults == expected.defaults


def load(book: nn.Module, ours: nn.Module) -> None:
    """Copy our weights into the book's network, in order of registration."""
    book.load_state_dict(dict(zip(book.state_dict(), ours.state_dict().values(), strict=True)))


class NetRes(nn.Module):
    """The network of section 8.5.3."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(256, 32), nn.Linear(32, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = F.max_pool2d(self.conv1(inputs).relu(), 2)
        outputs = shortcut = F.max_pool2d(self.conv2(outputs).relu(), 2)
        outputs = F.max_pool2d(self.conv3(outputs).relu() + shortcut, 2)
        return self.fc2(self.fc1(outputs.flatten(1)).relu())


class NetResDeep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv, self.norm = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.fc1, self.fc2 = nn.Linear(2048, 32), nn.Linear(32, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = F.max_pool2d(self.conv1(inputs).relu(), 2)
        for _ in range(100):
            outputs = self.norm(self.conv(outputs)).relu() + outputs
        return self.fc2(self.fc1(F.max_pool2d(outputs, 2).flatten(1)).relu())


@pytest.mark.parametrize(("experiment", "book"), [("res", NetRes), ("res_deep", NetResDeep)])
def test_residual_network_of_the_book_gives_the_same_logits(experiment: str, book: type[nn.Module]) -> None:
    ours, theirs = network(experiment).double(), book().double()
    load(theirs, ours)
    inputs = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=1e-6, atol=1e-8)


def test_blocks_that_are_not_shared_have_weights_of_their_own() -> None:
    net = network("res_deep_unshared")
    weights = [parameter for name, parameter in net.named_parameters() if name.endswith("conv.weight")][1:]
    assert len(weights) == 10
    assert len({float(weight.detach().sum()) for weight in weights}) == 10
    # Kaiming's, with ReLU's gain; the book begins each norm with a scale of 0.5.
    for weight in weights:
        assert weight.var().item() == pytest.approx(2 / (32 * 9), rel=0.05)
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all((norm.weight == 0.5).all() and not norm.bias.any() for norm in norms)


def test_dropout_draws_what_it_would_after_the_books_pool() -> None:
    ours = network("dropout")
    book = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Dropout2d(0.4),
        nn.Conv2d(32, 16, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Dropout2d(0.4),
        nn.Flatten(), nn.Linear(1024, 32), nn.Tanh(), nn.Linear(32, 2),
    )  # fmt: skip
    load(book, ours)
    inputs = torch.randn(8, 3, 32, 32)
    logits = []
    for net in (ours, book):
        torch.manual_seed(1)
        logits.append(net(inputs))
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


def test_bias_before_a_batch_norm_changes_nothing() -> None:
    ours = network("batch_norm")
    torch.manual_seed(1)
    book = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.Tanh(), nn.MaxPool2d(2),
        nn.Conv2d(32, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Tanh(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 32), nn.Tanh(), nn.Linear(32, 2),
    )  # fmt: skip
    with_bias = {"0.bias", "4.bias"}  # any value: PyTorch's first one
    names = [name for name in book.state_dict() if name not in with_bias]
    book.load_state_dict(dict(zip(names, ours.state_dict().values(), strict=True)), strict=False)
    inputs = torch.randn(8, 3, 32, 32)
    torch.testing.assert_close(ours(inputs), book(inputs), rtol=1e-4, atol=1e-5)


def test_weight_decay_is_the_books_penalty() -> None:
    inputs, labels = torch.randn(8, 3, 32, 32), torch.randint(2, (8,))
    cfg = configure("+experiment=book/l2").lit_module.optimizer
    decayed, penalised = network("l2").double(), network("baseline").double()
    ours = instantiate(cfg, _convert_="all")(decayed.parameters())
    theirs = torch.optim.SGD(penalised.parameters(), lr=0.01)
    for _ in range(5):
        for net, optimizer in ((decayed, ours), (penalised, theirs)):
            loss = F.cross_entropy(net(inputs.double()), labels)
            if net is penalised:
                loss = loss + 0.001 * sum(parameter.square().sum() for parameter in net.parameters())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for a, b in zip(decayed.parameters(), penalised.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
