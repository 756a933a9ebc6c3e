"""Learning-rate schedules: our own, a function of the step alone, and how any of torch is built to the run's length."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, CyclicLR, LambdaLR, OneCycleLR, SequentialLR

from conf.errors import UserError

# The attributes by which torch's schedulers know how long they are; their saved state brings them back.
LENGTHS = ("total_steps", "T_max")


def warmup_cosine(step: int, total_steps: int, warmup: float) -> float:
    """The factor of the learning rate at `step` (from 0 on): linear from 0 over the first share `warmup` of the steps,
    then half a cosine down to 0. Goyal et al., arXiv:1706.02677; Loshchilov and Hutter, arXiv:1608.03983."""
    progress = (step + 1) / (total_steps + 1)
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def linear_to_zero(step: int, total_steps: int, share: float) -> float:
    """The factor of the learning rate at `step` (from 0 on): 1 at first, 0 after the first `share` of the steps."""
    return max(0.0, 1 - step / (share * total_steps))


class OfLengthLR(LambdaLR):
    """Factors of the optimizer's own learning rates that depend on the length of the run.

    Args:
        optimizer: whose rates are set.
        total_steps: steps of the scheduler in the whole run.
        factors: of each of its groups: called with the step, from 0 on, and `total_steps`.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, factors: Sequence[Callable[[int, int], float]]) -> None:
        self.total_steps = total_steps
        super().__init__(optimizer, [partial(self._factor, factor) for factor in factors])

    def _factor(self, factor: Callable[[int, int], float], step: int) -> float:
        return factor(step, self.total_steps)

    def state_dict(self) -> dict[str, Any]:
        """Without the length of the run, which is the config's to say."""
        state: dict[str, Any] = super().state_dict()
        del state["total_steps"]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Sets the rates of the step reached, which those saved are not if the run has another length now."""
        super().load_state_dict(state_dict)
        for group, base, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"] = base * factor(self.last_epoch)


class WarmupCosineLR(OfLengthLR):
    """`warmup_cosine` times the optimizer's own learning rates.

    Args:
        optimizer, total_steps: see `OfLengthLR`.
        warmup: share of the steps in which the rate rises.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float) -> None:
        if not 0 <= warmup < 1:
            raise UserError(f"lit_module.scheduler.warmup: must be at least 0 and below 1, not {warmup}; try 0.1")
        factor = partial(warmup_cosine, warmup=warmup)
        super().__init__(optimizer, total_steps, [factor] * len(optimizer.param_groups))


class LinearToZeroLR(OfLengthLR):
    """`linear_to_zero` times the optimizer's own learning rates.

    Args:
        optimizer, total_steps: see `OfLengthLR`.
            A parameter group with an option `end_fraction` reaches 0 after that fraction of the steps.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int) -> None:
        factors = [partial(linear_to_zero, share=group.get("end_fraction", 1.0)) for group in optimizer.param_groups]
        super().__init__(optimizer, total_steps, factors)


def build_scheduler(scheduler: Callable[..., Any], optimizer: Optimizer, total_steps: int) -> Any:
    """The scheduler of an optimizer, told of the run's length if it has a parameter `total_steps` that is not given.

    Raises:
        UserError: it refuses a value.
    """
    wants_length = "total_steps" in inspect.signature(scheduler).parameters
    given = getattr(scheduler, "keywords", {})
    length = {"total_steps": total_steps} if wants_length and "total_steps" not in given else {}
    try:
        return scheduler(optimizer, **length)
    except (ValueError, TypeError) as error:
        raise UserError(f"lit_module.scheduler: {error}; correct it") from error


def check_schedule_length(scheduler: Any, steps: float, saved: list[dict[str, Any]]) -> None:
    """Raises UserError if the schedule ends before the run of `steps`, or if a saved state would bring another length
    back, which it would do in silence."""
    if (given := getattr(scheduler, "total_steps", steps)) < steps:
        raise UserError(f"lit_module.scheduler.total_steps: {given} for a run of {steps} steps; leave it out")
    for state in saved:
        for name in LENGTHS:
            planned, wanted = state.get(name), getattr(scheduler, name, None)
            if planned is not None and planned != wanted:
                kind = type(scheduler).__name__
                raise UserError(
                    f"lit_module.scheduler: this run's {kind} was planned for {planned} steps, not {wanted}; "
                    "resume with the same trainer.max_epochs, or choose WarmupCosineLR in a new run"
                )


def check_transferable(scheduler: Any) -> None:
    """Raises UserError for a schedule that does more than scale the base rates of one optimizer."""
    if isinstance(scheduler, OneCycleLR | CyclicLR | SequentialLR | ChainedScheduler):
        name = type(scheduler).__name__
        raise UserError(f"lit_module.scheduler: {name} cannot go on with another optimizer; choose WarmupCosineLR")


def transfer_schedule(old: Optimizer, new: Optimizer, ratio: float, schedulers: list[Any]) -> None:
    """Sets the rates of another optimizer of the same groups to `ratio` times the old ones, and has the schedules go on
    with it: they multiply its rates from where they are."""
    for ours, theirs in zip(new.param_groups, old.param_groups, strict=True):
        ours |= {name: theirs[name] * ratio for name in ("lr", "initial_lr") if name in theirs}
    for scheduler in schedulers:
        scheduler.optimizer = new
        if hasattr(scheduler, "base_lrs"):  # not ReduceLROnPlateau, which multiplies the present rates
            scheduler.base_lrs = [group["initial_lr"] for group in new.param_groups]
