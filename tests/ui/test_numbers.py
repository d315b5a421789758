"""Every number that a finished run shows is the record's, whatever switches it ran with."""

import json
import re
from html import unescape
from statistics import median

import pytest

from sage.core.calibration import Calibration
from sage.core.settings import SCHEDULERS, TRUNKS
from sage.jobs.repeats import mean_of
from sage.ui.html.words import flops_text, seconds_text, three_digits

from .conftest import changed, values_of
from .reader import Reader, plan_data

CASES = {
    **{f"scheduler {key}": {"scheduler": key} for key in SCHEDULERS},
    **{f"trunk {key}": {"trunk": key} for key in TRUNKS},
    "tree": {"sharing": "tree", "spend": 0.8},
    "adaptive": {"sharing": "adaptive"},
    "guarded": {"guarded": True},
    "insisted": {"guarded": False},
    "few steps": {"steps": 4, "guidance_scale": 1.0, "branch_call": 2},
    "repeats": {"repeats": 3},
    "no equal-cost column": {"fewer_steps": False},
    "nothing shared": {"branch_call": 0},
    "everything shared": {"branch_call": 6},
}


def text_of(html):
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def numbers(text):
    return re.findall(r"\d+(?:\.\d+)?", text)


@pytest.fixture
def shown(rendering, form, monkeypatch, request):
    """The page after a run, by the names of its parts, and the record of that run."""
    strict = Calibration((0.0,), (0.0, 1.0), ((0.0, 1.0),), 0.25, "distance", {})
    if request.param == "guarded":
        monkeypatch.setattr("sage.jobs.job.calibration_of", lambda _: strict)
    form = changed(
        form, **({"steps": 6, "branch_call": 3, "guarded": False} | CASES[request.param])
    )
    layout = rendering.layout
    turn, page = rendering.announce()[layout.turn], {}
    for update in rendering.render(turn, *values_of(form, None)):
        page |= {name: update[part] for name, part in layout.parts.items() if part in update}
    return page, json.loads(page["run"].files.record.read_text("utf-8"))


def branch_steps(record, n):
    """How many steps a prompt shared."""
    return max(
        (s["stop"] for s in record["plan"] if n in s["members"] and s["members"][1:]), default=0
    )


@pytest.mark.slow
@pytest.mark.parametrize("shown", CASES, indirect=True)
def test_every_number_on_the_page_is_the_records(shown):
    page, record = shown
    check_outcome(text_of(page["outcome"]), record)
    check_saving(text_of(page["saving"]).replace(record["device"], ""), record)
    check_bars(page, record)
    check_pictures(page["pictures"], record)
    drawn = plan_data(page["plan"])
    assert drawn["steps"] == record["calls"]
    told = [(p["members"], p["start"], p["stop"]) for p in drawn["segments"]]
    assert told == [(p["members"], p["start"], p["stop"]) for p in record["plan"]]
    seeds = record["seeds"]
    done = [str(record["request"]["steps"]), str(seeds[0]), str(seeds[-1])]
    assert numbers(text_of(page["progress"])) == done


def check_outcome(text, record):
    spent, alone = (record["evaluations"][side] for side in ("shared", "independent"))
    first = text.split(" Sharing gives ")[0]
    if spent == alone:
        assert numbers(first.split(" At the same cost")[0]) == [str(alone)]
        return
    flops = [record["flops"][side]["total"] for side in ("shared", "independent")]
    less = round(100 * (1 - flops[0] / flops[1]))
    expected = [f"{100 * abs(1 - spent / alone):.0f}", str(spent), str(alone)]
    expected += [str(abs(less))] if less else []
    times = [record["repeats"][side] for side in ("shared", "independent")]
    for side in times:
        each = [side[0]] if len(side) == 1 else [median(side), min(side), max(side)]
        expected += [n for one in each for n in numbers(seconds_text(one))]
    assert numbers(first) == expected
    check_seeds(text, record)
    rival = re.search(r"independent sampling with (\d+) step", text)
    assert (rival is None) or int(rival[1]) == record["fewer_steps"]["steps"]


def check_seeds(text, record):
    told = re.search(r"Over (\d+) sets of seeds.*?: (.*)$", text)
    assert (told is not None) == ("over_seeds" in record)
    if told is None:
        return
    seeds = record["over_seeds"]
    sharing = [n for n in range(len(record["prompts"])) if branch_steps(record, n)]
    expected = []
    assert seeds["clip_score"] is None  # of this model
    for side in ("shared", "fewer"):
        found = mean_of([[one[n] for n in sharing] for one in seeds["twin_distance"][side]])
        expected += [f"{found.value:.3f}", f"{found.half:.3f}"]
    assert (int(told[1]), numbers(told[2])) == (len(seeds["seeds"]), expected)


def check_saving(text, record):
    spent, alone = (record["evaluations"][side] for side in ("shared", "independent"))
    assert f"{spent} of {alone}" in text
    for side in ("shared", "independent"):
        assert flops_text(record["flops"][side]["total"]) in text
        assert seconds_text(median(record["repeats"][side])) in text


def check_bars(page, record):
    for name, unit, scale in (("seconds", "s", 1), ("flops", "GFLOP", 1e9)):
        bars = re.findall(
            r'<p>([a-z ]+)<b>([^<]*)</b></p><div role="img" aria-label="([^"]*)"', page[name]
        )
        assert {side for side, _, _ in bars} == {"shared", "independent"}
        for side, total, stages in bars:
            amounts = record[name][side]
            assert total == f"{three_digits(amounts['total'] / scale)} {unit}"
            drawn = [k for k in ("encode", "trunk", "branches", "decode") if amounts[k]]
            expected = [f"{three_digits(amounts[k] / scale)} {unit}" for k in drawn]
            assert re.findall(rf"[\d.]+ {unit}", stages) == expected


def check_pictures(html, record):
    for n, figure in enumerate(html.split("<figure")[1:]):
        shots = dict(re.findall(r'data-side="(\w+)">(.*?)</div><p>(?:.*?)', figure)) or {}
        words = {
            side: text_of(part)
            for side, part in re.findall(
                r'data-side="(\w+)">.*?</div>(<p>.*?</p><p>.*?</p>)', figure
            )
        }
        assert set(words) == set(shots)
        steps = branch_steps(record, n)
        assert numbers(words["shared"])[: 1 if steps else 0] == ([str(steps)] if steps else [])
        assert words["shared"].endswith(f"distance {record['twin_distance'][n]:.2f}")
        assert numbers(words["independent"]) == [str(record["calls"])]
        assert ("fewer" in words) == (record["fewer_steps"] is not None)
        if "fewer" in words:
            fewer = record["fewer_steps"]
            expected = [str(fewer["steps"]), f"{fewer['twin_distance'][n]:.2f}"]
            assert numbers(words["fewer"]) == expected
    assert Reader(html).is_safe
