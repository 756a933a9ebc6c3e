"""AnySize: a Predictor that takes images of any size, which it resizes as Pillow does."""

import torch
from torch import Tensor, nn

from lit_modules.inference.predictor import Predictor

PRECISION = 2.0**22  # Pillow rounds weights of pixels to multiples of 1 / PRECISION


class AnySize(nn.Module):
    """Resizes images to the size of a Predictor, and predicts. Bit for bit Pillow's resize, as two matrix products.

    But Pillow 13 begins with the columns where the height shrinks by twice as many pixels as the width, as in images
    twice as tall as wide. Some of their pixels differ by 1 in 255.

    Source: Pillow, src/libImaging/Resample.c: each pixel is a weighted mean, first along the rows and then along the
    columns, both rounded to 8 bits.

    Args:
        channels, size, resize, interpolation: see `datamodules.storage.decode.ImageSpec`.
    """

    grey: Tensor

    def __init__(
        self, predictor: Predictor, channels: int, size: tuple[int, int], resize: str, interpolation: str
    ) -> None:
        super().__init__()
        self.predictor = predictor
        self.channels = channels
        self.size = size
        self.resize = resize
        self.kernel = {"bilinear": triangle, "bicubic": cubic}[interpolation]
        self.register_buffer("grey", torch.tensor([19595.0, 38470.0, 7471.0], dtype=torch.float64) / 65536)
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """RGB images, uint8 `[N, H, W, 3]` → probabilities, float32 `[N, num_classes]`."""
        pixels = inputs.permute(0, 3, 1, 2).to(torch.float64)  # [N, H, W, 3] → [N, 3, H, W]
        rows, columns = (torch.arange(length, dtype=torch.float64) + 0.5 for length in pixels.shape[2:])
        height, width = (torch.ones_like(centres).sum() for centres in (rows, columns))
        tops, lefts = self._places(height, width)
        pixels = to_8_bits(pixels @ self._weights(columns, self.size[1], *lefts).T)  # [N, 3, H, size[1]]
        pixels = to_8_bits(self._weights(rows, self.size[0], *tops) @ pixels)  # [N, 3, *size]
        if self.channels == 1:
            pixels = to_8_bits((pixels * self.grey[:, None, None]).sum(1, keepdim=True))
        probabilities: Tensor = self.predictor(pixels.to(torch.uint8))
        return probabilities

    def _places(self, height: Tensor, width: Tensor) -> list[tuple[Tensor, ...]]:
        """For rows and columns: start and length in the image, start and length in the resized one."""
        zero = torch.zeros_like(height)
        if self.resize == "pad":
            scale = torch.minimum(self.size[1] / width, self.size[0] / height)
            lengths = [(side * scale).round().clamp(min=1) for side in (height, width)]
            starts = [((size - length) / 2).round() for size, length in zip(self.size, lengths, strict=True)]
            return [(zero, height, starts[0], lengths[0]), (zero, width, starts[1], lengths[1])]
        ends = [zero + size for size in self.size]
        if self.resize == "stretch":
            return [(zero, height, zero, ends[0]), (zero, width, zero, ends[1])]
        ratio = self.size[1] / self.size[0]
        lengths = [torch.minimum(height, width / ratio), torch.minimum(width, ratio * height)]
        starts = [(side - length) / 2 for side, length in zip((height, width), lengths, strict=True)]
        # Pillow's box has single precision.
        stops = [(start + length).float() for start, length in zip(starts, lengths, strict=True)]
        boxes = [(start.float(), stop - start.float()) for start, stop in zip(starts, stops, strict=True)]
        return [(start.double(), length.double(), zero, end) for (start, length), end in zip(boxes, ends, strict=True)]

    def _weights(
        self, centres: Tensor, size: int, start: Tensor, length: Tensor, target_start: Tensor, target_length: Tensor
    ) -> Tensor:
        """Weight of each pixel `[size, len(centres)]` along one side."""
        scale = length / target_length
        targets = torch.arange(size, dtype=torch.float64) - target_start + 0.5  # [size]
        distances = (centres - (start + targets * scale)[:, None]) * (1 / scale.clamp(min=1))
        weights = self.kernel(distances)
        weights = weights / weights.sum(1, keepdim=True)
        weights = weights.sign() * (weights.abs() * PRECISION + 0.5).floor() / PRECISION
        inside = (targets > 0) & (targets < target_length)
        return torch.where(inside[:, None], weights, torch.zeros_like(weights))  # black around


def triangle(x: Tensor) -> Tensor:
    """Pillow's bilinear filter."""
    return (1 - x.abs()).clamp(min=0)


def cubic(x: Tensor) -> Tensor:
    """Pillow's bicubic filter, with a = -0.5."""
    x = x.abs().clamp(max=2)
    return torch.where(x < 1, (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2)


def to_8_bits(values: Tensor) -> Tensor:
    """Rounded to 0 … 255, still as floats."""
    return (values + 0.5).floor().clamp(0, 255)
