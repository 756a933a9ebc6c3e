"""Startup: time to the first step and to `--cfg job`, against importing torch and Lightning.

python -m tests.benchmarks.startup
"""

import argparse
import tempfile

from tests.benchmarks.measuring import in_turn, report, watch
from tests.configs import UNDRAWN

IMPORTS = "import torch, pytorch_lightning; print('imported', flush=True)"


def first_step(_: int) -> dict[str, float]:
    """Seconds to the end of an epoch of one small batch, on data that is installed, without plots."""
    with tempfile.TemporaryDirectory() as logs:
        choices = ["trainer=debug", f"logs_dir={logs}", *UNDRAWN]
        return {"seconds": watch(["train.py", "+experiment=digits", *choices], "epoch 1/1").marks[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    sides = {
        "import torch and Lightning": lambda _: {"seconds": watch(["-c", IMPORTS], "imported").marks[0]},
        "the first step": first_step,
        "--cfg job": lambda _: {"seconds": watch(["train.py", "+experiment=digits", "--cfg", "job"], "task").seconds},
    }
    report("startup", in_turn(sides, rounds))


if __name__ == "__main__":
    main()
