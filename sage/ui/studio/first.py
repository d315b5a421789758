"""Finished comparisons that the page shows before any model is loaded, one for each example set.

They were made by this code (`python -m sage.ui.studio.precompute`) and lie in assets/ui/first:
numbers as JSON, pictures as one sheet. Everything that arithmetic can give (groups, plans, costs)
is computed from them here, as from a loaded model. Knows nothing of gradio.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch

from sage.core.cost import ModelFlops
from sage.core.grouping import Grouping, group_prompts
from sage.core.plan import Plan, branch_step_from_ratio, independent_plan, shared_plan
from sage.jobs.request import Request
from sage.ui.html.strip import Strip, TrunkSheet
from sage.ui.studio.form import same_but_branch_point

FOLDER = Path(__file__).resolve().parents[3] / "assets" / "ui" / "first"


@dataclass(frozen=True)
class Stored:
    """One precomputed comparison.

    Attributes:
        key: Of the example set.
        request: What was asked for.
        report: The report of the measured run.
        similarity: Rows of the similarity matrix.
        flops: Of one call of each part of the model.
        strip: Its pictures at every branch point.
        made: Day and digest of the weights it was made with.
    """

    key: str
    request: Request
    report: dict
    similarity: tuple[tuple[float, ...], ...]
    flops: ModelFlops
    strip: Strip
    made: dict[str, str]

    @property
    def model(self) -> str:
        """Key of the model."""
        return self.report["model"]

    @cached_property
    def grouping(self) -> Grouping:
        """The groups, from the stored similarities."""
        request = self.request
        bounds = (request.tau_min, request.tau_max, request.max_group_size)
        return group_prompts(torch.tensor(self.similarity), *bounds)

    @cached_property
    def independent(self) -> Plan:
        """The baseline that was measured."""
        return independent_plan(len(self.request.prompts), self.strip.rows[0].at)

    @cached_property
    def plan(self) -> Plan:
        """The shared plan that was measured."""
        calls = self.independent.steps
        point = branch_step_from_ratio(self.request.share_ratio, calls)
        return shared_plan(self.grouping.groups, calls, point)

    def save(self, folder: Path) -> None:
        """Writes it as KEY.json and KEY.webp, and previews of its trunks as KEY.trunk.webp."""
        trunks = self.strip.trunks
        values = {
            "request": self.request.to_dict(),
            "report": self.report,
            "similarity": self.similarity,
            "flops": vars(self.flops),
            "strip": self.strip.to_dict(),
            "made": self.made,
            "trunks": trunks and {"tile": trunks.tile, "groups": trunks.groups},
        }
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_rounded(values), separators=(",", ":"))
        (folder / f"{self.key}.json").write_text(text + "\n", encoding="utf-8")
        (folder / f"{self.key}.webp").write_bytes(self.strip.sheet)
        if trunks is not None:
            (folder / f"{self.key}.trunk.webp").write_bytes(trunks.sheet)

    @classmethod
    def read(cls, path: Path) -> "Stored":
        """What `save` wrote, from the path of its JSON."""
        values = json.loads(path.read_text(encoding="utf-8"))
        sheet = path.with_suffix(".webp")
        strip = Strip.from_dict(values["strip"], sheet.read_bytes())
        strip = replace(strip, address=_address(sheet, strip.sheet))
        if told := values.get("trunks"):
            sheet = path.with_suffix(".trunk.webp")
            groups, data = tuple(map(tuple, told["groups"])), sheet.read_bytes()
            trunks = TrunkSheet(told["tile"], groups, data, _address(sheet, data))
            strip = replace(strip, trunks=trunks)
        return cls(
            key=path.stem,
            request=Request.from_dict(values["request"]),
            report=values["report"],
            similarity=tuple(map(tuple, values["similarity"])),
            flops=ModelFlops(**values["flops"]),
            strip=strip,
            made=values["made"],
        )


@lru_cache
def stored_comparisons(folder: Path) -> tuple[Stored, ...]:
    """All that lie in a folder; none is no error, the page then begins empty."""
    return tuple(Stored.read(path) for path in sorted(folder.glob("*.json")))


def find_stored(request: Request, model: str) -> Stored | None:
    """The precomputed comparison of a request, at whatever branch point; None if there is none."""
    for stored in stored_comparisons(FOLDER):
        if stored.model == model and same_but_branch_point(stored.request, request):
            return stored
    return None


def _address(path: Path, data: bytes) -> str:
    """Where a browser finds a file of FOLDER, below the page; another file has another address."""
    return f"gradio_api/file={path.as_posix()}?v={hashlib.sha256(data).hexdigest()[:8]}"


def _rounded(value: object) -> object:
    """Floats with six decimals: what is stored is for reading, in print and on the page."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
