"""`repaired.json` of a run: on which of the known triggers the final model agrees with the original, one by one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dflare.errors import InputError
from experiments.files import read_json, write_atomic

if TYPE_CHECKING:
    from experiments.run import Run
    from experiments.trial import Model

FILE = "repaired.json"


def write_repaired(run: "Run", end: "Model", number: int) -> None:
    """Write what the triggers of rounds 0 to `number` came to on the model `end`: `{"round-00/judge/<seed>": true}`.

    Asks nothing again of what the headline has asked: the train triggers of all these rounds, the judge triggers of the
    first and of the last. The others (validate side, judge triggers between) are left out.
    """
    write_atomic(run.folder.path / FILE, json.dumps({"agrees": dict(_answers(run, end, number))}) + "\n")


def read_repaired(run_dir: Path) -> dict[str, bool]:
    """Name of each trigger that was asked -> whether the pair agrees on it now; none for a run that has not ended.

    Raises `InputError` for what no run wrote.
    """
    path = run_dir / FILE
    found: Any = read_json(path) if path.exists() else {"agrees": {}}
    answers = found.get("agrees") if isinstance(found, dict) else None
    if not isinstance(answers, dict) or not all(isinstance(answer, bool) for answer in answers.values()):
        raise InputError(f"{path} must hold true or false for each trigger under 'agrees'; was it edited by hand?")
    return answers


def _answers(run: "Run", end: "Model", number: int) -> Iterator[tuple[str, bool]]:
    from dflare.triggers import Side

    asked = [(range(number + 1), Side.train), (range(1), Side.judge)]
    asked += [(range(number, number + 1), Side.judge)] if number else []
    for rounds, side in asked:
        found = run.triggers(rounds, side)
        names = [name for one in rounds for name in _names(run, one, side)]
        agrees = run.bench.agrees(end, found).tolist()
        yield from zip(names, agrees, strict=True)


def _names(run: "Run", number: int, side: Any) -> list[str]:
    found = run.triggers(range(number, number + 1), side)
    seeds = found.seeds.tolist() if found is not None else []
    return [f"round-{number:02d}/{side.name}/{seed:016x}" for seed in seeds]
