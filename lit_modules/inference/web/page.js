// The page: takes an image from a file, the clipboard, the camera or ?image=…, and shows what the network makes of it.

import { load } from "./classify.js";

const FEW = 5; // bars that are shown at first
const EXACTNESS =
  "As task=predict with datamodule.jpeg_draft=false. With true, it decodes a JPEG of at least twice the input's size at a " +
  "reduced scale: the probabilities of 200 photographs differed by 0.009 in the median, and by 0.19 at most.";
const element = (id) => document.getElementById(id);
const percent = (value) => `${(value * 100).toFixed(1)} %`;

function tell(text, isError = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", isError);
}

function draw({ width, height, pixels }) {
  const image = new ImageData(width, height);
  for (let i = 0; i < image.data.length; i++) image.data[i] = i % 4 === 3 ? 255 : pixels[i - Math.floor(i / 4)];
  const canvas = element("seen");
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function bar(name, probability) {
  const item = document.createElement("li");
  const [fill, label, value] = ["span", "span", "data"].map((tag) => item.appendChild(document.createElement(tag)));
  [fill.className, label.className] = ["bar", "name"];
  fill.style.width = `${probability * 100}%`;
  [label.textContent, value.textContent, value.value] = [name, percent(probability), String(probability)];
  return item;
}

function show({ probabilities, predicted, set, known }, contract) {
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  const bars = order.map((label) => bar(contract.class_names[label], probabilities[label]));
  element("predicted").textContent = [predicted].flat().join(", ") || "None of the classes";
  element("bars").replaceChildren(...bars.slice(0, FEW));
  element("all").hidden = bars.length <= FEW;
  element("all").textContent = `All ${bars.length} classes`;
  element("all").onclick = () => {
    element("bars").replaceChildren(...bars);
    element("all").hidden = true;
  };
  element("set").hidden = !set;
  if (set) element("set").textContent = `Set with a coverage of ${contract.coverage}: ${set.join(", ")}`;
  element("unknown").hidden = known !== false;
  element("result").hidden = false;
}

function describe(contract) {
  const [, channels, height, width] = contract.inputs.shape;
  const facts = {
    Classes: contract.class_names.join(", "),
    Input: `${width} × ${height} pixels, ${channels === 1 ? "grey" : "RGB"}`,
    Resizing: `${contract.resize}, ${contract.interpolation} with antialiasing`,
    Computed: contract.service ? "by the service that serves this page" : "in this browser; no image leaves the device",
  };
  if (!contract.service) facts.Exactness = EXACTNESS;
  for (const [term, text] of Object.entries(facts)) {
    element("about").appendChild(document.createElement("dt")).textContent = term;
    element("about").appendChild(document.createElement("dd")).textContent = text;
  }
  element("classes").textContent = `${contract.class_names.length} classes`;
}

function connect(use) {
  element("file").onchange = ({ target }) => {
    use(target.files[0]);
    target.value = ""; // so that the same file can be chosen again
  };
  document.onpaste = ({ clipboardData }) => use(clipboardData.files[0]);
  document.ondragover = (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  };
  document.ondragleave = ({ relatedTarget }) => relatedTarget ?? document.body.classList.remove("dropping");
  document.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    use(event.dataTransfer.files[0]);
  };
  element("camera").hidden = !navigator.mediaDevices; // only on localhost and by HTTPS
  element("camera").onclick = () => photograph().then(use, (error) => tell(`Camera: ${error.message}`, true));
}

/** A photograph as a PNG file; undefined if it was cancelled. */
async function photograph() {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  const dialog = element("viewfinder");
  const video = dialog.querySelector("video");
  video.srcObject = stream;
  dialog.showModal();
  const closed = new Promise((resolve) => (dialog.onclose = resolve));
  element("shoot").onclick = () => dialog.close("shoot");
  element("cancel").onclick = () => dialog.close("");
  await closed; // also by Escape
  const canvas = new OffscreenCanvas(video.videoWidth || 1, video.videoHeight || 1);
  canvas.getContext("2d").drawImage(video, 0, 0);
  for (const track of stream.getTracks()) track.stop();
  return dialog.returnValue === "shoot" ? canvas.convertToBlob() : undefined;
}

async function start() {
  const { contract, see, classify } = await load();
  describe(contract);
  tell("");
  let latest = 0; // a slower earlier image does not replace a later one

  async function use(file) {
    if (!file) return;
    const number = ++latest;
    tell("Classifying …");
    try {
      const seen = await see(file);
      const answer = await classify(file, seen);
      if (number !== latest) return;
      draw(seen);
      show(answer, contract);
      tell("");
    } catch (error) {
      if (number !== latest) return;
      element("result").hidden = true;
      tell(error.message, true);
    }
  }

  connect(use);
  const named = new URLSearchParams(location.search).get("image");
  if (named) use(await (await fetch(named)).blob());
}

start().catch((error) => tell(`The model cannot be loaded: ${error.message}`, true));
