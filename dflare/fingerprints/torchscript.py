"""What a TorchScript file says of itself. It is a program: only for files whose code may be run."""

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dflare.fingerprints.stored import Contents, Stored
from dflare.models.torchscript import open_torchscript


def torchscript_contents(path: Path) -> Contents | None:
    """The operators of a TorchScript file and, where they are parameters, its weights; None if it cannot be loaded.

    The weights of quantised and of frozen modules are no parameters: theirs are not counted. Inputs have no shapes.
    Raises `InputError` for a file that may not be opened.
    """
    open_torchscript(path, allow_code=True)  # checks, and opens nothing yet
    try:
        with warnings.catch_warnings():
            # torch 2.15 calls TorchScript deprecated, but these files are what users have
            warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
            module = torch.jit.load(path, map_location="cpu")
        operators = Counter(_operators(module.inlined_graph))
    except RuntimeError:
        return None
    parameters = list(module.parameters())
    closed = not parameters or any(name.startswith("quantized.") for name in operators)
    constants = [Stored(str(weight.dtype).removeprefix("torch."), tuple(weight.shape)) for weight in parameters]
    return Contents(operators=operators, constants=None if closed else constants)


def _operators(block: Any) -> Iterator[str]:
    """Names of the operators in a graph or block, such as "aten.conv2d", those of branches and loops too."""
    for node in block.nodes():
        space, _, name = node.kind().partition("::")
        if space != "prim":
            yield f"{space}.{name}"
        for inner in node.blocks():
            yield from _operators(inner)
