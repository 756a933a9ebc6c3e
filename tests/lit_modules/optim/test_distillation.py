"""Knowledge distillation: the loss, the teacher, and runs whose teacher is gone."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer
from scipy.special import log_softmax
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.optim.distillation import Distillation, open_teacher
from litmus import load_run
from tests.conftest import TINY
from tests.fits import build, copy_of, fit
from tests.runs import RANDOM, assert_same, assert_same_runs, cut_off_after, load

DIGITS = list("0123456789")
SHAPE = (1, 8, 8)
DISTILL = "lit_module/loss=distill"
VARIED = ("datamodule/augment=[affine]", "datamodule/mix=mixup")


@pytest.fixture(scope="module")
def teacher(shared_run: Callable[..., Path]) -> Path:
    return shared_run(*TINY, "seed=7", "lit_module.net.dropout=0.5", "lit_module.net.channels=[6,6]")


def distilled(teacher: Path, *choices: str) -> tuple[str, ...]:
    return (DISTILL, f"lit_module.loss.teacher={teacher}", *choices)


def loss_of(teacher: Path, class_names: list[str] = DIGITS, input_shape: tuple[int, ...] = SHAPE) -> Distillation:
    return Distillation(class_names, input_shape, teacher=str(teacher), teacher_weight=0.25, temperature=3.0)


class Calls(Callback):
    """Records what the loss is called with and returns, in training and in validation."""

    def __init__(self) -> None:
        self.seen: dict[bool, list[tuple[Tensor, ...]]] = {True: [], False: []}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        def record(loss: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            self.seen[loss.training].append((*(value.detach().clone() for value in arguments), output.detach()))

        pl_module.loss.register_forward_hook(record)


def test_loss_is_that_of_hinton_on_the_inputs_of_the_student(teacher: Path) -> None:
    calls, network = Calls(), open_teacher(teacher, DIGITS, SHAPE)[0]
    options = ("lit_module.loss.teacher_weight=0.25", "lit_module.loss.temperature=3")
    fit(*distilled(teacher, *options, *VARIED), spies=(calls,))
    for logits, targets, inputs, loss in calls.seen[True]:
        student, expert = (value.double().numpy() for value in (logits, network.logits(inputs)))
        soft, soft_student = log_softmax(expert / 3, axis=1), log_softmax(student / 3, axis=1)
        divergence = (np.exp(soft) * (soft - soft_student)).sum(1).mean()
        hard = -(targets.numpy() * log_softmax(student, axis=1)).sum(1).mean()
        assert loss.item() == pytest.approx(0.75 * hard + 0.25 * 9 * divergence, rel=1e-5)
    for logits, labels, _, loss in calls.seen[False]:
        hard = -log_softmax(logits.double().numpy(), axis=1)[range(len(labels)), labels].mean()
        assert loss.item() == pytest.approx(hard, rel=1e-5)
    assert len(calls.seen[True]) > 1 and calls.seen[False]


@pytest.mark.parametrize("choices", [VARIED, ("lit_module.net.dropout=0.3", "trainer=fast")], ids=["mixed", "fast"])
def test_teacher_of_no_weight_changes_no_bit(teacher: Path, choices: tuple[str, ...]) -> None:
    expected = fit(*choices)[1]
    actual = fit(*distilled(teacher, "lit_module.loss.teacher_weight=0", *choices))[1]
    assert_same(dict(actual.state_dict()), dict(expected.state_dict()))  # of the same names, too


def test_teacher_is_not_trained(teacher: Path) -> None:
    datamodule, module, trainer = build(*distilled(teacher, "trainer.precision=bf16-mixed"))
    loss: Any = module.loss
    before = copy_of(loss.teacher)
    trainer.fit(module, datamodule)
    assert_same(copy_of(loss.teacher), before)
    assert not any(layer.training for layer in loss.teacher.modules())
    assert not any(parameter.requires_grad for parameter in loss.teacher.parameters())
    optimized = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimized == {id(p) for p in module.net.parameters()}


def test_classes_in_another_order_are_matched_by_name(teacher: Path) -> None:
    names = DIGITS[::-1]
    inputs = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    logits = open_teacher(teacher, DIGITS, SHAPE)[0].logits(inputs).flip(1).detach()
    labels = torch.arange(5)
    loss = loss_of(teacher, names)(logits, labels, inputs)
    assert loss.item() == pytest.approx(0.75 * nn.functional.cross_entropy(logits, labels).item(), abs=1e-6)


def test_teacher_of_other_data_is_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^lit_module\.loss\.teacher: .* has the classes \['0', .* \['a', 'b'\]; "):
        loss_of(teacher, ["a", "b"])
    with pytest.raises(UserError, match=r"^lit_module\.loss\.teacher: .* inputs of \(1, 8, 8\), .* \(1, 9, 9\); "):
        loss_of(teacher, input_shape=(1, 9, 9))
    with pytest.raises(UserError, match=r"^lit_module\.loss\.teacher: .*/nothing holds no config\.yaml; "):
        loss_of(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("_target_", "os.system", r"os\.system is not from an allowed package"),
        ("weights", "/etc/passwd", r"weights: CNN has no such parameter"),
        ("name", "hf-hub:somebody/network", r"a run's folder may not decide that"),
        ("channels", "${oc.env:HOME}", r"a run's folder may not decide that"),
    ],
)
def test_hostile_teacher_is_one_line(teacher: Path, tmp_path: Path, key: str, value: str, line: str) -> None:
    hostile = shutil.copytree(teacher, tmp_path / "hostile", symlinks=True)
    cfg = OmegaConf.load(hostile / "config.yaml")
    OmegaConf.update(cfg, f"lit_module.net.{key}", value, force_add=True)
    (hostile / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    with pytest.raises(UserError, match=line):
        loss_of(hostile)


def test_teacher_with_a_link_that_leaves_its_folder_is_refused(teacher: Path, tmp_path: Path) -> None:
    hostile = shutil.copytree(teacher, tmp_path / "hostile", symlinks=True)
    (hostile / "checkpoints" / "best.ckpt").unlink()
    (hostile / "checkpoints" / "best.ckpt").symlink_to(teacher / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match="is a link that leaves its folder"):
        loss_of(hostile)


def test_only_training_needs_the_teacher(run: Callable[..., Path], teacher: Path, tmp_path: Path) -> None:
    expert = shutil.copytree(teacher, tmp_path / "teacher", symlinks=True)
    choices = distilled(expert, *TINY, *RANDOM, "callbacks=[default,ema]")
    whole = run(*choices, "trainer.max_epochs=4")
    assert not any("teacher" in name or "loss" in name for name in load(whole, "last.ckpt")["state_dict"])
    resumed = shutil.copytree(whole, tmp_path / "resumed", symlinks=True)
    cut_off_after(resumed, epoch=1)
    with pytest.raises(UserError, match=r"teacher is .*/teacher; .*: add lit_module\.loss\.teacher=… to the command"):
        run(f"run={resumed}")
    run(f"run={resumed}", f"lit_module.loss.teacher={expert}")
    assert_same_runs(resumed, whole)
    shutil.rmtree(expert)
    with pytest.raises(InstantiationException, match=r"lit_module\.loss\.teacher: .*/teacher holds no config\.yaml; "):
        run(f"run={resumed}", f"lit_module.loss.teacher={expert}", "trainer.max_epochs=5")
    run(f"run={resumed}", "task=test")
    run(f"run={resumed}", "task=export", "format=safetensors")
    assert not any(hasattr(load_run(resumed).module.loss, name) for name in ("teacher", "order"))


def test_class_weights_are_refused(teacher: Path) -> None:
    with pytest.raises(InstantiationException, match=r"lit_module\.loss: .*needs lit_module\.class_weights=null"):
        build(*distilled(teacher, "lit_module.class_weights=auto"))


@pytest.mark.slow
def test_two_ranks_distil_as_one(
    process: Callable[..., subprocess.CompletedProcess[str]], run: Callable[..., Path], teacher: Path, tmp_path: Path
) -> None:
    plain = ("lit_module.net.norm=none", "lit_module/optimizer=sgd", "lit_module.optimizer.lr=0.01")
    choices = distilled(teacher, *TINY, *VARIED, *plain, "trainer.max_epochs=2")
    two = ("devices=ddp", "trainer.accelerator=cpu", "trainer.devices=2", f"run_dir={tmp_path / 'two'}")
    assert (result := process(*choices, *two)).returncode == 0, result.stderr
    expected = load(run(*choices), "last.ckpt")["state_dict"]
    for name, value in load(tmp_path / "two", "last.ckpt")["state_dict"].items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)
