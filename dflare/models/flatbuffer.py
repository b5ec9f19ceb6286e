"""`.tflite` files held against their own length, where LiteRT itself reads without looking.

LiteRT verifies a file before it uses it, but follows the offsets of its buffers and of its metadata before that, and a
damaged file ends the process (tensorflow issue 115308, seen in ai-edge-litert 2.3.0). Those are followed here first.
"""

import struct
from pathlib import Path

from dflare.errors import InputError

MOST_BYTES = 2**31 - 1
"""Size of a file that LiteRT verifies; larger ones it would trust."""

_OPERATORS, _GRAPHS, _BUFFERS, _METADATA = 1, 2, 4, 6  # fields of a model (schema.fbs)
_DATA, _PLACE, _SIZE = 0, 1, 2  # fields of a buffer: its bytes, or where they lie behind the flatbuffer and how many
_NAME = 0  # field of metadata


def check_flatbuffer(path: Path) -> None:
    """Raise `InputError` for a file too large, or whose buffers or metadata are not where it says."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise InputError(f"a .tflite file must have at most {MOST_BYTES} bytes, {path} has {size}")
    data = path.read_bytes()
    try:
        if data[4:8] != b"TFL3":
            raise ValueError("it does not start like one")
        model = _table(data, _unsigned(data, 0))
        if not all(_tables(data, model, field) for field in (_OPERATORS, _GRAPHS, _BUFFERS)):
            raise ValueError("it has no graph")
        for place in _tables(data, model, _BUFFERS):
            buffer = _table(data, place)
            if _DATA in buffer:
                _vector(data, buffer[_DATA], 1)
            start, length = (_long(data, buffer[field]) if field in buffer else 0 for field in (_PLACE, _SIZE))
            if start > 1 and start + length > size:  # 0 and 1 stand for none
                raise ValueError(f"it keeps {length} bytes from byte {start} on, and has {size}")
        for place in _tables(data, model, _METADATA):
            entry = _table(data, place)
            if _NAME in entry:
                _vector(data, entry[_NAME], 1)
    except (ValueError, struct.error) as error:
        raise InputError(f"expected a .tflite model in {path}, but it is cut off or broken: {error}") from error


def _table(data: bytes, place: int) -> dict[int, int]:
    """Where the fields of a table lie, by their numbers; raises `ValueError` for places outside the file."""
    _inside(data, place, 4)
    directory = place - struct.unpack_from("<i", data, place)[0]
    _inside(data, directory, 4)
    length, table_length = struct.unpack_from("<2H", data, directory)
    _inside(data, directory, length)
    _inside(data, place, table_length)
    offsets = struct.unpack_from(f"<{max(0, length - 4) // 2}H", data, directory + 4)
    if any(offset and not 4 <= offset < table_length for offset in offsets):
        raise ValueError(f"a field lies outside its table at byte {place}")
    return {field: place + offset for field, offset in enumerate(offsets) if offset}


def _tables(data: bytes, table: dict[int, int], field: int) -> list[int]:
    """Where the tables in a list of them lie; none where the field is missing."""
    if field not in table:
        return []
    first, count = _vector(data, table[field], 4)
    places = range(first, first + 4 * count, 4)
    return [place + _unsigned(data, place) for place in places]


def _vector(data: bytes, place: int, width: int) -> tuple[int, int]:
    """Where the entries of the list that a field points to begin, and how many they are."""
    start = place + _unsigned(data, place)
    count = _unsigned(data, start)
    _inside(data, start + 4, count * width)
    return start + 4, count


def _unsigned(data: bytes, place: int) -> int:
    _inside(data, place, 4)
    return int(struct.unpack_from("<I", data, place)[0])


def _long(data: bytes, place: int) -> int:
    _inside(data, place, 8)
    return int(struct.unpack_from("<Q", data, place)[0])


def _inside(data: bytes, place: int, length: int) -> None:
    if place < 0 or place + length > len(data):
        raise ValueError(f"it points to byte {place + length}, and has {len(data)}")
