"""What the candidates in a trigger's path are called, which depends on the strategy, and how often each led there."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.html.markup import Safe, details, section, table
from experiments.html.plots import bars, figure
from experiments.html.shards import Trigger
from experiments.report_rows import dig
from repair.proof.intervals import rate

MOST = 20
"""Bars drawn; the data has all."""

PUBLISHED = (
    "gaussian_noise",
    "salt_and_pepper",
    "speckle_noise",
    "random_pixels",
    "average_blur",
    "gaussian_blur",
    "median_blur",
)
RELEASED = (
    "gaussian_noise_released",
    "salt_and_pepper",
    "speckle_noise_released",
    "random_pixels_released",
    "average_blur",
    "gaussian_blur",
    "median_blur",
)
AFFINE = ("rotation", "shift", "scale", "shear")
PHOTOMETRIC = ("brightness", "contrast", "jpeg")
WEATHER = ("motion_blur", "fog")
SETS = {
    "published": PUBLISHED,
    "released": RELEASED,
    "affine": AFFINE,
    "photometric": PHOTOMETRIC,
    "weather": WEATHER,
    "optional": (*AFFINE, "elastic", *PHOTOMETRIC, *WEATHER),
}
"""The names in `dflare.mutation_sets.SETS`, which imports PyTorch; a test holds them together."""

Naming = Callable[[int], str]


def naming(settings: Mapping[str, Any]) -> Naming:
    """What the choices in the paths of a run's triggers are called, by `search.strategy` and `search.mutations`."""
    strategy, chosen = dig(settings, "search", "strategy"), dig(settings, "search", "mutations")
    default = "released" if strategy == "dflare-released" else "published"
    wanted = chosen if isinstance(chosen, list) else [default]
    names = list(dict.fromkeys(name for one in wanted for name in SETS.get(str(one), (str(one),))))
    if strategy in ("boundary", "boundary-walk"):
        return lambda choice: _on_the_way(names, choice)
    if strategy == "diffchaser":
        return lambda _: "a crossover or mutation of the population"
    if strategy == "gradient":
        return lambda choice: "a step along the gradient" if choice else "a random start"
    return lambda choice: names[choice] if 0 <= choice < len(names) else f"mutation {choice}"


def _on_the_way(names: Sequence[str], choice: int) -> str:
    """See `dflare.boundary.Boundary`: rows of mutations, then noise, then the real images it goes towards."""
    if choice < len(names):
        return f"a row beginning with {names[choice]}"
    return "noise at the boundary" if choice == len(names) else "the way to a real image"


def used(trigger: Trigger, name: Naming) -> list[str]:
    """The names of all that led to a trigger, each once, in order."""
    return list(dict.fromkeys(name(choice) for choice in trigger.choices))


def mutations_section(triggers: Sequence[Trigger], name: Naming) -> Safe | None:
    """The part of the page on what led to the triggers, None where no path was kept."""
    kept = [trigger for trigger in triggers if trigger.choices]
    if not kept:
        return None
    anywhere = Counter(entry for trigger in kept for entry in used(trigger, name))
    last = Counter(name(trigger.choices[-1]) for trigger in kept)
    rows = [(entry, count, last[entry]) for entry, count in anywhere.most_common()]
    words = (
        f"The share of {len(kept):,} triggers (all sides and rounds) in whose path a mutation was accepted, with its "
        "95 % interval. A path may hold several, so the shares do not sum to 100 %."
    )
    shown = []
    for entry, count, _ in rows[:MOST]:
        share = rate(count, len(kept))
        value = share.value or 0.0
        shown.append((entry.replace("_", " "), value, share.low, share.high, f"{100 * value:.1f} %"))
    data = {"triggers": len(kept), "mutations": [{"name": n, "in_paths": a, "last": b} for n, a, b in rows]}
    title = "What led to the triggers"
    made = figure("mutations", title, words, bars(title, shown), data, _table(title, rows, len(kept)))
    return section("mutations", "Which mutations find triggers?", made)


def _table(title: str, rows: Sequence[tuple[str, int, int]], total: int) -> Safe:
    """A row for each (name, in so many paths, last in so many)."""
    cells = []
    for name, *counts in rows:
        shares = [f"{100 * count / total:.1f} %" for count in counts]
        cells.append((name.replace("_", " "), f"{counts[0]:,}", shares[0], f"{counts[1]:,}", shares[1]))
    header = ["mutation", "in paths", "share", "as the last step", "share"]
    return details("The same as a table, and what came last", table(title, header, cells))
