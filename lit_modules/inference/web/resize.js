// Resizes images as Pillow does: antialiased, in two passes that each round to 8 bits (its Resample.c and ImageOps.py).

const FRACTION_BITS = 22; // of weights in fixed point
const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - x) },
  bicubic: {
    support: 2,
    weight: (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((2.5 - 0.5 * x) * x - 4) * x + 2 : 0),
  },
};

/**
 * An image at the network's size.
 *
 * image: {width, height, pixels}, pixels in RGB, [height, width, 3].
 * resize: "pad", "crop" or "stretch".
 * interpolation: "bilinear" or "bicubic".
 * pillow: the version to agree with.
 */
export function fit(image, [height, width], { resize, interpolation, pillow }) {
  const box = [0, 0, image.width, image.height]; // left, top, right, bottom
  const size = [width, height];
  if (resize === "crop") {
    const ratio = width / height;
    const isWide = image.width / image.height >= ratio;
    const cropped = isWide ? [ratio * image.height, image.height] : [image.width, image.width / ratio];
    box[0] = (image.width - cropped[0]) * 0.5;
    box[1] = (image.height - cropped[1]) * 0.5;
    box[2] = box[0] + cropped[0];
    box[3] = box[1] + cropped[1];
  } else if (resize === "pad") {
    const scale = Math.min(width / image.width, height / image.height);
    size[0] = Math.max(1, roundHalfToEven(image.width * scale));
    size[1] = Math.max(1, roundHalfToEven(image.height * scale));
  }
  const resized = resample(image, box, size, FILTERS[interpolation], pillow);
  const pixels = new Uint8ClampedArray(height * width * 3);
  const left = roundHalfToEven((width - size[0]) / 2);
  const top = roundHalfToEven((height - size[1]) / 2);
  for (let y = 0; y < size[1]; y++) {
    pixels.set(resized.pixels.subarray(y * size[0] * 3, (y + 1) * size[0] * 3), ((top + y) * width + left) * 3);
  }
  return { width, height, pixels };
}

function resample(image, box, [width, height], filter, pillow) {
  const columns = weightsOf(image.width, box[0], box[2], width, filter);
  const rows = weightsOf(image.height, box[1], box[3], height, filter);
  const saved = image.height - height;
  const verticalFirst = parseInt(pillow) >= 13 && saved > 0 && saved > (image.width - width) * 2;
  return verticalFirst ? pass(pass(image, rows, true), columns, false) : pass(pass(image, columns, false), rows, true);
}

function pass(image, weights, isVertical) {
  const width = isVertical ? image.width : weights.length;
  const height = isVertical ? weights.length : image.height;
  const pixels = new Uint8ClampedArray(height * width * 3);
  const step = isVertical ? image.width * 3 : 3;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const { start, factors } = weights[isVertical ? y : x];
      const from = isVertical ? start * step + x * 3 : y * image.width * 3 + start * step;
      for (let channel = 0; channel < 3; channel++) {
        let sum = 1 << (FRACTION_BITS - 1);
        for (let i = 0; i < factors.length; i++) sum += image.pixels[from + i * step + channel] * factors[i];
        pixels[(y * width + x) * 3 + channel] = sum >> FRACTION_BITS;
      }
    }
  }
  return { width, height, pixels };
}

// For each of `size` pixels: the first pixel of the image that it depends on, and the factors in fixed point.
function weightsOf(imageSize, boxStart, boxEnd, size, filter) {
  const low = Math.fround(boxStart); // Pillow's box is float32
  const scale = Math.fround(Math.fround(boxEnd) - low) / size;
  const filterScale = Math.max(1, scale);
  const support = filter.support * filterScale;
  return Array.from({ length: size }, (_, i) => {
    const center = low + (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(imageSize, Math.trunc(center + support + 0.5));
    const weights = Array.from({ length: end - start }, (_, k) =>
      filter.weight(Math.abs((k + start - center + 0.5) / filterScale)),
    );
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { start, factors: Int32Array.from(weights, (weight) => roundHalfUp((weight / total) * 2 ** FRACTION_BITS)) };
  });
}

// C's round.
function roundHalfUp(value) {
  return Math.sign(value) * Math.round(Math.abs(value));
}

// Python's round.
function roundHalfToEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}
