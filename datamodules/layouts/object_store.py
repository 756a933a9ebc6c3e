"""Images and shards in an S3-compatible store, read by ranges of bytes."""

import hashlib
import json
from pathlib import Path
from typing import Any

from conf.errors import UserError
from conf.files import write_text
from datamodules.layouts.archive import open_archive as open_local_archive
from datamodules.layouts.archive import tar_members
from datamodules.layouts.folder import Item, StoredFolder
from datamodules.storage.stored_file import REMOTE, ByteRange, object_store, store_errors

# Bytes read at once while the members of a remote archive are listed.
INDEX_BLOCK = 2**16


def open_bucket(url: str) -> StoredFolder:
    """The folder of all objects whose names begin with a URL.

    Raises:
        UserError: the store does not answer, or there are none.
    """
    with store_errors(url):
        objects: dict[str, dict[str, Any]] = object_store().find(url, detail=True)
    if not objects:
        raise UserError(f"datamodule.root: {url} holds no objects; check its name")
    prefix = url.removeprefix(REMOTE).rstrip("/")
    folder = StoredFolder(url.rstrip("/"))
    for key, entry in objects.items():
        name = key.removeprefix(prefix).lstrip("/") or key.rpartition("/")[2]
        folder.add(name, ByteRange(f"{REMOTE}{key}", 0, int(entry["size"])))
    return folder


def open_archive(item: Item, cache_dir: Path) -> StoredFolder:
    """The folder inside an archive on disk or in a store.

    The members of a remote tar archive are listed once: their names and places are kept in `cache_dir`.
    """
    if isinstance(item, str):
        return open_local_archive(item)
    url = item.container
    if not url.endswith(".tar"):
        raise UserError(f"{url}: only tar archives are read in a store; download it")
    store = object_store()
    with store_errors(url):
        version = store.ukey(url)
        name = hashlib.blake2b(f"{url} {version}".encode(), digest_size=16).hexdigest()
        index = cache_dir / f"{name}.index.json"
        try:
            members = json.loads(index.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            with store.open(url, block_size=INDEX_BLOCK) as file:
                members = [(path, member.start, member.size) for path, member in tar_members(url, file)]
            write_text(index, json.dumps(members))
    return StoredFolder(url, ((path, ByteRange(url, start, size)) for path, start, size in members))
