"""What a script of diffusers draws, and what it learns, written down so that ours can do the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Recorder:
    """Keeps, step by step, pictures, their posterior's draw, noise, timesteps, prompts and losses; and what is learned.

    What is learned is named as semblant names it, so that both sides can be compared weight by weight.
    """

    def __init__(self, part: str, path: Path) -> None:
        self.part, self.path = part, path
        self.tensors: dict[str, Tensor] = {}
        self.prompts: list[list[str]] = []
        self.ids: list[list[list[int]]] = []
        self.losses: list[float] = []

    def begin(self) -> None:
        """Have the first backward pass, before which nothing was learned, tell what learning starts from."""
        from accelerate import Accelerator

        backward = Accelerator.backward

        def first(accelerator: Any, loss: Tensor, **options: Any) -> None:
            Accelerator.backward = backward  # type: ignore[method-assign]
            self.learned("start", sys._getframe(1).f_locals)
            backward(accelerator, loss, **options)

        Accelerator.backward = first  # type: ignore[method-assign]

    def after(self, step: int, variables: Mapping[str, Any]) -> None:
        """Keep what a step drew, and what is learned by now."""
        batch, vae = variables["batch"], variables["vae"]
        latents = variables["latents"] if "latents" in variables else variables["model_input"]
        with torch.no_grad():
            posterior = vae.encode(batch["pixel_values"].float()).latent_dist
        drawn = (latents / vae.config.scaling_factor - posterior.mean) / posterior.std
        kept = {"pixels": batch["pixel_values"], "drawn": drawn, "noise": variables["noise"]}
        kept |= {"timesteps": variables["timesteps"], **({"mask": batch["mask"]} if "mask" in batch else {})}
        self.tensors |= {f"{step}.{name}": tensor.detach().clone().contiguous() for name, tensor in kept.items()}
        ids = batch["input_ids"].tolist()
        self.ids.append(ids)
        self.prompts.append([_prompt(variables["tokenizer"], row) for row in ids])
        self.losses.append(float(variables["loss"].detach()))
        self.learned("end", variables)

    def write(self) -> None:
        """PATH.safetensors and PATH.json."""
        from safetensors.torch import save_file

        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, self.path.with_suffix(".safetensors"))
        told = {"prompts": self.prompts, "ids": self.ids, "losses": self.losses}
        self.path.with_suffix(".json").write_text(json.dumps(told))

    def learned(self, when: str, variables: Mapping[str, Any]) -> None:
        """Keep what is learned as it is at the "start" or at the "end"."""
        for name, tensor in LEARNED[self.part](variables).items():
            self.tensors[f"{when}.{name}"] = tensor.detach().float().clone().contiguous()


def _prompt(tokenizer: Any, ids: list[int]) -> str:
    """The words of a prompt, each of which is one token of the checkpoint's tokenizer."""
    beside = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return " ".join(tokenizer.decode([token]).strip() for token in ids if token not in beside)


def _row(variables: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    places = variables[name]
    return {"row": variables["text_encoder"].get_input_embeddings().weight[places[0] : places[-1] + 1]}


def _factors(variables: Mapping[str, Any]) -> dict[str, Tensor]:
    ends = {".lora_A.default.weight": ".weight.down", ".lora_B.default.weight": ".weight.up"}
    return {
        f"unet.{name.removesuffix(end)}{ours}": weight
        for name, weight in variables["unet"].named_parameters()
        for end, ours in ends.items()
        if name.endswith(end)
    }


def _keys_and_values(variables: Mapping[str, Any]) -> dict[str, Tensor]:
    named = variables["unet"].named_parameters()
    found = {
        f"unet.{name.replace('.processor.', '.').replace('_custom_diffusion', '')}": weight
        for name, weight in named
        if "_custom_diffusion" in name
    }
    return {**found, **_row(variables, "modifier_token_id")}


LEARNED = {
    "textual-inversion": lambda variables: _row(variables, "placeholder_token_ids"),
    "dreambooth-lora": _factors,
    "custom-diffusion": _keys_and_values,
}
"""What each script learns, out of its variables."""
