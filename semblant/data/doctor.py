"""What is wrong with a set of pictures, before hours are spent on learning from them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from PIL import Image

from semblant.data.faces import Detector, Face, find_faces
from semblant.data.masks import share
from semblant.data.pictures import (
    MASK_ENDING,
    PathLike,
    Picture,
    digest,
    find_pictures,
    orientation,
    read_picture,
)
from semblant.data.subject import (
    SMALL_CROP,
    FaceChoice,
    choose_face,
    face_choice,
    face_crop,
    looking,
    template_of,
)
from semblant.errors import FileProblem, SemblantError

SIZE = 512
"""Pixels a side that a base works at, unless another is given: that of Stable Diffusion 1."""
BLURRED = 60.0
"""What `sharpness` falls below when a picture is blurred. Five photographs and nine drawn pictures, brought to 128, 256
or 512 pixels, gave 1640 to 15277; a Gaussian blur of one pixel left all at 79 or more, one of two pixels brought all
below 48 but one photograph at 128 (126). One number serves every size because pictures look alike at every scale."""
TILES = 6
"""Sharpness is measured in this many by this many parts: a soft background is no fault."""
TINY = 16
"""Pixels a side of the thumbnails that near-duplicates are told by."""
TWINS = 6.0
"""Mean difference of two thumbnails, in levels of 0..255, below which they are near-duplicates. Saving as JPEG of
quality 20, halving and blurring moved a picture by at most 3.6, cutting 1 % off every side by at most 6; different
pictures of one drawn person were at least 12 apart."""
TOO_SMALL = 0.5
"""A face is too small when its crop has fewer pixels a side than this share of the base's."""
UNCOVERED = 0.2
"""A mask that whitens less than this share of the chosen face's box leaves the face out."""

Level = Literal["error", "warning", "note"]
"""Whether a fit cannot run, would be worse for it, or nothing needs doing."""
_ANY_WORD = re.compile(r"<[\w*+-]+>")


@dataclass(frozen=True)
class Finding:
    """Something that the user may want to change, about one file or part of the installation."""

    file: str
    problem: str
    """What is the matter, without the file's name unless it comes first."""
    advice: str
    """What to do, as a sentence."""
    level: Level = "warning"
    kind: str = ""
    """One or two words for programs, such as "blurred"."""
    told: bool = False
    """Whether reading the pictures for a fit says it, too."""

    @property
    def sentence(self) -> str:
        """The file, what is the matter and what to do, in one sentence."""
        named = self.problem if self.file in self.problem else f"{self.file}: {self.problem}"
        return f"{named.rstrip('.')}; {self.advice[:1].lower()}{self.advice[1:]}"


@dataclass
class _File:
    """A picture file and what reading it gave."""

    path: Path
    picture: Picture | None = None
    findings: list[Finding] = field(default_factory=list)

    def add(self, level: Level, kind: str, problem: str, advice: str, told: bool = False) -> None:
        self.findings.append(Finding(str(self.path), problem, advice, level, kind, told))


def check(
    paths: PathLike | Iterable[PathLike],
    *,
    person: bool = True,
    face: FaceChoice | str = "ask",
    word: str | None = None,
    detector: Detector = find_faces,
    size: int = SIZE,
) -> list[Finding]:
    """What is wrong with each picture of `paths` (files or folders), in order; nothing when all is well.

    `size` is what the base works at, in pixels a side; `face` the choice among faces, `word` the subject's word, as a
    fit would be given them. Errors are what `Subject.read` refuses. Raises SemblantError when `face` names no face.
    """
    choice = face_choice(face)
    entries = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    checked: list[list[_File]] = []
    findings: dict[int, list[Finding]] = {}
    for entry in entries:
        try:
            files = [_read(path) for path in find_pictures(entry)]
        except FileProblem as problem:
            advice = "Give a picture, or a folder with pictures in it."
            findings[len(checked)] = [Finding(str(entry), str(problem), advice, "error", "missing")]
            files = []
        else:
            findings[len(checked)] = [] if any(file.picture for file in files) else _nothing_left(files)
        findings[len(checked)] += _orphans(Path(entry))
        checked.append(files)
    readable = [file for files in checked for file in files if file.picture is not None]
    seen: list[tuple[str, Path, np.ndarray]] = []
    for file in readable:
        _examine(file, choice, looking(choice, person), detector, word, size, len(readable) == 1)
        _compare(file, seen)
    return [
        finding
        for index, files in enumerate(checked)
        for finding in [*(f for file in files for f in file.findings), *findings[index]]
    ]


def sharpness(image: Image.Image, size: int) -> float:
    """Variance of the Laplacian in the sharpest part of a picture, in squared grey levels of 0..255.

    A picture whose shorter side is larger than `size` is reduced to that first, as training reduces it.
    """
    grey = image.convert("L")
    if (scale := size / min(grey.size)) < 1:
        new = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
        grey = grey.resize(new, Image.Resampling.LANCZOS)
    pixels = np.asarray(grey, dtype=np.float64)
    centre = pixels[1:-1, 1:-1]
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:] - 4 * centre
    tiles = (tile for band in np.array_split(laplacian, TILES) for tile in np.array_split(band, TILES, axis=1))
    return max((float(tile.var()) for tile in tiles if tile.size), default=0.0)


def thumbnail(image: Image.Image) -> Float[np.ndarray, "16 16 3"]:
    """A picture as so few pixels that saving it again, or at another size, hardly changes them; 0..255."""
    small = image.convert("RGB").resize((TINY, TINY), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)


def apart(one: Float[np.ndarray, "16 16 3"], other: Float[np.ndarray, "16 16 3"]) -> float:
    """Mean difference of two thumbnails, or of one and the other's mirror image if that is less; 0..255."""
    return float(min(np.abs(one - other).mean(), np.abs(one - other[:, ::-1]).mean()))


def _read(path: Path) -> _File:
    file = _File(path)
    try:
        file.picture = Picture.read(path)
    except FileProblem as problem:
        if _is_readable(path):
            advice = f"Save a mask of the picture's size as {path.stem}{MASK_ENDING}, or take it away."
            file.add("warning", "mask", str(problem), advice, told=True)
        else:
            file.add("warning", "unreadable", str(problem), "Leave it out, or save it again as JPEG or PNG.", told=True)
    return file


def _is_readable(path: Path) -> bool:
    try:
        read_picture(path)
    except FileProblem:
        return False
    return True


def _nothing_left(files: Sequence[_File]) -> list[Finding]:
    """Where no picture of an entry can be used, what was a warning is what stops a fit."""
    findings = [Finding(f.file, f.problem, f.advice, "error", f.kind, f.told) for file in files for f in file.findings]
    for file in files:
        file.findings.clear()
    return findings


def _orphans(folder: Path) -> list[Finding]:
    """Masks of a folder that belong to no picture."""
    if not folder.is_dir():
        return []
    inside = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    stems = {name.rsplit(".", 1)[0] for name in inside if not name.endswith((MASK_ENDING, ".txt"))}
    lost = sorted(n for n in inside if n.endswith(MASK_ENDING) and n.removesuffix(MASK_ENDING) not in stems)
    advice = f"Name a mask after its picture: NAME{MASK_ENDING} beside NAME.jpg."
    return [Finding(str(folder / name), "belongs to no picture", advice, "warning", "mask") for name in lost]


def _examine(
    file: _File, choice: FaceChoice, looks: bool, detector: Detector, word: str | None, size: int, alone: bool
) -> None:
    assert file.picture is not None
    picture = file.picture
    image = picture.image
    if (turned := _turned(file.path)) != 1:
        advice = "It is read upright; see that it stands so where you edit it, and its mask too."
        file.add("note", "rotated", f"turned or mirrored by its EXIF data (orientation {turned})", advice)
    if min(image.size) < size:
        advice = f"Use a picture with at least {size} pixels on its shorter side."
        file.add("warning", "small", f"small: {image.width} x {image.height} pixels", advice)
    face = _face(file, choice, list(detector(image)), alone) if looks else None
    crop = image if face is None else face_crop(image, face)[0]
    if face is not None and crop.width < TOO_SMALL * size:
        _warn_of_small_face(file, crop.width, size)
    # A person is learned from the crop: a sharp background does not make up for a blurred face.
    if sharpness(crop, size) < BLURRED:
        advice = "Use a sharper picture: what is blurred in it will be blurred in every result."
        file.add("warning", "blurred", "blurred", advice)
    if picture.mask is not None:
        _examine_mask(file, picture.mask, face)
    if picture.caption is not None and not _says_where(picture.caption, word):
        advice = f"Write {word or 'the word'} or {{}} in {file.path.with_suffix('.txt').name} to have it used."
        file.add("warning", "caption", "its caption does not say where the subject is", advice, told=True)


def _turned(path: Path) -> int:
    try:
        return orientation(path)
    except FileProblem:
        # The EXIF data is damaged; reading the picture says so.
        return 1


def _face(file: _File, choice: FaceChoice, faces: list[Face], alone: bool) -> Face | None:
    try:
        return choose_face(faces, choice, file.path, alone)
    except SemblantError:
        count = len(faces)
        if count == 0:
            advice = "Use an upright picture from the front, or say `--face none`."
            file.add("error", "no face", "no face was found", advice)
        elif choice == "ask":
            advice = f"Choose one with `--face 1` to `--face {count}`, counted from the left, or `--face largest`."
            file.add("error", "several faces", f"{count} faces", advice)
        else:
            advice = f"Give a number from 1 to {count}, counted from the left."
            file.add("error", "several faces", f"it has no face {choice}, only {count}", advice)
    return None


def _warn_of_small_face(file: _File, side: int, size: int) -> None:
    file.add(
        "warning",
        "small face",
        f"the face is small: its crop is {side} pixels a side, and the base works at {size}",
        "Use a picture taken from nearer, or the original in place of a reduced copy.",
        told=side < SMALL_CROP,
    )


def _examine_mask(file: _File, mask: Image.Image, face: Face | None) -> None:
    name, advice = file.path.stem + MASK_ENDING, "Paint the subject white and the rest black, or take the mask away."
    white = share(mask)
    if white == 0:
        file.add("warning", "mask", f"its mask {name} is black all over", advice)
    elif white > 0.99:
        file.add("note", "mask", f"its mask {name} is white all over, as if there were none", advice)
    elif face is not None:
        left, top, right, bottom = map(round, face.box)
        if share(mask.crop((left, top, max(right, left + 1), max(bottom, top + 1)))) < UNCOVERED:
            file.add("warning", "mask", f"its mask {name} leaves the face out", advice)


def _says_where(caption: str, word: str | None) -> bool:
    if word is not None:
        return template_of(caption, word) is not None
    return "{}" in caption or _ANY_WORD.search(caption) is not None


def _compare(file: _File, seen: list[tuple[str, Path, np.ndarray]]) -> None:
    """Say when a picture was there before, as it is or nearly so; then remember it."""
    assert file.picture is not None
    fingerprint, tiny = digest(file.path), thumbnail(file.picture.image)
    copies = [path for other, path, _ in seen if other == fingerprint]
    twins = [path for _, path, other in seen if apart(tiny, other) < TWINS]
    if copies:
        # Its other faults were told with the first copy.
        file.findings = [finding for finding in file.findings if finding.level == "error"]
        file.add("warning", "copy", f"the same file as {copies[0]}", "Keep one of the two.")
    else:
        if twins:
            advice = "Keep the better of the two: the other shows nothing new and counts twice."
            file.add("warning", "near-duplicate", f"nearly the same picture as {twins[0]}", advice)
        seen.append((fingerprint, file.path, tiny))
