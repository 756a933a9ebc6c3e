"""WebDataset shards: tar archives in which an image and its label share a name, as in 000.jpg and 000.cls."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import NamedTuple

from conf.errors import UserError
from datamodules.layouts.columns import Chosen
from datamodules.layouts.folder import Folder, Item, is_image
from datamodules.layouts.listing import Listing
from datamodules.splits import split_of, split_of_file
from datamodules.storage.image_header import reason
from datamodules.storage.worker_pool import progress

LABEL_SUFFIXES = (".cls", ".json")
# Keys of the label in a .json file, unless the user chose one.
KEYS = ("label", "class", "cls")


class Sample(NamedTuple):
    """The files of one name in a shard."""

    where: str
    """For messages"""
    file: str
    """Of the image"""
    image: Item
    labels: dict[str, Item]
    """Files of a label, by suffix"""
    split: str | None


def is_shard(archive: Folder) -> bool:
    """Whether an archive is a WebDataset shard: its images have labels beside them."""
    return any(len(files) > 1 and files.keys() & LABEL_SUFFIXES for files in _by_name(archive).values())


def _by_name(archive: Folder) -> dict[str, dict[str, Item]]:
    """Name → suffix → file, parted as by WebDataset: `a/000.seg.png` is `a/000` and `.seg.png`."""
    samples: dict[str, dict[str, Item]] = {}
    for path, item in archive.walk():
        folder, slash, name = path.rpartition("/")
        stem, dot, suffix = name.partition(".")
        samples.setdefault(f"{folder}{slash}{stem}", {})[f"{dot}{suffix}".lower()] = item
    return samples


def read_shards(shards: Iterable[Folder], chosen: Chosen) -> Listing:
    """The samples of shards.

    The names of the shards, or of their folders, say their splits, if any does; shards without one are not used then.
    Neither is a validation or test split without any label.

    Args:
        chosen: the key of the label (`label`), for samples with a `.json` file instead of `.cls`.

    Raises:
        UserError: an image has no label, or another number of images than one.
    """
    key = chosen.get("label")
    if isinstance(key, list):
        raise UserError(f"datamodule.columns.label: {key} are several keys; give one")
    shards = sorted(shards, key=lambda shard: shard.path)
    names, splits = names_and_splits([shard.path for shard in shards])
    listing = Listing(f"{len(shards)} WebDataset shard{'s' if len(shards) > 1 else ''}")
    if any(splits):
        listing.not_used += [name for name, split in zip(names, splits, strict=True) if split is None]
    samples: list[Sample] = []
    for shard, shard_name, split in zip(shards, names, splits, strict=True):
        if split is None and any(splits):
            continue
        for name, files in _by_name(shard).items():
            where = f"{shard.path}: {name}"
            images = [suffix for suffix in files if is_image(f"x{suffix}")]
            labels = {suffix: files[suffix] for suffix in LABEL_SUFFIXES if suffix in files}
            if not images and ".cls" not in labels:  # such as a description of the shard
                listing.not_used += [f"{shard_name}/{name}{suffix}" for suffix in files]
                continue
            if len(images) != 1:
                raise UserError(f"{where}: has {len(images)} images; a sample of Litmus has one")
            file = f"{shard_name}/{name}{images[0]}"
            samples.append(Sample(where, file, files[images[0]], labels, split))
    if not samples:
        raise UserError(f"{shards[0].path}: holds no images; add some")
    labelled = {sample.split for sample in samples if sample.labels} | {"train", None}
    unlabelled = [name for name, split in zip(names, splits, strict=True) if split not in labelled]
    listing.not_used += [f"{name} (no labels)" for name in unlabelled]
    samples = [sample for sample in samples if sample.split in labelled]
    for sample in progress(samples, len(samples), "reading labels", lambda _: 1):
        listing.add(sample.image, sample.file, _label(sample, key), sample.split)
    return listing


def names_and_splits(paths: Sequence[str]) -> tuple[list[str], list[str | None]]:
    """The paths below their common folder, and the splits that they name."""
    above = os.path.commonpath([PurePath(path).parent for path in paths])
    names = [PurePath(path).relative_to(above) for path in paths]
    splits = [split_of_file(name.stem) or split_of(name.parent.name) for name in names]
    return [name.as_posix() for name in names], splits


def _label(sample: Sample, chosen: str | None) -> str:
    where, labels = sample.where, sample.labels
    label = None
    try:
        if ".cls" in labels and not chosen:
            label = labels[".cls"].read_bytes().decode("utf-8").strip()
        elif ".json" in labels:
            label = _from_json(labels[".json"].read_bytes(), (chosen,) if chosen else KEYS)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: its label is not UTF-8; write it so") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}.json: is not JSON ({reason(error)}); correct it") from error
    except OSError as error:
        raise UserError(f"{where}: its label cannot be read ({reason(error)}); is the shard complete?") from error
    if not label:
        key = f"datamodule.columns.label={chosen or '…'}"
        raise UserError(f"{where}: has no label; add .cls, or name its key in .json by {key}")
    return label


def _from_json(content: bytes, keys: Iterable[str]) -> str | None:
    """The value of the first key that holds a text or an integer."""
    values = json.loads(content)
    for key in keys if isinstance(values, dict) else ():
        if isinstance(values.get(key), str | int):
            return str(values[key]).strip()
    return None
