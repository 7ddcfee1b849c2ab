"""`semblant list`, `show` and `cite`: which methods there are, what they do, and whom to credit."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from semblant.cli.terminal import Terminal
from semblant.errors import SemblantError, closest

if TYPE_CHECKING:
    from semblant.methods.method import Method


def settings_table(name: str, kind: type[Method]) -> Table:
    """Every setting of a method with its default and source."""
    from semblant.cli.declared import settings, shown

    made = Table(title=f"Settings of {name} (--set NAME=VALUE)", title_justify="left", box=None, pad_edge=False)
    for column in ("setting", "takes", "default", "what it is, and where the default comes from"):
        made.add_column(column, overflow="fold")
    for setting in settings(kind):
        presets = "".join(f"\n{shown(value)} on {base}" for base, value in setting.presets.items())
        # Text, not str: brackets in a sentence are no markup.
        cells = (setting.kind, shown(setting.default) + presets, setting.source)
        made.add_row(Text(setting.name, style="bold"), *map(Text, cells))
    return made


def listing(
    family: Annotated[str | None, typer.Argument(metavar="FAMILY", help="Only one family, such as tokens.")] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Only what works on a kind of base: sd-1, embedded ...")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False,
) -> None:
    """List the methods: name, family, paper, bases, and how far each is checked."""
    from semblant.methods.index import methods

    terminal = Terminal(json=json)
    table = methods()
    for given, known in (
        (family, sorted({kind.card.family for kind in table.values()})),
        (base, sorted({name for kind in table.values() for name in kind.card.bases})),
    ):
        if given is not None and given not in known:
            what = "base" if given == base and given != family else "family"
            raise SemblantError(f"no method is of the {what} {given!r}; did you mean {closest(given, known)}?")
    chosen = {
        name: kind.card
        for name, kind in table.items()
        if (family is None or kind.card.family == family) and (base is None or base in kind.card.bases)
    }
    if not chosen:
        raise SemblantError(
            f"no method of the family {family!r} works on {base}; `semblant list --base {base}` shows others"
        )
    text = Table(box=None, pad_edge=False)
    for column in ("method", "family", "paper", "bases", "checked against"):
        text.add_column(column, overflow="fold")
    for name, card in chosen.items():
        paper = f"{card.title} ({card.year}, arXiv {card.arxiv})"
        cells = (card.family, paper, ", ".join(card.bases), ", ".join(card.evidence))
        text.add_row(Text(name, style="bold"), *map(Text, cells))
    terminal.answer({"methods": [{"name": name, **dataclasses.asdict(card)} for name, card in chosen.items()]}, text)


def show(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="Name of a method; `semblant list` shows all.")],
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False,
) -> None:
    """Show a method: its paper, what it needs and does, and every setting with its source."""
    from semblant.cli.declared import settings
    from semblant.methods.index import method_class

    kind = method_class(method)
    record: dict[str, Any] = {
        "name": method,
        "card": dataclasses.asdict(kind.card),
        "about": about(kind),
        "settings": [dataclasses.asdict(setting) for setting in settings(kind)],
    }
    card = kind.card
    facts = {
        "needs": card.needs,
        "bases": ", ".join(card.bases),
        "checked against": ", ".join(card.evidence),
        **({"licence of weights": card.licence} if card.licence else {}),
    }
    head = Text.assemble((card.title, "bold"), f"\n{card.authors}, {card.year}. https://arxiv.org/abs/{card.arxiv}\n")
    told = Text(record["about"] + "\n" if record["about"] else "")
    lines = Text("\n".join(f"{name}: {value}" for name, value in facts.items()) + "\n")
    Terminal(json=json).answer(record, Group(head, told, lines, settings_table(method, kind)))


def about(kind: type[Method]) -> str:
    """The opening of a method's file, which says what it learns and how."""
    import inspect

    module = inspect.getmodule(kind)
    return inspect.cleandoc(module.__doc__) if module is not None and module.__doc__ else ""


def cite(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="Name of a method; `semblant list` shows all.")],
) -> None:
    """Print a method's BibTeX entry."""
    from semblant.methods.index import method_class

    print(bibtex(method, method_class(method)))


def bibtex(name: str, kind: type[Method]) -> str:
    """The BibTeX entry of a method's paper, keyed by first author, year and method."""
    card = kind.card
    authors = [author.strip() for author in card.authors.split(",")]
    first = re.sub(r"[^a-z]", "", authors[0].split()[-1].lower()) or "unknown"
    fields = {
        # Braces keep the capitals of names.
        "title": f"{{{card.title}}}",
        "author": " and ".join("others" if author == "et al." else author for author in authors),
        "year": str(card.year),
        "eprint": card.arxiv,
        "archivePrefix": "arXiv",
        "url": f"https://arxiv.org/abs/{card.arxiv}",
    }
    body = "".join(f"  {key:<13} = {{{value}}},\n" for key, value in fields.items())
    return f"@misc{{{first}{card.year}{name.replace('-', '')},\n{body}}}"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("list")(listing)
    app.command(no_args_is_help=True)(show)
    app.command(no_args_is_help=True)(cite)
