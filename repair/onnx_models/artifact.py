"""Compressed models in ONNX files: opened for repair, written back into the same graph, and checked."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from dflare.errors import InputError
from dflare.models.onnx_ends import onnx_takes
from repair.compression import Plan, Quantized, check_plan
from repair.integers.scales import at_scales
from repair.signs import as_found
from repair.trainable import Scales, Trainable

try:
    from onnx import ModelProto, numpy_helper

    from repair.onnx_models.difference import difference
    from repair.onnx_models.graph import OnnxModule
    from repair.onnx_models.scales import find_scales
    from repair.onnx_models.weights import read_whole
    from repair.onnx_models.writing import Source, write_model
except ImportError as missing:
    raise InputError(f'to repair .onnx files needs {missing.name}: pip install "dflare[onnx]"') from missing


def open_onnx_artifact(path: Path, scales: Scales = Scales.fixed) -> Trainable:
    """The model in an ONNX file, opened for repair; raises `InputError` for what a repair cannot go through.

    Quantised weights stay on their grids, float weights of two or more dimensions keep the zeros that they have, and
    those of one or two bits the values (`repair.signs`).
    `scales` are opened too, frozen until they are set free, and int32 biases follow them (`find_scales`).
    A written file holds its weights itself, also where the original keeps them beside it.
    """
    model = read_whole(path)
    found = find_scales(model, scales)
    module = OnnxModule(model, path, found)
    if not module.initializers:
        raise InputError(f"the model in {path} has no weights that a repair could move")
    floats = {name: plan for name, plan in as_found(module).items() if name not in module.grids}
    source = Source(path, model, module.initializers, {**module.grids, **floats}, module.scales, found.own)
    takes, _ = onnx_takes(model, module.input, path)
    limits = tuple(name for name, stored in module.scales.items() if stored in found.limits)
    return Trainable(
        module,
        source.plan,
        partial(write_model, source),
        partial(_check, source),
        takes,
        scales=tuple(module.scales),
        limits=limits,
    )


def _check(source: Source, target: Path) -> None:
    """Raise `InputError` unless the file holds the same graph with other weights, compressed in the same way."""
    written = read_whole(target)
    data, structure = difference(source.model, written)
    allowed = {*source.initializers.values(), *source.scales.values(), *source.own_scales.values()}
    reasons = structure + [f"data of {name!r}, which is no weight, differ" for name in data if name not in allowed]
    if reasons:
        raise InputError(f"{target} must be the graph of {source.path} with other weights, but {'; '.join(reasons)}")
    weights = dict(OnnxModule(written, target).named_parameters())
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise InputError(f"the weights in {target} must be finite, {name} holds NaN or infinity")
    try:
        check_plan(weights, _check_scales(source, written))
    except ValueError as error:
        raise InputError(f"{target} must be compressed as {source.path} is: {error}") from error


def _check_scales(source: Source, written: ModelProto) -> Plan:
    """The plan at the scales of the written model; raises `ValueError` for a bias's that does not follow the others."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    scales = {name: torch.from_numpy(stored[file].copy()) for name, file in source.scales.items()}
    if wrong := [name for name, scale in scales.items() if not bool(((scale > 0) & scale.isfinite()).all())]:
        raise ValueError(f"the scale {wrong[0]} must be positive and finite")
    plan = at_scales(source.plan, scales)
    for name, file in source.initializers.items():
        grid = plan.get(name)
        if isinstance(grid, Quantized) and file in source.own_scales:
            own = stored[source.own_scales[file]]
            if not np.array_equal(grid.scale.numpy().reshape(own.shape), own):
                raise ValueError(f"the scale of {name} is no longer that of its layer's input times its weight's")
    return plan
