"""`semblant rate`: a blind comparison by people, and what came of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from semblant.cli.terminal import Terminal
from semblant.errors import FileProblem, SemblantError

if TYPE_CHECKING:
    from semblant.bench.rating import Shown


def rate(
    given: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIRS...", help="A folder of pictures for each method; files of one name belong together."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("rating.html"),
    reference: Annotated[
        list[Path] | None,
        typer.Option("--reference", help="Pictures of the subject; without them identity is not asked."),
    ] = None,
    question: Annotated[
        list[str] | None, typer.Option("--question", help="prompt, identity or quality; may be repeated. Default: all.")
    ] = None,
    pairs: Annotated[int | None, typer.Option("--pairs", help="How many pairs to show. Default: all.", min=1)] = None,
    seed: Annotated[int, typer.Option("--seed", help="Which pairs, sides and order are drawn.")] = 0,
    collected: Annotated[
        bool, typer.Option("--collect", help="Read saved answers instead: the arguments are the raters' files.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False,
) -> None:
    """Let people compare pictures blind, two at a time, in a page that works offline and with the keyboard alone.

    semblant rate sefi/ textual-inversion/ --reference portrait.png
    semblant rate --collect rating-*.json
    """
    from semblant.bench.rating import QUESTIONS, collect, rating_page
    from semblant.bench.results import write_text
    from semblant.data.pictures import read_folder

    terminal = Terminal(quiet, json)
    if collected:
        found = collect(given)
        terminal.answer(found, _table(found["shares"]))
        return
    if out.exists():
        raise FileProblem(f"{out} exists; give --out another name")
    # Not resolved: a link may lead in a circle.
    names = [Path(os.path.abspath(folder)).name for folder in given]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in given]
    if len(set(names)) < len(names):
        raise SemblantError("the same folder was given twice; a comparison takes different ones")
    methods = {name: _shown(folder) for name, folder in zip(names, given, strict=True)}
    pictures = [picture.image for path in reference or [] for picture in read_folder(path)]
    page = rating_page(methods, reference=pictures, questions=tuple(question or QUESTIONS), count=pairs, seed=seed)
    write_text(out, page)
    terminal.answer(
        {"page": out.as_posix(), "methods": names},
        f"open {out} in a browser; people save their answers at the end, and `semblant rate --collect` reads them",
    )


def _shown(folder: Path) -> dict[str, Shown]:
    from semblant.bench.rating import Shown
    from semblant.data.pictures import read_folder, read_settings

    found = {}
    for picture in read_folder(folder):
        try:
            prompt = read_settings(picture.path).get("prompt")
        except FileProblem:
            prompt = None
        found[picture.path.name] = Shown(picture.image, prompt if isinstance(prompt, str) else "")
    return found


def _table(shares: dict[str, dict[str, float]]) -> Table:
    methods = sorted({method for own in shares.values() for method in own})
    shown = Table(box=None, pad_edge=False)
    for column in ("preferred", *methods):
        shown.add_column(Text(column))
    for question, own in shares.items():
        # Both come from files that people send: text, not markup.
        shown.add_row(Text(question), *(f"{own[m]:.3f}" if m in own else "" for m in methods))
    return shown


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(no_args_is_help=True)(rate)
