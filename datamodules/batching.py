"""Batches of samples: their order, augmentation and mixing, and features of a frozen body in their place."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval
from pytorch_lightning import LightningDataModule
from torch import Tensor

from conf.bounds import Seed
from conf.errors import UserError
from datamodules.augment.augmentation import as_augmentation, augment, uniform
from datamodules.augment.mixing import Mixing, soft_targets
from datamodules.features import View, described, features_of, unchanged
from datamodules.loader import Batch, BatchLoader, to_float
from datamodules.storage.feature_store import FeatureStore
from datamodules.storage.inputs import Split, resident


@dataclass(kw_only=True, eq=False, repr=False)
class Batching(LightningDataModule):
    """Loaders of splits. A subclass reads the splits.

    Args:
        batch_size: samples per step, over all ranks.
        seed: of the order of each epoch, of augmentation and of mixing.
        sampler: `shuffle`, or `balanced`, which draws all classes equally often: see `splits.balanced_order`.
        augment: augmentations of the training split by name, in this order.
        views: epoch e is augmented as epoch e - `views` was; null: each epoch anew.
        mix: mixes each training sample with another one of its batch, after augmentation.
        drop_last: in training, drops a last batch that is not full.
        gpu_cache_fraction: a split that needs at most this fraction of a GPU's memory is kept there.
    """

    batch_size: Annotated[int, Interval(ge=1, le=1_000_000)]
    seed: Seed
    sampler: Literal["shuffle", "balanced"]
    augment: dict[str, Any]
    mix: Mixing | None
    drop_last: bool
    gpu_cache_fraction: Annotated[float, Interval(ge=0, lt=1)]
    views: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self.class_names: list[str] = []
        self._augmentations = [as_augmentation(transform) for transform in self.augment.values()]
        self._mixing = self.mix
        self._splits: dict[str, Split] = {}
        self._body: tuple[Callable[[Tensor], Tensor], str] | None = None  # see `precompute`
        # Of a frozen body, for each view. Filled in place, because loaders that exist by then refer to them.
        self._features: dict[str, list[Split]] = {"train": [], "val": [], "test": []}

    def split(self, name: str) -> Split:
        """The samples of `train`, `val` or `test`."""
        return self._splits[name]

    def samples(self, split: str, index: Tensor, epoch: int | None = None) -> Tensor:
        """Samples of a split as a network gets them: float32 `[N, C, *spatial]` in [0, 1].

        Args:
            index: their positions, int64 `[N]`.
            epoch: whose augmentations they have; None: none.
        """
        (inputs,) = self._splits[split].read([index.cpu().numpy()])
        inputs = to_float(inputs.to(index.device))
        return inputs if epoch is None else self._augmented(inputs, index, epoch)

    @property
    def why_not_precomputed(self) -> str | None:
        """Why the inputs of a frozen body differ in each epoch; None if they do not."""
        if self._mixing and not self._overfits:
            return "datamodule.mix mixes other samples in each epoch"
        if self._augmentations and not self.views and not self._overfits:
            return "augmentations differ in each epoch; set datamodule.views=4 to repeat them"
        return None

    def precompute(self, body: Callable[[Tensor], Tensor], name: str) -> None:
        """From now on, batches hold what a frozen body makes of the samples: of the training and validation samples
        computed here, of the test samples when they are needed. A collective call.

        Args:
            body: float samples `[N, C, *spatial]` in [0, 1] → features `[N, F]`.
            name: of the body, unique to its weights.
        """
        if self._body and self._body[1] == name:  # of an earlier fit on the same data
            return
        self._body = body, name
        self._compute_features("train")
        self._compute_features("val")

    def _compute_features(self, split: str) -> None:
        assert self.trainer is not None
        body, name = self._body  # type: ignore[misc]
        views: list[View] = [unchanged]
        if split == "train" and self._augmentations and not self._overfits:
            views = [partial(self._augmented, epoch=view) for view in range(self.views or 1)]
            augmentations = described(self._augmentations)
            name = f"{name} {self.seed} {len(views)} {augmentations}" if augmentations else ""
        store = self.feature_store(name, split) if name else None
        self._features[split][:] = features_of(self._splits[split], views, body, self.trainer, store)

    def feature_store(self, name: str, split: str) -> FeatureStore | None:
        """Where features of a split are kept for later runs; `name` is unique to the body and the views."""
        return None

    def batches(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The inputs of a split in order, without a Trainer: as stored, and as float32 in [0, 1]."""
        for batch in BatchLoader(self._splits[split], self.batch_size):
            yield batch.inputs, to_float(batch.inputs)

    def train_dataloader(self) -> BatchLoader:
        return self._loader("train", training=True)

    def val_dataloader(self) -> BatchLoader:
        return self._loader("val")

    def test_dataloader(self) -> BatchLoader:
        if self._body and not self._features["test"]:
            self._compute_features("test")
        return self._loader("test")

    def _loader(self, name: str, training: bool = False) -> BatchLoader:
        trainer = self.trainer
        assert trainer is not None
        if self.batch_size < trainer.world_size:
            ranks = trainer.world_size
            raise UserError(f"datamodule.batch_size: {self.batch_size} is less than the {ranks} ranks; use more")
        progress = trainer.fit_loop.epoch_loop.batch_progress

        def position() -> tuple[int, int]:
            return 0 if self._overfits else trainer.current_epoch, progress.current.ready

        split = resident(self._splits[name], trainer.strategy.root_device, self.gpu_cache_fraction)
        self._splits[name] = split
        if training:
            loader = BatchLoader(
                split,
                self.batch_size,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
                seed=self.seed,
                balanced=self.sampler == "balanced",
                drop_last=self.drop_last,
                partners=self._mixing is not None and not self._overfits,
                position=position,
                views=self._features[name],
            )
        else:
            loader = BatchLoader(
                split,
                self.batch_size,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
                views=self._features[name],
            )
        if len(loader) == 0:
            count = len(split.labels)
            raise UserError(f"datamodule.batch_size: {self.batch_size} is more than the {count} samples; use less")
        return loader

    @property
    def _overfits(self) -> bool:
        """Whether to repeat the same batches without augmentation, for `trainer=overfit`."""
        return bool(self.trainer.overfit_batches)  # type: ignore[union-attr]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """On the device: uint8 → float32 in [0, 1], and in training augmentations and mixing."""
        assert self.trainer is not None
        if batch.features:
            return batch
        batch = Batch(to_float(batch.inputs), *batch[1:])
        if not (self._augmentations or self._mixing) or not self.trainer.training or self._overfits:
            return batch
        epoch = self.trainer.current_epoch
        batch = batch._replace(inputs=self._augmented(batch.inputs, batch.index, epoch))
        return self._mix(batch, epoch) if self._mixing else batch

    def _augmented(self, inputs: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Training samples as they are in an epoch."""
        if not self._augmentations or self._overfits:
            return inputs
        return augment(inputs, index, self.seed, epoch % self.views if self.views else epoch, self._augmentations)

    def _mix(self, batch: Batch, epoch: int) -> Batch:
        """Mixes a batch of N samples followed by their N partners: N mixtures."""
        assert self._mixing is not None
        count = len(batch.labels) // 2
        inputs, partners = batch.inputs[:count], batch.inputs[count:]
        labels, partner_labels = batch.labels[:count], batch.labels[count:]
        index = batch.index[:count]
        before = sum(augmentation.draws for augmentation in self._augmentations)
        numbers = uniform(index, self.seed, epoch, before + self._mixing.draws)[:, before:]
        mixed, lam = self._mixing(inputs, partners, numbers)
        targets = soft_targets(labels, partner_labels, lam, len(self.class_names))
        return Batch(mixed, labels, index, batch.size, targets=targets)
