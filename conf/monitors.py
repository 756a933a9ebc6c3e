"""Scores that a run may monitor, and in which direction."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf.errors import UserError, nearest
from conf.nodes import direction

# Of every run; the metrics that a config adds are scores of the validation split too.
SCORES = [f"{split}/{score}" for split in ("train", "val") for score in ("loss", "acc", "f1", "likelihood")]
OPTIONS = Path(__file__).parent / "lit_module" / "metrics"


def check(cfg: DictConfig) -> None:
    """Check that what is monitored exists, may choose, and is followed in its direction.

    Raises:
        UserError: it does not, or is not.
    """
    _check_score("monitor", cfg.monitor, cfg)
    if cfg.monitor.startswith("val/") and not cfg.trainer.get("limit_val_batches", 1):
        raise UserError(f"monitor: {cfg.monitor} needs validation; set trainer.limit_val_batches or monitor=train/f1")
    _check_mode("mode", cfg.mode, cfg.monitor, cfg)
    scheduler = cfg.lit_module.get("scheduler")
    if isinstance(scheduler, DictConfig) and str(scheduler.get("_target_")).endswith(".ReduceLROnPlateau"):
        score = str(cfg.lit_module.get("monitor"))
        _check_score("lit_module.monitor", score, cfg)
        _check_mode("lit_module.scheduler.mode", scheduler.get("mode", "min"), score, cfg)
    for name, node in cfg.callbacks.items():
        if isinstance(node, DictConfig) and "_target_" in node and "monitor" in node:
            _check_callback(f"callbacks.{name}", node, cfg)


def _check_callback(key: str, node: DictConfig, cfg: DictConfig) -> None:
    """Early stopping may watch any score, in its direction; the best epoch is chosen by that of the root alone."""
    score = str(node.monitor)
    _check_score(f"{key}.monitor", score, cfg)
    if score != cfg.monitor and not str(node._target_).endswith(".EarlyStopping"):
        fix = f"set monitor={score} mode={_modes_of(score, cfg)[0]}"
        raise UserError(f"{key}.monitor: the best epoch is chosen by {cfg.monitor}; {fix}")
    if "mode" in node:
        _check_mode(f"{key}.mode", node.mode, score, cfg)


def _check_score(key: str, score: str, cfg: DictConfig) -> None:
    metrics = _metrics(cfg)
    scores = [*SCORES, *(f"val/{name}" for name in metrics)]
    if score in scores:
        return
    split, _, name = score.partition("/")
    is_metric = name in metrics or name in {path.stem for path in OPTIONS.glob("*.yaml")}
    why, fix = "there is no such score", nearest(score, scores)
    if split == "test":
        why = "the test split chooses nothing"
    elif split == "train" and is_metric:
        why, fix = "metrics are computed on the validation and test splits only", f"choose val/{name}"
    elif split == "val" and is_metric:
        fix = f"add it by lit_module/metrics=[{','.join([*metrics, name])}]"
    raise UserError(f"{key}: {score}: {why}; {fix}")


def _check_mode(key: str, mode: Any, score: str, cfg: DictConfig) -> None:
    modes = _modes_of(score, cfg)
    if mode not in modes:
        raise UserError(f"{key}: the best {score} is the {'imum or '.join(modes)}imum; set {key}={modes[0]}")


def _modes_of(score: str, cfg: DictConfig) -> list[str]:
    """`max` or `min`, or both for a metric whose class leaves it open."""
    name = score.partition("/")[2]
    metrics = _metrics(cfg)
    if name in metrics and score not in SCORES:
        mode = direction(f"lit_module.metrics.{name}", str(metrics[name]._target_))
        return [mode] if mode else ["max", "min"]
    return ["min"] if name == "loss" else ["max"]


def _metrics(cfg: DictConfig) -> dict[str, Any]:
    metrics = OmegaConf.select(cfg, "lit_module.metrics")
    return {str(name): metrics[name] for name in metrics} if isinstance(metrics, DictConfig) else {}
