"""Repair of `.pt2` files in place: float (distilled, pruned) and int8 (PT2E), by the exported program's own graph."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from dflare.errors import InputError
from dflare.models.exported import in_parts, load_program, program_takes
from dflare.models.grids import Grid, quantised
from repair.compression import Plan, Projection, check_plan, zeros_stay_zero
from repair.pt2_models.quantized import is_quantized, trainable_graph
from repair.pt2_models.writing import program_difference, write_program
from repair.trainable import Trainable

PREFIX = "program."
"""Before the names that weights have in the program."""


class Exported(nn.Module):
    """An exported program as a module whose `train` and `eval` leave the graph alone (the graph refuses them).

    Takes float32 values (n, ...) as the program takes them; those of an integer type are rounded to it.
    """

    def __init__(
        self, program: nn.Module, batches: tuple[int, int] = (1, 2**31), dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.program, self.batches, self.grid = program, batches, Grid(dtype)

    def train(self, mode: bool = True) -> "Exported":
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        values = images if self.grid.dtype == torch.float32 else quantised(images, self.grid)
        return in_parts(self.program, values, self.batches)


def open_exported(path: Path) -> Trainable:
    """The program in a `.pt2` file, opened for repair: the graph stays as it is.

    Int8 weights stay on their grids of integers, zeros in float weights of two or more dimensions stay zero.
    Raises `InputError` where there is nothing to train, and for operators that a gradient cannot be led through.
    """
    program = load_program(path)
    module, plan = _opened(program, path)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise InputError(f"expected weights that can be trained in {path}, found none")
    return Trainable(
        module, plan, partial(_write, path, _bare(plan)), partial(check_program, path), program_takes(program, path)[0]
    )


def _opened(program: ExportedProgram, path: Path) -> tuple[Exported, Plan]:
    grids: Mapping[str, Projection] = {}
    if is_quantized(program):
        graph, grids = trainable_graph(program, path)
    else:
        graph = program.module()
    takes, grid = program_takes(program, path)
    module = Exported(graph, takes.batches, grid.dtype)
    zeros = {name: kept for name, kept in zeros_stay_zero(module).items() if name.removeprefix(PREFIX) not in grids}
    return module, {f"{PREFIX}{name}": grid for name, grid in grids.items()} | zeros


def _write(source: Path, plan: Plan, weights: Mapping[str, Tensor], target: Path) -> None:
    write_program(source, {name.removeprefix(PREFIX): weight for name, weight in weights.items()}, plan, target)


def _bare(plan: Plan) -> Plan:
    return {name.removeprefix(PREFIX): projection for name, projection in plan.items()}


def check_program(source: Path, target: Path) -> None:
    """Open a written file again; raise `InputError` unless only weights differ and are compressed as they were.

    Weights are what a repair moves: parameters, and the integers that stand for weights. Statistics, scales, zero
    points and other constants are none.
    """
    before, after = load_program(source), load_program(target)
    module, plan = _opened(before, source)
    movable = {name.removeprefix(PREFIX) for name, weight in module.named_parameters() if weight.requires_grad}
    if difference := program_difference(before, after, movable):
        raise InputError(f"the repaired model in {target} is no longer the model that came in: {difference}")
    weights = dict(_opened(after, target)[0].named_parameters())
    if lost := sorted(set(plan) - set(weights)):
        raise InputError(f"the repaired model in {target} is broken: {lost[0]} has left its grid of integers")
    try:
        check_plan(weights, plan)
    except ValueError as error:
        raise InputError(f"the repaired model in {target} is broken: {error}") from error
