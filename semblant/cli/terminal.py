"""What the command line shows: answers on stdout, everything else on stderr, and nothing but errors when quiet."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from semblant.bench.results import jsonable

EVERY = 10
"""Percent of the work between two lines where there is no terminal to draw a bar on."""


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Advance = Callable[[int, int, str], None]
"""`advance(done, total, details)` shows how far long work is."""


def visible(text: str) -> str:
    """Text whose control characters are spelled out: what a file or a name holds may not steer the terminal."""
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], text)


def _nothing(done: int, total: int, details: str) -> None:
    """What a quiet command shows."""


class _Lines(logging.Handler):
    """Log records as plain lines on whatever stderr is now."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"{record.levelname.lower()}: {visible(record.getMessage())}", file=sys.stderr)


@dataclass
class Terminal:
    """Where a command speaks. `json`: the answer is one JSON object on stdout, and nothing else goes there."""

    quiet: bool = False
    json: bool = False
    errors: Console = field(default_factory=lambda: Console(stderr=True))
    out: Console = field(default_factory=Console)

    def __post_init__(self) -> None:
        """Send the library's log where this command speaks, and keep other libraries' chatter out."""
        log = logging.getLogger("semblant")
        handler: logging.Handler = _Lines()
        if self.errors.is_terminal:
            handler = RichHandler(console=self.errors, show_time=False, show_path=False, markup=False)
        log.handlers = [handler]
        log.setLevel(logging.ERROR if self.quiet else logging.WARNING)
        for name in ("transformers", "diffusers"):
            logging.getLogger(name).setLevel(logging.ERROR)

    @property
    def silent(self) -> bool:
        """Whether people get no answer, because a program does or nobody wants one."""
        return self.quiet or self.json

    def say(self, text: str) -> None:
        """One line about what is going on; on stderr."""
        if not self.quiet:
            self.errors.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """One line about what the user should know; on stderr."""
        logging.getLogger("semblant.cli").warning("%s", text)

    def error(self, text: str) -> None:
        """One line about what is wrong; on stderr, also when nothing else is said."""
        logging.getLogger("semblant.cli").error("%s", text)

    def answer(self, record: Mapping[str, Any], text: Any = None) -> None:
        """What the command found: `record` as JSON, or `text` (anything rich prints) for people."""
        if self.json:
            print(json.dumps(jsonable(record), ensure_ascii=False, allow_nan=False))
        elif not self.quiet and text is not None:
            markup = not isinstance(text, str)
            text = visible(text) if isinstance(text, str) else text
            # Prose is left to the terminal to wrap: in a pipe a sentence stays one line, however long a path in it is.
            self.out.print(text, markup=markup, highlight=False, soft_wrap=isinstance(text, str | Text))

    @contextmanager
    def work(self, title: str) -> Iterator[Advance]:
        """Progress of long work: the block calls `advance(done, total, details)`.

        A bar on a terminal, else a line every ten percent.
        """
        if self.quiet:
            yield _nothing
        elif self.errors.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[details]}"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.errors, transient=False) as bar:
                task = bar.add_task(title, total=None, details="")

                def advance(done: int, total: int, details: str) -> None:
                    bar.update(task, completed=done, total=total, details=details)

                yield advance
        else:
            yield self._lines(title)

    def _lines(self, title: str) -> Advance:
        said, first = -1, (0, 0.0)

        def advance(done: int, total: int, details: str) -> None:
            nonlocal said, first
            if said < 0:
                # What came before, preparation or an interrupted run, says nothing of the speed.
                first = done, time.monotonic()
            tenth = done * 100 // max(total, 1) // EVERY
            if tenth > said:
                said = tenth
                left = (time.monotonic() - first[1]) / max(done - first[0], 1) * (total - done)
                remaining = f", about {duration(left)} left" if first[0] < done < total else ""
                self.say(f"{title}: {done} of {total}{', ' + details if details else ''}{remaining}")

        return advance


def duration(seconds: float) -> str:
    """Seconds in words: "8 s", "2 min 10 s", "3 h 5 min"."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def memory(count: int) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
