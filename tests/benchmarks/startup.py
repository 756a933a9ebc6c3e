"""From Enter to an answer, and to the first step, against the imports that no Lightning program can do without.

python -m tests.benchmarks.startup
"""

import argparse
import tempfile

from tests.benchmarks.measuring import UNDRAWN, in_turn, report, watch

IMPORTS = "import torch, pytorch_lightning; print('there', flush=True)"


def first_step(_: int) -> dict[str, float]:
    """Until the line of an epoch of one small batch, of the run that needs no data of the user's and draws nothing."""
    with tempfile.TemporaryDirectory() as logs:
        choices = ["trainer=debug", f"logs_dir={logs}", *UNDRAWN]
        return {"seconds": watch(["train.py", "+experiment=digits", *choices], "epoch 1/1").marks[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    sides = {
        "import torch and Lightning": lambda _: {"seconds": watch(["-c", IMPORTS], "there").marks[0]},
        "the first step": first_step,
        "--cfg job": lambda _: {"seconds": watch(["train.py", "+experiment=digits", "--cfg", "job"], "task").seconds},
    }
    report("startup", in_turn(sides, rounds))


if __name__ == "__main__":
    main()
