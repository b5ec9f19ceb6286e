"""16 bits for activations of int8 ONNX files: what changes, and what must not."""

import numpy as np
import pytest
import torch

from dflare.errors import InputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import helper, numpy_helper  # noqa: E402

from dflare.models.opening import open_classifier  # noqa: E402
from repair.onnx_models.activations import find_activations  # noqa: E402
from repair.onnx_models.bits import check_widened, widen, with_float_output  # noqa: E402
from repair.onnx_models.difference import difference  # noqa: E402
from repair.onnx_models.graph import OnnxModule  # noqa: E402
from repair.onnx_models.opset import raise_opset  # noqa: E402
from repair.onnx_models.ranges import observe  # noqa: E402
from tests.repair.rounded_net import float_net, names_of, net, pixels, save, stored_in  # noqa: E402


@pytest.mark.parametrize(("signed", "element"), [(False, "uint16"), (True, "int16")])
def test_every_number_of_the_old_grid_lies_on_the_new_one(signed, element):
    before, after = net(signed=signed), widen(net(signed=signed), ["r", "p"])
    old, new = find_activations(before)[1], find_activations(after)[1]
    assert new.element == element
    assert new.ends == pytest.approx(old.ends, rel=1e-6)
    assert new.scale == pytest.approx(old.scale / 257, rel=1e-6)
    levels = np.arange(256) - (128 if signed else 0)
    whole = (levels - old.zero) * 257 + new.zero
    low, high = np.iinfo(element).min, np.iinfo(element).max
    assert (whole.min(), whole.max()) == (low, high)
    assert ((whole - new.zero) * new.scale).tolist() == pytest.approx(((levels - old.zero) * old.scale).tolist())


def test_widening_changes_the_grid_and_nothing_else():
    before, after = net(opset=21), widen(net(opset=21), ["r", "p"])
    data, structure = difference(before, after)
    changed = [words for words in structure if not words.startswith("ir_version")]
    assert data == ["h.s"]
    assert changed == ["element type or shape of initialiser 'h.z' differs"]
    onnx.checker.check_model(after)


def test_one_tensor_of_a_shared_grid_gets_a_grid_of_its_own():
    before = net(opset=21)
    after = widen(before, ["r"])
    structure = difference(before, after).structure
    assert {words.split(" ")[0] for words in structure if "node" in words} == {"input"}
    assert {"initialiser 'r_scale_16bit' is new", "initialiser 'r_zero_point_16bit' is new"} <= set(structure)
    elements = {activation.name: activation.element for activation in find_activations(after)}
    assert elements == {"images": "uint8", "r": "uint16", "p": "uint8", "s": "uint8"}


def test_widening_nothing_or_what_is_wide_already_changes_nothing():
    before = widen(net(), ["r", "p"])
    assert difference(before, widen(before, ["r"])) == ([], [])
    assert difference(before, widen(before, [])) == ([], [])


def test_the_model_handed_in_stays_as_it_was():
    before = net()
    content = before.SerializeToString(deterministic=True)
    widen(before, names_of(before))
    with_float_output(before)
    assert before.SerializeToString(deterministic=True) == content


@pytest.mark.parametrize("change", ["weight", "attribute", "other grid", "still 8 bits"])
def test_whatever_else_changed_is_noticed(change):
    before, after = net(), widen(net(), ["r", "p"])
    if change == "weight":
        tensor = next(each for each in after.graph.initializer if each.name == "fc.w")
        tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), "fc.w"))
    elif change == "attribute":
        next(node for node in after.graph.node if node.op_type == "MaxPool").attribute[0].ints[0] = 1
    elif change == "other grid":
        after = widen(after, ["s"])
    else:
        after = raise_opset(before)
    with pytest.raises(InputError, match="must change nothing but grids of activations"):
        check_widened(before, after, ["r", "p"])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("tensors", [["r", "p"], ["s"], ["images", "r", "p", "s"]])
def test_the_runtime_answers_as_the_definition_says(tmp_path, signed, tensors):
    path = save(widen(net(signed=signed), tensors), tmp_path / "wide.onnx")
    values = pixels().float() / 255
    expected = OnnxModule(onnx.load(path), path)(values).detach()
    step = 0.1 if "s" not in tensors else 0.1 / 257
    plain = open_classifier(path, kernels="unoptimized")(values)
    torch.testing.assert_close(plain, expected, atol=1.01 * step, rtol=0)
    torch.testing.assert_close(open_classifier(path)(values), expected, atol=0.003 + 1.01 * step, rtol=0)


def test_sixteen_bits_come_as_close_to_no_rounding_as_their_step_says(tmp_path):
    values = pixels().float() / 255
    exact = open_classifier(save(float_net(), tmp_path / "float.onnx"))(values)
    paths = (save(net(), tmp_path / "8.onnx"), save(widen(net(), names_of(net())), tmp_path / "16.onnx"))
    coarse, fine = (float((open_classifier(path)(values) - exact).abs().max()) for path in paths)
    assert coarse > 0.05
    assert fine < coarse / 100


def test_onnx_runtimes_own_quantisers_are_widened_too(tmp_path):
    path = save(widen(net(domain="com.microsoft"), ["r", "p"]), tmp_path / "own.onnx")
    values = pixels().float() / 255
    other = open_classifier(save(widen(net(), ["r", "p"]), tmp_path / "home.onnx"))(values)
    assert torch.equal(open_classifier(path)(values), other)


def test_the_operator_set_is_raised_where_that_changes_nothing():
    raised = raise_opset(net(opset=13))
    assert (raised.opset_import[0].version, raised.ir_version) == (21, 10)
    newer = net(opset=22)
    assert raise_opset(newer) == newer


def test_an_operator_that_changed_its_meaning_is_refused():
    model = net(opset=13)
    model.graph.node.append(helper.make_node("ReduceMean", ["s"], ["m"], axes=[1]))
    with pytest.raises(InputError, match=r"operator set 21, the model has 13 .*ReduceMean"):
        widen(model, ["r"])


def test_a_graph_inside_a_node_is_refused():
    model, inner = net(opset=21), net().graph
    model.graph.node.append(helper.make_node("If", ["choice"], ["chosen"], then_branch=inner, else_branch=inner))
    with pytest.raises(InputError, match="holds a graph"):
        widen(model, ["r"])


def test_names_of_no_activation_are_refused_with_the_right_ones():
    with pytest.raises(InputError, match=r"\(images, r, p, s\), got 'conv.w'"):
        widen(net(), ["conv.w"])
    with pytest.raises(InputError, match="got the one string 'r'"):
        widen(net(), "r")


def test_a_tensor_whose_integers_are_read_is_no_activation_to_widen():
    model = net()
    model.graph.node.append(helper.make_node("Flatten", ["h.q"], ["whole"]))
    assert "r" not in names_of(model)
    assert "p" in names_of(model)


def test_a_float_output_has_no_ties_and_loses_two_nodes(tmp_path):
    before, after = net(), with_float_output(net())
    assert len(before.graph.node) - len(after.graph.node) == 2
    assert {"y.s", "y.z"} == set(stored_in(before)) - set(stored_in(after))
    images = pixels(2000).float() / 255
    rounded, exact = (
        open_classifier(save(model, tmp_path / f"{n}.onnx"), kernels="unoptimized")(images)
        for n, model in enumerate((before, after))
    )
    tops = [(scores == scores.amax(-1, keepdim=True)).sum(-1) for scores in (rounded, exact)]
    assert len(rounded.unique()) < 256 < len(exact.unique())
    assert (tops[1] > 1).sum() <= (tops[0] > 1).sum()
    assert (rounded - exact).abs().max() <= 0.05 + 1e-4
    assert with_float_output(after) == after


def test_a_rounded_output_that_cuts_at_zero_is_kept():
    model = net()
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == "y.z")
    zero.CopyFrom(numpy_helper.from_array(np.uint8(0), "y.z"))
    with pytest.raises(InputError, match="cut at zero by its quantiser"):
        with_float_output(model)


def test_ranges_seen_on_images_end_the_clipping(tmp_path):
    narrow = net(scale=0.002)  # cuts above 0.5
    path = save(narrow, tmp_path / "narrow.onnx")
    seen = observe(path, pixels())
    assert seen["r"].numbers == 4 * 4 * 4
    assert seen["p"].numbers == 4 * 2 * 2
    top = find_activations(narrow)[1].ends[1]
    assert seen["r"].greatest > top
    wide = find_activations(widen(narrow, names_of(narrow), {name: each.range for name, each in seen.items()}))
    assert wide[1].ends[1] == pytest.approx(seen["r"].greatest, rel=1e-3)
    assert wide[1].ends[0] <= 0 <= wide[1].ends[1]


def test_a_quantiser_that_stands_for_a_relu_goes_on_cutting_at_zero():
    model = net()
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == "h.z")
    zero.CopyFrom(numpy_helper.from_array(np.uint8(0), "h.z"))
    wide = find_activations(widen(model, ["r", "p"], {"r": (-3.0, 20.0)}))
    assert (wide[1].zero, wide[1].ends[0]) == (0, 0.0)
    assert wide[1].ends[1] == pytest.approx(20, rel=1e-6)


@pytest.mark.parametrize("span", [(1.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_ranges_must_be_numbers_in_order(span):
    with pytest.raises(InputError, match="two numbers, least first"):
        widen(net(), ["s"], {"s": span})
