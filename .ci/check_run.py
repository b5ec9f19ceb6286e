"""Check what the README's main job wrote: exit code 1 and a sentence for the first thing that is missing or wrong."""

import json
import sys
from pathlib import Path

from jsonschema import Draft202012Validator

from dflare.shards import read_triggers
from repair.pt2_models.artifact import check_program


def main(run: Path) -> None:
    schema = json.loads((Path(__file__).parents[1] / "experiments" / "report.schema.json").read_text())
    report = json.loads((run / "report.json").read_text())
    Draft202012Validator(schema).validate(report)
    written = ("config.yaml", "environment.json", "rounds.jsonl", "report.md", "report.html", "junit.xml")
    for name in (*written, "round-00/triggers/index.jsonl"):
        expect((run / name).stat().st_size > 0, f"{name} is empty")
    expect(any((run / "tensorboard").rglob("events.out.tfevents.*")), "no TensorBoard events")
    expect(any((run / "pictures").glob("*.png")), "no pictures")
    expect(read_triggers(run / "round-00" / "triggers") is not None, "no triggers")
    models = report["environment"]["models"]
    expect(models["compressed"]["sha256"] != models["original"]["sha256"], "original and compressed are one file")
    check_program(run / "round-00" / "noop" / "model.pt2", run / "round-00" / "model" / "model.pt2")
    headline = report["headline"]
    expect(report["gate"]["passed"], f"the gate failed: {report['gate']['reasons']}")
    expect(headline["beats_placebo"] is True, headline["beats_placebo_words"])
    expect(headline["accuracy"]["original"]["value"] >= 0.97, "the original's accuracy is below 97 %")
    print(f"{run}: report, triggers, model and figures are as promised")


def expect(truth: bool, otherwise: str) -> None:
    if not truth:
        raise SystemExit(f"check_run: {otherwise}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
