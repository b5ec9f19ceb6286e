"""What a model is, for the record: its files, its weights, its operators and what answers for it."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dflare.errors import InputError
from dflare.fingerprints.stored import Contents, figures
from dflare.hashing import file_hash

NOTHING: dict[str, Any] = dict.fromkeys(("external", "parameters", "weights", "integer_share"))
NOTHING |= dict.fromkeys(("operators", "inputs", "outputs", "dead_bytes"))
"""What is null where a file does not tell it, or may not be asked."""


def fingerprint(
    path: Path, form: str, *, runtime: str | None = None, threads: int | None = None, allow_code: bool = False
) -> dict[str, Any]:
    """The fingerprint of a model file of a format (as `dflare.models.formats.sniff` names it), as plain JSON.

    `file` (its name), `bytes` and `sha256`; `external`, the same of each file in which an `.onnx` keeps its weights;
    `format`; `parameters` (how many), `weights` (how many of each type) and `integer_share`, all as `stored`
    defines them; `operators`, how many of each; `inputs` and `outputs` with name, type and shape, a word where a size
    is free; `dead_bytes`, tensors in a `.pt2` that nothing reads; `runtime` (package, version, kernels) and `threads`
    a call, as given. Null is what the format does not tell, what lacks its package, what is damaged, and all that only
    a program could tell (TorchScript) without `allow_code`. Raises `OSError` for a missing file.
    """
    known = {"file": path.name, "format": form, "bytes": path.stat().st_size, "sha256": file_hash(path)}
    return {**NOTHING, **known, **_told(path, form, allow_code), "runtime": runtime, "threads": threads}


def code_fingerprint(
    name: str, weights: Path | None = None, *, runtime: str | None = None, threads: int | None = None
) -> dict[str, Any]:
    """The fingerprint of a model from a user's own `module:function`, with the keys of `fingerprint`.

    `file` is the name; `bytes` and `sha256` are those of the module's file (null where there is none), and `external`
    has the file of its weights. Imports the packages that the module lies in, not the module; ask after it was allowed.
    """
    module = module_file(name.partition(":")[0])
    known: dict[str, Any] = {"file": name, "format": "code", "bytes": None, "sha256": None}
    if module is not None:
        known |= {"bytes": module.stat().st_size, "sha256": file_hash(module)}
    if weights is not None:
        known["external"] = {weights.name: {"bytes": weights.stat().st_size, "sha256": file_hash(weights)}}
    return {**NOTHING, **known, "runtime": runtime, "threads": threads}


def external_files(path: Path, form: str) -> dict[str, Any] | None:
    """Size and SHA-256 of each file beside a model in which its weights lie, by name; None where there are none."""
    return _told(path, form, False).get("external") if form == "onnx" else None


def module_file(name: str) -> Path | None:
    """The file of a Python module by its name, None where it has none or cannot be found."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None and spec.has_location else None


def _told(path: Path, form: str, allow_code: bool) -> dict[str, Any]:
    """What the file says of itself."""
    try:
        contents = _READERS[form](path, allow_code) if form in _READERS else None
    except (InputError, ValueError, RuntimeError):  # a damaged file is refused where it is opened to be asked
        contents = None
    if contents is None:
        return {}
    counts = {} if contents.constants is None else figures(contents.constants)
    operators = None if contents.operators is None else dict(sorted(contents.operators.items()))
    told = {"operators": operators, "inputs": contents.inputs, "outputs": contents.outputs}
    return {**counts, **told, **contents.more}


def _onnx(path: Path, allow_code: bool) -> Contents | None:
    from dflare.fingerprints.onnx import onnx_contents

    return onnx_contents(path)


def _litert(path: Path, allow_code: bool) -> Contents | None:
    from dflare.fingerprints.litert import litert_contents

    return litert_contents(path)


def _exported(path: Path, allow_code: bool) -> Contents | None:
    from dflare.fingerprints.exported import exported_contents

    return exported_contents(path)


def _torchscript(path: Path, allow_code: bool) -> Contents | None:
    from dflare.fingerprints.torchscript import torchscript_contents

    return torchscript_contents(path) if allow_code else None


_READERS: dict[str, Callable[[Path, bool], Contents | None]] = {
    "onnx": _onnx,
    "litert": _litert,
    "exported": _exported,
    "torchscript": _torchscript,
}
"""Format -> what such a file says of itself."""
