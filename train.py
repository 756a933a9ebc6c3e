"""Litmus: trains, resumes and tests CNN classifiers.

python train.py +experiment=digits
python train.py run=logs/digits/2026-01-31_12-00-00 task=test
"""

import logging
import os
import shlex
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from conf import run_folder, schema
from conf.errors import UserError, one_line_errors

# torch and Lightning are imported inside the tasks, so that --help, --cfg job and wrong keys are answered at once.

# What the HPARAMS tab of TensorBoard compares runs by: the best epoch's scores.
SCORES = ("loss", "acc", "f1", "likelihood")
HPARAMS_TAGS = [f"{split}/{score}" for split in ("val_best", "test") for score in SCORES]


def build(cfg: DictConfig) -> tuple[Any, Any, Any]:
    """The data module with its data read, the LightningModule that fits them, and the Trainer."""
    from hydra.utils import instantiate
    from pytorch_lightning import seed_everything
    from pytorch_lightning.utilities import rank_zero_only

    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # at INFO they advertise
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own use of a deprecated call
    warnings.filterwarnings("ignore", "ReduceLROnPlateau conditioned on metric")  # LitClassifier steps it
    warnings.filterwarnings("ignore", "The ``compute`` method of metric Scores was called before")  # an empty share
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # as it must on resume

    seed_everything(cfg.seed, verbose=False)
    datamodule = instantiate(cfg.datamodule, _convert_="all")
    rank_zero_only(datamodule.prepare_data)()
    datamodule.setup()
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
    module.files = datamodule.files
    callbacks = [instantiate(node, _convert_="all") for node in cfg.callbacks.values() if node]
    loggers = [instantiate(node, _convert_="all") for node in cfg.logger.values() if node]
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, _convert_="all")
    return datamodule, module, trainer


def fit(cfg: DictConfig) -> float:
    """Trains, or goes on with the run `cfg.run`; then tests the best epoch once. Returns its monitored score."""
    from pytorch_lightning.callbacks import WeightAveraging

    for part in ("callbacks.checkpoint", "logger.epoch_table"):
        if not OmegaConf.select(cfg, part):
            raise UserError(f"{part}: a run cannot do without it; leave it in")
    folder = Path(cfg.run_dir)
    resume_from = None
    if cfg.run:
        run_folder.refuse_changes(folder, cfg)
        resume_from = run_folder.newest_checkpoint(folder)
    datamodule, module, trainer = build(cfg)
    if trainer.world_size > 1 and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        # Lightning starts the other ranks with this same command line, so that each would run a sweep of its own.
        raise UserError("devices: the runs of a sweep take one device each; use devices=gpu, or start them one by one")
    if cfg.init_from and not cfg.run:
        module.load_network(Path(cfg.init_from))
    with run_folder.claim(folder, cfg) if trainer.is_global_zero else nullcontext():
        if trainer.is_global_zero:
            print(f"{cfg.name} → {folder}\nwatch: tensorboard --logdir {cfg.logs_dir}", flush=True)
        sections = ("datamodule", "lit_module", "trainer")
        choices = {section: OmegaConf.to_container(cfg[section], resolve=True) for section in sections}
        for logger in trainer.loggers:
            logger.log_hyperparams({"seed": cfg.seed, **choices}, dict.fromkeys(HPARAMS_TAGS))
        trainer.fit(module, datamodule, ckpt_path=resume_from, weights_only=True)
        load_best(module, folder)
        # It would bring its own last average in for each validation.
        trainer.callbacks = [callback for callback in trainer.callbacks if not isinstance(callback, WeightAveraging)]
        scores: dict[str, float] = {}
        for score in (
            (trainer.validate, trainer.test) if OmegaConf.select(cfg, "callbacks.predictions") else (trainer.test,)
        ):
            score(module, datamodule, verbose=False)
            scores |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        epochs = run_folder.read_metrics(folder)
        best_epoch = run_folder.best_epoch(folder)
        (best_row,) = [row for row in epochs if row["epoch"] == best_epoch]
        scores |= {name: value for name, value in best_row.items() if "/" in name}
        if trainer.is_global_zero:
            facts = {"name": cfg.name, "seed": cfg.seed, "monitor": cfg.monitor, "best_epoch": best_epoch}
            facts |= {f"samples/{split}": len(datamodule.files(split)) for split in ("train", "val", "test")}
            scores["seconds"] = sum(row["seconds"] for row in epochs)
            report(folder, trainer, facts | scores | parameter_facts(module.net), choices)
    return scores[cfg.monitor]


def report(folder: Path, trainer: Any, facts: dict[str, Any], settings: dict[str, Any]) -> None:
    """Fills the HPARAMS tab, writes the run's summary and report, and says where things lie."""
    from lit_modules.prediction_files import write_confusion, write_predictions
    from lit_modules.report import print_scores, write_report

    best_epoch = facts["best_epoch"]
    best_scores = {f"val_best/{score}": facts[f"val/{score}"] for score in SCORES if f"val/{score}" in facts}
    for logger in trainer.loggers:
        logger.log_metrics(best_scores, step=best_epoch)
    run_folder.write_summary(folder, facts)
    places = {f"best, epoch {best_epoch + 1}": folder / "model.pt", "scores": folder / "summary.json"}
    evaluations = trainer.lightning_module.evaluations
    if evaluations:
        write_predictions(folder / "predictions.csv", evaluations)
        write_confusion(folder / "confusion.csv", evaluations)
        write_report(folder, evaluations, settings, shlex.join(["python", *sys.argv]), trainer.strategy.root_device)
        places |= {"predictions": folder / "predictions.csv", "report": folder / "report.md"}
    print_scores(facts, places)


def test(cfg: DictConfig) -> None:
    """Tests the best epoch of the run `cfg.run`."""
    from lit_modules.report import print_scores

    run_folder.best_checkpoint(Path(cfg.run_dir))
    run_folder.refuse_changes(Path(cfg.run_dir), cfg)  # another split would test on pictures of the training
    cfg.logger = {}  # the dashboard stays that of the training
    datamodule, module, trainer = build(cfg)
    load_best(module, Path(cfg.run_dir))
    trainer.test(module, datamodule, verbose=False)
    if trainer.is_global_zero:
        print_scores(trainer.callback_metrics, {})


def load_best(module: Any, folder: Path) -> None:
    """Loads the best epoch's weights. Not by Lightning's ckpt_path: its averaging callback would load the weights
    that are not averaged."""
    import torch

    checkpoint = torch.load(run_folder.best_checkpoint(folder), map_location="cpu", weights_only=True)
    module.refuse_other_data(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])


def parameter_facts(net: Any) -> dict[str, Any]:
    """Counts and shapes of a network's parameters, as summary.json has them."""
    parameters = dict(net.named_parameters())
    return {
        "params/total": sum(parameter.numel() for parameter in parameters.values()),
        "params/trainable": sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad),
    } | {f"params/shape/{name}": list(parameter.shape) for name, parameter in parameters.items()}


TASKS = {"fit": fit, "test": test}


def main(cfg: DictConfig) -> Any:
    """Checks the config and runs its task."""
    with one_line_errors():
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            cfg.run_dir = str(Path(cfg.run_dir) / str(HydraConfig.get().job.num))
        schema.check(cfg)
        return TASKS[cfg.task](cfg)


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"
    os.environ.setdefault("LITMUS_STAMP", time.strftime("%Y-%m-%d_%H-%M-%S"))
    schema.register()
    with one_line_errors():
        # Not as a decorator, for the base depends on run=…; but Hydra's shell completion looks for "@hydra.main".
        hydra.main(version_base="1.3", config_path="conf", config_name=run_folder.base_config(sys.argv[1:]))(main)()
