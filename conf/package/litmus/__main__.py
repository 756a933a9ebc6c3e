"""The command `litmus`: the same as `python train.py` in a checkout."""

import os
import runpy
import sys

from litmus import ROOT


def main() -> None:
    """Run train.py with the arguments of the command line."""
    os.environ["LITMUS_PROGRAM"] = "litmus"
    sys.path.insert(0, str(ROOT))  # as Python does for a script
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


if __name__ == "__main__":
    main()
