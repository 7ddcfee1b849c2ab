"""Captions: scenes put into words, and words read back as facts.

`write` describes a scene in one of many sentence forms, leaving facts out at random and never naming what the picture
hides. It describes who somebody is, not only what they do, so that words can come to carry a person. `read` is the
inverse: it looks phrases up in the tables the writer picks from, longest first, and so also reads what users type.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from semblant.world import being_captions, phrases
from semblant.world.being_facts import picture
from semblant.world.facts import DEFAULTS, IDENTITY_FACTS, shown
from semblant.world.facts import contradictions as contradictions
from semblant.world.names import FIRST, LAST
from semblant.world.scene import Scene
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

LONGEST = 60
"""Most words of a caption, commas included, so that it fits the 77 tokens of a text encoder."""

RARE = 0.00005
"""Share of captions in which a rare token stands before the noun ("a photo of sks person")."""

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


def write(scene: Scene, rng: random.Random, *, drop: bool = True) -> str:
    """A caption of the scene: lower case, ASCII, at most 60 words, never naming what the picture does not show.

    `drop=False` names every visible fact that is not a default, as far as 60 words reach. Of two people only the
    picture is described, not who does what. Animals and things have their share of the words.
    """
    if len(scene.people) != 1:
        return _write_group(scene, rng, drop)
    said = _choose(shown(scene), rng) if drop else {f: v for f, v in shown(scene).items() if DEFAULTS.get(f) != v}
    name = scene.people[0].name
    noun = name if name and rng.random() < 0.6 else "someone" if rng.random() < 0.06 else "person"
    beside = being_captions.beside(scene, rng, drop=drop)
    return compose(said, rng, noun, camera=scene.camera, style=scene.style, beside=beside)


def compose(
    said: Mapping[str, str],
    rng: random.Random,
    noun: str = "person",
    *,
    camera: str | None = None,
    style: str | None = None,
    beside: str = "",
) -> str:
    """A caption that names the facts `said` about `noun` ("person", "someone" or a name), as far as 60 words reach.

    `camera` and `style` say what else is true, so that the sentence form fits the picture: "the face of" only for
    close-ups and portraits, "illustration" only for what is drawn. `beside` is a clause about what else is there.
    """
    said = {fact: value for fact, value in said.items() if phrases.can_say(fact, value)}
    while True:
        text = _Sentence(dict(said), rng, noun, camera or said.get("camera"), style or said.get("style"), beside).text()
        if len(text.replace(",", " ,").split()) <= LONGEST:
            return text
        del said[rng.choice([fact for fact in said if fact != "style"])]


def _choose(visible: dict[str, str], rng: random.Random) -> dict[str, str]:
    can = {fact: value for fact, value in visible.items() if phrases.can_say(fact, value)}
    drawn = {"style": can["style"]} if can["style"] != DEFAULTS["style"] else {}
    if rng.random() < SHORT:
        count = rng.choice((1, 2)) - len(drawn)
        telling = [fact for fact, value in can.items() if value not in (DEFAULTS.get(fact), "average")]
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
        if rng.random() < chance:
            said[fact] = value
    return {fact: said[fact] for fact in rng.sample(sorted(said), len(said))}


def _pick(options: tuple[str, ...], rng: random.Random) -> str:
    """The first option half of the time, else any."""
    return options[0] if rng.random() < 0.5 else rng.choice(options)


def _indefinite(text: str) -> str:
    """ "a round face", "an old person", "blue eyes"."""
    words = text.split()
    if words[0] in ("a", "an", "the") or not phrases.NAMELESS.isdisjoint(words):
        return text
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


class _Sentence:
    """One caption in the making: each step takes the facts it says out of `left`, until none is left."""

    def __init__(
        self, left: dict[str, str], rng: random.Random, noun: str, camera: str | None, style: str | None, beside: str
    ) -> None:
        self.left, self.rng, self.noun, self.camera, self.style = left, rng, noun, camera, style
        self.beside = [beside] if beside else []

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def take(self, table: phrases.Table, fact: str) -> str | None:
        """A phrase for a fact that is still to be said, if the table has one; the fact is then said."""
        cell = table.get(fact, {}).get(self.left.get(fact, ""))
        if cell is None:
            return None
        del self.left[fact]
        return _pick(phrases.alternatives(cell), self.rng)

    def take_pair(self, first: str, second: str) -> list[str]:
        """Phrases that say one or both of two facts that belong together."""
        one, two = self.left.pop(first, None), self.left.pop(second, None)
        say = phrases.PAIRS[first, second]
        together = say(one, two) if one or two else ()
        if together:
            return [_indefinite(_pick(together, self.rng))]
        return [_indefinite(_pick(say(*alone), self.rng)) for alone in ((one, None), (None, two)) if any(alone)]

    def text(self) -> str:
        form = self.form()
        person = self.person()
        clauses = self.clauses()
        place = [phrase for fact in ("background", "light", "camera") if (phrase := self.take(phrases.AFTER, fact))]
        style = self.as_style() if "style" in self.left else []
        if self.chance(0.8):
            parts = clauses + self.beside + place + style
        else:
            parts = self.rng.sample(clauses + place, len(clauses + place)) + self.beside + style
        sentence = f"{form} {person}".strip()
        if place and self.chance(0.04):
            parts.remove(place[0])
            sentence = f"{place[0]}, {sentence}"
        for part in parts:
            sentence += f"{', ' if self.chance(0.2) else ' '}{part}"
        return sentence

    def form(self) -> str:
        """How the caption begins: "a close-up photo of", "a rendition of the face of", or nothing."""
        head = self.head()
        if not head:
            return ""
        if self.camera in ("close-up", "portrait") and self.chance(0.22):
            face = self.rng.choice(("a face of", "the face of", "the face of", "the cool face of"))
            rendering = "a rendering of " if self.chance(0.15) else ""
            return f"{head} of {rendering}{face}"
        return f"{head} of"

    def head(self) -> str:
        camera = ""
        if "camera" in self.left and self.chance(0.8):
            camera = self.rng.choice(phrases.alternatives(phrases.CAMERA_NOUNS[self.left["camera"]]))
        if "style" in self.left and self.chance(0.85):
            style = self.left.pop("style")
            noun = _pick(phrases.alternatives(phrases.STYLE_NOUNS[style]), self.rng)
            light = phrases.LIGHT_WORDS.get(self.left.get("light", ""))
            if style == "photo" and light and not camera and self.chance(0.3):
                del self.left["light"]
                noun = f"{light} photo"
        elif camera in ("close-up", "closeup", "portrait"):
            noun, camera = camera, ""
            del self.left["camera"]
        elif self.chance(0.25):
            return ""
        else:
            drawn = self.style not in (None, "photo") and self.chance(0.7)
            noun = _pick(DRAWN_HEADS, self.rng) if drawn else self.rng.choice(NEUTRAL_HEADS)
        if camera:
            del self.left["camera"]
            noun = f"{camera} {noun}"
        if self.chance(0.12):
            quality = self.rng.choice(QUALITIES[:2] if self.camera not in ("close-up", "portrait") else QUALITIES)
            noun = f"{quality} {noun}"
        return f"the {noun}" if self.chance(0.1) else _indefinite(noun)

    def person(self) -> str:
        """The noun with what stands before it."""
        if self.noun == "someone" and "age" not in self.left:
            return "someone"
        before: list[str | None] = []
        for fact in self.rng.sample(sorted(self.left), len(self.left)):
            if fact == "age" or (len(before) < 2 and self.chance(0.22)):
                before.append(self.take(phrases.BEFORE, fact))
        words = [word for word in before if word]
        noun = self.noun
        if noun not in ("person", "someone"):
            return " ".join([*words, noun])
        noun = "person"
        if self.chance(RARE):
            return " ".join([*words, self.rng.choice(RARE_TOKENS), noun])
        if self.chance(0.1):
            words.insert(0, self.rng.choice(ADJECTIVES))
        which = self.rng.choices(("a", "the", "my", "one", ""), (76, 12, 3, 3, 6))[0]
        text = " ".join([*words, noun])
        return _indefinite(text) if which == "a" else f"{which} {text}".strip()

    def clauses(self) -> list[str]:
        """What stands after the noun: looks, clothes, mood, pose and action, the looks usually first."""
        worn = self.take_pair("hat", "hat colour") + self.take_pair("clothes", "clothes colour")
        if glasses := self.take(phrases.WEARING, "glasses"):
            worn.append(glasses)
        looks = self.take_pair("hair style", "hair colour") + self.take_pair("eye size", "eyes")
        after = []
        for fact in ("expression", "gaze", "turn", "tilt", "action"):
            if fact == "expression" and self.chance(0.5):
                continue
            if phrase := self.take(phrases.AFTER, fact):
                after.append(phrase)
        looks += [_indefinite(p) for fact in phrases.WITH if (p := self.take(phrases.WITH, fact))]
        self.rng.shuffle(looks)
        self.rng.shuffle(worn)
        if worn and self.chance(0.9):
            after.append(f"{'wearing' if self.chance(0.85) else 'in'} {_listed(worn)}")
            worn = []
        self.rng.shuffle(after)
        if not looks + worn:
            return after
        described = f"{'with' if self.chance(0.9) else 'who has'} {_listed(looks + worn)}"
        return [described, *after] if self.chance(0.75) else [*after, described]

    def as_style(self) -> list[str]:
        noun = _pick(phrases.alternatives(phrases.STYLE_NOUNS[self.left.pop("style")]), self.rng)
        return [f"{'as' if self.chance(0.7) else 'in the style of'} {_indefinite(noun)}"]


def _write_group(scene: Scene, rng: random.Random, drop: bool) -> str:
    """Nobody or several people: what the picture shows, and the animals and things in it."""
    said = {
        fact: value
        for fact, value in picture(scene).items()
        if rng.random() < (SAID["scene"] if DEFAULTS.get(fact) != value else SAID["default"])
    }
    beside = ""
    if scene.people:
        names = [person.name for person in scene.people]
        noun = " and ".join(name for name in names if name) if all(names) else "two people"
        beside = being_captions.beside(scene, rng, drop=drop)
    else:
        noun = being_captions.describe(scene, rng, drop=drop) or "a scene"
    return compose(said, rng, noun, camera="half body", style=scene.style, beside=beside)


_WEIGHT = re.compile(r"(?<!\\)\(([^()]*?):\s*\d*\.?\d+\s*(?<!\\)\)")
_TOKEN = re.compile(r"<[^<>\s]+>|\b[^\W\d_]\*|\*|[^\W_]+(?:['-][^\W_]+)*|[,.;:!?]")
_NEGATIONS = being_captions.NEGATIONS


def read(text: str) -> Reading:
    """The facts, names, placeholder tokens, animals and things in a prompt, and the words that no caption has.

    Case, commas and prompt weights `(word:1.2)` do not matter.
    """
    while (plain := _WEIGHT.sub(r"\1", text)) != text:
        text = plain
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    known = _known()
    tokens = [part for token in _TOKEN.findall(text) for part in _parts(token, known)]
    others, tokens = being_captions.take(tokens)
    found: dict[str, str] = {}
    unknown: list[str] = []
    names: list[str] = []
    placeholders: list[str] = []
    negated = False
    for phrase, facts, name in _phrases(tokens):
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
    return Reading(
        found, tuple(dict.fromkeys(unknown)), tuple(dict.fromkeys(names)), tuple(dict.fromkeys(placeholders)), others
    )


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
