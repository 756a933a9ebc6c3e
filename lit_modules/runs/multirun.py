"""Jobs of a multirun (`-m`): after one that failed the others run, and the end names it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

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


def raise_if_failed() -> None:
    """
    Raises:
        UserError: jobs failed; it names their numbers and overrides.
    """
    if _failed_jobs:
        names = ", ".join(_failed_jobs)
        _failed_jobs.clear()
        raise UserError(f"-m: failed jobs: {names}; correct their values, and start them again")
