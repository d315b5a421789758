"""All stages within a few minutes of a GPU: ``python -m sage.world.train.gpu --minutes 9``.

    python -m sage.world.train.gpu --minutes 9 --start PACK --out RUN --pack $OUT/pack

It starts from a pack of what another machine has learnt (or from nothing), divides the time that is
left among the stages, paints scenes on the GPU, and every 90 seconds writes a new pack, under
64 MB in files under 16 MB; whoever ends it loses 90 seconds. With `--unpack PACK --out RUN` it only
makes a run of a pack, which `python -m sage.world.train` then goes on with.
"""

import argparse
import time
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from sage.world.train import __main__ as command
from sage.world.train import learner, networks
from sage.world.train.pack import pack, unpack

# Of the minutes, for each stage that learns; what a stage leaves goes to the later ones.
SHARES = {"clip": 0.17, "vae": 0.27, "probe": 0.06, "unet": 0.42, "decoder": 0.08}
ORDER = ("tokenizer", "vae", "clip", "latents", "probe", "unet", "decoder")
SETTLED = ("clip", "vae", "probe")  # once there is a denoiser, which was built on them
SPARE_MINUTES = 0.4  # for the last pack


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m sage.world.train.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="until the last pack is written")
    parser.add_argument("--start", type=Path, help="pack to start from")
    parser.add_argument("--out", type=Path, required=True, help="empty folder of the run")
    parser.add_argument("--pack", type=Path, help="folder for the packs that are written")
    parser.add_argument("--unpack", type=Path, help="only make a run of this pack")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=12, help="processes that draw ahead")
    parser.add_argument("--scenes", type=int, help="scenes to encode for the denoiser")
    parser.add_argument("--batch", type=int, help="pictures in a step, of every stage")
    return parser


def main(argv: list[str] | None = None, sizes: networks.Sizes | None = None) -> None:
    """Train everything within the minutes, at the usual sizes or at those given."""
    begun = time.monotonic()
    given = arguments().parse_args(argv)
    if given.unpack or given.start:
        unpack(given.unpack or given.start, given.out)
    if given.unpack:
        return
    given.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True  # shapes are fixed
    save = partial(pack, given.out, given.pack) if given.pack else None
    run = command.Run(
        out=given.out,
        device=torch.device(given.device),
        sizes=sizes or networks.Sizes(),
        workers=given.workers,
        scenes=given.scenes,
        batch=given.batch,
        saved=save,
    )
    end = begun + 60 * (given.minutes - SPARE_MINUTES)
    learnt = ("vae",) if run.frozen else ()
    if learner.checkpoint(given.out, "unet").exists():
        learnt = SETTLED
    for stage in ORDER:
        minutes = share_of(stage, (end - time.monotonic()) / 60, learnt)
        print(f"{stage}: {minutes:.2f} minutes, at {time.monotonic() - begun:.0f} s", flush=True)
        command.STAGES[stage](replace(run, minutes=max(minutes, 0.001)))
    if save:
        save()
    print(f"done at {time.monotonic() - begun:.0f} s", flush=True)


def share_of(stage: str, left: float, learnt: Collection[str]) -> float:
    """Minutes of a stage, of those that are left for it and those after it.

    Args:
        stage: One of `ORDER`.
        left: Minutes until the end.
        learnt: Stages of `SETTLED` that take no time.
    """
    names = [name for name in ORDER[ORDER.index(stage) :] if name in SHARES]
    shares = {name: 0.0 if name in learnt else SHARES[name] for name in names}
    return max(0.0, left) * shares.get(stage, 0.0) / sum(shares.values())


if __name__ == "__main__":
    main()
