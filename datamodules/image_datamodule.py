"""ImageDataModule: images of any size and mode are decoded once and cached. A subclass for each source."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval
from PIL import Image

from conf.errors import UserError
from datamodules.datamodule import DataModule
from datamodules.storage import cache
from datamodules.storage.decode import ImageSpec, Interpolation, Resize
from datamodules.storage.feature_store import FeatureStore
from datamodules.storage.image_header import ImageHeader, common_size, read_headers
from datamodules.storage.inputs import Loaded, Streamed, collect
from datamodules.storage.memory import free_memory
from datamodules.storage.worker_pool import Workers, chunks, progress

Pixels = Annotated[int, Interval(ge=1, le=2**16 - 1)]  # at most the side of a JPEG
# Fraction of the free memory that decoded images may take.
MAX_MEMORY_FRACTION = 0.5
# Bytes; fewer are decoded again by each run rather than cached on disk.
MIN_CACHE_SIZE = 8 * 2**20


@dataclass(kw_only=True, eq=False, repr=False)
class ImageDataModule(DataModule):
    """Labelled images. A subclass names its source by `read`.

    Args:
        channels: 1, 3, or auto: 1 if every image is grey.
        image_size: pixels of a side or [height, width]; null: at most `max_size`, see `image_header.common_size`.
        resize, jpeg_draft, interpolation: how an image of another size is resized: see `decode.ImageSpec`.
        cache: where decoded images are kept: in `memory`, on `disk` for later runs too, or nowhere (`off`): then they
            are decoded each time they are needed. `auto`: few in memory, many on disk; if the disk is full, in memory
            if they take less than half of the free memory, else nowhere. It affects speed alone.
        cache_dir: where on disk.
        num_workers: processes that decode; null: one per core. It affects speed alone.
    """

    channels: Literal["auto", 1, 3]
    image_size: Pixels | list[Pixels] | None
    resize: Resize
    jpeg_draft: bool
    cache: Literal["auto", "memory", "disk", "off"]
    cache_dir: str
    interpolation: Interpolation | None = None
    max_size: Pixels = 256
    num_workers: Annotated[int, Interval(ge=0, le=1024)] | None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._size()  # raises if it is not a size

    @property
    def spec_is_known(self) -> bool:
        return self.channels != "auto" and self.image_size is not None

    def feature_store(self, name: str, split: str) -> FeatureStore | None:
        if self.cache not in ("auto", "disk") or split not in self.digests:
            return None
        return FeatureStore(Path(self.cache_dir).expanduser(), name, self.digests[split])

    def load(self, items: Sequence[Any], files: Sequence[str], train_count: int) -> Loaded:
        in_memory = isinstance(items[0], Image.Image)
        if not in_memory:
            items = list(items)  # several passes over it are faster than over several splits in one
        max_bytes, folder = int(MAX_MEMORY_FRACTION * free_memory()), Path(self.cache_dir).expanduser()
        cacheable = self.cache in ("auto", "disk") and not in_memory
        options = (self.channels, self._size() or (train_count, self.max_size), *self.resizing)
        name = cache.fingerprint(items, options) if cacheable else ""
        cached = cache.find(folder, name, max_bytes) if cacheable else None
        if cached:
            return Loaded(cached, cached.digests, cached.bad)
        with Workers(self.num_workers, items) as workers:
            spec, bad = self._spec(items, train_count, workers)
            self._check_memory(spec, min(train_count, self.batch_size))
            place = self._place(spec, len(items), max_bytes, folder, cacheable)
            if place == "off":
                streamed = Streamed(items, files, spec, self.num_workers)
                return Loaded(streamed, None, streamed.find_bad() if self.on_error == "skip" else bad)
            if place == "memory":
                return collect(items, spec, workers)
            cached = cache.make(folder, name, items, spec, workers, max_bytes)
        if cache.fingerprint(items, options) != name:
            raise UserError("datamodule.root: files changed while they were read; start again")
        return Loaded(cached, cached.digests, cached.bad)

    def _check_memory(self, spec: ImageSpec, batch_size: int) -> None:
        needed, free = batch_size * spec.channels * math.prod(spec.size), free_memory()
        if needed > free:
            height, width = spec.size
            raise UserError(
                f"datamodule.image_size: a batch of {batch_size} images of {height} x {width} pixels needs "
                f"{needed / 2**30:,.0f} GiB of memory, of which {free / 2**30:,.0f} are free; lower it"
            )

    def _spec(self, items: Sequence[Any], train_count: int, workers: Workers) -> tuple[ImageSpec, dict[int, str]]:
        """The form that all images are brought to, from their headers if need be, and why some are unreadable."""
        size = self._size()
        if self.channels != "auto" and size is not None:
            return ImageSpec(self.channels, size, *self.resizing), {}
        parts = progress(workers.map(read_headers, chunks(items)), len(items), "reading image headers", len)
        headers = [header for part in parts for header in part]
        readable = [header for header in headers if isinstance(header, ImageHeader)]
        of_training = [header for header in headers[:train_count] if isinstance(header, ImageHeader)]
        if not of_training:
            raise UserError(f"{items[0]}: {headers[0]}; every training image is unreadable; are the paths right?")
        channels = self.channels
        if channels == "auto":
            channels = 1 if all(header.grey for header in readable) else 3
        bad = {position: header for position, header in enumerate(headers) if isinstance(header, str)}
        return ImageSpec(channels, size or common_size(of_training, self.max_size), *self.resizing), bad

    def _place(
        self, spec: ImageSpec, count: int, max_bytes: int, folder: Path, cacheable: bool
    ) -> Literal["memory", "disk", "off"]:
        """Where `count` decoded images are kept."""
        size = count * spec.channels * spec.size[0] * spec.size[1]
        if self.cache == "disk" and not cacheable:
            raise UserError("datamodule.cache: these images are not files; leave it out")
        if self.cache != "auto":
            return self.cache
        if cacheable and size > MIN_CACHE_SIZE and cache.has_room(folder, size):
            return "disk"
        return "memory" if size < max_bytes or not cacheable else "off"

    @property
    def resizing(self) -> tuple[Resize, bool, Interpolation]:
        """The last fields of `ImageSpec`."""
        return self.resize, self.jpeg_draft, self.interpolation or "bilinear"

    def _size(self) -> tuple[int, int] | None:
        if self.image_size is None:
            return None
        size = [self.image_size] * 2 if isinstance(self.image_size, int) else self.image_size
        if len(size) != 2 or min(size) < 1:
            raise UserError(f"datamodule.image_size: {self.image_size} is not a size; give pixels or [height, width]")
        return size[0], size[1]
