"""`semblant inspect`: what a file or folder is, from its header alone."""

from __future__ import annotations

import json as text_of
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from semblant.cli.terminal import Terminal

LONGEST, MOST = 160, 12
"""Letters of a value, and entries of a table, that people are shown; `--json` has all."""


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A concept, LoRA, embedding, picture, or base.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False,
) -> None:
    """Say what a file or folder is: its kind, what it was made by and for, tensors, types, metadata.

    Only the headers of safetensors files are read, and pickles (.ckpt, .pt, .bin) never.

    semblant inspect maya.safetensors
    """
    from semblant.training import inspection

    terminal = Terminal(quiet, json)
    record = inspection.inspect(path)
    terminal.answer({"path": path, **record}, report(path, record))


def report(path: Path, record: Mapping[str, Any]) -> str:
    """The kind, then one line for each thing known; metadata last."""
    lines = [f"{path}: {record['kind']}"]
    for key, value in record.items():
        if key == "parameters":
            lines.append(f"  {key}: {value:,}")
        elif key == "metadata" and record["kind"] == "concept":
            # Told above already.
            continue
        elif key != "kind" and value not in (None, {}, []):
            lines += _lines(key.replace("_", " "), value, "  ")
    return "\n".join(lines)


def _lines(name: str, value: Any, indent: str) -> list[str]:
    if not isinstance(value, Mapping):
        return [f"{indent}{name}: {_shown(value)}"]
    if all(not isinstance(inner, Mapping | list) for inner in value.values()) and len(str(value)) < LONGEST:
        return [f"{indent}{name}: {', '.join(f'{key} {_shown(inner)}' for key, inner in value.items())}"]
    shown = [line for key, inner in list(value.items())[:MOST] for line in _lines(str(key), inner, indent + "  ")]
    rest = [f"{indent}  ... {len(value) - MOST} more (--json)"] if len(value) > MOST else []
    return [f"{indent}{name}:", *shown, *rest]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    said = value if isinstance(value, str) else text_of.dumps(value, ensure_ascii=False)
    said = " ".join(said.split())
    return said if len(said) <= LONGEST else said[: LONGEST - 4] + " ..."


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(no_args_is_help=True)(inspect)
