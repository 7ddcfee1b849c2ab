"""What learning several subjects in one batch is worth: steps and pictures per second for 1, 2, 4, 8 of them.

`python -m semblant.bench.subjects` teaches the embedded base drawn people, a few steps each, and keeps nothing of it.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from semblant.backbones.base import Base
from semblant.bench.sitter import Sitter, draw
from semblant.data.subject import Subject
from semblant.errors import SemblantError
from semblant.verbs import fit, load, method

log = logging.getLogger(__name__)

COUNTS = (1, 2, 4, 8)
STEPS, WARM = 20, 3
"""Steps of each run, and how many of them come before the clock counts."""


@dataclass(frozen=True)
class Speed:
    """How fast so many subjects learn together."""

    subjects: int
    steps_per_second: float
    pictures_per_second: float
    """Pictures that all of them learn from."""
    gain: float
    """Pictures per second in units of those of the first row: one subject alone, unless asked otherwise."""


def speeds(
    base: Base,
    counts: Sequence[int] = COUNTS,
    *,
    name: str = "textual-inversion",
    steps: int = STEPS,
    batch: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    **settings: Any,
) -> list[Speed]:
    """Learn so many people of the split `tune` together, for each of `counts`, and say how fast it went.

    Every subject learns from `batch` pictures a step. A step's time is the median of all but the first three, since
    other programs disturb single ones. Raises SemblantError for fewer steps, and as `fit` does.
    """
    if steps <= WARM:
        raise SemblantError(f"the first {WARM} steps do not count; give {WARM + 1} or more, not {steps}")
    if not counts or min(counts) < 1:
        raise SemblantError(f"counts of subjects are 1 or more each; got {', '.join(map(str, counts)) or 'none'}")
    chosen = method(name, base, steps=steps, batch=batch, views=2, **settings)
    portraits = draw([Sitter("tune", index).portrait() for index in range(max(counts))], base.size)
    people = [Subject((portrait,), f"<sitter-{k}>", "person") for k, portrait in enumerate(portraits, 1)]
    measured: list[Speed] = []
    for count in counts:
        log.info("%d subject%s, %d steps", count, "s" if count > 1 else "", steps)
        ticks: list[float] = []
        fit(chosen, base, people[:count], progress=lambda _, ticks=ticks: ticks.append(clock()))  # type: ignore[misc]
        seconds = statistics.median(
            after - before for before, after in zip(ticks[WARM - 1 :], ticks[WARM:], strict=False)
        )
        pictures = count * batch / seconds
        first = measured[0].pictures_per_second if measured else pictures
        measured.append(Speed(count, 1 / seconds, pictures, pictures / first))
    return measured


def table(measured: Sequence[Speed]) -> str:
    """The speeds in columns, a line for each number of subjects."""
    lines = ["subjects   steps/s   pictures/s   gain"]
    lines += [
        f"{row.subjects:>8}   {row.steps_per_second:>7.2f}   {row.pictures_per_second:>10.2f}   {row.gain:>4.2f}"
        for row in measured
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="semblant.bench.subjects", description=__doc__)
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--method", default="textual-inversion", help="one that leaves the base as it is")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="how many subjects, one run each")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each run; the first {WARM} do not count")
    parser.add_argument("--batch", type=int, default=1, help="pictures of each subject in a step")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="count what the processors spend on it, all threads added up, where other programs run beside it",
    )
    parser.add_argument("--json", action="store_true", help="answer with one JSON object")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    base = load(given.base)
    try:
        clock = time.process_time if given.processor_time else time.perf_counter
        measured = speeds(base, given.counts, name=given.method, steps=given.steps, batch=given.batch, clock=clock)
    except SemblantError as problem:
        parser.error(str(problem))
    record = {
        **{name: getattr(given, name) for name in ("base", "method", "steps", "batch", "processor_time")},
        "threads": torch.get_num_threads(),
        "speeds": [asdict(row) for row in measured],
    }
    sys.stdout.write((json.dumps(record, indent=1) if given.json else table(measured)) + "\n")


if __name__ == "__main__":
    main()
