"""Float PyTorch models to int8 ONNX files that run on integer kernels."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dflare.classifiers import check_images, to_unit
from dflare.errors import InputError
from experiments.files import write_atomic

OPSET = 21
"""The first operator set whose quantisers know 16-bit integers, so that single layers can be given more bits later."""

CALIBRATION_BATCH = 64
"""Images a calibration step; it bounds memory and changes no result."""


def quantize_to_onnx(model: nn.Module, calibration: Tensor, path: Path) -> None:
    """Write the model to `path` as int8 ONNX: QDQ, int8 weights per channel, uint8 activations, float scores.

    `calibration`: uint8 (n, c, h, w), whose smallest and largest activations become the ranges. `model` maps images
    in [0, 1] to scores and is left as it is. The scores stay float, because integers tie and a tie hides the label.
    Same input, same bytes. Raises `InputError` for other images and where ONNX Runtime is missing.
    """
    check_images(calibration)
    if not len(calibration):
        raise InputError("calibration needs at least one image, got none")
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f'int8 models need {error.name}, which is missing: pip install "dflare[onnx]"') from error
    with tempfile.TemporaryDirectory() as folder, _quiet():
        original, quantized = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        export_onnx(model, tuple(calibration.shape[1:]), original)
        _quantize(original, calibration, quantized)
        result = onnx.load(quantized)
    _leave_scores_float(result.graph)
    onnx.checker.check_model(result)
    write_atomic(path, result.SerializeToString(deterministic=True))


def export_onnx(model: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Write the model as float ONNX for images of `shape` (channels, height, width) and batches of any size.

    Input `images`, output `logits`; weights lie inside the file. The model is exported in evaluation mode
    and handed back in the modes that it came in.
    """
    modes = {module: module.training for module in model.modules()}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images = torch.zeros(2, *shape, device=device)  # two, because a batch of one would be taken for a constant
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                model.eval(),
                (images,),
                str(path),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    finally:
        for module, training in modes.items():
            module.training = training


class _Calibration:
    """The images in the form that ONNX Runtime reads them: one named batch after the other, then None."""

    def __init__(self, images: Tensor) -> None:
        self._batches = iter(to_unit(images.cpu()).split(CALIBRATION_BATCH))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch.numpy()}


def _quantize(original: Path, calibration: Tensor, path: Path) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = original.with_name("prepared.onnx")
    quant_pre_process(original, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        path,
        _Calibration(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
        extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
    )


def _leave_scores_float(graph: "onnx.GraphProto") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Take the quantiser and dequantiser of the output out of the graph, with what only they read."""
    makers = {output: node for node in graph.node for output in node.output}
    output = graph.output[0].name
    last = makers[output]
    before = makers.get(last.input[0]) if last.op_type == "DequantizeLinear" else None
    if before is None or before.op_type != "QuantizeLinear":
        return
    source = before.input[0]
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [output if name == source else name for name in names]
    graph.node.remove(last)
    graph.node.remove(before)
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    for value in [value for value in graph.value_info if value.name == source]:
        graph.value_info.remove(value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep exporter and quantiser from printing, warning and logging; errors come as exceptions all the same."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handlers = list(root.handlers)
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers  # the quantiser's first warning would install one for good
