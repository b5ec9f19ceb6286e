"""Repair of float `.pt2` files (distilled, pruned) in place: the exported program's own graph is trained."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from dflare.errors import InputError
from dflare.models.exported import batch_range, in_parts, load_program
from repair.compression import check_plan, zeros_stay_zero
from repair.trainable import Trainable


class Exported(nn.Module):
    """An exported program as a module whose `train` and `eval` leave the graph alone (the graph refuses them)."""

    def __init__(self, program: nn.Module, batches: tuple[int, int] = (1, 2**31)) -> None:
        super().__init__()
        self.program, self.batches = program, batches

    def train(self, mode: bool = True) -> "Exported":
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        return in_parts(self.program, images, self.batches)


def open_exported(path: Path) -> Trainable:
    """The program in a `.pt2` file, opened for repair: zeros in its weights stay zero, the graph stays as it is.

    Raises `InputError` where there is nothing to train, as in an int8 program, whose weights are integers.
    """
    program = load_program(path)
    if any("quantized" in str(node.target) for node in program.graph.nodes):
        raise InputError(f"expected a float program in {path}, got an int8 one; int8 models are repaired as .onnx")
    module = Exported(program.module(), batch_range(program, path))
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise InputError(f"expected weights that can be trained in {path}, found none")

    def write(weights: Mapping[str, Tensor], target: Path) -> None:
        write_program(path, weights, target)

    def check(target: Path) -> None:
        check_program(path, target)

    return Trainable(module, zeros_stay_zero(module), write, check)


def write_program(source: Path, weights: Mapping[str, Tensor], target: Path) -> None:
    """Write the source's program with other weights (names as in `Exported`), atomically."""
    program = load_program(source)
    with torch.no_grad():
        for name, weight in weights.items():
            program.state_dict[name.removeprefix("program.")].copy_(weight)
    temporary = target.with_name(f".{target.stem}.tmp.pt2")
    torch.export.save(program, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.rename(target)


def check_program(source: Path, target: Path) -> None:
    """Open a written file again; raise `InputError` unless only weights differ and every zero is still zero."""
    before, after = load_program(source), load_program(target)
    if difference := _difference(before, after):
        raise InputError(f"the repaired model in {target} is no longer the model that came in: {difference}")
    plan = zeros_stay_zero(Exported(before.module()))
    try:
        check_plan({f"program.{name}": weight for name, weight in after.state_dict.items()}, plan)
    except ValueError as error:
        raise InputError(f"the repaired model in {target} is broken: {error}") from error


def _difference(before: ExportedProgram, after: ExportedProgram) -> str | None:
    if before.graph_module.code != after.graph_module.code or str(before.graph_signature) != str(after.graph_signature):
        return "its graph changed"
    shapes = [{name: (w.shape, w.dtype) for name, w in program.state_dict.items()} for program in (before, after)]
    if shapes[0] != shapes[1]:
        return "its weights have other names, shapes or types"
    for name, weight in after.state_dict.items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            return f"{name} is not finite"
    return None
