"""Rows with images in Parquet files and in datasets saved to disk, as Hugging Face's libraries write them."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from conf.errors import UserError, first_line, nearest
from datamodules.layouts.columns import NAMES, Chosen
from datamodules.layouts.listing import Listing
from datamodules.layouts.shards import names_and_splits
from datamodules.splits import split_of
from datamodules.storage import row_file
from datamodules.storage.row_file import SUFFIXES as SUFFIXES
from datamodules.storage.row_file import Cell, readable
from datamodules.storage.stored_file import size_of


class Columns(NamedTuple):
    """Columns of a file."""

    image: str
    label: str
    split: str | None
    group: str | None
    class_names: list[str] | None
    """The texts of the labels 0, 1, …; None: the labels are texts themselves"""


class Row(NamedTuple):
    """A row of a file."""

    cell: Cell
    where: str
    """The file and the row, from 0"""
    label: str | None
    split: str | None
    group: str | None


def read_parquet(files: Sequence[str], chosen: Chosen) -> Listing:
    """The samples of files of rows with an image and a label.

    A validation or test split without any label, as competitions publish it, is not used. Neither are files whose name
    tells no split, beside others that do.

    Args:
        files: paths; their names, or those of their folders, say the splits, unless a column does.
        chosen: the columns of image (`path`), label, split and group that the user chose.

    Raises:
        UserError: a file is corrupt, or has no such columns.
    """
    if chosen.get("fold"):
        raise UserError("datamodule.columns.fold: is read from tables only; give a column of splits")
    files = _of_datasets(sorted(files))
    names, splits = names_and_splits(files)
    _check_folders(files)
    kind = PurePath(files[0]).suffix[1:].capitalize()
    listing = Listing(f"{len(files)} {kind} file{'s' if len(files) > 1 else ''}")
    rows: list[Row] = []
    for file, name, split in zip(files, names, splits, strict=True):
        if split is None and any(splits):
            listing.not_used.append(name)
            continue
        columns = _columns(file, chosen)
        if not rows:
            listing.class_names = columns.class_names
        if columns.class_names != listing.class_names:
            raise UserError(f"{file}: its classes are not those of {files[0]}; give one collection")
        rows += _rows(file, name, columns, split)
    _add_labelled(listing, rows)
    return listing


def _of_datasets(files: Sequence[str]) -> list[str]:
    """Leaves out what a dataset saved to disk does not name in its state.json, such as results of its `map`.

    Raises:
        UserError: a file that it names is missing.
    """
    named: dict[Path, set[str]] = {}
    for folder in {Path(file).parent for file in files}:
        entries = _json_file(folder / "state.json").get("_data_files") or []
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{folder / 'state.json'}: its _data_files are no list of files; copy the whole dataset")
        named[folder] = {str(entry.get("filename")) for entry in entries}
        for name in sorted(named[folder]):
            if not (folder / name).is_file():
                raise UserError(f"{folder / name}: is missing, but state.json names it; copy the whole dataset")
    return [file for file in files if Path(file).name in (named[Path(file).parent] or {Path(file).name})]


def _check_folders(files: Sequence[str]) -> None:
    """Raises UserError for files of several collections."""
    folders = sorted({parent for parent in (PurePath(file).parent for file in files) if not split_of(parent.name)})
    if len(folders) > 1:
        named = " and ".join(folder.name for folder in folders[:2])
        raise UserError(f"datamodule.root: {folders[0].parent} holds several collections: {named}; give one of them")


def _add_labelled(listing: Listing, rows: Sequence[Row]) -> None:
    """Adds rows, but those of splits without labels."""
    training = {row.label for row in rows if row.split in ("train", None)}
    # Where the classes have no names, -1 may be one of them.
    absent = {None} if listing.class_names or "-1" in training else {None, "-1"}
    labelled = {row.split for row in rows if row.label not in absent} | {"train", None}
    left_out: dict[str, None] = {}  # files, in order
    for row in rows:
        if row.label not in absent:
            assert row.label is not None
            listing.add(row.cell, row.where, row.label, row.split, row.group)
        elif row.split in labelled:
            raise UserError(f"{row.where}: has no label; remove the row, or label it")
        else:
            left_out[row.where.rpartition(": row ")[0]] = None
    listing.not_used += [f"{name} (no labels)" for name in left_out]
    if not len(listing):
        raise UserError("datamodule.root: the files hold no labelled row; give those of labelled splits")


def _rows(file: str, name: str, columns: Columns, split: str | None) -> Iterator[Row]:
    """All rows of a file.

    Args:
        name: the file's name to be displayed.
        split: that of all rows, unless a column tells it.
    """
    number = 0
    for group in range(row_file.group_count(file)):
        with readable(file):
            labels = row_file.values(file, columns.label, group)
            splits = row_file.values(file, columns.split, group) if columns.split else [split] * len(labels)
            groups = row_file.values(file, columns.group, group) if columns.group else [None] * len(labels)
        for row, (value, split_name, group_name) in enumerate(zip(labels, splits, groups, strict=True)):
            where = f"{name}: row {number}"
            if columns.split:
                split_name, word = split_of(str(split_name)), split_name
                if split_name is None:
                    raise UserError(f"{file}: row {number}: '{word}' is not a split; write train, val or test")
            if columns.group and group_name is None:
                raise UserError(f"{file}: row {number}: {columns.group} is empty; fill it or remove the row")
            label = _label(f"{file}: row {number}", value, columns.class_names)
            group_text = None if group_name is None else str(group_name)
            yield Row(Cell(file, columns.image, group, row), where, label, split_name, group_text)
            number += 1


def _label(where: str, value: Any, class_names: Sequence[str] | None) -> str | None:
    """The text of a label; None if there is none."""
    if value is None or value == "" or value != value:  # not a number
        return None
    if class_names:
        if value == -1:
            return None
        if type(value) is not int or not 0 <= value < len(class_names):
            problem = f"the label {value!r} is none of the {len(class_names)} classes"
            raise UserError(f"{where}: {problem}; correct it")
        return class_names[value]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | float):
        raise UserError(f"{where}: the label is a {type(value).__name__}, not one; choose another column")
    return str(value).strip()


def _columns(file: str, chosen: Chosen) -> Columns:
    """The columns that the user chose, those of the features' types, else those of the usual names.

    Raises:
        UserError: one is missing, or several may be meant.
    """
    with readable(file):
        schema = row_file.schema(file)
    features = _features(file, schema.metadata or {})
    typed = {
        kind: [name for name in schema.names if _feature(features, name).get("_type") == kind]
        for kind in ("Image", "ClassLabel")
    }
    images = _named(file, schema, chosen, "path") or typed["Image"] or _holding_bytes(schema)
    labels = _named(file, schema, chosen, "label") or typed["ClassLabel"] or _usual(schema, "label")
    for role, names in (("path", images), ("label", labels)):
        if len(names) != 1:
            what = "images" if role == "path" else "labels"
            options = ", ".join(names or schema.names)
            raise UserError(f"{file}: has {len(names)} columns of {what}; datamodule.columns.{role}=… of: {options}")
    if images[0] not in _holding_bytes(schema):
        raise UserError(f"{file}: column '{images[0]}' holds no image files; choose by datamodule.columns.path=…")
    others = {role: _named(file, schema, chosen, role) or _usual(schema, role) for role in ("split", "group")}
    for role, names in others.items():
        if len(names) > 1:
            raise UserError(f"{file}: {' and '.join(names)} may each be the {role}; datamodule.columns.{role}=…")
    one = {role: names[0] if names else None for role, names in others.items()}
    with readable(file):
        row_file.check_size(file, images[0])
    class_names = _feature(features, labels[0]).get("names")
    if class_names is not None and not (isinstance(class_names, list) and all(type(n) is str for n in class_names)):
        raise UserError(f"{file}: the names of the classes are not a list of texts; write it again")
    return Columns(images[0], labels[0], one["split"], one["group"], class_names)


def _named(file: str, schema: Any, chosen: Chosen, role: str) -> list[str]:
    """The column that the user chose, if any."""
    name = chosen.get(role)
    if isinstance(name, list):
        raise UserError(f"datamodule.columns.{role}: {name} are several; give one")
    if name and name not in schema.names:
        raise UserError(f"datamodule.columns.{role}: {file} has no column '{name}'; {nearest(name, schema.names)}")
    return [name] if name else []


def _usual(schema: Any, role: str) -> list[str]:
    return [name for name in schema.names if re.sub("[ -]", "_", name.lower()) in NAMES[role]]


def _holding_bytes(schema: Any) -> list[str]:
    """Columns of bytes, or if there are any, those of Hugging Face's form."""
    types = row_file.pyarrow().types
    binary = [field.name for field in schema if types.is_binary(field.type) or types.is_large_binary(field.type)]
    structs = [field for field in schema if types.is_struct(field.type)]
    return [field.name for field in structs if field.type.get_field_index("bytes") >= 0] or binary


def _features(file: str, metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """The types of the columns, from the schema or from dataset_info.json; empty if neither tells them."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        features = _json_file(Path(file).with_name("dataset_info.json")).get("features")
    return features if isinstance(features, dict) else {}


def _feature(features: dict[str, Any], name: str) -> dict[str, Any]:
    feature = features.get(name)
    return feature if isinstance(feature, dict) else {}


def _json_file(path: Path) -> dict[str, Any]:
    """The object in a file; empty if there is no such file."""
    try:
        size_of(path)
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); copy the whole dataset") from error
    return values if isinstance(values, dict) else {}
