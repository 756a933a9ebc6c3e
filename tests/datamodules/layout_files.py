"""Folders and archives in the layouts that people have."""

import itertools
import re
import tarfile
import zipfile
from pathlib import Path

from tests.samples import numbered, put


def expanded(pattern: str) -> list[str]:
    """The names that a pattern such as `{a,b}/c` stands for, as in a shell."""
    names = []
    for word in pattern.split():
        choices = [part.split(",") for part in re.split(r"[{}]", word)]
        if "{" in word:
            choices = [part if i % 2 else [",".join(part)] for i, part in enumerate(choices)]
            names += ["".join(parts) for parts in itertools.product(*choices)]
        else:
            names.append(word)
    return names


def make(root: Path, folders: str, texts: dict[str, str | bytes]) -> None:
    for folder in expanded(folders):
        put(root / folder, *numbered(2))
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)


def pack(folder: Path, suffix: str) -> Path:
    """Moves a folder into an archive of its name."""
    archive = folder.with_suffix(suffix)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            for path in files:
                zipped.write(path, path.relative_to(folder))
    else:
        with tarfile.open(archive, "w") as tar:
            for path in files:
                tar.add(path, f"./{path.relative_to(folder)}")
    folder.rename(folder.with_name("moved"))
    return archive
