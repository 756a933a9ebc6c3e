"""folds=5: a stratified k-fold cross-validation, whose folds are separate runs."""

import json
import subprocess
import time
from pathlib import Path
from typing import IO, Any, NamedTuple

from omegaconf import DictConfig

from conf import saved_config
from conf.command_line import PROGRAM
from conf.errors import UserError
from conf.files import lock_inherited, make_output, remove_folder
from conf.text import printable
from lit_modules.runs import run_folder, training_process

# Keys of the study, which are not passed to its runs.
OWN = {"task", "run", "run_dir", "logs_dir", "folds", "repeats", "workers"}
POLL_SECONDS = 0.5


class Running(NamedTuple):
    """A run started by this process."""

    number: int
    log: IO[bytes]
    process: subprocess.Popen[bytes]


class Folds:
    """The runs of a cross-validation, in `cfg.run_dir`.

    Run `repeat * folds + fold` has that fold as its test split, and takes its validation split from the others; each
    repeat has a split seed of its own.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.folder = Path(cfg.run_dir)
        self.total = cfg.folds * cfg.repeats

    def path(self, number: int, suffix: str = "") -> Path:
        """The folder of a run; with a suffix, the file next to it."""
        return self.folder / "folds" / f"{number:03d}{suffix}"

    def name(self, number: int) -> str:
        repeat, fold = divmod(number, self.cfg.folds)
        return f"fold {fold + 1}/{self.cfg.folds}" + (f" of repeat {repeat + 1}" if self.cfg.repeats > 1 else "")

    def summary(self, number: int) -> dict[str, Any]:
        """The summary.json of a finished run."""
        return dict(json.loads((self.path(number) / "summary.json").read_text(encoding="utf-8")))

    def is_finished(self, number: int) -> bool:
        last_file = "report.md" if self.cfg.callbacks.get("predictions") else "summary.json"
        return (self.path(number) / last_file).exists()

    def overrides(self, number: int) -> list[str]:
        """The command line of a run."""
        repeat, fold = divmod(number, self.cfg.folds)
        return [
            *self.cfg.overrides,
            f"++datamodule.folds={self.cfg.folds}",
            f"++datamodule.fold={fold}",
            f"++datamodule.split_seed={self.cfg.datamodule.split_seed + repeat}",
            f"run_dir='{self.path(number)}'",
        ]

    def train(self) -> None:
        """Trains the runs that are not finished, `cfg.workers` at a time; a killed one is resumed.

        Raises:
            UserError: a run failed; finished ones and checkpoints are kept.
        """
        from rich.console import Console  # on demand: each start imports this module
        from rich.progress import Progress

        make_output(self.folder / "folds", "run_dir")
        waiting = [number for number in range(self.total) if not self.is_finished(number)]
        running: list[Running] = []
        console = Console(soft_wrap=True, markup=False, highlight=False)
        begin, done = time.monotonic(), self.epochs_done()
        try:
            with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
                task = bar.add_task("epochs", total=self.total * self.cfg.epochs, completed=done)
                while waiting or running:
                    running += self.start(waiting, self.cfg.workers - len(running))
                    time.sleep(POLL_SECONDS)
                    for run in [run for run in running if self.has_ended(run)]:
                        running.remove(run)
                        seconds = (time.monotonic() - begin) / max(1, self.epochs_done() - done)  # of an epoch
                        left = seconds * (self.total * self.cfg.epochs - self.epochs_done())
                        bar.console.print(self.result(run.number) + (f"  about {left:.0f} s left" if left else ""))
                    bar.update(task, completed=self.epochs_done())
        finally:
            for run in running:
                training_process.stop(run.process)

    def start(self, waiting: list[int], most: int) -> list[Running]:
        """Starts runs, which are removed from `waiting`, unless they outlived their study and are still trained."""
        started: list[Running] = []
        for number in waiting[:]:
            log = lock_inherited(self.path(number, ".log")) if len(started) < most else None
            if log is None:
                continue
            waiting.remove(number)
            if self.is_finished(number):
                log.close()
            else:
                process = training_process.start(self.overrides(number), number, log)
                started.append(Running(number, log, process))
        return started

    def has_ended(self, run: Running) -> bool:
        """Whether a run is finished.

        Raises:
            UserError: it failed.
            SystemExit: it was stopped by a signal.
        """
        code = run.process.poll()
        if code is None:
            return False
        run.log.close()
        if code in training_process.STOPPED:
            raise SystemExit(code)
        if code:
            log = self.path(run.number, ".log")
            line = training_process.last_line(log, code)
            if not self.path(run.number).exists():  # nothing was trained
                remove_folder(log.parent, [log.name])
                raise UserError(line.removeprefix("error: "))
            raise UserError(f"{log}: the run failed ({line}); correct the cause, then {PROGRAM} run={self.folder}")
        return True

    def epochs_done(self) -> int:
        """Trained epochs of all runs; a finished run has all of its own."""
        epochs = self.cfg.epochs
        return sum(
            epochs if self.is_finished(number) else len(run_folder.read_metrics(self.path(number)))
            for number in range(self.total)
        )

    def result(self, number: int) -> str:
        """A finished run in a line."""
        summary = self.summary(number)
        scores = "  ".join(f"{score} {summary[f'test/{score}']:.4f}" for score in ("acc", "f1"))
        return printable(f"{self.name(number)}  test {scores}  best epoch {summary['best_epoch'] + 1}")


def cross_validate(cfg: DictConfig, command_line: list[str]) -> float:
    """Starts a cross-validation, or resumes that of `cfg.run`; returns the mean of the monitored score.

    Args:
        command_line: its overrides.

    Raises:
        UserError: a run failed, or a setting of the runs would change.
    """
    folder = Path(cfg.run_dir)
    base = training_process.without_keys(command_line, OWN)
    if cfg.run:
        changed = [text for text in base if text not in cfg.overrides]
        if changed:
            raise UserError(f"{changed[0]}: cannot change in an existing study; leave it out, or start a new study")
        saved_config.check_unchanged(folder, cfg)
    else:
        cfg.overrides = base
    with run_folder.claim(folder, cfg):
        runs = f"{cfg.folds} folds" + (f" × {cfg.repeats} repeats" if cfg.repeats > 1 else "")
        print(printable(f"{cfg.name}: {runs}, saved in {folder}"))
        print(printable(f"resume: {PROGRAM} run={folder}"), flush=True)
        training_process.exit_on_signals()
        study = Folds(cfg)
        study.train()
        from lit_modules.runs.fold_report import write_fold_report  # imports torch

        numbers = range(study.total)
        return write_fold_report(cfg, [study.path(number) for number in numbers], list(map(study.summary, numbers)))
