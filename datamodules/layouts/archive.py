"""Zip and tar archives, read in place: nothing is unpacked."""

import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from conf.errors import UserError
from datamodules.layouts.folder import Item, StoredFolder
from datamodules.storage.image_header import reason
from datamodules.storage.stored_file import ByteRange, ZipMember, size_of

SUFFIXES = (".zip", ".tar")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar", ".gz")
SYMBOLIC_LINK = 0o12  # the file type in a zip's attributes
# Bytes. A member that claims more, such as a bomb, is refused.
MAX_MEMBER_BYTES = 2**29


def open_archive(path: str) -> StoredFolder:
    """The folder inside an archive.

    Raises:
        UserError: it is corrupt or encrypted, or holds a member that no sound archive holds.
    """
    try:
        size_of(path)
        if path.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                return StoredFolder(path, _zip_members(path, archive))
        with open(path, "rb") as file:
            return StoredFolder(path, tar_members(path, file))
    # RecursionError: many headers of long names, each before the next
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, ValueError, RecursionError) as error:
        raise UserError(f"datamodule.root: {path}: cannot be read ({reason(error)}); is it complete?") from error


def check_compression(path: Path) -> None:
    """Raises UserError for an archive whose members cannot be read by themselves."""
    if path.name.lower().endswith(COMPRESSED):
        raise UserError(f"datamodule.root: {path} is compressed as a whole; unpack it and give its folder")


def _zip_members(path: str, archive: zipfile.ZipFile) -> Iterable[tuple[str, Item]]:
    for member in archive.infolist():
        if member.is_dir():
            continue
        if member.flag_bits & 1:
            raise UserError(f"{path}: {member.filename} is encrypted; unpack it and give the folder")
        _check_member(path, member.filename, member.file_size)
        if member.external_attr >> 28 != SYMBOLIC_LINK:
            yield member.filename.replace("\\", "/").removeprefix("./"), ZipMember(path, member.filename)


def tar_members(path: str, file: IO[bytes]) -> Iterator[tuple[str, Item]]:
    """The members of an uncompressed tar archive; links and devices are left out.

    Args:
        path: its path or URL.
    """
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            if not member.isreg() or member.issparse():
                continue
            name = member.name.removeprefix("./")
            _check_member(path, name, member.size)
            yield name, ByteRange(path, member.offset_data, member.size)
            archive.members = []  # type: ignore[attr-defined]  # else memory grows with each member
        # tarfile stops without an error at a corrupt header and where a file was cut off; a whole one ends in zeros.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("the end is missing")


def _check_member(path: str, name: str, size: int) -> None:
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        raise UserError(f"{path}: the member {name!r} is outside of the archive; a sound archive has none")
    if size > MAX_MEMBER_BYTES:
        raise UserError(f"{path}: the member {name!r} has {size / 2**30:.1f} GiB; an image has less than 0.5")
