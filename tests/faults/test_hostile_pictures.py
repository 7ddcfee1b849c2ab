"""Forty pictures that are none, or not what they say: each is read or refused by name, and the others go on."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from semblant.cli.main import app
from semblant.data.pictures import Picture, find_pictures
from semblant.errors import FileProblem
from semblant.training.concepts import load

Make = Callable[[Path], Any]


def pixels(size: tuple[int, int] = (48, 40)) -> Image.Image:
    return Image.fromarray((np.random.default_rng(7).random((size[1], size[0], 3)) * 255).astype("uint8"))


def put(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def saved(image: Image.Image, form: str, cut: int | None = None, **options: Any) -> Make:
    """The picture in a format, whatever its name says, cut after so many bytes."""

    def make(path: Path) -> None:
        image.save(path, form, **options)
        if cut is not None:
            path.write_bytes(path.read_bytes()[:cut])

    return make


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, depth: int = 8, kind: int = 2, *more: tuple[bytes, bytes], rows: bytes = b"") -> Make:
    """A PNG whose header says what it likes."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)), *more]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return put(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[0x0112] = orientation
    return made.tobytes()


def link(target: str) -> Make:
    return lambda path: path.symlink_to(target)


def settings(text: str) -> Make:
    """A picture that says how it was made, in such words."""
    info = PngInfo()
    info.add_text("semblant", text)
    return saved(pixels(), "PNG", pnginfo=info)


def floats(value: float) -> Image.Image:
    field = np.linspace(0, 1, 48 * 40, dtype=np.float32).reshape(40, 48)
    field[3, 3] = value
    return Image.fromarray(field)


def deep(channels: int) -> bytes:
    """Rows of a PNG with sixteen bits a channel."""
    return b"".join(b"\0" + bytes(range(256))[: 2 * channels] * 48 for _ in range(40))


FRAMES = [pixels().convert("P"), Image.new("P", (48, 40))]
PALETTE = pixels().convert("P")
WALK = "../" * 12

PICTURES: dict[str, tuple[Make, bool]] = {
    "empty.png": (put(b""), False),
    "one byte.jpg": (put(b"\xff"), False),
    "text.png": (put(b"I am no picture\n" * 50), False),
    "page.jpg": (put(b"<!doctype html><script>alert(1)</script>"), False),
    "program.png": (put(b"#!/bin/sh\nrm -rf ~\n"), False),
    "pickle.png": (put(b"\x80\x04cos\nsystem\n."), False),
    "postscript.png": (put(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n"), False),
    "vector.png": (put(b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'/>"), False),
    "heic.heic": (put(b"\0\0\0\x18ftypheic" + b"\0" * 200), False),
    "cut.jpg": (saved(pixels((200, 200)), "JPEG", cut=3000), False),
    "cut.png": (saved(pixels((80, 80)), "PNG", cut=9000), False),
    "cut.gif": (saved(PALETTE, "GIF", cut=700), False),
    "cut.webp": (saved(pixels(), "WEBP", cut=150), False),
    "cut.tiff": (saved(pixels(), "TIFF", cut=4000), False),
    "header alone.png": (saved(pixels(), "PNG", cut=33), False),
    "one pixel.png": (saved(Image.new("RGB", (1, 1)), "PNG"), False),
    "line.png": (saved(Image.new("RGB", (9000, 1)), "PNG"), False),
    "bomb.png": (png(65_000, 65_000), False),
    "sixty million.png": (png(10_000, 6_000), False),
    "negative.png": (png(2**31 - 1, 2**31 - 1), False),
    "nothing wide.png": (png(0, 64), False),
    "bomb of text.png": (png(64, 64, 8, 2, (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 80_000_000))), False),
    "lies about its size.png": (png(64, 64, rows=b"\0" * 9), False),
    "no number.tiff": (saved(floats(float("nan")), "TIFF"), False),
    "infinite.tiff": (saved(floats(float("inf")), "TIFF"), False),
    "folder.png": (lambda path: path.mkdir(), False),
    "loop.png": (link("loop.png"), False),
    "loop a.png": (link("loop b.png"), False),
    "dangling.png": (link("nowhere.png"), False),
    "pipe.png": (lambda path: os.mkfifo(path), False),
    "device.png": (link("/dev/zero"), False),
    "wrong ending.jpg": (saved(pixels(), "PNG"), True),
    "wrong ending.png": (saved(pixels(), "JPEG"), True),
    "sixteen bits.png": (png(48, 40, 16, 2, rows=deep(3)), True),
    "sixteen bits grey.tiff": (saved(Image.fromarray(np.full((40, 48), 40_000, np.uint16)), "TIFF"), True),
    "floats.tiff": (saved(floats(0.5), "TIFF"), True),
    "cmyk.jpg": (saved(pixels().convert("CMYK"), "JPEG"), True),
    "moves.gif": (saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), True),
    "turned.jpg": (saved(pixels(), "JPEG", exif=exif(6)), True),
    "turned beyond.jpg": (saved(pixels(), "JPEG", exif=exif(99)), True),
    "bad exif.jpg": (saved(pixels(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), True),
    "bad profile.png": (saved(pixels(), "PNG", icc_profile=b"no profile"), True),
    "clear palette.png": (saved(PALETTE, "PNG", transparency=bytes(range(256))), True),
    "clear.png": (saved(pixels().convert("RGBA"), "PNG"), True),
    "black and white.png": (saved(pixels().convert("1"), "PNG"), True),
    "settings of another.png": (settings('{"prompt": "<script>alert(1)</script>", "file": "' + WALK + 'etc"}'), True),
    "settings damaged.png": (settings("{" * 100_000), True),
    "-rf.png": (saved(pixels(), "PNG"), True),
    "name \u202e\u0301 \U0001f642.png": (saved(pixels(), "PNG"), True),
}
"""What each file is, and whether it can be read."""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with all of them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, (make, _) in PICTURES.items():
        make(folder / name)
    return folder


def test_there_are_forty_and_each_is_read_or_refused_by_name(hostile: Path) -> None:
    assert len(PICTURES) >= 40
    for name, (_, readable) in PICTURES.items():
        path = hostile / name
        if readable:
            image = Picture.read(path).image
            assert image.mode == "RGB" and min(image.size) >= 32 and image.size in ((48, 40), (40, 48)), name
            continue
        with pytest.raises(FileProblem) as caught:
            Picture.read(path)
        said = str(caught.value)
        assert str(path) in said and "\n" not in said and len(said) < 400, said
        # Too large is told from the header: nothing was decoded to find out.
        assert ("megapixels" in said) == (name in ("bomb.png", "sixty million.png", "negative.png")), said


def test_a_folder_of_them_yields_those_that_can_be_read(hostile: Path) -> None:
    listed = {path.name for path in find_pictures(hostile)}
    # No folder, pipe, device, loop, or link to nothing is taken for a picture at all.
    aside = {"folder.png", "loop.png", "loop a.png", "dangling.png", "pipe.png", "device.png"}
    assert listed == set(PICTURES) - aside


def test_every_command_that_takes_pictures_survives_them(command: Callable[..., Any], hostile: Path) -> None:
    run = lambda *line: CliRunner().invoke(app, [str(word) for word in line])
    said = ("--word", "<maya>", "--class-word", "thing")
    for name, (_, readable) in PICTURES.items():
        path = hostile / name
        for line in (("doctor", path, "--class-word", "thing", "--face", "none"), ("inspect", path)):
            result = run(*line)
            assert result.exit_code in (0, 2, 3) and "Traceback" not in result.output, (line, result.output)
            assert result.exception is None or isinstance(result.exception, SystemExit)
        if not readable:
            refused = run("fit", "textual-inversion", path, *said, "--steps", 1)
            assert refused.exit_code == 3 and refused.stderr.count("error: ") == 1, refused.stderr
            assert name in refused.stderr and not Path("maya.safetensors").exists()
            assert run("measure", path, "--prompt", "a person").exit_code == 3


def test_a_fit_names_those_that_are_left_out_and_learns_from_the_rest(
    command: Callable[..., Any], hostile: Path
) -> None:
    line = ["fit", "textual-inversion", hostile, "--word", "<maya>", "--class-word", "thing", "--steps", 1]
    line += ["--set", "views=2", "--precision", "float32", "--no-verdict"]
    result = CliRunner().invoke(app, [str(word) for word in line])
    assert result.exit_code == 0, result.stderr
    readable = sum(readable for _, readable in PICTURES.values())
    assert f"from {readable} pictures" in result.stderr
    assert len(load("maya.safetensors").pictures) == readable
    for name in ("cut.jpg", "bomb.png", "no number.tiff", "heic.heic"):
        assert name in result.stderr
