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
MOUNT = Path("sys/fs/cgroup")
HIERARCHIES = ("", "unified", "cpu", "cpu,cpuacct")  # in it, of control groups of version 2 and 1


def pick_device(name: Device = "auto") -> torch.device:
    """Return the device called ``name``; ``auto`` takes the first of cuda, mps and cpu that is there.

    Raises:
        InputError: if the name is unknown or this machine has no such device.
    """
    if isinstance(name, torch.device):
        return name
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(filter(there.get, there))
    if name not in there:
        raise InputError(f"unknown device {name!r}: use one of {', '.join(DEVICES)}")
    if not there[name]:
        raise InputError(f"no {name} device on this machine: use cpu, or auto, which takes the best there is")
    return torch.device(name)


def fast_precision(device: torch.device) -> str:
    """Return ``"bf16"`` where ``device`` computes in bfloat16 by hardware, else ``"fp32"``."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpu_info("flags").split())
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
    lines = _lines(Path("/proc/cpuinfo"))
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _lines(path: Path) -> list[str]:
    """Return the lines of a file; none if it is not there."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def versions() -> dict[str, str]:
    """Return the versions of Python, PyTorch and the operating system."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "system": platform.platform()}


def has_compiler() -> bool:
    """Tell whether there is a C++ compiler, which PyTorch's compiler needs: that of ``CXX``, or a usual one."""
    return any(map(shutil.which, filter(None, (os.environ.get("CXX"), *COMPILERS))))


def affinity() -> int:
    """Return the number of processors that this process may be put on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = Path("/")) -> float:
    """Return how many processors' time Linux lets this process have; infinity without a quota.

    A container's limit is a quota of its control group or of one around it, and may be a fraction.
    """
    quotas = [math.inf]
    for line in ["::/", *_lines(root / "proc" / "self" / "cgroup")]:  # at least the root, all that a container may see
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            group = Path() if ".." in path.split("/") else Path(path.lstrip("/"))  # or out of a container's sight
            quotas += [_quota(root / MOUNT / top / part) for top in HIERARCHIES for part in (group, *group.parents)]
    return min(quotas)


def _quota(group: Path) -> float:
    """Return the quota of one control group, of version 2 or else 1, in processors."""
    try:
        one = _lines(group / "cpu.cfs_quota_us") + _lines(group / "cpu.cfs_period_us")
        quota, period = map(int, " ".join(_lines(group / "cpu.max") or one).split())
        return quota / period if quota > 0 else math.inf
    except (ValueError, ZeroDivisionError):  # "max" is no number
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
    threads, quota, processors = torch.get_num_threads(), cpu_quota(root), affinity()
    if "OMP_NUM_THREADS" in os.environ:
        why = "OMP_NUM_THREADS or torch.set_num_threads says so"
    elif quota < processors and threads == max(1, math.floor(quota)):
        why = f"a quota allows {quota:g} of {processors} processors"
    elif threads in (processors, processors // 2):
        why = f"one for each of the {'processors' if threads == processors else 'cores'} this process may run on"
    else:
        why = "torch.set_num_threads said so"
    waiting = "threads spin while they wait (OMP_WAIT_POLICY=PASSIVE lets them sleep)"
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE" or os.environ.get("GOMP_SPINCOUNT") == "0":
        waiting = "a thread that waits sleeps"
    return f"{threads} thread{'s' * (threads > 1)}: {why}; {waiting}"
