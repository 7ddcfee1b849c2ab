"""A base in a folder in diffusers' layout: what it holds, whether it may be read, and reading it.

Only classes named here are ever made, and only safetensors read: no pickle, no code that lies in the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from semblant.backbones.architecture import architecture_of
from semblant.backbones.base import Base
from semblant.backbones.header import PICKLED, Header, read_header
from semblant.backbones.networks import blank, each_weight, filled, layout_on, read_weights, renamed
from semblant.backbones.parts import (
    CONFIGS,
    INDEX,
    SECOND,
    WEIGHTS,
    ZEROS,
    allow,
    parts_of,
    require_index,
    require_plain,
)
from semblant.backbones.rest import can_rest
from semblant.backbones.settings import larger_side, require_settings
from semblant.backbones.site import XL_READS
from semblant.errors import FileProblem, SemblantError, out_of_memory
from semblant.ops.schedule import Schedule

NETWORKS: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
"""Classes of the networks that diffusers describes."""
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
"""Kinds of noise schedules that scheduler configurations name."""


@dataclass(frozen=True)
class Files:
    """The weights of one part: the files that are read, in which variant (fp16 ...), sharded or not."""

    files: tuple[Path, ...]
    variant: str | None

    def headers(self) -> list[Header]:
        """What the files say about themselves. Raises FileProblem for damaged ones."""
        return [read_header(file) for file in self.files]


def from_folder(
    folder: Path,
    device: str | torch.device = "cpu",
    name: str | None = None,
    weights: torch.dtype = torch.float32,
) -> Base:
    """A base from a folder in diffusers' layout. Only safetensors are read; weights are held in `weights`.

    Raises FileProblem when something lacks, is damaged, or is of a kind that is not read (see `examine`).
    """
    configs = examine(folder)
    files = {part: weights_of(folder, part) for part in WEIGHTS if part in configs}
    tokenizers = [part for part in ("tokenizer", "tokenizer_2") if part in configs]
    blanks = networks_of(folder, configs)
    # Less is not enough for the activations of XL's autoencoder.
    exact = torch.float32 if SECOND[0] in files else weights
    with _readable(f"{folder} cannot be loaded as a base"):
        # These are for a moment in memory twice, and so come first.
        text, *second = (
            _text_encoder(kind, folder / part, files[part].variant).to(weights)
            for kind, part in ((CLIPTextModel, "text_encoder"), (CLIPTextModelWithProjection, SECOND[0]))
            if part in files
        )
        autoencoder = filled("vae", blanks["vae"], read_weights(files["vae"].files, "", exact, layout_on(device)))
        unet = filled("unet", blanks["unet"], read_weights(files["unet"].files, dtype=weights))
        tokenizer, *other = (CLIPTokenizer.from_pretrained(folder / part, local_files_only=True) for part in tokenizers)
        xl: dict[str, Any] = {}
        if second:
            zeros = configs[INDEX].get(ZEROS, True)
            xl = {"text_encoder_2": second[0], "tokenizer_2": other[0], "zeros_for_empty": zeros}
        base = Base(
            unet=unet,
            text_encoder=text,
            tokenizer=tokenizer,
            autoencoder=autoencoder,
            schedule=schedule_of(configs["scheduler"]),
            prediction=configs["scheduler"].get("prediction_type", "epsilon"),
            name=name or folder.name,
            architecture=name if name == "embedded" else None,
            **xl,
        )
    for part in (base.unet, *(reader.encoder for reader in base.readers), base.autoencoder):
        part.to(device)

    places = set(autoencoder.state_dict())

    def again() -> Iterator[tuple[str, torch.Tensor]]:
        with _readable(f"the autoencoder in {folder} cannot be read again"):
            for name, weight in each_weight(files["vae"].files, "", exact, layout_on(device)):
                yield renamed(name, places), weight

    can_rest(autoencoder, again)
    return base


def networks_of(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, nn.Module]:
    """U-Net and autoencoder as their configurations describe them, without weights. Raises FileProblem when these
    describe none."""
    made = {}
    for part, kind in NETWORKS.items():
        with _readable(f"{folder} cannot be loaded as a base: {part}/{CONFIGS[part]} describes no network"):
            made[part] = blank(kind, configs[part])
    return made


@contextmanager
def _readable(problem: str) -> Iterator[None]:
    """Raise FileProblem, beginning with `problem`, for whatever libraries raise where files make no sense to them: it
    can be anything. Not for memory that runs out."""
    try:
        yield
    except SemblantError:
        raise
    except Exception as raised:
        if out_of_memory(raised):
            raise
        said = (str(raised).strip().splitlines() or [type(raised).__name__])[0]
        raise FileProblem(f"{problem}: {said}") from raised


def examine(folder: Path, parts: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """The configurations of a folder's parts, by part, when it may be read, and its index. Weights are looked at by
    `weights_of`.

    Raises FileProblem for a part that lacks, code in the folder, classes other than those in CLASSES, a reference to
    code (`auto_map`), networks that take more than a prompt or, for XL, than its sizes, and settings that are unknown
    or make no sense.
    """
    index = _read(folder / INDEX, folder) if (folder / INDEX).is_file() else {}
    require_index(folder, index)
    parts = parts_of(folder, index) if parts is None else parts
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise FileProblem(f"{folder} is no base: it lacks {', '.join(missing)} of {', '.join(parts)}")
    code = sorted(file.relative_to(folder) for place in ("*.py", "*/*.py") for file in folder.glob(place))
    if code:
        raise FileProblem(
            f"{folder} holds a program, {code[0]}, and semblant runs no code that comes with weights; "
            "if the weights work without it, copy the folder without *.py files"
        )
    configs: dict[str, dict[str, Any]] = {INDEX: index}
    for part in parts:
        path = folder / part / CONFIGS[part]
        # A tokenizer may come without one.
        configs[part] = config = {} if part.startswith("tokenizer") and not path.is_file() else _read(path, folder)
        for key in ("_class_name", "tokenizer_class"):
            if config.get(key) is not None:
                allow(folder, part, str(config[key]))
        named = config.get("architectures") or []
        for name in named if isinstance(named, list) else [named]:
            allow(folder, part, str(name))
        if "auto_map" in config:
            raise FileProblem(
                f"{folder} asks in {part}/{path.name} for code of its own (auto_map), which semblant never runs; "
                "use a base of plain Stable Diffusion classes"
            )
    require_plain(folder, configs, parts)
    require_settings(folder, configs)
    if "scheduler" in configs:
        _require_schedule(folder, configs["scheduler"])
    return configs


def weights_of(folder: Path, part: str) -> Files:
    """The safetensors files of a part: in full precision where there is one, else another variant; whole or sharded.

    Raises FileProblem when there are none, naming pickles that lie there instead, or when shards lack.
    """
    stem, place = WEIGHTS[part], folder / part
    pattern = re.compile(re.escape(stem) + r"(?:\.(\w+))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.safetensors")
    variants = {found[1] or found[2] for file in place.glob("*.safetensors") if (found := pattern.fullmatch(file.name))}
    if not variants:
        pickles = sorted(file.name for file in place.glob("*") if file.suffix.lower() in PICKLED)
        if pickles:
            raise FileProblem(
                f"{folder} cannot be loaded as a base: the weights of {part} are pickled ({pickles[0]}), which can run "
                f"any program when read, so semblant never reads them; get {part}/{stem}.safetensors instead"
            )
        raise FileProblem(
            f"{folder} cannot be loaded as a base: {part} has no safetensors weights ({part}/{stem}.safetensors)"
        )
    order = {None: 0, "fp16": 1, "bf16": 2}
    variant = min(variants, key=lambda name: (order.get(name, 3), name or ""))
    dotted = f".{variant}" if variant else ""
    whole = place / f"{stem}{dotted}.safetensors"
    if whole.is_file():
        return Files((whole,), variant)
    index = place / f"{stem}.safetensors.index{dotted}.json"
    named = _read(index, folder).get("weight_map")
    shards = sorted({str(shard) for shard in named.values()}) if isinstance(named, dict) else []
    for shard in shards:
        # An index could name a pickle, or a file elsewhere.
        if Path(shard).name != shard or not shard.endswith(".safetensors") or not (place / shard).is_file():
            raise FileProblem(
                f"{folder} cannot be loaded as a base: {part}/{index.name} names {shard}, "
                f"which is no safetensors file in {part}"
            )
    if not shards:
        raise FileProblem(f"{folder} cannot be loaded as a base: {part}/{index.name} names no files")
    return Files(tuple(place / shard for shard in shards), variant)


def facts(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Architecture, prediction, side of pictures in pixels and channels beside the latent, as configurations say."""
    unet, vae = configs["unet"], configs["vae"]
    width, latent = unet.get("cross_attention_dim"), int(vae.get("latent_channels", 4))
    extra = int(unet.get("in_channels", latent)) - latent
    factor, xl = 2 ** (len(vae.get("block_out_channels", (0,))) - 1), unet.get(XL_READS[0]) == XL_READS[1]
    side = larger_side(unet.get("sample_size"))
    return {
        "architecture": architecture_of(width, extra, xl) if isinstance(width, int) else "unknown",
        "prediction": configs["scheduler"].get("prediction_type", "epsilon"),
        "size": None if side is None else factor * side,
        "extra_channels": extra,
    }


def schedule_of(config: dict[str, Any]) -> Schedule:
    """The noise schedule of a diffusers scheduler configuration. Raises SemblantError if it ends without any signal, or
    is of a kind that is not known."""
    if config.get("rescale_betas_zero_snr"):
        raise SemblantError(
            "a schedule with rescale_betas_zero_snr ends in pure noise, where a prediction says nothing"
        )
    known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    try:
        scheduler = DDIMScheduler(**{k: config[k] for k in known if k in config})
    except NotImplementedError:
        raise SemblantError(
            f"a schedule with beta_schedule = {json.dumps(config['beta_schedule'])} is not known; "
            f"possible: {', '.join(BETAS)}"
        ) from None
    return Schedule(scheduler.alphas_cumprod.float())


def _require_schedule(folder: Path, config: dict[str, Any]) -> None:
    try:
        schedule_of(config)
    except SemblantError as problem:
        raise FileProblem(f"{folder} cannot be used with its scheduler/{CONFIGS['scheduler']}: {problem}") from None


def _text_encoder(kind: Any, place: Path, variant: str | None) -> Any:
    """A text encoder from its folder. Raises ValueError when weights lack, which would be left random."""
    network, told = kind.from_pretrained(
        place,
        variant=variant,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        dtype=torch.float32,
    )
    if missing := sorted(told["missing_keys"]):
        raise ValueError(f"{place.name} lacks {len(missing)} weights, such as {', '.join(missing[:3])}")
    for weight in network.parameters():
        # Mapped from a file they lie at odd addresses, where some kernels round otherwise.
        weight.data = weight.data.clone()
    return network


def _read(path: Path, folder: Path) -> dict[str, Any]:
    """A JSON object. Raises FileProblem in the name of the folder."""
    inside = path.relative_to(folder)
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise FileProblem(f"{folder} cannot be loaded as a base: there is no {inside}") from None
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise FileProblem(f"{folder} cannot be loaded as a base: {inside} is damaged, it holds no JSON object")
    return read
