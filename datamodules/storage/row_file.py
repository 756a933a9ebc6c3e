"""Parquet and Arrow files of rows with images, read in place. Imports pyarrow only when one is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from conf.errors import UserError, first_line
from datamodules.storage.stored_file import size_of

SUFFIXES = (".parquet", ".arrow")
# Bytes of the images in a row group; two groups are held at a time. Hugging Face writes 100 rows.
MAX_GROUP_BYTES = 2**30
PART_ROWS = 64  # of a row group
MAX_OPEN_FILES = 256
ARROW_FILE = b"ARROW1"  # the first bytes of an Arrow file that is no stream


class Cell(NamedTuple):
    """The image in a row of a file."""

    container: str
    column: str
    group: int
    """The row group; 0 in an Arrow file"""
    row: int
    """In its row group"""

    def read_bytes(self) -> bytes:
        arrow = pyarrow()
        try:
            value = _images(self.container, self.column, self.group)[self.row].as_py()
        except (OSError, arrow.ArrowException, IndexError, KeyError) as error:
            raise OSError(f"its row cannot be read ({first_line(error)})") from error
        content = value["bytes"] if isinstance(value, dict) else value
        if content is None:
            raise OSError("the row holds no image; a path alone is not followed")
        if not isinstance(content, bytes):
            raise OSError(f"the row holds {type(content).__name__}, not the bytes of an image")
        return content


def pyarrow() -> Any:
    """The module.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow as arrow
    except ModuleNotFoundError as error:
        raise UserError('datamodule.root: pyarrow is not installed; pip install -e ".[formats]"') from error
    return arrow


@contextmanager
def readable(file: str) -> Iterator[None]:
    """Raises UserError for what pyarrow cannot read."""
    arrow = pyarrow()
    try:
        yield
    except (OSError, arrow.ArrowException) as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}); is it complete?") from error


def schema(file: str) -> Any:
    """The pyarrow.Schema."""
    opened = _open(file)
    return opened.schema_arrow if file.endswith(".parquet") else opened.schema


def group_count(file: str) -> int:
    """Number of row groups."""
    return _open(file).num_row_groups if file.endswith(".parquet") else 1


def values(file: str, column: str, group: int) -> list[Any]:
    """A column of a row group."""
    part = _row_group(file, column, group) if file.endswith(".parquet") else _open(file)[column]
    return _checked(part).to_pylist()


def check_size(file: str, column: str) -> None:
    """Raises UserError for more rows than a file can hold images, or a row group that does not fit into the memory."""
    if not file.endswith(".parquet"):
        return  # mapped into memory
    metadata = _open(file).metadata
    if metadata.num_rows > size_of(file):  # empty ones, or all alike
        problem = f"claims {metadata.num_rows:,} images in {size_of(file):,} bytes"
        raise UserError(f"{file}: {problem}; write one image in each row")
    for group in range(metadata.num_row_groups):
        chunks = [metadata.row_group(group).column(i) for i in range(metadata.num_columns)]
        own = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] == column]
        size = sum(chunk.total_uncompressed_size for chunk in own)
        if size > MAX_GROUP_BYTES:
            raise UserError(f"{file}: row group {group} has {size / 2**30:.1f} GiB; write it with row_group_size=100")


@lru_cache(MAX_OPEN_FILES)
def _open(file: str) -> Any:
    """A ParquetFile, or the memory-mapped table of an Arrow file."""
    arrow = pyarrow()
    size_of(file)
    if file.endswith(".parquet"):
        from pyarrow.parquet import ParquetFile

        return ParquetFile(file, memory_map=True)
    mapped = arrow.memory_map(file)
    is_stream = mapped.read(len(ARROW_FILE)) != ARROW_FILE
    mapped.seek(0)
    return (arrow.ipc.open_stream(mapped) if is_stream else arrow.ipc.open_file(mapped)).read_all()


def _images(file: str, column: str, group: int) -> Any:
    return _parquet_images(file, column, group) if file.endswith(".parquet") else _arrow_images(file, column)


def _row_group(file: str, path: str, group: int) -> Any:
    """A column of a row group, or a field of it, in parts: rows that repeat one value may take any size.

    Raises:
        OSError: it takes more than 1 GiB.
    """
    parts: list[Any] = []
    size = 0
    for batch in _open(file).iter_batches(PART_ROWS, row_groups=[group], columns=[path]):
        size += batch.nbytes
        if size > MAX_GROUP_BYTES:
            raise OSError(f"row group {group} has more than {MAX_GROUP_BYTES / 2**30:.0f} GiB")
        parts.append(batch.column(0))
    return pyarrow().chunked_array(parts) if parts else pyarrow().chunked_array([], pyarrow().null())


@lru_cache(2)
def _parquet_images(file: str, column: str, group: int) -> Any:
    is_struct = pyarrow().types.is_struct(schema(file).field(column).type)
    return _row_group(file, f"{column}.bytes" if is_struct else column, group)


@lru_cache(MAX_OPEN_FILES)
def _arrow_images(file: str, column: str) -> Any:
    return _checked(_open(file)[column])


def _checked(column: Any) -> Any:
    """Offsets in a corrupt Arrow file may point anywhere in memory."""
    column.validate(full=True)
    return column
