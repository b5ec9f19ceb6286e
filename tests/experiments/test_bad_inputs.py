"""Bad input of every kind: one sentence on stderr, exit code 2, no traceback, and nothing left behind."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn


class Flat(nn.Module):
    """Scores of any image, from a weight for every value; `special` says what becomes of them."""

    def __init__(self, values: int, classes: int, special: str = "") -> None:
        super().__init__()
        self.weight, self.special = nn.Parameter(torch.ones(values, classes) / values), special

    def forward(self, images: Tensor) -> Tensor:
        scores = images.flatten(1) @ self.weight
        if self.special == "nan":
            return scores * float("nan")
        if self.special == "nan-for-bright":
            return torch.where(images.amax((1, 2, 3))[:, None] > 0.8, float("nan"), scores)
        if self.special == "one-answer":
            return scores.sum(-1)
        return scores + torch.tensor([0.0] * (scores.shape[1] - 1) + [9.0 if self.special == "last" else -9.0])


@pytest.fixture(scope="module")
def bad(toys: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of model files and image folders that fit nothing."""
    folder = tmp_path_factory.mktemp("bad")
    models = {
        "grey": (Flat(64, 3), (1, 8, 8)),
        "large": (Flat(3 * 256, 3), (3, 16, 16)),
        "four-classes": (Flat(192, 4), (3, 8, 8)),
        "first": (Flat(192, 2), (3, 8, 8)),
        "last": (Flat(192, 2, "last"), (3, 8, 8)),
        "nan": (Flat(192, 3, "nan"), (3, 8, 8)),
        "nan-for-bright": (Flat(192, 3, "nan-for-bright"), (3, 8, 8)),
        "one-answer": (Flat(192, 3, "one-answer"), (3, 8, 8)),
    }
    for name, (model, shape) in models.items():
        toys.save(name, model, shape)
        toys.model(name).rename(folder / f"{name}.pt2")
    (folder / "text.pt2").write_text("this is no model")
    (folder / "text.onnx").write_text("this is no model")
    (folder / "text.tflite").write_text("this is no model")
    (folder / "half.pt2").write_bytes((folder / "nan.pt2").read_bytes()[:2000])
    (folder / "empty").mkdir()
    (folder / "empty class" / "cats").mkdir(parents=True)
    (folder / "no images" / "cats").mkdir(parents=True)
    (folder / "no images" / "cats" / "cat.png").write_text("meow")
    (folder / "one image" / "cats").mkdir(parents=True)
    shutil.copyfile(toys.images / "0-red" / "0.png", folder / "one image" / "cats" / "0.png")
    (folder / "file").touch()
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.txt").touch()
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    """What lies in the files of a run; the settings that may change, such as `data.root`, are taken over at once."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "config.yaml"))
    return {path: path.read_bytes() for path in files}


def assert_refused(answer: Any, words: str) -> None:
    assert answer.code == 2
    assert answer.out == ""
    assert re.fullmatch(r"dflare: error: [^\n]+\n", answer.err), answer.err
    assert re.search(words, answer.err), answer.err


TABLE: list[tuple[str, dict[str, Any], str]] = [
    ("unknown key", {"search__seedz": 3}, r"unknown key search\.seedz .*did you mean search\.seeds\?"),
    ("wrong type", {"search__seeds": "many"}, r"wrong value for search\.seeds .*many"),
    ("number out of range", {"repair__replay": 2}, r"repair\.replay must be in \[0, 1\], got 2"),
    ("unknown strategy", {"search__strategy": "best"}, "search.strategy must be one of dflare, .*got 'best'"),
    ("unknown mutation", {"search__mutations": "[warp]"}, "search.mutations must be some of .*got 'warp'"),
    ("no mutation", {"search__mutations": "[]"}, "search.mutations must be some of .*got none"),
    ("unknown recipe", {"repair__recipe": "magic"}, "repair.recipe must be one of imitation, .*got 'magic'"),
    ("missing recipe", {"repair__recipe": "my.yaml"}, "repair.recipe must name a file .*found none at my.yaml"),
    (
        "scales of floats",
        {"repair__recipe": "scales"},
        "free=scales of the .*recipe names no weight",
    ),
    (
        "rounding of floats",
        {"repair__recipe": "rounding"},
        "rounding=learned .* needs free weights on grids",
    ),
    ("half precision on a CPU", {"trainer__precision": "16-mixed"}, "trainer.precision=16-mixed needs a GPU"),
    ("unknown strategy of training", {"trainer__strategy": "dpp"}, "trainer.strategy must be auto or .*got 'dpp'"),
    ("shares beyond 1", {"split__train": 0.9}, "split.judge must sum to 1, got 1.3"),
    ("a share of nothing", {"split__train": 0.8, "split__judge": 0}, r"split\.judge must be above 0, got 0"),
    ("unknown data", {"data__name": "animals"}, "data.name must be one of digits, .*got 'animals'"),
    ("images without a place", {"data__root": None}, "needs data.root"),
    ("missing images", {"data__root": "{bad}/nowhere"}, "expected a folder of images at .*nowhere"),
    ("empty image folder", {"data__root": "{bad}/empty"}, r"expected image files \(.*\) in .*empty, found none"),
    ("empty class", {"data__root": "{bad}/empty class"}, r"expected image files \(.*\) in .*cats, found none"),
    ("no images", {"data__root": "{bad}/no images"}, r"expected an image file at .*cat\.png"),
    ("a side without images", {"data__root": "{bad}/one image"}, r"split\.\w+ leaves none of the"),
    ("missing model", {"pair__original": "{bad}/none.pt2"}, r"expected a model file at .*none\.pt2, found none"),
    ("missing compressed", {"pair__compressed": "{bad}/none.onnx"}, r"expected a model file at .*none\.onnx"),
    ("a folder as model", {"pair__compressed": "{bad}/empty"}, r"expected a model file, but .*empty is a folder"),
    ("a text as model", {"pair__compressed": "{bad}/text.pt2"}, r"in .*text\.pt2, but it looks like text"),
    ("a text as onnx", {"pair__compressed": "{bad}/text.onnx"}, r"text\.onnx"),
    ("a text as tflite", {"pair__compressed": "{bad}/text.tflite"}, r"text\.tflite"),
    ("half a model", {"pair__compressed": "{bad}/half.pt2"}, r"half\.pt2"),
    ("large model", {"pair__original": "{bad}/large.pt2"}, r"pruned\.pt2 takes images of 8 x 8 pixels .*got 16 x 16"),
    ("large images", {"data__image_size": 16}, r"takes images of 8 x 8 pixels .*got 16 x 16; set data\.image_size"),
    ("other classes", {"pair__compressed": "{bad}/four-classes.pt2"}, "same classes, got 3 .* and 4 "),
    ("NaN", {"pair__compressed": "{bad}/nan.pt2"}, "compressed model must return finite scores, got NaN"),
    ("NaN of the original", {"pair__original": "{bad}/nan.pt2"}, "original model must return finite scores"),
    ("no scores", {"pair__compressed": "{bad}/one-answer.pt2"}, r"one-answer\.pt2 must return scores of shape"),
    ("a file as run_dir", {"run_dir": "{bad}/file"}, "run_dir must be a folder, got the file"),
    ("a foreign folder as run_dir", {"run_dir": "{bad}/foreign"}, "which has files but no config.yaml"),
    ("a pair twice", {"pair__name": "digits-cnn-int8"}, "expected either pair.name or pair.original"),
    ("no range", {"models__both__range": "[0,0]"}, r"models\.both\.range must be two numbers"),
    ("a mean for two channels", {"models__both__mean": "[1,2]"}, "mean of .* must have 1 or 3 numbers .*got 2"),
    ("half a pair", {"pair__compressed": None}, "pair.compressed is missing"),
]


@pytest.mark.parametrize(("changes", "words"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_bad_input_is_refused_in_one_sentence_and_leaves_nothing(
    changes: dict[str, Any], words: str, dflare: Callable[..., Any], toys: Any, bad: Path, tmp_path: Path
):
    places = {key: value.format(bad=bad) if isinstance(value, str) else value for key, value in changes.items()}
    before = set(bad.rglob("*"))
    settings = toys.settings(places.pop("run_dir", tmp_path / "run"), **places)
    assert_refused(dflare("loop", *settings), words)
    assert list(tmp_path.iterdir()) == []
    assert set(bad.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{bad}/missing.yaml",), r"expected a configuration file, found none at .*missing\.yaml"),
        (("mnist-lenet7",), r"did you mean mnist-lenet\d\?"),
        (("{bad}/text.pt2",), "unknown key this is no model"),
        (("pair.name=digits-cnn-destilled",), "digits-cnn-distilled.*got 'digits-cnn-destilled'"),
        (("pair.name=mnist-lenet5-distilled", "data.name=digits"), r"is made from mnist \(data\.name\), got digits"),
    ],
)
def test_bad_input_without_a_pair_of_files(
    arguments: tuple[str, ...], words: str, dflare: Callable[..., Any], bad: Path, tmp_path: Path
):
    answer = dflare("loop", *(argument.format(bad=bad) for argument in arguments), f"run_dir={tmp_path / 'run'}")
    assert_refused(answer, words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_pair_that_agrees_on_no_seed_is_refused(dflare: Callable[..., Any], toys: Any, bad: Path, tmp_path: Path):
    pair = {"pair__original": bad / "first.pt2", "pair__compressed": bad / "last.pt2"}
    settings = toys.settings(tmp_path / "run", **pair)
    assert_refused(dflare("loop", *settings), r"agree on 0\.0 % of .* real images, expected 70 %")
    answer = dflare("loop", *settings, "preflight.min_agreement=0")
    assert answer.code == 2
    *warnings, error = answer.err.splitlines()
    assert all("warning: " in warning for warning in warnings)
    assert re.search(
        "error: expected a seed on which the pair agrees, .* deviate on all 8 seeds of the judge side", error
    )
    assert dflare("loop", *settings, "preflight.min_agreement=0") == answer


def test_nan_that_comes_late_is_refused_and_the_folder_stays_usable(
    dflare: Callable[..., Any], toys: Any, bad: Path, tmp_path: Path
):
    settings = toys.settings(tmp_path / "run", pair__compressed=bad / "nan-for-bright.pt2")
    for _ in range(2):
        assert_refused(dflare("loop", *settings), "compressed model must return finite scores, got NaN")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "was made with seed=0, now it is 1; choose another run_dir"),
        ({"search__seeds": 5}, "was made with search.seeds=12, now it is 5"),
        ({"pair__compressed": "{toys}/original.pt2"}, "was made with pair.compressed="),
        ({"data__root": "{bad}/images"}, r"was begun with other images \(\w+"),
    ],
)
def test_the_run_folder_of_another_configuration_is_refused(
    changes: dict[str, Any],
    words: str,
    dflare: Callable[..., Any],
    toys: Any,
    bad: Path,
    finished: Path,
    tmp_path: Path,
):
    if not (bad / "images").exists():
        shutil.copytree(toys.images, bad / "images", ignore=shutil.ignore_patterns("1*.png"))
    places = {k: v.format(bad=bad, toys=toys.folder) if isinstance(v, str) else v for k, v in changes.items()}
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    before = contents(folder)
    assert_refused(dflare("loop", *toys.settings(folder, **{"loop__rounds": 2, **places})), words)
    assert contents(folder) == before


def test_a_run_folder_in_use_is_refused(dflare: Callable[..., Any], toys: Any, tmp_path: Path):
    with FileLock(tmp_path / ".lock"):
        assert_refused(dflare("search", *toys.settings(tmp_path)), "another process is working in")


@pytest.mark.parametrize(("verb", "words"), [("repair", "`dflare search` first"), ("retest", "`dflare repair` first")])
def test_a_verb_before_its_turn_is_refused_and_leaves_nothing(
    verb: str, words: str, dflare: Callable[..., Any], toys: Any, tmp_path: Path
):
    assert_refused(dflare(verb, *toys.settings(tmp_path / "run")), words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_repair_after_half_a_search_is_refused(dflare: Callable[..., Any], toys: Any, finished: Path, tmp_path: Path):
    triggers = tmp_path / "run" / "round-00" / "triggers"
    shutil.copytree(finished / "round-00" / "triggers", triggers)
    shutil.copyfile(finished / "config.yaml", tmp_path / "run" / "config.yaml")
    max(triggers.glob("triggers-*.npz")).unlink()
    assert_refused(dflare("repair", *toys.settings(tmp_path / "run")), "none or not all; run `dflare search` first")
    assert dflare("search", *toys.settings(tmp_path / "run")).code == 0
    assert dflare("repair", *toys.settings(tmp_path / "run")).code == 0


@pytest.mark.parametrize("place", ["{bad}/empty", "{bad}/nowhere", "{bad}/foreign", "{bad}/file"])
def test_a_report_of_no_run_folder_is_refused(place: str, dflare: Callable[..., Any], bad: Path):
    before = set(bad.rglob("*"))
    assert_refused(dflare("report", place.format(bad=bad)), "expected the settings of a run in")
    assert set(bad.rglob("*")) == before


@pytest.mark.slow
def test_a_second_process_on_one_run_folder_is_refused(console: Callable[..., Any], toys: Any, tmp_path: Path):
    with FileLock(tmp_path / "run" / ".lock"):
        answer = console("search", *toys.settings(tmp_path / "run"))
    assert_refused(answer, "another process is working in .*run; wait for it or choose another run_dir")
