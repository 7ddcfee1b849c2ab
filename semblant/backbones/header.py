"""What a safetensors file says about itself, read from its header alone; and files that are no safetensors, named."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semblant.errors import FileProblem

PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
"""Endings of files that hold pickles, as a rule."""
PICKLE_SIGNS = (b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
"""How pickles begin, in torch's archives and by themselves."""
LARGEST = 100_000_000
"""Bytes beyond which safetensors takes no header."""
_PICKLE = "a pickle, which can run any program when it is read, so it is not read here (embeddings: `semblant convert`)"
_FOREIGN: tuple[tuple[tuple[bytes, ...], str], ...] = (
    (PICKLE_SIGNS, _PICKLE),
    ((b"version https://git-lfs",), "the pointer that Git LFS leaves in place of a file, not the file itself"),
    ((b"<!DOCTYPE", b"<!doctype", b"<html"), "a web page"),
    ((b"\x89PNG", b"\xff\xd8\xff"), "a picture"),
)


@dataclass(frozen=True)
class Header:
    """Types and shapes of a file's tensors by name, and its metadata."""

    types: Mapping[str, str]
    """As the file spells them: F32, F16, BF16, I64 ..."""
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    @property
    def parameters(self) -> int:
        """How many numbers all tensors hold."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """How many tensors there are of each type, the most frequent first."""
        return dict(Counter(self.types.values()).most_common())


def read_header(path: Path) -> Header:
    """The header of a safetensors file; its tensors are not read, and nothing is ever unpickled.

    Raises FileProblem, in one sentence that names the file, when it is missing, a folder, truncated or something else.
    """
    start = beginning(path)
    refuse_foreign(path, start)
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or length > LARGEST:
        raise FileProblem(f"{path} {diagnosis(path, start)}")
    try:
        with path.open("rb") as file:
            file.seek(8)
            entries: dict[str, Any] = json.loads(file.read(length))
        metadata = {str(key): str(value) for key, value in (entries.pop("__metadata__", None) or {}).items()}
        shapes = {name: tuple(int(side) for side in entry["shape"]) for name, entry in entries.items()}
        types = {name: str(entry["dtype"]) for name, entry in entries.items()}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except OSError as problem:
        raise FileProblem(f"{path} cannot be read: {reason(problem)}") from problem
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as problem:
        raise FileProblem(f"{path} {diagnosis(path, start)}") from problem
    if path.stat().st_size != 8 + length + end:
        raise FileProblem(f"{path} {diagnosis(path, start)}")
    return Header(types, shapes, metadata)


def beginning(path: Path) -> bytes:
    """The first bytes of a file. Raises FileProblem when it is missing, a folder or unreadable."""
    if path.is_dir():
        raise FileProblem(f"{path} is a folder; give a file")
    if path.exists() and not path.is_file():
        # A pipe would be waited for, and a device may have no end.
        raise FileProblem(f"{path} is a device or a pipe; give a file")
    try:
        with path.open("rb") as file:
            return file.read(32)
    except FileNotFoundError:
        raise FileProblem(f"there is no file {path}") from None
    except OSError as problem:
        raise FileProblem(f"{path} cannot be read: {reason(problem)}") from problem


def refuse_foreign(path: Path, start: bytes) -> None:
    """Raise FileProblem for what is known to be no safetensors file, naming what it is."""
    # A header of 640 bytes begins like a pickle; but only safetensors has a brace after eight bytes of length.
    if start[8:9] == b"{":
        return
    for signs, what in _FOREIGN:
        if start.startswith(signs):
            raise FileProblem(f"{path} is {what}; give a safetensors file")
    if path.suffix.lower() in PICKLED:
        raise FileProblem(f"{path} is by its name {_PICKLE}; give a safetensors file")


def diagnosis(path: Path, start: bytes) -> str:
    """Why safetensors refused a file."""
    size = path.stat().st_size
    header = int.from_bytes(start[:8], "little")
    if size == 0:
        return "is empty"
    if size >= 8 and start[8:9] == b"{" and header < LARGEST:
        if size < 8 + header:
            return "is truncated: even its header is incomplete"
        with path.open("rb") as file:
            file.seek(8)
            try:
                entries = json.loads(file.read(header))
                end = max((e["data_offsets"][1] for n, e in entries.items() if n != "__metadata__"), default=0)
            except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
                return "is damaged: its header makes no sense"
        if size < 8 + header + end:
            return f"is truncated: {size} of {8 + header + end} bytes are there"
        return "is damaged: its header does not fit its content"
    return "is not a safetensors file"


def reason(problem: Exception) -> str:
    """What an operating system or a library complained of, in one line."""
    return (getattr(problem, "strerror", None) or str(problem) or type(problem).__name__).splitlines()[0]
