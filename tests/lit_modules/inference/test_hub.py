"""A hub folder loads into the library of its network with the same logits, and its card says what the run knows."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image
from sklearn.metrics import precision_score, recall_score
from torch import nn

from conf.command_line import quoted
from conf.errors import UserError
from conf.text import printable
from datamodules.storage.decode import ImageSpec, decode, to_array
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.predictions import Predictions
from lit_modules.inference import hub
from lit_modules.inference.export import export
from lit_modules.inference.hub_card import model_card
from lit_modules.inference.predictor import Predictor
from lit_modules.networks.normalize import Normalize
from lit_modules.networks.pretrained import efficientnet_lite, timm_net, torchvision_net
from lit_modules.runs.predictions_csv import write_predictions
from tests.conftest import UNDRAWN, Command, configure
from tests.samples import evaluation, noise

SIZE = 48
TEMPERATURE = 1.7
MEANS = {1: ([0.4], [0.2]), 3: ([0.4, 0.5, 0.6], [0.2, 0.3, 0.1])}
HOSTILE = ["- x: {y", "<script>alert(1)</script>", "![x](http:evil)", '"---\n\x1b[2J', "올빼미"]
# The function that builds a network, its channels, and its name in the library.
NETS: dict[str, tuple[Callable[..., nn.Module], int, str]] = {
    "lite0": (efficientnet_lite, 3, "tf_efficientnet_lite0"),
    "lite1": (efficientnet_lite, 3, "tf_efficientnet_lite1"),
    "lite2": (efficientnet_lite, 3, "tf_efficientnet_lite2"),
    "test_resnet.r160_in1k": (timm_net, 1, "test_resnet"),
    "shufflenet_v2_x0_5": (torchvision_net, 3, "shufflenet_v2_x0_5"),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("lite1", "lite2")]


def predictor_of(name: str, multi_label: bool = False) -> Predictor:
    """With BatchNorm statistics of noise, and logits that depend on the input."""
    function, channels, _ = NETS[name]
    torch.manual_seed(0)
    net = function((channels, SIZE, SIZE), 3, name=name, weights=None)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the statistics are averages
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, channels, SIZE, SIZE))
        for parameter in list(net.parameters())[-2:]:
            parameter.normal_(std=0.03)
    return Predictor(Normalize(*MEANS[channels], 2), net, TEMPERATURE, multi_label)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a card reads of a run."""
    run = tmp_path / "run"
    test = evaluation(3)
    write_predictions(run / "predictions.csv", {"test": test})
    accuracy = float((test.predictions.true == test.predictions.predicted).mean())
    counts = {"samples/train": 4000, "samples/val": 50, "samples/test": 400}
    scores = {"test/acc": accuracy, "test/acc/low": accuracy - 0.05, "test/acc/high": accuracy + 0.05, "test/f1": 0.5}
    (run / "summary.json").write_text(json.dumps({"name": "mine", "layout": "class folders", **counts, **scores}))
    return run


def metadata_of(name: str, run: Path) -> dict[str, Any]:
    """The contract of an export without what the export adds."""
    choices = [
        f"lit_module/net={NETS[name][0].__name__.removesuffix('_net')}",
        f"lit_module.net.name={name}",
        "task=export",
        "format=hub",
        f"run_dir={run}",
        "datamodule=image_folder",
        "datamodule.root=/home/me/animals",
        "intended_use=**Counting** animals, at night; it's no toy: don't {rely} on it",
    ]
    metadata = {"class_names": ["cat", "dog", "올빼미"], "resize": "stretch", "interpolation": "bicubic"}
    metadata |= {"channels": NETS[name][1], "size": (SIZE, SIZE), "jpeg_draft": True, "temperature": TEMPERATURE}
    return (
        metadata
        | {"coverage": None, "set threshold": None, "multi_label": False}
        | hub.hub_metadata(configure(*quoted(choices)))
    )


def export_hub(predictor: Predictor, name: str, run: Path, output: Path, **changes: Any) -> None:
    inputs = torch.from_numpy(noise(6, NETS[name][1], SIZE, SIZE))
    with torch.inference_mode():
        expected = predictor_of(name, predictor.multi_label)(inputs)
    export(predictor, inputs, expected, metadata_of(name, run) | changes, "hub", output)


@pytest.mark.parametrize("name", ["lite0", "test_resnet.r160_in1k", *SLOW])
def test_timm_reads_the_folder_with_the_same_logits(name: str, folder: Path, tmp_path: Path) -> None:
    predictor = predictor_of(name)
    export_hub(predictor, name, folder, tmp_path / "hub")
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    net = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    assert net.pretrained_cfg["label_names"] == ["cat", "dog", "올빼미"]
    assert net.pretrained_cfg["architecture"] == NETS[name][2]
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    channels = NETS[name][1]
    images = [Image.fromarray(pixels.squeeze()) for pixels in noise(6, 70, 120, channels)]
    spec = ImageSpec(channels, (SIZE, SIZE), "stretch", False, "bicubic")
    inputs = np.stack([to_array(image, spec) for image in images])
    with torch.inference_mode():
        logits = net(torch.stack([transform(image) for image in images]))
        expected = predictor.logits(torch.from_numpy(inputs))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert expected.std(0).min() > 0.05


@pytest.mark.parametrize(
    ("name", "resize", "multi_label"),
    [
        ("lite0", "stretch", False),
        ("test_resnet.r160_in1k", "pad", False),
        ("shufflenet_v2_x0_5", "crop", False),
        ("shufflenet_v2_x0_5", "stretch", True),
    ],
)
def test_recipe_of_the_card_gives_the_probabilities(
    name: str,
    resize: str,
    multi_label: bool,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    output, channels = tmp_path / "hub", NETS[name][1]
    predictor = predictor_of(name, multi_label)
    changes = {"resize": resize, "coverage": 0.9, "set threshold": 0.0, "multi_label": multi_label}
    export_hub(predictor, name, folder, output, **changes)
    image = Image.fromarray(noise(1, 110, 230, 3)[0])  # which is decoded at half its resolution
    rotated = image.getexif()
    rotated[274] = 6
    image.save(output / "image.jpg", exif=rotated, quality=95)
    (code,) = re.findall("```python\n(.*?)```", (output / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(output)
    exec(compile(code, "recipe", "exec"), {})
    printed, shown = capsys.readouterr().out.splitlines()
    pixels = decode(str(output / "image.jpg"), ImageSpec(channels, (SIZE, SIZE), resize, True, "bicubic"))
    with torch.inference_mode():
        expected = predictor(torch.tensor(pixels)[None])[0].tolist()
    assert list(yaml.safe_load(printed).values()) == pytest.approx(expected, abs=1e-5)
    assert shown == "set: ['cat', 'dog', '올빼미']"


def test_other_preprocessing_than_verified_is_not_written(folder: Path, tmp_path: Path) -> None:
    changed = predictor_of("shufflenet_v2_x0_5")
    changed.normalize.std.mul_(1.01)
    with pytest.raises(UserError, match=r"^format: probabilities of the hub export differ by .*, so nothing"):
        export_hub(changed, "shufflenet_v2_x0_5", folder, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


@pytest.fixture
def card(folder: Path) -> Callable[..., str]:
    def card(**changes: Any) -> str:
        added = {"inputs": {"shape": ["batch", 3, SIZE, SIZE]}, "temperature": 1.0, "multi_label": False}
        return model_card(metadata_of("shufflenet_v2_x0_5", folder) | added | changes)

    return card


def test_card_says_what_the_run_knows(card: Callable[..., str]) -> None:
    text = card()
    for part in (
        "# mine\n",
        "Classifies images into 3 classes: cat, dog, 올빼미.",
        "## Intended use\n\n**Counting** animals, at night; it's no toy: don't {rely} on it\n",
        "From animals (class folders): 4,000 for training, 50 for validation, 400 for testing.",
        "shufflenet_v2_x0_5 of torchvision. Its training began with random weights.",
    ):
        assert part in text
    assert "/home/me" not in text
    assert "An image may be of several." not in text and "An image may be of several." in card(multi_label=True)
    test = evaluation(3)
    for label, name in enumerate(["class 0", "class 1", "class 2"]):
        true, correct = test.confusion[label].sum(), test.confusion[label, label]
        assert re.search(rf"\| {name} \| {true} \| .* \| {correct / true:.3f} \(0\.\d+ – 0\.\d+\) \|", text)
    data = ModelCard(text).data
    assert data.library_name == "torchvision" and data.pipeline_tag == "image-classification"
    assert [(result.metric_type, result.dataset_name) for result in data.eval_results] == [
        ("accuracy", "animals"),
        ("f1", "animals"),
    ]


def test_card_says_what_is_not_known(card: Callable[..., str], folder: Path) -> None:
    (folder / "predictions.csv").unlink()
    text = card(intended_use=None)
    assert "## Intended use\n\nNone was given by " in text and "None: the run kept no predictions" in text
    (folder / "summary.json").unlink()
    with pytest.raises(UserError, match=r"summary.json: is missing or malformed; finish the training with run="):
        card()


def test_classes_of_several_labels_have_their_scores(card: Callable[..., str], folder: Path) -> None:
    none = np.zeros(0, np.int64)
    true, predicted = noise(40, 3, seed=1) % 2, noise(40, 3, seed=2) % 2
    predictions = Predictions(np.arange(40), true, predicted, predicted.astype(np.float32), none)
    files = [f"{i}.png" for i in range(40)]
    test = Evaluation(["cat", "dog", "올빼미"], files, predictions, np.zeros((0, 1, 2, 2)))
    write_predictions(folder / "predictions.csv", {"test": test})
    text = card(multi_label=True)
    for label, name in enumerate(test.class_names):
        precision, recall = (score(true[:, label], predicted[:, label]) for score in (precision_score, recall_score))
        row = rf"\| {name} \| {true[:, label].sum()} \| {precision:.3f} \(.*\) \| {recall:.3f} \(.*\) \|"
        assert re.search(row, text)


def test_names_have_no_effect_in_a_card(card: Callable[..., str], folder: Path) -> None:
    for name in HOSTILE:
        summary = json.loads((folder / "summary.json").read_text()) | {"name": name, "layout": name}
        (folder / "summary.json").write_text(json.dumps(summary))
        text = card(class_names=HOSTILE[:3], source=name)
        front, body = re.fullmatch(r"---\n(.*?)\n---\n\n(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        assert yaml.safe_load(front)["model-index"][0]["name"] == printable(name)
        html = MarkdownIt("commonmark").render(body)
        assert "\x1b" not in text and not re.search("<script|<img|<a ", html)


@pytest.mark.parametrize(
    ("choices", "line"),
    [
        ((), "format: hub needs a network of timm or torchvision, not CNN; write format=onnx"),
        (("format=onnx", "intended_use=fun"), "intended_use: is for the model card of format=hub; leave it out"),
        (("lit_module/net=timm", "lit_module.net.name=resnet18", "datamodule=arrays"), "format: hub .* reads arrays; "),
        (("lit_module/net=timm", "lit_module.net.name=resnet18"), "format: hub needs timm .*pip install.*timm"),
    ],
)
def test_run_that_nobody_else_could_load_is_one_line(
    choices: tuple[str, ...], line: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"^{line}"):
        hub.hub_metadata(configure("task=export", "format=hub", f"run_dir={folder}", *choices))


def test_grey_images_of_torchvision_are_one_line() -> None:
    net = torchvision_net((1, SIZE, SIZE), 3, name="resnet18", weights=None)
    contract = {"library": "torchvision", "architecture": "resnet18", "class_names": [*"abc"]}
    with pytest.raises(UserError, match=r"^format: torchvision's networks take RGB images"):
        hub.write_hub(Predictor(Normalize([0.5], [0.2], 2), net, 1), torch.zeros(2, 1, 8, 8), json.dumps(contract))


def test_run_of_own_photographs_is_exported(run: Callable[..., Path], command: Command, images: Path) -> None:
    small = ("lit_module.net.weights=null", "lit_module.freeze=[]", "datamodule.image_size=32", "trainer.max_epochs=1")
    folder = run("+experiment=image_folder", "devices=cpu", f"datamodule.root={images}", *UNDRAWN, *small)
    result = command(f"run={folder}", "task=export", "format=hub", "intended_use=Light, or dark")
    assert result.returncode == 0 and "validation samples" in result.stdout, result.stderr
    net = timm.create_model(f"local-dir:{folder / 'export'}", pretrained=True)
    assert net.pretrained_cfg["label_names"] == ["dark", "light"]
    assert "\n\nLight, or dark\n\n" in (folder / "export" / "README.md").read_text(encoding="utf-8")
