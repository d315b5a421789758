"""Ten thousand odd inputs: none crashes, hangs, gets a bare error, or is accepted and wrong.

All are drawn from one seed, so that a failure repeats; each is named when it fails.
"""

import json
import math
import random
import time
from collections import Counter
from urllib.parse import urlencode

import httpx
import pytest

from sage.core.settings import NUM_PROMPTS, PROMPT_CHARS, Choice, Number, settings_of
from sage.jobs.models import ModelSpec
from sage.jobs.request import Request, parse_request
from sage.ui.api import arguments
from sage.ui.export.links import read_link, read_record

pytestmark = pytest.mark.slow

SEED = 7
LIBRARY, LINKS, RECORDS, CALLS, FILES = 4000, 2500, 2000, 1000, 500
TEXTS = [
    *("", " ", "\n", "\x00", "\x1b[31m", "a\nb", "a fox\na dog", "１２", "٣", "NaN", "Infinity"),
    *("1e309", "0x10", "null", "true", "../../etc/passwd", "<script>1</script>", "'; DROP", "%00"),
    *("\ud7ff", "\u202e", "👨‍👩‍👧", "e\u0301" * 50, "x" * 301, "x" * 100_000, "\r\n" * 20, "${x}"),
    *("ddim", "mean", "groups", "tree", "adaptive", "euler", "{{7*7}}", "%s%n", "-0", "1_000"),
]
NUMBERS = [
    *(0, 1, -1, 2, 16, 17, 100, 101, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e-300),
    *(1e308, math.nan, math.inf, -math.inf, 0.1 + 0.2, 2.5),
]
MODELS = {"tiny": ModelSpec("tiny", "Tiny", "nowhere"), "two": ModelSpec("two", "Two", "nowhere")}


def odd(chance, depth=0):
    """A value that nobody should send."""
    kind = chance.randrange(8 if depth < 3 else 6)
    if kind < 2:
        return chance.choice(TEXTS)
    if kind < 4:
        return chance.choice(NUMBERS)
    if kind == 4:
        return chance.choice([None, True, False])
    if kind == 5:
        return "".join(
            chr(chance.choice([*range(128), 0x3B1, 0x1F600])) for _ in range(chance.randrange(40))
        )
    if kind == 6:
        return [odd(chance, depth + 1) for _ in range(chance.randrange(20))]
    return {str(odd(chance, 3))[:20]: odd(chance, depth + 1) for _ in range(chance.randrange(4))}


def asked(chance):
    """Some settings, some of them odd, some names unknown."""
    known = settings_of(Request)
    names = chance.sample([*known, "nonsense", ""], chance.randrange(1, 5))
    fine = {name: known[name].default for name in names if name in known and chance.random() < 0.7}
    return {name: odd(chance) for name in names} | fine


def prompts(chance):
    return chance.choice(
        ["a fox\na dog"] * 4 + ["a\nb\nc", odd(chance), "\n".join(["fox"] * chance.randrange(40))]
    )


def check_sentence(text, case):
    assert 10 < len(text) <= 500, (text, case)
    assert "\n" not in text, (text, case)
    assert "Traceback" not in text, (text, case)
    assert "object at 0x" not in text, (text, case)


def check_request(request, case):
    """What was accepted is within all limits, and can be asked for again."""
    assert NUM_PROMPTS.low <= len(request.prompts) <= NUM_PROMPTS.high, case
    for prompt in request.prompts:
        assert 0 < len(prompt) <= PROMPT_CHARS.high, case
        assert prompt.isprintable() or not any(ord(c) < 32 for c in prompt), case
    for name, setting in settings_of(Request).items():
        value = getattr(request, name)
        if isinstance(setting, Number):
            assert math.isfinite(value), case
            assert setting.low <= value <= setting.high, case
            assert not isinstance(value, bool), case
        elif isinstance(setting, Choice):
            assert value in setting.titles, case
        else:
            assert isinstance(value, bool), case


def test_library():
    chance, outcomes = random.Random(SEED), Counter()
    for number in range(LIBRARY):
        words, settings = prompts(chance), asked(chance)
        case = (number, str(words)[:100], str(settings)[:300])
        outcome = ask_library(words, settings)
        if isinstance(outcome, ValueError):
            check_sentence(str(outcome), case)
        else:
            check_request(outcome, case)
        outcomes[type(outcome).__name__] += 1
    assert min(outcomes["Request"], outcomes["ValueError"]) > 400, outcomes


def ask_library(words, settings):
    """A request, or why it was refused."""
    try:
        return parse_request(words, **settings)
    except ValueError as error:
        return error


def test_links():
    chance = random.Random(SEED + 1)
    for number in range(LINKS):
        known = [
            "v",
            "model",
            "prompt",
            "prompts",
            "beta",
            "steps",
            "seed",
            *settings_of(Request),
            "x",
        ]
        pairs = [(chance.choice(known), str(odd(chance))) for _ in range(chance.randrange(8))]
        query = chance.choice(["?", "", "&&", "?%"]) + urlencode(pairs, errors="replace")
        query = query[: chance.choice([len(query), len(query) // 2])]
        read = read_link(query, MODELS)
        if read is not None:
            check_settings(read, (number, query[:300]))


def test_records():
    chance, outcomes = random.Random(SEED + 2), Counter()
    for number in range(RECORDS):
        record = asked(chance) | {"prompts": odd(chance), "seeds": odd(chance)}
        record |= chance.choice(
            [{}, {"request": asked(chance)}, {"prompts": ["a", "b"]}, {"model": odd(chance)}]
        )
        text = json.dumps(record)
        text = chance.choice([text, text, text[: len(text) // 2], "[" * 100_000, str(odd(chance))])
        case = (number, text[:300])
        try:
            read = read_record(text, MODELS)
        except ValueError as error:
            check_sentence(str(error), case)
            outcomes["refused"] += 1
        else:
            check_settings(read, case)
            outcomes["read"] += 1
    assert min(outcomes.values()) > 20


def check_settings(read, case):
    """Values that were taken from a link or a record make a request."""
    assert len(read.problem) < 2000, case
    values = dict(read.values)
    key, words = values.pop("model", "tiny"), values.pop("prompts", ["a fox", "a dog"])
    assert key in MODELS, case
    if values.get("trained"):
        values.pop("trained")
    # As a list: in the text box, braces in a prompt would be read as a set of prompts.
    check_request(Request.from_dict({"prompts": words, **values}, MODELS[key]), case)


def test_calls(server):
    """Over the network: every answer comes in time, and every refusal has its reason."""
    chance, outcomes = random.Random(SEED + 3), Counter()
    names = [argument.name for argument in arguments()]
    with httpx.Client(timeout=20) as client:
        for number in range(CALLS):
            name = chance.choice(["analyze", "estimate", "analyze", "compare"])
            body = asked(chance) | {"prompts": prompts(chance), "model": "tiny"}
            if name == "compare":  # something in it is wrong, so that nothing is rendered
                body["max_group_size"] = "none"
            path = f"/gradio_api/call/v2/{name}"
            if chance.random() < 0.3:
                path, body = (
                    f"/gradio_api/call/{name}",
                    {"data": [body.get(n) for n in names][: chance.randrange(20)]},
                )
            case = (number, path, str(body)[:300])
            begun = time.monotonic()
            content = json.dumps(body)
            if chance.random() < 0.1:
                content = content[: chance.randrange(len(content))]
            sent = client.post(
                server + path, content=content, headers={"content-type": "application/json"}
            )
            assert sent.status_code in (200, 400, 404, 413, 422), (sent.status_code, case)
            if sent.status_code == 200:
                text = client.get(f"{server}/gradio_api/call/{name}/{sent.json()['event_id']}").text
                outcomes[check_events(text, case)] += 1
            else:
                assert "Traceback" not in sent.text, case
                assert len(sent.text) > 10, case
                outcomes[sent.status_code] += 1
            assert time.monotonic() - begun < 10, case
    assert outcomes["error"] > 100
    assert httpx.get(server).status_code == 200


def check_events(text, case):
    """How a stream of answers ended."""
    kinds = [line[7:] for line in text.splitlines() if line.startswith("event: ")]
    *_, last = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert kinds[-1] in ("complete", "error"), (text[:300], case)
    if kinds[-1] == "error":
        sentence = json.loads(last)["error"]
        check_sentence(sentence, case)
        assert "fault is ours" not in sentence, (sentence, case)
    return kinds[-1]


def test_files(server):
    chance = random.Random(SEED + 4)
    roots = [
        "/etc/passwd",
        "app.py",
        "/proc/self/maps",
        "..",
        "/tmp",
        "sage/__init__.py",
        "C:\\x",
        "http://127.0.0.1:1",
    ]
    with httpx.Client(timeout=20) as client:
        for number in range(FILES):
            path = chance.choice(roots)
            for _ in range(chance.randrange(4)):
                path = (
                    chance.choice(
                        ["../", "%2e%2e/", "..%2f", "./", "//", "~/", "\\", "%00", "?", "#"]
                    )
                    + path
                )
            prefix = chance.choice(
                ["/gradio_api/file=", "/static/", "/assets/", "/svelte/", "/gradio_api/file/", "/"]
            )
            answer = client.get(server + prefix + path)
            case = (number, prefix + path, answer.status_code)
            home = answer.headers.get("etag") and "gradio_config" in answer.text
            assert home or answer.status_code in (400, 403, 404, 405), case
            assert "root:" not in answer.text, case
            assert home or "Traceback" not in answer.text, case
