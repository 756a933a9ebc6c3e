"""LitClassifier: a network, its initialisation, loss, optimizer, schedule and scores as a LightningModule."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.scores import Scores
from lit_modules.networks.normalize import Normalize
from lit_modules.networks.weights import check_same_weights, read_weights
from lit_modules.optim.freezing import Freezing
from lit_modules.optim.losses import build_loss, is_weighted, shares, weigh_classes
from lit_modules.optim.param_groups import build_optimizer
from lit_modules.optim.schedulers import build_scheduler, check_schedule_length


class LitClassifier(LightningModule):
    """Learns classes from batches `(inputs, labels, index, size)`, inputs float in [0, 1].

    Args:
        input_shape: (C, *spatial) of a sample.
        class_names: in the order of the labels.
        class_counts: training samples of each class, for `class_weights: auto`.
        mean, std: of each channel of the training split; normalisation is the first layer, so the whole takes [0, 1].
        net: called with `input_shape` and `num_classes`.
        init: called with the network, to set its first weights in place; null keeps those that it has.
        loss: gives a loss on logits and class indices, or on logits and one-hot targets.
        class_weights: one number for each class; auto: inverse to its count, 1 on average; null: none.
        optimizer: called with the parameters.
        param_groups: see `optimizers.parameter_groups`.
        layer_decay: see `optimizers.build_optimizer`.
        freeze, unfreeze_epoch: see `Freezing`.
        scheduler: called with the optimizer, and with `total_steps` if it has such a parameter; null: a constant rate.
        interval: whether the scheduler steps after each optimizer step or each epoch.
        monitor: the score that ReduceLROnPlateau watches.
        seed: of dropout and of any other random layer.
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
        layer_decay: float,
        freeze: list[str],
        unfreeze_epoch: int | None,
        scheduler: Callable[..., Any] | None,
        interval: Literal["step", "epoch"],
        monitor: str,
        seed: int,
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.class_names = class_names
        self.normalize = Normalize(mean, std, len(input_shape) - 1)
        self.net = net(input_shape=input_shape, num_classes=len(class_names))
        if init:
            init(self.net)
        self.freezing = Freezing(self.net, freeze, unfreeze_epoch)
        weights = weigh_classes(class_weights, class_counts)
        self.loss, self.loss_takes = build_loss(loss, weights, len(class_names))
        self.optimizer = optimizer
        self.param_groups = param_groups
        self.layer_decay = layer_decay
        self.scheduler = scheduler
        self.interval = interval
        self.monitor = monitor
        self.seed = seed
        self.train_scores, self.val_scores, self.test_scores = (
            Scores(len(class_names), partial(shares, self.loss)) for _ in range(3)
        )
        self.latest_val: dict[str, float] = {}
        self.speed: dict[str, float] = {}  # of the latest epoch, by callbacks/throughput.py
        self.files: dict[str, Sequence[str]]  # the names of each split's samples; train.py knows them
        self.evaluations: dict[str, Evaluation] = {}  # of the best epoch, by callbacks/predictions.py
        self._saved_schedules: list[dict[str, Any]] = []
        self._optimizer_and_scheduler(total_steps=100)  # refuses what does not fit before anything is written

    def forward(self, inputs: Tensor) -> Tensor:
        """float `[N, C, *spatial]` in [0, 1] → logits `[N, num_classes]`"""
        return self.net(self.normalize(inputs))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, _ = self._score(batch, self.train_scores)
        if self.trainer.world_size > 1:
            # Ranks are averaged with equal weight, though their shares of the mean may differ.
            share = shares(self.loss, batch.labels if batch.targets is None else batch.targets)
            total = (
                self.trainer.strategy.reduce(share.clone(), reduce_op="sum") if is_weighted(self.loss) else batch.size
            )
            loss = loss * share * self.trainer.world_size / total
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._score(batch, self.val_scores)[1]

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._score(batch, self.test_scores)[1]

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Class probabilities `[N, num_classes]`"""
        return self(batch.inputs).float().softmax(1)

    def _score(self, batch: Any, scores: Scores) -> tuple[Tensor, Tensor]:
        """The mean loss of a batch, which is also added to the scores of its split, and the logits."""
        logits = self(batch.inputs)
        targets = batch.labels if batch.targets is None else batch.targets
        if batch.targets is not None and "shares" not in self.loss_takes:
            name = type(self.loss).__name__
            raise UserError(f"datamodule.mix: {name} takes no mixed classes; use CrossEntropyLoss, or mix nothing")
        if batch.targets is None and "labels" not in self.loss_takes:
            targets = nn.functional.one_hot(targets, len(self.class_names)).to(logits)
        loss = self.loss(logits, targets)
        logits = logits.detach()
        if len(batch.labels):  # a rank's share of a small split may be empty, and its mean not a number
            scores.add(logits, batch.labels, loss.detach(), targets)
        return loss, logits

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Dropout is drawn from (seed, epoch, step, rank), so that a resumed run needs no generator's state."""
        seed = self._epoch_seed + batch_idx
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:  # all generators, which takes longer
            torch.manual_seed(seed)

    def on_train_start(self) -> None:
        """For a run that is resumed within an epoch, whose start is over."""
        rank, step = self.trainer.global_rank, self.trainer.global_step
        if (first := self.trainer.strategy.broadcast(step)) != step:
            place = "keep it where all nodes see the same files"
            raise UserError(f"logs_dir: rank {rank} begins at step {step}, the first one at {first}; {place}")
        self._begin_epoch()

    def on_train_epoch_start(self) -> None:
        self.latest_val = {}
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._epoch_began = time.perf_counter()
        entropy = b"%d %d %d" % (self.seed, self.current_epoch, self.global_rank)
        self._epoch_seed = int.from_bytes(blake2b(entropy, digest_size=7).digest())  # seeds have 8 bytes

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """As the optimizer does it, without its marks for a profiler, which take as long as a small layer."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def on_train_epoch_end(self) -> None:
        row = self._end("train", self.train_scores) | self.latest_val | self.speed
        row["lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = time.perf_counter() - self._epoch_began
        for logger in self.loggers:
            logger.log_metrics(row, step=self.current_epoch)
        for config in self.trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and self.monitor in row:  # not in an epoch without validation
                config.scheduler.step(row[self.monitor])  # type: ignore[arg-type]  # its own signature

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """As Lightning does it, but for ReduceLROnPlateau: that one has stepped by then, in `on_train_epoch_end`,
        because Lightning would step it after the epoch's checkpoint, and a resumed run would miss that step."""
        if not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step()

    def on_validation_start(self) -> None:
        """DDP evens out BatchNorm's statistics before a training step, not after the last one: here, so that all ranks
        score the network that is saved."""
        if self.trainer.world_size > 1:
            for buffer in self.net.buffers():
                dist.broadcast(buffer, src=0)

    def on_validation_epoch_end(self) -> None:
        self.latest_val = self._end("val", self.val_scores)

    def on_test_epoch_end(self) -> None:
        row = self._end("test", self.test_scores)
        for logger in self.loggers:
            logger.log_metrics(row, step=self.current_epoch)

    def _end(self, split: str, metric: Scores) -> dict[str, float]:
        """Closes a split's epoch: its scores for monitors, as a dict with tags such as `val/acc`."""
        metric.count()
        scores = metric.compute()
        metric.reset()
        per_class = scores.pop("likelihood_per_class").tolist()
        row = {f"{split}/{name}": float(value) for name, value in scores.items()}
        # All ranks hold the same values; their maximum is that value, whereas their mean may round.
        self.log_dict(row, logger=False, sync_dist=True, reduce_fx="max")
        names = zip(self.class_names, per_class, strict=True)
        return row | {f"{split}_likelihood/{name}": value for name, value in names if value == value}

    def configure_callbacks(self) -> list[Callback]:
        return [self.freezing] if self.freezing.names else []

    def configure_optimizers(self) -> Any:
        steps = self.trainer.estimated_stepping_batches if self.interval == "step" else self.trainer.max_epochs or -1
        if self.scheduler and not 0 < steps < float("inf"):
            raise UserError("trainer.max_epochs: a schedule needs to know the length of the run; set it")
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
        checkpoint["class_names"] = list(self.class_names)
        checkpoint["input_shape"] = list(self.input_shape)
        checkpoint["train_scores"] = self.train_scores.merged_state()  # of the steps so far, within an epoch

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_same_data(checkpoint)
        if self.trainer.training:
            self._saved_schedules = checkpoint["lr_schedulers"]
            if self.trainer.is_global_zero:
                self.train_scores.add_state_of(checkpoint["train_scores"])

    def check_same_data(self, checkpoint: dict[str, Any]) -> None:
        """Raises UserError for the checkpoint of a module of other classes or another input."""
        for key, ours in (("class_names", list(self.class_names)), ("input_shape", list(self.input_shape))):
            theirs = checkpoint.get(key)
            if theirs != ours:
                raise UserError(f"checkpoint: its {key} are {theirs}, those of the data {ours}; use the same data")

    def load_network(self, file: Path) -> None:
        """Takes the network's weights, and nothing else, from a `model.pt` or a checkpoint.

        Raises:
            UserError: the file cannot be read, or its network is another.
        """
        ours = {name: value for name, value in self.state_dict().items() if name.startswith("net.")}
        found = read_weights(file, "init_from")
        weights = {name: value for name, value in found.items() if name.startswith("net.")}
        check_same_weights(weights, ours, file, "init_from")
        self.load_state_dict(weights, strict=False)
