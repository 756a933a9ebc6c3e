"""Any number of picture files: found by a name for them, decoded in batches as they are asked for."""

import csv
import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from glob import glob
from pathlib import Path

from PIL import Image

from conf.errors import UserError, nearest
from datamodules.decode import DecodedBatch, Resize, decode_batch
from datamodules.image_folder import pictures_below
from datamodules.store import FEWEST_FOR_PROCESSES, cores


def find(source: str) -> list[str]:
    """The files that `source` names: itself, all pictures below a folder in the order of their names, the column `file`
    of a CSV table (from the table's folder on), or what a glob finds.

    Raises:
        UserError: none.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = sorted(pictures_below(path, set()))
    elif path.suffix.lower() == ".csv" and path.is_file():
        found = _listed(path)
    elif path.is_file():
        found = [path]
    else:
        found = [Path(each) for each in sorted(glob(str(path), recursive=True)) if _is_picture(Path(each))]  # noqa: PTH207
    if not found:
        raise UserError(f"input: {source} names no picture; give a file, a folder, a table of files, or a glob")
    return list(map(str, found))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in Image.registered_extensions()


def _listed(table: Path) -> list[Path]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or []
            if "file" not in columns:
                raise UserError(f"input: {table} has no column 'file'; {nearest('file', columns)}")
            return [table.parent / row["file"] for row in rows if row["file"]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"input: {table} is no CSV table in UTF-8 ({error}); correct it") from error


def read_in_batches(
    files: Sequence[str],
    channels: int,
    size: tuple[int, int],
    resize: Resize,
    batch_size: int,
    num_workers: int | None,
) -> Iterator[DecodedBatch]:
    """Decodes the files in their order. Never more than three batches a process are held, whatever their number.

    Args:
        files: paths.
        channels, size, resize: see `decode.to_array`.
        num_workers: processes; null: one a core. Few files are read by a thread instead, and so are all with 0 or 1.
    """
    read = partial(decode_batch, channels=channels, size=size, resize=resize)
    batches = (list(files[start : start + batch_size]) for start in range(0, len(files), batch_size))
    workers = cores() if num_workers is None else num_workers
    alone = workers < 2 or len(files) < FEWEST_FOR_PROCESSES
    spawn = multiprocessing.get_context("spawn")
    ahead: deque[Future[DecodedBatch]] = deque()
    with ThreadPoolExecutor(1) if alone else ProcessPoolExecutor(workers, spawn) as pool:
        try:
            for batch in batches:
                ahead.append(pool.submit(read, batch))
                if len(ahead) > 3 * max(1, workers):
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool as error:
            raise UserError("datamodule.num_workers: a process was killed, perhaps for memory; use fewer") from error
