"""What a model weighs: the bytes of the weights that it uses, apart from what else lies in its file."""

from collections.abc import Callable
from pathlib import Path

from dflare.errors import InputError


def _exported(path: Path) -> int:
    from dflare.exported import load_program

    program = load_program(path)
    used = [spec.target for spec in program.graph_signature.input_specs if spec.target is not None]
    weights = {**program.state_dict, **program.constants}
    return sum(w.nbytes for name in used if hasattr(w := weights[name], "nbytes"))


def _onnx(path: Path) -> int:
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(path).graph
    used = {name for node in graph.node for name in node.input}
    return sum(to_array(weight).nbytes for weight in graph.initializer if weight.name in used)


_FORMATS: dict[str, Callable[[Path], int]] = {".pt2": _exported, ".onnx": _onnx}


def payload_bytes(path: Path) -> int:
    """Bytes of the weights and constants that the graph in a model file reads, pruned zeros included."""
    if path.suffix not in _FORMATS:
        raise InputError(f"a model file must end in {' or '.join(_FORMATS)}, got {path}")
    return _FORMATS[path.suffix](path)
