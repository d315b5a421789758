"""Several processes on one machine, killed for real: the files are those of an undisturbed run."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest

from sage.core.plan import independent_plan
from sage.core.settings import Sampling
from sage.render import local
from sage.render.work import DIED, Rendered, Unit
from sage.render.worker import OutOfMemory, Recipe

from .conftest import SAMPLING, Quiet, content, workers


def parts(folder):
    return len(list((folder / ".render" / "parts").glob("*.parquet")))


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_and_goes_on_to_the_same_files(
    render, tmp_path, tiny_folder
):
    whole = render("whole", workers=1, unit=2)
    out, model = str(tmp_path / "killed"), str(tiny_folder)
    flags = [f"--{n.replace('_', '-')}={v}" for n, v in SAMPLING.items()]
    places = ["--model", model, "--device", "cpu", "--precision", "float32"]
    places += ["--workers", "2", "--unit", "2", "--rows", "4"]
    file = str(tmp_path / "prompts.jsonl")
    command = [sys.executable, "-m", "sage.render", file, "--out", out, *places, *flags]
    process = subprocess.Popen(command)
    while parts(tmp_path / "killed") < 2:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.005)
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= parts(tmp_path / "killed") < 12
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive
    console = Quiet()
    assert content(render("killed", console=console, workers=1, unit=2)) == content(whole)
    assert any(line.startswith("Going on: ") for line in console.said)


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(render):
    whole = render("whole", workers=1, unit=2)
    killed = []

    def kill(finished):
        if finished == 3:
            victim = workers()[0]
            victim.send_signal(signal.SIGKILL)
            killed.append(victim.pid)

    out = render("disturbed", console=Quiet(kill), workers=2, unit=2)
    assert killed
    assert content(out) == content(whole)


def unit(number, prompts):
    places, names = tuple(range(len(prompts))), tuple(f"{n}.png" for n in range(len(prompts)))
    plan = independent_plan(len(prompts), 2)
    texts, nothing = tuple(prompts), ("",) * len(prompts)
    return Unit(number, places, names, texts, places, places, names, nothing, plan)


class Deadly(Recipe):
    """A recipe with whose workers a certain prompt ends the process."""

    def pipeline(self, model):
        pipe = super().pipeline(model)
        stream = pipe.stream

        def stream_or_die(prompts, **how):
            if "a deadly fox" in prompts:
                os._exit(9)
            return stream(prompts, **how)

        pipe.stream = stream_or_die
        return pipe


@pytest.mark.slow
def test_a_prompt_that_kills_its_process_fails_alone(tiny_folder):
    recipe = Deadly(str(tiny_folder), None, Sampling(steps=2), "float32", 4, 1)
    units = [unit(n, ["a deadly fox" if n == 1 else "a fox", "a dog"]) for n in range(4)]
    messages = [u.to_bytes() for u in units]
    results = {r.number: r for r in local.run_in_processes(recipe, ["cpu"], messages)}
    assert sorted(results) == [0, 1, 2, 3]
    assert all(isinstance(r, Rendered) for r in results.values())
    errors = [[picture.error for picture in results[n].pictures] for n in range(4)]
    assert errors == [[None, None], [DIED, None], [None, None], [None, None]]
    # Who was in the unit with it has the picture that others with this text and seed have.
    assert results[1].pictures[1].png == results[0].pictures[1].png


class Dead:
    """A pool whose processes die of everything."""

    devices = ("cpu",)
    restart = close = staticmethod(lambda: None)

    def submit(self, message):
        future = Future()
        future.set_exception(BrokenProcessPool())
        return future


def test_workers_that_finish_nothing_end_the_run():
    """Where memory does not even suffice for the model, no prompt is to blame."""
    results = local._Dispatch(Dead(), [unit(n, ["a fox"]).to_bytes() for n in range(9)]).results()
    for _ in range(local.STRIKES_IN_VAIN):
        assert next(results).pictures[0].error == DIED
    with pytest.raises(OutOfMemory, match="fewer --workers need less"):
        next(results)


class Sleepy(Recipe):
    """A recipe with whose workers everything takes hours."""

    def pipeline(self, model):
        pipe = super().pipeline(model)

        def stream(prompts, **how):
            Path(self.model).with_name("begun").touch()
            time.sleep(600)

        pipe.stream = stream
        return pipe


@pytest.mark.slow
def test_ctrl_c_waits_for_no_unit(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "model")
    recipe = Sleepy(str(tmp_path / "model"), None, Sampling(steps=2), "float32", 4, 1)

    def press():
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    messages = [unit(n, ["a fox"]).to_bytes() for n in range(3)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job's may be ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            list(local.run_in_processes(recipe, ["cpu"], messages))
    finally:
        signal.signal(signal.SIGINT, before)
    _, alive = psutil.wait_procs(workers(), timeout=60)
    assert not alive


@pytest.mark.parametrize(("threads", "workers"), [(1, None), (10_000, None), (1, 3)])
def test_there_is_a_worker_for_every_few_cores(threads, workers):
    cores = len(os.sched_getaffinity(0))
    expected = workers or max(1, cores // threads)
    assert local.devices("cpu", workers, threads) == ["cpu"] * expected


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cpu:", ""])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(ValueError, match="The device is"):
        local.devices(device if device != "cpu:" else "gpu", None, 1)
