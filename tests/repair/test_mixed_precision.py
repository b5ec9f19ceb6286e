"""Which activations of an int8 ONNX file deserve 16 bits: the frontier, its cost, and training afterwards."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from dflare.errors import InputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from dflare.classifiers import Outputs  # noqa: E402
from dflare.models.opening import open_classifier  # noqa: E402
from repair.data import Examples, Mixture, RepairData  # noqa: E402
from repair.fit import Schedule, fit_steps  # noqa: E402
from repair.onnx_models.activations import find_activations  # noqa: E402
from repair.onnx_models.bits import widen  # noqa: E402
from repair.onnx_models.difference import difference  # noqa: E402
from repair.opening import open_trainable  # noqa: E402
from repair.precision.deciding import Wish, check_wish, decide  # noqa: E402
from repair.precision.latency import latencies  # noqa: E402
from repair.precision.mixed_precision import Asked, Bench, Budget, divergence, frontier  # noqa: E402
from repair.precision.onnx_file import with_bits, write_bits  # noqa: E402
from repair.precision.plan import Bits  # noqa: E402
from repair.precision.stopping import enough  # noqa: E402
from repair.recipes import find_recipe  # noqa: E402
from tests.repair import planted_net  # noqa: E402
from tests.repair.rounded_net import float_net, names_of, net, pixels, save, stored_in  # noqa: E402

BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[2].parent / "shared"))


def test_divergence_of_known_answers():
    scores = torch.tensor([[0.0, 0.0]])
    other = torch.tensor([[0.75, 0.25]]).log()
    assert divergence(Outputs(scores, scores)) == 0
    assert divergence(Outputs(scores, other)) == pytest.approx(0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25))
    sure = torch.tensor([[0.0, -torch.inf]])
    assert divergence(Outputs(sure, other)) == pytest.approx(-np.log(0.75))


def bench(tmp_path: Path, model: onnx.ModelProto | None = None) -> Bench:
    original = open_classifier(save(float_net(), tmp_path / "float.onnx"))
    path = save(net() if model is None else model, tmp_path / "int8.onnx")
    asked = [Asked.of(original, pixels(400, seed)) for seed in range(3)]
    return Bench(path, *asked, tmp_path / "widened", repeats=3)


def test_the_frontier_goes_from_nothing_to_everything_and_to_the_original(tmp_path):
    steps = frontier(bench(tmp_path))
    assert [len(step.tensors) for step in steps[:1]] == [0]
    assert set(steps[-1].tensors) == {"images", "r", "p", "s"}
    assert len(steps) == 4
    assert steps[-1].divergence < steps[0].divergence / 100
    assert steps[-1].deviation.value == 0
    assert steps[-1].repaired.value == 1
    assert all(step.path.stat().st_size == step.bytes and step.latency_ms > 0 for step in steps)


def test_the_first_step_is_the_best_single_one(tmp_path):
    here = bench(tmp_path)
    alone = {group: here.loss(frozenset(group)) for group in here.groups()}
    assert set(frontier(here)[1].tensors) == set(min(alone, key=lambda group: alone[group]))


def test_a_frontier_stays_within_its_budget(tmp_path):
    here = bench(tmp_path)
    size = here.path.stat().st_size
    assert all(step.bytes <= size + 200 for step in frontier(here, Budget(max_bytes=size + 200)))
    with pytest.raises(InputError, match="must allow at least"):
        frontier(here, Budget(max_bytes=10))
    with pytest.raises(InputError, match="must allow at least"):
        frontier(here, Budget(max_latency_ms=0.0))


def test_a_file_without_quantised_activations_is_refused(tmp_path):
    with pytest.raises(InputError, match="needs quantised activations"):
        frontier(bench(tmp_path, float_net()))


def test_latency_is_measured_for_one_image(tmp_path):
    path = save(net(), tmp_path / "net.onnx")
    times = latencies([path, path], pixels(1), repeats=20)
    assert len(times) == 2
    assert all(0 < each < 1000 for each in times)
    with pytest.raises(InputError, match="expected one image"):
        latencies([path], pixels(2))


def test_a_widened_file_is_fine_tuned_and_keeps_its_bits(tmp_path):
    path, target = save(widen(net(), names_of(net())), tmp_path / "wide.onnx"), tmp_path / "tuned.onnx"
    trainable, images = open_trainable(path), pixels(64)
    examples = Examples(images, torch.eye(3)[torch.arange(64) % 3])
    data = RepairData(Mixture(examples, examples, 32, 0.5, 0), 5, examples, examples)
    fitted = fit_steps(trainable, data, find_recipe("imitation"), Schedule(5, 1e-2, 5, 3), 5)
    trainable.write(fitted.weights, target)
    trainable.check(target)
    before, after = onnx.load(path), onnx.load(target)
    assert set(difference(before, after).data) == {"conv.w", "conv.b", "fc.w"}
    assert difference(before, after).structure == []
    assert {each.element for each in find_activations(after)} == {"uint16"}
    assert stored_in(after)["fc.w"].dtype == np.int8


def coloured(n: int, seed: int) -> torch.Tensor:
    """Noise (n, 3, 8, 8) in which one colour is up to 25 grey levels brighter."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(60, 180, (n, 3, 8, 8), generator=generator)
    brighter = torch.eye(3, dtype=torch.int64)[torch.randint(0, 3, (n,), generator=generator)]
    return (noise + brighter[..., None, None] * torch.randint(0, 26, (n, 1, 1, 1), generator=generator)).to(torch.uint8)


def planted(tmp_path: Path, coarse: float = planted_net.COARSE, float_output: bool = False) -> Bench:
    original = open_classifier(save(planted_net.original(), tmp_path / "float.onnx"))
    path = save(planted_net.compressed(coarse), tmp_path / "int8.onnx")
    asked = [Asked.of(original, coloured(300, seed)) for seed in range(3)]
    return Bench(path, *asked, tmp_path / "widened", float_output, repeats=1)


def test_the_one_grid_that_is_far_too_coarse_is_chosen_and_no_other(tmp_path):
    here = planted(tmp_path)
    decision = decide(here, Wish("chosen"), 0)
    assert decision.bits == Bits(("h",))
    assert decision.taken == 1
    assert decision.before.argmax.value > 0.05
    assert decision.after.argmax.value < 0.01
    assert {name: steps[-1].tensors for name, steps in decision.orders.items()} == dict.fromkeys(
        ("greedy", "size", "chance"), ("g", "h", "images")
    )
    # an order by size pays for what it passes on its way: the images are the largest
    assert decide(here, Wish("chosen", "size"), 0).bits == Bits(("h", "images"))


def test_where_nothing_differs_nothing_is_widened(tmp_path):
    here = planted(tmp_path)
    itself = open_classifier(here.path)
    asked = [Asked.of(itself, coloured(100, seed)) for seed in range(3)]
    same = Bench(here.path, *asked, tmp_path / "widened", repeats=1)
    decision = decide(same, Wish("chosen"), 0)
    assert not decision.bits
    assert decision.after == decision.before
    assert decision.after.path == here.path


def test_weights_get_what_bytes_pay_for_the_smallest_first(tmp_path):
    here = planted(tmp_path)
    size = here.path.stat().st_size
    nothing, small, everything = (decide(here, Wish(weights=share), 0) for share in (0.001, 0.05, 1.0))
    assert not nothing.bits
    assert (nothing.next_weight, nothing.all_weights) == (9, 594)
    assert small.bits == Bits(weights=("w2", "w3"))
    assert small.after.bytes <= 1.05 * size
    assert everything.bits.weights == ("w2", "w3", "w1")
    assert (everything.next_weight, everything.all_weights) == (None, 0)


def test_a_limit_of_bytes_holds_for_activations_and_weights_together(tmp_path):
    here = planted(tmp_path)
    size = here.path.stat().st_size
    decision = decide(here, Wish("all", weights=1.0, max_bytes=1.02), 0)
    assert set(decision.bits.activations) == {"images", "h", "g"}
    assert decision.bits.weights == ("w2", "w3")
    assert decision.after.bytes <= 1.02 * size
    with pytest.raises(InputError, match="activations=chosen"):
        decide(here, Wish("all", max_bytes=1.0), 0)  # zero points of two bytes


def test_a_wish_that_cannot_be_met_is_refused_before_any_work(tmp_path):
    check_wish(save(planted_net.compressed(), tmp_path / "a.onnx"), Wish("chosen", weights=0.1, float_output=True))
    for model in (planted_net.original(), float_net()):
        with pytest.raises(InputError, match="no activation is quantised"):
            check_wish(save(model, tmp_path / "b.onnx"), Wish("all"))
    wide = with_bits(planted_net.compressed(), Bits(weights=("w1", "w2", "w3")))
    with pytest.raises(InputError, match="no weight is int8"):
        check_wish(save(wide, tmp_path / "c.onnx"), Wish(weights=0.1))
    (tmp_path / "d.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    with pytest.raises(InputError, match=r"int8 \.onnx and \.pt2 files"):
        check_wish(tmp_path / "d.tflite", Wish("all"))


def test_a_written_file_has_the_named_grids_and_nothing_else_changed(tmp_path):
    here, target = planted(tmp_path), tmp_path / "place" / "model.onnx"
    write_bits(here.path, Bits(("h",), ("w3",)), target)
    before, after = onnx.load(here.path), onnx.load(target)
    changed = difference(before, after)
    assert changed.data == ["w3.s", "h.s"]
    assert set(changed.structure) == {
        *(f"{field} of the model differs" for field in ("ir_version", "opset_import")),
        *(f"element type or shape of initialiser {name!r} differs" for name in ("h.z", "w3")),
    }
    assert [path.name for path in target.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("wrong", "number"),
    [
        ([0, 0, 0], 0),  # nothing to gain
        ([10, 10, 10], 0),
        ([2, 0], 0),  # two images of 100 are chance
        ([10, 0], 1),
        ([20, 10, 0, 0], 2),
        ([20, 2, 30, 0], 1),  # the best one is not clearly better than the second
    ],
)
def test_no_more_is_taken_than_is_clearly_better(wrong, number):
    masks = [np.arange(100) < count for count in wrong]
    assert enough(masks) == number


def test_images_of_one_seed_are_not_taken_for_many():
    masks = [np.arange(100) < count for count in (10, 0)]
    assert enough(masks, np.arange(100) // 50) == 0


@pytest.mark.slow
@pytest.mark.skipif(not (BENCH / "models").is_dir(), reason="needs the real models of DFLARE_BENCH")
@pytest.mark.parametrize("name", ["mnist_lenet-5", "mnist_simplecnn", "cifar-10_resnet20"])
def test_real_files_are_widened_at_no_byte_more(tmp_path, name):
    path = BENCH / "models" / name / "int8.onnx"
    model = onnx.load(path)
    wide = save(widen(model, names_of(model)), tmp_path / "wide.onnx")
    onnx.checker.check_model(onnx.load(wide))
    assert wide.stat().st_size <= path.stat().st_size
    channels = 1 if "mnist" in name else 3
    side = 28 if channels == 1 else 32
    values = torch.rand(50, channels, side, side, generator=torch.Generator().manual_seed(0))
    exact = open_classifier(path.parent / "original.onnx")(values)
    gaps = [(open_classifier(each)(values) - exact).abs().mean() for each in (path, wide)]
    assert gaps[1] < gaps[0]
