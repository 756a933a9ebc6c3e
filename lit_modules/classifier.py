"""LitClassifier: a LightningModule that trains a classification network."""

import math
import time
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from annotated_types import Ge, Interval
from pytorch_lightning import Callback, LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from conf.bounds import Seed
from conf.errors import UserError
from lit_modules.evaluation.metrics import Metrics
from lit_modules.evaluation.predictions import probabilities_of
from lit_modules.evaluation.scores import BufferedScores, MultiLabelScores, Scores
from lit_modules.networks.gradient_checkpointing import checkpoint_blocks
from lit_modules.networks.head import head_of
from lit_modules.networks.normalize import Normalize
from lit_modules.optim import losses
from lit_modules.optim.freezing import Freezing
from lit_modules.optim.frozen_body import FrozenBody
from lit_modules.optim.param_groups import build_optimizer
from lit_modules.optim.schedulers import build_scheduler, check_schedule_length

Epoch = Annotated[int, Ge(1)]


class LitClassifier(LightningModule):
    """Classifier trained on batches `(inputs, labels, index, size, features)`, with float inputs in [0, 1], or, if
    `features` is set, those of the network's head.

    Args:
        input_shape: (C, *spatial) of a sample.
        class_names: in the order of the labels.
        class_counts, num_samples: training samples of each class, and in all; used by `class_weights: auto`.
        multi_label: whether a sample may have several labels, which are then 0/1 `[N, num_classes]`.
        mean, std: of each channel of the training split, applied by the first layer, `Normalize`. Those of a
            pretrained network, `mean_std`, replace them.
        net: called with `input_shape` and `num_classes`.
        init: called with the network to initialize its weights in place; null keeps the weights it was built with.
        loss: see `build_loss`; returns a loss on logits, class indices or probabilities, and the inputs if its
            `forward` has a parameter of that name.
        class_weights: one weight per class; auto: see `resolve_class_weights`; null: unweighted.
        optimizer: called with the parameter groups.
        param_groups: see `lit_modules.optim.param_groups.parameter_groups`.
        layer_decay: see `lit_modules.optim.param_groups.build_optimizer`.
        freeze, unfreeze_epoch: see `Freezing`.
        gradient_checkpointing: see `checkpoint_blocks`.
        scheduler: called with the optimizer, and with `total_steps` if it has that parameter; null: constant rate.
        interval: whether the scheduler steps after each optimizer step or after each epoch.
        monitor: score passed to ReduceLROnPlateau.
        metrics: more scores of the validation and test splits, by name; see `Metrics`.
        seed: of dropout and other random layers.

    Raises:
        UserError: an argument is invalid for this network or these classes.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        class_names: list[str],
        class_counts: list[int],
        mean: list[float],
        std: list[float],
        net: Callable[..., nn.Module],
        init: Callable[[nn.Module], None] | None,
        loss: Callable[..., nn.Module],
        class_weights: Literal["auto"] | list[float] | None,
        optimizer: Callable[..., torch.optim.Optimizer],
        param_groups: dict[str, dict[str, Any]],
        layer_decay: Annotated[float, Interval(gt=0, le=1)],
        freeze: list[str] | Literal["body"],
        unfreeze_epoch: Epoch | list[Epoch] | None,
        gradient_checkpointing: bool,
        scheduler: Callable[..., Any] | None,
        interval: Literal["step", "epoch"],
        monitor: str,
        metrics: dict[str, Callable[..., Metric]],
        seed: Seed,
        multi_label: bool = False,
        num_samples: int = 0,
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.class_names = class_names
        network = net(input_shape=input_shape, num_classes=len(class_names))
        mean, std = getattr(network, "mean_std", (mean, std))
        self.normalize = Normalize(mean, std, len(input_shape) - 1)
        self.net = network
        if init:
            init(self.net)
        self.start = str(getattr(self.net, "start", "random weights"))  # for display
        if gradient_checkpointing:
            checkpoint_blocks(self.net)
        self.freezing = Freezing(self.net, freeze, unfreeze_epoch)
        self.multi_label = multi_label
        weights = losses.resolve_class_weights(class_weights, class_counts, num_samples if multi_label else None)
        self.loss, self.accepted_targets = losses.build_loss(loss, weights, class_names, input_shape, multi_label)
        self.loss_takes_inputs = losses.takes_inputs(self.loss)
        self.optimizer = optimizer
        self.param_groups = param_groups
        self.layer_decay = layer_decay
        self.scheduler = scheduler
        self.interval = interval
        self.monitor = monitor
        self.seed = seed
        kind: type[BufferedScores] = MultiLabelScores if multi_label else Scores
        new_scores = partial(kind, len(class_names), partial(losses.loss_denominator, self.loss))
        self.train_scores, self.val_scores, self.test_scores = new_scores(), new_scores(), new_scores()
        self.metrics = Metrics(metrics, len(class_names), multi_label)
        self.epoch_row: dict[str, float] = {}  # logged at the end of the epoch; validation and callbacks add to it
        self._saved_schedules: list[dict[str, Any]] = []
        self._optimizer_and_scheduler(total_steps=100)  # raises UserError before the run folder is created

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *_: Any, **__: Any) -> Any:
        """Raises UserError: the config of a run, not its checkpoint, says how its network is built."""
        folder = str(Path(str(checkpoint_path)).parent.parent)
        raise UserError(f"load_from_checkpoint: a checkpoint holds no config; write litmus.load_run({folder!r}).module")

    def forward(self, inputs: Tensor) -> Tensor:
        """float `[N, C, *spatial]` in [0, 1] → logits `[N, num_classes]`"""
        return self.net(self.normalize(inputs))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, _ = self._score(batch, self.train_scores)
        if self.trainer.world_size > 1:
            # DDP averages gradients over ranks with equal weight, but the denominators of their losses may differ.
            denominator = losses.loss_denominator(self.loss, batch.labels if batch.targets is None else batch.targets)
            total = batch.size
            if losses.is_weighted(self.loss):
                total = self.trainer.strategy.reduce(denominator.clone(), reduce_op="sum")
            loss = loss * denominator * self.trainer.world_size / total
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._evaluate(batch, self.val_scores)

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._evaluate(batch, self.test_scores)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Class probabilities `[N, num_classes]`"""
        return probabilities_of(self(batch.inputs).float(), self.multi_label)

    def _evaluate(self, batch: Any, scores: BufferedScores) -> Tensor:
        logits = self._score(batch, scores)[1]
        self.metrics.add(batch, logits)
        return logits

    def _score(self, batch: Any, scores: BufferedScores) -> tuple[Tensor, Tensor]:
        """The mean loss and the logits of a batch, which is also added to `scores`."""
        logits = head_of(self.net)(batch.inputs) if batch.features else self(batch.inputs)
        targets = losses.targets_of(batch, logits, self.loss, self.accepted_targets)
        loss = self.loss(logits, targets, batch.inputs) if self.loss_takes_inputs else self.loss(logits, targets)
        logits = logits.detach()
        if len(batch.labels):  # the shard of a small split may be empty, and its mean loss NaN
            scores.buffer(logits, batch.labels, loss.detach(), targets)
        return loss, logits

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds dropout by (seed, epoch, step, rank), so that a resumed run needs no generator state."""
        seed = self._epoch_seed + batch_idx
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:  # the generators of all devices, which is slower
            torch.manual_seed(seed)

    def on_train_start(self) -> None:
        """Begins the epoch of a run resumed within it, for which `on_train_epoch_start` is not called."""
        rank = self.trainer.global_rank
        step = self.trainer.global_step
        first_step = self.trainer.strategy.broadcast(step)
        if step != first_step:
            problem = f"rank {rank} starts at step {step}, rank 0 at step {first_step}"
            raise UserError(f"logs_dir: {problem}; use a folder that all nodes share")
        self._begin_epoch()

    def on_train_epoch_start(self) -> None:
        self.epoch_row = {}
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._epoch_began = time.perf_counter()
        entropy = b"%d %d %d" % (self.seed, self.current_epoch, self.global_rank)
        self._epoch_seed = int.from_bytes(blake2b(entropy, digest_size=7).digest())  # seeds have 8 bytes

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Optimizer.zero_grad without its record_function, which takes as long as a small layer."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def on_train_epoch_end(self) -> None:
        row = self._compute_scores("train", self.train_scores) | self.epoch_row
        row["lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = time.perf_counter() - self._epoch_began
        for logger in self.loggers:
            logger.log_metrics(row, step=self.current_epoch)
        for config in self.trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and self.monitor in row:  # absent if the epoch had no validation
                config.scheduler.step(row[self.monitor])  # type: ignore[arg-type]  # it takes a metric

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Steps all schedulers but ReduceLROnPlateau, which `on_train_epoch_end` has stepped already.

        Lightning would step that one after the epoch's checkpoint is saved, and a resumed run would miss the step.
        """
        if not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step()

    def on_validation_start(self) -> None:
        """Broadcasts the buffers of rank 0, so that all ranks validate the network that is saved.

        DDP broadcasts them at the start of forward only, so BatchNorm statistics differ after the last training step.
        """
        if self.trainer.world_size > 1:
            for buffer in self.net.buffers():
                dist.broadcast(buffer, src=0)

    def on_validation_epoch_end(self) -> None:
        self.epoch_row |= self._compute_scores("val", self.val_scores)

    def on_test_epoch_end(self) -> None:
        row = self._compute_scores("test", self.test_scores)
        for logger in self.loggers:
            logger.log_metrics(row, step=self.current_epoch)

    def _compute_scores(self, split: str, metric: BufferedScores) -> dict[str, float]:
        """Computes, logs and resets the scores of a split; returns them with tags such as `val/acc`."""
        scores = metric.compute()
        metric.reset()
        per_class = scores.pop("likelihood_per_class").tolist()
        row = {f"{split}/{name}": float(value) for name, value in scores.items()}
        if split != "train":
            row |= self.metrics.scores(split, self.trainer, self.monitor)
        # All ranks hold the same values; the maximum preserves them, the mean may round.
        self.log_dict(row, logger=False, sync_dist=True, reduce_fx="max")
        classes = zip(self.class_names, per_class, strict=True)
        return row | {f"{split}_likelihood/{name}": value for name, value in classes if not math.isnan(value)}

    def configure_callbacks(self) -> list[Callback]:
        callbacks: list[Callback] = [self.freezing] if self.freezing.epochs else []
        return [*callbacks, FrozenBody(max(self.freezing.epochs.values()))] if self.freezing.body else callbacks

    def configure_optimizers(self) -> Any:
        steps: float = self.trainer.max_epochs or -1
        if self.interval == "step":
            steps = self.trainer.estimated_stepping_batches
        if self.scheduler and not 0 < steps < float("inf"):
            raise UserError("trainer.max_epochs: a learning-rate schedule needs the length of the run; set it")
        optimizer, scheduler = self._optimizer_and_scheduler(int(steps) if self.scheduler else 1)
        if scheduler is None:
            return optimizer
        check_schedule_length(scheduler, steps, self._saved_schedules)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "interval": self.interval,
                "monitor": self.monitor,
                "strict": False,
            },
        }

    def _optimizer_and_scheduler(self, total_steps: int) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = build_optimizer(self.net, self.optimizer, self.param_groups, self.layer_decay)
        return optimizer, self.scheduler and build_scheduler(self.scheduler, optimizer, total_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= self._data()
        checkpoint["train_scores"] = self.train_scores.merged_state()  # of the current epoch so far

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_same_data(checkpoint)
        if self.trainer.training:
            self._saved_schedules = checkpoint["lr_schedulers"]
            self.start = f"epoch {checkpoint['epoch'] + 1}"
            if self.trainer.is_global_zero:
                self.train_scores.add_merged_state(checkpoint["train_scores"])

    def _data(self) -> dict[str, Any]:
        """What a checkpoint says about the data."""
        names, shape = list(self.class_names), list(self.input_shape)
        return {"class_names": names, "input_shape": shape, "multi_label": self.multi_label}

    def check_same_data(self, checkpoint: dict[str, Any]) -> None:
        """Raises UserError if the checkpoint was trained on other classes or another input shape."""
        for key, expected in self._data().items():
            if (saved := checkpoint.get(key, False)) != expected:  # earlier versions have no multi_label
                raise UserError(f"checkpoint: {key} are {saved}, those of the data {expected}; use the same data")
