"""The typed config of each task, and Hydra's own section without what would run code."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf


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


@dataclass
class Fit:
    """Train, then test the best checkpoint once, unless `test` is false. With `run=DIR`: continue that run."""

    task: str = "fit"
    name: str = MISSING
    seed: int = 0
    epochs: int = MISSING
    monitor: str = "val/f1"
    mode: str = "max"
    logs_dir: str = "logs"
    run_dir: str = MISSING
    run: str | None = None
    init_from: str | None = None
    test: bool = True
    datamodule: dict[str, Any] = field(default_factory=dict)
    lit_module: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    logger: dict[str, dict[str, Any] | None] = field(default_factory=dict)


@dataclass
class Test(Fit):
    """Test the best checkpoint of the run `run=DIR`."""

    task: str = "test"
    run: str | None = MISSING


class Views(Enum):
    """What of an image is predicted and averaged: itself, or itself and its mirror image."""

    none = "none"
    flip = "flip"


@dataclass
class Predict(Fit):
    """Classify images by the best epoch of the run `run=DIR`."""

    task: str = "predict"
    run: str | None = MISSING
    input: str = MISSING
    tta: Views = Views.none
    calibrate: bool = False
    output: str = "${run_dir}/predictions/${oc.env:LITMUS_STAMP}"


class Format(Enum):
    """Of an exported file."""

    torch_export = "torch_export"
    onnx = "onnx"
    safetensors = "safetensors"


class Input(Enum):
    """What an exported network takes: images as they are, or scaled to [0, 1]."""

    uint8 = "uint8"
    float = "float"


@dataclass
class Export(Fit):
    """Make the best epoch of the run `run=DIR` a file that needs no Litmus."""

    task: str = "export"
    run: str | None = MISSING
    format: Format = MISSING
    input: Input = Input.uint8
    calibrate: bool = False
    output: str = "${run_dir}/export"


@dataclass
class Inspect(Fit):
    """Look at the data and train nothing."""

    task: str = "inspect"
    output: str = "${logs_dir}/inspect/${oc.env:LITMUS_STAMP}"


@dataclass
class Tune(Fit):
    """Suggest a learning rate and a batch size: a range test from `min_lr` to `max_lr`, a throughput sweep."""

    task: str = "tune"
    min_lr: float = 1e-6
    max_lr: float = 10.0
    num_steps: int = 100
    output: str = "${logs_dir}/tune/${oc.env:LITMUS_STAMP}"


@dataclass
class Sweep(Fit):
    """Run trials of one config, each with other values of `space`. With `run=DIR`: go on, or join those who do."""

    task: str = "sweep"
    space: dict[str, Any] = MISSING
    trials: int | None = MISSING
    workers: int = MISSING
    storage: str = MISSING
    sampler: dict[str, Any] | None = MISSING
    pruner: dict[str, Any] | None = MISSING
    overrides: list[str] = field(default_factory=list)


@dataclass
class Compare:
    """Tell finished runs apart: scores, their intervals, what differs. `runs`: a list of folders, or one glob."""

    task: str = "compare"
    runs: Any = MISSING
    output: str | None = None


TASKS: dict[str, type] = {each.task: each for each in (Fit, Test, Predict, Export, Inspect, Tune, Sweep, Compare)}


# A key of these need not stand in a YAML file: validation compares it with the constructor's parameters.
SECTIONS = {"datamodule", "lit_module", "trainer", "callbacks", "logger"}


def register() -> None:
    """Makes the root schemas the options of the config group `task`, and closes Hydra's section."""
    ConfigStore.instance().store(group="hydra", name="config", node=ClosedHydra(), provider="hydra")
    for name, schema in TASKS.items():
        root = OmegaConf.structured(schema)
        for section in SECTIONS & root.keys():
            OmegaConf.set_struct(root[section], False)
        ConfigStore.instance().store(group="task", name=name, node=root, package="_global_")
