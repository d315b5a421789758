"""Draws a grid of pictures while training: a few groups, independent above shared."""

from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from sage.sd.pipeline import SagePipeline
from sage.training.data import PromptGroups

GROUPS, STEPS, SHARE_RATIO = 3, 20, 0.4


def grid(pipe: SagePipeline, data: PromptGroups, folder: Path, step: int) -> Path:
    """Write `samples/step-000500.png`: a column for each prompt, always the same ones.

    Args:
        pipe: With the network as it is.
        data: Its first groups are drawn.
        folder: Of the run.
        step: How many steps are done.
    """
    prompts, groups = [], []
    for group in islice(data.groups, GROUPS):
        groups.append(tuple(range(len(prompts), len(prompts) + len(group))))
        prompts += [data.captions[n] for n in group]
    rows = []
    device = pipe.unet.device.type
    dtype = pipe.unet.dtype
    pipe.unet.eval()
    with torch.autocast(device, dtype=dtype, enabled=dtype is not torch.float32):
        for ratio in (0.0, SHARE_RATIO):
            rows.append(
                pipe(prompts, groups=groups, share_ratio=ratio, num_inference_steps=STEPS).images
            )
    width, height = rows[0][0].size
    sheet = Image.new("RGB", (width * len(prompts), height * len(rows)))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * width, y * height))
    path = folder / "samples" / f"step-{step:06d}.png"
    path.parent.mkdir(exist_ok=True)
    sheet.save(path)
    return path
