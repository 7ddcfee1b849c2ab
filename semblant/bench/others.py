"""Subjects that are no people: a dog, a bear, a teapot, a toy car, learned from one picture each.

`python -m semblant.bench.others` fits each with every method, samples them in other places and styles, and measures
whether the one that was learned is there: identity gain among its kind, and what of the prompt holds. Beside them stand
the base with the class word, and the pictures that the world itself draws.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from semblant.backbones.base import Base
from semblant.backbones.judges import load_judges
from semblant.bench.sheet import keep, sheet
from semblant.bench.sitter import draw
from semblant.data.subject import Subject
from semblant.errors import SemblantError
from semblant.metrics.beings import being_vectors
from semblant.metrics.detection import look
from semblant.training.precision import choose
from semblant.verbs import fit, load, measure, sample
from semblant.world.captions import read
from semblant.world.company import being_of, draw_being_scene
from semblant.world.scene import Scene, Split

log = logging.getLogger(__name__)

WORD = "<it>"
CLASS_WORDS = {"dog": "dog", "bear": "bear", "teapot": "teapot", "toy car": "car"}
"""What is learned, of kinds that SeFi-IDE's papers show beside faces, and a class word of one token for each."""
PROMPTS = (
    "a photo of {} on the beach",
    "a photo of {} in the snow",
    "an oil painting of {}",
    "a sketch of {} in the city",
    "a photo of {} in the kitchen at sunset",
)
SEEDS = 2
REFERENCES = 6
METHODS = ("sefi-ide", "textual-inversion")
PLAIN: dict[str, Any] = {"background": "room", "style": "photo", "light": "plain", "camera": "portrait"}


@dataclass(frozen=True)
class Model:
    """Animal or thing `index` of a kind and a split, and the pictures it sits for."""

    kind: str
    index: int
    split: Split = "tune"

    def scene(self, moment: str, **facts: Any) -> Scene:
        """It in one moment, in a room unless facts say otherwise."""
        rng = random.Random(f"semblant model {self.split} {self.kind} {self.index} {moment}")
        return draw_being_scene(rng, being_of(self.kind, self.split, self.index), **{**PLAIN, **facts})

    def subject(self, size: int) -> Subject:
        """What a method learns from."""
        [portrait] = draw([self.scene("portrait")], size)
        return Subject((portrait,), WORD, CLASS_WORDS[self.kind], (None,), (None,), (None,), ("drawn",))

    def truth(self, prompt: str) -> Scene:
        """What the world draws for a prompt."""
        return self.scene(f"truth {prompt}", **read(prompt).facts)


def learned(
    base: Base,
    models: Sequence[Model],
    methods: Sequence[str] = METHODS,
    *,
    say: Callable[[str], None] = lambda text: None,
    **settings: Any,
) -> tuple[list[dict[str, Any]], dict[str, list[Image.Image]]]:
    """One record per subject and arm: identity gain, facts held, and how often its kind is there; and by subject and
    arm its first picture of every prompt. There is no gain for a subject that the judge takes for another kind.
    `settings` are those of every method."""
    judges = load_judges("B")
    records: list[dict[str, Any]] = []
    pictures: dict[str, list[Image.Image]] = {}
    for model in models:
        references = draw([model.scene(f"reference {k}") for k in range(REFERENCES)], base.size)
        class_word = CLASS_WORDS[model.kind]
        arms = {
            "drawn": draw([model.truth(prompt) for prompt in PROMPTS for _ in range(SEEDS)], base.size),
            "class word": made(base, f"a {model.kind}"),
        }
        for method in methods:
            arms[method] = made(base, WORD, concepts=[fit(method, base, model.subject(base.size), **settings)])
        prompts = [prompt.format(f"a {model.kind}") for prompt in PROMPTS for _ in range(SEEDS)]
        seen = look(references, judges)
        known = not any(seen.faces) and being_vectors(seen, judges)[0] == model.kind
        for arm, images in arms.items():
            scores = measure(images, subject=references if known else None, prompt=prompts).to_dict()
            told = {name: scores[name] for name in ("identity_gain", "facts")}
            told["kind"] = scores["facts_by_name"].get("being kind")
            records.append({"kind": model.kind, "index": model.index, "arm": arm, **told})
            pictures[f"{class_word} {model.index}, {arm}"] = images[::SEEDS]
            say(f"{model.kind} {model.index}, {arm}: {json.dumps(told)}")
    return records, pictures


def made(base: Base, name: str, **given: Any) -> list[Image.Image]:
    """The pictures of one arm, prompt by prompt."""
    return sample(base, [prompt.format(name) for prompt in PROMPTS], n=SEEDS, **given)


MEASURES = ("identity_gain", "facts", "kind")


def main(arguments: list[str] | None = None) -> None:
    """Run the experiment from the command line."""
    parser = argparse.ArgumentParser(prog="semblant.bench.others", description=__doc__)
    parser.add_argument("--base", default="embedded", help="(default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=list(CLASS_WORDS), default=list(CLASS_WORDS), metavar="KIND")
    parser.add_argument("--each", type=int, default=2, help="subjects of each kind (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="updates of every fit (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/others"), help="folder (default: %(default)s)")
    given = parser.parse_args(arguments)
    if given.each < 1:
        parser.error(f"at least one subject of each kind is needed; got --each {given.each}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    base = load(given.base)
    base = base.computing(choose(base, rows=2))
    models = [Model(kind, 300 + i) for kind in given.kinds for i in range(given.each)]
    try:
        records, pictures = learned(base, models, given.methods, say=log.info, steps=given.steps)
    except SemblantError as problem:
        parser.error(str(problem))
    heads = [prompt.format("it") for prompt in PROMPTS]
    keep(given.out, "others", base, records, MEASURES, sheet(list(pictures.items()), heads))


if __name__ == "__main__":
    main()
