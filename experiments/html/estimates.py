"""What `dflare estimate` found: how often each model of the run deviates on images without labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dflare.errors import InputError
from experiments.files import read_json
from experiments.html.markup import Safe, details, joined, section, table
from experiments.html.plots import bars, figure
from experiments.report_rows import SHARE, dig, full, short
from repair.proof.intervals import rate

FILE = "estimate.json"

FIGURE = ("value", "low", "high", "n")


def read_estimate(run_dir: Path) -> dict[str, Any] | None:
    """`estimate.json` of a run folder, None where nothing was estimated; `InputError` for what no run wrote."""
    path = run_dir / FILE
    if not path.exists():
        return None
    found: Any = read_json(path)
    models = found.get("models") if isinstance(found, dict) else None
    if not isinstance(models, list) or not all(_is_model(model) for model in models):
        raise InputError(f"{path} must hold the estimates of 'dflare estimate' under 'models'; was it edited by hand?")
    estimate: dict[str, Any] = found
    return estimate


def estimate_section(run_dir: Path) -> Safe | None:
    """The part of the page on operational images, None where nothing was estimated."""
    found = read_estimate(run_dir)
    if found is None or not found["models"]:
        return None
    models, where = found["models"], dig(found, "images", "where") or "the images"
    confidence = found.get("confidence")
    ends = f"{100 * confidence:g} %" if isinstance(confidence, int | float) else "confidence"
    words = (
        f"The deviation rate on {where}, from a few questions to each compressed model, chosen where the original is "
        f"least sure; unbiased, with its {ends} interval. Lower is better."
    )
    title = "Estimated deviation rate"
    rows = [
        (_name(model), model["rate"]["value"] or 0.0, *_ends(model["rate"]), short(SHARE, model["rate"]))
        for model in models
    ]
    more = joined([_table(models, ends), _strata(models[-1])])
    made = figure("estimate", title, words, bars(title, rows), found, more)
    return section("estimate", "How often will it deviate in use?", made)


def _table(models: Sequence[Mapping[str, Any]], ends: str) -> Safe:
    header = [
        "model",
        "questions",
        "of images",
        f"rate, {ends}",
        "the same, smooth tail",
        "change",
        "a random sample would need",
    ]
    rows = [
        (
            _name(model),
            f"{model['asked']:,}",
            f"{model['images']:,}",
            full(SHARE, {**model["rate"], "n": 0}),
            full(SHARE, _figure(model.get("modelled"))),
            full(SHARE, _figure(model.get("change"))),
            _questions(dig(model, "simple_random", "same_width")),
        )
        for model in models
    ]
    return table("Estimates of each model of the run", header, rows)


def _strata(model: Mapping[str, Any]) -> Safe | None:
    """Where the latest model deviates: the share of the asked images, by how sure the original is of them."""
    rows = []
    for stratum in model.get("strata") or []:
        share = rate(stratum["deviating"], stratum["asked"])
        name = f"{stratum['margin_low']:.2g} to {stratum['margin_high']:.2g}"
        words = f"{stratum['deviating']:,} of {stratum['asked']:,} asked, {stratum['images']:,} images"
        rows.append((name, share.value or 0.0, share.low, share.high, words))
    if not rows:
        return None
    title = f"Where {_name(model)} deviates: share of the asked images by the original's margin, the least sure first"
    return details(title, bars(title, rows))


def _name(model: Mapping[str, Any]) -> str:
    return f"{model['name']}{' (rolled back)' if model.get('rolled_back') else ''}"


def _questions(count: Any) -> str:
    return f"{count:,} questions" if isinstance(count, int) else "–"


def _figure(value: Any) -> Mapping[str, Any] | None:
    return {**value, "n": 0} if _is_figure(value) else None


def _ends(rate: Mapping[str, Any]) -> tuple[float | None, float | None]:
    return rate["low"], rate["high"]


def _is_model(model: Any) -> bool:
    counts = [dig(model, key) for key in ("asked", "images")]
    return (
        _is_figure(dig(model, "rate"))
        and isinstance(dig(model, "name"), str)
        and all(isinstance(n, int) for n in counts)
    )


def _is_figure(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), int | float | None) for key in FIGURE)


def _is_stratum(value: Any) -> bool:
    numbers = [dig(value, key) for key in ("images", "asked", "deviating", "margin_low", "margin_high")]
    return all(isinstance(number, int | float) for number in numbers) and 0 <= numbers[2] <= numbers[1]
