"""A grid of runs: which runs it makes, that they are done once, and what the tables say of them."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dflare.errors import InputError
from experiments.ablating import load_ablation, shipped_ablations
from experiments.ablation_grid import make_grid
from experiments.ablation_report import write_ablation
from experiments.ablation_results import MEASURES
from experiments.boxplots import boxplot
from tests.experiments.conftest import Toys

GRID = "ablate.grid.search.strategy=[dflare,random]"


def grid_of(*arguments: str) -> Any:
    return make_grid(load_ablation(list(arguments)))


def test_every_combination_is_run_once_a_seed():
    grid = grid_of(GRID, "ablate.grid.repair.replay=[0.0,0.5]", "ablate.seeds=2", "seed=7")
    assert len(grid.cells) == 8
    assert len({cell.name for cell in grid.cells}) == 8
    assert {cell.seed for cell in grid.cells} == {7, 8}
    assert grid.arms[0] == grid.baseline == "strategy=dflare, replay=0.0"
    settings = {(cell.settings["search"]["strategy"], cell.settings["repair"]["replay"]) for cell in grid.cells}
    assert settings == {("dflare", 0.0), ("dflare", 0.5), ("random", 0.0), ("random", 0.5)}


def test_pairs_are_blocks_and_no_arms():
    grid = grid_of(GRID, "ablate.grid.pair.name=[digits-cnn-pruned,digits-cnn-int8]")
    assert grid.arms == ("strategy=dflare", "strategy=random")
    assert grid.blocks == ("name=digits-cnn-pruned", "name=digits-cnn-int8")


def test_named_arms_change_settings_together(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("ablate:\n  arms:\n    usual: {}\n    light: {search.strategy: random, repair: {replay: 0.1}}\n")
    grid = grid_of(str(path))
    assert grid.arms == ("usual", "light")
    light = next(cell for cell in grid.cells if cell.arm == "light")
    assert (light.settings["search"]["strategy"], light.settings["repair"]["replay"]) == ("random", 0.1)


def test_a_run_has_another_folder_where_its_settings_differ():
    names = {cell.name for seeds in (60, 61) for cell in grid_of(GRID, f"search.seeds={seeds}").cells}
    assert len(names) == 12
    assert all(re.fullmatch(r"[A-Za-z0-9._+-]+", name) for name in names)


@pytest.mark.parametrize("name", shipped_ablations())
def test_the_shipped_ablations_are_read_and_vary_something(name):
    grid = grid_of(name, "digits-cnn")
    assert len(grid.arms) > 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "an ablation needs something to vary"),
        (["ablate.grid.search.strategy=dflare"], "ablate.grid.search.strategy must be a list of values"),
        (["ablate.grid.search.strategy=[]"], "must be a list of values"),
        (["ablate.grid.search.strateg=[dflare]"], "search.strateg"),
        (["ablate.grid.search.strategy=[dflare,nonsense]"], "search.strategy must be one of"),
        (["ablate.grid.repair.recipe=[imitation,nonsense]"], "repair.recipe must be one of"),
        (["ablate.grid.repair.replay=[0.5,2]"], "repair.replay must be in [0, 1], got 2"),
        (["ablate.grid.seed=[1,2]"], "ablate.grid cannot vary seed"),
        ([GRID, "ablate.baseline=strategy=randon"], "did you mean strategy=random?"),
        ([GRID, "ablate.seeds=0"], "ablate.seeds must be in [1, 10000], got 0"),
        ([GRID, "ablate.jobs=0"], "ablate.jobs must be in [1, 1024], got 0"),
        ([GRID, "ablate.verb=repair"], "ablate.verb must be one of loop, search, got 'repair'"),
        ([GRID, "ablate.sedes=2"], "unknown key ablate.sedes"),
        (["ablate.grid.search.strategy=[dflare,dflare]"], "come to the same settings"),
        ([GRID, "run_dir=runs/a=b"], "a path without ="),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence_before_any_run(arguments, said):
    with pytest.raises(InputError, match=re.escape(said)):
        load_ablation(arguments)


def finished(grid: Any, **figures: Callable[[str, int], float]) -> list[dict[str, Any]]:
    return [
        {"arm": cell.arm, "block": cell.block, "seed": cell.seed, "run": cell.name}
        | dict.fromkeys(MEASURES)
        | {name: figure(cell.arm, cell.seed) for name, figure in figures.items()}
        for cell in grid.cells
    ]


def test_tables_hold_means_and_comparisons_that_can_be_reckoned_by_hand(tmp_path):
    grid = grid_of(GRID, "ablate.seeds=3")
    done = finished(grid, generalization=lambda arm, seed: (0.8 if arm.endswith("dflare") else 0.5) + 0.01 * seed)
    found = write_ablation(tmp_path, grid, done, "loop")
    figures = found["blocks"][0]["figures"]["generalization"]
    assert figures["means"]["strategy=dflare"]["value"] == pytest.approx(0.81)
    against = figures["against_baseline"]["strategy=random"]
    assert (against["a12"], against["effect"]) == (0.0, "large")
    assert against["p"] == pytest.approx(0.1)
    assert found["blocks"][0]["figures"]["drawdown"]["means"]["strategy=dflare"]["value"] is None
    page = (tmp_path / "ablation.md").read_text()
    assert "| strategy=dflare | 81.0 % [78.5 %, 83.5 %] |" in page
    assert "cannot reach a p below 0.1" in page
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert lines == done
    with (tmp_path / "results.csv").open() as file:
        assert [row["arm"] for row in csv.DictReader(file)] == [cell.arm for cell in grid.cells]


def test_arms_are_compared_within_a_pair_and_never_across(tmp_path):
    grid = grid_of(GRID, "ablate.grid.pair.name=[digits-cnn-pruned,digits-cnn-int8]", "ablate.seeds=2")
    done = finished(grid, generalization=lambda arm, seed: 0.5)
    for run in done:
        run["generalization"] += 0.3 * run["block"].endswith("int8")
    blocks = write_ablation(tmp_path, grid, done, "loop")["blocks"]
    values = [block["figures"]["generalization"]["means"]["strategy=dflare"]["value"] for block in blocks]
    assert values == pytest.approx([0.5, 0.8])


def test_a_box_plot_shows_every_run_and_escapes_its_names():
    picture = boxplot("a < b", {"x<script>": [1.0, 2.0, 4.0], "none": []})
    assert picture.count("<circle") == 3
    assert "<script>" not in picture
    assert "a &lt; b" in picture


@pytest.mark.slow
class TestWholeAblation:
    def test_runs_are_done_once_and_continue_after_a_failure(self, dflare: Any, toys: Toys, tmp_path: Path):
        base = [one for one in toys.settings(tmp_path / "runs") if not one.startswith("seed=")]
        arguments = [*base, GRID, "ablate.seeds=1"]
        answer = dflare("ablate", *arguments)
        assert answer.code == 0, answer.err
        assert "2 runs are done" in answer.out
        figures = sorted((tmp_path / "runs" / "figures").iterdir())
        before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in figures}
        assert len(before) == 2
        more = dflare("ablate", *[one for one in arguments if one != GRID], GRID.replace("random", "random,no-novelty"))
        assert "3 runs are done" in more.out
        assert {name: before[name] for name in before} == {
            path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in figures
        }
        lines = [json.loads(line) for line in (tmp_path / "runs" / "results.jsonl").read_text().splitlines()]
        assert {line["arm"] for line in lines} == {"strategy=dflare", "strategy=random", "strategy=no-novelty"}
        assert all(line["success"] is not None for line in lines)

    def test_a_search_alone_has_its_two_figures(self, dflare: Any, toys: Toys, tmp_path: Path):
        base = [one for one in toys.settings(tmp_path / "runs") if not one.startswith("seed=")]
        answer = dflare("ablate", *base, GRID, "ablate.seeds=1", "ablate.verb=search", "ablate.jobs=2")
        assert answer.code == 0, answer.err
        lines = [json.loads(line) for line in (tmp_path / "runs" / "results.jsonl").read_text().splitlines()]
        assert [set(line) - {"arm", "block", "seed", "run"} for line in lines] == [{"success", "queries"}] * 2

    def test_a_run_that_is_refused_is_named_and_the_others_stay(self, dflare: Any, toys: Toys, tmp_path: Path):
        base = [one for one in toys.settings(tmp_path / "runs") if not one.startswith("seed=")]
        images = f"ablate.grid.data.root=[{toys.images},{tmp_path / 'nowhere'}]"
        answer = dflare("ablate", *base, images, "ablate.seeds=1", "ablate.verb=search")
        assert answer.code == 2
        assert answer.err.count("\n") == 1
        assert "nowhere" in answer.err
        assert len((tmp_path / "runs" / "results.jsonl").read_text().splitlines()) == 1
