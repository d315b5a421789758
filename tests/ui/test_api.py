import json
import re
import time

import httpx
import pytest
from gradio.utils import get_function_description
from gradio_client import Client
from gradio_client.exceptions import AppError

from sage.core.settings import settings_of
from sage.ui.api import EXTRAS
from sage.ui.api import arguments as api_arguments
from sage.ui.server.limits import BOUNDS

from .conftest import PROMPTS, SLOW_RUN, raises_sentence

NAMES = [
    "prompts",
    "model",
    "tau_min",
    "tau_max",
    "max_group_size",
    "share_ratio",
    "steps",
    "guidance_scale",
    "seed",
    "trained",
    "scheduler",
    "spacing",
    "trunk",
    "fresh_noise",
    "sharing",
    "budget",
    "spend",
    "guarded",
]
BAD = [
    ({"prompts": ""}, "No prompt"),
    ({"prompts": "   \n\t\n"}, "No prompt"),
    ({"prompts": "one fox"}, "at least two"),
    ({"prompts": "\n".join(f"fox {n}" for n in range(17))}, "17"),
    ({"prompts": "a fox\n" + "x" * 5000}, "5000 characters"),
    ({"prompts": "\x00\x01\x1b[31m\n"}, "one prompt"),
    ({"prompts": None}, "prompts"),
    ({"tau_min": 7}, "tau_min"),
    ({"tau_min": 0.9, "tau_max": 0.2}, "lowest"),
    ({"max_group_size": 0}, "group"),
    ({"max_group_size": 1e30}, "group"),
    ({"share_ratio": 1.5}, "share"),
    ({"share_ratio": -0.1}, "share"),
    ({"steps": 10**12}, "steps"),
    ({"steps": 2.5}, "whole number"),
    ({"guidance_scale": 1e9}, "guidance"),
    ({"seed": -5}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"steps": "12"}, "a number is needed"),
    ({"steps": "\uff11\uff12"}, "a number is needed"),
    ({"seed": None}, "a number is needed"),
    ({"fresh_noise": 2}, "fresh"),
    ({"sharing": "tree", "spend": 0.01}, "spend"),
    ({"trained": True}, "no adapter"),
    ({"model": "nobody/nothing"}, "Unknown model"),
    ({"model": "../../etc/passwd"}, "Unknown model"),
    ({"model": "gone"}, "cannot be loaded"),
]


@pytest.fixture(scope="module")
def client(server):
    return Client(server, verbose=False)


def test_exactly_three_endpoints_are_public_and_named(client, demo):
    surface = client.view_api(return_format="dict", print_info=False)
    assert set(surface["named_endpoints"]) == {
        *("/analyze", "/estimate", "/compare", "/look_first")
    }
    assert not surface["unnamed_endpoints"]
    names = [f.api_name for f in demo.fns.values()]
    assert all(names)
    assert "unnamed" not in names
    assert len(set(names)) == len(names)


def test_parameters_are_named_documented_and_have_defaults(client, demo):
    surface = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    for name, endpoint in surface.items():
        found = {p["parameter_name"]: p for p in endpoint["parameters"]}
        extras = [one.name for one in EXTRAS.get(name.removeprefix("/"), ())]
        assert list(found) == [*NAMES, *extras]
        assert all(p["parameter_has_default"] for p in found.values())
        assert (
            found["max_group_size"]["parameter_default"] == settings_of()["max_group_size"].default
        )
        listener = next(f for f in demo.fns.values() if f"/{f.api_name}" == name)
        assert all(re.search(rf"^{p}: ", listener.api_description, re.M) for p in found)


def test_a_choice_is_one_of_the_list(client):
    surface = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    found = {p["parameter_name"]: p["type"] for p in surface["/compare"]["parameters"]}
    for name in ("scheduler", "trunk", "sharing"):
        assert found[name]["enum"] == list(settings_of()[name].titles)
    with pytest.raises(AppError, match="sorcery"):
        client.predict(prompts=PROMPTS, scheduler="sorcery", api_name="/estimate")


def test_a_tool_for_language_models_explains_every_argument(demo):
    """Gradio makes an MCP tool's schema from the listener's docstring."""
    for name in ("analyze", "estimate", "compare", "look_first"):
        listener = next(f for f in demo.fns.values() if f.api_name == name)
        words, arguments, _ = get_function_description(listener.fn)
        assert words.endswith(".")
        taken = (*api_arguments(), *EXTRAS.get(name, ()))
        assert arguments == {one.name: one.words for one in taken}
        assert list(arguments)[: len(NAMES)] == NAMES


@pytest.mark.slow
def test_look_first_finishes_what_is_named_and_counts_it(client):
    def look(finish):
        how = {"steps": 6, "share_ratio": 0.5, "finish": finish, "api_name": "/look_first"}
        return client.predict(prompts=PROMPTS, **how)

    expected, finished, report = look("1, 3")
    assert (len(expected), len(finished)) == (4, 2)
    assert [picture["caption"][:2] for picture in finished] == ["P1", "P3"]
    assert report["finished"] == [0, 2]
    counts = report["evaluations"]
    assert counts["look"] < counts["spent"] < counts["all"]
    _, none, seen = look("")
    assert not none
    assert seen["evaluations"]["spent"] == counts["look"]
    with pytest.raises(AppError, match="A prompt to finish is '7'; allowed are 1 to 4, or all"):
        look("7")


@pytest.mark.slow
def test_compare_repeats_and_runs_the_rival_if_asked(client):
    how = {"steps": 4, "share_ratio": 0.5, "repeats": 3, "fewer_steps": True}
    *_, report = client.predict(prompts=PROMPTS, **how, api_name="/compare")
    assert len(report["over_seeds"]["seeds"]) == 3
    assert report["fewer_steps"]["steps"] < 4
    with pytest.raises(AppError, match="repeats is 2; allowed are 1, 3, 5"):
        client.predict(prompts=PROMPTS, repeats=2, api_name="/compare")


@pytest.mark.slow
def test_every_way_of_sharing_can_be_asked_for(client):
    tree = client.predict(prompts=PROMPTS, sharing="tree", spend=0.6, api_name="/estimate")
    assert tree["evaluations"]["shared"] <= 0.6 * tree["evaluations"]["independent"]
    other = {"scheduler": "euler", "trunk": "medoid", "fresh_noise": 0.2, "guarded": True}
    *_, report = client.predict(prompts=PROMPTS, steps=3, **other, api_name="/compare")
    assert report["steps"] == 3


def test_analyze_with_nothing_given_answers_for_the_first_example(client):
    answer = client.predict(api_name="/analyze")
    count = len(answer["prompts"])
    assert len(answer["similarity"]) == len(answer["similarity"][0]) == count
    assert sorted(n for group in answer["groups"] for n in group) == list(range(count))
    assert len(answer["pairs"]) == count * (count - 1) // 2
    assert {"first", "second", "similarity", "kind", "reason", "together"} <= set(
        answer["pairs"][0]
    )


def test_zero_means_the_models_own_bound(client):
    answer = client.predict(prompts=PROMPTS, tau_min=0, tau_max=0, api_name="/analyze")
    assert (answer["tau_min"], answer["tau_max"]) == (0.95, 1.0)
    assert answer["groups"] == [[0, 1], [2], [3]]


def test_estimate_counts_what_the_plan_costs(client):
    answer = client.predict(prompts=PROMPTS, steps=10, share_ratio=0.4, api_name="/estimate")
    assert answer["evaluations"] == {"shared": 36, "independent": 40}
    assert answer["saving"]["evaluations"] == pytest.approx(0.1)
    assert answer["branch_step"] == 4
    flops = answer["flops"]["shared"]
    parts = [flops[stage] for stage in ("encode", "trunk", "branches", "decode")]
    assert sum(parts) == pytest.approx(flops["total"])


@pytest.mark.slow
def test_compare_gives_two_galleries_and_the_report(client):
    job = client.submit(prompts=PROMPTS, steps=6, seed=3, share_ratio=0.5, api_name="/compare")
    independent, shared, report = job.result()
    parts = list(job)
    assert parts[0][2]["step"] == 1
    assert len(parts) == 7
    independent, shared, report = parts[-1]
    assert len(independent) == len(shared) == 4
    assert independent[0]["caption"] == "P1 a fox in the snow"
    assert report["seeds"] == [3, 4, 5, 6]
    needed = "model steps guidance_scale share_ratio branch_step groups seeds evaluations flops "
    needed += "seconds saving clip_score device versions"
    assert set(needed.split()) <= set(report)
    assert set(report["seconds"]["shared"]) == {"encode", "trunk", "branches", "decode", "total"}
    json.dumps(report, allow_nan=False)


@pytest.mark.slow
def test_predict_waits_for_the_pictures(client):
    _, _, report = client.predict(prompts=PROMPTS, steps=2, api_name="/compare")
    assert report["steps"] == 2


@pytest.mark.slow
def test_a_cancelled_comparison_stops_and_the_next_one_runs(client):
    job = client.submit(prompts=PROMPTS, model="slow", steps=100, api_name="/compare")
    next(iter(job))
    job.cancel()
    start = time.monotonic()
    _, _, report = client.predict(prompts=PROMPTS, steps=2, api_name="/compare")
    assert report["steps"] == 2
    assert time.monotonic() - start < SLOW_RUN / 2


@pytest.mark.parametrize(("change", "words"), BAD)
@pytest.mark.parametrize("endpoint", ["/analyze", "/estimate", "/compare"])
def test_bad_input_gets_a_sentence(client, endpoint, change, words):
    if endpoint == "/analyze" and "trained" in change:
        return  # similarities do not depend on the adapter
    with raises_sentence(AppError, words):
        client.predict(**({"prompts": PROMPTS} | change), api_name=endpoint)


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "-Infinity", '"many"', "[3]", "true", "{}"])
@pytest.mark.parametrize("name", ["tau_min", "steps", "seed", "share_ratio", "guidance_scale"])
def test_values_that_are_no_numbers_get_a_sentence(server, name, raw):
    body = json.dumps({"prompts": PROMPTS, name: 0}).replace(f'"{name}": 0', f'"{name}": {raw}')
    call = httpx.post(
        f"{server}/gradio_api/call/v2/analyze",
        content=body,
        headers={"content-type": "application/json"},
    )
    if call.status_code != 200:
        assert call.status_code in (400, 422)
        return
    event = call.json()["event_id"]
    answer = httpx.get(f"{server}/gradio_api/call/analyze/{event}", timeout=20).text
    assert "event: error" in answer
    assert "number" in answer
    assert "Traceback" not in answer


def test_after_all_that_the_server_still_answers(client):
    assert client.predict(prompts=PROMPTS, api_name="/analyze")["groups"]


@pytest.mark.slow
def test_cheap_calls_do_not_wait_behind_a_rendering(client):
    job = client.submit(prompts=PROMPTS, model="slow", steps=100, api_name="/compare")
    next(iter(job))
    client.predict(prompts=PROMPTS, api_name="/estimate")
    assert not job.done()
    job.cancel()


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "app.py", "requirements.txt", "http://127.0.0.1:1/", "..%2f..%2fetc"]
)
def test_files_outside_are_not_served(server, path):
    assert httpx.get(f"{server}/gradio_api/file={path}").status_code in (403, 404)


def test_large_uploads_are_refused(server):
    big = {"files": ("big.bin", b"0" * 3_000_000)}
    assert httpx.post(f"{server}/gradio_api/upload", files=big).status_code == 413


def test_the_queue_is_bounded_and_closed_to_direct_calls(demo):
    assert demo._queue.max_size == BOUNDS.queue
    assert demo.api_open is False
    rendering = [f for f in demo.fns.values() if f.concurrency_id == "render"]
    assert {f.api_name for f in rendering} == {
        *("render", "scrub", "compare", "look_first", "look", "finish"),
        *("explore", "explore_steps"),
    }
    assert {f.concurrency_limit for f in rendering} == {1}
