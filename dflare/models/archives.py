"""Zip archives judged by their directory alone: nothing of them is unpacked."""

import struct
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from dflare.errors import InputError

MOST_MEMBERS = 100_000
"""Members of an archive; a network of a thousand layers has some ten thousand."""

MOST_DIRECTORY = 32 * 2**20
"""Bytes of an archive's directory, which is read as a whole."""

MOST_GROWTH, FREE_GROWTH = 20, 64 * 2**20
"""How many times its size an archive may be once unpacked, and the bytes by which it may be larger in any case."""

_END = struct.Struct("<4s4H2LH")  # the record that ends every zip archive (APPNOTE 4.3.16)
_LONGEST_COMMENT = 2**16


def member_names(path: Path) -> list[str]:
    """The names of a zip archive's members, without the folder that torch puts all of them into.

    Raises `InputError` for an archive that is cut off or broken, and for one that is a bomb: too many members,
    members that lie over each other, or much more in them than the archive has bytes.
    """
    size = path.stat().st_size
    try:
        _check_directory(path, size)
        with ZipFile(path) as archive:
            members = archive.infolist()
        if members and min(member.header_offset for member in members) > 0:
            raise BadZipFile("its directory is that of an archive inside it")
    except (BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise InputError(f"the zip archive {path} is cut off or broken ({error}); fetch or write it again") from error
    unpacked = sum(member.file_size for member in members)
    if sum(member.compress_size for member in members) > size or unpacked > MOST_GROWTH * size + FREE_GROWTH:
        raise InputError(
            f"the zip archive {path} of {size} bytes claims to hold {unpacked} bytes, which no model does; "
            "it is not opened"
        )
    names = [member.filename for member in members]
    folders = {name.split("/")[0] for name in names}
    if len(folders) == 1 and all("/" in name for name in names):
        names = [name.split("/", 1)[1] for name in names]
    return names


def _check_directory(path: Path, size: int) -> None:
    """Raise `InputError` for a directory that is too large to be read, `BadZipFile` where there is none.

    Numbers that do not fit are all ones here and stand in a second record, which `ZipFile` checks against the file.
    """
    with path.open("rb") as stream:
        stream.seek(max(0, size - _END.size - _LONGEST_COMMENT))
        tail = stream.read(_END.size + _LONGEST_COMMENT)
    start = tail.rfind(b"PK\x05\x06")
    if start < 0 or len(tail) - start < _END.size:
        raise BadZipFile("it has no directory")
    *_, members, length, _, _ = _END.unpack_from(tail, start)
    if (members > MOST_MEMBERS and members != 2**16 - 1) or (length > MOST_DIRECTORY and length != 2**32 - 1):
        raise InputError(f"the zip archive {path} has a directory of {length} bytes, which no model has")
