"""Real starts of one batch with one odd setting: trained, or refused in one line; nothing else on the disk changes."""

import random
import shlex
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig

from tests.conftest import TINY, Command, configure

BASE = ("+experiment=digits", *TINY, "trainer=debug")
VALUES = (
    "0",
    "1",
    "2",
    "3",
    "7",
    "-1",
    "0.5",
    "0.999",
    "1e-30",
    "1e30",
    "true",
    "false",
    "null",
    "x",
    "[1]",
    "[2,3]",
    "{}",
)
# Keys by which a start would take minutes, or choose another folder; they have tests of their own.
LONG = ("epochs", "limit_", "batches", "num_workers", "devices", "num_nodes", "_dir", "dirpath", "file", "run", "task")


def keys_of(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, cfg):
        child = cfg._get_node(key)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing()):
            yield from keys_of(child, f"{prefix}{key}.")
        elif not any(word in key for word in LONG):
            yield prefix + key


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if "cache" not in path.parts}


def findings_of(seed: int, count: int, folder: Path, command: Command) -> list[str]:
    """The commands, of `count` random ones, that end otherwise than they should."""
    rng, keys = random.Random(seed), sorted(keys_of(configure(*BASE)))
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "thesis.tex").write_text("years of work")
    findings = []
    for number in range(count):
        words = [f"{key}={rng.choice(VALUES)}" for key in rng.sample(keys, rng.choice((1, 1, 2)))]
        arguments = [*BASE, f"run_dir=runs/{number}", f"logs_dir={folder / 'logs'}", *words]
        before = files(folder / "mine")
        try:
            result = command(*arguments, cwd=folder, LITMUS_CACHE=str(folder / "cache"))
        except Exception as error:
            findings.append(f"{shlex.join(words)}\n{''.join(traceback.format_exception(error))}")
            continue
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        refused = result.returncode == 2 and len(lines) == 1
        is_left = (
            refused and (folder / "runs" / str(number)).exists() and not any(folder.glob(f"runs/{number}/**/*.ckpt"))
        )
        if not (refused or result.returncode == 0) or "Traceback" in result.stderr or is_left:
            findings.append(f"{shlex.join(words)}: {result.returncode}, folder left: {is_left}\n{result.stderr}")
        new = {path.name for path in folder.iterdir()} - {"mine", "runs", "logs", "cache"}
        if new or files(folder / "mine") != before:
            findings.append(f"{shlex.join(words)}: changed {new or 'mine'}")
    return findings


def test_few_random_starts_are_trained_or_refused(tmp_path: Path, command: Command) -> None:
    findings = findings_of(0, 4, tmp_path, command)
    assert not findings, "\n".join(findings)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_random_starts_are_trained_or_refused(tmp_path: Path, command: Command, seed: int) -> None:
    findings = findings_of(seed, 40, tmp_path, command)
    assert not findings, "\n".join(findings)
