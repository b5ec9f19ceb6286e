"""When is a repair believed? The figures of DESIGN, section 5, from what models answered."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dflare.search import Ending
from dflare.shards import Endings
from repair.proof import metrics
from repair.proof.intervals import Figure, Mask

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Judgement:
    """What one compressed model was seen to do on the fixed images of a run."""

    clean: Mask  # (n,) whether the pair agrees on each clean judge image
    correct: Mask  # (n,) whether its label is right; (0,) without labels
    probe: Mask  # (m,) whether the pair agrees on each probe image
    probe_labels: Mask  # (m,) whether its two labels are the same; where they are not, a tie may still agree
    milliseconds: NDArray[np.float64]  # (k,) to answer one image, measured k times
    bytes: int | None  # of the file, and of the head behind it; None for code
    payload: int | None  # bytes of the weights in use; None where the file does not tell


def search_figures(endings: Endings, budget: int, seed: int) -> dict[str, Any]:
    """How a search went: counts, success rate and queries per trigger over the seeds that did not deviate already."""
    already, found = endings.which(Ending.already).numpy(), endings.which(Ending.deviated).numpy()
    started = ~already
    summary = metrics.queries_summary(endings.queries.numpy()[started], found[started], budget, seed)
    return {
        "seeds": len(endings),
        "found": int(found.sum()),
        "already": int(already.sum()),
        "unconfirmed": int(endings.unconfirmed.sum()),
        "tied": int((endings.ties > 0).sum()),
        "censored": summary.pop("censored"),
        "success_rate": metrics.rate(int(found.sum()), int(started.sum())),
        "queries_per_trigger": summary,
    }


def queries_ratio(before: Endings, after: Endings, budget: int, seed: int) -> Figure:
    """Mean queries per trigger after / before, over the seeds on which the original agrees with both models."""
    first, second = _queries(before, budget), _queries(after, budget)
    both = sorted(first.keys() & second.keys())
    return metrics.ratio_of_means([second[k] for k in both], [first[k] for k in both], seed)


def _queries(endings: Endings, budget: int) -> dict[int, float]:
    found = endings.which(Ending.deviated).numpy()
    restricted = metrics.restricted_queries(endings.queries.numpy(), found, budget)
    already = endings.which(Ending.already).tolist()
    rows = zip(endings.seeds.tolist(), restricted.tolist(), already, strict=True)
    return {seed: queries for seed, queries, deviated in rows if not deviated}


def change_figures(before: Judgement, after: Judgement, lengths: Ids, groups: Ids) -> dict[str, Any]:
    """What became of clean and probe images; `lengths` and `groups` (m,) are each probe image's path and seed."""
    clean = metrics.paired_rates(before.clean, after.clean)
    probe = metrics.paired_rates(before.probe, after.probe, groups)
    by_length = {
        str(length): {
            "before": metrics.share(~before.probe[rows], groups[rows]),
            "after": metrics.share(~after.probe[rows], groups[rows]),
        }
        for length in np.unique(lengths).tolist()
        for rows in [lengths == length]
    }
    return {
        "drawdown": clean.broken,
        "fixed": clean.fixed,
        "net": clean.net,
        "mcnemar_p": clean.mcnemar_p,
        "clean_agreement_before": metrics.share(before.clean),
        "clean_agreement_after": metrics.share(after.clean),
        "probe_before": metrics.share(~before.probe, groups),
        "probe_after": metrics.share(~after.probe, groups),
        "probe_labels_before": metrics.share(~before.probe_labels, groups),
        "probe_labels_after": metrics.share(~after.probe_labels, groups),
        "probe_by_length": by_length,
        "probe_mcnemar_p": probe.mcnemar_p,
    }


def paired_with_placebo(
    repaired: Judgement,
    placebo: Judgement,
    start: Judgement,
    triggers: Mapping[str, tuple[Mask, Mask]],
    groups: Ids,
    ratio: Figure,
) -> dict[str, Figure | float]:
    """Repair minus placebo on the same images, as `beats_placebo` takes it.

    `triggers` holds for each kind of held-out triggers (`generalization`, `generalization_other`) whether the pair
    agrees on each after the repair and after the placebo; `ratio` is queries per trigger after the repair / after the
    placebo. `probe_mcnemar_p` is McNemar's test of the two on the probe images, clustered by `groups`.
    """
    kept = [~(start.clean & ~judgement.clean) for judgement in (placebo, repaired)]
    probe = metrics.paired_rates(placebo.probe, repaired.probe, groups)
    repairs = {key: metrics.paired_rates(placebos, ours).net for key, (ours, placebos) in triggers.items()}
    return {
        **repairs,
        "probe_after": _negative(probe.net),
        "probe_mcnemar_p": probe.mcnemar_p,
        "drawdown": _negative(metrics.paired_rates(kept[0], kept[1]).net),
        "queries_ratio": ratio,
    }


def _negative(figure: Figure) -> Figure:
    if figure.value is None or figure.low is None or figure.high is None:
        return figure
    return Figure(-figure.value, -figure.high, -figure.low, figure.n)
