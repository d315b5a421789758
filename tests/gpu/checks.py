"""What no CPU can show, each as a function that returns plain numbers.

Every check takes a `Bench` and runs on its device; on a CPU with small networks the same code runs
in seconds, so that it is known to work before there is a GPU.
"""

import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sage.core.plan import independent_plan, shared_plan
from sage.sd.execution import Known
from sage.sd.pipeline import SagePipeline
from sage.sd.store import StateStore

PROMPTS = ["a fox in the snow", "a dog in the snow", "a cat at night", "an owl at night"]
GOALS = {4: 0.75, 16: 0.92}  # realised share of the saving, by number of prompts


@dataclass
class Bench:
    """Where and on what the checks run.

    Attributes:
        device: The device.
        load: Loads the model under test, in a precision.
        base: Loads it as diffusers' own pipeline.
        steps: Steps of a run that is timed.
        batches: Rows of the batches that are timed.
        repeats: Times that anything is timed.
    """

    device: torch.device
    load: Callable[[torch.dtype], SagePipeline]
    base: Callable[[torch.dtype], StableDiffusionPipeline]
    steps: int = 30
    batches: tuple[int, ...] = (1, 4, 16, 32)
    repeats: int = 3
    _pipes: dict[torch.dtype, SagePipeline] = field(default_factory=dict)

    @property
    def half(self) -> torch.dtype:
        """The precision that is timed."""
        return torch.float16 if self.device.type == "cuda" else torch.bfloat16

    def pipe(self, dtype: torch.dtype) -> SagePipeline:
        """The model in a precision, loaded once."""
        if dtype not in self._pipes:
            self._pipes[dtype] = self.load(dtype)
        return self._pipes[dtype]

    def seconds(self, call: Callable[[], Any], repeats: int | None = None) -> float:
        """Median seconds of a call, the device's work included; the first one is not counted."""
        call()
        times = []
        for _ in range(repeats or self.repeats):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def wait(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def equality(bench: Bench) -> dict[str, Any]:
    """Sharing nothing is diffusers' own result; reuse and exact runs are bit for bit the same."""
    report = {}
    for dtype in (torch.float32, bench.half):
        pipe = bench.pipe(dtype)
        how = {"num_inference_steps": 6, "output_type": "latent", "guidance_scale": 4.0}
        base = bench.base(dtype)
        base.scheduler = pipe.scheduler
        noise = pipe.starting_noise(range(4)).to(bench.device, base.unet.dtype)
        theirs = base(PROMPTS, latents=noise, **how).images.float()
        ours = pipe(PROMPTS, share_ratio=0, **how).latents
        groups, store = {"groups": [(0, 1), (2, 3)]}, StateStore()
        cold = pipe(PROMPTS, share_ratio=0.5, **groups, **how).latents
        pipe(PROMPTS, share_ratio=0.8, reuse=store, **groups, **how)
        warm = pipe(PROMPTS, share_ratio=0.5, reuse=store, **groups, **how).latents
        alone = pipe(PROMPTS[:1], exact=True, **how).latents[0]
        company = [
            pipe(PROMPTS[:n], share_ratio=0, exact=True, **how).latents[0] for n in (2, 3, 4)
        ]
        report[str(dtype).removeprefix("torch.")] = {
            "difference_to_diffusers": float((ours - theirs).abs().max()),
            "scale": float(theirs.abs().max()),
            "resumed_is_equal": torch.equal(cold, warm),
            "exact_in_company": all(torch.equal(alone, other) for other in company),
            "exact_costs_nothing": _exact_costs_nothing(pipe),
        }
        del base
    return report


def _exact_costs_nothing(pipe: SagePipeline) -> bool:
    """Whether `exact` runs at the batch sizes that it would run at without."""
    if pipe.is_heavy:
        return True
    execution, known = pipe._execution(exact=True), Known()
    execution.known = known  # as the network is now: others' sizes have no say
    drawn = torch.Generator().manual_seed(0)
    cond_shape = pipe.tokenizer.model_max_length, pipe.text_encoder.config.hidden_size
    x, t, cond = (
        torch.randn(16, *pipe._latent_shape(), generator=drawn),
        torch.arange(16) * 50,
        torch.randn(16, *cond_shape, generator=drawn),
    )
    x, t, cond = (rows.to(pipe._execution_device) for rows in (x, t, cond))
    with torch.inference_mode():
        for size in (1, 4, 6, 8, 16):
            pipe._predict(x[:size], t[:size], cond[:size], execution)
    return all(known.same_rows.values())


def memory(bench: Bench) -> dict[str, Any]:
    """Peak memory of four prompts, and the same pictures when memory runs out."""
    pipe = bench.pipe(bench.half)
    how = {"num_inference_steps": 2, "output_type": "latent", "share_ratio": 0}
    whole = pipe(PROMPTS, **how)
    report: dict[str, Any] = {"rows": whole.rows}
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
        pipe(PROMPTS, **how | {"output_type": "pt"})
        report["peak_bytes"] = torch.cuda.max_memory_allocated(bench.device)
    with _little_memory(bench, pipe):
        short = pipe(PROMPTS, **how)
    report["memory_retries"] = short.memory_retries
    difference = (short.latents - whole.latents).square().mean() / whole.latents.square().mean()
    report["relative_difference_rms"] = float(difference.sqrt())
    return report


@contextmanager
def _little_memory(bench: Bench, pipe: SagePipeline) -> Iterator[None]:
    """Room for three rows of eight: really on a GPU, by an error on a CPU."""
    if bench.device.type != "cuda":

        def fail(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if len(args[0]) > 3:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

        hook = pipe.unet.register_forward_pre_hook(fail)
        try:
            yield
        finally:
            hook.remove()
        return
    torch.cuda.empty_cache()
    costs = pipe._known.row_bytes.items()
    taken = [cost for key, cost in costs if isinstance(key, tuple) and key[0] == "denoiser"]
    _, total = torch.cuda.mem_get_info(bench.device)
    # What is reserved counts, whether it is in use or not.
    most = (torch.cuda.memory_reserved(bench.device) + 3 * max(taken)) / total
    torch.cuda.set_per_process_memory_fraction(min(1.0, most), bench.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)


def host_reads(bench: Bench) -> dict[str, Any]:
    """Reads of the device in the loop, which would make the host wait: none are allowed."""
    pipe = bench.pipe(bench.half)
    how = {"groups": [(0, 1), (2, 3)], "num_inference_steps": 6, "output_type": "latent"}
    pipe(PROMPTS, **how)
    stream = pipe.stream(PROMPTS, reuse=StateStore(), **how)
    next(stream)  # tables are made on the way to the first step
    with _no_host_reads(bench.device):
        for _ in range(5):
            next(stream)
    return {"host_reads": 0}


@contextmanager
def _no_host_reads(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        with _ScalarReads():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class _ScalarReads(TorchDispatchMode):
    """Refuses what would read a value back: the CPU's stand-in for sync debug mode."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("A value was read back to the host.")
        return func(*args, **(kwargs or {}))


def speed(bench: Bench) -> dict[str, Any]:
    """Steps a second by batch, beside diffusers' own pipeline; share of the matmul ceiling."""
    pipe, base = bench.pipe(bench.half), bench.base(bench.half)
    base.scheduler = pipe.scheduler
    ceiling = _matmul_flops(bench)
    report: dict[str, Any] = {"matmul_tflops": ceiling / 1e12, "batch": {}}
    for rows in bench.batches:
        prompts = [PROMPTS[n % 4] for n in range(rows)]
        plan = independent_plan(rows, bench.steps)
        how = {"num_inference_steps": bench.steps, "output_type": "latent", "guidance_scale": 4.0}
        noise = pipe.starting_noise(range(rows)).to(bench.device, bench.half)
        ours = bench.seconds(
            lambda p=prompts, plan=plan: pipe(
                p, plan=plan, output_type="latent", guidance_scale=4.0
            )
        )
        theirs = bench.seconds(lambda p=prompts, n=noise, h=how: base(p, latents=n, **h))
        flops = 2 * rows * bench.steps * pipe.flops.denoiser / ours
        report["batch"][rows] = {
            "steps_per_second": bench.steps / ours,
            "diffusers_steps_per_second": bench.steps / theirs,
            "share_of_matmul": flops / ceiling,
        }
    return report


def _matmul_flops(bench: Bench) -> float:
    side = 8192 if bench.device.type == "cuda" else 512
    a, b = (torch.randn(side, side, device=bench.device).to(bench.half) for _ in range(2))
    return 2 * side**3 / bench.seconds(lambda: a @ b)


def realised(bench: Bench) -> dict[str, Any]:
    """Seconds saved as a share of the FLOPs saved, both sides in turn (A B, B A)."""
    pipe, report = bench.pipe(bench.half), {}
    for number, goal in GOALS.items():
        groups = [tuple(range(g, g + 4)) for g in range(0, number, 4)]
        point = round(0.4 * bench.steps)
        plans = independent_plan(number, bench.steps), shared_plan(groups, bench.steps, point)
        prompts = [PROMPTS[n % 4] for n in range(number)]
        times: tuple[list[float], list[float]] = ([], [])
        saved = pipe.cost(plans[1], 4.0).flops_saving
        for turn in range(2 * bench.repeats + 1):
            for side in (0, 1) if turn % 2 else (1, 0):
                bench.wait()
                start = time.perf_counter()
                pipe(prompts, plan=plans[side], guidance_scale=4.0)
                bench.wait()
                times[side].append(time.perf_counter() - start)
        alone, shared = (statistics.median(side[1:]) for side in times)  # the first ones warm up
        report[number] = {
            "flops_saved": saved,
            "seconds_saved": 1 - shared / alone,
            "realised": (1 - shared / alone) / saved,
            "goal": goal,
        }
    return report


def graphs(bench: Bench) -> dict[str, Any]:
    """One denoiser call at fixed batches: as it is, in a CUDA graph, and compiled."""
    pipe, report = bench.pipe(bench.half), {}
    for rows in bench.batches:
        inputs = _example(bench, pipe, 2 * rows)
        found = {}
        with torch.inference_mode():
            found["eager"] = bench.seconds(partial(pipe.unet, *inputs))
            if bench.device.type == "cuda":
                found["graph"] = bench.seconds(_captured(pipe.unet, *inputs).replay)
        report[rows] = found
    with torch.inference_mode():
        unet = torch.compile(
            pipe.unet, backend="inductor" if bench.device.type == "cuda" else "eager"
        )
        z, t, cond = _example(bench, pipe, 2 * bench.batches[0])
        start = time.perf_counter()
        unet(z, t, cond)
        bench.wait()
        report["compile_seconds"] = time.perf_counter() - start
        report[bench.batches[0]]["compiled"] = bench.seconds(lambda: unet(z, t, cond))
    torch.compiler.reset()
    return report


def _captured(unet: nn.Module, *inputs: Tensor) -> Any:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            unet(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        unet(*inputs)
    return graph


def _example(bench: Bench, pipe: SagePipeline, passes: int) -> tuple[Tensor, Tensor, Tensor]:
    size = pipe.unet.config.sample_size
    z = torch.randn(passes, pipe.unet.config.in_channels, size, size)
    cond = torch.randn(
        passes, pipe.tokenizer.model_max_length, pipe.text_encoder.config.hidden_size
    )
    t = torch.full((passes,), 500, device=bench.device)
    return z.to(bench.device, bench.half), t, cond.to(bench.device, bench.half)


def energy(bench: Bench) -> dict[str, Any]:
    """Joules of both sides at 16 prompts, from the driver's power readings; none on a CPU."""
    if bench.device.type != "cuda":
        return {"joules": None}
    pipe, report = bench.pipe(bench.half), {}
    groups = [tuple(range(g, g + 4)) for g in range(0, 16, 4)]
    point = round(0.4 * bench.steps)
    plans = {
        "independent": independent_plan(16, bench.steps),
        "shared": shared_plan(groups, bench.steps, point),
    }
    prompts = [PROMPTS[n % 4] for n in range(16)]
    for side, plan in plans.items():
        readings, over = [], threading.Event()
        reader = threading.Thread(target=_read_power, args=(readings, over), daemon=True)
        bench.wait()
        reader.start()
        start, runs = time.perf_counter(), 0
        while time.perf_counter() - start < 10:
            pipe(prompts, plan=plan, guidance_scale=4.0, output_type="latent")
            bench.wait()
            runs += 1
        seconds = (time.perf_counter() - start) / runs
        over.set()
        reader.join()
        report[side] = statistics.mean(readings) * seconds / 16 if readings else None
    return {"joules_per_picture": report}


def _read_power(readings: list[float], over: threading.Event) -> None:
    command = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
    while not over.wait(0.2):
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
            readings.append(float(answer.stdout.splitlines()[0]))
        except (OSError, ValueError, IndexError, subprocess.SubprocessError):
            return


def training(bench: Bench) -> dict[str, Any]:
    """Seconds and memory of a step that trains an adapter on four rows."""
    from peft import LoraConfig

    pipe = bench.load(bench.half)
    unet = pipe.unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    weights = [p for p in unet.parameters() if p.requires_grad]
    for weight in weights:
        weight.data = weight.data.float()
    optimiser = torch.optim.AdamW(weights, lr=1e-4)
    z, t, cond = _example(bench, pipe, 4)
    target = torch.randn_like(z)

    def step() -> None:
        with torch.autocast(bench.device.type, bench.half):
            loss = (unet(z, t, cond).sample.float() - target.float()).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    with torch.enable_grad() if not torch.is_grad_enabled() else nullcontext():
        report: dict[str, Any] = {"step_seconds": bench.seconds(step)}
    if bench.device.type == "cuda":
        report["peak_bytes"] = torch.cuda.max_memory_allocated(bench.device)
    report["finite"] = all(bool(torch.isfinite(weight).all()) for weight in weights)
    return report


CHECKS: tuple[Callable[[Bench], dict[str, Any]], ...] = (
    equality,
    host_reads,
    memory,
    speed,
    realised,
    graphs,
    training,
    energy,
)
