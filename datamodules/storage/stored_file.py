"""Image files inside archives, shards and object stores, read in place. Imports no torch."""

import os
import stat
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from conf.errors import UserError, first_line

REMOTE = "s3://"
# Requests to a store at a time, of each process; botocore's own limit is 10.
MAX_CONNECTIONS = 64


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
    """Bytes of a file, such as a member of a tar archive, or of an object in a store."""

    container: str
    start: int
    size: int
    version: str = ""
    """Of the object, so that another version is not taken for it in the cache"""

    def read_bytes(self) -> bytes:
        """
        Raises:
            OSError: it cannot be read.
            UserError: the store does not answer, see `fetch`.
        """
        if self.container.startswith(REMOTE):
            content: bytes = fetch([self])[0].content
            return content
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


def size_of(path: str | Path) -> int:
    """Bytes of a file on disk, which is checked before it is opened.

    Raises:
        OSError: there is none, or it is a pipe or a device, which may never end.
    """
    status = os.stat(path)  # noqa: PTH116
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise OSError("is a pipe or a device, not a file")
    return status.st_size


def stamp_of(item: Any) -> int:
    """A number that changes with a file: with its size, times or inode, or those of the file that contains it.

    The change time cannot be set back, and a folder that replaces another one has other inodes. 0 for images in memory
    and in a store.
    """
    path = item if isinstance(item, str) else getattr(item, "container", REMOTE)
    if path.startswith(REMOTE):
        return 0
    try:
        status = os.stat(path)  # noqa: PTH116  # half the time of Path.stat for a million files
    except (OSError, ValueError):  # ValueError: a null byte, which no file name contains
        return -1
    return hash((status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))


@cache
def _zip_file(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@cache
def object_store() -> Any:
    """The client of an S3-compatible store, set up by AWS's usual variables, such as AWS_ENDPOINT_URL.

    It repeats a request that failed on the way or was refused as one too many, up to 5 times over some seconds.

    Raises:
        UserError: it is not installed.
    """
    try:
        from s3fs import S3FileSystem
    except ModuleNotFoundError as error:
        raise UserError('datamodule.root: s3fs is not installed; pip install -e ".[formats]"') from error
    connections = {"max_pool_connections": MAX_CONNECTIONS}
    # Neither the client nor its listings outlive this process's use of them.
    return S3FileSystem(config_kwargs=connections, use_listings_cache=False, skip_instance_cache=True)


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Raises UserError for what a store, the network or the credentials refuse."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (OSError, ValueError, BotoCoreError, ClientError) as error:
        raise UserError(f"{url}: {_problem_and_fix(error)}") from error


def _problem_and_fix(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is not in the store; check its name, or restore it and resume by run=…"
    problem = first_line(error)
    if isinstance(error, PermissionError) or "credentials" in problem:
        return f"access is denied ({problem}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, then resume by run=…"
    fix = "check AWS_ENDPOINT_URL and the network, then resume by run=…"
    return f"cannot be read ({type(error).__name__}: {problem}); {fix}"


def fetch(items: Sequence[Any]) -> Sequence[Any]:
    """Reads all remote files of a batch at once, because each request takes long; leaves others unchanged.

    Raises:
        UserError: the store does not answer, or an object was removed or cut short.
    """
    remote = [item for item in items if isinstance(item, ByteRange) and item.container.startswith(REMOTE)]
    remote = list(dict.fromkeys(remote))
    if not remote:
        return items
    filled = [item for item in remote if item.size]  # a request of no bytes would return all of them
    urls = [item.container for item in filled]
    starts = [item.start for item in filled]
    ends = [item.start + item.size for item in filled]
    with store_errors(remote[0].container):
        answers = object_store().cat_ranges(urls, starts, ends, on_error="return") if filled else []
    read: dict[ByteRange, Content] = {item: Content(item.container, b"") for item in remote}
    for item, answer in zip(filled, answers, strict=True):
        with store_errors(item.container):
            if isinstance(answer, Exception):
                raise answer
        if len(answer) != item.size:
            raise UserError(f"{item.container}: changed since it was listed; restore it, then resume by run=…")
        read[item] = Content(item.container, answer)
    return [read.get(item, item) if isinstance(item, ByteRange) else item for item in items]
