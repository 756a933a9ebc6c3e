"""Pictures are decoded in order, with the same bits by processes as without; damaged ones are named together."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conf.errors import UserError
from datamodules import store
from datamodules.decode import Probe
from datamodules.store import Pictures, decode_pictures, probe_pictures


def in_memory(count: int) -> Pictures:
    """Grey pictures of 2×3 pixels; picture i is filled with 10 i."""
    items = [Image.new("L", (3, 2), 10 * i) for i in range(count)]
    return Pictures(items, np.arange(count) % 2, [f"picture {i}" for i in range(count)])


def on_disk(folder: Path, count: int, damaged: tuple[int, ...] = ()) -> Pictures:
    generator = np.random.default_rng(0)
    paths = [folder / f"{i:02d}.{'jpg' if i % 2 else 'png'}" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(generator.integers(0, 256, (9, 5 + i % 4, 3), dtype=np.uint8)).save(path)
        if i in damaged:
            path.write_bytes(b"<html>")
    return Pictures(paths, np.zeros(count, np.int64), [path.name for path in paths])


def test_decoding_keeps_the_order() -> None:
    array = decode_pictures(in_memory(5), 1, (2, 3), "pad", None)
    assert array.dtype == np.uint8
    assert np.array_equal(array, np.broadcast_to(np.arange(0, 50, 10).reshape(5, 1, 1, 1), (5, 1, 2, 3)))


def test_probing_keeps_the_order() -> None:
    items = [Image.new("L", (3, 2)), Image.new("RGB", (7, 5))]
    assert probe_pictures(Pictures(items, np.zeros(2), ["a", "b"]), None) == [Probe(True, 2, 3), Probe(False, 5, 7)]


def test_take_picks_items_labels_and_names_together() -> None:
    taken = in_memory(6).take(np.array([4, 1]))
    assert decode_pictures(taken, 1, (2, 3), "pad", None)[:, 0, 0, 0].tolist() == [40, 10]
    assert taken.labels.tolist() == [0, 1]
    assert taken.files == ["picture 4", "picture 1"]


def test_processes_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = on_disk(tmp_path, 7)
    probes = probe_pictures(pictures, 0)
    alone = decode_pictures(pictures, 3, (8, 8), "crop", 0)
    contexts = []
    real = multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: contexts.append(method) or real(method))
    monkeypatch.setattr(store, "FEWEST_FOR_PROCESSES", 1)
    assert probe_pictures(pictures, 2) == probes
    assert np.array_equal(decode_pictures(pictures, 3, (8, 8), "crop", 2), alone)
    assert contexts == ["spawn", "spawn"]


def test_few_pictures_start_no_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: pytest.fail("a process was started"))
    assert len(decode_pictures(on_disk(tmp_path, 3), 3, (4, 4), "pad", 2)) == 3


@pytest.mark.parametrize("read", ["probe", "decode"])
def test_damaged_pictures_are_named_with_the_reason(tmp_path: Path, read: str) -> None:
    pictures = on_disk(tmp_path, 4, damaged=(1, 2))
    with pytest.raises(UserError) as caught:
        probe_pictures(pictures, 0) if read == "probe" else decode_pictures(pictures, 3, (4, 4), "pad", 0)
    expected = (
        "01.jpg (not a picture), 02.png (not a picture): 2 pictures cannot be read; repair or remove what is named"
    )
    assert str(caught.value) == expected


def test_one_damaged_picture_is_counted_as_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^02\.png \(not a picture\): 1 picture cannot be read"):
        probe_pictures(on_disk(tmp_path, 3, damaged=(2,)), 0)


def test_ten_damaged_pictures_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        probe_pictures(on_disk(tmp_path, 14, damaged=tuple(range(13))), 0)
    line = str(caught.value)
    assert "09.jpg" in line and "10.png" not in line
    assert "and 3 more: 13 pictures cannot be read" in line
