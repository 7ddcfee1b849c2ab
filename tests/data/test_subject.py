"""Subjects: words that can serve, faces that are chosen, crops and masks that fit."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from PIL import Image
from skimage import data

from semblant.data.faces import Face
from semblant.data.masks import ellipse
from semblant.data.subject import Subject, check_class_word, check_word, face_crop, template_of
from semblant.errors import FileProblem, SemblantError

IMAGE = Image.new("RGB", (64, 64), "teal")


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards: every pixel tells where it came from."""
    y, x = np.indices((height, width))
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8))


def seeing(*faces: Face):
    return lambda image: list(faces)


@pytest.mark.parametrize("word", ["<maya>", "sks", "V*", "<cat-toy>", "<s1>", "<łukasz>", "<" + "a" * 38 + ">"])
def test_words_that_can_serve(word):
    check_word(word)


@pytest.mark.parametrize(
    "word",
    [
        *("", " ", "<ma ya>", "maya ", "<maya", "maya>", "<>", "<a><b>", "a" * 41, "(maya)", "maya:1.2", "<a,b>"),
        *("a\\b", "{}", "<a\tb>", "<a\x00>", "<a\u200bb>", "<a\n>", "<maya>\n"),
    ],
)
def test_words_that_cannot_serve_are_refused_with_an_example(word):
    with pytest.raises(SemblantError, match="<maya>") as caught:
        check_word(word)
    assert "\n" not in str(caught.value) and "\x00" not in str(caught.value)


@pytest.mark.parametrize("word", ["", "toy car", "<person>", "person,", "-", "a" * 41, "a\x07"])
def test_class_words_are_one_plain_word(word):
    with pytest.raises(SemblantError, match="person, dog"):
        check_class_word(word)
    for plain in ("person", "teddy-bear", "Hund", "château"):
        check_class_word(plain)


def test_a_subject_is_checked_and_frozen():
    subject = Subject((IMAGE,), "<maya>", "person")
    assert (subject.masks, subject.faces, subject.captions, subject.sources) == ((None,), (None,), (None,), ("",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        subject.word = "<other>"
    with pytest.raises(SemblantError, match="new word"):
        Subject((IMAGE,), "Person", "person")
    with pytest.raises(SemblantError, match="at least one"):
        Subject((), "<maya>", "person")
    with pytest.raises(ValueError, match="1 pictures but 2 masks"):
        Subject((IMAGE,), "<maya>", "person", masks=(None, None))


def test_a_portrait_becomes_a_crop_with_a_mask_on_the_face(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(data.astronaut()).save(path)
    (tmp_path / "a.txt").write_text("a woman in an orange suit")
    subject = Subject.read(path, "<maya>", "person", consent="she said yes")
    (image,), (mask,), (face,) = subject.images, subject.masks, subject.faces
    assert image.width == image.height == pytest.approx(2.2 * face.width, abs=2)
    assert face.centre == pytest.approx((image.width / 2, image.width / 2), abs=2)
    white = np.argwhere(np.asarray(mask) == 255)
    assert white.mean(0) == pytest.approx((image.width / 2,) * 2, abs=2)
    assert len(white) == pytest.approx(np.pi / 4 * face.width * face.height, rel=0.05)
    assert subject.captions == ("a woman in an orange suit",)
    assert subject.sources == (hashlib.sha256(path.read_bytes()).hexdigest(),)
    assert subject.consent == "she said yes"


def test_without_crop_the_picture_stays_whole(tmp_path):
    gradient(200, 100).save(tmp_path / "a.png")
    face = Face((50, 20, 90, 60), 1.0)
    subject = Subject.read(tmp_path / "a.png", "<maya>", "person", detector=seeing(face), crop=False)
    assert subject.images[0].size == subject.masks[0].size == (200, 100)
    assert subject.faces == (face,)
    assert subject.masks[0].getpixel((70, 40)) == 255 and subject.masks[0].getpixel((52, 22)) == 0


def test_the_mask_beside_the_picture_is_cropped_with_it(tmp_path):
    gradient(200, 200).save(tmp_path / "a.png")
    mask = Image.new("L", (200, 200))
    mask.paste(255, (100, 0, 200, 200))
    mask.save(tmp_path / "a.mask.png")
    subject = Subject.read(tmp_path / "a.png", "<maya>", "person", detector=seeing(Face((80, 80, 120, 120), 1.0)))
    red = np.asarray(subject.images[0])[..., 0]
    assert np.array_equal(np.asarray(subject.masks[0]) == 255, red >= 100)


@pytest.mark.parametrize("box", [(80, 80, 120, 120), (0, 0, 40, 40), (150, 170, 190, 200), (170, 10, 200, 40)])
def test_the_crop_holds_the_face_and_only_real_pixels(box):
    image = gradient(200, 200)
    crop, (left, top) = face_crop(image, Face(box, 1.0))
    assert left <= box[0] and top <= box[1] and left + crop.width >= box[2] and top + crop.width >= box[3]
    assert np.array_equal(np.asarray(crop), np.asarray(image)[top : top + crop.width, left : left + crop.width])
    assert crop.width == round(2.2 * max(box[2] - box[0], box[3] - box[1]))


def test_a_whole_head_needs_less_around_it_and_stays_one(tmp_path):
    gradient(200, 200).save(tmp_path / "a.png")
    head = Face((80, 80, 120, 120), 1.0, head=True)
    subject = Subject.read(tmp_path / "a.png", "<maya>", "person", detector=seeing(head))
    assert subject.images[0].size == (60, 60) and subject.faces[0] == Face((10, 10, 50, 50), 1.0, head=True)


def test_what_hangs_over_is_reflected():
    # 100 wide, but the face alone is 80: the least margin makes 120, ten pixels over on either side.
    image = gradient(100, 200)
    crop, (left, top) = face_crop(image, Face((10, 60, 90, 140), 1.0))
    assert (crop.size, left, top) == ((120, 120), -10, 40)
    row = np.asarray(crop)[0, :, 0].tolist()
    assert row[:12] == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1]
    assert row[-12:] == [98, 99, 98, 97, 96, 95, 94, 93, 92, 91, 90, 89]


def test_no_face_is_said_and_a_way_out_offered(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(noise).save(path)
    with pytest.raises(SemblantError, match=r"No face .*a\.png.*--face none"):
        Subject.read(path, "<maya>", "person")
    subject = Subject.read(path, "<maya>", "person", face="none")
    assert subject.images[0].size == (128, 128) and subject.masks == (None,) and subject.faces == (None,)


def test_things_and_animals_have_no_face_to_look_for(tmp_path):
    gradient(64, 64).save(tmp_path / "a.png")

    def never(image):
        pytest.fail("looked for a face")

    assert Subject.read(tmp_path / "a.png", "<it>", "backpack", detector=never).faces == (None,)
    cat = Subject.read(tmp_path / "a.png", "<it>", "cat", face="largest", detector=seeing(Face((20, 20, 40, 40), 1.0)))
    assert cat.images[0].size == (44, 44)


def test_several_faces_are_listed_and_one_is_chosen(tmp_path):
    face = Image.fromarray(data.astronaut()).crop((120, 0, 330, 210))
    both = Image.new("RGB", (500, 240), "white")
    both.paste(face.resize((150, 150)), (10, 40))
    both.paste(face, (250, 10))
    path = tmp_path / "two.png"
    both.save(path)
    with pytest.raises(
        SemblantError, match=r"2 faces .*two\.png: 1: \d+ x \d+ pixels.*left.*--face 1.*--face 2.*--face largest"
    ) as said:
        Subject.read(path, "<maya>", "person")
    assert "none" in str(said.value)
    largest, first, second = (Subject.read(path, "<maya>", "woman", face=f) for f in ("largest", 1, "2"))
    assert largest.images[0].tobytes() == second.images[0].tobytes()
    assert first.faces[0].width < second.faces[0].width
    for wrong in (0, 3):
        with pytest.raises(SemblantError, match=f"no face {wrong}.*has 2"):
            Subject.read(path, "<maya>", "person", face=wrong)


@pytest.mark.parametrize("face", ["biggest", -1, True, 1.5, "", None])
def test_a_choice_that_names_no_face_is_refused(tmp_path, face):
    with pytest.raises(SemblantError, match="ask, largest, none"):
        Subject.read(tmp_path / "missing.png", "<maya>", "person", face=face)


def test_files_and_folders_are_read_together(tmp_path, caplog):
    (tmp_path / "more").mkdir()
    for name in ("b.png", "more/z.png", "more/a.png"):
        gradient(64, 48).save(tmp_path / name)
    (tmp_path / "more" / "broken.png").write_text("no picture")
    subject = Subject.read([tmp_path / "b.png", str(tmp_path / "more")], "<it>", "teapot")
    assert len(subject.images) == len(subject.sources) == 3
    assert "broken.png" in caplog.text
    with pytest.raises(FileProblem, match=r"gone\.png"):
        Subject.read([tmp_path / "gone.png"], "<it>", "teapot")
    with pytest.raises(SemblantError, match="at least one"):
        Subject.read([], "<it>", "teapot")


def test_a_small_face_is_warned_about(tmp_path, caplog):
    gradient(200, 200).save(tmp_path / "a.png")
    Subject.read(tmp_path / "a.png", "<maya>", "person", detector=seeing(Face((80, 80, 100, 100), 1.0)))
    assert "44 pixels" in caplog.text


def test_the_ellipse_fills_the_box():
    mask = np.asarray(ellipse((100, 80), Face((20, 10, 60, 70), 1.0)))
    assert mask.shape == (80, 100)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 70, 20, 60)


def test_a_number_concerns_the_group_pictures_of_a_folder_only(tmp_path):
    gradient(200, 200).save(tmp_path / "alone.png")
    gradient(240, 200).save(tmp_path / "group.png")
    left, right = Face((20, 50, 60, 90), 1.0), Face((150, 50, 180, 80), 1.0)

    def looking(image):
        return [left] if image.width == 200 else [left, right]

    second = Subject.read(tmp_path, "<maya>", "person", face=2, detector=looking, crop=False)
    assert second.faces == (left, right)
    with pytest.raises(SemblantError, match="no face 2"):
        Subject.read(tmp_path / "alone.png", "<maya>", "person", face=2, detector=looking)


@pytest.mark.parametrize(
    ("caption", "word", "template"),
    [
        ("a photo of <maya> and a dog", "<maya>", "a photo of {} and a dog"),
        ("a photo of {}", "<maya>", "a photo of {}"),
        ("sks on desks", "sks", "{} on desks"),
        ("desks", "sks", None),
        ("a woman", "<maya>", None),
    ],
)
def test_a_caption_becomes_a_template(caption, word, template):
    assert template_of(caption, word) == template


def test_a_folder_brings_pictures_masks_and_captions_together(tmp_path, caplog):
    for name, size in (("a", 60), ("b", 70), ("c", 80)):
        gradient(size, size).save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("<rex> on the beach\n")
    (tmp_path / "b.txt").write_text("a dog in the snow")
    mask = Image.new("L", (70, 70))
    mask.paste(255, (10, 10, 30, 30))
    mask.save(tmp_path / "b.mask.png")
    subject = Subject.read(tmp_path, "<rex>", "dog")
    assert [image.width for image in subject.images] == [60, 70, 80]
    assert [m is not None for m in subject.masks] == [False, True, False]
    assert subject.templates == ("{} on the beach", None, None)
    assert "b.png" in caplog.text and "{}" in caplog.text and "a.png" not in caplog.text


def test_masks_are_found_where_none_is_given(tmp_path, caplog):
    thing = Image.fromarray((np.random.default_rng(0).random((100, 120, 3)) * 40 + 160).astype(np.uint8))
    true = ellipse((120, 100), Face((30, 20, 80, 85), 1.0))
    thing.paste((200, 40, 30), mask=true)
    given = Image.new("L", (120, 100), 7)
    subject = Subject((thing, thing), "<it>", "teapot", masks=(None, given)).with_masks()
    found = np.asarray(subject.masks[0]) > 127
    wanted = np.asarray(true) > 127
    assert (found & wanted).sum() / (found | wanted).sum() > 0.85
    assert subject.masks[1] is given and caplog.text.count("has no mask") == 1
    black = Subject((thing, thing), "<it>", "teapot", masks=(given, Image.new("L", thing.size, 0)))
    with pytest.raises(SemblantError, match="mask of picture 2 of <it> is black all over"):
        black.with_masks()
    plain = Subject((Image.new("RGB", (100, 100), "teal"),), "<it>", "teapot").with_masks().masks[0]
    assert np.asarray(plain)[50, 50] == 255 and np.asarray(plain)[2, 2] == 0
    face = Face((20, 20, 60, 60), 1.0)
    person = Subject((thing,), "<maya>", "person").with_masks(seeing(face)).masks[0]
    assert person.tobytes() == ellipse((120, 100), face).tobytes()
