"""Recognises how a source lays out its images and labels."""

import os
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path, PurePath

from conf.errors import UserError
from datamodules.layouts import archive, object_store, parquet
from datamodules.layouts.class_folders import class_folders, split_folders, unwrapped
from datamodules.layouts.columns import ColumnError
from datamodules.layouts.folder import DiskFolder, Folder, Item, StoredFolder, is_image
from datamodules.layouts.listing import Listing, shorten
from datamodules.layouts.shards import is_shard, read_shards
from datamodules.layouts.table_file import SUFFIXES as TABLES
from datamodules.layouts.tables import Table, TableOptions, label_names, read_tables
from datamodules.splits import split_of, split_of_file
from datamodules.storage.stored_file import REMOTE

METADATA = ("metadata.csv", "metadata.jsonl")  # of Hugging Face's image folders
SUBMISSION = "submission"  # in the name of Kaggle's examples, whose labels are made up
# Folders that are searched for Parquet files, which come in few.
MAX_FOLDERS = 10
# Rows of a table that are compared with the class folders beside it.
NUM_COMPARED = 10_000
FIX = "give a folder of class folders, a table, a list, an archive, or shards"
EXAMPLE = r"datamodule.label_pattern='(?P<label>[a-z]+)\.\d+'"


def recognise(root: str, options: TableOptions, label_pattern: str | None, cache_dir: Path) -> Listing:
    """The labelled images of a folder, table, list, archive, shard, or bucket.

    Args:
        label_pattern: see `by_name`.
        cache_dir: where indices of remote shards are kept.

    Raises:
        UserError: it is none of them, or may be two of them.
    """
    if root.startswith(REMOTE):
        return _in_folder(object_store.open_bucket(root), options, label_pattern, cache_dir)
    path = Path(os.path.expanduser(root))  # noqa: PTH111  # Path's raises for an unknown user
    name = path.name.lower()
    if not path.exists():
        raise UserError(f"datamodule.root: {path} does not exist; {FIX}")
    if path.is_dir():
        return _in_folder(DiskFolder(path), options, label_pattern, cache_dir)
    if label_pattern and not name.endswith(archive.SUFFIXES):
        raise UserError(f"datamodule.label_pattern: {path} has no names of images; leave it out")
    if name.endswith(TABLES):
        return read_tables([Table(str(path), str(path), DiskFolder(path.parent))], options)
    if name.endswith(parquet.SUFFIXES):
        return parquet.read_parquet([str(path)], options.columns)
    if name.endswith(archive.SUFFIXES):
        opened = archive.open_archive(str(path))
        if is_shard(opened):
            return read_shards([opened], options.columns)
        return _in_folder(opened, options, label_pattern, cache_dir)
    archive.check_compression(path)
    raise UserError(f"datamodule.root: {path} holds no labelled images that Litmus knows; {FIX}")


def _in_folder(root: Folder, options: TableOptions, label_pattern: str | None, cache_dir: Path) -> Listing:
    folder, above = unwrapped(root, (*TABLES, *archive.SUFFIXES, *parquet.SUFFIXES))
    parquet_files = _parquet_files(folder)
    if parquet_files:
        return parquet.read_parquet(parquet_files, options.columns)
    archives = _archives(folder)
    of_splits = [item for inner in folder.folders if split_of(inner.name) for item in _archives(inner)]
    if (archives or of_splits) and not _has_class_folders(folder) and not any(map(is_image, folder.files)):
        opened = object_store.open_archives(archives or of_splits, cache_dir)
        if any(map(is_shard, opened)):
            return read_shards(opened, options.columns)
        if archives:
            folder, above = _merged(folder, opened), ""
    if label_pattern:
        return by_name(folder, above, label_pattern)
    has_classes = _has_class_folders(folder)
    tables, others = _tables(folder, options, below=not has_classes)
    if tables and not has_classes:
        listing = read_tables(tables, options)
    else:
        if not has_classes:
            folder, above, unused = _with_classes(folder, above)
            others += unused
        if tables and "train" not in split_folders(folder)[0]:
            _check_agreement(folder, tables, options)
        if not has_classes and any(map(is_image, folder.files)):
            fix = f"put each class into a folder, or read the labels from the names: {EXAMPLE}"
            raise UserError(f"datamodule.root: {folder.path} holds images but no labels; {fix}")
        listing = class_folders(folder, above, is_image)
        others = [*(table.where for table in tables), *others]
    listing.not_used += others
    return listing


def _with_classes(folder: Folder, above: str) -> tuple[Folder, str, list[str]]:
    """The folder of class folders, though others such as docs/ stand beside it or those around it, its relative path,
    and the names of these others; the given folder if there is none."""
    with_images = [inner for inner in folder.folders if _holds_images(inner)]
    if _has_class_folders(folder) or len(with_images) != 1 or split_of(with_images[0].name):
        return folder, above, []
    only, path = unwrapped(with_images[0])
    found, found_above, unused = _with_classes(only, f"{above}{with_images[0].name}/{path}")
    if not _has_class_folders(found):
        return folder, above, []
    return (
        found,
        found_above,
        [f"{above}{inner.name}/" for inner in folder.folders if inner not in with_images] + unused,
    )


def by_name(folder: Folder, above: str, pattern: str) -> Listing:
    """Labels from the names of files, such as cat.0.jpg. Top folders named like splits are the splits.

    Args:
        above: the folder's path relative to the root, which begins the names of the files.
        pattern: a regular expression that is searched in each path, with a group `label`, and optionally `split` and
            `group`. Images without a match are not used.

    Raises:
        UserError: the pattern is malformed, or matches nothing.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        problem = f"{error}; correct the regular expression"
        raise UserError(f"datamodule.label_pattern: {problem}, as in {EXAMPLE}") from error
    if "label" not in expression.groupindex:
        raise UserError(f"datamodule.label_pattern: has no group named label; write it as in {EXAMPLE}")
    listing = Listing("labels from file names")
    images = sorted((path, item) for path, item in folder.walk() if is_image(path))
    has_splits = any(split_of(inner.name) == "train" for inner in folder.folders)
    for path, item in images:
        match = expression.search(path)
        groups = match.groupdict() if match else {}
        if not groups.get("label"):
            listing.not_used.append(path)
            continue
        word = groups.get("split") or (PurePath(path).parts[0] if has_splits else None)
        for name in ("split", "group"):
            if name in groups and not groups[name]:
                raise UserError(f"{path}: datamodule.label_pattern finds no {name}; correct it")
        if word and split_of(word) is None:
            raise UserError(f"{path}: '{word}' is not a split; correct datamodule.label_pattern")
        listing.add(item, above + path, groups["label"], word and split_of(word), groups.get("group"))
    if not len(listing):
        example = f", such as {images[0][0]}" if images else ""
        raise UserError(f"datamodule.label_pattern: matches none of {len(images)} images{example}; correct it")
    return listing


def _parquet_files(folder: Folder) -> list[str]:
    """Those in a folder on disk, or one level below."""
    if not isinstance(folder, DiskFolder) or any(map(is_image, folder.files)):
        return []
    folders = [folder, *islice(folder.folders, MAX_FOLDERS)]
    return [item for near in folders for name, item in near.files.items() if name.lower().endswith(parquet.SUFFIXES)]


def _archives(folder: Folder) -> list[Item]:
    """Those in a folder that can be opened: on disk, or in a store, but not inside another archive."""
    archives = [item for name, item in folder.files.items() if name.lower().endswith(archive.SUFFIXES)]
    return [item for item in archives if isinstance(item, str) or item.container.startswith(REMOTE)]


def _has_class_folders(folder: Folder) -> bool:
    splits, _ = split_folders(folder)
    if "train" in splits or "test" in splits:
        return True
    with_images = (inner for inner in folder.folders if not split_of(inner.name) and _holds_images(inner))
    return len(list(islice(with_images, 2))) == 2


def _holds_images(folder: Folder) -> bool:
    return any(is_image(path) for path, _ in folder.walk())


def _merged(folder: Folder, archives: Sequence[StoredFolder]) -> StoredFolder:
    """One folder with the members of all archives.

    An archive of images only becomes a folder of its name; one of folders belongs to the split in its name.

    Raises:
        UserError: two archives hold files of one name.
    """
    merged = StoredFolder(folder.path, folder.files.items())
    paths: set[str] = set()
    for opened in archives:
        path = PurePath(opened.path)
        of_folder = split_of(path.parent.name) if path.parent != PurePath(folder.path) else None
        split = split_of_file(path.stem) or of_folder
        above = split if opened.folders else f"{of_folder or ''}/{path.stem}"
        for name, item in opened.walk():
            path_in_all = f"{above or ''}/{name}".lstrip("/")
            if path_in_all in paths:
                raise UserError(f"{opened.path}: another archive holds {name}, too; unpack them apart")
            paths.add(path_in_all)
            merged.add(path_in_all, item)
    return merged


def _tables(folder: Folder, options: TableOptions, below: bool) -> tuple[list[Table], list[str]]:
    """The tables of a folder: its metadata, those of its split folders, or others; and the names of those not used.

    Args:
        below: looks into the folders in it, too.

    Raises:
        UserError: there are several of one split, or only unclear ones.
    """
    for name in METADATA:
        if name in folder.files:
            return [Table(name, folder.files[name], folder)], []
    of_splits = [
        Table(f"{inner.name}/{name}", inner.files[name], inner, split_of(inner.name))
        for inner in folder.folders
        if split_of(inner.name)
        for name in METADATA
        if name in inner.files
    ]
    if of_splits:
        return of_splits, []
    names = [inner.name for inner in folder.folders]
    are_parts = len(names) > 1 and len({re.sub(r"\d+$", "", name) for name in names}) == 1  # images_001, images_002
    readable, others = _readable_tables([folder], options, must_be_clear=are_parts)
    if not readable and below:
        readable, others_below = _readable_tables(folder.folders, options, must_be_clear=False)
        others += others_below
    splits = [table.split for table in readable]
    chosen = [table for table in readable if table.split] if "train" in splits else readable
    if len({table.split for table in chosen}) < len(chosen) or ("train" not in splits and len(chosen) > 1):
        named = shorten([table.where for table in chosen])
        raise UserError(f"datamodule.root: {folder.path} holds several tables: {named}; give one of them")
    others += [table.where for table in readable if table not in chosen]
    return chosen, others


def _readable_tables(
    folders: Iterable[Folder], options: TableOptions, must_be_clear: bool
) -> tuple[list[Table], list[str]]:
    """The tables and lists of images in folders, and the names of others. Beside one for training, only those that have
    its labels.

    Raises:
        UserError: `must_be_clear`, and no table has clear columns of images and labels.
    """
    labels: dict[Table, list[str]] = {}
    others: list[str] = []
    unclear: list[ColumnError] = []
    for folder in folders:
        for name, item in folder.files.items():
            table = Table(name, item, folder, split_of_file(PurePath(name).stem))
            is_list = name.lower().endswith(".txt")
            if not name.lower().endswith(TABLES) or (is_list and not table.split):
                continue
            try:
                names = [] if SUBMISSION in name.lower() else label_names(table, options)
            except ColumnError as error:
                names = []
                unclear.append(error)
            if names:
                labels[table] = names
            else:
                others.append(name)
    if must_be_clear and unclear and not labels:
        raise unclear[0]
    of_training = [names for table, names in labels.items() if table.split == "train"]
    alike = [table for table, names in labels.items() if not of_training or names in of_training]
    return alike, others + [table.where for table in labels if table not in alike]


def _check_agreement(folder: Folder, tables: Sequence[Table], options: TableOptions) -> None:
    """Raises UserError if the labels of a table are not, one by one, the class folders beside it."""
    try:
        listing = read_tables(tables, options._replace(skip_unlabelled=True))
    except UserError:  # it does not list these images
        return
    pairs = set()
    start = len(folder.path) + 1
    for item, label in islice(listing.labelled_items(), NUM_COMPARED):
        path = getattr(item, "name", "") if not isinstance(item, str) else item[start:]
        if "/" in path and (not isinstance(item, str) or os.path.exists(item)):  # noqa: PTH110
            pairs.add((label, path.partition("/")[0]))
    labels = {label for label, _ in pairs}
    if len({name for _, name in pairs}) < len(pairs) or len(labels) < len(pairs):
        table = tables[0].where
        fix = f"give {table} as the root, or move it elsewhere"
        raise UserError(f"datamodule.root: {folder.path} holds class folders and {table} with other labels; {fix}")
