"""Writes a trained adapter's model card and its record."""

import json
from pathlib import Path
from typing import Any

from sage.jobs.conditions import versions
from sage.jobs.models import ASSETS
from sage.training.data import PromptGroups, write_whole
from sage.training.settings import TrainSettings

CARD = """\
---
base_model: {base}
library_name: diffusers
pipeline_tag: text-to-image
tags:
  - lora
  - text-to-image
  - sage
  - arxiv:2509.15865
---

# {title}

A LoRA adapter for {model}, trained {how} so that similar prompts can share the early steps of their
denoising (SAGE, [arXiv 2509.15865](https://arxiv.org/abs/2509.15865); an independent
implementation; `sage/core/losses.py` says what is the paper's and what is ours).

| | |
| --- | --- |
{rows}

## Use

```python
from sage.sd.pipeline import SagePipeline

pipe = SagePipeline.from_pretrained("{place}")
pipe.use_lora("FOLDER_OF_THIS_FILE")  # pipe.use_lora(None) takes it off again, without a trace
```

It is an ordinary LoRA file: `load_lora_weights` of any diffusers pipeline of that model reads it.

## Limits

It inherits the limits, biases and licence of its base model and of its data. Sharing steps costs
fidelity to independent sampling; what this adapter changes about that has to be measured.
"""

# Loss -> what the adapter is called, and how it was trained.
NAMES = {
    "sage": ("SAGE", "with L_SAGE"),
    "standard": ("Standard", "as usual, as the baseline,"),
    "twins": ("Twin", "with a loss of our own, `twin_loss`,"),
}


def record(settings: TrainSettings, data: PromptGroups, run: dict[str, Any]) -> dict[str, Any]:
    """All conditions of a run as plain values.

    Args:
        settings: Of the run.
        data: What it learnt from.
        run: What the trainer measured: steps, seconds, device, processes and the like.
    """
    sizes = [len(group) for group in data.groups]
    return {
        "settings": settings.record(),
        "data": {
            "groups": len(sizes),
            "prompts": sum(sizes),
            "sizes": {str(n): sizes.count(n) for n in sorted(set(sizes))},
            "skipped": data.skips.record(),
        },
        "run": run,
        "versions": versions() | _more_versions(),
    }


def _more_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("peft", "accelerate")}


def write(folder: Path, settings: TrainSettings, about: dict[str, Any]) -> None:
    """Write README.md and training.json into the adapter's folder, each in one piece."""
    record = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    for name, text in {"training.json": record, "README.md": card(settings, about)}.items():
        write_whole(folder / name, lambda new, text=text: new.write_text(text, "utf-8"))


def card(settings: TrainSettings, about: dict[str, Any]) -> str:
    """The model card; it names no folder of this machine."""
    data, run = about["data"], about["run"]
    rows = {
        "steps": f"{run['step']} of {settings.batch_groups} × {settings.accumulate} × "
        f"{run['processes']} groups",
        "time": f"{run['seconds'] / 60:.1f} minutes on {run['device']}, precision "
        f"{settings.precision}",
        "data": f"{Path(settings.data).name}: {data['groups']} groups of 2 to "
        f"{max(map(int, data['sizes']))}, {data['prompts']} prompts",
        "LoRA": f"rank {settings.rank}, alpha {settings.alpha:g}, on {', '.join(settings.targets)}",
        "optimiser": f"AdamW, peak rate {settings.rate:g}, cosine, {settings.warmup} steps of "
        f"warm-up; moving average {settings.ema:g}",
        "seed": str(settings.seed),
        "versions": ", ".join(f"{k} {v}" for k, v in about["versions"].items()),
    }
    rows["loss"] = _loss_row(settings)
    name, how = NAMES[settings.loss]
    model = Path(settings.model).name
    local = Path(settings.model).exists()
    return CARD.format(
        base=model if local else settings.model,
        place=_place(settings.model, local),
        model=model,
        title=f"{name} LoRA for {model}",
        how=how,
        rows="\n".join(f"| {name} | {value} |" for name, value in rows.items()),
    )


def _place(model: str, local: bool) -> str:
    """What a reader loads a model from: a repository, a folder of this checkout, or their own."""
    if local:
        return f"FOLDER_OF_{Path(model).name}"
    return f"{ASSETS.name}/{model}" if (ASSETS / model).is_dir() else model


def _loss_row(settings: TrainSettings) -> str:
    config = settings.loss_config
    low, high = config.share_ratio
    if settings.loss == "sage":
        return (
            f"lambda_shared {config.lambda_shared:g}, lambda_soft {config.lambda_soft:g}, z_t of "
            f"{config.shared_latent}, soft target {config.soft_target}, share ratio {low:g} to "
            f"{high:g}, weighting {config.weighting}, phases {config.phase_weights}"
        )
    if settings.loss == "twins":
        return (
            "branches learn to reach the picture that their prompt makes alone (ours): share "
            f"ratio {low:g} to {high:g}, rollouts of {settings.rollout_steps} steps, the trunk is "
            f"held with weight {config.lambda_shared:g}, weighting {config.weighting}"
        )
    return f"ordinary fine-tuning (the baseline), weighting {config.weighting}"
