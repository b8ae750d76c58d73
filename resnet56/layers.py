"""Layers: which of a network's modules count, and what they are called (chapter "The residual block")."""

import copy

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from .errors import InputError
from .model import BasicBlock

STAGES = ("layer1", "layer2", "layer3")


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside of ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``."""
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model


def _named(model: nn.Module, kinds: type | tuple) -> list[tuple[str, nn.Module]]:
    """List the modules of some ``kinds`` with their names inside of wrappers, in the order of their definition."""
    modules = unwrapped(model).named_modules()
    return [(name.replace("_orig_mod.", ""), module) for name, module in modules if isinstance(module, kinds)]


def weighted_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """List the layers that count towards the depth, as ``(name, module)`` in the order in which they were defined.

    These are the convolutions and linear layers: 56 in a net of depth 56. Projections on shortcuts, in modules called
    ``downsample``, do not lie on the main path and are not counted, as in the paper.
    """
    return [(name, layer) for name, layer in _named(model, (_ConvNd, nn.Linear)) if ".downsample." not in f"{name}."]


def basic_blocks(model: nn.Module) -> dict[str, BasicBlock]:
    """Return the basic blocks by name (``"layer1.0"``, ...), from input to output; InputError if there are none."""
    if blocks := dict(_named(model, BasicBlock)):
        return blocks
    raise InputError(f"{type(model).__name__} has no blocks of resnet56.model.BasicBlock: use build_model")


def stage_of(layer: str) -> str:
    """Return a layer's stage: ``stem`` for conv1, ``head`` for fc, else the first part of its name (``layer1``)."""
    stage = layer.split(".")[0]
    return {"conv1": "stem", "fc": "head"}.get(stage, stage)


def count_parameters(model: nn.Module) -> int:
    """Count the trainable parameters (weights and biases; not the running statistics)."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def count_macs(model: nn.Module) -> int:
    """Count the multiply-accumulate operations of convolutions and linear layers for one 3x32x32 image."""
    network = copy.deepcopy(unwrapped(model)).eval()
    with FlopCounterMode(display=False) as counter:
        network(next(network.parameters()).new_zeros(1, 3, 32, 32))
    return counter.get_total_flops() // 2  # it counts multiplications and additions
