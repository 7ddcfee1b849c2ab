"""What a method learned about one subject, as data and as a file."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from jaxtyping import Float
from torch import Tensor

from semblant.backbones.architecture import is_xl
from semblant.backbones.base import Base
from semblant.errors import FileProblem, SemblantError
from semblant.training import checkpoint
from semblant.training.files import content_hash, not_finite, read_tensors, write_tensors

FORMAT = "semblant/1"
WHOLE = "sha256_all"
"""Metadata key of the checksum over all other metadata, that of the tensors among it. Early files have none."""
XL_ROWS, XL_WIDTHS = ("clip_l", "clip_g"), (768, 1280)
"""What embedding files call the rows in the two text encoders of Stable Diffusion XL, and how wide these are."""
logger = logging.getLogger(__name__)


@dataclass
class Concept:
    """A learned subject: tensors by name, and everything needed to know what they are.

    Pure data. Its method turns it into patches; `strength` scales them (0 is the class word, 1 what was learned).
    """

    method: str
    """Name of the method, as commands spell it."""
    settings: dict[str, Any]
    """The method's fields. After a file tuples are lists: whoever rebuilds the method makes them tuples again."""
    word: str
    class_word: str
    base: dict[str, Any]
    """What `Base.describe` said: name, architecture, width, of two text encoders each one's `widths`, hashes."""
    tensors: dict[str, Tensor]
    stages: list[int] | None = None
    """Which stage every training timestep belongs to, spelled out; None when there are no stages."""
    seed: int = 0
    steps: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()
    """SHA-256 of the files it was fitted to."""
    consent: str = ""
    licence: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    """What else the run measured: minutes, memory, effective weights."""
    strength: float = 1.0
    """Chosen by whoever uses it, so no file holds it."""


_WRITTEN: dict[str, type | tuple[type, ...]] = {
    "method": str,
    "settings": dict,
    "word": str,
    "class_word": str,
    "base": dict,
    "stages": (list, type(None)),
    "seed": int,
    "steps": int,
    "losses": dict,
    "pictures": list,
    "consent": str,
    "licence": str,
    "versions": dict,
    "figures": dict,
}
"""What a file's metadata holds beside its format and checksums, each as JSON text, and the type it reads back as."""
_REQUIRED = ("method", "settings", "word", "class_word", "base")
_PRIVATE = ("pictures", "consent", "versions")


def save(concept: Concept, path: str | Path, strip: bool = False) -> None:
    """Write a concept as one safetensors file, atomically; a file that was there is replaced.

    `strip` leaves out the pictures' hashes, the consent note and the versions. Paths through somebody's home folder are
    shortened to `~`. Raises SemblantError when a tensor holds NaN or infinity, FileProblem when it cannot be written.
    """
    if bad := not_finite(concept.tensors):
        raise SemblantError(
            f"the concept {concept.word} is not saved: {', '.join(bad)} hold NaN or infinity. "
            "Fit it again with a lower learning rate or in float32."
        )
    if not concept.tensors:
        raise SemblantError(f"the concept {concept.word} is not saved: it holds no tensors")
    facts = {name: getattr(concept, name) for name in _WRITTEN if not (strip and name in _PRIVATE)}
    if not strip and not concept.versions:
        facts["versions"] = versions()
    metadata = {name: json.dumps(_portable(value)) for name, value in facts.items()}
    metadata |= {"format": FORMAT, "sha256": content_hash(concept.tensors)}
    write_tensors(Path(path), concept.tensors, {**metadata, WHOLE: _metadata_hash(metadata)})


def load(path: str | Path, base: Base | None = None) -> Concept:
    """Read a concept. Nothing is ever unpickled.

    Raises FileProblem when the file is missing, damaged, not a concept or newer than this library, SemblantError when
    it was made for a base of another architecture or width than `base`; other weights of that form are only warned of.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    _require_format(path, tensors, metadata)
    require_whole(path, metadata)
    try:
        facts = {name: json.loads(metadata[name]) for name in _WRITTEN if name in metadata}
    except ValueError:
        raise FileProblem(f"{path} is damaged: its metadata is no JSON") from None
    wrong = [name for name in _REQUIRED if name not in facts]
    wrong += [name for name, value in facts.items() if not isinstance(value, _WRITTEN[name])]
    wrong += [name for name in ("word", "class_word") if facts.get(name) == ""]
    wrong += ["base"] if "base" not in wrong and not says_base(facts["base"]) else []
    if wrong:
        raise FileProblem(f"{path} is damaged: its metadata lacks, or has in a wrong form, {', '.join(wrong)}")
    if content_hash(tensors) != metadata.get("sha256"):
        raise FileProblem(f"{path} is damaged: its tensors do not match its checksum")
    if "pictures" in facts:
        facts["pictures"] = tuple(facts["pictures"])
    concept = Concept(tensors=tensors, **facts)
    if base is not None:
        require_base(concept, base, str(path))
    return concept


def require_whole(path: Path, metadata: Mapping[str, str]) -> None:
    """Raise FileProblem unless a concept's metadata is as it was written. The tensors are not looked at."""
    if WHOLE in metadata and metadata[WHOLE] != _metadata_hash(metadata):
        raise FileProblem(
            f"{path} is damaged: its metadata (word, class word, settings ...) does not match its checksum; "
            "take a copy that is whole, or fit the subject again"
        )


def _metadata_hash(metadata: Mapping[str, str]) -> str:
    """SHA-256 over all metadata but itself, as sorted JSON."""
    return content_hash({}, json.dumps({key: metadata[key] for key in metadata if key != WHOLE}, sort_keys=True))


def require_base(concept: Concept, base: Base, name: str | None = None) -> None:
    """Raise SemblantError when a concept needs another architecture or width than `base`; warn of other weights."""
    named = name or f"the concept {concept.word}"
    made_for = f"{concept.base.get('architecture')} (width {concept.base.get('width')})"
    if (concept.base.get("architecture"), concept.base.get("width")) != (base.architecture, base.width):
        raise SemblantError(
            f"{named} was made for {made_for} and cannot be used on {base.name}, which is {base.architecture} "
            f"(width {base.width}); choose a base of its kind or fit the subject on this one"
        )
    hashes = {part: value for part, value in base.hashes().items() if part in ("unet", "text", "text_2")}
    other = [part for part, value in hashes.items() if part in concept.base and concept.base[part] != value]
    if other:
        logger.warning(
            "%s was made on %s, whose %s differs from that of %s: the likeness may suffer",
            named,
            concept.base.get("name"),
            " and ".join(other),
            base.name,
        )


def save_embedding(concept: Concept, path: str | Path) -> Path:
    """Write the word of plain textual inversion as other programs read it: one tensor, `{word: [n, dim]}`, or for
    Stable Diffusion XL one for each text encoder, `{clip_l: [n, 768], clip_g: [n, 1280]}`.

    `path` is the concept's own; NAME.safetensors becomes NAME.embedding.safetensors, which is returned. Raises
    SemblantError for a concept that is more than one meaning of one word.
    """
    if not is_plain_word(concept):
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in concept.tensors.items())
        raise SemblantError(
            f"{concept.word} of {concept.method} is more than rows of one word ({shapes}), "
            "which the common embedding file cannot hold; share the concept file itself"
        )
    rows = concept.tensors["rows"]
    if not_finite({"rows": rows}):
        raise SemblantError(f"the embedding of {concept.word} is not saved: it holds NaN or infinity")
    target = Path(path).with_suffix(".embedding.safetensors")
    write_tensors(target, embedding_of(rows[0, 0, 0], concept.word, widths_of(concept.base)), {})
    return target


def says_base(about: Mapping[str, Any]) -> bool:
    """Whether a file says of a base what concepts need: an architecture, a width, and `widths`, if any, that sum to
    it."""
    width = about.get("width")
    widths = about.get("widths", [width])
    numbers = isinstance(widths, list) and all(type(number) is int for number in (width, *widths))
    return isinstance(about.get("architecture"), str) and numbers and sum(widths) == width


def widths_of(base: Mapping[str, Any]) -> tuple[int, ...]:
    """Widths of the rows in the text encoders of a base that a concept was made on."""
    return tuple(base.get("widths", XL_WIDTHS)) if is_xl(str(base.get("architecture"))) else (int(base["width"]),)


def embedding_of(rows: Float[Tensor, "n dim"], word: str, widths: Sequence[int]) -> dict[str, Tensor]:
    """The tensors of an embedding file."""
    if len(widths) == 1:
        return {word: rows}
    parts = rows.split(list(widths), -1)
    return {name: part.contiguous() for name, part in zip(XL_ROWS, parts, strict=True)}


def is_plain_word(concept: Concept) -> bool:
    """Whether it is plain textual inversion: rows of one word, the same at every stage and site and for both parts."""
    rows = concept.tensors.get("rows")
    return rows is not None and len(concept.tensors) == 1 and rows.ndim == 5 and rows.shape[:3] == (1, 1, 1)


def versions() -> dict[str, str]:
    """Versions of this library, torch and diffusers, as far as they are installed."""
    found = {}
    for name in ("semblant", "torch", "diffusers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            import semblant

            if name == "semblant":
                found[name] = semblant.__version__
    return found


def _require_format(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    given = metadata.get("format", "")
    if given == FORMAT:
        return
    if found := re.fullmatch(r"semblant/(\d+)", given):
        raise FileProblem(f"{path} is of format semblant/{found[1]} and this version reads {FORMAT}; upgrade semblant")
    if given == checkpoint.FORMAT:
        raise FileProblem(f"{path} is a checkpoint of an unfinished run, not a concept; `--resume` finishes the run")
    likely = _likely(tensors)
    hint = "; `semblant convert` makes a concept of it" if re.search("LoRA|embedding", likely) else ""
    raise FileProblem(f"{path} is not a concept of semblant; it seems to be {likely}{hint}")


_KINDS = (
    (r"lora_|\.lora\.|hada_w|lokr_", "low-rank weights (LoRA)"),
    (r"image_proj|ip_adapter", "an IP-Adapter"),
    (r"controlnet_|control_model\.", "a ControlNet"),
    (r"model\.diffusion_model\.", "a whole Stable Diffusion checkpoint"),
    (r"^(down_blocks|up_blocks|mid_block|conv_in)\.", "the weights of a U-Net"),
    (r"^(encoder|decoder|quant_conv|post_quant_conv)\.", "the weights of an autoencoder"),
    (r"text_model\.|token_embedding", "the weights of a text encoder"),
    (r"^(emb_params|string_to_param)", "a textual-inversion embedding"),
)


def _likely(tensors: Mapping[str, Tensor]) -> str:
    """What a foreign file holds, by the names of its tensors."""
    for pattern, kind in _KINDS:
        if any(re.search(pattern, name) for name in tensors):
            return kind
    if len(tensors) == 1 and next(iter(tensors.values())).ndim in (1, 2):
        return f"a textual-inversion embedding of {next(iter(tensors))}"
    first = ", ".join(sorted(tensors)[:3])
    return f"something else with {len(tensors)} tensors ({first or 'none'})"


_HOME = re.compile(r"(?:/home|/Users)/[^/\s]+|/root(?=/|$)|[A-Za-z]:\\Users\\[^\\\s]+")


def _portable(value: Any) -> Any:
    """A value as JSON holds it, without paths through anybody's home folder."""
    if isinstance(value, PurePath):
        return value.name
    if isinstance(value, str):
        home = str(Path.home())
        return _HOME.sub("~", value.replace(home, "~") if len(home) > 1 else value)
    if isinstance(value, Mapping):
        return {str(key): _portable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(inner) for inner in value]
    return value
