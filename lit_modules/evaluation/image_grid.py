"""Grids of what goes through a network: images, series and volumes, filters, feature maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor, nn

from lit_modules.evaluation.figures import COLORS, drawable, short, styled

CAPTION = 0.17  # inches of a line
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = 4
MAPS = 8


@styled
def grid(samples: Sequence[np.ndarray], captions: Sequence[str], title: str, columns: int = 8) -> Figure:
    """Samples `[C, *spatial]` in rows, a caption below each. Series are drawn as lines, one a channel; of a volume the
    middle slice; of channels other than 1 or 3 the first. What leaves [0, 1] is scaled into it."""
    columns = min(columns, max(len(samples), 5))
    rows = max(1, -(-len(samples) // columns))
    lines = max((caption.count("\n") + 1 for caption in captions if caption), default=0)
    width = 6.8 / max(columns, 8) if lines < 2 else 1.45
    height = width + CAPTION * lines
    size = (columns * width + 0.2, rows * height + 0.5)
    figure = Figure(figsize=size)
    axes = figure.add_axes((0.1 / size[0], 0.05 / size[1], 1 - 0.2 / size[0], 1 - 0.5 / size[1]))
    for i, (sample, caption) in enumerate(zip(samples, captions, strict=True)):
        x, y = (i % columns) * width, -(i // columns) * height
        _tile(axes, sample, x + 0.04, y, width - 0.08)
        axes.text(
            x + 0.04,
            y - width + 0.04,
            drawable(caption) if lines > 1 else short(caption, int(width * 15)),
            va="top",
            fontsize=7,
            clip_on=True,
        )
    axes.set(xlim=(0, columns * width), ylim=(-rows * height, 0), aspect="equal")
    axes.axis("off")
    axes.set_title(title if len(samples) else f"{title}: none")
    return figure


def _tile(axes: Any, sample: np.ndarray, x: float, y: float, side: float) -> None:
    """One sample in the square whose upper left corner is (x, y)."""
    low, high = min(0.0, float(sample.min())), max(1.0, float(sample.max()))
    sample = (sample - low) / (high - low)
    if sample.ndim == 2:  # [C, L]
        for color, channel in zip(COLORS, sample, strict=False):
            axes.plot(x + np.linspace(0, side, len(channel)), y - side + channel * side, color=color, linewidth=1)
        return
    if sample.ndim == 4:  # [C, D, H, W] → [C, H, W]
        sample = sample[:, sample.shape[1] // 2]
    height, width = np.array(sample.shape[1:]) * side / max(sample.shape[1:])
    pixels = np.moveaxis(sample, 0, -1) if len(sample) == 3 else sample[0]
    # Not by imshow, which for each of them looks for the limits of the whole.
    image = AxesImage(axes, cmap="gray", extent=(x, x + width, y - height, y), interpolation="nearest")
    image.set(data=pixels, clim=(0, 1))
    axes.add_image(image)


def filter_grid(net: nn.Module) -> Figure | None:
    """The weights of the first convolution, at most 64 of them; None if there is none."""
    first = next((layer for layer in net.modules() if isinstance(layer, CONVOLUTIONS)), None)
    if first is None:
        return None
    filters = [_stretch(each) for each in first.weight.detach()[:64].float().cpu().numpy()]
    title = "Filters of the first convolution, each from its lowest to its highest weight"
    return grid(filters, [str(i) for i in range(len(filters))], title, columns=16)


def feature_map_grid(module: nn.Module, net: nn.Module, sample: Tensor) -> Figure | None:
    """What up to four convolutions of `net`, from the first to the last, make of one sample `[1, C, *spatial]` that
    passes `module`, which is to be in evaluation mode; None if there is none. Changes nothing in them."""
    layers = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, CONVOLUTIONS)]
    if not layers:
        return None
    maps: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        return lambda _layer, _inputs, output: maps.update({name: output[0].float().cpu().numpy()})

    chosen = [layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, LAYERS).astype(int))]
    handles = [layer.register_forward_hook(keep(name)) for name, layer in chosen]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # compiled code passes hooks by
            module(sample)
    finally:
        for handle in handles:
            handle.remove()
    tiles, captions = [sample[0].float().cpu().numpy()], ["input"]
    for name, channels in maps.items():
        missing = -len(tiles) % MAPS
        tiles += [np.ones((1, *[1] * (channels.ndim - 1)))] * missing  # white, to the end of the row
        captions += [""] * missing
        tiles += [_stretch(channel[None]) for channel in channels[:MAPS]]
        captions += [f"{name} {i}" for i in range(len(channels[:MAPS]))]
    return grid(tiles, captions, "Feature maps of the first channels, each from its lowest to its highest value", MAPS)


def _stretch(sample: np.ndarray) -> np.ndarray:
    """Its values from the lowest to the highest, in [0, 1]."""
    low, high = sample.min(), sample.max()
    return (sample - low) / max(high - low, 1e-12)
