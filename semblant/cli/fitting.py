"""`semblant fit`: learn one subject from pictures, or several at once."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from semblant.cli.bases import BaseName, Config, Device, Offline, Offloading, Weights, named, precision_of, read
from semblant.cli.interruption import stoppable
from semblant.cli.outputs import Outputs
from semblant.cli.subjects import introduced, read_subjects, wanted
from semblant.cli.telling import Result, Teller, embedding, judged, summary
from semblant.cli.terminal import Terminal, duration
from semblant.errors import SemblantError

if TYPE_CHECKING:
    import torch

    from semblant.backbones.base import Base
    from semblant.data.subject import Subject

PROBE = 4
"""Steps of a trial run from which the speed is read for `--budget`."""
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
        list[Path], typer.Argument(metavar="PICTURES", help="Pictures of the subject, or folders of them: see --word.")
    ],
    words: Annotated[
        list[str],
        typer.Option(
            "--word",
            help="What the subject is called in prompts, such as `<maya>`. Several learn several subjects at once: one "
            "of PICTURES for each, in the same order.",
        ),
    ],
    class_words: Annotated[
        list[str], typer.Option("--class-word", help="What it is: person, dog, backpack ... Once for all, or for each.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The concept file to write, or for several a folder. Default: WORD.safetensors, here."
        ),
    ] = None,
    base: BaseName = "embedded",
    offline: Offline = False,
    config: Config = None,
    device: Device = "cpu",
    weights: Weights = "float32",
    offload: Offloading = False,
    pairs: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One of the method's settings; repeatable.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="The same as --set steps=N.")] = None,
    early_stop: Annotated[
        bool, typer.Option("--early-stop", help="Stop before that once the loss has settled: --set early_stop=true.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same concept.")] = 0,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="TIME", help="Take as few steps as fit into 60s, 5min or 1h.")
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="auto (measured once), float32, bfloat16 or float16.")
    ] = "auto",
    faces: Annotated[
        list[str] | None,
        typer.Option(
            "--face",
            help="Of several: ask (the default), largest, none (whole picture), or a number, counted from the left.",
        ),
    ] = None,
    keep_every: Annotated[
        int | None,
        typer.Option("--keep-every", min=1, metavar="N", help="Keep a concept every N steps, in NAME.run."),
    ] = None,
    no_verdict: Annotated[
        bool, typer.Option("--no-verdict", help="Do not judge the result by a few pictures.")
    ] = False,
    consents: Annotated[
        list[str] | None, typer.Option("--consent", help="What the person shown agreed to; kept in the file.")
    ] = None,
    strip: Annotated[
        bool, typer.Option("--strip-metadata", help="Leave hashes of pictures, consent and versions out of the file.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file, or an interrupted run.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False,
) -> None:
    """Learn one subject from pictures, or several at once, and write each as a concept.

    semblant fit sefi-ide photos/maya.png --word "<maya>" --class-word person --out maya.safetensors

    semblant fit sefi-ide maya/ ada/ --word "<maya>" --word "<ada>" --class-word person --out people/
    """
    from semblant import verbs
    from semblant.cli import declared
    from semblant.methods.index import method_class

    terminal = Terminal(quiet, json)
    # What can be refused is refused before anything heavy is read.
    chosen = _chosen(declared.given(method_class(method), pairs or []), method, steps, early_stop)
    bare = verbs.method(method, **chosen)
    bare.settling()
    verbs.require_apart(bare, words)
    compute = precision_of(precision)
    seconds = None if budget is None else seconds_of(budget)
    given = wanted(pictures, words, class_words, faces or ["ask"], consents or [""])
    outputs = Outputs.of(out, words, resume, force)
    loaded = read(base, offline, config, device, weights, offload)
    subjects = read_subjects(terminal, loaded, given)
    settings = verbs.method(method, loaded, **chosen)
    if not (planned := getattr(settings, "steps", 1)) >= 1:
        raise SemblantError(f"a run takes 1 step or more; got steps={planned}")
    if seconds is not None:
        asked = _stored_steps(outputs.checkpoint) if resume else None
        asked = asked or _affordable(method, loaded, subjects, chosen, planned, seconds, compute, terminal)
        settings = verbs.method(method, loaded, **{**chosen, "steps": asked})
    runs = {one.word: output.run for one, output in zip(given, outputs.each, strict=True)}
    with outputs.held():
        outputs.clear(resume, force)
        if keep_every is not None:
            for one in given:
                runs[one.word].note(one.pictures, one.face, strip)
        terminal.say(f"{method} learns {introduced(subjects)} on {loaded.name}")
        with (
            stoppable(terminal.say, "stopping after this step, and saving") as asked_to_stop,
            terminal.work("fitting") as advance,
        ):
            made = verbs.fit(
                settings,
                loaded,
                subjects,
                seed=seed,
                checkpoint=outputs.checkpoint,
                resume=resume,
                progress=Teller(terminal, loaded, advance, words),
                stop=asked_to_stop,
                compute=compute,
                keep_every=keep_every,
                keep=None if keep_every is None else lambda kept: runs[kept.word].keep(kept, strip),
            )
        outputs.save(made, strip)
        results = [
            Result(
                subject,
                concept,
                output,
                embedding(terminal, concept, output.file, force),
                [file for _, file in output.run.kept()] if keep_every is not None else [],
            )
            for subject, concept, output in zip(subjects, made, outputs.each, strict=True)
        ]
    if not no_verdict:
        results = [
            replace(one, verdict=judged(terminal, loaded, one.concept, one.subject, one.output, one_of=len(results)))
            for one in results
        ]
    records = [result.record() for result in results]
    terminal.answer(records[0] if len(records) == 1 else {"subjects": records}, summary(results, named(base, config)))


def _chosen(given: dict[str, Any], method: str, steps: int | None, early_stop: bool) -> dict[str, Any]:
    """The settings that were given, with those that have options of their own.

    Raises SemblantError for one given both ways, and where the method has no such setting.
    """
    from semblant.cli import declared
    from semblant.methods.index import method_class

    for name, value in (("steps", steps), ("early_stop", "true" if early_stop else None)):
        if value is None:
            continue
        if name in given:
            option = name.replace("_", "-")
            raise SemblantError(f"{name} is given twice, by --{option} and by --set {name}=; give it once")
        given = {**given, **declared.given(method_class(method), [f"{name}={value}"])}
    return given


def seconds_of(text: str) -> float:
    """A time such as 60s, 5min, 1h or plain seconds. Raises SemblantError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|)\s*", text)
    if found is None or float(found[1]) <= 0:
        raise SemblantError(f"--budget is a time such as 60s, 5min or 1h; got {text!r}")
    return float(found[1]) * UNITS[found[2]]


def _stored_steps(folder: Path) -> int | None:
    """How many steps an interrupted run was to take, so that a budget is not settled anew."""
    from semblant.training.checkpoint import Store

    state = Store(folder).read()
    return None if state is None else state.fingerprint["given"]["settings"].get("steps")


def _affordable(
    method: str,
    base: Base,
    subjects: list[Subject],
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
    tried_with = {name: value for name, value in chosen.items() if name != "early_stop"}
    verbs.fit(
        verbs.method(method, base, **{**tried_with, "steps": min(PROBE, planned)}),
        base,
        subjects,
        compute=compute,
        progress=lambda p: speed.append(p.seconds_per_step),
    )
    tried = time.monotonic() - began
    # The run prepares itself once more before its first step.
    preparing = max(0.0, tried - len(speed) * speed[-1])
    steps = min(planned, max(1, int((seconds - tried - preparing) / max(speed[-1], 1e-6))))
    terminal.say(f"{duration(seconds)} allow for {steps} of {planned} steps")
    return steps


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=WithSettings, no_args_is_help=True)(fit)
