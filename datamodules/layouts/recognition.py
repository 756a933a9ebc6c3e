"""Recognises how a source lays out its images and labels."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from conf.errors import UserError
from datamodules.layouts import archive, object_store, parquet
from datamodules.layouts.class_folders import class_folders, split_folders, unwrapped
from datamodules.layouts.folder import DiskFolder, Folder, Item, StoredFolder, is_image
from datamodules.layouts.listing import Listing, shorten
from datamodules.layouts.shards import is_shard, read_shards
from datamodules.layouts.table_file import SUFFIXES as TABLES
from datamodules.layouts.tables import Table, TableOptions, first_label, label_names, read_tables
from datamodules.splits import split_of, split_of_file
from datamodules.storage.stored_file import REMOTE

METADATA = ("metadata.csv", "metadata.jsonl")  # of Hugging Face's image folders
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
    path = Path(root).expanduser()
    suffix = path.suffix.lower()
    if not path.exists():
        raise UserError(f"datamodule.root: {path} does not exist; {FIX}")
    if path.is_dir():
        return _in_folder(DiskFolder(path), options, label_pattern, cache_dir)
    if suffix in TABLES:
        return read_tables([Table(str(path), str(path), DiskFolder(path.parent))], options)
    if suffix in parquet.SUFFIXES:
        return parquet.read_parquet([str(path)], options.columns)
    if suffix in archive.SUFFIXES:
        opened = archive.open_archive(str(path))
        if is_shard(opened):
            return read_shards([opened], options.columns)
        return _in_folder(opened, options, label_pattern, cache_dir)
    archive.check_compression(path)
    raise UserError(f"datamodule.root: {path} holds no labelled images that Litmus knows; {FIX}")


def _in_folder(root: Folder, options: TableOptions, label_pattern: str | None, cache_dir: Path) -> Listing:
    if label_pattern:
        return by_name(root, label_pattern)
    folder, above = unwrapped(root)
    rows = _files_near(folder, parquet.SUFFIXES)
    if rows:
        return parquet.read_parquet(rows, options.columns)
    archives = _archives(folder)
    has_classes = _has_class_folders(folder)
    if archives and not has_classes and not any(map(is_image, folder.files)):
        opened = object_store.open_archives(archives, cache_dir)
        if any(map(is_shard, opened)):
            return read_shards(opened, options.columns)
        folder = _merged(folder, opened)
        has_classes = _has_class_folders(folder)
    tables = _tables(folder, options)
    if tables and has_classes:
        _check_agreement(folder, tables, options)
    if tables and not has_classes:
        return read_tables(tables, options)
    if not has_classes and any(map(is_image, folder.files)):
        fix = f"put each class into a folder, or read the labels from the names: {EXAMPLE}"
        raise UserError(f"datamodule.root: {folder.path} holds images but no labels; {fix}")
    listing = class_folders(folder, above, is_image)
    listing.not_used += [table.where for table in tables]
    return listing


def by_name(root: Folder, pattern: str) -> Listing:
    """Labels from the names of files, such as cat.0.jpg. Top folders named like splits are the splits.

    Args:
        pattern: a regular expression that is searched in each relative path, with a group `label`, and optionally
            `split` and `group`. Images without a match are not used.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"datamodule.label_pattern: {error}; correct the regular expression, as in {EXAMPLE}"
        ) from error
    if "label" not in expression.groupindex:
        raise UserError(f"datamodule.label_pattern: has no group named label; write it as in {EXAMPLE}")
    listing = Listing("labels from file names")
    images = sorted((path, item) for path, item in root.walk() if is_image(path))
    named_splits = any(split_of(folder.name) == "train" for folder in root.folders)
    for path, item in images:
        match = expression.search(path)
        if not match:
            listing.not_used.append(path)
            continue
        groups = match.groupdict()
        split = groups.get("split") or (PurePath(path).parts[0] if named_splits else None)
        if split and split_of(split) is None:
            raise UserError(f"{path}: '{split}' is not a split; correct datamodule.label_pattern")
        listing.add(item, path, groups["label"], split and split_of(split), groups.get("group"))
    if not len(listing):
        example = f", such as {images[0][0]}" if images else ""
        raise UserError(f"datamodule.label_pattern: matches none of {len(images)} images{example}; correct it")
    return listing


def _files_near(folder: Folder, suffixes: Sequence[str]) -> list[str]:
    """Files of these suffixes in a folder on disk and one level below."""
    folders = [folder, *folder.folders] if isinstance(folder, DiskFolder) else []
    return [item for near in folders for name, item in near.files.items() if PurePath(name).suffix.lower() in suffixes]


def _archives(folder: Folder) -> list[Item]:
    """Those in a folder, or if there are none, in its folders of splits."""
    of_splits = [inner for inner in folder.folders if split_of(inner.name)]
    for near in ([folder], of_splits):
        files = [(name, item) for inner in near for name, item in inner.files.items()]
        archives = [item for name, item in files if PurePath(name).suffix.lower() in archive.SUFFIXES]
        if archives:
            return archives
    return []


def _has_class_folders(folder: Folder) -> bool:
    splits, _ = split_folders(folder)
    if "train" in splits or "test" in splits:
        return True
    with_images = [
        inner
        for inner in folder.folders
        if not split_of(inner.name) and any(is_image(path) for path, _ in inner.walk())
    ]
    return len(with_images) > 1


def _merged(folder: Folder, archives: Sequence[StoredFolder]) -> StoredFolder:
    """A folder of archives as if they were unpacked in it: those of plain images into a folder of their name, those of
    folders into one of the split in their name, if any."""
    merged = StoredFolder(folder.path, folder.files.items())
    for opened in archives:
        path = PurePath(opened.path)
        of_folder = split_of(path.parent.name) if path.parent != PurePath(folder.path) else None
        split = split_of_file(path.stem) or of_folder or ""
        above = split if opened.folders else f"{of_folder or ''}/{path.stem}".lstrip("/")
        for name, item in opened.walk():
            merged.add(f"{above}/{name}".lstrip("/"), item)
    return merged


def _tables(folder: Folder, options: TableOptions) -> list[Table]:
    """The tables of a folder: its metadata, those of its split folders, or those beside its images.

    Raises:
        UserError: there are several.
    """
    for name in METADATA:
        if name in folder.files:
            return [Table(name, folder.files[name], folder)]
    of_splits = [
        Table(f"{inner.name}/{name}", inner.files[name], inner, split_of(inner.name))
        for inner in folder.folders
        for name in METADATA
        if split_of(inner.name) and name in inner.files
    ]
    if of_splits:
        return of_splits
    for near in (folder, *folder.folders):
        tables = _readable_tables(near, options)
        if any(table.split == "train" for table in tables):
            return [table for table in tables if table.split]
        if len(tables) > 1:
            named = shorten([table.where for table in tables])
            raise UserError(f"datamodule.root: {near.path} holds several tables: {named}; give one of them")
        if tables:
            return [tables[0]._replace(split=None)]
    return []


def _readable_tables(folder: Folder, options: TableOptions) -> list[Table]:
    """The tables and lists of images in a folder. Beside one for training, those that have its labels, too."""
    labels: dict[Table, list[str]] = {}
    for name, item in folder.files.items():
        table = Table(name, item, folder, split_of_file(PurePath(name).stem))
        is_list = name.lower().endswith(".txt")
        if PurePath(name).suffix.lower() not in TABLES or (is_list and not table.split):
            continue
        names = label_names(table, options)
        if names:
            labels[table] = names
    of_training = [names for table, names in labels.items() if table.split == "train"]
    return [table for table, names in labels.items() if not of_training or names in of_training]


def _check_agreement(folder: Folder, tables: Sequence[Table], options: TableOptions) -> None:
    """Raises UserError if a table beside class folders has other labels."""
    label, path = first_label(tables[0], options)
    if path is not None and label not in PurePath(path).parts:
        table = tables[0].where
        fix = f"give {table} as the root, or move it elsewhere"
        raise UserError(f"datamodule.root: {folder.path} holds class folders and {table} with other labels; {fix}")
