"""Sentences: facts said about one noun in one of many forms, the words taken from the tables of `phrases`."""

from __future__ import annotations

import random
from collections.abc import Mapping

from semblant.world import phrases
from semblant.world.vocabulary import ADJECTIVES, DRAWN_HEADS, NEUTRAL_HEADS, QUALITIES, RARE_TOKENS

LONGEST = 60
"""Most words of a caption, commas included, so that it fits the 77 tokens of a text encoder."""

RARE = 0.00005
"""Share of captions in which a rare token stands before the noun ("a photo of sks person")."""


def compose(
    said: Mapping[str, str],
    rng: random.Random,
    noun: str = "person",
    *,
    camera: str | None = None,
    style: str | None = None,
    beside: str = "",
    longest: int = LONGEST,
) -> str:
    """A caption that names the facts `said` about `noun` ("person", "someone" or a name) in `longest` words at most.

    `camera` and `style` say what else is true, so that the sentence form fits the picture: "the face of" only for
    close-ups and portraits, "illustration" only for what is drawn. `beside` is a clause about what else is there.
    """
    said = {fact: value for fact, value in said.items() if phrases.can_say(fact, value)}
    while True:
        text = Sentence(dict(said), rng, noun, camera or said.get("camera"), style or said.get("style"), beside).text()
        if len(text.replace(",", " ,").split()) <= longest:
            return text
        del said[rng.choice([fact for fact in said if fact != "style"])]


def pick(options: tuple[str, ...], rng: random.Random) -> str:
    """The first option half of the time, else any."""
    return options[0] if rng.random() < 0.5 else rng.choice(options)


def indefinite(text: str) -> str:
    """ "a round face", "an old person", "blue eyes"."""
    words = text.split()
    if words[0] in ("a", "an", "the") or not phrases.NAMELESS.isdisjoint(words):
        return text
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


class Sentence:
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
        return pick(phrases.alternatives(cell), self.rng)

    def take_pair(self, first: str, second: str) -> list[str]:
        """Phrases that say one or both of two facts that belong together."""
        one, two = self.left.pop(first, None), self.left.pop(second, None)
        say = phrases.PAIRS[first, second]
        together = say(one, two) if one or two else ()
        if together:
            return [indefinite(pick(together, self.rng))]
        return [indefinite(pick(say(*alone), self.rng)) for alone in ((one, None), (None, two)) if any(alone)]

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
            noun = pick(phrases.alternatives(phrases.STYLE_NOUNS[style]), self.rng)
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
            noun = pick(DRAWN_HEADS, self.rng) if drawn else self.rng.choice(NEUTRAL_HEADS)
        if camera:
            del self.left["camera"]
            noun = f"{camera} {noun}"
        if self.chance(0.12):
            quality = self.rng.choice(QUALITIES[:2] if self.camera not in ("close-up", "portrait") else QUALITIES)
            noun = f"{quality} {noun}"
        return f"the {noun}" if self.chance(0.1) else indefinite(noun)

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
        return indefinite(text) if which == "a" else f"{which} {text}".strip()

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
        looks += [indefinite(p) for fact in phrases.WITH if (p := self.take(phrases.WITH, fact))]
        self.rng.shuffle(looks)
        self.rng.shuffle(worn)
        if worn and self.chance(0.9):
            after.append(f"{'wearing' if self.chance(0.85) else 'in'} {listed(worn)}")
            worn = []
        self.rng.shuffle(after)
        if not looks + worn:
            return after
        described = f"{'with' if self.chance(0.9) else 'who has'} {listed(looks + worn)}"
        return [described, *after] if self.chance(0.75) else [*after, described]

    def as_style(self) -> list[str]:
        noun = pick(phrases.alternatives(phrases.STYLE_NOUNS[self.left.pop("style")]), self.rng)
        return [f"{'as' if self.chance(0.7) else 'in the style of'} {indefinite(noun)}"]
