"""Writing what was learned in another program's form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from semblant.backbones.replacement import write_whole
from semblant.errors import FileProblem
from semblant.training.files import write_tensors
from semblant.training.interchange import diffusers_file, embedding_file, kohya_file, peft_folder
from semblant.training.interchange.adoption import word_of
from semblant.training.interchange.layers import Layer
from semblant.training.interchange.learned import Learned, metadata_of

_WRITERS = {diffusers_file.FORM: diffusers_file.write, kohya_file.FORM: kohya_file.write}


def write(found: Learned, form: str, target: Path, word: str | None = None) -> list[str]:
    """Write any form but the concept's own, a file or, for PEFT, a folder, and answer what to say of it.

    Each file is written whole or not at all. Raises FileProblem where one cannot be written, SemblantError for a word
    that cannot be.
    """
    # A foreign file's word is no account of ours.
    about = found.about if "method" in found.about else {}
    if found.rows is not None:
        return _embedding(found, form, target, word, about)
    if form == peft_folder.FORM:
        _peft(found.layers, target, metadata_of(about))
        return []
    tensors, metadata, said = _WRITERS[form](found.layers, found.xl)
    write_tensors(target, tensors, {**metadata_of(about), **metadata})
    return said


def _embedding(found: Learned, form: str, target: Path, word: str | None, about: Mapping[str, object]) -> list[str]:
    name, said = word_of(found, word)
    if form == embedding_file.NAMELESS:
        said = [f"the form has no place for a word: other programs call it by the file's name, {target.stem}"]
    assert found.rows is not None
    if len(found.widths) > 1:
        said = [f"the form has no place for a word: other programs call it by the file's name, {target.stem}"]
    tensors = embedding_file.write(found.rows, None if form == embedding_file.NAMELESS else name, found.widths)
    write_tensors(target, tensors, metadata_of({**about, "word": name} if about else {}))
    return said


def _peft(layers: Mapping[str, Layer], folder: Path, metadata: Mapping[str, str]) -> None:
    made = peft_folder.write(layers)
    for name in ("", *peft_folder.FOLDERS.values()):
        if name not in made and (folder / name / peft_folder.CONFIG).exists():
            raise FileProblem(
                f"{folder / name} holds another LoRA, which would be read with this one; give another --out"
            )
    for name, (tensors, config) in made.items():
        write_tensors(folder / name / peft_folder.WEIGHTS, tensors, metadata)
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        write_whole(folder / name / peft_folder.CONFIG, text.encode())
