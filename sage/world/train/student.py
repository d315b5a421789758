"""What a distillation leaves: the adapter made small, its settings, a record and a card.

Knows peft's file format and the pipeline; nothing of training.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sage.core.plan import independent_plan
from sage.sd.model_settings import FILE_NAME
from sage.sd.pipeline import SagePipeline

CARD = """\
---
base_model: {base}
library_name: diffusers
pipeline_tag: text-to-image
tags:
  - lora
  - text-to-image
---

# {base} in {steps} steps

A LoRA adapter that lets {base} draw in {steps} DDIM steps without guidance, where it otherwise
takes more steps and two passes of the network for each. Progressive distillation
([arXiv 2202.00512](https://arxiv.org/abs/2202.00512)) with guidance built in
([arXiv 2210.03142](https://arxiv.org/abs/2210.03142)), trained by this repository's
`sage/world/train/distil.py`. A share of its training rows follows the mean embedding of a group, so
that trunks can be drawn in few steps too.

| | |
| --- | --- |
| teacher | {teacher_steps} DDIM steps, guidance {guidance:g} |
| training | {step} steps of {batch} rows, {minutes:g} minutes on {hardware} |
| adapter | rank {stored_rank} of {rank} that were trained, float16 |

Root mean square distance of its latents (which have about 1) from the teacher's, for {checked}
captions of its training, beside the model without it:

| | distance |
| --- | ---: |
{rows}

## Use

```python
from sage.sd.pipeline import SagePipeline

pipe = SagePipeline.from_pretrained("assets/{base}")
pipe.merge_lora("FOLDER_OF_THIS_FILE")
images = pipe(["a fox in the snow"], num_inference_steps={steps}, guidance_scale=1).images
```

## Limits

It inherits the limits, biases and licence of its base model. Quality alone and shared, against the
model as it is at as many evaluations: `python -m sage.studies few-step`.
"""


def shrink(file: Path, rank: int) -> None:
    """Writes an adapter anew with a lower rank, in float16.

    Each layer's update B·A is replaced by its best approximation of that rank (Eckart & Young
    1936).

    Args:
        file: safetensors in peft's names, alpha equal to the rank; it is replaced.
        rank: Of every layer.
    """
    layers = load_file(file)
    with safe_open(file, "pt") as tensors:
        about = tensors.metadata()
    header = json.loads(about["lora_adapter_metadata"])
    header |= {"unet.r": rank, "unet.lora_alpha": rank}
    found = {}
    for name in (name for name in layers if ".lora_A." in name):
        other = name.replace(".lora_A.", ".lora_B.")
        pair = low_rank(layers[name].float(), layers[other].float(), rank)
        found[name], found[other] = (part.half().contiguous() for part in pair)
    save_file(found, file, about | {"lora_adapter_metadata": json.dumps(header)})


def low_rank(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of the best approximation of B·A of a rank; zeros where B·A has a lower one.

    Args:
        a: [R, ...] of a linear layer or a convolution.
        b: [out, R, ...].
        rank: r.

    Returns:
        [r, ...] and [out, r, ...].
    """
    left, values, right = torch.linalg.svd(b.flatten(1) @ a.flatten(1), full_matrices=False)
    kept = min(rank, len(values))
    root = values[:kept].sqrt()
    small_a, small_b = a.new_zeros(rank, *a.shape[1:]), b.new_zeros(len(b), rank, *b.shape[2:])
    small_a[:kept] = (root[:, None] * right[:kept]).view(kept, *a.shape[1:])
    small_b[:, :kept] = (left[:, :kept] * root).view(len(b), kept, *b.shape[2:])
    return small_a, small_b


def distances(
    source: str | Path,
    adapter: Path,
    captions: Sequence[str],
    *,
    steps: int,
    teacher_steps: int,
    guidance: float,
    device: torch.device,
) -> dict[str, float]:
    """How far few-step latents are from the teacher's: root mean square, latents have about 1.

    Args:
        source: The model.
        adapter: The student.
        captions: What to draw; caption n starts from the noise of seed n.
        steps: Of the student.
        teacher_steps: Of the teacher.
        guidance: Of the teacher.
        device: Where to draw.
    """
    pipe = SagePipeline.from_pretrained(source).to(device)
    pipe.set_progress_bar_config(disable=True)

    def draw(steps: int, guidance: float) -> Tensor:
        plan = independent_plan(len(captions), steps)
        return pipe(captions, plan=plan, guidance_scale=guidance, output_type="latent").latents

    wanted = draw(teacher_steps, guidance)
    half = max(1, steps // 2)  # guided, it calls the network as often as the student does
    found = {
        f"without it, {steps} steps, guidance {guidance:g}": draw(steps, guidance),
        f"without it, {half} steps, guidance {guidance:g}": draw(half, guidance),
        f"without it, {steps} steps, no guidance": draw(steps, 1.0),
    }
    pipe.use_lora(adapter)
    found[f"with it, {steps} steps, no guidance"] = draw(steps, 1.0)
    return {name: round(_rms(latents - wanted), 4) for name, latents in found.items()}


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def describe(folder: Path, base: str, record: Mapping[str, Any]) -> None:
    """Writes settings, record and card beside the adapter.

    Args:
        folder: Of the adapter.
        base: Key of the model.
        record: Settings of the distillation, "step", "minutes", "checked" and
            "distance_to_teacher".
    """
    own = {"steps": record["steps"], "guidance_scale": 1.0}
    (folder / FILE_NAME).write_text(json.dumps(own, indent=1) + "\n", "utf-8")
    (folder / "distil.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    rows = "\n".join(f"| {k} | {v:.3f} |" for k, v in record["distance_to_teacher"].items())
    (folder / "README.md").write_text(CARD.format(base=base, rows=rows, **record), "utf-8")
