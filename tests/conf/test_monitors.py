"""Only what chooses well may be monitored: scores of training and validation, in their direction."""

import pytest

from conf import validation
from conf.errors import UserError
from tests.configs import configure

SPECIFICITY = "+lit_module.metrics.x={_target_:torchmetrics.classification.MulticlassSpecificity,_partial_:true}"
STOPPING = "callbacks=[default,early_stopping]"


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        validation.check(configure(*overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["monitor=val/mcc"], "monitor: val/mcc: there is no such score; add it by lit_module/metrics=[mcc]"),
        (
            ["monitor=val/mcc", "lit_module/metrics=[ece]"],
            "monitor: val/mcc: there is no such score; add it by lit_module/metrics=[ece,mcc]",
        ),
        (
            ["monitor=train/mcc", "lit_module/metrics=[mcc]"],
            "monitor: train/mcc: metrics are computed on the validation and test splits only; choose val/mcc",
        ),
        (["monitor=val/mccc", "lit_module/metrics=[mcc]"], "monitor: val/mccc: there is no such score; did you mean"),
        (["monitor=test/mcc", "lit_module/metrics=[mcc]"], "monitor: test/mcc: the test split chooses nothing; "),
        (["monitor=val/ece", "lit_module/metrics=[ece]"], "mode: the best val/ece is the minimum; set mode=min"),
        (["monitor=val/mcc", "lit_module/metrics=[mcc]", "mode=min"], "mode: the best val/mcc is the maximum; set"),
        (["monitor=val/x", SPECIFICITY, "mode=best"], "mode: the best val/x is the maximum or minimum; set mode=max"),
        (["monitor=val/mcc", "lit_module/metrics=[mcc]", "trainer.limit_val_batches=0"], "monitor: val/mcc needs val"),
        (
            [STOPPING, "callbacks.early_stopping.monitor=val/ece", "lit_module/metrics=[ece]"],
            "callbacks.early_stopping.mode: the best val/ece is the minimum; set callbacks.early_stopping.mode=min",
        ),
        (
            [STOPPING, "callbacks.early_stopping.monitor=val/ece"],
            "callbacks.early_stopping.monitor: val/ece: there is no such score; add it by lit_module/metrics=[ece]",
        ),
        (
            ["lit_module/scheduler=plateau", "lit_module.monitor=val/ece", "lit_module/metrics=[ece]"],
            "lit_module.scheduler.mode: the best val/ece is the minimum; set lit_module.scheduler.mode=min",
        ),
        (["lit_module/scheduler=plateau", "lit_module.monitor=val/ece"], "lit_module.monitor: val/ece: there is no"),
        (["lit_module.metrics.top5.top_k=3"], "lit_module.metrics.top5: is not chosen; add it by lit_module/metrics="),
    ],
)
def test_monitor_that_cannot_choose_is_refused(overrides: list[str], line: str) -> None:
    assert refusal(*overrides).startswith(line)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_metric_of_no_direction_may_have_either(mode: str) -> None:
    validation.check(configure("monitor=val/x", SPECIFICITY, f"mode={mode}"))


def test_metric_may_be_monitored_in_its_direction() -> None:
    chosen = ("lit_module/metrics=[mcc,ece]", STOPPING, "callbacks.early_stopping.monitor=val/mcc")
    validation.check(configure("monitor=val/ece", "mode=min", *chosen, "callbacks.early_stopping.mode=max"))
