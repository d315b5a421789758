"""Trains the built-in model from nothing: ``python -m sage.world.train all --hours H``.

Stages, in order: tokenizer, clip, vae, latents (freeze the encoder), probe, unet, decoder,
calibrate, export, guidance, evaluate; ``all`` runs them one after another and divides the hours
among those that learn. Everything but the export stays outside the checkout; a run that is
called again goes on where it stopped.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionModel

from sage.core.places import cache_folder
from sage.sd.foreign import Network
from sage.world import probe
from sage.world.scenes import Scene
from sage.world.train import calibrate, card, data, evaluate, export, learner, networks, stages
from sage.world.train.table import Table
from sage.world.words import MODEL_FOLDER, Words, world_words

DEFAULT_OUT = cache_folder() / "world-128"
ENCODED = {"cpu": 200_000, "cuda": 300_000}  # scenes that the denoiser learns from
CHUNK = 2000  # of them in one piece of the latents' file
CAPTIONS = 60_000  # to learn the tokenizer from
GUIDANCE_SCALES = (2.0, 3.0, 4.0, 5.0, 6.0)
CHOSEN_BY = 120  # captions for each of them
MEASURED = 1000  # scenes by which latents are standardised and previews coloured


@dataclass(frozen=True)
class Recipe:
    """A stage's defaults: share of the hours, batch on a CPU and on a GPU, peak rate, EMA."""

    share: float
    batch: int
    gpu_batch: int
    rate: float
    ema: float = 0.999


RECIPES = {
    "clip": Recipe(0.10, 128, 1024, 1e-3, 0.998),
    "vae": Recipe(0.18, 8, 64, 1.5e-3, 0.998),
    "probe": Recipe(0.04, 64, 256, 1e-3, 0.998),
    "unet": Recipe(0.62, 32, 512, 1e-3),
    "decoder": Recipe(0.06, 8, 64, 1e-3, 0.998),
}


@dataclass(frozen=True)
class Run:
    """The command line, understood."""

    out: Path
    device: torch.device
    seed: int = 0
    fresh: bool = False
    hours: float | None = None
    minutes: float | None = None
    steps: int | None = None
    batch: int | None = None
    rate: float | None = None
    scenes: int | None = None
    workers: int = 0
    align: float = 0.0
    compiled: bool = False
    folder: Path = MODEL_FOLDER
    saved: Callable[[], None] | None = None
    sizes: networks.Sizes = field(default_factory=networks.Sizes)

    @property
    def words(self) -> Words:
        """What there is to learn."""
        return world_words()

    def stream(self) -> data.Stream:
        """Scenes without end; a GPU paints them itself."""
        return data.Stream(self.words, self.sizes.image, self.table)

    @cached_property
    def table(self) -> Table | None:
        """What a GPU paints from, made once."""
        return Table(self.words, self.device, self.sizes.image) if self.on_gpu else None

    @property
    def frozen(self) -> bool:
        """Whether the encoder is frozen: what was made with it is of no use with another."""
        return (self.out / "vae").exists()

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU to keep busy."""
        return self.device.type == "cuda"

    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer of the stage "tokenizer"."""
        return CLIPTokenizer.from_pretrained(self.out / "tokenizer")

    def settings(self, name: str) -> learner.Settings:
        """The stage's recipe, with what the command line changes."""
        recipe = RECIPES[name]
        minutes = self.minutes or 60 * recipe.share * (self.hours or 10)
        size = recipe.gpu_batch if self.on_gpu else recipe.batch
        return learner.Settings(
            batch=self.batch or size,
            rate=self.rate or recipe.rate,
            minutes=None if self.steps else minutes,
            steps=self.steps,
            seed=self.seed,
            ema=recipe.ema,
            save_minutes=1.5 if self.on_gpu else 4.0,
            workers=self.workers,
        )

    def learn(self, task: learner.Task) -> learner.Learner:
        """Train a task with its settings, from its checkpoint if there is one."""
        return learner.train(
            task,
            self.settings(task.name),
            self.out,
            self.device,
            resume=not self.fresh,
            saved=self.saved,
        )


def run_tokenizer(run: Run) -> None:
    """Learn the tokenizer, unless it is there; seconds."""
    if not (run.out / "tokenizer").exists():
        texts = data.caption_stream(run.words, CAPTIONS, run.seed)
        made = networks.tokenizer(texts, run.sizes.vocabulary, run.sizes.tokens)
        made.save_pretrained(run.out / "tokenizer")


def run_clip(run: Run) -> None:
    """Train both towers and save them."""
    run.learn(stages.Clip(run.tokenizer(), run.sizes, run.stream(), run.device))
    clip = networks.clip(run.tokenizer(), run.sizes)
    towers = learner.averaged(stages.TwoTowers(clip, run.words), run.out, "clip")
    towers.clip.save_pretrained(run.out / "clip")


def run_vae(run: Run) -> None:
    """Train encoder and decoder together, until the encoder is frozen."""
    if not run.frozen:
        run.learn(stages.Autoencoder(run.sizes, run.stream(), run.device))


def run_latents(run: Run) -> None:
    """Freeze the encoder: standardise its latents, save it, encode scenes for the denoiser."""
    if not run.frozen:
        vae = learner.averaged(networks.autoencoder(run.sizes), run.out, "vae").to(run.device)
        some = encode(vae, painted(run, data.draw_scenes(MEASURED, run.seed, run.words)).images)
        mean, spread = some.mean((0, 2, 3)), some.std((0, 2, 3))
        networks.standardise(vae, *(torch.from_numpy(x).to(run.device) for x in (mean, spread)))
        vae.save_pretrained(run.out / "vae.new")
        (run.out / "vae.new").rename(run.out / "vae")
    # bfloat16 errs by less than a hundredth of a latent's spread, and takes half the time.
    vae = networks.eager(AutoencoderKL.from_pretrained(run.out / "vae")).to(run.device).bfloat16()
    (run.out / "latents").mkdir(exist_ok=True)
    stream, files = run.stream(), {n: latents_file(run, n) for n in range(chunks(run))}
    missing = [number for number, file in files.items() if not file.exists()]

    def prepare(number: int) -> data.Drawn:
        return stream.prepare(chunk_scenes(run, number))

    made = zip(missing, data.ahead(prepare, missing, run.workers), strict=True)
    for number, drawn in tqdm(made, desc="latents", total=len(missing), mininterval=5):
        found = stream.paint(drawn)
        latents = encode(vae, found.images, 500 if run.on_gpu else 50).astype(np.float16)
        new = files[number].with_suffix(".new")
        with open(new, "wb") as handle:
            np.savez(handle, latents=latents, masks=found.masks.cpu().numpy())
        os.replace(new, files[number])


def latents_file(run: Run, number: int) -> Path:
    """Where one piece of the latents lies."""
    return run.out / "latents" / f"{number:05d}.npz"


def painted(run: Run, scenes: list[Scene]) -> data.Painted:
    """Scenes with their pictures."""
    stream = run.stream()
    return stream.paint(stream.prepare(scenes))


def chunks(run: Run) -> int:
    """How many pieces the latents' file has."""
    return (run.scenes or ENCODED[run.device.type]) // CHUNK


def chunk_scenes(run: Run, number: int) -> list[Scene]:
    """The scenes of one piece; every piece has its own seed."""
    return data.draw_scenes(CHUNK, run.seed * 100_000 + number, run.words)


def frozen(run: Run) -> stages.Frozen:
    """What the denoiser learns from: all pieces that are there."""
    text = CLIPTextModel.from_pretrained(run.out / "clip", attn_implementation="eager")
    files = sorted((run.out / "latents").glob("*.npz"))[: chunks(run)]
    if not files:
        raise FileNotFoundError(f"{run.out / 'latents'} is empty; run the stage 'latents' first")
    pieces = [np.load(file) for file in files]
    latents, masks = (
        torch.from_numpy(np.concatenate([piece[name] for piece in pieces])).to(run.device)
        for name in ("latents", "masks")
    )
    numbers = [int(file.stem) for file in files]
    drawn = data.ahead(partial(chunk_scenes, run), numbers, run.workers)
    scenes = tuple(scene for some in drawn for scene in some)
    text = text.eval().requires_grad_(False)
    return stages.Frozen(run.tokenizer(), text, scenes, latents, masks)


@torch.no_grad()
def encode(vae: Network, images: Tensor, batch: int = 50) -> np.ndarray:
    """Latents float32 [N, C, h, w] of pictures uint8 [N, H, W, 3]: the posterior's mean."""
    parts = []
    for start in range(0, len(images), batch):
        pixels = probe.to_pixels(images[start : start + batch]).to(vae.device, vae.dtype)
        parts.append(vae.encode(pixels).latent_dist.mean.float().cpu().numpy())
    return np.concatenate(parts)


def run_probe(run: Run) -> None:
    """Train the judge and save it."""
    run.learn(stages.ProbeStage(run.stream(), run.device))
    judge = learner.averaged(probe.Probe.of(run.words), run.out, "probe")
    probe.save(judge, run.out / "probe")


def run_unet(run: Run) -> None:
    """Train the denoiser on frozen latents and the frozen text tower."""
    task = run.sizes, frozen(run)
    if not run.align:
        captions = data.Stream(run.words, run.sizes.image)  # paints nothing, so it needs no table
        run.learn(stages.Denoiser(*task, captions, run.device, compiled=run.compiled))
        return
    tower = CLIPVisionModel.from_pretrained(run.out / "clip", attn_implementation="eager")
    tower = tower.eval().requires_grad_(False)
    stream = run.stream()
    run.learn(stages.Aligned(*task, stream, run.device, tower=tower, weight=run.align))


def run_decoder(run: Run) -> None:
    """Train the decoder on; the latents stay what they are."""
    vae = networks.eager(AutoencoderKL.from_pretrained(run.out / "vae"))
    run.learn(stages.Decoder(vae, run.stream(), run.device))


def run_calibrate(run: Run) -> None:
    """Choose tau_min, tau_max and latent_rgb by measurement; writes calibration.json."""
    clip = CLIPModel.from_pretrained(run.out / "clip")
    vae = AutoencoderKL.from_pretrained(run.out / "vae")
    record = export.read_json(run.out / "calibration.json")
    record |= calibrate.bounds(clip, run.tokenizer(), run.words)
    _, images = evaluate.fresh(run.words, MEASURED)
    latents = encode(vae, torch.from_numpy(images))
    record["latent_rgb"] = calibrate.latent_rgb(latents, images)
    export.write_json(run.out / "calibration.json", record)


def run_guidance(run: Run) -> None:
    """Choose the guidance scale of the exported model by the probe; writes calibration.json."""
    pipe, referee = evaluate.load(run.folder, run.device), probe.load(run.folder / "probe")
    best, figures = evaluate.best_guidance(pipe, referee, run.words, GUIDANCE_SCALES, CHOSEN_BY)
    record = export.read_json(run.out / "calibration.json")
    record |= {"guidance_scale": best, "guidance_figures": figures}
    export.write_json(run.out / "calibration.json", record)
    export.write_json(run.folder / "sage.json", export.settings(run.out, run.words))


def run_export(run: Run) -> None:
    """Write the model folder, in one move."""
    export.export(run.out, run.folder, run.sizes, run.words)


def run_evaluate(run: Run) -> None:
    """Judge the exported model; writes evaluation.json, a contact sheet and the model card."""
    evaluate.evaluate(run.folder, sheets=run.out, device=run.device)
    card.write_card(run.folder, hardware(run.device))


def hardware(device: torch.device) -> str:
    """What the model was trained on, in plain words."""
    if device.type == "cuda":
        return f"one {torch.cuda.get_device_name(device)}"
    return f"{os.cpu_count()} CPU cores"


STAGES: dict[str, Callable[[Run], None]] = {
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
    parser.add_argument("--hours", type=float, help="of the whole run, divided among the stages")
    parser.add_argument("--minutes", type=float, help="of this stage, earlier runs counted")
    parser.add_argument("--steps", type=int, help="of this stage, instead of minutes")
    parser.add_argument("--fresh", action="store_true", help="do not go on from the checkpoint")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, help="pictures in a step")
    parser.add_argument("--rate", type=float, help="peak learning rate")
    parser.add_argument("--scenes", type=int, help="scenes to encode for the denoiser")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw ahead")
    parser.add_argument("--align", type=float, default=0.0, help="weight of alignment to CLIP")
    parser.add_argument("--compiled", action="store_true", help="torch.compile for the denoiser")
    parser.add_argument("--channels", type=int, help="of a latent")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="checkpoints and logs")
    parser.add_argument("--folder", type=Path, default=MODEL_FOLDER, help="of the export")
    return parser


def main(argv: list[str] | None = None, sizes: networks.Sizes | None = None) -> None:
    """Run a stage, or all of them, at the usual sizes or at those given."""
    given = arguments().parse_args(argv)
    if given.threads:
        torch.set_num_threads(given.threads)
    device = given.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = sizes or networks.Sizes()
    if given.channels:
        sizes = replace(sizes, channels=given.channels)
    names = [f.name for f in fields(Run) if f.name not in ("device", "sizes", "saved")]
    run = Run(
        device=torch.device(device), sizes=sizes, **{name: getattr(given, name) for name in names}
    )
    run.out.mkdir(parents=True, exist_ok=True)
    for name in STAGES if given.stage == "all" else [given.stage]:
        STAGES[name](run)


if __name__ == "__main__":
    main()
