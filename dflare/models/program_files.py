"""`.pt2` archives read as data and checked before torch opens them.

`torch.export.load` trusts its file: it unpickles whatever `weights_only=True` refuses (example inputs, weights marked
`use_pickle`, custom and opaque objects), loads compiled libraries, evaluates expressions and guards as Python, calls
any function of torch that the graph names, and writes names into the code that it compiles. So an archive is opened
only if it holds tensors and a graph of known operators, and torch is handed a copy of what was checked: it never reads
the file itself, which another reader of archives could see differently.
"""

import io
import json
import re
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch

from dflare.errors import InputError
from dflare.models.archives import member_names
from dflare.models.program_text import check_text

MOST_BYTES = 2**32
"""Size of an archive that is read; VGG-16 has 0.55 GB."""

_MODEL = "models/model.json"
_CONFIGS = {"data/weights/": "weights", "data/constants/": "constants"}
_INPUTS = "data/sample_inputs/model.pt"
_MEMBERS = re.compile(
    rf"{re.escape(_MODEL)}|{re.escape(_INPUTS)}|data/weights/(model_weights_config\.json|weight_\d+)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+)|archive_format|archive_version|byteorder|version"
    r"|\.data/(version|serialization_id|\w+)|extra/.*"
)
"""What an exported program of tensors and operators is made of, as torch.export.save writes it (seen with 2.15)."""


def checked_program(path: Path) -> io.BytesIO:
    """A copy in memory of an archive in which nothing can run; raises `InputError` for any other, and says why."""
    members = _members(path)
    for folder, kind in _CONFIGS.items():
        name = f"{folder}model_{kind}_config.json"
        _check_payloads(_read_json(members, name, path), folder, members, path)
    try:
        check_text(_read_json(members, _MODEL, path))
    except (ValueError, RecursionError) as error:
        raise _refusal(path, str(error) or "its graph is nested too deeply") from error
    _check_inputs(members, path)
    return _written(members)


def _members(path: Path) -> dict[str, bytes]:
    """Contents by name without the archive's own folder; raises `InputError` for a member that has no place there."""
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"the program in {path} must have at most {MOST_BYTES:,} bytes, it has {path.stat().st_size}")
    names = member_names(path)
    if not any(name.endswith("archive_format") for name in names):
        older = any(name.endswith("serialized_exported_program.json") for name in names)
        todo = "is of torch 2.7 or older; save it again with torch.export.save" if older else "holds none"
        raise InputError(f"expected an exported PyTorch program (.pt2) in {path}, but the archive {todo}")
    if len({name.lower() for name in names}) < len(names):
        raise _refusal(path, "it has two members of one name")
    for name in names:
        if re.fullmatch(r"data/(weights|constants)/\w+\.pt", name):
            raise _refusal(path, f"it holds {name}, a pickle of an older torch; save it again with torch.export.save")
        if not _MEMBERS.fullmatch(name) or ".." in name:
            raise _refusal(path, f"it holds {name}, which is neither a tensor nor the graph")
    try:
        with ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != ZIP_STORED or member.file_size != member.compress_size:
                    raise _refusal(path, f"{member.filename} in it is compressed, which torch.export.save never does")
            return {name: archive.read(member) for name, member in zip(names, archive.infolist(), strict=True)}
    except (BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError) as error:
        raise InputError(f"the exported program in {path} cannot be read: {error}") from error


def _check_payloads(config: Any, folder: str, members: dict[str, bytes], path: Path) -> None:
    """Refuse weights that are pickles or missing, and empty ones that claim to have numbers, which torch would make."""
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise _refusal(path, f"its list of {_CONFIGS[folder]} is none")
    for name, entry in entries.items():
        if not re.fullmatch(r"[\w.@ -]*", name) or not isinstance(entry, dict):
            raise _refusal(path, f"it holds {name!r}, which is no tensor")
        meta = entry.get("tensor_meta")
        if entry.get("use_pickle") is not False or not isinstance(meta, dict):
            raise _refusal(path, f"it keeps {name!r} as a pickle, and no pickle is executed")
        content = members.get(f"{folder}{entry.get('path_name')}")
        if content is None:
            raise _refusal(path, f"{name!r} is missing in it")
        said = [size.get("as_int") if isinstance(size, dict) else None for size in meta.get("sizes", [])]
        sizes = [size for size in said if isinstance(size, int) and 0 <= size < 2**40]
        if len(sizes) < len(said) or (not content and 0 not in sizes):
            raise _refusal(path, f"{name!r} in it has another size than it claims")


def _check_inputs(members: dict[str, bytes], path: Path) -> None:
    """Refuse example inputs that are more than tensors in tuples: torch would unpickle them all the same."""
    content = members.get(_INPUTS)
    if not content:
        return
    try:
        with ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > len(content):
                raise _refusal(path, "its example inputs are packed, which torch.export.save never does")
        torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except InputError:
        raise
    except Exception as error:  # whatever a broken or a dangerous pickle leads to
        raise _refusal(
            path, "its example inputs are a pickle of more than tensors, and no pickle is executed"
        ) from error


def _read_json(members: dict[str, bytes], name: str, path: Path) -> Any:
    if name not in members:
        raise _refusal(path, f"{name} is missing in it")
    try:
        return json.loads(members[name])
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"{name} in it is no JSON") from error


def _written(members: dict[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with ZipFile(buffer, "w", ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    buffer.seek(0)
    return buffer


def _refusal(path: Path, reason: str) -> InputError:
    return InputError(f"the exported program in {path} is not opened: {reason}")
