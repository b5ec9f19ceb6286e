"""What kinds of images go wrong: clusters.json of a round, for the report. Imports no model code."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.files import read_json
from experiments.report_schema import conform
from experiments.report_text import table
from repair.proof.verdict import percent

SHOWN = 12
"""Clusters a table shows; report.json has all."""


def clusters_of(folder: Path) -> dict[str, Any] | None:
    """What `clusters.json` of a round says, None where there is none; raises `InputError` for anything else."""
    path = folder / "clusters.json"
    found: dict[str, Any] | None = conform(read_json(path), "Clusters", str(path)) if path.exists() else None
    return found


def cluster_section(rounds: Iterable[Mapping[str, Any]]) -> list[str]:
    """The part of the page that answers "what kind of image?", a table for each round with clusters."""
    found = [(entry["round"], entry["clusters"]) for entry in rounds if entry.get("clusters")]
    lines = ["## Which kinds of images", ""] if found else []
    for number, clusters in found:
        lines += [_introduction(number, clusters), ""]
        lines += table(["kind", "triggers", "share", "original → compressed"], _rows(clusters))
        for cluster in clusters["clusters"][:SHOWN]:
            if cluster["picture"] is not None:
                # by its place and not by what the file says, which may come from anyone
                place = f"round-{number:02d}/clusters/{cluster['cluster']}.png"
                lines += [f"![{_name(cluster)}: its most typical triggers]({place})", "", f"{_name(cluster)}.", ""]
    return lines


def _introduction(number: int, clusters: Mapping[str, Any]) -> str:
    kinds = sum(not cluster["noise"] for cluster in clusters["clusters"])
    return (
        f"The {clusters['triggers']:,} train triggers of round {number}, grouped by what the original sees in them "
        f"(its penultimate layer, else its answers; SAFE): {kinds} {'kind' if kinds == 1 else 'kinds'}, silhouette "
        f"{clusters['silhouette']:.2f} (1: far apart, 0: they touch). *Others* are in no group."
    )


def _rows(clusters: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            _name(cluster),
            f"{cluster['count']:,}",
            percent(cluster["count"] / max(1, clusters["triggers"])),
            ", ".join(f"{pair['original']} → {pair['compressed']} ({pair['count']:,})" for pair in cluster["pairs"]),
        )
        for cluster in clusters["clusters"][:SHOWN]
    ]


def _name(cluster: Mapping[str, Any]) -> str:
    return "Others" if cluster["noise"] else f"Kind {cluster['cluster'] + 1}"
