"""`.tflite` files as black boxes: tiny files with answers known by hand, and the public ones on real images."""

import copy
import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dflare.classifiers import to_unit
from dflare.errors import InputError
from dflare.models.interface import Interface, Takes
from dflare.models.shown import Shown

pytest.importorskip("ai_edge_litert")
import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from dflare.models.litert import KERNELS, open_litert

Steps = tuple[float, int]
BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[2].parent / "shared"))
needs_bench = pytest.mark.skipif(
    not (BENCH / "models" / "diffchaser").is_dir(), reason="needs models and data of DFLARE_BENCH"
)


class Draft:
    """A `.tflite` file in the making: tensors by name, operators in order."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.graph.tensors, self.graph.operators = [], []
        self.names: dict[str, int] = {}

    def tensor(
        self, name: str, shape: Sequence[int], kind: str = "float32", grid: Steps | None = None, values: Any = None
    ) -> None:
        """A free size is -1; `values` make a constant."""
        tensor = schema.TensorT()
        tensor.name, tensor.type = name, getattr(schema.TensorType, kind.upper())
        tensor.shape, tensor.shapeSignature = [abs(size) for size in shape], list(shape)
        tensor.buffer = 0
        if grid is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [grid[0]], [grid[1]]
        if values is not None:
            self.model.buffers.append(schema.BufferT())
            self.model.buffers[-1].data = np.frombuffer(np.asarray(values, kind).tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers) - 1
        self.names[name] = len(self.graph.tensors)
        self.graph.tensors.append(tensor)

    def operator(self, name: str, inputs: list[str], output: str, options: str = "", **values: Any) -> None:
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        self.model.operatorCodes.append(code)
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = [self.names[i] for i in inputs], [self.names[output]]
        if options:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(schema, f"{options}T")()
            for key, value in values.items():
                setattr(operator.builtinOptions, key, value)
        self.graph.operators.append(operator)

    def save(self, path: Path, inputs: Sequence[str] = ("images",), outputs: Sequence[str] = ("scores",)) -> Path:
        self.graph.inputs = [self.names[name] for name in inputs]
        self.graph.outputs = [self.names[name] for name in outputs]
        builder = flatbuffers.Builder()
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path.write_bytes(builder.Output())
        return path


def channel_means(
    path: Path,
    batch: int = -1,
    size: tuple[int, int] = (2, 4),
    kind: str = "float32",
    grid: Steps | None = None,
    then: str = "",
    rows: int | None = None,
    first: bool = False,
) -> Path:
    """A model that answers with the mean of each of three channels; `rows` fixes how many rows the answer has.

    `then` is a last operator on the means; `first` wants the channels first, as litert-torch writes it.
    """
    draft = Draft()
    draft.tensor("images", (batch, 3, *size) if first else (batch, *size, 3), kind, grid)
    draft.tensor("axes", (2,), "int32", values=[2, 3] if first else [1, 2])
    means = "means" if then or rows else "scores"
    draft.tensor(means, (batch, 3), kind, grid)
    draft.operator("MEAN", ["images", "axes"], means, "ReducerOptions", keepDims=False)
    if rows:
        draft.tensor("shape", (2,), "int32", values=[rows, 3])
        draft.tensor("scores", (rows, 3), kind, grid)
        draft.operator("RESHAPE", ["means", "shape"], "scores", "ReshapeOptions", newShape=[rows, 3])
    elif then == "SOFTMAX":
        draft.tensor("scores", (batch, 3), kind, None if grid is None else (1 / 256, -128))
        draft.operator("SOFTMAX", ["means"], "scores", "SoftmaxOptions", beta=1.0)
    elif then == "SOFTMAX, DEQUANTIZE":
        draft.tensor("probabilities", (batch, 3), kind, (1 / 256, -128))
        draft.operator("SOFTMAX", ["means"], "probabilities", "SoftmaxOptions", beta=1.0)
        draft.tensor("scores", (batch, 3))
        draft.operator("DEQUANTIZE", ["probabilities"], "scores")
    elif then:
        draft.tensor("scores", (batch, 3))
        draft.operator(then, ["means"], "scores")
    return draft.save(path)


def opened(path: Path, kernels: str = "default", **said: Any) -> Shown:
    """The file's model, shown images as it says itself or as is said here."""
    model = open_litert(path, 1, kernels)
    return Shown(model, Interface(**said), model.takes, f"the model in {path}")


@pytest.fixture
def images() -> Tensor:
    """37 images (37, 3, 2, 4) of grey levels / 255."""
    generator = torch.Generator().manual_seed(0)
    return to_unit(torch.randint(0, 256, (37, 3, 2, 4), dtype=torch.uint8, generator=generator))


@pytest.mark.parametrize("first", [False, True], ids=["channels last", "channels first"])
@pytest.mark.parametrize("kernels", KERNELS)
def test_images_are_turned_into_the_layout_of_the_file(tmp_path, images, kernels, first):
    classifier = opened(channel_means(tmp_path / "m.tflite", first=first), kernels)
    assert classifier.takes == Takes(3, 2, 4, "nchw" if first else "nhwc")
    scores = classifier(images)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, images.mean((2, 3)))


@pytest.mark.parametrize("count", [0, 1, 5, 16, 17, 37])
@pytest.mark.parametrize(("batch", "rows"), [(-1, None), (1, None), (1, 1), (5, 5)])
def test_any_number_of_images_is_answered_whatever_batch_the_file_fixes(tmp_path, images, count, batch, rows):
    classifier = opened(channel_means(tmp_path / "m.tflite", batch, rows=rows))
    assert classifier.takes.batches == ((1, 2**31) if batch == -1 else (batch, batch))
    scores = classifier(images[:count])
    assert scores.shape == (count, 3)
    torch.testing.assert_close(scores, images[:count].mean((2, 3)))


def test_no_more_interpreters_are_opened_than_needed_for_many_batch_sizes(tmp_path, images):
    classifier = opened(channel_means(tmp_path / "m.tflite"))
    for count in range(1, 38):
        classifier(images[:count])
    assert len(classifier.model._opened[1]) == 2


def test_images_of_any_size_are_answered_where_the_file_leaves_it_free(tmp_path):
    classifier = opened(channel_means(tmp_path / "m.tflite", size=(-1, -1)))
    for side in (2, 3, 5, 7):
        images = torch.rand((17, 3, side, side), generator=torch.Generator().manual_seed(side))
        torch.testing.assert_close(classifier(images), images.mean((2, 3)))
    assert len(classifier.model._opened[1]) <= 4


@pytest.mark.parametrize("grid", [(1 / 255, -128), (2 / 255, -100)])
@pytest.mark.parametrize("kernels", ["builtin", "reference"])
def test_integer_files_get_and_give_the_numbers_that_their_integers_stand_for(tmp_path, images, kernels, grid):
    classifier = opened(channel_means(tmp_path / "m.tflite", kind="int8", grid=grid), kernels, range=(0, 1))
    torch.testing.assert_close(classifier(images), images.mean((2, 3)), atol=1.01 * grid[0], rtol=0)


def test_a_softmax_is_returned_as_logarithms(tmp_path, images):
    scores = opened(channel_means(tmp_path / "m.tflite", then="SOFTMAX"))(images)
    torch.testing.assert_close(scores.softmax(-1), images.mean((2, 3)).softmax(-1))
    assert (scores.amax(-1) == 0).all()


@pytest.mark.parametrize("then", ["SOFTMAX", "SOFTMAX, DEQUANTIZE"])
def test_a_quantised_softmax_is_found_behind_what_only_carries_it(tmp_path, images, then):
    path = channel_means(tmp_path / "m.tflite", kind="int8", grid=(1 / 255, -128), then=then)
    scores = opened(path)(images)
    torch.testing.assert_close(scores.softmax(-1), images.mean((2, 3)).softmax(-1), atol=0.006, rtol=0)
    assert (scores.amax(-1) == 0).all()


@pytest.mark.parametrize(
    ("kind", "grid", "ends"),
    [
        ("int8", (1.0, -128), (0, 255)),
        ("int8", (1 / 255, -128), (0, 1)),
        ("int8", (1 / 128, 0), (-1, 1)),
        ("int8", (0.02, -10), None),
        ("uint8", None, (0, 255)),
        ("float32", None, None),
    ],
)
def test_the_range_is_told_from_the_numbers_that_the_input_can_hold(tmp_path, images, kind, grid, ends):
    path = channel_means(tmp_path / "m.tflite", kind=kind, grid=grid)
    classifier = opened(path)
    assert classifier.takes.range == ends
    if kind == "int8":
        low, high = ends or (0, 1)
        torch.testing.assert_close(classifier(images), images.mean((2, 3)) * (high - low) + low, atol=grid[0], rtol=0)


def test_names_that_are_no_text_are_answered_in_one_sentence(tmp_path):
    path = channel_means(tmp_path / "m.tflite")
    path.write_bytes(path.read_bytes().replace(b"images", b"\xff\xfeages").replace(b"scores", b"\xff\xfeores"))
    with pytest.raises(InputError, match=r"the model in .*m\.tflite cannot be (read|opened) by LiteRT"):
        open_litert(path)


def test_an_input_of_a_thousand_million_pixels_is_refused_before_anything_is_allocated(tmp_path):
    with pytest.raises(InputError, match=r"at most 268,435,456 numbers in one tensor, got 1 x 100000 x 10000 x 3"):
        open_litert(channel_means(tmp_path / "m.tflite", size=(100_000, 10_000)))


@pytest.mark.slow
def test_damaged_files_never_end_the_process(tmp_path):
    """Each is opened and asked in a process of its own; none may end by a signal, or by anything but `InputError`."""
    draft = channel_means(
        tmp_path / "m.tflite", kind="int8", grid=(1 / 255, -128), then="SOFTMAX, DEQUANTIZE"
    ).read_bytes()
    generator = np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(draft[: generator.integers(1, len(draft))] if number % 4 == 0 else draft)
        for place in generator.integers(0, len(damaged), 1 + number % 3):
            damaged[place] ^= 1 << int(generator.integers(8))
        (tmp_path / f"{number}.tflite").write_bytes(damaged)
    answer = subprocess.run([sys.executable, "-c", DAMAGED, tmp_path], capture_output=True, text=True, check=False)
    assert answer.stdout.split() == ["60"], answer.stdout + answer.stderr


DAMAGED = """
import os, sys, torch
from pathlib import Path
from ai_edge_litert import interpreter
from dflare.errors import InputError
from dflare.models.litert import open_litert
from dflare.models.shown import Shown
good = 0
for path in Path(sys.argv[1]).glob("[0-9]*.tflite"):
    child = os.fork()
    if child == 0:
        try:
            model = open_litert(path, 1)
            Shown(model, takes=model.takes)(torch.ones(2, 3, 2, 4))
        except InputError:
            pass
        except BaseException as error:
            print(path.name, repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    good += status == 0
    if os.WIFSIGNALED(status):
        print(path.name, "ended by signal", os.WTERMSIG(status), flush=True)
print(good)
"""


@pytest.mark.parametrize("then", ["LOGISTIC", "LOG_SOFTMAX", "EXP"])
def test_what_is_no_softmax_is_returned_as_it_is(tmp_path, images, then):
    apply = {"LOGISTIC": torch.sigmoid, "LOG_SOFTMAX": lambda means: means.log_softmax(-1), "EXP": torch.exp}[then]
    scores = opened(channel_means(tmp_path / "m.tflite", then=then))(images)
    torch.testing.assert_close(scores, apply(images.mean((2, 3))))


def test_a_classifier_in_use_can_be_pickled_and_copied(tmp_path, images):
    classifier = opened(channel_means(tmp_path / "m.tflite"))
    scores = classifier(images)
    for other in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert other.model._opened[1] == {}
        assert torch.equal(other(images), scores)


def test_interpreters_of_another_process_are_not_used(tmp_path, images, monkeypatch):
    classifier = opened(channel_means(tmp_path / "m.tflite"))
    classifier(images)
    interpreters = classifier.model._opened[1]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    classifier(images)
    assert classifier.model._opened[1] is not interpreters


def test_litert_says_nothing_on_stderr(tmp_path, images, capfd):
    opened(channel_means(tmp_path / "m.tflite", then="SOFTMAX"))(images)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shape", [(1, 2, 2, 4), (1, 3, 4, 2), (1, 1, 4, 2), (1, 4, 2, 3)])
def test_images_of_another_size_are_refused_by_numbers(tmp_path, shape):
    _, c, h, w = shape
    words = rf"takes images of 3 channels, got {c}" if c not in (1, 3) else rf"2 x 4 pixels \(height x .*got {h} x {w}"
    with pytest.raises(InputError, match=rf"m\.tflite.*{words}"):
        opened(channel_means(tmp_path / "m.tflite"))(torch.zeros(shape))


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(100), b"\x1c\0\0\0TFL3" + bytes(30)])
def test_files_that_are_no_tflite_are_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "m.tflite").write_bytes(content)
    with pytest.raises(
        InputError, match=r"expected a \.tflite model in .*m\.tflite, but it is cut off or broken: "
    ) as caught:
        open_litert(tmp_path / "m.tflite")
    assert "\n" not in str(caught.value)


def test_half_a_file_is_refused(tmp_path):
    whole = channel_means(tmp_path / "m.tflite").read_bytes()
    (tmp_path / "half.tflite").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"half\.tflite, but it is cut off or broken: it points to byte"):
        open_litert(tmp_path / "half.tflite")


def test_files_that_classify_no_images_are_refused(tmp_path):
    draft = Draft()
    draft.tensor("images", (1, 2, 2, 3))
    draft.tensor("more", (1, 2, 2, 3))
    draft.tensor("flat", (1, 12))
    draft.tensor("numbers", (1, 2, 2, 3), "int64")
    draft.tensor("scores", (1, 2, 2, 3))
    draft.tensor("more scores", (1, 12))
    draft.operator("ADD", ["images", "more"], "scores", "AddOptions")
    path = tmp_path / "m.tflite"
    for inputs, outputs, words in (
        (["images", "more"], ["scores"], "must take one input, the images; it takes 2"),
        (["images"], ["scores", "more scores"], "must return one output, the scores; it returns 2"),
        (["flat"], ["scores"], r"must take images \(n, channels, .*, it takes \(1, 12\)"),
        (["numbers"], ["scores"], "must take images of type float32, .*, it has int64"),
        (["images"], ["numbers"], "must return scores of type float32, .*, it has int64"),
    ):
        with pytest.raises(InputError, match=words):
            open_litert(draft.save(path, inputs, outputs))


def test_unknown_kernels_are_answered_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="must be one of default, builtin, reference, got 'fast'"):
        open_litert(channel_means(tmp_path / "m.tflite"), kernels="fast")


def test_without_the_package_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(InputError, match=r'pip install "dflare\[litert\]"'):
        open_litert(channel_means(tmp_path / "m.tflite"))


CIFAR = {"range": (0, 255), "mean": (125.307, 122.95, 113.865), "std": (62.9932, 62.0887, 66.7048)}
PUBLIC: dict[str, tuple[str, dict[str, Any], float]] = {
    "diffchaser/lenet1": ("mnist", {}, 0.95),
    "diffchaser/lenet1_quant": ("mnist", {}, 0.95),
    "diffchaser/lenet5": ("mnist", {}, 0.95),
    "diffchaser/lenet5_quant": ("mnist", {}, 0.95),
    "diffchaser/resnet": ("cifar10", CIFAR, 0.88),
    "diffchaser/resnet_quant": ("cifar10", CIFAR, 0.88),
    "mlperf_tiny/pretrainedResnet": ("cifar10", {"range": (0, 255)}, 0.84),
    "mlperf_tiny/pretrainedResnet_quant": ("cifar10", {}, 0.84),
}
"""Published file -> images it knows, what it wants to see, and an accuracy that only the right numbers reach."""


@pytest.fixture(scope="module")
def real() -> dict[str, tuple[Tensor, Tensor]]:
    """The first 300 test images of each set, in [0, 1], with labels."""
    spec = importlib.util.spec_from_file_location("bench_data", BENCH / "data" / "load.py")
    assert spec is not None
    assert spec.loader is not None
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    sets = {"mnist": load.mnist("t10k"), "cifar10": load.cifar10("test")}
    return {
        name: (to_unit(torch.from_numpy(images[:300].copy())), torch.from_numpy(labels[:300].copy()))
        for name, (images, labels) in sets.items()
    }


def accuracy(scores: Tensor, labels: Tensor) -> float:
    return float((scores.argmax(-1) == labels).float().mean())


@needs_bench
@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC)
def test_public_files_know_real_images_and_only_in_the_right_layout(real, name):
    images, labels = real[PUBLIC[name][0]]
    _, numbers, least = PUBLIC[name]
    classifier = opened(BENCH / "models" / f"{name}.tflite", **numbers)
    assert accuracy(classifier(images), labels) > least
    assert accuracy(classifier(images.transpose(2, 3)), labels) < least - 0.15
    slipped = images.permute(0, 2, 3, 1).reshape(images.shape) if images.shape[1] > 1 else images.flip(2)
    assert accuracy(classifier(slipped), labels) < least - 0.15


@needs_bench
@pytest.mark.slow
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", PUBLIC)
def test_public_files_answer_with_the_same_bits_in_any_batch(real, name, kernels):
    images, labels = (part[:130] for part in real[PUBLIC[name][0]])
    _, numbers, least = PUBLIC[name]
    classifier = opened(BENCH / "models" / f"{name}.tflite", kernels, **numbers)
    scores = classifier(images)
    assert accuracy(scores, labels) > least - 0.05
    for size in (1, 7, 64):
        assert torch.equal(torch.cat([classifier(part) for part in images.split(size)]), scores)


@needs_bench
@pytest.mark.slow
def test_other_kernels_change_answers_of_an_int8_file(real):
    images = real["cifar10"][0]
    path = BENCH / "models" / "mlperf_tiny" / "pretrainedResnet_quant.tflite"
    default, reference = (opened(path, name)(images) for name in ("default", "reference"))
    changed = int((default.argmax(-1) != reference.argmax(-1)).sum())
    assert 0 < changed < 30
