"""The shipped configurations run: MNIST in full, the others with `fast_dev` where their data is."""

import json
import os
import shutil
from pathlib import Path

import pytest

from experiments.main import main

BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[2].parent / "shared")) / "data"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    """One cache of trained models for this file, so that each original is trained once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFLARE_CACHE", str(folder))
        yield folder


def run(folder: Path, *arguments: str) -> dict:
    """The report of one loop."""
    code = main(["loop", *arguments, f"run_dir={folder}"])
    assert code in (0, 1)
    return json.loads((folder / "report.json").read_text())


@pytest.mark.skipif(not (BENCH / "MNIST").is_dir(), reason=f"needs MNIST in {BENCH} (set DFLARE_BENCH)")
@pytest.mark.parametrize(("config", "form"), [("mnist-lenet1", "distilled"), ("mnist-lenet5", "int8")])
def test_mnist_configurations_train_search_repair_and_retest(cache: Path, tmp_path: Path, config: str, form: str):
    """The whole job on all of MNIST, with fewer seeds than the configuration asks for."""
    seeds = ["search.seeds=200", "search.validate_seeds=60", "search.judge_seeds=60", "search.max_queries=100"]
    brief = [
        "repair.steps=400",
        "probe.images=5000",
        "gate.max_drawdown=null",
    ]  # so short a repair may break too much, but is looked at
    report = run(tmp_path / "run", config, f"pair.name={config}-{form}", f"data.root={BENCH}", *seeds, *brief)
    headline = report["headline"]
    assert headline["accuracy"]["original"]["value"] >= 0.975
    assert headline["accuracy"]["original"]["n"] == 10_000
    assert headline["search"]["before"]["found"] > 0
    assert headline["repair"]["probe_after"]["n"] == 5000
    assert headline["repair"]["generalization"]["value"] > headline["noop"]["repair"]["generalization"]["value"]
    assert headline["cost"]["payload_after"] == headline["cost"]["payload_before"]


@pytest.mark.skipif(not (BENCH / "cifar10").is_dir(), reason=f"needs CIFAR-10 in {BENCH} (set DFLARE_BENCH)")
@pytest.mark.parametrize(
    ("config", "form"),
    [("cifar10-resnet20", "distilled"), ("cifar10-plainnet20", "pruned"), ("cifar10-vgg16", "int8")],
)
def test_cifar_configurations_run_with_fast_dev(cache: Path, tmp_path: Path, config: str, form: str):
    """Two batches of training, eight seeds: no accuracy is claimed."""
    report = run(tmp_path / "run", config, f"pair.name={config}-{form}", f"data.root={BENCH}", "fast_dev=true")
    search = report["headline"]["search"]["before"]
    assert search["seeds"] == 8
    assert search["found"] + search["already"] + search["censored"] == 8


@pytest.mark.skipif(not (BENCH / "MNIST").is_dir(), reason=f"needs MNIST in {BENCH} (set DFLARE_BENCH)")
def test_the_fashion_mnist_configuration_runs_with_fast_dev_on_files_of_its_kind(cache: Path, tmp_path: Path):
    """MNIST's files stand in for Fashion-MNIST's, which have the same names, format and size."""
    shutil.copytree(BENCH / "MNIST", tmp_path / "FashionMNIST")
    report = run(tmp_path / "run", "fashion_mnist-resnet8", f"data.root={tmp_path}", "fast_dev=true")
    assert report["headline"]["search"]["before"]["seeds"] == 8
