"""What a model weighs: the bytes of the weights that it uses, apart from what else lies in its file."""

from collections.abc import Callable
from pathlib import Path

from dflare.errors import InputError
from dflare.models.formats import sniff


def _exported(path: Path) -> int:
    from dflare.models.exported import load_program

    program = load_program(path)
    used = [spec.target for spec in program.graph_signature.input_specs if spec.target is not None]
    weights = {**program.state_dict, **program.constants}
    return sum(w.nbytes for name in used if hasattr(w := weights[name], "nbytes"))


def _onnx(path: Path) -> int:
    from onnx.numpy_helper import to_array

    from repair.onnx_models.weights import read_whole

    graph = read_whole(path).graph
    used = {name for node in graph.node for name in node.input}
    return sum(to_array(weight).nbytes for weight in graph.initializer if weight.name in used)


_FORMATS: dict[str, Callable[[Path], int]] = {"exported": _exported, "onnx": _onnx}


def payload_bytes(path: Path) -> int:
    """Bytes of the weights and constants that the graph in a model file reads, pruned zeros included."""
    form = sniff(path)
    if form not in _FORMATS:
        raise InputError(f"the weights of {path} can be weighed in {' and '.join(_FORMATS)} files, it is {form}")
    return _FORMATS[form](path)
