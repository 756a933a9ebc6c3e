"""Learning-rate schedulers that depend on the length of the run."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

from annotated_types import Interval
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, CyclicLR, LambdaLR, OneCycleLR, SequentialLR

from conf.errors import UserError

# Attributes that hold the length of torch's schedulers; load_state_dict restores them.
LENGTHS = ("total_steps", "T_max")
# Parameters of torch's schedulers that are one rate for all groups, or one of each.
RATES = {"base_lr", "max_lr"}


def warmup_cosine(step: int, total_steps: int, warmup: float) -> float:
    """The factor of the learning rate at the 0-based `step`.

    Linear from 0 to 1 over the first `warmup` fraction of the steps, then half a cosine to 0. Goyal et al.,
    arXiv:1706.02677; Loshchilov and Hutter, arXiv:1608.03983.
    """
    progress = (step + 1) / (total_steps + 1)
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def linear_to_zero(step: int, total_steps: int, fraction: float) -> float:
    """The factor of the learning rate at the 0-based `step`: linear from 1 to 0 over the first `fraction` of steps."""
    return max(0.0, 1 - step / (fraction * total_steps))


class RunLengthLR(LambdaLR):
    """Multiplies the learning rates of an optimizer by functions of the step and the length of the run.

    Args:
        optimizer: wrapped optimizer.
        total_steps: steps of the scheduler in the whole run.
        factors: one function per parameter group, called with the 0-based step and `total_steps`.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, factors: Sequence[Callable[[int, int], float]]) -> None:
        self.total_steps = total_steps
        super().__init__(optimizer, [partial(self._factor, factor) for factor in factors])

    def _factor(self, factor: Callable[[int, int], float], step: int) -> float:
        return factor(step, self.total_steps)

    def state_dict(self) -> dict[str, Any]:
        """The state without the length of the run, which the config determines."""
        state: dict[str, Any] = super().state_dict()
        del state["total_steps"]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also recomputes the learning rates, which differ from the saved ones if the length of the run has changed."""
        super().load_state_dict(state_dict)
        for group, base, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"] = base * factor(self.last_epoch)


class WarmupCosineLR(RunLengthLR):
    """Multiplies the learning rates of an optimizer by `warmup_cosine`.

    Args:
        optimizer, total_steps: see `RunLengthLR`.
        warmup: fraction of the steps with a rising rate.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: Annotated[float, Interval(ge=0, lt=1)]) -> None:
        factor = partial(warmup_cosine, warmup=warmup)
        super().__init__(optimizer, total_steps, [factor] * len(optimizer.param_groups))


class LinearToZeroLR(RunLengthLR):
    """Multiplies the learning rates of an optimizer by `linear_to_zero`.

    Args:
        optimizer, total_steps: see `RunLengthLR`.
            A parameter group with the option `end_fraction` reaches 0 after that fraction of the steps.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int) -> None:
        factors = [partial(linear_to_zero, fraction=group.get("end_fraction", 1.0)) for group in optimizer.param_groups]
        super().__init__(optimizer, total_steps, factors)


def build_scheduler(scheduler: Callable[..., Any], optimizer: Optimizer, total_steps: int) -> Any:
    """Builds the scheduler, with `total_steps` if it has that parameter and the config does not set it.

    Parameter groups keep the ratios of their learning rates under OneCycleLR and CyclicLR too, which set them anew.

    Raises:
        UserError: the scheduler rejects a value.
    """
    has_length = "total_steps" in inspect.signature(scheduler).parameters
    configured = getattr(scheduler, "keywords", {})
    options: dict[str, Any] = {"total_steps": total_steps} if has_length and "total_steps" not in configured else {}
    base = optimizer.defaults.get("lr")
    for name in RATES & configured.keys() if base else ():
        if isinstance(configured[name], int | float):
            options[name] = [configured[name] * (group["lr"] / base) for group in optimizer.param_groups]
    try:
        return scheduler(optimizer, **options)
    except (ValueError, TypeError) as error:
        raise UserError(f"lit_module.scheduler: {error}; correct it") from error


def check_schedule_length(scheduler: Any, steps: float, saved: list[dict[str, Any]]) -> None:
    """Raises UserError if the schedule is shorter than the run or would change its length when resumed.

    Args:
        scheduler: the new scheduler.
        steps: scheduler steps of the run.
        saved: scheduler states of the checkpoint, which would silently restore their own length.
    """
    scheduled = getattr(scheduler, "total_steps", steps)
    if scheduled < steps:
        raise UserError(f"lit_module.scheduler.total_steps: {scheduled} for a run of {steps} steps; leave it out")
    for state in saved:
        for name in LENGTHS:
            saved_length = state.get(name)
            length = getattr(scheduler, name, None)
            if saved_length is not None and saved_length != length:
                scheduler_name = type(scheduler).__name__
                raise UserError(
                    f"lit_module.scheduler: the {scheduler_name} of this run has {saved_length} steps, not {length}; "
                    "resume with the same trainer.max_epochs, or choose WarmupCosineLR in a new run"
                )


def check_transferable(scheduler: Any) -> None:
    """Raises UserError for schedulers that do more than scale the base rates of one optimizer."""
    if isinstance(scheduler, OneCycleLR | CyclicLR | SequentialLR | ChainedScheduler):
        name = type(scheduler).__name__
        raise UserError(f"lit_module.scheduler: {name} cannot continue with another optimizer; choose WarmupCosineLR")


def transfer_schedule(old: Optimizer, new: Optimizer, ratio: float, schedulers: list[Any]) -> None:
    """Moves schedulers to another optimizer with the same groups, at their current step.

    Args:
        old, new: the optimizers.
        ratio: factor from the old to the new learning rates.
        schedulers: of the old optimizer; changed in place.
    """
    for new_group, old_group in zip(new.param_groups, old.param_groups, strict=True):
        for name in ("lr", "initial_lr"):
            if name in old_group:
                new_group[name] = old_group[name] * ratio
    for scheduler in schedulers:
        scheduler.optimizer = new
        if hasattr(scheduler, "base_lrs"):  # ReduceLROnPlateau has none; it scales the current rates
            scheduler.base_lrs = [group["initial_lr"] for group in new.param_groups]
