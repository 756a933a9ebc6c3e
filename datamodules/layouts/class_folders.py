"""A folder for each class, optionally below folders for train, val and test."""

from conf.errors import UserError, nearest
from datamodules.layouts.folder import Folder, IsSample
from datamodules.layouts.listing import Listing
from datamodules.splits import split_of, split_of_file

# Folders beside which the others are no classes either.
NO_CLASSES = {"annotations", "images", "imgs", "jpegimages", "labels", "masks"}


def unwrapped(folder: Folder, suffixes: tuple[str, ...] = ()) -> tuple[Folder, str]:
    """The folder that holds more than one folder of folders, as in archive/dataset/<class>, and its relative path
    with a final slash.

    Args:
        suffixes: of files, such as tables, whose folder holds all.
    """
    above = ""
    while True:
        inside = folder.folders
        if len(inside) != 1 or split_of(inside[0].name) or not inside[0].folders:
            return folder, above
        if suffixes and any(name.lower().endswith(suffixes) for name in folder.files):
            return folder, above
        folder = inside[0]
        above += f"{folder.name}/"


def split_folders(folder: Folder) -> tuple[dict[str, tuple[Folder, str]], list[str]]:
    """The folder of each split with its relative path, and the names of the other folders.

    A folder named like a split, but without class folders, is none.

    Raises:
        UserError: several folders are named like one split.
    """
    names = [inner.name for inner in folder.folders]
    splits_of = {name: split_of(name) for name in names}
    loosely = [split_of_file(name) for name in names]  # asl_alphabet_train, asl_alphabet_test
    if not any(splits_of.values()) and None not in loosely and len(set(loosely)) == len(names) > 1:
        splits_of = dict(zip(names, loosely, strict=True))
    splits: dict[str, tuple[Folder, str]] = {}
    others: list[str] = []
    for inner in folder.folders:
        split = splits_of[inner.name]
        inside = inner.folders if split else []
        above = f"{inner.name}/"
        if split and len(inside) == 1 and (inside[0].name == inner.name or split_of(inside[0].name) == split):
            above += f"{inside[0].name}/"  # seg_train/seg_train/<class>
            inner = inside[0]
            inside = inner.folders
        if split is None or not inside:
            others.append(above.partition("/")[0])
        elif split in splits:
            first = splits[split][1].partition("/")[0]
            raise UserError(f"{inner.path}: is named like the split {first}; rename or remove one of them")
        else:
            splits[split] = inner, above
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
    named, _ = splits.get("train") or splits["test"]
    names = [inner.name for inner in named.folders]
    if len(names) < 2 and "train" in splits:
        raise UserError(f"datamodule.root: {folder.path} holds {_count(len(names))}; put each class into its own")
    listing.class_names = names
    listing.not_used += [f"{above}{name}/" for name in others]
    is_split = bool(listing.split_sources)
    for split, (inner, inner_above) in splits.items():
        levels = _add(listing, split if is_split else None, inner, above + inner_above, is_sample)
        _check_levels(inner.path, levels)
    return listing


def _add(listing: Listing, split: str | None, folder: Folder, above: str, is_sample: IsSample) -> dict[str, set[str]]:
    """Adds the samples of a split.

    Returns the folders within each class folder; "" stands for samples in the class folder itself.
    """
    levels: dict[str, set[str]] = {}
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
        levels[inner.name] = {path.rpartition("/")[0].partition("/")[0] for path, _ in samples}
        if len(samples) < len(files):
            listing.not_used += [f"{above}{inner.name}/{path}" for path, _ in files if not is_sample(path)]
    if len(listing) == before:
        raise UserError(f"{folder.path}: contains no images; add some or remove the folder")
    return levels


def _check_levels(path: str, levels: dict[str, set[str]]) -> None:
    """Raises UserError if the folders within class folders may be the classes, or splits, or not all are classes.

    Args:
        path: of the folder that holds the class folders.
        levels: as of `_add`.
    """
    problems = [
        f"the folder {name} in it holds folders of the same names" for name in levels if levels[name] & levels.keys()
    ]
    problems += [f"the folder {name} in it holds splits" for name in levels if any(map(split_of, levels[name]))]
    problems += [f"the folder {name} in it is no class" for name in levels if name.lower() in NO_CLASSES]
    problems += [
        f"the folder {name} in it is no class" for name in levels if NO_CLASSES & set(map(str.lower, levels[name]))
    ]
    first = next(iter(levels.values()), set())
    if len(levels) > 1 and len(first - {""}) > 1 and all(inside == first for inside in levels.values()):
        problems.append("its folders hold the same folders, which may be the classes")
    if problems:
        pattern = "datamodule.label_pattern='^(?P<label>[^/]+)/'"
        raise UserError(f"datamodule.root: {path}: {problems[0]}; give one of them as the root, or {pattern}")


def _count(folders: int) -> str:
    return "1 class folder" if folders == 1 else f"{folders} class folders"
