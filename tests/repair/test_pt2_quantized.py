"""Int8 `.pt2` programs repaired in place: the same file with other integers."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dflare.errors import InputError
from dflare.models.exported import ExportedClassifier, _register_int8_operators, load_program
from dflare.models.opening import open_classifier
from repair.compression import Compressed, Quantized
from repair.opening import open_trainable
from repair.proof.payload import payload_bytes
from repair.pt2_models.artifact import check_program, open_exported
from repair.trainable import Trainable

_register_int8_operators()
OPERATORS = torch.ops.quantized_decomposed
BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[2].parent / "shared"))
INT8 = (-128, 127, torch.int8)
MOVING = {"conv_q", "conv_bias", "fc_q", "fc_bias_q"}


def fake(x: Tensor, scale: float, zero_point: int = 0, low: int = 0, high: int = 255) -> Tensor:
    """`x` to uint8 and back, as a converted graph does it."""
    integers = OPERATORS.quantize_per_tensor(x, scale, zero_point, low, high, torch.uint8)
    return OPERATORS.dequantize_per_tensor(integers, scale, zero_point, low, high, torch.uint8)


class Int8Net(nn.Module):
    """Images (n, 1, 6, 6) -> scores (n, 3), as PT2E leaves a network: integers as buffers, floats that nobody reads.

    Convolution with a grid a channel and a float bias, linear layer with one grid and an int32 bias.
    """

    def __init__(self, limit: int = 100) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.dead = nn.Parameter(torch.randn(4, 1, 3, 3, generator=generator))
        self.conv_bias = nn.Parameter(torch.randn(4, generator=generator) * 0.1, requires_grad=False)
        self.factor = nn.Parameter(torch.tensor([1.0]), requires_grad=False)

        def integers(shape: tuple[int, ...]) -> Tensor:
            return torch.randint(-limit, limit, shape, generator=generator)

        buffers = {
            "mean": torch.tensor([0.1]),
            "conv_s": torch.tensor([0.01, 0.02, 0.005, 0.01]),
            "conv_z": torch.tensor([0, 0, 3, 0]),
            "conv_q": integers((4, 1, 3, 3)).to(torch.int8),
            "fc_q": integers((3, 64)).to(torch.int8),
            "fc_bias_q": (integers((3,)) * 50).to(torch.int32),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, images: Tensor) -> Tensor:
        x = fake((images - self.mean) * self.factor, 0.0051, 26)
        weight = OPERATORS.dequantize_per_channel(self.conv_q, self.conv_s, self.conv_z, 0, *INT8)
        x = fake(fake(F.conv2d(x, weight, self.conv_bias).relu(), 0.0131, 3), 0.0131, 3)
        wide = (-(2**31), 2**31 - 1, torch.int32)
        bias = OPERATORS.dequantize_per_tensor(self.fc_bias_q, 3.9e-5, 0, *wide)
        return F.linear(x.flatten(1), OPERATORS.dequantize_per_tensor(self.fc_q, 0.003, 0, *INT8), bias)


def export(path: Path, model: nn.Module, shape: tuple[int, ...] = (1, 6, 6)) -> Path:
    dim = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(model.eval(), (torch.rand(2, *shape),), dynamic_shapes=({0: dim},))
    torch.export.save(program, path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return export(tmp_path / "int8.pt2", Int8Net())


def batch(n: int = 64) -> tuple[Tensor, Tensor]:
    images = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return images, (images[:, 0, :3, :3].mean((1, 2)) * 3).long().clamp(0, 2)


def trained(path: Path, steps: int, rate: float = 1e-2) -> tuple[Compressed, Trainable, list[float]]:
    trainable, (images, labels) = open_exported(path), batch()
    student = Compressed(trainable.module, trainable.plan)
    moving = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.Adam(moving, rate), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(student(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return student, trainable, losses


def members(path: Path) -> dict[str, bytes]:
    """What is in an archive, without the name of the folder in it, which torch takes from the file's name."""
    with ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def moved(trainable: Trainable, target: Path, **changes: Tensor) -> Path:
    """Write the weights as they are but for some."""
    weights = {name: weight.detach().clone() for name, weight in trainable.module.named_parameters()}
    trainable.write(weights | {f"program.{name}": value for name, value in changes.items()}, target)
    return target


def altered(path: Path, target: Path, **changes: Tensor) -> Path:
    """A copy of a file with other stored tensors, whatever they are."""
    program = load_program(path)
    program.state_dict.update(changes)
    torch.export.save(program, target)
    return target


def test_the_trainable_module_answers_as_the_black_box_does_bit_for_bit(file):
    trainable, images = open_exported(file), batch(200)[0]
    answers = ExportedClassifier(file)(images)
    assert torch.equal(trainable.module(images), answers)
    assert torch.equal(Compressed(trainable.module, trainable.plan)(images), answers)


def test_repairing_nothing_changes_no_byte(file, tmp_path):
    trainable = open_exported(file)
    trainable.write(Compressed(trainable.module, trainable.plan).weights(), tmp_path / "same.pt2")
    trainable.check(tmp_path / "same.pt2")
    assert (tmp_path / "same.pt2").read_bytes() == file.read_bytes()
    assert payload_bytes(tmp_path / "same.pt2") == payload_bytes(file)
    images = batch()[0]
    assert torch.equal(open_classifier(tmp_path / "same.pt2")(images), open_classifier(file)(images))


def test_the_same_weights_give_the_same_bytes_under_any_name(file, tmp_path):
    one, two = (moved(open_exported(file), tmp_path / name) for name in ("one.pt2", "another.pt2"))
    assert one.read_bytes() == two.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["another.pt2", "int8.pt2", "one.pt2"]


def test_integers_are_on_their_grids_and_only_what_layers_compute_with_moves(file):
    trainable = open_exported(file)
    grids = {name for name, plan in trainable.plan.items() if isinstance(plan, Quantized)}
    assert grids == {"program.conv_q", "program.fc_q", "program.fc_bias_q"}
    moving = {name for name, weight in trainable.module.named_parameters() if weight.requires_grad}
    assert moving == {f"program.{name}" for name in MOVING}  # the frozen bias too, the frozen factor not


def test_training_lowers_the_loss_and_changes_weights_and_nothing_else(file, tmp_path):
    student, trainable, losses = trained(file, steps=20)
    assert losses[-1] < 0.7 * losses[0]
    trainable.write(student.weights(), tmp_path / "new.pt2")
    trainable.check(tmp_path / "new.pt2")
    before, after = load_program(file), load_program(tmp_path / "new.pt2")
    differ = {name for name, old in before.state_dict.items() if not torch.equal(old, after.state_dict[name])}
    assert differ == MOVING
    assert {name: w.dtype for name, w in after.state_dict.items()} == {n: w.dtype for n, w in before.state_dict.items()}
    assert after.graph_module.code == before.graph_module.code
    one, two = members(file), members(tmp_path / "new.pt2")
    changed = {name for name in one if one[name] != two[name]} - {".data/serialization_id"}  # a hash of the others
    assert len(changed) == len(MOVING)
    assert all(name.startswith("data/weights/weight_") for name in changed)
    with torch.no_grad():
        images = batch()[0]
        assert torch.equal(open_classifier(tmp_path / "new.pt2")(images), student(images))


@pytest.mark.parametrize(("far", "end"), [(1e9, 127), (-1e9, -128), (1.28, 127), (-1.29, -128)])
def test_integers_are_clamped_and_never_wrap(file, tmp_path, far, end):
    target = moved(open_exported(file), tmp_path / "far.pt2", conv_q=torch.full((4, 1, 3, 3), far))
    assert load_program(target).state_dict["conv_q"][0].unique().tolist() == [end]  # of scale 0.01


def test_an_int32_is_clamped_where_float32_has_no_such_number(file, tmp_path):
    target = moved(open_exported(file), tmp_path / "far.pt2", fc_bias_q=torch.tensor([1e9, -1e9, 0.0]))
    assert load_program(target).state_dict["fc_bias_q"].tolist() == [2**31 - 1, -(2**31), 0]


def test_weights_that_are_no_numbers_are_not_written(file, tmp_path):
    with pytest.raises(InputError, match="must be finite to be written as integers, conv_q holds NaN"):
        moved(open_exported(file), tmp_path / "nan.pt2", conv_q=torch.full((4, 1, 3, 3), float("nan")))
    assert not (tmp_path / "nan.pt2").exists()
    target = moved(open_exported(file), tmp_path / "nan.pt2", conv_bias=torch.full((4,), float("nan")))
    with pytest.raises(InputError, match="conv_bias is not finite"):
        check_program(file, target)


class OneLayer(nn.Module):
    """Two pixels to two scores: weights [[8, 0], [0, 8]] / 8, that is the pixels themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("q", torch.tensor([[8, 0], [0, 8]], dtype=torch.int8))

    def forward(self, images: Tensor) -> Tensor:
        weight = OPERATORS.dequantize_per_tensor(self.q, 0.125, 0, *INT8)
        return F.linear(fake(images, 0.5).flatten(1), weight)


def test_one_trigger_and_one_layer_lead_to_the_solution_on_paper(tmp_path):
    """Pixels (1, 1/2) score (1, 1/2), and class 1 is right.

    The loss is the difference of the scores, its gradient (1, 1/2) and (-1, -1/2). One step of 1/4 leads to weights
    (3/4, -1/8) and (1/4, 9/8): integers (6, -1) and (2, 9), scores 11/16 and 13/16.
    """
    trainable = open_exported(export(tmp_path / "layer.pt2", OneLayer(), (1, 1, 2)))
    student, image = Compressed(trainable.module, trainable.plan), torch.tensor([1.0, 0.5]).view(1, 1, 1, 2)
    scores = student(image)
    assert scores.tolist() == [[1.0, 0.5]]
    (scores[0, 0] - scores[0, 1]).backward()
    torch.optim.SGD(student.parameters(), lr=0.25).step()
    target = tmp_path / "repaired.pt2"
    trainable.write(student.weights(), target)
    trainable.check(target)
    assert load_program(target).state_dict["q"].tolist() == [[6, -1], [2, 9]]
    assert open_classifier(target)(image).tolist() == [[11 / 16, 13 / 16]]


class Layer(nn.Module):
    """Channel means, given to a function of a weight: what converted graphs may hold beside the usual."""

    def __init__(self, answer: object, **stored: Tensor) -> None:
        super().__init__()
        self.answer = answer
        for name, value in stored.items():
            if value.is_floating_point():
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self, images.mean((2, 3)))


def unfolded(layer: nn.Module, x: Tensor) -> Tensor:
    grid = torch.full((3,), 0.01), torch.zeros(3, dtype=torch.int64), 0
    integers = OPERATORS.quantize_per_channel(layer.w, *grid, *INT8)
    return F.linear(x, OPERATORS.dequantize_per_channel(integers, *grid, *INT8))


def dynamic(layer: nn.Module, x: Tensor) -> Tensor:
    low, high, dtype = INT8
    x = x * layer.w
    scale, zero = OPERATORS.choose_qparams(x, low, high, 1e-6, dtype)
    integers = OPERATORS.quantize_per_tensor(x, scale, zero, *INT8)
    return OPERATORS.dequantize_per_tensor(integers, scale, zero, *INT8).repeat(1, 3)


@pytest.mark.parametrize(
    ("answer", "weight"), [(unfolded, torch.tensor([[0.123], [-0.456], [0.789]])), (dynamic, torch.tensor([1.2345]))]
)
def test_weights_and_ranges_that_are_quantised_on_the_way_are_trained_too(tmp_path, answer, weight):
    file = export(tmp_path / "layer.pt2", Layer(answer, w=weight))
    trainable, images = open_exported(file), batch()[0]
    answers = trainable.module(images)
    assert torch.equal(answers, ExportedClassifier(file)(images))
    answers.sum().backward()
    assert trainable.module.get_parameter("program.w").grad.abs().min() > 0
    moved(trainable, tmp_path / "new.pt2", w=weight * 0.5)
    trainable.check(tmp_path / "new.pt2")
    assert torch.equal(load_program(tmp_path / "new.pt2").state_dict["w"], weight * 0.5)


def other_grid(layer: nn.Module, x: Tensor) -> Tensor:
    integers = OPERATORS.quantize_per_tensor(x * layer.w, 0.01, 0, 0, 255, torch.uint8)
    return OPERATORS.dequantize_per_tensor(integers, 0.02, 0, 0, 255, torch.uint8).repeat(1, 3)


def used_as_integers(layer: nn.Module, x: Tensor) -> Tensor:
    integers = OPERATORS.quantize_per_tensor(x * layer.w, 0.01, 0, 0, 255, torch.uint8)
    return (integers + 7).float().repeat(1, 3)


def unknown(layer: nn.Module, x: Tensor) -> Tensor:
    scale, zero = OPERATORS.choose_qparams_per_token(x * layer.w, torch.int8)
    integers = OPERATORS.quantize_per_token(x * layer.w, scale, zero, *INT8)
    return OPERATORS.dequantize_per_token(integers, scale, zero, *INT8, torch.float32).repeat(1, 3)


def within(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = fake(x, 0.01)
    return (x * layer.w).repeat(1, 3)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (within, r"its operator quantized_decomposed\.quantize_per_tensor\.default in a graph within the graph"),
        (other_grid, "quantize_per_tensor must be followed by a dequantiser to float32 on its own grid"),
        (used_as_integers, "must be followed by a dequantiser to float32 on its own grid, not by add"),
        (unknown, "led through its operator quantized_decomposed.choose_qparams_per_token"),
    ],
)
def test_graphs_that_a_gradient_cannot_be_led_through_are_refused_in_one_sentence(tmp_path, answer, words):
    file = export(tmp_path / "layer.pt2", Layer(answer, w=torch.tensor([1.0])))
    with pytest.raises(InputError, match=rf"layer\.pt2 cannot be repaired: .*{words}") as caught:
        open_exported(file)
    assert "\n" not in str(caught.value)


def two_grids(layer: nn.Module, x: Tensor) -> Tensor:
    one, two = (OPERATORS.dequantize_per_tensor(layer.q, scale, 0, *INT8) for scale in (0.1, 0.2))
    return F.linear(fake(x, 0.01), one + two)


def test_integers_on_two_grids_stay_as_they_are(tmp_path):
    file = export(tmp_path / "layer.pt2", Layer(two_grids, q=torch.tensor([[1], [2], [3]], dtype=torch.int8)))
    with pytest.raises(InputError, match=r"expected weights that can be trained in .*layer\.pt2, found none"):
        open_exported(file)


@pytest.mark.parametrize("name", ["conv_s", "conv_z", "mean", "dead", "factor"])
def test_a_file_in_which_something_else_than_weights_changed_is_refused(file, tmp_path, name):
    old = load_program(file).state_dict[name].detach()
    new = (old + 1).clone() if old.dtype == torch.int64 else (old * 1.01).clone()
    value = nn.Parameter(new, requires_grad=name == "dead") if name in ("dead", "factor") else new
    with pytest.raises(InputError, match=f"{name}, which is no weight of its layers, has other numbers"):
        check_program(file, altered(file, tmp_path / "other.pt2", **{name: value}))


def test_another_graph_and_another_type_are_refused(file, tmp_path):
    with pytest.raises(InputError, match="is no longer the model that came in: its weights have other names, shapes"):
        check_program(file, altered(file, tmp_path / "wide.pt2", conv_q=torch.zeros((4, 1, 3, 3), dtype=torch.int16)))

    class Shifted(Int8Net):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + 1

    with pytest.raises(InputError, match="is no longer the model that came in: its graph changed"):
        check_program(file, export(tmp_path / "shifted.pt2", Shifted()))


class Narrow(nn.Module):
    """A weight whose grid leaves -128 out, as symmetric quantisers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("q", torch.tensor([[-127], [0], [127]], dtype=torch.int8))

    def forward(self, images: Tensor) -> Tensor:
        weight = OPERATORS.dequantize_per_tensor(self.q, 0.1, 0, -127, 127, torch.int8)
        return F.linear(fake(images.mean((2, 3)), 0.01), weight)


def test_a_narrow_range_is_kept_and_a_file_that_leaves_it_is_refused(tmp_path):
    file = export(tmp_path / "narrow.pt2", Narrow())
    target = moved(open_exported(file), tmp_path / "far.pt2", q=torch.full((3, 1), -1e9))
    assert load_program(target).state_dict["q"].flatten().tolist() == [-127] * 3
    check_program(file, target)
    beyond = altered(file, tmp_path / "beyond.pt2", q=torch.tensor([[-128], [0], [127]], dtype=torch.int8))
    with pytest.raises(InputError, match="q has left its grid of integers"):
        check_program(file, beyond)


def test_a_weight_shared_by_name_is_not_changed_under_the_other_name(tmp_path):
    model = Int8Net()
    model.register_buffer("twin", model.conv_q)
    file = export(tmp_path / "tied.pt2", model)
    trainable = open_exported(file)
    (name,) = {"program.conv_q", "program.twin"} & set(trainable.plan)  # torch lets the graph read one of them
    target = moved(trainable, tmp_path / "new.pt2", **{name.removeprefix("program."): torch.zeros(4, 1, 3, 3)})
    check_program(file, target)
    before, after = load_program(file).state_dict, load_program(target).state_dict
    differ = {name for name, old in before.items() if not torch.equal(old, after[name])}
    assert differ == {name.removeprefix("program.")}


def test_gradients_reach_the_images_too(file):
    trainable, images = open_exported(file), batch(8)[0].requires_grad_()
    trainable.module(images).logsumexp(-1).sum().backward()
    assert images.grad.abs().amax((1, 2, 3)).min() > 0


class Bytes(Int8Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.float() / 255)


def test_a_program_that_takes_bytes_is_shown_bytes(tmp_path):
    shape = ({0: torch.export.Dim("batch", min=1, max=1024)},)
    example = torch.zeros((2, 1, 6, 6), dtype=torch.uint8)
    torch.export.save(torch.export.export(Bytes(), (example,), dynamic_shapes=shape), tmp_path / "bytes.pt2")
    trainable, images = open_trainable(tmp_path / "bytes.pt2"), batch()[0]
    assert torch.equal(trainable.shown(trainable.module)(images), open_classifier(tmp_path / "bytes.pt2")(images))


def test_it_opens_as_any_model_to_be_repaired(file):
    trainable = open_trainable(file)
    assert trainable.takes.height == 6
    images = batch()[0]
    assert torch.equal(trainable.shown(trainable.module)(images), open_classifier(file)(images))


REAL = ["mnist_lenet-5", "mnist_simplecnn", "cifar-10_resnet20"]


@pytest.mark.slow
@pytest.mark.skipif(not (BENCH / "models").is_dir(), reason="needs the real models of DFLARE_BENCH")
@pytest.mark.parametrize("name", REAL)
def test_real_models_answer_as_before_and_keep_every_byte(tmp_path, name):
    path, shape = BENCH / "models" / name / "int8.pt2", (3, 32, 32) if name.startswith("cifar") else (1, 28, 28)
    trainable = open_exported(path)
    student = Compressed(trainable.module, trainable.plan)
    images = torch.rand(200, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(student(images), ExportedClassifier(path)(images))
    trainable.write(student.weights(), tmp_path / "same.pt2")
    trainable.check(tmp_path / "same.pt2")
    assert members(tmp_path / "same.pt2") == members(path)  # the archive itself is another torch's
    student(images[:16]).logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None for parameter in trainable.module.parameters() if parameter.requires_grad)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torchao about itself
@pytest.mark.parametrize("options", [{}, {"is_dynamic": True}], ids=["static", "dynamic"])
def test_what_torchao_converts_is_repaired(tmp_path, options):
    pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    inductor = pytest.importorskip("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    images = batch()[0]
    graph = torch.export.export(model, (images,), strict=True).module()
    config = inductor.get_default_x86_inductor_quantization_config(**options)
    prepared = pt2e.prepare_pt2e(graph, inductor.X86InductorQuantizer().set_global(config))
    prepared(images)
    file = tmp_path / "torchao.pt2"
    torch.export.save(torch.export.export(pt2e.convert_pt2e(prepared), (images,), strict=True), file)
    trainable = open_exported(file)
    answers = trainable.module(images)
    assert torch.equal(answers, ExportedClassifier(file)(images))
    answers.logsumexp(-1).sum().backward()
    weights = dict(trainable.module.named_parameters())
    assert sum(isinstance(projection, Quantized) for projection in trainable.plan.values()) == 2
    assert all(weight.grad.abs().max() > 0 for weight in weights.values())
    moved(
        trainable, tmp_path / "new.pt2", **{next(iter(trainable.plan)).removeprefix("program."): torch.ones(4, 1, 3, 3)}
    )
    trainable.check(tmp_path / "new.pt2")


@pytest.mark.slow
def test_a_repaired_file_opens_in_a_fresh_process(file, tmp_path):
    student, trainable, _ = trained(file, steps=3)
    trainable.write(student.weights(), tmp_path / "new.pt2")
    code = (
        "import sys, torch; from pathlib import Path; from dflare.models.opening import open_classifier;"
        "print(tuple(open_classifier(Path(sys.argv[1]))(torch.rand(3, 1, 6, 6)).shape))"
    )
    command = [sys.executable, "-W", "error", "-c", code, tmp_path / "new.pt2"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.stdout.strip() == "(3, 3)", answer.stderr
