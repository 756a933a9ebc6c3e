"""Run id and restart detection under torchrun, SLURM and Optuna."""

import os
import time

from conf.errors import UserError

# Environment variables of launchers that may restart a process of the same run.
RESTARTERS = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "LITMUS_TRIAL")


def stamp() -> str:
    """Folder name of a new run: the job id under torchrun or srun, otherwise the current time.

    The ranks of a job must agree on the name, and a restarted job must find its folder.

    Raises:
        UserError: torchrun has no --rdzv-id.
    """
    job_id = os.environ.get("TORCHELASTIC_RUN_ID")
    if job_id == "none":
        raise UserError("torchrun: a run needs an id to be found after a restart; add --rdzv-id=NAME")
    if job_id is None and "SLURM_STEP_ID" in os.environ:
        job_id = f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    return job_id or time.strftime("%Y-%m-%d_%H-%M-%S")


def may_be_restarted() -> bool:
    """True if a launcher may have restarted this process."""
    return any(name in os.environ for name in RESTARTERS)
