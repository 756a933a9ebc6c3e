"""Typed config of each task; Hydra's own section, closed."""

import inspect
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf


@dataclass
class NoCallbacks:
    """Admits no key."""


@dataclass
class NoLogging:
    """The keys of `hydra/job_logging: none`; no handlers, whose factories could run any code."""

    version: int = 1
    root: str | None = None
    disable_existing_loggers: bool = False


@dataclass
class ClosedHydra(HydraConf):
    """Hydra's own section, without the three places whose values Hydra calls before `validation.check`.

    Hydra calls a launcher before it too: only the command line and our own files can choose one, never a saved run.
    """

    callbacks: NoCallbacks = field(default_factory=NoCallbacks)  # type: ignore[assignment]
    hydra_logging: NoLogging = field(default_factory=NoLogging)  # type: ignore[assignment]
    job_logging: NoLogging = field(default_factory=NoLogging)  # type: ignore[assignment]


@dataclass
class Fit:
    """Train, then test the best checkpoint once unless `test` is false. `run=DIR` resumes a run."""

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
    """Test-time augmentation: none, or averaging with the mirrored image."""

    none = "none"
    flip = "flip"


@dataclass
class Predict(Fit):
    """Classify images with the best epoch of the run `run=DIR`."""

    task: str = "predict"
    run: str | None = MISSING
    input: str = MISSING
    tta: Views = Views.none
    calibrate: bool = False
    output: str = "${run_dir}/predictions/${oc.env:LITMUS_STAMP}"


class Format(Enum):
    """File format of an export."""

    torch_export = "torch_export"
    onnx = "onnx"
    safetensors = "safetensors"


class Input(Enum):
    """Input of an exported network: uint8 images, or floats in [0, 1]."""

    uint8 = "uint8"
    float = "float"


@dataclass
class Export(Fit):
    """Export the best epoch of the run `run=DIR` to a file that needs no Litmus."""

    task: str = "export"
    run: str | None = MISSING
    format: Format = MISSING
    input: Input = Input.uint8
    calibrate: bool = False
    output: str = "${run_dir}/export"


@dataclass
class Inspect(Fit):
    """Report on the data without training."""

    task: str = "inspect"
    output: str = "${logs_dir}/inspect/${oc.env:LITMUS_STAMP}"


@dataclass
class Tune(Fit):
    """Suggest a learning rate (range test from `min_lr` to `max_lr`) and a batch size (throughput)."""

    task: str = "tune"
    min_lr: float = 1e-6
    max_lr: float = 10.0
    num_steps: int = 100
    output: str = "${logs_dir}/tune/${oc.env:LITMUS_STAMP}"


@dataclass
class Sweep(Fit):
    """Run trials of one config with values of `space`. `run=DIR` resumes a study, or adds a worker to it."""

    task: str = "sweep"
    space: dict[str, Any] = MISSING
    trials: int | None = MISSING
    workers: int = MISSING
    storage: str = MISSING
    sampler: dict[str, Any] | None = MISSING
    pruner: dict[str, Any] | None = MISSING
    overrides: list[str] = field(default_factory=list)


@dataclass
class Compare(Fit):
    """Compare finished runs: scores, intervals, config differences. `runs`: a list of folders, or one glob."""

    task: str = "compare"
    runs: Any = MISSING
    output: str | None = "${logs_dir}/compare/${oc.env:LITMUS_STAMP}"


TASKS: dict[str, type[Fit]] = {
    schema.task: schema for schema in (Fit, Test, Predict, Export, Inspect, Tune, Sweep, Compare)
}
# Keys of these sections need not be in a YAML file: validation compares them with the constructor's parameters.
SECTIONS = ("datamodule", "lit_module", "trainer", "callbacks", "logger")


# Hydra 1.3 warns without the parameter, 1.4 with it.
VERSION_BASE = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}


def register() -> None:
    """Store the root schemas as options of the config group `task`, and close Hydra's section."""
    store(ClosedHydra(), group="hydra", name="config", provider="hydra")
    for name, schema in TASKS.items():
        root = OmegaConf.structured(schema)
        for section in SECTIONS:
            OmegaConf.set_struct(root[section], False)
        store(root, group="task", name=name, package="_global_")


def store(node: Any, **place: Any) -> None:
    """Put a config into Hydra's store, in place of an earlier one; Hydra 1.4 warns unless told so."""
    config_store = ConfigStore.instance()
    if "replace" in inspect.signature(config_store.store).parameters:
        place["replace"] = True
    config_store.store(node=node, **place)
