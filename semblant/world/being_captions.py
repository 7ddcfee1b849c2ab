"""Animals and things in captions: noun phrases written from their facts, and read back.

The writer picks words from the tables here and the reader looks them up, like the tables of `phrases`. Every word
belongs to the fixed vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cache

from semblant.world.being_facts import UNSAID, VALUES, shown_of
from semblant.world.names import FIRST
from semblant.world.phrases import Table, alternatives
from semblant.world.scene import Scene
from semblant.world.vocabulary import ADJECTIVES, RARE_TOKENS

Phrases = dict[tuple[str, ...], dict[str, str]]
"""Words of phrases -> the facts each names."""

NOUNS: dict[str, str] = {
    "dog": "dog, puppy",
    "cat": "cat, kitten",
    "bear": "bear",
    "backpack": "backpack",
    "teapot": "teapot",
    "toy car": "toy car",
    "plush": "plush toy, plush, soft toy",
    "chair": "chair",
}
COLOURS: dict[str, str] = {
    **{colour: colour for colour in VALUES["colour"]},
    "grey": "grey, gray",
    "purple": "purple, violet",
}
BEFORE: Table = {
    "pattern": {"spotted": "spotted", "striped": "striped"},
    "body": {"slim": "slim, slender", "plump": "plump, round"},
    "shape": {"tall": "tall, high", "wide": "wide, broad"},
}
WITH: Table = {
    "pattern": {"spotted": "spots", "striped": "stripes", "star": "a star"},
    "ears": {"small": "small ears, little ears", "big": "big ears, large ears"},
    "tail": {"short": "a short tail", "long": "a long tail"},
    "body": {"slim": "a slim body", "plump": "a plump body, a round body"},
    "eyes": {colour: f"{colour} eyes" for colour in VALUES["eyes"]},
}
AFTER: Table = {
    "pose": {pose: pose for pose in VALUES["pose"]},
    "facing": {
        "left": "facing left, looking left, turned to the left",
        "ahead": "facing the camera, looking at the camera, seen from the front",
        "right": "facing right, looking right, turned to the right",
    },
    "side": {"left": "on the left, at the left", "right": "on the right, at the right"},
}
MARKS = {"spotted": "{} spots", "striped": "{} stripes", "star": "a {} star"}
"""A pattern and its colour."""
RELATIONS: dict[str, dict[str, str]] = {
    "next to": {"relation": "next to"},
    "beside": {"relation": "next to"},
    "near": {"relation": "next to"},
    "to the left of": {"relation": "next to", "side": "left"},
    "left of": {"relation": "next to", "side": "left"},
    "to the right of": {"relation": "next to", "side": "right"},
    "right of": {"relation": "next to", "side": "right"},
    "on": {"relation": "on"},
    "in": {"relation": "in"},
    "inside": {"relation": "in"},
}
"""What is said between one being and another, and what it says of the first."""

NEGATIONS = frozenset("no not without never".split())
ARTICLES = frozenset("a an the my one".split())
CONNECTORS = frozenset("with and a an has who is its ,".split())
"""Words that may stand between a noun and what is said of it."""
OTHER_SIDE = {"left": "right", "right": "left"}

SAID = {
    "colour": 0.75,
    "pattern": 0.65,
    "second colour": 0.5,
    "pose": 0.6,
    "facing": 0.15,
    "side": 0.4,
    "relation": 0.75,
}
"""Chance that a fact is named; of the others of an identity 0.35."""
WORDS_OF_ONE = 26
WORDS_OF_TWO = 44


def can_say(fact: str, value: str) -> bool:
    """Whether any phrase says this value."""
    return value not in UNSAID and value in VALUES.get(fact, ())


def _choose(scene: Scene, which: int, rng: random.Random, drop: bool) -> dict[str, str]:
    can = {fact: value for fact, value in shown_of(scene, which).items() if can_say(fact, value)}
    said = {
        fact: value for fact, value in can.items() if fact == "kind" or not drop or rng.random() < SAID.get(fact, 0.35)
    }
    if "second colour" in said and not {"colour", "pattern"} & set(said):
        del said["second colour"]  # "red and blue" and "blue spots" say it; alone it would pass for the first
    return said


def _pick(text: str, rng: random.Random) -> str:
    """The first alternative most of the time, else any."""
    options = alternatives(text)
    return options[0] if rng.random() < 0.7 else rng.choice(options)


def _fitted(said: dict[str, str], rng: random.Random, limit: int) -> str:
    """The phrase for a being, facts left out until it has no more than `limit` words."""
    while len((text := phrase(said, rng)).replace(",", " ,").split()) > limit:
        del said[rng.choice([fact for fact in said if fact not in ("kind", "colour")])]
        if "pattern" not in said and "colour" not in said:
            said.pop("second colour", None)
    return text


def phrase(said: dict[str, str], rng: random.Random) -> str:
    """A noun phrase that says these facts of one being; its relation to another is not part of it."""
    left = {fact: value for fact, value in said.items() if fact not in ("kind", "relation")}
    noun = _pick(NOUNS[said["kind"]], rng)
    before: list[str] = []
    after: list[str] = []
    described: list[str] = []
    colour, pattern, second = left.pop("colour", None), left.pop("pattern", None), left.pop("second colour", None)
    main = _pick(COLOURS[colour], rng) if colour else ""
    if second and pattern and (not colour or pattern == "star" or rng.random() < 0.6):
        described.append(MARKS[pattern].format(_pick(COLOURS[second], rng)))
        pattern = None
    elif second and colour:
        main = f"{main} and {_pick(COLOURS[second], rng)}"
    if pattern and pattern in BEFORE["pattern"] and rng.random() < 0.7:
        before.append(pattern)
    elif pattern:
        described.append(WITH["pattern"][pattern])
    if (
        main
        and "and" not in main
        and "pose" in VALUES
        and said["kind"] in ("dog", "cat", "bear")
        and rng.random() < 0.2
    ):
        described.insert(0, f"{main} fur")
    elif main:
        before.append(main)
    for fact, value in left.items():
        if fact in BEFORE and value in BEFORE[fact] and (fact not in WITH or rng.random() < 0.6):
            before.insert(0, _pick(BEFORE[fact][value], rng))
        elif fact in WITH:
            described.append(_pick(WITH[fact][value], rng))
        else:
            after.append(_pick(AFTER[fact][value], rng))
    words = " ".join([*before, noun])
    article = "the" if rng.random() < 0.1 else "an" if words[0] in "aeiou" else "a"
    rng.shuffle(described)
    told = []
    if described:
        listed = " and ".join([", ".join(described[:-1]), described[-1]] if len(described) > 1 else described)
        told = [f"with {listed}"]
    parts = told + after if rng.random() < 0.5 else after + told
    return " ".join([article, words, *parts])


def describe(scene: Scene, rng: random.Random, *, drop: bool = True) -> str:
    """The animals and things of a scene without people; empty when it has none."""
    if len(scene.others) == 1:
        return _fitted(_choose(scene, 0, rng, drop), rng, WORDS_OF_TWO - 6)
    if not scene.others:
        return ""
    first, second = (_choose(scene, which, rng, drop) for which in (0, 1))
    share = WORDS_OF_TWO // 2
    relation = second.pop("relation", None)
    first.pop("relation", None)
    if relation is None:
        return f"{_fitted(first, rng, share)} and {_fitted(second, rng, share)}"
    if relation in ("on", "in"):
        joined = "inside" if relation == "in" and rng.random() < 0.3 else relation
    elif "side" in second and rng.random() < 0.6:
        joined = f"to the {second.pop('side')} of"
        first.pop("side", None)
    else:
        joined = rng.choice(("next to", "next to", "beside", "near"))
    # What is said of the first after this clause would hang on the second.
    return f"{_fitted(second, rng, share)} {joined} {_fitted(first, rng, share)}"


def beside(scene: Scene, rng: random.Random, *, drop: bool = True) -> str:
    """A clause about the animal or thing beside a person: "next to a brown dog"; empty when there is none."""
    if not scene.others:
        return ""
    said = _choose(scene, 0, rng, drop)
    near = said.pop("relation", None)
    joined = rng.choice(("next to", "beside", "near")) if near and rng.random() < 0.6 else rng.choice(("with", "and"))
    return f"{joined} {_fitted(said, rng, WORDS_OF_ONE)}"


@cache
def _modifiers() -> Phrases:
    """What may stand before a noun."""
    table: Phrases = {(w,): {"colour": c} for c, text in COLOURS.items() for w in alternatives(text)}
    single = list(table.items())
    for (one,), first in single:
        for (two,), second in single:
            if first != second:
                table[one, "and", two] = {**first, "second colour": second["colour"]}
    return table | _words(BEFORE)


@cache
def _claims() -> Phrases:
    """What may stand after a noun."""
    table = _words(WITH) | _words(AFTER)
    for colour, text in COLOURS.items():
        for word in alternatives(text):
            table[word, "fur"] = {"colour": colour}
            for pattern, form in MARKS.items():
                table[tuple(_bare(form.format(word)))] = {"pattern": pattern, "second colour": colour}
    return table


def _words(table: Table) -> Phrases:
    return {
        tuple(_bare(text)): {fact: value}
        for fact, cells in table.items()
        for value, cell in cells.items()
        for text in alternatives(cell)
    }


def _bare(text: str) -> list[str]:
    return text.removeprefix("a ").split()


@cache
def _nouns() -> Phrases:
    return {tuple(noun.split()): {"kind": kind} for kind, text in NOUNS.items() for noun in alternatives(text)}


@cache
def _relations() -> Phrases:
    return {tuple(text.split()): named for text, named in RELATIONS.items()}


def _longest(table: Phrases, tokens: Sequence[str], at: int) -> tuple[int, dict[str, str]] | None:
    """The end and the facts of the longest phrase of the table that begins at `at`."""
    for size in range(5, 0, -1):
        piece = tuple(tokens[at : at + size])
        if len(piece) == size and piece in table:
            return at + size, table[piece]
    return None


def _noun_phrase(tokens: Sequence[str], at: int) -> tuple[int, dict[str, str], list[str]] | None:
    """A noun phrase at `at`: its end, its facts, and placeholder tokens that stand in it."""
    facts: dict[str, str] = {}
    kept: list[str] = []
    while at < len(tokens):
        if noun := _longest(_nouns(), tokens, at):
            return noun[0], noun[1] | facts, kept
        if named := _longest(_modifiers(), tokens, at):
            at, facts = named[0], named[1] | facts
        elif tokens[at] in ARTICLES or tokens[at] in ADJECTIVES or tokens[at] in RARE_TOKENS:
            at += 1
        elif tokens[at][-1] in ">*":
            kept.append(tokens[at])
            at += 1
        else:
            return None
    return None


def _somebody(tokens: Sequence[str], at: int) -> bool:
    """Whether somebody is named within a few words."""
    return any(t in ("person", "people", "someone", *FIRST) or t[-1] in ">*" for t in tokens[at : at + 4])


def _claims_after(tokens: Sequence[str], at: int) -> Iterator[tuple[int, dict[str, str]]]:
    """What is said of a being whose noun ends at `at`, each claim with its end."""
    while True:
        look = at
        claim = _longest(_claims(), tokens, look)
        while claim is None and look < len(tokens) and tokens[look] in CONNECTORS:
            look += 1
            claim = _longest(_claims(), tokens, look)
        if claim is None:
            return
        at = claim[0]
        yield claim


def take(tokens: Sequence[str]) -> tuple[tuple[dict[str, str], ...], list[str]]:
    """The animals and things that a text names, and its other tokens; a comma stands where one was taken out."""
    found: list[dict[str, str]] = []
    rest: list[str] = []
    at = 0
    subject: dict[str, str] | None = None
    towards: dict[str, str] = {}
    while at < len(tokens):
        head = _noun_phrase(tokens, at)
        if head is None:
            rest.append(tokens[at])
            at, towards, subject = at + 1, {}, None
            continue
        at, being, kept = head
        denied = bool(rest) and rest[-1] in NEGATIONS
        if subject is None:
            towards = _said_before(rest)
        for end, claim in _claims_after(tokens, at):
            being = claim | being
            at = end
        if side := towards.get("side"):
            being.setdefault("side", OTHER_SIDE[side])
        if towards.get("relation") == "next to":
            being.setdefault("relation", "next to")
        if not denied:
            found.append(being)
        rest += [*kept, ","]
        subject, towards = None, {}
        link = _longest(_relations(), tokens, at)
        if link and (
            _noun_phrase(tokens, link[0]) or (link[1]["relation"] == "next to" and _somebody(tokens, link[0]))
        ):
            for fact, value in link[1].items():
                being.setdefault(fact, value)
            at, subject, towards = link[0], being, link[1]
    return tuple(found), rest


def _said_before(rest: list[str]) -> dict[str, str]:
    """What a relation just before a being, after a person, says: "a person next to" a dog."""
    for size in range(4, 0, -1):
        named = _relations().get(tuple(rest[-size:]))
        if named and named["relation"] == "next to":
            del rest[-size:]
            return named
    return {}
