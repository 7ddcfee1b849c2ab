"""`semblant analyse`: what a learned word does, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semblant.cli.bases import BaseName, Config, Offline, read
from semblant.cli.terminal import Terminal
from semblant.errors import FileProblem

if TYPE_CHECKING:
    from PIL import Image

analysed = typer.Typer(no_args_is_help=True, help="Show where words look, and what a learned word's rows carry.")

Concepts = Annotated[list[Path], typer.Argument(metavar="CONCEPTS...", help="Concept files.")]
One = Annotated[Path, typer.Argument(metavar="CONCEPT", help="A concept file.")]
Prompt = Annotated[str, typer.Option("--prompt", help="A prompt with {} where the subject's word goes.")]
Out = Annotated[Path, typer.Option("--out", help="The picture to write, a PNG.")]
Drawing = Annotated[Path, typer.Option("--out", help="The drawing to write, an SVG.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the first picture.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Sampling steps. Default: those of the base.", min=1)]
Number = Annotated[int, typer.Option("-n", help="Seeds to show.", min=1)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")]


@analysed.command()
def attention(
    given: Concepts,
    prompt: Prompt = "a photo of {} holding a cup of latte",
    word: Annotated[list[str] | None, typer.Option("--word", help="Words to follow; may be repeated.")] = None,
    base: BaseName = "embedded",
    offline: Offline = False,
    config: Config = None,
    out: Out = Path("attention.png"),
    seed: Seed = 0,
    steps: Steps = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Where pictures look at the subject's word and at others, beside the class word."""
    from semblant.bench import analysis
    from semblant.training.concepts import load

    _free(out, "PNG")
    concepts = [load(path) for path in given]
    words = word or ["cup"]
    made = analysis.attention(read(base, offline, config), prompt, concepts, words, seed=seed, steps=steps)
    _write(made, out, {"analysis": "attention", "prompt": prompt, "words": words, "seed": seed}, quiet, json)


@analysed.command()
def adding(
    given: One,
    prompt: Prompt = "a photo of {}",
    base: BaseName = "embedded",
    offline: Offline = False,
    config: Config = None,
    out: Out = Path("adding.png"),
    n: Number = 2,
    seed: Seed = 0,
    steps: Steps = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """The word in ever more of the schedule, the class word in the rest."""
    from semblant.bench import analysis
    from semblant.training.concepts import load

    _free(out, "PNG")
    made = analysis.adding(read(base, offline, config), prompt, load(given), seeds=n, first=seed, steps=steps)
    _write(made, out, {"analysis": "adding", "prompt": prompt, "seed": seed}, quiet, json)


@analysed.command()
def exchange(
    one: One,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="Another concept of the same method.")],
    prompt: Prompt = "a photo of {}",
    base: BaseName = "embedded",
    offline: Offline = False,
    config: Config = None,
    out: Out = Path("exchange.png"),
    n: Number = 4,
    seed: Seed = 0,
    steps: Steps = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Keys of one subject with values of another, and with the class word's."""
    from semblant.bench import analysis
    from semblant.training.concepts import load

    _free(out, "PNG")
    made = analysis.exchange(
        read(base, offline, config), prompt, load(one), load(other), seeds=n, first=seed, steps=steps
    )
    _write(made, out, {"analysis": "exchange", "prompt": prompt, "seed": seed}, quiet, json)


@analysed.command()
def course(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The folder NAME.run of a fit with --keep-every.")],
    base: BaseName = "embedded",
    offline: Offline = False,
    config: Config = None,
    out: Drawing = Path("course.svg"),
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """How long a word's rows grow, and how far from the class word's, over the steps that a fit kept."""
    from semblant.bench import analysis, runs

    _free(out)
    steps = runs.read_steps(runs.RunFolder(run))
    made = analysis.course(steps, read(base, offline, config))
    _write(made, out, {"analysis": "course", "steps": [step.step for step, _ in steps]}, quiet, json)


@analysed.command()
def frontier(
    given: Annotated[list[Path], typer.Argument(metavar="DIRS...", help="Folders NAME.run of fits with --keep-every.")],
    subject: Annotated[
        list[Path] | None,
        typer.Option("--subject", help="Pictures to measure likeness by. Default: those each run learned from."),
    ] = None,
    offline: Offline = False,
    out: Drawing = Path("frontier.svg"),
    n: Annotated[int, typer.Option("-n", help="Prompts to judge a step by.", min=1, max=4)] = 4,
    seed: Seed = 0,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Identity against prompt over the steps that fits on the embedded base kept, a line for each fit."""
    from semblant.bench import analysis, runs
    from semblant.cli.checkpoints import pictures_of

    _free(out)
    terminal, loaded = Terminal(quiet, json), read("embedded", offline, None)
    measured = {}
    for folder in map(runs.RunFolder, given):
        steps = runs.read_steps(folder)
        concept = steps[-1][1]
        pictures = pictures_of(folder, concept, loaded, subject)
        with terminal.work(f"judging {folder.path.name}") as advance:
            found = runs.measure_steps(steps, loaded, pictures, seed=seed, looked_at=n, progress=advance)
        measured[f"{folder.path.as_posix()}, {concept.method}"] = found
    record = {name: [step.record() for step in steps] for name, steps in measured.items()}
    _write(analysis.frontier(measured), out, {"analysis": "frontier", "runs": record}, quiet, json)


def _free(out: Path, form: str = "") -> None:
    """Refuse, before the work is done, a name that is taken, or one of another form than what will be written."""
    if out.exists():
        raise FileProblem(f"{out} exists; give --out another name")
    if form and out.suffix.lower() != f".{form.lower()}":
        raise FileProblem(f"what is written is a {form}; give {out} the ending .{form.lower()}")


def _write(made: Image.Image | str, out: Path, settings: dict[str, Any], quiet: bool, json: bool) -> None:
    from semblant.bench.results import write_text
    from semblant.data.pictures import save_png

    _free(out)
    if isinstance(made, str):
        write_text(out, made)
    else:
        save_png(made, out, settings)
    Terminal(quiet, json).answer({"picture": out.as_posix(), **settings}, f"see {out}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(analysed, name="analyse")
