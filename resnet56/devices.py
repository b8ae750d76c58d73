"""Devices: which there are, what they compute in, and what records say of them."""

import functools
import math
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .errors import InputError

DEVICES = ("auto", "cpu", "cuda", "mps")
Device = str | torch.device  # one of these names, or a device
COMPILERS = ("g++", "clang++", "c++", "cl")


def pick_device(name: Device = "auto") -> torch.device:
    """Return the device called ``name``; ``auto`` takes the first of cuda, mps and cpu that is there.

    Raises:
        InputError: if the name is unknown or this machine has no such device.
    """
    if isinstance(name, torch.device):
        return name
    if name not in DEVICES:
        raise InputError(f"unknown device {name!r}: use one of {', '.join(DEVICES)}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there[name]:
        raise InputError(f"no {name} device on this machine: use --device auto or --device cpu")
    return torch.device(name)


def fast_precision(device: torch.device) -> str:
    """Return ``"bf16"`` where ``device`` computes in bfloat16 by hardware, else ``"fp32"``."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        flags = _cpu_info("flags").split()
        fast = device.type == "cpu" and ("avx512_bf16" in flags or "amx_bf16" in flags)
    return "bf16" if fast else "fp32"


def autocast(device: torch.device, precision: str):
    """Return a context in which layers compute in bfloat16, if ``precision`` is ``"bf16"``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def hardware(device: torch.device) -> dict:
    """Describe the device: its ``type``, its ``name``, and for a CPU the number of ``threads`` in use."""
    if device.type == "cuda":
        return {"type": "cuda", "name": torch.cuda.get_device_name(device)}
    if device.type == "mps":
        return {"type": "mps", "name": f"{platform.machine()} GPU"}
    threads = torch.get_num_threads()
    name = _cpu_info("model name") or platform.processor() or platform.machine()
    name = f"{name} ({torch.backends.cpu.get_cpu_capability()}), {threads} thread{'s' * (threads > 1)}"
    return {"type": "cpu", "name": name, "threads": threads}


@contextmanager
def accounted(parts: list[dict], device: torch.device) -> Iterator[None]:
    """Add what a training step costs to the last of ``parts``, or to a new one where the hardware is another.

    A part has ``hardware``, ``steps``, ``seconds`` (by the clock; networks that train at once on a GPU share it) and
    ``processor_seconds`` (of all threads of this process: the cost, whatever else the machine was doing).
    """
    clock, processor = time.perf_counter(), time.process_time()
    yield
    here = hardware(device)
    if not parts or parts[-1]["hardware"] != here:
        parts.append({"hardware": here, "steps": 0, "seconds": 0.0, "processor_seconds": 0.0})
    spent = {"steps": 1, "seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - processor}
    for key, value in spent.items():
        parts[-1][key] += value


@functools.cache
def _cpu_info(key: str) -> str:
    """Return what Linux says of the first processor under ``key``; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def versions() -> dict[str, str]:
    """Return the versions of Python, PyTorch and the operating system."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "system": platform.platform()}


def has_compiler() -> bool:
    """Tell whether there is a C++ compiler, which PyTorch's compiler needs: that of ``CXX``, or a usual one."""
    return any(map(shutil.which, filter(None, (os.environ.get("CXX"), *COMPILERS))))


# --- Threads ------------------------------------------------------------------------------------------


def affinity() -> int:
    """Return the number of processors that this process may be put on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = Path("/")) -> float:
    """Return how many processors' time Linux lets this process have; infinity without a quota.

    A container's limit is a quota of its control group or of one around it, and may be a fraction.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    groups = root / "sys" / "fs" / "cgroup"
    try:
        memberships = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        memberships = []
    quotas = [math.inf]
    for line in ["::/", ":cpu:/", *memberships]:  # at least what is mounted, which may be all that a container sees
        _, controllers, path = line.split(":", 2)
        within = [] if ".." in path.split("/") else list(filter(None, path.split("/")))  # or out of a container's sight
        tops = (groups / controllers, groups / "cpu") if controllers else (groups, groups / "unified")
        if not controllers or "cpu" in controllers.split(","):
            quotas += [_quota(top.joinpath(*within[:depth])) for top in tops for depth in range(len(within) + 1)]
    return min(quotas)


def _quota(group: Path) -> float:
    """Return the quota of one control group, of version 2 or 1, in processors."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number
        return math.inf


def choose_threads(root: Path = Path("/")) -> None:
    """Let PyTorch have no more threads than this process has whole processors: it knows of affinity, but not of quotas.

    ``OMP_NUM_THREADS`` counts, and so does a number other than PyTorch's own (all processors, or all cores).
    """
    chosen = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ and chosen in (affinity(), affinity() // 2):
        torch.set_num_threads(max(1, math.floor(min(chosen, cpu_quota(root)))))


def explain_threads(root: Path = Path("/")) -> str:
    """Say how many threads PyTorch uses, why, and whether they sleep while they wait for each other."""
    threads, quota = torch.get_num_threads(), cpu_quota(root)
    if "OMP_NUM_THREADS" in os.environ:
        why = "OMP_NUM_THREADS or torch.set_num_threads says so"
    elif quota < affinity() and threads == max(1, math.floor(quota)):
        why = f"a quota allows {quota:g} of {affinity()} processors"
    elif threads in (affinity(), affinity() // 2):
        why = f"one for each of the {'processors' if threads == affinity() else 'cores'} this process may run on"
    else:
        why = "torch.set_num_threads said so"
    sleeps = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE" or os.environ.get("GOMP_SPINCOUNT") == "0"
    waiting = (
        "a thread that waits sleeps"
        if sleeps
        else "threads spin while they wait (OMP_WAIT_POLICY=PASSIVE lets them sleep)"
    )
    return f"{threads} thread{'s' * (threads > 1)}: {why}; {waiting}"
