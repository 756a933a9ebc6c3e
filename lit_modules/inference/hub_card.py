"""The model card of format=hub: data, intended use, scores with intervals, limits, and how to load the folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from conf.errors import UserError
from conf.text import markdown, printable
from lit_modules.evaluation.evaluation import Evaluation, label_counts
from lit_modules.evaluation.markdown import markdown_table
from lit_modules.evaluation.significance import CONFIDENCE, wilson
from lit_modules.inference.export_example import SET
from lit_modules.inference.image_reading import read_function
from lit_modules.runs.predictions_csv import read_predictions
from lit_modules.runs.score_table import score_table

MAX_ROWS = 200  # of classes
USES = {"train": "training", "val": "validation", "test": "testing"}
METRICS = {"accuracy": "test/acc", "f1": "test/f1"}  # by their names on the Hugging Face Hub
STARTS = {None: "random weights", "": "random weights", "library": "pretrained weights"}  # else a name or a file
NO_USE = "None was given by the person who exported this model."
NO_SCORES = "None: the run kept no predictions of a test split."
BY_CLASS = (
    f"Precision and recall of each class with {CONFIDENCE:.0%} intervals (Wilson), lowest F1 first{{cut}}. They hold "
    "for images drawn as those of the test split were, not for another camera, place or time."
)
OTHER_IMAGES = "The network knows no other classes: an image of anything else may get a high probability of one."
SEVERAL = " An image may be of several."
DRAFT = (
    " It decodes large JPEG files in full, not at reduced resolution as in training and below, which gives slightly "
    "other probabilities."
)
SETS = (
    "The set that is printed below holds the true class with probability {coverage}, on average over images like those "
    "of the validation split."
)
TIMM_FIT = {
    "stretch": "`timm.data.create_transform` resizes as below.",
    "crop": "`timm.data.create_transform` resizes nearly as below.",
    "pad": "`timm.data.create_transform` pads with the mean colour, not with black as in training and below.",
}
LOAD = {
    "timm": """\
net = timm.create_model("local-dir:.", pretrained=True).eval()
spec = net.pretrained_cfg
class_names = spec["label_names"]
""",
    "torchvision": """\
config = json.loads(Path("config.json").read_text())
class_names, spec = config["label_names"], config["pretrained_cfg"]
net = torchvision.models.get_model(config["architecture"], num_classes=len(class_names)).eval()
net.load_state_dict(load_file("model.safetensors"))
""",
}
IMPORTS = {
    "timm": "import timm\n",
    "torchvision": """\
import json
from pathlib import Path

import torchvision
from safetensors.torch import load_file
""",
}
READING = """\
import sys

import numpy
from PIL import Image, ImageOps

{read}"""
RECIPE = """\
```python
{imports}import torch
from torchvision.transforms.functional import normalize

{reading}
{load}inputs = normalize(torch.from_numpy(read("image.jpg")), spec["mean"], spec["std"])
with torch.inference_mode():
    logits = net(inputs)[0]
probabilities = {logits}.{activation}.tolist()
print(dict(zip(class_names, probabilities, strict=True)))
{sets}```"""


def model_card(metadata: dict[str, Any]) -> str:
    """README.md of an export, in Markdown with metadata in YAML.

    Args:
        metadata: the contract of the export, with `lit_modules.inference.hub.hub_metadata`.
    """
    folder, class_names = Path(metadata["run"]), metadata["class_names"]
    summary = read_summary(folder)
    name = printable(str(summary.get("name")))
    shown = ", ".join(map(markdown, class_names[:MAX_ROWS])) + ", …" * (len(class_names) > MAX_ROWS)
    start = STARTS.get(metadata["weights"]) or markdown(Path(metadata["weights"]).name)
    header = yaml.safe_dump(_header(name, metadata, summary), sort_keys=False, allow_unicode=True)
    sections = [
        f"---\n{header}---",
        f"# {markdown(name)}",
        f"Classifies images into {len(class_names):,} classes: {shown}.{SEVERAL * metadata['multi_label']}",
        f"Network: {metadata['architecture']} of {metadata['library']}. Its training began with {start}.",
        "## Intended use",
        metadata["intended_use"] or NO_USE,
        "## Data",
        _data(metadata, summary),
        "## Test scores",
        *_scores(folder, summary),
        "## Limits",
        *_limits(metadata),
        "## How to load it",
        "In this folder:",
        _recipe(metadata),
    ]
    return "\n\n".join(sections) + "\n"


def _header(name: str, metadata: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """Metadata as the Hugging Face Hub reads them."""
    task, library = "image-classification", metadata["library"]
    header: dict[str, Any] = {"library_name": library, "pipeline_tag": task, "tags": [task, library]}
    scores = [{"type": metric, "value": summary[tag]} for metric, tag in METRICS.items() if tag in summary]
    if scores:
        dataset = {"name": printable(metadata["source"]), "type": "test split"}
        result = {"task": {"type": task}, "dataset": dataset, "metrics": scores}
        header |= {"metrics": list(METRICS), "model-index": [{"name": name, "results": [result]}]}
    return header


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json of a finished run; its counts and test scores are numbers.

    Raises:
        UserError: it is missing or malformed.
    """
    path = folder / "summary.json"
    try:
        summary = dict(json.loads(path.read_text(encoding="utf-8")))
        numbers = [key for key in summary if key.startswith(("samples/", "test/"))]
        return summary | {key: float(summary[key]) for key in numbers}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: is missing or malformed; finish the training with run={folder}") from error


def _data(metadata: dict[str, Any], summary: dict[str, Any]) -> str:
    layout = f" ({markdown(str(summary['layout']))})" if summary.get("layout") else ""
    numbers = {use: summary.get(f"samples/{split}", 0) for split, use in USES.items()}
    counts = [f"{number:,.0f} for {use}" for use, number in numbers.items()]
    return f"From {markdown(metadata['source'])}{layout}: {', '.join(counts)}."


def _scores(folder: Path, summary: dict[str, Any]) -> list[str]:
    path = folder / "predictions.csv"
    test = read_predictions(path).get("test") if path.exists() else None
    if test is None:
        return [NO_SCORES]
    cut = f", of {len(test.class_names):,} the first {MAX_ROWS}" if len(test.class_names) > MAX_ROWS else ""
    return [score_table(summary, ["test"]), BY_CLASS.format(cut=cut), _class_table(test)]


def _class_table(test: Evaluation) -> str:
    if test.is_multi_label:
        correct, true, predicted = label_counts(test.predictions.true, test.predictions.predicted).tolist()
    else:
        counts = test.confusion.diagonal(), test.confusion.sum(1), test.confusion.sum(0)
        correct, true, predicted = np.stack(counts).tolist()
    rows = []
    for label in test.lowest_first[:MAX_ROWS].tolist():
        fractions = [_fraction(correct[label], total) for total in (predicted[label], true[label])]
        rows.append((test.class_names[label], f"{true[label]:,}", *fractions))
    return markdown_table(("class", "test images", "precision", "recall"), rows)


def _fraction(correct: int, total: int) -> str:
    if not total:
        return "–"
    low, high = wilson(correct, total)
    return f"{correct / total:.3f} ({low:.3f} – {high:.3f})"


def _limits(metadata: dict[str, Any]) -> list[str]:
    limits = [OTHER_IMAGES]
    if metadata["set threshold"] is not None:
        limits.append(SETS.format(coverage=metadata["coverage"]))
    if metadata["library"] == "timm":
        limits.append(TIMM_FIT[metadata["resize"]] + DRAFT * metadata["jpeg_draft"])
    return limits


def reading(metadata: dict[str, Any]) -> str:
    """Source code of `read`: path → float32 `[1, C, H, W]` in [0, 1]."""
    inputs = metadata["inputs"] | {"dtype": "float32"}
    return READING.format(read=read_function(metadata | {"inputs": inputs}))


def _recipe(metadata: dict[str, Any]) -> str:
    threshold = metadata["set threshold"]
    temperature = metadata["temperature"]  # of all classes, or of each
    return RECIPE.format(
        imports=IMPORTS[metadata["library"]],
        load=LOAD[metadata["library"]],
        reading=reading(metadata),
        logits="logits" if temperature == 1 else f"(logits / torch.tensor({temperature}))",
        activation="sigmoid()" if metadata["multi_label"] else "softmax(0)",
        sets="" if threshold is None else SET.format(threshold=threshold),
    )
