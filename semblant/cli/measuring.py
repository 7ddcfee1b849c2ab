"""`semblant measure`: how alike, and how faithful to the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from semblant.cli.terminal import Terminal
from semblant.errors import FileProblem, SemblantError

if TYPE_CHECKING:
    from PIL import Image

MEANING = {
    "identity_gain": "0 like strangers, 1 like other pictures of the subject",
    "identity": "mean cosine to the subject's pictures, where its face, or the animal or thing, was found",
    "identity_or_zero": "the same over all pictures, 0 without one",
    "id_prompt": "identity where the prompt was followed, else 0",
    "prompt": "cosine between picture and prompt",
    "facts": "share of the facts named in the prompt that hold",
    "detect": "share of pictures with a face",
    "copy_rate": "share of pictures that copy a training picture",
    "n": "pictures measured",
}
"""Every number, in the order in which it is shown."""


def measure(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The pictures to measure: a folder, or one file.")],
    subject: Annotated[
        list[Path] | None, typer.Option("--subject", help="Pictures of the subject that no method has seen.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="What they should show. Default: the prompt in each picture.")
    ] = None,
    trained_on: Annotated[
        list[Path] | None,
        typer.Option("--trained-on", help="Pictures the method learned from, to count copies."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False,
) -> None:
    """Measure pictures with judges that no method may use.

    semblant measure images/ --subject held-out-photos/ --prompt "a photo of a person playing guitar"
    """
    from semblant import verbs

    terminal = Terminal(quiet, json)
    read = _pictures([folder])
    prompts: Any = prompt if prompt is not None else [_own_prompt(path) for path, _ in read]
    scores = verbs.measure(
        [image for _, image in read],
        subject=None if not subject else [image for _, image in _pictures(subject)],
        prompt=prompts,
        trained_on=None if not trained_on else [image for _, image in _pictures(trained_on)],
    ).to_dict()
    record = {name: scores.get(name) for name in MEANING} | {"facts_by_name": scores.get("facts_by_name", {})}
    terminal.answer(record, table(record))


def table(record: dict[str, Any]) -> Table:
    """The numbers and what they mean."""
    shown = Table(box=None, pad_edge=False)
    for column, style in (("", "bold"), ("", "bold cyan"), ("", "dim")):
        shown.add_column(column, style=style, justify="right" if "cyan" in style else "left")
    for name, meaning in MEANING.items():
        value = record[name]
        text = "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"
        shown.add_row(name, text, meaning)
    for fact, value in record["facts_by_name"].items():
        shown.add_row(f"  {fact}", f"{value:.3f}", "")
    return shown


def _pictures(paths: list[Path]) -> list[tuple[Path, Image.Image]]:
    from semblant.data.pictures import read_folder

    return [(picture.path, picture.image) for path in paths for picture in read_folder(path)]


def _own_prompt(path: Path) -> str:
    """What the picture says it should show; a learned word is written so that judges know it for one, such as <sks>."""
    from semblant.backbones.prompt import placeholder
    from semblant.data.pictures import read_settings

    try:
        settings = read_settings(path)
    except FileProblem:
        settings = {}
    prompt, concepts = settings.get("prompt"), settings.get("concepts")
    concepts = concepts if isinstance(concepts, list) else []
    if not isinstance(prompt, str):
        raise SemblantError(f"{path} does not say what it should show; give --prompt")
    learned = [concept.get("word") for concept in concepts if isinstance(concept, dict)]
    bare = [word for word in learned if isinstance(word, str) and word and not word.endswith(">")]
    return placeholder(bare).sub(r"<\1>", prompt) if bare else prompt


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(no_args_is_help=True)(measure)
