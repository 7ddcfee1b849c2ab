"""What an experiment says: means over people and their intervals, facts by kind of prompt, and whether bars hold that
were stated before anything was measured."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RESAMPLES = 2000

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "Prompt": ("scores", "prompt"),
    "ID": ("scores", "identity"),
    "ID or zero": ("scores", "identity_or_zero"),
    "Detect": ("scores", "detect"),
    "ID(Prompt)": ("scores", "id_prompt"),
    "gain": ("scores", "identity_gain"),
    "own facts": ("own facts",),
    "facts": ("scores", "facts"),
    "copies": ("scores", "copy_rate"),
    "outside": ("attention", "a place outside the head"),
    "share outside": ("attention", "share outside the head"),
    "on object": ("attention", "share of an object word on it"),
    "parameters": ("parameters",),
    "s": ("seconds",),
    "MB": ("peak_memory",),
}
"""Columns of the table, and where a cell holds them."""
WHOLE = {"parameters": 1.0, "s": 1.0, "MB": 1e-6}
"""Columns told in whole numbers and without intervals, and by what they are multiplied."""


@dataclass(frozen=True)
class Bar:
    """What must hold of the mean over people of one arm's column: as it is, less that of another arm, or as many times
    it."""

    arm: str
    column: str
    at_least: float | None = None
    at_most: float | None = None
    less: str | None = None
    times: str | None = None

    def __str__(self) -> str:
        value = f"{self.column} of {self.arm}"
        value += f" less that of {self.less}" if self.less else f" over that of {self.times}" if self.times else ""
        limits = (("at least", self.at_least), ("at most", self.at_most))
        return f"{value}: " + ", ".join(f"{name} {limit:g}" for name, limit in limits if limit is not None)

    def value(self, cells: Sequence[Mapping[str, Any]]) -> float | None:
        """The number that is judged, over people who have all it needs; None where there is none."""
        own, other = (_by_person(cells, name, self.column) for name in (self.arm, self.less or self.times))
        people = own.keys() & other.keys() if self.less or self.times else own.keys()
        if not people:
            return None
        mean, beside = (sum(values.get(p, 0.0) for p in people) / len(people) for values in (own, other))
        if self.times:
            return mean / beside if beside else math.inf
        return mean - beside

    def holds(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


def _by_person(cells: Sequence[Mapping[str, Any]], arm: str | None, column: str) -> dict[int, float]:
    found = ((cell["person"], _at(cell, COLUMNS[column])) for cell in cells if cell["arm"] == arm)
    return {person: value for person, value in found if value is not None}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of the means of resampled people (bootstrap)."""
    rng = random.Random("semblant bootstrap")
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]


def summary(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per arm and column: the mean over people, its interval when there are five or more, and how many people."""
    table: dict[str, dict[str, Any]] = {}
    for arm in dict.fromkeys(cell["arm"] for cell in cells):
        own = [cell for cell in cells if cell["arm"] == arm]
        row: dict[str, Any] = {"people": len(own)}
        for column, path in COLUMNS.items():
            values = [value for cell in own if (value := _at(cell, path)) is not None]
            if values:
                row[column] = {"mean": sum(values) / len(values)}
                if len(values) >= 5:
                    row[column]["interval"] = interval(values)
        table[arm] = row
    return table


def _at(cell: Any, path: Sequence[str]) -> float | None:
    for name in path:
        cell = cell.get(name) if isinstance(cell, Mapping) else None
    return cell


def obeyed_by_kind(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Per arm and kind of prompt the facts obeyed, mean over people; only what was measured."""
    kinds = [{"arm": c["arm"], "facts": {k: v["facts"] for k, v in c["kinds"].items()}} for c in cells]
    return means(kinds, "facts")


def means(cells: Sequence[Mapping[str, Any]], name: str) -> dict[str, dict[str, float]]:
    """Per arm the numbers that cells hold under a name, each the mean over people; only what was measured."""
    found: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        own = found.setdefault(cell["arm"], {})
        for key, value in cell[name].items():
            if value is not None:
                own.setdefault(key, []).append(value)
    return {arm: {key: sum(v) / len(v) for key, v in own.items()} for arm, own in found.items()}


def means_as_text(table: Mapping[str, Mapping[str, float]], title: str) -> str:
    """Means by name, as a table for a page of documentation."""
    names = list(dict.fromkeys(name for row in table.values() for name in row))
    lines = [f"| {title} | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for arm, row in table.items():
        lines.append(f"| {arm} | {' | '.join(f'{row[name]:.3f}' if name in row else '' for name in names)} |")
    return "\n".join(lines) + "\n"


def judged(bars: Sequence[Bar], cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every bar with its value and whether it holds; None where its arms were not measured."""
    found = []
    for bar in bars:
        value = bar.value(cells)
        found.append({"bar": str(bar), "value": value, "holds": None if value is None else bar.holds(value)})
    return found


def bars_as_text(found: Sequence[Mapping[str, Any]]) -> str:
    """One line per bar."""
    words = {True: "holds", False: "MISSED", None: "not measured"}
    value = lambda bar: "" if bar["value"] is None else f" ({bar['value']:.3f})"
    return "".join(f"- {bar['bar']}: {words[bar['holds']]}{value(bar)}\n" for bar in found)


def markdown(table: Mapping[str, Mapping[str, Any]]) -> str:
    """The summary as a table for a page of documentation."""
    lines = [f"| arm | people | {' | '.join(COLUMNS)} |", f"|---|---|{'---|' * len(COLUMNS)}"]
    for arm, row in table.items():
        cells = []
        for column in COLUMNS:
            found = row.get(column)
            text = "" if found is None else f"{found['mean']:.3f}"
            if found and column in WHOLE:
                text = f"{found['mean'] * WHOLE[column]:.0f}"
            elif found and "interval" in found:
                text += " ({:.3f} to {:.3f})".format(*found["interval"])
            cells.append(text)
        lines.append(f"| {arm} | {row['people']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
