"""More bits for activations and weights of an int8 `.pt2` program (PT2E): the same graph on finer grids."""

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram

from dflare.errors import InputError
from repair.pt2_models.grids import DEQUANTIZERS, QUANTIZERS, Step, step_of

EIGHT_BITS = {torch.uint8, torch.int8}

LEVELS = 65_535 // 255
"""Steps of 16 bits in one of 8 that cover the same range: 257, so every number of the old grid lies on the new one."""

FINER = 256
"""The same for a weight: a power of two, so that no number changes by a single bit."""

WIDE = torch.iinfo(torch.int16)


@dataclass(frozen=True)
class Rounding:
    """What quantisers and dequantisers of one tensor do to it."""

    name: str  # of the node whose numbers are rounded, or of the stored integers
    nodes: tuple[fx.Node, ...]  # all that say the grid
    step: Step


def find_roundings(program: ExportedProgram) -> list[Rounding]:
    """The activations on grids of 8 or 16 bits that can be changed, in the order of the graph.

    Left out are those that something else than dequantisers of the same grid reads, grids that are computed or one a
    channel, and tensors that are rounded twice.
    """
    found: dict[str, list[Rounding]] = {}
    for node in program.graph.nodes:
        if str(node.target) not in QUANTIZERS or not node.users:
            continue
        step, readers = step_of(node), list(node.users)
        plain = isinstance(step.scale, float) and isinstance(step.zero_point, int) and step.axis is None
        same = all(str(each.target) in DEQUANTIZERS and step_of(each).grid == step.grid for each in readers)
        if plain and same and step.sound and step.dtype in EIGHT_BITS | {torch.int16, torch.uint16}:
            found.setdefault(step.input.name, []).append(Rounding(step.input.name, (node, *readers), step))
    return [one[0] for one in found.values() if len(one) == 1]


def grids(program: ExportedProgram) -> list[tuple[str, ...]]:
    """The activations' names, those on equal grids together (a pooling and what it pools): what is widened together."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for each in find_roundings(program):
        groups.setdefault(each.step.grid, []).append(each.name)
    return [tuple(names) for names in groups.values()]


def find_eight_bit_weights(program: ExportedProgram) -> dict[str, Rounding]:
    """Name in the program -> int8 integers that dequantisers of one grid alone read; nothing else reads that grid."""
    stored = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target is not None}
    found = {}
    for node in program.graph.nodes:
        readers = list(node.users)
        if node.op != "placeholder" or node.name not in stored or not readers or _kept(program, stored, node) is None:
            continue
        if not all(str(each.target) in DEQUANTIZERS and each.args[0] is node for each in readers):
            continue
        steps = [step_of(each) for each in readers]
        own = all(set(each.users) <= set(readers) for each in (steps[0].scale, steps[0].zero_point) if _is_node(each))
        if own and steps[0].dtype == torch.int8 and all(step.grid == steps[0].grid for step in steps):
            found[stored[node.name]] = Rounding(stored[node.name], tuple(readers), steps[0])
    return found


def widen(program: ExportedProgram, tensors: Collection[str], weights: Collection[str] = ()) -> ExportedProgram:
    """A copy of the program in which these activations and these weights have 16 bits; all else is as it was.

    An activation's grid becomes int16 over the same real range: scale s / 257, integers 257 q + 128 (q counted from
    -128), so that real zero stays a level. A weight's integers are multiplied by 256 and its scale divided by it: the
    program computes what it did, and only a training makes use of the finer grid, at one byte a weight. What has 16
    bits already stays. Raises `InputError` for unknown names.
    """
    wide = copy.deepcopy(program)
    roundings, stored = {each.name: each for each in find_roundings(wide)}, find_eight_bit_weights(wide)
    _check("quantised activations", tensors, roundings)
    _check("int8 weights with grids of their own", weights, stored)
    for name in tensors:
        if roundings[name].step.dtype in EIGHT_BITS:
            _widen_activation(roundings[name])
    for name in weights:
        _widen_weight(wide, name, stored[name])
    wide.graph_module.recompile()
    return wide


def _check(what: str, names: Collection[str], known: Collection[str]) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise InputError(f"tensors to be widened must be {what} ({', '.join(known) or 'none'}), got {unknown[0]!r}")


def _widen_activation(rounding: Rounding) -> None:
    low = torch.iinfo(rounding.step.dtype).min
    scale = float(np.float32(rounding.step.scale / LEVELS))

    def finer(integer: int) -> int:
        return LEVELS * (integer - low) + WIDE.min

    bounds = {"quant_min": finer(rounding.step.low), "quant_max": finer(rounding.step.high), "dtype": torch.int16}
    for node in rounding.nodes:
        _say(node, scale=scale, zero_point=finer(rounding.step.zero_point), **bounds)
    made = rounding.nodes[0].meta
    made["val"] = made["val"].to(torch.int16)


def _widen_weight(program: ExportedProgram, name: str, rounding: Rounding) -> None:
    step = rounding.step
    bounds = {"quant_min": FINER * step.low, "quant_max": FINER * step.high + FINER - 1, "dtype": torch.int16}
    for node in rounding.nodes:
        _say(node, **bounds)
    _store(program, step.input, lambda integers: integers.to(torch.int16) * FINER)
    for word, value, change in (("scale", step.scale, 1 / FINER), ("zero_point", step.zero_point, FINER)):
        if _is_node(value):
            _store(program, value, lambda numbers, change=change: (numbers * change).to(numbers.dtype))
        elif value is not None:
            for node in rounding.nodes:
                _say(node, **{word: value * change})


def _store(program: ExportedProgram, node: fx.Node, change: Any) -> None:
    """Put what `change` makes of a stored tensor in its place."""
    stored = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    tensors = _home(program, stored[node.name])
    old = tensors[stored[node.name]]
    new = change(old.detach())
    tensors[stored[node.name]] = torch.nn.Parameter(new, False) if isinstance(old, torch.nn.Parameter) else new
    node.meta["val"] = node.meta["val"].to(new.dtype)


def _kept(program: ExportedProgram, stored: dict[str, str], node: fx.Node) -> torch.Tensor | None:
    tensor = _home(program, stored[node.name]).get(stored[node.name])
    return tensor if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.int8 else None


def _home(program: ExportedProgram, name: str) -> dict[str, Any]:
    return program.state_dict if name in program.state_dict else program.constants


def _is_node(value: Any) -> bool:
    return isinstance(value, fx.Node)


def _say(node: fx.Node, **said: Any) -> None:
    """Make a quantiser or a dequantiser say other numbers, by the names in its schema (several for `scale`)."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    for word, value in said.items():
        name = word if word in names else f"{word}s"
        if names.index(name) < len(node.args):
            node.update_arg(names.index(name), value)
        else:
            node.update_kwarg(name, value)
