"""The demo: one drawn portrait, learned in three ways, shown and measured beside the base itself and the right answer.

The person is held out: neither the base nor any setting has seen it. What is written is enough to do it again by hand:
the report names the command lines, and the portrait and the pictures to measure by lie beside it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from semblant import __version__, verbs
from semblant.backbones.base import Base
from semblant.backbones.judges import load_judges
from semblant.backbones.loading import EMBEDDED, embedded_card
from semblant.bench.faces import finder
from semblant.bench.gaze import Gaze, overlay
from semblant.bench.page import page
from semblant.bench.results import stored, write_json, write_text
from semblant.bench.sheet import sheet
from semblant.bench.sitter import Sitter, draw
from semblant.data.pictures import save_png, write_picture
from semblant.data.subject import Subject
from semblant.errors import FileProblem, SemblantError
from semblant.methods.index import method_class
from semblant.training import concepts
from semblant.training.concepts import Concept
from semblant.training.lock import held, lock_name
from semblant.training.optimise import Interrupted, Progress
from semblant.training.precision import choose, precision_name
from semblant.world.prompts import demo_prompts

WORD, CLASS_WORD = "<maya>", "person"
OBJECTS = ("guitar", "cup")
"""Words whose attention is shown beside the subject's: a concept must leave them their place."""
STOPPED = "the demo was stopped; the same command makes it anew"
TELL_AFTER = 5
"""Steps of a fit before its time is told."""


@dataclass(frozen=True)
class Plan:
    """How much the demo does."""

    steps: int = 300
    """Updates per fit: with these the whole demo took 190 s on two cores in bfloat16, and 330 s in float32."""
    prompts: int = 8
    seeds: int = 2
    """Pictures per prompt and arm: the first is shown, all are measured."""
    sampling_steps: int | None = None
    """None takes the base's own."""
    references: int = 8
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every method that has them, such as fewer `views`."""


QUICK = Plan(steps=80, prompts=4, seeds=1, sampling_steps=12, references=4, settings={"views": 32})


@dataclass(frozen=True)
class Arm:
    """One way to make the pictures."""

    key: str
    title: str
    method: str | None
    """None: the base itself, with the class word in place of the subject's."""
    settings: Mapping[str, Any] = field(default_factory=dict)


ARMS = (
    Arm("sefi-ide", "SeFi-IDE", "sefi-ide"),
    Arm("sefi-ide-without-attention", "SeFi-IDE without its attention loss", "sefi-ide", {"attention_weight": 0.0}),
    Arm("textual-inversion", "Textual Inversion", "textual-inversion"),
    Arm("base", "The base alone, “person”", None),
)
TRUTH = Arm("truth", "The right answer, as the world draws it", None)


@dataclass
class Made:
    """What one arm came to."""

    arm: Arm
    images: list[Image.Image] = field(default_factory=list)
    """Prompt by prompt, of the first seed, then of the second, ..."""
    looks: dict[str, dict[str, Image.Image]] = field(default_factory=dict)
    """Object word -> the subject's and the object's attention over the picture of that prompt."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """Step and mean loss of the last 50."""
    concept: Concept | None = None
    scores: dict[str, Any] | None = None
    seconds: float = 0.0


def run(
    out: Path,
    base: Base,
    *,
    steps: int | None = None,
    plan: Plan | None = None,
    seed: int = 0,
    word: str = WORD,
    base_name: str = "embedded",
    sitter: Sitter | None = None,
    compute: torch.dtype | None = None,
    say: Callable[[str], None] = lambda text: None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Make the demo in the folder `out`, and return its results (plain data, also in `results.json`).

    Writes report.html, results.json, grid.png, portrait.png, references/, concepts/ and pictures/. `compute` None
    measures once which precision is fastest, and fits and samples in it. `say` hears one line about each thing
    that is done. Raises FileProblem when the folder holds something other than a demo, or another demo is at work
    there, and `training.optimise.Interrupted` when stopped.
    """
    plan = replace(plan or Plan(), steps=steps or (plan or Plan()).steps)
    place = Path(os.path.abspath(out))
    with held(place.with_name(lock_name(place.name)), out):
        base = base.computing(compute or choose(base, rows=2))
        say(f"computing in {precision_name(base.compute)}")
        return _run(out, base, plan, seed, word, base_name, sitter or Sitter(), say, stop)


def _run(
    out: Path,
    base: Base,
    plan: Plan,
    seed: int,
    word: str,
    base_name: str,
    sitter: Sitter,
    say: Callable[[str], None],
    stop: Callable[[], bool] | None,
) -> dict[str, Any]:
    began = time.monotonic()
    _claim(out)
    templates = demo_prompts()[: plan.prompts]
    portrait, references = _sit(out, sitter, plan, say)
    subject, face = _read(out / "portrait.png", word, base, say)
    prompts = [template.replace("{}", word) for template in templates]
    made = []
    for arm in ARMS:
        result = Made(arm)
        if arm.method is not None:
            _fit(result, base, subject, plan, seed, say, stop)
            assert result.concept is not None
            concepts.save(result.concept, out / "concepts" / f"{arm.key}.safetensors")
        say(f"{arm.title}: sampling {plan.seeds * len(templates)} pictures")
        _sample(result, base, [t.replace("{}", _name(arm, word)) for t in templates], plan, seed, word, stop)
        made.append(result)
    truth = Made(TRUTH, draw([sitter.truth(prompt) for prompt in prompts]) * plan.seeds)
    say("measuring")
    not_measured = _measure([*made, truth], references, portrait, prompts * plan.seeds)
    _save_pictures(out, made, templates, word, seed, base)
    rows = [(result.arm.title, result.images[: len(templates)]) for result in [*made, truth]]
    write_picture(sheet(rows, prompts), out / "grid.png")
    results = {
        "semblant": __version__,
        "finished": True,
        "base": {**base.describe(), "facts above chance": _above_chance(base)},
        "sitter": {"split": sitter.split, "index": sitter.index},
        "word": word,
        "class_word": CLASS_WORD,
        "seed": seed,
        "plan": asdict(plan),
        "prompts": prompts,
        "not_measured": not_measured,
        "arms": {result.arm.key: _record(result) for result in [*made, truth]},
        "commands": commands(plan, out, base_name, face, seed, word, prompts[0], precision_name(base.compute)),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_text(out / "report.html", page(results, made, truth, portrait, references))
    write_json(out / "results.json", results)
    say(f"done after {results['seconds']:.0f} s: {out / 'report.html'}")
    return results


def _above_chance(base: Base) -> float | None:
    """How many of the facts that captions name the shipped base obeys, corrected for chance; None for other bases."""
    card = embedded_card() if base.name == EMBEDDED else {}
    return card.get("base", {}).get("macro_corrected")


def _claim(out: Path) -> None:
    """Take a folder that is empty or holds an earlier demo, whose report and pictures go: it may have had more of them
    than this one, which would be measured with these. Raises FileProblem for any other."""
    if out.exists() and not out.is_dir():
        raise FileProblem(f"{out} is a file; the demo writes a folder")
    if out.is_dir() and any(out.iterdir()) and "semblant" not in stored(out / "results.json"):
        raise FileProblem(f"the folder {out} holds other things; give the demo an empty one")
    write_json(out / "results.json", {"semblant": __version__, "finished": False})
    for earlier in ("report.html", "references/[0-9]*.png", *(f"pictures/{arm.key}/[0-9]*-seed*.png" for arm in ARMS)):
        for file in out.glob(earlier):
            file.unlink()


def _sit(out: Path, sitter: Sitter, plan: Plan, say: Callable[[str], None]) -> tuple[Image.Image, list[Image.Image]]:
    """Draw and write the portrait and the pictures to measure by."""
    say(f"drawing {sitter.split} person {sitter.index}: a portrait, and {plan.references} other moments to measure by")
    portrait, *references = draw([sitter.portrait(), *sitter.others(plan.references)])
    about = {"world": True, "split": sitter.split, "person": sitter.index}
    save_png(portrait, out / "portrait.png", about)
    for k, picture in enumerate(references):
        save_png(picture, out / "references" / f"{k}.png", about)
    return portrait, references


def _read(path: Path, word: str, base: Base, say: Callable[[str], None]) -> tuple[Subject, str]:
    """Read the portrait as any user's picture is read; also by which choice of a face."""
    try:
        return Subject.read(path, word, CLASS_WORD, face="largest", detector=finder(base)), "largest"
    except FileProblem:
        raise
    except SemblantError:
        say("no face was found in the portrait, so the whole picture is learned")
        return Subject.read(path, word, CLASS_WORD, face="none"), "none"


def _fit(
    result: Made,
    base: Base,
    subject: Subject,
    plan: Plan,
    seed: int,
    say: Callable[[str], None],
    stop: Callable[[], bool] | None,
) -> None:
    arm, began = result.arm, time.monotonic()
    say(f"{arm.title}: fitting, {plan.steps} steps")

    def hear(progress: Progress) -> None:
        result.curve.append((progress.step, progress.loss))
        quarter = max(1, progress.steps // 4)
        if progress.step == TELL_AFTER and progress.steps > 4 * TELL_AFTER:
            say(f"{arm.title}: about {max(1, round(progress.seconds_left))} s")
        elif progress.step % quarter == 0:
            say(f"{arm.title}: step {progress.step} of {progress.steps}, loss {progress.loss:.4f}")

    assert arm.method is not None
    settings = _settings(arm, plan)
    try:
        # Pictures are encoded in float32 whatever is computed in, as by the command.
        whole = base.computing(torch.float32)
        result.concept = verbs.fit(
            arm.method, whole, subject, seed=seed, progress=hear, stop=stop, compute=base.compute, **settings
        )
    except Interrupted:
        raise Interrupted(STOPPED) from None
    result.seconds = time.monotonic() - began


def _name(arm: Arm, word: str) -> str:
    return CLASS_WORD if arm.method is None else word


def _sample(
    result: Made,
    base: Base,
    prompts: Sequence[str],
    plan: Plan,
    seed: int,
    word: str,
    stop: Callable[[], bool] | None,
) -> None:
    """All pictures of an arm; while those of the first seed are made, their attention is watched."""

    def heed(step: int, steps: int, clean: Tensor) -> None:
        if stop is not None and stop():
            raise Interrupted(STOPPED)

    learned = [result.concept] if result.concept is not None else []
    name = _name(result.arm, word)
    context = base.patched(*verbs.patches_of(base, learned)).text(prompts)
    watched = [{w: positions for w in (name, *OBJECTS) if (positions := row.positions.get(w))} for row in context.rows]
    for k in range(plan.seeds):
        for start in range(0, len(prompts), verbs.AT_ONCE):
            some = slice(start, start + verbs.AT_ONCE)
            gaze = Gaze(watched[some])
            result.images += verbs.sample(
                base,
                prompts[some],
                concepts=learned,
                patches=gaze.patches() if k == 0 else [],
                seed=seed + k,
                steps=plan.sampling_steps,
                progress=heed,
            )
            if k == 0:
                _look(result, gaze, start, len(watched[some]), name)


def _look(result: Made, gaze: Gaze, start: int, rows: int, name: str) -> None:
    """Keep the overlays of the prompts that hold one of the objects."""
    for row in range(rows):
        own = gaze.map(row, name)
        for thing in OBJECTS:
            look = gaze.map(row, thing)
            if look is not None and own is not None:
                picture = result.images[start + row]
                result.looks[thing] = {
                    "picture": picture,
                    "subject": overlay(picture, own),
                    "object": overlay(picture, look),
                }


def _measure(
    made: Sequence[Made], references: Sequence[Image.Image], portrait: Image.Image, prompts: Sequence[str]
) -> str:
    """Give every arm its scores; why not, in one sentence, when the judges cannot."""
    try:
        load_judges("B")
        for result in made:
            scores = verbs.measure(result.images, subject=references, prompt=prompts, trained_on=[portrait])
            result.scores = scores.to_dict()
    except SemblantError as problem:
        return str(problem)
    return ""


def _save_pictures(out: Path, made: Sequence[Made], templates: Sequence[str], word: str, seed: int, base: Base) -> None:
    """Write every picture, numbered as its prompt, with what made it."""
    for result in made:
        for index, picture in enumerate(result.images):
            k, number = divmod(index, len(templates))
            record = {
                "prompt": templates[number].replace("{}", _name(result.arm, word)),
                "seed": seed + k,
                "arm": result.arm.key,
                "base": base.describe(),
            }
            save_png(picture, out / "pictures" / result.arm.key / f"{number + 1}-seed{seed + k}.png", record)


def _record(result: Made) -> dict[str, Any]:
    concept = result.concept
    return {
        "title": result.arm.title,
        "method": result.arm.method,
        "settings": None if concept is None else concept.settings,
        "losses": None if concept is None else concept.losses,
        "figures": None if concept is None else concept.figures,
        "seconds": round(result.seconds, 1),
        "scores": result.scores,
    }


def commands(
    plan: Plan, out: Path, base_name: str, face: str, seed: int, word: str, prompt: str, precision: str
) -> list[str]:
    """Command lines that do by hand what the demo did, in bfloat16 up to its rounding: fits, one prompt's pictures, and
    measuring."""
    at = out.name or "demo"
    portrait, references = (quote(f"{at}/{name}") for name in ("portrait.png", "references"))
    # Of a file or folder the name: the report says nothing of whose computer made it. A name on the hub is whole.
    named = Path(base_name).name if Path(base_name).exists() else base_name
    base = "" if base_name == EMBEDDED else f" --base {quote(named)}"
    steps = f" --steps {plan.sampling_steps}" if plan.sampling_steps else ""
    lines = []
    for arm in ARMS:
        if arm.method is not None:
            extra = "".join(f" --set {name}={value:g}" for name, value in _settings(arm, plan).items())
            lines.append(
                f'semblant fit {arm.method} {portrait} --word "{word}" --class-word {CLASS_WORD} --face {face}'
                f"{base}{extra} --seed {seed} --precision {precision} --out {arm.key}.safetensors"
            )
    pictures = f"-n {plan.seeds} --seed {seed}{steps} --out images"
    return [
        *lines,
        f'semblant sample "{prompt}" --concept sefi-ide.safetensors{base} --precision {precision} {pictures}',
        f'semblant measure images --subject {references} --trained-on {portrait} --prompt "{prompt}"',
    ]


def _settings(arm: Arm, plan: Plan) -> dict[str, Any]:
    """What an arm's method is given."""
    assert arm.method is not None
    known = {setting.name for setting in fields(method_class(arm.method))}
    common = {name: value for name, value in plan.settings.items() if name in known}
    return {"steps": plan.steps, **common, **arm.settings}
