"""Image files inside archives, shards and object stores, read in place. Imports no torch."""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, Protocol

from conf.errors import UserError, first_line

REMOTE = "s3://"


class StoredFile(Protocol):
    """A file inside another one."""

    @property
    def container(self) -> str:
        """Path or URL of the archive, shard or object"""

    def read_bytes(self) -> bytes:
        """
        Raises:
            OSError: it cannot be read, or is corrupt.
        """


class ByteRange(NamedTuple):
    """Bytes of a file, such as a member of a tar archive; of a remote one, see `fetch`."""

    container: str
    start: int
    size: int

    def read_bytes(self) -> bytes:
        with open(self.container, "rb") as file:
            file.seek(self.start)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError("the archive ends within the file")
        return content


class ZipMember(NamedTuple):
    """A member of a zip archive; its CRC is verified."""

    container: str
    name: str

    def read_bytes(self) -> bytes:
        try:
            return _zip_file(self.container).read(self.name)
        except (zipfile.BadZipFile, zipfile.zlib.error, NotImplementedError) as error:  # type: ignore[attr-defined]
            raise OSError(f"corrupt in the archive ({error})") from error


class Missing(NamedTuple):
    """A file that a table names but the archive lacks."""

    container: str

    def read_bytes(self) -> bytes:
        raise OSError("not in the archive")


class Content(NamedTuple):
    """A remote file that was read."""

    container: str
    content: bytes

    def read_bytes(self) -> bytes:
        return self.content


@cache
def _zip_file(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@cache
def object_store() -> Any:
    """The client of an S3-compatible store, set up by AWS's usual variables, such as AWS_ENDPOINT_URL.

    Raises:
        UserError: it is not installed.
    """
    try:
        from s3fs import S3FileSystem
    except ModuleNotFoundError as error:
        raise UserError('datamodule.root: s3fs is not installed; pip install -e ".[formats]"') from error
    return S3FileSystem()


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Raises UserError for what a store, the network or the credentials refuse."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (OSError, BotoCoreError, ClientError) as error:
        problem = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{url}: {problem}; check its name, the network and the credentials") from error


def fetch(items: Sequence[Any]) -> Sequence[Any]:
    """Reads all remote files of a batch at once, because each request takes long; leaves others unchanged.

    Raises:
        UserError: the store does not answer, or lacks a file.
    """
    remote = [item for item in items if isinstance(item, ByteRange) and item.container.startswith(REMOTE)]
    if not remote:
        return items
    urls = [item.container for item in remote]
    starts = [item.start for item in remote]
    ends = [item.start + item.size for item in remote]
    with store_errors(urls[0]):
        contents = object_store().cat_ranges(urls, starts, ends, on_error="raise")
    read = dict(zip(remote, contents, strict=True))
    return [Content(item.container, read[item]) if item in read else item for item in items]
