"""Devices: which there are, what they compute in, and what records say of them."""

import platform
from pathlib import Path

import torch

from .errors import InputError

DEVICES = ("auto", "cpu", "cuda", "mps")


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; ``auto`` takes the first of cuda, mps and cpu that is there.

    Raises:
        InputError: if the name is unknown or this machine has no such device.
    """
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
