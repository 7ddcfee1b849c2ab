"""A pretrained text-to-image model behind one small interface."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.architecture import architecture_of
from semblant.backbones.attachments import activations, changed
from semblant.backbones.context import Context, Encoded, Encoding, Framing, Prepared, Variant, prepare
from semblant.backbones.convolution import quicken
from semblant.backbones.frugal import economise
from semblant.backbones.moment import Moment
from semblant.backbones.patch import AttentionPatch, FeaturesPatch, Patch, WeightsPatch, WordsPatch
from semblant.backbones.processor import Call, install, verify
from semblant.backbones.prompt import tokenise
from semblant.backbones.reader import Request, read_all, readers_of, rows_of
from semblant.backbones.rest import using
from semblant.backbones.running import Networks
from semblant.backbones.settings import PREDICTIONS, larger_side
from semblant.backbones.site import Site, find_sites
from semblant.backbones.twin import SPARING, Hook, computable, uncompiled
from semblant.errors import SemblantError
from semblant.ops.schedule import Schedule


class Base:
    """A latent diffusion model with a text encoder or two, a U-Net and an autoencoder. Patches make views of it.

    Latents are variance-preserving and scaled as the U-Net expects them; `denoise` always answers with the predicted
    noise. Everything is differentiable with respect to patches' parameters; the model's own weights need no gradient.
    With two text encoders a token's row, and what is read of it, is that of both side by side.
    """

    def __init__(
        self,
        *,
        unet: Any,
        text_encoder: Any,
        tokenizer: Any,
        autoencoder: Any,
        schedule: Schedule,
        prediction: str = "epsilon",
        name: str = "unnamed",
        architecture: str | None = None,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
        zeros_for_empty: bool = False,
    ) -> None:
        """`zeros_for_empty`: whether an empty prompt is all zeros, as the base was trained. Raises SemblantError for
        networks that do not go together, or in a way that is not known here."""
        if prediction not in PREDICTIONS:
            raise SemblantError(f"{name} predicts {prediction!r}; possible: {', '.join(PREDICTIONS)}")
        given = (unet, text_encoder, text_encoder_2, autoencoder)
        unet, text_encoder, text_encoder_2, autoencoder = map(uncompiled, given)
        self.name, self.prediction, self.schedule = name, prediction, schedule
        self.unet, self.text_encoder, self.autoencoder = unet.eval(), text_encoder.eval(), autoencoder.eval()
        self.tokenizer, self.tokenizer_2 = tokenizer, tokenizer_2
        self.sites: tuple[Site, ...] = find_sites(unet)
        self.width = int(unet.config.cross_attention_dim)
        self.readers = readers_of(unet, self.text_encoder, tokenizer, text_encoder_2, tokenizer_2)
        self.architecture = architecture or architecture_of(self.width, self.extra_channels, self.told_sizes)
        self.zeros_for_empty = zeros_for_empty
        self.patches: tuple[Patch, ...] = ()
        self._plain: WeakKeyDictionary[Encoded, Encoding] = WeakKeyDictionary()
        self._memory: dict[Hashable, tuple[Encoded, Encoding]] | None = None
        texts: dict[str, Any] = {reader.part: reader.encoder.eval() for reader in self.readers}
        upcast = self.told_sizes and bool(self.autoencoder.config.force_upcast)
        parts: dict[str, Any] = {"unet": self.unet, **texts, "autoencoder": self.autoencoder}
        self._networks = Networks(parts, frozenset({"autoencoder"} if upcast else ()))
        for part in parts.values():
            economise(part.requires_grad_(False))
        quicken(unet)
        install(unet, self.sites)

    @staticmethod
    def wrap(pipeline: Any, name: str = "pipeline") -> Base:
        """A base that shares the modules of a diffusers Stable Diffusion pipeline."""
        from semblant.backbones.loading import from_pipeline

        return from_pipeline(pipeline, name)

    # -- facts -------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._networks.device

    @property
    def compute(self) -> torch.dtype:
        """The precision in which its networks run."""
        return self._networks.compute

    @property
    def factor(self) -> int:
        """Pixels per latent cell, along one side."""
        return 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    @property
    def size(self) -> int:
        """Larger side of the pictures it was trained on, in pixels. Raises SemblantError where none is known."""
        if (side := larger_side(self.unet.config.sample_size)) is None:
            raise SemblantError(f"{self.name} does not say its size; set sample_size in its U-Net's configuration")
        return side * self.factor

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return int(self.autoencoder.config.latent_channels)

    @property
    def extra_channels(self) -> int:
        """How many channels the U-Net takes beyond the latent's own (inpainting bases take five)."""
        return int(self.unet.config.in_channels) - self.channels

    @property
    def told_sizes(self) -> bool:
        """Whether it is told how pictures came to their size, and reads prompts as wholes too (Stable Diffusion XL)."""
        return len(self.readers) > 1

    def cross_sites(self) -> tuple[Site, ...]:
        """The cross-attention sites in execution order."""
        return tuple(site for site in self.sites if site.kind == "cross")

    def hashes(self) -> dict[str, str]:
        """Short hashes of the weights of U-Net, text encoders and autoencoder."""
        return self._networks.hashes()

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight under its canonical name: `unet.`, `text.`, `text_2.` or `autoencoder.` and the module's own."""
        for prefix, part in self._networks.parts.items():
            for name, weight in part.named_parameters():
                yield f"{prefix}.{name}", weight

    def describe(self) -> dict[str, Any]:
        """What a concept file says about the base it was made on."""
        widths = {"widths": [reader.width for reader in self.readers]} if len(self.readers) > 1 else {}
        return {"name": self.name, "architecture": self.architecture, "width": self.width, **widths, **self.hashes()}

    # -- views -------------------------------------------------------------------------------------------------------

    def patched(self, *patches: Patch) -> Base:
        """A view with these patches attached beside those already there. The base itself stays as it is.

        Words of one name: the one attached last holds.
        """
        view = copy.copy(self)
        together = (*self.patches, *patches)
        last = {p.word: p for p in together if isinstance(p, WordsPatch)}
        view.patches = tuple(p for p in together if not isinstance(p, WordsPatch) or not p.word or last[p.word] is p)
        view._memory = None if self._memory is None else {}
        return view

    def remembering(self) -> Base:
        """A view that encodes learned words once too; while what is attached does not change, as in a sampling run."""
        view = copy.copy(self)
        view._memory = {}
        return view

    def computing(self, dtype: torch.dtype) -> Base:
        """A view whose networks run in `dtype` by autocast. Raises SemblantError for one that is not `computable`."""
        if dtype not in (possible := computable(self._networks.precision("unet"))):
            raise SemblantError(f"{dtype} is not a type to compute in; possible: {', '.join(map(str, possible))}")
        view = copy.copy(self)
        view._networks, view._plain = self._networks.computing(dtype), WeakKeyDictionary()
        view._memory = None if self._memory is None else {}
        return view

    @property
    def can_spare(self) -> bool:
        """Whether its U-Net knows how to be differentiated with less memory."""
        return any(hasattr(module, SPARING) for module in self.unet.modules())

    @property
    def spares(self) -> bool:
        """Whether it is differentiated so."""
        return self._networks.spares

    def sparing(self) -> Base:
        """A view whose U-Net is differentiated with less memory, in more time, to the same result."""
        view = copy.copy(self)
        view._networks = self._networks.sparing()
        return view

    def offloaded(self, device: str | torch.device) -> Base:
        """A view whose networks wait in ordinary memory and come to `device` while they are called, one kind at a time;
        those that gradients will go back through stay until `settle`. The base itself is not to be used meanwhile, nor
        the view by two threads. Raises SemblantError for a device without memory of its own."""
        view = copy.copy(self)
        view._networks, view._plain = self._networks.offloaded(torch.device(device)), WeakKeyDictionary()
        view._memory = None if self._memory is None else {}
        return view

    def learning(self) -> AbstractContextManager[None]:
        """For as long as something is learned: then text encoders and U-Net of an offloaded view do not make room for
        each other, and at the end it is settled."""
        return self._networks.learning()

    def settle(self) -> None:
        """Say that no gradient is on its way any more, so that networks of an offloaded view may leave the device."""
        self._networks.settle()

    def attached(self, kind: type) -> tuple[Any, ...]:
        """The patches of one kind, in the order they were attached."""
        return tuple(patch for patch in self.patches if isinstance(patch, kind))

    # -- text --------------------------------------------------------------------------------------------------------

    def text(self, prompts: str | Sequence[str], *, zeros: bool = True) -> Context:
        """Tokenise prompts; they are encoded when `denoise` or `encodings` needs them.

        Where the base was trained so, an empty prompt is not encoded but all zeros; never with `zeros` False.
        """
        words = self.attached(WordsPatch)
        # A prompt is summed up at its first end token, which no word may then stand for.
        filler = int(self.tokenizer.bos_token_id if self.told_sizes else self.tokenizer.eos_token_id)
        given = [prompts] if isinstance(prompts, str) else prompts
        rows = [tokenise(self.tokenizer, prompt, words, filler) for prompt in given]
        if zeros and self.zeros_for_empty:
            nothing = self._zeros(len(rows[0].ids)) if rows else None
            rows = [replace(row, fixed=nothing) if row.text == "" and not row.words else row for row in rows]
        return Context(tuple(rows))

    def _zeros(self, tokens: int) -> Encoding:
        wide = next(int(reader.encoder.config.projection_dim) for reader in self.readers if reader.pools)
        like = {"dtype": self.readers[0].table.weight.dtype, "device": self.device}
        return Encoding(torch.zeros(tokens, self.width, **like), torch.zeros(wide, **like))

    def encodings(self, context: Context, moment: Moment | None = None) -> Float[Tensor, "rows tokens dim"]:
        """The encodings that rows read as keys at the first site, at timestep 0 unless `moment` says otherwise."""
        at = moment or Moment.of(torch.zeros(len(context), dtype=torch.long))
        return prepare(context, at, self.sites, self._encode).read(self.cross_sites()[0], "key")

    def prepare(self, context: Context, moment: Moment) -> Prepared:
        """Encode what one call at `moment` reads."""
        return prepare(context, moment, self.sites, self._encode)

    def token_row(self, word: str) -> Float[Tensor, " dim"]:
        """The input embedding of a word: the mean of its tokens' rows. Raises SemblantError for an empty word."""
        return self.token_rows(word).mean(0)

    def token_rows(self, word: str) -> Float[Tensor, "tokens dim"]:
        """The input embeddings of a word's tokens, in float32 whatever the weights are in, since what is learned starts
        there and small updates of a half would be lost. Raises SemblantError for an empty word."""
        ids = self.tokenizer(word, add_special_tokens=False).input_ids
        if not ids:
            raise SemblantError(f"{word!r} has no token in {self.name}; give a word")
        return rows_of(self.readers, ids).to(self.device, torch.float32)

    def _encode(self, requests: Sequence[Request]) -> Encoding:
        results = [self._known(*request) for request in requests]
        missing = [i for i, result in enumerate(results) if result is None]
        if missing:
            fresh = self._run_text([requests[i] for i in missing])
            for i, encoding in zip(missing, fresh, strict=True):
                results[i] = encoding
                if not encoding.requires_grad:
                    self._keep(*requests[i], encoding)
        known = [r for r in results if r is not None]
        if self.told_sizes and any(encoding.pooled is None for encoding in known):
            raise SemblantError(
                f"{self.name} also reads prompts as a whole, and encodings are given without that; "
                "give `pooled` to Context.of, such as Base.prepare(context, moment).pooled"
            )
        return Encoding.stack(known)

    def _constant(self, prompt: Encoded) -> bool:
        """Whether nothing that is attached, and may be learning, has a part in its encoding."""
        return not prompt.words and not self.rewrites_text

    @property
    def rewrites_text(self) -> bool:
        """Whether something that is attached changes weights of a text encoder."""
        patches = self.attached(WeightsPatch)
        return any(p.select(f"{r.part}.{name}") for p in patches for r in self.readers for name in r.names)

    def _known(self, prompt: Encoded, variant: Variant) -> Encoding | None:
        if prompt.fixed is not None:
            return prompt.fixed
        if self._constant(prompt):
            return self._plain.get(prompt)
        found = None if self._memory is None else self._memory.get((prompt.key, variant))
        return None if found is None else found[1]

    def _keep(self, prompt: Encoded, variant: Variant, encoding: Encoding) -> None:
        if self._constant(prompt):
            self._plain[prompt] = encoding
        elif self._memory is not None:
            # The prompt is kept too: its key holds only while it and its words live.
            self._memory[prompt.key, variant] = (prompt, encoding)

    def _run_text(self, requests: Sequence[Request]) -> list[Encoding]:
        self._networks.bring("text")
        read = read_all(self.readers, requests, self._call, self._changed)
        encodings = []
        for i, (prompt, variant) in enumerate(requests):
            features = read.features[i]
            for word, of_word in zip(prompt.words, variant, strict=True):
                features = word.after(features, prompt, of_word)
            if prompt.weights is not None:
                empty = self._encode([(tokenise(self.tokenizer, ""), ())]).features[0]
                strength = torch.tensor(prompt.weights).to(features)[:, None]
                features = empty + strength * (features - empty)
            encodings.append(Encoding(features, None if read.pooled is None else read.pooled[i]))
        return encodings

    # -- pictures ----------------------------------------------------------------------------------------------------

    def encode(
        self, images: Float[Tensor, "rows 3 height width"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "rows channels h w"]:
        """Pictures in -1..1 to latents; the posterior's mean, or a draw from it when a generator is given."""
        mean, deviation = self.posterior(images)
        if generator is not None:
            mean = mean + deviation * torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
        return mean

    def posterior(self, images: Float[Tensor, "rows 3 height width"]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the autoencoder's posterior, scaled as latents are."""
        with using(self.autoencoder):
            moments = self._call("autoencoder", {}, images.to(self._networks.precision("autoencoder")), method="encode")
        mean, deviation = moments.latent_dist.mean.contiguous(), moments.latent_dist.std.contiguous()
        return mean * self.autoencoder.config.scaling_factor, deviation * self.autoencoder.config.scaling_factor

    def decode(self, latents: Float[Tensor, "rows channels h w"]) -> Float[Tensor, "rows 3 height width"]:
        """Latents to pictures in -1..1 (not clamped)."""
        scaled = (latents / self.autoencoder.config.scaling_factor).to(self._networks.precision("autoencoder"))
        with using(self.autoencoder):
            decoded: Tensor = self._call("autoencoder", {}, scaled, method="decode").sample
        return decoded.contiguous()

    # -- denoising ---------------------------------------------------------------------------------------------------

    def denoise(
        self, x: Float[Tensor, "rows channels h w"], moment: Moment, context: Context
    ) -> Float[Tensor, "rows channels h w"]:
        """Predict the noise in latents `x`, one row of `moment` and `context` per row."""
        if not len(x) == len(moment.timestep) == len(context):
            given = f"{len(x)} latents, {len(moment.timestep)} timesteps, {len(context)} prompts"
            raise ValueError(f"one timestep and one prompt belong to every latent; got {given}")
        verify(self.sites)
        moment = replace(moment, size=(x.shape[-2], x.shape[-1]))
        prepared = self.prepare(context, moment)
        chooser = tuple(w for w in self.attached(WordsPatch) if "contexts" in w.hooks())
        call = Call(moment, prepared, self.attached(AttentionPatch), chooser)
        features: tuple[FeaturesPatch, ...] = self.attached(FeaturesPatch)
        added = [e for patch in features if (e := patch.extra(x, moment)) is not None]
        if sum(e.shape[1] for e in added) != self.extra_channels:
            raise SemblantError(
                f"{self.name} takes {self.extra_channels} channels beside the latent's own, "
                f"and {sum(e.shape[1] for e in added)} are given. "
                "Choose a method made for such a base, or another base."
            )
        keywords: dict[str, Any] = {
            "timestep": moment.timestep,
            "encoder_hidden_states": prepared.read(self.cross_sites()[0], "key"),
            "cross_attention_kwargs": {"moment": call},
            **self.beside(context, moment, prepared),
        }
        residuals = [r for patch in features if (r := patch.residuals(x, moment, context)) is not None]
        if residuals:
            keywords["down_block_additional_residuals"] = tuple(
                sum(level[1:], level[0]) for level in zip(*(down for down, _ in residuals), strict=True)
            )
            keywords["mid_block_additional_residual"] = sum([mid for _, mid in residuals[1:]], residuals[0][1])
        hooks = activations(features, moment)
        inputs = torch.cat([x, *added], 1).to(self._networks.precision("unet"))
        out = self._call("unet", hooks, inputs, **keywords).sample.to(x)
        return self.schedule.epsilon_of_v(x, out, moment.timestep) if self.prediction == "v_prediction" else out

    def beside(self, context: Context, moment: Moment, prepared: Prepared) -> dict[str, Any]:
        """What its U-Net is told beside latent, timestep and tokens, by its own names; nothing but for XL."""
        if not self.told_sizes:
            return {}
        assert moment.size is not None
        whole = Framing.whole(*(side * self.factor for side in moment.size))
        sizes = torch.tensor(context.sizes(whole), dtype=torch.float32, device=self.device)
        return {"added_cond_kwargs": {"text_embeds": prepared.pooled, "time_ids": sizes}}

    # -- machinery ---------------------------------------------------------------------------------------------------

    def _changed(self, part: str, name: str, weight: Tensor) -> Tensor:
        """A weight as it is with what is attached."""
        return changed(self.attached(WeightsPatch), f"{part}.{name}", weight)

    def _call(self, part: str, hooks: Mapping[str, Sequence[Hook]], *args: Any, **kwargs: Any) -> Any:
        """Run one network, with hooks and whatever weights are attached."""
        return self._networks.run(part, self.attached(WeightsPatch), hooks, *args, **kwargs)
