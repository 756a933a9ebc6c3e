"""Which columns of a table hold the image, its label, split and group."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from conf.errors import UserError, nearest
from datamodules.layouts.folder import is_image
from datamodules.layouts.table_file import NESTED

# Usual names, in lower case; blanks and hyphens count as underscores.
NAMES = {
    "path": {
        "path", "paths", "filepath", "filepaths", "file_path", "image_path", "img_path", "file", "filename",
        "filenames", "file_name", "image_file", "image_name", "img_name", "image", "img", "image_id", "img_id",
        "image_index", "id", "id_code",
    },
    "label": {
        "label", "labels", "label_name", "class", "class_name", "class_id", "classid", "target", "category",
        "category_name", "breed", "diagnosis", "dx", "emotion",
    },
    "split": {"split", "set", "subset", "data_set", "partition", "usage"},
    "fold": {"fold", "folds", "kfold"},
    "group": {"group", "patient", "patient_id", "subject", "subject_id"},
}  # fmt: skip
# One pixel, as in pixel17 and 3x28, or all of them.
PIXELS = re.compile(r"pixel[ _]?\d+|\d+x\d+|pixels")
# Cells of one-hot columns.
HOT = {"1", "1.0", "true"}
NOT_HOT = {"", "0", "0.0", "false"}

# The columns that the user chose, by the keys of NAMES. Several for `label` are one-hot.
Chosen = Mapping[str, str | list[str] | None]


class ColumnError(UserError):
    """A table has no column of images or labels, or several."""


class Columns(NamedTuple):
    """Positions in a row."""

    path: int | None
    """None: the row holds the pixels"""
    pixels: list[int]
    label: list[int]
    """Several: one-hot"""
    split: int | None
    fold: int | None
    group: int | None


def choose_columns(where: str, header: Sequence[str], first: Sequence[str], chosen: Chosen) -> Columns:
    """The columns that the user chose, and those of the usual names.

    Args:
        where: the table, for messages.
        first: the first row.

    Raises:
        ColumnError: a column is missing, or several may be meant.
    """
    words = [word.lower() for word in header]
    first = [*first, *[""] * (len(words) - len(first))]
    positions = {role: positions_of(where, words, first, role, chosen.get(role)) for role in NAMES}
    pixels = [i for i, word in enumerate(words) if PIXELS.fullmatch(word)]
    if pixels:
        positions["path"] = []
    used = {i for role in NAMES for i in positions[role]} | set(pixels)
    unused = [i for i, word in enumerate(words) if word and i not in used]
    if not positions["path"] and not pixels and positions["label"] and len(unused) == 1:
        positions["path"] = unused  # the only other column
    elif not positions["label"]:
        positions["label"] = _unnamed_label(unused, first, bool(positions["path"] or pixels))
    unused = [i for i in unused if i not in positions["path"] + positions["label"]]
    _check_complete(where, [words[i] for i in unused], positions, pixels)
    one = {role: positions[role][0] if positions[role] else None for role in NAMES}
    return Columns(one["path"], pixels, positions["label"], one["split"], one["fold"], one["group"])


def positions_of(
    where: str, words: Sequence[str], first: Sequence[str], role: str, names: str | list[str] | None = None
) -> list[int]:
    """Of the columns of a role: the chosen ones, else the one of a usual name.

    Args:
        words: the header in lower case.
        first: the first row, of the same length.

    Raises:
        ColumnError: a chosen one is missing, or several may be meant.
    """
    wanted = [names] if isinstance(names, str) else names or []
    for name in wanted:
        if name.strip().lower() not in words:
            problem = f"{where} has no column '{name}'"
            raise UserError(f"datamodule.columns.{role}: {problem}; {nearest(name, words)}")
    usual = [i for i, word in enumerate(words) if re.sub("[ -]", "_", word) in NAMES[role]]
    positions = [words.index(name.strip().lower()) for name in wanted] or _clearest(role, usual, words, first)
    for i in positions:
        if words.count(words[i]) > 1:
            raise ColumnError(f"{where}: row 1: column '{words[i]}' is listed twice; remove one")
    if len(positions) > 1 and not wanted:
        named = " and ".join(words[i] for i in positions)
        fix = f"choose by datamodule.columns.{role}={words[positions[0]]}"
        raise ColumnError(f"{where}: row 1: {named} may each be the {role}; {fix}")
    return positions


def _clearest(role: str, usual: list[int], words: Sequence[str], first: Sequence[str]) -> list[int]:
    """Of several usual columns: of paths those with the suffix of an image, of labels class_name beside class."""
    if role == "path":
        return [i for i in usual if is_image(first[i])] or usual
    if role == "label" and len(usual) > 1:
        return [i for i in usual if words[i].endswith("name")] or usual
    return usual


def _unnamed_label(unused: list[int], first: Sequence[str], has_images: bool) -> list[int]:
    """Without a column of a usual name, the only other one holds the labels, or all others, if they are one-hot."""
    if len(unused) == 1 and has_images and not first[unused[0]].startswith(NESTED):
        return unused
    cells = {first[i].strip().lower() for i in unused}
    return unused if len(unused) > 1 and cells <= HOT | NOT_HOT and cells & HOT else []


def _check_complete(where: str, unused: list[str], positions: dict[str, list[int]], pixels: list[int]) -> None:
    """Raises UserError if there is no image or no label, or if another column is named almost like a role."""
    for role in ("path", "label"):
        if not positions[role] and not (role == "path" and pixels):
            fix = f"{nearest(role, unused)}: datamodule.columns.{role}=…" if unused else "write it first"
            raise ColumnError(f"{where}: row 1: there is no column '{role}'; {fix}")
    for role in ("split", "fold", "group"):
        close = get_close_matches(role, unused, 1, cutoff=0.75)
        if close and not positions[role]:
            raise UserError(f"{where}: row 1: there is no column '{close[0]}'; did you mean '{role}'?")
