"""Images and shards in an S3-compatible store, read by ranges of bytes."""

import hashlib
import json
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from conf.errors import UserError, first_line
from conf.files import file_lock, write_text
from datamodules.layouts import parquet
from datamodules.layouts.archive import MAX_MEMBER_BYTES, tar_members
from datamodules.layouts.archive import open_archive as open_local_archive
from datamodules.layouts.folder import Item, StoredFolder, is_image
from datamodules.layouts.shards import LABEL_SUFFIXES
from datamodules.storage.stored_file import REMOTE, ByteRange, Content, object_store, store_errors
from datamodules.storage.worker_pool import progress

# Bytes read at once while a shard is listed: for members below 1 MB faster than a request for each header.
INDEX_BLOCK = 2**22
# Shards listed at a time.
MAX_LISTED = 8
# Bytes. The contents of smaller labels are kept with the names: otherwise each is a request.
MAX_LABEL_BYTES = 2**16


class Index(NamedTuple):
    """The members of a remote tar archive."""

    members: list[tuple[str, int, int]]
    """Name, start, size"""
    labels: dict[str, str]
    """The bytes of `.cls` and `.json` members, each as a letter"""


def open_bucket(url: str) -> StoredFolder:
    """The folder of all objects whose names begin with a URL.

    Raises:
        UserError: the store does not answer, there are no objects, or one that is not read in a store.
    """
    with store_errors(url):
        objects: dict[str, dict[str, Any]] = object_store().find(url, detail=True)
    prefix = url.removeprefix(REMOTE).rstrip("/")
    folder = StoredFolder(url.rstrip("/"))
    for key, entry in objects.items():
        if key.endswith("/"):  # a console's mark of a folder
            continue
        container, size = f"{REMOTE}{key}", int(entry["size"])
        if PurePath(key).suffix.lower() in parquet.SUFFIXES:
            raise UserError(f"{container}: is not read in a store; download it, or write tar shards")
        if is_image(key) and size > MAX_MEMBER_BYTES:
            raise UserError(f"{container}: has {size / 2**30:.1f} GiB; an image has less than 0.5")
        name = key.removeprefix(prefix).lstrip("/") or key.rpartition("/")[2]
        version = entry.get("ETag") or str(entry.get("LastModified", ""))
        folder.add(name, ByteRange(container, 0, size, version))
    if not folder.files and not folder.folders:
        raise UserError(f"datamodule.root: {url} holds no objects; check its name")
    return folder


def open_archives(items: Sequence[Item], cache_dir: Path) -> list[StoredFolder]:
    """The folders inside archives on disk or in a store.

    The members of a remote tar archive are listed once: their names, places and labels are kept in `cache_dir`.

    Raises:
        UserError: one is corrupt, or cannot be read.
    """
    if all(isinstance(item, str) for item in items):
        return [open_local_archive(item) for item in items]
    with ThreadPoolExecutor(MAX_LISTED) as pool:
        folders = pool.map(partial(_open_remote, cache_dir=cache_dir), items)
        return list(progress(folders, len(items), "listing shards", lambda _: 1))


def _open_remote(archive: ByteRange, cache_dir: Path) -> StoredFolder:
    url = archive.container
    if not url.lower().endswith(".tar"):
        raise UserError(f"{url}: only tar archives are read in a store; download it")
    name = hashlib.blake2b(f"1 {url} {archive.size} {archive.version}".encode(), digest_size=16).hexdigest()
    file = cache_dir / "shards" / f"{name}.json"
    with ExitStack() as stack:
        # Without a lock, which a read-only folder does not allow, several ranks list the shard at once.
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(file.with_suffix(".lock")))
        index = _cached(file, archive.size) or _list(archive, file)
    folder = StoredFolder(url)
    for path, start, size in index.members:
        label = index.labels.get(path)
        stored: Item = ByteRange(url, start, size, archive.version)
        folder.add(path, stored if label is None else Content(url, label.encode("latin-1")))
    return folder


def _cached(file: Path, size: int) -> Index | None:
    """The index in a file; None if there is none, or none of an archive of `size` bytes."""
    try:
        entry = json.loads(file.read_text(encoding="utf-8"))
        index = Index([(path, start, count) for path, start, count in entry["members"]], dict(entry["labels"]))
        for text in index.labels.values():
            text.encode("latin-1")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return index if all(_is_member(*member, size) for member in index.members) else None


def _is_member(path: Any, start: Any, size: Any, archive_size: int) -> bool:
    if type(path) is not str or type(start) is not int or type(size) is not int:
        return False
    return start >= 0 and 0 <= size <= MAX_MEMBER_BYTES and start + size <= archive_size


def _list(archive: ByteRange, file: Path) -> Index:
    """Lists a tar archive, and keeps the index if the disk allows it."""
    url = archive.container
    index = Index([], {})
    try:
        with store_errors(url), object_store().open(url, block_size=INDEX_BLOCK, cache_type="readahead") as remote:
            for path, member in tar_members(url, remote):
                index.members.append((path, member.start, member.size))
                if path.lower().endswith(LABEL_SUFFIXES) and member.size <= MAX_LABEL_BYTES:
                    remote.seek(member.start)
                    index.labels[path] = remote.read(member.size).decode("latin-1")
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{url}: cannot be read ({first_line(error)}); is it complete?") from error
    if not all(_is_member(*member, archive.size) for member in index.members):
        raise UserError(f"{url}: ends within a member; is it complete?")
    with suppress(UserError, OSError):  # later runs list it again
        write_text(file, json.dumps(index._asdict()))
    return index
