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


def closest(given: str, possible: list[str] | tuple[str, ...], count: int = 3) -> str:
    """The entries of `possible` nearest to `given`, joined for a message; all of them when none is near."""
    import difflib

    near = difflib.get_close_matches(given, possible, n=count, cutoff=0.5)
    return ", ".join(near or sorted(possible))
