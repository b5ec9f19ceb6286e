"""Box plots as SVG, by hand: one box a group, every run a dot."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

ROW, LEFT, RIGHT, TOP, BOTTOM = 34, 230, 24, 34, 40
WIDTH = 760
BOX = "#4477aa"
"""Of a palette that colour-blind readers can tell apart (P. Tol)."""


def boxplot(title: str, groups: Mapping[str, Sequence[float]], percent: bool = False) -> str:
    """An SVG picture (text) of quartiles, whiskers to the furthest run within 1.5 times their distance, and all runs.

    J. W. Tukey, Exploratory Data Analysis, 1977. Groups without runs keep their row, empty.
    """
    values = [value for group in groups.values() for value in group]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 0.05
    low, high = low - pad, high + pad
    height = TOP + ROW * len(groups) + BOTTOM

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="13"><title>{escape(title)}</title>'
        f'<rect width="100%" height="100%" fill="white"/><text x="8" y="20" font-weight="bold">{escape(title)}</text>'
    ]
    for tick in np.linspace(low + pad, high - pad, 5):
        said = f"{100 * tick:.1f} %" if percent else f"{tick:.3g}"
        parts.append(f'<line x1="{x(tick):.1f}" y1="{TOP}" x2="{x(tick):.1f}" y2="{height - BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{height - BOTTOM + 18}" text-anchor="middle">{said}</text>')
    for number, (name, group) in enumerate(groups.items()):
        middle = TOP + ROW * number + ROW / 2
        parts.append(f'<text x="{LEFT - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(_short(name))}</text>')
        parts += _box([x(value) for value in group], middle) if group else []
    return "\n".join([*parts, "</svg>\n"])


def _box(xs: Sequence[float], y: float) -> list[str]:
    first, median, third = np.percentile(xs, [25, 50, 75])
    reach = 1.5 * (third - first)
    ends = (min(v for v in xs if v >= first - reach), max(v for v in xs if v <= third + reach))
    return [
        f'<line x1="{ends[0]:.1f}" y1="{y:.1f}" x2="{ends[1]:.1f}" y2="{y:.1f}" stroke="{BOX}"/>',
        f'<rect x="{first:.1f}" y="{y - 9:.1f}" width="{max(third - first, 1):.1f}" height="18" fill="{BOX}" '
        f'fill-opacity="0.25" stroke="{BOX}"/>',
        f'<line x1="{median:.1f}" y1="{y - 9:.1f}" x2="{median:.1f}" y2="{y + 9:.1f}" stroke="{BOX}" '
        'stroke-width="2.5"/>',
        *(f'<circle cx="{v:.1f}" cy="{y:.1f}" r="3" fill="#222" fill-opacity="0.7"/>' for v in xs),
    ]


def _short(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:31]}…"
