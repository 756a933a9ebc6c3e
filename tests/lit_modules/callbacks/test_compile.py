"""A compiled network learns what it would learn otherwise, and its checkpoints are the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY


@pytest.mark.slow  # compiles for a minute
@pytest.mark.filterwarnings("default")  # of torch's own compiler
def test_compiled_run_is_close_to_eager_and_resumes_eagerly(run: Callable[..., Path], tmp_path: Path) -> None:
    plain = run(*TINY, f"run_dir={tmp_path / 'plain'}")
    compiled = run(*TINY, "callbacks=[default,compile]", f"run_dir={tmp_path / 'compiled'}")
    ours, theirs = (torch.load(folder / "model.pt", weights_only=True) for folder in (compiled, plain))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.allclose(ours[name].double(), value.double(), atol=1e-3), name
    run(f"run={compiled}", "task=test", "callbacks.compile=null")
