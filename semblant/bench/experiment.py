"""An experiment: methods side by side on people nobody fitted before, one file per cell, resumable.

`python -m semblant.bench.experiment benchmarks/flagship/plan.json --out build/flagship` fits every arm to every person,
samples all prompts, measures them, and writes one JSON per cell. A cell that is there is not made again, unless the
plan, the base or the method's settings have changed. The table at the end is made from whatever cells there are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semblant.backbones.base import Base
from semblant.backbones.judges import load_judges
from semblant.bench.attention_mass import face_mask, masses, object_mask
from semblant.bench.results import write_json, write_text
from semblant.bench.sitter import Sitter, draw
from semblant.data.subject import Subject
from semblant.errors import FileProblem, SemblantError
from semblant.metrics.attributes import facts_shown
from semblant.training.concepts import Concept
from semblant.verbs import fit, load, measure, patches_of, sample
from semblant.world.facts import facts as facts_of
from semblant.world.scene import SPLITS, Split

log = logging.getLogger(__name__)

WORD, CLASS_WORD = "<them>", "person"
COPIED = ("background", "light", "turn", "tilt")
"""Facts of the training picture that a method must not carry into pictures whose prompt names another, or none."""
OBJECTS = {"cup": "holding a cup of latte", "guitar": "playing guitar", "book": "reading a book"}
"""Words whose attention is compared with where their object truly is, and the action that shows it."""
RESAMPLES = 2000


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

    @staticmethod
    def read(path: Path) -> Plan:
        """Read a plan. Raises FileProblem when it is none, SemblantError for a split that does not exist."""
        try:
            record = json.loads(path.read_text())
            arms = {name: Arm(**given) for name, given in record.pop("arms").items()}
            prompts = {kind: tuple(texts) for kind, texts in record.pop("prompts").items()}
            plan = Plan(arms=arms, prompts=prompts, people=tuple(record.pop("people")), **record)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as problem:
            raise FileProblem(f"{path} is no plan of an experiment: {problem}") from problem
        if plan.split not in SPLITS:
            raise SemblantError(f"{path}: unknown split {plan.split!r}; possible: {', '.join(SPLITS)}")
        return plan

    def texts(self) -> list[str]:
        """All prompts, kind after kind."""
        return [text for texts in self.prompts.values() for text in texts]


def run(plan: Plan, base: Base, out: Path, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Make the cells that are missing, person by person, and return all that are there."""
    unknown = set(only) - set(plan.arms)
    if unknown:
        raise SemblantError(f"no arm {', '.join(sorted(unknown))}; the plan has {', '.join(plan.arms)}")
    (out / "cells").mkdir(parents=True, exist_ok=True)
    cells = []
    for place, person in enumerate(plan.people):
        for name, arm in plan.arms.items():
            if (only and name not in only) or (arm.people is not None and place >= arm.people):
                continue
            path = out / "cells" / f"{person:04d}-{name}.json"
            key = _key(plan, arm, base)
            cell = _stored(path)
            if cell.get("key") != key:
                cell = {"key": key, "arm": name, "person": person, **_cell(plan, arm, base, person)}
                write_json(path, cell)
                gain = cell["scores"]["identity_gain"]
                log.info("person %d, %s: identity gain %s", person, name, "none" if gain is None else f"{gain:.3f}")
            cells.append(cell)
    return cells


def _stored(path: Path) -> dict[str, Any]:
    """A cell that is there; empty when it is missing or damaged, and is then made again."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _key(plan: Plan, arm: Arm, base: Base) -> str:
    decides = [plan.split, plan.prompts, plan.seeds, plan.references, plan.steps, plan.guidance, arm.method]
    text = json.dumps([*decides, dict(arm.settings), base.hashes()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cell(plan: Plan, arm: Arm, base: Base, person: int) -> dict[str, Any]:
    sitter = Sitter(plan.split, person)
    [portrait] = draw([sitter.portrait()], base.size)
    references = draw(sitter.others(plan.references), base.size)
    concepts: list[Concept] = []
    if arm.method is not None:
        subject = Subject((portrait,), WORD, CLASS_WORD, (None,), (None,), (None,), (f"person {person}",))
        concepts = [fit(arm.method, base, subject, seed=person, **arm.settings)]
    word = WORD if concepts else CLASS_WORD
    said = [text.replace("{}", word) for text in plan.texts()]
    pictures = sample(base, said, concepts=concepts, n=plan.seeds, steps=plan.steps, guidance=plan.guidance)
    # Judges read the class word where the method's own word stood.
    prompts = [text.replace("{}", CLASS_WORD) for text in plan.texts() for _ in range(plan.seeds)]
    cell: dict[str, Any] = {"scores": measure(pictures, subject=references, prompt=prompts, trained_on=[portrait])}
    cell["scores"] = cell["scores"].to_dict()
    start = 0
    for kind, texts in plan.prompts.items():
        some = slice(start, start + len(texts) * plan.seeds)
        start = some.stop
        scores = measure(pictures[some], subject=references, prompt=prompts[some]).to_dict()
        cell.setdefault("kinds", {})[kind] = {k: scores[k] for k in ("prompt", "identity_gain", "facts", "detect")}
    cell["copied"] = _copied(pictures, prompts, sitter)
    cell["attention"] = _attention(base, concepts, word, sitter)
    if concepts:
        [concept] = concepts
        cell["parameters"] = sum(t.numel() for t in concept.tensors.values())
        cell |= {name: concept.figures.get(name) for name in ("seconds", "peak_memory", "longest row")}
        cell["losses"] = concept.losses
    return cell


def _copied(pictures: Sequence[Any], prompts: Sequence[str], sitter: Sitter) -> dict[str, float]:
    """For facts of the training picture that a prompt does not name: the share of pictures that show its value."""
    own = facts_of(sitter.portrait())
    found: dict[str, list[bool]] = {}
    for shown, named in facts_shown(pictures, prompts, load_judges("B")):
        for fact in COPIED:
            if named.get(fact) != own[fact]:
                found.setdefault(fact, []).append(shown[fact] == own[fact])
    return {fact: sum(values) / len(values) for fact, values in found.items()}


def _attention(base: Base, concepts: Sequence[Concept], word: str, sitter: Sitter) -> dict[str, float]:
    """Share of the word's attention outside the head, and of object words on their object, on true pictures."""
    view = base.patched(*patches_of(base, concepts))
    outside, on_object = [], []
    for thing, action in OBJECTS.items():
        scene = sitter.portrait().change(action=action, camera="half body")
        masks = {word: face_mask(scene, base.size), thing: object_mask(scene, base.size)}
        shares = masses(view, f"a photo of {word} {action}", scene, masks)
        outside.append(1 - shares[word])
        on_object.append(shares[thing])
    return {"word outside the head": sum(outside) / len(outside), "object word on it": sum(on_object) / len(on_object)}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of the means of resampled people (bootstrap)."""
    rng = random.Random("semblant bootstrap")
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]


COLUMNS: Mapping[str, tuple[str, ...]] = {
    "Prompt": ("scores", "prompt"),
    "ID": ("scores", "identity"),
    "ID or zero": ("scores", "identity_or_zero"),
    "Detect": ("scores", "detect"),
    "ID(Prompt)": ("scores", "id_prompt"),
    "gain": ("scores", "identity_gain"),
    "facts": ("scores", "facts"),
    "copies": ("scores", "copy_rate"),
    "outside": ("attention", "word outside the head"),
    "on object": ("attention", "object word on it"),
    "s": ("seconds",),
}
"""Columns of the table, and where a cell holds them."""


def summary(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per arm and column: the mean over people, its interval when there are five or more, and how many people."""
    table: dict[str, dict[str, Any]] = {}
    for arm in dict.fromkeys(cell["arm"] for cell in cells):
        own = [cell for cell in cells if cell["arm"] == arm]
        row: dict[str, Any] = {"people": len(own)}
        for column, path in COLUMNS.items():
            values = [value for cell in own if (value := _at(cell, path)) is not None]
            if values:
                row[column] = {"mean": sum(values) / len(values)}
                if len(values) >= 5:
                    row[column]["interval"] = interval(values)
        table[arm] = row
    return table


def _at(cell: Any, path: Sequence[str]) -> float | None:
    for name in path:
        cell = cell.get(name) if isinstance(cell, Mapping) else None
    return cell


def markdown(table: Mapping[str, Mapping[str, Any]]) -> str:
    """The summary as a table for a page of documentation."""
    lines = [f"| arm | people | {' | '.join(COLUMNS)} |", f"|---|---|{'---|' * len(COLUMNS)}"]
    for arm, row in table.items():
        cells = []
        for column in COLUMNS:
            found = row.get(column)
            text = "" if found is None else f"{found['mean']:.0f}" if column == "s" else f"{found['mean']:.3f}"
            if found and "interval" in found and column != "s":
                text += " ({:.3f} to {:.3f})".format(*found["interval"])
            cells.append(text)
        lines.append(f"| {arm} | {row['people']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Run an experiment from the command line."""
    parser = argparse.ArgumentParser(prog="semblant.bench.experiment", description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--out", type=Path, default=Path("build/experiment"), help="default: %(default)s")
    parser.add_argument("--arm", nargs="*", default=[], help="only these arms")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    table = summary(run(Plan.read(given.plan), load(given.base), given.out, given.arm))
    write_json(given.out / "summary.json", table)
    write_text(given.out / "summary.md", markdown(table))
    log.info("%s", markdown(table))


if __name__ == "__main__":
    main()
