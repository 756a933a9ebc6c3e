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


def key(default: Any, description: str) -> Any:
    """A key with its default and its description in `task=… --help`."""
    metadata = {"description": description}
    if isinstance(default, dict | list):
        return field(default_factory=type(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Fit:
    """Train, then test the best epoch once. `run=DIR` resumes a run."""

    task: str = "fit"
    name: str = key(MISSING, "of the folder in logs_dir in which the run lies")
    seed: int = key(0, "of the weights, the order of samples, augmentation and dropout")
    epochs: int = key(MISSING, "of the training")
    monitor: str = key("val/f1", "the score that selects the best epoch; never one of the test split")
    mode: str = key("max", "max, or min for a loss")
    logs_dir: str = key("logs", "folder of all runs")
    run_dir: str = key(MISSING, "folder of this run")
    run: str | None = key(None, "folder of a run to resume or to use")
    init_from: str | None = key(None, "model.pt or checkpoint whose weights a new run begins with")
    test: bool = key(True, "whether to test the best epoch")
    folds: int | None = key(None, "cross-validation by that many runs, which test on each sample once")
    repeats: int = key(1, "of the cross-validation, with other folds")
    workers: int = key(1, "folds trained at the same time")
    overrides: list[str] = key([], "of each run of a study: what was on the command line of the study")
    datamodule: dict[str, Any] = key({}, "the data")
    lit_module: dict[str, Any] = key({}, "the network, its loss, optimizer and schedule")
    trainer: dict[str, Any] = key({}, "Lightning's Trainer")
    callbacks: dict[str, dict[str, Any] | None] = key({}, "Lightning's callbacks, by name")
    logger: dict[str, dict[str, Any] | None] = key({}, "Lightning's loggers, by name")


@dataclass
class Test(Fit):
    """Test the best epoch of the run `run=DIR`, on its own data or on others of its classes: `datamodule.root=…`."""

    task: str = "test"
    run: str | None = key(MISSING, "folder of the run")


THRESHOLD = "of several labels: from which probability; f1: of each, the best F1 on the validation split"


class Views(Enum):
    """Test-time augmentation: none, or averaging with the mirrored image."""

    none = "none"
    flip = "flip"


@dataclass
class Predict(Fit):
    """Classify images with the best epoch of the run `run=DIR`."""

    task: str = "predict"
    run: str | None = key(MISSING, "folder of the run")
    input: str = key(MISSING, "an image, a folder or an archive of images, a table of files, or a glob")
    tta: Views = key(Views.none, "flip: average with the mirrored image")
    calibrate: bool = key(False, "scale the probabilities by a temperature fitted to the validation split")
    coverage: float | None = key(None, "of the true class by a set of classes, such as 0.95; null: no sets")
    unknown: float | None = key(None, "false alarm rate of `known`: false, such as 0.05; null: nothing is unknown")
    threshold: Any = key(0.5, THRESHOLD)
    explain: bool = key(False, "write an image with the class activation map of each image into maps/")
    embeddings: bool = key(False, "write what the head of the network receives to embeddings.npy")
    output: str = key("${run_dir}/predictions/${oc.env:LITMUS_STAMP}", "folder of the predictions")


@dataclass
class Serve(Fit):
    """Answer requests for predictions with the best epoch of the run `run=DIR` over HTTP, with a page at `/`."""

    task: str = "serve"
    run: str | None = key(MISSING, "folder of the run")
    host: str = key("127.0.0.1", "address to listen to; 0.0.0.0: anybody may send images")
    port: int = key(8000, "to listen to; 0: a free one")
    calibrate: bool = key(False, "scale the probabilities by a temperature fitted to the validation split")
    coverage: float | None = key(None, "of the true class by a set of classes, such as 0.95; null: no sets")
    unknown: float | None = key(None, "false alarm rate of `known`: false, such as 0.05; null: nothing is unknown")
    threshold: Any = key(0.5, THRESHOLD)


class Format(Enum):
    """File format of an export."""

    torch_export = "torch_export"
    onnx = "onnx"
    safetensors = "safetensors"
    openvino = "openvino"
    executorch = "executorch"
    hub = "hub"
    web = "web"


class Input(Enum):
    """Input of an exported network: uint8 images, floats in [0, 1], or uint8 images of any size."""

    uint8 = "uint8"
    float = "float"
    image = "image"


class Precision(Enum):
    """Numbers of an exported network."""

    float32 = "float32"
    int8 = "int8"


@dataclass
class Export(Fit):
    """Export the best epoch of the run `run=DIR` to a file that needs no Litmus."""

    task: str = "export"
    run: str | None = key(MISSING, "folder of the run")
    format: Format = key(MISSING, "onnx, safetensors, torch_export, openvino, executorch, hub (for timm), web (a page)")
    input: Input = key(Input.uint8, "uint8 images, floats in [0, 1], or image: uint8 of any size, resized in the graph")
    precision: Precision = key(Precision.float32, "int8: an onnx file quantized with training images")
    tolerance: float = key(0.005, "validation accuracy that int8 may lose")
    calibrate: bool = key(False, "scale the probabilities by a temperature fitted to the validation split")
    coverage: float | None = key(None, "of the true class by a set of classes, such as 0.95; null: no sets")
    threshold: Any = key(0.5, THRESHOLD)
    intended_use: str | None = key(None, "what the model is for, in the model card of format=hub")
    output: str = key("${run_dir}/export", "folder of the export")


@dataclass
class Inspect(Fit):
    """Report counts, sizes, damaged and unusual files, duplicates and shortcuts of the data, without training."""

    task: str = "inspect"
    output: str = key("${logs_dir}/inspect/${oc.env:LITMUS_STAMP}", "folder of the report")


@dataclass
class Audit(Fit):
    """Rank labels that are probably wrong by the predictions of `run=DIR` for samples that it was not trained on."""

    task: str = "audit"
    run: str | None = key(MISSING, "folder of the run")
    output: str = key("${run_dir}/audit/${oc.env:LITMUS_STAMP}", "folder of the report")


@dataclass
class Tune(Fit):
    """Suggest a learning rate by a range test, and a batch size by throughput."""

    task: str = "tune"
    min_lr: float = key(1e-6, "where the range test begins")
    max_lr: float = key(10.0, "where it ends")
    num_steps: int = key(100, "of the range test")
    output: str = key("${logs_dir}/tune/${oc.env:LITMUS_STAMP}", "folder of the report")


@dataclass
class Sweep(Fit):
    """Run trials of one config with values of `space`. `run=DIR` resumes a study, or adds a worker to it."""

    task: str = "sweep"
    space: dict[str, Any] = key(MISSING, "key → list of values, or {low, high, log}; +sweep=cnn has one")
    trials: int | None = key(MISSING, "how many; null: all of a grid")
    workers: int = key(MISSING, "trials at the same time")
    storage: str = key(MISSING, "Optuna's database")
    sampler: dict[str, Any] | None = key(MISSING, "Optuna's")
    pruner: dict[str, Any] | None = key(MISSING, "Optuna's; null: every trial is trained to its end")


@dataclass
class Compare(Fit):
    """Compare finished runs: scores, intervals, differences of their configs."""

    task: str = "compare"
    runs: Any = key(MISSING, "a list of folders, or one glob")
    output: str | None = key("${logs_dir}/compare/${oc.env:LITMUS_STAMP}", "folder of the report")


@dataclass
class Report(Fit):
    """Write the report of the run or study `run=DIR` as one HTML file, to read anywhere."""

    task: str = "report"
    run: str | None = key(MISSING, "folder of the run")
    output: str = key("${run_dir}/report.html", "the file")


TASKS: dict[str, type[Fit]] = {
    schema.task: schema for schema in (Fit, Test, Predict, Serve, Export, Inspect, Audit, Tune, Sweep, Compare, Report)
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
