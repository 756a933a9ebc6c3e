"""EpochLoop: Lightning's loop over an epoch's batches with a tenth of its Python calls a step."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.loops.fetchers import _DataFetcher, _PrefetchDataFetcher
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from tqdm import tqdm

# The hooks that move a batch to the device, and those of a step.
TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
# A module that overrides one of these needs Lightning's loop.
NOT_OVERRIDDEN = ("backward", "optimizer_step")


class EpochLoop(_TrainingEpochLoop):
    """Lightning's own loop calls some 1,300 Python functions a step beside those of torch, up to a quarter of the time
    of a small network; this one calls 50. Hooks run in the same order, with the same arguments and counters.

    It covers ordinary steps: one process, one optimizer step per batch, no gradient scaling, validation after the last
    batch, nothing logged or profiled per step. For all others it falls back to Lightning's loop and says why.
    """

    _fallback: str | None = None

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Looks up, once an epoch, what does not change between its steps."""
        super().on_run_start(data_fetcher)
        trainer: Any = self.trainer
        reason = self._why_not(data_fetcher)
        if reason and reason != self._fallback and trainer.is_global_zero:
            tqdm.write(f"trainer=fast: {reason}; using Lightning's loop")
        self._fallback = reason
        if reason:
            return
        self._module, self._device = trainer.lightning_module, trainer.strategy.root_device
        (self._optimizer,) = trainer.optimizers
        loader: Any = data_fetcher.combined_loader
        self._batches = loader._iterator.iterators[0]  # of the only loader, without Lightning's wrappers
        hooks = trainer._data_connector._datahook_selector
        self._transfers = [getattr(hooks.get_instance(name), name) for name in TRANSFERS]
        self._hooks = {name: self._overridden(name) for name in HOOKS}
        precision = trainer.precision_plugin
        self._context = precision.forward_context if isinstance(precision, MixedPrecision) else nullcontext
        self._steps_schedule = any(config.interval == "step" for config in trainer.lr_scheduler_configs)

    def _why_not(self, data_fetcher: _DataFetcher) -> str | None:
        """The first reason for which steps are not ordinary; None if they are."""
        trainer: Any = self.trainer
        module, precision = trainer.lightning_module, trainer.precision_plugin
        plateaus = [config for config in trainer.lr_scheduler_configs if config.reduce_on_plateau]
        validates_last = trainer.val_check_batch == trainer.num_training_batches
        obstacles = {
            "several processes": type(trainer.strategy) is not SingleDeviceStrategy,
            "gradients are accumulated": trainer.accumulate_grad_batches != 1,
            "gradients are scaled": getattr(precision, "scaler", None) is not None,
            "the precision plugin is not Lightning's": type(precision) not in (Precision, MixedPrecision),
            "steps are profiled": type(trainer.profiler) is not PassThroughProfiler,
            "scores are logged per step": trainer.log_every_n_steps != 0,
            "validation within an epoch": not validates_last or trainer.check_val_every_n_epoch is None,
            "ReduceLROnPlateau per step": any(config.interval == "step" for config in plateaus),
            "the module optimizes manually": not module.automatic_optimization,
            "the module overrides backward or optimizer_step": any(is_overridden(n, module) for n in NOT_OVERRIDDEN),
            "the data are not one loader of known length": (
                type(data_fetcher) is not _PrefetchDataFetcher
                or data_fetcher.length is None
                or len(data_fetcher.combined_loader.flattened) != 1
            ),
        }
        return next((reason for reason, applies in obstacles.items() if applies), None)

    def _overridden(self, name: str) -> list[Callable[..., Any]]:
        """The hooks of this name that do something: the callbacks', and then the module's."""
        trainer: Any = self.trainer
        module = trainer.lightning_module
        own = [getattr(module, name)] if is_overridden(name, module, LightningModule) else []
        listening = (callback for callback in trainer.callbacks if is_overridden(name, callback, Callback))
        return [*(partial(getattr(callback, name), trainer, module) for callback in listening), *own]

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Ordinary steps, up to the one after which Lightning may validate or stop; or any one step."""
        if self._restarting or self._fallback:
            super().advance(data_fetcher)
            return
        self.val_loop.restarting = False
        trainer, done = self.trainer, self.automatic_optimization.optim_progress.optimizer.step.total
        while True:
            self._one_batch(data_fetcher)
            last = self._num_ready_batches_reached() or done.completed == self.max_steps
            if last or trainer.should_stop or trainer.received_sigterm:
                return  # to Lightning's on_advance_end, which counts this step
            self._batches_that_stepped += 1

    def _one_batch(self, data_fetcher: _DataFetcher) -> None:
        progress, results = self.batch_progress, self._results
        batch_idx = progress.current.ready
        batch = next(self._batches)
        data_fetcher.fetched += 1
        progress.is_last_batch = data_fetcher.done = data_fetcher.fetched == data_fetcher.length
        before, move, after = self._transfers
        batch = after(move(before(batch, 0), self._device, 0), 0)
        progress.increment_ready()
        # For whoever calls self.log.
        connector = self.trainer._logger_connector
        connector._first_loop_iter = connector._first_loop_iter is None
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None
        self._call("on_train_batch_start", batch, batch_idx)
        progress.increment_started()
        loss = self._step(batch, batch_idx)
        progress.increment_processed()
        if self._steps_schedule:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
        if self._num_ready_batches_reached():
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        self._call("on_train_batch_end", {"loss": loss}, batch, batch_idx)
        self._module.__dict__["_current_fx_name"] = results.batch = None
        progress.increment_completed()

    def _step(self, batch: Any, batch_idx: int) -> Tensor:
        """Forward, backward, and the optimizer's step. Returns the loss."""
        trainer, module, optimizer = self.trainer, self._module, self._optimizer
        progress = self.automatic_optimization.optim_progress.optimizer
        loss: Any = None

        def closure() -> Any:
            nonlocal loss
            module.__dict__["_current_fx_name"] = "training_step"
            with self._context():
                loss = module.training_step(batch, batch_idx)
            progress.zero_grad.increment_ready()
            self._call("on_before_zero_grad", optimizer)
            progress.zero_grad.increment_started()
            module.optimizer_zero_grad(trainer.current_epoch, batch_idx, optimizer)
            progress.zero_grad.increment_completed()
            self._call("on_before_backward", loss)
            loss.backward()
            self._call("on_after_backward")
            self._call("on_before_optimizer_step", optimizer)
            if trainer.gradient_clip_val is not None:
                how = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
                module.configure_gradient_clipping(optimizer, *how)
            return loss.detach()

        progress.step.increment_ready()
        optimizer.step(closure)  # what it returns is its own affair
        progress.step.increment_completed()
        detached: Tensor = loss.detach()
        return detached

    def _call(self, name: str, *arguments: Any) -> None:
        # What self.log asks for; not set by nn.Module's __setattr__, which would ask whether it is a layer.
        self._module.__dict__["_current_fx_name"] = name
        for hook in self._hooks[name]:
            hook(*arguments)
