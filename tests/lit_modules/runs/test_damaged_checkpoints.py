"""Each command answers a damaged checkpoint in one line, or is not affected by the damage."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import train
from conf import validation
from conf.error_messages import one_line_errors
from tests.conftest import TINY, configure, write_images
from tests.damaged_checkpoints import UNRESUMABLE, UNUSABLE, change, flip_weight, mutate
from tests.runs import load

FIT = ("+experiment=from_scratch", *TINY, "lit_module.net.pool=2", "datamodule.root=IMAGES")
COMMANDS: dict[str, tuple[str, ...]] = {
    "fit": ("run=RUN", "trainer.max_epochs=3"),
    "test": ("run=RUN", "task=test"),
    "predict": ("run=RUN", "task=predict", "input=IMAGES/dark/000.png"),
    "export": ("run=RUN", "task=export", "format=safetensors"),
    "init_from": (*FIT, "run_dir=NEW", "init_from=RUN/weights.ckpt"),
}
Answer = Callable[..., tuple[object, list[str]]]


@pytest.fixture(scope="module")
def trained(shared_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of two classes and a run of two epochs on them."""
    folder = tmp_path_factory.mktemp("trained")
    for name, level in (("dark", 60), ("light", 190)):
        write_images(folder / "images" / name, 12, level=level)
    fit = [word.replace("IMAGES", str(folder / "images")) for word in FIT]
    shared_run(*fit, "trainer.max_epochs=2", f"run_dir={folder / 'run'}")
    return folder


@pytest.fixture
def answer(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    """Damages the checkpoints of a copy of the run, then runs a command; returns exit code and error lines."""

    def answer(name: str, damage: Callable[[Path], object]) -> tuple[object, list[str]]:
        run = tmp_path / "run"
        for folder in (run, tmp_path / "new"):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(trained / "run", run, symlinks=True)
        for path in run.glob("checkpoints/epoch=*.ckpt"):
            damage(path)
        shutil.copy(run / "checkpoints" / "epoch=001.ckpt", run / "weights.ckpt")
        places = {"RUN": run, "NEW": tmp_path / "new", "IMAGES": trained / "images"}
        words = COMMANDS[name]
        for place, path in places.items():
            words = tuple(word.replace(place, str(path)) for word in words)
        capsys.readouterr()
        code: object = 0
        try:
            with one_line_errors():
                cfg = configure(*words)
                validation.check(cfg)
                train.TASKS[cfg.task](cfg)
        except SystemExit as error:
            code = error.code
        return code, [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]

    return answer


@pytest.mark.parametrize("name", COMMANDS)
def test_flipped_bit_of_a_weight_is_found(answer: Answer, name: str) -> None:
    code, (line,) = answer(name, flip_weight)
    file = {"fit": "last.ckpt", "init_from": "weights.ckpt"}.get(name, "best.ckpt")
    assert code == 2 and file in line
    assert "is corrupt" in line or name == "init_from"


def test_flipped_bit_of_model_pt_is_found(answer: Answer, trained: Path, tmp_path: Path) -> None:
    def damage(path: Path) -> None:
        shutil.copy(trained / "run" / "model.pt", path)
        flip_weight(path)

    code, (line,) = answer("init_from", damage)
    assert code == 2 and line.startswith(f"error: init_from: {tmp_path / 'run' / 'weights.ckpt'} has no readable ")


def test_flipped_bit_in_the_last_checkpoint_costs_one_epoch(
    run: Callable[..., Path], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(trained / "run", tmp_path / "copy", symlinks=True)
    flip_weight(folder / "checkpoints" / "epoch=001.ckpt")
    run(f"run={folder}")
    assert f"skipped {folder}/checkpoints/last.ckpt: is corrupt or no checkpoint\n" in capsys.readouterr().err
    expected = load(trained / "run", "epoch=001.ckpt")["state_dict"]
    assert all(map(torch.equal, load(folder, "epoch=001.ckpt")["state_dict"].values(), expected.values()))


FAST = ("fewer class_names", "huge epoch", "meta weight", "nested state_dict", "no input_shape")


@pytest.mark.parametrize("name", COMMANDS)
def test_checkpoint_changed_by_hand_is_one_line(answer: Answer, name: str) -> None:
    for damage in FAST:
        if name == "init_from" and not damage.endswith(("weight", "state_dict")):
            continue  # it reads the weights alone
        code, lines = answer(name, lambda path: change(path, UNUSABLE[damage]))  # noqa: B023 (called at once)
        assert code == 2 and len(lines) == 1, (damage, lines)


@pytest.mark.parametrize(
    "damage", ["misshapen state", "number as exp_avg", "text as betas", "no loops", "foreign callback", "text as count"]
)
def test_changed_state_of_the_training_is_one_line(answer: Answer, damage: str) -> None:
    code, (line,) = answer("fit", lambda path: change(path, UNRESUMABLE[damage]))
    assert code == 2 and "last.ckpt: " in line and "; " in line


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_change_by_hand_is_one_line(answer: Answer, name: str) -> None:
    damages = UNUSABLE | UNRESUMABLE if name == "fit" else UNUSABLE
    for damage, edit in damages.items():
        code, lines = answer(name, lambda path: change(path, edit))  # noqa: B023 (called at once)
        ignored = name == "init_from" and code == 0 and "weight" not in damage and "state_dict" not in damage
        assert ignored or (code == 2 and len(lines) == 1), (damage, code, lines)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", COMMANDS)
def test_random_damage_is_one_line_or_harmless(answer: Answer, name: str) -> None:
    for seed in range(60):
        try:
            code, lines = answer(name, lambda path: mutate(path, random.Random(seed)))  # noqa: B023 (called at once)
        except Exception as error:
            raise AssertionError(f"seed {seed} of {name}") from error
        assert code in (0, 3) or (code == 2 and len(lines) == 1), (seed, code, lines)
