"""Which columns of a table hold the image, its label, split and group."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from conf.errors import UserError, nearest
from datamodules.layouts.folder import is_image

# Usual names. Spaces and hyphens count as underscores.
NAMES = {
    "path": {
        "path", "paths", "filepath", "filepaths", "file_path", "image_path", "img_path", "file", "filename",
        "filenames", "file_name", "image_file", "image_name", "img_name", "image", "img", "image_id", "img_id", "id",
    },
    "label": {"label", "labels", "class", "class_name", "label_name", "target", "category", "category_name"},
    "split": {"split", "set", "subset", "data_set", "partition", "usage"},
    "fold": {"fold", "folds", "kfold"},
    "group": {"group", "patient", "patient_id", "subject", "subject_id"},
}  # fmt: skip
# One pixel, as in pixel17 and 3x28, or all of them.
PIXELS = re.compile(r"pixel[ _]?\d+|\d+x\d+|pixels")
# Values of one-hot columns.
ZERO_OR_ONE = {"0", "1", "0.0", "1.0"}

# The columns that the user chose, by the keys of NAMES. Several for `label` are one-hot.
Chosen = Mapping[str, str | list[str] | None]


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
        UserError: a column is missing, or several may be meant.
    """
    header = [word.lower() for word in header]
    first = [*first, *[""] * (len(header) - len(first))]
    for word in header:
        if word and header.count(word) > 1:
            raise UserError(f"{where}: row 1: column '{word}' is listed twice; remove one")
    pixels = [i for i, word in enumerate(header) if PIXELS.fullmatch(word)]
    positions = {role: positions_of(where, header, first, role, chosen.get(role)) for role in NAMES}
    used = {i for role in NAMES for i in positions[role]} | set(pixels)
    others = [i for i, word in enumerate(header) if word and i not in used]
    if pixels:
        positions["path"] = []
    elif not positions["path"] and positions["label"] and len(others) == 1:
        positions["path"], others = others, []
    if not positions["label"]:
        one_hot = len(others) > 1 and all(first[i].strip() in ZERO_OR_ONE for i in others)
        if one_hot or (len(others) == 1 and (positions["path"] or pixels)):
            positions["label"], others = others, []
    _check_missing(where, header, others, positions, pixels)
    one = {role: positions[role][0] if positions[role] else None for role in NAMES}
    return Columns(one["path"], pixels, positions["label"], one["split"], one["fold"], one["group"])


def positions_of(
    where: str, header: Sequence[str], first: Sequence[str], role: str, names: str | list[str] | None = None
) -> list[int]:
    """Of the columns of a role: the chosen ones, else the one of a usual name.

    Args:
        header: in lower case.

    Raises:
        UserError: a chosen one is missing, or several may be meant.
    """
    wanted = [names] if isinstance(names, str) else names or []
    for name in wanted:
        if name.strip().lower() not in header:
            raise UserError(f"datamodule.columns.{role}: {where} has no column '{name}'; {nearest(name, header)}")
    if wanted:
        return [header.index(name.strip().lower()) for name in wanted]
    usual = [i for i, word in enumerate(header) if re.sub("[ -]", "_", word) in NAMES[role]]
    if role == "path" and len(usual) > 1:
        usual = [i for i in usual if is_image(first[i])] or usual
    if len(usual) > 1:
        named = " and ".join(header[i] for i in usual)
        fix = f"choose by datamodule.columns.{role}={header[usual[0]]}"
        raise UserError(f"{where}: row 1: {named} may each be the {role}; {fix}")
    return usual


def _check_missing(
    where: str, header: Sequence[str], others: list[int], positions: dict[str, list[int]], pixels: list[int]
) -> None:
    """Raises UserError if there is no image or no label, or if another column is named almost like a role."""
    names = [header[i] for i in others]
    for role in ("path", "label"):
        if not positions[role] and not (role == "path" and pixels):
            fix = f"{nearest(role, names)}: datamodule.columns.{role}=…" if names else "write it first"
            raise UserError(f"{where}: row 1: there is no column '{role}'; {fix}")
    for role in ("split", "fold", "group"):
        close = get_close_matches(role, names, 1, cutoff=0.75)
        if close and not positions[role]:
            raise UserError(f"{where}: row 1: there is no column '{close[0]}'; did you mean '{role}'?")
