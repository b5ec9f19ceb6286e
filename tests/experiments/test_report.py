"""The report of a small run folder that is made by hand."""

import io
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from dflare.errors import InputError
from experiments.files import append_line, read_json, read_lines, write_atomic
from experiments.pictures import clearest, png, triple, write_pictures
from experiments.report import summary_text, write_report
from experiments.report_changes import change_words
from experiments.report_markdown import escape, fenced
from experiments.report_schema import conform, report_schema
from repair.proof.metrics import Figure, beats_placebo, plain, queries_summary, rate

CONFIG = """\
pair: {name: 'lenet|5 <b>', original: null, compressed: null}
gate: {max_probe_rate: 0.0101, max_drawdown: 0.01, beat_placebo: false}
search: {seeds: 600, max_queries: 1000}
run_dir: runs/mnist
note: "```"
"""


@cache
def searched(found: int, seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    queries, mask = generator.integers(1, 1000, size=200), np.arange(200) < found
    summary = queries_summary(queries, mask, 1000, seed)
    return {
        "seeds": 210,
        "found": found,
        "already": 10,
        "unconfirmed": 1,
        "tied": 2,
        "censored": summary.pop("censored"),
        "timed_out": 0,
        "success_rate": rate(found, 200),
        "queries_per_trigger": summary,
    }


def repair(generalization: int, probe: int) -> dict[str, Any]:
    return {
        "efficacy": rate(160, 200),
        "generalization": rate(generalization, 500),
        "generalization_new": rate(80, 100),
        "earlier": None,
        "drawdown": rate(20, 10_000),
        "fixed": rate(80, 10_000),
        "net": Figure(0.006, 0.004, 0.008, 10_000),
        "mcnemar_p": 1.2e-9,
        "clean_agreement_before": rate(9790, 10_000),
        "clean_agreement_after": rate(9850, 10_000),
        "probe_before": rate(510, 50_000),
        "probe_after": rate(probe, 50_000),
        "probe_labels_before": rate(600, 50_000),
        "probe_labels_after": rate(probe + 10, 50_000),
        "probe_by_length": {"1": {"before": rate(10, 10_000), "after": rate(5, 10_000)}},
        "probe_mcnemar_p": 0.01,
        "steps": 1500,
        "training_triggers": 200,
        "validate": {"drawdown": rate(3, 1000), "agreement": 0.99},
    }


def outcome(number: int) -> dict[str, Any]:
    """A Round as the loop appends it."""
    made: dict[str, Any] = {
        "round": number,
        "rolled_back": False,
        "seconds": 12.5,
        "search": {
            "before": searched(180, 0),
            "after": searched(90, 1),
            "train": searched(190, 2),
            "validate": None,
            "queries_ratio": Figure(1.8, 1.6, 2.0, 190),
        },
        "repair": repair(371, 400),
        "accuracy": {"original": rate(990, 1000), "before": rate(980, 1000), "after": rate(985, 1000)},
        "cost": {
            "bytes_before": 60_000,
            "bytes_after": 61_000,
            "payload_before": 44_000,
            "payload_after": 44_000,
            "latency_before": Figure(0.21, 0.2, 0.22, 50),
            "latency_after": Figure(0.22, 0.21, 0.23, 50),
            "seconds": 9.0,
        },
        "placebo": {
            "search": {"after": searched(170, 3), "queries_ratio": Figure(1.1, 1.0, 1.2, 190)},
            "repair": repair(155, 480),
            "accuracy": {"after": rate(981, 1000)},
        },
        "noop": {"search": {"after": searched(180, 0), "queries_ratio": Figure(1, 1, 1, 190)}, "repair": {}},
    }
    made["beats_placebo"], made["beats_placebo_words"] = beats_placebo(plain(made), plain(made["placebo"]))
    made_plain: dict[str, Any] = plain(made)
    return made_plain


def save_triggers(folder: Path, margins: list[float], seed: int = 0) -> None:
    """A shard of triggers on which both models are as sure as `margins` say, and one of chains that found nothing."""
    generator, n = np.random.default_rng(seed), len(margins)
    seeds = generator.integers(0, 256, size=(n, 1, 8, 8), dtype=np.uint8)
    images = seeds.copy()
    images[:, 0, 0, 0] ^= 16
    original, compressed = np.zeros((2, n, 3), dtype=np.float32)
    original[:, 0] = compressed[:, 2] = 10 * np.array(margins)
    folder.mkdir(parents=True)
    np.savez_compressed(
        folder / "triggers-0-0.npz",
        trigger_images=images,
        trigger_seed_images=seeds,
        trigger_seeds=np.arange(n, dtype=np.int64) + 7,
        trigger_sides=np.full(n, 2, dtype=np.uint8),
        trigger_original=original,
        trigger_compressed=compressed,
        trigger_queries=np.arange(n, dtype=np.int32) + 1,
        trigger_path=np.zeros((2 * n, 3), dtype=np.int32),
        trigger_path_lengths=np.full(n, 2, dtype=np.int64),
        **ended(np.arange(n) + 7, ending=0, queries=np.arange(n) + 1),
    )
    np.savez_compressed(folder / "triggers-0-1.npz", **ended(np.arange(3) + 100, ending=2, queries=np.full(3, 1000)))


def ended(seeds: np.ndarray, ending: int, queries: np.ndarray) -> dict[str, np.ndarray]:
    """Chains of the judge side that ended alike."""
    n = len(seeds)
    same = {"sides": np.full(n, 2, dtype=np.uint8), "endings": np.full(n, ending, dtype=np.uint8)}
    return {f"ended_{name}": column for name, column in {"seeds": seeds, "queries": queries, **same}.items()}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "mnist-*int8*"
    save_triggers(folder / "round-00" / "triggers", [0.1, 0.9, 0.3])
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    environment = {"created": "2026-11-02T10:00:00+00:00", "python": "3.12", "runtime|x": {"onnxruntime": "1.31"}}
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    for number in range(2):
        append_line(folder / "rounds.jsonl", json.dumps(outcome(number)))
    (folder / "headline.json").write_text(json.dumps(outcome(1)), encoding="utf-8")
    return folder


def test_the_schema_is_one_and_report_json_keeps_it(run_dir: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(report_schema())
    report = write_report(run_dir)
    jsonschema.validate(report, report_schema(), jsonschema.Draft202012Validator)
    assert json.loads((run_dir / "report.json").read_text(encoding="utf-8")) == report
    assert report["gate"]["passed"] is True
    assert report["headline"]["beats_placebo"] is True
    assert [entry["round"] for entry in report["rounds"]] == [0, 1]
    assert report["pair"]["name"] == "lenet|5 <b>"


FINGERPRINTS = {
    "original": {"file": "a|b.onnx", "format": "onnx", "bytes": 1000, "parameters": 61706, "integer_share": 0.0},
    "compressed": {
        "file": "int8.tflite",
        "format": "litert",
        "bytes": 400,
        "external": {"w.bin": {"bytes": 600, "sha256": "0"}},
        "integer_share": 0.9907,
        "runtime": "ai-edge-litert 2.3.0 reference",
        "threads": 2,
    },
}


def with_environment(run_dir: Path, **changes: Any) -> dict[str, Any]:
    """The report of the run folder with other things in its environment.json."""
    path = run_dir / "environment.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    return write_report(run_dir)


def test_the_models_and_what_answered_for_them_are_a_table(run_dir: Path) -> None:
    report = with_environment(run_dir, models=FINGERPRINTS)
    jsonschema.validate(report, report_schema(), jsonschema.Draft202012Validator)
    assert report["models"]["original"]["parameters"] == 61706
    assert report["models"]["original"]["runtime"] is None
    assert report["warnings"] == []
    page = (run_dir / "report.md").read_text(encoding="utf-8")
    rows = page.split("## Models and runtimes")[1].split("## Environment")[0]
    assert r"| original | a\|b.onnx | onnx | 1,000 | 61,706 | 0 % | – | – |" in rows
    assert "| compressed | int8.tflite | litert | 1,000 | – | 99.1 % | ai-edge-litert 2.3.0 reference | 2 |" in rows
    assert "a|b.onnx" not in page.split("## Environment")[1]
    assert "Warning" not in page


def test_a_run_that_went_on_under_another_runtime_says_so_once(run_dir: Path) -> None:
    entry = {"created": "2026-11-03T08:00:00+00:00", "warnings": ["torch was 1.0, now <2>"], "models": FINGERPRINTS}
    report = with_environment(run_dir, continued=[entry, entry], workers=[{"warnings": ["on node3 by torch 3"]}])
    jsonschema.validate(report, report_schema(), jsonschema.Draft202012Validator)
    assert report["warnings"] == ["torch was 1.0, now <2>", "on node3 by torch 3"]
    page = (run_dir / "report.md").read_text(encoding="utf-8")
    assert page.count(r"- Warning: torch was 1.0, now \<2\>.") == 1
    assert "2026-11-03T08:00:00+00:00, 2026-11-03T08:00:00+00:00" in page.split("## Environment")[1]
    assert "  Warning: torch was 1.0, now <2>.\n  Warning: on node3 by torch 3.\n" in summary_text(report)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([1], r"environment\.json models must be object, got list"),
        ({"original": 3}, r"environment\.json models\.original must be object, got int"),
        ({"original": {"bytes": "many"}}, r"models\.original\.bytes must be integer or null, got str 'many'"),
        ({"original": {"external": {"w": 3}}}, r"models\.original\.external\.w must be object, got int"),
    ],
)
def test_fingerprints_that_no_run_wrote_are_refused(run_dir: Path, models: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        with_environment(run_dir, models=models)


@pytest.mark.parametrize("entries", [3, "text", [3], [{}], [{"warnings": None}], [{"warnings": [3]}]])
def test_whatever_stands_where_a_run_is_continued_is_read(run_dir: Path, entries: Any) -> None:
    assert with_environment(run_dir, continued=entries)["warnings"] == []


def test_what_is_missing_is_null_in_report_json(run_dir: Path) -> None:
    (run_dir / "rounds.jsonl").write_text('{"round": 0}\n{"round": 1, "noop": {}, "repair": {"steps": 3}}\n')
    report = write_report(run_dir)
    jsonschema.validate(report, report_schema(), jsonschema.Draft202012Validator)
    assert report["rounds"][0]["placebo"] is None
    assert report["rounds"][1]["noop"] == {"search": None, "repair": None, "accuracy": None}
    assert report["rounds"][1]["repair"]["probe_after"] is None


def test_a_report_that_breaks_the_schema_is_caught_by_it(run_dir: Path) -> None:
    report = write_report(run_dir)
    del report["rounds"][0]["repair"]["efficacy"]["n"]
    with pytest.raises(jsonschema.ValidationError, match="'n' is a required property"):
        jsonschema.validate(report, report_schema(), jsonschema.Draft202012Validator)


def test_the_page_begins_with_the_verdict_and_shows_every_section(run_dir: Path) -> None:
    write_report(run_dir)
    page = (run_dir / "report.md").read_text(encoding="utf-8")
    lines = page.split("\n")
    assert lines[0] == r"# mnist-\*int8\*"
    assert lines[2] == "**The release gate passed.**"
    assert r"repairs 74.2 % of held-out triggers against the placebo's 31.0 %" in page
    sections = [line for line in lines if line.startswith("## ")]
    names = ["Before and after", "Rounds", "Searches", "The clearest deviations", "Environment", "Settings"]
    assert sections == [f"## {name}" for name in names]
    (row,) = (line for line in lines if line.startswith("| generalization"))
    assert row.split(" | ")[2:] == ["74.2 % [70.2 %, 77.8 %], n = 500", "31.0 % [27.1 %, 35.2 %], n = 500", "– |"]
    (ratio,) = (line for line in lines if line.startswith("| fresh search: queries after"))
    assert "1.80 [1.60, 2.00], n = 190 | 1.10 [1.00, 1.20], n = 190 | 1.00" in ratio


def test_what_changed_is_said_in_words_with_its_test(run_dir: Path) -> None:
    write_report(run_dir)
    page = (run_dir / "report.md").read_text(encoding="utf-8")
    assert (
        "- Of 10,000 clean images the repair fixed 0.80 % and broke 0.20 %: more fixed than broken, which chance does "
        "not explain (McNemar's test, p = 1.2e-09)."
    ) in page
    assert "- Of 50,000 probe images 1.02 % deviated before and 0.80 % do now: fewer, which chance does not" in page
    assert "With the placebo" not in page  # that test was not made


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"mcnemar_p": 0.3},
            "more fixed than broken, but chance explains such a difference (McNemar's test, p = 0.3).",
        ),
        ({"drawdown": rate(80, 10_000)}, "broke 0.80 %: no difference (McNemar's test, p = 1.2e-09)."),
        ({"drawdown": rate(90, 10_000)}, "more broken than fixed, which chance does not explain"),
        ({"probe_after": rate(600, 50_000)}, "1.02 % deviated before and 1.20 % do now: more, which chance does not"),
        (
            {"probe_placebo_mcnemar_p": 0.01},
            "With the placebo 0.96 % of the same probe images deviate, with the repair 0.80 %",
        ),
        ({"mcnemar_p": None, "probe_mcnemar_p": None}, None),
    ],
)
def test_the_words_follow_the_figures(changes: dict[str, Any], words: str | None) -> None:
    made = outcome(0)
    said = change_words(plain({**made, "repair": {**made["repair"], **changes}}))
    assert any(words in sentence for sentence in said) if words else said == []


CLUSTERS = {
    "triggers": 40,
    "radius": 1.5,
    "min_points": 5,
    "components": 3,
    "silhouette": 0.61,
    "clusters": [
        {
            "cluster": number,
            "noise": number == 1,
            "count": 30 - 20 * number,
            "pairs": [{"original": 3, "compressed": 5, "count": 9}],
            "examples": ["00000000000000aa"],
            "picture": "../../elsewhere.png" if number == 0 else None,
        }
        for number in range(2)
    ],
}


def test_kinds_of_images_are_a_table_with_pictures_of_this_folder_only(run_dir: Path) -> None:
    (run_dir / "round-00" / "clusters.json").write_text(json.dumps(CLUSTERS))
    report = write_report(run_dir)
    jsonschema.validate(report, report_schema(), jsonschema.Draft202012Validator)
    assert report["rounds"][0]["clusters"] == CLUSTERS
    assert report["rounds"][1]["clusters"] is None
    section = (run_dir / "report.md").read_text(encoding="utf-8").split("## Which kinds of images")[1].split("## ")[0]
    assert "1 kind, silhouette 0.61" in section
    assert "| Kind 1 | 30 | 75.0 % | 3 → 5 (9) |" in section
    assert "| Others | 10 | 25.0 % | 3 → 5 (9) |" in section
    assert section.count("](round-00/clusters/0.png)") == section.count("](") == 1


def test_clusters_that_no_run_wrote_are_refused(run_dir: Path) -> None:
    (run_dir / "round-00" / "clusters.json").write_text(json.dumps({**CLUSTERS, "clusters": [{"cluster": "x"}]}))
    with pytest.raises(InputError, match=r"clusters\.json\.clusters\[0\]\.cluster must be integer, got str 'x'"):
        write_report(run_dir)


def test_all_rows_of_a_table_have_as_many_cells_as_its_header(run_dir: Path) -> None:
    write_report(run_dir)
    width = None
    for line in (run_dir / "report.md").read_text(encoding="utf-8").split("\n"):
        if not line.startswith("|"):
            width = None
            continue
        cells = line.replace(r"\|", "").count("|")
        width = width or cells
        assert cells == width, line


def test_names_cannot_steer_the_page(run_dir: Path) -> None:
    assert escape("a|b\n# <i>`c`*_[x](y)") == r"a\|b \# \<i\>\`c\`\*\_\[x\](y)"
    assert escape("http://x@y www.z") == r"http\://x\@y www\.z"
    write_report(run_dir)
    page = (run_dir / "report.md").read_text(encoding="utf-8")
    assert r"lenet\|5 \<b\>" in page.split("## Settings", maxsplit=1)[0]
    assert fenced("x ```` y")[0] == "`````"
    assert "````yaml" in page  # the settings hold three backticks


def test_a_torn_last_line_is_ignored_and_cut_off_by_the_next(run_dir: Path) -> None:
    path = run_dir / "rounds.jsonl"
    with path.open("a") as file:
        file.write('{"round": 2, "rol')
    assert len(write_report(run_dir)["rounds"]) == 2
    append_line(path, '{"round": 2}')
    assert [json.loads(line)["round"] for line in read_lines(path)] == [0, 1, 2]


def test_a_run_that_has_not_ended_gets_a_report_and_does_not_pass(run_dir: Path) -> None:
    (run_dir / "headline.json").unlink()
    (run_dir / "rounds.jsonl").unlink()
    report = write_report(run_dir)
    jsonschema.validate(report, report_schema(), jsonschema.Draft202012Validator)
    assert (report["headline"], report["rounds"], report["gate"]["passed"]) == (None, [], False)
    assert "No round was finished." in (run_dir / "report.md").read_text(encoding="utf-8")
    assert "FAILED" in summary_text(report)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.yaml", None, "expected the settings of a run in .*config.yaml"),
        ("config.yaml", "a: [", "expected the settings of a run in .*config.yaml"),
        ("config.yaml", "- 1\n", "expected keys and values in .*config.yaml, got list"),
        ("environment.json", None, "environment.json, got: no such file; is this a complete run folder"),
        ("environment.json", "[]", "environment.json must hold an object, got list"),
        ("rounds.jsonl", '{"round": 0}\n{"rou\n', "rounds.jsonl line 2 must be valid JSON"),
        ("rounds.jsonl", '{"round": "0"}\n', "rounds.jsonl line 1.round must be integer or null, got str '0'"),
        ("rounds.jsonl", '{"repair": {"steps": true}}\n', "line 1.repair.steps must be integer or null, got bool"),
        ("rounds.jsonl", '{"repair": {"net": {"value": 1}}}\n', "line 1.repair.net.n must be integer, got nothing"),
        (
            "headline.json",
            '{"repair": {"net": {"mean": 1, "n": 2}}}',
            "net knows the keys value, low, high, n, got 'mean'",
        ),
        ("headline.json", "{", "headline.json must be valid JSON"),
        ("headline.json", b"\xff\xfe", "headline.json must be a UTF-8 text file"),
        ("round-00/triggers/triggers-0-1.npz", b"PK\x03\x04torn", "triggers-0-1.npz must be a shard of triggers"),
    ],
)
def test_a_damaged_file_is_named_in_one_sentence(
    run_dir: Path, name: str, content: str | bytes | None, words: str
) -> None:
    (run_dir / name).unlink()
    if content is not None:
        (run_dir / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=words) as raised:
        write_report(run_dir)
    assert "\n" not in str(raised.value)


def test_a_pickle_in_a_shard_is_not_opened(tmp_path: Path) -> None:
    shard = tmp_path / "triggers-0-0.npz"
    np.savez(shard, trigger_original=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="no pickles"):
        clearest(tmp_path, 1)


def test_settings_of_a_received_folder_read_no_environment_variable(run_dir: Path) -> None:
    (run_dir / "config.yaml").write_text("gate: {}\nrun_dir: ${oc.env:HOME}\n")
    assert write_report(run_dir)["config"]["run_dir"] == "${oc.env:HOME}"


def test_numbers_that_json_does_not_know_become_null(run_dir: Path) -> None:
    line = json.dumps({"round": 0, "seconds": float("nan")})
    (run_dir / "rounds.jsonl").write_text(line + "\n")
    assert write_report(run_dir)["rounds"][0]["seconds"] is None


def test_the_clearest_deviation_is_where_both_models_are_sure(tmp_path: Path) -> None:
    save_triggers(tmp_path / "triggers", [0.1, 0.9, 0.3])
    found = clearest(tmp_path / "triggers", 2)
    assert [deviation.seed for deviation in found] == [8, 9]
    first = found[0]
    assert (first.labels, first.queries, first.mutations, first.largest_change) == ((0, 2), 2, 2, 16)
    top = np.exp(9) / (np.exp(9) + 2)
    assert first.confidences == pytest.approx((top, top))
    assert first.clearness == pytest.approx((np.exp(9) - 1) / (np.exp(9) + 2))


def test_one_sure_model_is_not_enough(tmp_path: Path) -> None:
    folder = tmp_path / "triggers"
    save_triggers(folder, [0.3, 0.1])
    with np.load(folder / "triggers-0-0.npz") as shard:
        arrays = dict(shard)
    arrays["trigger_original"][1, 0] = 50  # larger sum of margins, but the compressed model wavers
    np.savez_compressed(folder / "triggers-0-0.npz", **arrays)
    assert clearest(folder, 1)[0].seed == 7


def test_pictures_are_triples_of_the_right_size(run_dir: Path) -> None:
    save_triggers(run_dir / "round-01" / "triggers", [0.2], seed=1)
    pictures = write_pictures(run_dir, count=2)
    assert [picture.file for picture in pictures] == [f"pictures/round-{x}.png" for x in ("00-1", "00-2", "01-1")]
    shown = pictures[0].deviation
    with Image.open(run_dir / pictures[0].file) as image:
        assert (image.mode, image.size) == ("RGB", (3 * 112 + 2 * 4, 112))
        pixels = np.asarray(image)
    assert (pixels[::14, :112:14, 0] == shown.seed_image[0]).all()
    assert (pixels[::14, 116:228:14, 1] == shown.image[0]).all()
    assert pixels[0, 232].tolist() == [255, 255, 255]  # the changed pixel, amplified to white
    assert pictures[0].amplification == 255 / 16


@pytest.mark.parametrize(("shape", "size"), [((3, 32, 32), (3 * 128 + 8, 128)), ((3, 224, 300), (908, 224))])
def test_colour_pictures_keep_their_colours(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    seed = np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)
    pixels, amplification = triple(seed, seed)
    assert amplification == 1.0
    with Image.open(io.BytesIO(png(pixels))) as image:
        assert image.size == size
        factor = size[1] // shape[1]
        assert (np.asarray(image)[::factor, : size[1] : factor][0, 0] == seed[:, 0, 0]).all()


def test_the_same_folder_gives_the_same_report(run_dir: Path) -> None:
    write_report(run_dir)
    names = ("report.json", "report.md", "report.html", "junit.xml", "pictures/round-00-1.png")
    first = [(run_dir / name).read_bytes() for name in names]
    write_report(run_dir)
    assert [(run_dir / name).read_bytes() for name in names] == first


def test_the_summary_is_aligned_and_says_what_matters(run_dir: Path) -> None:
    report = write_report(run_dir)
    lines = summary_text(report).split("\n")
    assert len(lines) <= 26
    assert lines[0] == "mnist-*int8*: the release gate passed"
    assert "repairs 74.2 % of held-out triggers against the placebo's 31.0 %" in lines[1]
    assert max(len(line) for line in lines) <= 100
    first = lines.index("")
    table = lines[first + 1 : lines.index("", first + 1)]
    assert len(table) > 10
    assert len({len(line) for line in table}) == 1
    assert lines[-2:] == ["report: runs/mnist/report.html and .md", "data:   runs/mnist/report.json"]


def test_the_summary_cannot_steer_a_terminal(run_dir: Path) -> None:
    report = write_report(run_dir)
    assert "\x1b" not in summary_text({**report, "name": "a\x1b[31m"})


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "x.txt"
    write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("experiments.files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert [entry.name for entry in path.parent.iterdir()] == ["x.txt"]
    assert path.read_text() == "old"


def test_lines_and_json_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"")
    assert read_lines(path) == []
    for line in ("é", "", "b"):
        append_line(path, line)
    assert read_lines(path) == ["é", "", "b"]
    with pytest.raises(ValueError, match="line break"):
        append_line(path, "a\nb")
    write_atomic(tmp_path / "x.json", b'{"a": Infinity}')
    assert read_json(tmp_path / "x.json") == {"a": None}


def test_keys_that_the_schema_does_not_know_are_kept() -> None:
    assert conform({"own": 1, "validate": {"agreement": 0.5}}, "RepairFigures", "x")["own"] == 1


def test_the_report_imports_no_model_code() -> None:
    code = "import sys, experiments.report; print([m for m in ('torch', 'PIL', 'sklearn', 'onnx') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
