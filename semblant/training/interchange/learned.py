"""What a file holds whatever its form, what it says of itself, and turning it into a concept and back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor

from semblant.backbones.architecture import is_xl
from semblant.errors import FileProblem, SemblantError
from semblant.training.concepts import Concept, is_plain_word, says_base, widths_of
from semblant.training.interchange.layers import Layer, same, usual
from semblant.training.interchange.places import Network, place_of

WORD, LORA = "textual-inversion", "lora-dreambooth"
"""The methods that a concept of rows, and one of low-rank layers, belongs to."""
RECORD = "semblant"
"""The metadata entry in which our own files of other forms say what those forms have no place for."""
CARRIED: dict[str, type] = {
    "method": str,
    "word": str,
    "class_word": str,
    "settings": dict,
    "base": dict,
    "seed": int,
    "steps": int,
    "licence": str,
}
"""What that entry holds. What stays in the concept is private, or figures of its run."""
_LEFT = ("pictures", "consent", "versions", "losses", "figures")


@dataclass(frozen=True)
class Learned:
    """Rows of a word, or layers of a LoRA by place."""

    form: str
    file: str
    rows: Float[Tensor, "n dim"] | None = None
    widths: tuple[int, ...] = ()
    """How wide the rows are in each text encoder, of which they hold those of all side by side."""
    layers: Mapping[str, Layer] = field(default_factory=dict)
    xl: bool = False
    """Whether it is for Stable Diffusion XL."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Entries of CARRIED, as far as the file says them."""
    said: tuple[str, ...] = ()
    """What the user should know of how it was read."""

    @property
    def method(self) -> str:
        """The method of the concept that it is, or would be."""
        return LORA if self.rows is None else WORD


def from_concept(concept: Concept, file: str) -> Learned:
    """A concept as other forms hold it.

    Raises SemblantError, saying why, for a concept that is neither plain rows of one word nor low-rank layers.
    """
    about = {name: getattr(concept, name) for name in CARRIED}
    left = [name for name in _LEFT if getattr(concept, name)]
    said = (f"{', '.join(left)} stay in {file}",) if left else ()
    xl = is_xl(str(concept.base.get("architecture")))
    if is_plain_word(concept):
        rows, widths = concept.tensors["rows"][0, 0, 0], widths_of(concept.base)
        if sum(widths) != rows.shape[1]:
            raise FileProblem(f"{file} is damaged: its rows are {rows.shape[1]} wide, and those of its base {widths}")
        return Learned("concept", file, rows=rows, widths=widths, xl=xl, about=about, said=said)
    if concept.method == LORA:
        return Learned("concept", file, layers=_layers(concept, file), xl=xl, about=about, said=said)
    raise SemblantError(f"{file} is {_kind(concept)}, so it stays a concept; other forms have no place for that")


def to_concept(
    learned: Learned, word: str, class_word: str, base: Mapping[str, Any], roots: Mapping[str, str]
) -> tuple[Concept, list[str]]:
    """The concept, and what to say of it. `base` is what concepts say of theirs; names of weights in the text encoders
    begin with `roots`, by `text` and `text_2`."""
    about = learned.about if learned.about.get("method") == learned.method else {}
    known = {name: about[name] for name in ("seed", "steps", "licence") if name in about}
    settings = dict(about.get("settings", {}))
    said: list[str] = []
    if "method" in learned.about and not about:
        said = [f"settings of {learned.about['method']} are left, for the concept is one of {learned.method}"]
    if learned.rows is not None:
        tensors = {"rows": learned.rows[None, None, None].contiguous()}
        settings["num_vectors"] = len(learned.rows)
    else:
        tensors, rank, alpha, folded = _factors(learned.layers, roots)
        settings |= {"rank": rank, "alpha": alpha}
        said += folded
    concept = Concept(learned.method, settings, word, class_word, dict(base), tensors, **known)
    return concept, said


def metadata_of(about: Mapping[str, Any]) -> dict[str, str]:
    """Metadata with which our own files of other forms become the same concept again."""
    own = {RECORD: json.dumps(dict(about), sort_keys=True)} if about else {}
    return {"format": "pt", **own}


def about_of(metadata: Mapping[str, str], file: str) -> dict[str, Any]:
    """What one of our own files says of itself; nothing for others. Raises FileProblem when it makes no sense."""
    if RECORD not in metadata:
        return {}
    try:
        about = json.loads(metadata[RECORD])
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise FileProblem(f"{file} is damaged: {RECORD} in its metadata is no JSON object")
    wrong = [name for name, value in about.items() if not isinstance(value, CARRIED.get(name, ()))]
    if isinstance(base := about.get("base"), dict) and not says_base(base):
        wrong.append("base")
    if wrong:
        raise FileProblem(f"{file} is damaged: {', '.join(wrong)} in its metadata is unknown or of a wrong kind")
    return about


def _kind(concept: Concept) -> str:
    """What a concept is, when it is not what other programs know."""
    rows = concept.tensors.get("rows")
    if rows is None or rows.ndim != 5 or len(concept.tensors) > 1:
        return f"the concept {concept.word} of {concept.method}, which changes more than a word or low-rank layers"
    stages, sites, parts = rows.shape[:3]
    counted = (
        [f"{stages} stages"] * (stages > 1) + [f"{sites} layers"] * (sites > 1) + ["keys and values"] * (parts > 1)
    )
    return (
        f"the word {concept.word} of {concept.method}, which has other rows for {' and for '.join(counted)}, "
        "while an embedding file holds one meaning of a word"
    )


def _layers(concept: Concept, file: str) -> dict[str, Layer]:
    """The layers of a LoRA concept. Raises FileProblem for settings or tensors that are no LoRA's."""
    rank, alpha = concept.settings.get("rank"), concept.settings.get("alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
        raise FileProblem(f"{file} is damaged: its settings give rank {rank!r} and alpha {alpha!r}, which are numbers")
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in concept.tensors.items():
        match = re.fullmatch(r"(unet|text|text_2)\.(.+)\.weight\.(up|down)", name)
        place = place_of(cast(Network, match[1]), match[2]) if match else None
        if match is None or place is None:
            raise FileProblem(f"{file} is not converted: its tensor {name} belongs to no layer that other forms know")
        found.setdefault(place, {})[match[3]] = tensor
    made = {}
    for place, sides in found.items():
        if lacking := {"up", "down"} - sides.keys():
            raise FileProblem(f"{file} is damaged: {place} lacks its matrix {lacking.pop()}")
        own = int(sides["down"].shape[0])
        made[place] = Layer(sides["up"], sides["down"], alpha if own == rank else alpha / rank * own)
    return made


def _factors(layers: Mapping[str, Layer], roots: Mapping[str, str]) -> tuple[dict[str, Tensor], int, float, list[str]]:
    """Tensors of a concept, its rank and alpha, and what to say when one alpha / rank does not fit all layers."""
    scales = {place: float(f"{layer.scale:.6g}") for place, layer in layers.items()}
    scale = usual(scales.values())
    rank = int(usual(layer.rank for place, layer in layers.items() if scales[place] == scale))
    alpha = next(layer.alpha for place, layer in layers.items() if scales[place] == scale and layer.rank == rank)
    tensors: dict[str, Tensor] = {}
    folded = 0
    for place, layer in layers.items():
        network, _, name = place.partition(".")
        weight = f"{network}.{roots.get(network, '')}{name}.weight"
        fitting = layer.with_alpha(alpha / rank * layer.rank)
        folded += not same(layer.alpha, fitting.alpha)
        tensors |= {f"{weight}.up": fitting.up, f"{weight}.down": fitting.down}
    said = (
        f"{folded} of {len(layers)} layers had another alpha / rank than {scale:g}, which went into their `up` matrix"
    )
    return tensors, rank, alpha, [said] if folded else []
