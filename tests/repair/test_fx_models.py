"""Models that torch.ao's FX graph mode made int8, in TorchScript files: read, trained through a twin, written back."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dflare.errors import InputError
from dflare.models.kernels import any_kernel
from dflare.models.opening import open_classifier
from repair.compression import Compressed
from repair.fx_models.artifact import open_scripted
from repair.fx_models.reading import load_program, read_program

ENGINES = [name for name in ("x86", "qnnpack") if name in torch.backends.quantized.supported_engines]


class Residual(nn.Module):
    """Convolutions with a sum around them, poolings of both kinds, two linear layers: what small networks are of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.normal, self.pool = nn.BatchNorm2d(8), nn.MaxPool2d(2)
        self.hidden, self.head = nn.Linear(32, 16), nn.Linear(16, 4, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.first(images)))
        x = torch.relu(self.normal(self.inner(x)) + x)
        x = torch.flatten(F.adaptive_avg_pool2d(F.avg_pool2d(x, 2, 1), 2), 1)
        return self.head(torch.relu(self.hidden(x)))


class Fused(nn.Module):
    """Activations as modules, which the conversion fuses with their layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 12), nn.ReLU()
        )
        self.head = nn.Linear(12, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(images).view(images.size(0), -1))


def images(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@contextmanager
def deprecated() -> Iterator[None]:
    """torch.ao and TorchScript, which make these files, are deprecated in every call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def converted(build: Callable[[], nn.Module], engine: str) -> torch.fx.GraphModule:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.manual_seed(0)
    model = build().train()
    with torch.no_grad():
        model(images(256, 1))  # statistics of the normalisation
    prepared = prepare_fx(model.eval(), get_default_qconfig_mapping(engine), (images(2),))
    with torch.no_grad():
        prepared(images(256, 2))
    return convert_fx(prepared)


def saved(path: Path, build: Callable[[], nn.Module] = Residual, engine: str = "x86", scripted: bool = True) -> Path:
    with deprecated(), any_kernel():  # other tests may have asked for deterministic ones
        model = converted(build, engine)
        program = torch.jit.script(model) if scripted else torch.jit.trace(model, images(2))
        program.save(str(path))
    return path


def flatten(path: Path) -> Path:
    """A program without weights."""
    with deprecated():
        torch.jit.script(nn.Flatten()).save(str(path))
    return path


needs_engine = pytest.mark.skipif(not ENGINES, reason="this machine has no engine for quantised layers")
CASES = [(Residual, "x86", True), (Residual, "x86", False), (Fused, "x86", True), (Residual, "qnnpack", True)]


def steps_apart(one: Tensor, other: Tensor, path: Path) -> Tensor:
    """Differences of scores in steps of the last layer's grid."""
    reading = read_program(load_program(path), path)
    (scale,) = (step.arguments[2] for step in reading.steps[-2:] if step.operator.startswith("quantized::linear"))
    return ((one - other) / scale).abs().round()


@needs_engine
@pytest.mark.parametrize(("build", "engine", "scripted"), CASES)
def test_the_twin_answers_as_the_file_does(tmp_path: Path, build: Callable[[], nn.Module], engine: str, scripted: bool):
    if engine not in ENGINES:
        pytest.skip(f"this machine has no engine {engine}")
    path = saved(tmp_path / "int8.pt", build, engine, scripted)
    trainable, shown = open_scripted(path, allow_code=True), images(500, 3)
    with torch.no_grad():
        twin = Compressed(trainable.module, trainable.plan)(shown)
    answers = open_classifier(path, allow_code=True)(shown)
    apart = steps_apart(twin, answers, path)
    assert (apart == 0).float().mean() > 0.97
    assert (apart <= 1).float().mean() > 0.99
    sure = answers.topk(2).values.diff(dim=-1).abs().squeeze(1) > 0  # integers tie
    assert torch.equal(twin.argmax(1)[sure & (apart.amax(1) == 0)], answers.argmax(1)[sure & (apart.amax(1) == 0)])
    assert (twin.argmax(1) == answers.argmax(1)).float().mean() > 0.98


def trained(trainable, steps: int = 15) -> tuple[Compressed, list[float]]:
    student, shown = Compressed(trainable.module, trainable.plan), images(64, 4)
    labels = (shown[:, 0].mean((1, 2)) * 8).long() % 4
    optimizer, losses = torch.optim.Adam(student.parameters(), lr=5e-3), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(student(shown), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return student, losses


@needs_engine
@pytest.mark.parametrize("build", [Residual, Fused])
def test_training_changes_weights_and_biases_and_nothing_else(tmp_path: Path, build: Callable[[], nn.Module]):
    path, after = saved(tmp_path / "int8.pt", build), tmp_path / "new" / "after.pt"
    trainable = open_scripted(path, allow_code=True)
    student, losses = trained(trainable)
    assert losses[-1] < losses[0]
    trainable.write(student.weights(), after)
    trainable.check(after)
    shown = images(300, 5)
    with torch.no_grad():
        apart = steps_apart(student(shown), open_classifier(after, allow_code=True)(shown), path)
    assert (apart <= 1).float().mean() > 0.99
    before, now = (read_program(load_program(file), file) for file in (path, after))
    for old, new in zip(before.layers.values(), now.layers.values(), strict=True):
        assert old == new  # scales, zero points, shapes
        assert not torch.equal(old.integers, new.integers)
    assert not list(after.parent.glob(".*"))


@needs_engine
def test_repairing_nothing_changes_no_byte(tmp_path: Path):
    path = saved(tmp_path / "int8.pt")
    trainable = open_scripted(path, allow_code=True)
    trainable.write(Compressed(trainable.module, trainable.plan).weights(), tmp_path / "same.pt")
    trainable.check(tmp_path / "same.pt")
    assert (tmp_path / "same.pt").read_bytes() == path.read_bytes()


@needs_engine
def test_integers_are_clamped_and_never_wrap_and_nothing_but_numbers_is_written(tmp_path: Path):
    path = saved(tmp_path / "int8.pt", Fused)
    trainable = open_scripted(path, allow_code=True)
    weights = {name: value.detach() for name, value in trainable.module.named_parameters()}
    (name, *_) = trainable.plan
    trainable.write(weights | {name: torch.full_like(weights[name], 1e9)}, tmp_path / "far.pt")
    layers = read_program(load_program(tmp_path / "far.pt"), path).layers.values()
    (layer,) = (layer for layer in layers if layer.names[0] == name)
    assert layer.integers.unique().tolist() == [127]
    with pytest.raises(InputError, match="must be finite to be written"):
        trainable.write(weights | {name: weights[name] * torch.nan}, tmp_path / "nan.pt")
    with pytest.raises(ValueError, match="is missing or too many"):
        trainable.write(weights | {"other": weights[name]}, tmp_path / "more.pt")


@needs_engine
def test_a_file_with_another_program_or_other_scales_is_refused(tmp_path: Path):
    path, other = saved(tmp_path / "int8.pt", Fused), saved(tmp_path / "other.pt", Residual)
    trainable = open_scripted(path, allow_code=True)
    with pytest.raises(InputError, match="its code changed"):
        trainable.check(other)
    program = load_program(path)
    program.head.scale = program.head.scale * 2
    with deprecated():
        program.save(str(tmp_path / "scaled.pt"))
    with pytest.raises(InputError, match="scales, shapes or constants changed"):
        trainable.check(tmp_path / "scaled.pt")


@needs_engine
def test_what_no_gradient_is_led_through_is_named(tmp_path: Path):
    class Sigmoid(Fused):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).sigmoid()

    with pytest.raises(InputError, match=r"its operator aten::sigmoid is none .* known are .*conv2d"):
        open_scripted(saved(tmp_path / "sigmoid.pt", Sigmoid), allow_code=True)
    with pytest.raises(InputError, match="no int8 layer between images and scores"):
        open_scripted(flatten(tmp_path / "flat.pt"), allow_code=True)


def test_a_program_is_opened_only_where_the_user_says_so(tmp_path: Path):
    with pytest.raises(InputError, match="runs only with --allow-code"):
        open_scripted(flatten(tmp_path / "flat.pt"), allow_code=False)
