"""Writes the model card: what the model is, what it learnt from, what was measured.

Every figure comes from the folder's own records (words.json, training.json, evaluation.json,
sage.json), so the card cannot disagree with them. Knows text only: no networks.
"""

from pathlib import Path
from typing import Any

from sage.world.train.export import folder_bytes, read_json
from sage.world.words import FILE_NAME, WORLD_FOLDER, Words, read_words

CARD = """---
license: apache-2.0
pipeline_tag: text-to-image
library_name: diffusers
tags:
- stable-diffusion
- emoji
---

# Emoji scenes: a small text-to-image model

A latent diffusion model in Stable Diffusion's layout: captions of everyday words and emoji become
{size}×{size} pictures of emoji in {places} places. It was trained from nothing by this repository
(`python -m sage.world.train all`) so that the demo runs on a laptop, without a download.

![pictures for captions it never saw, each row above the same scenes as painted](sheet.webp)

## What it knows

{things} things ({categories}), {places} places, one or two things or up to {most} of the same,
three sizes, and the styles {styles}. Things and places are also known by their emoji
("🦊 in the ❄️"). Words it has never seen are spelt out by its tokenizer and mean nothing to it;
`words.json` lists what it knows.

## What was measured

{bar}

| bar | wanted | measured |
| --- | ---: | ---: |
{bars}

CLIP's similarity of two captions follows what their scenes have in common with a rank correlation
of {order}.

| probe, {fresh} fresh scenes | as painted | after the autoencoder |
| --- | --- | --- |
{parts}

The probe is a classifier of its own, trained on painted scenes only, and used for nothing else.
It recognises an emoji from colour and outline, also where a picture is less crisp than a painted
one: look at the sheet as well. Full records: `evaluation.json`.

## How it was trained

{training}

Hardware: {hardware}. Seed 0. bfloat16 arithmetic with a float32 copy of the weights, Muon for
matrices and AdamW for the rest, cosine decay, averaged weights. Data: scenes composed from the
sprites in `assets/world/`; one pair of thing and place in ten was held out. The denoiser predicts v
on a schedule with zero terminal signal (arXiv 2305.08891), with one caption in ten left empty for
guidance (default scale {guidance}).

## Files

{megabytes} MB of float16 safetensors. `unet`, `vae`, `text_encoder`, `tokenizer`, `scheduler`
load with `diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)`.
`clip` is the text tower with its image tower (similarity matrix, CLIP score), `probe` the judge,
`sage.json` the bounds τ ({tau_min} to {tau_max}, calibrated on labelled pairs of captions) and
the linear map from latents to colours for previews.

## Limits and licence

It draws emoji scenes and nothing else: no people, no text, no photographs. {short} The weights are
under the repository's licence; the sprites they were trained on are {credits}: see
`assets/world/ATTRIBUTION.md`.
"""

SHARES = {
    "thing": "most likely thing is right",
    "things": "exact set of things",
    "place": "background",
    "style": "style",
    "count": "count",
    "order": "left and right, where two differ",
    "size": "sizes",
}
# What is wanted: words, where the figure stands in the evaluation, the bar, whether it is a share.
BARS = (
    ("named thing", ("bar", "thing"), 0.99, True),
    ("place", ("bar", "background"), 0.99, True),
    ("two things, both right", ("bar", "both"), 0.85, True),
    ("two things, each on its side", ("bar", "sides"), 0.80, True),
    ("count, of two or more", ("bar", "several"), 0.90, True),
    ("style, where it is named", ("bar", "style"), 0.95, True),
    ("gradient energy over painted pictures", ("sharpness", "gradient"), 0.8, False),
    ("the same of the highest octave", ("sharpness", "octave"), 0.8, False),
    ("gradient energy after the autoencoder", ("round_trip_sharpness", "gradient"), 0.95, False),
    ("PSNR of the autoencoder, dB", ("round_trip_psnr_db",), 34.0, False),
    ("CLIP: own picture among 200", ("clip_retrieval", "text_to_image"), 0.97, True),
)


def write_card(folder: Path, hardware: str) -> None:
    """Write README.md into an evaluated model folder.

    Raises:
        FileNotFoundError: if the folder has not been evaluated.
    """
    if not (evaluation := read_json(folder / "evaluation.json")):
        raise FileNotFoundError(f"{folder / 'evaluation.json'} is missing; evaluate first")
    sage, words = read_json(folder / "sage.json"), read_words(folder / FILE_NAME)
    text = CARD.format(
        **_vocabulary(words),
        bar=_bar(evaluation),
        bars="\n".join(_row(evaluation, *bar) for bar in BARS),
        parts=_parts(evaluation),
        order=f"{evaluation['clip_content']['rank_correlation']:.2f}",
        fresh=evaluation["scenes"],
        training=_training(read_json(folder / "training.json")),
        hardware=hardware,
        short=_shortfall(evaluation),
        guidance=sage["guidance_scale"],
        tau_min=sage["tau_min"],
        tau_max=sage["tau_max"],
        megabytes=round(folder_bytes(folder) / 1e6),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _vocabulary(words: Words) -> dict[str, Any]:
    named = [f'"{style.name}"' for style in words.styles]
    return {
        "size": words.image_size,
        "things": len(words.things),
        "places": len(words.places),
        "categories": ", ".join(words.categories),
        "most": max((1, *words.counts)),
        "styles": " and ".join((", ".join(named[:-1]), named[-1])),
        "credits": "; ".join(_credits(words)),
    }


def _credits(words: Words) -> list[str]:
    """Whose sprites the styles are, each work once, with its licence."""
    sources = read_json(WORLD_FOLDER / "manifest.json")["styles"]
    found = [sources[style.name] for style in words.styles]
    return list(dict.fromkeys(f"{entry['credit']} ({entry['licence']})" for entry in found))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _figure(evaluation: dict[str, Any], where: tuple[str, ...]) -> float | None:
    value: Any = evaluation
    for key in where:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _row(
    evaluation: dict[str, Any], what: str, where: tuple[str, ...], wanted: float, share: bool
) -> str:
    found = _figure(evaluation, where)
    write = _percent if share else "{:.2f}".format
    measured = "not measured" if found is None else write(found)
    return f"| {what} | ≥ {write(wanted)} | {measured} |"


def _shortfall(evaluation: dict[str, Any]) -> str:
    """Which bars are missed, in a sentence."""
    pairs = [(what, _figure(evaluation, where), bar) for what, where, bar, _ in BARS]
    missed = [what for what, found, bar in pairs if found is not None and found < bar]
    return f"It falls short of what was wanted in: {'; '.join(missed)}." if missed else ""


def _bar(evaluation: dict[str, Any]) -> str:
    how, control = evaluation["conditions"], evaluation["control"]
    outside = evaluation.get("outside")
    more = (
        f" The Fréchet distance on ImageNet EfficientNet-Lite0's features (not FID) of these "
        f"{outside['pictures']} pictures to {outside['paintings']} painted ones of the same "
        f"scenes is {outside['fd_efflite0']:.1f}."
        if outside
        else ""
    )
    return (
        f"On {how['captions']} captions ({how['split']}; {how['of_two_things']} of two things), "
        f"sampled independently in {how['steps']} steps at guidance {how['guidance_scale']}, "
        f"judged by the probe. Judged against another picture's caption, as a control, it finds "
        f"the place in {_percent(control['background'])} and the thing in "
        f"{_percent(control['thing'])}.{more}"
    )


def _parts(evaluation: dict[str, Any]) -> str:
    painted, again = evaluation["probe_on_fresh_scenes"], evaluation["probe_after_round_trip"]
    return "\n".join(
        f"| {words} | {_percent(painted[head])} | {_percent(again[head])} |"
        for head, words in SHARES.items()
        if head in painted
    )


def _training(stages: dict[str, Any]) -> str:
    note = stages.pop("note", "")
    rows = [f"| {name} | {s['steps']:,} | {s['minutes']} |" for name, s in stages.items()]
    table = ["| stage | steps | minutes |", "| --- | --- | --- |", *rows]
    return "\n".join([*table, "", note] if note else table)
