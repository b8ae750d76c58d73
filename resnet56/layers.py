"""Layers: which of a network's modules count, what they are called, and how to look at them without leaving a trace.

Chapters "The residual block" (names and counts) and "Gradient heatmaps" (hooks).
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.flop_counter import FlopCounterMode

from .errors import InputError
from .model import BasicBlock

STAGES = ("layer1", "layer2", "layer3")
NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)


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
    """Return the basic blocks by name (``"layer1.0"``, ...), from input to output: 27 in a net of depth 56.

    Raises:
        InputError: if the network is not made of them.
    """
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
    blank = next(model.parameters()).new_zeros(1, 3, 32, 32)
    with undisturbed(model, training=False), FlopCounterMode(display=False) as counter:
        model(blank)
    return counter.get_total_flops() // 2  # it counts multiplications and additions


@contextmanager
def undisturbed(model: nn.Module, training: bool) -> Iterator[None]:
    """Put a whole network in training or evaluation mode; on leaving, it is as it was before.

    Each module returns to its own mode (frozen batch normalisation stays frozen). Passes in training mode move
    copies of the running statistics, never the network's own, and draw random numbers (dropout) that are drawn again.
    """
    modes = [(module, module.training) for module in model.modules()]
    owned = [(module, *own) for module, _ in modes for own in module.named_buffers(recurse=False) if training]
    capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()  # where states cannot be read
    devices = [] if capturing else {p.device for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices, enabled=training):
        try:
            model.train(training)
            for module, name, buffer in owned:
                setattr(module, name, buffer.clone())
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for module, name, buffer in owned:
                setattr(module, name, buffer)


@contextmanager
def listening(modules: Iterable[nn.Module], note: Callable[..., Tensor | None]) -> Iterator[None]:
    """Call ``note(module, inputs, output)`` after each pass through one of ``modules``; the hooks are gone on leaving.

    What it returns, if not None, goes on through the network in the output's place. Compiled networks run uncompiled
    meanwhile, because a compiled one does not call hooks that came later.
    """
    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        with torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext():
            yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def responses(model: nn.Module, measure: Callable[[Tensor], Tensor] = lambda response: response) -> Iterator[dict]:
    """Collect each weighted layer's response, or a measure of it: by name, a list with an entry for each use.

    A layer's response is its output after normalisation, before the nonlinearity and the addition (He et al. 2015,
    Figure 7): the output of the normalisation that is given the layer's output, or of the layer itself if none is. The
    network goes on with a copy, so that operations in place (``nn.ReLU(inplace=True)``) leave the response as it was.
    """
    layers = {module: name for name, module in weighted_layers(model)}
    found: dict[str, list[Tensor]] = {name: [] for name in layers.values()}
    given: dict[int, tuple] = {}  # by the identity of what a layer handed on: that tensor, and which entry it made

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        copy = output.clone()
        if module in layers:
            uses = found[layers[module]]
            given[id(copy)] = copy, uses, len(uses)
            uses.append(measure(output))
        elif inputs and (before := given.pop(id(inputs[0]), None)):
            handed_on, uses, entry = before
            if not handed_on._version:  # nothing was done to it in place on the way
                uses[entry] = measure(output)
        return copy

    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    with listening([*layers, *norms], note):
        yield found
