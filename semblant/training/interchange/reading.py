"""Reading what was learned from a file of any form, and saying in which other forms it can be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from semblant.backbones.architecture import is_xl
from semblant.errors import FileProblem, SemblantError
from semblant.training import concepts, inspection
from semblant.training.files import read_tensors
from semblant.training.interchange import diffusers_file, embedding_file, kohya_file, peft_folder, pickled, places
from semblant.training.interchange.layers import Layer, listed
from semblant.training.interchange.learned import LORA, RECORD, WORD, Learned, about_of, from_concept

CONCEPT = "concept"
FORMS: dict[str, str | None] = {
    CONCEPT: None,
    embedding_file.FORM: WORD,
    embedding_file.NAMELESS: WORD,
    peft_folder.FORM: LORA,
    diffusers_file.FORM: LORA,
    kohya_file.FORM: LORA,
}
"""Forms that can be written, and the method whose concepts they are for; None where they are for either."""
POSSIBLE = (
    "concepts of semblant, embeddings of one word (safetensors, or pickled by a web UI or diffusers), and LoRAs of "
    "PEFT, diffusers or kohya; files of Custom Diffusion are not supported yet"
)
_LAYOUTS = {"diffusers": diffusers_file.read, "kohya": kohya_file.read}
_UNDERSTOOD = {"format", RECORD, diffusers_file.CONFIG, *kohya_file.UNDERSTOOD}


def read(path: Path) -> Learned:
    """What a file, or a folder of PEFT, holds.

    Raises FileProblem for what is missing, damaged or of another kind, and for every key that is unknown or missing;
    SemblantError for concepts that other forms have no place for.
    """
    if path.is_dir():
        return _folder(path)
    if pickled.is_pickle(path):
        read_rows, said = embedding_file.read_pickled(pickled.read(path), str(path))
        return _word(path, read_rows, {}, said)
    found = inspection.inspect(path)
    if found["kind"] == "concept":
        return from_concept(concepts.load(path), str(path))
    if found["kind"] == "LoRA":
        return _file(path, found["naming"])
    if found["kind"] == "textual-inversion embedding":
        tensors, metadata = read_tensors(path)
        return _word(path, embedding_file.read(tensors, str(path)), about_of(metadata, str(path)))
    raise FileProblem(f"{path} is not converted: it is or holds {found['kind']}; possible: {POSSIBLE}")


def require(found: Learned, form: str) -> None:
    """Raise SemblantError when something learned cannot have a form, or has it already."""
    possible = ", ".join(
        name for name, method in FORMS.items() if method in (None, found.method) and name != found.form
    )
    if found.form == form:
        raise SemblantError(f"{found.file} is in {form} form already; possible: {possible}")
    if FORMS[form] not in (None, found.method):
        what = "the rows of a word" if found.method == WORD else "low-rank changes of weights (a LoRA)"
        raise SemblantError(f"{found.file} holds {what}, which the form {form} is not for; possible: {possible}")
    if form == embedding_file.NAMELESS and len(found.widths) > 1:
        raise SemblantError(
            f"{found.file} holds the rows of a word in two text encoders, and {form} has one tensor for one; use "
            f"{embedding_file.FORM}, which has a tensor for each"
        )


def _word(path: Path, read: embedding_file.Rows, about: Mapping[str, object], said: Sequence[str] = ()) -> Learned:
    """The rows of a word, and what the file calls it."""
    named = dict(about) if read.word is None else {**about, "word": read.word}
    xl = len(read.widths) > 1
    return Learned(read.form, str(path), rows=read.rows, widths=read.widths, xl=xl, about=named, said=tuple(said))


def _file(path: Path, naming: str) -> Learned:
    """A LoRA in one file."""
    if naming not in _LAYOUTS:
        if path.name != peft_folder.WEIGHTS or not path.with_name(peft_folder.CONFIG).is_file():
            raise FileProblem(
                f"{path} names its layers as PEFT does, but is no {peft_folder.WEIGHTS} beside an "
                f"{peft_folder.CONFIG}, which says how strong they are; give the folder that PEFT wrote"
            )
        return _folder(path.parent)
    tensors, metadata = read_tensors(path)
    layers, said = _LAYOUTS[naming](tensors, metadata, str(path))
    understood = {kohya_file.MADE_FOR} if metadata.get(kohya_file.MADE_FOR) == kohya_file.XL_BASE else set()
    left = sorted(metadata.keys() - _UNDERSTOOD - understood)
    if left:
        said = [*said, f"metadata of {path.name} is left there: {listed(left)}"]
    made_for = metadata.get(kohya_file.MADE_FOR, "").startswith("sdxl")
    xl = places.is_xl(tensors) or made_for
    return _lora(naming, path, layers, about_of(metadata, str(path)), said, xl)


def _folder(folder: Path) -> Learned:
    """A LoRA of PEFT."""
    layers: dict[str, Layer] = {}
    about: dict[str, object] = {}
    for pair in peft_folder.pairs_in(folder):
        config, tensors, metadata = peft_folder.read_files(pair)
        some = peft_folder.read(tensors, config, str(pair))
        if twice := sorted(layers.keys() & some.keys()):
            raise FileProblem(f"{folder} has {listed(twice)} in more than one of its folders")
        layers |= some
        about |= about_of(metadata, str(pair))
    return _lora(peft_folder.FORM, folder, layers, about, [], False)


def _lora(
    form: str, path: Path, layers: Mapping[str, Layer], about: Mapping[str, Any], said: list[str], xl: bool
) -> Learned:
    """Layers, and whether they are for XL: which a file says of its base, by names of its own or by a width."""
    downs = {place: layer.down for place, layer in layers.items()}
    xl = xl or is_xl(str(about.get("base", {}).get("architecture"))) or places.is_xl_by_layers(downs)
    # Refuses what fits no base, even where nobody asks for the width.
    places.width_of(downs, str(path), xl)
    return Learned(form, str(path), layers=layers, xl=xl, about=about, said=tuple(said))
