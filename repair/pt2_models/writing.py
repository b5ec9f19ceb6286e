"""Weights put back into a `.pt2` program, and what differs between two programs."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from zipfile import ZipFile

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from dflare.errors import InputError
from dflare.models.exported import load_program
from dflare.writing import written_as
from repair.compression import Plan, Quantized
from repair.pt2_models.scales import StoredScale


def write_program(
    source: Path,
    weights: Mapping[str, Tensor],
    plan: Plan,
    target: Path,
    scales: Mapping[str, StoredScale] = MappingProxyType({}),
) -> None:
    """Write the source's program with other weights, named as in the program, atomically.

    A weight that the plan keeps on a grid is stored as its integers in the type that came in: clamped, never wrapped.
    `plan` is that at the new scales, `scales` says where the program keeps those weights that are scales. Raises
    `InputError` where integers would have to stand for NaN or infinity, and for a scale that is not positive.
    """
    program = load_program(source)
    numbers = {name: weights[name].detach() for name in scales}
    for name, scale in numbers.items():
        if not bool((scale >= torch.finfo(torch.float32).tiny).all() and scale.isfinite().all()):
            raise InputError(f"scales must be positive and finite to be written, {name} holds {scale.min():g}")
        scales[name].write(program, scale)
    for name, weight in ((name, weight) for name, weight in weights.items() if name not in scales):
        tensors = program.state_dict if name in program.state_dict else program.constants
        tensors[name] = _like(tensors[name], weight.detach(), plan.get(name), name)
    save_program(program, source, target)


def save_program(program: ExportedProgram, source: Path, target: Path) -> None:
    """Write a program that came from `source`, atomically; the same program gives the same bytes."""
    # torch names the folder inside the archive after the file
    with written_as(f"{_folder_in(source)}.pt2", target) as temporary:
        torch.export.save(program, temporary)


def _folder_in(path: Path) -> str:
    """The folder in which an archive keeps its members, where it has a plain name."""
    with ZipFile(path) as archive:
        folder = archive.namelist()[0].partition("/")[0]
    return folder if re.fullmatch(r"\w[\w-]{0,60}", folder) else "model"


def _like(old: Tensor, weight: Tensor, projection: object, name: str) -> Tensor:
    """The weight in the type, layout and kind of the old one, which other names may share and which stays as it is."""
    if weight.shape != old.shape:
        raise ValueError(f"{name} must have shape {tuple(old.shape)}, got {tuple(weight.shape)}")
    if isinstance(projection, Quantized):
        if not bool(weight.isfinite().all()):
            raise InputError(f"weights must be finite to be written as integers, {name} holds NaN or infinity")
        limits = torch.iinfo(old.dtype)
        weight = projection.integers(weight).double().clamp(limits.min, limits.max)
    new = torch.empty_like(old, requires_grad=False).copy_(weight)
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def program_difference(before: ExportedProgram, after: ExportedProgram, movable: Collection[str]) -> str | None:
    """The first thing that differs between two programs apart from the numbers of movable weights, in words."""
    if before.graph_module.code != after.graph_module.code or str(before.graph_signature) != str(after.graph_signature):
        return "its graph changed"
    if str(before.range_constraints) != str(after.range_constraints):
        return "its batch sizes changed"
    first, second = _tensors(before), _tensors(after)
    if {n: (w.shape, w.dtype) for n, w in first.items()} != {n: (w.shape, w.dtype) for n, w in second.items()}:
        return "its weights have other names, shapes or types"
    for name, weight in second.items():
        if weight.is_floating_point() and name in movable and not bool(weight.isfinite().all()):
            return f"{name} is not finite"
        if name not in movable and not torch.equal(_bytes(first[name]), _bytes(weight)):
            return f"{name}, which is no weight of its layers, has other numbers"
    return None


def _tensors(program: ExportedProgram) -> dict[str, Tensor]:
    constants = {name: value for name, value in program.constants.items() if isinstance(value, Tensor)}
    return {**constants, **program.state_dict}


def _bytes(values: Tensor) -> Tensor:
    return values.detach().contiguous().flatten().view(torch.uint8)
