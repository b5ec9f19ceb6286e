"""What is counted for a pair of published models, and when a row is off."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import real_pairs
from akamaster import resnet20
from dflare.errors import InputError
from published import Model, Published, find_published
from real_pairs import Answers, Images, Row, counted, line

PAIR = Published("toy", "mnist", Model("a"), Model("b"), differing=3, deviating=1, accuracies=(1.0, None))


def toy_row(pair: Published = PAIR) -> Row:
    """Four images: the models agree, tie on the original's side, tie on the other's, and deviate."""
    original = torch.tensor([[2.0, 1, 0], [2, 2, 0], [2, 1, 0], [2, 1, 0]])
    compressed = torch.tensor([[5.0, 1, 0], [1, 2, 0], [3, 1, 3], [0, 1, 0]])
    test = Images(torch.zeros(4, 1, 2, 2).byte(), torch.tensor([0, 0, 0, 1]), torch.tensor([True, True, True, False]))
    return counted(pair, Answers(original, 10.0), Answers(compressed, 20.0), test)


def test_labels_that_differ_are_deviations_or_ties_and_each_is_counted() -> None:
    row = toy_row()
    assert (row.differing, row.deviating, row.tied) == (2, 1, 1)
    assert row.tied_answers == (1, 1)
    assert row.right == (3, 3)
    assert (row.lossless_images, row.lossless_differing) == (3, 1)


def test_a_count_may_be_off_by_two_images_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert toy_row().verdict == "ok"  # 2 differ where 3 were published; 3 answers are right, of 4
    off = toy_row(replace(PAIR, differing=5))
    assert off.off == ["differing 2, published 5"]
    assert off.verdict == "off"
    assert toy_row(replace(PAIR, accuracies=(0.0, None))).off == ["right answers of the original 3, published 0"]
    assert toy_row(replace(PAIR, deviating=4)).off == ["deviating 1, published 4"]
    assert toy_row(replace(PAIR, differing=None)).verdict == "-"
    monkeypatch.setitem(real_pairs.EXPLAINED, "toy", "because")
    assert off.verdict == "explained"


def test_a_line_has_a_cell_for_every_heading() -> None:
    for pair in (PAIR, replace(PAIR, differing=None, deviating=None, accuracies=(None, None))):
        assert len(line(toy_row(pair)).split(" | ")) == len(real_pairs.HEADINGS)
    assert line(toy_row()) == "| `toy` | 75.00 (100.00) | 75.00 | 2 | 3 | 1 | 1 (1) | 1 | 1 | 1 | 10 | 20 | ok |"


def test_akamasters_network_has_the_published_number_of_parameters_and_takes_any_batch() -> None:
    network = resnet20().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 269_722
    assert network(torch.rand(3, 3, 32, 32)).shape == (3, 10)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of third-party figures and nothing else."""
    figures = {"accuracy": 0.9, "deviates_on_test": 7}
    for name in ("mnist_lenet-5", "mnist_simplecnn", "cifar-10_resnet20"):
        (tmp_path / "models" / name).mkdir(parents=True)
        measured = {
            **dict.fromkeys(("original", "distilled", "pruned"), figures),
            "int8.onnx": {"accuracy": 0.8, "deviates_on_test": 16},
            "int8.pt2": {"accuracy": 0.7, "deviates_on_test": 5},
        }
        (tmp_path / "models" / name / "measured.json").write_text(json.dumps(measured))
    monkeypatch.setenv("DFLARE_BENCH", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("bench")
def test_pairs_have_the_figures_of_the_compressed_file_in_its_own_format() -> None:
    pairs = {pair.name: pair for pair in find_published(None)}
    assert len(pairs) == 3 * 8 + 3 + 6 + 1
    mixed = pairs["mnist_lenet-5-int8-onnx-pt2"]
    assert (mixed.original.file, mixed.compressed.file) == ("mnist_lenet-5/original.onnx", "mnist_lenet-5/int8.pt2")
    assert (mixed.differing, mixed.accuracies) == (5, (0.9, 0.7))
    assert pairs["mnist_lenet-5-int8-pt2-onnx"].differing == 16
    assert pairs["mnist_lenet-5-distilled-pt2"].differing == 7
    assert {pair.data for pair in find_published(None, quick=True)} == {"mnist", "cifar10"}


def test_unknown_pairs_and_missing_figures_are_refused_in_one_sentence(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"--pairs must be some of .*mlperf_tiny-default.*, got 'lenet9'"):
        find_published("diffchaser-lenet1,lenet9")
    (bench / "models" / "mnist_lenet-5" / "measured.json").unlink()
    threads = torch.get_num_threads()
    try:
        assert real_pairs.main(["--quick"]) == 2
    finally:
        torch.set_num_threads(threads)
    assert "expected published figures at" in capsys.readouterr().err
