"""Benchmarks: alternate sides, time processes, print a table and one JSON line."""

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

from omegaconf import DictConfig

from conf import schema, validation
from tests import configs
from tests.configs import ROOT

# The notes' network on an image folder, whose steps take milliseconds.
BOOK = (
    "+experiment=book/baseline",
    "trainer=fast",
    "datamodule=image_folder",
    "~datamodule.dataset",
    "datamodule.classes=null",
)
PACKAGES = ("torch", "torchvision", "pytorch-lightning")

# One measurement: figure → value. All of them: side → figure → one value a round.
Figures = Mapping[str, float]
Measured = dict[str, dict[str, list[float]]]


def in_turn(sides: Mapping[str, Callable[[int], Figures]], rounds: int) -> Measured:
    """Call every side once a round with the round's number, and collect its figures by name.

    Each round starts with another side, so that other work on the machine affects all of them.
    """
    measured: Measured = {side: {} for side in sides}
    names = list(sides)
    for number in range(rounds):
        turn = number % len(names)
        for side in names[turn:] + names[:turn]:
            print(f"round {number + 1}/{rounds}: {side}", file=sys.stderr, flush=True)
            for figure, value in sides[side](number).items():
                measured[side].setdefault(figure, []).append(value)
    return measured


def report(benchmark: str, measured: Measured, **metadata: object) -> None:
    """Print a table, then one line of JSON with all values, the hardware and the versions.

    The table has for each figure and side: median, lowest, highest, and the median over rounds of the ratio to the
    first side.
    """
    first, *_ = measured
    print(f"{'':48}{'median':>10}{'lowest':>10}{'highest':>10}{'× first':>10}{'n':>6}")
    for figure in measured[first]:
        for side, figures in measured.items():
            if figure in figures:
                values = figures[figure]
                spread = [statistics.median(values), min(values), max(values), multiple(measured, side, figure)]
                print(f"{f'{figure}: {side}':48}{''.join(f'{value:10.4g}' for value in spread)}{len(values):6}")
    hardware = {"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    versions = {package: version(package) for package in PACKAGES}
    print(json.dumps({"benchmark": benchmark, **metadata, **hardware, **versions, "measured": measured}))


def multiple(measured: Measured, side: str, figure: str) -> float:
    """Median over rounds of the ratio of a side's figure to that of the first side."""
    first, *_ = measured
    pairs = zip(measured[side][figure], measured[first][figure], strict=True)
    return statistics.median(value / base for value, base in pairs)


class Watched(NamedTuple):
    """Times and output of a finished process."""

    seconds: float
    """Wall clock from start to end"""
    cpu_seconds: float
    """CPU time of the process and its children; less sensitive to other work than wall clock"""
    marks: list[float]
    """Seconds from the start to each line that begins with the mark"""
    lines: list[str]
    """Its output"""


def watch(command: list[str], mark: str, cwd: Path = ROOT) -> Watched:
    """Run a Python command and time its lines; RuntimeError with its output if it fails."""
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
    """A folder of links to some classes; one half of `images/test` becomes the validation split."""
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
    cfg = configs.configure(*overrides)
    validation.check(cfg)
    return cfg


def _cpu_seconds() -> float:
    """CPU time of finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
