"""Words and LoRAs for Stable Diffusion XL: what we write, loaded by diffusers; and what that writes, read by us."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.loading import miniature_xl
from semblant.sampling.loop import Branches, sample_latents
from semblant.training.concepts import Concept
from semblant.training.interchange import writing
from semblant.training.interchange.adoption import concept_of
from semblant.training.interchange.learned import from_concept
from semblant.training.interchange.reading import read
from semblant.verbs import patches_of

Make = Callable[..., Concept]
START = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def sample(base: Base, concept: Concept, prompt: str) -> Tensor:
    view = base.patched(*patches_of(base, [concept]))
    branches = Branches.of(view.text(prompt), view.text(""))
    return sample_latents(view, START, branches, steps=3, guidance=3.0)


def theirs(pipe: Any, prompt: str) -> Tensor:
    given = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 16, "width": 16, "output_type": "latent"}
    return pipe(prompt, latents=START.clone(), **given).images


@pytest.mark.parametrize("kind", ["everything", "second text alone"])
@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_a_lora_gives_the_same_picture_there(
    layouts: Any, xl: Base, xl_lora: Make, tmp_path: Path, form: str, kind: str
) -> None:
    concept, pipe, target = xl_lora(kind), layouts.xl_pipeline(miniature_xl()), tmp_path / "maya.safetensors"
    writing.write(from_concept(concept, "x"), form, target)
    before = theirs(pipe, "a photo of cup person on the beach")
    pipe.load_lora_weights(str(tmp_path), weight_name=target.name)
    there = theirs(pipe, "a photo of cup person on the beach")
    here = sample(xl, concept, "a photo of <maya> on the beach")
    assert (here - there).abs().max() < 1e-4
    assert (there - before).abs().max() > 1e-2


@pytest.mark.parametrize("count", [1, 3])
def test_a_word_gives_the_same_picture_there(layouts: Any, xl: Base, xl_word: Make, tmp_path: Path, count: int) -> None:
    concept, pipe, target = xl_word(count), layouts.xl_pipeline(miniature_xl()), tmp_path / "rex.safetensors"
    writing.write(from_concept(concept, "x"), "embedding", target)
    before, rows = theirs(pipe, "a photo of dog on the beach"), load_file(target)
    for name, text, tokenizer in (
        ("clip_l", pipe.text_encoder, pipe.tokenizer),
        ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
    ):
        pipe.load_textual_inversion(rows[name], token="<rex>", text_encoder=text, tokenizer=tokenizer)
    there = theirs(pipe, "a photo of <rex> on the beach")
    assert (sample(xl, concept, "a photo of <rex> on the beach") - there).abs().max() < 1e-4
    assert (there - before).abs().max() > 1e-2


def test_what_diffusers_writes_does_the_same_here(layouts: Any, xl: Base, tmp_path: Path) -> None:
    pipe, given = layouts.xl_pipeline(miniature_xl()), {}
    targets = {"unet": ["to_k", "proj_in", "ff.net.2"], "text_encoder": ["q_proj"], "text_encoder_2": ["v_proj", "fc1"]}
    for number, (name, layers) in enumerate(targets.items()):
        config = LoraConfig(r=2, lora_alpha=3, target_modules=layers)
        model = get_peft_model(getattr(pipe, name), config)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_" in key:
                    weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
        plain = {k.removeprefix("base_model.model."): v for k, v in get_peft_model_state_dict(model).items()}
        account = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
        given |= {f"{name}_lora_layers": plain, f"{name}_lora_adapter_metadata": account}
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, **given)
    found = read(tmp_path / "pytorch_lora_weights.safetensors")
    assert found.xl and {place.partition(".")[0] for place in found.layers} == {"unet", "text", "text_2"}
    concept, _ = concept_of(found, "<maya>", "dog", xl)
    with_word = replace(concept, settings={**concept.settings, "identifier": "old"})
    there = theirs(pipe, "a photo of the old dog")
    assert (sample(xl, with_word, "a photo of the <maya>") - there).abs().max() < 1e-4
