"""How long Render is likely to take, on the model at hand and on the same network in few steps.

From speeds that were measured on this machine, and FLOPs that are counted; where nothing has been
measured nothing is said. Knows nothing of gradio.
"""

from dataclasses import replace

from sage.jobs.job import Job, arrange
from sage.jobs.models import ModelSpec
from sage.jobs.repeats import REPEATS
from sage.ui.html.words import about_text
from sage.ui.shelf import Shelf
from sage.ui.studio.form import Form


def work_of(job: Job, form: Form) -> float:
    """FLOPs of all sides that are asked for; fewer steps cost as much as the shared side."""
    shared, alone = job.cost.flops.total, job.cost.independent_flops.total
    once = alone + shared * (2 if form.fewer_steps else 1)
    return once * (form.repeats if form.repeats in REPEATS else 1)


def on_other(job: Job, spec: ModelSpec) -> Job:
    """The job on another model of the same network, with that model's own settings."""
    own = {"steps": spec.steps, "guidance_scale": spec.guidance_scale}
    request = replace(job.request, share_ratio=spec.share_ratio, trained=False, **own)
    return arrange(job.grouping, request, spec, job.flops, job.groups)


def expected(shelf: Shelf, job: Job, form: Form) -> str:
    """What Render takes, "about 5 s"; "" if nothing is known."""
    return about_text(shelf.expected_seconds(job.spec.key, work_of(job, form)))


def other_label(shelf: Shelf, job: Job, form: Form) -> str:
    """What the button says that changes to the fast model, or back; "" where there is none."""
    other = shelf.fast(job.spec.key)
    if other is None:
        return ""
    name = f"{'Fast' if other.student else 'Full'} model, {other.steps} steps"
    try:
        seconds = expected(shelf, on_other(job, other), form)
    except ValueError:  # a tree that cannot keep to its budget in so few steps
        return name
    return f"{name}: {seconds}" if seconds else name
