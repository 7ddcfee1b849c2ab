"""What two people do together: the arms and hands between them, drawn in front of both.

Coordinates count in the mean head unit of the two, from the point midway between the middles of their heads: p to the
right and q down. Arms belong to their owner in every label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from semblant.world.scene import Scene
from semblant.world.shapes import CODE, HAND, OWNER, Canvas, box, ellipse, segment, smallest, taper, turned
from semblant.world.traits import Traits

Joint = tuple[Tensor, Tensor]


class Two:
    """Two people on one canvas, the left one first, and the frame between them."""

    def __init__(self, c: Canvas, traits: Sequence[Traits], covered: Sequence[Tensor]) -> None:
        self.c, self.traits, self.covered = c, traits, covered
        left, right = traits
        self.unit = (left.unit + right.unit) / 2
        self.middle_x, self.middle_y = (left.cx + right.cx) / 2, (left.cy + right.cy) / 2
        self.p, self.q = (c.x - self.middle_x) / self.unit, (c.y - self.middle_y) / self.unit
        c.per = self.unit * c.height
        self.base = (self.joint(0, 0.0)[1] + self.joint(1, 0.0)[1]) / 2
        """Height of the feet of both necks, on average."""

    def joint(self, who: int, inward: Tensor | float, down: float = 0.0) -> Joint:
        """A point of a body: head units from its middle towards the other, and below the foot of its neck."""
        t = self.traits[who]
        out = inward if who == 0 else -inward
        x, y = t.cx + t.unit * out, t.cy + t.unit * (t.base + down)
        return (x - self.middle_x) / self.unit, (y - self.middle_y) / self.unit

    def between(self, who: int, inward: float, down: float) -> Joint:
        """A point near the middle of the two: `inward` past it from the side of `who`, `down` below the necks."""
        at = torch.full_like(self.base, inward if who == 0 else -inward)
        return at, self.base + down

    def near(self, who: int) -> Joint:
        """The shoulder on the side of the other."""
        return self.joint(who, self.traits[who].build - 0.36, 0.62)

    def far(self, who: int) -> Joint:
        """The shoulder on the outer side."""
        return self.joint(who, 0.36 - self.traits[who].build, 0.62)

    def take_turn(self, who: int) -> Traits:
        """From here on strokes belong to `who`."""
        self.c.owner = (who + 1) * OWNER
        self.c.touched = self.covered[who] if self.covered else None
        return self.traits[who]

    def arm(self, who: int, shoulder: Joint, elbow: Joint, wrist: Joint, wide: float = 0.27) -> None:
        """A sleeve from shoulder over elbow to wrist."""
        t = self.take_turn(who)
        upper = taper(self.p, self.q, *shoulder, *elbow, wide + 0.04, wide)
        lower = taper(self.p, self.q, *elbow, *wrist, wide, 0.19)
        code = HAND if t.people[0].clothes == "dress" else CODE["cloth"]
        self.c.paint(smallest(upper, lower), t.ink("sleeve"), code, relief=0.5, width=0.22, line=1.2)

    def hand(self, who: int, at: Joint, angle: float, size: float = 0.25) -> None:
        """A hand laid flat, its fingers pointing inward and then turned clockwise by `angle` radians."""
        t = self.take_turn(who)
        side = 1.0 if who == 0 else -1.0
        x, y = turned((self.p - at[0]) * side, self.q - at[1], angle)
        palm = box(x, y, size * 1.15, size * 0.80, size * 0.6)
        self.c.paint(palm, t.ink("skin"), HAND, relief=0.45, width=0.15)
        for i in (-1, 0, 1):
            crease = segment(x, y, size * 0.1, size * 0.4 * i, size * 1.15, size * 0.4 * i, 0.014)
            self.c.paint(crease, t.ink("shadow") * 0.85, line=0, fill=0.6)
        thumb = segment(x, y, -size * 0.5, -size * 0.65, size * 0.35, -size * 0.95, size * 0.24)
        self.c.paint(thumb, t.ink("skin"), HAND, relief=0.4, width=0.08, line=0.8)

    def open_hand(self, who: int, at: Joint, angle: float, size: float = 0.25) -> None:
        """A raised hand with spread fingers, turned inward from upright by `angle` radians."""
        t = self.take_turn(who)
        side = 1.0 if who == 0 else -1.0
        x, y = turned((self.p - at[0]) * side, self.q - at[1], angle)
        d = ellipse(x, y, size * 0.85, size)
        for spread, reach in ((-0.55, 1.65), (-0.18, 1.95), (0.20, 1.90), (0.56, 1.60)):
            finger = segment(x, y, size * spread, 0.0, size * spread * 1.7, -size * reach, size * 0.21)
            d = smallest(d, finger)
        d = smallest(d, segment(x, y, -size * 0.4, size * 0.2, -size * 1.25, -size * 0.5, size * 0.24))
        self.c.paint(d, t.ink("skin"), HAND, relief=0.4, width=0.12, line=0.9)


def shaking_hands(two: Two) -> None:
    """Near arms meet in a handshake."""
    for who in (0, 1):
        elbow = two.joint(who, two.traits[who].build - 0.22, 1.62)
        two.arm(who, two.near(who), elbow, two.between(who, -0.42, 1.16))
    two.hand(1, two.between(1, -0.08, 1.11), 0.0, 0.36)
    two.hand(0, two.between(0, -0.04, 1.16), 0.0, 0.36)
    # The other's fingers come round the back of the hand in front.
    t = two.take_turn(1)
    for i in range(4):
        y = two.q - two.base - 1.00 - 0.115 * i
        finger = segment(two.p, y, 0.16, 0.0, -0.06, 0.03, 0.062)
        two.c.paint(finger, t.ink("skin"), HAND, relief=0.4, width=0.05, line=0.7)


def hugging(two: Two) -> None:
    """Each outer arm is laid around the other, one high and one low."""
    two.arm(1, two.far(1), two.between(1, -0.55, 1.95), two.between(1, 0.95, 1.62), 0.30)
    two.hand(1, two.between(1, 1.18, 1.55), -0.30, 0.27)
    two.arm(0, two.far(0), two.between(0, -0.75, 1.45), two.between(0, 1.00, 0.86), 0.30)
    two.hand(0, two.between(0, 1.24, 0.74), -0.45, 0.27)


def talking(two: Two) -> None:
    """Near hands are raised and open, one higher than the other."""
    for who, up in ((0, 0.42), (1, 0.80)):
        elbow = two.joint(who, two.traits[who].build - 0.16, 1.66)
        two.arm(who, two.near(who), elbow, two.between(who, -0.50, up + 0.34))
        two.open_hand(who, two.between(who, -0.44, up), 0.25)


def dancing(two: Two) -> None:
    """Near hands are clasped and raised between the heads, outer arms thrown up."""
    for who in (0, 1):
        build = two.traits[who].build
        two.arm(who, two.far(who), two.joint(who, -build - 0.02, 1.02), two.joint(who, -build - 0.16, 0.06))
        two.open_hand(who, two.joint(who, -build - 0.18, -0.24), -0.25)
        two.arm(who, two.near(who), two.between(who, -0.34, 0.95), two.between(who, -0.12, -0.30))
    two.hand(1, two.between(1, -0.06, -0.52), -1.2, 0.24)
    two.hand(0, two.between(0, -0.02, -0.48), -1.2, 0.24)


ACTS: dict[str, Callable[[Two], None]] = {
    "shaking hands": shaking_hands,
    "hugging": hugging,
    "talking": talking,
    "dancing": dancing,
}
"""What needs hands; people who face each other only turn."""


def draw_together(c: Canvas, scenes: Sequence[Scene], traits: Sequence[Traits], covered: Sequence[Tensor]) -> None:
    """Paint arms and hands of scenes of two people; `covered`, what each covers, grows with them (none: no labels).

    Bare arms are drawn apart from sleeves, for their labels differ.
    """
    kinds: dict[tuple[str, bool, bool], list[int]] = {}
    for row, scene in enumerate(scenes):
        if scene.together in ACTS:
            left, right = (person.clothes == "dress" for person in scene.people)
            kinds.setdefault((scene.together, left, right), []).append(row)
    for (together, *_), which in kinds.items():
        rows = torch.tensor(which, device=c.image.device)
        piece = c.part(rows)
        few = [mask[rows] for mask in covered]
        ACTS[together](Two(piece, [t.take(rows, which) for t in traits], few))
        piece.touched = None
        c.merge(piece)
        for whole, part in zip(covered, few, strict=True):
            whole[rows] = part
