"""Stable Diffusion XL on random weights: two text encoders, prompts as wholes, sizes, and the pictures of diffusers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLInpaintPipeline

from semblant.backbones.base import Base
from semblant.backbones.context import Context, Framing
from semblant.backbones.loading import miniature, miniature_xl
from semblant.backbones.moment import Moment
from semblant.backbones.patch import WordsPatch
from semblant.backbones.pipeline import lend
from semblant.backbones.vocabulary import word_tokenizer
from semblant.errors import SemblantError
from semblant.patches.attention import Recorder
from semblant.patches.features import ExtraChannels
from semblant.patches.weights import Offsets
from semblant.patches.words import LearnedWord
from semblant.sampling.loop import Branches, sample_latents
from semblant.training.precision import _seconds

AT = Moment.of(torch.tensor([500]))
PROMPTS = ["a photo of an old dog", "the beach"]
EULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


@pytest.fixture(scope="module")
def pipeline(layouts):
    """A pipeline whose networks no base has touched."""
    return layouts.xl_pipeline(miniature_xl())


def theirs(pipeline, x, negative=None, output_type="latent", **settings):
    height, width = (2 * side for side in x.shape[-2:])
    given = {"num_inference_steps": 5, "guidance_scale": 6.0, "height": height, "width": width, **settings}
    refused = None if negative is None else [negative] * len(PROMPTS)
    return pipeline(PROMPTS, negative_prompt=refused, latents=x.clone(), output_type=output_type, **given).images


def ours(base, x, negative="", framing=None, **settings):
    halves = [base.text(PROMPTS), base.text(negative)]
    halves = halves if framing is None else [half.framed(framing) for half in halves]
    return sample_latents(base, x, Branches.of(*halves), **{"steps": 5, "guidance": 6.0, **settings})


@pytest.mark.parametrize("negative", [None, "a cup"], ids=["zeros", "negative prompt"])
def test_pictures_are_those_of_diffusers(xl, pipeline, x, negative):
    latents = ours(xl, x, negative or "")
    assert (latents - theirs(pipeline, x, negative)).abs().max() < 1e-4
    with torch.no_grad():
        picture = (xl.decode(latents) / 2 + 0.5).clamp(0, 1)
    assert (picture - theirs(pipeline, x, negative, "pt")).abs().max() < 1e-4


def test_other_schedulers_sides_and_predictions_agree_too(layouts):
    base, wide = miniature_xl(prediction="v_prediction"), torch.randn(2, 4, 8, 12, generator=seeded(1))
    scheduler = EulerDiscreteScheduler(**EULER, timestep_spacing="leading", prediction_type="v_prediction")
    pipe = layouts.xl_pipeline(miniature_xl(prediction="v_prediction"), scheduler=scheduler)
    made = theirs(pipe, wide, "a cup")
    assert (ours(base, wide, "a cup", solve="euler") - made).abs().max() < 1e-4 * made.abs().max()


def test_what_is_told_of_sizes_is_what_diffusers_tells(xl, pipeline, x):
    told = {"original_size": (40, 30), "crops_coords_top_left": (3, 5), "target_size": (20, 24)}
    made = ours(xl, x, framing=Framing((40, 30), (3, 5), (20, 24)))
    assert (made - theirs(pipeline, x, **told)).abs().max() < 1e-4
    assert (made - ours(xl, x)).abs().max() > 1e-3
    # Both halves of a guided call are told the same, also when only one says it.
    half = Branches.of(xl.text(PROMPTS).framed(Framing.whole(9, 9)), xl.text(""))
    assert half.null.framings == half.conditional.framings


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_framings_follow_their_rows():
    one, two = Framing((9, 8), (1, 2), (4, 4)), Framing.whole(6, 6)
    assert one.numbers == (9, 8, 1, 2, 4, 4) and two.numbers == (6, 6, 0, 0, 6, 6)
    plain = Context.of(torch.zeros(2, 3, 4))
    framed = plain.framed(one) + plain
    assert framed.sizes(two) == [one.numbers] * 2 + [two.numbers] * 2
    assert framed.pick([3, 0]).sizes(two) == [two.numbers, one.numbers]
    assert framed.repeat(2).pick([4]).sizes(two) == [one.numbers]
    assert (plain + plain).framings == () and Context.of(torch.zeros(4, 3, 4), like=framed).framings == framed.framings


@torch.no_grad()
def test_a_wrapped_pipeline_samples_what_it_sampled(layouts, x):
    pipe = layouts.xl_pipeline(miniature_xl())
    before = theirs(pipe, x)
    base = Base.wrap(pipe)
    assert (base.architecture, base.zeros_for_empty) == ("sdxl", True)
    assert (ours(base, x) - before).abs().max() < 1e-4
    view = base.patched(LearnedWord("<v>", torch.randn(1, 17, 2, 1, base.width), base.token_row("dog")))
    sample_latents(view, x, Branches.of(view.text("a <v>").repeat(2), view.text("")), steps=1)
    assert torch.equal(theirs(pipe, x), before), "the pipeline works as before"
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    again = Base.wrap(pipe)
    assert not again.zeros_for_empty and again.hashes() == base.hashes()
    assert (ours(again, x) - theirs(pipe, x, "")).abs().max() < 1e-4
    pipe.text_encoder_2 = None
    with pytest.raises(SemblantError, match="reads two text encoders"):
        Base.wrap(pipe)


@torch.no_grad()
def test_words_lent_to_a_pipeline_give_our_own_picture_and_come_off(layouts, x):
    pipe = layouts.xl_pipeline(miniature_xl())
    before, base = theirs(pipe, x), Base.wrap(pipe)
    rows = torch.randn(2, 1, 2, 1, base.width, generator=seeded(5))
    word = LearnedWord("dog", rows, base.token_row("cup"), (torch.arange(1000) < 500).long())
    view = base.patched(word)
    take_off = lend(pipe, view)
    for negative in (None, "", "a cup"):
        branches = Branches.of(view.text(PROMPTS), view.text(negative or "", zeros=negative is None))
        mine = sample_latents(view, x, branches, steps=5, guidance=6.0)
        assert (theirs(pipe, x, negative) - mine).abs().max() < 1e-4
    assert (mine - before).abs().max() > 1e-2
    with pytest.raises(SemblantError, match="leave prompt_2 out"):
        theirs(pipe, x, prompt_2=["a cup", "a cup"])
    take_off()
    assert torch.equal(theirs(pipe, x), before)


@torch.no_grad()
def test_an_inpainting_base_paints_what_diffusers_paints(layouts, x):
    pipe = layouts.xl_pipeline(miniature_xl(in_channels=9), StableDiffusionXLInpaintPipeline)
    picture, mask = torch.rand(2, 3, 16, 16, generator=seeded(2)) * 2 - 1, torch.zeros(2, 1, 16, 16)
    mask[:, :, 4:12, 2:10] = 1
    base = miniature_xl(in_channels=9)
    assert (base.architecture, base.extra_channels) == ("sdxl-inpainting", 5)
    left = base.encode(picture * (1 - mask), seeded(4))
    # Their draw from the autoencoder's posterior is not ours, so that the latent is given.
    made = theirs(pipe, x, image=picture / 2 + 0.5, mask_image=mask, masked_image_latents=left, strength=1.0)
    with pytest.raises(SemblantError, match="takes 5 channels beside"):
        ours(base, x)
    view = base.patched(ExtraChannels(torch.cat([mask[:, :, ::2, ::2], left], 1)))
    assert (ours(view, x) - made).abs().max() < 1e-4


@torch.no_grad()
def test_every_part_of_what_is_read_matters(xl, x):
    """The random networks do not merely agree because they ignore what they are told."""
    row, context, at = x[:1], xl.text("a photo of a dog"), Moment.of(torch.tensor([500]))
    plain = xl.denoise(row, at, context)
    prepared = xl.prepare(context, at)
    features, pooled = prepared.table, prepared.pooled
    assert features.shape == (1, 77, 48) and pooled.shape == (1, 12)
    same = Context.of(features, like=context, pooled=pooled)
    assert torch.equal(xl.denoise(row, at, same), plain)
    first, second = torch.cat([0 * features[..., :16], features[..., 16:]], -1), features[..., :32]
    for changed in (
        Context.of(first, pooled=pooled),
        Context.of(torch.cat([second, 0 * features[..., 32:]], -1), pooled=pooled),
        Context.of(features, pooled=0 * pooled),
        context.framed(Framing.whole(99, 16)),
    ):
        assert (xl.denoise(row, at, changed) - plain).abs().max() > 1e-4
    with pytest.raises(SemblantError, match="also reads prompts as a whole"):
        xl.denoise(row, at, Context.of(features))


@torch.no_grad()
def test_an_empty_prompt_is_zeros_where_the_base_was_trained_so(xl):
    empty, encoded = xl.prepare(xl.text(""), AT), xl.prepare(xl.text("", zeros=False), AT)
    assert not empty.table.any() and not empty.pooled.any()
    assert encoded.table.any() and encoded.pooled.any()

    class Always(WordsPatch):
        def after(self, encoding, encoded, variant):
            return encoding + 1

    touched = xl.patched(Always())
    assert torch.allclose(touched.prepare(touched.text(""), AT).table, encoded.table + 1)
    assert miniature().prepare(miniature().text(""), AT).table.any()


@torch.no_grad()
def test_a_prompt_weight_moves_the_features_from_the_encoded_empty_prompt(xl):
    plain, weighted, none = (xl.prepare(xl.text(p), AT) for p in ("a old dog", "a (old:1.5) dog", ""))
    empty = xl.encodings(xl.text("", zeros=False))
    expected = empty[0, 2] + 1.5 * (plain.table[0, 2] - empty[0, 2])
    assert torch.allclose(weighted.table[0, 2], expected, atol=1e-6)
    assert torch.equal(weighted.pooled, plain.pooled) and not none.table.any()


@torch.no_grad()
def test_the_second_encoder_fills_up_with_its_own_token(xl):
    [row] = xl.text("a dog").rows
    first, second = (reader.ids(row) for reader in xl.readers)
    assert first == row.ids and first[:4] == second[:4] and row.end == 3
    assert set(second[4:]) == {xl.tokenizer_2.pad_token_id} and set(first[4:]) != set(second[4:])


@torch.no_grad()
def test_a_learned_word_is_a_row_in_each_encoder_and_sums_up_at_the_end_token(xl):
    dog, word = xl.token_row("dog"), "<v>"
    assert dog.shape == (48,)
    tables = [reader.table.weight for reader in xl.readers]
    number = xl.tokenizer("dog", add_special_tokens=False).input_ids[0]
    assert torch.equal(dog, torch.cat([table[number] for table in tables]))
    plain = xl.prepare(xl.text("a photo of a dog on the beach"), AT)
    view = xl.patched(LearnedWord(word, dog[None, None, None, None], dog))
    made = view.prepare(view.text("a photo of a <v> on the beach"), AT)
    assert torch.allclose(made.table, plain.table, atol=1e-6)
    assert torch.allclose(made.pooled, plain.pooled, atol=1e-6)
    for part, start in (("first", 0), ("second", 16)):
        row = dog.clone()
        row[start : start + 16] += 1
        other = xl.patched(LearnedWord(word, row[None, None, None, None], dog))
        moved = other.prepare(other.text("a photo of a <v> on the beach"), AT)
        assert torch.equal(moved.pooled, made.pooled) == (part == "first"), "only the second sums prompts up"


@torch.no_grad()
def test_the_published_configurations_wrong_end_token_changes_nothing(xl):
    """It says 2, by which transformers reads a prompt as a whole at its largest token number."""
    other = miniature_xl()
    other.readers[1].encoder.text_model.eos_token_id = 2
    row = xl.token_row("dog")
    views = [base.patched(LearnedWord("<v>", row[None, None, None, None], row)) for base in (other, xl)]
    for prompt in ("a photo of a dog", "a <v> on the beach", "a " * 90):
        one, two = (view.prepare(view.text(prompt), AT) for view in views)
        assert torch.equal(one.pooled, two.pooled) and torch.equal(one.table, two.table)


@torch.no_grad()
def test_weights_of_both_text_encoders_can_be_patched(xl):
    plain = xl.prepare(xl.text("a dog"), AT)
    named = dict(xl.named_parameters())
    for name, changes in {
        "text.encoder.layers.0.self_attn.v_proj.weight": (True, False),
        "text.encoder.layers.1.self_attn.v_proj.weight": (False, False),
        "text.final_layer_norm.weight": (False, False),
        "text_2.text_model.encoder.layers.0.self_attn.v_proj.weight": (True, True),
        "text_2.text_model.encoder.layers.1.self_attn.v_proj.weight": (False, True),
        "text_2.text_projection.weight": (False, True),
        "text_2.text_model.final_layer_norm.weight": (False, True),
        "text_2.text_model.embeddings.token_embedding.weight": (True, True),
    }.items():
        view = xl.patched(Offsets({name: torch.ones_like(named[name])}))
        made = view.prepare(view.text("a dog"), AT)
        assert (not torch.equal(made.table, plain.table), not torch.equal(made.pooled, plain.pooled)) == changes, name
        reader = xl.readers[name.startswith("text_2.")]
        assert reader.reads(name.partition(".")[2]) == any(changes)


def test_a_word_with_rows_for_every_layer_is_summed_up_as_the_first_layer_reads_it(xl):
    rows = torch.randn(2, len(xl.cross_sites()), 2, 1, xl.width, generator=seeded(3))
    stages = (torch.arange(1000) < 500).long()
    layered = xl.patched(LearnedWord("<v>", rows, xl.token_row("dog"), stages))
    for t, stage in ((600, 0), (400, 1)):
        at = Moment.of(torch.tensor([t]))
        first = xl.patched(LearnedWord("<v>", rows[stage : stage + 1, :1, :1], xl.token_row("dog")))
        with torch.no_grad():
            made, expected = (view.prepare(view.text("a <v>"), at) for view in (layered, first))
        assert torch.allclose(made.pooled, expected.pooled, atol=1e-6)
        assert torch.allclose(made.read(xl.cross_sites()[0], "key"), expected.table, atol=1e-6)


def test_maps_are_recorded_at_every_site_in_execution_order(xl, x):
    moment = Moment.of(torch.tensor([400]))
    xl.patched(Recorder()).denoise(x[:1], moment, xl.text("a dog"))
    names = [site.name for site in xl.cross_sites()]
    assert len(moment.recorded("map")) == len(names) == 17
    assert names[0].startswith("down_blocks.1") and names[-1].startswith("up_blocks.1")
    assert [site.index for site in xl.cross_sites()] == list(range(17))
    assert {site.factor for site in xl.cross_sites()} == {2, 4}


@torch.no_grad()
def test_its_autoencoder_is_computed_in_float32_whatever_the_rest_is(xl, layouts, x):
    assert torch.equal(xl.computing(torch.bfloat16).decode(x), xl.decode(x))
    sd1 = miniature()
    assert not torch.equal(sd1.computing(torch.bfloat16).decode(x), sd1.decode(x))
    halved = miniature_xl()
    for part in (halved.unet, halved.autoencoder, *(reader.encoder for reader in halved.readers)):
        part.half()
    base = Base.wrap(layouts.xl_pipeline(halved))
    made = base.decode(x)
    assert made.dtype == torch.float32 and (made - xl.decode(x)).abs().max() < 1e-2
    assert base.autoencoder.dtype == torch.float16, "the pipeline's own stays as it is"
    noise = base.denoise(x, Moment.of(torch.tensor([500, 500])), base.text(["a dog", ""]))
    expected = xl.denoise(x, Moment.of(torch.tensor([500, 500])), xl.text(["a dog", ""]))
    assert noise.dtype == torch.float32 and (noise - expected).abs().max() < 0.02 * expected.abs().max()


def test_speed_can_be_measured(xl):
    assert _seconds(xl, 2, iter(range(99)).__next__) == 1


def parts(base):
    return {
        "unet": base.unet,
        "text_encoder": base.text_encoder,
        "tokenizer": base.tokenizer,
        "text_encoder_2": base.readers[1].encoder,
        "tokenizer_2": base.tokenizer_2,
    }


REFUSED = {
    "one text encoder": ({"text_encoder_2": None}, "reads two text encoders"),
    "no projection": ({"text_encoder_2": miniature().text_encoder}, "with a projection"),
    "another tokenizer": ({"tokenizer_2": word_tokenizer(["dog"])}, "of one vocabulary"),
    "another width": ({"text_encoder": miniature(width=24).text_encoder}, "24 and 32 wide"),
    "sd-1": ({"unet": miniature(width=48).unet}, "leave the second out"),
    "one layer": ({"text_encoder": "shallow"}, "has 1 layer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_networks_that_do_not_go_together_are_refused(case):
    changed, says = REFUSED[case]
    base = miniature_xl()
    if "shallow" in changed.values():
        base.text_encoder.config.num_hidden_layers = 1
        changed = {}
    given = {**parts(base), **changed}
    with pytest.raises(SemblantError, match=says):
        made = Base(**given, autoencoder=base.autoencoder, schedule=base.schedule)
        made.encodings(made.text("a dog"))


def test_describing_names_both_widths(xl):
    told = xl.describe()
    assert told["widths"] == [16, 32] and told["width"] == 48 and {"text", "text_2"} <= told.keys()
    assert "widths" not in miniature().describe()
    assert replace(Framing.whole(2, 3), crop=(1, 1)).numbers == (2, 3, 1, 1, 2, 3)
