"""Backends, batches and workers: what is measured, on small models."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import runtimes
from backends import Backend, backends, fix_batch, network, shape_of
from crowding import SETUPS, Asked, Crowd, Workers
from dflare.errors import InputError
from dflare.models.opening import open_classifier
from experiments.networks import ARCHITECTURES
from experiments.quantization import export_onnx
from pairs import bench_folder
from throughput import BATCHES, Cell, Effort, Fixed, beside, noise, throughput, timed

MODULE = Backend("LeNet-5", "float", "nn.Module")
SHORT = Effort(seconds=0.001, repeats=1, crowd_seconds=0.05)

needs_bench = pytest.mark.skipif(
    not (bench_folder() / "models").is_dir(), reason="no models under $DFLARE_BENCH (default ../shared)"
)


def test_every_network_has_every_runtime_in_both_forms() -> None:
    names = {one.name for one in backends()}
    assert len(names) == 8 + 7 + 8 + 7 + 3 + 3
    assert {"LeNet-5 int8 .onnx unoptimized", "ResNet-20 float nn.Module", "ResNet-8 int8 .tflite builtin"} <= names
    assert {one.network for one in backends("ResNet-8,LeNet-5")} == {"ResNet-8", "LeNet-5"}
    with pytest.raises(InputError, match="--networks must be some of LeNet-5, ResNet-20, ResNet-8, got 'VGG'"):
        backends("VGG")


def test_every_question_counts_with_all_its_images() -> None:
    asked = []

    def classifier(images: Tensor) -> Tensor:
        asked.append(len(images))
        return images.flatten(1)

    rate, wall_rate = timed(classifier, noise((1, 2, 2), 5), 0)
    assert asked == [5]
    assert rate > 0
    assert wall_rate > 0
    timed(classifier, noise((1, 2, 2), 5), 0.01)
    assert len(asked) > 10


@pytest.mark.parametrize("form", ["float", "int8"])
@pytest.mark.skipif(
    "x86" not in torch.backends.quantized.supported_engines, reason="torch has its x86 kernels on x86 only"
)
def test_torchscript_is_made_of_the_same_network_and_answers_like_it(form: str, tmp_path: Path) -> None:
    images = noise((1, 28, 28), 7)
    made = Backend("LeNet-5", form, "TorchScript").open(1, tmp_path)(images)
    furthest = (made - network("LeNet-5")(images)).abs().max()
    assert furthest < (1e-6 if form == "float" else 0.02)
    assert (furthest > 1e-4) == (form == "int8")


@pytest.mark.slow
def test_a_file_of_a_fixed_batch_answers_any_number_of_images_with_the_same_bits(tmp_path: Path) -> None:
    free, fixed = tmp_path / "free.onnx", tmp_path / "fixed.onnx"
    shape = shape_of("LeNet-5")
    export_onnx(ARCHITECTURES["lenet5"].original(), shape, free)
    fix_batch(free, 3, fixed)
    classifier = open_classifier(fixed, threads=1)
    assert classifier.takes.batches == (3, 3)
    found = beside(classifier, open_classifier(free, threads=1), "free.onnx", 3, shape, SHORT)
    assert (found.unequal, found.furthest, found.scores) == (0, 0, 26 * 10)
    assert set(found.rates) == {1, 8, 64}


def test_throughput_has_a_cell_for_every_backend_and_batch(tmp_path: Path) -> None:
    cells = throughput([MODULE], SHORT, tmp_path)
    assert [cell.batch for cell in cells] == list(BATCHES)
    assert all(cell.rate > 0 and cell.wall_rate > 0 for cell in cells)
    lines = runtimes.throughput_lines(cells)
    assert len(lines) == 3
    assert len({one.count("|") for one in lines}) == 1


def test_figures_name_the_slowest_backend_and_the_workers_that_fight() -> None:
    onnx = replace(MODULE, runtime=".onnx")
    cells = [Cell(one, batch, rate * batch, 1.0) for one, rate in ((MODULE, 2.0), (onnx, 4.0)) for batch in BATCHES]
    cells[1] = replace(cells[1], rate=1.0)  # 16 images at once are slower than one
    quiet = Crowd("a", 64, {name: Asked(10.0 * count, 1.0) for name, (count, _) in SETUPS.items()})
    loud = Crowd("b", 64, {name: Asked(10.0, float(count)) for name, (count, _) in SETUPS.items()})
    fixed = [Fixed("a", 8, 100, unequal=3, furthest=0.1, rates={})]
    found = {figure.name.split(",")[0]: figure for figure in runtimes.figures(cells, fixed, [quiet, loud])}
    assert found["any batch against one image at a time"].measured == 0.5
    assert found["scores of files with a fixed batch that are other bits"].measured == 3
    assert found["time of the processors an image"].measured == 2
    assert {figure.verdict for figure in runtimes.figures(cells, fixed, [quiet, loud])} == {"short", "ok"}
    assert runtimes.figures(cells[4:], [], [quiet])[2].verdict == "ok"
    assert len(runtimes.crowd_lines([quiet, loud])) == 4
    assert "1.00" in runtimes.throughput_lines(cells)[-1]
    assert runtimes.fixed_lines(fixed)[-1].startswith("| `a` | 8 | 3 of 100 | 1.0e-01")


@pytest.mark.slow
def test_workers_ask_side_by_side_and_one_that_fails_says_why(tmp_path: Path) -> None:
    with Workers(tmp_path) as workers:
        crowd = workers.compare(MODULE, 4, 0.2, 1)
        assert set(crowd.asked) == set(SETUPS)
        assert all(asked.rate > 0 and asked.cost > 0 for asked in crowd.asked.values())
        with pytest.raises(
            RuntimeError, match=r"a worker on LeNet-5 float \.onnx failed: InputError: expected .*no-such"
        ):
            workers.compare(replace(MODULE, runtime=".onnx", file="no-such.onnx"), 4, 0.2, 1)


@needs_bench
@pytest.mark.slow
@pytest.mark.parametrize("backend", backends(), ids=lambda backend: backend.name)
def test_every_backend_opens_and_answers_alone_as_in_a_batch(backend: Backend, tmp_path: Path) -> None:
    classifier, images = backend.open(1, tmp_path), noise(backend.shape, 3)
    with torch.inference_mode():
        together, alone = classifier(images), torch.cat([classifier(one) for one in images.split(1)])
    assert together.shape == (3, 10)
    # an int8 network may round an activation to the next step in another batch
    assert torch.allclose(together, alone, atol=1e-3 if backend.form == "float" else 1.0)
    assert torch.equal(together.argmax(-1), alone.argmax(-1))
