"""What torchrun, SLURM and a study tell the processes of a run: its name, and that they may not be the first."""

import os
import time

from conf.errors import UserError

# By any of these a process knows that it may have been started again, for the same run.
RESTARTERS = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "LITMUS_TRIAL")


def stamp() -> str:
    """What a new run's folder is called: the time, or the job's name where torchrun or srun starts the processes. Those
    have no parent that could hand them one time, and a job that is started again must find its folder.

    Raises:
        UserError: the job has no name.
    """
    job = os.environ.get("TORCHELASTIC_RUN_ID")
    if job == "none":
        raise UserError("torchrun: the run needs a name, by which it is found after a restart; add --rdzv-id=NAME")
    if job is None and "SLURM_STEP_ID" in os.environ:
        job = f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    return job or time.strftime("%Y-%m-%d_%H-%M-%S")


def may_be_restarted() -> bool:
    """Whether this process may be the second of its run, without anybody having written run=…"""
    return any(name in os.environ for name in RESTARTERS)
