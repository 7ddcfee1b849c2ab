"""Pictures in rows and columns, with labels."""

from __future__ import annotations

import json
import logging
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from semblant.backbones.base import Base
from semblant.bench.results import means, write_json
from semblant.data.pictures import write_picture

log = logging.getLogger(__name__)

CELL, GAP, MARGIN, SIDE = 128, 6, 16, 150
"""Pixels: a picture, the space between two, around all, and for the labels of rows."""
PAPER, INK = (255, 255, 255), (32, 33, 36)


def sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], columns: Sequence[str], cell: int = CELL) -> Image.Image:
    """One picture of them all: a label beside every row and above every column.

    Smaller pictures are enlarged without smoothing, so that their pixels stay what they are.
    """
    font = ImageFont.load_default(13)
    heads = [textwrap.wrap(column, max(8, cell // 7)) for column in columns]
    top = MARGIN + 17 * max((len(lines) for lines in heads), default=0) + 6
    width = 2 * MARGIN + SIDE + len(columns) * (cell + GAP) - GAP
    made = Image.new("RGB", (width, top + len(rows) * (cell + GAP) - GAP + MARGIN), PAPER)
    pen = ImageDraw.Draw(made)
    left = MARGIN + SIDE
    for k, lines in enumerate(heads):
        pen.multiline_text((left + k * (cell + GAP), MARGIN), "\n".join(lines), INK, font)
    for number, (label, pictures) in enumerate(rows):
        y = top + number * (cell + GAP)
        pen.multiline_text((MARGIN, y + 6), "\n".join(textwrap.wrap(label, 19)), INK, font)
        for k, picture in enumerate(pictures):
            smooth = Image.Resampling.LANCZOS if picture.width > cell else Image.Resampling.NEAREST
            made.paste(picture.convert("RGB").resize((cell, cell), smooth), (left + k * (cell + GAP), y))
    return made


def keep(
    folder: Path, name: str, base: Base, cells: Sequence[Mapping[str, Any]], measures: Sequence[str], shown: Image.Image
) -> dict[str, dict[str, float | None]]:
    """Write `name`.json, with the cells and their means, and `name`.png into a folder, and answer the means."""
    folder.mkdir(parents=True, exist_ok=True)
    found = means(cells, measures)
    write_json(folder / f"{name}.json", {"base": base.hashes(), "cells": cells, "means": found})
    write_picture(shown, folder / f"{name}.png")
    for arm, numbers in found.items():
        log.info("%-18s %s", arm, json.dumps(numbers))
    return found
