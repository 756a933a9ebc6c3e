"""ImageDataModule: images of any form are decoded once, and kept where there is room. A subclass for each source."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from conf.errors import UserError
from datamodules.datamodule import DataModule
from datamodules.storage import cache
from datamodules.storage.decode import ImageSpec, Resize, UnlikeError
from datamodules.storage.image_header import ImageHeader, common_size, read_headers
from datamodules.storage.inputs import Loaded, Streamed, collect
from datamodules.storage.memory import free_memory
from datamodules.storage.worker_pool import Workers, chunks, progress

# Images in memory take at most this fraction of the free memory.
MAX_MEMORY_FRACTION = 0.5
# So many headers tell whether it is worth while to take all images for alike until one is not.
FEW = 64
# Images of fewer bytes are not cached on disk.
MIN_DISK_BYTES = 8 * 2**20


@dataclass(kw_only=True, eq=False, repr=False)
class ImageDataModule(DataModule):
    """Images of classes. A subclass names its source by `read`.

    Args:
        channels: 1, 3, or auto: 1 if every image is grey.
        image_size: pixels of a side or [height, width]; null: see `decode.common_size`.
        resize, jpeg_draft: how an image of another size is brought to it: see `decode.ImageSpec`.
        cache: where decoded images are kept: in `memory`, on `disk` for later runs too, or nowhere (`off`): then they
            are decoded each time they are needed. `auto`: few in memory, many on disk; without room there in memory if
            they take less than half of what is free, else nowhere. It changes speed alone.
        cache_dir: where on disk.
        num_workers: processes that decode; null: one a core. It changes speed alone.
    """

    channels: Literal["auto", 1, 3]
    image_size: int | list[int] | None
    resize: Resize
    jpeg_draft: bool
    cache: Literal["auto", "memory", "disk", "off"]
    cache_dir: str
    num_workers: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_workers is not None and self.num_workers < 0:
            raise UserError(f"datamodule.num_workers: must be 0 or more, not {self.num_workers}; leave it out")
        self._size()  # refuses what is none

    @property
    def form_is_known(self) -> bool:
        return self.channels != "auto" and self.image_size is not None

    def load(self, items: Sequence[Any], files: Sequence[str], train_count: int) -> Loaded:
        began = time.time()
        if isinstance(items[0], str):
            items = list(items)  # which is gone through four times, and faster than several splits in one
        room, folder = int(MAX_MEMORY_FRACTION * free_memory()), Path(self.cache_dir).expanduser()
        keepable = self.cache in ("auto", "disk") and isinstance(items[0], str)
        options = (self.channels, self._size() or train_count, self.resize, self.jpeg_draft)
        name = cache.fingerprint(items, options) if keepable else ""
        if keepable and (found := cache.find(folder, name, room)):
            return Loaded(found, found.digests, found.bad)
        made: cache.CachedImages | None = None
        with Workers(self.num_workers, items) as workers:
            alike = self._alike(items) if keepable else None
            if alike and self._place(alike, len(items), room, folder, keepable) == "disk":
                with suppress(UnlikeError):
                    made = cache.make(folder, name, items, alike, workers, room)
            if made is None:
                form, bad = self._form(items, train_count, workers)
                place = self._place(form, len(items), room, folder, keepable)
                if place == "off":
                    streamed = Streamed(items, files, form, self.num_workers, began)
                    return Loaded(streamed, None, streamed.find_bad() if self.on_error == "skip" else bad)
                if place == "memory":
                    return collect(items, form, workers)
                made = cache.make(folder, name, items, form, workers, room)
        if cache.fingerprint(items, options) != name:
            raise UserError("datamodule.root: files changed while they were read; start again")
        return Loaded(made, made.digests, made.bad)

    def _alike(self, items: Sequence[Any]) -> ImageSpec | None:
        """If a few images are alike, the form that refuses all that are not. To take it for granted until one is
        unlike spares a look at all headers: a third of the time for small images."""
        few = [each for each in read_headers(items[:: -(-len(items) // FEW)]) if isinstance(each, ImageHeader)]
        form = self._form_of(few, few)
        alike = self._size() is None and {(each.height, each.width) for each in few} == {form.size}
        return form._replace(resize="refuse") if alike else None

    def _form(self, items: Sequence[Any], train_count: int, workers: Workers) -> tuple[ImageSpec, dict[int, str]]:
        """What all images are brought to, by a look at their headers if need be, and which of these are damaged."""
        if self.channels != "auto" and self._size() is not None:
            return self._form_of([], []), {}
        looks = progress(workers.map(read_headers, chunks(items)), len(items), "looking at images", len)
        found = [each for part in looks for each in part]
        learned = [each for each in found[:train_count] if isinstance(each, ImageHeader)]
        if not learned:
            raise UserError(f"{items[0]}: {found[0]}, and so is all there is to learn from; are the paths right?")
        bad = {position: each for position, each in enumerate(found) if isinstance(each, str)}
        return self._form_of([each for each in found if isinstance(each, ImageHeader)], learned), bad

    def _form_of(self, sound: list[ImageHeader], learned: list[ImageHeader]) -> ImageSpec:
        """What images of these headers are brought to."""
        channels = self.channels if self.channels != "auto" else 1 if all(each.grey for each in sound) else 3
        return ImageSpec(channels, self._size() or common_size(learned), self.resize, self.jpeg_draft)

    def _place(
        self, form: ImageSpec, count: int, room: int, folder: Path, keepable: bool
    ) -> Literal["memory", "disk", "off"]:
        """Where so many images of a form are kept."""
        size = count * form.channels * form.size[0] * form.size[1]
        if self.cache == "disk" and not keepable:
            raise UserError("datamodule.cache: these images are no files of their own; leave it out")
        if self.cache != "auto":
            return self.cache
        if keepable and size > MIN_DISK_BYTES and cache.has_room(folder, size):
            return "disk"
        return "memory" if size < room or not keepable else "off"

    def _size(self) -> tuple[int, int] | None:
        if self.image_size is None:
            return None
        size = [self.image_size] * 2 if isinstance(self.image_size, int) else self.image_size
        if len(size) != 2 or min(size) < 1:
            raise UserError(f"datamodule.image_size: {self.image_size} is no size; give pixels or [height, width]")
        return size[0], size[1]
