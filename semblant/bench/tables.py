"""What an experiment says: means over people and their intervals, facts by kind of prompt, and whether bars hold that
were stated before anything was measured."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RESAMPLES = 2000
INTERVAL = 5
"""People from whom on a mean has an interval."""

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

    def people(self, cells: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
        """Of everybody who has all it needs: the column, and what is taken from it or what it is a multiple of."""
        own, other = (_by_person(cells, name, self.column) for name in (self.arm, self.less or self.times))
        people = own.keys() & other.keys() if self.less or self.times else own.keys()
        return [(own[person], other.get(person, 0.0)) for person in sorted(people)]

    def value(self, people: Sequence[tuple[float, float]]) -> float | None:
        """The number that is judged; None where there is nobody."""
        if not people:
            return None
        mean, beside = (sum(column) / len(people) for column in zip(*people, strict=True))
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
                if len(values) >= INTERVAL:
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


def obeyed_by_fact(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Per arm and fact (age, hat ...) how often it holds where a prompt names it, mean over people."""
    return means([{"arm": c["arm"], "facts": c["scores"].get("facts_by_name") or {}} for c in cells], "facts")


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
        people = bar.people(cells)
        value = bar.value(people)
        told: dict[str, Any] = {"bar": str(bar), "value": value, "people": len(people)}
        if len(people) >= INTERVAL and not bar.times:
            told["interval"] = interval([own - other for own, other in people])
        found.append({**told, "holds": None if value is None else bar.holds(value)})
    return found


def bars_as_text(found: Sequence[Mapping[str, Any]]) -> str:
    """One line per bar."""
    words = {True: "holds", False: "MISSED", None: "not measured"}
    value = lambda bar: "" if bar["value"] is None else f" ({_number(bar)}; {bar['people']} people)"
    return "".join(f"- {bar['bar']}: {words[bar['holds']]}{value(bar)}\n" for bar in found)


def _number(found: Mapping[str, Any], name: str = "value") -> str:
    """A number, and its interval where there is one."""
    text = f"{found[name]:.3f}"
    return text + (", {:.3f} to {:.3f}".format(*found["interval"]) if "interval" in found else "")


BESIDE = ("Prompt", "ID(Prompt)", "gain", "own facts", "facts", "copies", "outside")
"""Columns whose differences between arms are told."""


def paired(cells: Sequence[Mapping[str, Any]], arm: str) -> dict[str, dict[str, Any]]:
    """Every other arm less this one, column by column over the people whom both have: the mean of the differences, its
    interval when there are five or more, and how many people."""
    table: dict[str, dict[str, Any]] = {}
    for other in dict.fromkeys(cell["arm"] for cell in cells):
        if other == arm:
            continue
        row: dict[str, Any] = {}
        for column in BESIDE:
            one, two = _by_person(cells, arm, column), _by_person(cells, other, column)
            values = [two[person] - one[person] for person in sorted(one.keys() & two.keys())]
            if values:
                row[column] = {"mean": sum(values) / len(values), "people": len(values)}
                if len(values) >= INTERVAL:
                    row[column]["interval"] = interval(values)
        table[other] = row
    return table


def paired_as_text(table: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """The differences as a table for a page of documentation."""
    lines = [f"| {title} | people | {' | '.join(BESIDE)} |", f"|---|---|{'---|' * len(BESIDE)}"]
    for arm, row in table.items():
        people = max((found["people"] for found in row.values()), default=0)
        lines.append(
            f"| {arm} | {people} | {' | '.join(_number(row[c], 'mean') if c in row else '' for c in BESIDE)} |"
        )
    return "\n".join(lines) + "\n"


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
