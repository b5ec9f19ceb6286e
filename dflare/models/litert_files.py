"""What a `.tflite` file takes and returns, as types and as numbers."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dflare.errors import InputError
from dflare.models.grids import MOST_NUMBERS, Grid, image_takes
from dflare.models.interface import Takes

TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
}
"""Types that images and scores may have in a `.tflite` file, by numpy's name."""

CARRIERS = {"DEQUANTIZE", "QUANTIZE", "RESHAPE", "SQUEEZE"}
"""Operators after which probabilities are still probabilities."""


class End(NamedTuple):
    """An input or output: the tensor's number in the file, and the grid that its numbers lie on."""

    tensor: int
    grid: Grid


@dataclass(frozen=True)
class LiteRTModel:
    """What a file takes and returns."""

    input: End
    output: End
    batch: int  # as the file was written
    takes: Takes


def read_litert(interpreter: Any, path: Path) -> LiteRTModel:
    """What the file behind an interpreter without delegates takes; raises `InputError` if it is no image classifier."""
    for tensor in interpreter.get_tensor_details():
        if min(tensor["shape"], default=1) < 0 or prod(map(int, tensor["shape"])) > MOST_NUMBERS:
            sizes = " x ".join(map(str, tensor["shape"]))
            raise InputError(
                f"the model in {path} must have at most {MOST_NUMBERS:,} numbers in one tensor, got {sizes}"
            )
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1:
        raise InputError(f"the model in {path} must take one input, the images; it takes {len(inputs)}")
    if len(outputs) != 1:
        raise InputError(f"the model in {path} must return one output, the scores; it returns {len(outputs)}")
    shape = [int(size) if size != -1 else "any" for size in inputs[0]["shape_signature"]]
    images, scores = _end(inputs[0], "take images", path), _end(outputs[0], "return scores", path)
    # litert-torch keeps PyTorch's layout; everything else has the channels last
    takes = image_takes(shape, True, images.grid, f"the model in {path}")
    if _ends_in_softmax(interpreter, scores.tensor):
        takes = takes._replace(scores="probabilities")
    return LiteRTModel(images, scores, int(inputs[0]["shape"][0]), takes)


def _end(details: dict[str, Any], what: str, path: Path) -> End:
    name = np.dtype(details["dtype"]).name
    if name not in TYPES:
        raise InputError(f"the model in {path} must {what} of type {', '.join(TYPES)}, it has {name}")
    scale, zero_point = details["quantization"]
    return End(int(details["index"]), Grid(TYPES[name], float(scale), int(zero_point)))


def _ends_in_softmax(interpreter: Any, tensor: int) -> bool:
    """Whether a tensor is made by a softmax, told from the graph and not from the numbers."""
    makers = {int(made): operator for operator in interpreter._get_ops_details() for made in operator["outputs"]}
    while tensor in makers and makers[tensor]["op_name"] in CARRIERS:
        tensor = int(makers.pop(tensor)["inputs"][0])  # popped, so that a ring in a broken file ends
    return tensor in makers and makers[tensor]["op_name"] == "SOFTMAX"
