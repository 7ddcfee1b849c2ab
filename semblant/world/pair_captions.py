"""Two people in captions: what they do together, and what is said of the left one and of the right one.

The writer puts clauses about each behind the sentence about both ("two people hugging, the left one with red hair");
the reader cuts a text about two people into those parts. Every word belongs to the fixed vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from semblant.world import phrases
from semblant.world.being_captions import ARTICLES, NEGATIONS
from semblant.world.facts import DEFAULTS, PICTURE_FACTS, shown
from semblant.world.names import FIRST, LAST
from semblant.world.pair_facts import SIDES, facing, together_visible
from semblant.world.scene import Scene
from semblant.world.sentences import Sentence, pick

TOGETHER: dict[str, str] = {
    "facing each other": "facing each other, looking at each other, face to face",
    "shaking hands": "shaking hands, shaking hands with each other",
    "hugging": "hugging, hugging each other",
    "talking": "talking, talking to each other, talking together",
    "dancing": "dancing, dancing together, dancing with each other",
}
"""What two people do together; alternatives are separated by commas, the commonest first."""
COUNTS = ("two", "three", "four", "five", "six")
NOUNS = tuple(tuple(text.split()) for text in ("two people", "two friends", "2 people", "2 friends", "couple"))
"""What says that a text is about two people; so does one person "and" another."""

SAID_TOGETHER = 0.85
FACTS_OF_ONE = (0, 1, 2, 2, 3, 3, 4)
"""How many facts are named of each of two people, drawn evenly."""
SAID_POSE = 0.15
"""Share of gazes and head poses that may be among them: together people turn to each other anyway."""
WORDS_OF_ONE = 14
WORDS_BESIDE_OTHERS = 7
"""Most words about each of two people, fewer when the caption also tells of animals and things."""


def noun(scene: Scene, rng: random.Random) -> str:
    """Who is in a picture of several people, names from left to right: "two people", "maya okafor and omar kim"."""
    names = [person.name for person in scene.people]
    told = [name for name in names if name]
    if len(told) == len(names) and 2 <= len(names) <= 3:
        return " and ".join([", ".join(told[:-1]), told[-1]])
    if len(names) != 2:
        return f"{COUNTS[len(names) - 2]} people" if len(names) <= 6 else "people"
    if told and rng.random() < 0.6:
        somebody = rng.choice(("someone", "a person"))
        return " and ".join(name or somebody for name in names)
    options = ["two people", "two people", "two people", "two friends"]
    if scene.together in ("hugging", "dancing"):
        options.append("a couple")
    return rng.choice(options)


def together(scene: Scene, rng: random.Random, *, drop: bool = True) -> str:
    """A phrase for what two people do together, now and then only that they face each other; empty if unsaid."""
    told = scene.together if together_visible(scene) else "none"
    if facing(scene) and (told == "none" or rng.random() < 0.08):
        told = "facing each other" if told != "none" or rng.random() < 0.3 else "none"
    if told == "none" or (drop and rng.random() > SAID_TOGETHER):
        return ""
    return pick(phrases.alternatives(TOGETHER[told]), rng)


def each(scene: Scene, rng: random.Random, who: str, *, drop: bool = True) -> str:
    """Clauses about the left and the right person, each after a comma; empty when nothing is said of either.

    `who` is what the sentence before calls them: where it names both, the clauses may begin with their names.
    """
    limit = WORDS_BESIDE_OTHERS if scene.others else WORDS_OF_ONE
    names = [person.name for person in scene.people]
    by_name = all(name and name in who for name in names) and names[0] != names[1] and rng.random() < 0.6
    clauses = []
    for which, side in enumerate(SIDES):
        said = _choose(scene, which, rng, drop)
        while said:
            text = _clause(dict(said), scene, side, rng, (names[which] or "") if by_name else "")
            if len(text.replace(",", " ,").split()) <= limit:
                clauses.append(text)
                break
            del said[rng.choice(list(said))]
    text = "".join(f", {clause}" for clause in clauses)
    if len(clauses) == 2 and rng.random() < 0.3:
        text = f", {clauses[0]}, and {clauses[1]}"
    return text


def _choose(scene: Scene, which: int, rng: random.Random, drop: bool) -> dict[str, str]:
    can = {
        fact: value
        for fact, value in shown(scene, which).items()
        if fact not in PICTURE_FACTS
        and phrases.can_say(fact, value)
        and value not in (DEFAULTS.get(fact), "average")
        and (fact not in ("gaze", "turn", "tilt") or rng.random() < SAID_POSE)
    }
    count = min(rng.choice(FACTS_OF_ONE), len(can)) if drop else len(can)
    return {fact: can[fact] for fact in rng.sample(sorted(can), count)}


def _clause(said: dict[str, str], scene: Scene, side: str, rng: random.Random, name: str) -> str:
    """ "the left one with red hair", "the old person on the right wearing a hat", "maya okafor smiling"."""
    sentence = Sentence(said, rng, "person", scene.camera, scene.style, "")
    if name:
        said.pop("age", None)  # it is only said before a noun, and the name is one already
        start = name
    elif "age" in said or rng.random() < 0.35:
        said_before = [fact for fact in sorted(said) if fact == "age" or rng.random() < 0.2]
        before = [word for fact in said_before if (word := sentence.take(phrases.BEFORE, fact))]
        start = " ".join(["the", *before, rng.choice(("person", "one")), "on the", side])
    else:
        start = f"the {side} {'one' if rng.random() < 0.85 else 'person'}"
    rest = [*sentence.clauses()]
    if left := sentence.take(phrases.AFTER, "expression"):
        rest.insert(0, left)
    return " ".join([start, *rest])


@dataclass
class Parted:
    """The tokens of a text about two people: of both and the picture, of the left one, of the right one."""

    together: str = "none"
    shared: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    right: list[str] = field(default_factory=list)


def part(tokens: Sequence[str]) -> Parted | None:
    """Cut a text about two people into its parts; None when it speaks of nobody, of one person or of more than two."""
    subject = _subject(tokens)
    if subject is None:
        return None
    end, called = subject
    parted = Parted(shared=list(tokens[:end]))
    into, at = parted.shared, end
    while at < len(tokens):
        mark = _mark(tokens, at, called)
        if mark is None:
            into.append(tokens[at])
            at += 1
            continue
        at, side, before = mark
        into = parted.left if side == "left" else parted.right
        # A comma keeps phrases from running on from what was said of the same person before.
        into += [",", *before] if into else before
    parted.together = _together(tokens)
    return parted


def _person(tokens: Sequence[str], at: int) -> tuple[int, tuple[str, ...]] | None:
    """The end of somebody named at `at`, and what they are called unless it is "someone" or "person"."""
    while at < len(tokens) and tokens[at] in ARTICLES:
        at += 1
    if at >= len(tokens):
        return None
    if tokens[at][-1] in ">*":
        return at + 1, (tokens[at],)
    if tokens[at] in ("someone", "person"):
        return at + 1, ()
    if tokens[at] in FIRST and at + 1 < len(tokens) and tokens[at + 1] in LAST:
        return at + 2, (tokens[at], tokens[at + 1])
    return None


def _subject(tokens: Sequence[str]) -> tuple[int, tuple[tuple[str, ...], ...]] | None:
    """Where the words for two people end, and what each is called, left first."""
    for at in range(len(tokens)):
        for words in NOUNS:
            if tuple(tokens[at : at + len(words)]) == words:
                return at + len(words), ()
        one = _person(tokens, at)
        if one and one[0] < len(tokens) and tokens[one[0]] == "and":
            two = _person(tokens, one[0] + 1)
            if two and tuple(tokens[two[0] : two[0] + 1]) != ("and",):
                return two[0], (one[1], two[1])
    return None


def _mark(tokens: Sequence[str], at: int, called: tuple[tuple[str, ...], ...]) -> tuple[int, str, list[str]] | None:
    """Words at `at` that say of whom the next ones speak: their end, the side, and what stood before the noun."""
    for side, name in zip(SIDES, called, strict=False):
        if name and tuple(tokens[at : at + len(name)]) == name and len(set(called)) == 2:
            return at + len(name), side, []
    if tokens[at] != "the":
        return None
    if at + 2 < len(tokens) and tokens[at + 1] in SIDES and tokens[at + 2] in ("one", "person"):
        return at + 3, tokens[at + 1], []
    for noun_at in range(at + 1, min(at + 6, len(tokens) - 3)):
        if tokens[noun_at] in ("one", "person"):
            on, article, side = tokens[noun_at + 1 : noun_at + 4]
            found = on in ("on", "at", "to") and article == "the" and side in SIDES
            return (noun_at + 4, side, list(tokens[at + 1 : noun_at])) if found else None
        if tokens[noun_at] in ("the", ",", "."):
            return None
    return None


@cache
def _acts() -> tuple[tuple[tuple[str, ...], str], ...]:
    """Words -> what they say is done together, the longest first."""
    table = {tuple(text.split()): act for act, cell in TOGETHER.items() for text in phrases.alternatives(cell)}
    return tuple(sorted(table.items(), key=lambda item: -len(item[0])))


def _together(tokens: Sequence[str]) -> str:
    for at in range(len(tokens)):
        for words, act in _acts():
            if tuple(tokens[at : at + len(words)]) != words:
                continue
            phoning = tuple(tokens[at : at + 4]) == ("talking", "on", "the", "phone")
            if not phoning and (at == 0 or tokens[at - 1] not in NEGATIONS):
                return act
    return "none"
