"""Bases of random weights, written as folders and as single files in the original layout."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from semblant.backbones.base import Base
from semblant.backbones.folder import examine
from semblant.backbones.loading import load
from semblant.backbones.vocabulary import word_tokenizer
from semblant.errors import FileProblem
from semblant.ops.schedule import Schedule

WORDS = ("a", "photo", "of", "dog", "beach")
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def base_like(architecture: str, prediction: str = "epsilon", in_channels: int = 4) -> Base:
    """A small base with the form and the text width of Stable Diffusion 1 (CLIP) or 2 (OpenCLIP), or with the form of
    XL (both)."""
    if architecture == "sdxl":
        return _xl_like(prediction, in_channels)
    two = architecture == "sd-2"
    width, channels = (1024, (64, 128)) if two else (768, (32, 64))
    tokenizer = word_tokenizer(WORDS)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=48,
                num_hidden_layers=1,
                num_attention_heads=width // 64,
                max_position_embeddings=77,
                projection_dim=width,
                hidden_act="gelu" if two else "quick_gelu",
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=96 if prediction == "v_prediction" else 64,
            in_channels=in_channels,
            layers_per_block=1,
            block_out_channels=channels,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=width,
            attention_head_dim=tuple(c // 64 for c in channels) if two else 8,
            use_linear_projection=two,
        )
        autoencoder = AutoencoderKL(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
        )
    return Base(
        unet=unet,
        text_encoder=text,
        tokenizer=tokenizer,
        autoencoder=autoencoder,
        schedule=Schedule.scaled_linear(),
        prediction=prediction,
    )


def _xl_like(prediction: str, in_channels: int) -> Base:
    """Heads are 64 wide, as its files take for granted, so that its networks are no smaller."""
    tokenizer, second = word_tokenizer(WORDS), word_tokenizer(WORDS)
    second.pad_token = "!"
    common = {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "intermediate_size": 48}
    common |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    one = CLIPTextConfig(**common, hidden_size=64, num_attention_heads=1, hidden_act="quick_gelu")
    two = CLIPTextConfig(**common, hidden_size=128, num_attention_heads=2, hidden_act="gelu", projection_dim=32)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Base(
            unet=UNet2DConditionModel(
                sample_size=128,
                in_channels=in_channels,
                layers_per_block=2,
                block_out_channels=(32, 64, 128),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 1, 2),
                attention_head_dim=(1, 1, 2),
                use_linear_projection=True,
                cross_attention_dim=192,
                addition_embed_type="text_time",
                addition_time_embed_dim=16,
                projection_class_embeddings_input_dim=32 + 6 * 16,
            ),
            text_encoder=CLIPTextModel(one),
            tokenizer=tokenizer,
            text_encoder_2=CLIPTextModelWithProjection(two),
            tokenizer_2=second,
            autoencoder=AutoencoderKL(
                block_out_channels=(32, 64),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                layers_per_block=1,
                scaling_factor=0.13025,
            ),
            schedule=Schedule.scaled_linear(),
            prediction=prediction,
            zeros_for_empty=True,
        )


def write_folder(base: Base, folder: Path, **options: Any) -> Path:
    """A base in diffusers' layout; `options` (variant, max_shard_size) are those of `save_pretrained`."""
    base.unet.save_pretrained(folder / "unet", **options)
    base.autoencoder.save_pretrained(folder / "vae", **options)
    text = {name: value for name, value in options.items() if name != "variant"}
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    index |= {"safety_checker": [None, None]}
    for reader, part in zip(base.readers, ("text_encoder", "text_encoder_2"), strict=False):
        reader.encoder.save_pretrained(folder / part, **text)
        index[part] = ["transformers", type(reader.encoder).__name__]
        if variant := options.get("variant"):
            for file in (folder / part).glob("*.safetensors"):
                file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))
    write_companion(base, folder)
    if base.told_sizes:
        inpainting = "Inpaint" if base.extra_channels else ""
        index |= {"_class_name": f"StableDiffusionXL{inpainting}Pipeline", "force_zeros_for_empty_prompt": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_companion(base: Base, folder: Path, scheduler: bool = True) -> Path:
    """A folder with tokenizers and, unless refused, scheduler."""
    base.tokenizer.save_pretrained(folder / "tokenizer")
    if base.tokenizer_2 is not None:
        base.tokenizer_2.save_pretrained(folder / "tokenizer_2")
    if scheduler:
        DDIMScheduler(**SCHEDULER, prediction_type=base.prediction).save_pretrained(folder / "scheduler")
    return folder


def write_original(base: Base, file: Path) -> Path:
    """A base in one file, its weights named and shaped as in Stable Diffusion's first releases."""
    tensors = {f"model.diffusion_model.{_unet_name(n, base)}": w for n, w in base.unet.state_dict().items()}
    tensors |= dict(_autoencoder(base.autoencoder.state_dict(), levels=2))
    texts = [
        {name.removeprefix("text_model."): weight for name, weight in reader.encoder.state_dict().items()}
        for reader in base.readers
    ]
    if base.told_sizes:
        tensors |= _clip(texts[0], "conditioner.embedders.0.transformer.")
        projection = texts[1].pop("text_projection.weight").T
        tensors |= _open_clip(texts[1], "conditioner.embedders.1.model.", projection)
    else:
        tensors |= _open_clip(texts[0]) if base.width == 1024 else _clip(texts[0])
    save_file({name: weight.half().contiguous() for name, weight in tensors.items()}, file)
    return file


RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
RESNET |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
FRAME = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
FRAME |= {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
FRAME |= {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}


def _unet_name(name: str, base: Base) -> str:
    """The original name of a U-Net's weight: blocks are counted through, resnet, attention and sampling apart."""
    for new, old in FRAME.items():
        if name.startswith(f"{new}."):
            return name.replace(new, old)
    layers = int(base.unet.config.layers_per_block)
    for new, old in RESNET.items():
        if "resnets" in name:
            name = name.replace(new, old)
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        return f"middle_block.{1 if found[1] == 'attentions' else 2 * int(found[2])}.{found[3]}"
    found = re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)", name)
    assert found, name
    way, level, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    first = level * (layers + 1)
    if way == "down":
        if kind == "downsamplers":
            return f"input_blocks.{first + layers + 1}.0.{rest.replace('conv', 'op')}"
        return f"input_blocks.{first + layer + 1}.{int(kind == 'attentions')}.{rest}"
    if kind == "upsamplers":
        attends = hasattr(base.unet.up_blocks[level], "attentions")
        return f"output_blocks.{first + layers}.{2 if attends else 1}.{rest}"
    return f"output_blocks.{first + layer}.{int(kind == 'attentions')}.{rest}"


def _autoencoder(weights: dict[str, Tensor], levels: int) -> list[tuple[str, Tensor]]:
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    made = []
    for name, weight in weights.items():
        if "attentions.0" in name:
            for new, old in attention.items():
                name = name.replace(f"attentions.0.{new}.", f"attn_1.{old}.")
            weight = weight[:, :, None, None] if weight.ndim == 2 else weight
        name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        name = name.replace("mid_block.attn_1", "mid.attn_1").replace("conv_shortcut", "nin_shortcut")
        name = name.replace("conv_norm_out", "norm_out")
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
        made.append((f"first_stage_model.{name}", weight))
    return made


def _clip(weights: dict[str, Tensor], prefix: str = "cond_stage_model.transformer.") -> dict[str, Tensor]:
    named = {f"{prefix}text_model.{name}": weight for name, weight in weights.items()}
    return {**named, f"{prefix}text_model.embeddings.position_ids": torch.arange(77)[None]}


def _open_clip(
    weights: dict[str, Tensor], prefix: str = "cond_stage_model.model.", projection: Tensor | None = None
) -> dict[str, Tensor]:
    """OpenCLIP's names; queries, keys and values in one, and without a projection a last layer that nobody reads."""
    renamed = {"embeddings.token_embedding.weight": "token_embedding.weight"}
    renamed |= {"embeddings.position_embedding.weight": "positional_embedding"}
    inside = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    made: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if found := re.match(r"encoder\.layers\.(\d+)\.(.+)", name):
            rest = found[2]
            if "q_proj" in rest:
                joined = torch.cat([weights[name.replace("q_proj", p)] for p in ("q_proj", "k_proj", "v_proj")])
                made[f"transformer.resblocks.{found[1]}.attn.in_proj_{rest.rpartition('.')[2]}"] = joined
            elif "k_proj" not in rest and "v_proj" not in rest:
                for new, old in {**inside, "self_attn.out_proj": "attn.out_proj"}.items():
                    rest = rest.replace(new, old)
                made[f"transformer.resblocks.{found[1]}.{rest}"] = weight
        else:
            made[renamed.get(name, name.replace("final_layer_norm", "ln_final"))] = weight
    if projection is None:
        made |= {n.replace("resblocks.0", "resblocks.1"): w + 1 for n, w in made.items() if "resblocks.0" in n}
        projection = torch.eye(weights["final_layer_norm.weight"].shape[0])
    named = {f"{prefix}{name}": weight for name, weight in made.items()}
    return {**named, f"{prefix}text_projection": projection, f"{prefix}logit_scale": torch.ones(())}


def xl_pipeline(base: Base, kind: Any = None, scheduler: Any = None) -> Any:
    """A pipeline of diffusers around the networks of a base that nothing else uses."""
    from diffusers import StableDiffusionXLPipeline

    from semblant.backbones.blueprint import new_scheduler

    base.unet.set_attn_processor(AttnProcessor2_0())
    made = (kind or StableDiffusionXLPipeline)(
        vae=base.autoencoder,
        text_encoder=base.text_encoder,
        text_encoder_2=base.readers[1].encoder,
        tokenizer=base.tokenizer,
        tokenizer_2=base.tokenizer_2,
        unet=base.unet,
        scheduler=scheduler or new_scheduler(base.prediction),
        add_watermarker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def require_refusal(folder, spoil, says):
    """A folder that may be read is refused in one sentence, which names it, once it is spoilt."""
    examine(folder)
    spoil(folder)
    with pytest.raises(FileProblem) as caught:
        load(folder)
    assert says in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)
