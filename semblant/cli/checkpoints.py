"""`semblant checkpoints`: the steps that a fit kept, measured, and which of them to keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from semblant.cli.bases import BaseName, Config, Offline, read
from semblant.cli.terminal import Terminal
from semblant.errors import SemblantError

if TYPE_CHECKING:
    from PIL import Image

    from semblant.backbones.base import Base
    from semblant.bench.runs import RunFolder, Step
    from semblant.training.concepts import Concept

SHOWN = ("likeness to class word", "longest row", "attention inside mask")
"""Figures that have a column of their own where a method records them; `--json` has all."""


def checkpoints(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder NAME.run of a fit with --keep-every.")],
    base: BaseName = "embedded",
    offline: Offline = False,
    config: Config = None,
    subject: Annotated[
        list[Path] | None,
        typer.Option("--subject", help="Pictures to measure likeness by. Default: those the run learned from."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the pictures that are judged.")] = 0,
    no_measure: Annotated[bool, typer.Option("--no-measure", help="List only; sample and judge nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False,
) -> None:
    """List the steps that a fit kept, with likeness and obedience, and say which of them to keep.

    semblant checkpoints maya.run
    """
    from semblant.backbones.loading import EMBEDDED
    from semblant.bench import runs

    terminal = Terminal(quiet, json)
    place = runs.RunFolder(folder)
    found = runs.read_steps(place)
    steps = [step for step, _ in found]
    why = "not measured, as asked" if no_measure else ""
    concept = found[-1][1]
    if not why and concept.base.get("architecture") != EMBEDDED:
        why = (
            f"not measured: no judge here knows what pictures of {concept.base.get('name', 'this base')} look like; "
            "look at samples of some steps yourself"
        )
    if not why:
        try:
            loaded = read(base, offline, config)
            pictures = pictures_of(place, concept, loaded, subject)
            with terminal.work("judging") as advance:
                steps = runs.measure_steps(found, loaded, pictures, seed=seed, progress=advance)
        except SemblantError as problem:
            if subject or base != EMBEDDED:
                # What was asked for by name is not passed over.
                raise
            why = f"not measured: {problem}; give --subject PICTURES"
    chosen = runs.choose(steps)
    sentence = f"{why}, so no step is named" if chosen is None else f"keep step {chosen[0].step}: {chosen[1]}"
    if chosen is not None:
        sentence += f"\n{chosen[0].file}"
    record: dict[str, Any] = {
        "steps": [step.record() for step in steps],
        "keep": None if chosen is None else chosen[0].step,
        "file": None if chosen is None else chosen[0].file,
        "why": why if chosen is None else chosen[1],
    }
    terminal.answer(record, Group(table(steps, chosen[0].step if chosen else None), Text("\n" + sentence)))


def pictures_of(place: RunFolder, concept: Concept, base: Base, subject: list[Path] | None) -> list[Image.Image]:
    """What likeness is measured by: the pictures given, or those that the run learned from."""
    from semblant.bench.faces import finder
    from semblant.data.pictures import read_folder

    if subject:
        return [picture.image for path in subject for picture in read_folder(path)]
    return place.pictures(concept, finder(base))


def table(steps: list[Step], keep: int | None) -> Table:
    """One row for each step."""
    from semblant.bench.verdict import figure

    figures = [name for name in SHOWN if any(name in step.figures for step in steps)]
    measured = any(step.verdict is not None for step in steps)
    made = Table(box=None, pad_edge=False)
    for column in ("step", "loss", *figures, *(("identity", "obeys", "copies") if measured else ()), ""):
        made.add_column(column, justify="left" if column in ("copies", "") else "right")
    for step in steps:
        told = [_shown(step.figures.get(name)) for name in figures]
        if measured:
            copies = "" if step.verdict is None else ", ".join(step.verdict.copies)
            told += [figure(step.identity), figure(step.obeys), copies]
        loss = "-" if step.loss is None else f"{step.loss:.4f}"
        made.add_row(str(step.step), loss, *told, "<- keep" if step.step == keep else "")
    return made


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "-"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(no_args_is_help=True)(checkpoints)
