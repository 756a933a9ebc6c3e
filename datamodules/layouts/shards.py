"""WebDataset shards: tar archives in which an image and its label share a name, as in 000.jpg and 000.cls."""

import json
from collections.abc import Iterable
from pathlib import PurePath

from conf.errors import UserError
from datamodules.layouts.columns import Chosen
from datamodules.layouts.folder import Folder, Item, is_image
from datamodules.layouts.listing import Listing
from datamodules.splits import split_of_file

LABEL_SUFFIX = ".cls"


def is_shard(archive: Folder) -> bool:
    """Whether an archive is a WebDataset shard: its images have labels beside them."""
    suffixes: dict[str, set[str]] = {}
    for path, _ in archive.walk():
        stem, suffix = _key(path)
        suffixes.setdefault(stem, set()).add(suffix)
    return any(len(own) > 1 and own & {LABEL_SUFFIX, ".json"} for own in suffixes.values())


def _key(path: str) -> tuple[str, str]:
    """`a/000.seg.png` → `a/000` and `.seg.png`, as WebDataset parts them."""
    folder, slash, name = path.rpartition("/")
    stem, dot, suffix = name.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{suffix}".lower()


def read_shards(shards: Iterable[Folder], chosen: Chosen) -> Listing:
    """The samples of shards, whose names say their splits, if any does.

    Args:
        chosen: the key of the label (`label`), for samples with a `.json` file instead of `.cls`.

    Raises:
        UserError: an image has no label, or another number of images than one.
    """
    shards = sorted(shards, key=lambda shard: shard.path)
    splits = {shard.path: split_of_file(PurePath(shard.path).stem) for shard in shards}
    without = [path for path, split in splits.items() if split is None]
    if without and len(without) < len(splits):
        raise UserError(
            f"{without[0]}: its name has no split, but those of others have; name it train-…, val-… or test-…"
        )
    listing = Listing(f"{len(shards)} WebDataset shard{'s' if len(shards) > 1 else ''}")
    for shard in shards:
        samples: dict[str, dict[str, Item]] = {}
        for path, item in shard.walk():
            stem, suffix = _key(path)
            samples.setdefault(stem, {})[suffix] = item
        for key, files in samples.items():
            where = f"{shard.path}: {key}"
            images = [suffix for suffix in files if is_image(f"x{suffix}")]
            if len(images) != 1:
                raise UserError(f"{where}: has {len(images)} images; a sample of Litmus has one")
            file = f"{shard.name}/{key}{images[0]}"
            listing.add(files[images[0]], file, _label(where, files, chosen.get("label")), splits[shard.path])
    return listing


def _label(where: str, files: dict[str, Item], key: str | list[str] | None) -> str:
    if LABEL_SUFFIX in files and key is None:
        return files[LABEL_SUFFIX].read_bytes().decode("utf-8", "replace").strip()
    if ".json" in files:
        values = json.loads(files[".json"].read_bytes())
        for name in (str(key),) if key else ("label", "class", "cls"):
            if isinstance(values, dict) and isinstance(values.get(name), str | int):
                return str(values[name])
    raise UserError(
        f"{where}: has no label; add {LABEL_SUFFIX}, or name its key in .json by datamodule.columns.label=…"
    )
