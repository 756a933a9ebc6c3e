"""A parameter out of its range is rejected before data is read."""

import pytest

from conf import validation
from conf.errors import UserError
from tests.conftest import configure

RESNET = "lit_module/net=resnet"
ADAM_TO_SGD = "callbacks=[default,adam_to_sgd]"
PROJECTOR = "callbacks=[default,projector]"


@pytest.mark.parametrize(
    ("choice", "key", "value", "problem"),
    [
        ("", "lit_module.layer_decay", "0.0", "must be above 0 and at most 1"),
        ("", "lit_module.layer_decay", "1.5", "must be above 0 and at most 1"),
        ("", "lit_module.unfreeze_epoch", "0", "must be at least 1"),
        ("", "lit_module.net.dropout", "1.0", "must be at least 0 and below 1"),
        ("", "lit_module.net.dropout", "-0.1", "must be at least 0 and below 1"),
        ("", "lit_module.net.head_dropout", "1.0", "must be at least 0 and below 1"),
        ("lit_module/scheduler=warmup_cosine", "lit_module.scheduler.warmup", "1.0", "must be at least 0 and below 1"),
        ("lit_module/scheduler=warmup_cosine", "lit_module.scheduler.warmup", "-0.1", "must be at least 0 and below 1"),
        (RESNET, "lit_module.net.blocks", "0", "must be at least 1"),
        (RESNET, "lit_module.net.repeats", "0", "must be at least 1"),
        ("", "callbacks.dashboard.every_n_epochs", "0", "must be at least 1"),
        ("", "callbacks.dashboard.max_overhead", "0.0", "must be above 0 and at most 1"),
        ("", "callbacks.predictions.every_n_epochs", "0", "must be at least 1"),
        ("", "callbacks.predictions.max_overhead", "1.5", "must be above 0 and at most 1"),
        (ADAM_TO_SGD, "callbacks.adam_to_sgd.window", "2", "must be at least 3"),
        (ADAM_TO_SGD, "callbacks.adam_to_sgd.min_jump", "0.0", "must be above 0 and below 1"),
        (ADAM_TO_SGD, "callbacks.adam_to_sgd.min_jump", "1.0", "must be above 0 and below 1"),
        (ADAM_TO_SGD, "callbacks.adam_to_sgd.lr_scale", "0.0", "must be above 0"),
        (ADAM_TO_SGD, "callbacks.adam_to_sgd.momentum", "1.0", "must be at least 0 and below 1"),
        (ADAM_TO_SGD, "callbacks.adam_to_sgd.weight_decay", "-1.0", "must be at least 0"),
        ("datamodule=series", "datamodule.noise", "-1.0", "must be at least 0"),
        (PROJECTOR, "callbacks.projector.samples", "0", "must be at least 1"),
    ],
)
def test_out_of_range_parameter_is_rejected(choice: str, key: str, value: str, problem: str) -> None:
    overrides = [choice] if choice else []
    with pytest.raises(UserError, match=rf"^{key}: {problem}, not {value}; "):
        validation.check(configure(*overrides, f"{key}={value}"))
