"""Reads the validation predictions of a finished run, to which temperature, sets and thresholds are fitted."""

import json
from pathlib import Path

from conf.errors import UserError
from lit_modules.evaluation.predictions import Predictions
from lit_modules.runs import checkpoints
from lit_modules.runs.predictions_csv import read_predictions


def validation_predictions(folder: Path, key: str) -> Predictions:
    """The predictions of the best epoch on the validation split, from predictions.csv.

    Args:
        folder: of the run.
        key: of the config that needs them, for messages.

    Raises:
        UserError: the file is missing, malformed or of another epoch, or has no validation samples.
    """
    path = folder / "predictions.csv"
    fix = f"finish the training with run={folder}"
    try:
        predictions = read_predictions(path)["val"].predictions
        epoch = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["best_epoch"]
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{key}: {path} has no readable validation samples; {fix}, or leave {key} out") from error
    if epoch != checkpoints.best(folder)["epoch"]:
        raise UserError(f"{key}: {path} is older than the best epoch; {fix}")
    return predictions
