"""Scenes in, pictures out, every label with them: `render([scene]).image[0]`.

The same scenes give the same picture, bit by bit, on one machine. All chance comes from `scene.seed` through draws
keyed by their purpose, so that one fact changed leaves everything it does not cause as it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from semblant.errors import SemblantError
from semblant.world.beings import MOST_BEINGS
from semblant.world.bonds import draw_together
from semblant.world.figure import draw_person, outline
from semblant.world.looks import LINE, RELIEF, style
from semblant.world.menagerie import FIRST, depth_of, draw_others, extents, seen
from semblant.world.scene import Scene
from semblant.world.shapes import BACK_HAIR, HAND, OBJECT, OWNER, PARTS, Canvas
from semblant.world.stage import draw_backgrounds, ground_depth, light
from semblant.world.stances import check
from semblant.world.traits import UNIT, ZOOM, Traits, size_of

__all__ = ["PARTS", "Render", "render"]

AT_ONCE, AT_ONCE_ON_A_DEVICE = 32, 1024
"""Pictures drawn together: enough to share the cost of a call, on a processor few enough to stay in its cache."""
MOST_PEOPLE = 6
NEAR = {
    "nose": 0.24,
    "skin": 0.27,
    "hair": 0.28,
    "hat": 0.27,
    "eye_g": 0.25,
    "cloth": 0.33,
    "neck": 0.32,
    "neck_l": 0.31,
}
"""Depth of a part of the first person; other face parts lie at 0.26."""


@dataclass(frozen=True)
class Render:
    """A batch of pictures and their answers. People and others beyond a scene's own have empty masks and zero boxes."""

    image: Float[Tensor, "batch 3 size size"]
    """Colours in 0..1."""
    parts: UInt8[Tensor, "batch size size"]
    """Index into `PARTS` of what is seen."""
    instances: Bool[Tensor, "batch people size size"]
    """What is seen of each person."""
    amodal: Bool[Tensor, "batch people size size"]
    """What each person covers, hidden or not."""
    boxes: Float[Tensor, "batch people 4"]
    """Face boxes x0, y0, x1, y1 in pixels: forehead to chin, ear to ear."""
    landmarks: Float[Tensor, "batch people 5 2"]
    """Picture-left eye, picture-right eye, nose tip, left and right mouth corner, in pixels x, y."""
    sketch: Float[Tensor, "batch 1 size size"]
    """Dark lines (0) on white (1)."""
    depth: Float[Tensor, "batch 1 size size"]
    """0 near .. 1 far."""
    others: Bool[Tensor, "batch others size size"]
    """What is seen of each animal and thing."""
    others_amodal: Bool[Tensor, "batch others size size"]
    """What each animal and thing covers, hidden or not."""
    other_boxes: Float[Tensor, "batch others 4"]
    """Boxes x0, y0, x1, y1 in pixels around what each animal and thing covers of the picture."""


def depth_table(device: torch.device) -> Tensor:
    """Depth of every layer code."""
    table = torch.full((256,), 1.0, device=device)
    for owner in range(256 // OWNER):
        step = -0.02 * owner
        for i, part in enumerate(PARTS):
            table[owner * OWNER + i] = NEAR.get(part, 0.26) + step
        table[owner * OWNER + OBJECT], table[owner * OWNER + HAND], table[owner * OWNER + BACK_HAIR] = (
            0.18 + step,
            0.17 + step,
            0.37 + step,
        )
    table[FIRST:] = depth_of(torch.arange(FIRST, 256, device=device))
    return table


def part_table(device: torch.device) -> Tensor:
    """Face part of every layer code."""
    own = [*range(len(PARTS)), 0, 0, PARTS.index("hair")]
    table = torch.tensor((own + [0] * (OWNER - len(own))) * (256 // OWNER), dtype=torch.uint8, device=device)
    table[FIRST:] = 0
    return table


def draw(scenes: Sequence[Scene], size: int, device: torch.device, labels: bool) -> Render:
    """Scenes that share camera, number of people and number of animals and things."""
    batch, people, others = len(scenes), len(scenes[0].people), len(scenes[0].others)
    centres = (torch.arange(size, device=device) + 0.5) / size
    lines = torch.tensor([LINE[s.style] * max(size / 128, 0.75) for s in scenes], device=device)[:, None, None]
    wants_ink = labels or any(s.style != "photo" and s.style != "oil painting" for s in scenes)
    blank = torch.zeros(batch, size, size, device=device)
    canvas = Canvas(
        image=torch.zeros(3, batch, size, size, device=device),
        ink=blank.clone() if wants_ink else None,
        layer=torch.zeros(batch, size, size, dtype=torch.uint8, device=device) if labels else None,
        touched=None,
        x=centres[None, None, :],
        y=centres[None, :, None],
        per=torch.full((batch, 1, 1), float(size), device=device),
        line=lines,
        relief=torch.tensor([RELIEF[s.style] for s in scenes], device=device)[:, None, None],
    )
    draw_backgrounds(canvas, scenes)
    covered, boxes, landmarks, measured = [], [], [], []
    unit = UNIT[scenes[0].camera] * (1 + ZOOM) * size_of(people)
    for slot in range(people):
        traits = Traits.of(scenes, slot, device)
        layer = canvas.scaled(traits.unit * size)
        # Code 0 stays bare background: the first person's owner number is 1.
        layer.owner = (slot + 1) * OWNER
        layer.touched = torch.zeros(batch, size, size, dtype=torch.bool, device=device) if labels else None
        draw_person(layer, traits, unit)
        measured.append(traits)
        if layer.touched is not None:
            box, points = outline(traits)
            covered.append(layer.touched)
            boxes.append(box * size)
            landmarks.append(points * size)
    if people == 2:
        draw_together(canvas, scenes, measured, covered)
    hidden = [mask for mask in draw_others(canvas, scenes) if mask is not None] if others else []
    image = light(canvas.image, scenes, canvas.x, canvas.y)
    lined = canvas.ink
    image = style(canvas, scenes).transpose(0, 1).contiguous()
    none = torch.zeros(batch, 0, device=device)
    if canvas.layer is None or lined is None:
        empty = blank.new_zeros(batch, 0, 0)
        mask = torch.zeros(batch, 0, 0, 0, dtype=torch.bool, device=device)
        byte = empty.to(torch.uint8)
        return Render(
            *(image, byte, mask, mask, none.view(batch, 0, 4), none.view(batch, 0, 5, 2)),
            *(empty[:, None], empty[:, None], mask, mask, none.view(batch, 0, 4)),
        )
    code = canvas.layer.long()
    depth = torch.where(code == 0, ground_depth(canvas, scenes), depth_table(device)[code])
    kind = code % OWNER
    own = torch.where(kind == OBJECT, 0, code // OWNER)
    masks = [own == slot + 1 for slot in range(people)]
    shape = (batch, people)
    nothing = torch.zeros(batch, 0, size, size, dtype=torch.bool, device=device)
    around = torch.stack(hidden, 1) if hidden else nothing
    return Render(
        image=image,
        parts=part_table(device)[code],
        instances=torch.stack(masks, 1) if masks else nothing,
        amodal=torch.stack(covered, 1) if covered else nothing,
        boxes=torch.stack(boxes, 1) if boxes else none.view(*shape, 4),
        landmarks=torch.stack(landmarks, 1) if landmarks else none.view(*shape, 5, 2),
        sketch=1 - lined[:, None],
        depth=depth[:, None],
        others=torch.stack([seen(code, which) for which in range(others)], 1) if others else nothing,
        others_amodal=around,
        other_boxes=extents(around) if others else none.view(batch, 0, 4),
    )


def widen(field: Tensor, count: int) -> Tensor:
    """Pad axis 1 with zeros up to `count`."""
    missing = count - field.shape[1]
    return field if missing <= 0 else torch.cat([field, field.new_zeros(field.shape[0], missing, *field.shape[2:])], 1)


@torch.no_grad()
def render(scenes: Sequence[Scene], size: int = 128, device: str | torch.device = "cpu", labels: bool = True) -> Render:
    """Draw scenes at `size` x `size` pixels. Without `labels` only `image` is filled, which is faster.

    Raises SemblantError for a size under 16, for more than six people or two animals and things in a scene, and for
    something done together by other than two people.
    """
    device = torch.device(device)
    if size < 16:
        raise SemblantError(f"a picture of {size} px shows nobody; ask for 16 px or more (128 is the usual size)")
    crowd = max((len(s.people) for s in scenes), default=0)
    if crowd > MOST_PEOPLE:
        raise SemblantError(f"a scene has {crowd} people; at most {MOST_PEOPLE} fit side by side")
    most = max((len(s.others) for s in scenes), default=0)
    if most > MOST_BEINGS:
        raise SemblantError(f"a scene has {most} animals and things; at most {MOST_BEINGS} fit")
    for scene in scenes:
        check(scene)
    groups: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    for i, scene in enumerate(scenes):
        groups[scene.camera, len(scene.people), len(scene.others)].append(i)
    most_at_once = AT_ONCE if device.type == "cpu" else AT_ONCE_ON_A_DEVICE
    chunks = [which[i : i + most_at_once] for which in groups.values() for i in range(0, len(which), most_at_once)]
    drawn = [draw([scenes[i] for i in which], size, device, labels) for which in chunks]
    if not drawn:
        drawn = [draw([Scene(people=())], size, device, labels)]
        return Render(**{f.name: getattr(drawn[0], f.name)[:0] for f in fields(Render)})
    order = torch.tensor([i for which in chunks for i in which], device=device).argsort()
    fields_out = {}
    for f in fields(Render):
        pieces = [getattr(r, f.name) for r in drawn]
        if labels and f.name in ("instances", "amodal", "boxes", "landmarks"):
            pieces = [widen(p, crowd) for p in pieces]
        if labels and f.name in ("others", "others_amodal", "other_boxes"):
            pieces = [widen(p, most) for p in pieces]
        fields_out[f.name] = torch.cat(pieces)[order]
    return Render(**fields_out)
