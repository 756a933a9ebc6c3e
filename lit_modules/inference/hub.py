"""format=hub: a folder that timm, transformers or torchvision load, with a model card. Nothing is uploaded."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.inference.hub_card import model_card, read_summary
from lit_modules.inference.predictor import Predictor
from lit_modules.networks.normalize import Normalize

# The library of a network, by the function that builds it; timm has EfficientNet-Lite too.
LIBRARIES = {"timm_net": "timm", "efficientnet_lite": "timm", "torchvision_net": "torchvision"}
CROP_MODES = {"stretch": "squash", "crop": "center", "pad": "border"}  # in timm
KEPT = ("first_conv", "classifier", "fixed_input_size")  # of timm's config, for readers that replace a layer


def hub_metadata(cfg: DictConfig) -> dict[str, Any]:
    """The network and the run in an export of the format hub; nothing in other formats.

    Raises:
        UserError: the network is of no library that others have, the data are no images, timm is not installed, the
            run is unfinished, or a use is given to a format without a card.
    """
    if cfg.format.name != "hub":
        if cfg.intended_use:
            raise UserError("intended_use: is for the model card of format=hub; leave it out")
        return {}
    net = cfg.lit_module.net
    function = str(net._target_).rpartition(".")[2]
    library = LIBRARIES.get(function)
    if library is None:
        raise UserError(f"format: hub needs a network of timm or torchvision, not {function}; write format=onnx")
    if not cfg.datamodule.get("resize"):
        raise UserError("format: hub says how images are read, and this run reads arrays; write format=safetensors")
    if library == "timm" and find_spec("timm") is None:
        raise UserError('format: hub needs timm for this network; pip install -e ".[timm]"')
    name = f"tf_efficientnet_{net.name}" if function == "efficientnet_lite" else net.name.partition(".")[0]
    read_summary(Path(cfg.run_dir))
    source = cfg.datamodule.get("root") or cfg.datamodule._target_.rpartition(".")[2]
    return {
        "library": library,
        "architecture": name,
        "weights": net.get("weights"),
        "source": Path(source).resolve().name,
        "run": cfg.run_dir,
        "intended_use": cfg.intended_use,
    }


def write_hub(predictor: Predictor, inputs: Tensor, contract: str) -> tuple[dict[str, bytes], nn.Module]:
    """The weights under their library's names, config.json and the model card; and the predictor that they make.

    Args:
        inputs: `[N, C, H, W]`.
        contract: of the export, in JSON, with `hub_metadata`.

    Raises:
        UserError: torchvision has no such network for grey images.
    """
    from safetensors.torch import load, save

    metadata = json.loads(contract)
    library, architecture, class_names = (metadata[key] for key in ("library", "architecture", "class_names"))
    channels, height, width = inputs.shape[1:]
    if library == "torchvision" and channels != 3:
        raise UserError("format: torchvision's networks take RGB images, this one grey; write format=onnx")
    net = _build(library, architecture, len(class_names), channels)
    # The layers of EfficientNet-Lite have other names in timm, in the same order.
    named = zip(net.state_dict(), predictor.net.state_dict().values(), strict=True)
    weights = save({name: value.contiguous() for name, value in named}, {"format": "pt"})
    known = getattr(net, "pretrained_cfg", {})
    input_config = {
        "input_size": [channels, height, width],
        "interpolation": metadata["interpolation"],
        "crop_pct": 1.0,
        "crop_mode": CROP_MODES[metadata["resize"]],
        "mean": predictor.normalize.mean.flatten().tolist(),
        "std": predictor.normalize.std.flatten().tolist(),
        "num_classes": len(class_names),
    }
    config = {
        "architecture": architecture,
        "num_classes": len(class_names),
        "label_names": class_names,
        "problem_type": f"{'multi' if predictor.multi_label else 'single'}_label_classification",  # for transformers
        "pretrained_cfg": input_config | {key: known[key] for key in KEPT if key in known},
    }
    files = {
        "model.safetensors": weights,
        "config.json": json.dumps(config, indent=2).encode(),
        "README.md": model_card(metadata).encode(),
    }
    net.load_state_dict(load(weights))
    read = json.loads(files["config.json"])["pretrained_cfg"]
    normalize = Normalize(read["mean"], read["std"], 2)
    return files, Predictor(normalize, net, metadata["temperature"], predictor.multi_label)


def _build(library: str, architecture: str, num_classes: int, channels: int) -> nn.Module:
    if library == "timm":
        import timm

        return timm.create_model(architecture, num_classes=num_classes, in_chans=channels)
    import torchvision

    return torchvision.models.get_model(architecture, weights=None, num_classes=num_classes)
