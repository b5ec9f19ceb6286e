"""What a file is, told from its content and never from its name alone; nothing in it is executed or unpacked."""

import re
from pathlib import Path

from dflare.errors import InputError
from dflare.models.archives import member_names
from dflare.models.protobuf import is_onnx

FORMATS = ("onnx", "litert", "exported", "torchscript")
"""Formats of models that are opened."""

_HEAD = 512  # bytes that tell all but archives and ONNX

_WEIGHTS = (
    "give the function that builds its network as well: "
    "pair.original=module:function models.original.weights={path} (or compressed)"
)
_CONVERT = "convert it to ONNX or LiteRT first"
_EXPORT = "save it with torch.export.save"

REFUSED: dict[str, tuple[str, str]] = {
    "torch weights": ("a state dict or a pickled model of torch.save", _WEIGHTS),
    "pickle": ("a pickle, such as old files of torch.save, and no pickle is executed", _WEIGHTS),
    "safetensors": ("weights of safetensors", _WEIGHTS),
    "hdf5": ("an HDF5 file, such as a Keras .h5 model", _CONVERT),
    "keras": ("a Keras model", _CONVERT),
    "saved model": ("a part of a TensorFlow SavedModel", _CONVERT),
    "executorch": ("an ExecuTorch program", "give the .pt2 or .onnx file that it was made from"),
    "mobile": ("a program for torch's mobile interpreter", _EXPORT),
    "compiled": ("a package with compiled machine code (AOTInductor), which is never run", _EXPORT),
    "ort": ("a model in ONNX Runtime's own format", "give the .onnx file that it was made from"),
    "arrays": ("NumPy arrays", "give a model file; images belong under data.root"),
    "git lfs": ("a Git LFS pointer in place of the model", "fetch the file itself with git lfs pull"),
    "html": ("a web page, as failed downloads leave it", "download the model again"),
    "json": ("JSON text, as failed downloads leave it", "download the model again"),
    "packed": ("a packed file (gzip, xz, bzip2, 7z, zstd, rar or tar)", "unpack it and give the model in it"),
    "two in one": ("an archive with both an exported program and TorchScript in it", _EXPORT),
    "zip": ("a zip archive without a model", "unpack it and give the model in it"),
    "text": ("text", "give a model file"),
    "noise": ("no format that is known", "give a file that PyTorch, ONNX or LiteRT wrote"),
}
"""What else a file may be: in words, and what to do. `{path}` is the file."""

_MAGICS: list[tuple[int, bytes, str]] = [
    (4, rb"TFL3", "litert"),
    (4, rb"ET\d\d", "executorch"),
    (4, rb"PTMF", "mobile"),
    (4, rb"ORTM", "ort"),
    (0, rb"\x80[\x02-\x05]", "pickle"),
    (0, rb"\x89HDF\r\n\x1a\n", "hdf5"),
    (0, rb"\x93NUMPY", "arrays"),
    (0, rb"version https://git-lfs", "git lfs"),
    (0, rb"\x1f\x8b|\xfd7zXZ\x00|BZh\d|7z\xbc\xaf\x27\x1c|\x28\xb5\x2f\xfd|Rar!", "packed"),
    (257, rb"ustar", "packed"),
    (0, rb"(?s).{8}\{\s*\"", "safetensors"),
    (0, rb"(?:\xef\xbb\xbf)?\s*<", "html"),
    (0, rb"(?:\xef\xbb\xbf)?\s*[{\[]\s*[\"{\[\]}\d]", "json"),
]
"""Where in a file which bytes stand, and what the file then is; the first that matches counts."""


def sniff(path: Path) -> str:
    """The format of a model file, of `FORMATS`, from its content.

    Reads the first bytes, an archive's directory or the lengths of ONNX's outer fields, however large the file.
    Raises `InputError` for a file that is missing, empty or cut off, and for anything that is not opened as a
    model, which is named together with what to do.
    """
    kind = kind_of(path)
    if kind in FORMATS:
        return kind
    what, todo = REFUSED[kind]
    raise InputError(
        f"expected a model (.onnx, .tflite, .pt2 or TorchScript) in {path}, but it looks like {what}; "
        + todo.format(path=path)
    )


def kind_of(path: Path) -> str:
    """What a file is: of `FORMATS`, or a key of `REFUSED`.

    Raises `InputError` for a file that is missing, empty, cut off or cannot be read.
    """
    try:
        return _kind(path)
    except OSError as error:
        raise InputError(f"the model file {path} cannot be read: {error.strerror or error}") from error


def _kind(path: Path) -> str:
    if path.is_dir():
        _refuse_folder(path)
    if not path.is_file():
        what = "an ordinary file" if path.exists() else "a model file"
        found = "a link to nothing" if path.is_symlink() else "something else" if path.exists() else "none"
        raise InputError(f"expected {what} at {path}, found {found}")
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if not head:
        raise InputError(f"expected a model in {path}, but the file is empty; fetch or write it again")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _archive_kind(member_names(path))
    for offset, pattern, kind in _MAGICS:
        if re.match(pattern, head[offset:]) and (kind != "safetensors" or _is_safetensors(path, head)):
            return kind
    if is_onnx(path):
        return "onnx"
    if head[:3] == b"\x08\x01\x12" or path.name == "saved_model.pb":
        return "saved model"
    return "text" if not re.search(rb"[^\t-\r\x1b -~\x80-\xff]", head) else "noise"


def _archive_kind(names: list[str]) -> str:
    """What a zip archive is, by the names in it."""
    exported = any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names)
    scripted = "constants.pkl" in names and any(name.startswith("code/") for name in names)
    for kind, present in {
        "two in one": exported and scripted,
        "compiled": any(name.startswith("data/aotinductor/") for name in names),
        "mobile": "bytecode.pkl" in names,
        "exported": exported,
        "torchscript": scripted,
        "torch weights": "data.pkl" in names,
        "keras": "config.json" in names and any(name.endswith(".weights.h5") for name in names),
        "arrays": bool(names) and all(name.endswith(".npy") for name in names),
    }.items():
        if present:
            return kind
    return "zip"


def _is_safetensors(path: Path, head: bytes) -> bool:
    """Whether the length that a safetensors file starts with is one of a header inside the file."""
    return 2 <= int.from_bytes(head[:8], "little") <= min(path.stat().st_size - 8, 10**8)


def _refuse_folder(path: Path) -> None:
    if (path / "saved_model.pb").is_file():
        raise InputError(f"expected a model file, but {path} is the folder of a TensorFlow SavedModel; {_CONVERT}")
    if path.suffix == ".mlpackage":
        raise InputError(f"expected a model file, but {path} is the folder of a Core ML package; {_CONVERT}")
    raise InputError(f"expected a model file, but {path} is a folder; give the model in it")
