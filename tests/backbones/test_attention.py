"""The site processor: stock attention when nothing is attached, and exactly what is asked otherwise."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from semblant.backbones import twin as twin_module
from semblant.backbones.context import Context
from semblant.backbones.loading import miniature
from semblant.backbones.moment import Moment
from semblant.backbones.patch import AttentionPatch
from semblant.backbones.site import find_sites
from semblant.backbones.twin import narrowed
from semblant.errors import SemblantError
from semblant.patches.attention import Recorder
from semblant.patches.words import LearnedWord

AT = Moment.of(torch.tensor([500, 20]))


def stock(base):
    """The same U-Net with diffusers' own processors."""
    unet = copy.deepcopy(base.unet)
    unet.set_attn_processor(AttnProcessor2_0())
    return unet


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_nothing_attached_is_stock_bitwise(layers, x):
    base = miniature(layers=layers)
    context = base.text(["a photo of a dog", "the beach"])
    encodings = base.encodings(context)
    expected = stock(base)(x, AT.timestep, encoder_hidden_states=encodings).sample
    assert torch.equal(base.denoise(x, AT, context), expected)
    assert torch.equal(base.unet(x, AT.timestep, encoder_hidden_states=encodings).sample, expected), "a pipeline's call"
    assert torch.equal(base.denoise(x, AT, Context.of(encodings)), expected)
    assert torch.equal(base.denoise(x, AT, Context.of(encodings, like=context)), expected)


@torch.no_grad()
def test_encodings_are_the_text_encoders_own(base):
    prompts = ["a photo of a dog", "the beach, (smiling) old cup!"]
    ids = base.tokenizer(prompts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
    assert torch.equal(base.encodings(base.text(prompts)), base.text_encoder(ids).last_hidden_state)


@torch.no_grad()
def test_explicit_maps_compute_what_fused_attention_does(base, x):
    context, moment = base.text(["a dog", "a cup"]), Moment.of(AT.timestep)
    fused = base.denoise(x, moment, context)
    explicit = base.patched(Recorder(lambda site: True)).denoise(x, moment, context)
    assert (fused - explicit).abs().max() <= 1e-6 * fused.abs().max() * 10
    maps = moment.recorded("map")
    assert len(maps) == 14
    assert all(torch.allclose(map.sum(-1), torch.ones(()), atol=1e-5) for map in maps)


@torch.no_grad()
def test_a_bias_acts_alike_on_fused_and_explicit_maps(base, x):
    class Away(AttentionPatch):
        def bias(self, site, moment):
            return torch.linspace(-3, 0, 77) if site.kind == "cross" else None

    context = base.text(["a dog", "a cup"])
    fused, explicit, twice, plain = (
        base.patched(*patches).denoise(x, Moment.of(AT.timestep), context)
        for patches in ([Away()], [Away(), Recorder()], [Away(), Away()], [])
    )
    assert torch.allclose(fused, explicit, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(fused, plain, atol=1e-3) and not torch.allclose(fused, twice, atol=1e-4)


@torch.no_grad()
def test_keys_and_values_of_equal_rows_are_one_word(base, x):
    row = torch.randn(1, 1, 1, 1, base.width, generator=torch.Generator().manual_seed(1))
    answers = []
    for table in (row, row.expand(1, 1, 2, 1, -1), row.expand(1, 7, 2, 1, -1)):
        view = base.patched(LearnedWord("<v>", table, base.token_row("dog")))
        answers.append(view.denoise(x, AT, view.text(["a <v>", "a photo of <v>"])))
    assert torch.allclose(answers[0], answers[1], rtol=1e-5, atol=1e-6)
    assert torch.allclose(answers[0], answers[2], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_other_values_leave_the_first_map_alone(base, x):
    table = torch.randn(1, 1, 2, 1, base.width, generator=torch.Generator().manual_seed(1))
    other = table.clone()
    other[:, :, 1] = torch.randn(base.width, generator=torch.Generator().manual_seed(2))
    maps, answers = [], []
    for rows in (table, other):
        view, moment = base.patched(LearnedWord("<v>", rows, base.token_row("dog")), Recorder()), Moment.of(AT.timestep)
        answers.append(view.denoise(x, moment, view.text(["a <v>"] * 2)))
        maps.append([moment.recorded("map", site) for site in base.cross_sites()])
    assert torch.equal(maps[0][0], maps[1][0])
    assert all(not torch.allclose(a, b, atol=1e-6) for a, b in list(zip(*maps, strict=True))[1:])
    assert not torch.allclose(*answers, atol=1e-4)


def sd1(**changes):
    """A U-Net of the shape of Stable Diffusion 1, but narrow."""
    shape = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 2,
        "block_out_channels": (8, 8, 16, 16),
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**shape | changes)


@torch.no_grad()
def test_sites_are_in_execution_order_and_know_their_size():
    unet = sd1().eval()
    sites = find_sites(unet)
    ran = []
    for site in sites:
        site.module.register_forward_pre_hook(lambda _m, args, site=site: ran.append((site, args[0].shape[1])))
    unet(torch.randn(1, 4, 16, 16), 5, encoder_hidden_states=torch.randn(1, 7, 8))
    for kind in ("self", "cross"):
        ordered = [(site, tokens) for site, tokens in ran if site.kind == kind]
        assert [site.index for site, _ in ordered] == list(range(16))
        assert [site for site, _ in ordered] == [site for site in sites if site.kind == kind]
        assert all(tokens == (16 // site.factor) ** 2 for site, tokens in ordered)
        names = [
            n.removesuffix(".processor")
            for n in unet.attn_processors
            if n.endswith({"self": "1", "cross": "2"}[kind] + ".processor")
        ]
        assert [names[site.registered] for site, _ in ordered] == [site.name for site, _ in ordered]
    cross = [site for site in sites if site.kind == "cross"]
    assert [site.place for site in cross] == ["down"] * 6 + ["mid"] + ["up"] * 9
    assert cross[6].registered == 15, "diffusers lists the middle last"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"num_class_embeds": 3}, "num_class_embeds"),
        ({"addition_embed_type": "text"}, "addition_embed_type"),
        ({"encoder_hid_dim": 8, "encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type"),
        ({"attention_type": "gated"}, "attention_type"),
        ({"dual_cross_attention": True}, "dual_cross_attention"),
        ({"only_cross_attention": True}, "self-attention that reads the text"),
        (
            {
                "down_block_types": ("SimpleCrossAttnDownBlock2D",) * 4,
                "up_block_types": ("SimpleCrossAttnUpBlock2D",) * 4,
                "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
                "norm_num_groups": 4,
            },
            "attention without a transformer block",
        ),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_network_that_patches_could_not_follow_is_refused(changes, named):
    with pytest.raises(SemblantError, match=named):
        find_sites(sd1(**changes))


def wrapped(unet, base):
    return type(base)(
        unet=unet,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        autoencoder=base.autoencoder,
        schedule=base.schedule,
    )


def test_processors_that_do_more_than_attention_are_refused(base, x):
    class Adapter(AttnProcessor2_0):
        """As an image adapter's processor, which a site processor would silently replace."""

    unet = stock(base)
    unet.set_attn_processor(Adapter())
    with pytest.raises(SemblantError, match=r"Adapter.*Unload"):
        wrapped(unet, base)
    assert all(type(p) is Adapter for p in unet.attn_processors.values())
    unet.set_attn_processor(AttnProcessor())
    again = wrapped(unet, base)
    # Whatever changes them later would make patches silently void.
    unet.set_attention_slice("auto")
    with pytest.raises(SemblantError, match=r"Sliced.*wrap"):
        again.denoise(x, AT, again.text(["a dog"] * 2))


def test_a_mask_is_refused_when_patches_would_ignore_it(base, x):
    hook = lambda _m, args, kwargs: (args, kwargs | {"encoder_attention_mask": torch.ones(2, 77)})
    unet = stock(base)
    view = wrapped(unet, base)
    unet.register_forward_pre_hook(hook, with_kwargs=True)
    with pytest.raises(SemblantError, match="mask"):
        view.denoise(x, AT, view.text(["a dog"] * 2))


@torch.no_grad()
def test_v_predictions_become_noise_predictions(x):
    v, epsilon = miniature(prediction="v_prediction"), miniature()
    context = v.text(["a dog", "a cup"])
    a = v.schedule.alphas[AT.timestep].view(2, 1, 1, 1)
    expected = a.sqrt() * epsilon.denoise(x, AT, context) + (1 - a).sqrt() * x
    assert torch.allclose(v.denoise(x, AT, context), expected, atol=1e-6)


def test_other_predictions_are_refused():
    with pytest.raises(SemblantError, match=r"sample.*epsilon, v_prediction"):
        miniature(prediction="sample")


def test_channels_that_are_not_given_are_refused(x):
    from semblant.patches.features import ExtraChannels

    base = miniature(in_channels=9)
    assert base.extra_channels == 5
    context = base.text(["a dog", "a cup"])
    with pytest.raises(SemblantError, match=r"5 channels.*0 are given"):
        base.denoise(x, AT, context)
    with pytest.raises(SemblantError, match=r"5 channels.*4 are given"):
        base.patched(ExtraChannels(torch.ones(1, 4, 8, 8))).denoise(x, AT, context)
    with torch.no_grad():
        given = torch.randn(2, 5, 8, 8)
        answer = base.patched(ExtraChannels(given)).denoise(x, AT, context)
        direct = base.unet(torch.cat([x, given], 1), AT.timestep, encoder_hidden_states=base.encodings(context)).sample
        assert torch.equal(answer, direct)
        halves = AT.both_halves()
        both = base.patched(ExtraChannels(given)).denoise(torch.cat([x, x]), halves, context + context)
        assert torch.allclose(both, torch.cat([answer, answer]), atol=1e-5)


def test_channels_a_base_does_not_take_are_refused(base, x):
    from semblant.patches.features import ExtraChannels

    with pytest.raises(SemblantError, match="0 channels"):
        base.patched(ExtraChannels(torch.ones(1, 5, 8, 8))).denoise(x, AT, base.text(["a", "a"]))


def test_rows_have_to_agree(base, x):
    with pytest.raises(ValueError, match="2 latents, 2 timesteps, 1 prompts"):
        base.denoise(x, AT, base.text("a dog"))


@torch.no_grad()
@torch.no_grad()
def test_bfloat16_casts_matrices_once_to_the_same_pictures(base, x, monkeypatch):
    context, image = base.text(["a photo of a hat", "a dog"]), torch.rand(1, 3, 32, 32)
    answers = lambda view: (view.denoise(x, AT, context), view.encode(image), view.decode(x))
    view, casts = base.computing(torch.bfloat16), []
    monkeypatch.setattr(twin_module, "narrowed", lambda *given: casts.append(1) or narrowed(*given))
    ours = answers(view)
    again = answers(view.patched())
    assert len(casts) == 3, "U-Net, text encoder and autoencoder"
    monkeypatch.setattr(twin_module, "narrowed", lambda network, _dtype: network)
    theirs = answers(base.computing(torch.bfloat16))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(ours, again, theirs, strict=True))


@torch.no_grad()
def test_in_bfloat16_too_what_is_put_into_the_network_or_changed_there_has_effect(x):
    base = miniature()
    view, context = base.computing(torch.bfloat16), base.text(["a dog", "a cup"])
    before = view.denoise(x, AT, context)
    base.unet.conv_in.weight.mul_(1.5)
    changed = view.denoise(x, AT, context)
    assert torch.equal(changed, base.computing(torch.bfloat16).denoise(x, AT, context))
    assert not torch.equal(changed, before)
    # As a LoRA that is put in: a layer around a layer.
    base.unet.conv_out = torch.nn.Sequential(base.unet.conv_out)
    base.unet.conv_out.register_forward_hook(lambda _module, _inputs, out: out * 2)
    assert torch.allclose(view.denoise(x, AT, context), 2 * changed, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_half_precision_is_near_float32_and_remembers_nothing_of_it(base, x, dtype, near):
    context = base.text(["a dog", "a cup"])
    full = base.denoise(x, AT, context)
    half = base.computing(dtype).denoise(x, AT, context)
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < near * full.abs().max()
    assert torch.equal(base.denoise(x, AT, context), full)
    fresh = base.computing(dtype)
    assert torch.equal(fresh.denoise(x, AT, fresh.text(["a dog", "a cup"])), half)


def test_gradient_checkpointing_gives_the_same_gradients(x):
    gradients = []
    for checkpointing in (False, True):
        base = miniature()
        if checkpointing:
            base.unet.enable_gradient_checkpointing()
        table = torch.randn(1, 1, 2, 1, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
        view, moment = (
            base.patched(LearnedWord("<v>", table, base.token_row("dog")), Recorder()),
            Moment.of(AT.timestep),
        )
        out = view.denoise(x, moment, view.text(["a <v>"] * 2))
        maps = torch.stack([map[..., 2].mean() for map in moment.recorded("map")])
        gradients.append(torch.autograd.grad(out.square().mean() + 10 * maps.sum(), table)[0])
    assert gradients[0].abs().max() > 0
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8])
def test_what_is_no_precision_to_compute_in_is_refused(base, dtype):
    with pytest.raises(SemblantError, match=f"{dtype} .*; possible: torch.float32, torch.bfloat16, torch.float16"):
        base.computing(dtype)
