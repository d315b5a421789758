"""Writes the model card: what the model is, what it learnt from, what was measured.

Every figure comes from the folder's own records (training.json, evaluation.json, sage.json), so
the card cannot disagree with them. Knows text only: no networks.
"""

from pathlib import Path
from typing import Any

from sage.world.export import folder_bytes, read_json
from sage.world.vocabulary import DEFAULT_STYLES, PLACES, THINGS

CARD = """---
license: apache-2.0
pipeline_tag: text-to-image
library_name: diffusers
tags:
- stable-diffusion
- emoji
---

# Emoji scenes: a small text-to-image model

A latent diffusion model in Stable Diffusion's layout: captions of everyday words become 64×64
pictures of emoji in {places} places. It was trained from nothing by this repository
(`python -m sage.world.train all`) so that the demo runs on a laptop, without a download.

![pictures for captions it never saw](sheet.png)

## What it knows

{things} things (animals, food, plants, vehicles, objects), {places} places, one or two things or
two or three of the same, three sizes, and the styles {styles}. Words it has never seen are spelt
out by its tokenizer and mean nothing to it; `sage.json` lists the words it knows.

## What was measured

{bar}

{parts}

The probe is a classifier of its own, trained on painted scenes only, and used for nothing else.
It recognises an emoji from colour and outline, also where a picture is less crisp than a painted
one: look at the sheet as well. Full records: `evaluation.json`.

## How it was trained

{training}

Hardware: {hardware}. Seed 0. bfloat16 arithmetic with a float32 copy of the weights, Muon for
matrices and AdamW for the rest, cosine decay, averaged weights. Data: scenes composed from the
sprites in `assets/world/`; one pair of thing and place in ten was held out. The
denoiser predicts v on a schedule with zero terminal signal (arXiv 2305.08891), with one caption
in ten left empty for guidance (default scale {guidance}).

## Files

{megabytes} MB of float16 safetensors. `unet`, `vae`, `text_encoder`, `tokenizer`, `scheduler`
load with `diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)`.
`clip` is the text tower with its image tower (similarity matrix, CLIP score), `probe` the judge,
`sage.json` the bounds τ ({tau_min} to {tau_max}, calibrated on labelled pairs of captions) and
the linear map from latents to colours for previews.

## Limits and licence

It draws emoji scenes and nothing else: no people, no text, no photographs. Small parts (eyes,
wheels) come out soft. {pairs} The weights are under the repository's licence; the sprites they were
trained on are Fluent Emoji (MIT, Microsoft): see `assets/world/ATTRIBUTION.md`.
"""

SHARES = {
    "thing": "most likely thing is right",
    "things": "exact set of things",
    "place": "background",
    "style": "style",
    "count": "count",
    "order": "left and right, where two differ",
}


def write_card(folder: Path, hardware: str) -> None:
    """Write README.md into an evaluated model folder.

    Raises:
        FileNotFoundError: if the folder has not been evaluated.
    """
    if not (evaluation := read_json(folder / "evaluation.json")):
        raise FileNotFoundError(f"{folder / 'evaluation.json'} is missing; evaluate first")
    sage = read_json(folder / "sage.json")
    text = CARD.format(
        things=len(THINGS),
        places=len(PLACES),
        styles=" and ".join(f'"{style}"' for style in DEFAULT_STYLES),
        bar=_bar(evaluation),
        parts=_parts(evaluation),
        training=_training(read_json(folder / "training.json")),
        hardware=hardware,
        pairs=_pairs(evaluation["two_things"]),
        guidance=sage["guidance_scale"],
        tau_min=sage["tau_min"],
        tau_max=sage["tau_max"],
        megabytes=round(folder_bytes(folder) / 1e6),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _bar(evaluation: dict[str, Any]) -> str:
    found, how = evaluation["bar"], evaluation["conditions"]
    return (
        f"On {how['captions']} captions ({how['split']}), sampled independently in "
        f"{how['steps']} steps at guidance {how['guidance_scale']}, the probe finds the "
        f"background in {_percent(found['background'])} and the named thing in "
        f"{_percent(found['thing'])}. Judged against another picture's caption, as a control, it "
        f"finds {_percent(evaluation['control']['background'])} and "
        f"{_percent(evaluation['control']['thing'])}."
    )


def _pairs(found: dict[str, Any]) -> str:
    return (
        f"Two different things in one picture are harder than one: of {found['captions']} such "
        f"captions it draws both things in {_percent(found['both'])}, each on its side in "
        f"{_percent(found['order'])}; the rest blend."
    )


def _parts(evaluation: dict[str, Any]) -> str:
    painted, again = evaluation["probe_on_fresh_scenes"], evaluation["probe_after_round_trip"]
    rows = [
        f"| {words} | {_percent(painted[head])} | {_percent(again[head])} |"
        for head, words in SHARES.items()
    ]
    clip = evaluation["clip_retrieval"]
    return "\n".join(
        [
            f"| probe, {evaluation['scenes']} fresh scenes | as painted | after the autoencoder |",
            "| --- | --- | --- |",
            *rows,
            "",
            f"The autoencoder's pictures reach a PSNR of "
            f"{evaluation['round_trip_psnr_db']:.1f} dB. Among {clip['of']} fresh pictures, CLIP "
            f"finds a caption's own in {_percent(clip['text_to_image'])}, and a picture's "
            f"caption in {_percent(clip['image_to_text'])}.",
        ]
    )


def _training(stages: dict[str, Any]) -> str:
    note = stages.pop("note", "")
    rows = [f"| {name} | {s['steps']:,} | {s['minutes']} |" for name, s in stages.items()]
    table = ["| stage | steps | minutes |", "| --- | --- | --- |", *rows]
    return "\n".join([*table, "", note] if note else table)
