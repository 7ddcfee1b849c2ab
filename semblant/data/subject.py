"""Who or what is in the user's pictures, ready to be learned."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from semblant.backbones.prompt import placeholder
from semblant.data.faces import Detector, Face, find_faces
from semblant.data.masks import ellipse, share, standing_out
from semblant.data.pictures import PathLike, Picture, read_folder
from semblant.errors import SemblantError

logger = logging.getLogger(__name__)

FaceChoice = Literal["ask", "largest", "none"] | int
"""Which face of a picture: ask when there are several, the largest, none (the whole picture), or a number, counted from
1 on the left."""

MARGIN = 2.2
"""Sides of the crop per side of the face's box: hair and shoulders are in."""
HEAD_MARGIN = 1.5
"""The same where the box is that of the whole head: what is learned from then looks alike (FFHQ: some 4.5 times the way
from eye to eye)."""
LEAST_MARGIN = 1.5
"""When the picture is too narrow for the margin the crop shrinks to the picture, down to this; below it is padded."""
SMALL_CROP = 64
"""Pixels a side under which a crop is warned about."""
LONGEST_WORD = 40
PERSONS = frozenset(
    "person man woman boy girl child baby human people portrait face lady gentleman guy kid teenager "
    "father mother dad mum mom grandfather grandmother actor actress".split()
)
"""Class words whose subjects have a human face to look for."""

_WORD = re.compile(r"<[\w*+-]+>|[\w*+-]+")
_CLASS_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")


@dataclass(frozen=True, eq=False)
class Subject:
    """Pictures of one who or what, and the word it is called by. The tuples have one entry per picture.

    Raises SemblantError for words that cannot serve, ValueError when the tuples differ in length.
    """

    images: tuple[Image.Image, ...]
    """RGB, cropped around the face when there is one."""
    word: str
    """The placeholder in prompts, such as `<maya>`."""
    class_word: str
    """What kind of thing it is, such as `person`."""
    masks: tuple[Image.Image | None, ...] = ()
    """Mode L, as large as its picture, white on the subject; None where unknown."""
    faces: tuple[Face | None, ...] = ()
    """In pixels of `images`, that is, after cropping."""
    captions: tuple[str | None, ...] = ()
    """What each picture shows, with the word or `{}` where the subject is named."""
    sources: tuple[str, ...] = ()
    """SHA-256 of the files."""
    consent: str = ""
    """What the person shown has agreed to, in the user's words; stored with what is learned."""

    def __post_init__(self) -> None:
        check_word(self.word)
        check_class_word(self.class_word)
        if self.word.casefold() == self.class_word.casefold():
            raise SemblantError(f"Word and class word are both {self.word!r}; use a new word, such as `<maya>`.")
        if not self.images:
            raise SemblantError(f"There is no picture of {self.word}; give at least one.")
        for name, missing in (("masks", None), ("faces", None), ("captions", None), ("sources", "")):
            entries = getattr(self, name) or (missing,) * len(self.images)
            if len(entries) != len(self.images):
                raise ValueError(f"{len(self.images)} pictures but {len(entries)} {name}")
            object.__setattr__(self, name, tuple(entries))

    @classmethod
    def read(
        cls,
        path: PathLike | Iterable[PathLike],
        word: str,
        class_word: str,
        *,
        face: FaceChoice = "ask",
        detector: Detector | None = None,
        crop: bool = True,
        consent: str = "",
    ) -> Subject:
        """Read pictures from files or folders, and find the face in each when the subject is a person.

        Persons are told by `class_word`; for others faces are looked for only when `face` asks for one. `detector` is
        `find_faces` unless given. The mask is the one beside the picture, else an ellipse in the face's box. Without
        `crop` the picture stays whole. A numbered face is that of the pictures with several; where one picture among
        others has a single face, it is that. Raises FileProblem when no picture can be read, SemblantError when there
        is no face, or several and no choice among them.
        """
        # The cheap refusals first: nobody should wait for pictures to hear that a word is misspelt.
        check_word(word)
        check_class_word(class_word)
        choice = face_choice(face)
        paths = [path] if isinstance(path, str | os.PathLike) else list(path)
        pictures = [picture for entry in paths for picture in read_folder(entry)]
        looks = looking(choice, class_word.lower() in PERSONS)
        alone = len(pictures) == 1
        views = [_view(p, choice if looks else "none", detector or find_faces, crop, alone) for p in pictures]
        for picture in pictures:
            if picture.caption is not None and template_of(picture.caption, word) is None:
                logger.warning(
                    "The caption beside %s does not say where %s is and is not used: write %s or {} in it.",
                    picture.path,
                    word,
                    word,
                )
        return cls(
            images=tuple(image for image, _, _ in views),
            word=word,
            class_word=class_word,
            masks=tuple(mask for _, mask, _ in views),
            faces=tuple(found for _, _, found in views),
            captions=tuple(picture.caption for picture in pictures),
            sources=tuple(picture.digest for picture in pictures),
            consent=consent,
        )

    @property
    def templates(self) -> tuple[str | None, ...]:
        """Every picture's caption with `{}` where the word goes; None without a caption that says where."""
        return tuple(None if text is None else template_of(text, self.word) for text in self.captions)

    @property
    def pixels(self) -> str:
        """A short hash of all that is seen of the pictures: after cropping, with their masks."""
        total = hashlib.sha256()
        for image in (*self.images, *self.masks):
            total.update(b"none" if image is None else f"{image.mode} {image.size} ".encode() + image.tobytes())
        return total.hexdigest()[:16]

    def with_masks(self, detector: Detector = find_faces) -> Subject:
        """The subject with a mask for every picture, found where none is given, which is warned of.

        Raises SemblantError for a mask that is black all over: nothing would be learned from its picture.

        It is an ellipse in the face's box, looked for once more when the subject is a person, else what stands out from
        the edge of the picture.
        """
        masks = list(self.masks)
        for index, mask in enumerate(masks):
            if mask is not None:
                if not share(mask):
                    raise SemblantError(
                        f"the mask of picture {index + 1} of {self.word} is black all over, so that nothing of it "
                        "would be learned: paint the subject white, take the mask away, or give --set mask_loss=false"
                    )
                continue
            image, face = self.images[index], self.faces[index]
            if face is None and self.class_word.lower() in PERSONS:
                face = max(detector(image), key=lambda f: f.width * f.height, default=None)
            masks[index] = found = ellipse(image.size, face) if face is not None else standing_out(image)
            logger.warning(
                "Picture %d of %s has no mask; %s was taken for one, %.0f %% of the picture. Put NAME.mask.png beside "
                "the picture for a better one.",
                index + 1,
                self.word,
                "what stands out from its edge" if face is None else "an ellipse in its face",
                100 * share(found),
            )
        return replace(self, masks=tuple(masks))


def looking(choice: FaceChoice, person: bool) -> bool:
    """Whether faces are looked for: those of persons unless not wanted, others' only when one is asked for."""
    return choice != "none" and (choice != "ask" or person)


def template_of(caption: str, word: str) -> str | None:
    """A caption with `{}` where the word goes; None when neither the word nor `{}` is in it."""
    # As in prompts, "sks" is not in "desks"; brackets need no space around them.
    named = placeholder([word]).sub("{}", caption)
    return named if "{}" in named else None


def check_word(word: str) -> None:
    """Raise SemblantError unless `word` can stand in a prompt for a subject."""
    if not word or len(word) > LONGEST_WORD or not _WORD.fullmatch(word):
        raise SemblantError(
            f"{_shown(word)} cannot be the subject's word. Write one word of at most {LONGEST_WORD} characters "
            "in angle brackets, of letters, digits and hyphens and without spaces, such as `<maya>`."
        )


def check_class_word(word: str) -> None:
    """Raise SemblantError unless `word` is one plain word."""
    if not word or len(word) > LONGEST_WORD or not _CLASS_WORD.fullmatch(word):
        raise SemblantError(
            f"{_shown(word)} cannot be the class word. Write one plain word that says what the subject is, such as "
            "person, dog or backpack."
        )


def face_crop(image: Image.Image, face: Face) -> tuple[Image.Image, tuple[int, int]]:
    """A square around a face, `MARGIN` or `HEAD_MARGIN` times its box, and where its left upper corner lies in the
    picture.

    The square is moved into the picture when it hangs over; what still hangs over is filled by reflection.
    """
    extent = max(face.width, face.height)
    margin = HEAD_MARGIN if face.head else MARGIN
    side = max(1, round(min(margin * extent, max(LEAST_MARGIN * extent, min(image.size)))))
    left, top = (
        min(max(round(middle - side / 2), 0), length - side) if side <= length else round((length - side) / 2)
        for middle, length in zip(face.centre, image.size, strict=True)
    )
    return _window(image, left, top, side), (left, top)


def _view(
    picture: Picture, choice: FaceChoice, detector: Detector, crop: bool, alone: bool
) -> tuple[Image.Image, Image.Image | None, Face | None]:
    """What is learned from a picture: image, mask, and the face in the image's pixels."""
    if choice == "none":
        return picture.image, picture.mask, None
    face = choose_face(list(detector(picture.image)), choice, picture.path, alone)
    image, mask = picture.image, picture.mask
    if crop:
        image, (left, top) = face_crop(picture.image, face)
        mask = None if mask is None else _window(mask, left, top, image.width)
        x, y, right, bottom = face.box
        face = replace(face, box=(x - left, y - top, right - left, bottom - top))
        if image.width < SMALL_CROP:
            logger.warning(
                "The face in %s is small: its crop is %d pixels a side. A larger picture will give a better likeness.",
                picture.path,
                image.width,
            )
    return image, mask or ellipse(image.size, face), face


def choose_face(faces: list[Face], choice: FaceChoice, path: Path, alone: bool = True) -> Face:
    """The face that `choice` names. Raises SemblantError, listing the faces, when it names none or leaves it open.

    A number counts from the left. Unless the picture is `alone`, it concerns only pictures with several faces.
    """
    faces = sorted(faces, key=lambda face: (face.centre[0], face.centre[1]))
    if not faces:
        raise SemblantError(
            f"No face was found in {path}. Give an upright picture from the front, or use the whole picture with "
            "`--face none`."
        )
    if isinstance(choice, int):
        if len(faces) == 1 and not alone:
            return faces[0]
        if not 1 <= choice <= len(faces):
            raise SemblantError(f"There is no face {choice} in {path}. It has {len(faces)}: {_listed(faces)}.")
        return faces[choice - 1]
    if choice == "ask" and len(faces) > 1:
        raise SemblantError(
            f"{len(faces)} faces were found in {path}: {_listed(faces)}. Choose one by its number, counted from the "
            f"left, with `--face 1` to `--face {len(faces)}`, take `--face largest`, or use the whole picture with "
            "`--face none`."
        )
    return max(faces, key=lambda face: face.width * face.height)


def _listed(faces: list[Face]) -> str:
    return ", ".join(
        f"{number}: {face.width:.0f} x {face.height:.0f} pixels at ({face.box[0]:.0f}, {face.box[1]:.0f})"
        for number, face in enumerate(faces, 1)
    )


def face_choice(face: FaceChoice | str) -> FaceChoice:
    """The choice as read from a command line or a form. Raises SemblantError for what names no face."""
    if face in ("ask", "largest", "none"):
        return face  # type: ignore[return-value]
    if not isinstance(face, bool) and str(face).isascii() and str(face).isdigit():
        return int(face)
    raise SemblantError(f"{face!r} names no face. Say ask, largest, none, or a number, counted from 1 on the left.")


def _window(image: Image.Image, left: int, top: int, side: int) -> Image.Image:
    """A square cut out of a picture; what lies outside is its reflection."""
    columns = _bounced(left, side, image.width)
    rows = _bounced(top, side, image.height)
    return Image.fromarray(np.ascontiguousarray(np.asarray(image)[rows][:, columns]))


def _bounced(start: int, count: int, length: int) -> np.ndarray:
    """Indices `start`, `start` + 1, ... turned back at both ends of 0..length-1."""
    period = max(2 * (length - 1), 1)
    place = np.arange(start, start + count) % period
    return np.minimum(np.minimum(place, period - place), length - 1)


def _shown(word: str) -> str:
    return repr(word if len(word) <= LONGEST_WORD else word[:LONGEST_WORD] + "...")
