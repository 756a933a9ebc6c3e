"""Parquet files with images, and datasets saved to disk, as Hugging Face's libraries write them."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePath
from typing import Any, NamedTuple

from conf.errors import UserError, first_line
from datamodules.layouts.columns import Chosen
from datamodules.layouts.listing import Listing
from datamodules.splits import split_of, split_of_file

SUFFIXES = (".parquet", ".arrow")


class Cell(NamedTuple):
    """The image in a row of a file."""

    container: str
    column: str
    group: int
    """The row group"""
    row: int
    """In its row group"""

    def read_bytes(self) -> bytes:
        value = _column(self.container, self.column, self.group)[self.row].as_py()
        content = value["bytes"] if isinstance(value, dict) else value
        if content is None:
            raise OSError("the row holds no image")
        return bytes(content)


def read_parquet(files: Sequence[str], chosen: Chosen) -> Listing:
    """The samples of files of rows with an image and a label.

    Args:
        files: paths; their names, or those of their folders, say the splits.
        chosen: the columns of image (`path`) and label that the user chose.

    Raises:
        UserError: a file is corrupt, or has no such columns.
    """
    files = sorted(files)
    listing = Listing(f"{len(files)} {PurePath(files[0]).suffix[1:].capitalize()} file{'s' if len(files) > 1 else ''}")
    for file in files:
        split = split_of_file(PurePath(file).stem) or split_of(PurePath(file).parent.name)
        try:
            schema, groups = _schema_and_groups(file)
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({first_line(error)}); is it complete?") from error
        image, label, names = _columns(file, schema, chosen)
        listing.class_names = listing.class_names or names
        if names != listing.class_names:
            raise UserError(f"{file}: its classes are not those of {files[0]}; give one collection")
        for group in range(groups):
            for row, value in enumerate(_column(file, label, group).to_pylist()):
                if value is None or (names and value == -1):
                    raise UserError(
                        f"{file}: row {row} of group {group}: has no label; give the files of labelled splits"
                    )
                text = names[value] if names else str(value)
                listing.add(Cell(file, image, group, row), f"{PurePath(file).name}[{group}:{row}]", text, split)
    return listing


def _columns(file: str, schema: Any, chosen: Chosen) -> tuple[str, str, list[str] | None]:
    """The columns of image and label, and the class names if the file tells them."""
    import pyarrow as pa

    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = metadata.get("info", {}).get("features", {})
    binary = [field.name for field in schema if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)]
    structs = [
        field.name for field in schema if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    images = [chosen["path"]] if chosen.get("path") else structs or binary
    if len(images) != 1:
        raise UserError(f"{file}: has {len(images)} columns of images; choose by datamodule.columns.path=…")
    class_labels = [
        name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    ]
    usual = [field.name for field in schema if field.name.lower() in ("label", "labels", "class", "target")]
    labels = [chosen["label"]] if chosen.get("label") else class_labels or usual
    for name in (*images, *labels):
        if schema.get_field_index(name) < 0:
            raise UserError(f"{file}: has no column '{name}'; choose from {', '.join(schema.names)}")
    if len(labels) != 1:
        named = ", ".join(labels or schema.names)
        raise UserError(f"{file}: has {len(labels)} columns of labels; choose by datamodule.columns.label=…: {named}")
    return images[0], labels[0], features.get(labels[0], {}).get("names")


@lru_cache(2)
def _open(file: str) -> Any:
    """A ParquetFile, or the memory-mapped table of an Arrow file."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise UserError('datamodule.root: pyarrow is not installed; pip install -e ".[formats]"') from error
    if file.endswith(".parquet"):
        return pq.ParquetFile(file, memory_map=True)
    return pa.ipc.open_stream(pa.memory_map(file)).read_all()


def _schema_and_groups(file: str) -> tuple[Any, int]:
    opened = _open(file)
    return (opened.schema_arrow, opened.num_row_groups) if file.endswith(".parquet") else (opened.schema, 1)


@lru_cache(4)
def _column(file: str, name: str, group: int) -> Any:
    """A column of a row group."""
    opened = _open(file)
    return opened.read_row_group(group, [name])[name] if file.endswith(".parquet") else opened[name]
