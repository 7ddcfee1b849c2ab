"""`semblant sample`: pictures of a prompt, with concepts."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from semblant.cli.bases import BaseName, Config, Device, Offline, Offloading, Weights, precision_of, read
from semblant.cli.interruption import stoppable
from semblant.cli.terminal import Terminal
from semblant.cli.vocabulary import warn_of_unknown_words
from semblant.errors import FileProblem, SemblantError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from semblant.backbones.base import Base
    from semblant.backbones.context import Framing
    from semblant.training.concepts import Concept

LONGEST_NAME = 60
"""Letters of a prompt that a file name takes up."""


class InOrder(TyperCommand):
    """Keeps the order in which `--concept` and `--as` were typed, which tells what belongs together."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note the new name of every concept before the options are sorted by kind."""
        ctx.meta["semblant names"] = names_in(args)
        rest: list[str] = super().parse_args(ctx, args)
        return rest


def names_in(args: Sequence[str]) -> list[str | None]:
    """For every `--concept` the `--as` that follows it. SemblantError for a name without concept, or a second."""
    found: list[str | None] = []
    words = iter(args)
    for word in words:
        if word == "--":
            break
        option, equals, value = word.partition("=")
        if option == "--concept":
            found.append(None)
            if not equals:
                next(words, None)
        elif option == "--as":
            name = value if equals else next(words, "")
            if not found:
                raise SemblantError("--as renames the concept before it; write --concept FILE --as NAME")
            if found[-1] is not None:
                raise SemblantError(f"one concept cannot be called {found[-1]} and {name}; give one --as for it")
            found[-1] = name
    return found


def paired(concepts: Sequence[str], names: Sequence[str], typed: Sequence[str | None]) -> list[tuple[str, str | None]]:
    """Every concept with its new name as it was `typed`. SemblantError where an option took another for its value."""
    if len(typed) != len(concepts) or [name for name in typed if name is not None] != list(names):
        raise SemblantError(
            'an option such as --negative took --concept or --as for its value; give it a value of its own, or ""'
        )
    return list(zip(concepts, typed, strict=True))


def sample(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the pictures show; concepts by their words.")],
    concepts: Annotated[
        list[str] | None,
        typer.Option("--concept", metavar="FILE[:STRENGTH]", help="A concept, at strength 1 unless given; repeatable."),
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option("--as", metavar="NAME", help="Another word for the concept just before it.")
    ] = None,
    base: BaseName = "embedded",
    offline: Offline = False,
    config: Config = None,
    device: Device = "cpu",
    weights: Weights = "float32",
    offload: Offloading = False,
    n: Annotated[int, typer.Option("-n", min=1, help="How many pictures.")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Picture k starts from seed + k.")] = 0,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps of the solver. Default: the base's own.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="How hard the prompt pulls.")] = None,
    solver: Annotated[str, typer.Option("--solver", help="ddim, euler or dpm++.")] = "ddim",
    negative: Annotated[str, typer.Option("--negative", help="What the pictures should not show.")] = "",
    size: Annotated[str | None, typer.Option("--size", metavar="PIXELS", help="128, or WIDTHxHEIGHT.")] = None,
    original: Annotated[
        str | None,
        typer.Option(
            "--original-size",
            metavar="PIXELS",
            help="XL only: the size that the picture is said to have had. Small means blurred. Default: --size.",
        ),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option("--crop", metavar="LEFT,TOP", help="XL only: pixels said to be cut off. Default: none."),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="float32, bfloat16, float16, or auto: the fastest, which is measured.")
    ] = "float32",
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("images"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False,
) -> None:
    """Make pictures of a prompt, with any concepts, as PNG files that say how they were made.

    semblant sample "a photo of <maya> playing guitar on the beach" --concept maya.safetensors -n 4
    """
    from semblant import verbs
    from semblant.sampling.solvers import solver as known_solver
    from semblant.training.precision import choose, precision_name

    terminal = Terminal(quiet, json)
    wanted = size_of(size)
    framing_of(original, crop, wanted or (1, 1))  # its mistakes are told before a base is loaded
    known_solver(solver)
    compute = precision_of(precision)
    if out.exists() and not out.is_dir():
        raise FileProblem(f"{out} is a file; --out takes a folder")
    called = paired(concepts or [], names or [], ctx.meta["semblant names"])
    parts = [Given.read(text, name) for text, name in called]
    loaded = read(base, offline, config, device, weights, offload)
    brought = [part.on(loaded) for part in parts]
    warn_of_unknown_words(terminal, loaded, f"{prompt}, {negative}", [concept.word for concept in brought])
    compute = compute or choose(loaded, rows=2)
    loaded = loaded.computing(compute)
    # The defaults of the base are spelled out, so that the pictures say them.
    preset = verbs.SAMPLING.get(loaded.architecture, {"steps": 50, "guidance": 7.5})
    shown = wanted or (loaded.size, loaded.size)
    framing = framing_of(original, crop, shown)
    settings: dict[str, Any] = {
        "negative": negative,
        "steps": preset["steps"] if steps is None else steps,
        "guidance": preset["guidance"] if guidance is None else guidance,
        "solver": solver,
        "size": shown,
        "framing": framing,
    }
    made: list[dict[str, Any]] = []
    with stoppable(terminal.say, "stopping after this step") as asked_to_stop, terminal.work("sampling") as advance:
        for start in range(0, n, verbs.AT_ONCE):
            count = min(verbs.AT_ONCE, n - start)

            def tell(step: int, of: int, clean: Tensor, start: int = start, count: int = count) -> None:
                if asked_to_stop():
                    raise KeyboardInterrupt
                advance(start * of + step * count, n * of, f"picture {start + 1} to {start + count}")

            images = verbs.sample(
                loaded, prompt, concepts=brought, n=count, seed=seed + start, progress=tell, **settings
            )
            for k, image in enumerate(images):
                record = {
                    "prompt": prompt,
                    "seed": seed + start + k,
                    **settings,
                    "size": image.size,
                    "framing": None if framing is None else asdict(framing),
                    "precision": precision_name(compute),
                    "weights": weights,
                    "base": loaded.describe(),
                    "concepts": [part.record() for part in parts],
                }
                file = write(image, out, prompt, seed + start + k, record)
                made.append({"file": file, **record})
    lines = "\n".join(str(entry["file"]) for entry in made)
    terminal.answer({"pictures": made}, lines)


@dataclass(frozen=True)
class Given:
    """A concept as the command line gives it."""

    file: Path
    strength: float
    name: str | None
    digest: str
    concept: Concept

    @classmethod
    def read(cls, text: str, name: str | None) -> Given:
        """Read FILE[:STRENGTH]. Raises FileProblem when it is no concept, SemblantError for a name that is no word."""
        from semblant.data.pictures import digest
        from semblant.data.subject import check_word
        from semblant.training import concepts

        file, strength = split_strength(text)
        if name is not None:
            check_word(name)
        concept = concepts.load(file)
        return cls(file, strength, name, digest(file), concept)

    @property
    def word(self) -> str:
        """What it is called in prompts."""
        return self.concept.word if self.name is None else self.name

    def on(self, base: Base) -> Concept:
        """The concept under its name and strength. Raises SemblantError when it belongs to another kind of base."""
        from semblant.training.concepts import require_base

        require_base(self.concept, base, str(self.file))
        return replace(self.concept, word=self.word, strength=self.strength)

    def record(self) -> dict[str, Any]:
        """What a picture says about it: never where it lay."""
        about = {name: getattr(self.concept, name) for name in ("method", "class_word")}
        return {"file": self.file.name, "sha256": self.digest, "word": self.word, "strength": self.strength, **about}


def split_strength(text: str) -> tuple[Path, float]:
    """`FILE` or `FILE:0.7`. Raises SemblantError for a strength that is no finite number."""
    head, colon, tail = text.rpartition(":")
    if not colon or not head or Path(text).exists():
        return Path(text), 1.0
    try:
        strength = float(tail)
    except ValueError:
        # A file whose name has a colon, or a drive letter.
        return Path(text), 1.0
    if not abs(strength) < float("inf"):
        raise SemblantError(f"a concept's strength is a number such as 0.7; got {tail!r} in {text!r}")
    return Path(head), strength


def size_of(text: str | None, option: str = "--size") -> tuple[int, int] | None:
    """Height and width from `128` or `WIDTHxHEIGHT`. Raises SemblantError for anything else."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d{1,5})(?:\s*[xX×]\s*(\d{1,5}))?\s*", text)
    if found is None:
        raise SemblantError(f"{option} is pixels such as 128, or WIDTHxHEIGHT such as 192x128; got {text!r}")
    width = int(found[1])
    return int(found[2] or width), width


def framing_of(original: str | None, crop: str | None, size: tuple[int, int]) -> Framing | None:
    """What a base of XL is told: None when nothing is given. Raises SemblantError for what is no size or no place."""
    from semblant.backbones.context import Framing

    if original is None and crop is None:
        return None
    found = re.fullmatch(r"\s*(\d{1,5})\s*,\s*(\d{1,5})\s*", crop or "0,0")
    if found is None:
        raise SemblantError(f"--crop is pixels cut off at the left and at the top, such as 0,64; got {crop!r}")
    before = size_of(original, "--original-size") or size
    if not all(before):
        raise SemblantError(f"a picture has pixels, so --original-size is 1 or more; got {original!r}")
    return Framing(before, (int(found[2]), int(found[1])), size)


def slug(prompt: str) -> str:
    """A prompt as part of a file name: letters, digits and hyphens of ASCII, never empty."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[: LONGEST_NAME + 1].strip("-")[:LONGEST_NAME].strip("-") or "picture"


def write(image: Image.Image, folder: Path, prompt: str, seed: int, record: dict[str, Any]) -> Path:
    """Save a picture under a name that nobody has yet. Raises FileProblem when the folder cannot be used."""
    from semblant.data.pictures import save_png

    name = f"{slug(prompt)}-seed{seed}"
    for number in itertools.count(1):
        file = folder / (f"{name}.png" if number == 1 else f"{name}-{number}.png")
        if not file.exists():
            # Another run may write here too, and take the name this instant.
            with suppress(FileExistsError):
                save_png(image, file, record, replace=False)
                return file
    raise AssertionError("there is always one more number")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=InOrder, no_args_is_help=True)(sample)
