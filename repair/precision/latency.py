"""How long ONNX files take to answer one image."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
from torch import Tensor

from dflare.classifiers import check_images, to_unit
from dflare.errors import InputError
from dflare.models.interface import Interface
from dflare.models.opening import open_classifier

WARM_UP = 10
"""Questions before the clock counts."""


def latencies(
    paths: Sequence[Path],
    image: Tensor,
    interface: Interface = Interface(),  # noqa: B008 (frozen)
    repeats: int = 100,
) -> list[float]:
    """Milliseconds that ONNX Runtime takes for one uint8 image (1, c, h, w) on one thread, the median of `repeats`.

    The files take turns, so that whatever else the machine does meets all of them; what happens to the image before
    the runtime is not counted.
    """
    check_images(image)
    if len(image) != 1 or repeats < 1:
        raise InputError(f"expected one image and one repeat or more, got {len(image)} images and {repeats} repeats")
    asked = [(_session(path), open_classifier(path, interface).show(to_unit(image)).numpy()) for path in paths]
    times: list[list[float]] = [[] for _ in paths]
    for turn in range(WARM_UP + repeats):
        for (session, values), seen in zip(asked, times, strict=True):
            name = session.get_inputs()[0].name
            start = time.perf_counter()
            session.run(None, {name: values})
            if turn >= WARM_UP:
                seen.append(time.perf_counter() - start)
    return [1000 * statistics.median(seen) for seen in times]


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
