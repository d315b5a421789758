"""A model of Stable Diffusion v1.5's size on this machine: page, API, scrubbing, adapter, training.

    python -m tests.full_size.rehearsal [--hub] [--small] [--folder FOLDER]

Builds the model if the folder does not hold it (2 GB; with --hub 4 GB, as a cache of the hub that
holds what `preload_from_hub` names), starts `app.py` on it and uses it, and prints what it took.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from gradio_client import Client

from sage.jobs.models import available_models, load_model, stable_diffusion_v1_5
from sage.sd.precision import dtype_for, short_name
from sage.sd.store import StateStore
from tests.full_size.build import build_folder, build_hub_cache, weight_bytes

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ["a fox in the snow", "a dog in the snow"]
PATIENCE = 1800  # seconds for any one answer: a pass takes seconds on a slow CPU


@dataclass
class Watch:
    """What a page answers and takes while it works.

    Attributes:
        peak: Most resident bytes.
        answers: Seconds that each answer of the page took.
    """

    pid: int
    address: str
    peak: int = 0
    answers: list[float] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Asks the page and reads the process's memory until it is over."""
        process = psutil.Process(self.pid)
        while not self.over.wait(0.5):
            start = time.perf_counter()
            with urllib.request.urlopen(self.address + "/config", timeout=60) as answer:
                answer.read()
            self.answers.append(time.perf_counter() - start)
            self.peak = max(self.peak, process.memory_info().rss, _highest(self.pid))


@contextmanager
def served(arguments: list[str], environment: dict[str, str]) -> Iterator[tuple[str, int, float]]:
    """A page of its own: its address, its process and the seconds until it answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port), *arguments]
    start = time.perf_counter()
    app = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(address + "/", timeout=60).read()
                break
            except OSError:
                if app.poll() is not None:
                    raise RuntimeError("The page ended before it answered.") from None
                time.sleep(0.1)
        yield address, app.pid, time.perf_counter() - start
    finally:
        app.terminate()
        app.wait(30)


def use_page(
    arguments: list[str], environment: dict[str, str], key: str, short: bool = False
) -> dict[str, Any]:
    """Loads and estimates and, unless it is to be short, compares and stops through the page."""
    report: dict[str, Any] = {}
    with served(arguments, environment) as (address, pid, seconds):
        report["page_served_seconds"] = seconds
        watch = Watch(pid, address)
        watching = threading.Thread(target=watch.run, daemon=True)
        watching.start()
        client = Client(address, verbose=False, httpx_kwargs={"timeout": PATIENCE})
        how = {"prompts": "\n".join(PROMPTS), "model": key, "steps": 2}
        with _timed(report, "estimate_seconds_with_loading"):
            report["estimate"] = client.predict(**how, api_name="/estimate")
        if short:  # the page itself renders a step now, to measure the speed
            _wait_until(lambda: _cores(pid) < 0.1)
        else:
            with _timed(report, "compare_seconds"):
                *_, compared = client.predict(**how, api_name="/compare")
            report["compare"] = {k: compared[k] for k in ("model", "dtype", "device", "seconds")}
        watch.over.set()
        watching.join()
        answers = sorted(watch.answers)
        report["answers"] = len(answers)
        report["answer_p95_seconds"] = answers[int(0.95 * (len(answers) - 1))]
        report["peak_bytes"] = watch.peak
        if short:
            return report
        # From here on the page is idle but for the run.
        job = client.submit(**(how | {"steps": 50}), api_name="/compare")
        _wait_until(lambda: _cores(pid) > 0.2)
        with _timed(report, "stop_seconds"):
            job.cancel()
            _wait_until(lambda: _cores(pid) < 0.1)
    return report


def use_library(source: str | None) -> dict[str, Any]:
    """Scrubbing, an adapter and a stop, in this process."""
    spec = available_models(source)[0] if source else stable_diffusion_v1_5()
    report: dict[str, Any] = {}
    with _timed(report, "load_seconds"):
        model = load_model(spec, "cpu", "auto")
    if model.note:
        raise RuntimeError(model.note)
    pipe, store = model.pipe, StateStore()
    how = {"groups": [(0, 1)], "num_inference_steps": 2, "output_type": "latent"}
    with _timed(report, "first_seconds"):
        first = pipe(PROMPTS, share_ratio=0.5, reuse=store, **how)
    with _timed(report, "scrub_seconds"):
        again = pipe(PROMPTS, share_ratio=1.0, reuse=store, **how)
    report["scrub_reused"] = again.reused
    report["rows"], report["memory_retries"] = first.rows, first.memory_retries
    report["precision"] = short_name(pipe.unet.dtype)
    report["row_bytes"] = {
        key[0][0]: value for key, value in pipe._known.row_bytes.items() if key[-1] == "measured"
    }
    stream = pipe.stream(PROMPTS, share_ratio=0.0, **how, reuse=store)
    next(stream)
    stream.close()
    report["states_after_stop"] = len(store)
    with tempfile.TemporaryDirectory() as folder:
        _adapter(pipe, Path(folder))
        pipe.use_lora(folder)
        with _timed(report, "adapter_seconds"):
            pipe(PROMPTS[:1], **(how | {"groups": [(0,)], "num_inference_steps": 1}))
    report["peak_bytes"] = _peak()
    return report


def train(folder: Path, small: bool) -> dict[str, Any]:
    """Two training steps through the command line, in a process of its own."""
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as out:
        where = ["--out", f"{out}/run", "--cache", f"{out}/cache", "--device", "cpu"]
        few = ["--steps", "2", "--scenes", "64", "--max-groups", "2", "--batch-groups", "1"]
        few += ["--max-group-size", "2", "--tau-min", "-1", "--tau-max", "1", "--rank", "4"]
        few += ["--sample-every", "0", "--checkpointing"] + (
            [] if small else ["--precision", "bf16"]
        )
        command = [sys.executable, "-m", "sage.training", "--model", str(folder), *few, *where]
        with _timed(report, "train_seconds"):
            subprocess.run(command, cwd=ROOT, check=True)
        report["adapter"] = (Path(out) / "run" / "pytorch_lora_weights.safetensors").is_file()
    return report


def _adapter(pipe: Any, folder: Path) -> None:
    """An adapter with random weights for a UNet."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe.unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
    pipe.save_lora_weights(folder, unet_lora_layers=weights)
    pipe.unload_lora_weights()


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _highest(pid: int) -> int:
    """Most resident bytes that a process ever had, where the system says so; otherwise 0."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _cores(pid: int) -> float:
    """Cores that a process keeps busy, over two seconds."""
    return psutil.Process(pid).cpu_percent(2) / 100


def _wait_until(true: Any, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"It did not happen within {seconds:.0f} s.")


@contextmanager
def _timed(report: dict[str, Any], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    report[name] = round(time.perf_counter() - start, 2)
    print(f"{name}: {report[name]}", file=sys.stderr, flush=True)


def rehearse(
    folder: Path, hub: bool = False, small: bool = False, parts: str = "page,library,train"
) -> dict[str, Any]:
    """The whole rehearsal.

    Args:
        folder: Where the model is, or will be built.
        hub: Use it as the listed model, from a cache of the hub.
        small: A model of the same layout with few weights, to try the rehearsal itself.
        parts: Which of "page", "library" and "train"; "first" is the page until it has loaded
            the model and rendered one step to measure its speed.
    """
    dtype = torch.float16
    with _timed(report := {}, "build_seconds"):
        if not (folder / "model" / "model_index.json").exists():
            build_folder(folder / "model", dtype, small)
        if hub and not (folder / "hub").exists():
            build_hub_cache(folder / "model", folder / "home", dtype, small)
    spec = stable_diffusion_v1_5()
    environment, source = {"HF_HUB_OFFLINE": "1"}, str(folder / "model")
    if hub:
        environment |= {"HF_HOME": str(folder / "home")}
        source = spec.key
    os.environ.update(environment)
    wide = dtype_for("auto", torch.device("cpu")).itemsize / dtype.itemsize
    report["weight_bytes"] = wide * weight_bytes(folder / ("home" if hub else "model"))
    key = spec.key if hub else "model"
    if "page" in parts or "first" in parts:
        arguments = ["--model", source, "--device", "cpu"]
        report["page"] = use_page(arguments, environment, key, short="first" in parts)
    if "library" in parts:
        command = [sys.executable, "-m", "tests.full_size.rehearsal", "--library", source]
        run = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        report["library"] = json.loads(run.stdout.splitlines()[-1])
    if "train" in parts:
        report["train"] = train(folder / "model", small)
    return report


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A rehearsal with a full-size model.")
    parser.add_argument("--folder", type=Path, help="where the model is kept (default: temporary)")
    parser.add_argument("--hub", action="store_true", help="as the listed model, from a hub cache")
    parser.add_argument("--small", action="store_true", help="few weights, to try the script")
    parser.add_argument("--parts", default="page,library,train", help="which parts")
    parser.add_argument("--library", help=argparse.SUPPRESS)  # one part, in its own process
    flags = parser.parse_args()
    if flags.library:
        print(json.dumps(use_library(flags.library)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.folder or Path(temporary)
        print(json.dumps(rehearse(folder, flags.hub, flags.small, flags.parts), indent=2))


if __name__ == "__main__":
    main()
