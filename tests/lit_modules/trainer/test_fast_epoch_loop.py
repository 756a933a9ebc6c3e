"""The fast epoch loop gives the results of Lightning's with fewer function calls."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

import train
from conf import validation
from lit_modules.trainer.fast_epoch_loop import HOOKS, EpochLoop
from tests.conftest import TINY, configure
from tests.runs import RANDOM, assert_same

SMALL = (*TINY, *RANDOM, "trainer.max_epochs=2", "datamodule.batch_size=200")


class Recorder(Callback):
    """Record the state visible to each hook of a step, and log two scores for the epoch."""

    def __init__(self, stop_at: int = -1) -> None:
        self.seen: list[Any] = []
        self.stop_at = stop_at

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        batch, batch_idx = arguments
        self.note("on_train_batch_start", trainer, pl_module, *batch[:3], batch_idx)
        pl_module.log("first", float(batch_idx), on_step=False, on_epoch=True)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        outputs, batch, batch_idx = arguments
        self.note("on_train_batch_end", trainer, pl_module, outputs["loss"], *batch[:3], batch_idx)
        pl_module.log("last", float(batch_idx), on_step=False, on_epoch=True)
        if trainer.global_step == self.stop_at:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note("on_train_epoch_end", trainer, pl_module, dict(trainer.callback_metrics))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note("on_validation_epoch_end", trainer, pl_module)

    def note(self, name: str, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        loop = trainer.fit_loop.epoch_loop
        parameter = next(pl_module.net.parameters())
        self.seen.append(
            {
                "hook": (name, pl_module._current_fx_name, trainer.global_step, trainer.training, pl_module.training),
                "arguments": [a.detach().clone() if isinstance(a, torch.Tensor) else a for a in arguments],
                "counters": loop.state_dict(),
                "weights": [value.detach().clone() for value in pl_module.net.parameters()],
                "gradient": parameter.grad is not None,
                "rates": [group["lr"] for group in trainer.optimizers[0].param_groups],
            }
        )


def _noting(name: str) -> Any:
    return lambda self, trainer, pl_module, *arguments: self.note(
        name, trainer, pl_module, *(a for a in arguments if isinstance(a, torch.Tensor | int))
    )


for _name in set(HOOKS) - {"on_train_batch_start", "on_train_batch_end"}:
    setattr(Recorder, _name, _noting(_name))


def fit(folder: Path, loop: type[_TrainingEpochLoop], *choices: str, callback: Callback) -> Trainer:
    """Fit with the given loop and an additional callback."""
    cfg = configure(*choices, f"run_dir={folder}")
    validation.check(cfg)
    folder.mkdir()
    datamodule, module, trainer = train.build(cfg)
    trainer.fit_loop.epoch_loop = loop(trainer, trainer.min_steps, trainer.max_steps)
    trainer.callbacks.insert(0, callback)
    trainer.fit(module, datamodule)
    return trainer


ORDINARY = {
    "plain": [],
    "a rate for each step": ["lit_module/scheduler=warmup_cosine"],
    "a rate for each epoch": ["lit_module/scheduler=step"],
    "plateau": ["lit_module/scheduler=plateau"],
    "clipping": ["trainer.gradient_clip_val=0.01"],
    "bfloat16": ["trainer.precision=bf16-mixed"],
    "average": ["callbacks=[default,ema]", "callbacks.ema.decay=0.9"],
    "few batches": ["trainer.limit_train_batches=3"],
    "no validation at first": ["trainer.check_val_every_n_epoch=2"],
    "steps, not epochs": ["trainer.max_steps=7", "lit_module/scheduler=constant"],
    "frozen at first": ["lit_module.freeze=[blocks.0.*]", "lit_module.unfreeze_epoch=1"],
    "mixing": ["datamodule/mix=cutmix"],
}
QUICK = ("a rate for each step", "no validation at first", "accumulation")
OTHERS = {
    "accumulation": ["trainer.accumulate_grad_batches=2"],
    "validation within": ["++trainer.val_check_interval=2"],
    "logged by the step": ["trainer.log_every_n_steps=1"],
    "profiled": ["trainer=profile", "trainer.max_epochs=1"],
}


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")
@pytest.mark.parametrize(
    "name",
    [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in {**ORDINARY, **OTHERS} if name not in QUICK)],
)
def test_hooks_see_the_same_state_as_in_lightnings_loop(tmp_path: Path, name: str) -> None:
    fast, expected = Recorder(), Recorder()
    choices = (ORDINARY | OTHERS)[name]
    trainer = fit(tmp_path / "fast", EpochLoop, *SMALL, *choices, callback=fast)
    fit(tmp_path / "lightning", _TrainingEpochLoop, *SMALL, *choices, callback=expected)
    assert (trainer.fit_loop.epoch_loop._fallback is None) == (name in ORDINARY)
    assert len(fast.seen) > 20
    for number, (state, expected_state) in enumerate(zip(fast.seen, expected.seen, strict=True)):
        assert_same(state, expected_state, f"{number} {state['hook'][0]}")


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")
@pytest.mark.parametrize("step", [5, *(pytest.param(step, marks=pytest.mark.slow) for step in (2, 9))])
def test_stopped_run_ends_at_the_same_step_as_lightnings(tmp_path: Path, step: int) -> None:
    fast, expected = Recorder(step), Recorder(step)
    fit(tmp_path / "fast", EpochLoop, *SMALL, callback=fast)
    fit(tmp_path / "lightning", _TrainingEpochLoop, *SMALL, callback=expected)
    for state, expected_state in zip(fast.seen, expected.seen, strict=True):
        assert_same(state, expected_state)


class Calls(Callback):
    """Count of Python function calls from one step to the next, in the middle of an epoch."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            sys.setprofile(self._called)
        elif batch_idx == 3:
            sys.setprofile(None)

    def _called(self, frame: Any, event: str, argument: Any) -> None:
        self.count += event == "call"


def test_step_calls_few_python_functions(tmp_path: Path) -> None:
    counts = []
    for loop in (EpochLoop, _TrainingEpochLoop):
        calls = Calls()
        fit(tmp_path / loop.__name__, loop, *TINY, "datamodule.batch_size=200", callback=calls)
        counts.append(calls.count)
    fast, lightning = counts
    assert fast < 400 < 1000 < lightning


def test_untested_lightning_keeps_its_own_loop(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lit_modules.callbacks.fast_epoch_loop.TESTED", ("1.",))
    run(*TINY, "trainer=fast", "trainer.max_epochs=1")
    assert "trainer=fast: not tested with pytorch-lightning" in capsys.readouterr().out


def test_fallback_is_named_once(run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run(*TINY, "trainer=fast", "trainer.accumulate_grad_batches=2", "trainer.max_epochs=2")
    assert capsys.readouterr().out.count("trainer=fast: gradients are accumulated; using Lightning's loop") == 1


def test_fast_run_has_the_same_bits(run: Callable[..., Path], tmp_path: Path) -> None:
    options = (*SMALL, "trainer.max_epochs=2")
    run(*options, f"run_dir={tmp_path / 'plain'}")
    run(*options, "trainer=fast", f"run_dir={tmp_path / 'fast'}")
    weights = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("plain", "fast")]
    assert_same(*weights)
