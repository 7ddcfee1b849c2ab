"""Reading pictures as phones and programs make them, and writing pictures that say how they were made.

What comes out of `read_picture` is always upright, opaque, eight-bit RGB. What cannot be read is refused in one
sentence that names the file. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from semblant import __version__
from semblant.backbones.replacement import write_whole
from semblant.errors import FileProblem

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""What is decoded. Everything else Pillow knows (some of it calls other programs) is refused."""
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif")
"""File names taken for pictures in a folder; HEIC is among them so that it is refused by name and not overlooked."""
MASK_ENDING = ".mask.png"
PARTS_ENDING = ".parts.png"  # of labels that `semblant world render` writes beside NAME.png
SMALLEST_SIDE = 32
"""Pixels. Below this there is nothing to learn from."""
MOST_PIXELS = 50_000_000
LONGEST_CAPTION = 65_536
"""Bytes read of a caption file."""
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture file and what lies beside it."""

    image: Image.Image
    """Upright RGB."""
    path: Path
    digest: str
    """SHA-256 of the file."""
    caption: str | None = None
    """From `NAME.txt`."""
    mask: Image.Image | None = None
    """From `NAME.mask.png`: mode L, as large as the picture, white where the subject is."""

    @classmethod
    def read(cls, path: PathLike) -> Picture:
        """Read a picture with its caption and mask. Raises FileProblem when the picture or its mask cannot be used."""
        path = Path(path)
        image = read_picture(path)
        return cls(image, path, digest(path), _read_caption(path.with_suffix(".txt")), _read_mask(path, image.size))


def read_picture(path: PathLike) -> Image.Image:
    """Read a picture as RGB: turned upright, transparency on white, colours as sRGB, the first frame when it moves.

    Raises FileProblem for what is missing, no picture, damaged, under 32 pixels a side, or over 50 megapixels; the last
    two are seen in the header, before anything is decoded.
    """
    return _read(Path(path), WHITE)


def orientation(path: PathLike) -> int:
    """How the camera was held, as EXIF says: 1 is upright, 2 to 8 are turned or mirrored. FileProblem as above."""
    with _opened(Path(path)) as image:
        return int(image.getexif().get(0x0112, 1))


def find_pictures(path: PathLike) -> list[Path]:
    """The picture itself, or a folder's in order of their names, without masks, hidden files, labels of drawn pictures.

    Raises FileProblem when there is no such file or folder, or no picture in it.
    """
    path = Path(path)
    with _explained(path):
        if not path.exists():
            raise FileProblem(f"There is no file or folder {path}.")
        if not path.is_dir():
            return [path]
        inside = sorted(path.iterdir(), key=lambda p: (p.name.casefold(), p.name))
        found = [p for p in inside if _is_named_as_picture(p)]
    if not found:
        raise FileProblem(f"The folder {path} has no pictures; their names should end in {', '.join(ENDINGS)}.")
    return found


def read_folder(path: PathLike) -> list[Picture]:
    """Every picture of a folder (or the one picture) that can be read, in order of their names.

    What cannot be read is skipped with a warning. Raises FileProblem when nothing is left.
    """
    pictures, problems = [], []
    for file in find_pictures(path):
        try:
            pictures.append(Picture.read(file))
        except FileProblem as problem:
            logger.warning("Skipped: %s", problem)
            problems.append(problem)
    if not pictures:
        raise FileProblem(f"No picture in {path} can be used. {problems[0]}") from problems[0]
    return pictures


def digest(path: PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises FileProblem when it cannot be read."""
    path = Path(path)
    with _explained(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_tensor(image: Image.Image, size: int) -> Float[Tensor, "3 {size} {size}"]:
    """The centre square of a picture, resized with antialiasing, in -1..1."""
    pixels = np.asarray(_centre_square(image.convert("RGB"), size), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1).contiguous()


def mask_to_tensor(mask: Image.Image, size: int) -> Float[Tensor, "1 {size} {size}"]:
    """The centre square of a mask, resized as `to_tensor` does, in 0..1."""
    return torch.from_numpy(np.asarray(_centre_square(mask.convert("L"), size), dtype=np.float32) / 255)[None]


def to_image(tensor: Float[Tensor, "3 height width"]) -> Image.Image:
    """A picture from a tensor in -1..1; values outside are clamped. Raises ValueError for another shape or NaN."""
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ValueError(f"a picture is [3, height, width], got {list(tensor.shape)}")
    values = tensor.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise ValueError("the picture has values that are not numbers; what made it has diverged")
    pixels = ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def save_png(image: Image.Image, path: PathLike, settings: Mapping[str, Any], *, replace: bool = True) -> None:
    """Write a generated picture with the settings that made it, and the statement that it is generated.

    All or nothing: the file appears complete or not at all. Settings are written as JSON, without the folders of
    absolute paths. Raises FileProblem when the file cannot be written, and without `replace` FileExistsError where
    something is.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise FileProblem(f"Generated pictures are saved as PNG: give {path} the ending .png.")
    text = PngInfo()
    text.add_text("generated", f"yes, by semblant {__version__}")
    text.add_text("semblant", json.dumps(_without_folders(settings), sort_keys=True))
    buffer = io.BytesIO()
    # Only what is written here: no EXIF, profile or comment of a source picture travels along.
    clean = image.convert("RGB")
    clean.info = {}
    clean.save(buffer, "PNG", pnginfo=text)
    write_whole(path, buffer.getvalue(), replace=replace)


def write_picture(image: Image.Image, path: PathLike, **options: Any) -> None:
    """Write a picture as it is, whole or not at all, in the format of its ending; `options` are Pillow's.

    Raises FileProblem when it cannot be written, or has an ending that no picture has.
    """
    path = Path(path)
    Image.init()
    if (form := Image.EXTENSION.get(path.suffix.lower())) is None:
        raise FileProblem(f"{path} has no ending of a picture; give it one, such as .png or .jpg.")
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    write_whole(path, buffer.getvalue())


def read_settings(path: PathLike) -> dict[str, Any]:
    """The settings that `save_png` wrote into a picture. Raises FileProblem when there are none."""
    path = Path(path)
    with _opened(path) as image:
        image.load()
        text = getattr(image, "text", {}).get("semblant")
    if text is None:
        raise FileProblem(f"{path} holds no semblant settings: it was made or rewritten by another program.")
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileProblem(f"The semblant settings in {path} are damaged.") from error
    if not isinstance(settings, dict):
        raise FileProblem(f"The semblant settings in {path} are damaged.")
    return settings


# Opening


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while reading `path` into one FileProblem."""
    try:
        yield
    except FileProblem:
        raise
    except FileNotFoundError as error:
        raise FileProblem(f"There is no file {path}.") from error
    except IsADirectoryError as error:
        raise FileProblem(f"{path} is a folder, not a file.") from error
    except PermissionError as error:
        raise FileProblem(f"{path} may not be read: permission denied.") from error
    except Image.DecompressionBombError as error:
        raise FileProblem(_too_large(path)) from error
    except UnidentifiedImageError as error:
        readable = ", ".join(FORMATS[:-1])
        raise FileProblem(f"{path} is not a picture that can be read ({readable}), whatever its name says.") from error
    except Exception as error:
        # Decoders answer damaged files with almost any exception; none of them may reach the user as a traceback.
        raise FileProblem(f"{path} cannot be read, it may be damaged: {_reason(error)}.") from error


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture with its header read and its size found acceptable, nothing decoded yet."""
    with _explained(path), warnings.catch_warnings():
        # Pillow warns of sizes that are refused below, and of oddities in metadata that do not matter here.
        warnings.simplefilter("ignore")
        if path.is_dir():
            raise FileProblem(f"{path} is a folder, not a picture.")
        if path.exists() and not path.is_file():
            raise FileProblem(f"{path} is a device or a pipe, not a picture.")
        with path.open("rb") as file:
            start = file.read(12)
            if not start:
                raise FileProblem(f"{path} is empty.")
            if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
                raise FileProblem(f"{path} is a HEIC picture, which cannot be read here; export it as JPEG or PNG.")
            file.seek(0)
            Image.init()
            with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise FileProblem(_too_large(path, width, height))
                if min(width, height) < SMALLEST_SIDE:
                    raise FileProblem(
                        f"{path} is {width} x {height} pixels; a picture needs at least {SMALLEST_SIDE} a side."
                    )
                yield image


def _read(path: Path, background: tuple[int, int, int]) -> Image.Image:
    with _opened(path) as opened:
        opened.load()
        try:
            image = ImageOps.exif_transpose(opened)
        except Exception as error:
            logger.warning("%s has damaged EXIF data, so it may lie on its side: %s.", path, _reason(error))
            image = opened
        image = _to_rgb(image, background)
        # A copy without EXIF, comments or a thumbnail: a picture in memory is its pixels.
        return Image.frombytes("RGB", image.size, image.tobytes())


def _is_named_as_picture(path: Path) -> bool:
    name = path.name.lower()
    labels = name.endswith(PARTS_ENDING) and path.with_name(path.name[: -len(PARTS_ENDING)] + ".png").is_file()
    return name.endswith(ENDINGS) and not (labels or name.endswith(MASK_ENDING) or name[0] == ".") and path.is_file()


def _too_large(path: Path, width: int = 0, height: int = 0) -> str:
    size = f"{width} x {height} pixels" if width else "far too large"
    return (
        f"{path} is {size}, and the most that is read is {MOST_PIXELS // 1_000_000} megapixels; make it smaller first."
    )


def _reason(error: BaseException) -> str:
    """The first line of what an exception says, or its kind."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (said.strip().splitlines() or [type(error).__name__])[0].rstrip(".")


# Colours


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Any mode to RGB, in sRGB when the picture says what its colours mean."""
    profile = image.info.get("icc_profile")
    image = _eight_bits(image)
    if image.mode == "CMYK":
        return _through_profile(image, profile) or image.convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        clear = image.info.get("transparency")
        if isinstance(clear, tuple) and max(clear) > 255:
            # The transparent colour of a 16-bit picture, whose pixels Pillow has already cut to 8 bits.
            image.info["transparency"] = tuple(value >> 8 for value in clear)
        canvas = Image.new("RGBA", image.size, (*background, 255))
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    image = image.convert("RGB")
    return _through_profile(image, profile) or image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, 32 bits or floating point to eight bits, scaled and not clipped; other modes unchanged."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it has values that are not numbers")
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I;16"):
        scaled = values / 257
    elif image.mode == "I" and low >= 0 and high <= 65_535:
        scaled = values / 257 if high > 255 else values
    elif image.mode == "F" and low >= 0 and high <= 1:
        scaled = values * 255
    else:
        # Nothing says what black and white are: take the darkest and the lightest there is.
        scaled = (values - low) * (255 / max(high - low, 1e-12))
    grey = Image.fromarray(np.rint(scaled).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _through_profile(image: Image.Image, profile: bytes | None) -> Image.Image | None:
    """The picture in sRGB; None without a profile, or with one that is damaged or belongs to another mode."""
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        logger.debug("Colour profile ignored: %s", _reason(error))
        return None


# What lies beside a picture


def _read_caption(path: Path) -> str | None:
    """The text of a caption file on one line; None when there is none, or nothing in it."""
    if not path.is_file():
        return None
    with _explained(path), path.open("rb") as file:
        content = file.read(LONGEST_CAPTION)
    try:
        return " ".join(content.decode("utf-8-sig").split()) or None
    except UnicodeDecodeError:
        logger.warning("The caption file %s is not UTF-8 text and was left out.", path)
        return None


def _read_mask(picture: Path, size: tuple[int, int]) -> Image.Image | None:
    """The mask beside a picture; what is transparent in it counts as black."""
    path = picture.with_name(picture.stem + MASK_ENDING)
    if not path.is_file():
        return None
    mask = _read(path, BLACK).convert("L")
    if mask.size != size:
        raise FileProblem(
            f"The mask {path} is {mask.width} x {mask.height} pixels, but its picture is {size[0]} x {size[1]}."
        )
    return mask


def _centre_square(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((size, size), Image.Resampling.LANCZOS, (left, top, left + side, top + side))


# What is written

_HOME = re.compile(r"(?:[A-Za-z]:)?[\\/]+(?:home|Users|root)[\\/][^\s\"']*")


def _without_folders(value: Any) -> Any:
    """JSON values with absolute paths cut down to the file's name, so that no file says whose computer made it."""
    if isinstance(value, Mapping):
        return {str(_without_folders(key)): _without_folders(entry) for key, entry in value.items()}
    if isinstance(value, PurePath):
        return value.name
    if isinstance(value, str):
        if re.match(r"[\\/]|[A-Za-z]:[\\/]|~", value):
            return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
        return _HOME.sub(lambda found: re.split(r"[\\/]", found.group().rstrip("\\/"))[-1], value)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_without_folders(entry) for entry in value]
    return value
