"""What we write, loaded by diffusers and PEFT themselves; and what they write, read by us."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.blueprint import new_scheduler
from semblant.backbones.loading import miniature
from semblant.backbones.moment import Moment
from semblant.sampling.loop import Branches, sample_latents
from semblant.training.concepts import Concept
from semblant.training.interchange import writing
from semblant.training.interchange.adoption import concept_of
from semblant.training.interchange.learned import from_concept
from semblant.training.interchange.reading import read
from semblant.verbs import patches_of

Make = Callable[..., Concept]
START = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def pipeline() -> StableDiffusionPipeline:
    """A pipeline of the tiny base's weights that has never met this library's attention."""
    base = miniature()
    base.unet.set_attn_processor(AttnProcessor2_0())
    parts = (base.autoencoder, base.text_encoder, base.tokenizer, base.unet, new_scheduler(), None, None)
    made = StableDiffusionPipeline(*parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def theirs(pipe: StableDiffusionPipeline, prompt: str) -> Tensor:
    """The latent that a pipeline makes in three steps."""
    made: Tensor = pipe(
        prompt,
        num_inference_steps=3,
        guidance_scale=3.0,
        latents=START.clone(),
        height=16,
        width=16,
        output_type="latent",
    ).images
    return made


def ours(base: Base, concept: Concept, prompt: str) -> Tensor:
    """The same by our own loop, with a concept."""
    view = base.patched(*patches_of(base, [concept]))
    branches = Branches.of(view.text(prompt), view.text(""))
    with torch.no_grad():
        return sample_latents(view, START, branches, steps=3, guidance=3.0)


def small(concept: Concept) -> Concept:
    """Changes about as large as what is learned, so that a random network stays within its numbers."""
    return replace(concept, tensors={name: 0.15 * tensor for name, tensor in concept.tensors.items()})


def load(pipe: StableDiffusionPipeline, form: str, target: Path) -> None:
    """Load a LoRA as its form is meant to be loaded."""
    if form != "peft":
        pipe.load_lora_weights(str(target.parent), weight_name=target.name)
        return
    for name in ("unet", "text_encoder"):
        folder = target / name if (target / name).is_dir() else target
        if (target / name).is_dir() or name == "unet":
            PeftModel.from_pretrained(getattr(pipe, name), str(folder))


@pytest.mark.parametrize("kind", ["everything", "several ranks"])
@pytest.mark.parametrize("form", ["diffusers", "kohya", "peft"])
def test_a_lora_gives_the_same_picture_there(base: Base, lora: Make, tmp_path: Path, form: str, kind: str) -> None:
    concept, pipe, target = small(lora(kind)), pipeline(), tmp_path / "maya.safetensors"
    writing.write(from_concept(concept, "x"), form, target)
    before = theirs(pipe, "a photo of cup person on the beach")
    load(pipe, form, target)
    there = theirs(pipe, "a photo of cup person on the beach")
    here = ours(base, concept, "a photo of <maya> on the beach")
    assert torch.allclose(here, there, atol=1e-4)
    assert float((there - before).abs().max()) > 1e-2


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("form", ["embedding", "emb_params"])
def test_a_word_gives_the_same_picture_there(base: Base, word: Make, tmp_path: Path, form: str, count: int) -> None:
    concept, pipe = word(count), pipeline()
    writing.write(from_concept(concept, "x"), form, tmp_path / "rex.safetensors")
    before = theirs(pipe, "a photo of dog on the beach")
    token = None if form == "embedding" else "<rex>"
    pipe.load_textual_inversion(str(tmp_path), weight_name="rex.safetensors", token=token)
    there = theirs(pipe, "a photo of <rex> on the beach")
    assert torch.allclose(ours(base, concept, "a photo of <rex> on the beach"), there, atol=1e-4)
    assert float((there - before).abs().max()) > 1e-2


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 2, "lora_alpha": 4},
    "root": {"r": 4, "lora_alpha": 2, "use_rslora": True},
    "patterns": {
        "r": 2,
        "lora_alpha": 4,
        "rank_pattern": {"attn2.to_k": 3, "mid_block.attentions.0.proj_in": 1},
        "alpha_pattern": {"to_v": 1, "^conv_in": 5},
    },
}
TARGETS = ["to_k", "to_v", "proj_in", "conv_in", "ff.net.2"]


def adapted(config: dict[str, Any]) -> Any:
    """A U-Net with a LoRA of PEFT that does something."""
    pipe = pipeline()
    model = get_peft_model(pipe.unet, LoraConfig(target_modules=TARGETS, **config))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return model


def predicted(model: Any, base: Base) -> Tensor:
    encodings = base.encodings(base.text("a photo of the dog"))
    with torch.no_grad():
        made: Tensor = model(START, torch.tensor([500]), encodings).sample
    return made


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("form", ["peft", "diffusers"])
def test_what_they_write_does_the_same_here(base: Base, tmp_path: Path, form: str, config: str) -> None:
    model = adapted(CONFIGS[config])
    if form == "peft":
        model.save_pretrained(tmp_path / "lora")
        found = read(tmp_path / "lora")
    else:
        account = model.peft_config["default"].to_dict()
        StableDiffusionPipeline.save_lora_weights(
            tmp_path,
            unet_lora_layers={
                name.removeprefix("base_model.model."): tensor
                for name, tensor in get_peft_model_state_dict(model).items()
            },
            unet_lora_adapter_metadata={k: sorted(v) if isinstance(v, set) else v for k, v in account.items()},
        )
        found = read(tmp_path / "pytorch_lora_weights.safetensors")
    concept, _ = concept_of(found, "<maya>", "person", base)
    view = base.patched(*patches_of(base, [concept]))
    with torch.no_grad():
        here = view.denoise(START, Moment.of(torch.tensor([500])), view.text("a photo of the dog"))
    assert torch.allclose(here, predicted(model, base), atol=1e-4)
    assert float((here - predicted(pipeline().unet, base)).abs().max()) > 1e-2
