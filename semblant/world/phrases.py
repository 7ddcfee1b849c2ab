"""Phrases: how each fact is said. The writer picks from these tables and the reader looks phrases up in them.

Four tables by the place a phrase takes: `BEFORE` the noun ("a smiling person"), after "with" (`WITH`), after "wearing"
(`WEARING`), or anywhere `AFTER` the noun ("on the beach"). Alternatives are separated by commas, the commonest first.
Hair, eyes, hats and clothes are put together from two facts by functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from semblant.world.facts import VALUES

Table = dict[str, dict[str, str]]

BEFORE: Table = {
    "age": {"young": "young, youthful", "adult": "adult, middle-aged, grown", "old": "old, elderly, aged"},
    "expression": {
        "smiling": "smiling, happy, cheerful",
        "sad": "sad, unhappy, gloomy",
        "angry": "angry, furious, cross",
        "surprised": "surprised, astonished, amazed",
        "neutral": "calm, serious",
    },
    "skin": {
        "pale": "pale, pale-skinned",
        "fair": "fair-skinned, light-skinned",
        "tan": "tanned, tan-skinned",
        "brown": "brown-skinned",
        "dark": "dark-skinned",
    },
    "eyes": {colour: f"{colour}-eyed" for colour in VALUES["eyes"]},
    "hair colour": {
        "black": "black-haired",
        "brown": "brown-haired",
        "blond": "blond, blonde, fair-haired",
        "red": "red-haired",
        "grey": "grey-haired, gray-haired",
        "blue": "blue-haired",
        "pink": "pink-haired",
    },
    "hair style": {"bald": "bald", "long": "long-haired", "short": "short-haired", "curly": "curly-haired"},
    "build": {"slim": "slim, slender", "broad": "broad-shouldered, stocky"},
    "freckles": {"yes": "freckled"},
    "beard": {"beard": "bearded"},
}

WITH: Table = {
    "skin": {
        "pale": "pale skin, very light skin",
        "fair": "fair skin, light skin",
        "tan": "tan skin, tanned skin, olive skin",
        "brown": "brown skin, medium brown skin",
        "dark": "dark skin, deep brown skin, very dark skin",
    },
    "nose": {
        "small": "small nose, little nose, short nose",
        "narrow": "narrow nose, thin nose",
        "average": "average nose, medium nose",
        "wide": "wide nose, broad nose",
        "long": "long nose, big nose",
    },
    "face": {
        "round": "round face, wide face",
        "oval": "oval face, egg-shaped face",
        "long": "long face, narrow face",
        "square": "square face, square jaw",
        "heart-shaped": "heart-shaped face, pointed chin",
    },
    "lips": {
        "thin": "thin lips, narrow lips",
        "average": "average lips, medium lips",
        "full": "full lips, thick lips, plump lips",
    },
    "brows": {
        "thin": "thin brows, thin eyebrows, fine eyebrows",
        "average": "average brows, medium eyebrows",
        "thick": "thick brows, thick eyebrows, bushy eyebrows",
    },
    "freckles": {"yes": "freckles, freckled face, freckled skin"},
    "mole": {"yes": "mole, beauty mark, beauty spot"},
    "build": {
        "slim": "slim build, narrow shoulders, slim body",
        "average": "average build, medium build",
        "broad": "broad build, broad shoulders, wide shoulders",
    },
    "beard": {"beard": "beard, full beard", "moustache": "moustache, mustache"},
    "expression": {
        "smiling": "smile, happy face, big smile",
        "sad": "sad face, sad look",
        "angry": "angry face, angry look",
        "surprised": "surprised face, surprised look",
        "neutral": "neutral expression, calm face",
    },
}

WEARING: Table = {
    "glasses": {"glasses": "glasses, eyeglasses, spectacles", "sunglasses": "sunglasses, dark glasses, shades"},
}

AFTER: Table = {
    "expression": {
        "smiling": "smiling, looking happy",
        "sad": "looking sad, looking unhappy",
        "angry": "looking angry",
        "surprised": "looking surprised",
        "neutral": "looking calm",
    },
    "action": {
        "holding a cup of latte": "holding a cup of latte, holding a cup of coffee, drinking a latte, with a cup",
        "playing guitar": "playing guitar, playing the guitar, with a guitar",
        "holding a basketball": "holding a basketball, with a basketball, holding a ball",
        "reading a book": "reading a book, reading, holding a book",
        "cooking": "cooking, preparing a meal, holding a frying pan",
        "on the phone": "on the phone, talking on the phone, holding a phone",
    },
    "gaze": {
        "left": "looking left, looking to the left, glancing left",
        "ahead": "looking ahead, looking at the camera",
        "right": "looking right, looking to the right, glancing right",
    },
    "turn": {
        "left": "turned to the left, facing left, with the head turned left",
        "ahead": "facing the camera, seen from the front",
        "right": "turned to the right, facing right, with the head turned right",
    },
    "tilt": {
        "left": "with the head tilted left, leaning to the left",
        "upright": "with the head upright, with the head straight",
        "right": "with the head tilted right, leaning to the right",
    },
    "background": {
        "beach": "on the beach, at the beach, by the sea, at the seaside",
        "city": "in the city, in a city street, in town",
        "forest": "in the forest, in the woods, among trees",
        "desert": "in the desert, among sand dunes",
        "snow": "in the snow, in a snowy landscape, in winter",
        "room": "in a room, in the living room, indoors",
        "night sky": "under the night sky, at night, under a starry sky",
        "office": "in the office, in an office, at the office",
        "kitchen": "in the kitchen, in a kitchen",
        "eiffel tower": "in front of the eiffel tower, at the eiffel tower, in paris",
    },
    "light": {
        "plain": "in plain light, in even light",
        "sunset": "at sunset, in golden light, in evening light",
        "dim": "in dim light, dimly lit, in low light",
        "bright": "in bright light, brightly lit, in strong light",
    },
    "camera": {
        "close-up": "in close-up, seen from up close",
        "portrait": "from the shoulders up",
        "half body": "from the waist up, seen from the waist up",
    },
}

STYLE_NOUNS: dict[str, str] = {
    "photo": "photo, photograph, snapshot",
    "sketch": "sketch, pencil sketch, pencil drawing, line drawing",
    "oil painting": "oil painting, painting in oil",
    "watercolour": "watercolour, watercolor, watercolour painting, watercolor painting",
    "pixel art": "pixel art, pixel art image, pixel art picture",
    "cartoon": "cartoon, cartoon drawing, cartoon picture",
}
"""What a picture of each style is called: "a cartoon of ...", "... as a cartoon"."""

CAMERA_NOUNS: dict[str, str] = {
    "close-up": "close-up, closeup",
    "portrait": "portrait, head and shoulders",
    "half body": "half body, half-body, waist-up",
}
"""Words before a style's noun ("a half body photo of"); close-up and portrait also stand alone ("a portrait of")."""

LIGHT_WORDS: dict[str, str] = {"bright": "bright", "dim": "dark"}
"""Words before "photo" that speak of its light: "a dark photo of"."""

HAIR_WORDS: dict[str, str] = {
    "short": "short",
    "curly": "curly",
    "long": "long, long straight",
    "wavy": "wavy, long wavy",
}
HAIR_NOUNS: dict[str, str] = {
    "bald": "bald head",
    "buzz": "buzz cut, crew cut",
    "afro": "afro",
    "bob": "bob, bob haircut",
    "bun": "bun, hair in a bun",
    "ponytail": "ponytail, hair in a ponytail",
    "mohawk": "mohawk",
}
HAIR_COLOUR_WORDS: dict[str, str] = {
    **{colour: colour for colour in VALUES["hair colour"]},
    "blond": "blond, blonde",
    "red": "red, ginger",
    "grey": "grey, gray",
}
EYE_COLOUR_WORDS: dict[str, str] = {**{colour: colour for colour in VALUES["eyes"]}, "grey": "grey, gray"}
EYE_SIZE_WORDS: dict[str, str] = {"small": "small, narrow", "average": "average, medium", "big": "big, large"}
COLOUR_WORDS: dict[str, str] = {**{colour: colour for colour in VALUES["hat colour"]}, "purple": "purple, violet"}
HAT_NOUNS: dict[str, str] = {
    "cap": "cap, baseball cap",
    "beanie": "beanie, woolly hat, knitted hat",
    "cowboy hat": "cowboy hat, western hat",
    "helmet": "helmet, safety helmet",
}
CLOTHES_NOUNS: dict[str, str] = {
    "shirt": "shirt, t-shirt",
    "hoodie": "hoodie, hooded sweater",
    "suit": "suit, business suit",
    "dress": "dress, gown",
}

NAMELESS = frozenset(
    "hair skin eyes lips brows eyebrows freckles glasses eyeglasses spectacles sunglasses shades clothes shoulders "
    "art indoors".split()
)
"""Words that no "a" goes before."""

LEADING = frozenset("a an the in on at by with under among front of from as".split())
"""Words a phrase may begin with that do not change what it says: "on the beach", "at a beach" and "beach" are one."""


def alternatives(text: str) -> tuple[str, ...]:
    """The phrases of one cell of a table."""
    return tuple(text.split(", "))


def hair(style: str | None, colour: str | None) -> tuple[str, ...]:
    """Phrases for a hair style, a hair colour, or both; none for the colour of a bald head."""
    colours = alternatives(HAIR_COLOUR_WORDS[colour]) if colour else ("",)
    if style == "bald" and colour:
        return ()
    if style is None:
        return tuple(f"{c} hair" for c in colours)
    if style in HAIR_WORDS:
        texts = [f"{s} {c} hair" for s in alternatives(HAIR_WORDS[style]) for c in colours]
        texts += [f"{c} {style} hair" for c in colours]
    else:
        texts = [f"{c} {noun}" for noun in alternatives(HAIR_NOUNS[style]) for c in colours]
    return tuple(dict.fromkeys(" ".join(text.split()) for text in texts))


def eyes(size: str | None, colour: str | None) -> tuple[str, ...]:
    """Phrases for the size of eyes, their colour, or both."""
    sizes = alternatives(EYE_SIZE_WORDS[size]) if size else ("",)
    colours = alternatives(EYE_COLOUR_WORDS[colour]) if colour else ("",)
    return tuple(" ".join(f"{s} {c} eyes".split()) for s in sizes for c in colours)


def hat(kind: str | None, colour: str | None) -> tuple[str, ...]:
    """Phrases for a hat, its colour ("red hat"), or both."""
    return _garment(HAT_NOUNS, kind, colour, "hat")


def clothes(kind: str | None, colour: str | None) -> tuple[str, ...]:
    """Phrases for clothes, their colour ("red clothes"), or both."""
    return _garment(CLOTHES_NOUNS, kind, colour, "clothes")


def _garment(nouns: dict[str, str], kind: str | None, colour: str | None, plain: str) -> tuple[str, ...]:
    colours = alternatives(COLOUR_WORDS[colour]) if colour else ("",)
    kinds = alternatives(nouns[kind]) if kind else (plain,)
    return tuple(f"{c} {k}".strip() for k in kinds for c in colours)


PAIRS = {
    ("hair style", "hair colour"): hair,
    ("eye size", "eyes"): eyes,
    ("hat", "hat colour"): hat,
    ("clothes", "clothes colour"): clothes,
}
"""Two facts that one phrase says together, or either alone."""


def can_say(fact: str, value: str) -> bool:
    """Whether any phrase says this value; there are no negations, so "none" is never said."""
    return value != "none" and value in VALUES.get(fact, ())


def entries() -> Iterator[tuple[str, dict[str, str]]]:
    """Every phrase the writer can use, with the facts it names."""
    for table in (BEFORE, WITH, WEARING, AFTER):
        for fact, cells in table.items():
            for value, text in cells.items():
                yield from ((phrase, {fact: value}) for phrase in alternatives(text))
    for (first, second), phrases in PAIRS.items():
        for one in (None, *(v for v in VALUES[first] if v != "none")):
            for two in (None, *VALUES[second]):
                named = {fact: value for fact, value in ((first, one), (second, two)) if value is not None}
                yield from ((phrase, named) for phrase in (phrases(one, two) if named else ()))
    for style, text in STYLE_NOUNS.items():
        yield from ((noun, {"style": style}) for noun in alternatives(text))
    for camera, text in CAMERA_NOUNS.items():
        yield from ((noun, {"camera": camera}) for noun in alternatives(text))
    for light, word in LIGHT_WORDS.items():
        yield f"{word} photo", {"light": light, "style": "photo"}


@cache
def phrase_table() -> dict[tuple[str, ...], dict[str, str]]:
    """Words of every phrase (without leading articles and prepositions) -> the facts it names.

    Raises ValueError when the tables give one phrase two meanings.
    """
    table: dict[tuple[str, ...], dict[str, str]] = {}
    for phrase, named in entries():
        words = phrase.split()
        while words[0] in LEADING:
            words = words[1:]
        if table.setdefault(tuple(words), named) != named:
            raise ValueError(f"{phrase!r} means both {table[tuple(words)]} and {named}")
    return table
