"""Networks at rest: weights leave memory while nobody needs them, and are read again from the files they came from.

A fit encodes its pictures first and looks at none before the end: with Stable Diffusion an autoencoder of a third of a
gigabyte lies idle meanwhile. Whoever calls it wakes it. Only one whose files give back what it holds is let rest, and
what is read again is compared with what was there.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from semblant.backbones.digest import digest, digest_of
from semblant.backbones.twin import standing
from semblant.errors import FileProblem

logger = logging.getLogger(__name__)

WORTHWHILE = 2**26
"""Bytes from which on a network is let rest: reading less again saves nothing that anybody notices."""


@dataclass
class Source:
    """Where the weights of a network come from, and how it stands with them."""

    read: Callable[[], Iterator[tuple[str, Tensor]]]
    """Its weights by name, one after the other, from its files."""
    state: Hashable
    """How it stood when it had been read."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    users: int = 0
    digest: str = ""
    """Of its weights, while it rests; empty while it does not."""
    alarms: list[Any] = field(default_factory=list)


_SOURCES: WeakKeyDictionary[nn.Module, Source] = WeakKeyDictionary()


def can_rest(network: nn.Module, read: Callable[[], Iterator[tuple[str, Tensor]]]) -> None:
    """Know that `read` gives the weights of this network, as it stands now, anew from its files."""
    _SOURCES[network] = Source(read, standing(network))


@contextmanager
def resting(network: nn.Module) -> Iterator[None]:
    """Let a network rest until it is called or the block ends, if it is large, nobody is `using` it, and its files give
    back what it holds.

    Meanwhile its parameters are empty to those who read them without calling it. A network whose files are gone stays
    at rest at the end, and calling it raises FileProblem.
    """
    rests = False
    try:
        rests = _lay_down(network)
        yield
    finally:
        if rests:
            try:
                wake(network)
            except Exception as problem:  # what was learned meanwhile is worth more
                logger.warning(
                    "an autoencoder that left memory could not be read again, and will be tried when needed: %s",
                    problem,
                )


@contextmanager
def using(network: nn.Module) -> Iterator[None]:
    """Meanwhile it does not rest. Raises as `wake` does."""
    source = _SOURCES.get(network)
    if source is None:
        yield
        return
    with source.lock:
        wake(network)
        source.users += 1
    try:
        yield
    finally:
        with source.lock:
            source.users -= 1


def give_back() -> None:
    """Return memory that was freed to the system, where the C library would keep it (glibc; elsewhere nothing)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return


def known(network: nn.Module) -> str:
    """The hash of a network, also while it rests."""
    if (source := _SOURCES.get(network)) is None:
        return digest(network)
    with source.lock:
        return source.digest or digest(network)


@torch.compiler.disable
def wake(network: nn.Module) -> None:
    """Give a network that rests its weights back. Raises FileProblem when its files cannot be read, or hold others by
    now."""
    source = _SOURCES.get(network)
    if source is None or not source.digest:
        return
    with source.lock, torch.inference_mode(False):
        if not source.digest:
            return  # another thread woke it
        places = network.state_dict(keep_vars=True)
        again = {name: weight for name, weight in source.read() if name in places}
        if digest_of(again) != source.digest:
            raise FileProblem("the files of a base hold other weights than when it was loaded; load it again")
        for name, place in places.items():
            place.data = again[name].to(place.device)
        for alarm in source.alarms:
            alarm.remove()
        source.state, source.alarms, source.digest = standing(network), [], ""


def _lay_down(network: nn.Module) -> bool:
    source = _SOURCES.get(network)
    if source is None:
        return False
    with source.lock:
        places = network.state_dict(keep_vars=True)
        held = sum(w.numel() * w.element_size() for w in places.values())
        if source.users or source.digest or held < WORTHWHILE or standing(network) != source.state:
            return False
        if not _gives_back(source, places):
            return False
        found = digest_of(network.state_dict())
        try:
            # Heard by those too who call it without asking: a pipeline that shares it, for one.
            for child in network.children():
                source.alarms.append(child.register_forward_pre_hook(lambda *_: wake(network), prepend=True))
            source.digest = found
            for place in places.values():
                place.data = torch.empty(0, dtype=place.dtype, device=place.device)
        except BaseException:
            wake(network)
            raise
    give_back()
    return True


def _gives_back(source: Source, places: dict[str, Tensor]) -> bool:
    """Whether the files hold what the network does, to the bit: they may be gone, and weights may have been changed in
    ways that torch does not count."""
    same = set()
    try:
        for name, weight in source.read():
            if (place := places.get(name)) is None:
                continue
            if weight.dtype != place.dtype or not torch.equal(weight.to(place.device), place):
                return False
            same.add(name)
    except Exception as problem:
        logger.info("an autoencoder stays in memory, since its files cannot be read again: %s", problem)
        return False
    return same == places.keys()
