"""EpochLoop: Lightning's loop over an epoch's batches, without asking at each step what stays the same all epoch."""

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

# What a batch goes through on its way to the network, and the hooks of a step.
TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
# A module that does one of these in a way of its own is left to Lightning.
LIGHTNINGS = ("backward", "optimizer_step")


class EpochLoop(_TrainingEpochLoop):
    """Lightning's own calls some 1,300 Python functions a step beside those of torch, which can be a quarter of a small
    network's time; this one calls 50. Hooks come in the same order, with the same arguments, and see the same counters.

    It is for ordinary steps: one process, an optimizer step for each batch, gradients that are not scaled, validation
    after the last batch, nothing logged or profiled by the step. All others are left to Lightning's loop.
    """

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """An epoch starts, or goes on where it was left."""
        super().on_run_start(data_fetcher)
        trainer: Any = self.trainer
        self._ordinary = self._is_ordinary(data_fetcher)
        if self._ordinary:
            self._module, self._device = trainer.lightning_module, trainer.strategy.root_device
            (self._optimizer,) = trainer.optimizers
            loader: Any = data_fetcher.combined_loader
            self._batches = loader._iterator.iterators[0]  # the one loader's own, without what is around it
            hooks = trainer._data_connector._datahook_selector
            self._transfers = [getattr(hooks.get_instance(name), name) for name in TRANSFERS]
            self._hooks = {name: self._overridden(name) for name in HOOKS}
            precision = trainer.precision_plugin
            self._context = precision.forward_context if isinstance(precision, MixedPrecision) else nullcontext
            self._each_step = any(config.interval == "step" for config in trainer.lr_scheduler_configs)

    def _is_ordinary(self, data_fetcher: _DataFetcher) -> bool:
        trainer: Any = self.trainer
        module, precision = trainer.lightning_module, trainer.precision_plugin
        plateaus = (config for config in trainer.lr_scheduler_configs if config.reduce_on_plateau)
        return (
            type(data_fetcher) is _PrefetchDataFetcher
            and data_fetcher.length is not None
            and len(data_fetcher.combined_loader.flattened) == 1
            and type(trainer.strategy) is SingleDeviceStrategy
            and type(precision) in (Precision, MixedPrecision)
            and getattr(precision, "scaler", None) is None
            and type(trainer.profiler) is PassThroughProfiler
            and module.automatic_optimization
            and not any(is_overridden(name, module) for name in LIGHTNINGS)
            and trainer.accumulate_grad_batches == 1
            and trainer.log_every_n_steps == 0
            and trainer.val_check_batch == trainer.num_training_batches
            and trainer.check_val_every_n_epoch is not None
            and not any(config.interval == "step" for config in plateaus)
        )

    def _overridden(self, name: str) -> list[Callable[..., Any]]:
        """The hooks of this name that do something: the callbacks', and then the module's."""
        trainer: Any = self.trainer
        module = trainer.lightning_module
        own = [getattr(module, name)] if is_overridden(name, module, LightningModule) else []
        listening = (callback for callback in trainer.callbacks if is_overridden(name, callback, Callback))
        return [*(partial(getattr(callback, name), trainer, module) for callback in listening), *own]

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Ordinary steps, up to the one after which Lightning may validate or stop; or any one step."""
        if self._restarting or not self._ordinary:
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
        if self._each_step:
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
