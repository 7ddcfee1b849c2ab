"""Ctrl-C and SIGTERM, heard between two steps so that the run can save itself."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

GRACE = 3.0
"""Seconds that a step may go on for after somebody asked to stop; then it is given up, and what was before it saved."""


@contextmanager
def stoppable(say: Callable[[str], None], promise: str) -> Iterator[Callable[[], bool]]:
    """A function that answers whether somebody asked to stop.

    Work that does not ask it within `GRACE` seconds gets a KeyboardInterrupt, and so it does when Ctrl-C is pressed a
    second time; a second SIGTERM ends the program on the spot. Work that was told yes has all the time it needs to put
    things in order. `promise` is said at the first time: what happens until it stops. Outside the main thread, where
    Python takes no signals, the answer is always no.
    """
    asked = threading.Event()
    if not _hears():
        yield asked.is_set
        return
    signals = [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.getsignal(number) for number in signals}
    late = threading.Timer(GRACE, _press_again)
    late.daemon = True

    def hear(number: int, frame: FrameType | None) -> None:
        # SIGINT stays with this function: whoever holds it back for a while would else lose it, or hear it as a first.
        if asked.is_set():
            late.cancel()
            signal.default_int_handler(number, frame)
        asked.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        late.start()
        # A line that is being written just now cannot be interrupted by another.
        with suppress(RuntimeError, OSError):
            say(f"{promise}; once more stops at once")

    def answer() -> bool:
        if asked.is_set():
            # It stops by itself now, and saves: nothing is to disturb that.
            late.cancel()
        return asked.is_set()

    for number in signals:
        signal.signal(number, hear)
    try:
        yield answer
    finally:
        late.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """For the block SIGTERM is what Ctrl-C is, so that everything is put in order before the program ends."""
    if not _hears() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _press_again() -> None:
    """As if Ctrl-C were pressed once more; a main thread that waits for something is woken."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _hears() -> bool:
    return threading.current_thread() is threading.main_thread()
