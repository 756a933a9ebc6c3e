"""A config passes exactly if every constructor in it is allowed and takes what it is given."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from conf import schema
from conf.errors import UserError
from tests.conftest import ROOT, configure

CROP = "+datamodule.augment.x={_target_: datamodules.augment.RandomCrop, padding: 2, fill: black}"


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        schema.check(configure(*overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "seed=4294967295",
        "trainer.max_epochs=null",
        "trainer.limit_train_batches=3",
        "trainer.limit_train_batches=0.5",
        "trainer.precision=bf16-mixed",
        "trainer.precision=16",
        "trainer.devices=[0,1]",
        "datamodule.channels=3",
        "datamodule.image_size=32",
        "datamodule.image_size=[32,48]",
        "datamodule.num_workers=null",
        "lit_module.class_weights=auto",
        "lit_module.class_weights=[1,0.5]",
        "lit_module.net.pool=[2,1]",
        "lit_module.net.dropout=0",
        "lit_module.scheduler=null",
        "+lit_module.optimizer.betas=[0.9,0.99]",
        "+lit_module.param_groups.head={pattern: [head.*], lr: 0.1}",
        "callbacks.checkpoint=null",
        CROP,
        "+datamodule.augment.x={_target_: torchvision.transforms.v2.RandomErasing, p: 0.2}",
        "+callbacks.x={_target_: torchvision.models.resnet18, _partial_: true, num_classes: 3}",
        "logger=[]",
    ],
)
def test_what_constructors_take_passes(override: str) -> None:
    schema.check(configure(override))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        # int
        ("datamodule.batch_size=64.5", "datamodule.batch_size: 64.5 does not fit; give int"),
        ("datamodule.batch_size=true", "datamodule.batch_size: True does not fit; give int"),
        ("datamodule.batch_size=null", "datamodule.batch_size: None does not fit; give int"),
        # float
        ("datamodule.val_fraction=few", "datamodule.val_fraction: 'few' does not fit; give float"),
        ("datamodule.val_fraction=true", "datamodule.val_fraction: True does not fit; give float"),
        # bool
        ("datamodule.drop_last=1", "datamodule.drop_last: 1 does not fit; give bool"),
        # str
        ("lit_module.net.activation=3", "lit_module.net.activation: 3 does not fit; give str"),
        # list
        ("lit_module.net.channels=32", "lit_module.net.channels: 32 does not fit; give list[int]"),
        ("lit_module.net.channels=[a]", "lit_module.net.channels: ['a'] does not fit; give list[int]"),
        ("lit_module.freeze=blocks", "lit_module.freeze: 'blocks' does not fit; give list[str]"),
        # dict
        ("datamodule.augment=flip", "datamodule.augment: 'flip' does not fit; give dict[str, Any]"),
        # Literal
        ("lit_module.net.norm=layer", "lit_module.net.norm: 'layer' does not fit; give batch or instance or none"),
        # a union of them
        ("datamodule.image_size=big", "datamodule.image_size: 'big' does not fit; give int or list[int] or null"),
        ("lit_module.net.pool=[1.5]", "lit_module.net.pool: [1.5] does not fit; give int or list[int]"),
        (
            "lit_module.class_weights=aut",
            "lit_module.class_weights: 'aut' does not fit; give auto or list[float] or null",
        ),
    ],
)
def test_a_value_of_another_type_is_refused(override: str, line: str) -> None:
    assert refusal(override) == line


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("+lit_module.net.chanels=[4]", "lit_module.net.chanels: CNN has no such parameter; did you mean 'channels'?"),
        ("+trainer.logger_=1", "trainer.logger_: Trainer has no such parameter; did you mean 'logger'?"),
        ("+datamodule.batchsize=1", "datamodule.batchsize: DigitsDataModule has no such parameter; did you mean"),
        (CROP.replace("padding", "paddings"), "datamodule.augment.x.paddings: RandomCrop has no such parameter; did"),
        ("trainer.plugins=[{_target_: lit_modules.checkpoint_io.DurableCheckpointIO, x: 1}]", "trainer.plugins.0.x: "),
    ],
)
def test_a_key_that_is_no_parameter_is_refused_at_any_depth(override: str, line: str) -> None:
    assert refusal(override).startswith(line)


def test_directives_of_hydra_are_no_parameters() -> None:
    schema.check(configure("+lit_module.net._convert_=all", "+lit_module.net._recursive_=true"))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.exec",
        "subprocess.run",
        "torch.hub.load",
        "torch.load",
        "conf.run_folder.write_text",
        "train.fit",
        "torchx.nn.Linear",
        "datamodules_.x",
    ],
)
def test_a_target_of_another_package_is_refused(target: str) -> None:
    line = refusal(f"lit_module.loss._target_={target}")
    assert line.startswith(
        f"lit_module.loss._target_: {target} is not from an allowed package; use one of datamodules,"
    )


@pytest.mark.parametrize(
    "target",
    [
        "torch.nn.init.math.exp",
        "lit_modules.initialization.torch.hub.load",
        "pytorch_lightning.trainer.trainer.os.getcwd",
        "datamodules.decode.np.load",
        "datamodules.decode.EXIF_ORIENTATION",
        "torch.nn.functional",
    ],
)
def test_a_target_that_an_allowed_package_only_imports_is_refused(target: str) -> None:
    assert refusal(f"lit_module.loss._target_={target}").startswith(
        f"lit_module.loss._target_: {target} is not defined by an allowed package"
    )


def test_a_target_that_would_unpickle_a_file_is_refused() -> None:
    node = "{_target_: pytorch_lightning.LightningModule.load_from_checkpoint, checkpoint_path: x, weights_only: false}"
    assert refusal(f"+callbacks.x={node}").startswith("callbacks.x._target_: ")


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("torch.nn.CrossEntropyLos", "there is no CrossEntropyLos in torch.nn; did you mean 'CrossEntropyLoss'?"),
        ("lit_modules.networks.cn.CNN", "there is no CNN in lit_modules.networks.cn; correct the name"),
    ],
)
def test_a_target_that_does_not_exist_is_refused(target: str, hint: str) -> None:
    assert refusal(f"lit_module.loss._target_={target}") == f"lit_module.loss._target_: {hint}"


@pytest.mark.parametrize("monitor", schema.MONITORS)
def test_every_score_may_be_monitored_in_its_direction(monitor: str) -> None:
    right, wrong = ("min", "max") if monitor in ("train/loss", "val/loss") else ("max", "min")
    schema.check(configure(f"monitor={monitor}", f"mode={right}"))
    assert refusal(f"monitor={monitor}", f"mode={wrong}").endswith(f"set mode={right}")


@pytest.mark.parametrize("monitor", ["test/f1", "test/loss", "val/accuracy", "f1", "val_f1", ""])
def test_other_scores_may_not_be_monitored(monitor: str) -> None:
    assert refusal(f"monitor={monitor}").startswith(f"monitor: {monitor}: ")


@pytest.mark.parametrize("batches", ["0", "0.0"])
def test_a_validation_score_needs_validation(batches: str) -> None:
    assert refusal(f"trainer.limit_val_batches={batches}").startswith("monitor: val/f1 needs validation; ")
    schema.check(configure(f"trainer.limit_val_batches={batches}", "monitor=train/f1"))


def test_a_task_of_a_run_needs_the_run() -> None:
    assert refusal("task=test").startswith("run: is not set; ")


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    assert refusal(f"seed={seed}").startswith("seed: ")


def test_interpolations_are_checked_by_what_they_give() -> None:
    assert refusal("trainer.max_epochs=${name}") == "trainer.max_epochs: 'default' does not fit; give int or null"


def test_checking_changes_nothing() -> None:
    cfg = configure("+experiment=digits")
    before = OmegaConf.to_yaml(cfg)
    schema.check(cfg)
    assert OmegaConf.to_yaml(cfg) == before


def test_the_schema_imports_no_torch() -> None:
    code = "import sys, conf.schema, conf.run_folder, conf.errors; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
