"""WebDataset shards, and an S3-compatible store on this machine."""

import io
import logging
import tarfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from datamodules.storage.stored_file import object_store

BUCKET = "images"
URL = f"s3://{BUCKET}/shards"
VARIABLES = {
    "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip


def png(label: int, seed: int, size: int = 12) -> bytes:
    """A noisy image, brighter for each label."""
    generator = np.random.default_rng((seed, label))
    pixels = np.clip(generator.normal(60 + 60 * label, 40, (size, size, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def tar(files: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as writer:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            writer.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def shard(first: int, count: int, classes: int = 2) -> bytes:
    """Samples with labels in turn."""
    files: dict[str, bytes] = {}
    for i in range(first, first + count):
        files |= {f"{i:05d}.png": png(i % classes, i), f"{i:05d}.cls": b"%d" % (i % classes)}
    return tar(files)


def write_shards(folder: Path, count: int = 4, samples: int = 24) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"shard-{i}.tar").write_bytes(shard(i * samples, samples))
    return folder


class Store:
    """A bucket and its client."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.client: Any = boto3.client("s3")

    def clear(self) -> None:
        """Leaves one empty bucket."""
        self.configure("reset", b"")
        self.client.create_bucket(Bucket=BUCKET)

    def configure(self, action: str, value: bytes) -> None:
        """A request to moto itself."""
        header = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/moto-api/{action}", value, header)).close()

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=key)

    def upload(self, folder: Path) -> str:
        """Puts the files of a folder below `URL`, which it returns."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(f"shards/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return URL


@contextmanager
def running_store() -> Iterator[Store]:
    """A store that AWS's variables name; all in one process share their objects."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    object_store.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**VARIABLES, "AWS_ENDPOINT_URL": endpoint}.items():
            patch.setenv(name, value)
        store = Store(endpoint)
        try:
            yield store
        finally:
            object_store.cache_clear()
            store.client.close()
            server.stop()
