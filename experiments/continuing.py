"""Whether a folder is worked in as it was begun: other models or images are refused, another runtime is warned of."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dflare.errors import InputError

BECAUSE = "figures before and after may differ by the runtime alone"

_CONTENTS = ("sha256", "external")
"""What of a fingerprint tells a model's numbers; where one of two does not know it, nothing can be said."""


def check_contents(folder: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `InputError` when models, images or the parts of the recipe in `now` are others than the folder began with.

    A file of one's own may hold another recipe than it did, under the same name. What one of two does not know is
    passed over.
    """
    models = [name for name, model in now["models"].items() if _other(_part(earlier, "models", name), model)]
    images = [name for name, ids in now["images"].items() if _part(earlier, "images", name) != ids]
    before, after = earlier.get("recipe") or {}, now.get("recipe") or {}
    parts = [f"{key}: {before[key]}, now {after[key]}" for key in before if key in after and before[key] != after[key]]
    for kind, changed in (("models", models), ("images", images), ("parts of its recipe", parts)):
        if changed:
            raise InputError(
                f"the run folder {folder} was begun with other {kind} ({', '.join(changed)}); choose another run_dir"
            )


def warnings_of(known: Mapping[str, Any], now: Mapping[str, Any], who: str = "now") -> list[str]:
    """A sentence, without its full stop, for each recorded environment from which `now` differs in its runtime.

    `known` is what environment.json holds: how the run was begun, and in `continued` how it went on. Compared are
    what answers for each model, torch (which makes the mutations), the processor's instructions and determinism;
    what was not recorded is passed over.
    """
    found = []
    for recorded in (known, *known.get("continued", [])):
        changes = list(_changes(recorded, now, who))
        if changes:
            when = recorded.get("created", "an unknown time")
            found.append(f"another runtime than at {when}: {'; '.join(changes)}; {BECAUSE}")
    return list(dict.fromkeys(found))


def added(known: dict[str, Any], key: str, now: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """What environment.json holds with `now` and its warnings in the list `key`, unless the last one is the same."""
    last = known.get(key, [known])[-1]
    if _lasting(last) == _lasting(now):
        return known
    return {**known, key: [*known.get(key, []), {**now, "warnings": warnings}]}


def _lasting(found: Mapping[str, Any]) -> Any:
    """An environment without its time, as it is read back from a file."""
    passing = ("created", "continued", "workers", "warnings")
    return json.loads(json.dumps({key: value for key, value in found.items() if key not in passing}))


def _changes(recorded: Mapping[str, Any], now: Mapping[str, Any], who: str) -> Iterator[str]:
    for name, model in now["models"].items():
        before = (_part(recorded, "models", name) or {}).get("runtime")
        if before not in (None, model["runtime"]):
            yield f"the {name} model was answered by {before}, {who} by {model['runtime']}"
    before, after = _part(recorded, "device", "name") or "the CPU", _part(now, "device", "name") or "the CPU"
    if before != after and "device" in recorded and "device" in now:
        yield f"the models were on {before}, {who} on {after}"
    before, after = _part(recorded, "packages", "torch"), now["packages"]["torch"]
    if before not in (None, after):
        yield f"torch was {before}, {who} {after}"
    flags, own = set(_part(recorded, "processor", "flags") or ()), set(now["processor"]["flags"])
    if flags and flags != own:
        parts = [("without", flags - own), ("with", own - flags)]
        yield f"the processor is {who} " + " and ".join(
            f"{word} {' '.join(sorted(some))}" for word, some in parts if some
        )
    before, after = _part(recorded, "deterministic", "algorithms"), now["deterministic"]["algorithms"]
    if before not in (None, after):
        yield f"deterministic algorithms were {_switched(before)}, {who} {_switched(after)}"


def _other(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    """Whether two fingerprints are of two models; one of another name or place may be the same."""
    if before is None:
        return True
    return any(before.get(key) not in (None, now[key]) for key in _CONTENTS if now[key] is not None)


def _part(found: Mapping[str, Any], kind: str, name: str) -> Any:
    return (found.get(kind) or {}).get(name)


def _switched(on: bool) -> str:
    return "on" if on else "off"
