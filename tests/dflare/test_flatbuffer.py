"""`.tflite` files whose offsets lead out of the file: LiteRT would follow them, so they are followed here first."""

import struct
from pathlib import Path

import pytest

from dflare.errors import InputError
from dflare.models import flatbuffer
from dflare.models.flatbuffer import check_flatbuffer

pytest.importorskip("ai_edge_litert")
import flatbuffers
from ai_edge_litert import schema_py_generated as schema


def model(buffers: int = 3, metadata: int = 1) -> bytearray:
    """A model with one empty graph, one operator, some buffers of eight bytes and some metadata."""
    draft = schema.ModelT()
    draft.version, draft.subgraphs, draft.operatorCodes = 3, [schema.SubGraphT()], [schema.OperatorCodeT()]
    draft.buffers = [schema.BufferT() for _ in range(buffers)]
    for buffer in draft.buffers:
        buffer.data = list(range(8))
    draft.metadata = [schema.MetadataT() for _ in range(metadata)]
    for entry in draft.metadata:
        entry.name, entry.buffer = "runtime", 1
    builder = flatbuffers.Builder()
    builder.Finish(draft.Pack(builder), b"TFL3")
    return bytearray(builder.Output())


def check(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    check_flatbuffer(path)


@pytest.mark.parametrize("metadata", [0, 1, 3])
def test_a_whole_file_passes(tmp_path, metadata):
    check(tmp_path / "m.tflite", model(metadata=metadata))


def test_every_cut_is_seen_or_leaves_buffers_and_metadata_whole(tmp_path):
    whole = model()
    for length in range(len(whole) // 3):
        with pytest.raises(InputError, match=r"m\.tflite, but it is cut off or broken: "):
            check(tmp_path / "m.tflite", whole[:length])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it does not start like one"),
        (b"\x18\0\0\0TFL3", "it points to byte 28, and has 8"),
        (b"\x08\0\0\0TFL3" + struct.pack("<i", 2**30), r"it points to byte -?\d+"),
        (b"\x0c\0\0\0TFL3" + struct.pack("<2H", 4, 4) + struct.pack("<i", 4), "it has no graph"),
    ],
)
def test_files_that_lead_nowhere_are_refused(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        check(tmp_path / "m.tflite", content)


@pytest.mark.parametrize("field", [flatbuffer._BUFFERS, flatbuffer._METADATA])
@pytest.mark.parametrize("number", [2**31, 2**32 - 1, 10**6])
def test_a_list_that_leads_out_of_the_file_is_refused(tmp_path, field, number):
    whole = model()
    place = flatbuffer._table(whole, flatbuffer._unsigned(whole, 0))[field]
    broken = bytearray(whole)
    struct.pack_into("<I", broken, place, number)
    with pytest.raises(InputError, match="it points to byte"):
        check(tmp_path / "m.tflite", broken)
    first, _ = flatbuffer._vector(whole, place, 4)
    for at in (first - 4, first):  # its length, and its first entry
        broken = bytearray(whole)
        struct.pack_into("<I", broken, at, number)
        with pytest.raises(InputError, match="it points to byte"):
            check(tmp_path / "m.tflite", broken)


@pytest.mark.parametrize("field", [flatbuffer._OPERATORS, flatbuffer._GRAPHS, flatbuffer._BUFFERS])
def test_a_model_without_its_parts_is_refused(tmp_path, field):
    broken = model()
    place = flatbuffer._unsigned(broken, 0)
    directory = place - struct.unpack_from("<i", broken, place)[0]
    struct.pack_into("<H", broken, directory + 4 + 2 * field, 0)
    with pytest.raises(InputError, match="it has no graph"):
        check(tmp_path / "m.tflite", broken)


def test_a_file_too_large_to_be_verified_is_refused_unread(tmp_path, monkeypatch):
    content = model()
    monkeypatch.setattr(flatbuffer, "MOST_BYTES", len(content) - 1)
    with pytest.raises(InputError, match=rf"must have at most {len(content) - 1} bytes, .* has {len(content)}"):
        check(tmp_path / "m.tflite", content)
