"""Keys and targets of earlier versions and their present names."""

from typing import Any

KEYS = {
    "callbacks.adam_to_sgd.size": "callbacks.adam_to_sgd.min_jump",
    "callbacks.adam_to_sgd.step": "callbacks.adam_to_sgd.lr_scale",
    "callbacks.dashboard.largest_share": "callbacks.dashboard.max_overhead",
    "callbacks.model_table": "callbacks.model_summary",
    "callbacks.predictions.largest_share": "callbacks.predictions.max_overhead",
    "callbacks.speed": "callbacks.throughput",
    "datamodule.device_share": "datamodule.gpu_cache_fraction",
    "datamodule.draft": "datamodule.jpeg_draft",
    "datamodule.on_bad": "datamodule.on_error",
    "high": "max_lr",
    "logger.epoch_table": "logger.epoch_csv",
    "low": "min_lr",
    "steps": "num_steps",
}
TARGETS = {
    "datamodules.alternating_flip.AlternatingFlip": "datamodules.augment.transforms.AlternatingFlip",
    "datamodules.augment.ColorJitter": "datamodules.augment.transforms.ColorJitter",
    "datamodules.augment.Cutout": "datamodules.augment.transforms.Cutout",
    "datamodules.augment.HorizontalFlip": "datamodules.augment.transforms.HorizontalFlip",
    "datamodules.augment.RandomAffine": "datamodules.augment.transforms.RandomAffine",
    "datamodules.augment.RandomCrop": "datamodules.augment.transforms.RandomCrop",
    "datamodules.image_table.ImageTableDataModule": "datamodules.image_folder.ImageFolderDataModule",
    "datamodules.mixing.CutMix": "datamodules.augment.mixing.CutMix",
    "datamodules.mixing.Mixup": "datamodules.augment.mixing.Mixup",
    "datamodules.rand_augment.RandAugment": "datamodules.augment.rand_augment.RandAugment",
    "lit_modules.callbacks.model_table.ModelTable": "lit_modules.callbacks.model_summary.ModelSummary",
    "lit_modules.callbacks.speed.Speed": "lit_modules.callbacks.throughput.Throughput",
    "lit_modules.checkpoint_io.DurableCheckpointIO": "lit_modules.trainer.checkpoint_io.DurableCheckpointIO",
    "lit_modules.epoch_table.EpochTable": "lit_modules.loggers.epoch_csv.EpochCSVLogger",
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


def update(saved: dict[str, Any]) -> None:
    """Update a config that an earlier version saved, in place."""
    for old, new in KEYS.items():
        section, _, name = old.rpartition(".")
        parent: Any = saved
        for key in section.split(".") if section else ():
            parent = parent.get(key) if isinstance(parent, dict) else None
        if isinstance(parent, dict) and name in parent:
            parent[new.rpartition(".")[2]] = parent.pop(name)
    datamodule = saved.get("datamodule")
    if isinstance(datamodule, dict) and datamodule.get("on_error") == "error":
        datamodule["on_error"] = "raise"
    module = saved.get("lit_module")
    if isinstance(module, dict):
        module.setdefault("metrics", {})
        module.setdefault("gradient_checkpointing", False)
    scheduler = module.get("scheduler") if isinstance(module, dict) else None
    if isinstance(scheduler, dict) and scheduler.get("until") == {}:
        del scheduler["until"]  # a parameter group's end_fraction now
    _update_targets(saved)


def _update_targets(node: Any) -> None:
    if isinstance(node, dict):
        if node.get("_target_") in TARGETS:
            node["_target_"] = TARGETS[node["_target_"]]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            _update_targets(child)
