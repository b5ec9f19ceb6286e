"""Compressed models in ONNX files: opened for repair, written back into the same graph, and checked."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dflare.errors import InputError
from dflare.models.onnx_ends import onnx_takes
from repair.compression import Plan, Quantized, check_plan, zeros_stay_zero
from repair.trainable import Trainable

try:
    from onnx import ModelProto, TensorProto, numpy_helper

    from repair.onnx_models.difference import difference
    from repair.onnx_models.graph import OnnxModule
    from repair.onnx_models.weights import read_whole
except ImportError as missing:
    raise InputError(f'to repair .onnx files needs {missing.name}: pip install "dflare[onnx]"') from missing


def open_onnx_artifact(path: Path) -> Trainable:
    """The model in an ONNX file, opened for repair; raises `InputError` for what a repair cannot go through.

    Quantised weights stay on their grids, float weights of two or more dimensions keep the zeros that they have.
    A written file holds its weights itself, also where the original keeps them beside it.
    """
    model = read_whole(path)
    module = OnnxModule(model, path)
    if not module.initializers:
        raise InputError(f"the model in {path} has no weights that a repair could move")
    zeros = {name: plan for name, plan in zeros_stay_zero(module).items() if name not in module.grids}
    source = _Source(path, model, module.initializers, {**module.grids, **zeros})
    takes, _ = onnx_takes(model, module.input, path)
    return Trainable(module, source.plan, partial(_write, source), partial(_check, source), takes)


@dataclass(frozen=True)
class _Source:
    """The file as it was opened."""

    path: Path
    model: ModelProto
    initializers: Mapping[str, str]  # parameter name -> name in the file
    plan: Plan

    def parameters(self) -> dict[str, Tensor]:
        """The weights as they were, by parameter name; read again, because the module's own ones move."""
        return {name: value.detach() for name, value in OnnxModule(self.model, self.path).named_parameters()}


def _write(source: _Source, weights: Mapping[str, Tensor], target: Path) -> None:
    """A copy of the file with these weights, by parameter name; all else is byte for byte the same.

    Raises `InputError` for weights that are not finite, `ValueError` for other names or shapes than the model's.
    """
    before = source.parameters()
    if set(weights) != set(before):
        raise ValueError(f"weights must be named {sorted(before)}, got {sorted(weights)}")
    copy = ModelProto()
    copy.CopyFrom(source.model)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    for name, old in before.items():
        new = weights[name].detach().to("cpu", torch.float32)
        if new.shape != old.shape:
            raise ValueError(f"{name} must have shape {tuple(old.shape)}, got {tuple(new.shape)}")
        if not new.isfinite().all():
            raise InputError(f"weights must be finite to be written to {target}, {name} holds NaN or infinity")
        _store(tensors[source.initializers[name]], old, new, source.plan.get(name))
    _write_atomic(target, copy.SerializeToString(deterministic=True))


def _store(tensor: TensorProto, old: Tensor, new: Tensor, projection: object) -> None:
    """Put the new weight into a stored tensor of the same type; numbers that did not move keep their bits."""
    stored = numpy_helper.to_array(tensor)
    values, still = new.numpy().astype(np.float64), new == old
    if isinstance(projection, Quantized):
        limits = np.iinfo(stored.dtype)
        values = projection.integers(new).numpy().astype(np.float64).clip(limits.min, limits.max)
        still |= new == projection(old)  # float32 cannot tell all 32-bit integers apart
    result = np.where(still.numpy(), stored, values.astype(stored.dtype))
    if tensor.HasField("raw_data"):
        tensor.raw_data = result.astype(result.dtype.newbyteorder("<")).tobytes()
    else:
        field = tensor.float_data if tensor.data_type == tensor.FLOAT else tensor.int32_data
        field[:] = result.ravel().tolist()


def _write_atomic(target: Path, content: bytes) -> None:
    """Temporary name beside the target, fsync, rename: a reader sees the old file or the new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _check(source: _Source, target: Path) -> None:
    """Raise `InputError` unless the file holds the same graph with other weights, compressed in the same way."""
    written = read_whole(target)
    data, structure = difference(source.model, written)
    allowed = set(source.initializers.values())
    reasons = structure + [f"data of {name!r}, which is no weight, differ" for name in data if name not in allowed]
    if reasons:
        raise InputError(f"{target} must be the graph of {source.path} with other weights, but {'; '.join(reasons)}")
    weights = dict(OnnxModule(written, target).named_parameters())
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise InputError(f"the weights in {target} must be finite, {name} holds NaN or infinity")
    try:
        check_plan(weights, source.plan)
    except ValueError as error:
        raise InputError(f"{target} must be compressed as {source.path} is: {error}") from error
