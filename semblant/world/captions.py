"""Captions: scenes put into words, and words read back as facts.

`write` describes a scene in one of many sentence forms, leaving facts out at random and never naming what the picture
hides. It describes who somebody is, not only what they do, so that words can come to carry a person. `read` is the
inverse: it looks phrases up in the tables the writer picks from, longest first, and so also reads what users type.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from semblant.world import being_captions, pair_captions, phrases
from semblant.world.being_facts import picture
from semblant.world.facts import DEFAULTS, IDENTITY_FACTS, PICTURE_FACTS, shown
from semblant.world.facts import contradictions as contradictions
from semblant.world.names import FIRST, LAST
from semblant.world.scene import Scene
from semblant.world.sentences import LONGEST as LONGEST
from semblant.world.sentences import compose as compose
from semblant.world.vocabulary import (
    ADJECTIVES,
    DRAWN_HEADS,
    FUNCTION_WORDS,
    NEUTRAL_HEADS,
    OTHER_WORDS,
    QUALITIES,
)
from semblant.world.vocabulary import PUNCTUATION as PUNCTUATION
from semblant.world.vocabulary import RARE_TOKENS as RARE_TOKENS

SAID = {"identity": 0.4, "average": 0.1, "scene": 0.6, "pose": 0.2, "default": 0.2}
"""Chance that a fact is named: of who it is (less when average), of the moment, of gaze and head pose, of a default."""

SHORT = 0.08
"""Share of captions that name only one or two facts."""


@dataclass(frozen=True)
class Reading:
    """What a text says."""

    facts: dict[str, str]
    """Facts named; of two claims about one fact the first counts."""
    unknown: tuple[str, ...] = ()
    """Words that are not in the vocabulary, in order, each once. A negation is one, and what it negates is no fact."""
    names: tuple[str, ...] = ()
    """Named people, first and last name."""
    placeholders: tuple[str, ...] = ()
    """Placeholder tokens as written: "<maya>", "S*"."""
    others: tuple[dict[str, str], ...] = ()
    """Animals and things, each with its "kind" and the facts named of it (`being_facts.VALUES`)."""
    together: str = "none"
    """What two people do together (`scene.TOGETHER`); "none" in a text about one person."""
    left: dict[str, str] = field(default_factory=dict)
    """In a text about two people, the facts named of the left one; `facts` are then those of the picture or of both."""
    right: dict[str, str] = field(default_factory=dict)
    """The facts named of the right one."""


def write(scene: Scene, rng: random.Random, *, drop: bool = True, stress: Collection[str] = ()) -> str:
    """A caption of the scene: lower case, ASCII, at most 60 words, never naming what the picture does not show.

    `drop=False` names every visible fact that is not a default, as far as 60 words reach. With facts to
    `stress`, of one person, these are named and all else is told a third as often. Two people are told by what
    they do together and one by one, the left one first; animals and things have their share of the words.
    """
    if len(scene.people) != 1:
        return _write_group(scene, rng, drop)
    said = (
        _choose(shown(scene), rng, stress) if drop else {f: v for f, v in shown(scene).items() if DEFAULTS.get(f) != v}
    )
    name = scene.people[0].name
    noun = name if name and rng.random() < 0.6 else "someone" if rng.random() < 0.06 else "person"
    beside = being_captions.beside(scene, rng, drop=drop)
    return compose(said, rng, noun, camera=scene.camera, style=scene.style, beside=beside)


def _choose(visible: dict[str, str], rng: random.Random, stress: Collection[str] = ()) -> dict[str, str]:
    can = {fact: value for fact, value in visible.items() if phrases.can_say(fact, value)}
    drawn = {"style": can["style"]} if can["style"] != DEFAULTS["style"] else {}
    if rng.random() < SHORT:
        count = rng.choice((1, 2)) - len(drawn)
        telling = [fact for fact in stress if fact in can and fact not in drawn]
        telling = telling or [fact for fact, value in can.items() if value not in (DEFAULTS.get(fact), "average")]
        return drawn | {fact: can[fact] for fact in rng.sample(telling, min(count, len(telling)))}
    said = {}
    for fact, value in can.items():
        owner = {"hat colour": "hat", "clothes colour": "clothes"}.get(fact)
        chance = SAID["scene"]
        if fact in IDENTITY_FACTS:
            chance = SAID["average" if value == "average" else "identity"]
        elif fact in drawn:
            chance = 1.0
        elif fact == "style":
            chance = 0.75  # most forms say "photo"
        elif fact in DEFAULTS and value == DEFAULTS[fact]:
            chance = SAID["default"] if fact not in ("gaze", "turn", "tilt") else 0.04
        elif fact in ("gaze", "turn", "tilt"):
            chance = SAID["pose"]
        elif owner:
            chance = 0.85 if owner in said else 0.2
        if stress and fact not in drawn:
            chance = 1.0 if fact in stress else chance / 3
        if rng.random() < chance:
            said[fact] = value
    return {fact: said[fact] for fact in rng.sample(sorted(said), len(said))}


def _write_group(scene: Scene, rng: random.Random, drop: bool) -> str:
    """Nobody or several people: what the picture shows, who is in it, and the animals and things."""
    said = {
        fact: value
        for fact, value in picture(scene).items()
        if rng.random() < (SAID["scene"] if DEFAULTS.get(fact) != value else SAID["default"])
    }
    beside = each = ""
    if not scene.people:
        noun = being_captions.describe(scene, rng, drop=drop) or "a scene"
    else:
        noun = pair_captions.noun(scene, rng)
        beside = being_captions.beside(scene, rng, drop=drop)
    if len(scene.people) == 2:
        if scene.style != DEFAULTS["style"]:
            said["style"] = scene.style
        each = pair_captions.each(scene, rng, noun, drop=drop)
        beside = f"{pair_captions.together(scene, rng, drop=drop)} {beside}".strip()
    left = LONGEST - len(each.replace(",", " ,").split())
    return compose(said, rng, noun, camera="half body", style=scene.style, beside=beside, longest=left) + each


_WEIGHT = re.compile(r"(?<!\\)\(([^()]*?):\s*\d*\.?\d+\s*(?<!\\)\)")
_TOKEN = re.compile(r"<[^<>\s]+>|\b[^\W\d_]\*|\*|[^\W_]+(?:['-][^\W_]+)*|[,.;:!?]")
_NEGATIONS = being_captions.NEGATIONS


def unweighted(text: str) -> str:
    """A prompt without its weights: the words of `(word:1.2)` alone."""
    while (plain := _WEIGHT.sub(r"\1", text)) != text:
        text = plain
    return text


def read(text: str) -> Reading:
    """The facts, names, placeholder tokens, animals and things in a prompt, and the words that no caption has.

    Case, commas and prompt weights `(word:1.2)` do not matter.
    """
    text = unweighted(text)
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    known = _known()
    tokens = [part for token in _TOKEN.findall(text) for part in _parts(token, known)]
    others, tokens = being_captions.take(tokens)
    pair = pair_captions.part(tokens)
    found, unknown, names, placeholders = _collect(pair.shared if pair else tokens)
    sides: list[dict[str, str]] = []
    for side in (pair.left, pair.right) if pair else ():
        said, *more = _collect(side)
        for fact in PICTURE_FACTS & said.keys():
            found.setdefault(fact, said.pop(fact))
        sides.append(said)
        for mine, theirs in zip((unknown, names, placeholders), more, strict=True):
            mine += theirs
    reading = Reading(
        found, tuple(dict.fromkeys(unknown)), tuple(dict.fromkeys(names)), tuple(dict.fromkeys(placeholders)), others
    )
    return replace(reading, together=pair.together, left=sides[0], right=sides[1]) if pair else reading


def _collect(tokens: Sequence[str]) -> tuple[dict[str, str], list[str], list[str], list[str]]:
    """Facts, unknown words, names and placeholder tokens."""
    known = _known()
    found: dict[str, str] = {}
    unknown: list[str] = []
    names: list[str] = []
    placeholders: list[str] = []
    negated = False
    for phrase, facts, name in _phrases(list(tokens)):
        token = phrase[0]
        if facts:
            for fact, value in {} if negated else facts.items():
                found.setdefault(fact, value)
            negated = False
        elif name:
            names.append(name)
        elif token[-1] in ">*":
            placeholders.append(token)
        elif token not in known and token not in ",.;:!?":
            unknown.append(token)
        if token in ",.;:!?":
            negated = False
        negated |= token in _NEGATIONS
    return found, unknown, names, placeholders


def phrases_of(caption: str) -> list[tuple[tuple[str, ...], dict[str, str], str | None]]:
    """A caption as `write` wrote it, cut into phrases: the words of each, the facts it names, and who it names."""
    known = _known()
    return _phrases([part for token in _TOKEN.findall(caption) for part in _parts(token, known)])


def _phrases(tokens: list[str]) -> list[tuple[tuple[str, ...], dict[str, str], str | None]]:
    table, longest, found, at = phrases.phrase_table(), _longest_phrase(), [], 0
    while at < len(tokens):
        size = next((n for n in range(longest, 0, -1) if tuple(tokens[at : at + n]) in table), 0)
        named = not size and tokens[at] in FIRST and at + 1 < len(tokens) and tokens[at + 1] in LAST
        facts = table[tuple(tokens[at : at + size])] if size else {}
        size = max(size, 2 if named else 1)
        found.append((tuple(tokens[at : at + size]), dict(facts), " ".join(tokens[at : at + 2]) if named else None))
        at += size
    return found


def _parts(token: str, known: frozenset[str]) -> list[str]:
    """A token in lower case, a compound that no caption has as its parts; placeholder tokens stay as they are."""
    if token[-1] in ">*":
        return [token]
    token = token.lower().removesuffix("'s")
    return [token] if token in known else token.split("-")


@cache
def words() -> tuple[str, ...]:
    """The vocabulary in a fixed order: what `write` writes, words of templates and later scenes, names, rare tokens.

    Punctuation stands in `PUNCTUATION`. No word comes twice.
    """
    said = [word for phrase, _ in phrases.entries() for word in phrase.split()]
    forms = (*FUNCTION_WORDS, *NEUTRAL_HEADS, *DRAWN_HEADS, *QUALITIES, *ADJECTIVES)
    return tuple(dict.fromkeys((*forms, *said, *OTHER_WORDS, *FIRST, *LAST, *RARE_TOKENS)))


@cache
def _known() -> frozenset[str]:
    return frozenset(words())


@cache
def _longest_phrase() -> int:
    return max(map(len, phrases.phrase_table()))
