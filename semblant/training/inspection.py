"""What a file or folder is, told from its header alone: concepts, embeddings, LoRAs, bases, pictures. No pickles."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from semblant.backbones import folder, original, parts
from semblant.backbones.architecture import XL, architecture_of
from semblant.backbones.header import Header, read_header
from semblant.data.pictures import ENDINGS, read_picture, read_settings
from semblant.errors import FileProblem, SemblantError
from semblant.training import checkpoint, concepts
from semblant.training.interchange import places

LORAS = {
    "PEFT": re.compile(r"^base_model\.model\.(.+)\.lora_(A|B)\.(?:\w+\.)?weight$"),
    "diffusers": re.compile(
        r"^((?:unet|text_encoder|text_encoder_2|down_blocks|up_blocks|mid_block)\..+?)(?:\.lora_(A|B)\.weight|[._]lora(?:_linear_layer)?\.(down|up)\.weight)$"
    ),
    "kohya": re.compile(r"^(lora_(?:unet|te\d?)_.+)\.lora_(down|up)\.weight$"),
}
"""Namings of low-rank weights: the place they go to, and which of the two matrices it is (A and down: the first)."""
AXES = ("stages", "sites", "parts", "length", "dim")
"""What the sides of a concept's table of rows count; parts are keys and values."""
_KINDS = (
    (r"hada_w|lokr_|oft_blocks", "low-rank weights of another kind (LyCORIS)"),
    (r"image_proj|ip_adapter", "an IP-Adapter"),
    (r"^(controlnet_|control_model\.)", "a ControlNet"),
    (r"^model\.diffusion_model\.", "a U-Net in the original layout"),
    (r"^(down_blocks|up_blocks|mid_block|conv_in)\.", "the weights of a U-Net"),
    (r"^(first_stage_model\.)?(encoder|decoder|quant_conv|post_quant_conv)\.", "the weights of an autoencoder"),
    (r"text_model\.|token_embedding", "the weights of a text encoder"),
)


def inspect(path: Path) -> dict[str, Any]:
    """What a file or folder is: `kind` in a word or two, then what is known of that kind.

    Files with tensors: `tensors`, `parameters`, `dtypes`, `metadata`. Tensors themselves are never read. Raises
    FileProblem for what is missing, damaged, pickled, or nothing that is known here.
    """
    if path.is_dir():
        return _folder(path)
    if path.is_file() and path.name.lower().endswith(ENDINGS):
        return _picture(path)
    header = read_header(path)
    for known in (_concept, _checkpoint, _lora, _embedding):
        if (found := known(path, header)) is not None:
            return found | _counts([header])
    names = header.shapes
    kind = next((kind for pattern, kind in _KINDS if any(re.search(pattern, name) for name in names)), "other tensors")
    return {"kind": kind, "names": sorted(names)[:5], **_counts([header])}


def _counts(headers: Iterable[Header]) -> dict[str, Any]:
    listed = list(headers)
    dtypes: Counter[str] = Counter()
    for header in listed:
        dtypes.update(header.dtypes)
    return {
        "tensors": sum(len(header.shapes) for header in listed),
        "parameters": sum(header.parameters for header in listed),
        "dtypes": dict(dtypes.most_common()),
        "metadata": {} if not listed else {key: _value(text) for key, text in listed[0].metadata.items()},
    }


def _value(text: str) -> Any:
    """A metadata entry as data where it is JSON, else as text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _concept(path: Path, header: Header) -> dict[str, Any] | None:
    given = header.metadata.get("format", "")
    if given == checkpoint.FORMAT:
        return {"kind": "checkpoint of an unfinished run"}
    if not re.fullmatch(r"semblant/\d+", given):
        return None
    if given == concepts.FORMAT:
        concepts.require_whole(path, header.metadata)
    facts = {key: _value(text) for key, text in header.metadata.items()}
    wanted = ("method", "word", "class_word", "base", "settings", "seed", "steps", "losses", "figures", "consent")
    record: dict[str, Any] = {"kind": "concept", "format": given, "readable": given == concepts.FORMAT}
    record |= {key: facts[key] for key in wanted if key in facts}
    rows = header.shapes.get("rows")
    if rows is not None and len(rows) == len(AXES):
        record["rows"] = dict(zip(AXES, rows, strict=True))
    if isinstance(stages := facts.get("stages"), list):
        record["stages"] = {str(stage): count for stage, count in sorted(Counter(map(str, stages)).items())}
    return record


def _lora(path: Path, header: Header) -> dict[str, Any] | None:
    for naming, pattern in LORAS.items():
        found = [(match, header.shapes[name]) for name in header.shapes if (match := pattern.match(name))]
        # `A` and `down` project to the rank, which is their first side.
        ranks = Counter(
            shape[0] for match, shape in found if shape and any(g in ("A", "down") for g in match.groups()[1:])
        )
        if found and ranks:
            named = {match[1] for match, _ in found}
            return {
                "kind": "LoRA",
                "naming": naming,
                **_made_for(header),
                "layers": len(named),
                "of": dict(Counter(_network(place) for place in named).most_common()),
                "rank": {str(rank): count for rank, count in sorted(ranks.items())},
            }
    return None


def _made_for(header: Header) -> dict[str, str]:
    """The architecture that a LoRA is for, where names or widths tell: those of layers that read text."""
    reads_text = r"attn2[._](?:processor[._])?to_[kv].*(?:lora_down|lora_A|lora\.down)\."
    widths = {shape[1] for name, shape in header.shapes.items() if len(shape) > 1 and re.search(reads_text, name)}
    if places.is_xl(header.shapes) or widths == {sum(concepts.XL_WIDTHS)}:
        return {"architecture": XL}
    told = {architecture_of(width) for width in widths}
    return {"architecture": told.pop()} if len(told) == 1 else {}


def _network(place: str) -> str:
    """Which network a LoRA's place lies in."""
    if re.match(r"lora_te2_|text_encoder_2\.", place):
        return "text encoder 2"
    if re.match(r"(lora_te|text_encoder|text_model|.*\.text_model|encoder\.layers)", place):
        return "text encoder"
    return "unet" if re.match(r"(lora_unet|unet|down_blocks|up_blocks|mid_block)", place) else "other"


def _embedding(path: Path, header: Header) -> dict[str, Any] | None:
    """One word's rows: `{word: [n, dim]}`, `{emb_params: [n, dim]}`, or SDXL's `{clip_l, clip_g}`."""
    shapes = header.shapes
    if not shapes or len(shapes) > 2 or any(len(shape) not in (1, 2) for shape in shapes.values()):
        return None
    if len(shapes) == 2 and set(shapes) != set(concepts.XL_ROWS):
        return None
    name, shape = min(shapes.items(), key=lambda item: item[1][-1])
    if not shape or math.prod(shape) > 10_000_000 or (len(shapes) == 1 and re.search(r"\.(weight|bias)$", name)):
        return None
    record: dict[str, Any] = {"kind": "textual-inversion embedding", "vectors": shape[0] if len(shape) == 2 else 1}
    record["word"] = None if name in ("emb_params", *concepts.XL_ROWS) else name
    if len(shapes) == 2:
        widths = [shapes[name][-1] for name in concepts.XL_ROWS]
        return record | {"architecture": XL, "width": sum(widths), "widths": widths}
    record["architecture"] = architecture_of(shape[-1])
    return record | {"width": shape[-1]}


def _checkpoint(path: Path, header: Header) -> dict[str, Any] | None:
    if not original.is_checkpoint(header) and not original.is_xl(header):
        return None
    record: dict[str, Any] = {"kind": "single-file checkpoint", **_usable(lambda: original.require(path))}
    if not record["usable"] and original.is_xl(header):
        return record | {"architecture": XL}
    try:
        return record | original.facts(header)
    except (KeyError, IndexError):
        return record | {"usable": False, "why": f"{path} lacks tensors of its U-Net or autoencoder"}


def _folder(path: Path) -> dict[str, Any]:
    if not any((path / name).exists() for name in (*parts.PARTS, parts.INDEX)):
        raise FileProblem(
            f"{path} is no base: it has none of {', '.join(parts.PARTS)}; give a file, or a folder in diffusers' layout"
        )
    record: dict[str, Any] = {"kind": "base folder"} | _usable(lambda: _examined(path))
    with suppress(SemblantError):
        record |= folder.facts(folder.examine(path))
    told: dict[str, Any] = {}
    headers: list[Header] = []
    for part in _weighted(path):
        try:
            files = folder.weights_of(path, part)
            read = files.headers()
        except SemblantError as problem:
            told[part] = {"problem": str(problem)}
            continue
        counts = {key: value for key, value in _counts(read).items() if key != "metadata"}
        told[part] = {"files": [file.name for file in files.files], "variant": files.variant, **counts}
        headers += read
    return record | {"parts": told} | _counts(headers)


def _weighted(path: Path) -> list[str]:
    """The parts that have weights; the second text encoder only where there is one."""
    return [part for part in parts.WEIGHTS if part in parts.PARTS or (path / part).is_dir()]


def _examined(path: Path) -> None:
    folder.networks_of(path, folder.examine(path))
    for part in _weighted(path):
        folder.weights_of(path, part).headers()


def _usable(check: Callable[[], object]) -> dict[str, Any]:
    """Whether it can be given as --base, and why not."""
    try:
        check()
    except SemblantError as problem:
        return {"usable": False, "why": str(problem)}
    return {"usable": True}


def _picture(path: Path) -> dict[str, Any]:
    width, height = read_picture(path).size
    record: dict[str, Any] = {"kind": "picture", "size": [width, height]}
    try:
        settings: Mapping[str, Any] | None = read_settings(path)
    except FileProblem as problem:
        return record | {"made_by_semblant": False, "why": str(problem)}
    return record | {"made_by_semblant": True, "settings": settings}
