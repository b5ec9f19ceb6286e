"""A model's runtime asked about one image with nothing in between: what a plain loop over images would do.

The strategies ask through `dflare`'s classifiers, whose checks and conversions a batch pays once and a single image
pays alone; the loop that they are measured against must not pay for those.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

Model = Callable[[np.ndarray], np.ndarray]
"""An image (height, width, channels) float32 as the file wants its numbers -> what the file says, (classes,)."""


def open_direct(path: Path) -> Model | None:
    """The model in a file with one thread; None for files that are asked through `dflare` all the same.

    Those are `.pt2`, whose runtime is torch itself, and files that take or give integers.
    """
    openers = {".onnx": _onnx, ".tflite": _litert}
    return openers[path.suffix](path) if path.suffix in openers else None


def _onnx(path: Path) -> Model:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name, outputs = session.get_inputs()[0].name, [session.get_outputs()[0].name]

    def ask(image: np.ndarray) -> np.ndarray:
        return session.run(outputs, {name: np.ascontiguousarray(image.transpose(2, 0, 1)[None])})[0][0]

    return ask


def _litert(path: Path) -> Model | None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    takes, gives = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    if takes["dtype"] is not np.float32 or gives["dtype"] is not np.float32:
        return None
    index, answer = takes["index"], gives["index"]

    def ask(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(index, image[None])
        interpreter.invoke()
        return interpreter.get_tensor(answer)[0]

    return ask
