"""Damaged folders, tables, lists, archives and shards are read or refused in one line; nothing is changed."""

import os
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from conf.errors import UserError
from tests.datamodules.layout_files import pack
from tests.samples import module_of, numbered, put

TRIES = 60  # of a layout
NAMES = [f"{name}/{number}.png" for name in ("ant", "bee") for number in range(6)]
ODD_NAMES = (
    "\x1b[2J.png",
    "a\nb.png",
    "=cmd.png",
    "..png",
    "train",
    "x" * 250,
    "데이터.jpg",
    "-rf",
    "images.csv",
    "con",
)
ODD_TEXTS = (
    b"",
    b"\0",
    b"\xff\xfe",
    b'"',
    b"\n",
    b",,,",
    b"../../../etc/passwd",
    b"path,label\n",
    b"1e999",
    b"{",
    b"[",
)


def rows(form: str) -> str:
    return "".join(form.format(name, name[:3]) + "\n" for name in NAMES)


def images(root: Path, texts: dict[str, str] | None = None) -> None:
    for name in ("ant", "bee"):
        put(root / name, *numbered(6))
    for file, text in (texts or {}).items():
        (root / file).write_text(text)


def shards(root: Path) -> None:
    with tarfile.open(root / "shard-0.tar", "w") as tar:
        for number, name in enumerate(NAMES):
            (root / "label").write_text(str(int(name.startswith("bee"))))
            tar.add(root / name, f"{number:03d}.png")
            tar.add(root / "label", f"{number:03d}.cls")
    shutil.rmtree(root / "ant")
    shutil.rmtree(root / "bee")
    (root / "label").unlink()


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "folders": lambda root: images(root),
    "splits": lambda root: [images(root / split) for split in ("train", "val", "test")],
    "csv": lambda root: images(root, {"labels.csv": "path,label\n" + rows("{},{}")}),
    "json lines": lambda root: images(root, {"metadata.jsonl": rows('{{"file_name":"{}","label":"{}"}}')}),
    "list": lambda root: images(root, {"train.txt": rows("{} {}")}),
    "zip": lambda root: (images(root / "data"), pack(root / "data", ".zip"), remove(root / "moved")),
    "tar": lambda root: (images(root / "data"), pack(root / "data", ".tar"), remove(root / "moved")),
    "shards": lambda root: (images(root), shards(root)),
}


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def damage(root: Path, draw: random.Random) -> None:
    """Change one thing in a folder."""
    paths = sorted(root.rglob("*"))
    if not paths:
        return
    path = draw.choice(paths)
    files = [file for file in paths if file.is_file()]
    file = draw.choice(files) if files else path
    kind = draw.randrange(8)
    if kind == 0:
        remove(path)
    elif kind == 1 and not os.path.lexists(path.with_name(name := draw.choice(ODD_NAMES))):
        path.rename(path.with_name(name))
    elif kind == 2 and path.parent.is_dir():
        name = draw.choice(ODD_NAMES) + str(draw.random())[:4]
        (path.parent / name[-200:]).symlink_to(draw.choice((root, root.parent, Path("/dev/zero"), Path("nothing"))))
    elif kind == 3:
        copy = path.with_name(f"copy of {path.name}"[:200])
        if path.is_dir() and not path.is_symlink() and not copy.exists():
            shutil.copytree(path, copy, symlinks=True)
    elif file.is_file() and not file.is_symlink():
        data = bytearray(file.read_bytes())
        at = draw.randrange(len(data) + 1)
        if kind == 4:
            data[at:] = b""
        elif kind == 5:
            data[at:at] = draw.choice(ODD_TEXTS)
        elif kind == 6 and data:
            data[at % len(data)] ^= 1 << draw.randrange(8)
        else:
            data[at : at + draw.randrange(40)] = draw.choice(ODD_TEXTS)
        file.write_bytes(data)


def state(folder: Path) -> dict[str, object]:
    """Names, sizes and times of everything in a folder."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


def read(tmp_path: Path, layout: str, seed: int) -> str:
    """Reads a damaged layout; returns the line of the refusal, or nothing."""
    draw = random.Random(f"{layout} {seed}")
    root = tmp_path / f"{layout} {seed}"
    root.mkdir()
    LAYOUTS[layout](root)
    for _ in range(draw.choice((1, 1, 2, 5))):
        damage(root, draw)
    before = state(tmp_path)
    line = ""
    try:
        data = module_of(root, on_error=draw.choice(("raise", "skip")))
        data.setup("fit")
        for split in ("train", "val", "test"):
            data.files(split)
    except UserError as error:
        line = str(error)
        assert "; " in line, f"{layout}, seed {seed}: {line}"
    except Exception as error:
        raise AssertionError(f"{layout}, seed {seed}") from error
    assert state(tmp_path) == before, f"{layout}, seed {seed}"
    remove(root)
    return line


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slightly_damaged_layouts_are_read_or_refused(tmp_path: Path, layout: str) -> None:
    for seed in range(3):
        read(tmp_path, layout, seed)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_layouts_are_read_or_refused(tmp_path: Path, layout: str) -> None:
    lines = [read(tmp_path, layout, seed) for seed in range(3, TRIES)]
    assert 0 < len([line for line in lines if line]) < len(lines), "some are refused, and some read"
