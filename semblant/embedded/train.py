"""`python -m semblant.embedded.train`: train the embedded base and its judges from the world.

Stages run in order, each for its minutes; all but the short ones resume from the work folder, and nothing outside it
is written until `--ship` puts the half-precision results into the package. A run that goes on from the shipped weights
keeps their autoencoder: another would make latents that the shipped U-Net has never seen.

With `--device cuda` pictures are drawn, encoded and shown on the GPU and never leave it; other processes write the
captions.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semblant.backbones.blueprint import (
    Blueprint,
    Tokenizer,
    plan_record,
    read_autoencoder,
    read_tokenizer,
    write_frame,
    write_part,
)
from semblant.backbones.judges import Judges, load_judges
from semblant.backbones.loading import load
from semblant.backbones.vocabulary import word_tokenizer
from semblant.embedded import autoencoder, decoder, diffusion, gates, latents, presentations, quality, wording
from semblant.embedded.judges import train_judges
from semblant.embedded.learners import learning_rate
from semblant.embedded.presentations import Words
from semblant.embedded.reader import Lessons, train_reader
from semblant.training.precision import choose, precision_name, probe
from semblant.world.captions import PUNCTUATION, words

log = logging.getLogger("semblant.embedded")

WEIGHTS = Path(__file__).parent / "weights"
"""Where the shipped weights lie inside the package."""
STAGES = ("autoencoder", "latents", "text", "reader", "base", "decoder", "judges", "card")
RESIDENT, KEPT = 98_304, 16_384
"""Pictures that stay on a GPU: for the base as latents, of which this many fill a gigabyte; for the autoencoder."""
CURVE = ("captions", "macro", "macro_corrected", "faces")
"""What the learning curve in the card holds for every mark."""
GOING_ON = ("latents", "text", "reader", "base", "decoder", "card")
"""Stages of a run that goes on from the shipped weights."""


def main(arguments: list[str] | None = None) -> None:
    """Run the stages that were asked for."""
    parser = argparse.ArgumentParser(prog="semblant.embedded.train", description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("build/embedded"), help="folder for all states (default: %(default)s)"
    )
    parser.add_argument(
        "--stage",
        nargs="+",
        choices=STAGES,
        help=f"what to run (default: all; from the shipped weights {' '.join(GOING_ON)})",
    )
    parser.add_argument("--hours", type=float, default=10.0, help="hours for the base stage (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="compile the U-Net, which was no faster on two cores")
    parser.add_argument(
        "--text-minutes", type=float, default=15.0, help="minutes for the text encoder alone (default: %(default)s)"
    )
    parser.add_argument(
        "--reader-minutes", type=float, default=15.0, help="minutes for the reader of latents (default: %(default)s)"
    )
    parser.add_argument("--autoencoder-minutes", type=float, default=20.0)
    parser.add_argument(
        "--decoder-minutes", type=float, default=20.0, help="minutes for the decoder alone (default: %(default)s)"
    )
    parser.add_argument(
        "--shards", type=int, default=200, help=f"shards of {latents.SHARD} latents (default: %(default)s)"
    )
    parser.add_argument(
        "--from",
        dest="warm",
        choices=["shipped", "nothing"],
        default="nothing",
        help="warm-start from the shipped weights",
    )
    parser.add_argument(
        "--shape", choices=["small", "large"], default="small", help="small trains on two cores, large on a GPU"
    )
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for one GPU (default: %(default)s)")
    parser.add_argument("--batch", type=int, help="rows of a step of the base (default: 32; on a GPU 256)")
    parser.add_argument(
        "--resident", type=int, help=f"pictures that stay on the device, 0 for none (default: 0; on a GPU {RESIDENT})"
    )
    parser.add_argument(
        "--workers", type=int, help="processes that write captions (default: 0; for a GPU one for each core but two)"
    )
    parser.add_argument(
        "--judge-minutes", type=float, default=5.0, help="minutes for each judge (default: %(default)s)"
    )
    parser.add_argument("--captions", type=int, default=512, help="captions the card measures (default: %(default)s)")
    parser.add_argument(
        "--compute",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="auto measures which is faster: processors without arithmetic for bfloat16 are many times slower in it "
        "(default: %(default)s)",
    )
    parser.add_argument("--ship", action="store_true", help="put the results into the package when done")
    given = parser.parse_args(arguments)
    stages = given.stage or (GOING_ON if given.warm == "shipped" else STAGES)
    if given.warm == "shipped" and ("autoencoder" in stages or given.shape != "small"):
        parser.error("the shipped weights are of the small shape, and a new autoencoder would make them useless")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {given.device}, but torch sees no GPU here; --device cpu trains the small shape")
    for option, count in (("--batch", given.batch), ("--resident", given.resident)):
        if count is not None and (count % 2 or count < (2 if option == "--batch" else 0)):
            parser.error(f"{option} is an even number, since pictures come as twins; got {count}")
    plan = Blueprint.large() if given.shape == "large" else Blueprint()
    work: Path = given.work
    tokenizer = tokenizer_of(work, given.warm == "shipped")
    compute = probe(device) if given.compute == "auto" else getattr(torch, given.compute)
    log.info("computing in %s", precision_name(compute))
    write_frame(work / "base", tokenizer, diffusion.PREDICTION, diffusion.NOISIER)
    if given.warm == "shipped":
        if not same_encoder(work / "base", WEIGHTS / "base"):
            shutil.copytree(WEIGHTS / "base" / "vae", work / "base" / "vae", dirs_exist_ok=True)
        (work / "curve.json").write_text(json.dumps(shipped_card().get("curve", [])) + "\n")
    gpu = device.type == "cuda"
    if gpu:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    stay = (RESIDENT if gpu else 0) if given.resident is None else given.resident
    workers = (max(1, (os.cpu_count() or 2) - 2) if gpu else 0) if given.workers is None else given.workers
    if "autoencoder" in stages:
        log.info("autoencoder: %.1f minutes", given.autoencoder_minutes)
        network = autoencoder.train_autoencoder(
            work,
            plan,
            minutes=given.autoencoder_minutes,
            batch=64 if gpu else 2,
            compute=compute,
            device=device,
            stay=min(KEPT, stay),
        )
        write_part(work / "base", "vae", network)
        latents.record(work / "autoencoder.jsonl", **autoencoder.face_psnr(network))
    if "latents" in stages and not stay:
        build_latents(work, given.shards, compute)
    begun = given.warm == "shipped" or (work / diffusion.STATE).is_file()
    if "text" in (given.stage or ()) or ("text" in stages and not (work / diffusion.STATE).is_file()):
        log.info("text encoder: %.1f minutes", given.text_minutes)
        run = diffusion.begun(work, plan, tokenizer, warm=WEIGHTS / "base" if given.warm == "shipped" else None)
        wording.train_text(
            work,
            plan,
            tokenizer,
            minutes=given.text_minutes,
            seed=run.seen,
            batch=256 if gpu else wording.BATCH,
            compute=compute,
            device=device,
            workers=workers,
            start=run.text_so_far() if begun else None,
        )
        if begun:
            run.learn_words(work / "text.safetensors")
            run.save(work / diffusion.STATE)
            run.ship(work / "base")
    rows = None
    if stay and {"reader", "base"} & set(stages):
        encode = encoder(work, compute, device)
        rows = presentations.settle(stay, encode, Words(tokenizer), device, size=plan.size, workers=workers)
    if "reader" in stages and not (work / "reader.safetensors").is_file():
        log.info("reader: %.1f minutes", given.reader_minutes)
        lessons = Lessons.of_shards(work / "latents") if rows is None else rows.lessons()
        train_reader(work, lessons, given.reader_minutes, compute=compute)
    if "base" in stages:
        batch = given.batch or (256 if gpu else 32)
        ends = time.strftime("%H:%M", time.localtime(time.time() + given.hours * 3600))
        log.info("base: %.2f hours, ends about %s", given.hours, ends)
        run = diffusion.train_base(
            work,
            plan,
            tokenizer,
            minutes=given.hours * 60,
            batch=batch,
            warm=WEIGHTS / "base" if given.warm == "shipped" else None,
            compute=compute,
            compiled=given.compile,
            rate=learning_rate(batch),
            device=device,
            rows=rows,
        )
        log.info("%d presentations, %d steps", run.seen, run.steps)
        (work / "plan.json").write_text(json.dumps({**plan_record(plan), "presentations": run.seen}) + "\n")
    if "decoder" in stages:
        log.info("decoder: %.1f minutes", given.decoder_minutes)
        network = read_autoencoder(work / "base")
        painted = (work / "base" / "unet").is_dir() and (work / "base" / "text_encoder").is_dir()
        decoder.steady_decoder(
            network,
            work,
            seed=_presentations(work),
            minutes=given.decoder_minutes,
            base=load(work / "base", device) if painted else None,
            size=plan.size,
            batch=64 if gpu else 2,
            compute=compute,
            device=device,
            stay=min(KEPT, stay),
        )
        write_part(work / "base", "vae", network)
        latents.record(
            work / "autoencoder.jsonl", **decoder.decibels(network, load(work / "base") if painted else None)
        )
    if "judges" in stages:
        build_judges(work, given.judge_minutes, device, WEIGHTS / "judges" if given.warm == "shipped" else None)
    if "card" in stages:
        write_card(work, given.captions)
    if given.ship:
        ship(work)


def tokenizer_of(work: Path, warm: bool) -> Tokenizer:
    """The tokenizer of the weights that a run goes on from: its own, else the shipped ones', else a new one.

    Weights know words by their numbers, so whoever brings the weights brings the tokenizer.
    """
    if warm and not (work / "base.safetensors").is_file():
        return read_tokenizer(WEIGHTS / "base")
    if (work / "base" / "tokenizer" / "tokenizer.json").is_file():
        return read_tokenizer(work / "base")
    return word_tokenizer([*words(), *PUNCTUATION])


def same_encoder(folder: Path, other: Path) -> bool:
    """Whether the autoencoders of two bases make the same latents, whatever their decoders make of them."""
    if not (folder / "vae" / "config.json").is_file():
        return False
    one, two = (read_autoencoder(place) for place in (folder, other))
    if one.config.scaling_factor != two.config.scaling_factor:
        return False
    own, theirs = ({**n.encoder.state_dict(), **n.quant_conv.state_dict()} for n in (one, two))
    return own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)


def encoder(work: Path, compute: torch.dtype, device: torch.device) -> Callable[[Tensor], Tensor]:
    """From pictures in -1..1 on `device` to the latents that the base learns from."""
    network = read_autoencoder(work / "base").to(device, memory_format=torch.channels_last)
    scale = network.config.scaling_factor

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=compute == torch.bfloat16):
            mean: Tensor = network.encode(images.contiguous(memory_format=torch.channels_last)).latent_dist.mean
        return mean.float() * scale

    return encode


def build_latents(work: Path, shards: int, compute: torch.dtype) -> None:
    """Render and encode the shards that are not there yet."""
    encode = encoder(work, compute, torch.device("cpu"))
    folder = work / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        path = folder / f"{shard:05d}.safetensors"
        if not path.is_file():
            began = time.monotonic()
            latents.build_shard(path, shard, encode)
            log.info("shard %d of %d in %.0f s", shard + 1, shards, time.monotonic() - began)


def build_judges(work: Path, minutes: float, device: torch.device, warm: Path | None = None) -> None:
    """Train the judges, on from those in `warm`, on renders and on what the autoencoder makes of them; calibrate them
    and measure their gates."""
    made = work / "judges" / "made"
    made.mkdir(parents=True, exist_ok=True)
    train_judges(
        made,
        minutes,
        quality.round_trip(load(work / "base", device)),
        work=work / "judges",
        device=str(device),
        warm=warm,
    )
    gates.calibrate(made)
    there_and_back = quality.round_trip(load(work / "base"))
    gates.write_card(gates.gates(load_judges("B", made), round_trip=there_and_back), made)


def write_card(work: Path, captions: int) -> None:
    """Measure the base in the work folder with judges B, in the faster precision; `card.json` there tells."""
    made = work / "judges" / "made"
    base = load(work / "base")
    compute = choose(base, rows=16)
    base = base.computing(compute)
    judges = load_judges("B", made if (made / "card.json").is_file() else None)
    curve = learning_curve(work, judges, max(captions // 4, 1), compute)
    plan = json.loads((work / "plan.json").read_text())
    log_file = work / "autoencoder.jsonl"
    codec = shipped_card().get("autoencoder", {})
    if log_file.is_file():
        lines = [json.loads(line) for line in log_file.read_text().splitlines()]
        drawn = max(line.get("pictures", 0) for line in lines) or codec.get("pictures", 0)
        codec = {**lines[-1], "pictures": drawn}
    card = {
        "base": {
            "presentations": plan.pop("presentations"),
            "compute": precision_name(compute),
            **quality.measure_base(base, judges, captions),
        },
        "curve": curve,
        "named people": {"identity_gain": quality.measure_named(base, judges)},
        "two people": quality.measure_two(base, judges, max(captions // 8, 1)),
        "animals and things": quality.measure_beings(base, judges, max(captions // 8, 1)),
        "autoencoder": codec,
        "plan": plan,
    }
    (work / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    log.info("%s", json.dumps(card))


def _presentations(work: Path) -> int:
    plan = work / "plan.json"
    return int(json.loads(plan.read_text())["presentations"]) if plan.is_file() else 0


def shipped_card() -> dict[str, Any]:
    """What was measured about the shipped base; empty when none is."""
    file = WEIGHTS / "card.json"
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def learning_curve(work: Path, judges: Judges, captions: int, compute: torch.dtype) -> list[dict[str, Any]]:
    """How good the base was after every mark of presentations, where a snapshot or an earlier measuring is here.

    Snapshots hold a U-Net and a text encoder; the rest of each base is that of the work folder.
    """
    kept = work / "curve.json"
    measured = {entry["presentations"]: entry for entry in (json.loads(kept.read_text()) if kept.is_file() else [])}
    for mark in sorted(work.glob("marks/*"), key=lambda path: int(path.name)):
        seen = int(mark.name)
        if seen in measured and measured[seen]["captions"] >= captions:
            continue
        shutil.copytree(work / "base", mark, dirs_exist_ok=True, ignore=shutil.ignore_patterns("unet", "text_encoder"))
        found = quality.measure_base(load(mark).computing(compute), judges, captions)
        measured[seen] = {"presentations": seen, "compute": precision_name(compute), **{k: found[k] for k in CURVE}}
        log.info("%s", json.dumps(measured[seen]))
    curve = [measured[seen] for seen in sorted(measured)]
    kept.write_text(json.dumps(curve) + "\n")
    return curve


def ship(work: Path) -> None:
    """Copy what the work folder holds of base, judges and card into the package."""
    shutil.copytree(work / "base", WEIGHTS / "base", dirs_exist_ok=True)
    if (work / "judges" / "made" / "card.json").is_file():
        shutil.copytree(work / "judges" / "made", WEIGHTS / "judges", dirs_exist_ok=True)
    if (work / "card.json").is_file():
        shutil.copy(work / "card.json", WEIGHTS / "card.json")


if __name__ == "__main__":
    main()
