"""What the embedded base was never shown, said before somebody waits for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from semblant.cli.terminal import Terminal

if TYPE_CHECKING:
    from semblant.backbones.base import Base

EMBEDDED = "embedded"


def warn_of_unknown_words(terminal: Terminal, base: Base, text: str, known: Iterable[str] = ()) -> list[str]:
    """Name the words of a prompt that the embedded base does not know; `known` are those that concepts bring."""
    if base.architecture != EMBEDDED:
        return []
    from semblant.backbones.prompt import placeholder
    from semblant.world.captions import read

    if brought := list(known):
        text = placeholder(brought).sub(" ", text)
    unknown = list(read(text).unknown)
    if unknown:
        it = "it" if len(unknown) == 1 else "them"
        terminal.warn(
            f"the embedded base does not know {', '.join(map(repr, unknown))} and will make little of {it}; "
            "`semblant world words` lists what it knows"
        )
    return unknown


def warn_of_photographs(terminal: Terminal, base: Base, paths: Sequence[Path]) -> bool:
    """Say that the embedded base knows drawn pictures only, when one of these was not drawn by this library."""
    if base.architecture != EMBEDDED or all(map(_drawn_here, _files(paths))):
        return False
    terminal.warn(
        "the embedded base knows only its own drawn world and has never seen a photograph: expect a drawing with some "
        "of the looks at best. For likeness to a real person use a Stable Diffusion folder as --base."
    )
    return True


def _files(paths: Sequence[Path]) -> list[Path]:
    from semblant.data.pictures import find_pictures

    return [file for path in paths for file in find_pictures(path)]


def _drawn_here(path: Path) -> bool:
    from semblant.data.pictures import read_settings
    from semblant.errors import FileProblem

    try:
        return bool(read_settings(path))
    except FileProblem:
        return False
