"""Trains the built-in model from nothing: ``python -m sage.world.train STAGE --minutes M``.

Stages, in order: pool (paint scenes), tokenizer, clip, vae, latents (freeze the encoder), probe,
unet, decoder, calibrate, export, guidance, evaluate; ``all`` runs them one after another.
Everything but the export stays outside the checkout, so that a later run can resume.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from sage.world import card, data, evaluate, export, learner, networks, probe, stages

DEFAULT_OUT = Path.home() / ".cache" / "sage-studio" / "world"
MODEL_FOLDER = Path(__file__).resolve().parents[2] / "assets" / "emoji-scenes"
POOL_SCENES = {"cpu": 100_000, "cuda": 1_000_000}
CAPTIONS = 50_000  # to learn the tokenizer from


@dataclass(frozen=True)
class Recipe:
    """A stage's defaults: minutes, batch on a CPU and on a GPU, peak learning rate, EMA."""

    minutes: float
    batch: int
    gpu_batch: int
    rate: float
    ema: float = 0.999


RECIPES = {
    "clip": Recipe(20, 128, 1024, 1e-3, 0.998),
    "vae": Recipe(25, 8, 64, 1.5e-3, 0.998),
    "probe": Recipe(10, 64, 256, 1e-3, 0.998),
    "unet": Recipe(75, 32, 256, 1e-3),
    "decoder": Recipe(6, 8, 64, 1e-3, 0.998),
}


@dataclass(frozen=True)
class Run:
    """The command line, understood."""

    out: Path
    device: torch.device
    seed: int
    resume: bool
    minutes: float | None = None
    steps: int | None = None
    batch: int | None = None
    rate: float | None = None
    scenes: int | None = None
    folder: Path = MODEL_FOLDER

    def pool(self) -> data.Pool:
        """The painted scenes."""
        return data.load_pool(self.out / "pool")

    def words(self) -> CLIPTokenizer:
        """The tokenizer of the stage "tokenizer"."""
        return CLIPTokenizer.from_pretrained(self.out / "tokenizer")

    def settings(self, name: str) -> learner.Settings:
        """The stage's recipe, with what the command line changes."""
        recipe = RECIPES[name]
        minutes = None if self.steps else (self.minutes or recipe.minutes)
        size = recipe.gpu_batch if self.device.type == "cuda" else recipe.batch
        return learner.Settings(
            batch=self.batch or size,
            rate=self.rate or recipe.rate,
            minutes=minutes,
            steps=self.steps,
            seed=self.seed,
            ema=recipe.ema,
        )

    def learn(self, task: learner.Task) -> learner.Learner:
        """Train a task with its settings."""
        return learner.train(task, self.settings(task.name), self.out, self.device, self.resume)


def run_pool(run: Run) -> None:
    """Paint the pool, unless it is there."""
    if not (run.out / "pool").exists():
        number = run.scenes or POOL_SCENES[run.device.type]
        data.build_pool(run.out / "pool", number, run.seed)


def run_tokenizer(run: Run) -> None:
    """Learn the tokenizer; seconds."""
    words = networks.tokenizer(data.caption_stream(CAPTIONS, run.seed))
    words.save_pretrained(run.out / "tokenizer")


def run_clip(run: Run) -> None:
    """Train both towers and save them."""
    run.learn(stages.Clip(run.words(), run.pool(), run.device))
    finish_clip(run)


def finish_clip(run: Run) -> None:
    """Save the averaged towers of the checkpoint in transformers' layout."""
    towers = learner.averaged(stages.TwoTowers(networks.clip(run.words())), run.out, "clip")
    towers.clip.save_pretrained(run.out / "clip")


def run_vae(run: Run) -> None:
    """Train encoder and decoder together."""
    run.learn(stages.Autoencoder(run.pool(), run.device))


def run_latents(run: Run) -> None:
    """Freeze the encoder: standardise its latents, save it, encode the pool's first scenes."""
    vae = learner.averaged(networks.autoencoder(), run.out, "vae").to(run.device)
    images = run.pool().images[: run.scenes]
    some = encode(vae, images[:2000])
    mean, spread = some.mean((0, 2, 3)), some.std((0, 2, 3))
    networks.standardise(vae, *(torch.from_numpy(x).to(run.device) for x in (mean, spread)))
    vae.save_pretrained(run.out / "vae")
    new = run.out / "latents.new.npy"
    # bfloat16 errs by less than a hundredth of a latent's spread, and takes half the time.
    np.save(new, encode(vae.bfloat16(), images).astype(np.float16))
    new.rename(run.out / "latents.npy")


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray, batch: int = 64) -> np.ndarray:
    """Latents float32 [N, 4, 16, 16] of pictures uint8 [N, 64, 64, 3]: the posterior's mean."""
    parts = []
    for start in tqdm(range(0, len(images), batch), desc="encode", mininterval=5):
        pixels = probe.to_pixels(images[start : start + batch]).to(vae.device, vae.dtype)
        parts.append(vae.encode(pixels).latent_dist.mean.float().cpu().numpy())
    return np.concatenate(parts)


def run_probe(run: Run) -> None:
    """Train the judge and save it."""
    run.learn(stages.ProbeStage(run.pool(), run.device))
    finish_probe(run)


def finish_probe(run: Run) -> None:
    """Save the averaged probe of the checkpoint."""
    sizes = len(data.THINGS), len(data.PLACES), len(data.STYLES)
    probe.save(learner.averaged(probe.Probe(*sizes), run.out, "probe"), run.out / "probe")


def run_unet(run: Run) -> None:
    """Train the denoiser on frozen latents and the frozen text tower."""
    text = CLIPTextModel.from_pretrained(run.out / "clip", attn_implementation="eager")
    latents = np.load(run.out / "latents.npy", mmap_mode="r")
    frozen = stages.Frozen(run.words(), text.eval().requires_grad_(False), latents)
    run.learn(stages.Denoiser(frozen, run.pool(), run.device))


def run_decoder(run: Run) -> None:
    """Train the decoder on; the latents stay what they are."""
    vae = networks.eager(AutoencoderKL.from_pretrained(run.out / "vae"))
    latents = np.load(run.out / "latents.npy", mmap_mode="r")
    run.learn(stages.Decoder(vae, latents, run.pool(), run.device))


def run_calibrate(run: Run) -> None:
    """Choose tau_min, tau_max and latent_rgb by measurement; writes calibration.json."""
    clip = CLIPModel.from_pretrained(run.out / "clip")
    record = evaluate.calibrate(clip, run.words(), run.out, run.pool())
    export.write_json(run.out / "calibration.json", record)


def run_guidance(run: Run) -> None:
    """Choose the guidance scale of the exported model by the probe; writes calibration.json."""
    pipe, referee = evaluate.load(run.folder), probe.load(run.folder / "probe")
    best, figures = evaluate.best_guidance(pipe, referee, (1.5, 2.0, 3.0, 4.0), 48)
    record = export.read_json(run.out / "calibration.json")
    record |= {"guidance_scale": best, "guidance_figures": figures}
    export.write_json(run.out / "calibration.json", record)
    export.write_json(run.folder / "sage.json", export.settings(run.out))


def run_export(run: Run) -> None:
    """Write the model folder, in one move."""
    export.export(run.out, run.folder)


def run_evaluate(run: Run) -> None:
    """Judge the exported model; writes evaluation.json, a contact sheet and the model card."""
    evaluate.evaluate(run.folder)
    card.write_card(run.folder, hardware(run.device))


def hardware(device: torch.device) -> str:
    """What the model was trained on, in plain words."""
    if device.type == "cuda":
        return f"one {torch.cuda.get_device_name(device)}"
    return f"{os.cpu_count()} CPU cores"


STAGES: dict[str, Callable[[Run], None]] = {
    "pool": run_pool,
    "tokenizer": run_tokenizer,
    "clip": run_clip,
    "vae": run_vae,
    "latents": run_latents,
    "probe": run_probe,
    "unet": run_unet,
    "decoder": run_decoder,
    "calibrate": run_calibrate,
    "export": run_export,
    "guidance": run_guidance,
    "evaluate": run_evaluate,
}


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m sage.world.train", description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--minutes", type=float, help="of training, earlier runs counted")
    parser.add_argument("--steps", type=int, help="of training, instead of minutes")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, help="pictures in a step")
    parser.add_argument("--rate", type=float, help="peak learning rate")
    parser.add_argument("--scenes", type=int, help="scenes to paint, or to encode")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="checkpoints and logs")
    parser.add_argument("--folder", type=Path, default=MODEL_FOLDER, help="of the export")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run a stage, or all of them."""
    given = arguments().parse_args(argv)
    if given.threads:
        torch.set_num_threads(given.threads)
    device = given.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    names = ("minutes", "steps", "resume", "seed", "batch", "rate", "scenes", "out", "folder")
    run = Run(device=torch.device(device), **{name: getattr(given, name) for name in names})
    run.out.mkdir(parents=True, exist_ok=True)
    for name in STAGES if given.stage == "all" else [given.stage]:
        STAGES[name](run)


if __name__ == "__main__":
    main()
