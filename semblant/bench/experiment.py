"""An experiment: methods side by side on people nobody fitted before, one file per cell, resumable.

`python -m semblant.bench.experiment benchmarks/flagship/plan.json --out build/flagship` fits every arm to every person,
samples all prompts, measures them, and writes one JSON per cell, its pictures and concepts beside it. A cell that is
there is not made again, unless the plan, the base or the method's settings have changed; other judges only look again.
The tables and sheets at the end are made from whatever cells there are; bars that the plan states beforehand are judged
with them, and a bar that is missed ends the command with code 4.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from semblant.backbones.base import Base
from semblant.backbones.judges import load_judges, weights_folder
from semblant.bench.attention_mass import face_mask, masses, object_mask
from semblant.bench.results import stored, write_json, write_text
from semblant.bench.runs import RunFolder
from semblant.bench.sheet import sheet
from semblant.bench.sitter import Sitter, draw, subject_of
from semblant.bench.tables import (
    COLUMNS,
    Bar,
    bars_as_text,
    judged,
    markdown,
    means,
    means_as_text,
    obeyed_by_fact,
    obeyed_by_kind,
    paired,
    paired_as_text,
    summary,
)
from semblant.data.pictures import read_picture, write_picture
from semblant.errors import FileProblem, SemblantError, closest
from semblant.metrics.attributes import facts_shown
from semblant.training.concepts import Concept
from semblant.verbs import SAMPLING, fit, load, measure, method, patches_of, sample
from semblant.world.facts import IDENTITY_FACTS, visible
from semblant.world.facts import facts as facts_of
from semblant.world.scene import CAMERAS, SPLITS, Scene, Split

log = logging.getLogger(__name__)

WORD, CLASS_WORD = "<them>", "person"
KEEP_EVERY = 100
"""Steps between two that are kept beside the pictures, so that `semblant analyse` can look at any cell."""
LOOK = 2
"""Raised when something else is looked at, so that cells are looked at again."""
MADE = 1
"""Raised when fits or pictures come out otherwise by the same settings, so that cells are made again."""
SHOWN = 2
"""People of whom a sheet of pictures is made."""
NOISES = ("shared", "own")
COPIED = ("background", "light", "turn", "tilt")
"""Facts of the training picture that a method must not carry into pictures whose prompt names another, or none."""
FIGURES = ("seconds", "peak_memory", "longest row", "attention weight", "pull ratio")
"""What a fit tells of itself."""
OBJECTS = {"cup": "holding a cup of latte", "guitar": "playing guitar", "book": "reading a book"}
"""Words whose attention is compared with where their object truly is, and the action that shows it."""


@dataclass(frozen=True)
class Arm:
    """One method with its settings; `method` None is the base with the class word."""

    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    people: int | None = None
    """How many of the plan's people it is fitted to; all when None."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides what is measured. `prompts` holds `{}` where the word goes, by kind of prompt."""

    split: Split
    people: tuple[int, ...]
    prompts: Mapping[str, tuple[str, ...]]
    arms: Mapping[str, Arm]
    seeds: int = 2
    references: int = 8
    steps: int | None = None
    guidance: float | None = None
    noise: str = "shared"
    """"own": everybody's pictures start from noise of their own. "shared": picture k of everybody starts from noise k;
    then intervals over people say nothing of other noise, and pictures of the class word are the same for all."""
    camera: str = "portrait"
    """How near the one picture is that somebody is learned from. In a close-up the face fills it, as in the photographs
    that papers learn from (CelebA-HQ)."""
    bars: tuple[Bar, ...] = ()
    """Stated before anything is measured."""

    @staticmethod
    def read(path: Path) -> Plan:
        """Read a plan. Raises FileProblem when it is none, SemblantError for a split that does not exist."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            arms = {name: Arm(**given) for name, given in record.pop("arms").items()}
            listed = record.pop("prompts")
            if any(isinstance(texts, str) for texts in listed.values()):
                raise ValueError("the prompts of a kind are a list")
            prompts = {kind: tuple(texts) for kind, texts in listed.items()}
            bars = tuple(Bar(**given) for given in record.pop("bars", ()))
            plan = Plan(arms=arms, prompts=prompts, people=tuple(record.pop("people")), bars=bars, **record)
            if len(set(plan.people)) < len(plan.people):
                raise ValueError("somebody is there twice, who would count as two people")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as problem:
            raise FileProblem(f"{path} is no plan of an experiment: {problem}") from problem
        if plan.camera not in CAMERAS:
            raise SemblantError(f"{path}: unknown camera {plan.camera!r}; possible: {', '.join(CAMERAS)}")
        if plan.noise not in NOISES:
            raise SemblantError(f"{path}: unknown noise {plan.noise!r}; possible: {', '.join(NOISES)}")
        if plan.split not in SPLITS:
            raise SemblantError(f"{path}: unknown split {plan.split!r}; possible: {', '.join(SPLITS)}")
        for bar in plan.bars:
            if (bar.at_least is None and bar.at_most is None) or (bar.less and bar.times):
                raise SemblantError(f"{path}: a bar has at_least or at_most, and less or times but not both; got {bar}")
            for name in (bar.arm, bar.less or bar.times or bar.arm):
                if name not in plan.arms:
                    raise SemblantError(f"{path}: a bar asks for an arm {name!r} that the plan has not")
            if bar.column not in COLUMNS:
                raise SemblantError(
                    f"{path}: no column {bar.column!r}; did you mean {closest(bar.column, list(COLUMNS))}?"
                )
        return plan

    def picture(self, sitter: Sitter) -> Scene:
        """What a person is learned from."""
        return sitter.portrait().change(camera=self.camera)

    def seed(self, person: int) -> int:
        """Of the first picture of each prompt."""
        return person * self.seeds if self.noise == "own" else 0

    def sampling(self, base: Base) -> dict[str, Any]:
        """Steps and guidance of every picture."""
        preset = SAMPLING.get(base.architecture, {"steps": 50, "guidance": 7.5})
        return {name: preset[name] if (own := getattr(self, name)) is None else own for name in preset}

    def texts(self) -> list[str]:
        """All prompts, kind after kind."""
        return [text for texts in self.prompts.values() for text in texts]


def run(plan: Plan, base: Base, out: Path, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Make the cells that are missing, person by person, and return all that are there; of arms that are not asked for
    none is made, and those are there that are not outdated."""
    unknown = set(only) - set(plan.arms)
    if unknown:
        raise SemblantError(f"no arm {', '.join(sorted(unknown))}; the plan has {', '.join(plan.arms)}")
    (out / "cells").mkdir(parents=True, exist_ok=True)
    cells = []
    for place, person in enumerate(plan.people):
        for name, arm in plan.arms.items():
            if arm.people is not None and place >= arm.people:
                continue
            cell = out / "cells" / f"{person:04d}-{name}"
            if not only or name in only:
                cells.append(_made(plan, name, base, person, cell))
            elif (found := stored(_record(cell))) and found.get("key") == _key(plan, arm, base, person):
                cells += [found] if found.get("judges") == _looks(plan) else []
    return cells


def _record(place: Path) -> Path:
    return place.parent / f"{place.name}.json"


def _looks(plan: Plan) -> str:
    """All that decides what judges see in the pictures of a cell."""
    return f"{_judges()}, {plan.references} references, look {LOOK}"


def _made(plan: Plan, name: str, base: Base, person: int, place: Path) -> dict[str, Any]:
    """One cell, of which only what is missing or outdated is made."""
    record = _record(place)
    key, looks = _key(plan, plan.arms[name], base, person), _looks(plan)
    cell, pictures = stored(record), _pictures(place, len(plan.texts()) * plan.seeds)
    if cell.get("key") != key or not pictures:
        record.unlink(missing_ok=True)  # or it would vouch for pictures it has not seen, if this is cut short
        made, pictures = _fitted(plan, plan.arms[name], base, person, RunFolder(place))
        for number, picture in enumerate(pictures):
            write_picture(picture, place / f"{number:03d}.png")
        cell = {"key": key, "arm": name, "split": plan.split, "person": person, **made}
    if cell.get("judges") != looks:
        cell |= {"judges": looks, **_scored(plan, base.size, person, pictures)}
        write_json(record, cell)
        gain = cell["scores"]["identity_gain"]
        log.info("person %d, %s: identity gain %s", person, name, "none" if gain is None else f"{gain:.3f}")
    return cell


def _pictures(place: Path, count: int) -> list[Image.Image]:
    """The pictures of a cell; none when one is missing or damaged."""
    place.mkdir(parents=True, exist_ok=True)
    try:
        return [read_picture(place / f"{number:03d}.png") for number in range(count)]
    except FileProblem:
        return []


@cache
def _judges() -> str:
    """A hash of all that measures."""
    files = sorted(weights_folder().iterdir())
    found = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if not file.stem.endswith("-a")]
    return hashlib.sha256("".join(found).encode()).hexdigest()[:16]


def _key(plan: Plan, arm: Arm, base: Base, person: int) -> str:
    """A hash of all that decides what is made: a cell of another is made again."""
    decides: dict[str, Any] = {
        "made": MADE,
        "prompts": [*plan.prompts.items()],
        "pictures": [plan.seeds, plan.seed(person), plan.sampling(base)],
        "person": [plan.split, person, plan.camera],
        "base": base.hashes(),
    }
    if arm.method is not None:
        decides["settings"] = [arm.method, asdict(method(arm.method, base, **arm.settings))]
        subject = subject_of(Sitter(plan.split, person), base, WORD, plan.camera)
        shown = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in subject.images]
        decides["learned from"] = [shown, [face and [round(edge) for edge in face.box] for face in subject.faces]]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _fitted(plan: Plan, arm: Arm, base: Base, person: int, kept: RunFolder) -> tuple[dict[str, Any], list[Image.Image]]:
    """What is known without any judge, and the pictures, prompt by prompt; `kept` gets the concept of some steps."""
    kept.clear()
    kept.path.mkdir(parents=True, exist_ok=True)
    sitter = Sitter(plan.split, person)
    concepts: list[Concept] = []
    if arm.method is not None:
        subject = subject_of(sitter, base, WORD, plan.camera)
        concepts = [fit(arm.method, base, subject, seed=person, keep_every=KEEP_EVERY, keep=kept.keep, **arm.settings)]
    word = WORD if concepts else CLASS_WORD
    said = [text.replace("{}", word) for text in plan.texts()]
    given = {"n": plan.seeds, "seed": plan.seed(person), **plan.sampling(base)}
    pictures = sample(base, said, concepts=concepts, **given)
    made: dict[str, Any] = {"attention": _attention(base, concepts, word, sitter)}
    for concept in concepts:
        made["parameters"] = sum(t.numel() for t in concept.tensors.values())
        made |= {name: concept.figures.get(name) for name in FIGURES}
        made["losses"] = concept.losses
    return made, pictures


def _scored(plan: Plan, size: int, person: int, pictures: Sequence[Image.Image]) -> dict[str, Any]:
    """What judges see, who read the class word where the method's own word stood."""
    sitter = Sitter(plan.split, person)
    picture, *references = draw([plan.picture(sitter), *sitter.others(plan.references)], size)
    prompts = [text.replace("{}", CLASS_WORD) for text in plan.texts() for _ in range(plan.seeds)]
    scores = measure(pictures, subject=references, prompt=prompts, trained_on=[picture]).to_dict()
    kinds, start = {}, 0
    for kind, texts in plan.prompts.items():
        some = slice(start, start + len(texts) * plan.seeds)
        start = some.stop
        found = measure(pictures[some], subject=references, prompt=prompts[some]).to_dict()
        kinds[kind] = {k: found[k] for k in ("prompt", "identity_gain", "facts", "detect")}
    seen = facts_shown(pictures, prompts, load_judges("B"))
    return {"scores": scores, "kinds": kinds, "copied": _copied(seen, sitter), "own facts": _own(seen, prompts, sitter)}


Seen = Sequence[tuple[Mapping[str, str], Mapping[str, str]]]
"""Per picture what it shows and what its prompt names."""


def _copied(seen: Seen, sitter: Sitter) -> dict[str, float]:
    """For facts of the training picture that a prompt does not name: the share of pictures that show its value."""
    own = facts_of(sitter.portrait())
    found: dict[str, list[bool]] = {}
    for shown, named in seen:
        for fact in COPIED:
            if named.get(fact) != own[fact]:
                found.setdefault(fact, []).append(shown[fact] == own[fact])
    return {fact: sum(values) / len(values) for fact, values in found.items()}


def _own(seen: Seen, prompts: Sequence[str], sitter: Sitter) -> float:
    """The share of facts about who it is (skin, eyes, hair, nose ...) that pictures show, of those that the right
    answers would."""
    held = []
    for (shown, _), prompt in zip(seen, prompts, strict=True):
        truth = sitter.truth(prompt)
        true = facts_of(truth)
        held += [shown[fact] == true[fact] for fact in IDENTITY_FACTS if visible(truth, fact)]
    return sum(held) / len(held)


def _attention(base: Base, concepts: Sequence[Concept], word: str, sitter: Sitter) -> dict[str, float]:
    """How the word is looked at from outside the head, and object words from their object, on true pictures."""
    view = base.patched(*patches_of(base, concepts))
    own, things = [], []
    for thing, action in OBJECTS.items():
        scene = sitter.portrait().change(action=action, camera="half body")
        masks = {word: face_mask(scene, base.size), thing: object_mask(scene, base.size)}
        found = masses(view, f"a photo of {word} {action}", scene, masks)
        own.append(found[word])
        things.append(found[thing])
    return {
        "a place in the head": sum(mass.within for mass in own) / len(own),
        "a place outside the head": sum(mass.outside for mass in own) / len(own),
        "share outside the head": sum(1 - mass.inside for mass in own) / len(own),
        "share of an object word on it": sum(mass.inside for mass in things) / len(things),
    }


def shown(plan: Plan, out: Path, person: int, size: int) -> Image.Image:
    """What became of one person: a row for the right answers and for every arm that is there, a column for each prompt,
    after the picture that all learned from."""
    sitter, texts = Sitter(plan.split, person), plan.texts()
    [picture] = draw([plan.picture(sitter)], size)
    rows = [("right answer", [picture, *draw([sitter.truth(text.replace("{}", CLASS_WORD)) for text in texts], size)])]
    for name in plan.arms:
        place = out / "cells" / f"{person:04d}-{name}"
        if place.is_dir() and (pictures := _pictures(place, len(texts) * plan.seeds)):
            rows.append((name, [picture, *pictures[:: plan.seeds]]))
    return sheet(rows, ["learned from", *(text.replace("{}", "_") for text in texts)])


def main(arguments: list[str] | None = None) -> None:
    """Run an experiment from the command line."""
    parser = argparse.ArgumentParser(prog="semblant.bench.experiment", description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--out", type=Path, default=Path("build/experiment"), help="default: %(default)s")
    parser.add_argument("--arm", nargs="*", default=[], help="only these arms")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        plan, base = Plan.read(given.plan), load(given.base)
        cells, size = run(plan, base, given.out, given.arm), base.size
    except SemblantError as problem:
        parser.error(str(problem))
    table, bars = summary(cells), judged(plan.bars, cells)
    first = next((name for name, arm in plan.arms.items() if arm.method is not None), None)
    beside = paired(cells, first) if first else {}
    tables = {
        "facts obeyed by kind of prompt": obeyed_by_kind(cells),
        "facts obeyed by fact": obeyed_by_fact(cells),
        "copied where not named": means(cells, "copied"),
    }
    compared = {f"less {first}": beside} if beside else {}
    write_json(given.out / "summary.json", {"arms": table, **compared, **tables, "bars": bars})
    told = [{name: value for name, value in cell.items() if name != "losses"} for cell in cells]
    write_json(given.out / "cells.json", {"cells": told})
    for person in plan.people[:SHOWN]:
        write_picture(shown(plan, given.out, person, size), given.out / f"person-{person:04d}.jpg", quality=88)
    parts = [markdown(table), *([paired_as_text(beside, f"less {first}, same people")] if beside else [])]
    parts += [means_as_text(found, title) for title, found in tables.items()]
    text = "\n".join((*parts, bars_as_text(bars)))
    write_text(given.out / "summary.md", text)
    log.info("%s", text)
    if any(bar["holds"] is not True for bar in bars):
        sys.exit(4)


if __name__ == "__main__":
    main()
