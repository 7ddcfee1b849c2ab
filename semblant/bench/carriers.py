"""Keys of one person with values of another: whom do the pictures show?

`python -m semblant.bench.carriers build/flagship` takes the concepts that an experiment kept, pair by pair of people,
exchanges their keys and values, and measures whether the face is nearer to the person whose values they are (SeFi-IDE,
arXiv 2402.00631, says that values carry the identity). Beside it stand both people's own words: how often a face is
nearer to its own person at all. Of two people one is always nearer, so guessing gives a half; and where keys were
held near the class word's while learning, little but values is left to tell people apart (`--arm "attention weight 0"`
shows words that were not).
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from semblant.backbones.base import Base
from semblant.backbones.judges import Judges, load_judges
from semblant.bench.results import stored
from semblant.bench.runs import RunFolder
from semblant.bench.sheet import keep, sheet
from semblant.bench.sitter import Sitter, draw
from semblant.errors import FileProblem, SemblantError
from semblant.metrics.identity import identity_gain, reference_vectors, similarities
from semblant.training import concepts
from semblant.training.concepts import Concept
from semblant.training.surgery import exchanged
from semblant.verbs import load, sample
from semblant.world.scene import SPLITS, Split

log = logging.getLogger(__name__)

PROMPTS = ("a photo of {}", "a photo of {} on the beach")
SEEDS = 2
REFERENCES = 8
OWN, MIXED = "own keys and values", "keys of another"
MEASURES = ("nearer", "gain of values", "gain of keys")


@dataclass(frozen=True)
class Learned:
    """Somebody, and the word that was learned for them."""

    sitter: Sitter
    concept: Concept


def carried(base: Base, judges: Judges, one: Learned, other: Learned) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """Four records, for both people with their own rows and with each other's keys, and a picture of each.

    "nearer" is the share of pictures whose face is nearer to the person of the values than to the other of the two; a
    picture without a face is nearer to nobody. The gains are `identity_gain` for the person of the values and for that
    of the keys (for a word of its own: the other person).
    """
    known = {
        who.sitter.index: reference_vectors(draw(who.sitter.others(REFERENCES), base.size), judges)
        for who in (one, other)
    }
    records, shown = [], []
    for keys, values in ((one, one), (other, other), (other, one), (one, other)):
        word = values.concept if keys is values else exchanged(keys.concept, values.concept)
        images = sample(base, [prompt.replace("{}", word.word) for prompt in PROMPTS], concepts=[word], n=SEEDS)
        [beside] = [who for who in (one, other) if who is not values]
        own, others = (known[who.sitter.index] for who in (values, beside))
        pairs = zip(similarities(images, own, judges), similarities(images, others, judges), strict=True)
        nearer = [a is not None and b is not None and a > b for a, b in pairs]
        records.append(
            {
                "arm": OWN if keys is values else MIXED,
                "keys": keys.sitter.index,
                "values": values.sitter.index,
                "nearer": sum(nearer) / len(nearer),
                "gain of values": identity_gain(images, own, judges),
                "gain of keys": identity_gain(images, others, judges),
            }
        )
        shown.append(images[0])
    return records, shown


def kept_by(folder: Path, arm: str, split: Split) -> list[Learned]:
    """The last concept that an experiment kept of each person whose cell is complete. Raises FileProblem when there are
    not two, or they are people of another split."""
    found = []
    for place in sorted((folder / "cells").glob(f"*-{arm}")):
        number, cell = place.name.removesuffix(f"-{arm}"), stored(place.parent / f"{place.name}.json")
        if number.isdecimal() and cell and (steps := RunFolder(place).kept()):
            if (own := cell.get("split", split)) != split:
                raise FileProblem(f"{folder} holds people of {own}; say --split {own}")
            found.append(Learned(Sitter(split, int(number)), concepts.load(steps[-1][1])))
    if len(found) < 2:
        raise FileProblem(
            f"{folder} keeps concepts of {len(found)} people under {arm!r}, and two at least are needed; run "
            "`python -m semblant.bench.experiment` first"
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(prog="semblant.bench.carriers", description=__doc__)
    parser.add_argument("folder", type=Path, help="the --out of an experiment")
    parser.add_argument("--arm", default="SeFi-IDE", help="whose concepts (default: %(default)s)")
    parser.add_argument("--split", default="heldout", choices=SPLITS, help="of the people (default: %(default)s)")
    parser.add_argument("--base", default="embedded", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/carriers"), help="folder (default: %(default)s)")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    records: list[dict[str, Any]] = []
    rows = []
    try:
        people, base, judges = kept_by(given.folder, given.arm, given.split), load(given.base), load_judges("B")
        if len(people) % 2:
            log.info("person %d has nobody to exchange with and is left out", people[-1].sitter.index)
        for one, other in zip(people[::2], people[1::2], strict=False):
            found, shown = carried(base, judges, one, other)
            records += found
            portraits = draw([one.sitter.portrait(), other.sitter.portrait()], base.size)
            rows.append((f"people {one.sitter.index} and {other.sitter.index}", [*portraits, *shown]))
            log.info("people %d and %d: %s", one.sitter.index, other.sitter.index, json.dumps(found))
    except SemblantError as problem:
        parser.error(str(problem))
    heads = ("A", "B", "word of A", "word of B", "values of A, keys of B", "values of B, keys of A")
    keep(given.out, "carriers", base, records, MEASURES, sheet(rows, heads))


if __name__ == "__main__":
    main()
