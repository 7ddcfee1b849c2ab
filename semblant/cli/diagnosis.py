"""`semblant doctor`: what would stand in the way of a fit, in the installation, the base and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from semblant.cli.bases import BaseName, Config, Offline, read
from semblant.cli.terminal import Terminal, memory
from semblant.errors import SemblantError

if TYPE_CHECKING:
    from semblant.backbones.base import Base
    from semblant.data.doctor import Finding
    from semblant.data.faces import Detector

STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
UNFIT = 2
"""Exit code when a fit cannot run."""


def examine(
    terminal: Terminal, pictures: Sequence[Path], class_word: str, word: str, face: str, detector: Detector, size: int
) -> None:
    """Warn of what would make a fit worse, before it begins.

    What stops it is left to the reading of the pictures, which refuses the first such thing; further ones are named.
    """
    from semblant.data.doctor import check
    from semblant.data.subject import PERSONS

    person = class_word.lower() in PERSONS
    findings = check(pictures, person=person, face=face, word=word, detector=detector, size=size)
    # Reading comes before looking for faces, so its refusal is the first that is heard.
    errors = sorted(
        (finding for finding in findings if finding.level == "error"),
        key=lambda finding: finding.kind in ("no face", "several faces"),
    )
    for finding in [*(f for f in findings if f.level == "warning" and not f.told), *errors[1:]]:
        terminal.warn(finding.sentence)


def doctor(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]...", help="Pictures, or folders of them, to learn from.")
    ] = None,
    base: BaseName = "embedded",
    offline: Offline = False,
    config: Config = None,
    class_word: Annotated[
        str, typer.Option("--class-word", help="What the pictures show: faces are looked for in those of persons.")
    ] = "person",
    word: Annotated[
        str | None, typer.Option("--word", help="The subject's word, to see that captions hold it.")
    ] = None,
    face: Annotated[str, typer.Option("--face", help="The choice that `fit` would be given.")] = "ask",
    measure: Annotated[
        bool, typer.Option("--measure-precision", help="Measure whether half precision is faster than float32 here.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False,
) -> None:
    """Say what would stand in the way of a fit, or make it worse. Exit code 0 when a fit can run, 2 when not.

    semblant doctor photos/ --class-word person
    """
    from semblant.bench.faces import finder
    from semblant.data import environment
    from semblant.data.doctor import Finding, check
    from semblant.data.faces import find_faces
    from semblant.data.subject import PERSONS, check_class_word, check_word, face_choice

    terminal = Terminal(quiet, json)
    check_class_word(class_word)
    if word is not None:
        check_word(word)
    face_choice(face)
    surroundings, findings = environment.environment(Path())
    loaded: Base | None = None
    about: dict[str, Any] | None = None
    try:
        loaded = read(base, offline, config)
        about, found = environment.base_facts(loaded, environment.card_of(base))
        findings += found
    except SemblantError as problem:
        advice = (
            "Give `embedded`, or a base of Stable Diffusion 1.x, 2.x or XL: a folder, owner/name or .safetensors file."
        )
        findings.append(Finding(base, str(problem), advice, "error", "base"))
    surroundings["precision"] = _precision(loaded) if measure else None
    if paths:
        findings += check(
            paths,
            person=class_word.lower() in PERSONS,
            face=face,
            word=word,
            detector=find_faces if loaded is None else finder(loaded),
            **({} if loaded is None else {"size": loaded.size}),
        )
    fit = not any(finding.level == "error" for finding in findings)
    record = {
        "fit_can_run": fit,
        "environment": surroundings,
        "base": about,
        "findings": [{**asdict(finding), "sentence": finding.sentence} for finding in findings],
    }
    terminal.answer(record, report(surroundings, about, findings, bool(paths)))
    if quiet and not json:
        for finding in findings:
            if finding.level == "error":
                terminal.error(finding.sentence)
    if not fit:
        raise typer.Exit(UNFIT)


def report(
    surroundings: dict[str, Any], base: dict[str, Any] | None, findings: Sequence[Finding], pictures: bool
) -> Text:
    """The facts, then every finding, the gravest first."""
    gpu = surroundings["accelerator"]
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in surroundings["versions"].items())
    if gpu is None:
        accelerator = "none; everything runs on the processor"
    else:
        size = f", {memory(gpu['memory'])}" if gpu["memory"] else ""
        accelerator = (
            f"{gpu['name']}{size}; commands run on the processor unless `--device {gpu['kind']}` says otherwise"
        )
    lines = {
        "python": f"{surroundings['python']} on {surroundings['platform']}",
        "libraries": versions,
        "threads": f"{surroundings['threads']} on {surroundings['cores']} cores",
        "accelerator": accelerator,
        "precision": surroundings["precision"]
        or "not measured; `fit` measures it once a run, `--measure-precision` measures it now",
        "disk": f"{memory(surroundings['disk_free'])} free",
    }
    if base is not None:
        lines["base"] = f"{base['name']} ({base['architecture']}, {base['size']} px): {base['about']}"
    shown = Text("\n".join(f"{name + ':':<13}{value}" for name, value in lines.items()) + "\n")
    for level in STYLES:
        for finding in findings:
            if finding.level == level:
                shown.append(f"\n{level}: ", style=STYLES[level])
                shown.append(finding.sentence)
    errors = sum(finding.level == "error" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    if errors:
        verdict = f"a fit cannot run: {errors} error{'s' if errors > 1 else ''}"
    else:
        verdict = "a fit can run" + (f", with {warnings} warning{'s' if warnings > 1 else ''}" if warnings else "")
    about = "" if pictures else "; give pictures to have them looked at too"
    return shown.append(f"\n\n{verdict}{about}" if findings else f"\n{verdict}{about}")


def _precision(base: Base | None) -> str | None:
    if base is None:
        return None
    from semblant.training.precision import choose, precision_name

    return precision_name(choose(base))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)
