"""Tensors on disk: safetensors files written atomically, and read with one sentence about what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from semblant.errors import FileProblem


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file so that `path` holds either what it held before or all of the new content.

    Folders on the way are made. Raises FileProblem when the disk or the folder does not let us.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(_separate(tensors), temporary, metadata=dict(metadata))
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except (OSError, SafetensorError) as problem:
        raise FileProblem(f"{path} cannot be written: {_reason(problem)}") from problem
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Nothing else is ever opened, and nothing unpickled.

    Raises FileProblem, in one sentence that names the file, when it is missing, a folder, truncated or something else.
    """
    beginning = _beginning(path)
    for signs, what in _FOREIGN:
        # A header of 640 bytes begins like a pickle; but only safetensors has a brace after eight bytes of length.
        if beginning[8:9] != b"{" and beginning.startswith(signs):
            raise FileProblem(f"{path} is {what}; give a safetensors file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as problem:
        raise FileProblem(f"{path} {_diagnosis(path, beginning)}") from problem


def content_hash(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, and over `text`."""
    total = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity."""
    return [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]


_PICKLE = "a pickle, which can run any program when it is read, so semblant never reads one"
_FOREIGN: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"PK\x03\x04",), _PICKLE),
    (tuple(bytes([0x80, protocol]) for protocol in range(2, 6)), _PICKLE),
    ((b"version https://git-lfs",), "the pointer that Git LFS leaves in place of a file, not the file itself"),
    ((b"<!DOCTYPE", b"<!doctype", b"<html"), "a web page"),
    ((b"\x89PNG", b"\xff\xd8\xff"), "a picture"),
)


def _beginning(path: Path) -> bytes:
    if path.is_dir():
        raise FileProblem(f"{path} is a folder; give a file")
    try:
        with path.open("rb") as file:
            return file.read(32)
    except FileNotFoundError:
        raise FileProblem(f"there is no file {path}") from None
    except OSError as problem:
        raise FileProblem(f"{path} cannot be read: {_reason(problem)}") from problem


def _diagnosis(path: Path, beginning: bytes) -> str:
    """Why safetensors refused a file."""
    size = path.stat().st_size
    header = int.from_bytes(beginning[:8], "little")
    if size == 0:
        return "is empty"
    if size >= 8 and beginning[8:9] == b"{" and header < 100_000_000:
        if size < 8 + header:
            return "is truncated: even its header is incomplete"
        with path.open("rb") as file:
            file.seek(8)
            try:
                entries = json.loads(file.read(header))
                end = max((e["data_offsets"][1] for n, e in entries.items() if n != "__metadata__"), default=0)
            except (ValueError, TypeError, KeyError):
                return "is damaged: its header makes no sense"
        if size < 8 + header + end:
            return f"is truncated: {size} of {8 + header + end} bytes are there"
        return "is damaged: its header does not fit its content"
    return "is not a safetensors file"


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors of which no two share memory, as the format wants them."""
    made: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        if plain.untyped_storage().data_ptr() in seen or plain.untyped_storage().nbytes() != plain.nbytes:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        made[name] = plain
    return made


def _flush(path: Path) -> None:
    """Have the disk take a file's content, or a folder's list of names, now."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(problem: Exception) -> str:
    return (getattr(problem, "strerror", None) or str(problem) or type(problem).__name__).splitlines()[0]
