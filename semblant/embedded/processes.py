"""Other processes that work while this one goes on."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch

Share = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""Maps a function over tasks, of which there may be no end; answers come in order, as they are asked for."""
AHEAD = 4
"""How many tasks each process may be ahead: enough to be never waited for, few enough to fit into memory."""


@contextmanager
def company(workers: int) -> Iterator[Share]:
    """`workers` processes to share work with; with 0 the work is done here, when its answer is asked for.

    They are begun anew rather than forked, which a process that uses a GPU must not be.
    """
    if not workers:
        yield map
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _alone) as pool:
        yield lambda work, tasks: _in_order(pool, work, iter(tasks), AHEAD * workers)
        pool.shutdown(cancel_futures=True)


def _in_order(pool: Executor, work: Callable[[Any], Any], tasks: Iterator[Any], ahead: int) -> Iterator[Any]:
    waiting = deque(pool.submit(work, task) for task in islice(tasks, ahead))
    while waiting:
        answer = waiting.popleft().result()
        waiting.extend(pool.submit(work, task) for task in islice(tasks, 1))
        yield answer


def _alone() -> None:
    """One thread for each: they share the processor by being many."""
    torch.set_num_threads(1)
