"""What the numbers of a run depend on: model, settings, hardware and versions."""

from importlib.metadata import version

import sage
from sage.jobs.job import Job
from sage.jobs.models import describe_device


def run_conditions(job: Job) -> dict:
    """Conditions of a run, as plain values for its report.

    Raises:
        ValueError: If the job's model is not loaded.
    """
    spec, request, pipe = job.spec, job.request, job.loaded_sides.plain
    settings = request.to_dict()
    return {
        **_model(job),
        # The adapter runs on the shared side only; independent pictures are the plain model's.
        "adapter": spec.adapter.name if request.trained and spec.adapter else None,
        **{name: settings[name] for name in settings if name not in ("prompts", "seed")},
        "scheduler": type(pipe.scheduler).__name__,
        **_place(job),
    }


def grid_conditions(job: Job) -> dict:
    """Conditions that all runs of a grid have in common; their settings stand with each.

    Raises:
        ValueError: If the job's model is not loaded.
    """
    return {**_model(job), **_place(job)}


def _model(job: Job) -> dict:
    spec = job.spec
    source = f"{spec.source}@{spec.revision}" if spec.revision else spec.key
    return {"model": spec.key, "source": source}


def _place(job: Job) -> dict:
    pipe = job.loaded_sides.plain
    return {
        "device": describe_device(pipe.device),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "versions": versions(),
    }


def versions(*more: str) -> dict[str, str]:
    """Versions of what a result depends on, and of more packages."""
    packages = ("torch", "diffusers", "transformers", *more)
    return {"sage": sage.__version__} | {name: version(name) for name in packages}
