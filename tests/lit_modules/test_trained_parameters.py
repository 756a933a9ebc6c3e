"""Frozen parameters and parameter groups in a fit."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from tests.fits import SHORT, build, copy_of


def test_only_unfrozen_weights_change() -> None:
    datamodule, module, trainer = build("lit_module.freeze=[blocks.0.*,head.0.bias]")
    before = copy_of(module.net)
    trainer.fit(module, datamodule)
    parameters = dict(module.net.named_parameters())
    frozen = {name for name in parameters if name.startswith("blocks.0.") or name == "head.0.bias"}
    assert {name for name in parameters if torch.equal(before[name], parameters[name])} == frozen
    optimized = {parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
    assert optimized == {parameter for name, parameter in parameters.items() if name not in frozen}


def test_frozen_weights_are_counted(run: Callable[..., Path]) -> None:
    summary = json.loads((run(*SHORT, "lit_module.freeze=[blocks.*]") / "summary.json").read_text())
    # conv 1·4·9 + norm 2·4 + conv 4·8·9 + norm 2·8 frozen; the head's 8·2·2·10 + 10 are not
    assert (summary["params/total"], summary["params/trainable"]) == (678, 330)
    assert summary["params/shape/head.0.weight"] == [10, 32]


def test_parameter_groups_are_passed_to_the_optimizer() -> None:
    no_decay = "+lit_module.param_groups.no_decay={pattern:['*.bias','*norm*'],weight_decay:0.0}"
    still = "+lit_module.param_groups.still={pattern:head.*,lr:0.0}"
    datamodule, module, trainer = build(
        no_decay, still, "lit_module/scheduler=constant", "lit_module.optimizer.lr=0.01"
    )
    before = copy_of(module.net)
    trainer.fit(module, datamodule)
    settings = {
        name: (group["lr"], group["weight_decay"])
        for group in trainer.optimizers[0].param_groups
        for name, parameter in module.net.named_parameters()
        if any(parameter is other for other in group["params"])
    }
    assert settings == {
        name: (0.0, 0.01) if name == "head.0.weight" else (0.01, 0.0 if "norm" in name or "bias" in name else 0.01)
        for name, _ in module.net.named_parameters()
    }
    moved = {name for name, parameter in module.net.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == settings.keys() - {"head.0.weight"}
