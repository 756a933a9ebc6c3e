"""A network shared out among processes learns what a whole one learns, and its checkpoint needs no other process."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from pytorch_lightning import LightningModule

from conf.errors import UserError
from lit_modules.trainer.strategies import FSDP
from tests.conftest import ROOT, TINY, configure
from tests.runs import assert_same, load, table

Command = Callable[..., subprocess.CompletedProcess[str]]
CHOICES = (*TINY[1:], "datamodule.batch_size=100", "trainer.accelerator=cpu", "lit_module/scheduler=constant")
# So the optimizer has its parameters in another order than the network, and not all of them.
ORDER = ("+lit_module.param_groups.bias={pattern: '*.bias', lr: 0.01}", "lit_module.freeze=[blocks.0.*]")


def assert_close(ours: Path, theirs: Path) -> None:
    a, b = (load(folder, "last.ckpt")["state_dict"] for folder in (ours, theirs))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5, msg=name)


def train(process: Command, folder: Path, *choices: str) -> Path:
    result = process(*choices)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.slow
def test_shared_out_network_learns_what_a_whole_one_learns(
    process: Command, run: Callable[..., Path], tmp_path: Path
) -> None:
    choices = (*CHOICES, "lit_module.net.norm=none")
    shared, whole = tmp_path / "shared", tmp_path / "whole"
    train(process, shared, *choices, "devices=fsdp", "trainer.devices=2", f"run_dir={shared}")
    assert_close(shared, run(*choices, "devices=cpu", f"run_dir={whole}"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_checkpoint_of_a_shared_out_network_is_one_file_for_any_devices(
    process: Command, run: Callable[..., Path], tmp_path: Path
) -> None:
    choices = (*CHOICES, "trainer.devices=2", "trainer.max_epochs=2", *ORDER)
    ddp, fsdp, gone_on = tmp_path / "ddp", tmp_path / "fsdp", tmp_path / "gone_on"
    train(process, ddp, *choices, "devices=ddp", f"run_dir={ddp}")
    train(process, fsdp, *choices, "devices=fsdp", f"run_dir={fsdp}")
    assert_close(fsdp, ddp)
    assert "epoch=001.ckpt" in {path.name for path in (fsdp / "checkpoints").iterdir() if path.is_file()}

    train(process, gone_on, *choices, "devices=fsdp", "trainer.max_epochs=1", f"run_dir={gone_on}")
    train(process, gone_on, f"run={gone_on}", "trainer.max_epochs=2")
    ours, theirs = load(gone_on, "last.ckpt"), load(fsdp, "last.ckpt")
    assert_same(ours["state_dict"], theirs["state_dict"])
    assert_same(ours["optimizer_states"][0]["state"], theirs["optimizer_states"][0]["state"])  # betas are a list by now
    assert table(gone_on) == table(fsdp)

    run(f"run={fsdp}", "task=export", "format=torch_export")
    for folder in (fsdp, ddp):
        run(f"run={folder}", "devices=cpu", "trainer.max_epochs=3")
    assert_close(fsdp, ddp)


@pytest.mark.slow
def test_a_checkpoint_of_a_whole_network_goes_on_shared_out_and_back(
    process: Command, run: Callable[..., Path], tmp_path: Path
) -> None:
    two, whole = ("trainer.accelerator=cpu", "trainer.devices=2"), tmp_path / "whole"
    train(process, whole, *CHOICES, *ORDER, "devices=ddp", *two, f"run_dir={whole}")
    shared = shutil.copytree(whole, tmp_path / "shared", symlinks=True)
    train(process, whole, f"run={whole}", "trainer.max_epochs=2")
    train(process, shared, f"run={shared}", "trainer.max_epochs=2", "devices=fsdp", *two)
    assert_close(shared, whole)
    for folder in (shared, whole):
        run(f"run={folder}", "devices=cpu", "trainer.max_epochs=3")
    assert_close(shared, whole)


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("callbacks=[default,ema]", "ema"),
        ("callbacks=[default,adam_to_sgd]", "adam_to_sgd"),
        ("lit_module/net=speedrun", "whitening"),
    ],
)
def test_callbacks_of_whole_networks_are_refused(choice: str, name: str) -> None:
    callback = instantiate(configure(choice).callbacks[name])
    module = LightningModule()
    module._trainer = SimpleNamespace(callbacks=[callback])  # type: ignore[assignment]
    strategy = FSDP(timeout_minutes=1)
    strategy._lightning_module = module
    with pytest.raises(UserError, match=f"^devices=fsdp: {type(callback).__name__} needs the whole network"):
        strategy.setup_environment()


@pytest.mark.slow
def test_scaling_is_measured() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.scaling", "--steps", "2", "--batch", "8"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=True)
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert [(row["scaling"], row["processes"], row["batch"]) for row in rows] == [
        ("strong", 1, 8),
        ("strong", 2, 8),
        ("weak", 1, 8),
        ("weak", 2, 16),
    ]
