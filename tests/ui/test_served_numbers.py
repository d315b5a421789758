"""Every number on the served page is the record's, in each state that a run can be seen in.

`test_numbers` compares what the listeners answer with the record, switch by switch; here it is what
stands in the browser, with what the page's own script has written over it.
"""

import json

import pytest

from sage.core.cost import evaluations
from sage.core.plan import independent_plan, shared_plan
from sage.ui.html.words import flops_text

from .browser import STUDIO, drag_by_keys, expect, find, render, shows, visits
from .test_numbers import (
    check_bars,
    check_outcome,
    check_pictures,
    check_saving,
    numbers,
    text_of,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PROMPTS = "&prompt=a+fox+in+the+snow&prompt=a+dog+in+the+snow&prompt=a+whale+under+water"
STEPS = "&steps=6&beta=0.5&guarded=false"
CASES = {
    "groups": STEPS,
    "repeats": f"{STEPS}&repeats=3",
    "tree": f"{STEPS}&sharing=tree&spend=0.8",
    "adaptive": f"{STEPS}&sharing=adaptive",
    "few steps": "&model=fast&guarded=false",
    "nothing shared": "&steps=6&beta=0",
    "trained": f"{STEPS}&trained=true",
}
FOLDS = ("fold-groups", "fold-cost", "fold-travel")


@pytest.fixture
def visit(pages, adapted):
    with visits(pages, adapted, STUDIO) as open_page:
        yield open_page


def opened(visit, case):
    """The page of a link, with everything that holds numbers unfolded."""
    page = visit(address=PROMPTS + CASES[case])
    shows(page, "#opened", "These settings come from a link")
    shows(page, "#pictures", "a whale under water")
    for fold in FOLDS:
        find(page, f"#{fold} button").first.click()
    return page


def record_of(page):
    """What the page hands out as the record of its run."""
    expect(find(page, "#download-record")).to_be_enabled()
    with page.expect_download() as download:
        find(page, "#download-record").click()
    return json.loads(download.value.path().read_text("utf-8"))


def html(page, part):
    return find(page, f"#{part} .prose, #{part}").first.inner_html()


def check_similarity(page, record):
    """Matrix and chips: a cell's number is the record's, as are the groups."""
    for cell in find(page, "#similarity td > button").all():
        a, b = (int(cell.get_attribute(f"data-{side}")) for side in "ab")
        assert cell.inner_text() == f"{record['similarity'][a][b]:.2f}"
    chips = [
        sorted(int(name.get_attribute("data-p")) for name in chip.locator(".sage-name").all())
        for chip in find(page, "#chips .sage-chip").all()
    ]
    assert chips == [sorted(group) for group in record["groups"]]


def check_estimate(page, record):
    """The counted saving in advance is the run's; an adaptive run promises bounds only."""
    if record["sharing"] == "adaptive":
        shows(page, "#estimate", "Decided while sampling")
        return
    spent, alone = (record["evaluations"][side] for side in ("shared", "independent"))
    shows(page, "#estimate", f"{spent} of {alone}")
    shows(page, "#estimate", flops_text(record["flops"]["shared"]["total"]))


@pytest.mark.parametrize("case", CASES)
def test_every_number_on_the_served_page_is_the_records(visit, case):
    page = opened(visit, case)
    render(page)
    record = record_of(page)
    check_outcome(text_of(html(page, "outcome")), record)
    check_saving(text_of(html(page, "saving")).replace(record["device"], ""), record)
    check_bars({name: html(page, name) for name in ("seconds", "flops")}, record)
    check_pictures(html(page, "pictures"), record)
    check_similarity(page, record)
    check_estimate(page, record)
    plan = json.loads(find(page, "#plan [data-plan]").get_attribute("data-plan"))
    drawn = [(p["members"], p["start"], p["stop"]) for p in plan["segments"]]
    assert drawn == [(p["members"], p["start"], p["stop"]) for p in record["plan"]]
    assert find(page, "#plan .sage-line").count() == len(record["plan"])
    seeds = record["seeds"]
    done = [str(record["request"]["steps"]), str(seeds[0]), str(seeds[-1])]
    assert numbers(find(page, "#progress").inner_text()) == done
    if record["sharing"] == "groups":
        handle = find(page, "#branch .sage-knob")
        expect(handle).to_have_attribute("aria-valuenow", str(record["branch_step"]))


def test_what_the_script_writes_at_another_branch_point_is_counted(visit):
    page = opened(visit, "groups")
    render(page)
    record = record_of(page)
    find(page, "#scrub").click()
    shows(page, "#scrub-note", "All branch points are ready")
    groups, steps = record["groups"], record["calls"]
    alone = evaluations(independent_plan(len(record["prompts"]), steps))
    for point in (0, 2, 5, 6):
        drag_by_keys(page, "#branch-step", "Home")
        drag_by_keys(page, "#branch-step", "ArrowRight", point)
        spent = evaluations(shared_plan([tuple(group) for group in groups], steps, point))
        said = f"{spent} evaluations instead of {alone}" if point else f"all {alone} evaluations"
        shows(page, "#outcome", said)
        sheet = json.loads(find(page, ".sage-sheet").get_attribute("data-strip"))
        told = sheet["points"][str(point)]["shared"]
        shots = find(page, ".sage-pair .sage-shared")
        for n, shot in enumerate(shots.all()):
            column = int(find(page, ".sage-pair").nth(n).get_attribute("data-p"))
            assert f"distance {told['twin'][column]:.2f}" in shot.text_content()
            assert told["done"][column] in shot.text_content()
        shows(page, "#estimate", f"{spent} of {alone}" if point else "Nothing is shared")
        shows(page, "#saving", f"{spent} of {alone}")
        if point:
            took = f"{steps} steps with {record['branch_step']} shared"
            shows(page, "#saving", took)  # where its seconds were measured


def test_what_a_look_spends_is_its_records(visit):
    page = opened(visit, "groups")
    find(page, "#look").click()
    expect(find(page, ".sage-pairs[data-state=look]")).to_be_visible()
    find(page, "[data-tick='1']").uncheck()
    shows(page, "#finish", "Finish 2 of 3")
    page.wait_for_function("location.search.includes('tick=1%2C3')")
    find(page, "#finish").click()
    expect(find(page, ".sage-pairs[data-finished='0 2']")).to_be_visible()
    record = record_of(page)
    counts = record["evaluations"]
    shows(page, "#outcome", f"2 of 3 finished, {100 * (1 - counts['spent'] / counts['all']):.0f} %")
    shows(page, "#outcome", f"{counts['spent']} evaluations instead of {counts['all']}")
    shows(page, "#outcome", f"would take {counts['independent']} evaluations")
    assert record["finished"] == [0, 2]


def test_the_ticks_of_a_link_are_ticked_again(visit):
    page = visit(address=f"{PROMPTS}{CASES['groups']}&tick=2")
    shows(page, "#opened", "These settings come from a link")
    find(page, "#look").click()
    shows(page, "#finish", "Finish 1 of 3")
    assert find(page, "[data-tick]:checked").get_attribute("data-tick") == "1"
    page.wait_for_function("location.search.includes('tick=2')")
