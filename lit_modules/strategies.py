"""How several processes train one network: Lightning's strategies, with settings that a YAML can give."""

from datetime import timedelta

from pytorch_lightning.strategies import DDPStrategy


class DDP(DDPStrategy):
    """The whole network in each process; gradients are averaged.

    Args:
        timeout_minutes: how long a process waits for the others before it ends with an error.
    """

    def __init__(self, timeout_minutes: float) -> None:
        super().__init__(timeout=timedelta(minutes=timeout_minutes))
