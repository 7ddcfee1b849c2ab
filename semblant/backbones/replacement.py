"""Files replaced whole: what was there stays until all that is new is on the disk."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path

from semblant.backbones.header import reason
from semblant.errors import FileProblem

PREFIX = ".semblant-"
"""How the names of partial files begin."""


def write_whole(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file so that `path` holds what it held before or all of `content`, whenever the process is killed.

    Folders on the way are made. Raises FileProblem when the disk or the folder does not let us; then nothing has
    changed and nothing is left behind. What a killed process leaves behind `sweep` removes. Without `replace`
    FileExistsError is raised where something is, even if it has come this instant.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as problem:
        raise _refusal(path, problem) from problem
    if os.path.lexists(path) and not (os.path.isfile(path) or os.path.islink(path)):
        # Renaming would put a file in the place of a device.
        raise FileProblem(f"{path} cannot be written: it is there already, and no file")
    try:
        partial = path.with_name(f"{_prefix(path)}{os.getpid()}-{threading.get_ident()}.part")
        try:
            _write(partial, content)
            (os.replace if replace else _name)(partial, path)
        finally:
            with suppress(OSError):
                os.unlink(partial)
    except (OSError, ValueError) as problem:
        if isinstance(problem, FileExistsError) and not replace:
            raise
        raise _refusal(path, problem) from problem
    _flush_names(path.parent)


def _refusal(path: Path, problem: OSError | ValueError) -> FileProblem:
    """A name with a NUL or half a character in it is a ValueError."""
    kept = "; what it held before is still there" if os.path.lexists(path) else ""
    return FileProblem(f"{path} cannot be written: {reason(problem)}{kept}")


def sweep(path: Path) -> None:
    """Remove what killed processes left of writing `path`, or anything in it when it is a folder.

    Only for whoever knows that nobody else writes there now.
    """
    folder, prefix = (path, PREFIX) if path.is_dir() else (path.parent, _prefix(path))
    for partial in folder.glob(f"{prefix}*.part"):
        with suppress(OSError):
            partial.unlink()


def _prefix(path: Path) -> str:
    """How the names of partial files begin: short, since the name itself may be as long as a name can be."""
    return f"{PREFIX}{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]}-"


def _write(partial: Path, content: bytes) -> None:
    with suppress(FileNotFoundError):
        os.unlink(partial)
    # Made anew or not at all: a link that somebody laid there is not followed.
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(handle, left) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _name(partial: Path, path: Path) -> None:
    """Give a finished file a name that nobody has. Raises FileExistsError."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:
        # Some disks know no second name for a file.
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.replace(partial, path)


def _flush_names(folder: Path) -> None:
    """Have the disk take a folder's list of names now, where it can: not every system lets folders be flushed.

    The content is safe by then, and a name that is lost with the power leaves the old file.
    """
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
