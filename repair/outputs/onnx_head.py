"""Heads as ONNX models of plain operators, to be put behind a compressed model where it is deployed."""

from pathlib import Path

import numpy as np

from dflare.errors import InputError
from repair.outputs.head import Head, Scores

try:
    from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

    from repair.outputs.onnx_rules import GRAPHS, Graph
except ImportError as missing:
    raise InputError(f'to write heads as .onnx needs {missing.name}: pip install "dflare[onnx]"') from missing

OPSET = 18  # the first whose ReduceMax and ReduceSum both take their axes as an input
IR_VERSION = 8  # of ONNX 1.12, which came with that operator set
SURE = 1e-5  # of the greatest score: a lead that two orders of summation cannot turn around in float32


def head_model(head: Head, classes: int) -> ModelProto:
    """An ONNX model of one input `scores` (n, classes) and one output `corrected` (n, classes), both float32.

    A model that answers probabilities p is followed by log(p / max p) first, as its `Shown` does.
    """
    graph = Graph()
    graph("Identity", GRAPHS[head.kind](graph, head.arrays, "scores"), name="corrected")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", classes]) for name in ("scores", "corrected")]
    constants = [numpy_helper.from_array(value, name) for name, value in graph.constants.items()]
    whole = helper.make_graph(graph.nodes, "head", ends[:1], ends[1:], constants)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="dflare")
    model.ir_version = IR_VERSION
    checker.check_model(model, full_check=True)
    return model


def write_checked(head: Head, scores: Scores, path: Path) -> None:
    """Write the head as an ONNX model that ONNX Runtime was seen to answer with as the head does.

    `scores` (n, classes) are those to compare on. Raises `InputError` where a label differs whose lead is more than
    rounding.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head_model(head, scores.shape[1]).SerializeToString())
    own, other = head(scores), onnx_answers(path, scores)
    sure = np.diff(np.sort(own, -1)[:, -2:])[:, 0] > SURE * (1 + np.abs(own).max(-1))
    if (own.argmax(-1) != other.argmax(-1))[sure].any():
        raise InputError(f"expected {path} to answer as the head that it was made of, ONNX Runtime gives other labels")


def onnx_answers(path: Path, scores: Scores) -> Scores:
    """What ONNX Runtime answers to scores (n, classes) with the head in a file, (n, classes)."""
    try:
        import onnxruntime
    except ImportError as missing:
        raise InputError(f'to run heads in .onnx needs {missing.name}: pip install "dflare[onnx]"') from missing
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    answered: Scores = session.run(None, {"scores": scores})[0]
    return answered
