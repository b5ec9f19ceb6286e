"""What a `.tflite` file takes and returns, as types and as numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dflare.errors import InputError

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


@dataclass(frozen=True)
class TensorType:
    """An input or output: its index in the file, its type, and the grid (q - zero_point) * scale; scale 0 is none."""

    index: int
    dtype: torch.dtype
    scale: float
    zero_point: int


@dataclass(frozen=True)
class LiteRTModel:
    """What a file takes and returns; -1 is a free size."""

    path: Path
    input: TensorType
    output: TensorType
    size: tuple[int, int, int]  # channels, height, width
    batch: int  # as the file was written
    channels_last: bool
    probabilities: bool  # whether the scores come out of a softmax

    def check(self, images: Tensor) -> None:
        """Raise `InputError` unless the images (n, c, h, w) have the model's size."""
        came = tuple(images.shape[1:])
        if any(want not in (-1, have) for want, have in zip(self.size, came, strict=True)):
            raise InputError(
                f"the model in {self.path} takes images of {_in_words(self.size)} (height x width x channels), "
                f"got {_in_words(came)}"
            )

    def arrange(self, images: Tensor) -> Tensor:
        """The images (n, c, h, w) in the model's own layout, contiguous."""
        return (images.permute(0, 2, 3, 1) if self.channels_last else images).contiguous()


def read_litert(interpreter: Any, path: Path) -> LiteRTModel:
    """What the file behind an interpreter without delegates takes; raises `InputError` if it is no image classifier."""
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1:
        raise InputError(f"the model in {path} must take one input, the images; it takes {len(inputs)}")
    if len(outputs) != 1:
        raise InputError(f"the model in {path} must return one output, the scores; it returns {len(outputs)}")
    shape = [int(size) for size in inputs[0]["shape_signature"]]
    if len(shape) != 4:
        raise InputError(f"the model in {path} must take images (n, height, width, channels), it takes {tuple(shape)}")
    # litert-torch keeps PyTorch's layout; everything else has the channels last
    channels_last = shape[3] in (1, 3) or shape[1] not in (1, 3)
    channels, height, width = (shape[3], *shape[1:3]) if channels_last else shape[1:]
    return LiteRTModel(
        path,
        _tensor_type(inputs[0], "take images", path),
        _tensor_type(outputs[0], "return scores", path),
        (channels, height, width),
        int(inputs[0]["shape"][0]),
        channels_last,
        _ends_in_softmax(interpreter, int(outputs[0]["index"])),
    )


def quantised(images: Tensor, kind: TensorType) -> Tensor:
    """Numbers in the input's type: q = round(x / scale) + zero point, halves away from zero as LiteRT's QUANTIZE does.

    Integers without a scale are the numbers themselves; what the type cannot hold becomes its least or greatest.
    """
    if kind.dtype.is_floating_point:
        return images.to(kind.dtype)
    steps = images.float() / (kind.scale or 1)
    whole = steps.trunc()
    whole += steps.sign() * ((steps - whole).abs() >= 0.5)
    limits = torch.iinfo(kind.dtype)
    return (whole + kind.zero_point).clamp(limits.min, limits.max).to(kind.dtype)


def dequantised(answers: Tensor, kind: TensorType) -> Tensor:
    """The numbers (q - zero point) * scale that an output stands for, float32, same shape; floats as they are."""
    if kind.dtype.is_floating_point or kind.scale == 0:
        return answers.float()
    return (answers.float() - kind.zero_point) * kind.scale


def logarithms(probabilities: Tensor) -> Tensor:
    """log(p / max p), (n, classes): scores whose softmax gives the probabilities back, 0 for the top, -inf for p = 0.

    Relative to the greatest, because log(p) alone would round two different top probabilities to one score: here
    tops are tied exactly where they were. A row of nothing but zeros, which integers may hold, is a tie of all.
    """
    probabilities = probabilities.clamp(min=0)
    top = probabilities.amax(-1, keepdim=True)
    return torch.where(top == 0, 1, probabilities / top).log()


def _tensor_type(details: dict[str, Any], what: str, path: Path) -> TensorType:
    name = np.dtype(details["dtype"]).name
    if name not in TYPES:
        raise InputError(f"the model in {path} must {what} of type {', '.join(TYPES)}, it has {name}")
    scale, zero_point = details["quantization"]
    return TensorType(int(details["index"]), TYPES[name], float(scale), int(zero_point))


def _ends_in_softmax(interpreter: Any, tensor: int) -> bool:
    """Whether a tensor is made by a softmax, told from the graph and not from the numbers."""
    makers = {int(made): operator for operator in interpreter._get_ops_details() for made in operator["outputs"]}
    while tensor in makers and makers[tensor]["op_name"] in CARRIERS:
        tensor = int(makers[tensor]["inputs"][0])
    return tensor in makers and makers[tensor]["op_name"] == "SOFTMAX"


def _in_words(size: tuple[int, ...]) -> str:
    channels, height, width = ("any" if part == -1 else str(part) for part in size)
    return f"{height} x {width} x {channels}"
