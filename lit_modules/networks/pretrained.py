"""Networks of torchvision and timm by name, with a head for our classes; weights random, the library's, or a file's."""

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
TWO_HEADED = {"googlenet", "inception_v3"}  # in training they give two outputs


def torchvision_net(input_shape: tuple[int, ...], num_classes: int, *, name: str, weights: str | None) -> nn.Module:
    """A classifier of torchvision, such as resnet18, convnext_tiny, vit_b_16.

    Args:
        input_shape: (C, H, W), C being 1 or 3.
        num_classes: number of logits.
        name: of a function in `torchvision.models`.
        weights: null: random ones, empty: likewise, for others will replace them; library: those that torchvision
            recommends, downloaded once; else a file of them, or another run's model.pt or checkpoint.
    """
    models = torchvision.models
    _refuse_unknown(name, set(models.list_models(module=models)) - TWO_HEADED, "torchvision")

    def build(count: int) -> nn.Module:
        return models.get_model(name, weights=None, num_classes=count)

    def download() -> dict[str, Tensor]:
        return dict(models.get_model_weights(name).DEFAULT.get_state_dict(check_hash=True, weights_only=True))

    return _fit(build, download, input_shape, num_classes, name, weights)


def timm_net(input_shape: tuple[int, ...], num_classes: int, *, name: str, weights: str | None) -> nn.Module:
    """A classifier of timm, an extra; parameters as for `torchvision_net`, `name` one of `timm.list_models()`."""
    try:
        import timm
    except ImportError as error:
        raise UserError('lit_module.net: timm is not installed; pip install -e ".[timm]"') from error
    _refuse_unknown(name, timm.list_models(), "timm")

    def build(count: int) -> nn.Module:
        return timm.create_model(name, num_classes=count)

    def download() -> dict[str, Tensor]:
        return dict(timm.create_model(name, pretrained=True).state_dict())

    return _fit(build, download, input_shape, num_classes, name, weights)


def _fit(
    build: Callable[[int], nn.Module],
    download: Callable[[], dict[str, Tensor]],
    input_shape: tuple[int, ...],
    num_classes: int,
    name: str,
    weights: str | None,
) -> nn.Module:
    """The network that `build` makes for a number of classes, fitted to these images and weights."""
    head = _head(build, input_shape, num_classes, name)
    net = build(num_classes)
    first, conv = next((key, layer) for key, layer in net.named_modules() if isinstance(layer, nn.Conv2d))
    if input_shape[0] == 1:  # grey images give what they would as RGB of three equal channels
        conv.weight = nn.Parameter(conv.weight.detach().sum(1, keepdim=True))
        conv.in_channels = 1
    if weights is None:
        rank_zero_only(print)(
            f"{name}: the first weights are random; lit_module.net.weights=library, or a file of them"
        )
    if not weights:
        return net
    theirs = _download(download) if weights == LIBRARY else _read(Path(weights))
    kernel = theirs.get(f"{first}.weight")
    if kernel is not None and kernel.shape[1] == 3 and input_shape[0] == 1:
        theirs[f"{first}.weight"] = kernel.sum(1, keepdim=True)
    theirs, ours = ({key: value for key, value in w.items() if key not in head} for w in (theirs, net.state_dict()))
    check_same_weights(theirs, ours, Path(weights), "lit_module.net.weights")
    net.load_state_dict(theirs, strict=False)
    for layer in {key.rpartition(".")[0] for key in head}:
        kaiming_init_(net.get_submodule(layer), mode="fan_in")
    return net


def _head(build: Callable[[int], nn.Module], input_shape: tuple[int, ...], num_classes: int, name: str) -> set[str]:
    """The weights that belong to classes: those whose shape follows their number. Refuses images that do not fit.

    On torch's meta device, where nothing is computed.
    """
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise UserError(f"lit_module.net: {name} takes images of 1 or 3 channels, not {list(input_shape)}; use cnn")
    with torch.device("meta"):
        net, other = build(num_classes).eval(), build(num_classes + 1).state_dict()
        try:
            net(torch.zeros(1, 3, *input_shape[1:]))
        except (RuntimeError, ValueError, AssertionError) as error:
            size, problem = "×".join(map(str, input_shape[1:])), str(error).splitlines()[0].rstrip(".")
            fix = "try datamodule.image_size=224"
            raise UserError(f"lit_module.net.name: {name} cannot take {size} ({problem}); {fix}") from error
    return {key for key, value in net.state_dict().items() if value.shape != other[key].shape}


def _download(download: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    try:
        return download()
    except (OSError, RuntimeError, ValueError) as error:
        problem = str(error).splitlines()[0].rstrip(".")
        fix = "give a file of them, or null"
        raise UserError(f"lit_module.net.weights: could not be downloaded ({problem}); {fix}") from error


def _read(file: Path) -> dict[str, Tensor]:
    """The network's weights in a file, under its own names: a run's have a prefix."""
    found = read_weights(file, "lit_module.net.weights")
    ours = {key.removeprefix("net."): value for key, value in found.items() if key.startswith("net.")}
    return ours or found


def _refuse_unknown(name: str, names: Collection[str], library: str) -> None:
    if name not in names:
        raise UserError(f"lit_module.net.name: {library} has no classifier {name}; {_hint(name, names)}")


def _hint(name: str, names: Collection[str]) -> str:
    """One close name; not all of the thousand."""
    hint = nearest(name, names)
    return hint if hint.startswith("did") else "try resnet18"
