"""Making a concept of what another program learned: its word, its class word, and the kind of base it is for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from semblant.backbones.architecture import XL, architecture_of
from semblant.backbones.base import Base
from semblant.backbones.spelling import text_roots
from semblant.data.subject import LONGEST_WORD, check_class_word, check_word
from semblant.errors import FileProblem, SemblantError
from semblant.training.concepts import XL_WIDTHS, Concept
from semblant.training.interchange.layers import Layer
from semblant.training.interchange.learned import LORA, Learned, to_concept
from semblant.training.interchange.places import TEXT_MODEL, width_of
from semblant.training.interchange.reading import FORMS

CLASS_WORD = "person"
"""What a subject is taken to be when neither the user nor the file says."""
_USUAL_NAMES = ("pytorch_lora_weights", "adapter_model", "learned_embeds")
"""Names that programs give to every file, so that its folder's name says more."""


def concept_of(
    found: Learned, word: str | None = None, class_word: str | None = None, base: Base | None = None
) -> tuple[Concept, list[str]]:
    """The concept that something learned becomes, and what to say of it.

    A word without angle brackets is also the rare word that a LoRA's prompts read as (its `identifier`). Without `base`
    its kind is told from the width of text encodings. Raises SemblantError for words that cannot be, for a base that it
    does not fit, and when the kind of base cannot be told.
    """
    word, said = word_of(found, word)
    if class_word is None:
        class_word = str(found.about.get("class_word", CLASS_WORD))
        if "class_word" not in found.about:
            said.append(f"the class word is taken to be {CLASS_WORD}; --class-word gives another")
    check_class_word(class_word)
    if word.casefold() == class_word.casefold():
        raise SemblantError(f"word and class word are both {word!r}; give another --word, such as `<{word}>`")
    made_for, roots = _base_of(found, base)
    concept, more = to_concept(found, word, class_word, made_for, roots)
    if found.method == LORA and "identifier" not in concept.settings and not word.startswith("<"):
        concept = replace(concept, settings={**concept.settings, "identifier": word})
    return concept, [*said, *more]


def word_of(found: Learned, given: str | None = None) -> tuple[str, list[str]]:
    """The word: the one given, the file's own, or one made of the file's name, which is then said.

    Raises SemblantError for a given word that cannot stand in a prompt.
    """
    own = found.about.get("word")
    if given is not None:
        check_word(given)
        return given, []
    if own is not None and _can_be_word(own):
        return own, []
    path = Path(found.file)
    name = path.resolve().parent.name if path.stem in _USUAL_NAMES else short_name(path)
    made = re.sub(r"[^\w*+-]+", "-", name if own is None else own).strip("-")[: LONGEST_WORD - 2].strip("-")
    word = f"<{made or 'subject'}>"
    return word, [f"the word is taken to be {word}; --word gives another"]


def short_name(path: Path) -> str:
    """The name of a file or folder without its ending, and without that of a form: `maya` of maya.kohya.safetensors."""
    whole = path.resolve()
    stem = whole.name if whole.is_dir() else whole.stem
    return re.sub(rf"\.({'|'.join(FORMS)})$", "", stem) or "concept"


def _can_be_word(text: str) -> bool:
    try:
        check_word(text)
    except SemblantError:
        return False
    return True


def _base_of(found: Learned, base: Base | None) -> tuple[dict[str, Any], Mapping[str, str]]:
    """What the concept says of its base, and what names of weights in the text encoders begin with."""
    if found.rows is not None:
        width: int | None = int(found.rows.shape[1])
    else:
        width = width_of({place: layer.down for place, layer in found.layers.items()}, found.file, found.xl)
    own = found.about.get("base")
    if own is not None and width not in (None, own["width"]):
        raise FileProblem(f"{found.file} is damaged: it was made for width {own['width']}, and its width is {width}")
    if base is not None:
        roots = _fitting(found, width, base)
        kind = {"name": base.name, "architecture": base.architecture, "width": base.width}
        if base.told_sizes:
            kind["widths"] = [reader.width for reader in base.readers]
        if own is not None and all(own.get(key) == kind[key] for key in ("architecture", "width")):
            return dict(own), roots
        return kind, roots
    if own is not None:
        return dict(own), text_roots()
    if width is None and found.xl:
        width = sum(XL_WIDTHS)
    if width is None:
        raise SemblantError(
            f"{found.file} changes no layer that reads text, which would tell its base; give --base NAME"
        )
    if found.xl:
        if (found.widths or (width,)) not in (XL_WIDTHS, (sum(XL_WIDTHS),)):
            wide = " and ".join(map(str, found.widths or (width,)))
            raise SemblantError(f"no base known here in the form of XL has text encodings of width {wide}; give --base")
        return {"name": "unknown", "architecture": XL, "width": width, "widths": list(XL_WIDTHS)}, text_roots()
    architecture = architecture_of(width)
    if architecture == f"width-{width}":
        raise SemblantError(f"no kind of base known here has text encodings of width {width}; give --base NAME")
    return {"name": "unknown", "architecture": architecture, "width": width}, text_roots()


def _fitting(found: Learned, width: int | None, base: Base) -> Mapping[str, str]:
    """What the base's names of weights in the text encoders begin with. Raises SemblantError when something does not
    fit, naming the layer."""
    widths = tuple(reader.width for reader in base.readers)
    if width not in (None, base.width):
        raise SemblantError(
            f"{found.file} is for bases of width {width}, and {base.name} is {base.architecture} (width {base.width})"
        )
    if found.rows is not None and found.widths and found.widths != widths:
        raise SemblantError(
            f"{found.file} has rows for text encoders {' and '.join(map(str, found.widths))} wide, and those of "
            f"{base.name} are {' and '.join(map(str, widths))} wide"
        )
    if found.xl and not base.told_sizes:
        raise SemblantError(
            f"{found.file} is for Stable Diffusion XL, and {base.name} is {base.architecture}; give another --base"
        )
    weights = dict(base.named_parameters())
    roots = {
        part: TEXT_MODEL if any(name.startswith(f"{part}.{TEXT_MODEL}") for name in weights) else ""
        for part in ("text", "text_2")
    }
    for place, layer in found.layers.items():
        network, _, name = place.partition(".")
        weight = weights.get(f"{network}.{roots.get(network, '')}{name}.weight")
        if weight is None:
            raise SemblantError(f"{found.file} changes {place}, which {base.name} does not have; give another --base")
        if (sides := _changed(layer)) != (given := tuple(weight.shape)):
            raise SemblantError(
                f"{found.file} changes {place} as one of {list(sides)}, and in {base.name} it is {list(given)}"
            )
    return roots


def _changed(layer: Layer) -> tuple[int, ...]:
    """Sides of the weight that a layer changes."""
    return (int(layer.up.shape[0]), *map(int, layer.down.shape[1:]))
