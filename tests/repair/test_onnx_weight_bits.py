"""16 bits for weights of int8 ONNX files: the same numbers, on a grid that training can use."""

import numpy as np
import pytest
import torch

from dflare.errors import InputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from dflare.models.opening import open_classifier  # noqa: E402
from repair.onnx_models.bits import widen  # noqa: E402
from repair.onnx_models.difference import difference  # noqa: E402
from repair.onnx_models.graph import OnnxModule  # noqa: E402
from repair.onnx_models.weight_bits import small_weights, widen_weights  # noqa: E402
from repair.opening import open_trainable  # noqa: E402
from tests.repair.rounded_net import names_of, net, pixels, save, stored_in  # noqa: E402


def test_the_model_computes_what_it_did(tmp_path):
    before = widen(net(), names_of(net()))
    after = widen_weights(before, ["conv.w", "fc.w"])
    assert {stored_in(after)[name].dtype for name in ("conv.w", "conv.z", "fc.w")} == {np.dtype(np.int16)}
    values = pixels().float() / 255
    one, other = (save(model, tmp_path / f"{n}.onnx") for n, model in enumerate((before, after)))
    assert torch.equal(open_classifier(one)(values), open_classifier(other)(values))
    real = [dict(OnnxModule(onnx.load(path), path).named_parameters()) for path in (one, other)]
    assert all(torch.equal(real[0][name], real[1][name]) for name in real[0])


def test_nothing_but_the_weights_grids_changes():
    before = widen(net(), ["r"])
    data, structure = difference(before, widen_weights(before, ["fc.w"]))
    assert data == ["fc.s"]
    assert structure == [f"element type or shape of initialiser {name!r} differs" for name in ("fc.w", "fc.z")]


def test_a_finer_grid_keeps_what_training_moves(tmp_path):
    kept = []
    for model in (net(opset=21), widen_weights(net(opset=21), ["fc.w"])):
        trainable = open_trainable(save(model, tmp_path / "net.onnx"))
        weight = dict(trainable.module.named_parameters())["fc_w"].detach()
        moved = weight + 0.1 * 0.003  # a tenth of a step of 8 bits
        kept.append(float((trainable.plan["fc_w"](moved) - moved).abs().max()) / 0.003)
    assert kept[0] == pytest.approx(0.1, abs=1e-3)
    assert kept[1] < 1 / 256


def test_small_weights_come_first_and_fit_the_bytes():
    sizes = {name: stored_in(net())[name].size for name in ("conv.w", "fc.w")}
    assert sizes == {"conv.w": 36, "fc.w": 48}
    assert small_weights(net(), 35) == []
    assert small_weights(net(), 83) == ["conv.w"]
    assert small_weights(net(), 84) == ["conv.w", "fc.w"]


def test_what_is_no_int8_weight_is_refused():
    with pytest.raises(InputError, match=r"int8 weights \(conv.w, fc.w\), got 'conv.b'"):
        widen_weights(net(), ["conv.b"])


def test_a_grid_that_others_use_is_refused():
    model = net()
    for node in model.graph.node:
        if node.input[0] == "conv.b":
            node.input[1] = "conv.s"
    with pytest.raises(InputError, match=r"'conv.s' is used elsewhere as well"):
        widen_weights(model, ["conv.w"])
