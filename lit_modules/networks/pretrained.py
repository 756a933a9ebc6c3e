"""Networks of torchvision and timm with a new head and optional pretrained weights."""

from collections.abc import Callable, Collection
from pathlib import Path

import torch
import torchvision
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn

from conf.errors import UserError, nearest
from lit_modules.networks.initialization import kaiming_init_
from lit_modules.networks.weights import check_same_weights, read_weights

LIBRARY = "library"
TWO_HEADED = {"googlenet", "inception_v3"}  # return two outputs in training


def torchvision_net(input_shape: tuple[int, ...], num_classes: int, *, name: str, weights: str | None) -> nn.Module:
    """Builds a classifier of torchvision, such as resnet18, convnext_tiny or vit_b_16.

    Args:
        input_shape: (C, H, W) with 1 or 3 channels.
        num_classes: number of logits.
        name: a function in `torchvision.models`.
        weights: null: random, with a notice; empty: random, without it, if they will be replaced; library:
            torchvision's default weights, downloaded and cached; else a file: a state_dict, or the model.pt or a
            checkpoint of another run.

    Raises:
        UserError: the name is unknown, the input shape is unsupported, or the weights cannot be loaded.
    """
    models = torchvision.models
    _check_name(name, set(models.list_models(module=models)) - TWO_HEADED, "torchvision")

    def build(num_classes: int) -> nn.Module:
        return models.get_model(name, weights=None, num_classes=num_classes)

    def download() -> dict[str, Tensor]:
        return dict(models.get_model_weights(name).DEFAULT.get_state_dict(check_hash=True, weights_only=True))

    return _build_network(build, download, input_shape, num_classes, name, weights)


def timm_net(input_shape: tuple[int, ...], num_classes: int, *, name: str, weights: str | None) -> nn.Module:
    """Builds a classifier of timm, an optional dependency.

    Arguments and errors are those of `torchvision_net`; `name` is one of `timm.list_models()`.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError('lit_module.net: timm is not installed; pip install -e ".[timm]"') from error
    _check_name(name, timm.list_models(), "timm")

    def build(num_classes: int) -> nn.Module:
        return timm.create_model(name, num_classes=num_classes)

    def download() -> dict[str, Tensor]:
        return dict(timm.create_model(name, pretrained=True).state_dict())

    return _build_network(build, download, input_shape, num_classes, name, weights)


def _build_network(
    build: Callable[[int], nn.Module],
    download: Callable[[], dict[str, Tensor]],
    input_shape: tuple[int, ...],
    num_classes: int,
    name: str,
    weights: str | None,
) -> nn.Module:
    """Builds the network for these images and loads its weights."""
    head = _head_keys(build, input_shape, num_classes, name)
    net = build(num_classes)
    conv_name, conv = next((key, layer) for key, layer in net.named_modules() if isinstance(layer, nn.Conv2d))
    if input_shape[0] == 1:  # equivalent to three equal channels
        conv.weight = nn.Parameter(conv.weight.detach().sum(1, keepdim=True))
        conv.in_channels = 1
    if weights is None:
        rank_zero_only(print)(
            f"{name}: starting from random weights; for pretrained ones set lit_module.net.weights=library or a file"
        )
    if not weights:
        return net
    pretrained = _download(download) if weights == LIBRARY else _read(Path(weights))
    kernel = pretrained.get(f"{conv_name}.weight")
    if kernel is not None and kernel.shape[1] == 3 and input_shape[0] == 1:
        pretrained[f"{conv_name}.weight"] = kernel.sum(1, keepdim=True)
    pretrained = {key: value for key, value in pretrained.items() if key not in head}
    expected = {key: value for key, value in net.state_dict().items() if key not in head}
    check_same_weights(pretrained, expected, Path(weights), "lit_module.net.weights")
    net.load_state_dict(pretrained, strict=False)
    for layer in {key.rpartition(".")[0] for key in head}:
        kaiming_init_(net.get_submodule(layer), mode="fan_in")
    return net


def _head_keys(
    build: Callable[[int], nn.Module], input_shape: tuple[int, ...], num_classes: int, name: str
) -> set[str]:
    """The state_dict keys whose shape depends on the number of classes.

    Also checks that the network accepts the images. Runs on the meta device, which computes shapes only.

    Raises:
        UserError: the network does not accept images of this shape.
    """
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise UserError(f"lit_module.net: {name} needs images of 1 or 3 channels, not {list(input_shape)}; use cnn")
    with torch.device("meta"):
        net = build(num_classes).eval()
        other_state = build(num_classes + 1).state_dict()
        try:
            net(torch.zeros(1, 3, *input_shape[1:]))
        except (RuntimeError, ValueError, AssertionError) as error:
            size = "×".join(map(str, input_shape[1:]))
            problem = str(error).splitlines()[0].rstrip(".")
            raise UserError(
                f"lit_module.net.name: {name} does not accept {size} pixels ({problem}); try datamodule.image_size=224"
            ) from error
    return {key for key, value in net.state_dict().items() if value.shape != other_state[key].shape}


def _download(download: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    try:
        return download()
    except (OSError, RuntimeError, ValueError) as error:
        problem = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"lit_module.net.weights: could not be downloaded ({problem}); give a file or null") from error


def _read(file: Path) -> dict[str, Tensor]:
    """The weights of a network; those of a run lose the prefix `net.`."""
    weights = read_weights(file, "lit_module.net.weights")
    run_weights = {key.removeprefix("net."): value for key, value in weights.items() if key.startswith("net.")}
    return run_weights or weights


def _check_name(name: str, names: Collection[str], library: str) -> None:
    if name not in names:
        raise UserError(f"lit_module.net.name: {library} has no classifier {name}; {_hint(name, names)}")


def _hint(name: str, names: Collection[str]) -> str:
    """The closest name, instead of the list of all names."""
    hint = nearest(name, names)
    return hint if hint.startswith("did") else "try resnet18"
