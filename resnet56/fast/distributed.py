"""Several processes on one task: who we are among them, and sums over all.

``torchrun --nproc-per-node N -m resnet56 train ...`` starts N processes that each train on their own share of every
batch. Without torchrun everything here is trivial: one process, rank 0, sums of one term.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import is_torchelastic_launched

from ..errors import InputError


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes that torchrun started, if any; yields the device of this process.

    Raises:
        InputError: if there are more processes than GPUs.
    """
    if not is_torchelastic_launched():
        yield device
        return
    if device.type == "cuda":
        device, count = torch.device("cuda", int(os.environ["LOCAL_RANK"])), torch.cuda.device_count()
        if device.index >= count:
            raise InputError(f"process {device.index} has no GPU; give --nproc-per-node {count} at most")
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let rank 0 go ahead (to download something, say); the others enter when it is done."""
    if rank() > 0:
        dist.barrier()
    yield
    if rank() == 0 and world_size() > 1:
        dist.barrier()


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def total(value: Tensor) -> Tensor:
    """Return the sum of ``value`` over all processes."""
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def any_process(flag: bool, device: torch.device) -> bool:
    """Tell whether ``flag`` is set in any process."""
    return bool(total(torch.tensor(int(flag), device=device))) if world_size() > 1 else flag
