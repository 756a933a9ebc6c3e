"""Grids of images, series, volumes, filters and feature maps."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor, nn

from lit_modules.evaluation.figures import COLORS, drawable, short, styled

CAPTION = 0.17  # height of a caption line in inches
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MAX_LAYERS = 4
MAX_MAPS = 8
MAX_OPACITY = 0.7  # of an activation map, which the sample shows through


@styled
def grid(
    samples: Sequence[np.ndarray],
    captions: Sequence[str],
    title: str,
    columns: int = 8,
    maps: Sequence[np.ndarray | None] | None = None,
) -> Figure:
    """Draws samples `[C, *spatial]` in rows with a caption below each.

    A series is drawn as one line per channel, a volume as its middle slice, and an image with neither 1 nor 3 channels
    as its first channel. Values outside [0, 1] are rescaled into it.

    Args:
        samples, captions: of the tiles, row by row.
        title: above all.
        columns: tiles of a row.
        maps: for each sample, an activation map `[*spatial]` in [0, 1], or None; drawn over the series or grey image.
    """
    columns = min(columns, max(len(samples), 5))
    rows = max(1, -(-len(samples) // columns))
    lines = max((caption.count("\n") + 1 for caption in captions if caption), default=0)
    width = 6.8 / max(columns, 8) if lines < 2 else 1.45
    height = width + CAPTION * lines
    size = (columns * width + 0.2, rows * height + 0.5)
    figure = Figure(figsize=size)
    axes = figure.add_axes((0.1 / size[0], 0.05 / size[1], 1 - 0.2 / size[0], 1 - 0.5 / size[1]))
    for i, (sample, caption, heat) in enumerate(zip(samples, captions, maps or [None] * len(samples), strict=True)):
        x, y = (i % columns) * width, -(i // columns) * height
        _tile(axes, sample, x + 0.04, y, width - 0.08, heat)
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


def _tile(axes: Any, sample: np.ndarray, x: float, y: float, side: float, heat: np.ndarray | None) -> None:
    """Draws one sample, and its activation map, in the square whose upper left corner is (x, y)."""
    low, high = min(0.0, float(sample.min())), max(1.0, float(sample.max()))
    sample = (sample - low) / (high - low)
    if sample.ndim == 2:  # [C, L]
        for color, channel in zip(COLORS, sample, strict=False):
            axes.plot(x + np.linspace(0, side, len(channel)), y - side + channel * side, color=color, linewidth=1)
        if heat is not None:
            _draw_pixels(axes, colored(heat[None]), x, y, side, side)
        return
    if sample.ndim == 4:  # [C, D, H, W] → [C, H, W]
        sample = sample[:, sample.shape[1] // 2]
    height, width = np.array(sample.shape[1:]) * side / max(sample.shape[1:])
    pixels = np.moveaxis(sample, 0, -1) if len(sample) == 3 else sample[0]
    if heat is None:
        _draw_pixels(axes, pixels, x, y, width, height)
    else:
        _draw_pixels(axes, overlay(sample, heat), x, y, width, height)


def _draw_pixels(axes: Any, pixels: np.ndarray, x: float, y: float, width: float, height: float) -> None:
    # Not imshow, which updates the limits of the axes for every image.
    image = AxesImage(axes, cmap="gray", extent=(x, x + width, y - height, y), interpolation="nearest")
    image.set(data=pixels, clim=(0, 1))
    axes.add_image(image)


def colored(heat: np.ndarray) -> np.ndarray:
    """The colours of an activation map, RGBA `[*spatial, 4]`: more opaque where it is higher. Viridis, whose steps
    look equal."""
    colors = matplotlib.colormaps["viridis"](heat)
    colors[..., 3] = MAX_OPACITY * heat
    return colors


def overlay(sample: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """An image `[C, H, W]` in [0, 1] in grey under its activation map `[H, W]`; RGB `[H, W, 3]`."""
    grey = sample.mean(0) if len(sample) == 3 else sample[0]
    colors = colored(heat)
    return grey[..., None] * (1 - colors[..., 3:]) + colors[..., :3] * colors[..., 3:]


def filter_grid(net: nn.Module) -> Figure | None:
    """The first 64 filters of the first convolution; None without a convolution."""
    first = next((layer for layer in net.modules() if isinstance(layer, CONVOLUTIONS)), None)
    if first is None:
        return None
    filters = [_min_max_scale(weights) for weights in first.weight.detach()[:64].float().cpu().numpy()]
    title = "Filters of the first convolution, each scaled to [min, max]"
    return grid(filters, [str(i) for i in range(len(filters))], title, columns=16)


def feature_map_grid(module: nn.Module, net: nn.Module, sample: Tensor) -> Figure | None:
    """Outputs of up to four convolutions of `net`, evenly spaced by depth; None without a convolution.

    Args:
        module: in eval mode; its forward runs `net`. It is not modified.
        net: the network whose convolutions are shown.
        sample: `[1, C, *spatial]`.
    """
    layers = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, CONVOLUTIONS)]
    if not layers:
        return None
    maps: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        return lambda _layer, _inputs, output: maps.update({name: output[0].float().cpu().numpy()})

    chosen = [layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, MAX_LAYERS).astype(int))]
    handles = [layer.register_forward_hook(keep(name)) for name, layer in chosen]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # compiled code skips hooks
            module(sample)
    finally:
        for handle in handles:
            handle.remove()
    tiles, captions = [sample[0].float().cpu().numpy()], ["input"]
    for name, channels in maps.items():
        missing = -len(tiles) % MAX_MAPS
        tiles += [np.ones((1, *[1] * (channels.ndim - 1)))] * missing  # white tiles fill the row
        captions += [""] * missing
        tiles += [_min_max_scale(channel[None]) for channel in channels[:MAX_MAPS]]
        captions += [f"{name} {i}" for i in range(len(channels[:MAX_MAPS]))]
    return grid(tiles, captions, "Feature maps of the first channels, each scaled to [min, max]", MAX_MAPS)


def _min_max_scale(sample: np.ndarray) -> np.ndarray:
    """Scales values to [0, 1]."""
    low, high = sample.min(), sample.max()
    return (sample - low) / max(high - low, 1e-12)
