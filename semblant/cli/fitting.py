"""`semblant fit`: learn one subject from pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from semblant.cli.bases import BaseName, Config, Offline, read
from semblant.cli.diagnosis import examine
from semblant.cli.interruption import stoppable
from semblant.cli.outputs import Output
from semblant.cli.terminal import Advance, Terminal, duration, memory
from semblant.cli.vocabulary import warn_of_photographs, warn_of_unknown_words
from semblant.errors import FileProblem, SemblantError, closest

if TYPE_CHECKING:
    import torch

    from semblant.backbones.base import Base
    from semblant.bench.verdict import Verdict
    from semblant.data.subject import Subject
    from semblant.training.concepts import Concept
    from semblant.training.optimise import Progress

PROBE = 4
"""Steps of a trial run from which the speed is read for `--budget`."""
PRECISIONS = ("auto", "float32", "bfloat16")
UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


class WithSettings(TyperCommand):
    """Its help also shows the settings of the method that is named on the command line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep what was typed: the help is printed before arguments are told apart."""
        ctx.meta["semblant typed"] = list(args)
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The command's own help, then the method's settings."""
        super().format_help(ctx, formatter)
        from semblant.cli.catalogue import settings_table
        from semblant.methods.index import methods

        named = next((arg for arg in ctx.meta.get("semblant typed", []) if arg in methods()), None)
        terminal = Terminal()
        if named is not None:
            terminal.out.print(settings_table(named, methods()[named]))
        else:
            terminal.out.print(
                f"Methods: {', '.join(methods())}. `semblant fit METHOD --help` shows the settings of one.",
                markup=False,
                highlight=False,
            )


def fit(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="Name of a method; `semblant list` shows all.")],
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURES", help="Pictures of the subject, or folders of them.")
    ],
    word: Annotated[str, typer.Option("--word", help="What the subject is called in prompts, such as `<maya>`.")],
    class_word: Annotated[str, typer.Option("--class-word", help="What it is: person, dog, backpack ...")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The concept file to write. Default: WORD.safetensors")
    ] = None,
    base: BaseName = "embedded",
    offline: Offline = False,
    config: Config = None,
    pairs: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One of the method's settings; repeatable.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="The same as --set steps=N.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same concept.")] = 0,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="TIME", help="Take as few steps as fit into 60s, 5min or 1h.")
    ] = None,
    precision: Annotated[str, typer.Option("--precision", help="auto (measured once), float32 or bfloat16.")] = "auto",
    face: Annotated[
        str,
        typer.Option(
            "--face", help="Of several: ask, largest, none (whole picture), or a number, counted from the left."
        ),
    ] = "ask",
    keep_every: Annotated[
        int | None,
        typer.Option("--keep-every", min=1, metavar="N", help="Keep a concept every N steps, in NAME.run."),
    ] = None,
    no_verdict: Annotated[
        bool, typer.Option("--no-verdict", help="Do not judge the result by a few pictures.")
    ] = False,
    consent: Annotated[str, typer.Option("--consent", help="What the person shown agreed to; kept in the file.")] = "",
    strip: Annotated[
        bool, typer.Option("--strip-metadata", help="Leave hashes of pictures, consent and versions out of the file.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file, or an interrupted run.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False,
) -> None:
    """Learn one subject from pictures, and write it as a concept.

    semblant fit sefi-ide photos/maya.png --word "<maya>" --class-word person --out maya.safetensors
    """
    from semblant import verbs
    from semblant.bench.faces import finder
    from semblant.cli import declared
    from semblant.data.faces import remembering
    from semblant.data.pictures import find_pictures
    from semblant.data.subject import Subject, check_class_word, check_word
    from semblant.methods.index import method_class
    from semblant.training.lock import held

    terminal = Terminal(quiet, json)
    # What can be refused is refused before anything heavy is read.
    kind = method_class(method)
    chosen: dict[str, Any] = declared.given(kind, pairs or [])
    if steps is not None:
        if "steps" in chosen:
            raise SemblantError("the steps are given twice, by --steps and by --set steps=; give them once")
        chosen |= declared.given(kind, [f"steps={steps}"])
    verbs.method(method, **chosen)
    check_word(word)
    check_class_word(class_word)
    compute = _compute(precision)
    seconds = None if budget is None else seconds_of(budget)
    output = Output.of(out, word, resume, force)
    for picture in pictures:
        find_pictures(picture)
    loaded = read(base, offline, config)
    choice: Any = face
    detector = remembering(finder(loaded))
    examine(terminal, pictures, class_word, word, face, detector, loaded.size)
    subject = Subject.read(pictures, word, class_word, face=choice, detector=detector, consent=consent)
    warn_of_photographs(terminal, loaded, pictures)
    warn_of_unknown_words(terminal, loaded, class_word)
    settings = verbs.method(method, loaded, **chosen)
    if not (planned := getattr(settings, "steps", 1)) >= 1:
        raise SemblantError(f"a run takes 1 step or more; got steps={planned}")
    if seconds is not None:
        asked = _stored_steps(output.checkpoint) if resume else None
        asked = asked or _affordable(method, loaded, subject, chosen, planned, seconds, compute, terminal)
        settings = verbs.method(method, loaded, **{**chosen, "steps": asked})
    shown = f"{len(subject.images)} picture{'s' if len(subject.images) > 1 else ''}"
    with held(output.lock, output.file):
        output.clear(resume, force)
        if keep_every is not None:
            output.run.note(pictures, face, strip)
        terminal.say(f"{method} learns {word} ({class_word}) from {shown} on {loaded.name}")
        with (
            stoppable(terminal.say, "stopping after this step, and saving") as asked_to_stop,
            terminal.work("fitting") as advance,
        ):
            concept = verbs.fit(
                settings,
                loaded,
                subject,
                seed=seed,
                checkpoint=output.checkpoint,
                resume=resume,
                progress=Teller(terminal, loaded, advance),
                stop=asked_to_stop,
                compute=compute,
                keep_every=keep_every,
                keep=None if keep_every is None else lambda kept: output.run.keep(kept, strip),
            )
        output.save(concept, strip)
        embedding = _embedding(terminal, concept, output.file, force)
    verdict = None if no_verdict else judged(terminal, loaded, concept, subject, output)
    record = {
        "concept": output.file,
        "embedding": embedding,
        **{name: getattr(concept, name) for name in ("method", "word", "class_word", "settings", "seed", "steps")},
        **{name: getattr(concept, name) for name in ("losses", "figures", "base")},
        "pictures": len(subject.images),
        "kept": [file for _, file in output.run.kept()] if keep_every is not None else [],
        "verdict": None if verdict is None else verdict.record(),
    }
    terminal.answer(record, _summary(concept, output, embedding, verdict, record["kept"]))


class Teller:
    """Tells of a run: after a few steps how long it will take and how much memory, then how it goes."""

    AFTER = 5

    def __init__(self, terminal: Terminal, base: Base, advance: Advance) -> None:
        self.terminal, self.base, self.advance = terminal, base, advance
        self.first: int | None = None

    def __call__(self, progress: Progress) -> None:
        """Hear of one step."""
        from semblant.training.optimise import peak_memory

        if self.first is None:
            self.first = progress.step
        if progress.step == self.first + self.AFTER and progress.step < progress.steps:
            held = peak_memory(self.base.device)
            self.terminal.say(
                f"{progress.steps - progress.step} steps to go, about {duration(progress.seconds_left)}"
                + (f", {memory(held)} of memory" if held else "")
            )
        speed = 1 / max(progress.seconds_per_step, 1e-9)
        self.advance(progress.step, progress.steps, f"loss {progress.loss:.4f}, {speed:.1f} steps/s")


def judged(terminal: Terminal, base: Base, concept: Concept, subject: Subject, output: Output) -> Verdict | None:
    """The verdict on a fit, stored in its run folder; None, and one line that says why, where nothing can judge."""
    from semblant.bench import verdict

    try:
        with terminal.work("judging") as advance:
            found = verdict.judge(
                base, concept, subject.images, progress=lambda step, steps, clean: advance(step, steps, "")
            )
    except SemblantError as problem:
        terminal.say(f"no verdict: {problem}")
        return None
    try:
        output.run.write_verdict(found)
    except FileProblem as problem:
        terminal.warn(f"the verdict is not kept: {problem}")
    return found


def seconds_of(text: str) -> float:
    """A time such as 60s, 5min, 1h or plain seconds. Raises SemblantError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|)\s*", text)
    if found is None or float(found[1]) <= 0:
        raise SemblantError(f"--budget is a time such as 60s, 5min or 1h; got {text!r}")
    return float(found[1]) * UNITS[found[2]]


def _compute(precision: str) -> torch.dtype | None:
    import torch

    if precision not in PRECISIONS:
        raise SemblantError(f"no precision {precision!r}; possible: {closest(precision, PRECISIONS)}")
    return None if precision == "auto" else getattr(torch, precision)


def _stored_steps(folder: Path) -> int | None:
    """How many steps an interrupted run was to take, so that a budget is not settled anew."""
    from semblant.training.checkpoint import Store

    state = Store(folder).read()
    return None if state is None else state.fingerprint["given"]["settings"].get("steps")


def _affordable(
    method: str,
    base: Base,
    subject: Subject,
    chosen: dict[str, Any],
    planned: int,
    seconds: float,
    compute: torch.dtype | None,
    terminal: Terminal,
) -> int:
    """How many of the planned steps fit into the time, read from a trial run that is thrown away."""
    import time

    from semblant import verbs

    began = time.monotonic()
    speed: list[float] = []
    verbs.fit(
        verbs.method(method, base, **{**chosen, "steps": min(PROBE, planned)}),
        base,
        subject,
        compute=compute,
        progress=lambda p: speed.append(p.seconds_per_step),
    )
    tried = time.monotonic() - began
    # The run prepares itself once more before its first step.
    preparing = max(0.0, tried - len(speed) * speed[-1])
    steps = min(planned, max(1, int((seconds - tried - preparing) / max(speed[-1], 1e-6))))
    terminal.say(f"{duration(seconds)} allow for {steps} of {planned} steps")
    return steps


def _embedding(terminal: Terminal, concept: Concept, file: Path, force: bool) -> Path | None:
    """The common embedding file beside a concept that is plain rows of one word."""
    from semblant.training import concepts

    if not concepts.is_plain_word(concept):
        return None
    target = file.with_suffix(".embedding.safetensors")
    if target.exists() and not force:
        terminal.warn(f"{target} exists already and was left as it is; --force replaces it")
        return None
    return concepts.save_embedding(concept, file)


def _summary(
    concept: Concept, output: Output, embedding: Path | None, verdict: Verdict | None, kept: list[Path]
) -> str:
    file = output.file
    losses, figures = concept.losses, concept.figures
    first, last = losses.get("first", 0), losses.get("last", 0)
    lines = [
        f"{concept.word} is in {file}, after {concept.steps} steps in {duration(figures.get('seconds', 0))} "
        f"({figures.get('compute', 'float32')}); loss {first:.4f} at first, {last:.4f} at last"
    ]
    if skipped := figures.get("skipped updates"):
        lines.append(f"{skipped} update{'s were' if skipped > 1 else ' was'} left out: the loss was not finite")
    if (inside := figures.get("attention inside mask")) is not None:
        lines.append(f"{inside:.0%} of the word's attention lies on the subject")
    if embedding is not None:
        lines.append(f"the word alone, for other programs, is in {embedding}")
    if kept:
        lines.append(f"{len(kept)} steps are kept; semblant checkpoints {output.run.path} compares them")
    if verdict is not None:
        lines.append(verdict.sentence)
    lines.append(f'next: semblant sample "a photo of {concept.word}" --concept {file}')
    return "\n".join(lines)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=WithSettings, no_args_is_help=True)(fit)
