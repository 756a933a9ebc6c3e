"""Jobs of a multirun (`-m`): after one that failed the others run, and the end names it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from conf.errors import UserError

FAILED = (2, 3)  # exit codes; others stop the multirun
_failed_jobs: list[str] = []


@contextmanager
def next_job_runs() -> Iterator[None]:
    """Record a job that failed, instead of leaving Hydra's loop over the jobs by its SystemExit.

    Those of a cluster's launcher are processes of their own, which need their exit code.
    """
    job = HydraConfig.get()
    try:
        yield
    except SystemExit as error:
        in_loop = job.mode == RunMode.MULTIRUN and job.runtime.choices["hydra/launcher"] == "basic"
        if not in_loop or error.code not in FAILED:
            raise
        swept = [override for override in job.overrides.task if override not in sys.argv]
        _failed_jobs.append(f"{job.job.num} ({' '.join(swept)})")


def check_task(task: str) -> None:
    """Raises UserError in a multirun of a task that makes no runs."""
    if HydraConfig.get().mode == RunMode.MULTIRUN and task in ("compare", "report"):
        raise UserError(f"-m: task={task} makes no runs; leave it out")


def use_own_folder(cfg: DictConfig) -> None:
    """Gives each job of a multirun a folder of its number."""
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        cfg.run_dir = str(Path(cfg.run_dir) / str(job.job.num))


def raise_if_failed() -> None:
    """
    Raises:
        UserError: jobs failed; it names their numbers and overrides.
    """
    if _failed_jobs:
        names = ", ".join(_failed_jobs)
        _failed_jobs.clear()
        raise UserError(f"-m: failed jobs: {names}; correct their values, and start them again")


def check_devices(world_size: int) -> None:
    """Raises UserError if Lightning would start the whole multirun again on each rank."""
    in_multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if in_multirun and world_size > 1:
        raise UserError("devices: a multirun uses one device per run; use devices=gpu, or start the runs one by one")
