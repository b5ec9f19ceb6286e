"""What a `.tflite` file says of itself, through LiteRT's interpreter without delegates, which replace operators."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from dflare.fingerprints.stored import Contents, Stored

BIASES: dict[str, int] = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3, "CONV_3D": 2}
"""Operator -> which of its inputs, counted from 0, is the bias."""


def litert_contents(path: Path) -> Contents | None:
    """The contents of a `.tflite` file's main graph, None without LiteRT; raises `InputError` if it cannot be opened.

    Scales and zero points are no tensors there. Inputs and outputs on an integer grid have `"grid": [scale, zero]`.
    Weights of 4 bits look like int8 to LiteRT and are counted as such.
    """
    if find_spec("ai_edge_litert") is None:
        return None
    from dflare.models.litert import _new_interpreter

    interpreter = _new_interpreter(path, 1, "builtin")
    operators = interpreter._get_ops_details()
    made = {int(tensor) for operator in operators for tensor in operator["outputs"]}
    given = {int(details["index"]) for details in interpreter.get_input_details()}
    roles: dict[int, str] = {}
    for operator in operators:
        for place, tensor in enumerate(map(int, operator["inputs"])):
            role = "bias" if BIASES.get(operator["op_name"]) == place else "value"
            roles[tensor] = min(role, roles.get(tensor, role))
    constants = [
        Stored(_type_name(details), tuple(int(size) for size in details["shape"]), roles[details["index"]])
        for details in interpreter.get_tensor_details()
        if details["index"] in roles.keys() - made - given
    ]
    return Contents(
        [_interface(details) for details in interpreter.get_input_details()],
        [_interface(details) for details in interpreter.get_output_details()],
        Counter(operator["op_name"] for operator in operators),
        constants,
    )


def _interface(details: dict[str, Any]) -> dict[str, Any]:
    shape = [int(size) if size != -1 else "any" for size in details["shape_signature"]]
    scale, zero = details["quantization"]
    grid = {"grid": [float(scale), int(zero)]} if scale else {}
    return {"name": details["name"], "type": _type_name(details), "shape": shape, **grid}


def _type_name(details: dict[str, Any]) -> str:
    return np.dtype(details["dtype"]).name
