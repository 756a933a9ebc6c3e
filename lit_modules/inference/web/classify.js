// From an image file to class probabilities: in this browser by model.onnx, or by the service that serves this page.

import { fit } from "./resize.js";

const STRIP = 512; // rows drawn at once: phones limit the area of a canvas

/** Loads the contract, and the network unless a service has it. */
export async function load() {
  const contract = await (await answered(fetch("contract.json"))).json();
  const [, channels, height, width] = contract.inputs.shape;
  const session = contract.service ? null : await networkOf();

  /** What the network sees of an image file: {width, height, pixels}, RGB even if grey, [height, width, 3]. */
  async function see(file) {
    const image = fit(await decode(file), [height, width], contract);
    if (channels === 1) toGrey(image.pixels);
    return image;
  }

  /** {probabilities, predicted, set, known}: probabilities by label, the last two only where the model has them. */
  async function classify(file, { pixels }) {
    if (contract.service) return asked(file, contract.class_names);
    const planes = planesOf(pixels, channels);
    const inputs = contract.inputs.dtype === "uint8" ? planes : Float32Array.from(planes, (value) => value / 255);
    const tensor = new session.Tensor(contract.inputs.dtype, inputs, [1, channels, height, width]);
    const probabilities = Array.from(await session.run(tensor));
    return { probabilities, predicted: predictedOf(probabilities, contract), set: setOf(probabilities, contract) };
  }

  return { contract, see, classify };
}

async function answered(request) {
  const response = await request;
  if (!response.ok) throw new Error(`${response.url.split("/").pop()}: ${response.status} ${response.statusText}`);
  return response;
}

async function networkOf() {
  const { InferenceSession, Tensor, env } = await import("./ort.wasm.bundle.min.mjs");
  env.wasm.numThreads = 1; // more need headers that few static servers send
  const session = await InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  return { Tensor, run: async (inputs) => (await session.run({ inputs })).probabilities.data };
}

async function asked(file, classNames) {
  const response = await fetch("predict", { method: "POST", body: file });
  const answer = await response.json().catch(() => ({ error: response.statusText }));
  const [prediction] = answer.predictions ?? [answer];
  if (prediction.error) throw new Error(prediction.error);
  const probabilities = classNames.map((name) => prediction.probabilities[name]);
  return { ...prediction, probabilities };
}

// The pixels of a file after EXIF rotation, over white, without a colour profile, as task=predict decodes them.
async function decode(file) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  const bitmap = await createImageBitmap(file, options).catch(() => {
    throw new Error("This browser cannot read the file as an image.");
  });
  const { width, height } = bitmap;
  const pixels = new Uint8ClampedArray(height * width * 3);
  for (let top = 0; top < height; top += STRIP) {
    const rows = Math.min(STRIP, height - top);
    const context = new OffscreenCanvas(width, rows).getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -top);
    const { data } = context.getImageData(0, 0, width, rows); // RGBA
    for (let i = 0; i < rows * width * 3; i++) pixels[top * width * 3 + i] = data[i + Math.floor(i / 3)];
  }
  bitmap.close();
  return { width, height, pixels };
}

// ITU-R 601-2 luma, with the fixed point of Pillow.
function toGrey(pixels) {
  for (let i = 0; i < pixels.length; i += 3) {
    const luma = pixels[i] * 19595 + pixels[i + 1] * 38470 + pixels[i + 2] * 7471;
    pixels.fill((luma + 0x8000) >> 16, i, i + 3);
  }
}

function planesOf(pixels, channels) {
  const area = pixels.length / 3;
  const planes = new Uint8Array(channels * area);
  for (let i = 0; i < planes.length; i++) planes[i] = pixels[(i % area) * 3 + Math.floor(i / area)];
  return planes;
}

// The name of the most probable class, or with several labels an image the list of their names.
function predictedOf(probabilities, { class_names: names, multi_label: several, thresholds }) {
  if (several) return names.filter((_, label) => probabilities[label] >= thresholds[label]);
  return names[probabilities.indexOf(Math.max(...probabilities))];
}

// The names of the classes in the conformal set, most probable first; see the example program of format=onnx.
function setOf(probabilities, { class_names: names, "set threshold": threshold }) {
  if (threshold === undefined || threshold === null) return undefined;
  const mass = (value) => probabilities.reduce((sum, other) => (other <= value ? sum + other : sum), 0);
  const most = Math.max(...probabilities);
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  const inSet = (label) => probabilities[label] === most || mass(probabilities[label]) >= threshold;
  return order.filter(inSet).map((label) => names[label]);
}
