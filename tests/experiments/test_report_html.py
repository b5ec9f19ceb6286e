"""report.html of the small run folder that test_report makes: known answers, and that nothing in a folder steers it."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dflare.errors import InputError
from experiments.html import gallery, pairs
from experiments.html.curves import curves, kaplan_meier
from experiments.html.estimates import estimate_section
from experiments.html.from_markdown import inline, render
from experiments.html.frontier import frontier_section
from experiments.html.markup import cell, embedded, tag
from experiments.html.mutations import SETS, naming
from experiments.html.plots import Scale, bars
from experiments.html.shards import Trigger, read_triggers
from experiments.repaired import read_repaired, write_repaired
from experiments.report import write_report
from tests.experiments.test_report import CLUSTERS, ended, run_dir, save_triggers  # noqa: F401

HOSTILE = "</script><img src=x onerror=alert(1)>"


class Parsed(HTMLParser):
    """Elements of a page with their attributes, and the text of its script elements by id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text, self._script = "", None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._script = str(dict(attrs).get("id") or "code") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
            return
        self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def parsed(folder: Path) -> Parsed:
    """The page of a run folder, written anew."""
    write_report(folder)
    return Parsed((folder / "report.html").read_text(encoding="utf-8"))


def test_survival_is_that_of_a_published_trial() -> None:
    # 6-MP arm of Freireich et al. (1963), as in Kalbfleisch and Prentice; + is censored
    weeks = np.array([6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35])
    relapsed = np.isin(np.arange(21), [0, 1, 2, 4, 6, 9, 10, 14, 15])
    curve = kaplan_meier(weeks, relapsed)
    steps = {int(t): (s, low, high) for t, s, low, high in zip(*curve[:4], strict=True)}
    assert steps[6] == pytest.approx((0.857, 0.620, 0.952), abs=6e-4)
    assert steps[10] == pytest.approx((0.753, 0.503, 0.889), abs=6e-4)
    assert steps[35] == steps[23] == pytest.approx((0.448, 0.188, 0.680), abs=6e-4)
    assert curve.at_risk[:3].tolist() == [21, 17, 16]
    assert steps[10][0] != pytest.approx(np.mean(weeks > 10), abs=0.05)  # what forgetting the censored would say


def test_without_censoring_survival_is_the_share_above() -> None:
    queries = np.array([1, 2, 2, 7])
    curve = kaplan_meier(queries, np.ones(4, dtype=bool))
    assert curve.surviving.tolist() == pytest.approx([0.75, 0.25, 0.0])
    assert (curve.low[-1], curve.high[-1]) == (0, 0)
    nothing = kaplan_meier(np.array([5, 5]), np.zeros(2, dtype=bool))
    assert (nothing.surviving.tolist(), nothing.censored.tolist()) == ([1.0], [2])


def test_a_seed_that_deviates_unmutated_in_one_search_is_left_out_of_all(tmp_path: Path) -> None:
    for name, endings in (("before", [0, 0, 2]), ("after", [0, 1, 2])):
        arrays = ended(np.arange(3), ending=0, queries=np.array([4, 0, 9])) | {"ended_endings": np.array(endings)}
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "triggers-0-0.npz", **arrays)
    made = curves({name: tmp_path / name for name in ("before", "after", "placebo")})
    assert list(made) == ["before", "after"]
    assert [curve.at_risk[0] for curve in made.values()] == [2, 2]


def test_the_page_begins_with_the_verdict_and_every_plot_has_its_data(run_dir: Path) -> None:  # noqa: F811
    page = parsed(run_dir)
    assert page.text.index("The release gate passed") < page.text.index("It beats its placebo")
    assert page.text.index("It beats its placebo") < page.text.index("Before, after, and for")
    figures = {str(figure["id"]).removeprefix("figure-") for figure in page.all("figure") if "id" in figure}
    assert figures == {"survival", "pairs", "mutations"}
    data = {name: json.loads(text) for name, text in page.scripts.items() if name.startswith("data-")}
    assert {f"data-{name}" for name in figures} < set(data)
    assert data["data-survival"]["before"]["queries"] == [1, 2, 3, 1000]
    assert data["data-survival"]["before"]["censored"] == [0, 0, 0, 3]
    assert data["data-pairs"]["all_sides_and_rounds"] == [{"original": 0, "compressed": 2, "count": 3}]
    assert data["data-mutations"]["mutations"] == [{"name": "gaussian_noise", "in_paths": 3, "last": 3}]
    assert [button["data-for"] for button in page.all("button") if button.get("class") == "download"] == list(data)
    assert data["data-report"] == json.loads((run_dir / "report.json").read_text(encoding="utf-8"))


def test_the_page_asks_for_nothing_outside_and_runs_only_its_own_script(run_dir: Path) -> None:  # noqa: F811
    page = parsed(run_dir)
    for name, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on") or key == "style"], name
        for key in ("src", "href"):
            assert str(attributes.get(key, "#")).startswith(("#", "data:image/png;base64,"))
    (policy,) = (entry["content"] for entry in page.all("meta") if entry.get("http-equiv"))
    whole = (run_dir / "report.html").read_text(encoding="utf-8")
    style = re.search(r"<style>(.*?)</style>", whole, re.DOTALL)
    assert style is not None
    for kind, content in (("script", page.scripts["code"]), ("style", style[1])):
        assert f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'" in str(
            policy
        )
    assert "url(" not in style[1]
    assert "default-src 'none'" in str(policy)


def test_names_cannot_steer_the_page(run_dir: Path) -> None:  # noqa: F811
    environment = json.loads((run_dir / "environment.json").read_text())
    environment |= {"class_names": [HOSTILE, "b", '"><b onclick=x>'], "warnings_of": HOSTILE}
    environment["continued"] = [{"warnings": [HOSTILE]}]
    (run_dir / "environment.json").write_text(json.dumps(environment))
    settings = f"gate: {{}}\npair: {{name: '{HOSTILE}'}}\nsearch: {{strategy: '{HOSTILE}'}}\nnote: '{HOSTILE}'\n"
    (run_dir / "config.yaml").write_text(settings)
    folder = run_dir.rename(run_dir.parent / "a <i>&amp; 'b'")
    page = parsed(folder)
    assert {name for name, _ in page.elements}.isdisjoint({"b", "i"})
    assert all(str(picture["src"]).startswith("data:") for picture in page.all("img"))
    assert len(page.all("script")) == len(page.scripts)
    assert json.loads(page.scripts["data-pairs"])["classes"] == environment["class_names"]
    assert json.loads(page.scripts["data-report"])["pair"]["name"] == HOSTILE
    assert "a <i>&amp; 'b'" in page.text
    assert page.text.count(HOSTILE) > 5


def test_what_the_policy_forbids_cannot_be_written() -> None:
    for attributes in ({"style": "x"}, {"onclick": "x"}, {"href": "https://example.org"}, {"src": "data:text/html,x"}):
        with pytest.raises(ValueError, match="the page"):
            tag("a", **attributes)
    assert tag("a", "<&", title='"') == '<a title="&quot;">&lt;&amp;</a>'
    assert embedded("x", "</script>\u2028").count("<") == 2


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (r"a \*b\* <i> \| \`", "a *b* &lt;i&gt; | `"),
        (r"*Put \* right* and **so**", "<em>Put * right</em> and <strong>so</strong>"),
        ("`a*b*`", "<code>a*b*</code>"),
        ("2 * 3 = 6", "2 * 3 = 6"),
    ],
)
def test_sentences_of_the_markdown_page_are_the_same_here(line: str, shown: str) -> None:
    assert inline(line) == shown


def test_tables_of_the_markdown_page_keep_their_cells() -> None:
    lines = [
        "## Title",
        "",
        r"| a\|b | n |",
        "| :-- | --: |",
        r"| <x> | 7.0 % [6.0 %, 8.0 %], n = 9 |",
        "",
        "```yaml",
        "a: 1",
        "```",
        "",
    ]
    page = Parsed(render(lines, "said"))
    assert "a|b" in page.text
    assert "<x>" in page.text
    assert "Title" not in page.text
    assert page.all("table") == [{"class": "numbers"}]
    assert "6.0 %, 8.0 %], n = 9" in page.text
    assert cell("12,345") == "12,345"


def trigger(number: int, pair: tuple[int, int], sure: float, classes: int = 3) -> Trigger:
    """A trigger of which both models are equally sure."""
    scores = np.full((2, classes), (1 - sure) / (classes - 1))
    scores[0, pair[0]] = scores[1, pair[1]] = sure
    return Trigger(0, "train", number, scores[0], scores[1], number, (0,), Path("x.npz"), number)


def test_the_gallery_begins_with_the_clearest_of_every_pair() -> None:
    found = [trigger(0, (0, 1), 0.6), trigger(1, (0, 1), 0.9), trigger(2, (0, 1), 0.8), trigger(3, (1, 2), 0.5)]
    assert [one.seed for one in gallery.choose(found)] == [1, 3, 2, 0]


def test_the_gallery_says_how_many_it_shows(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    assert "3 of 3 triggers" in parsed(run_dir).text
    monkeypatch.setattr(gallery, "MOST", 2)
    page = parsed(run_dir)
    assert "2 of 3 triggers" in page.text
    assert len([entry for entry in page.all("li") if entry.get("class") == "card"]) == 2
    monkeypatch.setattr(gallery, "MOST_BYTES", 1)
    assert "1 of 3 triggers" in parsed(run_dir).text


def test_a_card_lists_the_three_best_answers_and_what_can_be_filtered(run_dir: Path) -> None:  # noqa: F811
    name = "round-00/judge/0000000000000008"
    (run_dir / "repaired.json").write_text(json.dumps({"agrees": {name: True}}))
    page = parsed(run_dir)
    cards = [entry for entry in page.all("li") if entry.get("class") == "card"]
    first = cards[0]  # both models are surest of seed 8
    assert (first["data-pair"], first["data-mutation"], first["data-round"]) == ("0-2", "gaussian_noise", "0")
    assert (first["data-queries"], first["data-repaired"], cards[1]["data-repaired"]) == ("2", "repaired", "not asked")
    assert float(str(first["data-linf"])) == float(str(first["data-l2"])) == pytest.approx(16 / 255, abs=1e-6)
    facts = json.loads(page.scripts["data-gallery"])[0]
    assert [answer["label"] for answer in facts["compressed"]] == [2, 0, 1]
    assert facts["original"][0]["probability"] == pytest.approx(np.exp(9) / (np.exp(9) + 2), abs=1e-5)
    assert "100 % of 1" in page.text  # repaired of those that were asked


@pytest.mark.parametrize("content", ["[]", '{"agrees": {"a": 1}}', "{"])
def test_answers_that_no_run_wrote_are_refused(tmp_path: Path, content: str) -> None:
    assert read_repaired(tmp_path) == {}
    (tmp_path / "repaired.json").write_text(content)
    with pytest.raises(InputError, match=r"repaired\.json must"):
        read_repaired(tmp_path)


def test_what_the_headline_asked_is_kept_by_name(tmp_path: Path) -> None:
    def triggers(rounds: range, side: Any) -> Any:
        seeds = [100 * number + 10 * int(side) + k for number in rounds for k in range(2)]
        return SimpleNamespace(seeds=np.array(seeds))

    agrees = SimpleNamespace(agrees=lambda _, found: found.seeds % 2 == 1)
    run: Any = SimpleNamespace(folder=SimpleNamespace(path=tmp_path), triggers=triggers, bench=agrees)
    write_repaired(run, SimpleNamespace(), 1)  # type: ignore[arg-type]
    kept = read_repaired(tmp_path)
    assert kept["round-01/train/0000000000000065"] is True
    assert kept["round-00/judge/0000000000000014"] is False
    assert sorted({name.rpartition("/")[0] for name in kept}) == [
        f"round-0{n}/{side}" for n in (0, 1) for side in ("judge", "train")
    ]


def test_shrunk_triggers_take_the_place_of_those_found(tmp_path: Path) -> None:
    folder = tmp_path / "triggers"
    save_triggers(folder, [0.1, 0.9])
    (folder / "triggers-0-0.npz").rename(tmp_path / "kept.npz")
    save_triggers(tmp_path / "nearer", [0.4])
    (tmp_path / "nearer" / "triggers-0-0.npz").rename(folder / "shrunk-0-0.npz")
    (tmp_path / "kept.npz").rename(folder / "triggers-0-0.npz")
    found = read_triggers(folder, 0)
    assert [one.file.name for one in found] == ["shrunk-0-0.npz", "triggers-0-0.npz"]
    assert found[0].name == "round-00/judge/0000000000000007"


def test_names_of_mutations_are_those_of_the_search() -> None:
    from dflare import mutation_sets

    assert SETS == mutation_sets.SETS
    own = naming({"search": {"strategy": "margin", "mutations": ["affine", "fog", "rotation"]}})
    assert [own(choice) for choice in (0, 4, 5)] == ["rotation", "fog", "mutation 5"]
    way = naming({"search": {"strategy": "boundary", "mutations": None}})
    assert [way(choice) for choice in (0, 7, 8)] == [
        "a row beginning with gaussian_noise",
        "noise at the boundary",
        "the way to a real image",
    ]
    assert naming({})(1) == "salt_and_pepper"
    assert naming({"search": {"strategy": "dflare-released"}})(0) == "gaussian_noise_released"


def test_many_classes_are_cut_to_those_with_most_triggers(tmp_path: Path) -> None:
    found = [trigger(number, (number % 30, (number + 1) % 30), 0.9, classes=30) for number in range(60)]
    report = {"rounds": [], "headline": None}
    part = pairs.pairs_section(tmp_path, report, found, pairs.Labels({}), {})
    assert part is not None
    page = Parsed(part)
    assert "Shown are the 20 of 30 classes" in page.text
    assert len([square for square in page.all("rect") if square["class"] == "heat"]) == 19
    assert len(json.loads(page.scripts["data-pairs"])["found"]) == 30


def test_a_run_that_has_not_ended_shows_what_is_known(run_dir: Path) -> None:  # noqa: F811
    (run_dir / "headline.json").unlink()
    page = parsed(run_dir)
    assert "The run has not ended" in page.text
    assert "Before and after, round 1" in page.text
    assert "The release gate failed" not in page.text
    (run_dir / "rounds.jsonl").unlink()
    page = parsed(run_dir)
    assert "no round is finished" in page.text
    assert "3 of 3 triggers" in page.text


def test_only_png_files_of_the_folder_become_pictures(run_dir: Path) -> None:  # noqa: F811
    (run_dir / "round-00" / "clusters.json").write_text(json.dumps(CLUSTERS))
    folder = run_dir / "round-00" / "clusters"
    folder.mkdir()
    (folder / "0.png").write_bytes(b"<svg onload=alert(1)>")
    assert not [picture for picture in parsed(run_dir).all("img") if picture.get("class") == "sheet"]
    (folder / "0.png").write_bytes((run_dir / "pictures" / "round-00-1.png").read_bytes())
    page = parsed(run_dir)
    (sheet,) = (picture for picture in page.all("img") if picture.get("class") == "sheet")
    assert sheet["alt"] == "Kind 1: its most typical triggers"


def step(grids: int, size: int, differing: float) -> dict[str, Any]:
    share = {"value": differing, "low": differing / 2, "high": 2 * differing, "n": 2000}
    cost = {"bytes": size, "milliseconds": 0.1, "divergence": 0.0}
    return {
        "tensors": ["<b>"] * grids,
        "grids": grids,
        **cost,
        "differing": share,
        "deviating": share,
        "repaired": share,
    }


def test_the_frontier_has_a_line_for_each_order_and_marks_what_was_taken() -> None:
    orders = {name: [step(n, 1000 + 50 * n, 0.02 / (n + 1)) for n in range(3)] for name in ("greedy", "size", "chance")}
    asked = {
        "activations": "chosen",
        "choose": "greedy",
        "taken": 1,
        "tensors": ["<b>"],
        "weights": [],
        "float_output": False,
    }
    sizes = {"grids": 2, "next_weight": None, "all_weights": None}
    images = {"train": 100, "validate": 2000, "train_triggers": 10}
    found = {
        **asked,
        **sizes,
        "images": images,
        "before": step(0, 1000, 0.02),
        "after": step(1, 1050, 0.01),
        "orders": orders,
    }
    part = frontier_section([{"precision": found}], None)
    assert part is not None
    page = Parsed(part)
    assert len(page.all("polyline")) == 3
    assert len(page.all("circle")) == 1
    assert not page.all("b")
    assert json.loads(page.scripts["data-frontier"]) == orders


ESTIMATE = {
    "schema_version": 1,
    "confidence": 0.9,
    "images": {"where": "all images of <b>x</b>", "count": 5000},
    "models": [
        {
            "name": name,
            "rolled_back": name == "round 0",
            "images": 5000,
            "asked": 300,
            "rate": {"value": rate, "low": rate / 2, "high": 2 * rate, "n": 300},
            "modelled": None,
            "simple_random": {"same_width": 1900},
            "strata": [{"images": 80, "margin_low": 0.0, "margin_high": 1.25, "asked": 20, "deviating": 5}],
        }
        for name, rate in (("handed in", 0.02), ("round 0", 0.01))
    ],
}


def test_the_estimate_on_operational_images_is_shown_where_there_is_one(tmp_path: Path) -> None:
    assert estimate_section(tmp_path) is None
    (tmp_path / "estimate.json").write_text(json.dumps(ESTIMATE))
    part = estimate_section(tmp_path)
    assert part is not None
    page = Parsed(part)
    assert "The deviation rate on all images of <b>x</b>" in page.text
    assert "its 90 % interval" in page.text
    assert "round 0 (rolled back)" in page.text
    assert "1,900 questions" in page.text
    assert "5 of 20 asked, 80 images" in page.text
    assert json.loads(page.scripts["data-estimate"]) == ESTIMATE


@pytest.mark.parametrize("content", ["[]", '{"models": 3}', '{"models": [{"name": "x", "strata": [3]}]}', "{"])
def test_an_estimate_that_no_run_wrote_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "estimate.json").write_text(content)
    with pytest.raises(InputError, match=r"estimate\.json must"):
        estimate_section(tmp_path)


def test_ticks_are_round_numbers_within_the_scale() -> None:
    assert Scale(0, 1, 250, 24).ticks() == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert Scale(1, 120, 0, 100, logarithmic=True).ticks() == [1, 2, 5, 10, 20, 50, 100]
    assert Scale(1, 5000, 0, 100, logarithmic=True).ticks() == [1, 10, 100, 1000]
    assert Scale(3, 3, 0, 100)(3) == 50
    assert "<b>" not in bars("x", [("<b>", 0.5, None, None, "50 %")])


@pytest.mark.slow
def test_a_run_of_the_command_line_leaves_a_page_with_its_class_names(finished: Path) -> None:
    page = Parsed((finished / "report.html").read_text(encoding="utf-8"))
    assert (finished / "junit.xml").exists()
    assert json.loads(page.scripts["data-report"])["gate"]["passed"] is True
    assert json.loads(page.scripts["data-pairs"])["classes"] == ["0-red", "1-green", "2-blue"]
    assert set(json.loads(page.scripts["data-survival"])) == {"before", "after", "placebo", "noop"}
    assert "1 0-red" not in page.text
    assert "0-red" in page.text
