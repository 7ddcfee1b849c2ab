"""What a person looks like, in numbers ready to draw: every measure of one head and body, stacked over a batch.

Head measures count in units of half a face's height, u to the right and v down from the middle of the head.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

from semblant.world.scene import Person, Scene
from semblant.world.stances import posed, stance

Colour = tuple[float, float, float]
Subject = TypeVar("Subject")

SKINS: tuple[Colour, ...] = (
    (1.0, 0.87, 0.79),
    (0.96, 0.77, 0.65),
    (0.83, 0.60, 0.45),
    (0.60, 0.40, 0.28),
    (0.36, 0.23, 0.17),
)
HAIR: dict[str, Colour] = {
    "black": (0.11, 0.10, 0.12),
    "brown": (0.38, 0.22, 0.13),
    "blond": (0.91, 0.74, 0.40),
    "red": (0.76, 0.29, 0.10),
    "grey": (0.62, 0.63, 0.66),
    "blue": (0.18, 0.36, 0.86),
    "pink": (0.96, 0.50, 0.70),
}
IRISES: dict[str, Colour] = {
    "brown": (0.40, 0.22, 0.09),
    "blue": (0.22, 0.53, 0.93),
    "green": (0.20, 0.62, 0.30),
    "grey": (0.53, 0.58, 0.63),
    "hazel": (0.70, 0.50, 0.17),
}
FABRIC: dict[str, Colour] = {
    "red": (0.82, 0.17, 0.17),
    "blue": (0.18, 0.36, 0.82),
    "green": (0.16, 0.56, 0.29),
    "yellow": (0.97, 0.80, 0.16),
    "purple": (0.52, 0.24, 0.68),
    "orange": (0.95, 0.50, 0.13),
    "white": (0.93, 0.93, 0.94),
    "black": (0.14, 0.14, 0.17),
}

UNIT = {"close-up": 0.318, "portrait": 0.240, "half body": 0.172}
"""Half a head's height as a fraction of the picture's side, before zoom."""
MIDDLE = {"close-up": 0.52, "portrait": 0.44, "half body": 0.33}
"""Height of the middle of the head in the picture."""
ZOOM = 0.08
TURN = 0.42
LEAN = 0.35
LONGEST = 1.13


def lerp(a: float, b: float, t: float) -> float:
    return a + (b - a) * t


def blend(a: Colour, b: Colour, t: float) -> Colour:
    return (lerp(a[0], b[0], t), lerp(a[1], b[1], t), lerp(a[2], b[2], t))


def scale(a: Colour, k: float) -> Colour:
    return (min(1.0, a[0] * k), min(1.0, a[1] * k), min(1.0, a[2] * k))


def draws(seeds: Sequence[int], purpose: str, count: int, device: torch.device) -> Tensor:
    """`count` uniform numbers per seed, (count, batch, 1, 1), keyed by purpose: no draw depends on another's."""
    rows = []
    for seed in seeds:
        rng = random.Random(f"{purpose} {seed}")
        rows.append([rng.random() for _ in range(count)])
    return torch.tensor(rows, dtype=torch.float32, device=device).T[:, :, None, None].contiguous()


def size_of(people: int) -> float:
    """How much smaller each of several people is drawn."""
    return 1.0 if people < 2 else 0.60 * (2 / people) ** 0.8


# expression: (corners up, opening, upper lid, lower lid, brow lift, brow inner up, width)
FACES = {
    "neutral": (0.16, 0.0, 1.0, 1.0, 0.05, 0.0, 1.0),
    "smiling": (1.0, 0.75, 0.92, 0.45, 0.25, 0.0, 1.22),
    "sad": (-0.85, 0.0, 0.72, 1.0, 0.1, 1.0, 0.86),
    "angry": (-0.62, 0.42, 0.70, 0.75, -0.55, -1.15, 0.95),
    "surprised": (0.0, 1.5, 1.42, 1.25, 1.0, 0.1, 0.62),
}


def mole_covered(person: Person, m: Mapping[str, float]) -> bool:
    """Whether the mole of a measured person lies under an eye, a mouth, a hat or a dark lens. Of 260 drawn
    moles six in ten of those there changed no more than one pixel, and one in a hundred of the others."""
    x, y = m["mole_x"], m["mole_y"]
    for side in "lr":
        across, down = (x - m["eye_" + side]) / max(0.35, m["eye_k" + side]), y - m["eye_y"]
        if math.hypot(across / m["eye"], down / (m["upper"] if down < 0 else m["lower"])) < 0.8:
            return True
        if person.glasses == "sunglasses" and max(abs(across), 1.2 * abs(down)) < 0.8 * m["lens"]:
            return True
    lips = math.hypot((x - m["mouth_x"]) / (m["mouth"] * m["mouth_k"]), (y - m["mouth_y"]) / (m["lip"] + m["open"]))
    return lips < 0.5 or (person.hat != "none" and y < m["hat_line"] + 0.06)


def measure(person: Person, scene: Scene, slot: int) -> tuple[dict[str, float], dict[str, Colour]]:
    """Every measure and every colour of one person in a scene, `person` being posed for it."""
    who, count = person.identity, len(scene.people)
    m: dict[str, float] = {}
    unit = UNIT[scene.camera] * (1 + ZOOM * (2 * person.zoom - 1)) * size_of(count)
    spread = 0.1 if count < 2 else 0.03
    m["unit"] = unit
    m["cx"] = (slot + 0.5) / count + spread * person.shift_x
    if asked := stance(scene):
        apart = asked.apart * UNIT[scene.camera] * size_of(count)
        m["cx"] = 0.5 + (apart if slot else -apart) + spread * asked.sway * person.shift_x
    m["cy"] = MIDDLE[scene.camera] + 0.03 * person.shift_y + (0.0 if count < 2 else 0.08)
    lean, yaw = LEAN * person.tilt, TURN * person.yaw
    m["cos"], m["sin"], m["yaw"] = math.cos(lean), math.sin(lean), yaw
    m["hx"] = m["cx"] + unit * 0.8 * math.sin(lean)
    m["hy"] = m["cy"] + unit * 0.8 * (1 - math.cos(lean))

    w = m["w"] = lerp(0.66, 0.90, who.face_width)
    tall = m["tall"] = lerp(0.88, LONGEST, who.face_length)
    m["jaw"] = lerp(0.0, 0.37, who.jaw) * w / 0.78
    m["cheek"] = lerp(-0.14, 0.13, who.cheeks)
    m["chin_x"] = 0.42 * yaw
    m["skull_x"] = -0.07 * yaw
    m["ear"] = lerp(0.11, 0.32, who.ears)
    m["ear_l"] = -(w + 0.05 * who.ears) * (1 - 0.34 * max(0.0, -yaw)) + (0.10 * yaw if yaw > 0 else 0.0)
    m["ear_r"] = (w + 0.05 * who.ears) * (1 - 0.34 * max(0.0, yaw)) + (0.10 * yaw if yaw < 0 else 0.0)

    def project(x: float, bulge: float = 1.0) -> tuple[float, float]:
        reach = w * 1.12
        angle = math.asin(max(-0.97, min(0.97, x / reach)))
        return 0.97 * bulge * reach * math.sin(angle + yaw), math.cos(angle + yaw) / math.cos(angle)

    strength = person.intensity if person.expression != "neutral" else 1.0
    calm = FACES["neutral"]
    corners, opening, upper, lower, lift, inner, wide = (
        lerp(a, b, strength) for a, b in zip(calm, FACES[person.expression], strict=True)
    )
    age = person.age
    eye = lerp(0.135, 0.235, who.eye_size) * (1.04 - 0.08 * age)
    gap = lerp(0.285, 0.42, who.eye_spacing) * (0.6 + 0.4 * w / 0.78)
    m["eye"], m["eye_y"] = eye, 0.06
    m["upper"], m["lower"] = 0.66 * eye * upper, 0.46 * eye * lower
    m["iris"] = 0.62 * eye
    m["lens"] = min(0.315, 0.90 * gap)
    m["look"] = 0.54 * eye * max(-1.0, min(1.0, person.gaze))
    m["slant"] = lerp(-0.36, 0.36, who.eye_slant)
    m["lid"] = 0.16 * min(0.0, -inner) + 0.30 * max(0.0, -inner)
    m["brow"] = lerp(0.014, 0.088, who.brow_thickness)
    m["brow_y"] = m["eye_y"] - 0.66 * eye - 0.15 - 0.15 * lift
    m["brow_slope"] = lerp(0.36, -0.32, who.brow_angle) + 0.40 * inner
    m["brow_arch"] = 0.20 + 0.25 * max(0.0, lift)
    m["frown"] = max(0.0, -inner)
    m["cheer"] = max(0.0, corners - 0.16)
    for side, sign in (("l", -1.0), ("r", 1.0)):
        m["eye_" + side], m["eye_k" + side] = project(sign * gap)
        m["brow_" + side], m["brow_k" + side] = project(sign * gap * 1.06)
        m["cheek_" + side], m["cheek_k" + side] = project(sign * 0.50 * w / 0.78)
    m["nose_x"], m["nose_k"] = project(0.0, 1.22)
    m["bridge_x"] = project(0.0, 0.95)[0]
    m["nose_y"] = lerp(0.26, 0.50, who.nose_length) * (0.5 + 0.5 * tall)
    m["nose"] = lerp(0.075, 0.235, who.nose_width)
    m["mouth_x"], m["mouth_k"] = project(0.0, 1.02)
    m["mouth_y"] = 0.69 * tall + 0.03 * max(0.0, opening - 1.0)
    m["mouth"] = lerp(0.17, 0.385, who.mouth_width) * wide
    m["corners"] = 0.17 * corners
    m["open"] = 0.17 * min(opening, 0.75) + 0.19 * max(0.0, opening - 0.75)
    m["round"] = max(0.0, min(1.0, (opening - 0.42) / 0.9)) if person.expression == "surprised" else 0.0
    m["teeth"] = 1.0 if person.expression in ("smiling", "angry") else 0.0
    m["grit"] = strength if person.expression == "angry" else 0.0
    m["lip"] = lerp(0.022, 0.135, who.lips)
    m["freckles"] = max(0.0, (who.freckles - 0.5) * 2)
    mole_x, mole_y = lerp(-0.52, 0.52, who.mole_x) * w / 0.78, lerp(-0.42, 0.86 * tall, who.mole_y)
    mole_x *= 1 - 0.35 * max(0.0, mole_y)
    m["mole_x"], m["mole_y"] = project(mole_x)[0], mole_y
    m["mole"] = lerp(0.05, 0.095, (who.mole_size - 0.5) * 2) if who.mole_size >= 0.5 else -1.0
    m["wrinkle"] = max(0.0, min(1.0, (age - 0.45) / 0.45))
    m["fresh"] = max(0.0, min(1.0, (0.3 - age) / 0.2))

    m["volume"] = who.hair_volume
    m["build"] = lerp(1.10, 1.72, who.build)
    m["neck"] = lerp(0.27, 0.47, who.neck) * (0.9 + 0.2 * who.build)
    m["base"] = tall + lerp(0.26, 0.14, who.neck)
    hat_line = {"none": -9.0, "cap": -0.40, "beanie": -0.36, "cowboy hat": -0.42, "helmet": -0.38}
    m["hat_line"] = hat_line[person.hat]

    skin = ramp_colour(SKINS, who.skin)
    light = 0.35 + 0.65 * (skin[0])
    tone = (2 * who.undertone - 1) * light
    skin = scale((skin[0] * (1 - 0.02 * tone), skin[1] * (1 + 0.055 * tone), skin[2] * (1 - 0.15 * tone)), 1.0)
    hair = HAIR[person.hair_colour]
    shade = lerp(0.66, 1.32, who.hair_shade)
    hair = scale(hair, shade) if shade < 1 else blend(scale(hair, shade), (1.0, 0.95, 0.9), 0.10 * (shade - 1) / 0.32)
    grey = max(0.0, min(1.0, (age - 0.72) / 0.20)) if person.dyed == "none" else 0.0
    hair = blend(hair, (0.80, 0.80, 0.82), 0.88 * grey)
    shadow = scale((skin[0] * 0.80, skin[1] * 0.68, skin[2] * 0.64), 1.0)
    red = blend((0.80, 0.30, 0.32), (0.52, 0.18, 0.20), who.skin)
    cloth = FABRIC[person.clothes_colour]
    deep = scale(cloth, 0.70) if person.clothes_colour != "black" else (0.26, 0.26, 0.31)
    hat = FABRIC[person.hat_colour]
    colours = {
        "skin": skin,
        "shadow": shadow,
        "crease": scale(shadow, 0.72),
        "glow": blend(skin, (1.0, 0.96, 0.88), 0.55),
        "blush": blend(skin, (0.95, 0.36, 0.34), 0.55),
        "nose": blend(skin, (0.93, 0.50, 0.44), 0.10),
        "white": (0.97, 0.97, 0.96),
        "teeth": (0.98, 0.97, 0.94),
        "pupil": (0.05, 0.04, 0.05),
        "cavity": (0.33, 0.09, 0.11),
        "tongue": (0.84, 0.40, 0.40),
        "seam": blend((0.50, 0.20, 0.18), (0.16, 0.07, 0.07), who.skin),
        "gold": (0.93, 0.74, 0.26),
        "tie": (0.16, 0.17, 0.24)
        if person.clothes_colour in ("red", "orange", "yellow", "purple")
        else (0.72, 0.14, 0.18),
        "lips": blend(blend(skin, red, 0.70), (0.72, 0.22, 0.27), 0.22),
        "hair": hair,
        "hair_dark": scale(hair, 0.62),
        "hair_light": blend(scale(hair, 1.25), (1.0, 0.97, 0.92), 0.22),
        "stubble": blend(skin, hair, 0.62),
        "brows": blend(scale(hair, 0.62), (0.25, 0.2, 0.18), 0.18) if grey < 0.5 else scale(hair, 0.82),
        "iris": IRISES[who.eye_colour],
        "iris_dark": scale(IRISES[who.eye_colour], 0.45),
        "lash": blend((0.13, 0.09, 0.08), (0.05, 0.04, 0.04), who.skin),
        "cloth": cloth,
        "cloth_dark": deep,
        "cloth_light": blend(scale(cloth, 1.12), (1.0, 1.0, 1.0), 0.25),
        "sleeve": skin if person.clothes == "dress" else cloth,
        "hat": hat,
        "hat_dark": scale(hat, 0.68) if person.hat_colour != "black" else (0.27, 0.27, 0.32),
        "hat_light": blend(hat, (1.0, 1.0, 1.0), 0.45),
    }
    return m, colours


def ramp_colour(stops: Sequence[Colour], t: float) -> Colour:
    """The colour at `t` in 0..1 along evenly spaced stops."""
    place = min(max(t, 0.0), 1.0) * (len(stops) - 1)
    i = min(int(place), len(stops) - 2)
    return blend(stops[i], stops[i + 1], place - i)


class Measured(Generic[Subject]):
    """Measures and colours of a batch: `t.w` has shape (batch, 1, 1), `t.ink("hair")` (3, batch, 1, 1)."""

    def __init__(
        self, people: Sequence[Subject], numbers: Tensor, names: list[str], colours: Tensor, inks: list[str]
    ) -> None:
        self.people = list(people)
        self._numbers, self._names, self._colours, self._inks = numbers, names, colours, inks
        self._index = {n: i for i, n in enumerate(names)}
        self._ink_index = {n: i for i, n in enumerate(inks)}

    @classmethod
    def stacked(
        cls,
        people: Sequence[Subject],
        measured: Sequence[tuple[dict[str, float], dict[str, Colour]]],
        device: torch.device,
    ) -> Self:
        """Stack what `measure` says of each."""
        names, inks = list(measured[0][0]), list(measured[0][1])
        numbers = torch.tensor([list(m.values()) for m, _ in measured], device=device).T[:, :, None, None].contiguous()
        colours = torch.tensor([list(c.values()) for _, c in measured], device=device).permute(1, 2, 0)[..., None, None]
        return cls(people, numbers, names, colours.contiguous(), inks)

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._numbers[self._index[name]]
        except KeyError:
            raise AttributeError(f"no measure {name!r}") from None

    def ink(self, name: str) -> Tensor:
        return self._colours[self._ink_index[name]]

    def take(self, rows: Tensor, which: Sequence[int]) -> Self:
        """Those in `rows`, the same indices as a tensor and as a list."""
        people = [self.people[i] for i in which]
        return type(self)(people, self._numbers[:, rows], self._names, self._colours[:, :, rows], self._inks)


class Traits(Measured[Person]):
    """Measures and colours of people."""

    @staticmethod
    def of(scenes: Sequence[Scene], slot: int, device: torch.device) -> Traits:
        """Measure person `slot` of every scene."""
        people = [posed(s, slot) for s in scenes]
        return Traits.stacked(people, [measure(p, s, slot) for p, s in zip(people, scenes, strict=True)], device)
