"""The comparison in numbers: medians and ratios from the results of the runs, as JSON and as a Markdown table."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.job import OURS, THEIRS
from benchmarks.speed.plan import PARITY, PARTS, SAMPLING

Result = Mapping[str, Any]
MIB = 2**20
NO_WORSE = 1e-3
"""By how much of itself a final loss may be above that of the same draws in float32 and still count as no worse."""
AS_FAR = 0.9
"""Share of the way from the first loss to their last that counts as having come as far: the draws of the two differ."""
ALIKE = 1e-2
"""Largest difference of two pictures, in parts of the whole range, that still counts as the same picture."""


@dataclass(frozen=True)
class Summary:
    """One run in a few numbers. Seconds are of a step, memory in MiB."""

    part: str
    side: str
    name: str
    precision: str
    step: float
    fastest: float
    slowest: float
    processor: float
    """Processor seconds of a step, all threads together: they hardly depend on what else the machine does."""
    cold_start: float
    """Seconds from the start of the process to the end of the first step."""
    encoding: float
    """Of these, seconds in the autoencoder: ours encodes its views then, the scripts one batch."""
    views: int
    memory: float
    """The most of the whole run, loading included."""
    steps_memory: float
    """The most of the steps after the first."""
    bank: dict[int, float]
    parts: dict[str, float]
    """Seconds of a step in each of its parts; "rest" is what none of them accounts for."""
    total: float
    """Seconds of all steps after the first."""

    @staticmethod
    def of(result: Result, warm_up: int) -> Summary:
        """Medians over the timed steps: all but the first `warm_up`, of which one is in the cold start."""
        job, skip = result["job"], max(0, warm_up - 1)
        seconds, parts = result["seconds"][skip:], result["parts"][skip:]
        names = sorted({name for step in parts for name in step})
        medians = {name: statistics.median(step.get(name, 0.0) for step in parts) for name in names}
        rest = [whole - sum(step.values()) for whole, step in zip(seconds, parts, strict=True)]
        return Summary(
            part=job["part"],
            side=job["side"],
            name=job["name"],
            precision=result["precision"],
            step=statistics.median(seconds),
            fastest=min(seconds),
            slowest=max(seconds),
            processor=statistics.median(result["processor_seconds"][skip:]),
            cold_start=result["cold_start"],
            encoding=result["parts_of_cold_start"].get("autoencoder", 0.0),
            views=job["views"],
            memory=result["peak_memory"] / MIB,
            steps_memory=result["steps_memory"] / MIB,
            bank={int(step): loss for step, loss in result["bank"].items()},
            parts={**medians, "rest": statistics.median(rest)},
            total=sum(result["seconds"]),
        )


@dataclass(frozen=True)
class Bar:
    """One thing to reach: a ratio against what is wanted of it."""

    what: str
    ratio: float
    wanted: float
    least: bool = True
    """Whether the ratio should be at least, rather than at most, what is wanted."""
    processor: float | None = None
    """The same ratio of processor seconds, for machines that do other things meanwhile."""

    @property
    def reached(self) -> bool:
        """Whether it is."""
        return self.ratio >= self.wanted if self.least else self.ratio <= self.wanted


def loss_at(bank: Mapping[int, float], step: float) -> float:
    """Loss on the bank after `step` steps, straight between the steps at which it was read; the ends beyond them."""
    known = sorted(bank)
    if step <= known[0]:
        return bank[known[0]]
    for before, after in itertools.pairwise(known):
        if step <= after:
            share = (step - before) / (after - before)
            return bank[before] + share * (bank[after] - bank[before])
    return bank[known[-1]]


def at_equal_seconds(one: Summary, other: Summary) -> tuple[float, float, float]:
    """Losses of both after as many seconds of steps as the faster one took, and those seconds."""
    steps = max(one.bank)
    seconds = steps * min(one.step, other.step)
    return loss_at(one.bank, seconds / one.step), loss_at(other.bank, seconds / other.step), seconds


def bars(summaries: Sequence[Summary]) -> list[Bar]:
    """What is to be reached, as far as there are runs to tell."""
    found = {(s.part, s.side, s.name): s for s in summaries}
    made: list[Bar] = []
    for theirs in ("default", "best"):
        for part, times in (("textual-inversion", 1.8), ("dreambooth-lora", 1.3)):
            other = found.get((part, THEIRS, theirs))
            own = found.get((part, OURS, other.precision)) if other else None
            if own and other:
                label = f"{part}, {other.precision}, against their {theirs} flags"
                made.append(_faster(label, own, other, times))
                if part == "textual-inversion":
                    for which, share in (
                        ("memory", own.memory / other.memory),
                        ("memory once loaded", own.steps_memory / other.steps_memory),
                    ):
                        made.append(Bar(f"{label}: share of their {which}", share, 0.8, least=False))
    made += _own_choice(found)
    own, other = found.get((SAMPLING, OURS, "float32")), found.get((SAMPLING, THEIRS, "pipeline"))
    return [*made, _faster("sampling", own, other, 1.0)] if own and other else made


def _own_choice(found: Mapping[tuple[str, str, str], Summary]) -> list[Bar]:
    """Ours in the precision it chooses, against their default flags and against itself in float32."""
    part = "textual-inversion"
    own, other = found.get((part, OURS, "own choice")), found.get((part, THEIRS, "default"))
    exact = found.get((part, OURS, "float32"))
    if own is None:
        return []
    made, last = [], own.bank[max(own.bank)]
    label = f"{part}, own choice of precision ({own.precision})"
    if other:
        made.append(_faster(f"{label}, against their default flags", own, other, 3.0))
        way = (own.bank[0] - last) / max(own.bank[0] - other.bank[max(other.bank)], 1e-12)
        made.append(Bar(f"{label}: how far the loss on the bank fell, in parts of theirs", way, AS_FAR))
    if exact:
        ratio = last / exact.bank[max(exact.bank)]
        made.append(
            Bar(f"{label}: final loss in parts of ours in float32, same draws", ratio, 1 + NO_WORSE, least=False)
        )
    return made


def _faster(label: str, own: Summary, other: Summary, wanted: float) -> Bar:
    ratios = other.step / own.step, other.processor / own.processor
    return Bar(f"{label}: times faster", ratios[0], wanted, processor=ratios[1])


def picture_difference(one: Path, other: Path) -> tuple[float, float]:
    """Largest and mean difference of two pictures, in parts of the whole range of values."""
    import numpy as np
    from PIL import Image

    pixels = [np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) / 255 for path in (one, other)]
    apart = np.abs(pixels[0] - pixels[1])
    return float(apart.max()), float(apart.mean())


def collect(results: Sequence[Result], pictures: Sequence[Path], warm_up: int) -> dict[str, Any]:
    """Everything that results tell, and the two pictures that were sampled, once both are there."""
    parity = {r["job"]["part"]: r for r in results if "same" in r}
    runs = [r for r in results if "seconds" in r and not r["job"]["name"].endswith(PARITY)]
    summaries = [Summary.of(r, 1 if r["job"]["part"] == SAMPLING else warm_up) for r in runs]
    summaries.sort(key=lambda s: (PARTS.index(s.part), s.side != THEIRS))
    told: dict[str, Any] = {
        "parity": {
            part: {"difference": r["difference"], "same": r["same"], "change": r["change"]}
            for part, r in parity.items()
        },
        "runs": [asdict(summary) for summary in summaries],
        "bars": [{**asdict(bar), "reached": bar.reached} for bar in bars(summaries)],
        "equal_seconds": _equal_seconds(summaries),
    }
    if all(picture.is_file() for picture in pictures):
        largest, mean = picture_difference(*pictures)
        told["pictures"] = {"largest": largest, "mean": mean, "same": largest <= ALIKE}
    return told


def _equal_seconds(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """Each of our runs beside their default: losses on the bank at equal seconds."""
    default = {s.part: s for s in summaries if s.side == THEIRS and s.name == "default"}
    rows = []
    for own in summaries:
        if own.side == OURS and own.part in default:
            theirs = default[own.part]
            # Nothing is learned before the first step, so both sides start from what ours read.
            start = {**theirs.bank, **({0: own.bank[0]} if 0 in own.bank else {})}
            mine, other, seconds = at_equal_seconds(own, Summary(**{**asdict(theirs), "bank": start}))
            rows.append({"part": own.part, "ours": own.name, "seconds": seconds, "loss": mine, "their_loss": other})
    return rows
