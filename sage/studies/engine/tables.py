"""Writes the README's evidence from the results, between markers; a test fails when it is stale.

Knows the JSON of results and Markdown; nothing of how a number came about.
"""

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sage.studies import STUDIES
from sage.studies.engine.judges import FID, METRICS
from sage.studies.engine.results import ROOT, percent, read

README = ROOT / "README.md"
RATIO = 0.4  # the share ratio whose rows are not folded away
MAIN, OTHERS = "main-table", "studies"
COLUMNS = ("fd", "cmmd", "clip", "clip_l14", "probe", "inside", "between", "twin", "lpips")


def update(readme: Path, results: Path) -> bool:
    """Rewrite the blocks of a README; returns whether anything changed."""
    before = readme.read_text("utf-8")
    after = rewritten(before, results)
    readme.write_text(after, encoding="utf-8")
    return after != before


def rewritten(text: str, results: Path) -> str:
    """A README's text with its blocks made anew.

    Raises:
        ValueError: If a pair of markers is missing.
    """
    blocks = {MAIN: main_block(results), OTHERS: studies_block(results)}
    for name, block in blocks.items():
        pattern = re.compile(
            rf"(<!-- results:{name} -->\n).*?(<!-- /results:{name} -->)", re.DOTALL
        )
        if not pattern.search(text):
            raise ValueError(f"The README has no markers <!-- results:{name} --> ... to fill.")
        text = pattern.sub(lambda found, block=block: f"{found[1]}{block}\n{found[2]}", text)
    return text


def main_block(results: Path) -> str:
    """The main table, its figure, the paper's claims and the conditions."""
    found = read(results, MAIN)
    if found is None:
        return f"No results yet: `python -m sage.studies {MAIN}` makes them."
    here = [line for line in found["rows"] if line["compared_at"] in (0.0, RATIO)]
    ratios = sorted({line["compared_at"] for line in found["rows"]} - {0.0, RATIO})
    base = [line for line in found["rows"] if line["compared_at"] == 0.0]
    folded = [
        _table([*base, *(line for line in found["rows"] if line["compared_at"] == ratio)], found)
        for ratio in ratios
    ]
    titles = ", ".join(f"{ratio:g}" for ratio in ratios)
    parts = [
        found["finding"],
        _picture(results, MAIN, "Quality against saving, by method and share ratio"),
        f"Share ratio {RATIO:g}; ± is half of a 95 % interval:",
        _table(here, found),
        f"<details><summary>Share ratios {titles}</summary>\n\n"
        + "\n\n".join(folded)
        + "\n\n</details>"
        if folded
        else "",
        _claims(found),
        _legend(found),
        _conditions(found),
    ]
    return "\n\n".join(part for part in parts if part)


def studies_block(results: Path) -> str:
    """One line for each other study."""
    lines = []
    for name, module in STUDIES.items():
        if name == MAIN:
            continue
        title = importlib.import_module(module).TITLE
        found = read(results, name)
        if found is None:
            lines.append(f"* **{title}** (`{name}`): not run yet.")
            continue
        links = [f"[numbers]({_relative(results / f'{name}.json')})"]
        if (picture := results / f"{name}.svg").is_file():
            links.append(f"[figure]({_relative(picture)})")
        lines.append(f"* **{title}** ({', '.join(links)}). {found['finding']}")
    return "\n".join(lines)


def _relative(path: Path) -> str:
    try:
        return path.resolve().relative_to(ROOT).as_posix()
    except ValueError:
        return path.name


def _picture(results: Path, name: str, alt: str) -> str:
    path = results / f"{name}.svg"
    return f"![{alt}]({_relative(path)})" if path.is_file() else ""


def _table(lines: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> str:
    """One line a method: cost, then every metric with half its interval."""
    wanted = [m for m in METRICS if m.key in COLUMNS and m.key in found["metrics"]]
    arrows = {1: " ↑", -1: " ↓", 0: ""}
    head = ["", "evaluations", "FLOPs", "time", *(m.title + arrows[m.better] for m in wanted)]
    exact = FID in lines[0].get("plain", {})
    head += ["FID ↓"] if exact else []
    base = next(line for line in found["rows"] if line["compared_at"] == 0.0)
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for line in lines:
        ratio = f" ({line['compared_at']:g})" if line["compared_at"] else ""
        seconds = line["seconds"]
        rows.append(
            [
                line["name"] + ratio,
                _change(line["evaluations"] / base["evaluations"]),
                _change(line["gigaflops"] / base["gigaflops"]),
                "" if seconds is None else _change(seconds),
                *(_number(line["metrics"].get(m.key), m.digits) for m in wanted),
                *([f"{line['plain'][FID]:.2f}"] if exact else []),
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _change(share: float) -> str:
    return f"{100 * (share - 1):+.0f} %".replace("-", "\N{MINUS SIGN}").replace("+0 %", "0 %")


def _number(number: Mapping[str, float] | None, digits: int) -> str:
    if number is None:
        return ""
    half = (number["high"] - number["low"]) / 2
    value = round(number["value"], digits) + 0.0  # no "-0.00"
    return f"{value:.{digits}f} ± {half:.{digits}f}"


def _claims(found: Mapping[str, Any]) -> str:
    """The paper's relative claims beside ours."""
    rows = [
        ["SAGE + share against standard LoRA + share", "paper", "here", ""],
        ["---", "---:", "---:", "---"],
    ]
    for claim in found["claims"]:
        ours = claim["ours"]
        exact = ours["low"] == ours["high"]
        theirs = f"{100 * claim['paper']:+.1f} %".replace("-", "\N{MINUS SIGN}")
        mine = percent(ours).split(" (")[0] if exact else percent(ours)
        rows.append([claim["claim"], theirs, mine, claim["verdict"]])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _legend(found: Mapping[str, Any]) -> str:
    told = [f"*{m['title']}*: {m['about']}" for k, m in found["metrics"].items() if k in COLUMNS]
    return "; ".join(told) + "."


def _conditions(found: Mapping[str, Any]) -> str:
    c, prompts = found["conditions"], found["conditions"]["prompts"]
    pictures = {line["pictures"] for line in found["rows"]}
    bound = c["two_independent_pictures_of_one_prompt_are_apart_by"]
    scale = (
        f" Two independent pictures of one prompt with other noise are {bound:.3f} apart."
        if bound is not None
        else ""
    )
    versions = ", ".join(f"{name} {value}" for name, value in c["versions"].items())
    number, groups = prompts["prompts"], prompts["groups"]
    return (
        f"Conditions: {c['model']}; {max(pictures)} pictures a row ({number} prompts in {groups} "
        f"groups × {c['noise_seeds']} noise seeds; {prompts['source']}), "
        f"{prompts['real_pictures']} real pictures; {c['steps']} steps of {c['scheduler']}, "
        f"guidance {c['guidance_scale']:g}; {c['precision']}; intervals: {c['interval']}; "
        f"{c['seconds']}.{scale} {c['hardware']}; {versions}; commit {c['commit']}, {c['date']}."
    )
