"""Images a second and the wait for data are those of a clock that is known."""

import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from lit_modules.callbacks.throughput import Throughput
from lit_modules.classifier import LitClassifier


def test_throughput_excludes_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 3.0, 3.5, 4.0])  # epoch, batch from 1 to 3, batch from 3.5 to 4; then validation
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    module: Any = Mock(spec=LitClassifier, epoch_row={})
    speed, anything, batch = Throughput(), Any, SimpleNamespace(size=8)
    speed.on_train_epoch_start(anything, module)
    for i in range(2):
        speed.on_train_batch_start(anything, module, batch, i)
        speed.on_train_batch_end(anything, module, None, batch, i)
    speed.on_train_epoch_end(anything, module)
    assert module.epoch_row == {"images_per_second": 4.0, "data_wait": 1.5 / 4}
