"""Runs that are killed, stopped, out of disk space, or given a corrupt file."""

import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conf.errors import UserError
from lit_modules.classifier import LitClassifier
from lit_modules.runs import checkpoints, run_folder
from tests.conftest import ROOT, TINY, Command, configure
from tests.runs import RANDOM, assert_same, assert_same_runs, load, table, wait_for

LONG = (*TINY, *RANDOM, "callbacks.mid_epoch_checkpoint.every_n_steps=3")

# With a constant learning rate the weights do not depend on the number of epochs.
CONSTANT = (*LONG, "lit_module/scheduler=constant")


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start `python train.py …` in the background, with stdout and stderr in one pipe."""
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_resumed_after_a_signal_has_the_same_bits(
    run: Callable[..., Path], tmp_path: Path, number: signal.Signals
) -> None:
    stopped = tmp_path / "stopped"
    process = start(*CONSTANT, "trainer.max_epochs=500", f"run_dir={stopped}")
    wait_for(process, "epoch 3/")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert f"python train.py run={stopped}" in output
    assert 3 <= len(table(stopped)) < 500
    short = f"trainer.max_epochs={len(table(stopped)) + 2}"
    assert_same_runs(run(f"run={stopped}", short), run(*CONSTANT, short))


def test_run_that_diverges_at_once_leaves_no_folder(run: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^lit_module\.optimizer\.lr: loss or weights are no longer finite"):
        run(*TINY, "lit_module/optimizer=sgd", "lit_module.optimizer.lr=1e30", "lit_module.net.norm=none")
    assert not (tmp_path / "run").exists()


def test_run_that_diverges_late_keeps_its_checkpoints(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(*TINY)
    before = load(folder, "last.ckpt")
    step = LitClassifier.training_step
    monkeypatch.setattr(LitClassifier, "training_step", lambda *arguments: step(*arguments) * float("nan"))
    with pytest.raises(UserError, match=r"epoch=000\.ckpt is valid"):
        run(f"run={folder}", "trainer.max_epochs=3", "callbacks.mid_epoch_checkpoint.every_n_steps=1")
    assert_same(before["state_dict"], load(folder, "last.ckpt")["state_dict"])


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "lit_module.optimizer.lr=0.5",
        "datamodule.batch_size=32",
        "lit_module.optimizer._target_=torch.optim.SGD",
    ],
)
def test_change_that_a_resumed_run_would_ignore_is_rejected(
    run: Callable[..., Path], three_epochs: Path, change: str
) -> None:
    with pytest.raises(UserError, match="a resumed run keeps it"):
        run(f"run={three_epochs}", change)


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    path.unlink()
    if how == "code":
        path.write_bytes(pickle.dumps(Trap()))
    elif how == "foreign":
        torch.save({"weights": torch.zeros(2)}, path)
    else:
        path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"no checkpoint"}[how])


class Trap:
    """Unpickling it would make a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (os.environ["TRAP"],)


@pytest.fixture(scope="module")
def three_epochs(shared_run: Callable[..., Path]) -> Path:
    return shared_run(*TINY, *RANDOM, "trainer.max_epochs=3")


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "foreign", "code"])
def test_damaged_checkpoint_is_skipped_and_named(
    run: Callable[..., Path],
    three_epochs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: str,
) -> None:
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    damaged = shutil.copytree(three_epochs, tmp_path / "damaged", symlinks=True)
    damage(damaged / "checkpoints" / "epoch=002.ckpt", how)  # the target of last.ckpt

    run(f"run={damaged}")

    assert f"skipped {damaged}/checkpoints/last.ckpt" in capsys.readouterr().err
    assert_same_runs(damaged, three_epochs)
    for checkpoint in (damaged / "checkpoints").glob("epoch=*.ckpt"):
        damage(checkpoint, how)
    with pytest.raises(UserError, match="no readable checkpoint"):
        run(f"run={damaged}")
    assert not (tmp_path / "sprung").exists()


def test_every_written_file_loads_without_code(run: Callable[..., Path]) -> None:
    folder = run(*TINY, "callbacks=[default,ema]")
    files = [*folder.glob("checkpoints/*.ckpt"), folder / "model.pt"]
    assert len(files) == 4
    for file in files:
        assert torch.load(file, weights_only=True)


def test_moved_run_resumes_and_keeps_its_best_score(run: Callable[..., Path]) -> None:
    folder = run(*TINY, "trainer.max_epochs=2", "lit_module.optimizer.lr=0.01")
    moved = folder.rename(folder.with_name("elsewhere"))
    run(f"run={moved}", "trainer.max_epochs=3")
    assert not folder.exists()
    state = load(moved, "last.ckpt")["callbacks"]
    (best,) = [value["best_model_path"] for key, value in state.items() if "EpochCheckpoint" in key]
    assert Path(best).parent == moved / "checkpoints"
    assert len(table(moved)) == 3


def test_folder_of_another_run_is_rejected(run: Callable[..., Path]) -> None:
    folder = run(*TINY)
    written = (folder / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"^run_dir: .* already contains a run; resume it with run="):
        run(*TINY, "seed=5", f"run_dir={folder}")
    assert (folder / "config.yaml").read_text() == written


def test_folder_in_use_is_rejected_and_its_owner_named(tmp_path: Path) -> None:
    cfg = configure(f"run_dir={tmp_path / 'run'}")
    with run_folder.claim(tmp_path / "run", cfg):
        again = configure(f"run={tmp_path / 'run'}")
        with pytest.raises(UserError, match=rf"is in use by process {os.getpid()} on "):
            run_folder.claim(tmp_path / "run", again).__enter__()
    with run_folder.claim(tmp_path / "run", again):
        assert (tmp_path / "run" / ".lock").exists()


def test_full_disk_is_one_line_and_loses_nothing(run: Callable[..., Path], command: Command) -> None:
    folder = run(*TINY)
    before = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    # A file size limit simulates a full disk: Python raises an OSError for both.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 * 1024, limits[1]))
    try:
        result = command(f"run={folder}", "trainer.max_epochs=3")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.returncode == 2, result.stderr
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == before


@pytest.mark.slow
def test_dead_rank_ends_the_run_within_a_minute(tmp_path: Path) -> None:
    process = start(
        *LONG, "trainer.max_epochs=500", "trainer.devices=2", "trainer.accelerator=cpu", f"run_dir={tmp_path / 'run'}"
    )
    wait_for(process, "epoch 2/")
    began = time.monotonic()
    subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=True)
    process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert time.monotonic() - began < 60
    assert checkpoints.newest(tmp_path / "run").exists()


def test_sweep_over_several_processes_is_rejected(command: Command, tmp_path: Path) -> None:
    several = ("trainer.devices=2", "trainer.accelerator=cpu", f"logs_dir={tmp_path}")
    result = command("-m", "seed=0,1", *TINY, *several)
    assert result.returncode == 2
    assert result.stderr.startswith("error: devices: ")


def test_run_starts_from_given_weights(run: Callable[..., Path], tmp_path: Path) -> None:
    first = run(*TINY)
    frozen = ("lit_module.freeze=[blocks.*]", "lit_module.net.norm=none")
    with pytest.raises(UserError, match=r"^init_from: net\.blocks\.0\.conv\.bias is missing in "):
        run(*TINY, *frozen, f"init_from={first / 'model.pt'}", f"run_dir={tmp_path / 'other'}")
    second = run(*TINY, frozen[0], f"init_from={first / 'model.pt'}", f"run_dir={tmp_path / 'second'}")
    weights = [torch.load(folder / "model.pt", weights_only=True) for folder in (first, second)]
    assert torch.equal(weights[0]["net.blocks.1.conv.weight"], weights[1]["net.blocks.1.conv.weight"])
    assert not torch.equal(weights[0]["net.head.0.weight"], weights[1]["net.head.0.weight"])


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("devices", [1, 2])
def test_fifty_kills_change_no_bit(tmp_path: Path, devices: int) -> None:
    kills, epochs = (50, 600) if devices == 1 else (10, 200)
    choices = [*LONG, f"trainer.max_epochs={epochs}", f"trainer.devices={devices}", "trainer.accelerator=cpu"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = start(*choices, f"run_dir={whole}")
    output, _ = uninterrupted.communicate(timeout=1200)
    assert uninterrupted.returncode == 0, output
    moments = random.Random(0)
    done = 0
    process = start(*choices, f"run_dir={killed}")
    while done < kills:
        wait_for(process, "watch:")
        time.sleep(moments.uniform(0, 2))
        if process.poll() is not None:
            break
        subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=False)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        done += 1
        has_checkpoint = any(killed.glob("checkpoints/*.ckpt"))
        if not has_checkpoint:
            shutil.rmtree(killed)
        process = start(f"run={killed}") if has_checkpoint else start(*choices, f"run_dir={killed}")
    process.communicate(timeout=1200)
    print(f"{done} kills on {devices} rank(s)")
    assert done == kills
    assert_same_runs(killed, whole)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("who", ["rank 0", "rank 1", "all"])
def test_signal_to_any_rank_stops_all_of_them(tmp_path: Path, who: str) -> None:
    several = ("trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_epochs=5000")
    moments = random.Random(who)
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        process = start(*LONG, *several, f"run_dir={folder}")
        wait_for(process, "epoch 1/")
        time.sleep(moments.uniform(0, 1))
        (child,) = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        for pid in {"rank 0": [process.pid], "rank 1": [int(child)], "all": [process.pid, int(child)]}[who]:
            os.kill(pid, signal.SIGTERM)
        began = time.monotonic()
        output, _ = process.communicate(timeout=30)
        print(f"SIGTERM to {who}: {process.returncode} after {time.monotonic() - began:.1f} s")
        assert process.returncode == 143, output
        reached = load(folder, "last.ckpt")["global_step"]
        assert f"stopped by SIGTERM at step {reached};" in output


WRITER = """
import sys, torch
from pathlib import Path
from lit_modules.trainer.checkpoint_io import DurableCheckpointIO
state = {"weights": torch.randn(2_000_000)}
print("ready", flush=True)
while True:
    DurableCheckpointIO().save_checkpoint(state, Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_writer_leaves_a_readable_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    torch.save({"weights": torch.zeros(1)}, file)
    moments = random.Random(0)
    for _ in range(50):
        command = [sys.executable, "-c", WRITER, str(file)]
        elsewhere = os.environ | {"TMPDIR": "/dev/shm"}
        writer = subprocess.Popen(command, cwd=ROOT, env=elsewhere, stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(moments.uniform(0, 0.2))
        writer.kill()
        writer.communicate()
        assert torch.load(file, weights_only=True)["weights"].numel() in (1, 2_000_000)
