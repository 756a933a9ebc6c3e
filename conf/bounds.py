"""Bounds of parameters of Lightning and torch, whose annotations state none.

Beyond them a constructor raises no error, or not before the data are read, and training fails or does something else.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval

Count = Annotated[int, Ge(1)]
NotNegative = Annotated[int, Ge(0)]
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]  # NumPy's
OrUnlimited = Annotated[int, Ge(-1)]  # -1: no limit
Batches = NotNegative | Annotated[float, Interval(ge=0, le=1)] | None  # or a fraction of an epoch

# By class; they also hold for its subclasses.
PARAMETERS: dict[str, dict[str, Any]] = {
    "pytorch_lightning.trainer.trainer.Trainer": {
        "accumulate_grad_batches": Annotated[int, Interval(ge=1, le=10_000)],
        "check_val_every_n_epoch": Count | None,
        "gradient_clip_algorithm": Literal["norm", "value"] | None,
        "gradient_clip_val": Annotated[float, Ge(0)] | None,  # a negative one would reverse the gradients
        "limit_predict_batches": Batches,
        "limit_test_batches": Batches,
        "limit_train_batches": Batches,
        "limit_val_batches": Batches,
        "log_every_n_steps": NotNegative | None,
        "max_epochs": OrUnlimited | None,
        "max_steps": OrUnlimited,
        "max_time": str | dict[str, Annotated[int, Interval(ge=0, le=1_000_000)]] | None,
        "min_epochs": NotNegative | None,
        "min_steps": NotNegative | None,
        "num_nodes": Count,
        "num_sanity_val_steps": OrUnlimited | None,
        "overfit_batches": Batches,
        "reload_dataloaders_every_n_epochs": NotNegative,
        "val_check_interval": Count | Annotated[float, Interval(gt=0, le=1)] | None,
    },
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping": {"mode": Literal["min", "max"], "patience": Count},
    "pytorch_lightning.callbacks.weight_averaging.EMAWeightAveraging": {
        "decay": Annotated[float, Interval(ge=0, lt=1)],
        "update_every_n_steps": Count,
    },
    "torch.nn.modules.loss.CrossEntropyLoss": {"label_smoothing": Annotated[float, Interval(ge=0, le=1)]},
    "torch.optim.lr_scheduler.CosineAnnealingLR": {"T_max": Count},
    "torch.optim.lr_scheduler.ReduceLROnPlateau": {
        "factor": Annotated[float, Interval(gt=0, lt=1)],
        "mode": Literal["min", "max"],
        "patience": NotNegative,
    },
    "torch.optim.lr_scheduler.StepLR": {"gamma": Annotated[float, Gt(0)], "step_size": Count},
}


def bounded(constructor: Callable[..., Any], parameter: str, annotation: Any) -> Any:
    """The annotation of a parameter with the bounds above."""
    for base in getattr(constructor, "__mro__", ()):
        annotations = PARAMETERS.get(f"{base.__module__}.{base.__qualname__}", {})
        if parameter in annotations:
            return annotations[parameter]
    return annotation
