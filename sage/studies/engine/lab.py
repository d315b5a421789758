"""The lab: one model, its judges, a cache of cells, and the numbers of a recipe with intervals.

A study asks `lab.measure(recipe, prompts)` and gets estimates; what has to be rendered for that
is rendered once and kept. Knows everything but what a study is about.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from tqdm import tqdm

from sage.core.adaptive import AdaptiveRule
from sage.core.metrics import feature_distance
from sage.core.places import cache_folder
from sage.core.plan import Plan
from sage.core.settings import Sampling
from sage.jobs.models import ASSETS, describe_device, device_of, open_pipeline
from sage.sd.store import StateStore
from sage.studies.engine.cells import (
    WHOLE_RUN,
    Cell,
    Recipe,
    Renderer,
    Store,
    adapter_file,
    families,
    file_digest,
    model_digest,
    planned_evaluations,
)
from sage.studies.engine.judges import SIDE, Judges
from sage.studies.engine.measure import Evaluator, Measured, pixel_distances
from sage.studies.engine.prompts import (
    HELD_OUT_SHARE,
    SCENES,
    PromptSet,
    Reference,
    loose_coco,
    loose_scenes,
    open_prompts,
    painted,
    painting_side,
)
from sage.training.data import picture_side
from sage.training.settings import DEFAULT_OUT as TRAINING

CACHE = cache_folder() / "experiments"
RESULTS = ASSETS / "results"
CHECKED = 12  # pictures rendered in float32 too, to see what half precision changes


@dataclass(frozen=True)
class LabSettings:
    """What the command line says; the help of each flag is beside its type.

    Raises:
        ValueError: If a value is not allowed.
    """

    model: Annotated[str, "folder, repository id or key of a model"] = "emoji-scenes"
    data: Annotated[
        str, "'scenes', a folder in MS COCO's format, or a text file with one prompt a line"
    ] = SCENES
    pictures: Annotated[int, "pictures of a row, over all seeds"] = 1008
    seeds: Annotated[int, "seeds of the starting noise"] = 3
    steps: Annotated[int, "sampling steps"] = 30
    guidance: Annotated[float | None, "classifier-free guidance (default: the model's own)"] = None
    sage_adapter: Annotated[Path, "adapter trained with L_SAGE"] = ASSETS / "emoji-scenes-sage-lora"
    standard_adapter: Annotated[Path, "adapter of ordinary fine-tuning"] = (
        TRAINING / "emoji-scenes-scenes-standard"
    )
    nosoft_adapter: Annotated[Path, "adapter trained with lambda_soft = 0"] = (
        TRAINING / "emoji-scenes-scenes-nosoft"
    )
    twins_adapter: Annotated[
        Path, "adapter trained with --loss twins (main-table; left out if there is none)"
    ] = TRAINING / "emoji-scenes-scenes-twins"
    adapters: Annotated[Path, "folder with one sub-folder for each variant (loss-forks)"] = (
        TRAINING / "forks"
    )
    precision: Annotated[
        str, "of bulk rendering: auto (bf16 on a CPU, fp16 on a GPU), fp32, bf16 or fp16"
    ] = "auto"
    compiled: Annotated[bool, "use torch.compile: faster after a minute"] = False
    device: Annotated[str, "auto, cpu, cuda or cuda:N"] = "auto"
    cache: Annotated[Path, "where rendered cells are kept"] = CACHE
    out: Annotated[Path, "where results are written"] = RESULTS
    minutes: Annotated[
        float | None, "of this device that rendering may take (map: so many sets of prompts)"
    ] = None
    hub: Annotated[
        bool, "also judge by FID, LPIPS and OpenAI CLIP (torchmetrics); grouping: also OpenAI CLIP"
    ] = False
    untimed: Annotated[
        bool, "measure no times (main-table): something else runs on this device"
    ] = False
    dry_run: Annotated[bool, "say what would be rendered, and stop"] = False
    quiet: Annotated[bool, "no progress bars"] = False

    def __post_init__(self) -> None:
        for name in ("pictures", "seeds", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed is 1 or more.")
        if self.precision not in ("auto", "fp32", "bf16", "fp16"):
            raise ValueError(f"precision is {self.precision!r}; allowed: auto, fp32, bf16, fp16.")

    @property
    def prompts(self) -> int:
        """How many prompts, so that the seeds together make the pictures of a row."""
        return max(2, -(-self.pictures // self.seeds))


class DryRun(Exception):  # noqa: N818 -- not an error: it carries what would be done
    """Raised instead of rendering, with a sentence."""


class Lab:
    """One model and everything that judges it."""

    def __init__(self, settings: LabSettings) -> None:
        """Loads the model.

        Raises:
            ValueError: If it cannot be loaded; there is no falling back to another one.
        """
        self.settings = settings
        self.device = device_of(settings.device)
        spec, self.pipe = open_pipeline(settings.model, self.device)
        self.title, self.source = spec.title, spec.source
        usual = "fp16" if self.device.type == "cuda" else "bf16"
        self.precision = usual if settings.precision == "auto" else settings.precision
        self.store = Store(settings.cache)
        self.renderer = Renderer(self.pipe, self.precision, settings.compiled)
        self._evaluators: dict[tuple[Any, ...], Evaluator] = {}

    @cached_property
    def judges(self) -> Judges:
        """Loaded when first needed."""
        return Judges(self.pipe, self.source, self.settings.compiled, self.settings.hub)

    @cached_property
    def digest(self) -> str:
        """A hash of the model: its weights, and what else its pictures depend on."""
        return model_digest(self.pipe)

    @cached_property
    def prompts(self) -> PromptSet:
        """The usual prompts: those of the main table."""
        return open_prompts(self.pipe, self.settings.data, self.settings.prompts)

    def loose_prompts(self, number: int, held_out_share: float = HELD_OUT_SHARE) -> PromptSet:
        """Random prompts of the same data, not chosen for being similar, each alone.

        Args:
            number: How many.
            held_out_share: Share of emoji scenes whose combination is held out of training.
        """
        if self.settings.data == SCENES:
            return loose_scenes(number, held_out_share)
        path = Path(self.settings.data)
        if path.is_dir():
            return loose_coco(path, number, picture_side(self.pipe))
        return open_prompts(self.pipe, self.settings.data, number)

    def painted(self, prompts: PromptSet) -> PromptSet:
        """The same prompts with real pictures, where they are emoji scenes without."""
        return painted(prompts, painting_side(self.pipe))

    def recipe(
        self,
        share_ratio: float = 0.0,
        adapter: Path | None = None,
        *,
        plan: Plan | None = None,
        guidance_interval: tuple[float, float] = WHOLE_RUN,
        adaptive: AdaptiveRule | None = None,
        **settings: Any,
    ) -> Recipe:
        """A recipe with the lab's steps and guidance.

        Args:
            share_ratio: β; 0 is independent sampling.
            adapter: Folder or file of a LoRA adapter.
            plan: Instead of a share ratio.
            guidance_interval: Where guidance is on.
            adaptive: Instead of a share ratio.
            **settings: Further fields of `sage.core.settings.Sampling`.

        Raises:
            ValueError: If there is no such setting, or a value is not allowed.
        """
        usual = {"steps": self.settings.steps, "guidance_scale": self.guidance}
        values = usual | settings | {"share_ratio": share_ratio}
        sampling = Sampling.of(self.pipe.settings, **values)
        return Recipe(sampling, adapter, plan, guidance_interval, adaptive)

    @property
    def guidance(self) -> float:
        """The guidance scale of every row that does not say otherwise."""
        asked = self.settings.guidance
        return self.pipe.settings.guidance_scale if asked is None else asked

    @property
    def seeds(self) -> range:
        """Of the starting noise."""
        return range(self.settings.seeds)

    def describe(self) -> str:
        """The hardware in words."""
        return describe_device(self.device)

    # -- rendering -----------------------------------------------------------------------------

    def _key(self, cell: Cell) -> str:
        return cell.key(self.digest, self.precision)

    def render(self, work: Sequence[tuple[Recipe, PromptSet]]) -> None:
        """Renders all cells that are not there yet; a kill loses the cell in progress only."""
        cells = [Cell(recipe, prompts, seed) for recipe, prompts in work for seed in self.seeds]
        wanted = {self._key(cell): cell for cell in cells}
        missing = list(families(c for key, c in wanted.items() if key not in self.store))
        total = sum(planned_evaluations(self.pipe, family) for family in missing)
        if self.settings.dry_run:
            raise DryRun(self._plan(len(wanted), sum(map(len, missing)), total))
        if self.settings.hub:
            _ = self.judges  # loads them: what is missing is said before the rendering
        with tqdm(
            total=total,
            unit="eval",
            unit_scale=True,
            desc="rendering",
            mininterval=1,
            disable=self.settings.quiet or not missing,
        ) as bar:
            for family in missing:
                reuse = StateStore() if len(family) > 1 else None
                for cell in family:
                    if self._key(cell) in self.store:  # another process has made it meanwhile
                        continue
                    self.store.put(self._key(cell), **self.renderer.render(cell, reuse, bar.update))

    def _plan(self, cells: int, missing: int, total: int) -> str:
        rows = total * (2 if self.guidance > 1 else 1)
        return (
            f"{missing} of {cells} cells are to be rendered: {total:,} evaluations, {rows:,} rows "
            "through the UNet with guidance."
        )

    def cell(self, cell: Cell) -> dict[str, np.ndarray]:
        """The arrays of one cell."""
        return self.store.get_or_make(self._key(cell), lambda: self.renderer.render(cell))

    def pictures(self, recipe: Recipe, prompts: PromptSet) -> np.ndarray:
        """[S, N, H, W, 3] uint8, all seeds."""
        cells = [self.cell(Cell(recipe, prompts, seed)) for seed in self.seeds]
        return np.stack([cell["pictures"] for cell in cells])

    def features(self, judge: str, recipe: Recipe, prompts: PromptSet) -> np.ndarray:
        """[S, N, D] of a judge, all seeds; kept on disk."""
        cells = [Cell(recipe, prompts, seed) for seed in self.seeds]
        return np.stack(
            [self._look(judge, self._key(c), lambda c=c: self.cell(c)["pictures"]) for c in cells]
        )

    def _look(self, judge: str, key: str, pictures: Callable[[], np.ndarray]) -> np.ndarray:
        """Features [N, D] of the pictures of a key, made once."""
        key = f"{key}-{judge}{SIDE if judge == 'efflite' else ''}"
        make = lambda: {"x": self.judges.look(judge, pictures())}  # noqa: E731
        return self.store.get_or_make(key, make)["x"]

    # -- measuring -----------------------------------------------------------------------------

    def measure(
        self,
        recipe: Recipe,
        prompts: PromptSet | None = None,
        only: tuple[int, ...] | None = None,
    ) -> Measured:
        """All numbers of one recipe; renders what is missing.

        Args:
            recipe: How the pictures are made.
            prompts: The usual ones without it.
            only: Numbers of the groups to judge; all without it.
        """
        prompts = self.prompts if prompts is None else prompts
        self.render([(recipe, prompts), (self.recipe(), prompts)])
        key = (prompts.digest, prompts.groups, only)
        if key not in self._evaluators:
            self._evaluators[key] = Evaluator(self, prompts, only)
        return self._evaluators[key].measure(recipe)

    def real(self, judge: str, real: Reference) -> np.ndarray:
        """Features [R, D] of real pictures, kept on disk."""
        key = f"real-{_digest(real.pictures)}-{judge}{SIDE if judge == 'efflite' else ''}"
        key = key if judge != "clip" else f"{key}-{self.digest[:16]}"
        make = lambda: {"x": self.judges.look(judge, real.pictures)}  # noqa: E731
        return self.store.get_or_make(key, make)["x"]

    def noise_distance(self, prompts: PromptSet) -> float | None:
        """How far two independent pictures of one prompt are that differ in their noise only.

        Mean 1 − cosine of EfficientNet-Lite0 features: the scale on which a distance to a twin is
        to be read. None with a single seed or without that judge.
        """
        if len(self.seeds) < 2 or "efflite" not in self.judges.features:
            return None
        x = torch.from_numpy(self.features("efflite", self.recipe(), prompts))
        return round(float(feature_distance(x[0], x[1]).mean()), 5)

    # -- what stands beside the numbers ----------------------------------------------------------

    def check_precision(self, recipe: Recipe, prompts: PromptSet) -> dict[str, float]:
        """How far pictures in the precision of bulk rendering are from those in float32."""
        cell = Cell(recipe, prompts.head(CHECKED), 0)
        number = len(cell.prompts)
        fast = self.cell(cell)["pictures"]
        if self.precision == "fp32":
            return {"pictures": number, "pixels": 0.0}
        exact = self.store.get_or_make(
            cell.key(self.digest, "fp32"), lambda: Renderer(self.pipe, "fp32").render(cell)
        )["pictures"]
        pixels = float(pixel_distances(fast, exact).mean())
        distances = {"pictures": number, "pixels": round(pixels, 5)}
        if "efflite" in self.judges.features:
            a, b = (torch.from_numpy(self.judges.look("efflite", x)) for x in (fast, exact))
            distances["twin"] = round(float(feature_distance(a, b).mean()), 5)
        return distances

    def seconds(
        self, ratios: Sequence[float], prompts: PromptSet, repeats: int = 3
    ) -> dict[float, float]:
        """Measured time of sharing as a share of independent sampling, by share ratio.

        Full precision, one warm process, the same 16 prompts or so; all ratios in turn, forwards
        and backwards, `repeats` times; the ratio of the medians. On a CPU the time of its
        processors, in which other work on the machine has little say.
        """
        few = prompts.head(16)
        order = [0.0, *ratios]
        spent: dict[float, list[float]] = {ratio: [] for ratio in order}
        for turn in range(repeats + 1):  # the first turn warms up
            for ratio in order if turn % 2 == 0 else order[::-1]:
                taken = self._time(ratio, few)
                if turn:
                    spent[ratio].append(taken)
        medians = {ratio: float(np.median(times)) for ratio, times in spent.items()}
        return {ratio: medians[ratio] / medians[0.0] for ratio in ratios}

    def evaluation_seconds(self, prompts: PromptSet) -> float:
        """What one evaluation takes in bulk here, from a few steps that are timed now."""
        few = prompts.head(16)
        pipe = self.renderer.pipeline(self.recipe())
        how: dict[str, Any] = {"share_ratio": 0.0, "groups": [(n,) for n in range(len(few))]}
        how |= {"guidance_scale": self.guidance, "output_type": "latent"}
        taken = []
        for steps in (2, 2, 6):  # the first run warms up
            start = time.perf_counter()
            output = pipe(few.texts, num_inference_steps=steps, **how)
            assert output.timings.total > 0  # reading the clock waits for a GPU
            taken.append(time.perf_counter() - start)
        return max(taken[2] - taken[1], 1e-6) / (4 * len(few))

    def _time(self, ratio: float, prompts: PromptSet) -> float:
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        start = clock()
        output = self.pipe(
            prompts.texts,
            groups=prompts.groups,
            share_ratio=ratio,
            num_inference_steps=self.settings.steps,
            guidance_scale=self.guidance,
        )
        assert output.timings.total > 0  # reading the clock waits for a GPU
        return clock() - start

    def adapter_digest(self, adapter: Path | None) -> str | None:
        """The first letters of the hash of an adapter's file."""
        return None if adapter is None else file_digest(adapter_file(adapter))[:12]


def _digest(pictures: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pictures).tobytes()).hexdigest()[:24]
