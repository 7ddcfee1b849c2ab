"""Reading pictures as phones and programs make them, and refusing what is none."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from semblant.data.pictures import (
    Picture,
    digest,
    find_pictures,
    mask_to_tensor,
    read_folder,
    read_picture,
    read_settings,
    save_png,
    to_image,
    to_tensor,
)
from semblant.errors import FileProblem

RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 180, 30), (30, 30, 220), (230, 220, 40)


def quarters(width: int = 96, height: int = 64) -> Image.Image:
    """Four corners in four colours, wider than high: no turn and no mirror leaves it alike."""
    image = Image.new("RGB", (width, height))
    half = (width // 2, height // 2)
    for colour, place in zip((RED, GREEN, BLUE, YELLOW), ((0, 0), (half[0], 0), (0, half[1]), half), strict=True):
        image.paste(colour, (*place, place[0] + half[0], place[1] + half[1]))
    return image


def far(image: Image.Image, other: Image.Image) -> int:
    """The largest difference of a channel between two pictures."""
    one, two = (np.asarray(i.convert("RGB"), dtype=int) for i in (image, other))
    assert one.shape == two.shape
    return int(np.abs(one - two).max())


def middle(image: Image.Image) -> tuple[int, ...]:
    return image.getpixel((image.width // 2, image.height // 2))


UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright picture is stored when EXIF says this orientation."""


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(tmp_path, ending, orientation):
    upright = quarters()
    stored = upright.transpose(UNDO[orientation]) if orientation in UNDO else upright
    exif = Image.Exif()
    exif[274] = orientation
    options = {"jpg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}.get(ending, {})
    stored.save(tmp_path / f"a.{ending}", exif=exif.tobytes(), **options)
    read = read_picture(tmp_path / f"a.{ending}")
    assert read.size == upright.size
    corners = [read.getpixel(p) for p in ((12, 8), (80, 8), (12, 50), (80, 50))]
    for seen, meant in zip(corners, (RED, GREEN, BLUE, YELLOW), strict=True):
        assert max(abs(a - b) for a, b in zip(seen, meant, strict=True)) <= 12
    assert not read.getexif()


def test_damaged_exif_is_no_reason_to_refuse(tmp_path):
    quarters().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f broken")
    assert read_picture(tmp_path / "a.jpg").size == (96, 64)


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    quarters().convert("CMYK").save(tmp_path / "a.jpg", quality=98, subsampling=0)
    with Image.open(tmp_path / "a.jpg") as stored:
        assert stored.mode == "CMYK"
    read = read_picture(tmp_path / "a.jpg")
    assert read.mode == "RGB"
    assert read.getpixel((12, 8)) == pytest.approx(RED, abs=8)
    assert read.getpixel((80, 50)) == pytest.approx(YELLOW, abs=8)


def test_a_sixteen_bit_grey_ramp_is_scaled_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65_535, 256).astype(np.uint16)[None].repeat(40, 0)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    Image.fromarray(ramp).save(tmp_path / "a.tiff")
    for name in ("a.png", "a.tiff"):
        row = np.asarray(read_picture(tmp_path / name))[20, :, 0].astype(int)
        assert np.abs(row - np.arange(256)).max() <= 1


def sixteen_bit_png(path: Path, pixels: np.ndarray, clear: tuple[int, ...] = ()) -> None:
    """Write [height, width, channels] uint16, which Pillow cannot."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in pixels)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    parts += [(b"tRNS", struct.pack(f">{len(clear)}H", *clear))] if clear else []
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png_of_every_kind(tmp_path, channels):
    pixels = np.zeros((40, 256, channels), np.uint16)
    pixels[..., :] = (np.arange(256) * 257)[None, :, None]
    if channels in (2, 4):
        pixels[..., -1] = 65_535
        pixels[:20, :, -1] = 0
    sixteen_bit_png(tmp_path / "a.png", pixels)
    read = np.asarray(read_picture(tmp_path / "a.png")).astype(int)
    assert np.abs(read[30] - np.arange(256)[:, None]).max() <= 1
    if channels in (2, 4):
        assert (read[10] == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_colour_of_a_sixteen_bit_png_becomes_white(tmp_path, channels):
    pixels = np.full((40, 40, channels), 0x8040, np.uint16)
    pixels[:, :20] = 0x1234
    sixteen_bit_png(tmp_path / "a.png", pixels, clear=(0x1234,) * channels)
    read = read_picture(tmp_path / "a.png")
    assert read.getpixel((5, 5)) == (255, 255, 255)
    assert read.getpixel((35, 5)) == pytest.approx((128, 128, 128), abs=1)


@pytest.mark.parametrize(
    ("values", "dark", "light"),
    [
        (np.linspace(0, 1, 64), 0, 255),
        (np.linspace(-3, 5, 64), 0, 255),
        (np.linspace(100, 100, 64), 0, 0),
    ],
)
def test_floating_point_tiff_fills_the_range(tmp_path, values, dark, light):
    Image.fromarray(values.astype(np.float32)[None].repeat(40, 0)).save(tmp_path / "a.tiff")
    row = np.asarray(read_picture(tmp_path / "a.tiff"))[0, :, 0]
    assert (row[0], row[-1]) == (dark, light)


def test_floating_point_tiff_with_nan_is_refused(tmp_path):
    Image.fromarray(np.full((40, 40), np.nan, np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(FileProblem, match="not numbers"):
        read_picture(tmp_path / "a.tiff")


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "PA"])
@pytest.mark.parametrize("ending", ["png", "webp", "tiff"])
def test_transparency_lies_on_white(tmp_path, mode, ending):
    if mode in ("P", "PA") and ending != "png":
        pytest.skip("palettes with transparency live in PNG and GIF")
    alpha = Image.new("L", (64, 64), 255)
    alpha.paste(0, (0, 0, 32, 64))
    image = Image.new("RGB", (64, 64), (90, 90, 90))
    if mode in ("P", "PA"):
        pixels = np.zeros((64, 64), np.uint8)
        pixels[:, :32] = 3
        image = Image.fromarray(pixels)
        image.putpalette([90, 90, 90, *range(9)])
        # Both forms that PNG has: one clear index, or an alpha for each.
        image.save(tmp_path / "a.png", transparency=3 if mode == "P" else bytes([255, 255, 255, 0]))
    else:
        image = image.convert(mode)
        image.putalpha(alpha)
        image.save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    read = read_picture(tmp_path / f"a.{ending}")
    assert read.mode == "RGB"
    assert read.getpixel((5, 30)) == (255, 255, 255)
    assert read.getpixel((60, 30)) == pytest.approx((90, 90, 90), abs=2)


def test_half_transparent_is_half_white(tmp_path):
    Image.new("RGBA", (40, 40), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert middle(read_picture(tmp_path / "a.png")) == pytest.approx((127, 127, 127), abs=1)


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tiff"])
def test_what_moves_shows_its_first_frame(tmp_path, ending):
    frames = [Image.new("RGB", (48, 48), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if ending == "webp" else {}
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], **options)
    assert middle(read_picture(tmp_path / f"a.{ending}")) == pytest.approx(RED, abs=3)


@pytest.mark.filterwarnings("ignore:Saving I mode:DeprecationWarning")
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "RGBA", "LA", "I;16", "I", "F"])
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "tiff", "gif", "avif"])
def test_every_mode_that_a_format_can_store_is_read(tmp_path, mode, ending):
    if (mode, ending) == ("YCbCr", "tiff"):
        pytest.skip("Pillow writes these so that it cannot read them back")
    image = quarters().convert("L").convert(mode) if mode in ("I;16", "I", "F") else quarters().convert(mode)
    try:
        image.save(tmp_path / f"a.{ending}")
    except (OSError, ValueError, KeyError):
        pytest.skip(f"{ending} cannot store {mode}")
    read = read_picture(tmp_path / f"a.{ending}")
    assert (read.mode, read.size) == ("RGB", (96, 64))


def test_a_colour_profile_is_used_and_a_damaged_one_ignored(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile in (("good", srgb), ("damaged", b"no profile at all"), ("cut", srgb[:200])):
        quarters().save(tmp_path / f"{name}.png", icc_profile=profile)
        assert far(read_picture(tmp_path / f"{name}.png"), quarters()) <= 1
    quarters().convert("CMYK").save(tmp_path / "other.jpg", icc_profile=srgb, quality=98, subsampling=0)
    assert read_picture(tmp_path / "other.jpg").getpixel((12, 8)) == pytest.approx(RED, abs=8)


def test_a_profile_with_other_primaries_changes_the_colours(tmp_path):
    # sRGB with red and blue exchanged: what the file calls red is blue.
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    srgb = bytes(srgb.replace(b"rXYZ", b"tXYZ", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"tXYZ", b"bXYZ", 1))
    Image.new("RGB", (40, 40), (255, 0, 0)).save(tmp_path / "a.png", icc_profile=srgb)
    red, green, blue = middle(read_picture(tmp_path / "a.png"))
    assert blue > 200 > 60 > red


# What is refused


def zero_bytes(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("I am not a picture, but my name says so.\n" * 20)


def pickled(path: Path) -> None:
    """A pickle, written byte by byte, that would end the process when loaded."""
    path.write_bytes(b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x10raise SystemExit\x85R.")


def truncated_jpeg(path: Path) -> None:
    quarters(400, 300).save(path, "JPEG", quality=95)
    path.write_bytes(path.read_bytes()[:2000])


def truncated_png(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:9000])


def truncated_webp(path: Path) -> None:
    quarters().save(path, "WEBP", lossless=True)
    path.write_bytes(path.read_bytes()[:-40])


def truncated_gif(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path, "GIF")
    path.write_bytes(path.read_bytes()[:1200])


def header_only(path: Path) -> None:
    quarters().save(path, "PNG")
    path.write_bytes(path.read_bytes()[:20])


def one_pixel(path: Path) -> None:
    Image.new("RGB", (1, 1)).save(path, "PNG")


def narrow(path: Path) -> None:
    Image.new("RGB", (9000, 4)).save(path, "PNG")


def png_of(path: Path, width: int, height: int) -> None:
    """A PNG whose header claims a size that its few bytes of pixels do not have."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\x00" * 99))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*parts, (b"IEND", b"")]))


def sixty_megapixels(path: Path) -> None:
    png_of(path, 10_000, 6_000)


def hundred_megapixels(path: Path) -> None:
    png_of(path, 10_000, 10_000)


def four_gigapixels(path: Path) -> None:
    png_of(path, 65_000, 65_000)


def text_bomb(path: Path) -> None:
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)),
        (b"zTXt", b"a\x00\x00" + zlib.compress(b"\x00" * 80_000_000)),
        (b"IDAT", zlib.compress(b"\x00" * 64 * 193)),
        (b"IEND", b""),
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def postscript(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nshowpage\n")


def heic(path: Path) -> None:
    path.write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00" + b"\x00" * 500)


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def missing(path: Path) -> None:
    pass


HOSTILE = {
    zero_bytes: "is empty",
    text: "not a picture",
    pickled: "not a picture",
    truncated_jpeg: "damaged",
    truncated_png: "damaged",
    truncated_webp: "damaged|not a picture",
    truncated_gif: "damaged",
    header_only: "damaged|not a picture",
    one_pixel: "1 x 1 pixels",
    narrow: "9000 x 4 pixels",
    sixty_megapixels: "50 megapixels",
    hundred_megapixels: "50 megapixels",
    four_gigapixels: "50 megapixels",
    text_bomb: "damaged|not a picture",
    postscript: "not a picture",
    heic: "HEIC.*JPEG",
    folder: "is a folder",
    pipe: "device or a pipe",
    missing: "There is no file",
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_what_is_no_picture_is_refused_in_one_sentence(tmp_path, monkeypatch, make):
    monkeypatch.setenv("TRAP", str(tmp_path / "trapped"))
    path = tmp_path / "maya.png"
    make(path)
    with pytest.raises(FileProblem, match=HOSTILE[make]) as caught:
        read_picture(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message and message.endswith(".") and len(message) - len(str(path)) < 160
    assert caught.value.exit_code == 3
    assert not (tmp_path / "trapped").exists()


def test_too_many_pixels_are_refused_before_any_is_decoded(tmp_path, monkeypatch):
    sixty_megapixels(tmp_path / "a.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(FileProblem, match="10000 x 6000"):
        read_picture(tmp_path / "a.png")


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    quarters().save(tmp_path / "a.png")

    def deny(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(FileProblem, match=r"a\.png.*permission"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(FileProblem, match=r"a\.png.*permission"):
        digest(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 300 + ".png"])
def test_impossible_names_are_refused(tmp_path, name):
    with pytest.raises(FileProblem):
        read_picture(tmp_path / name)
    with pytest.raises(FileProblem):
        find_pictures(tmp_path / name)


@pytest.mark.parametrize("size", [(32, 32), (40, 3000), (3000, 33)])
def test_long_and_narrow_is_read_and_its_middle_taken(tmp_path, size):
    Image.new("RGB", size, RED).save(tmp_path / "a.png")
    assert to_tensor(read_picture(tmp_path / "a.png"), 64).shape == (3, 64, 64)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_random_damage_gives_a_picture_or_a_file_problem(tmp_path, ending):
    quarters().save(tmp_path / f"a.{ending}")
    whole = bytearray((tmp_path / f"a.{ending}").read_bytes())
    draw = np.random.default_rng(0)
    for _ in range(40):
        damaged = whole.copy()
        for place in draw.integers(0, len(whole), 8):
            damaged[place] = draw.integers(256)
        (tmp_path / "b").write_bytes(damaged[: draw.integers(len(whole) // 2, len(whole) + 1)])
        try:
            assert read_picture(tmp_path / "b").mode == "RGB"
        except FileProblem as problem:
            assert "\n" not in str(problem)


# Folders and sidecars


def test_a_folder_is_read_in_order_and_the_unreadable_is_named(tmp_path, caplog):
    quarters().save(tmp_path / "b.png")
    quarters().save(tmp_path / "A.jpg")
    quarters().save(tmp_path / ".hidden.png")
    text(tmp_path / "c.png")
    (tmp_path / "notes.md").write_text("notes")
    (tmp_path / "inner.png").mkdir()
    with caplog.at_level(logging.WARNING):
        pictures = read_folder(tmp_path)
    assert [p.path.name for p in pictures] == ["A.jpg", "b.png"]
    assert [r.getMessage().count("c.png") for r in caplog.records] == [1]
    assert pictures[1].digest == hashlib.sha256((tmp_path / "b.png").read_bytes()).hexdigest()


def test_one_file_is_a_folder_of_one(tmp_path):
    quarters().save(tmp_path / "b.png")
    assert find_pictures(tmp_path / "b.png") == [tmp_path / "b.png"]
    assert len(read_folder(tmp_path / "b.png")) == 1


def test_the_labels_of_drawn_pictures_are_no_pictures(tmp_path):
    for name in ("a.png", "a.parts.png", "engine.parts.png"):
        quarters().save(tmp_path / name)
    assert [path.name for path in find_pictures(tmp_path)] == ["a.png", "engine.parts.png"]


def test_a_folder_without_usable_pictures_is_refused(tmp_path):
    with pytest.raises(FileProblem, match="no pictures"):
        read_folder(tmp_path)
    heic(tmp_path / "phone.heic")
    with pytest.raises(FileProblem, match=r"No picture in .* HEIC"):
        read_folder(tmp_path)
    with pytest.raises(FileProblem, match="no file or folder"):
        read_folder(tmp_path / "elsewhere")


def test_caption_and_mask_beside_a_picture_are_read(tmp_path):
    quarters().save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_bytes("\ufeff Maya  on the\nbeach \n".encode())
    mask = Image.new("RGBA", (96, 64), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 48, 64))
    mask.save(tmp_path / "a.mask.png")
    (picture,) = read_folder(tmp_path)
    assert picture.caption == "Maya on the beach"
    assert (picture.mask.mode, picture.mask.getpixel((10, 10)), picture.mask.getpixel((90, 10))) == ("L", 255, 0)


def test_captions_that_say_nothing_are_none(tmp_path, caplog):
    quarters().save(tmp_path / "a.png")
    assert Picture.read(tmp_path / "a.png").caption is None
    (tmp_path / "a.txt").write_text(" \n")
    assert Picture.read(tmp_path / "a.png").caption is None
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x80")
    assert Picture.read(tmp_path / "a.png").caption is None
    assert "a.txt" in caplog.text


def test_a_mask_of_another_size_is_refused(tmp_path):
    quarters().save(tmp_path / "a.png")
    Image.new("L", (64, 64)).save(tmp_path / "a.mask.png")
    with pytest.raises(FileProblem, match=r"64 x 64 pixels, but its picture is 96 x 64"):
        Picture.read(tmp_path / "a.png")


# Tensors and files


def test_to_tensor_and_back_is_the_centre_square():
    image = quarters(96, 64)
    tensor = to_tensor(image, 64)
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == ((3, 64, 64), torch.float32, True)
    assert tensor.min() >= -1 and tensor.max() <= 1
    assert far(to_image(tensor), image.crop((16, 0, 80, 64))) == 0


def test_shrinking_is_antialiased():
    stripes = Image.fromarray((np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8))
    assert to_tensor(stripes, 32).abs().max() < 0.05
    assert (mask_to_tensor(stripes, 32) - 0.5).abs().max() < 0.03


def test_to_image_clamps_and_refuses_what_is_no_picture():
    tensor = torch.full((3, 2, 2), 7.0, requires_grad=True)
    assert to_image(tensor).getpixel((0, 0)) == (255, 255, 255)
    assert to_image(torch.full((3, 2, 2), -7.0, dtype=torch.bfloat16)).getpixel((0, 0)) == (0, 0, 0)
    with pytest.raises(ValueError, match=r"\[1, 3, 8, 8\]"):
        to_image(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="not numbers"):
        to_image(torch.full((3, 2, 2), torch.nan))


def test_a_saved_picture_says_that_it_is_generated_and_how(tmp_path):
    settings = {
        "prompt": "a photo of <maya> – “smiling”",
        "seed": 3,
        "steps": [1, 2.5],
        "nested": {"a": None},
    }
    path = tmp_path / "new" / "a.png"
    save_png(quarters(), path, settings)
    assert read_settings(path) == settings
    assert far(read_picture(path), quarters()) == 0
    with Image.open(path) as image:
        assert image.text["generated"].startswith("yes, by semblant ")
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_no_file_says_whose_computer_made_it(tmp_path):
    settings = {
        "concept": str(Path.home() / "concepts" / "maya.safetensors"),
        "path": Path("/home/maya/a picture.png"),
        "windows": r"C:\Users\maya\b.png",
        "said": "read from /home/maya/secret/c.png today",
        "base": "runwayml/stable-diffusion-v1-5",
        "list": ["/Users/maya/d.png"],
    }
    image = quarters()
    image.info["comment"] = "taken by maya"
    save_png(image, tmp_path / "a.png", settings)
    assert read_settings(tmp_path / "a.png") == {
        "concept": "maya.safetensors",
        "path": "a picture.png",
        "windows": "b.png",
        "said": "read from c.png today",
        "base": "runwayml/stable-diffusion-v1-5",
        "list": ["d.png"],
    }
    content = (tmp_path / "a.png").read_bytes()
    assert b"taken by" not in content and b"secret" not in content


def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_png(quarters(), path, {"seed": 1})
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileProblem, match="No space left"):
        save_png(Image.new("RGB", (64, 64)), path, {"seed": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_saving_where_it_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileProblem, match="cannot be written"):
        save_png(quarters(), tmp_path / "file" / "a.png", {})
    (tmp_path / "a.png").mkdir()
    with pytest.raises(FileProblem, match="cannot be written"):
        save_png(quarters(), tmp_path / "a.png", {})
    with pytest.raises(FileProblem, match="PNG"):
        save_png(quarters(), tmp_path / "a.jpg", {})


@pytest.mark.parametrize("content", [None, "{", "[1]", "[" * 100_000])
def test_pictures_without_settings_say_so(tmp_path, content):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if content is not None:
        info.add_text("semblant", content)
    quarters().save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(FileProblem, match="no semblant settings" if content is None else "damaged"):
        read_settings(tmp_path / "a.png")


def test_settings_are_plain_json(tmp_path):
    save_png(quarters(), tmp_path / "a.png", {"b": 1, "a": 2})
    with Image.open(tmp_path / "a.png") as image:
        assert json.loads(image.text["semblant"]) == {"a": 2, "b": 1}
