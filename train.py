"""Litmus: trains, resumes, tunes, tests, uses, exports and compares CNN classifiers, and inspects their data.

python train.py +experiment=digits
python train.py run=logs/digits/2026-01-31_12-00-00 task=test

Exit codes: 0 done; 2 the input is wrong; 3 some images could not be read; 130, 141, 143 stopped by a signal.
"""

import os
import shlex
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from conf import saved_config, schema, validation
from conf.error_messages import one_line_errors
from conf.errors import UserError
from datamodules.storage.memory import free_memory
from lit_modules.runs import launcher, run_folder
from lit_modules.trainer import process

# torch and Lightning are imported inside the tasks, so that --help, --cfg job and wrong keys are answered at once.

ALONE = {"devices": 1, "strategy": "auto", "num_nodes": 1}  # a Trainer's settings for one process on one device


def build(cfg: DictConfig) -> tuple[Any, Any, Any]:
    """The data module with its data read, the LightningModule that fits them, and the Trainer."""
    from hydra.utils import instantiate

    datamodule = read_data(cfg, "fit")
    mean, std = datamodule.mean_std
    module = instantiate(
        cfg.lit_module,
        input_shape=datamodule.input_shape,
        class_names=datamodule.class_names,
        class_counts=datamodule.class_counts,
        mean=mean,
        std=std,
        _convert_="all",
    )
    module.files = {split: datamodule.files(split) for split in ("train", "val", "test")}
    return datamodule, module, build_trainer(cfg)


def read_data(cfg: DictConfig, stage: str) -> Any:
    """The data module with the data read that a stage needs."""
    from hydra.utils import instantiate
    from pytorch_lightning import seed_everything

    process.set_up(free_memory())
    seed_everything(cfg.seed, verbose=False)
    datamodule = instantiate(cfg.datamodule, _convert_="all")
    datamodule.prepare_data()
    datamodule.setup(stage)
    return datamodule


def build_trainer(cfg: DictConfig) -> Any:
    """The Trainer with its callbacks and loggers."""
    from hydra.utils import instantiate

    callbacks = [instantiate(node, _convert_="all") for node in cfg.callbacks.values() if node]
    loggers = [instantiate(node, _convert_="all") for node in cfg.logger.values() if node]
    return instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, _convert_="all")


def fit(cfg: DictConfig) -> float:
    """Trains, or goes on with the run `cfg.run`; then tests the best epoch once. Returns its monitored score."""
    import torch
    from pytorch_lightning.callbacks import WeightAveraging

    from lit_modules.runs.report import finish
    from lit_modules.runs.restore import load_best

    for part in ("callbacks.checkpoint", "logger.epoch_csv"):
        if not OmegaConf.select(cfg, part):
            raise UserError(f"{part}: a run cannot do without it; leave it in")
    folder, resume_from = Path(cfg.run_dir), run_folder.resume_from(cfg)
    datamodule, module, trainer = build(saved_config.without_pretrained_weights(cfg) if resume_from else cfg)
    if resume_from:
        module.check_same_data(torch.load(resume_from, map_location="cpu", weights_only=True, mmap=True))
    if trainer.world_size > 1 and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        # Lightning starts the other ranks with this same command line, so that each would run a sweep of its own.
        raise UserError("devices: the runs of a sweep take one device each; use devices=gpu, or start them one by one")
    if cfg.init_from and not cfg.run:
        module.load_network(Path(cfg.init_from))
    with run_folder.claim(folder, cfg) if trainer.is_global_zero else nullcontext():
        if trainer.is_global_zero:
            going_on = f", going on from {resume_from.name}" if resume_from else ""
            print(f"{cfg.name} → {folder}{going_on}\nwatch: tensorboard --logdir {cfg.logs_dir}", flush=True)
        sections = ("datamodule", "lit_module", "trainer")
        choices = {section: OmegaConf.to_container(cfg[section], resolve=True) for section in sections}
        for logger in trainer.loggers:
            logger.log_hyperparams({"seed": cfg.seed, **choices})
        trainer.fit(module, datamodule, ckpt_path=resume_from, weights_only=True)
        load_best(module, folder)
        # It would bring its own last average in for each validation.
        trainer.callbacks = [callback for callback in trainer.callbacks if not isinstance(callback, WeightAveraging)]
        # The predictions of the best epoch on both splits; without them the epoch's own scores are enough.
        scores: dict[str, float] = {}
        for score in cfg.test * ([trainer.validate] * bool(cfg.callbacks.get("predictions")) + [trainer.test]):
            score(module, datamodule, verbose=False)
            scores |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        epochs, best_epoch = run_folder.read_metrics(folder), run_folder.best_epoch(folder)
        (best_row,) = [row for row in epochs if row["epoch"] == best_epoch]
        scores |= {name: value for name, value in best_row.items() if "/" in name}
        if trainer.is_global_zero:
            scores["seconds"] = sum(row["seconds"] for row in epochs)
            facts = {"name": cfg.name, "seed": cfg.seed, "monitor": cfg.monitor, "best_epoch": best_epoch}
            facts |= {f"samples/{split}": len(datamodule.files(split)) for split in ("train", "val", "test")}
            finish(folder, trainer, facts | scores, choices, shlex.join(["python", *sys.argv]))
    return scores[cfg.monitor]


def test(cfg: DictConfig) -> None:
    """Tests the best epoch of the run `cfg.run`, on its own data or others of the same classes."""
    from lit_modules.runs.report import print_scores
    from lit_modules.runs.restore import best_network

    run_folder.best_checkpoint(Path(cfg.run_dir))
    saved_config.check_unchanged(Path(cfg.run_dir), cfg)  # another split would test on images of the training
    cfg.logger = {}  # the dashboard stays that of the training
    module = best_network(cfg)
    match_input_size(cfg, module)
    datamodule = read_data(cfg, "test")
    datamodule.relabel(module.class_names, module.input_shape)
    module.files = {"test": datamodule.files("test")}
    trainer = build_trainer(cfg)
    if trainer.is_global_zero:
        print(f"testing {cfg.run} on {len(datamodule.files('test'))} samples", flush=True)
    trainer.test(module, datamodule, verbose=False)
    if trainer.is_global_zero:
        print_scores(trainer.callback_metrics, {})


def predict(cfg: DictConfig) -> None:
    """Classifies the images `cfg.input` by the best epoch of the run `cfg.run`. Exit code 3: some were unreadable."""
    import torch
    from hydra.utils import instantiate

    from datamodules.image_stream import find, read_in_batches
    from datamodules.storage.decode import ImageSpec
    from lit_modules.inference.predict import predict
    from lit_modules.inference.predictor import Predictor
    from lit_modules.inference.temperature import temperature_of
    from lit_modules.runs.restore import best_network

    saved_config.check_unchanged(Path(cfg.run_dir), cfg)
    files, output, source = find(cfg.input), Path(cfg.output), Path(cfg.input).expanduser().resolve()
    if source.is_dir() and output.resolve().is_relative_to(source):
        raise UserError(f"output: {output} lies in the folder that is read, {source}; choose another")
    module = best_network(cfg)
    channels, *size = module.input_shape
    if "resize" not in cfg.datamodule:
        raise UserError(f"input: the run {cfg.run} learned from arrays, not from images; use an export of it")
    process.set_up(free_memory())
    trainer = instantiate(cfg.trainer, **ALONE, logger=False, callbacks=[], _convert_="all")
    predictor = Predictor(module, temperature_of(Path(cfg.run_dir)) if cfg.calibrate else 1.0).to(
        trainer.strategy.root_device
    )
    data = cfg.datamodule
    form, device = ImageSpec(channels, tuple(size), data.resize, data.jpeg_draft), trainer.strategy.root_device.type
    batches = read_in_batches(files, form, data.batch_size, data.num_workers, device)
    with torch.inference_mode(), trainer.precision_plugin.forward_context():
        unread = predict(predictor, batches, len(files), module.class_names, cfg.tta.name == "flip", output)
    print(f"{len(files) - unread} predictions → {output}")
    if unread:
        print(f"{unread} of {len(files)} files could not be read", file=sys.stderr)
        raise SystemExit(3)


def export(cfg: DictConfig) -> None:
    """Makes the best epoch of the run `cfg.run` a file that needs no Litmus, checked on its data or on noise."""
    from hydra.utils import instantiate

    from lit_modules.inference.export import export, first_samples, noise
    from lit_modules.inference.predictor import Predictor
    from lit_modules.inference.temperature import temperature_of
    from lit_modules.runs.restore import best_network

    process.set_up(free_memory())
    saved_config.check_unchanged(Path(cfg.run_dir), cfg)
    module = best_network(cfg)
    predictor = Predictor(module, temperature_of(Path(cfg.run_dir)) if cfg.calibrate else 1.0)
    facts = {"class_names": list(module.class_names), "resize": OmegaConf.select(cfg, "datamodule.resize")}
    match_input_size(cfg, module)
    datamodule = instantiate(cfg.datamodule, _convert_="all")
    absent = (UserError,) if facts["resize"] else ()  # noise is like images, not like any array
    try:
        datamodule.setup()
        batches, facts["checked on"] = datamodule.batches("val"), "validation samples"
    except absent as error:
        print(f"no validation samples to check the export on, so noise serves: {error}", file=sys.stderr)
        batches, facts["checked on"] = noise(module.normalize, module.input_shape), "noise"
    inputs, logits = first_samples(batches, module, cfg.input.name == "uint8")
    expected = (logits / predictor.temperature).softmax(1)
    difference = export(predictor, inputs, expected, facts, cfg.format.name, Path(cfg.output))
    where = f"{len(inputs)} {facts['checked on']}"
    print(f"{cfg.format.name} → {cfg.output}\nprobabilities within {difference:.1e} of training's, on {where}")


def match_input_size(cfg: DictConfig, module: Any) -> None:
    """Has images read as the network wants them, whatever they are."""
    if "image_size" in cfg.datamodule:
        cfg.datamodule.channels, *cfg.datamodule.image_size = module.input_shape


def inspect(cfg: DictConfig) -> None:
    """Looks at the data and says what is wrong with them."""
    from datamodules.inspection.inspect import inspect

    cfg.datamodule.on_error = "skip"  # what cannot be read is reported
    inspect(read_data(cfg, "inspect"), Path(cfg.output))


def tune(cfg: DictConfig) -> None:
    """Looks for a sensible learning rate and batch size, on one device, before a run."""
    from hydra.utils import instantiate

    from lit_modules.runs.tuning import tune

    cfg.callbacks, cfg.logger, cfg.lit_module.scheduler = {}, {}, None
    datamodule, module, _ = build(cfg)
    build_trainer = partial(instantiate, cfg.trainer, **ALONE, logger=False, _convert_="all")
    tune(module, datamodule, build_trainer, cfg.min_lr, cfg.max_lr, cfg.num_steps, Path(cfg.output))


def compare(cfg: DictConfig) -> None:
    """Tells finished runs apart."""
    from lit_modules.runs.comparison import compare

    compare(cfg.runs, Path(cfg.output) if cfg.output else None)


def sweep(cfg: DictConfig) -> None:
    """Looks for the best values of `cfg.space`, by runs of their own that leave the test split alone."""
    try:
        from lit_modules.runs.sweep import sweep
    except ModuleNotFoundError as error:
        raise UserError(f'task: {error.name} is not installed; pip install -e ".[sweep]"') from error
    sweep(cfg, list(HydraConfig.get().overrides.task))


TASKS = {task.__name__: task for task in (fit, test, predict, export, inspect, tune, sweep, compare)}


def main(cfg: DictConfig) -> Any:
    """Checks the config and runs its task."""
    with one_line_errors():
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            if cfg.task == "compare":
                raise UserError("-m: task=compare makes no runs; leave it out")
            cfg.run_dir = str(Path(cfg.run_dir) / str(HydraConfig.get().job.num))
        validation.check(cfg, HydraConfig.get().overrides.task)
        return TASKS[cfg.task](cfg)


def start() -> None:
    """Composes the config of the command line and runs its task."""
    schema.register()
    with one_line_errors():
        os.environ.setdefault("LITMUS_STAMP", launcher.stamp())
        base = saved_config.base_config(sys.argv[1:])
        # Not as a decorator, for the base depends on run=…; but Hydra's shell completion looks for "@hydra.main".
        hydra.main(version_base="1.3", config_path="conf", config_name=base)(main)()
        sys.stdout.flush()  # whose reader may be gone


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"
    process.run(start)
