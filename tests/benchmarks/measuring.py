"""What the benchmarks share: sides measured in turn, processes with a stopwatch beside them, a table, one JSON line."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from conf import schema, validation

ROOT = Path(__file__).parents[2]
# The notes' network, on the images of a folder.
BOOK = (
    "+experiment=book/baseline",
    "datamodule=image_folder",
    "~datamodule.dataset",
    "datamodule.classes=null",
)
UNDRAWN = ("++callbacks.predictions=null", "++callbacks.dashboard=null")
PACKAGES = ("torch", "torchvision", "pytorch-lightning")

# Of one measurement: figure → value. Of all: side → figure → its value in each round.
Figures = Mapping[str, float]
Measured = dict[str, dict[str, list[float]]]


def in_turn(sides: Mapping[str, Callable[[int], Figures]], rounds: int) -> Measured:
    """Calls every side once a round with the round's number, each round beginning with another side, so that whatever
    else slows the machine meets all of them. A side returns its figures by name."""
    measured: Measured = {side: {} for side in sides}
    names = list(sides)
    for number in range(rounds):
        turn = number % len(names)
        for side in names[turn:] + names[:turn]:
            print(f"round {number + 1}/{rounds}: {side}", file=sys.stderr, flush=True)
            for figure, value in sides[side](number).items():
                measured[side].setdefault(figure, []).append(value)
    return measured


def report(benchmark: str, measured: Measured, **facts: object) -> None:
    """Prints a table: for each figure and side the median, the lowest and highest, and the median over rounds of its
    multiple of the first side's. Then the same, with all values, the hardware and versions, as one line of JSON."""
    first, *_ = measured
    print(f"{'':36}{'median':>10}{'lowest':>10}{'highest':>10}{'× first':>10}{'n':>6}")
    for figure in measured[first]:
        for side, figures in measured.items():
            if figure in figures:
                values = figures[figure]
                spread = [statistics.median(values), min(values), max(values), multiple(measured, side, figure)]
                print(f"{f'{figure}: {side}':36}{''.join(f'{value:10.4g}' for value in spread)}{len(values):6}")
    hardware = {"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    versions = {package: version(package) for package in PACKAGES}
    print(json.dumps({"benchmark": benchmark, **facts, **hardware, **versions, "measured": measured}))


def multiple(measured: Measured, side: str, figure: str) -> float:
    """The median over rounds of a side's figure divided by that of the first side."""
    first, *_ = measured
    pairs = zip(measured[side][figure], measured[first][figure], strict=True)
    return statistics.median(ours / base for ours, base in pairs)


class Watched(NamedTuple):
    """A process that has ended."""

    seconds: float
    """From its start to its end"""
    cpu_seconds: float
    """Of all cores, in it and its own processes: what other work on the machine changes less"""
    marks: list[float]
    """When each line came that began with the mark, in seconds from its start"""
    lines: list[str]
    """All that it printed"""


def watch(command: list[str], mark: str, cwd: Path = ROOT) -> Watched:
    """Runs a Python command, notes when its lines come, and raises RuntimeError with what it said if it fails."""
    began, used = time.perf_counter(), _cpu_seconds()
    marks, lines = [], []
    clean = {key: value for key, value in os.environ.items() if key != "LITMUS_STAMP"}
    with subprocess.Popen(
        [sys.executable, *command], cwd=cwd, env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(mark):
                marks.append(time.perf_counter() - began)
            lines.append(line.rstrip())
    if process.returncode:
        raise RuntimeError("\n".join(lines))
    return Watched(time.perf_counter() - began, _cpu_seconds() - used, marks, lines)


@contextmanager
def chosen_classes(images: Path, classes: list[str]) -> Iterator[Path]:
    """A folder with some classes of `images/train` and `images/test` alone; one half of the latter validates."""
    with TemporaryDirectory() as made:
        folder = Path(made)
        for name in classes:
            (folder / "train").mkdir(exist_ok=True)
            (folder / "train" / name).symlink_to((images / "train" / name).resolve())
            for split, start in (("val", 0), ("test", 1)):
                (folder / split / name).mkdir(parents=True)
                for file in sorted((images / "test" / name).iterdir())[start::2]:
                    (folder / split / name / file.name).symlink_to(file.resolve())
        yield folder


def configure(*overrides: str) -> DictConfig:
    """The checked config of a command line."""
    os.environ.setdefault("LITMUS_STAMP", "benchmark")
    schema.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", list(overrides))
    validation.check(cfg)
    return cfg


def _cpu_seconds() -> float:
    """Of processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
