"""What animals and things look like, in numbers ready to draw, and where in the picture they are.

Measures count in units of one being's size: p to the right and q down from the middle of its feet on the ground.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch

from semblant.world.beings import UNTURNED, Animal, Being, Thing
from semblant.world.scene import Scene
from semblant.world.traits import FABRIC, Colour, Measured, blend, lerp, scale

PAINT: dict[str, Colour] = {
    **FABRIC,
    "pink": (0.96, 0.52, 0.70),
    "brown": (0.50, 0.31, 0.18),
    "grey": (0.56, 0.57, 0.60),
}
FUR: dict[str, Colour] = {
    "brown": (0.45, 0.27, 0.15),
    "black": (0.17, 0.16, 0.18),
    "white": (0.95, 0.94, 0.92),
    "grey": (0.56, 0.57, 0.60),
    "golden": (0.90, 0.69, 0.34),
    "orange": (0.90, 0.48, 0.16),
}
EYES: dict[str, Colour] = {
    "brown": (0.46, 0.26, 0.10),
    "blue": (0.26, 0.58, 0.95),
    "green": (0.35, 0.72, 0.28),
    "hazel": (0.85, 0.63, 0.16),
}
SIZE = {"dog": 1.0, "cat": 0.92, "bear": 1.12, "backpack": 0.98, "teapot": 0.94, "toy car": 0.98, "plush": 0.94}
ALONE = {"close-up": 0.86, "portrait": 0.70, "half body": 0.56}
"""Size of a being that has the picture to itself, as a fraction of the picture's side."""
SEAT = -0.47
"""Height of a chair's seat."""
SPOTS = 16
HEADS: dict[tuple[str, bool], tuple[float, float]] = {
    ("sitting", True): (0.0, -0.76),
    ("standing", True): (0.0, -0.72),
    ("lying", True): (0.0, -0.43),
    ("sitting", False): (0.16, -0.79),
    ("standing", False): (0.36, -0.74),
    ("lying", False): (0.33, -0.42),
}
"""Middle of the head by pose and by whether the animal faces us."""


def spot(scene: Scene, which: int) -> tuple[float, float, float]:
    """Where a being's feet are and how large it is: x, y and unit as fractions of the picture's side."""
    being = scene.others[which]
    own = SIZE.get(being.kind, 1.0) * (1 + 0.07 * (2 * being.zoom - 1))
    dx, dy = being.shift_x, being.shift_y
    if scene.people:
        side = -1 if being.place == "left" else 1
        return 0.5 + side * (0.295 + 0.015 * dx), 0.965 + 0.01 * dy, 0.375 * own
    if len(scene.others) == 1:
        unit = ALONE[scene.camera] * own
        if scene.camera == "close-up" and isinstance(being, Animal):
            x, y = HEADS[being.pose, being.facing == "ahead"]
            unit *= 1.55
            mirror = -1 if being.facing == "left" else 1
            return 0.5 + 0.03 * dx - mirror * x * unit, 0.47 + 0.02 * dy - y * unit, unit
        return 0.5 + 0.04 * dx, 0.5 + 0.45 * unit + 0.10 + 0.015 * dy, unit
    far = scene.camera == "half body"
    second = scene.others[1]
    if second.place in ("left", "right"):
        side = (1 if second.place == "left" else -1) * (1 if which == 0 else -1)
        return 0.5 + side * (0.235 + 0.01 * dx), 0.90 + 0.012 * dy, (0.36 if far else 0.41) * own
    base = 0.64 if far else 0.76
    first = scene.others[0]
    foot = 0.93 + 0.01 * first.shift_y
    if which == 0:
        return 0.5 + 0.03 * dx, foot, base if second.place == "on" else base * 0.80
    x = 0.5 + 0.03 * first.shift_x
    if second.place == "on":
        return x, foot + (SEAT + 0.03) * base, base * 0.56 * own
    return x, foot - 0.36 * base * 0.80, base * 0.56 * own


def measure_animal(being: Animal, scene: Scene, which: int) -> tuple[dict[str, float], dict[str, Colour]]:
    """Every measure and every colour of one animal in a scene."""
    who = being.identity
    m: dict[str, float] = {}
    m["fx"], m["fy"], m["unit"] = spot(scene, which)
    m["mirror"] = -1.0 if being.facing == "left" else 1.0
    ahead = being.facing == "ahead"
    m["yaw"] = 0.0 if ahead else 1.0
    bear, cat = who.kind == "bear", who.kind == "cat"
    m["hx"], m["hy"] = HEADS[being.pose, ahead]
    m["head"] = {"dog": 0.195, "cat": 0.190, "bear": 0.205}[who.kind]
    m["hw"], m["hh"] = lerp(0.86, 1.16, who.head_width), lerp(0.80, 1.04, who.head_height)
    m["jowl"] = m["hw"] * {"dog": 0.74, "cat": 0.90, "bear": 0.96}[who.kind]
    low, high = {"dog": (0.36, 0.62), "cat": (0.14, 0.26), "bear": (0.26, 0.44)}[who.kind]
    m["snout"] = lerp(low, high, who.muzzle_length)
    m["snout_w"] = lerp(0.30, 0.54, who.muzzle_width) * (0.86 if cat else 1.06)
    m["nose"] = lerp(0.10, 0.21, who.nose) * (0.62 if cat else 1.0)
    m["ear"] = lerp(0.34, 0.80, who.ear_size) * {"dog": 1.0, "cat": 0.92, "bear": 0.70}[who.kind]
    m["ear_w"] = lerp(0.20, 0.40, who.ear_width) * (1.15 if cat else 1.0)
    m["ear_x"] = m["hw"] * lerp(0.50, 0.82, who.ear_set)
    m["droop"] = who.ear_droop
    m["eye"] = lerp(0.115, 0.20, who.eye_size) * (1.18 if cat else 0.78 if bear else 1.0)
    m["gap"] = lerp(0.30, 0.50, who.eye_spacing) * m["hw"]
    m["long"] = lerp(0.20, 0.32, who.body_length) * (0.95 if cat else 1.0)
    m["bulk"] = lerp(0.118, 0.20, who.bulk) * (1.18 if bear else 0.94 if cat else 1.0)
    m["legs"] = lerp(0.18, 0.32, who.legs) * (0.82 if bear else 1.0)
    m["leg"] = lerp(0.046, 0.080, who.paws) * (1.30 if bear else 0.92 if cat else 1.0)
    m["tail"] = lerp(0.14, 0.46, who.tail_length) * (0.24 if bear else 1.12 if cat else 1.0)
    m["tail_w"] = lerp(0.030, 0.080, who.tail_width) * (1.2 if bear else 0.9 if cat else 1.0)
    m["curl"] = lerp(0.15, 1.35, who.tail_curl)
    m["fluff"] = lerp(0.001, 0.006, who.fluff)
    m["bib"] = max(0.0, (who.bib - 0.4) / 0.6) if who.bib >= 0.4 else -1.0
    m["blaze"] = lerp(0.05, 0.26, (who.blaze - 0.4) / 0.6) if who.blaze >= 0.4 else -9.0
    m["mark"] = lerp(0.030, 0.062, who.mark_size)
    m["often"] = lerp(9.0, 5.0, who.mark_size)
    m["phase"] = who.mark_seed * math.tau
    luck = random.Random(f"spots {who.mark_seed}")
    for i in range(SPOTS):
        # A jittered grid of four by four covers body and head in every pose.
        m[f"spot_x{i}"] = -0.50 + 0.27 * (i % 4) + 0.22 * luck.random()
        m[f"spot_y{i}"] = -0.80 + 0.20 * (i // 4) + 0.16 * luck.random()
        m[f"spot_r{i}"] = m["mark"] * lerp(0.7, 1.5, luck.random())

    fur = FUR[who.fur]
    shade = lerp(0.77, 1.22, who.shade)
    fur = scale(fur, shade) if shade < 1 else blend(scale(fur, shade), (1.0, 0.97, 0.92), 0.10)
    if who.fur == "white":
        fur = blend(FUR["white"], (0.86, 0.83, 0.78), 0.8 * (1 - who.shade))
    dark = scale(fur, 0.66)
    pale = blend(fur, (1.0, 0.97, 0.91), 0.30 if who.fur == "black" else 0.62)
    colours = {
        "fur": fur,
        "far": scale(fur, 0.80),
        "dark": dark,
        "deep": scale(fur, 0.45),
        "pale": pale,
        "muzzle": blend(fur, pale, 0.45 if cat else 0.85),
        "second": FUR[who.second],
        "inner": blend(fur, (0.95, 0.60, 0.58), 0.62),
        "nose": (0.87, 0.47, 0.47) if cat else (0.13, 0.11, 0.12),
        "eye": EYES[who.eyes],
        "line": (0.11, 0.09, 0.09) if who.fur != "black" else (0.05, 0.05, 0.06),
        "tongue": (0.93, 0.45, 0.50),
        "whisker": (0.98, 0.97, 0.95) if who.fur != "white" else (0.45, 0.43, 0.42),
    }
    return m, colours


def measure_thing(being: Thing, scene: Scene, which: int) -> tuple[dict[str, float], dict[str, Colour]]:
    """Every measure and every colour of one thing in a scene: the numbers of its identity under their own names."""
    what = being.identity
    m: dict[str, float] = {}
    m["fx"], m["fy"], m["unit"] = spot(scene, which)
    m["mirror"] = -1.0 if being.facing == "left" and what.kind not in UNTURNED else 1.0
    m["turn"] = 0.0 if being.facing == "ahead" else 1.0
    for name in (
        "width height roundness flare crest crest_width grip grip_width front front_width front_height trim parts gloss"
    ).split():
        m[name] = getattr(what, name)
    m["mark"] = lerp(0.035, 0.070, what.mark_size)
    m["mark_x"], m["mark_y"] = lerp(-0.10, 0.10, what.mark_x), lerp(-0.06, 0.06, what.mark_y)
    m["phase"] = what.mark_seed * math.tau
    luck = random.Random(f"dots {what.mark_seed}")
    for i in range(SPOTS):
        m[f"spot_x{i}"] = -0.46 + 0.24 * (i % 4) + 0.18 * luck.random()
        m[f"spot_y{i}"] = -0.86 + 0.21 * (i // 4) + 0.16 * luck.random()
        m[f"spot_r{i}"] = m["mark"] * lerp(0.7, 1.2, luck.random())

    def tone(name: str, shade: float) -> Colour:
        k = lerp(0.84, 1.14, shade)
        own = scale(PAINT[name], k)
        return blend(own, (1.0, 1.0, 1.0), 0.06) if k > 1 and name != "black" else own

    main, second = tone(what.colour, what.shade), tone(what.second, what.second_shade)
    dark = what.colour == "black"
    colours = {
        "main": main,
        "dark": (0.27, 0.27, 0.32) if dark else scale(main, 0.70),
        "deep": (0.06, 0.06, 0.08) if dark else scale(main, 0.45),
        "light": blend(main, (1.0, 1.0, 1.0), 0.40),
        "second": second,
        "second_dark": scale(second, 0.72) if what.second != "black" else (0.27, 0.27, 0.32),
        "cream": blend(main, (0.99, 0.95, 0.86), 0.72),
    }
    return m, colours


def measured(scenes: Sequence[Scene], which: int, device: torch.device) -> Measured[Being]:
    """Measure being `which` of scenes where it is all animals or all things."""
    found = []
    for scene in scenes:
        being = scene.others[which]
        measure = (
            measure_animal(being, scene, which) if isinstance(being, Animal) else measure_thing(being, scene, which)
        )
        found.append(measure)
    return Measured.stacked([s.others[which] for s in scenes], found, device)
