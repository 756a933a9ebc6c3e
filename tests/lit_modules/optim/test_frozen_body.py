"""A frozen body is computed once for each sample and view, with the scores of computing it in every step."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.networks.head import body_features
from lit_modules.optim import frozen_body
from lit_modules.optim.frozen_body import FrozenBody
from tests.conftest import DRAWN, TINY, UNDRAWN, Command
from tests.runs import COMPARED, assert_same, assert_same_runs, cut_off_after, load, table

DROPOUT = ("lit_module.net.dropout=0.3",)  # in the body, where it is off
CROPS = ("datamodule/augment=[resized_crop,flip]", "datamodule.views=2")
EPOCHS = 4


@pytest.fixture(scope="module")
def body(shared_run: Callable[..., Path]) -> Path:
    """A trained network whose body is frozen in these tests."""
    return shared_run(*TINY) / "model.pt"


def frozen(body: Path, *overrides: str) -> tuple[str, ...]:
    return (*TINY, "lit_module.freeze=body", f"init_from={body}", f"trainer.max_epochs={EPOCHS}", *overrides)


def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, the body runs in every step."""
    monkeypatch.setattr(FrozenBody, "on_fit_start", lambda *_: None)


@pytest.mark.parametrize("overrides", [DROPOUT, CROPS], ids=["dropout", "views"])
def test_scores_are_those_of_running_it_in_every_step(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, body: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    once = run(*frozen(body, *overrides))
    never(monkeypatch)
    every_step = run(*frozen(body, *overrides), f"run_dir={tmp_path / 'every'}")
    rows = [
        [{key: float(value) for key, value in row.items() if "/" in key} for row in table(folder)]
        for folder in (once, every_step)
    ]
    for ours, theirs in zip(*rows, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (once, every_step)]
    for name in ("test/loss", "test/acc", "test/f1", "test/likelihood"):
        assert summaries[0][name] == pytest.approx(summaries[1][name], abs=1e-6)


def test_weights_of_the_body_and_its_statistics_stay(run: Callable[..., Path], body: Path) -> None:
    before = torch.load(body, weights_only=True)
    after = torch.load(run(*frozen(body)) / "model.pt", weights_only=True)
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"net.head.0.weight", "net.head.0.bias"}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of samples of each call of a frozen body."""
    sizes: list[int] = []

    def counted(net: nn.Module, inputs: Tensor) -> Tensor:
        sizes.append(len(inputs))
        return body_features(net, inputs)

    monkeypatch.setattr(frozen_body, "body_features", counted)
    return sizes


@pytest.mark.parametrize(("overrides", "views"), [((), 1), (CROPS, 2)], ids=["plain", "views"])
def test_each_sample_and_view_is_computed_once(
    run: Callable[..., Path], body: Path, passes: list[int], overrides: tuple[str, ...], views: int, tmp_path: Path
) -> None:
    choices = frozen(body, *overrides, f"datamodule.cache_dir={tmp_path / 'cache'}")
    summary = json.loads((run(*choices) / "summary.json").read_text())
    counts = [int(summary[f"samples/{split}"]) for split in ("train", "val", "test")]
    computed = sum(size for size in passes if size > 1)
    assert computed == pytest.approx(views * counts[0] + counts[1] + counts[2], abs=5)  # chunks of one sample, a check
    passes.clear()
    again = run(*choices, "lit_module.optimizer.lr=0.01", f"run_dir={tmp_path / 'again'}")
    assert sum(passes) == 2, "the features of an earlier run serve another head"
    assert (again / "summary.json").is_file()


def test_changed_weights_are_computed_anew(
    run: Callable[..., Path], body: Path, passes: list[int], tmp_path: Path
) -> None:
    cache = f"datamodule.cache_dir={tmp_path / 'cache'}"
    run(*frozen(body, cache))
    once = sum(passes)
    weights = torch.load(body, weights_only=True)
    weights["net.blocks.0.conv.weight"][0, 0, 0, 0] += 1
    torch.save(weights, tmp_path / "other.pt")
    run(*frozen(tmp_path / "other.pt", cache), f"run_dir={tmp_path / 'again'}")
    assert sum(passes) == 2 * once


def test_equal_weights_of_another_network_are_computed_anew(
    run: Callable[..., Path], body: Path, passes: list[int], tmp_path: Path
) -> None:
    cache = f"datamodule.cache_dir={tmp_path / 'cache'}"
    run(*frozen(body, cache))
    once = sum(passes)
    run(*frozen(body, cache, "lit_module.net.activation=Tanh"), f"run_dir={tmp_path / 'again'}")
    assert sum(passes) == 2 * once


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("datamodule/mix=mixup",), "datamodule.mix mixes other samples in each epoch"),
        (("datamodule/augment=[flip]",), "augmentations differ in each epoch; set datamodule.views=4 to repeat them"),
        (("lit_module.unfreeze_epoch=2",), "it is trained from epoch 2 on"),
        (
            ("lit_module/loss=distill", "lit_module.loss.teacher={body.parent}"),
            "Distillation needs the samples",
        ),
    ],
    ids=["mix", "augment", "unfreeze", "distill"],
)
def test_body_whose_inputs_differ_runs_in_every_step(
    run: Callable[..., Path], body: Path, capsys: pytest.CaptureFixture[str], overrides: tuple[str, ...], reason: str
) -> None:
    folder = run(*frozen(body, *(override.format(body=body) for override in overrides)))
    assert f"the frozen body runs in every step, because {reason}\n" in capsys.readouterr().out
    before, after = (torch.load(path, weights_only=True) for path in (body, folder / "model.pt"))
    unfrozen = not torch.equal(before["net.blocks.1.conv.weight"], after["net.blocks.1.conv.weight"])
    assert unfrozen == ("unfreeze" in overrides[0])


def test_figures_show_images(run: Callable[..., Path], body: Path) -> None:
    drawn = (*DRAWN, "lit_module.freeze=body", f"init_from={body}", *CROPS, "callbacks=[default,projector]")
    folder = run(*drawn, "lit_module.optimizer.lr=1e-5")
    board = EventAccumulator(str(folder)).Reload()
    assert {"inputs/train", "inputs/val", "network/feature_maps", "test/mistakes"} <= set(board.Tags()["images"])
    assert list(folder.rglob("*sprite.png"))


def test_overfitting_sees_plain_samples(
    run: Callable[..., Path], body: Path, passes: list[int], tmp_path: Path
) -> None:
    overfit = ("trainer=overfit", "datamodule/augment=[flip]", "monitor=train/loss", "mode=min")
    run(*frozen(body, *overfit, f"datamodule.cache_dir={tmp_path / 'cache'}"))
    assert sum(passes) > 1000


@pytest.mark.parametrize("overrides", [CROPS, ("callbacks=[default,ema]",)], ids=["views", "average"])
def test_resumed_run_has_the_same_bits(run: Callable[..., Path], body: Path, overrides: tuple[str, ...]) -> None:
    whole = run(*frozen(body, *overrides))
    resumed = whole.with_name("resumed")
    shutil.copytree(whole, resumed, symlinks=True)
    cut_off_after(resumed, epoch=1)
    run(f"run={resumed}")
    assert_same_runs(whole, resumed)


def test_run_stopped_while_the_body_is_computed_starts_anew(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, body: Path, tmp_path: Path
) -> None:
    def stopped(*_: object) -> None:
        raise SystemExit

    choices = frozen(body, f"datamodule.cache_dir={tmp_path / 'cache'}")
    with monkeypatch.context() as patch:
        patch.setattr("datamodules.batching.features_of", stopped)
        with pytest.raises(SystemExit):
            run(*choices)
    with pytest.raises(UserError, match=r"init_from is .*: add init_from=… to the command"):
        run(f"run={tmp_path / 'run'}")
    run(f"run={tmp_path / 'run'}", *(word for word in choices if word.startswith("init_from=")))
    whole = run(*choices, f"run_dir={tmp_path / 'whole'}")
    for part in COMPARED:
        assert_same(load(tmp_path / "run", "last.ckpt")[part], load(whole, "last.ckpt")[part], part)


@pytest.mark.slow
def test_two_ranks_train_as_one(process: Command, body: Path, tmp_path: Path) -> None:
    two = ("devices=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    for name, overrides in {"one": (), "two": two}.items():
        cache = f"datamodule.cache_dir={tmp_path / name}-cache"
        result = process(*frozen(body, cache, *overrides), f"run_dir={tmp_path / name}")
        assert result.returncode == 0, result.stderr
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two")]
    for name in ("train/loss", "val/loss", "val/acc", "test/loss", "test/acc", "test/f1"):
        assert summaries[0][name] == pytest.approx(summaries[1][name], abs=1e-5), name


def test_random_body_is_refused(run: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"^lit_module\.freeze: body: its weights would stay random; "):
        run(*TINY, "lit_module.freeze=body")


def test_restarted_job_resumes_a_pretrained_run(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, images: Path
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    small = (
        "+experiment=image_folder",
        f"datamodule.root={images}",
        "datamodule.image_size=64",
        *UNDRAWN,
        "devices=cpu",
    )
    whole = run(*small, "epochs=2")
    before = table(whole)
    run(*small, "epochs=3")
    assert table(whole)[:2] == before and len(table(whole)) == 3
