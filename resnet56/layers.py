"""Layers: which of a network's modules count, what they are called, and how to look at them without leaving a trace.

Chapters "The residual block" (names and counts) and "Gradient heatmaps" (hooks).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .model import BasicBlock

STAGES = ("layer1", "layer2", "layer3")


def weighted_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """List the layers that count towards the depth, as ``(name, module)`` from input to output.

    These are the 3x3 convolutions and the final linear layer: 56 in a net of depth 56. Projections on
    shortcuts have weights but do not lie on the main path and are not counted, as in the paper.
    """
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and ".downsample" not in name
    ]


def response_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """List where each weighted layer's response leaves it, as ``(name of the layer, module)`` from input to output.

    A layer's response is its output after batch normalisation, before the nonlinearity and the addition (He et al.
    2015, Figure 7): the output of the batch normalisation that follows a convolution, or of the layer itself if none does.
    """
    modules = dict(model.named_modules())
    return [(name, modules.get(name.replace("conv", "bn"), module)) for name, module in weighted_layers(model)]


def basic_blocks(model: nn.Module) -> dict[str, BasicBlock]:
    """Return the basic blocks by name (``"layer1.0"``, ...), from input to output: 27 in a net of depth 56."""
    return {name: module for name, module in model.named_modules() if isinstance(module, BasicBlock)}


def count_parameters(model: nn.Module) -> int:
    """Count the trainable parameters (weights and biases; not the running statistics)."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def count_macs(model: nn.Module) -> int:
    """Count the multiply-accumulate operations of convolutions and linear layers for one 3x32x32 image, by PyTorch's own counter."""
    blank = next(model.parameters()).new_zeros(1, 3, 32, 32)
    with undisturbed(model, training=False), FlopCounterMode(display=False) as counter:
        model(blank)
    return counter.get_total_flops() // 2  # it counts multiplications and additions


def stage_of(layer: str) -> str:
    """Return the stage a layer belongs to: ``stem`` (first layer), ``layer1`` to ``layer3``, ``head`` (last)."""
    stage = layer.split(".")[0]
    return stage if stage in STAGES else {"conv1": "stem", "fc": "head"}[stage]


@contextmanager
def undisturbed(model: nn.Module, training: bool) -> Iterator[None]:
    """Put a whole network in training or evaluation mode; on leaving, it is as it was before.

    Each module returns to its own mode (frozen batch normalisation stays frozen), and the running statistics that passes in
    training mode have moved take their former values, in place.

    Args:
        model: any network.
        training: the mode within the ``with`` block.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()] if training else []
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for buffer, value in buffers:
            buffer.copy_(value)


@contextmanager
def listening(modules: Iterable[nn.Module], note: Callable[[nn.Module, tuple, torch.Tensor], object]) -> Iterator[None]:
    """Call ``note(module, inputs, output)`` after each forward pass of one of ``modules``; the hooks are gone on leaving.

    Args:
        modules: of a network.
        note: what it returns is dropped, so that it cannot change the pass.
    """

    def hook(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        note(module, inputs, output)

    hooks = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
