"""Reading what was learned from a file of any form, and saying in which other forms it can be written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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
        (rows, word, form), said = embedding_file.read_pickled(pickled.read(path), str(path))
        return Learned(form, str(path), rows=rows, about=_named(word), said=tuple(said))
    found = inspection.inspect(path)
    if found["kind"] == "concept":
        return from_concept(concepts.load(path), str(path))
    if found["kind"] == "LoRA":
        return _file(path, found["naming"])
    if found["kind"] == "textual-inversion embedding":
        tensors, metadata = read_tensors(path)
        rows, word, form = embedding_file.read(tensors, str(path))
        return Learned(form, str(path), rows=rows, about=about_of(metadata, str(path)) | _named(word))
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


def _named(word: str | None) -> dict[str, str]:
    return {} if word is None else {"word": word}


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
    left = sorted(metadata.keys() - _UNDERSTOOD)
    if left:
        said = [*said, f"metadata of {path.name} is left there: {listed(left)}"]
    return _lora(naming, path, layers, about_of(metadata, str(path)), said)


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
    return _lora(peft_folder.FORM, folder, layers, about, [])


def _lora(form: str, path: Path, layers: Mapping[str, Layer], about: Mapping[str, object], said: list[str]) -> Learned:
    # Refuses what was made for Stable Diffusion XL, even where nobody asks for the width.
    places.width_of({place: layer.down for place, layer in layers.items()}, str(path))
    return Learned(form, str(path), layers=layers, about=about, said=tuple(said))
