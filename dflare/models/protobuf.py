"""ONNX files told from other files by the outer fields of their protocol buffer, which has no magic number."""

from pathlib import Path
from typing import BinaryIO

from dflare.errors import InputError

_NUMBER, _BYTES = 0, 2  # wire types of protocol buffers: a varint, and bytes after their length

_MODEL_FIELDS = {1: _NUMBER, 5: _NUMBER, **dict.fromkeys((2, 3, 4, 6, 7, 8, 14, 20, 25, 26), _BYTES)}
"""Fields of an ONNX `ModelProto` (onnx.proto) with their wire types; others may come with newer versions."""

_IR_VERSION, _GRAPH, _LAST_FIELD = 1, 7, 100

_GRAPH_STARTS = {number << 3 | _BYTES for number in (1, 2, 5, 10, 11, 12, 13, 14, 15, 16)}
"""First bytes that a `GraphProto` may have: the tags of its fields; those above 15 take a second byte."""

_MOST_FIELDS = 10_000
"""Fields looked at; a model has some ten, and one for each of its functions."""


def is_onnx(path: Path) -> bool:
    """Whether a file's outer fields are those of an ONNX model with a version and a graph; their contents are skipped.

    Raises `InputError` for one that is an ONNX model up to where it is cut off.
    """
    size = path.stat().st_size
    seen: set[int] = set()
    with path.open("rb") as stream:
        for _ in range(_MOST_FIELDS):
            if stream.tell() == size:
                break
            field = _outer_field(stream, seen)
            if field is None:
                return False
            number, length = field
            if number == _GRAPH and not _starts_a_graph(stream, length):
                return False
            seen.add(number)
            if stream.tell() + length > size:
                if {_IR_VERSION, _GRAPH} <= seen:
                    raise InputError(f"the ONNX model in {path} is cut off; fetch or write it again")
                return False
            stream.seek(length, 1)
    return {_IR_VERSION, _GRAPH} <= seen


def _outer_field(stream: BinaryIO, seen: set[int]) -> tuple[int, int] | None:
    """Number of the next field and bytes of it that are left to skip; None where no ONNX model goes on like that."""
    tag = _varint(stream)
    if tag is None:
        return None
    number, wire = tag >> 3, tag & 7
    if not 1 <= number <= _LAST_FIELD or _MODEL_FIELDS.get(number, wire) != wire or wire not in (_NUMBER, _BYTES):
        return None
    value = _varint(stream)
    if value is None or (number == _IR_VERSION and not 1 <= value <= 1000):
        return None
    if number in (_IR_VERSION, _GRAPH) and number in seen:
        return None
    return number, 0 if wire == _NUMBER else value


def _starts_a_graph(stream: BinaryIO, length: int) -> bool:
    """Whether the next byte is one that a graph starts with; the stream stays where it is."""
    first = stream.read(1)
    stream.seek(-len(first), 1)
    return length > 0 and (not first or first[0] in _GRAPH_STARTS or first[0] & 0x80 != 0)


def _varint(stream: BinaryIO) -> int | None:
    """The number that comes next; None where none ends within 10 bytes."""
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None
