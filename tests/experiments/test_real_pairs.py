"""Published models on all their test images: as many labels differ as was published, within two images."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("cv2", reason="the benchmark group is not installed: pip install --group benchmark")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # whose modules are scripts beside each other

from pairs import bench_folder
from published import find_published
from real_pairs import Row, answers, measure

BENCH = all((bench_folder() / name).is_dir() for name in ("models", "data"))

FORMS = (
    *("distilled-onnx", "distilled-pt2", "pruned-onnx", "pruned-pt2"),
    *("int8-onnx", "int8-pt2", "int8-onnx-pt2", "int8-pt2-onnx"),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BENCH, reason="no models and data under $DFLARE_BENCH (default ../shared)"),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    answers.cache_clear()


def measured(*names: str) -> dict[str, Row]:
    """Pairs by name on all their test images; none is off."""
    rows = {pair.name: measure(pair) for pair in find_published(",".join(names))}
    assert {name: row.off for name, row in rows.items() if row.off} == {}
    assert all(row.pair.differing is not None for row in rows.values())
    assert {row.images for row in rows.values()} == {10_000}
    return rows


@pytest.mark.parametrize("network", ["mnist_lenet-5", "mnist_simplecnn"])
def test_the_third_party_pairs_differ_as_published_in_each_format_and_mixed(network: str) -> None:
    rows = measured(*(f"{network}-{form}" for form in FORMS))
    for form in ("int8-onnx", "int8-pt2-onnx"):  # quantised scores: where labels differ, the tops are tied
        row = rows[f"{network}-{form}"]
        assert (row.deviating, row.tied) == (0, row.differing)
    for row in (rows[f"{network}-int8-pt2"], rows[f"{network}-distilled-onnx"]):  # float scores never tie
        assert (row.deviating, row.tied) == (row.differing, 0)


def test_the_third_party_int8_resnet20_differs_as_published() -> None:
    measured("cifar-10_resnet20-int8-onnx")


def test_diffchasers_lenets_differ_on_9_and_5_images() -> None:
    assert [row.pair.differing for row in measured("diffchaser-lenet1", "diffchaser-lenet5").values()] == [9, 5]


def test_diffchasers_resnet20_differs_on_60_images() -> None:
    assert measured("diffchaser-resnet")["diffchaser-resnet"].pair.differing == 60


def test_mlperf_tinys_resnet8_differs_on_246_images_of_which_206_are_no_ties() -> None:
    row = measured("mlperf_tiny-default")["mlperf_tiny-default"]
    assert (row.pair.differing, row.pair.deviating) == (246, 206)
    assert 0 < row.tied < row.tied_answers[1]
