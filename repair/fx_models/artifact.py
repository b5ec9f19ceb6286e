"""Int8 models of torch.ao's FX graph mode, in TorchScript files: opened for repair, written back, and checked."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dflare.errors import InputError
from dflare.models.torchscript import open_torchscript, same_code
from dflare.writing import written_as
from repair.compression import Plan, check_plan
from repair.fx_models.layers import Layer, packed, quiet
from repair.fx_models.reading import load_program, read_program, same_steps
from repair.fx_models.twin import FloatTwin
from repair.trainable import Trainable


def open_scripted(path: Path, allow_code: bool, program: Path | None = None) -> Trainable:
    """The quantised program in a TorchScript file, opened for repair through its float twin.

    Weights stay int8 on their scales, all else in the file stays as it is but the float biases. Raises `InputError`
    without `allow_code`, because loading a program may run it, and for operators that are not known. `program` as for
    `open_torchscript`.
    """
    open_torchscript(path, allow_code, program)  # checks, and opens nothing yet
    twin = FloatTwin(read_program(load_program(path), path))
    plan = twin.plan()
    return Trainable(twin, plan, partial(_write, path, plan), partial(_check, path))


def _write(source: Path, plan: Plan, weights: Mapping[str, Tensor], target: Path) -> None:
    """A copy of the file with these weights, atomically; a copy byte for byte where none differs.

    Integers are clamped, never wrapped. Raises `InputError` for weights that are not finite.
    """
    program = load_program(source)
    layers = read_program(program, source).layers.values()
    if wanted := sorted(set(weights) ^ {name for layer in layers for name in layer.names}):
        raise ValueError(f"weights must be those of the program's layers, {wanted[0]} is missing or too many")
    changed = False
    for layer in layers:
        integers, bias = _stored(layer, weights, target)
        if torch.equal(integers, layer.integers) and (bias is None or torch.equal(bias, layer.bias)):  # type: ignore[arg-type]
            continue
        changed = True
        holder, _, attribute = layer.path.rpartition(".")
        setattr(_submodule(program, holder), attribute, packed(layer, integers, bias))
    with written_as(source.name, target) as temporary:  # torch names the folder inside the archive after the file
        if changed:
            with quiet():
                program.save(str(temporary))
        else:
            temporary.write_bytes(source.read_bytes())


def _stored(layer: Layer, weights: Mapping[str, Tensor], target: Path) -> tuple[Tensor, Tensor | None]:
    """A layer's weight as int8, and its bias as float32, on the CPU."""
    found = [weights[name].detach().to("cpu", torch.float32) for name in layer.names]
    for name, values in zip(layer.names, found, strict=True):
        if not bool(values.isfinite().all()):
            raise InputError(f"weights must be finite to be written to {target}, {name} holds NaN or infinity")
    integers = layer.grid().integers(found[0]).to(torch.int8)
    if integers.shape != layer.integers.shape:
        raise ValueError(f"{layer.names[0]} must have shape {layer.shape}, got {tuple(integers.shape)}")
    return integers, found[1] if layer.biased else None


def _submodule(program: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        program = getattr(program, name)
    return program


def _check(source: Path, target: Path) -> None:
    """Raise `InputError` unless the file holds the same program with other weights on the same grids."""
    if not same_code(source, target):
        raise InputError(f"the repaired model in {target} is no longer the program in {source}: its code changed")
    before, after = (read_program(load_program(path), path) for path in (source, target))
    if not same_steps(before, after):
        raise InputError(
            f"the repaired model in {target} is no longer the program in {source}: scales, shapes or constants changed"
        )
    twin = FloatTwin(after)
    for name, value in twin.named_parameters():
        if not bool(value.isfinite().all()):
            raise InputError(f"the weights in {target} must be finite, {name} holds NaN or infinity")
    try:
        check_plan(dict(twin.named_parameters()), FloatTwin(before).plan())
    except ValueError as error:
        raise InputError(f"{target} must be compressed as {source} is: {error}") from error
