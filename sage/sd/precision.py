"""Which precision a device computes fastest without harm: half on GPUs and some CPUs.

Latents, solvers and similarities stay float32 whatever the networks compute in.
"""

from pathlib import Path
from typing import Literal, get_args

import torch

Precision = Literal["auto", "float32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_for(precision: str, device: torch.device) -> torch.dtype:
    """The type of a model's weights on a device.

    Args:
        precision: "auto" is fp16 on a GPU, bf16 on a CPU with instructions for it, else float32.
        device: Where the model will run.

    Raises:
        ValueError: If there is no such precision, or the device cannot be asked for it.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; allowed are {', '.join(PRECISIONS)}.")
    if device.type == "cpu":
        if precision == "fp16":
            raise ValueError("precision is 'fp16', which CPUs do not compute fast; use 'bf16'.")
        if precision == "auto":
            precision = "bf16" if has_fast_bf16() else "float32"
    elif precision == "auto":
        precision = "fp16"
    return _DTYPES[precision]


def has_fast_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32.

    It does with matrix units (AMX) or dot products (AVX512-BF16, Arm's BF16), through oneDNN.
    PyTorch computes bfloat16 on other CPUs too, but no faster, so that is not asked.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # of x86; no public ones
    if any(getattr(torch.cpu, check, bool)() for check in checks):
        return True
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        return False
    return any(line.startswith("Features") and "bf16" in line.split() for line in lines)


def short_name(dtype: torch.dtype) -> str:
    """How a precision is called on the command line and in words."""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    return names.get(dtype, str(dtype).removeprefix("torch."))
