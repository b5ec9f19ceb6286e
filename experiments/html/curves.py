"""Survival curves: the share of chains that have found no trigger after so many queries."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.html.shards import ALREADY, DEVIATED, Chains, read_chains
from repair.proof.intervals import Z


class Curve(NamedTuple):
    """A survival curve: each field is (k,), a value for each number of queries at which a chain ended."""

    queries: NDArray[np.int64]
    surviving: NDArray[np.float64]  # share without a trigger after so many queries
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    at_risk: NDArray[np.int64]  # chains that were still searching just before
    found: NDArray[np.int64]  # chains that ended with a trigger
    censored: NDArray[np.int64]  # chains that ended without one


def kaplan_meier(queries: NDArray[np.int64], found: NDArray[np.bool_]) -> Curve:
    """Share of chains without a trigger after so many queries; chains that found none (n,) are censored.

    Kaplan and Meier, JASA 53 (1958); 95 % interval by Greenwood's variance on the log(-log) scale (Kalbfleisch and
    Prentice, 1980), which stays within [0, 1]. Where all or none survive there is no variance, and no interval either:
    both ends are the share itself.
    """
    times = np.unique(queries)
    deaths = np.array([np.sum(found & (queries == time)) for time in times], dtype=np.int64)
    gone = np.array([np.sum(~found & (queries == time)) for time in times], dtype=np.int64)
    risk = len(queries) - np.concatenate([[0], np.cumsum(deaths + gone)[:-1]]).astype(np.int64)
    surviving = np.cumprod(1 - deaths / np.maximum(1, risk))
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.cumsum(deaths / (risk * (risk - deaths)))
        reach = Z * np.sqrt(variance) / np.log(surviving)  # negative
        low, high = surviving ** np.exp(-reach), surviving ** np.exp(reach)
    inside = (surviving > 0) & (surviving < 1)
    return Curve(
        times,
        surviving.astype(np.float64),
        np.where(inside, low, surviving).astype(np.float64),
        np.where(inside, high, surviving).astype(np.float64),
        risk,
        deaths,
        gone,
    )


def curves(folders: Mapping[str, Path]) -> dict[str, Curve]:
    """The curve of each search, over the seeds that every one of the searches could begin with.

    Those on which a pair deviates unmutated are no searches; left out of one, they are left out of all.
    """
    read = {name: read_chains(folder) for name, folder in folders.items()}
    judged = {name: chains.side("judge") for name, chains in read.items() if chains is not None}
    known = {name: chains for name, chains in judged.items() if len(chains.seeds)}
    common = _common(list(known.values()))
    made = {}
    for name, chains in known.items():
        rows = np.isin(chains.seeds, common)
        if rows.any():
            made[name] = kaplan_meier(chains.queries[rows], chains.endings[rows] == DEVIATED)
    return made


def _common(searches: Sequence[Chains]) -> NDArray[np.int64]:
    seeds = [chains.seeds[chains.endings != ALREADY] for chains in searches]
    common = seeds[0] if seeds else np.zeros(0, dtype=np.int64)
    for more in seeds[1:]:
        common = np.intersect1d(common, more)
    return common


def share_after(curve: Curve, queries: int) -> float:
    """The share that survives so many queries."""
    past = int(np.searchsorted(curve.queries, queries, side="right"))
    return float(curve.surviving[past - 1]) if past else 1.0
