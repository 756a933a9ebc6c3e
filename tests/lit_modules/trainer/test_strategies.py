"""FSDP trains as DDP and one process do, and its checkpoint is one file for any number of devices."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from pytorch_lightning import LightningModule

from conf.errors import UserError
from lit_modules.trainer.strategies import FSDP
from tests.conftest import TINY, configure
from tests.runs import assert_same, load, table

Command = Callable[..., subprocess.CompletedProcess[str]]
CHOICES = (*TINY[1:], "datamodule.batch_size=100", "trainer.accelerator=cpu", "lit_module/scheduler=constant")
# With these the optimizer has its parameters in another order than the network, and not all of them.
ORDER = ("+lit_module.param_groups.bias={pattern: '*.bias', lr: 0.01}", "lit_module.freeze=[blocks.0.*]")


def assert_close(folder: Path, expected: Path) -> None:
    weights = load(folder, "last.ckpt")["state_dict"]
    expected_weights = load(expected, "last.ckpt")["state_dict"]
    assert weights.keys() == expected_weights.keys()
    for name in weights:
        torch.testing.assert_close(weights[name], expected_weights[name], rtol=1e-4, atol=1e-5, msg=name)


def train(process: Command, folder: Path, *choices: str) -> Path:
    result = process(*choices)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.slow
def test_fsdp_trains_the_weights_of_one_process(process: Command, run: Callable[..., Path], tmp_path: Path) -> None:
    choices = (*CHOICES, "lit_module.net.norm=none")
    sharded, whole = tmp_path / "sharded", tmp_path / "whole"
    train(process, sharded, *choices, "devices=fsdp", "trainer.devices=2", f"run_dir={sharded}")
    assert_close(sharded, run(*choices, "devices=cpu", f"run_dir={whole}"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fsdp_checkpoint_is_one_file_for_any_devices(
    process: Command, run: Callable[..., Path], tmp_path: Path
) -> None:
    choices = (*CHOICES, "trainer.devices=2", "trainer.max_epochs=2", *ORDER)
    ddp, fsdp, resumed = tmp_path / "ddp", tmp_path / "fsdp", tmp_path / "resumed"
    train(process, ddp, *choices, "devices=ddp", f"run_dir={ddp}")
    train(process, fsdp, *choices, "devices=fsdp", f"run_dir={fsdp}")
    assert_close(fsdp, ddp)
    assert "epoch=001.ckpt" in {path.name for path in (fsdp / "checkpoints").iterdir() if path.is_file()}

    train(process, resumed, *choices, "devices=fsdp", "trainer.max_epochs=1", f"run_dir={resumed}")
    train(process, resumed, f"run={resumed}", "trainer.max_epochs=2")
    checkpoint, expected = load(resumed, "last.ckpt"), load(fsdp, "last.ckpt")
    assert_same(checkpoint["state_dict"], expected["state_dict"])
    # The states alone: loading turns the betas into a list.
    assert_same(checkpoint["optimizer_states"][0]["state"], expected["optimizer_states"][0]["state"])
    assert table(resumed) == table(fsdp)

    run(f"run={fsdp}", "task=export", "format=torch_export")
    for folder in (fsdp, ddp):
        run(f"run={folder}", "devices=cpu", "trainer.max_epochs=3")
    assert_close(fsdp, ddp)


@pytest.mark.slow
def test_fsdp_resumes_a_checkpoint_of_one_process_and_back(
    process: Command, run: Callable[..., Path], tmp_path: Path
) -> None:
    """Without batch normalisation, whose statistics are those of a process's own samples."""
    whole = run(*CHOICES, *ORDER, "lit_module.net.norm=none", "devices=cpu", f"run_dir={tmp_path / 'whole'}")
    sharded = shutil.copytree(whole, tmp_path / "sharded", symlinks=True)
    run(f"run={whole}", "trainer.max_epochs=2")
    two = ("devices=fsdp", "trainer.accelerator=cpu", "trainer.devices=2")
    train(process, sharded, f"run={sharded}", "trainer.max_epochs=2", *two)
    assert_close(sharded, whole)
    for folder in (sharded, whole):
        run(f"run={folder}", "devices=cpu", "trainer.max_epochs=3")
    assert_close(sharded, whole)


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("callbacks=[default,ema]", "ema"),
        ("callbacks=[default,adam_to_sgd]", "adam_to_sgd"),
        ("lit_module/net=speedrun", "whitening"),
    ],
)
def test_callbacks_that_need_the_whole_network_are_refused(choice: str, name: str) -> None:
    callback = instantiate(configure(choice).callbacks[name])
    module = LightningModule()
    module._trainer = SimpleNamespace(callbacks=[callback])  # type: ignore[assignment]
    strategy = FSDP(timeout_minutes=1)
    strategy._lightning_module = module
    with pytest.raises(UserError, match=f"^devices=fsdp: callbacks.{type(callback).__name__} needs the whole network"):
        strategy.setup_environment()
