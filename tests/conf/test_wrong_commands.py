"""Each wrong command is answered in one line that begins with its key and ends with the fix."""

import pytest

from conf import validation
from conf.error_messages import one_line_errors
from tests.conftest import configure, error_line

# (a command that composition or the check refuses, the beginning of the line, more of it)
COMMANDS = [
    # A key that does not exist.
    ("trainer.max_epoch=3", "trainer.max_epoch: ", "did you mean 'max_epochs'?"),
    ("+trainer.max_epoch=3", "trainer.max_epoch: ", "did you mean 'max_epochs'?"),
    ("trainr.max_epochs=3", "trainr: ", "did you mean 'trainer'?"),
    ("lit_module.optimizer.lrr=1", "lit_module.optimizer.lrr: ", "did you mean 'lr'?"),
    ("+lit_module.optimizer.weight_dekay=1", "lit_module.optimizer.weight_dekay: ", "'weight_decay'"),
    ("sead=1", "sead: ", "did you mean 'seed'?"),
    ("+sead=1", "sead: ", "did you mean 'seed'?"),
    ("callbacks=[default,ema] callbacks.ema.decai=1", "callbacks.ema.decai: ", "did you mean 'decay'?"),
    ("datamodule.augment.crop.padding=1", "datamodule.augment.crop: ", "datamodule/augment=[…,crop]"),
    ("logs_dir=", "logs_dir: ", "give it a value"),
    # One that would change nothing.
    ("datamodule/augment=[crop,flip] datamodule.augment={}", "datamodule.augment: ", "~datamodule.augment.crop"),
    ("lit_module.scheduler={}", "lit_module.scheduler: ", "lit_module.scheduler=null"),
    # A value of many where one is meant.
    ("lit_module.net.kernel_size={a:1}", "lit_module.net.kernel_size: ", "give int"),
    ("datamodule.batch_size={a:1}", "datamodule.batch_size: ", "give int"),
    # A file of a group that does not exist.
    ("lit_module/optimizer=adamx", "lit_module/optimizer=adamx: ", "did you mean 'adam'?"),
    ("lit_module/scheduler=cosin", "lit_module/scheduler=cosin: ", "did you mean 'cosine'?"),
    ("datamodule=digit", "datamodule=digit: ", "did you mean 'digits'?"),
    ("datamodule=folder", "datamodule=folder: ", "image_folder"),
    ("trainer=debg", "trainer=debg: ", "did you mean 'debug'?"),
    ("task=fitt", "task=fitt: ", "did you mean 'fit'?"),
    ("+experiment=digit", "experiment=digit: ", "did you mean 'digits'?"),
    ("callbacks=[defaul]", "callbacks=defaul: ", "did you mean 'default'?"),
    ("datamodule/augment=[crp]", "datamodule/augment=crp: ", "did you mean 'crop'?"),
    ("lit_module/optimiser=adam", "lit_module/optimiser: ", "optimizer"),
    # A value that cannot be.
    ("seed=abc", "seed: ", "give it a value of its type"),
    ("task=export format=onxx", "format: ", "onnx, safetensors"),
    ("seed=-1", "seed: ", "choose seed=0"),
    ("seed=4294967296", "seed: ", "4294967295"),
    ("trainer.max_epochs=abc", "trainer.max_epochs: ", "give int or null"),
    ("trainer.max_epochs=", "trainer.max_epochs: ", "give int or null"),
    ("datamodule.channels=2", "datamodule.channels: ", "give auto or 1 or 3"),
    ("datamodule.resize=padd", "datamodule.resize: ", "give pad or crop or stretch"),
    ("monitor=val/accuracy", "monitor: ", "did you mean 'val/acc'?"),
    ("monitor=test/f1", "monitor: ", "test split chooses nothing"),
    ("mode=min", "mode: ", "set mode=max"),
    ("name=../x", "name: ", "set run_dir"),
    ("name=/x", "name: ", "set run_dir"),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val: ", "at least 0"),
    ("+trainer.val_check_interval=0", "trainer.val_check_interval: ", "at least 1"),
    ("+trainer.val_check_interval='00:00:00:05'", "trainer.val_check_interval: ", "give int or float"),
    ("+trainer.val_check_interval={seconds:5}", "trainer.val_check_interval: ", "give int or float"),
    # A value that is missing.
    ("datamodule=image_folder", "datamodule.root: ", "add datamodule.root=…"),
    ("datamodule=torchvision", "datamodule.dataset: ", "add datamodule.dataset=…"),
    ("task=test", "run: ", "add run=…"),
    ("task=predict run=/not/there input=x", "run: ", "give the folder of a run"),
    ("task=export", "run: ", "add run=…"),
    ("task=compare", "runs: ", "add runs=…"),
    ("task=report", "run: ", "add run=…"),
    ("name=???", "name: ", "add name=…"),
    ("seed=${oc.env:NOT_SET_ANYWHERE}", "seed: ", "export NOT_SET_ANYWHERE=…"),
    ("lit_module.monitor=${nothing}", "lit_module.monitor: ", "name a key that exists"),
    ("name=${oc.env:NOT_SET_ANYWHERE}", "name: ", "export NOT_SET_ANYWHERE=…"),
    ("run=/not/there", "run: ", "give the folder of a run"),
    # A value of no use.
    ("monitor=val/loss mode=max", "mode: ", "set mode=min"),
    ("lit_module.optimizer.lr=.nan", "lit_module.optimizer.lr: ", "give float"),
    ("lit_module.optimizer.lr=nan", "lit_module.optimizer.lr: ", "finite number"),
    ("lit_module.param_groups={a:{pattern:x,lr:inf}}", "lit_module.param_groups: ", "finite number"),
    ("trainer.limit_test_batches=0", "trainer.limit_test_batches: ", "test=false"),
    ("trainer.limit_train_batches=0", "trainer.limit_train_batches: ", "on nothing"),
    ("trainer.max_epochs=0", "epochs: ", "try 1"),
    ("epochs=1 trainer.check_val_every_n_epoch=5", "trainer.check_val_every_n_epoch: ", "lower it"),
    ("callbacks.checkpoint.every_n_epochs=0", "callbacks.checkpoint.every_n_epochs: ", "at least 1"),
    ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches: ", "at least 1"),
    ("+trainer.fast_dev_run=true", "trainer.fast_dev_run: ", "trainer=debug"),
    ("trainer.precision=bf16-true", "trainer.precision: ", "bf16-mixed"),
    # A number out of its range.
    ("trainer.accumulate_grad_batches=1000000", "trainer.accumulate_grad_batches: ", "at most 10000"),
    ("trainer.max_steps=-5", "trainer.max_steps: ", "at least -1"),
    ("trainer.log_every_n_steps=-1", "trainer.log_every_n_steps: ", "at least 0"),
    ("trainer.limit_val_batches=-1", "trainer.limit_val_batches: ", "at least 0"),
    ("trainer.limit_val_batches=1.5", "trainer.limit_val_batches: ", "at most 1"),
    ("trainer.max_time={minutes:-1}", "trainer.max_time: ", "at least 0"),
    ("trainer.max_time={minutes:0}", "trainer.max_time: ", "leave it out"),
    ("trainer.max_time='00:00:00:00'", "trainer.max_time: ", "leave it out"),
    ("callbacks.mid_epoch_checkpoint.every_n_steps=-3", "callbacks.mid_epoch_checkpoint.every_n_steps: ", "at least 1"),
    (
        "callbacks.mid_epoch_checkpoint.every_n_minutes=-1",
        "callbacks.mid_epoch_checkpoint.every_n_minutes: ",
        "above 0",
    ),
    ("callbacks.checkpoint.save_top_k=-2", "callbacks.checkpoint.save_top_k: ", "at least -1"),
    ("datamodule.batch_size=999999999999", "datamodule.batch_size: ", "at most 1000000"),
    ("datamodule.image_size=99999999", "datamodule.image_size: ", "at most 65535"),
    ("datamodule.seed=-1", "datamodule.seed: ", "at least 0"),
    (
        "callbacks=[default,early_stopping] callbacks.early_stopping.mode=x",
        "callbacks.early_stopping.mode: ",
        "set callbacks.early_stopping.mode=max",
    ),
    ("callbacks=[default,ema] callbacks.ema.decay=2", "callbacks.ema.decay: ", "below 1"),
    ("lit_module/scheduler=step lit_module.scheduler.step_size=0", "lit_module.scheduler.step_size: ", "at least 1"),
    # A word or a number where a node is meant.
    ("lit_module.init=0.5", "lit_module.init: ", "a _target_ with _partial_: true or null"),
    ("lit_module.optimizer=[1]", "lit_module.optimizer: ", "of its type"),
    ("lit_module.net=a/b", "lit_module.net: ", "lit_module/net=cnn"),
    ("lit_module.net=null", "lit_module.net: ", "lit_module/net=cnn"),
    ("~trainer._target_", "trainer: ", "trainer=default"),
    ("datamodule.mix=0.5", "datamodule.mix: ", "does not fit"),
    ("datamodule.augment.x=3", "datamodule.augment.x: ", "is not chosen"),
    ("++callbacks.checkpoint.monitor=3", "callbacks.checkpoint.monitor: ", "choose from train/acc"),
    # A node that is built too early, too late, or not at all.
    ("~lit_module.net._partial_", "lit_module.net: ", "add _partial_: true"),
    ("lit_module.optimizer._partial_=false", "lit_module.optimizer: ", "add _partial_: true"),
    ("+trainer._partial_=true", "trainer._partial_: ", "leave it out"),
    ("+lit_module.net._convert_=none", "lit_module.net._convert_: ", "give all"),
    ("~lit_module.net.channels", "lit_module.net: ", "add lit_module.net.channels=…"),
    ("~datamodule.batch_size", "datamodule: ", "add datamodule.batch_size=…"),
    ("lit_module/net=timm lit_module.net._target_=torchvision.models.resnet18", "lit_module.net: ", "input_shape and "),
    ("lit_module.optimizer._target_=torch.optim.LBFGS", "lit_module.optimizer._target_: ", "choose another"),
    ("lit_module.optimizer._target_=torch.optim.SparseAdam", "lit_module.optimizer._target_: ", "choose another"),
    # A key of an earlier version, or of another program.
    ("datamodule.on_bad=skip", "datamodule.on_bad: ", "is called datamodule.on_error now"),
    ("+datamodule.on_bad=skip", "datamodule.on_bad: ", "is called datamodule.on_error now"),
    ("callbacks=[default,adam_to_sgd] callbacks.adam_to_sgd.step=1", "callbacks.adam_to_sgd.step: ", ".lr_scale now"),
    ("callbacks=[speed]", "callbacks=speed: ", "is called callbacks=throughput now"),
    ("task=tune low=1", "low: ", "is called min_lr now"),
    ("lit_module.scheduler._target_=lit_modules.schedules.WarmupCosineLR", "lit_module.scheduler._target_: ", " now;"),
    ("lr=0.01", "lr: ", "write lit_module.optimizer.lr=…"),
    ("+lr=0.01", "lr: ", "write lit_module.optimizer.lr=…"),
    ("learning_rate=0.01", "learning_rate: ", "write lit_module.optimizer.lr=…"),
    ("batch_size=32", "batch_size: ", "write datamodule.batch_size=…"),
    ("btach_size=32", "btach_size: ", "did you mean datamodule.batch_size?"),
    ("image_size=64", "image_size: ", "write datamodule.image_size=…"),
    ("dropout=0.1", "dropout: ", "write lit_module.net.dropout=…"),
    ("optimizer=sgd", "optimizer: ", "write lit_module/optimizer=…"),
    ("model=resnet", "model: ", "write lit_module/net=…"),
    ("scheduler=cosine", "scheduler: ", "write lit_module/scheduler=…"),
    ("loss=cross_entropy", "loss: ", "write lit_module/loss=…"),
    ("max_epochs=3", "max_epochs: ", "write epochs=…"),
    ("num_epochs=3", "num_epochs: ", "write epochs=…"),
    ("weight_decay=0.1", "weight_decay: ", "write lit_module.optimizer.weight_decay=…"),
    ("momentum=0.9", "momentum: ", "lit_module/optimizer=sgd lit_module.optimizer.momentum=…"),
    ("lit_module.optimizer.learning_rate=1", "lit_module.optimizer.learning_rate: ", "did you mean 'lr'?"),
    ("pretrained=true", "pretrained: ", "lit_module/net=efficientnet_lite"),
    ("backbone=resnet18", "backbone: ", "write lit_module/net=…"),
    ("device=cpu", "device: ", "write devices=cpu"),
    ("gpu=1", "gpu: ", "write devices=gpu"),
    ("workers=3", "workers: ", "write datamodule.num_workers=…"),
    ("output_dir=x", "output_dir: ", "write run_dir=…"),
    ("save_dir=x", "save_dir: ", "write run_dir=…"),
    ("devices=2", "command line: ", "trainer.devices=2"),
    ("gpus=2", "gpus: ", "write trainer.devices=…"),
    # A command that is none.
    ("experiment=digits", "command line: ", "write +experiment=…"),
    ("+trainer.max_epochs=3", "trainer.max_epochs: ", "without +"),
    ("trainer.max_epochs", "command line: ", "see python train.py --help"),
    ("name=[a", "command line: ", "quote a value"),
    ("trainer=5", "command line: ", "trainer.max_epochs=5"),
    ("devices=fsdp ++callbacks.dashboard.max_overhead=1", "command line: ", "--cfg job"),
    ("lit_module/net=[1]", "command line: ", "no name of an option"),
    ("logger=[a,null]", "command line: ", "no name of an option"),
    ("~trainer=[a,null]", "command line: ", "no name of an option"),
    # Code that must not run.
    ("lit_module.loss._target_=os.system", "lit_module.loss._target_: ", "torch.nn"),
    ("lit_module.loss._target_=torch.nn.CrossEntropyLos", "lit_module.loss._target_: ", "'CrossEntropyLoss'"),
    ("lit_module.loss._target_=torch.nn.NLLLoss", "lit_module.loss.label_smoothing: ", "no such parameter"),
    ("lit_module.net._target_=torch.load", "lit_module.net._target_: ", "torch.nn"),
]


@pytest.mark.parametrize(("command", "start", "more"), COMMANDS, ids=[row[0] for row in COMMANDS])
def test_wrong_command_is_answered_by_its_key_and_the_fix(
    capsys: pytest.CaptureFixture[str], command: str, start: str, more: str
) -> None:
    overrides = command.split()
    with pytest.raises(SystemExit) as caught, one_line_errors():
        validation.check(configure(*overrides), overrides)
    line = error_line(caught.value.code, capsys.readouterr().err)
    assert line.startswith(start) and more in line.removeprefix(start)
