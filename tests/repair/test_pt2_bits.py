"""More bits in an int8 `.pt2` program: the same graph, finer grids, and nothing else."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dflare.classifiers import Outputs, ask
from dflare.errors import InputError
from dflare.models.exported import load_program
from dflare.models.opening import open_classifier
from repair.opening import open_trainable
from repair.precision.deciding import Wish, check_wish, decide
from repair.precision.exported_file import eight_bit_weights, numbers, write_bits
from repair.precision.mixed_precision import Asked, Bench
from repair.precision.plan import Bits
from repair.pt2_models.bits import find_roundings, grids, widen
from repair.pt2_models.writing import program_difference
from tests.repair.test_pt2_quantized import BENCH, Int8Net, batch, export, moved

WEIGHTS = ("conv_q", "fc_q")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return export(tmp_path / "int8.pt2", Int8Net())


def every(path: Path) -> tuple[str, ...]:
    return tuple(name for group in grids(load_program(path)) for name in group)


def answers(path: Path, images: Tensor) -> Tensor:
    return open_classifier(path)(images)


def test_tensors_on_equal_grids_are_widened_together(file):
    image, convolution = grids(load_program(file))
    assert len(image) == 1
    assert len(convolution) == 2
    assert numbers(file, torch.zeros(1, 1, 6, 6, dtype=torch.uint8), None) == {
        image[0]: 36,
        convolution[0]: 64,
        convolution[1]: 64,
    }


def test_every_number_of_the_old_grid_lies_on_the_new_one(file):
    before, after = ({each.name: each.step for each in find_roundings(p)} for p in both(file, every(file)))
    for name, old in before.items():
        new = after[name]
        assert new.dtype == torch.int16
        for integer in (old.low, old.zero_point, old.high):
            finer = new.low + 257 * (integer - old.low)
            assert (finer - new.zero_point) * new.scale == pytest.approx(
                (integer - old.zero_point) * old.scale, rel=1e-6
            )
        assert (new.low, new.high) == (-32768, 32767)  # the range is the old one, not a number wider


def both(file: Path, tensors: tuple[str, ...]) -> tuple[torch.export.ExportedProgram, torch.export.ExportedProgram]:
    program = load_program(file)
    wide = widen(program, tensors)
    assert program_difference(program, load_program(file), ()) is None  # a copy was changed
    return program, wide


def test_wider_activations_come_nearer_to_none_at_all(file, tmp_path):
    images, model = batch(200)[0], Int8Net()
    exact = unrounded(model, images)
    write_bits(file, Bits(every(file)), tmp_path / "wide.pt2")
    narrow, wide = ((answers(path, images) - exact).abs().max() for path in (file, tmp_path / "wide.pt2"))
    assert wide < narrow / 50


def unrounded(model: Int8Net, images: Tensor) -> Tensor:
    """The network's scores with rounded weights and without rounded activations (but within their range)."""
    x = ((images - model.mean) * model.factor).clamp(-26 * 0.0051, 229 * 0.0051)
    weight = (model.conv_q.float() - model.conv_z.view(-1, 1, 1, 1)) * model.conv_s.view(-1, 1, 1, 1)
    x = torch.nn.functional.conv2d(x, weight, model.conv_bias).relu().clamp(-3 * 0.0131, 252 * 0.0131)
    return torch.nn.functional.linear(x.flatten(1), model.fc_q.float() * 0.003, model.fc_bias_q * 3.9e-5)


@pytest.mark.slow
def test_wider_weights_compute_what_they_did_at_one_byte_each(file, tmp_path):
    assert eight_bit_weights(load_program(file)) == [("conv_q", 36), ("fc_q", 192)]
    write_bits(file, Bits(weights=WEIGHTS), tmp_path / "wide.pt2")
    images = batch(200)[0]
    assert torch.equal(answers(file, images), answers(tmp_path / "wide.pt2", images))
    stored = load_program(tmp_path / "wide.pt2").state_dict
    assert {stored[name].dtype for name in WEIGHTS} == {torch.int16}
    assert eight_bit_weights(load_program(tmp_path / "wide.pt2")) == []


def test_what_was_not_asked_for_stays(file, tmp_path):
    first = every(file)[0]
    wide = load_program(write_bits(file, Bits((first,), ("fc_q",)), tmp_path / "wide.pt2"))
    steps = {each.name: each.step.dtype for each in find_roundings(wide)}
    assert [name for name, dtype in steps.items() if dtype == torch.int16] == [first]
    assert wide.state_dict["conv_q"].dtype == torch.int8
    assert torch.equal(wide.state_dict["conv_s"], load_program(file).state_dict["conv_s"])


def test_a_file_read_back_otherwise_is_refused(file, tmp_path, monkeypatch):
    import repair.precision.exported_file as module

    monkeypatch.setattr(module, "save_program", lambda program, source, target: target.write_bytes(file.read_bytes()))
    with pytest.raises(InputError, match="finer grids and nothing else, but its graph changed"):
        write_bits(file, Bits(every(file)), tmp_path / "wide.pt2")


def test_unknown_names_and_an_output_that_stays_rounded_are_refused(file):
    with pytest.raises(InputError, match=r"must be quantised activations .* got 'other'"):
        widen(load_program(file), ["other"])
    with pytest.raises(InputError, match=r"must be int8 weights .* got 'fc_bias_q'"):
        widen(load_program(file), [], ["fc_bias_q"])
    check_wish(file, Wish("all", weights=0.1, float_output=True))  # its output is float already


@pytest.mark.slow
def test_a_widened_program_is_trained_on_its_grids_and_keeps_them(file, tmp_path):
    path = write_bits(file, Bits(every(file), WEIGHTS), tmp_path / "wide.pt2")
    trainable = open_trainable(path)
    images = batch()[0]
    assert torch.equal(trainable.module(images), answers(path, images))
    name = "program.fc_q"
    weight = dict(trainable.module.named_parameters())[name].detach() * 1.01
    moved(trainable, tmp_path / "moved.pt2", fc_q=trainable.plan[name](weight))
    trainable.check(tmp_path / "moved.pt2")
    integers = load_program(tmp_path / "moved.pt2").state_dict["fc_q"]
    assert integers.dtype == torch.int16
    assert (integers % 256 != 0).any()  # between the numbers of 8 bits
    with pytest.raises(InputError, match="no longer the model"):
        open_trainable(file).check(tmp_path / "moved.pt2")


@pytest.mark.slow
def test_the_bits_of_a_program_are_decided_as_those_of_an_onnx_file_are(file, tmp_path):
    images = (batch(300)[0] * 255).round().to(torch.uint8)
    asked = Asked(images, unrounded(Int8Net(), images / 255).detach())
    here = Bench(file, asked, asked, asked, tmp_path / "candidates", repeats=1)
    decision = decide(here, Wish("all", weights=100 / file.stat().st_size), 0)  # bytes for the smaller one
    assert decision.bits == Bits(every(file), ("conv_q",))
    assert decision.after.divergence < decision.before.divergence / 100
    assert decision.after.path.suffix == ".pt2"
    assert decision.next_weight == 192
    chosen = decide(here, Wish("chosen"), 0)
    assert set(chosen.orders) == {"greedy", "size", "chance"}


@pytest.mark.slow
@pytest.mark.skipif(not (BENCH / "models").is_dir(), reason="needs the real models of DFLARE_BENCH")
@pytest.mark.parametrize("name", ["mnist_lenet-5", "mnist_simplecnn", "cifar-10_resnet20"])
def test_real_programs_are_widened_at_no_byte_more(tmp_path, name):
    path = BENCH / "models" / name / "int8.pt2"
    wide = write_bits(path, Bits(every(path)), tmp_path / "wide.pt2")
    assert wide.stat().st_size <= 1.01 * path.stat().st_size  # the graph's text; not a weight more
    size = (1, 28, 28) if "mnist" in name else (3, 32, 32)
    images = torch.randint(0, 256, (50, *size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    original = ask(open_classifier(path.parent / "original.pt2"), images, "original")
    gaps = [(ask(open_classifier(each), images, "compressed") - original).abs().mean() for each in (path, wide)]
    assert gaps[1] < gaps[0]
    assert not Outputs(original, original).deviates.any()
