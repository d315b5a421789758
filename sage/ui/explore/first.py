"""The finished grid that the tab opens with, before any model is loaded.

It was made by this code (`python -m sage.ui.explore.precompute`) and lies in assets/ui/explore: the
record that can be downloaded, and all its pictures as one sheet. Plans and costs are computed from
it here, as from a loaded model. Knows nothing of gradio.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sage.core.cost import ModelFlops
from sage.core.grouping import group_prompts
from sage.core.plan import Plan
from sage.core.words import plural
from sage.jobs.grid import Axis, Grid, GridCost, RunNumbers
from sage.jobs.job import arrange
from sage.jobs.models import ModelSpec, available_models
from sage.jobs.request import Request
from sage.ui.explore.parts import Explored, Form
from sage.ui.export.grid_files import GridFiles, grid_record, save_grid
from sage.ui.html.grids import Shown

FOLDER = Path(__file__).resolve().parents[3] / "assets" / "ui" / "explore"
NAME = "grid"
QUALITY = 88  # of WebP


@dataclass(frozen=True)
class StoredGrid:
    """A finished grid on disk.

    Attributes:
        record: What can be downloaded as JSON.
        similarity: Rows of the similarity matrix of its prompts.
        flops: Of one call of each part of the model.
        cost: What rendering it anew costs, counted.
        made: Day and digest of the weights it was made with.
        sheet: A row for each cell, a picture for each prompt, as WebP.
        spec: The model.
    """

    record: Mapping[str, Any]
    similarity: Sequence[Sequence[float]]
    flops: ModelFlops
    cost: GridCost
    made: Mapping[str, str]
    sheet: bytes
    spec: ModelSpec
    _files: dict[str, GridFiles] = field(default_factory=dict, compare=False)

    @property
    def grid(self) -> Grid:
        """What was varied."""
        record = self.record
        sides = [record[side] for side in ("across", "down")]
        across, down = (Axis.parse(side["setting"], side["values"]) for side in sides)
        return Grid(Request.from_dict(record["request"]), across, down, record["repeats"])

    @property
    def explored(self) -> Explored:
        """The grid as a session remembers one."""
        grid, cells = self.grid, {cell["cell"]: cell for cell in self.record["cells"]}
        sheet = Image.open(io.BytesIO(self.sheet)).convert("RGB")
        side, done = sheet.height // len(cells), {}
        for row, (place, cell) in enumerate(sorted(cells.items())):
            boxes = [(n * side, row * side) for n in range(len(grid.base.prompts))]
            images = [sheet.crop((x, y, x + side, y + side)) for x, y in boxes]
            runs = {n: _numbers(run) for n, run in enumerate(cell["runs"])}
            done[place] = Shown.of(images, runs)
        plans = {place: self._plan(grid.requests[place]) for place in cells}
        conditions = self.record["conditions"]
        return Explored(self.spec.key, grid, conditions, stored=True, plans=plans, done=done)

    def _plan(self, request: Request) -> Plan:
        bounds = (request.tau_min, request.tau_max, request.max_group_size)
        grouping = group_prompts(torch.tensor(self.similarity), *bounds)
        return arrange(grouping, request, self.spec, self.flops).plan

    @property
    def words(self) -> str:
        """Says that it is precomputed, and with what."""
        number, seeds = len(self.grid.requests), plural(self.grid.repeats, "seed")
        return (
            f"Precomputed: {plural(number, 'cell')}, {seeds} per prompt. Render to measure seconds."
        )

    @property
    def files(self) -> GridFiles:
        """Its downloads, written when they are first asked for."""
        files = self._files.get(NAME)
        if files is None or not files.are_there:
            explored = self.explored
            record = grid_record(self.grid, explored.done, explored.plans, explored.conditions)
            files = save_grid(self.grid, explored.done, record, self.spec.title)
            self._files[NAME] = files
        return files

    def is_asked_by(self, form: Form) -> bool:
        """Whether a form asks for just this grid."""
        try:
            return form.model == self.spec.key and form.grid() == self.grid
        except ValueError:
            return False

    def save(self, folder: Path) -> None:
        """Writes it as NAME.json and NAME.webp."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {
            "record": self.record,
            "similarity": self.similarity,
            "flops": asdict(self.flops),
            "cost": asdict(self.cost),
            "made": self.made,
        }
        text = json.dumps(_rounded(values), separators=(",", ":"))
        (folder / f"{NAME}.json").write_text(text + "\n", encoding="utf-8")
        (folder / f"{NAME}.webp").write_bytes(self.sheet)

    @classmethod
    def read(cls, folder: Path, specs: Mapping[str, ModelSpec]) -> "StoredGrid | None":
        """What `save` wrote; None if there is none for any of these models."""
        path = folder / f"{NAME}.json"
        if not path.exists():
            return None
        values = json.loads(path.read_text(encoding="utf-8"))
        spec = specs.get(values["record"]["conditions"]["model"])
        if spec is None:
            return None
        flops, cost = ModelFlops(**values["flops"]), GridCost(**values["cost"])
        sheet = path.with_suffix(".webp").read_bytes()
        return cls(values["record"], values["similarity"], flops, cost, values["made"], sheet, spec)


def _numbers(run: Mapping[str, Any]) -> RunNumbers:
    clip, distance = run["clip"], tuple(run["distance"])
    return replace(RunNumbers(**run), clip=clip and tuple(clip), distance=distance)


@lru_cache
def stored_grid(model: str) -> StoredGrid | None:
    """The precomputed grid of a model; None if there is none."""
    return StoredGrid.read(FOLDER, {s.key: s for s in available_models() if s.key == model})


def draw_tiles(rows: Sequence[Sequence[Image.Image]]) -> bytes:
    """Rows of equal pictures as one WebP."""
    side = rows[0][0].width
    sheet = Image.new("RGB", (side * len(rows[0]), side * len(rows)))
    for y, pictures in enumerate(rows):
        for x, picture in enumerate(pictures):
            sheet.paste(picture, (x * side, y * side))
    data = io.BytesIO()
    sheet.save(data, "WEBP", quality=QUALITY, method=6)
    return data.getvalue()


def _rounded(value: object) -> object:
    """Floats with six digits: what is stored is for reading, in print and on the page."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
