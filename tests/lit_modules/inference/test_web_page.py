"""The page of format=web resizes as Pillow does, and gives the probabilities of task=predict in a browser."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from conf.errors import UserError
from datamodules.storage.decode import ImageSpec, to_array
from lit_modules.inference import web_page
from lit_modules.inference.web_page import PACKAGE, PAGE, RUNTIME, WEB, page_files
from tests import browser

USE_ALL_WAYS = """
const frame = document.body.appendChild(document.createElement("iframe"));
frame.src = "index.html";
await new Promise((resolve) => (frame.onload = resolve));
const { contentDocument: page, contentWindow: view } = frame;
const element = (id) => page.getElementById(id);
const until = async (met) => { while (!met()) await new Promise((resolve) => setTimeout(resolve, 20)); };
await until(() => element("status").textContent === "");
const data = new view.DataTransfer();
data.items.add(new File([await (await fetch("image")).blob()], "image.png", { type: "image/png" }));
const ways = {
  paste: () => page.dispatchEvent(new view.ClipboardEvent("paste", { clipboardData: data })),
  drop: () => page.dispatchEvent(new view.DragEvent("drop", { dataTransfer: data })),
  choose: () => { element("file").files = data.files; element("file").dispatchEvent(new view.Event("change")); },
  photograph: async () => {
    element("camera").click();
    await until(() => element("viewfinder").open && page.querySelector("video").videoWidth);
    element("shoot").click();
  },
};
const seen = {};
for (const [way, use] of Object.entries(ways)) {
  element("result").hidden = true;
  await use();
  await until(() => !element("result").hidden);
  seen[way] = [...page.querySelectorAll("#bars data")].map(({ value }) => Number(value));
}
element("camera").click();
await until(() => element("viewfinder").open);
element("cancel").click();
await until(() => !element("viewfinder").open);
return { seen, error: element("status").textContent || undefined };
"""
NODE = shutil.which("node")
RESIZE = """
import { fit } from "%s";
let text = "";
for await (const chunk of process.stdin) text += chunk;
const { cases, levels } = JSON.parse(text);
const answers = cases.map(({ width, height, size, ...how }) => {
  const pixels = Uint8ClampedArray.from({ length: height * width * 3 }, (_, i) => levels[i %% levels.length]);
  return Array.from(fit({ width, height, pixels }, size, how).pixels);
});
console.log(JSON.stringify(answers));
"""
CLASSIFY = """
const { load } = await import("./classify.js");
const { contract, see, classify } = await load();
const answers = [];
for (let i = 0; i < %d; i++) {
  const file = await (await fetch(`images/${i}`)).blob();
  answers.push(await classify(file, await see(file)));
}
return { answers, names: contract.class_names };
"""


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_resizing_equals_pillow_bit_for_bit() -> None:
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 256, 99_991).astype(np.uint8)
    cases: list[dict[str, Any]] = []
    for number in range(60):
        width, height, *size = generator.integers(1, 200, 4).tolist()
        how = {"interpolation": ("bilinear", "bicubic")[number % 2], "pillow": PIL.__version__}
        sizes = {"width": width, "height": height, "size": size}
        cases += [sizes | how | {"resize": resize} for resize in ("pad", "crop", "stretch")]
    command = [str(NODE), "--input-type=module", "--eval", RESIZE % (WEB / "resize.js")]
    given = json.dumps({"cases": cases, "levels": levels.tolist()})
    result = subprocess.run(command, input=given, capture_output=True, text=True, check=True)
    for case, pixels in zip(cases, json.loads(result.stdout), strict=True):
        shape = case["height"], case["width"], 3
        image = Image.fromarray(np.resize(levels, np.prod(shape)).reshape(shape))
        spec = ImageSpec(3, tuple(case["size"]), case["resize"], False, case["interpolation"])
        assert np.array_equal(to_array(image, spec).transpose(1, 2, 0).ravel(), pixels), case


def test_page_needs_only_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITMUS_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")  # without npm
    browser.write_runtime(tmp_path)
    files = page_files(json.dumps({"class_names": ["</script>", "名"]}))
    assert files.keys() == {*PAGE, *RUNTIME, "contract.json"}
    assert files[RUNTIME[1]] == f"package/dist/{RUNTIME[1]}".encode()
    assert json.loads(files["contract.json"]) == {"class_names": ["</script>", "名"], "pillow": PIL.__version__}
    for name in PAGE:
        assert b"://" not in files[name] and b"innerHTML" not in files[name]


def test_missing_npm_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITMUS_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=rf"^format: web needs npm, .* `npm pack {PACKAGE}` .* into {tmp_path}$"):
        page_files("{}")


def test_failing_npm_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITMUS_CACHE", str(tmp_path / "cache"))
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho first >&2\necho npm error network >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(web_page.shutil, "which", lambda _: str(npm))
    with pytest.raises(UserError, match=r"^format: npm does not fetch .* \(npm error network\); check the network, or"):
        page_files("{}")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.fixture
def exported(run: Callable[..., Path], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on images of 40 × 30 and 30 × 40 pixels, and its page; skips without a browser or the npm package."""
    if browser.CHROMIUM is None:
        pytest.skip("chromium is not installed")
    monkeypatch.undo()  # the user's cache, so that npm fetches once
    try:
        page_files("{}")
    except UserError as error:
        pytest.skip(str(error))
    return run(
        "+experiment=from_scratch",
        f"datamodule.root={images}",
        "datamodule.image_size=20",
        "datamodule.jpeg_draft=false",
        "epochs=2",
        "lit_module.net.pool=2",
        "++callbacks.dashboard=null",
    )


def save_kinds(folder: Path) -> list[Path]:
    """Photograph-like images of several formats and modes."""
    folder.mkdir()
    y, x = np.mgrid[:90, :140]
    waves = [128 + 100 * np.sin(x / step + y / 9) for step in (5, 11, 23)]
    image = Image.fromarray(np.stack(waves, -1).astype(np.uint8))
    alpha = Image.fromarray(((x + y) % 256).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated
    image.save(folder / "plain.png")
    image.save(folder / "photo.jpg", quality=90)
    image.save(folder / "rotated.jpg", exif=exif)
    image.convert("L").save(folder / "grey.jpg")
    image.convert("P").save(folder / "palette.png")
    image.convert("L").save(folder / "grey.png")
    image.save(folder / "lossless.webp", lossless=True)
    image.save(folder / "tall.bmp")
    (transparent := image.copy()).putalpha(alpha)
    transparent.save(folder / "transparent.png")
    return sorted(folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "resize"), [("uint8", "pad"), ("float", "crop")])
def test_browser_gives_the_probabilities_of_predict(
    exported: Path, run: Callable[..., Path], tmp_path: Path, kind: str, resize: str
) -> None:
    config = exported / "config.yaml"
    config.write_text(config.read_text().replace("resize: pad", f"resize: {resize}"))
    files = save_kinds(tmp_path / "kinds")
    run(f"run={exported}", "task=predict", f"input={tmp_path / 'kinds'}", "coverage=0.8", f"output={tmp_path / 'out'}")
    site = tmp_path / "site"
    run(f"run={exported}", "task=export", "format=web", f"input={kind}", "coverage=0.8", f"output={site}")
    (site / "images").mkdir()
    for number, file in enumerate(files):
        shutil.copy(file, site / "images" / str(number))
    result = browser.evaluate(site, tmp_path / "profile", CLASSIFY % len(files))
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    for answer, line in zip(result["answers"], lines, strict=True):
        expected = [line["probabilities"][name] for name in result["names"]]
        # Blending over white is rounded otherwise.
        tolerance = 2e-3 if "transparent" in line["file"] else 1e-5
        assert answer["probabilities"] == pytest.approx(expected, abs=tolerance), line["file"]
        assert answer["set"] == line["set"]


@pytest.mark.slow
def test_image_is_pasted_dropped_chosen_or_photographed(
    exported: Path, run: Callable[..., Path], tmp_path: Path
) -> None:
    run(f"run={exported}", "task=export", "format=web", f"output={tmp_path / 'site'}")
    shutil.copy(save_kinds(tmp_path / "kinds")[0], tmp_path / "site" / "image")
    seen = browser.evaluate(tmp_path / "site", tmp_path / "profile", USE_ALL_WAYS)["seen"]
    assert seen["paste"] == seen["drop"] == seen["choose"] != seen["photograph"]
    assert sum(seen["photograph"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_page_shows_the_prediction_or_the_problem(exported: Path, run: Callable[..., Path], tmp_path: Path) -> None:
    run(f"run={exported}", "task=export", "format=web", "coverage=0.8", f"output={tmp_path / 'site'}")
    (image, *_) = save_kinds(tmp_path / "kinds")
    shutil.copy(image, tmp_path / "site" / "image")
    (tmp_path / "site" / "broken").write_text("no image")
    with browser.served(tmp_path / "site") as address:

        def dom(query: str) -> str:
            waiting = ["--virtual-time-budget=20000", "--dump-dom", f"{address}/index.html{query}"]
            command = browser.command(tmp_path / "profile", *waiting)
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

        shown = dom("?image=image")
        assert "Set with a coverage of 0.8: " in shown and shown.count("<data value=") == 2
        assert "This browser cannot read the file as an image." in dom("?image=broken")
        (tmp_path / "site" / "model.onnx").unlink()
        assert "The model cannot be loaded: " in dom("")
