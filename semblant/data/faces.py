"""Finding faces offline, with the local-binary-pattern cascade that scikit-image carries.

It sees upright, roughly frontal faces of real people. Drawings and profiles need another detector: anything that takes
a picture and answers a list of `Face` can stand in for `find_faces`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class Face:
    """Where a face is, and how sure the detector was. Scores compare only within one detector."""

    box: Box
    score: float
    head: bool = False
    """Whether the box is that of the whole head, hair and all, and not of the face from brows to chin alone."""

    @property
    def width(self) -> float:
        """Pixels from left to right."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        """Pixels from top to bottom."""
        return self.box[3] - self.box[1]

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box: x, y in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


Detector = Callable[[Image.Image], Sequence[Face]]
"""What finds faces: a picture to its faces, in pixels of that picture."""

LONGEST, SHORTEST = 512, 256
"""The long side is brought into this range first, so that sizes mean the same in a thumbnail and in a photograph."""
SMALLEST_FACE = 1 / 12
"""Faces narrower than this share of the long side are not looked for."""
WINDOW = 24
"""Pixels a side of the window the cascade was trained on."""
GROWTH = 1.15
"""How much the window grows from one pass to the next."""
VOTES = 4
"""Overlapping windows a face needs, in the picture and again in its mirror image. Of 100 faces of LFW at 25 px,
enlarged fourfold and pasted into textures, 4 finds 92, and none in 100 patches without a face."""
WEAK = 0.3
"""Candidates with less than this share of the strongest face's votes are texture (JPEG blocks reached .28)."""
OVERLAP = 0.4
"""Intersection over union from which two windows are one face."""


def find_faces(image: Image.Image) -> list[Face]:
    """The faces in a picture, largest first; `score` counts the windows that agreed.

    Deterministic. A window counts only where the mirror image has a face too: texture rarely looks like a face both
    ways round.
    """
    grey = image.convert("L")
    scale = min(LONGEST / max(grey.size), max(1.0, SHORTEST / max(grey.size)))
    size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    if min(size) < WINDOW:
        return []
    grey = grey.resize(size, Image.Resampling.LANCZOS)
    candidates = [face for face in _candidates(grey) if face.score >= VOTES]
    if not candidates:
        return []
    mirrored = [
        Face((grey.width - face.box[2], face.box[1], grey.width - face.box[0], face.box[3]), face.score)
        for face in _candidates(ImageOps.mirror(grey))
    ]
    found = []
    for face in candidates:
        twin = max(mirrored, key=lambda other: (overlap(face.box, other.box), other.score), default=None)
        if twin is not None and overlap(face.box, twin.box) >= OVERLAP and twin.score >= VOTES:
            middle = [(a + b) / 2 / scale for a, b in zip(face.box, twin.box, strict=True)]
            found.append(Face((middle[0], middle[1], middle[2], middle[3]), min(face.score, twin.score)))
    strongest = max((face.score for face in found), default=0.0)
    return sorted(_apart(f for f in found if f.score >= WEAK * strongest), key=lambda f: (-f.width * f.height, f.box))


def remembering(detector: Detector) -> Detector:
    """The same detector, which looks at each picture only once however often it is asked."""
    seen: dict[bytes, tuple[Face, ...]] = {}

    def look(image: Image.Image) -> Sequence[Face]:
        key = hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).digest()
        if key not in seen:
            seen[key] = tuple(detector(image))
        return seen[key]

    return look


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    shared = _shared(one, other)
    return shared / max(_area(one) + _area(other) - shared, 1e-9)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _shared(one: Box, other: Box) -> float:
    """Square pixels that both boxes cover."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


@lru_cache(maxsize=1)
def _cascade() -> Any:
    # Imported here: scikit-image takes a while to load, and most runs never look for a face.
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())


def _candidates(grey: Image.Image) -> list[Face]:
    """Clusters of the cascade's windows, most votes first; the box is their mean."""
    pixels = np.asarray(grey)
    smallest = max(WINDOW, int(max(pixels.shape) * SMALLEST_FACE))
    largest = min(pixels.shape)
    if smallest > largest:
        return []
    # No neighbours asked for and an overlap that nothing reaches: every window comes back, to be counted here.
    windows = _cascade().detect_multi_scale(
        img=pixels,
        scale_factor=GROWTH,
        step_ratio=1.0,
        min_size=(smallest, smallest),
        max_size=(largest, largest),
        min_neighbor_number=0,
        intersection_score_threshold=2.0,
    )
    boxes: list[Box] = sorted(
        (float(w["c"]), float(w["r"]), float(w["c"] + w["width"]), float(w["r"] + w["height"])) for w in windows
    )
    near = [[j for j, other in enumerate(boxes) if overlap(box, other) >= OVERLAP] for box in boxes]
    faces, taken = [], set[int]()
    for i in sorted(range(len(boxes)), key=lambda i: (-len(near[i]), boxes[i])):
        if i in taken:
            continue
        group = [j for j in near[i] if j not in taken]
        taken.update(group)
        left, top, right, bottom = np.mean([boxes[j] for j in group], axis=0).tolist()
        faces.append(Face((left, top, right, bottom), float(len(group))))
    return sorted(faces, key=lambda face: -face.score)


def _apart(faces: Iterable[Face]) -> list[Face]:
    """Without the weaker of two faces when one lies mostly inside the other."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda f: (-f.score, f.box)):
        if all(_shared(face.box, k.box) <= 0.5 * min(_area(face.box), _area(k.box)) for k in kept):
            kept.append(face)
    return kept
