"""What can go wrong, said so that a user knows what to do next."""

from __future__ import annotations


class SemblantError(Exception):
    """A message for the user: what was given, what is possible, what to do next. Exit code 2."""

    exit_code = 2


class FileProblem(SemblantError):
    """A file or folder that cannot be used. Exit code 3."""

    exit_code = 3


class GateFailed(SemblantError):
    """A measured bar that was not met. Exit code 4."""

    exit_code = 4


def out_of_memory(problem: BaseException) -> bool:
    """Whether it says that memory ran out: Python's own, or torch's on a processor or an accelerator."""
    if isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError":
        return True
    said = str(problem).lower()
    signs = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
    return isinstance(problem, RuntimeError) and any(sign in said for sign in signs)


def closest(given: str, possible: list[str] | tuple[str, ...], count: int = 3) -> str:
    """The entries of `possible` nearest to `given`, joined for a message; all of them when none is near."""
    import difflib

    near = difflib.get_close_matches(given, possible, n=count, cutoff=0.5)
    return ", ".join(near or sorted(possible))
