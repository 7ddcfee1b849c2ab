"""Lines over numbers, as a drawing in SVG that stands alone or in a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#c8553d", "#d9a441", "#2a7f9e", "#6a994e", "#8d5a97", "#7d7d7d")
"""Of lines, in order; readable on light and on dark paper."""
WIDTH, HEIGHT = 760, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 34
MOST = 380
"""Points of a line: more than this width can show are thinned out."""


@dataclass(frozen=True)
class Line:
    """A name and its points; what is not finite is left out."""

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    """Written beside the points, one for each, which then are dots too."""

    def shown(self) -> list[tuple[float, float, str]]:
        """The points that are drawn, with their labels."""
        labels = self.labels or [""] * len(self.points)
        kept = [(x, y, label) for (x, y), label in zip(self.points, labels, strict=True) if math.isfinite(x + y)]
        return kept if len(kept) <= MOST else [*kept[:: -(-len(kept) // MOST)], kept[-1]]


def chart(lines: Sequence[Line], across: str, up: str, alone: bool = True) -> str:
    """The drawing, or "" when no number is finite. `across` and `up` say what the axes are; `alone` adds paper and a
    legend, for a file of its own."""
    drawn = [(line, line.shown(), colour_of(k)) for k, line in enumerate(lines)]
    every = [point for _, points, _ in drawn for point in points]
    if not every:
        return ""
    left, right, step_x = _scale([x for x, _, _ in every])
    low, high, step_y = _scale([y for _, y, _ in every])
    x = lambda value: LEFT + (WIDTH - LEFT - RIGHT) * (value - left) / (right - left)
    y = lambda value: TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)
    parts = []
    for k in range(5):
        value, place = low + step_y * k, left + step_x * k
        level = f'y1="{y(value):.1f}" y2="{y(value):.1f}"'
        parts.append(
            f'<line class="grid" stroke="#8886" x1="{LEFT}" x2="{WIDTH - RIGHT}" {level}/>'
            f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>'
            f'<text x="{x(place):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="{_ANCHORS[k]}">{place:.3g}</text>'
        )
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(across)}</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 3}">{escape(up)}</text>')
    for line, points, colour in drawn:
        path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py, _ in points)
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round" points="{path}">'
            f"<title>{escape(line.name)}</title></polyline>"
        )
        for px, py, label in points if line.labels else ():
            parts.append(f'<circle cx="{x(px):.1f}" cy="{y(py):.1f}" r="3" fill="{colour}"/>')
            parts.append(f'<text x="{x(px) + 5:.1f}" y="{y(py) - 5:.1f}">{escape(label)}</text>')
    names = [line.name for line in lines]
    body = "".join(parts) + (_legend(names) if alone else "")
    tall = HEIGHT + (20 * len(names) if alone else 0)
    paper = f'<rect width="{WIDTH}" height="{tall}" fill="white"/>' if alone else ""
    about = escape(f"{up} over {across}: {', '.join(names)}", quote=True)
    style = ' xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="12"' if alone else ""
    return (
        f'<svg{style} viewBox="0 0 {WIDTH} {tall}" width="{WIDTH}" role="img" aria-label="{about}">{paper}{body}</svg>'
    )


_ANCHORS = ("start", "middle", "middle", "middle", "end")


def _scale(values: Sequence[float]) -> tuple[float, float, float]:
    """From where to where an axis goes, and the step between five marks."""
    low, high = min(values), max(values)
    if high <= low:
        low, high = low - 0.5 * abs(low) - 1e-6, high + 0.5 * abs(high) + 1e-6
    return low, high, (high - low) / 4


def colour_of(number: int) -> str:
    """The colour of a line, counted from 0."""
    return COLOURS[number % len(COLOURS)]


def _legend(names: Sequence[str]) -> str:
    parts = []
    for k, name in enumerate(names):
        y = HEIGHT + 20 * k + 6
        parts.append(f'<rect x="{LEFT}" y="{y}" width="18" height="4" fill="{colour_of(k)}"/>')
        parts.append(f'<text x="{LEFT + 26}" y="{y + 6}">{escape(name)}</text>')
    return "".join(parts)


def legend(names: Sequence[str]) -> str:
    """Names with the colours of their lines, as HTML for a drawing in a page."""
    marked = (f'<span style="color:{colour_of(k)}">&#9644;</span> {escape(name)}' for k, name in enumerate(names))
    return " &nbsp; ".join(marked)
