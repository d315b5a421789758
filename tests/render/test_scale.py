"""Many prompts: plans in the processor's own time, pictures by the clock."""

import resource
import subprocess
import sys
import time
from statistics import median

import pyarrow.parquet as pq
import pytest

from sage.render import speed
from sage.render.local import devices
from sage.render.settings import LARGEST_UNIT

COLOURS = ("red", "blue", "green", "white", "black", "small", "big", "old", "young", "happy")
THINGS = ("fox", "rabbit", "owl", "dog", "cat", "bear", "whale", "car", "boat", "train")
PLACES = ("in the snow", "on the beach", "at night", "under the moon", "in the forest")


def texts(number):
    """Different sentences; some are of one kind and some of none."""
    for n in range(number):
        colour, thing, place = COLOURS[n % 10], THINGS[n // 10 % 10], PLACES[n // 100 % 5]
        other = f" with a {COLOURS[n // 500 % 10]} {THINGS[n // 5000 % 10]}" if n >= 500 else ""
        last = f" and a {THINGS[n // 50_000 % 10]}" if n >= 50_000 else ""
        last += f" {PLACES[n // 500_000]}" if n >= 500_000 else ""
        yield f"a {colour} {thing} {place}{other}{last}"


def spent(command):
    """Seconds of processors and most bytes of memory that a command and its children took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    script = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, *command],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, int(run.stdout.splitlines()[-1]) * 1024, run.stdout


def command(file, out, *more):
    return [sys.executable, "-m", "sage.render", str(file), "--out", str(out),
            "--model", "emoji-scenes", "--device", "cpu", *more]  # fmt: skip


def planned(tmp_path, number):
    """Seconds of processors, most bytes, and what is said when so many prompts are planned."""
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(texts(number)))
    seconds, most, said = spent(command(file, tmp_path / "out", "--dry-run"))
    print(f"{number:,} planned: {seconds:.0f} s of processors, {most / 1e9:.2f} GB\n{said}")
    assert f"{number:,} prompts." in said
    return seconds, most, said


@pytest.mark.slow
@pytest.mark.rehearsal
def test_100_000_prompts_are_planned_in_3_minutes_of_two_cores_and_4_gb(tmp_path):
    seconds, most, _ = planned(tmp_path, 100_000)
    assert seconds <= 3 * 60 * 2
    assert most <= 4 * 10**9


@pytest.mark.slow
@pytest.mark.rehearsal
def test_600_000_prompts_are_planned_in_8_gb_and_show_how_far_it_is(tmp_path):
    seconds, most, said = planned(tmp_path, 600_000)
    assert most <= 8 * 10**9
    assert seconds <= 30 * 60
    for bar in ("Reading", "Embedding", "Grouping"):
        assert bar in said


@pytest.mark.slow
@pytest.mark.rehearsal
def test_1_000_prompts_are_rendered_in_10_minutes_of_two_cores(tmp_path):
    """By the clock: nobody waits for the processes that workers are forks of."""
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(texts(1_000)))
    start = time.monotonic()
    subprocess.run(command(file, tmp_path / "out", "--workers", "2"), check=True)
    seconds = time.monotonic() - start
    print(f"1,000 rendered in {seconds:.0f} s")
    table = pq.read_table(tmp_path / "out" / "manifest.parquet")
    assert len(table) == 1_000
    assert table["error"].null_count == 1_000
    assert seconds <= 10 * 60


@pytest.mark.slow
@pytest.mark.rehearsal
def test_bulk_renders_1_5_times_as_many_pictures_a_second_as_group_by_group():
    """On all cores of a machine that does nothing else, in units as a thousand prompts have."""
    places = devices("cpu", None, 1)
    number = speed.UNITS_EACH * LARGEST_UNIT * len(places)
    asked = speed.parsed(["--device", "cpu", "--prompts", str(number)])
    work, _ = speed.work_of(asked, places[0])
    rates = speed.rates(work, places, LARGEST_UNIT, repeats=1)
    print(rates)
    alone = max(median(values) for (way, _), values in rates.items() if way == speed.GROUPS)
    assert median(rates[speed.BULK, len(places)]) >= 1.5 * alone
