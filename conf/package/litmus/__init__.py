"""Litmus as one package: finished runs in Python, and the command `litmus`.

    from litmus import load_run

    run = load_run("logs/digits/2026-01-31_12-00-00")
    run.predict("image.png")  # {'0': 0.01, '1': 0.97, …}

A wheel holds in this folder what a checkout has at its top level: conf, datamodules, lit_modules and train.py.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE if (HERE / "train.py").exists() else HERE.parents[2]
"""The folder of train.py"""

if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))
for name in ("conf", "datamodules", "lit_modules"):
    spec = find_spec(name)
    if spec is None or not Path(spec.origin or "").is_relative_to(ROOT):
        other = spec and spec.submodule_search_locations
        raise ImportError(f"litmus: another package is called {name}: {other}; rename it")

from conf.errors import UserError  # noqa: E402  # needs the path
from litmus.run import Run, load_run  # noqa: E402

__all__ = ["Run", "UserError", "load_run"]
