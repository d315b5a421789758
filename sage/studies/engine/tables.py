"""Results as Markdown: the main table, the tables of the other studies, their conditions.

Knows the JSON of results; nothing of how a number came about. Where the blocks go is the business
of `sage.studies.engine.publish`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sage.studies.engine.figures import guidance_words
from sage.studies.engine.judges import FID, METRIC, METRICS
from sage.studies.engine.methods import FEWER, IN_TURN, RATIO, SAGE
from sage.studies.engine.results import Result, Row, percent, read
from sage.studies.engine.study import Study, every

MAIN = "main-table"
MAP = "map"
COLUMNS = (
    *("fd", "cmmd", "clip", "clip_l14", "probe", "inside", "between"),
    *("layout", "centres", "sizes", "twin", "lpips"),
)
ARROWS = {1: " ↑", -1: " ↓", 0: ""}


def main_block(results: Path, page: Path) -> str:
    """The main table, its figure, the paper's claims and the conditions.

    Args:
        results: Folder of the results.
        page: Folder of the page that the block is for; links are relative to it.
    """
    result = read(results, MAIN)
    if result is None:
        return f"No results yet: `python -m sage.studies {MAIN}` makes them."
    lines = by_ratio(result)
    base = lines.pop(0.0)
    tables = {ratio: _main_table([*base, *some], result) for ratio, some in lines.items()}
    shown = tables.pop(RATIO, _main_table(base, result))
    titles = ", ".join(f"{ratio:g}" for ratio in tables)
    parts = [
        result["finding"],
        picture(results, page, MAIN, "Quality against saving, by method and share ratio"),
        f"Share ratio {RATIO:g}; ± is half of a 95 % interval:",
        shown,
        folded(f"Share ratios {titles}", "\n\n".join(tables.values())) if tables else "",
        _claims(result),
        legend(result),
        main_conditions(result),
    ]
    return "\n\n".join(part for part in parts if part)


def map_block(results: Path, page: Path) -> str:
    """When sharing pays: the map's figure and its own sentences."""
    result = read(results, MAP)
    if result is None:
        return f"No results yet: `python -m sage.studies {MAP}` makes them."
    figure = picture(results, page, MAP, "Who wins at equal evaluations, by budget and group size")
    return f"{figure}\n\n{' '.join(result['sentences'])}"


def by_ratio(result: Result) -> dict[float, list[Row]]:
    """The main table's lines by the share ratio at which they are compared, ascending."""
    ratios = sorted({line["compared_at"] for line in result["rows"]})
    return {r: [line for line in result["rows"] if line["compared_at"] == r] for r in ratios}


def summary_block(results: Path, page: Path) -> str:
    """Three sentences and the main figure."""
    result = read(results, MAIN)
    if result is None:
        return f"No results yet: `python -m sage.studies {MAIN}` makes them."
    sage = next(r for r in by_ratio(result)[RATIO] if r["name"] == SAGE)
    changes = [f"{c['measure']} {percent(c['ours'])}" for c in result["claims"] if "measure" in c]
    verdicts = " / ".join(dict.fromkeys(c["verdict"] for c in result["claims"] if "measure" in c))
    saved = f"{sage['saving']:.0%} of the evaluations"
    if sage["seconds"] is not None:
        saved += f" and {1 - sage['seconds']:.0%} of the time"
    sentences = [
        f"On the model *{result['conditions']['model']}*, sharing {RATIO:.0%} of the steps saves "
        f"{saved}.",
        "Independent sampling with as many evaluations (the equal-NFE baseline) is "
        f"{compared(result, SAGE)} sharing with the SAGE adapter, and "
        f"{compared(result, IN_TURN)} sharing without training whose prompts take turns as the "
        "trunk.",
        f"Training with L_SAGE against standard fine-tuning: {', '.join(changes)} ({verdicts}).",
    ]
    figure = picture(results, page, MAIN, "Quality against saving, by method and share ratio")
    return "\n\n".join(part for part in (" ".join(sentences), figure) if part)


def compared(result: Result, method: str) -> str:
    """In which judges the equal-NFE baseline differs from a method, beyond chance."""
    gap = next(
        d["metrics"]
        for d in result["differences"]
        if (d["first"], d["second"], d["share_ratio"]) == (method, FEWER, RATIO)
    )
    signs = {
        word: [METRIC[key].title for key in ("fd", "clip", "probe") if gap[key]["sign"] == sign]
        for word, sign in (("better", -1), ("worse", 1))
        if gap.keys() >= {"fd", "clip", "probe"}
    }
    parts = [f"{word} in {' and '.join(keys)}" for word, keys in signs.items() if keys]
    return f"{' and '.join(parts)} than" if parts else "as good, up to chance, as"


def study_line(study: Study, results: Path, page: Path) -> str:
    """A study in one item of a list."""
    result = read(results, study.name)
    if result is None:
        return f"* **{study.title}** (`{study.name}`): not run yet."
    links = [f"[numbers]({relative(results / f'{study.name}.json', page)})"]
    if (figure := results / f"{study.name}.svg").is_file():
        links.append(f"[figure]({relative(figure, page)})")
    return f"* **{study.title}** ({', '.join(links)}). {result['answer']}"


def studies_block(results: Path, page: Path) -> str:
    """One line for each other study."""
    return "\n".join(study_line(study, results, page) for study in every() if study.name != MAIN)


def study_section(study: Study, results: Path, page: Path) -> str:
    """A study with its question, answer, figure, table and conditions."""
    head = f"## {study.title}\n\n*{study.question}*"
    result = read(results, study.name)
    if result is None:
        return f"{head}\n\nNot run yet: `python -m sage.studies {study.name}`."
    head += f"\n\n**{result['answer']}**"
    if study.name == MAIN:
        return f"{head}\n\n{main_block(results, page)}"
    parts = [
        head,
        result["finding"],
        picture(results, page, study.name, study.title),
        folded("Table", study_table(study, result)),
        study_conditions(result),
    ]
    return "\n\n".join(part for part in parts if part)


def study_table(study: Study, result: Result) -> str:
    """Every row of a result: what it is, what it costs, what the judges say."""
    metrics = [m for m in METRICS if m.key in COLUMNS and m.key in result["metrics"]]
    costs = {"evaluations": "evaluations", "gigaflops": "GFLOPs"} if metrics else {}
    titles = ["", *study.columns.values(), *costs.values()]
    lines = [
        [
            line["name"],
            *(_plain(line.get(key)) for key in study.columns),
            *(f"{line[key]:.4g}" for key in costs),
            *(_interval(line["metrics"].get(m.key), m.digits) for m in metrics),
        ]
        for line in result["rows"]
    ]
    return table([*titles, *(m.title + ARROWS[m.better] for m in metrics)], lines)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    rows = [titles, ["---"] + ["---:"] * (len(titles) - 1), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def folded(title: str, text: str) -> str:
    """Text that is shown when asked for."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def relative(path: Path, page: Path) -> str:
    """The link from a page's folder to a file below it; elsewhere, its name."""
    try:
        return path.resolve().relative_to(page.resolve()).as_posix()
    except ValueError:
        return path.name


def picture(results: Path, page: Path, name: str, alt: str) -> str:
    """A study's figure, if it was drawn."""
    path = results / f"{name}.svg"
    return f"![{alt}]({relative(path, page)})" if path.is_file() else ""


def _main_table(lines: Sequence[Row], result: Result) -> str:
    """One line a method: cost, then every metric with half its interval."""
    metrics = [m for m in METRICS if m.key in COLUMNS and m.key in result["metrics"]]
    titles = ["", "evaluations", "FLOPs", "time", *(m.title + ARROWS[m.better] for m in metrics)]
    exact = FID in lines[0].get("plain", {})
    base = next(line for line in result["rows"] if line["compared_at"] == 0.0)
    rows = [
        [
            line["name"] + (f" ({line['compared_at']:g})" if line["compared_at"] else ""),
            _change(line["evaluations"] / base["evaluations"]),
            _change(line["gigaflops"] / base["gigaflops"]),
            "" if line["seconds"] is None else _change(line["seconds"]),
            *(_interval(line["metrics"].get(m.key), m.digits) for m in metrics),
            *([f"{line['plain'][FID]:.2f}"] if exact else []),
        ]
        for line in lines
    ]
    return table(titles + (["FID ↓"] if exact else []), rows)


def _change(share: float) -> str:
    return f"{100 * (share - 1):+.0f} %".replace("-", "\N{MINUS SIGN}").replace("+0 %", "0 %")


def _interval(number: Mapping[str, float] | None, digits: int) -> str:
    if number is None:
        return ""
    half = (number["high"] - number["low"]) / 2
    value = round(number["value"], digits) + 0.0  # no "-0.00"
    return f"{value:.{digits}f} ± {half:.{digits}f}"


def _claims(result: Result) -> str:
    """The paper's relative claims beside ours."""
    rows = [
        ["SAGE + share against standard LoRA + share", "paper", "here", ""],
        ["---", "---:", "---:", "---"],
    ]
    for claim in result["claims"]:
        ours = claim["ours"]
        exact = ours["low"] == ours["high"]
        theirs = f"{100 * claim['paper']:+.1f} %".replace("-", "\N{MINUS SIGN}")
        mine = percent(ours).split(" (")[0] if exact else percent(ours)
        rows.append([claim["claim"], theirs, mine, claim["verdict"]])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def legend(result: Result) -> str:
    """What the columns are."""
    parts = [f"*{m['title']}*: {m['about']}" for k, m in result["metrics"].items() if k in COLUMNS]
    return "; ".join(parts) + "."


def main_conditions(result: Result) -> str:
    """Under what the main table holds."""
    c, prompts = result["conditions"], result["conditions"]["prompts"]
    pictures = max(line["pictures"] for line in result["rows"])
    bound = c["two_independent_pictures_of_one_prompt_are_apart_by"]
    scale = (
        f" Two independent pictures of one prompt with other noise are {bound:.3f} apart."
        if bound is not None
        else ""
    )
    number, groups = prompts["prompts"], prompts["groups"]
    return (
        f"Conditions: {c['model']}; {pictures} pictures a row ({number} prompts in {groups} "
        f"groups × {c['noise_seeds']} noise seeds; {prompts['source']}), "
        f"{prompts['real_pictures']} real pictures; {_sampling(c)}; intervals: {c['interval']}; "
        f"{c['seconds']}.{scale} {_where(c)}."
    )


def study_conditions(result: Result) -> str:
    """Under what a study's numbers hold, in short."""
    c = result["conditions"]
    sizes = {line["pictures"] for line in result["rows"] if "pictures" in line}
    source = c.get("prompts", {}).get("source")
    parts = [
        c["model"],
        f"{min(sizes)} to {max(sizes)} pictures a row" if len(sizes) > 1 else "",
        f"{min(sizes)} pictures a row" if len(sizes) == 1 else "",
        source or "",
        f"{_sampling(c)}" if sizes else "",
        _where(c),
    ]
    return f"Conditions: {'; '.join(part for part in parts if part)}."


def _sampling(c: Mapping[str, Any]) -> str:
    return f"{c['steps']} steps of {c['scheduler']}, {guidance_words(c)}; {c['precision']}"


def _where(c: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in c["versions"].items())
    return f"{c['hardware']}; {versions}; commit {c['commit']}, {c['date']}"
