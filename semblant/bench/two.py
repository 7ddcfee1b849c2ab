"""Two people, learned apart, in one picture: does each stay who they are?

`python -m semblant.bench.two` fits pairs of unseen people, one portrait and one concept each, names both in prompts
about what two people do, and measures who became whom. Beside it stand the base with "a person and a person", and the
pictures that the world itself draws of the two: what the judges can see at most.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from semblant.backbones.base import Base
from semblant.backbones.judges import Judges, load_judges
from semblant.bench.sheet import keep, sheet
from semblant.bench.sitter import PLAIN, Sitter, draw, subject_of
from semblant.errors import SemblantError
from semblant.metrics.identity import reference_vectors
from semblant.metrics.pairs import company
from semblant.training.precision import choose
from semblant.verbs import fit, load, sample
from semblant.world.captions import read
from semblant.world.company import draw_pair_of_people

log = logging.getLogger(__name__)

WORDS = ("<one>", "<other>")
PROMPTS = (
    "a photo of {} and {} shaking hands",
    "a photo of {} and {} hugging in the forest",
    "a photo of {} and {} talking in the office",
    "a photo of {} and {} dancing at sunset",
    "a photo of {} and {} on the beach",
)
"""The actions and scenes of two (SeFi-IDE shows such, arXiv 2402.00631, Sec. IV)."""
SEEDS = 2
REFERENCES = 6
METHODS = ("sefi-ide", "textual-inversion")


def together(
    base: Base,
    judges: Judges,
    pairs: Sequence[tuple[Sitter, Sitter]],
    methods: Sequence[str] = METHODS,
    *,
    say: Callable[[str], None] = lambda text: None,
    **settings: Any,
) -> tuple[list[dict[str, Any]], dict[str, list[Image.Image]]]:
    """One record per pair of people and arm, as `metrics.pairs.company` measures it; and the pictures of every arm.

    `settings` are those of every method.
    """
    records: list[dict[str, Any]] = []
    pictures: dict[str, list[Image.Image]] = {}
    for one, other in pairs:
        references = [reference_vectors(draw(sitter.others(REFERENCES), base.size), judges) for sitter in (one, other)]
        arms = {"drawn": right(one, other, base.size), "class word": made(base, ("a person", "a person"))}
        for method in methods:
            concepts = [
                fit(method, base, subject_of(sitter, base, word), seed=sitter.index, **settings)
                for sitter, word in zip((one, other), WORDS, strict=True)
            ]
            arms[method] = made(base, WORDS, concepts=concepts)
        for arm, images in arms.items():
            found = company(images, references, judges).to_dict()
            records.append({"people": [one.index, other.index], "arm": arm, **found})
            pictures.setdefault(arm, []).extend(images[::SEEDS] if arm != "drawn" else images)
            say(f"people {one.index} and {other.index}, {arm}: {json.dumps(found)}")
    return records, pictures


def made(base: Base, names: tuple[str, str], **given: Any) -> list[Image.Image]:
    """The pictures of one arm, prompt by prompt."""
    return sample(base, [prompt.format(*names) for prompt in PROMPTS], n=SEEDS, **given)


def right(one: Sitter, other: Sitter, size: int) -> list[Image.Image]:
    """What the world draws for every prompt."""
    scenes = []
    for prompt in PROMPTS:
        reading = read(prompt.format("a person", "a person"))
        rng = random.Random(f"semblant two {one.index} {other.index} {prompt}")
        facts: dict[str, Any] = {
            **PLAIN,
            "style": "photo",
            "light": "plain",
            **reading.facts,
            "together": reading.together,
        }
        scenes.append(draw_pair_of_people(rng, one.identity, other.identity, **facts))
    return draw(scenes, size)


MEASURES = ("two", "left", "right", "swapped", "blended")


def main(arguments: list[str] | None = None) -> None:
    """Run the experiment from the command line."""
    parser = argparse.ArgumentParser(prog="semblant.bench.two", description=__doc__)
    parser.add_argument("--base", default="embedded", help="(default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=4, help="pairs of people (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="updates of every fit (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/two"), help="folder (default: %(default)s)")
    given = parser.parse_args(arguments)
    if given.pairs < 1:
        parser.error(f"at least one pair of people is needed; got --pairs {given.pairs}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    base = load(given.base)
    base = base.computing(choose(base, rows=2))
    pairs = [(Sitter("tune", 200 + 2 * i), Sitter("tune", 201 + 2 * i)) for i in range(given.pairs)]
    try:
        records, pictures = together(base, load_judges("B"), pairs, given.methods, say=log.info, steps=given.steps)
    except SemblantError as problem:
        parser.error(str(problem))
    shown = [(arm, images[: len(PROMPTS)]) for arm, images in pictures.items()]
    heads = [prompt.format("one", "the other").removeprefix("a photo of ") for prompt in PROMPTS]
    keep(given.out, "two", base, records, MEASURES, sheet(shown, heads))


if __name__ == "__main__":
    main()
