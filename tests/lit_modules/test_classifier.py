"""LitClassifier: normalization, predictions, precision, checkpoints of other data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conf.errors import UserError
from datamodules.loader import Batch
from lit_modules.networks.normalize import Normalize
from tests.conftest import write_images
from tests.fits import build, classifier


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, r"lit_module\.class_weights: 2 weights for 3 classes; give one for each"),
        ({"class_weights": "auto", "loss": nn.MSELoss}, r"lit_module\.loss: .*lit_module\.class_weights=null"),
        ({"freeze": ["*"]}, r"lit_module\.freeze: leaves nothing to train"),
        ({"freeze": ["nothing"]}, r"lit_module\.freeze: 'nothing' matches no parameter"),
        ({"optimizer": lambda groups: torch.optim.SGD(groups, lr=-1)}, r"lit_module\.optimizer: Invalid learning rate"),
        ({"param_groups": {"a": {"pattern": "*", "weight_decai": 0.1}}}, r"lit_module\.param_groups\.a.*weight_decay"),
        ({"scheduler": torch.optim.lr_scheduler.StepLR}, r"lit_module\.scheduler: .*step_size"),
    ],
    ids=["weights", "loss without weights", "all frozen", "pattern", "rate", "option of a group", "scheduler"],
)
def test_invalid_argument_is_rejected(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        classifier(**choices)


def test_normalization_is_the_first_layer() -> None:
    module = classifier(mean=[0.5, 0.25], std=[0.25, 0.0])
    seen: list[Tensor] = []
    module.net.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    mean = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1).expand(3, 2, 8, 8)
    module(mean)
    module(mean + 0.5)
    assert not seen[0].any()
    assert torch.equal(seen[1][:, 0], torch.full((3, 8, 8), 2.0))
    assert torch.equal(seen[1][:, 1], torch.full((3, 8, 8), 0.5))  # a constant channel is only centred


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_each_channel_has_its_own_mean_and_deviation(dimensions: int) -> None:
    inputs = torch.rand(5, 3, *[4] * dimensions) * torch.tensor([1.0, 2, 3]).view(-1, *[1] * dimensions)
    flat = inputs.transpose(0, 1).flatten(1)
    outputs = Normalize(flat.mean(1).tolist(), flat.std(1, correction=0).tolist(), dimensions)(inputs)
    flat = outputs.transpose(0, 1).flatten(1)
    assert torch.allclose(flat.mean(1), torch.zeros(3), atol=1e-5)
    assert torch.allclose(flat.std(1, correction=0), torch.ones(3), atol=1e-5)


def test_predictions_are_class_probabilities() -> None:
    module = classifier().eval()
    inputs, labels = torch.rand(6, 2, 8, 8), torch.zeros(6, dtype=torch.int64)
    with torch.no_grad():
        rows = module.predict_step(Batch(inputs, labels, labels, 6), 0)
        logits = module(inputs).numpy()
    assert rows.shape == (6, 3) and (rows >= 0).all()
    assert torch.allclose(rows.sum(1), torch.ones(6))
    assert rows.numpy() == pytest.approx(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), abs=1e-6)


def test_mixed_precision_computes_logits_in_bfloat16() -> None:
    seen: dict[str, set[torch.dtype]] = {"train": set(), "val": set(), "loss": set()}
    datamodule, module, trainer = build("trainer.precision=bf16-mixed")

    def record(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen["train" if layer.training else "val"].add(output.dtype)

    module.net.register_forward_hook(record)
    module.loss.register_forward_hook(lambda _module, _inputs, output: seen["loss"].add(output.dtype))
    trainer.fit(module, datamodule)
    assert seen == {"train": {torch.bfloat16}, "val": {torch.bfloat16}, "loss": {torch.float32}}
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def resume(folder: Path, *overrides: str) -> None:
    datamodule, module, trainer = build("lit_module/scheduler=one_cycle", *overrides)
    trainer.fit(module, datamodule, ckpt_path=folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_checkpoint_of_another_shape_is_rejected(one_cycle: Path) -> None:
    with pytest.raises(UserError, match=r"input_shape are \[1, 8, 8\], .*\[1, 9, 9\]; use the same data"):
        resume(one_cycle, "datamodule.image_size=9")


def test_checkpoint_of_other_classes_is_rejected(one_cycle: Path, tmp_path: Path) -> None:
    for name, level in (("dark", 60), ("light", 190)):
        write_images(tmp_path / name, 10, level=level, size=(8, 8))
    with pytest.raises(UserError, match=r"class_names are \['0', '1', .*\['dark', 'light'\]; use the same data"):
        resume(one_cycle, "datamodule=image_folder", f"datamodule.root={tmp_path}")
