"""Weights and scales put back into the graph of an ONNX file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torch import Tensor

from dflare.errors import InputError
from dflare.writing import write_atomic
from repair.compression import Plan, Quantized
from repair.integers.scales import at_scales
from repair.onnx_models.graph import OnnxModule


@dataclass(frozen=True)
class Source:
    """The file as it was opened."""

    path: Path
    model: ModelProto
    initializers: Mapping[str, str]  # parameter name -> name in the file
    plan: Plan
    scales: Mapping[str, str]  # parameter name of a scale -> name in the file
    own_scales: Mapping[str, str]  # name of an int32 bias that follows scales -> name of its own scale

    def parameters(self) -> dict[str, Tensor]:
        """The weights as they were, by parameter name; read again, because the module's own ones move."""
        module = OnnxModule(self.model, self.path)
        scales = {name: self.plan[name](torch.zeros(())) for name in self.scales}
        return {name: value.detach() for name, value in module.named_parameters()} | scales


def write_model(source: Source, weights: Mapping[str, Tensor], target: Path) -> None:
    """A copy of the file with these weights, by parameter name; all else is byte for byte the same.

    Raises `InputError` for weights that are not finite, `ValueError` for other names or shapes than the model's.
    """
    before = source.parameters()
    if set(weights) != set(before):
        raise ValueError(f"weights must be named {sorted(before)}, got {sorted(weights)}")
    copy = ModelProto()
    copy.CopyFrom(source.model)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    moved = {name: weights[name].detach().to("cpu", torch.float32) for name in before}
    for name, old in before.items():
        if moved[name].shape != old.shape:
            raise ValueError(f"{name} must have shape {tuple(old.shape)}, got {tuple(moved[name].shape)}")
        if not moved[name].isfinite().all():
            raise InputError(f"weights must be finite to be written to {target}, {name} holds NaN or infinity")
    for name, stored in source.scales.items():
        _store_scale(tensors[stored], moved[name], target)
    plan = at_scales(source.plan, {name: moved[name] for name in source.scales})
    for name, stored in source.initializers.items():
        grid = plan.get(name)
        _store(tensors[stored], before[name], moved[name], source.plan.get(name), grid)
        if isinstance(grid, Quantized) and stored in source.own_scales:
            _store_scale(tensors[source.own_scales[stored]], grid.scale, target)
    write_atomic(target, copy.SerializeToString(deterministic=True))


def _store(tensor: TensorProto, old: Tensor, new: Tensor, before: object, grid: object) -> None:
    """Put the new weight into a stored tensor of the same type; numbers that did not move keep their bits.

    `before` is the projection of the weight as it came in, `grid` that on which it lies now.
    """
    stored = numpy_helper.to_array(tensor)
    values, still = new.numpy().astype(np.float64), new == old
    if isinstance(before, Quantized) and isinstance(grid, Quantized):
        limits = np.iinfo(stored.dtype)
        values = grid.integers(new).numpy().astype(np.float64).clip(limits.min, limits.max)
        still |= new == before(old)  # float32 cannot tell all 32-bit integers apart
        still &= grid.scale == before.scale  # on another grid the same number is another integer
    _put(tensor, np.where(still.numpy(), stored, values.astype(stored.dtype)))


def _store_scale(tensor: TensorProto, scale: Tensor, target: Path) -> None:
    """Put a scale into a stored tensor; raises `InputError` for one that is not positive and normal."""
    if not bool((scale >= torch.finfo(torch.float32).tiny).all()):
        raise InputError(f"scales must be positive to be written to {target}, {tensor.name} holds {scale.min():g}")
    _put(tensor, scale.numpy().reshape(numpy_helper.to_array(tensor).shape))


def _put(tensor: TensorProto, result: np.ndarray) -> None:
    """Numbers of a stored tensor in place of its own, in the field that held those."""
    if tensor.HasField("raw_data"):
        tensor.raw_data = result.astype(result.dtype.newbyteorder("<")).tobytes()
    else:
        field = tensor.float_data if tensor.data_type == tensor.FLOAT else tensor.int32_data
        field[:] = result.ravel().tolist()
