"""A folder for each class, optionally below folders for train, val and test."""

from conf.errors import UserError, nearest
from datamodules.layouts.folder import Folder, IsSample
from datamodules.layouts.listing import Listing
from datamodules.splits import split_of


def unwrapped(folder: Folder) -> tuple[Folder, str]:
    """The folder that holds more than a single folder of folders, as in archive/dataset/<class>, and its relative path
    with a final slash."""
    above = ""
    while True:
        inside = folder.folders
        if len(inside) != 1 or split_of(inside[0].name) or not inside[0].folders:
            return folder, above
        folder = inside[0]
        above += f"{folder.name}/"


def split_folders(folder: Folder) -> tuple[dict[str, tuple[Folder, str]], list[str]]:
    """The folder of each split with its relative path, and the names of the other folders.

    A folder named like a split, but without class folders, is none.

    Raises:
        UserError: several folders are named like one split.
    """
    splits: dict[str, tuple[Folder, str]] = {}
    others: list[str] = []
    for inner in folder.folders:
        split = split_of(inner.name)
        if split is None or not inner.folders:
            others.append(inner.name)
        elif split in splits:
            first = splits[split][0].name
            raise UserError(f"{inner.path}: is named like the split {first}; rename or remove one of them")
        else:
            inside = inner.folders
            nested = len(inside) == 1 and split_of(inside[0].name) == split  # seg_train/seg_train/<class>
            above = f"{inner.name}/{inside[0].name}/" if nested else f"{inner.name}/"
            splits[split] = (inside[0] if nested else inner), above
    return splits, others


def class_folders(folder: Folder, above: str, is_sample: IsSample) -> Listing:
    """The samples of class folders, each split's sorted by path. The classes are those of the training split.

    Args:
        folder: after `unwrapped`.
        above: its path relative to the root, which begins the names of the files.
        is_sample: whether a file of that name is one; others are not used.

    Raises:
        UserError: there are no class folders, or what looks like splits is incomplete.
    """
    listing = Listing("class folders")
    splits, others = split_folders(folder)
    if "train" not in splits and "test" not in splits:
        splits, others = {"train": (folder, "")}, []
        if any(split_of(inner.name) for inner in folder.folders):
            fix = "name them train, val and test, or rename the class"
            raise UserError(f"datamodule.root: {folder.path} holds splits but no train; {fix}")
    else:
        listing.split_sources = {split: inner_above.rstrip("/") for split, (_, inner_above) in splits.items()}
    named = splits.get("train") or splits["test"]
    names = [inner.name for inner in named[0].folders]
    if len(names) < 2 and "train" in splits:
        raise UserError(f"datamodule.root: {folder.path} holds {len(names)} class folders; put each class into its own")
    listing.class_names = names
    listing.not_used += [f"{above}{name}/" for name in others]
    is_split = bool(listing.split_sources)
    for split, (inner, inner_above) in splits.items():
        _add(listing, split if is_split else None, inner, above + inner_above, is_sample)
    return listing


def _add(listing: Listing, split: str | None, folder: Folder, above: str, is_sample: IsSample) -> None:
    """Adds the samples of a split."""
    assert listing.class_names is not None
    if not folder.folders:
        raise UserError(f"{folder.path}: holds no class folder; put each class into its own folder, or remove it")
    before = len(listing)
    for inner in folder.folders:
        if inner.name not in listing.class_names:
            hint = nearest(inner.name, listing.class_names)
            raise UserError(f"{inner.path}: the training split has no class of that name; {hint}")
        files = sorted(inner.walk())
        samples = [(path, item) for path, item in files if is_sample(path)]
        if not samples and split in ("train", None):
            raise UserError(f"{inner.path}: contains no images; add some or remove the folder")
        for path, item in samples:
            listing.add(item, f"{above}{inner.name}/{path}", inner.name, split)
        if len(samples) < len(files):
            listing.not_used += [f"{above}{inner.name}/{path}" for path, _ in files if not is_sample(path)]
    if len(listing) == before:
        raise UserError(f"{folder.path}: contains no images; add some or remove the folder")
