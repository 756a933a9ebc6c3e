"""A `_target_` is a class or function of the kind that its place takes, and stands for no word or number."""

from typing import Any

import pytest

from conf.errors import UserError
from conf.nodes import check_nodes

RELU = {"_target_": "torch.nn.ReLU"}


def error_of(key: str, node: Any) -> str:
    """The error line for a node at a dotted key."""
    for name in reversed(key.split(".")):
        node = {name: node}
    with pytest.raises(UserError) as caught:
        check_nodes(node)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("lit_module.scheduler", "pytorch_lightning.core.saving.save_hparams_to_yaml"),
        ("lit_module.scheduler", "pytorch_lightning.core.saving.save_hparams_to_tags_csv"),
        ("lit_module.optimizer", "lit_modules.runs.comparison_report.compare"),
        ("lit_module.optimizer", "torch.optim.swa_utils.update_bn"),  # whose annotations are for type checkers only
        ("lit_module.net", "torch.nn.attention.flex_attention.create_mask"),
        ("lit_module.loss", "torch.optim.SGD"),
        ("lit_module.loss", "torchvision.models.get_model"),  # downloads weights
        ("lit_module.loss", "torchmetrics.image.LearnedPerceptualImagePatchSimilarity"),
        ("callbacks.x", "lit_modules.callbacks.epoch_checkpoint.ModelCheckpoint"),  # Lightning's
        ("lit_module.metrics.x", "torchmetrics.image.LearnedPerceptualImagePatchSimilarity"),  # downloads weights
        ("lit_module.metrics.x", "torchmetrics.MetricCollection"),
        ("lit_module.metrics.x", "lit_modules.networks.cnn.CNN"),
        ("lit_module.net", "torch.nn.init.normal_"),
        ("datamodule", "pytorch_lightning.demos.mnist_datamodule.MNISTDataModule"),
        ("callbacks.x", "pytorch_lightning.loggers.CSVLogger"),
        ("callbacks.x", "lit_modules.runs.run_folder.claim"),
        ("logger.x", "pytorch_lightning.callbacks.ModelCheckpoint"),
        ("trainer.strategy", "pytorch_lightning.utilities.deepspeed.convert_zero_checkpoint_to_fp32_state_dict"),
        ("sampler", "optuna.samplers.CmaEsSampler"),  # unpickles
    ],
)
def test_target_of_another_kind_is_refused(key: str, target: str) -> None:
    assert error_of(key, {"_target_": target}).startswith(f"{key}._target_: {target} ")


@pytest.mark.parametrize("name", ["cache", "batch_size", "classes"])
def test_object_is_no_word_number_or_list(name: str) -> None:
    node = {"_target_": "datamodules.image_folder.ImageFolderDataModule", name: RELU}
    assert error_of("datamodule", node).startswith(f"datamodule.{name}: {RELU} does not fit; give ")
