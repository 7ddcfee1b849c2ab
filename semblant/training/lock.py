"""One run at a time on one output: a lock file that says who holds it, and is free as soon as its holder is dead."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from semblant.backbones.header import reason
from semblant.errors import FileProblem

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TRIES = 100
"""How often a lock that its holder lets go meanwhile is tried again."""
MARK = b'{"pid": '
"""How what we write into a lock file begins."""


def lock_name(name: str) -> str:
    """What the lock file of an output is called, as no other program calls its own: `.NAME.semblant-lock`."""
    return f".{name}.semblant-lock"


@contextmanager
def held(path: Path, what: Path | str) -> Iterator[None]:
    """Hold the lock file `path` for the block, so that no other run makes `what`. A thread may hold it more than once.

    Where the system can, it holds the file itself, which ends with the process however that dies; so the lock of a
    dead run is taken over. Raises FileProblem naming process and computer while another run holds it, when the file
    cannot be made, and when one of that name is no lock of ours, which stays as it is.
    """
    me = {"pid": os.getpid(), "thread": threading.get_ident(), "host": socket.gethostname()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _taken(path, me)
    except (OSError, ValueError) as problem:
        raise FileProblem(f"{path} cannot be written: {reason(problem)}") from problem
    if handle is None:
        if not _is(holder := _holder(path), me):
            raise FileProblem(_refusal(path, what, holder, me["host"]))
        yield
        return
    try:
        yield
    finally:
        # First the name, then the hold: whoever opened the file in between sees that its name is gone.
        with suppress(OSError):
            os.ftruncate(handle, 0)
            if _still_there(path, handle):
                path.unlink()
        os.close(handle)


def _taken(path: Path, me: Mapping[str, Any]) -> int | None:
    """A handle on the lock file, written and held by us; None while somebody, or a block around this one, has it."""
    for _ in range(TRIES):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        ours = kept = False
        try:
            gripped = _grip(handle)
            if gripped is False:
                return None
            if not _still_there(path, handle):
                continue
            if not _is_lock(handle):
                raise FileProblem(
                    f"{path} is no lock file of semblant and stays as it is: move it, or give another --out"
                )
            if _lives(_read(handle), me, bool(gripped)):
                return None
            ours = True
            _write(handle, {**me, "since": datetime.now(UTC).isoformat(timespec="seconds")})
            kept = True
            return handle
        finally:
            if ours and not kept:
                # The disk is full: no empty file is left.
                with suppress(OSError):
                    path.unlink()
            if not kept:
                os.close(handle)
    return None


def _grip(handle: int) -> bool | None:
    """Hold the file itself. False while somebody else on this computer does, None where the system cannot tell."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # Some network folders know no locks.
        return None
    return True


def _still_there(path: Path, handle: int) -> bool:
    """Whether the file is still the one of that name: its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _is_lock(handle: int) -> bool:
    """Whether we wrote the file, or nobody anything; what a crash left of our writing may be cut, or zeros."""
    found = _content(handle).strip(b"\0")
    return found.startswith(MARK) or MARK.startswith(found)


def _lives(holder: Mapping[str, Any], me: Mapping[str, Any], gripped: bool) -> bool:
    """Whether the holder that a lock file names may still be at work. `gripped`: nobody here holds the file."""
    if not isinstance(holder.get("pid"), int) or not holder.get("host"):
        return False
    if holder["host"] != me["host"]:
        # No computer can tell of another what runs there.
        return True
    # Whoever has a dead holder's number now does not hold its file.
    return not gripped and (_is(holder, me) or _runs(holder["pid"]))


def _runs(pid: int) -> bool:
    """Whether there is such a process; yes where asking is not possible without harming it."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _is(holder: Mapping[str, Any], me: Mapping[str, Any]) -> bool:
    return all(holder.get(name) == value for name, value in me.items())


def _holder(path: Path) -> dict[str, Any]:
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            return _read(handle)
        finally:
            os.close(handle)
    return {}


def _content(handle: int) -> bytes:
    os.lseek(handle, 0, os.SEEK_SET)
    return os.read(handle, 4096)


def _read(handle: int) -> dict[str, Any]:
    try:
        found = json.loads(_content(handle))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(handle: int, record: Mapping[str, Any]) -> None:
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, json.dumps(record).encode())


def _refusal(path: Path, what: Path | str, holder: Mapping[str, Any], host: Any) -> str:
    since = f", since {holder['since']}" if holder.get("since") else ""
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}{since}"
    away = "" if holder.get("host") == host else f"; if nothing runs there any more, delete {path}"
    return f"{what} is being made by another run, {who}: wait for it, stop it, or give another --out{away}"
