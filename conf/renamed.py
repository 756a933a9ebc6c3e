"""Targets in the saved configs of older runs, and where they are now."""

from typing import Any

MOVED = {
    "datamodules.alternating_flip.AlternatingFlip": "datamodules.augment.transforms.AlternatingFlip",
    "datamodules.augment.ColorJitter": "datamodules.augment.transforms.ColorJitter",
    "datamodules.augment.Cutout": "datamodules.augment.transforms.Cutout",
    "datamodules.augment.HorizontalFlip": "datamodules.augment.transforms.HorizontalFlip",
    "datamodules.augment.RandomAffine": "datamodules.augment.transforms.RandomAffine",
    "datamodules.augment.RandomCrop": "datamodules.augment.transforms.RandomCrop",
    "datamodules.mixing.CutMix": "datamodules.augment.mixing.CutMix",
    "datamodules.mixing.Mixup": "datamodules.augment.mixing.Mixup",
    "datamodules.rand_augment.RandAugment": "datamodules.augment.rand_augment.RandAugment",
    "lit_modules.checkpoint_io.DurableCheckpointIO": "lit_modules.trainer.checkpoint_io.DurableCheckpointIO",
    "lit_modules.epoch_table.EpochTable": "lit_modules.loggers.epoch_csv.EpochTable",
    "lit_modules.initialization.kaiming_init_": "lit_modules.networks.initialization.kaiming_init_",
    "lit_modules.muon.Muon": "lit_modules.optim.muon.Muon",
    "lit_modules.networks.backbone.timm_net": "lit_modules.networks.pretrained.timm_net",
    "lit_modules.networks.backbone.torchvision_net": "lit_modules.networks.pretrained.torchvision_net",
    "lit_modules.schedules.LinearToZeroLR": "lit_modules.optim.schedulers.LinearToZeroLR",
    "lit_modules.schedules.WarmupCosineLR": "lit_modules.optim.schedulers.WarmupCosineLR",
    "lit_modules.strategies.DDP": "lit_modules.trainer.strategies.DDP",
    "lit_modules.strategies.FSDP": "lit_modules.trainer.strategies.FSDP",
    "lit_modules.tensorboard.TensorBoard": "lit_modules.loggers.tensorboard.TensorBoard",
}


def update_targets(node: Any) -> None:
    """Replaces the old targets of a plain config, in place."""
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        update_targets(value)
    if isinstance(node, dict) and node.get("_target_") in MOVED:
        node["_target_"] = MOVED[node["_target_"]]
