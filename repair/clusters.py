"""What kinds of images go wrong: clusters of triggers by what the original sees in them.

SAFE (Attaoui, Fahmy, Pastore and Briand, ACM TOSEM 32, 2023): features of a network, PCA, DBSCAN (Ester et al., KDD
1996) whose eps is the knee of the k-distance curve and whose min_pts has the best silhouette (Rousseeuw, 1987). What
differs: the features are the original's own (see `features`) and not those of a network trained on other images, and
the silhouette is multiplied by the share of points in clusters, since leaving all but a few dense points out as noise
would score best.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KEPT = 0.9
"""Share of the variance that the principal components must hold."""

MOST_COMPONENTS = 50
"""At most so many: in more dimensions all distances are alike."""

MIN_POINTS = (5, 10, 20, 40)
"""Numbers of neighbours, itself included, that make a point dense: tried in turn while there are `SPARE` times more."""

SPARE = 4

SAMPLE = 2000
"""Points, evenly spaced among all, on which the silhouette is taken: it compares all pairs of them."""

Points = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Clusters:
    """Groups of n points; the largest cluster is group 0, what is in no cluster makes the last group."""

    groups: Tensor  # (n,) int64
    count: int  # clusters, the group of noise not counted
    places: Tensor  # (n, components) float64, where the points are
    radius: float  # eps: how far neighbours may be
    min_points: int  # within that radius, itself included, of a point inside a cluster
    silhouette: float  # of the points in clusters, in [-1, 1]; 0 with fewer than two clusters

    @property
    def noise(self) -> bool:
        """Whether there are points in no cluster."""
        return bool((self.groups == self.count).any())


def find_clusters(features: Tensor) -> Clusters:
    """Clusters of n points by their features (n, f), found without any random draw.

    Too few points to tell (fewer than `SPARE` times the least of `MIN_POINTS`), or points that are all the same, are
    one cluster. Raises `ValueError` for another shape and for numbers that are not finite.
    """
    if features.ndim != 2 or not bool(torch.isfinite(features).all()):
        raise ValueError(f"features must be finite (n, f), got {tuple(features.shape)}")
    points: Points = features.detach().double().cpu().numpy()
    same = len(points) > 0 and bool((points == points[0]).all())
    tried = [number for number in MIN_POINTS if number * SPARE <= len(points)]
    if same or not tried:
        nothing = torch.zeros(len(points), dtype=torch.int64)
        return Clusters(nothing, 1 if len(points) else 0, torch.zeros(len(points), 0).double(), 0.0, 1, 0.0)
    places = principal(points)
    distances = _neighbours(places, max(tried))
    candidates = [_clustered(places, distances[:, number - 1], number) for number in tried]
    return max(candidates, key=_worth)


def principal(points: Points) -> Points:
    """Points (n, f) by the first of their principal components, (n, k), that hold `KEPT` of the variance."""
    from sklearn.decomposition import PCA

    made = PCA(min(MOST_COMPONENTS, *points.shape), svd_solver="full").fit(points)
    held = np.cumsum(made.explained_variance_ratio_)
    count = int(np.searchsorted(held, KEPT)) + 1
    places: Points = made.transform(points)[:, :count]
    return places


def knee(distances: Points) -> float:
    """Where a curve of sorted distances (n,) bends upwards: its point furthest below the line between its ends.

    As in Satopää et al., Finding a kneedle in a haystack (2011), for a convex rising curve without smoothing.
    """
    rising = np.sort(distances)
    span = rising[-1] - rising[0]
    if span <= 0:
        return float(rising[0])
    line = np.linspace(0, 1, len(rising))
    return float(rising[int(np.argmax(line - (rising - rising[0]) / span))])


def _neighbours(places: Points, count: int) -> Points:
    """Distances of every point to its `count` nearest, itself first, (n, count)."""
    from sklearn.neighbors import NearestNeighbors

    distances: Points = NearestNeighbors(n_neighbors=count).fit(places).kneighbors(places)[0]
    return distances


def _clustered(places: Points, distances: Points, min_points: int) -> Clusters:
    """The clusters for one min_pts; `distances` (n,) is how far each point's min_pts-th neighbour is."""
    from sklearn.cluster import DBSCAN

    radius = max(knee(distances), float(np.finfo(np.float64).tiny))
    labels: Labels = DBSCAN(eps=radius, min_samples=min_points).fit_predict(places).astype(np.int64)
    found, first, sizes = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    order = found[np.lexsort((first, -sizes))]
    numbers: dict[Any, int] = {label: number for number, label in enumerate(order.tolist())}
    groups = torch.tensor([numbers.get(label, len(order)) for label in labels.tolist()])
    return Clusters(groups, len(order), torch.from_numpy(places), radius, min_points, _silhouette(places, labels))


def _silhouette(places: Points, labels: Labels) -> float:
    from sklearn.metrics import silhouette_score

    inside = np.flatnonzero(labels >= 0)
    rows = inside[:: max(1, -(-len(inside) // SAMPLE))]
    kinds = len(np.unique(labels[rows]))
    return float(silhouette_score(places[rows], labels[rows])) if 2 <= kinds < len(rows) else 0.0


def _worth(found: Clusters) -> tuple[float, int]:
    """Silhouette times the share in clusters; where that is nothing, some cluster rather than none."""
    share = float((found.groups < found.count).double().mean())
    return found.silhouette * share, min(found.count, 1)
