"""Small fully connected networks in ONNX files: opened for repair, and written back into a copy of the file."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dflare.errors import InputError, first_line
from dflare.writing import write_atomic
from repair.properties.dense import DenseNetwork

try:
    import onnxruntime
    from onnx import ModelProto, TensorProto, numpy_helper

    from repair.onnx_models.difference import difference
    from repair.onnx_models.weights import read_whole
    from repair.properties.reading import Stored, read_chain
except ImportError as missing:
    raise InputError(f'to repair .onnx files needs {missing.name}: pip install "dflare[onnx]"') from missing

PROBES = 16
"""Random inputs on which a file, read by ONNX Runtime, and the network of it must agree."""

TOLERANCE = 1e-4
"""Of their outputs, relative to the largest one: float32 sums in another order differ by some 1e-6."""


@dataclass(frozen=True)
class NetworkFile:
    """A network and the ONNX file that it comes from."""

    path: Path
    model: ModelProto
    network: DenseNetwork
    stored: Mapping[str, Stored]  # parameter name -> where it is kept

    def write(self, weights: Mapping[str, Tensor], target: Path) -> None:
        """A copy of the file with these weights, by parameter name; nothing else in it changes.

        The copy is read back: its graph must be the same, and ONNX Runtime must answer as the network with these
        weights does. Raises `InputError` where it does not and for weights that are not finite, `ValueError` for
        other names or shapes.
        """
        if set(weights) != set(self.stored):
            raise ValueError(f"weights must be named {sorted(self.stored)}, got {sorted(weights)}")
        copy = ModelProto()
        copy.CopyFrom(self.model)
        tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
        for name, place in self.stored.items():
            _store(tensors[place.name], weights[name].detach(), place, target)
        write_atomic(target, copy.SerializeToString(deterministic=True))
        written = read_whole(target)
        data, structure = difference(self.model, written)
        others = sorted(set(data) - {place.name for place in self.stored.values()})
        if structure or others:
            raise InputError(f"{target} must be {self.path} with other weights: {[*structure, *others][0]} differs")
        _compare(target, written, self.network, weights)


def open_network(path: Path) -> NetworkFile:
    """The fully connected network in an ONNX file.

    Raises `InputError` for files that are no such network, see `read_chain`, for answers that are not finite, and where
    ONNX Runtime answers otherwise than the network that was read.
    """
    model = read_whole(path)
    network, stored = read_chain(model, path)
    _compare(path, model, network, network.weights())
    return NetworkFile(path, model, network, stored)


def run_onnx(path: Path, inputs: Tensor) -> Tensor:
    """The outputs (n, outputs) of a network's file for inputs (n, inputs), float32, by ONNX Runtime on one thread.

    A file whose batch size is fixed is asked all at once where its graph allows that, and in such batches otherwise.
    """
    model = read_whole(path)
    free = ModelProto()
    free.CopyFrom(model)
    for value in (*free.graph.input, *free.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = "n"
    try:
        outputs = _ask(free, path, inputs)
    except InputError:
        return _ask(model, path, inputs)
    return outputs if len(outputs) == len(inputs) else _ask(model, path, inputs)


def _store(tensor: TensorProto, weight: Tensor, place: Stored, target: Path) -> None:
    """Put a parameter into its initialiser, whose shape and type stay."""
    values = (weight.T if place.transposed else weight).to(torch.float32).contiguous().numpy()
    if values.size != prod(tensor.dims) or (values.ndim > 1 and list(values.shape) != list(tensor.dims)):
        raise ValueError(f"{place.name} must have shape {tuple(tensor.dims)}, got {values.shape}")
    if not np.isfinite(values).all():
        raise InputError(f"weights must be finite to be written to {target}, {place.name} holds NaN or infinity")
    stored = numpy_helper.from_array(values.reshape(tuple(tensor.dims)), tensor.name)
    if tensor.HasField("raw_data"):
        tensor.raw_data = stored.raw_data
    else:
        tensor.float_data[:] = values.ravel().tolist()


def _compare(path: Path, model: ModelProto, network: DenseNetwork, weights: Mapping[str, Tensor]) -> None:
    """Raise `InputError` unless ONNX Runtime answers as the network with these weights does."""
    inputs = torch.rand(PROBES, network.inputs, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.no_grad():
        ours = network.with_weights(weights)(inputs)
    theirs = _ask(model, path, inputs)
    if not theirs.isfinite().all():
        raise InputError(f"the network in {path} must answer with finite numbers, got NaN or infinity")
    if ours.shape != theirs.shape or not torch.allclose(
        ours, theirs, rtol=0, atol=TOLERANCE * float(theirs.abs().max().clamp(min=1e-6))
    ):
        gap = f"{(ours - theirs).abs().max():g} apart" if ours.shape == theirs.shape else f"{tuple(theirs.shape)}"
        raise InputError(f"{path} must be read as ONNX Runtime reads it, but the outputs of the two are {gap}")


def _ask(model: ModelProto, path: Path, inputs: Tensor) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )  # a session takes the whole model, so that weights beside the file are with it
        entry = session.get_inputs()[0]
        batch = entry.shape[0] if isinstance(entry.shape[0], int) else len(inputs)
        shape = [-1, *(size if isinstance(size, int) else 1 for size in entry.shape[1:])]
        if prod(shape[1:]) != inputs.shape[1]:
            shape = [-1, inputs.shape[1]]
        parts = [part.to(torch.float32).reshape(shape).numpy() for part in inputs.split(batch)]
        answers = [session.run(None, {entry.name: part})[0].reshape(len(part), -1) for part in parts]
    except Exception as error:
        raise InputError(f"the network in {path} cannot be run by ONNX Runtime: {first_line(error)}") from error
    return torch.from_numpy(np.concatenate(answers)) if answers else torch.empty(0, 0)
