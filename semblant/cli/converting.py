"""`semblant convert`: learned things in the forms of other programs, and back."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semblant.cli.bases import Config, Offline, named, read
from semblant.cli.outputs import require_free
from semblant.cli.terminal import Terminal
from semblant.errors import FileProblem, SemblantError, closest

if TYPE_CHECKING:
    from semblant.training.interchange.learned import Learned


def convert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A concept, an embedding of one word, a LoRA, or a folder of PEFT.")
    ],
    form: Annotated[
        str, typer.Option("--to", metavar="FORM", help="concept, embedding, emb_params, peft, diffusers or kohya.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="File, for peft a folder. Default: NAME.FORM.safetensors, here.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="NAME", help="For --to concept: the base that it is for, and is checked against."
        ),
    ] = None,
    offline: Offline = False,
    config: Config = None,
    word: Annotated[
        str | None,
        typer.Option("--word", help='What it is called in prompts, such as "<maya>". Default: its own word.'),
    ] = None,
    class_word: Annotated[
        str | None, typer.Option("--class-word", help="For --to concept: what the subject is, such as person or dog.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False,
) -> None:
    """Turn a concept into a file of another program, or what another program learned into a concept.

    Words of textual inversion go to and from embedding and emb_params, LoRAs to and from peft, diffusers and kohya, for
    Stable Diffusion XL too (clip_l and clip_g, lora_te2_, input_blocks).
    Whatever has no place in the form asked for is an error that names it. Pickled embeddings (.pt, .bin) are read too,
    by a process apart that takes tensors and nothing else.

    semblant convert maya.safetensors --to kohya

    semblant convert downloaded.safetensors --to concept --word "<maya>" --class-word person
    """
    from semblant.training.interchange import adoption, reading, writing

    terminal = Terminal(quiet, json)
    if form not in reading.FORMS:
        raise SemblantError(f"no form {form!r}; possible: {closest(form, list(reading.FORMS))}")
    _require_used(form, base, config, word, class_word)
    found = reading.read(file)
    reading.require(found, form)
    target = _target(out, adoption.short_name(file), form, force)
    record: dict[str, Any] = {"file": file, "from": found.form, "to": form, "out": target}
    if form == reading.CONCEPT:
        loaded = None if base is None else read(base, offline, config)
        concept, said = adoption.concept_of(found, word, class_word, loaded)
        from semblant.training import concepts

        concepts.save(concept, target)
        record |= {name: getattr(concept, name) for name in ("method", "word", "class_word", "settings", "base")}
    else:
        said = writing.write(found, form, target, word)
    record["notes"] = said = [*found.said, *said]
    terminal.answer(record, "\n".join([_headline(found, record), *said, *_next(found, record, base)]))


def _require_used(form: str, base: str | None, config: str | None, word: str | None, class_word: str | None) -> None:
    """Raise SemblantError for an option that would have no effect."""
    places = {"--base": ("concept",), "--class-word": ("concept",), "--word": ("concept", "embedding")}
    for option, value in (("--base", base), ("--class-word", class_word), ("--word", word)):
        if value is not None and form not in places[option]:
            raise SemblantError(
                f"{option} has no place in the form {form}; it goes with --to {', '.join(places[option])}"
            )
    if config is not None and base is None:
        raise SemblantError("--config goes with --base; give both or neither")


def _target(out: Path | None, name: str, form: str, force: bool) -> Path:
    """Where to write. Raises FileProblem for a wrong ending, a folder in place of a file, or something to be lost."""
    folder = form == "peft"
    target = out if out is not None else Path(f"{name}.{form}" + ("" if folder else ".safetensors"))
    if folder:
        if target.exists() and not target.is_dir():
            raise FileProblem(f"{target} is a file, and PEFT's form is a folder; give another --out")
    elif not target.suffix:
        target = target.with_name(f"{target.name}.safetensors")
    if not folder and target.suffix != ".safetensors":
        raise FileProblem(f"the form {form} is a safetensors file: give {target} the ending .safetensors")
    if not folder and target.is_dir():
        raise FileProblem(f"{target} is a folder; give a file, such as {target}/{name}.safetensors")
    require_free(target, force)
    return target


def _headline(found: Learned, record: dict[str, Any]) -> str:
    """What was written, in one line."""
    if found.rows is not None:
        count, width = found.rows.shape
        kind, of = "row", f"width {width}"
    else:
        ranks = sorted({layer.rank for layer in found.layers.values()})
        count, kind, of = len(found.layers), "layer", f"rank {ranks[0]}" + (f" to {ranks[-1]}" if ranks[1:] else "")
    what = f"{count} {kind}{'s' if count > 1 else ''} of {of}"
    if "word" in record:
        return f"{record['word']} is in {record['out']}: {what}, for {record['base']['architecture']}"
    return f"{what} {'are' if count > 1 else 'is'} in {record['out']} ({record['to']}), from {record['from']}"


def _next(found: Learned, record: dict[str, Any], base: str | None) -> list[str]:
    """How to use it."""
    if "word" in record:
        word = record["word"]
        called = _reading(record["settings"], record["class_word"]) if found.rows is None else None
        other = record["base"]["architecture"] != "embedded"
        reads = [f'in prompts {word} reads as "{called}"'] if called else []
        options = ["--concept", str(record["out"]), *named(base or "NAME" if other else "embedded", None)]
        return [*reads, f'next: semblant sample "a photo of {word}" {shlex.join(options)}']
    if found.rows is None and "word" in found.about:
        called = _reading(found.about.get("settings", {}), str(found.about.get("class_word", "")))
        return [f'in other programs write "{called}" where prompts here have {found.about["word"]}']
    return []


def _reading(settings: dict[str, Any], class_word: str) -> str:
    from semblant.methods.finetune.lora_dreambooth import LoRADreamBooth

    return f"{settings.get('identifier', LoRADreamBooth.identifier)} {class_word}"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(no_args_is_help=True)(convert)
