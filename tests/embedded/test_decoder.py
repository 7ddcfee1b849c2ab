"""The decoder alone learns to read latents with errors in them: white noise, and what a base takes latents for."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semblant.backbones.base import Base
from semblant.backbones.blueprint import (
    Blueprint,
    Tokenizer,
    new_autoencoder,
    read_autoencoder,
    write_frame,
    write_part,
)
from semblant.backbones.context import Context
from semblant.backbones.loading import load
from semblant.backbones.moment import Moment
from semblant.embedded import autoencoder, decoder, diffusion, latents, train
from semblant.world.captions import read
from semblant.world.facts import contradictions
from semblant.world.scene import Scene

PLAN = Blueprint(size=32, unet=(16, 32), heads=2, width=32, text_layers=1, autoencoder=(8, 8, 16))


@pytest.fixture
def base(tmp_path: Path, tokenizer: Tokenizer) -> Base:
    write_frame(tmp_path / "base", tokenizer, diffusion.PREDICTION, diffusion.NOISIER)
    torch.manual_seed(0)
    write_part(tmp_path / "base", "vae", new_autoencoder(PLAN))
    diffusion.Run.fresh(PLAN, tokenizer).ship(tmp_path / "base")
    return load(tmp_path / "base")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> autoencoder.Drawn:
    monkeypatch.setattr(latents, "SHARD", 6)
    monkeypatch.setattr(autoencoder, "CROP", 16)
    return next(autoencoder.streamed(0, 6, 32, torch.device("cpu")))


def test_white_noise_is_of_every_share_up_to_the_most() -> None:
    z = torch.randn(60, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    off = (decoder.with_noise(torch.Generator().manual_seed(0))(z, ()) - z).flatten(1).std(1)
    assert 0 < off.min() < 0.03 and 0.9 * decoder.UNSTEADY < off.max() < 1.2 * decoder.UNSTEADY


def test_crops_of_latents_are_of_the_same_places_as_those_of_pictures(drawn: autoencoder.Drawn) -> None:
    z = F.avg_pool2d(drawn.images, 4)
    places, images = decoder.cut(z, drawn, torch.Generator().manual_seed(0))
    assert places.shape == (12, 3, 4, 4) and images.shape == (12, 3, 16, 16)
    assert torch.allclose(places, F.avg_pool2d(images, 4), atol=1e-5)
    assert len({tuple(place.flatten().tolist()) for place in places}) > 6


def test_crops_reach_every_cell(drawn: autoencoder.Drawn) -> None:
    cells = torch.arange(64.0).view(1, 1, 8, 8).expand(6, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    seen = torch.cat([decoder.cut(cells, drawn, generator)[0].flatten() for _ in range(40)])
    assert len(seen.unique()) == 64


def test_a_base_is_asked_where_little_is_open_and_told_what_is_shown(
    base: Base, drawn: autoencoder.Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    told: list[str] = []
    text = base.text

    def denoise(x: Tensor, moment: Moment, context: Context) -> Tensor:
        asked.extend(moment.timestep.tolist())
        return torch.zeros_like(x)

    def listening(captions: list[str]) -> object:
        told.extend(captions)
        return text(captions)

    monkeypatch.setattr(base, "denoise", denoise)
    monkeypatch.setattr(base, "text", listening)
    z = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    spoil = decoder.as_guessed(base, torch.Generator().manual_seed(0), random.Random(0))
    spoiled = [spoil(z, drawn.scenes) for _ in range(20)]
    assert 0 <= min(asked) < 20 and 180 < max(asked) < 200
    assert not any(
        contradictions(read(said).facts, scene) for said, scene in zip(told, [*drawn.scenes] * 20, strict=True)
    )
    # A base that finds no noise takes the latents for what they are with it: the more there is, the further off.
    off = torch.stack([(each - z).flatten(1).std(1) for each in spoiled]).flatten()
    t = torch.tensor(asked)
    signal, noise = base.schedule.levels(t, z)
    assert torch.allclose(off, (noise / signal).flatten(), rtol=0.25)


def test_the_decoder_alone_moves_and_reads_what_the_base_guesses_in_every_other_step(
    base: Base, drawn: autoencoder.Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = read_autoencoder(tmp_path / "base")
    network.register_to_config(scaling_factor=4.0)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    steps: list[str] = []
    means: list[Tensor] = []
    encode = type(network).encode

    def encoding(self: nn.Module, images: Tensor) -> Any:
        answer = encode(self, images)
        means.append(answer.latent_dist.mean)
        return answer

    monkeypatch.setattr(type(network), "encode", encoding)
    read: list[float] = []
    decode = type(network).decode

    def decoding(self: nn.Module, z: Tensor) -> Any:
        read.append(float(z.std() / means[-1].std()))
        return decode(self, z)

    monkeypatch.setattr(type(network), "decode", decoding)
    as_guessed, with_noise = decoder.as_guessed, decoder.with_noise

    def noted(name: str, spoil: decoder.Spoil) -> decoder.Spoil:
        def noting(z: Tensor, scenes: Sequence[Scene]) -> Tensor:
            steps.append(name)
            # Errors are put on latents of unit deviation.
            assert torch.equal(z, means[-1] * 4)
            return spoil(z, scenes)

        return noting

    monkeypatch.setattr(decoder, "as_guessed", lambda *given: noted("guess", as_guessed(*given)))
    monkeypatch.setattr(decoder, "with_noise", lambda *given: noted("noise", with_noise(*given)))
    decoder.steady_decoder(network, tmp_path, minutes=0.02, base=base, size=32)
    moved = {name for name, weight in network.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved and all(name.startswith(("decoder.", "post_quant_conv.")) for name in moved)
    # What is decoded has the autoencoder's own scale again.
    assert all(wide < 2 for wide, name in zip(read, steps, strict=True) if name == "noise")
    assert {"guess", "noise"} == set(steps) and all(a != b for a, b in itertools.pairwise(steps))


def test_the_ratio_falls_with_errors_on_latents_of_unit_deviation(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = read_autoencoder(tmp_path / "base")
    network.register_to_config(scaling_factor=4.0)
    # What is decoded is the latents themselves, as grey pictures.
    decoded = lambda z: SimpleNamespace(sample=F.interpolate(z[:, :3], scale_factor=4))
    encoded = lambda images: SimpleNamespace(latent_dist=SimpleNamespace(mean=F.avg_pool2d(images, 4)))
    monkeypatch.setattr(network, "decode", decoded)
    monkeypatch.setattr(network, "encode", encoded)
    plain = autoencoder.face_psnr(network, 2)
    assert autoencoder.face_psnr(network, 2, lambda z, scenes: z) == plain
    off = autoencoder.face_psnr(network, 2, lambda z, scenes: z + 4 * 0.2)
    half = autoencoder.face_psnr(network, 2, lambda z, scenes: z + 2 * 0.2)
    assert off["psnr"] < half["psnr"] < plain["psnr"]
    # A shift of .2 of -1..1 is a tenth of the range: 20 dB where nothing else is wrong.
    assert 15 < off["psnr"] < 20.5


def test_decibels_fall_with_errors_on_the_latents(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def psnr(network: object, people: int = 2, spoil: decoder.Spoil | None = None) -> dict[str, float]:
        z = torch.zeros(2, 4, 8, 8)
        return {"psnr": 0.0 if spoil is None else -float(spoil(z, latents.scenes_of(0)[:2]).square().mean())}

    monkeypatch.setattr(decoder, "face_psnr", psnr)
    network = read_autoencoder(tmp_path / "base")
    found = decoder.decibels(network, base)
    assert found["psnr"] == 0 and found["psnr_off_a_tenth"] == pytest.approx(-0.01, rel=0.3)
    assert set(decoder.decibels(network, None)) == {"psnr", "psnr_off_a_tenth"}


def test_a_decoder_that_reads_the_same_latents_is_kept_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, network = tmp_path / "weights", new_autoencoder(PLAN)
    write_part(shipped / "base", "vae", network)
    assert not train.same_encoder(tmp_path / "nothing", shipped / "base")
    with torch.no_grad():
        next(network.decoder.parameters()).add_(1)
    write_part(tmp_path / "steady", "vae", network)
    write_part(tmp_path / "again", "vae", read_autoencoder(tmp_path / "steady"))
    assert str(tmp_path) not in (tmp_path / "again" / "vae" / "config.json").read_text()
    assert train.same_encoder(tmp_path / "steady", shipped / "base")
    with torch.no_grad():
        next(network.encoder.parameters()).add_(1)
    write_part(tmp_path / "other", "vae", network)
    assert not train.same_encoder(tmp_path / "other", shipped / "base")
