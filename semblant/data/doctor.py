"""What is wrong with a set of pictures, before hours are spent on learning from them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from semblant.data.faces import Detector, find_faces
from semblant.data.pictures import PathLike, digest, find_pictures, read_picture
from semblant.errors import FileProblem

SMALL = 256
"""Pixels of the shorter side under which a picture is called small."""
BLURRED = 60.0
"""What `sharpness` falls below when a picture is blurred. Seven sharp photographs gave 186 to 8965; a Gaussian blur of
two pixels at 512 brought six of them below, one of three pixels all."""
TILES = 6
"""Sharpness is measured in this many by this many parts: a soft background is no fault."""
LONG_SIDE = 512
"""Pixels a larger picture is reduced to first, as training reduces it too."""


@dataclass(frozen=True)
class Finding:
    """Something about one picture that the user may want to change."""

    file: str
    problem: str
    advice: str


def check(
    paths: PathLike | Iterable[PathLike], *, person: bool = True, detector: Detector = find_faces, small: int = SMALL
) -> list[Finding]:
    """What is wrong with each picture of `paths` (files or folders), in order; nothing when all is well.

    Looks for what cannot be read, small and blurred pictures, files that are there twice, and, for a `person`, pictures
    without a face or with several.
    """
    entries = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    findings: list[Finding] = []
    seen: dict[str, Path] = {}
    for entry in entries:
        try:
            files = find_pictures(entry)
        except FileProblem as problem:
            findings.append(Finding(str(entry), str(problem), "Give a picture, or a folder with pictures in it."))
            continue
        for file in files:
            findings += _check_one(file, seen, person, detector, small)
    return findings


def sharpness(image: Image.Image) -> float:
    """Variance of the Laplacian in the sharpest part of a picture, in squared grey levels of 0..255."""
    grey = image.convert("L")
    grey.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(grey, dtype=np.float64)
    centre = pixels[1:-1, 1:-1]
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:] - 4 * centre
    tiles = (tile for band in np.array_split(laplacian, TILES) for tile in np.array_split(band, TILES, axis=1))
    return max(float(tile.var()) for tile in tiles if tile.size)


def _check_one(file: Path, seen: dict[str, Path], person: bool, detector: Detector, small: int) -> list[Finding]:
    try:
        image, fingerprint = read_picture(file), digest(file)
    except FileProblem as problem:
        return [Finding(str(file), str(problem), "Leave it out, or save it again as JPEG or PNG.")]
    if fingerprint in seen:
        # Its other faults were told with the first copy.
        return [Finding(str(file), f"the same file as {seen[fingerprint]}", "Keep one of the two.")]
    seen[fingerprint] = file
    found: list[tuple[str, str]] = []
    if min(image.size) < small:
        size = f"{image.width} x {image.height}"
        found.append((f"small: {size} pixels", f"Use a picture with at least {small} pixels on its shorter side."))
    if sharpness(image) < BLURRED:
        found.append(("blurred", "Use a sharper picture: what is blurred in it will be blurred in every result."))
    if person:
        count = len(detector(image))
        if count == 0:
            found.append(("no face was found", "Use an upright picture from the front, or say `--face none`."))
        elif count > 1:
            found.append((f"{count} faces", "Cut the picture to one person, or say `--face largest` or `--face 2`."))
    return [Finding(str(file), problem, advice) for problem, advice in found]
