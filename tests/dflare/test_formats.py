"""Files told apart by their content: what opens, what is refused with which words, and that nothing is executed."""

import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dflare.errors import InputError
from dflare.models.formats import FORMATS, REFUSED, kind_of, sniff

BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[2].parent / "shared"))
NO_MODEL = "expected a model (.onnx, .tflite, .pt2 or TorchScript) in "


class Touch:
    """A pickle of it makes a file when it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def varint(number: int) -> bytes:
    low = []
    while number >= 0x80:
        low.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*low, number])


def field(number: int, content: int | bytes) -> bytes:
    """A field of a protocol buffer."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


GRAPH = field(1, b"\x0a\x01x") * 30 + field(2, b"graph")
ONNX = field(1, 10) + field(2, b"pytorch") + field(7, GRAPH) + field(8, field(2, 17))


def archive(path: Path, *names: str, content: bytes = b"0") -> Path:
    with zipfile.ZipFile(path, "w") as writer:
        for name in names:
            writer.writestr(name, content)
    return path


def network() -> nn.Module:
    with torch.random.fork_rng():
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()


# --- what opens ---


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite", "model.pt", "model"])
def test_a_name_says_nothing(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(ONNX)
    assert sniff(path) == "onnx"
    path.write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(100))
    assert sniff(path) == "litert"
    assert sniff(archive(path, "m/archive_format", "m/models/model.json")) == "exported"
    assert sniff(archive(path, "serialized_exported_program.json", "version")) == "exported"
    assert sniff(archive(path, "m/code/__torch__.py", "m/data.pkl", "m/constants.pkl")) == "torchscript"


@pytest.mark.slow
def test_what_torch_exports_is_an_exported_program(tmp_path):
    torch.export.save(torch.export.export(network(), (torch.zeros(2, 1, 4, 4),)), tmp_path / "program.pt2")
    assert sniff(tmp_path / "program.pt2") == "exported"


def test_what_torch_saves_is_told_apart(tmp_path):
    torch.save(network().state_dict(), tmp_path / "new.pt")
    assert kind_of(tmp_path / "new.pt") == "torch weights"
    torch.save(network(), tmp_path / "whole.pt")
    assert kind_of(tmp_path / "whole.pt") == "torch weights"
    torch.save(network().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert kind_of(tmp_path / "old.pt") == "pickle"


def test_what_onnx_writes_is_onnx(tmp_path):
    onnx = pytest.importorskip("onnx")
    info = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [info], [info])
    onnx.save(onnx.helper.make_model(graph, producer_name="p" * 300, doc_string="d"), tmp_path / "m")
    assert sniff(tmp_path / "m") == "onnx"


@pytest.mark.skipif(not (BENCH / "models").is_dir(), reason="needs the models of DFLARE_BENCH")
def test_real_models_are_what_their_names_say():
    endings = {".onnx": "onnx", ".tflite": "litert", ".pt2": "exported"}
    files = [path for path in (BENCH / "models").rglob("*") if path.suffix in endings]
    assert len(files) > 20
    assert [sniff(path) for path in files] == [endings[path.suffix] for path in files]


def test_fields_of_onnx_may_come_in_any_order_and_new_ones_may_follow(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(field(8, b"") + field(7, GRAPH) + field(1, 4) + field(40, b"new") + field(41, 7))
    assert sniff(path) == "onnx"


@pytest.mark.parametrize(
    ("change", "content"),
    {
        "no graph": field(1, 10) + field(2, b"pytorch"),
        "no version": field(7, GRAPH) + field(8, b""),
        "no such version": field(1, 100_000) + field(7, GRAPH),
        "two graphs": ONNX + field(7, GRAPH),
        "an empty graph": field(1, 10) + field(7, b""),
        "a graph that is none": field(1, 10) + field(7, b"\x00" * 50),
        "a graph that is a number": field(1, 10) + field(7, 5),
        "a version that is text": field(1, b"10") + field(7, GRAPH),
        "rubbish after it": ONNX + b"\xff" * 20,
        "a field without number": ONNX + b"\x02\x00",
    }.items(),
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_almost_onnx_is_refused(tmp_path, change, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(InputError):
        sniff(tmp_path / "m.onnx")


def test_noise_is_no_model(tmp_path):
    generator = np.random.default_rng(0)
    path = tmp_path / "noise.onnx"
    for size in (1, 2, 3, 8, 40, 600):
        for _ in range(50):
            path.write_bytes(generator.bytes(size))
            with pytest.raises(InputError):
                sniff(path)


def test_a_huge_file_is_told_from_a_few_bytes(tmp_path):
    path = tmp_path / "huge.onnx"
    length = 40 * 2**30
    start = field(1, 10) + varint(7 << 3 | 2) + varint(length)
    with path.open("wb") as stream:
        stream.write(start + b"\x0a")
        stream.truncate(len(start) + length)  # no bytes on disk
    assert path.stat().st_size > length
    assert sniff(path) == "onnx"


def test_telling_formats_apart_loads_no_runtime(tmp_path):
    code = "import sys, dflare.models.formats; print({'torch', 'numpy', 'onnx', 'onnxruntime'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


# --- what is refused ---


CONTENTS: dict[str, bytes] = {
    "pickle": pickle.dumps([1]),
    "safetensors": struct.pack("<Q", 2) + b'{"a":1}',
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "executorch": b"\x30\x00\x00\x00ET12" + bytes(40),
    "mobile": b"\x30\x00\x00\x00PTMF" + bytes(40),
    "ort": b"\x30\x00\x00\x00ORTM" + bytes(40),
    "arrays": b"\x93NUMPY\x01\x00" + bytes(40),
    "git lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "html": b"\n<!DOCTYPE html><html><body>404</body></html>",
    "json": b'{"error": "Access denied"}',
    "packed": b"\x1f\x8b\x08\x00" + bytes(40),
    "saved model": field(1, 1) + field(2, b"\x0a\x05serve"),
    "text": b"import torch\n",
    "noise": b"\x00\x01\x02\x03\x04\x05",
}
ARCHIVES: dict[str, tuple[str, ...]] = {
    "torch weights": ("m/data.pkl", "m/data/0", "m/version"),
    "compiled": ("m/archive_format", "m/data/aotinductor/model/model.wrapper.so"),
    "mobile": ("m/data.pkl", "m/bytecode.pkl", "m/code/a.py", "m/constants.pkl"),
    "keras": ("config.json", "metadata.json", "model.weights.h5"),
    "two in one": ("m/archive_format", "m/code/a.py", "m/constants.pkl"),
    "arrays": ("images.npy", "labels.npy"),
    "zip": ("README.md", "model.onnx"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("name", ["model", "model.onnx", "model.pt2"])
def test_what_is_no_model_is_named_and_says_what_to_do(tmp_path, kind, name):
    assert kind in {*CONTENTS, *ARCHIVES}
    path = tmp_path / name
    for make in [lambda: path.write_bytes(CONTENTS[kind])] * (kind in CONTENTS) + [
        lambda: archive(path, *ARCHIVES[kind])
    ] * (kind in ARCHIVES):
        make()
        what, todo = REFUSED[kind]
        with pytest.raises(InputError) as caught:
            sniff(path)
        assert str(caught.value) == f"{NO_MODEL}{path}, but it looks like {what}; {todo.format(path=path)}"
        assert "\n" not in str(caught.value)


def test_weights_are_answered_with_the_two_settings_that_they_need(tmp_path):
    path = archive(tmp_path / "w.pt", *ARCHIVES["torch weights"])
    with pytest.raises(InputError, match=r"pair\.original=module:function models\.original\.weights=.*w\.pt"):
        sniff(path)


def test_no_file_or_an_empty_one_is_named(tmp_path):
    with pytest.raises(InputError, match=r"^expected a model file at .*gone\.onnx, found none$"):
        sniff(tmp_path / "gone.onnx")
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match=r"the file is empty"):
        sniff(tmp_path / "empty")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone.onnx")
    with pytest.raises(InputError, match=r"found a link to nothing"):
        sniff(tmp_path / "dangling")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(InputError, match=r"found a link to nothing"):
        sniff(tmp_path / "circle")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"expected an ordinary file at .*pipe, found something else"):
        sniff(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"cannot be read: File name too long"):
        sniff(tmp_path / ("n" * 300))


def test_a_link_to_a_model_is_a_model(tmp_path):
    (tmp_path / "m").write_bytes(ONNX)
    (tmp_path / "link").symlink_to(tmp_path / "m")
    assert sniff(tmp_path / "link") == "onnx"


def test_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"is a folder; give the model in it"):
        sniff(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(CONTENTS["saved model"])
    with pytest.raises(InputError, match=r"the folder of a TensorFlow SavedModel; convert it"):
        sniff(tmp_path)
    (tmp_path / "m.mlpackage").mkdir()
    with pytest.raises(InputError, match=r"Core ML"):
        sniff(tmp_path / "m.mlpackage")


# --- cut off ---


def test_a_model_that_is_cut_off_is_refused_wherever_it_ends(tmp_path):
    path = tmp_path / "m"
    archive(path, "m/archive_format", "m/models/model.json", content=b"1" * 200)
    whole = path.read_bytes()
    for length in range(4, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"the zip archive .* is cut off or broken .*; fetch or write it again"):
            sniff(path)
    graph_starts = ONNX.index(GRAPH)
    for length in range(1, len(ONNX)):
        path.write_bytes(ONNX[:length])
        if graph_starts <= length < graph_starts + len(GRAPH):
            with pytest.raises(InputError, match=r"the ONNX model in .* is cut off; fetch or write it again"):
                sniff(path)
        elif length < graph_starts:
            with pytest.raises(InputError):
                sniff(path)


def test_the_directory_of_an_archive_inside_is_not_taken_for_its_own(tmp_path):
    inner = archive(tmp_path / "inputs.pt", "m/data.pkl").read_bytes()
    path = archive(tmp_path / "m.pt2", "m/archive_format", "m/data/sample_inputs/model.pt", content=inner)
    assert sniff(path) == "exported"
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"PK\x01\x02")])  # ends after the archive inside
    with pytest.raises(InputError, match=r"is cut off or broken \(its directory is that of an archive inside it\)"):
        sniff(path)


# --- nothing is executed, nothing is unpacked ---


@pytest.mark.parametrize("form", ["pickle 0", "pickle 2", "pickle 5", "torch", "old torch", "zip", "script"])
def test_no_pickle_is_executed(tmp_path, form):
    touched, path = tmp_path / "touched", tmp_path / "m.pt"
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(Touch(touched), protocol=int(form[-1])))
    elif form.endswith("torch"):
        torch.save({"a": Touch(touched)}, path, _use_new_zipfile_serialization=form == "torch")
    else:
        names = ["m/data.pkl", "m/constants.pkl"] + ["m/code/a.py"] * (form == "script")
        archive(path, *names, content=pickle.dumps(Touch(touched)))
    assert kind_of(path) in {*FORMATS, *REFUSED}
    assert not touched.exists()
    if form == "pickle 2":
        pickle.loads(path.read_bytes())
        assert touched.exists()  # it would have been


def test_a_bomb_is_refused_by_its_directory_alone(tmp_path):
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("m/archive_format", "pt2")
        writer.writestr("m/data/weights/weight_0", bytes(80 * 2**20))
    assert path.stat().st_size < 2**20
    with pytest.raises(InputError, match=r"claims to hold 8388.* bytes, which no model does"):
        sniff(path)


def test_members_that_lie_over_each_other_are_a_bomb(tmp_path):
    path = archive(tmp_path / "m.pt2", "m/archive_format", "m/a", content=b"1" * 5000)
    content = bytearray(path.read_bytes())
    second = content.rindex(b"PK\x01\x02")
    content[second + 20 : second + 28] = struct.pack("<2L", 9000, 9000)  # both sizes
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"claims to hold 14000 bytes"):
        sniff(path)


def test_a_directory_that_is_too_large_is_not_read(tmp_path):
    path = archive(tmp_path / "m.pt2", "m/archive_format", "m/a")
    content = bytearray(path.read_bytes())
    content[-10:-6] = struct.pack("<L", 2**31)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"has a directory of 2147483648 bytes, which no model has"):
        sniff(path)
