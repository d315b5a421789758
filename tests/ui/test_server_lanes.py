"""Who renders, who waits and who is told to come again: by the rules, and on a served page."""

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from types import SimpleNamespace

import httpx
import pytest
from gradio_client import Client as Program

from sage.ui.api import EXTRAS, arguments
from sage.ui.server.admission import Admission, BusyError, Client, Ticket
from sage.ui.server.lanes import work_of
from sage.ui.server.limits import BOUNDS
from sage.ui.server.listeners import Listeners
from sage.ui.server.streams import Places, _is_stream

from .conftest import PROMPTS, SLOW_RUN

ROOMY = replace(BOUNDS, line_seconds=1e9)


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def ticket(who="a", address="10.0.0.1", units=100.0, heard=True):
    return Ticket(Client(address, who), "compare", units, heard=lambda: heard)


def render(admission, clock, run, seconds):
    admission.begin(run)
    clock.now += seconds
    admission.end(run, finished=True)


# -- the rules -------------------------------------------------------------------------------------


def test_whoever_rendered_least_comes_next(clock):
    admission = Admission(ROOMY, clock)
    render(admission, clock, ticket("a"), 10)
    greedy, modest = ticket("a"), ticket("b")
    assert admission.pick([greedy, greedy, modest]) is modest
    render(admission, clock, ticket("b"), 30)
    assert admission.pick([modest, greedy]) is greedy


def test_a_clients_own_runs_keep_their_order_however_long_the_choice_takes(clock):
    moments = iter(range(1000))
    admission = Admission(ROOMY, lambda: float(next(moments)))
    done = ticket("me")
    admission.begin(done)
    admission.end(done, finished=True)
    first, second = ticket("me"), ticket("me")
    assert admission.pick([first, second]) is first


def test_an_address_cannot_gain_by_many_sessions(clock):
    admission = Admission(ROOMY, clock)
    for n in range(5):
        render(admission, clock, ticket(f"s{n}", "10.0.0.1"), 2)
    fresh, other = ticket("s99", "10.0.0.1"), ticket("t", "10.0.0.2")
    render(admission, clock, ticket("t", "10.0.0.2"), 5)
    assert admission.pick([fresh, other]) is other


def test_what_was_used_is_forgotten_in_time(clock):
    admission = Admission(ROOMY, clock)
    render(admission, clock, ticket("a"), 64)
    before = admission.share(Client("10.0.0.1", "a"))
    clock.now += 4 * BOUNDS.memory_seconds
    assert admission.share(Client("10.0.0.1", "a")) == pytest.approx(before / 16, rel=0.01)


def test_only_what_somebody_reads_comes_up(clock):
    admission = Admission(ROOMY, clock)
    unheard, heard = ticket("a", heard=False), ticket("b")
    assert admission.pick([unheard, heard]) is heard
    assert admission.pick([unheard]) is None


@pytest.mark.parametrize(
    ("waiting", "words"),
    [
        ([ticket("me")] * BOUNDS.line_of_client, "You have 4 runs"),
        ([ticket(str(n), f"10.0.1.{n}") for n in range(BOUNDS.line)], "The queue is full"),
        ([ticket(str(n)) for n in range(BOUNDS.line_of_address)], "The queue is full"),
    ],
)
def test_places_are_bounded_for_each_and_for_all(clock, waiting, words):
    refusal = Admission(ROOMY, clock).refuse(ticket("me"), waiting)
    assert isinstance(refusal, BusyError)
    assert words in str(refusal)
    assert "Try again in about" in str(refusal)


def test_runs_that_nobody_reads_take_no_place_of_others(clock):
    waiting = [ticket(str(n), f"10.0.1.{n}", heard=False) for n in range(BOUNDS.unheard)]
    assert Admission(ROOMY, clock).refuse(ticket("me"), waiting) is None


def test_cost_counts_and_not_only_the_number(clock):
    admission = Admission(BOUNDS, clock)
    render(admission, clock, ticket(units=100), 10)  # 0.1 s a unit
    small, large = ticket("b", units=10), ticket("c", units=1100)
    line = [ticket("d", units=300)]
    assert admission.refuse(small, line) is None
    refusal = admission.refuse(large, line)
    assert refusal is not None
    assert refusal.seconds == pytest.approx(30 + 110 - BOUNDS.line_seconds, abs=1)
    assert admission.refuse(large, []) is None  # one alone is never too large


def test_the_wait_is_what_such_runs_took(clock):
    admission = Admission(ROOMY, clock)
    render(admission, clock, ticket(units=100), 20)
    running = ticket("x", units=100)
    admission.begin(running)
    clock.now += 5
    assert admission.wait([ticket(units=50)]) == pytest.approx(15 + 10)


def test_a_run_that_failed_tells_nothing_of_the_speed(clock):
    admission = Admission(ROOMY, clock)
    render(admission, clock, ticket(units=100), 10)
    refused = ticket(units=16.0)
    admission.begin(refused)
    admission.end(refused, finished=False)
    assert admission.seconds(ticket(units=100)) == pytest.approx(10)


def test_a_short_run_that_loads_a_model_does_not_stand_for_the_speed(clock):
    admission = Admission(BOUNDS, clock)
    render(admission, clock, ticket(units=2), 20)
    render(admission, clock, ticket(units=120), 6)
    assert admission.seconds(ticket(units=120)) < 25  # a mean of the two speeds says 840 s


def test_a_wait_is_never_longer_than_an_hour():
    assert BusyError("Busy.", 1e300).seconds == 3600
    assert BusyError("Busy.", float("inf")).seconds == 3600


def listener(*names):
    parts = [SimpleNamespace(elem_id=None, label=name) for name in names]
    return SimpleNamespace(inputs=parts, api_name="compare")


@pytest.mark.parametrize(
    ("steps", "counted"),
    [
        *[(30, 30), ("12", 12), (0, 30), (None, 30), (1e-300, 2), (-5, 2), (1e300, 100)],
        *[(float("nan"), 30), (float("inf"), 30), ("many", 30), ([1], 30), (10**400, 30)],
    ],
)
def test_work_counts_within_the_limits_whatever_was_sent(steps, counted):
    asked = ["a fox\na dog", steps, 3, "tiny"]
    kind, units = work_of(listener("prompts", "steps", "repeats", "model"), asked)
    assert (kind, units) == ("compare tiny", 2 * counted * 3)


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("a {fox|owl|cat} {in snow|at sea}", 6),
        ("a {fox|owl}\na dog", 3),
        ("a {fox|owl", 1),  # refused later
        ("{a|b|c|d|e} {a|b|c|d|e}\nx", 2),  # likewise: too many
        ("{a|b}" * 10**5, 1),
        ("fox\n" * 40, 16),
    ],
)
def test_braces_count_as_the_prompts_they_make(text, prompts):
    _, units = work_of(listener("prompts", "steps", "model"), [text, 10, "tiny"])
    assert units == 10 * prompts


def test_what_is_remembered_of_clients_is_bounded(clock):
    admission = Admission(ROOMY, clock)
    for n in range(BOUNDS.clients + 50):
        render(admission, clock, ticket(str(n), f"address {n}"), 1)
    assert len(admission._used) <= BOUNDS.clients


def test_a_reader_counts_as_long_as_one_of_its_streams_is_open():
    listeners = Listeners()
    listeners.came("a")
    listeners.came("a")
    listeners.left("a")
    assert listeners.reads("b", "a")
    listeners.left("a")
    assert not listeners.reads("a")
    assert not listeners._open


def test_streams_have_places_for_each_address_and_in_all():
    places = Places(replace(BOUNDS, streams=3, streams_of_address=2))
    assert [places.take("a"), places.take("a")] == [None, None]
    assert "Your network address has 2 streams" in str(places.take("a"))
    assert places.take("b") is None
    refusal = places.take("c")
    assert "There are 3 streams" in str(refusal)
    assert refusal.headers == {"Retry-After": str(int(BOUNDS.stream_retry_seconds))}
    places.give_back("a")
    assert places.take("c") is None


def test_the_bound_of_streams_leaves_places_for_other_addresses():
    assert BOUNDS.streams_of_address < BOUNDS.streams
    assert BOUNDS.stream_retry_seconds < BOUNDS.unheard_seconds  # the answer is still there, then


# -- on a served page ------------------------------------------------------------------------------


def ask(server, steps=3, model="tiny", prompts=PROMPTS, **headers):
    """Posts a comparison as a program without a session does."""
    body = {"prompts": prompts, "steps": steps, "model": model}
    return httpx.post(
        f"{server}/gradio_api/call/v2/compare", json=body, headers=headers, timeout=30
    )


def read(server, event, timeout=60):
    """Events of an answer, as (kind, data)."""
    found = []
    with httpx.stream(
        "GET", f"{server}/gradio_api/call/compare/{event}", timeout=timeout
    ) as stream:
        kind = None
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                found.append((kind, json.loads(line[6:])))
    return found


@contextmanager
def counted(shelf, key):
    """Counts the calls of a model's denoiser."""
    calls = []
    handle = shelf.get(key).pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


def eventually(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def sweep(demo, later=0.0):
    """What the server does every few seconds, as if some had passed."""
    done = demo._queue.sweep(time.monotonic() + later)
    asyncio.run_coroutine_threadsafe(done, demo._queue.loop).result(10)


@pytest.fixture
def idle(demo):
    """Whether nothing waits and nothing runs; afterwards nothing does."""

    def nothing():
        lane = demo._queue.event_queue_per_concurrency_id.get("render")
        return lane is None or (not lane.queue and not lane.current_concurrency)

    yield nothing
    sweep(demo, BOUNDS.unheard_seconds + 1)
    eventually(nothing)


@pytest.mark.slow
def test_posted_and_never_read_runs_nothing_and_holds_up_nobody(server, shelf, demo, idle):
    with counted(shelf, "slow") as calls:
        posted = [ask(server, steps=100, model="slow") for _ in range(10)]
        assert {p.status_code for p in posted} == {200, 429}
        start = time.monotonic()
        _, _, report = Program(server, verbose=False).predict(
            prompts=PROMPTS, steps=2, model="tiny", api_name="/compare"
        )
        assert report["steps"] == 2
        assert time.monotonic() - start < SLOW_RUN / 2  # one of the ten would take longer
        assert not calls
    sweep(demo, BOUNDS.unheard_seconds + 1)
    assert idle()
    late = read(server, next(p.json()["event_id"] for p in posted if p.status_code == 200))
    assert "Nobody read" in late[-1][1]["error"]


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_run_within_a_step(server, shelf, idle):
    with counted(shelf, "slow") as calls:
        event = ask(server, steps=100, model="slow").json()["event_id"]
        with httpx.stream("GET", f"{server}/gradio_api/call/compare/{event}", timeout=30) as stream:
            next(stream.iter_lines())
            eventually(lambda: len(calls) >= 2)
        gone = len(calls)
        eventually(idle)
        assert len(calls) - gone <= 2


@pytest.mark.slow
def test_a_refusal_is_quick_and_says_how_long_to_wait(server, demo, idle):
    """It is the answer to the question itself, while all that it would wait for is still in line.

    How many milliseconds it takes on a machine that does nothing else, the load test says.
    """
    events = [ask(server, steps=100, model="slow").json().get("event_id") for _ in range(4)]
    assert all(events)
    line = demo._queue._in_line()
    refused = ask(server)
    assert demo._queue._in_line() == line  # it took no place, and none became free for it
    assert len(line) == 4
    assert refused.status_code == 429
    assert "event_id" not in refused.json()
    assert int(refused.headers["retry-after"]) >= 1
    assert "Try again in about" in refused.json()["detail"]
    program = Program(server, verbose=False)  # another client, so it has places
    assert (
        program.predict(prompts=PROMPTS, steps=2, model="tiny", api_name="/compare")[2]["steps"]
        == 2
    )


@pytest.mark.slow
def test_a_clients_library_is_told_in_its_answer(server, demo, monkeypatch):
    refusal = BusyError("The queue is full: 16 runs are waiting.", 12)
    monkeypatch.setattr(demo._queue.admission, "refuse", lambda *_: refusal)
    with pytest.raises(Exception, match="Try again in about 12 s"):
        Program(server, verbose=False).predict(prompts=PROMPTS, api_name="/compare")
    sent = httpx.post(f"{server}/gradio_api/call/compare", json={"data": [PROMPTS]})
    assert sent.headers["retry-after"] == "12"


@pytest.mark.slow
def test_cheap_calls_and_the_page_are_quick_while_something_renders(server, idle):
    stop = threading.Event()
    reading = threading.Thread(target=_read_until, args=(server, stop))
    reading.start()
    seconds = []
    with httpx.Client(timeout=30) as client:
        for _ in range(10):
            start = time.monotonic()
            assert client.get(server).status_code == 200
            seconds.append(time.monotonic() - start)
        program = Program(server, verbose=False)
        for _ in range(5):
            start = time.monotonic()
            program.predict(prompts=PROMPTS, model="tiny", api_name="/estimate")
            seconds.append(time.monotonic() - start)
    stop.set()
    reading.join()
    assert max(seconds) < 1.5, seconds


@contextmanager
def held_open(server, paths):
    """Streams that are asked for and not read; yields the first line of each one's answer."""
    url = httpx.URL(server)
    sockets = [socket.create_connection((url.host, url.port), timeout=30) for _ in paths]
    try:
        for stream, path in zip(sockets, paths, strict=True):
            head = f"GET /gradio_api/{path} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n\r\n"
            stream.sendall(head.encode())
        yield [stream.recv(64).partition(b"\r\n")[0].decode() for stream in sockets]
    finally:
        for stream in sockets:
            stream.close()


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("/gradio_api/heartbeat/x", True),
        ("/gradio_api/queue/data", True),
        ("/gradio_api/call/compare/x", True),
        ("/gradio_api/call/v2/compare/x", True),
        ("/gradio_api/upload_progress", True),
        ("/gradio_api/mcp/sse", True),
        ("/gradio_api/info", False),
        ("/gradio_api/file=/x/call/y", False),
        ("/", False),
    ],
)
def test_what_is_answered_with_events_is_a_stream(path, counts):
    scope = {"type": "http", "method": "GET", "path": path}
    assert _is_stream(scope) is counts
    assert _is_stream(scope | {"path": f"/proxied{path}", "root_path": "/proxied"}) is counts
    assert not _is_stream(scope | {"method": "POST"})


@pytest.mark.slow
def test_streams_held_open_are_bounded_and_others_do_not_notice(server, demo, idle):
    """600 streams that nobody read held 600 connections; the machine allows a process 1,024."""
    paths = [f"heartbeat/held{n}" for n in range(BOUNDS.streams_of_address + 20)]
    with held_open(server, paths) as answers:
        taken = [line for line in answers if " 200 " in line]
        assert len(taken) <= BOUNDS.streams_of_address
        assert len(taken) + sum(" 429 " in line for line in answers) == len(paths)
        refused = httpx.get(f"{server}/gradio_api/heartbeat/another")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) == BOUNDS.stream_retry_seconds
        assert "close some. Try again in about 5 s." in refused.json()["detail"]
        assert httpx.get(server).status_code == 200
        other = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=other, timeout=30) as client:
            asked = {"prompts": PROMPTS, "model": "tiny", "steps": 2}
            for name in ("estimate", "compare"):
                event = client.post(f"{server}/gradio_api/call/v2/{name}", json=asked).json()
                answer = client.get(f"{server}/gradio_api/call/{name}/{event['event_id']}")
                assert "event: complete" in answer.text
    eventually(lambda: httpx.get(f"{server}/gradio_api/call/none/x").status_code != 429)


def _read_until(server, stop):
    event = ask(server, steps=100, model="slow").json()["event_id"]
    with httpx.stream("GET", f"{server}/gradio_api/call/compare/{event}", timeout=30) as stream:
        for _ in stream.iter_lines():
            if stop.is_set():
                return


@pytest.mark.slow
def test_a_wrong_number_does_not_change_how_long_others_wait(server, demo):
    """One call with 1e-300 steps once made every wait 1e290 s, and others were refused."""
    admission = demo._queue.admission
    compare_as(server, demo, "before", seed=1)
    eventually(lambda: not admission._running)
    told = dict(admission._spent)
    (wrong,) = compare_as(server, demo, "wrong", steps=1e-300)
    assert "The number of steps" in wrong["output"]["error"]
    eventually(lambda: not admission._running)
    assert admission._spent == told


@pytest.mark.slow
def test_everyone_in_line_gets_one_answer_of_their_own(server, demo):
    """Eight programs at once: none lost, none twice."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda n: compare_as(server, demo, f"program-{n}", seed=n), range(8))
        )
    for number, finished in enumerate(answers):
        outputs = [done["output"] for done in finished]
        assert not any("error" in output for output in outputs), outputs
        assert [output["data"][2]["seeds"][0] for output in outputs] == [number]


def compare_as(server, demo, session, **changes):
    """A comparison as gradio's clients ask for it; every final message that comes."""
    listener = next(fn for fn in demo.fns.values() if fn.api_name == "compare")
    asked = {"prompts": PROMPTS, "steps": 2, "model": "tiny"} | changes
    data = [
        asked.get(argument.name, argument.default)
        for argument in (*arguments(), *EXTRAS["compare"])
    ]
    body = {"fn_index": listener._id, "data": data, "session_hash": session}
    address, finished = f"{server}/gradio_api/queue", []
    with httpx.Client(timeout=60) as client:
        client.post(f"{address}/join", json=body).raise_for_status()
        with client.stream("GET", f"{address}/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line[6:]) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    finished.append(message)
    return finished


@pytest.mark.slow
def test_messages_that_nobody_reads_are_dropped(server, demo):
    body, queue = {"prompts": PROMPTS, "model": "tiny"}, demo._queue
    posted = [httpx.post(f"{server}/gradio_api/call/v2/estimate", json=body) for _ in range(5)]
    names = {answer.json()["event_id"] for answer in posted}
    eventually(lambda: not names & set(queue.event_ids_to_events))
    assert names <= set(queue.pending_event_ids_session)
    sweep(demo)
    sweep(demo, BOUNDS.unheard_seconds + 1)
    assert not names & {*queue.pending_event_ids_session, *queue.pending_messages_per_session}


def test_sessions_are_bounded_and_the_oldest_is_forgotten_with_its_files(demo):
    holder = demo.state_holder
    before, holder.capacity = holder.capacity, 3
    state = next(
        b for b in demo.blocks.values() if getattr(b, "delete_callback", None) and b.value is None
    )
    gone = []
    callback, state.delete_callback = state.delete_callback, gone.append
    try:
        holder["first"][state._id] = "a run"
        for n in range(5):
            holder[f"other {n}"]
        assert "first" not in holder
        assert len(holder.session_data) <= 4
        assert "a run" in gone  # beside what other sessions of this server held
    finally:
        holder.capacity, state.delete_callback = before, callback


def test_a_session_holds_no_second_copy_of_the_page(demo):
    session = demo.state_holder["somebody"]
    box = next(iter(demo.blocks.values()))
    session[box._id] = box
    assert not session.config_values


def test_a_session_that_changes_a_component_changes_it_for_itself_only(demo):
    one, other = demo.state_holder["one"], demo.state_holder["other"]
    key = next(key for key, block in demo.blocks.items() if not block.stateful)
    changed = copy(demo.blocks[key])
    one[key] = changed
    assert one[key] is changed
    assert other[key] is demo.blocks[key]


def test_a_call_without_a_session_leaves_none_behind(server, demo):
    before = set(demo.state_holder.session_data)
    answer = httpx.post(f"{server}/gradio_api/call/v2/estimate", json={"prompts": PROMPTS})
    event = answer.json()["event_id"]
    eventually(lambda: event not in demo._queue.event_ids_to_events)
    eventually(lambda: set(demo.state_holder.session_data) <= before)
