"""Library networks keep the weights that they are given, but for a head of our own."""

import re
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from hydra.utils import instantiate
from safetensors.torch import save_file
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.networks.pretrained import input_spec, timm_net, torchvision_net
from tests.conftest import TINY, configure
from tests.fits import classifier

NETS = {"torchvision": torchvision_net, "timm": timm_net}


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A network of torchvision with a thousand classes, and a file of its weights."""
    torch.manual_seed(5)
    net, file = torchvision.models.resnet18().eval(), tmp_path_factory.mktemp("donor") / "donor.pt"
    torch.save(net.state_dict(), file)
    return net, file


def body(net: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in net.state_dict().items() if not name.startswith("fc.")}


@pytest.mark.parametrize("library", NETS)
@pytest.mark.parametrize("channels", [1, 3])
def test_network_has_one_logit_per_class(library: str, channels: int) -> None:
    net = NETS[library]((channels, 32, 32), 7, name="resnet18", weights=None)
    assert net(torch.zeros(2, channels, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("library", NETS)
def test_file_replaces_all_weights_but_the_head(library: str, donor: tuple[nn.Module, Path]) -> None:
    theirs, file = donor
    ours = NETS[library]((3, 32, 32), 7, name="resnet18", weights=str(file))
    assert all(torch.equal(value, body(theirs)[name]) for name, value in body(ours).items())
    assert not ours.get_parameter("fc.weight").any() and not ours.get_parameter("fc.bias").any()


def test_head_is_not_loaded_with_equal_class_counts(donor: tuple[nn.Module, Path]) -> None:
    theirs, file = donor
    ours = torchvision_net((3, 32, 32), 1000, name="resnet18", weights=str(file))
    # A head is known by its shape's dependence on the number of classes, not by a difference from the file's.
    assert not torch.equal(ours.get_parameter("fc.weight"), theirs.get_parameter("fc.weight"))


def test_grey_images_give_the_logits_of_equal_rgb(donor: tuple[nn.Module, Path]) -> None:
    theirs, file = donor
    ours = torchvision_net((1, 32, 32), 7, name="resnet18", weights=str(file)).eval()
    theirs = deepcopy(theirs)
    ours.fc, theirs.fc = nn.Identity(), nn.Identity()
    grey = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(ours(grey), theirs(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


def test_module_init_keeps_pretrained_weights(donor: tuple[nn.Module, Path]) -> None:
    theirs, file = donor
    cfg = configure("lit_module/net=torchvision", f"lit_module.net.weights={file}")
    facts = {"input_shape": (3, 32, 32), "class_names": ["a", "b"], "class_counts": [5, 5]}
    module = instantiate(cfg.lit_module, **facts, mean=[0.5] * 3, std=[0.5] * 3, _convert_="all")
    assert all(torch.equal(value, body(theirs)[name]) for name, value in body(module.net).items())


def test_library_weights_are_the_default_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = torchvision.models.resnet18()
    asked: list[bool] = []

    def give(_self: object, **options: bool) -> dict[str, Tensor]:
        asked.append(options["weights_only"])
        return theirs.state_dict()

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", give)
    ours = torchvision_net((3, 32, 32), 7, name="resnet18", weights="library")
    assert asked == [True]
    assert all(torch.equal(value, body(theirs)[name]) for name, value in body(ours).items())


@pytest.mark.slow
def test_run_starts_from_another_runs_model(run: Callable[..., Path], tmp_path: Path) -> None:
    small = ("lit_module/net=torchvision", "datamodule.image_size=32", "trainer=debug", "devices=cpu")
    first = run(*small)
    second = run(
        *small, f"lit_module.net.weights={first / 'model.pt'}", "lit_module.freeze=['layer*','conv1*','bn1*']",
        f"run_dir={tmp_path / 'second'}",
    )  # fmt: skip
    weights = [torch.load(folder / "model.pt", weights_only=True) for folder in (first, second)]
    assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == [
        "net.fc.weight",
        "net.fc.bias",
    ]


def test_run_resumes_without_its_pretrained_file(run: Callable[..., Path], tmp_path: Path, images: Path) -> None:
    name, file = "shufflenet_v2_x0_5", tmp_path / "first.pt"
    torch.save(torchvision.models.get_model(name).state_dict(), file)
    small = ("lit_module/net=torchvision", "datamodule.image_size=32", "trainer=debug", "devices=cpu")
    small += (f"lit_module.net.name={name}",)
    data = ("datamodule=image_folder", f"datamodule.root={images}")
    folder = run(*data, *small, f"lit_module.net.weights={file}", *TINY[3:])
    file.unlink()
    run(f"run={folder}", "task=test")
    run(f"run={folder}", "task=predict", f"input={images}")
    run(f"run={folder}", "trainer.max_epochs=2")
    assert f"weights: {file}" in (folder / "config.yaml").read_text()


def saved(net: nn.Module, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(net.state_dict(), path)
    else:
        torch.save(net.state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("library", "name", "weights", "file"),
    [
        ("torchvision", "resnet18", "library", "resnet18-f37072fd.pth"),
        ("torchvision", "resnet18", "IMAGENET1K_V1", "resnet18-f37072fd.safetensors"),
        ("torchvision", "resnet18", "library", "resnet18.bin"),
        ("timm", "resnet18", "library", "resnet18.a1_in1k.safetensors"),
        ("timm", "resnet18.a2_in1k", "library", "resnet18.a2_in1k.pt"),
    ],
)
def test_weights_are_looked_for_in_a_folder_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, name: str, weights: str, file: str
) -> None:
    theirs = torchvision.models.resnet18()
    saved(theirs, tmp_path / file)
    monkeypatch.setenv("LITMUS_WEIGHTS", str(tmp_path))
    ours = NETS[library]((3, 32, 32), 7, name=name, weights=weights)
    assert all(torch.equal(value, body(theirs)[key]) for key, value in body(ours).items())


def test_missing_folder_of_weights_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITMUS_WEIGHTS", "nowhere")
    with pytest.raises(UserError, match=r"^LITMUS_WEIGHTS: nowhere is not a folder; name one that "):
        torchvision_net((3, 32, 32), 7, name="resnet18", weights="library")


def test_input_is_that_of_the_chosen_weights() -> None:
    place = "lit_modules.networks.pretrained"
    resnet = {"_target_": f"{place}.torchvision_net", "name": "efficientnet_b0", "weights": "library"}
    imagenet = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]
    assert input_spec(resnet) == (224, "bicubic", *imagenet)
    assert input_spec(resnet | {"name": "swin_v2_t"}) == (256, "bicubic", *imagenet)
    tagged = {
        "_target_": f"{place}.timm_net",
        "name": "vit_base_patch16_384.augreg_in21k_ft_in1k",
        "weights": "library",
    }
    assert input_spec(tagged) == (384, "bicubic", [0.5] * 3, [0.5] * 3)


def test_weights_of_a_run_bring_its_mean_and_std(tmp_path: Path) -> None:
    weights = {f"net.{name}": value for name, value in torchvision.models.resnet18().state_dict().items()}
    weights |= {"normalize.mean": torch.full((3, 1, 1), 0.25), "normalize.std": torch.full((3, 1, 1), 0.125)}
    torch.save(weights, tmp_path / "model.pt")
    ours = torchvision_net((3, 32, 32), 7, name="resnet18", weights=str(tmp_path / "model.pt"))
    assert ours.mean_std == ([0.25] * 3, [0.125] * 3)


def test_classifier_standardises_as_its_pretrained_network(donor: tuple[nn.Module, Path]) -> None:
    net = partial(torchvision_net, name="resnet18", weights=str(donor[1]))
    module = classifier(net=net, input_shape=(3, 32, 32), mean=[0.1] * 3, std=[0.2] * 3)
    assert module.normalize.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def refused(download: OSError | RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: object, **_options: bool) -> None:
        raise download

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", fail)


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("invalid hash value")])
def test_failed_download_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch, error: OSError | RuntimeError) -> None:
    refused(error, monkeypatch)
    with pytest.raises(UserError, match=rf"^lit_module\.net\.weights: could not be downloaded \({error}\)"):
        torchvision_net((3, 32, 32), 7, name="resnet18", weights="library")


@pytest.mark.parametrize(
    ("shape", "choices", "problem"),
    [
        ((3, 32, 32), {"name": "resnet81"}, r"name: torchvision has no classifier resnet81; did you mean 'resnet\d+'"),
        ((3, 32, 32), {"name": "googlenet"}, r"name: torchvision has no classifier googlenet"),
        (
            (3, 16, 16),
            {"name": "alexnet"},
            r"name: alexnet does not accept 16×16 pixels \(.*\); try datamodule",
        ),
        ((2, 32), {"name": "resnet18"}, r"net: resnet18 needs images of 1 or 3 channels, not \[2, 32\]"),
        ((3, 32, 32), {"name": "resnet18", "weights": "none.pt"}, r"net\.weights: none\.pt has no readable weights"),
        ((3, 32, 32), {"name": "resnet34", "weights": "DONOR"}, r"layer1\.2\.bn1\.bias is missing in"),
    ],
    ids=["name", "two heads", "size", "shape", "file", "other network"],
)
def test_unsupported_input_or_weights_are_rejected(
    donor: tuple[nn.Module, Path], shape: tuple[int, ...], choices: dict[str, str], problem: str
) -> None:
    weights = str(donor[1]) if choices.get("weights") == "DONOR" else choices.get("weights")
    with pytest.raises(UserError) as refused:
        torchvision_net(shape, 7, name=choices["name"], weights=weights)
    assert re.search(problem, str(refused.value))


def test_timm_rejects_unknown_and_remote_names() -> None:
    assert "resnet18" in timm.list_models()
    with pytest.raises(UserError, match=r"^lit_module\.net\.name: timm has no classifier hf-hub:someone/model; "):
        timm_net((3, 32, 32), 7, name="hf-hub:someone/model", weights=None)


def test_missing_timm_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r'^lit_module\.net: timm is not installed; pip install -e "\.\[timm\]"$'):
        timm_net((3, 32, 32), 7, name="resnet18", weights=None)


@pytest.mark.slow
def test_layer_decay_and_groups_set_learning_rates(run: Callable[..., Path]) -> None:
    folder = run(*TINY[:1], "+experiment=finetune", "trainer=debug", "lit_module.net.name=resnet18")
    (state,) = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"]
    assert [group["initial_lr"] for group in state["param_groups"]] == pytest.approx([1e-3 * 0.8**k for k in range(11)])
