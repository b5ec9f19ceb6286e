"""What kinds of images go wrong: `clusters.json` in a round's folder, with examples of each kind as a picture."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dflare.triggers import TriggerSet
from experiments.files import write_atomic
from experiments.localising import open_original
from experiments.oracle import Oracle
from experiments.pictures import SMALLEST, png
from experiments.terminal import say
from repair.clusters import MIN_POINTS, SPARE, Clusters, find_clusters
from repair.features import features

EXAMPLES = 8
"""Triggers of a cluster that are named and drawn: those nearest to its mean."""

DRAWN = 12
"""Clusters that get a picture, the largest ones."""

PAIRS = 5
"""Label pairs of a cluster that are written down, the most frequent ones."""


def features_of(oracle: Oracle, images: Tensor) -> Tensor:
    """What the original sees in uint8 images (n, c, h, w), (n, f); see `repair.features`."""
    return features(open_original(oracle), oracle.examples(images))


def cluster_round(oracle: Oracle, found: TriggerSet | None, folder: Path) -> None:
    """Write `clusters.json` and `clusters/` to a round's folder for its train triggers; once.

    Nothing for so few triggers that no cluster could be told.
    """
    path = folder / "clusters.json"
    if found is None or len(found) < SPARE * MIN_POINTS[0] or path.exists():
        return
    say(f"{folder.name.replace('-', ' ')}: which kinds of images")
    seen = find_clusters(features_of(oracle, found.images))
    groups = [_group(found, seen, number, folder) for number in range(seen.count + seen.noise)]
    head = {
        "triggers": len(found),
        "radius": seen.radius,
        "min_points": seen.min_points,
        "components": seen.places.shape[1],
        "silhouette": seen.silhouette,
    }
    write_atomic(path, json.dumps({**head, "clusters": groups}) + "\n")


def _group(found: TriggerSet, seen: Clusters, number: int, folder: Path) -> dict[str, Any]:
    """One cluster as plain JSON; draws its picture."""
    rows = (seen.groups == number).nonzero().flatten()
    original, compressed = (labels[rows].tolist() for labels in found.outputs.labels)
    pairs = Counter(zip(original, compressed, strict=True)).most_common(PAIRS)
    places = seen.places[rows]
    nearest = rows[(places - places.mean(0)).norm(dim=1).argsort(stable=True)[:EXAMPLES]]
    if number < DRAWN:
        write_atomic(folder / "clusters" / f"{number}.png", png(_sheet(found.images[nearest])))
    return {
        "cluster": number,
        "noise": number == seen.count,
        "count": len(rows),
        "pairs": [{"original": one, "compressed": two, "count": count} for (one, two), count in pairs],
        "examples": [f"{seed:016x}" for seed in found.seeds[nearest].tolist()],
        "picture": f"{folder.name}/clusters/{number}.png" if number < DRAWN else None,
    }


def _sheet(images: Tensor) -> np.ndarray:
    """Images (n, c, h, w) side by side, (h', n w', 3), enlarged by a whole factor to half of a picture's size."""
    colours = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    factor = math.ceil(SMALLEST / 2 / min(images.shape[2:]))
    row: np.ndarray = colours.permute(2, 0, 3, 1).flatten(1, 2).numpy()
    return row.repeat(factor, axis=0).repeat(factor, axis=1)
