"""Words lent to pipelines of diffusers: together, beside pipelines that share networks, and off without a trace."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.models.attention_processor import AttnProcessor2_0
from peft import LoraConfig

from semblant.backbones.base import Base
from semblant.backbones.blueprint import new_scheduler
from semblant.backbones.loading import miniature, miniature_xl
from semblant.backbones.patch import AttentionPatch
from semblant.backbones.pipeline import lend
from semblant.errors import SemblantError
from semblant.patches.words import LearnedWord
from semblant.sampling.loop import Branches, sample_latents

X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
STAGES = (torch.arange(1000) < 500).long()


def sd_pipeline() -> StableDiffusionPipeline:
    base = miniature()
    base.unet.set_attn_processor(AttnProcessor2_0())
    networks = (base.autoencoder, base.text_encoder, base.tokenizer, base.unet)
    made = StableDiffusionPipeline(*networks, new_scheduler(), None, None, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(params=["sd", "xl"])
def new_pipeline(request, layouts):
    """Makes pipelines whose networks nothing else uses."""
    return sd_pipeline if request.param == "sd" else lambda: layouts.xl_pipeline(miniature_xl())


@pytest.fixture
def pipe(new_pipeline):
    return new_pipeline()


def word(pipe, name: str, seed: int) -> Base:
    """A view with a word that is another one in each half of the schedule, at each site, as key and as value."""
    base = Base.wrap(pipe)
    shape = (2, len(base.cross_sites()), 2, 1, base.width)
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return base.patched(LearnedWord(name, rows, base.token_row("dog"), STAGES))


def picture(pipe, prompt: str | None = None, **settings) -> torch.Tensor:
    given = {"num_inference_steps": 4, "guidance_scale": 5.0, "height": 16, "width": 16, "latents": X.clone()}
    return pipe(prompt, output_type="latent", **{**given, **settings}).images


def sibling(pipe, kind=None):
    """A pipeline on the same networks."""
    parts = {**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)}
    xl = isinstance(pipe, StableDiffusionXLPipeline)
    made = (kind or type(pipe))(**parts, **({"add_watermarker": False} if xl else {"requires_safety_checker": False}))
    made.set_progress_bar_config(disable=True)
    return made


def encoded(pipe, prompt: str) -> dict[str, torch.Tensor]:
    """A prompt and an empty negative one as arguments that take their place."""
    xl = isinstance(pipe, StableDiffusionXLPipeline)
    names = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    with torch.no_grad():
        answer = pipe.encode_prompt(prompt=prompt, device=torch.device("cpu"), num_images_per_prompt=1,
                                    do_classifier_free_guidance=True, negative_prompt="")  # fmt: skip
    return dict(zip(names[: 4 if xl else 2], answer, strict=True))


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max()) < 1e-4


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@torch.no_grad()
def test_words_lent_one_after_another_work_together(pipe, guidance):
    a, b = word(pipe, "<a>", 1), word(pipe, "<b>", 2)
    plain = picture(pipe, "a cup", guidance_scale=guidance)
    lend(pipe, a)
    alone = picture(pipe, "a photo of <a>", guidance_scale=guidance)
    lend(pipe, b)
    assert near(picture(pipe, "a cup", guidance_scale=guidance), plain)
    assert torch.equal(picture(pipe, "a photo of <a>", guidance_scale=guidance), alone)
    view = a.patched(*b.patches)
    null = view.text("", zeros=isinstance(pipe, StableDiffusionXLPipeline))
    mine = sample_latents(view, X, Branches.of(view.text("<b> beside <a>"), null), steps=4, guidance=guidance)
    both = picture(pipe, "<b> beside <a>", guidance_scale=guidance)
    assert near(both, mine)
    assert not near(both, alone)


@pytest.mark.parametrize("first", [0, 1])
@torch.no_grad()
def test_they_come_off_in_any_order(pipe, first):
    before, hooks = picture(pipe, "a photo of <a> and <b>"), len(pipe.unet._forward_pre_hooks)
    views = [word(pipe, "<a>", 1), word(pipe, "<b>", 2)]
    alone = []
    for view in views:
        take_off = lend(pipe, view)
        alone.append(picture(pipe, "a photo of <a> and <b>"))
        take_off()
    take_off = [lend(pipe, view) for view in views]
    together = picture(pipe, "a photo of <a> and <b>")
    take_off[first]()
    assert torch.equal(picture(pipe, "a photo of <a> and <b>"), alone[1 - first])
    assert not near(together, alone[0]) and not near(together, alone[1])
    take_off[first]()
    assert torch.equal(picture(pipe, "a photo of <a> and <b>"), alone[1 - first]), "off twice is off"
    take_off[1 - first]()
    assert torch.equal(picture(pipe, "a photo of <a> and <b>"), before)
    assert "encode_prompt" not in vars(pipe) and len(pipe.unet._forward_pre_hooks) == hooks


@torch.no_grad()
def test_of_two_words_of_one_name_the_last_holds_until_it_is_taken_off(pipe):
    lend(pipe, word(pipe, "<a>", 1))
    earlier = picture(pipe, "a photo of <a>")
    take_off = lend(pipe, word(pipe, "<a>", 2))
    assert not near(picture(pipe, "a photo of <a>"), earlier)
    take_off()
    assert torch.equal(picture(pipe, "a photo of <a>"), earlier)


@torch.no_grad()
def test_a_pipeline_on_the_same_networks_makes_its_own_pictures(pipe):
    other = sibling(pipe)
    plain, start = picture(other, "a cup"), torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    xl = isinstance(pipe, StableDiffusionXLPipeline)
    painter = sibling(pipe, StableDiffusionXLImg2ImgPipeline if xl else StableDiffusionImg2ImgPipeline)

    def painted(of) -> torch.Tensor:
        seed = torch.Generator().manual_seed(2)
        return of(
            "a cup", image=start, strength=0.5, num_inference_steps=4, generator=seed, output_type="latent"
        ).images

    repainted, meanwhile = painted(painter), []
    lend(pipe, word(pipe, "<a>", 1))
    mine = picture(pipe, "a photo of <a>")
    assert torch.equal(picture(other, "a cup"), plain)
    assert torch.equal(painted(painter), repainted)

    def at_each_step(*_):
        meanwhile.append(picture(other, "a cup"))
        return {}

    assert torch.equal(picture(pipe, "a photo of <a>", callback_on_step_end=at_each_step), mine)
    assert len(meanwhile) == 4 and all(torch.equal(made, plain) for made in meanwhile)
    lend(other, word(other, "<a>", 2))
    assert not near(picture(other, "a photo of <a>"), mine)
    assert torch.equal(picture(pipe, "a photo of <a>"), mine)


@torch.no_grad()
def test_what_attends_acts_in_calls_of_its_pipeline_alone(pipe):
    acted = []

    class Seen(AttentionPatch):
        def rewrite(self, site, moment, q, k, v):
            acted.append((moment.guidance, moment.picture))
            return q, k, v

    other = sibling(pipe)
    lend(pipe, Base.wrap(pipe).patched(Seen()))
    picture(pipe, "a cup")
    assert set(acted) == {(("null", "conditional"), (0, 0))}
    acted.clear()
    picture(other, "a cup")
    assert not acted, "it is the same prompt, but another pipeline's"
    picture(pipe, "a cup", guidance_scale=1.0)
    assert set(acted) == {(("conditional",), (0,))}


@torch.no_grad()
def test_the_scale_of_an_adapter_is_heard(pipe):
    lend(pipe, word(pipe, "<a>", 1))
    bare = picture(pipe, "a photo of <a>")
    pipe.unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k"], init_lora_weights=False))
    assert not near(picture(pipe, "a photo of <a>"), bare)
    assert near(picture(pipe, "a photo of <a>", cross_attention_kwargs={"scale": 0.0}), bare)


@torch.no_grad()
def test_encodings_of_the_caller_are_read_as_they_are(pipe):
    given = encoded(pipe, "a photo of an old dog")
    before = picture(pipe, **given)
    negative = {name: tensor for name, tensor in given.items() if name.startswith("negative")}
    lend(pipe, word(pipe, "<a>", 1))
    assert torch.equal(picture(pipe, **given), before)
    half = {name: tensor for name, tensor in given.items() if name not in negative}
    assert near(picture(pipe, **half, negative_prompt=""), before)
    assert near(picture(pipe, "a photo of <a>", **negative), picture(pipe, "a photo of <a>", negative_prompt=""))
    assert not near(picture(pipe, **half, negative_prompt="<a>"), before)


@torch.no_grad()
def test_prompts_encoded_by_hand_are_known_again(pipe):
    before = picture(pipe, "a photo of <a>", negative_prompt="")
    take_off = lend(pipe, word(pipe, "<a>", 1))
    through, given = picture(pipe, "a photo of <a>", negative_prompt=""), encoded(pipe, "a photo of <a>")
    lend(pipe, word(pipe, "<b>", 2))()
    twice = picture(pipe, **given, num_images_per_prompt=2, latents=X.repeat(2, 1, 1, 1))
    assert near(twice, through.repeat(2, 1, 1, 1))
    take_off()
    as_given = picture(pipe, **given)
    assert not near(as_given, through) and not near(as_given, before)


@torch.no_grad()
def test_a_copy_has_the_words_while_the_lender_is_there(new_pipeline):
    pipe = new_pipeline()
    lend(pipe, word(pipe, "<a>", 1))
    twin, through = copy.deepcopy(pipe), picture(pipe, "a photo of <a>")
    assert torch.equal(picture(twin, "a photo of <a>"), through)
    del pipe
    with pytest.raises(SemblantError, match="copy of one that is gone"):
        picture(twin, "a photo of <a>")


@pytest.mark.parametrize("taken_off", [True, False])
@torch.no_grad()
def test_a_pipeline_goes_with_its_last_user_and_so_do_its_networks(new_pipeline, taken_off):
    """At once, without a search for cycles, as one that nothing was lent to."""
    pipe = new_pipeline()
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    gone = [weakref.ref(part) for part in (pipe, pipe.unet, pipe.text_encoder, layer, layer.to_k.weight)]
    gc.collect()
    gc.disable()
    try:
        take_off = lend(pipe, word(pipe, "<a>", 1))
        picture(pipe, "a photo of <a>")
        if taken_off:
            take_off()
        del pipe, layer
        assert [part() for part in gone] == [None] * len(gone)
        take_off()
    finally:
        gc.enable()


@torch.no_grad()
def test_whoever_replaced_what_encodes_prompts_is_let_be(pipe):
    def loud(*args, **kwargs):
        heard.append(any(isinstance(given, torch.Tensor) for given in (*args, *kwargs.values())))
        return type(pipe).encode_prompt(pipe, *args, **kwargs)

    heard, pipe.encode_prompt = [], loud
    take_off = lend(pipe, word(pipe, "<a>", 1))
    picture(pipe, "a photo of <a>")
    take_off()
    picture(pipe, "a photo of <a>")
    assert heard == [True, False] and pipe.encode_prompt is loud
    take_off = lend(pipe, word(pipe, "<a>", 1))
    pipe.encode_prompt = loud
    take_off()
    assert pipe.encode_prompt is loud
