"""Litmus: train, resume, test, use, export and compare CNN classifiers, and inspect their data.

python train.py +experiment=digits
python train.py run=logs/digits/2026-01-31_12-00-00 task=test

Exit codes: 0 done; 2 wrong input; 3 some images were skipped; 129, 130, 141, 143 stopped by a signal.
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
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from conf import command_line, derived, flags, project, saved_config, schema, validation
from conf.error_messages import one_line_errors
from conf.errors import UserError, extra
from conf.text import printable
from datamodules.storage.memory import free_memory
from lit_modules.runs import folds, launcher, multirun, run_folder
from lit_modules.trainer import process

# torch and Lightning are imported inside the tasks, so that --help, --cfg job and wrong keys are answered at once.

ONE_DEVICE = {"devices": 1, "strategy": "auto", "num_nodes": 1}
SETTINGS = ("datamodule", "lit_module", "trainer")  # what loggers and the report show


def fit(cfg: DictConfig) -> float:
    """Train or resume a run, then test its best epoch once; returns the monitored score."""
    from lit_modules.networks.weights import load_network
    from lit_modules.runs import checkpoints, scoring
    from lit_modules.runs.report import finish

    for part in ("callbacks.checkpoint", "logger.epoch_csv"):
        if not OmegaConf.select(cfg, part):
            raise UserError(f"{part}: training needs it; leave it in")
    process.check_count(cfg.trainer)
    if cfg.folds:
        return folds.cross_validate(cfg, list(HydraConfig.get().overrides.task))
    folder = Path(cfg.run_dir)
    use_pretrained_input(cfg)  # before the config is compared with that of a run to resume
    checkpoint = checkpoints.resume_from(cfg)
    if checkpoint:
        run_folder.check_epochs(folder, cfg.trainer.get("max_epochs"))
    datamodule, module, trainer = build(saved_config.without_pretrained_weights(cfg) if checkpoint else cfg)
    multirun.check_devices(trainer.world_size)
    if checkpoint:
        checkpoints.check_fits(checkpoint, module, trainer)
    elif cfg.init_from:
        load_network(module, Path(cfg.init_from))
    with run_folder.claim(folder, cfg) if trainer.is_global_zero else nullcontext():
        if trainer.is_global_zero:
            resumed = f", resumed from {checkpoint.name}" if checkpoint else ""
            print(printable(f"{cfg.name} → {folder}{resumed}"))
            print(printable(f"watch: tensorboard --logdir {folder if cfg.run else cfg.logs_dir}"), flush=True)
            if datamodule.layout:
                print(printable(f"data: {datamodule.layout}"), flush=True)
        settings = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in SETTINGS}
        for logger in trainer.loggers:
            logger.log_hyperparams({"seed": cfg.seed, **settings})
        with checkpoints.restoring(checkpoint):
            trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
        results = scoring.score_best(folder, trainer, module, datamodule, cfg.test)
        if trainer.is_global_zero:
            results |= {"name": cfg.name, "seed": cfg.seed, "monitor": cfg.monitor, "layout": datamodule.layout}
            finish(folder, trainer, results, settings, shlex.join([*command_line.PROGRAM.split(), *sys.argv[1:]]))
    return float(results[cfg.monitor])


def test(cfg: DictConfig) -> None:
    """Test the best epoch of a run, on its own data or on other data of the same classes."""
    from lit_modules.runs.report import print_test
    from lit_modules.runs.restore import best_network

    process.check_count(cfg.trainer)
    saved_config.check_unchanged(Path(cfg.run_dir), cfg)  # another split would test on training images
    module = best_network(cfg)
    datamodule = build_datamodule(cfg, "test", **saved_config.image_shape(cfg, module.input_shape))
    datamodule.use_labels_of(module.class_names, module.input_shape, module.multi_label)
    trainer = build_trainer(cfg, logger=False)  # the dashboard stays that of the training
    if trainer.is_global_zero:
        print(printable(f"testing {cfg.run} on {len(datamodule.files('test'))} samples"), flush=True)
    trainer.test(module, datamodule, verbose=False)
    if trainer.is_global_zero:
        print_test(trainer)


def predict(cfg: DictConfig) -> None:
    """Classify images by the best epoch of a run; exit code 3 if some were skipped."""
    import torch

    from datamodules.image_stream import find, image_spec, read_in_batches
    from lit_modules.inference.device import autocast, device_of
    from lit_modules.inference.extras import extra_outputs
    from lit_modules.inference.predict import predict
    from lit_modules.inference.predictor import best_predictor
    from lit_modules.inference.thresholds import fit_thresholds

    saved_config.check_unchanged(Path(cfg.run_dir), cfg)
    (files, items), output = find(cfg.input), Path(cfg.output)
    source = Path(cfg.input).expanduser().resolve()
    if source.is_dir() and output.resolve().is_relative_to(source):
        raise UserError(f"output: {output} is in the input folder {source}; choose another")
    process.set_up(free_memory())
    predictor, class_names, input_shape = best_predictor(cfg)
    device, data = device_of(cfg.trainer), cfg.datamodule
    spec = image_spec(data, input_shape)
    batches = read_in_batches(files, items, spec, data.batch_size, data.num_workers, device.type)
    extras, thresholds = extra_outputs(cfg, predictor.to(device), input_shape), fit_thresholds(cfg, predictor)
    with torch.inference_mode(), autocast(device, cfg.trainer.precision):
        flip = cfg.tta.name == "flip"
        skipped = predict(predictor, batches, len(files), class_names, flip, output, extras, thresholds)
    print(printable(f"{len(files) - skipped} predictions → {output}"))
    if skipped:
        print(f"{skipped} of {len(files)} files were skipped", file=sys.stderr)
        raise SystemExit(3)


def serve(cfg: DictConfig) -> None:
    """Answer requests for predictions over HTTP until a signal."""
    with extra("serve", "starlette", "uvicorn", "python_multipart"):
        from lit_modules.inference.serve import serve
    from datamodules.image_stream import image_spec
    from datamodules.uploads import decode_upload

    saved_config.check_unchanged(Path(cfg.run_dir), cfg)
    process.set_up(free_memory(), one_arena=True)
    serve(cfg, lambda input_shape: partial(decode_upload, spec=image_spec(cfg.datamodule, input_shape)))


def export(cfg: DictConfig) -> None:
    """Export the best epoch of a run to a file that needs no Litmus, verified on its data or on noise."""
    from datamodules.image_stream import image_spec
    from lit_modules.inference.export import check_keys, export_run
    from lit_modules.inference.predictor import best_predictor

    check_keys(cfg)
    process.set_up(free_memory())
    saved_config.check_unchanged(Path(cfg.run_dir), cfg)
    predictor, class_names, input_shape = best_predictor(cfg)
    spec = image_spec(cfg.datamodule, input_shape)._asdict() if "resize" in cfg.datamodule else None
    read_data = partial(build_datamodule, cfg, "export", **saved_config.image_shape(cfg, input_shape))
    export_run(cfg, predictor, class_names, spec, read_data)


def inspect(cfg: DictConfig) -> None:
    """Report counts, sizes, damaged and unusual files, duplicates and shortcuts of the data."""
    from datamodules.inspection.inspect import inspect

    inspect(build_datamodule(cfg, "inspect", on_error="skip"), Path(cfg.output))


def audit(cfg: DictConfig) -> None:
    """Rank the labels of a run's samples by how probably they are wrong, and find duplicates with different labels."""
    from datamodules.inspection.duplicate_groups import label_conflicts
    from datamodules.inspection.named_samples import class_of_each, read_samples
    from lit_modules.runs.audit import audit
    from lit_modules.runs.predictions_csv import read_predictions

    saved_config.check_unchanged(Path(cfg.run_dir), cfg)
    evaluations = read_predictions(Path(cfg.run_dir) / "predictions.csv")
    datamodule = build_datamodule(cfg, "inspect", on_error="skip")
    read = partial(read_samples, datamodule)
    audit(evaluations, class_of_each(datamodule), label_conflicts(datamodule), read, Path(cfg.output))


def tune(cfg: DictConfig) -> None:
    """Suggest a learning rate and a batch size, on one device."""
    from lit_modules.runs.tuning import tune

    datamodule = build_datamodule(cfg, "fit")
    module = build_module(cfg, datamodule, scheduler=None)
    trainer = partial(instantiate, saved_config.resolved(cfg.trainer), **ONE_DEVICE, logger=False, _convert_="all")
    tune(module, datamodule, trainer, cfg.min_lr, cfg.max_lr, cfg.num_steps, Path(cfg.output))


def compare(cfg: DictConfig) -> None:
    """Compare finished runs."""
    from lit_modules.runs.comparison_report import compare

    compare(cfg.runs, Path(cfg.output) if cfg.output else None)


def report(cfg: DictConfig) -> None:
    """Write the report of a run as one HTML file."""
    from lit_modules.runs.report_html import write_html

    write_html(Path(cfg.run_dir), Path(cfg.output))


def sweep(cfg: DictConfig) -> None:
    """Search the best values of `cfg.space` by trials that never see the test split."""
    with extra("sweep", "optuna"):
        from lit_modules.runs.sweep import sweep
    process.check_count(cfg.trainer)
    sweep(cfg, list(HydraConfig.get().overrides.task))


ALL = (fit, test, predict, serve, export, inspect, audit, tune, sweep, compare, report)
TASKS = {task.__name__: task for task in ALL}


def build(cfg: DictConfig) -> tuple[Any, Any, Any]:
    """The data module, the LightningModule and the Trainer of a fit."""
    datamodule = build_datamodule(cfg, "fit")
    return datamodule, build_module(cfg, datamodule), build_trainer(cfg)


def use_pretrained_input(cfg: DictConfig) -> None:
    """Sets the image size and the interpolation of a pretrained network where a new run leaves them open."""
    from lit_modules.networks.pretrained import input_spec

    spec = None if cfg.get("run") else input_spec(cfg.lit_module.net)
    for key in ("image_size", "interpolation"):
        if spec and key in cfg.datamodule and cfg.datamodule[key] is None:
            cfg.datamodule[key] = getattr(spec, key)


def build_datamodule(cfg: DictConfig, stage: str, **changes: Any) -> Any:
    """The data module, with the data of a stage read."""
    from pytorch_lightning import seed_everything

    process.set_up(free_memory())
    seed_everything(cfg.seed, verbose=False)
    use_pretrained_input(cfg)
    datamodule = instantiate(saved_config.resolved(cfg.datamodule), **changes, _convert_="all")
    datamodule.prepare_data()
    datamodule.setup(stage)
    return datamodule


def build_module(cfg: DictConfig, datamodule: Any, **changes: Any) -> Any:
    """The LightningModule for the shape and the classes of the data."""
    mean, std = datamodule.mean_std
    return instantiate(
        saved_config.resolved(cfg.lit_module),
        input_shape=datamodule.input_shape,
        class_names=datamodule.class_names,
        class_counts=datamodule.class_counts,
        num_samples=len(datamodule.files("train")),
        multi_label=datamodule.is_multi_label,
        mean=mean,
        std=std,
        **changes,
        _convert_="all",
    )


def build_trainer(cfg: DictConfig, logger: bool = True) -> Any:
    """The Trainer with its callbacks and loggers."""
    cfg = saved_config.resolved(cfg)
    callbacks = [instantiate(node, _convert_="all") for node in cfg.callbacks.values() if node]
    loggers = [instantiate(node, _convert_="all") for node in cfg.logger.values() if node and logger]
    return instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, _convert_="all")


def main(cfg: DictConfig) -> Any:
    """Check the config and run its task."""
    job = HydraConfig.get()
    with one_line_errors():
        multirun.check_task(cfg.task)
    with multirun.next_job_runs(), one_line_errors():
        multirun.use_own_folder(cfg)
        derived.restore(cfg, job.overrides.task)
        derived.leave_out_parameters(cfg, job.overrides.task)
        validation.check(cfg, job.overrides.task)
        return TASKS[cfg.task](cfg)


def start() -> None:
    """Compose the config of the command line and run its task."""
    schema.register()
    with one_line_errors():
        if flags.print_answer(sys.argv[1:]):
            sys.stdout.flush()
            return
        flags.check(sys.argv[1:])
        os.environ.setdefault("LITMUS_STAMP", launcher.stamp())
        sys.argv[1:] = [*project.config_dir(sys.argv), *command_line.quoted(sys.argv[1:])]
        # Not a decorator, because the base depends on run=…; Hydra's shell completion looks for "@hydra.main".
        hydra.main("conf", config_name=saved_config.base_config(sys.argv[1:]), **schema.VERSION_BASE)(main)()
        multirun.raise_if_failed()
        sys.stdout.flush()  # while a closed pipe is still answered


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"
    process.run(start)
