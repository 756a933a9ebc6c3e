"""task=sweep: an Optuna study whose trials are runs of their own, and the best of them as an experiment."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import optuna
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState

from conf import validation
from conf.errors import UserError
from conf.files import file_lock, lock_inherited, make_output, write_text
from lit_modules.runs import run_folder
from lit_modules.runs.launcher import may_be_restarted
from lit_modules.runs.search_space import choices, ends, experiment, grid, overrides

# Of the command line: what is the study's own, and not its trials'.
OWN = {"task", "sweep", "run", "run_dir", "logs_dir", "space", "trials", "workers", "storage", "sampler", "pruner"}
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
SECONDS = 0.5  # between two looks at the trials


class Running(NamedTuple):
    """A trial that this process looks after."""

    trial: optuna.Trial
    log: IO[bytes]
    process: subprocess.Popen[bytes]
    reported: set[int]
    """Epochs that the study knows of"""


class Study:
    """The trials of `cfg.run_dir`, which any number of processes may run together.

    A trial is the command of one run, so that it may use several devices, or run out of memory, as it likes. Its log is
    locked while the run or the process that looks after it lives; a trial that is neither finished nor locked is gone
    on with by whoever finds it. What is tried next is drawn from (seed, number of the trial, trials so far).
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.folder = Path(cfg.run_dir)
        self.space = choices(cfg.space)
        self.total = cfg.trials
        if cfg.sampler is None:
            self.points = grid(self.space)
            self.total = min(len(self.points), cfg.trials or len(self.points))
        with file_lock(self.folder / ".lock"):
            self.study = optuna.create_study(
                storage=cfg.storage,
                study_name=f"{cfg.name}/{self.folder.resolve().name}",
                direction="maximize" if cfg.mode == "max" else "minimize",
                pruner=instantiate(cfg.pruner) or optuna.pruners.NopPruner(),
                load_if_exists=True,
            )

    def run(self) -> None:
        """Runs trials until all are finished, those of other processes too."""
        running: list[Running] = []
        try:
            while True:
                running = [each for each in running if not self.advance(each)]
                while len(running) < self.cfg.workers and (claimed := self.claim()):
                    running.append(self.start(*claimed))
                if not running and not self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                    return
                time.sleep(SECONDS)
        finally:
            for each in running:
                stop(each.process)

    def claim(self) -> tuple[optuna.Trial, IO[bytes]] | None:
        """A trial that nobody looks after, or a new one, with its log; None if there is neither."""
        with file_lock(self.folder / ".lock"):
            trials = self.study.get_trials(deepcopy=False)
            for found in trials:
                if found.state == TrialState.RUNNING and (log := lock_inherited(self.path(found.number, ".log"))):
                    return optuna.Trial(self.study, found._trial_id), log
            number = len(trials)
            if number >= self.total:
                return None
            if self.cfg.sampler is None:
                self.study.enqueue_trial(self.points[number])
            else:
                entropy = np.random.SeedSequence((self.cfg.seed, number))
                self.study.sampler = instantiate(self.cfg.sampler)(seed=int(entropy.generate_state(1)[0]))
            trial = self.study.ask(self.space)
            log = lock_inherited(self.path(trial.number, ".log"))
            assert log is not None
            return trial, log

    def start(self, trial: optuna.Trial, log: IO[bytes]) -> Running:
        """The run of a trial; one that was begun before goes on."""
        own = ["task=fit", "test=false", f"run_dir='{self.path(trial.number)}'"]
        command = [sys.executable, sys.argv[0], *self.cfg.overrides, *overrides(trial.params), *own]
        environment = os.environ | {"LITMUS_TRIAL": str(trial.number)}
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        return Running(trial, log, subprocess.Popen(command, env=environment, stdout=log, stderr=log), set(known))

    def advance(self, running: Running) -> bool:
        """Reports the epochs that a trial has finished since. Whether it is over: done, hopeless, or failed."""
        trial, log, process, reported = running
        ended = process.poll() is not None
        scores = self.scores(trial.number)
        for epoch in sorted(scores.keys() - reported):
            trial.report(scores[epoch], epoch)
            reported.add(epoch)
            if trial.should_prune():
                stop(process)
                return self.tell(running, TrialState.PRUNED, f"given up after epoch {epoch + 1}: {scores[epoch]:.4f}")
        if not ended:
            return False
        if process.returncode in STOPPED:
            raise SystemExit(process.returncode)
        if process.returncode:
            lines = Path(log.name).read_text(encoding="utf-8", errors="replace").splitlines()
            return self.tell(running, TrialState.FAIL, f"failed: {lines[-1] if lines else process.returncode}")
        best = (max if self.cfg.mode == "max" else min)(scores.values())
        return self.tell(running, TrialState.COMPLETE, f"{self.cfg.monitor} {best:.4f}", best)

    def tell(self, running: Running, state: TrialState, line: str, value: float | None = None) -> bool:
        """Ends a trial: True."""
        self.study.tell(running.trial, value, state)
        running.log.close()
        print(f"trial {running.trial.number + 1}/{self.total}  {' '.join(overrides(running.trial.params))}  {line}")
        sys.stdout.flush()
        return True

    def scores(self, number: int) -> dict[int, float]:
        """The monitored score of each epoch of a trial so far."""
        rows = run_folder.read_metrics(self.path(number))
        return {int(row["epoch"]): row[self.cfg.monitor] for row in rows if self.cfg.monitor in row}

    def path(self, number: int, suffix: str = "") -> Path:
        """A trial's folder, or a file beside it."""
        return self.folder / "trials" / f"{number:03d}{suffix}"

    def write_best(self) -> None:
        """Writes experiment/best.yaml, draws the study, and says where things lie."""
        if not self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            raise UserError(f"space: no trial was completed; see {self.path(0, '.log')}")
        best = self.study.best_trial
        command = f"python train.py --config-dir {self.folder} +experiment=best"
        header = f"# @package _global_\n# {command}\n# Trial {best.number + 1}: {self.cfg.monitor} {best.value:.4f}\n"
        path = self.folder / "experiment" / "best.yaml"
        write_text(path, header + experiment([*self.cfg.overrides, *overrides(best.params)]))
        draw(self.study, self.folder / "plots")
        print(f"best, trial {best.number + 1}: {self.cfg.monitor} {best.value:.4f}  {' '.join(overrides(best.params))}")
        print(f"its test scores: python train.py run={self.path(best.number)} task=test\nagain: {command}")
        print(f"plots: {self.folder / 'plots'}")


def sweep(cfg: DictConfig, command_line: list[str]) -> None:
    """Runs the trials of a new study, or goes on with the study `cfg.run`, beside others that do."""
    folder = Path(cfg.run_dir)
    base = [text for text in command_line if text.lstrip("+~").split("=")[0].split(".")[0] not in OWN]
    if cfg.run:
        for text in [*base, *(text for text in command_line if text.startswith("space"))]:
            raise UserError(f"{text}: a study keeps what it began with; leave it out, or start a new one without run=…")
        for text in cfg.overrides:  # which become a command line, whose flags and Hydra's section could run code
            key = text.partition("=")[0].strip("+~ ")
            if key.startswith("-") or "hydra" in key or key in ("run", "task"):
                raise UserError(
                    f"{folder / 'config.yaml'}: overrides hold {text}, which no study saves; take a copy of it"
                )
    else:
        cfg.overrides = base
        check_space(cfg)
        saved = OmegaConf.to_yaml(cfg)
        if (folder / "config.yaml").exists() and not may_be_restarted():
            raise UserError(f"run_dir: {folder} holds a run already; go on with it by run={folder} or choose another")
        make_output(folder / "trials", "run_dir")
        write_text(folder / "config.yaml", saved)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    print(f"{cfg.name} → {folder}\ngo on, or help, by: python train.py run={folder}", flush=True)
    study = Study(cfg)
    study.run()
    with file_lock(study.folder / ".lock"):  # others may be done at the same time
        study.write_best()


def check_space(cfg: DictConfig) -> None:
    """Raises UserError or Hydra's errors if a run with any one value of the space would."""
    endless = cfg.trials is None and cfg.sampler is not None
    if cfg.workers < 1 or endless or (cfg.trials is not None and cfg.trials < 1):
        raise UserError("trials, workers: must be 1 or more; give them, as in trials=20 workers=1")
    space = choices(cfg.space)
    if cfg.sampler is None:
        grid(space)
    for key, choice in space.items():
        for value in ends(choice):
            validation.check(compose("train", [*cfg.overrides, *overrides({key: value})]))


def stop(process: subprocess.Popen[bytes]) -> None:
    """Lets a run save and end; kills one that does not."""
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def draw(study: optuna.Study, folder: Path) -> None:
    """Optuna's own figures of a study, as PNG files; those of single keys need two different trials."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as figures

    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = ["optimization_history", "timeline", "intermediate_values"]
    if len({trial.value for trial in completed}) > 1:
        names += ["parallel_coordinate", "slice", "param_importances"]
    folder.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's of its figures, which it calls experimental
        for name in names:
            getattr(figures, f"plot_{name}")(study)
            pyplot.gcf().savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            pyplot.close("all")
