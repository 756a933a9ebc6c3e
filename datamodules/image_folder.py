"""Labelled images as people have them: folders, tables, lists, archives, shards."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conf.errors import UserError, nearest
from datamodules.image_datamodule import ImageDataModule
from datamodules.layouts.columns import NAMES
from datamodules.layouts.listing import Separator
from datamodules.layouts.recognition import recognise
from datamodules.layouts.tables import TableOptions
from datamodules.splits import Samples


@dataclass(kw_only=True, eq=False, repr=False)
class ImageFolderDataModule(ImageDataModule):
    """Images of every format that Pillow reads, in one of these layouts:

    | `root`                         | labels                                                                     |
    |--------------------------------|----------------------------------------------------------------------------|
    | a folder                       | of class folders, also below `train`, `val` and `test`; of a table and images; |
    |                                | of files with labels in their names; of archives or shards                 |
    | `.csv`, `.tsv`, `.jsonl`       | a row for each image, or for its pixels                                    |
    | `.txt`                         | a path and a label in each line                                            |
    | `.zip`, `.tar`                 | any of these folders, read in place; or a WebDataset shard                 |
    | `.parquet`, `.arrow`           | a row for each image, as Hugging Face writes it                            |
    | `s3://…`                       | class folders or tar archives in an S3-compatible store                    |

    Usual names of splits and columns are recognised, see `splits.split_of` and `columns.NAMES`. A single folder around
    all is skipped. Hidden files are ignored.

    Args:
        root: see above.
        columns: of tables, where they have other names: `path`, `label` (several: one-hot), `split`, `fold`, `group`.
        image_dir: the images of a table, relative to its folder; null: they are searched.
        fold: the test split of a table with folds too.
        multi_label: whether an image may have several labels, or none: in one cell, in one-hot columns, or in several
            rows.
        label_separator: between the labels of one cell.
        label_pattern: regular expression with a group `label`, see `recognition.by_name`.
    """

    root: str
    columns: dict[str, str | list[str] | None] = field(default_factory=dict)
    image_dir: str | None = None
    label_pattern: str | None = None
    multi_label: bool = False
    label_separator: Separator = "pipe"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_columns(self.columns)

    def read(self) -> tuple[dict[str, Samples], list[str]]:
        options = TableOptions(self.columns, self.image_dir, self.fold, self.on_error == "skip", self.multi_label)
        listing = recognise(self.root, options, self.label_pattern, Path(self.cache_dir).expanduser())
        self.layout, self.has_folds = listing.describe(), listing.has_folds
        return listing.multi_label_splits(self.label_separator) if self.multi_label else listing.splits()


def _check_columns(columns: Mapping[str, str | list[str] | None]) -> None:
    for role, name in columns.items():
        if role not in NAMES:
            raise UserError(f"datamodule.columns.{role}: no such key; {nearest(role, NAMES)}")
        if isinstance(name, list) and role != "label":
            raise UserError(f"datamodule.columns.{role}: {name} are several; give one")
