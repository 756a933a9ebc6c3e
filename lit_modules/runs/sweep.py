"""task=sweep: an Optuna study whose trials are separate runs."""

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
from omegaconf import DictConfig
from optuna.trial import TrialState

from conf import saved_config, validation
from conf.command_line import PROGRAM
from conf.errors import UserError
from conf.files import file_lock, lock_inherited, make_output, write_text
from conf.text import printable
from lit_modules.runs import run_folder, training_process
from lit_modules.runs.launcher import may_be_restarted
from lit_modules.runs.search_space import check_params, distributions_of, experiment, extremes, grid, overrides

# Keys of the study, which are not passed to its trials.
OWN = {"task", "sweep", "run", "run_dir", "logs_dir", "space", "trials", "workers", "storage", "sampler", "pruner"}
POLL_SECONDS = 0.5


class Running(NamedTuple):
    """A trial run by this process."""

    trial: optuna.Trial
    log: IO[bytes]
    process: subprocess.Popen[bytes]
    reported: set[int]
    """epochs whose scores were reported to the study"""


class Study:
    """An Optuna study in `cfg.run_dir`, which several processes may run concurrently.

    Each trial is a training subprocess, so it may use several devices, and running out of memory does not end the
    study. Its log file is locked while the subprocess or its parent is alive; a trial that is unfinished and unlocked
    is resumed by any process. The parameters of a trial depend on (seed, trial number, previous trials).
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.folder = Path(cfg.run_dir)
        self.space = distributions_of(cfg.space)
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
        """Runs trials until all of them are finished, including those of other processes."""
        running: list[Running] = []
        try:
            while True:
                running = [trial for trial in running if not self.advance(trial)]
                while len(running) < self.cfg.workers:
                    claimed = self.claim()
                    if claimed is None:
                        break
                    running.append(self.start(*claimed))
                if not running and not self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                    return
                time.sleep(POLL_SECONDS)
        finally:
            for trial in running:
                training_process.stop(trial.process)

    def claim(self) -> tuple[optuna.Trial, IO[bytes]] | None:
        """An abandoned trial or a new one, with its locked log file; None if there is neither."""
        with file_lock(self.folder / ".lock"):
            trials = self.study.get_trials(deepcopy=False)
            for unfinished in [trial for trial in trials if trial.state == TrialState.RUNNING]:
                if log := lock_inherited(self.path(unfinished.number, ".log")):
                    check_params(unfinished.params, self.space)
                    return optuna.Trial(self.study, unfinished._trial_id), log
            number = len(trials)
            if number >= self.total:
                return None
            if self.cfg.sampler is None:
                self.study.enqueue_trial(self.points[number])
            else:
                entropy = np.random.SeedSequence((self.cfg.seed, number))
                self.study.sampler = instantiate(self.cfg.sampler)(seed=int(entropy.generate_state(1)[0]))
            trial = self.study.ask(self.space)
            check_params(trial.params, self.space)  # a waiting trial of the storage may have any
            log = lock_inherited(self.path(trial.number, ".log"))
            assert log is not None
            return trial, log

    def start(self, trial: optuna.Trial, log: IO[bytes]) -> Running:
        """Starts the training subprocess of a trial, which resumes from its checkpoint if there is one."""
        run_overrides = ["test=false", f"run_dir='{self.path(trial.number)}'"]
        reported = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        command_line = [*self.cfg.overrides, *overrides(trial.params), *run_overrides]
        return Running(trial, log, training_process.start(command_line, trial.number, log), set(reported))

    def advance(self, running: Running) -> bool:
        """Reports newly finished epochs; True when the trial is complete, pruned or failed."""
        trial, log, process, reported = running
        ended = process.poll() is not None
        scores = self.scores(trial.number)
        for epoch in sorted(scores.keys() - reported):
            trial.report(scores[epoch], epoch)
            reported.add(epoch)
            if trial.should_prune():
                training_process.stop(process)
                return self.tell(running, TrialState.PRUNED, f"pruned after epoch {epoch + 1}: {scores[epoch]:.4f}")
        if not ended:
            return False
        if process.returncode in training_process.STOPPED:
            raise SystemExit(process.returncode)
        if process.returncode:
            line = training_process.last_line(Path(log.name), process.returncode)
            return self.tell(running, TrialState.FAIL, f"failed: {line}")
        best = (max if self.cfg.mode == "max" else min)(scores.values())
        return self.tell(running, TrialState.COMPLETE, f"{self.cfg.monitor} {best:.4f}", best)

    def tell(self, running: Running, state: TrialState, line: str, value: float | None = None) -> bool:
        """Records the final state of a trial and prints it; returns True."""
        self.study.tell(running.trial, value, state)
        running.log.close()
        params = " ".join(overrides(running.trial.params))
        print(printable(f"trial {running.trial.number + 1}/{self.total}  {params}  {line}"))
        sys.stdout.flush()
        return True

    def scores(self, number: int) -> dict[int, float]:
        """The monitored score of a trial by epoch."""
        rows = run_folder.read_metrics(self.path(number))
        return {int(row["epoch"]): row[self.cfg.monitor] for row in rows if self.cfg.monitor in row}

    def path(self, number: int, suffix: str = "") -> Path:
        """The folder of a trial; with a suffix, the file next to it."""
        return self.folder / "trials" / f"{number:03d}{suffix}"

    def write_best(self) -> None:
        """Writes experiment/best.yaml and the plots, and prints the best trial."""
        if not self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            raise UserError(f"space: no trial completed; see {self.path(0, '.log')}")
        best = self.study.best_trial
        check_params(best.params, self.space)
        command = f"{PROGRAM} --config-dir {self.folder} +experiment=best"
        header = f"# @package _global_\n# {command}\n# Trial {best.number + 1}: {self.cfg.monitor} {best.value:.4f}\n"
        path = self.folder / "experiment" / "best.yaml"
        write_text(path, header + experiment([*self.cfg.overrides, *overrides(best.params)]))
        draw(self.study, self.folder / "plots")
        params = " ".join(overrides(best.params))
        print(printable(f"best trial {best.number + 1}: {self.cfg.monitor} {best.value:.4f}  {params}"))
        print(f"test it: {PROGRAM} run={self.path(best.number)} task=test\nretrain it: {command}")
        print(f"plots: {self.folder / 'plots'}")


def sweep(cfg: DictConfig, command_line: list[str]) -> None:
    """Starts a study, or resumes or joins the study `cfg.run`."""
    folder = Path(cfg.run_dir)
    base = training_process.without_keys(command_line, OWN)
    if cfg.run:
        changed = [text for text in base if text not in cfg.overrides]
        changed += [text for text in command_line if text.startswith("space")]
        if changed:
            raise UserError(f"{changed[0]}: cannot change in an existing study; leave it out, or start a new study")
    else:
        cfg.overrides = base
        check_space(cfg)
        make_output(folder / "trials", "run_dir")
        with file_lock(folder / ".lock"):  # of two studies that start at the same time, one is the first
            if (folder / "config.yaml").exists() and not may_be_restarted():
                fix = f"resume it with run={folder} or choose another"
                raise UserError(f"run_dir: {folder} already contains a run; {fix}")
            saved_config.write(folder / "config.yaml", cfg)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    training_process.exit_on_signals()
    print(f"{cfg.name}: saved in {folder}\nresume or join: {PROGRAM} run={folder}", flush=True)
    study = Study(cfg)
    study.run()
    with file_lock(study.folder / ".lock"):  # other processes may finish at the same time
        study.write_best()


def check_space(cfg: DictConfig) -> None:
    """Validates the config of a trial for each extreme value of the space.

    Raises:
        UserError: a setting of the study or of a trial is invalid. Errors of Hydra are raised as they are.
    """
    unlimited = cfg.trials is None and cfg.sampler is not None
    if cfg.workers < 1 or unlimited or (cfg.trials is not None and cfg.trials < 1):
        raise UserError("trials, workers: must be at least 1; set them, such as trials=20 workers=1")
    space = distributions_of(cfg.space)
    if cfg.sampler is None:
        grid(space)
    for key, distribution in space.items():
        for value in extremes(distribution):
            validation.check(compose("train", [*cfg.overrides, *overrides({key: value})]))


def draw(study: optuna.Study, folder: Path) -> None:
    """Saves Optuna's plots as PNG files; those by parameter need two different scores."""
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
        warnings.simplefilter("ignore")  # Optuna's warnings about experimental plots
        for name in names:
            getattr(figures, f"plot_{name}")(study)
            pyplot.gcf().savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            pyplot.close("all")
