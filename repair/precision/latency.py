"""How long model files take to answer one image."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dflare.classifiers import check_images, to_unit
from dflare.errors import InputError
from dflare.models.exported import load_program
from dflare.models.formats import sniff
from dflare.models.interface import Interface
from dflare.models.opening import open_classifier

if TYPE_CHECKING:
    import onnxruntime

WARM_UP = 10
"""Questions before the clock counts."""


def latencies(
    paths: Sequence[Path],
    image: Tensor,
    interface: Interface = Interface(),  # noqa: B008 (frozen)
    repeats: int = 100,
) -> list[float]:
    """Milliseconds that a file's runtime takes for one uint8 image (1, c, h, w) on one thread, the median of `repeats`.

    That is ONNX Runtime for `.onnx` and torch, operator by operator, for `.pt2`: the latter says nothing of what an
    int8 backend makes of the program. The files take turns, so that whatever else the machine does meets all of them;
    what happens to the image before the runtime is not counted.
    """
    check_images(image)
    if len(image) != 1 or repeats < 1:
        raise InputError(f"expected one image and one repeat or more, got {len(image)} images and {repeats} repeats")
    asked = [_question(path, open_classifier(path, interface).show(to_unit(image))) for path in paths]
    times: list[list[float]] = [[] for _ in paths]
    with _one_thread():
        for turn in range(WARM_UP + repeats):
            for ask, seen in zip(asked, times, strict=True):
                start = time.perf_counter()
                ask()
                if turn >= WARM_UP:
                    seen.append(time.perf_counter() - start)
    return [1000 * statistics.median(seen) for seen in times]


def _question(path: Path, values: Tensor) -> Callable[[], object]:
    """What asks the file's own runtime about values that are as it takes them."""
    if sniff(path) == "exported":
        program = load_program(path).module()

        def ask() -> object:
            with torch.no_grad():
                return program(values)

        return ask
    session = _session(path)
    name, numbers = session.get_inputs()[0].name, values.numpy()
    return lambda: session.run(None, {name: numbers})


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _session(path: Path) -> "onnxruntime.InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
