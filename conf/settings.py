"""What the values of a config that builds a network must be, beyond their types."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from conf.errors import UserError, nearest

MONITORS = [f"{split}/{score}" for split in ("train", "val") for score in ("loss", "acc", "f1", "likelihood")]
LARGEST_SEED = 2**32 - 1  # NumPy's
COUNTS = (
    "trainer.accumulate_grad_batches",
    "trainer.check_val_every_n_epoch",
    "callbacks.checkpoint.every_n_epochs",
)


def check_settings(cfg: DictConfig) -> None:
    """
    Raises:
        UserError: a value would be found wrong, or of no effect, only after the data are read or the epochs are over.
    """
    if not 0 <= cfg.seed <= LARGEST_SEED:
        raise UserError(f"seed: must be from 0 to {LARGEST_SEED}, not {cfg.seed}; choose seed=0")
    if Path(cfg.name).is_absolute() or ".." in Path(cfg.name).parts:
        raise UserError(f"name: {cfg.name} lies outside of logs_dir; choose a plain one, or set run_dir")
    if cfg.run and Path(cfg.run_dir) != Path(cfg.run):
        raise UserError(f"run_dir: the run {cfg.run} stays in its folder; leave run_dir out, and sweep new runs only")
    if cfg.monitor not in MONITORS:
        why = "test data chooses nothing" if cfg.monitor.startswith("test/") else "there is no such score"
        raise UserError(f"monitor: {cfg.monitor}: {why}; {nearest(cfg.monitor, MONITORS)}")
    if cfg.monitor.startswith("val/") and not cfg.trainer.get("limit_val_batches", 1):
        raise UserError(f"monitor: {cfg.monitor} needs validation; set trainer.limit_val_batches or monitor=train/f1")
    if cfg.test and cfg.trainer.get("limit_test_batches", 1) == 0:
        raise UserError("trainer.limit_test_batches: 0 tests on nothing; set test=false")
    lower_is_better = cfg.monitor.endswith("loss")
    if (cfg.mode == "min") != lower_is_better or cfg.mode not in ("min", "max"):
        mode = "min" if lower_is_better else "max"
        raise UserError(f"mode: {cfg.monitor} is better when it is {mode}imal; set mode={mode}")
    for name, node in cfg.callbacks.items():
        if node and "monitor" in node and node.monitor not in MONITORS:
            raise UserError(f"callbacks.{name}.monitor: there is no such score; {nearest(node.monitor, MONITORS)}")
    for path in ("callbacks", "logger", "datamodule.augment"):
        parts = OmegaConf.select(cfg, path)
        for name, node in parts.items() if isinstance(parts, DictConfig) else ():
            if node is not None and "_target_" not in node:
                group = path.replace(".", "/")
                raise UserError(f"{path}.{name!s}: was not chosen; add it by {group}=[…,{name!s}]")


def check_trainer(cfg: DictConfig) -> None:
    """
    Raises:
        UserError: Lightning would take a value, and fail on it, or keep no epoch that could be called the best.
    """
    for key in COUNTS:
        value = OmegaConf.select(cfg, key, default=1)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"{key}: must be 1 or more, not {value}; leave it out")
    if (cfg.trainer.get("gradient_clip_val") or 0) < 0:  # it would turn gradients round
        raise UserError(f"trainer.gradient_clip_val: must be 0 or more, not {cfg.trainer.gradient_clip_val}; try 1.0")
    interval = cfg.trainer.get("val_check_interval", 1)
    if interval is not None and (not isinstance(interval, int | float) or interval <= 0):
        raise UserError(
            f"trainer.val_check_interval: must be batches or a share of an epoch, not {interval}; leave it out"
        )
    epochs, validated = cfg.trainer.get("max_epochs") or 0, cfg.trainer.get("check_val_every_n_epoch") or 1
    if cfg.trainer.get("max_epochs") == 0:
        raise UserError("epochs: 0 trains nothing; try 1")
    if cfg.monitor.startswith("val/") and 0 < epochs < validated:
        raise UserError(f"trainer.check_val_every_n_epoch: none of {epochs} epochs is validated; lower it")
    if cfg.trainer.get("fast_dev_run"):
        raise UserError("trainer.fast_dev_run: keeps no checkpoint, which a run cannot do without; use trainer=debug")
    if cfg.trainer.get("limit_train_batches", 1) == 0:
        raise UserError("trainer.limit_train_batches: 0 trains on nothing; leave it out")
    if cfg.trainer.get("precision") in ("16-true", "bf16-true"):
        raise UserError("trainer.precision: samples come in 32 bits; use 16-mixed or bf16-mixed")
