"""Hydra's own section of the config, without what would run code before the check of every constructor node."""

from dataclasses import dataclass, field

from hydra.conf import HydraConf


@dataclass
class NoCallbacks:
    """Admits no key."""


@dataclass
class NoLogging:
    """What `hydra/job_logging: none` says, and no handler, whose factory could be anything."""

    version: int = 1
    root: str | None = None
    disable_existing_loggers: bool = False


@dataclass
class ClosedHydra(HydraConf):
    """Hydra's own section, without three places in it whose values Hydra calls before `check` can see them. A launcher
    is called so too: it is for the command line and our own files to choose, and no saved run holds one."""

    callbacks: NoCallbacks = field(default_factory=NoCallbacks)  # type: ignore[assignment]
    hydra_logging: NoLogging = field(default_factory=NoLogging)  # type: ignore[assignment]
    job_logging: NoLogging = field(default_factory=NoLogging)  # type: ignore[assignment]
