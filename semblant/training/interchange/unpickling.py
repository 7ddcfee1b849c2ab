"""A program of its own that turns a pickle of tensors into a safetensors file: `python unpickling.py PICKLE OUT`.

Pickles are read here and nowhere else. Only `convert` starts it, as a process apart, with a time limit; what comes back
is the file of tensors and an exit code, never an object or a word of the pickle's own beside the names of its entries.
It imports nothing of semblant, so that nothing of semblant is in its process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from safetensors.torch import save_file

MORE_THAN_TENSORS, TOO_LARGE = 3, 4
"""Exit codes for what is refused."""
LARGEST = 100 * 2**20
"""Bytes of all tensors together; an embedding has some thousand."""
MEMORY = 8 * 2**30
"""Bytes that the process may take, where the system can hold it to that."""
DEEPEST = 8
"""Tables within tables that are followed."""


def tensors_of(path: str) -> tuple[dict[tuple[str, ...], torch.Tensor], list[tuple[str, ...]]]:
    """The entries of a pickle, as `by_names` has them.

    Raises what torch raises for a pickle that asks for more than tensors, and what `by_names` raises.
    """
    return by_names(torch.load(path, map_location="cpu", weights_only=True))


def by_names(loaded: Any) -> tuple[dict[tuple[str, ...], torch.Tensor], list[tuple[str, ...]]]:
    """Tensors by the names that lead to them, and the names of whatever is no tensor and no table.

    Raises ValueError for tables with other keys than text or too deep ones, and for sparse tensors, MemoryError when
    the tensors would be larger than LARGEST.
    """
    tensors: dict[tuple[str, ...], torch.Tensor] = {}
    others: list[tuple[str, ...]] = []
    size = 0
    for names, value in _entries(loaded, ()):
        if not isinstance(value, torch.Tensor):
            others.append(names)
            continue
        # A tensor can claim any number of values over one and the same place in memory.
        size += value.numel() * value.element_size()
        if size > LARGEST:
            raise MemoryError
        if value.layout != torch.strided:
            raise ValueError(names)
        tensors[names] = value.detach().clone(memory_format=torch.contiguous_format)
    return tensors, others


def _entries(value: Any, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(value, Mapping):
        yield names, value
        return
    if len(names) == DEEPEST or not all(isinstance(key, str) for key in value):
        raise ValueError(names)
    for key, inner in value.items():
        yield from _entries(inner, (*names, key))


def _limit_memory() -> None:
    # Not every system has it.
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def main(path: str, out: str) -> int:
    """Write the tensors of a pickle, and answer with an exit code: 0, MORE_THAN_TENSORS or TOO_LARGE."""
    _limit_memory()
    try:
        tensors, others = tensors_of(path)
    except MemoryError:
        return TOO_LARGE
    except Exception:
        # Whatever the pickle did to torch's reader: there is nothing in it for us.
        return MORE_THAN_TENSORS
    save_file(
        {json.dumps(names): tensor for names, tensor in tensors.items()},
        out,
        metadata={"others": json.dumps(others)},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
