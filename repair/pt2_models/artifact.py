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
from repair.compression import Plan, Projection, check_plan
from repair.integers.scales import Rescaled, at_scales
from repair.pt2_models.quantized import is_quantized, trainable_graph
from repair.pt2_models.scales import StoredScale
from repair.pt2_models.writing import program_difference, write_program
from repair.signs import as_found, lead_through_signs
from repair.trainable import Scales, Trainable

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


def open_exported(path: Path, scales: Scales = Scales.fixed) -> Trainable:
    """The program in a `.pt2` file, opened for repair: the graph stays as it is.

    Int8 weights stay on their grids of integers, zeros in float weights of two or more dimensions stay zero,
    and float weights of one or two bits keep their values (`repair.signs`). `scales` are opened too, frozen until they
    are set free (`repair.pt2_models.scales`).
    Raises `InputError` where there is nothing to train, and for operators that a gradient cannot be led through.
    """
    program = load_program(path)
    module, plan, found = _opened(program, path, scales)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise InputError(f"expected weights that can be trained in {path}, found none")
    return Trainable(
        module,
        plan,
        partial(_write, path, plan, found),
        partial(check_program, path, scales=scales),
        program_takes(program, path)[0],
        scales=tuple(f"{PREFIX}{name}" for name in found),
        limits=tuple(f"{PREFIX}{name}" for name, scale in found.items() if scale.weight is None),
    )


def _opened(
    program: ExportedProgram, path: Path, which: Scales = Scales.fixed
) -> tuple[Exported, Plan, dict[str, StoredScale]]:
    grids: Mapping[str, Projection] = {}
    scales: dict[str, StoredScale] = {}
    graph: nn.Module
    if is_quantized(program):
        graph, grids, scales = trainable_graph(program, path, which)
    else:
        graph = program.module()
    lead_through_signs(graph)
    takes, grid = program_takes(program, path)
    module = Exported(graph, takes.batches, grid.dtype)
    floats = {name: kept for name, kept in as_found(module).items() if name.removeprefix(PREFIX) not in grids}
    return module, {f"{PREFIX}{name}": _prefixed(grid) for name, grid in grids.items()} | floats, scales


def _write(
    source: Path, plan: Plan, scales: Mapping[str, StoredScale], weights: Mapping[str, Tensor], target: Path
) -> None:
    plan = at_scales(plan, {f"{PREFIX}{name}": weights[f"{PREFIX}{name}"] for name in scales})
    bare = {name.removeprefix(PREFIX): weight for name, weight in weights.items()}
    write_program(source, bare, {name.removeprefix(PREFIX): each for name, each in plan.items()}, target, scales)


def _prefixed(grid: Projection) -> Projection:
    if isinstance(grid, Rescaled):
        grid.follows = tuple(f"{PREFIX}{name}" for name in grid.follows)
    return grid


def check_program(source: Path, target: Path, scales: Scales = Scales.fixed) -> None:
    """Open a written file again; raise `InputError` unless only weights differ and are compressed as they were.

    Weights are what a repair moves: parameters, and the integers that stand for weights. Statistics, zero points and
    other constants are none, and scales only where the source was opened for them.
    """
    before, after = load_program(source), load_program(target)
    module, plan, found = _opened(before, source, scales)
    movable = {name.removeprefix(PREFIX) for name, weight in module.named_parameters() if weight.requires_grad}
    movable |= {scale.tensor for scale in found.values() if scale.tensor is not None}
    try:
        numbers = {name: scale.read(after) for name, scale in found.items()}
        for name, scale in found.items():
            if scale.tensor is None:
                scale.write(before, numbers[name])  # and then the graphs must be the same
        if difference := program_difference(before, after, movable):
            raise InputError(f"the repaired model in {target} is no longer the model that came in: {difference}")
        if wrong := [name for name, scale in numbers.items() if not bool(((scale > 0) & scale.isfinite()).all())]:
            raise ValueError(f"{wrong[0]} must be positive and finite")
        weights = dict(_opened(after, target)[0].named_parameters())
        plan = at_scales(plan, {f"{PREFIX}{name}": scale for name, scale in numbers.items()})
        if lost := sorted(set(plan) - set(weights)):
            raise InputError(f"the repaired model in {target} is broken: {lost[0]} has left its grid of integers")
        check_plan(weights, plan)
    except ValueError as error:
        raise InputError(f"the repaired model in {target} is broken: {error}") from error
