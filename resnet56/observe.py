"""Look at a network without leaving a trace: images, modes, hooks, responses (chapter "Gradient heatmaps")."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from .data import Split
from .devices import autocast
from .errors import InputError
from .layers import unwrapped, weighted_layers

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)


def evenly(split: Split, count: int) -> Split:
    """Return ``count`` images, as many of each class (to within one), spread evenly over each class's images.

    A class that is too small gives all it has, and the others share the rest; all images if there are no more.

    Raises:
        InputError: if ``count`` is not positive.
    """
    if count < 1:
        raise InputError(f"cannot choose {count} images; choose 1 or more")
    labels = split.labels.cpu()
    classes = sorted(((labels == label).nonzero().flatten() for label in labels.unique()), key=len)
    chosen = []
    for number, members in enumerate(classes):
        wanted = min(len(members), (count - sum(map(len, chosen))) // (len(classes) - number))
        chosen.append(members[torch.arange(wanted) * len(members) // max(1, wanted)])
    return split[torch.cat(chosen).sort().values]


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


def output_gradient_norms(model: nn.Module, images: Tensor, labels: Tensor, precision: str = "fp32") -> Tensor:
    """Measure the gradient of the loss at every layer's output: after normalisation, before the nonlinearity.

    The network, any from images to logits ``(N, classes)``, runs in training mode, so batch normalisation uses the
    statistics of this batch; its running statistics and the gradients of its weights are left as they are.

    Returns:
        ``(layers,)``, for each of :func:`resnet56.layers.weighted_layers` the L2 norm of the gradient of the mean loss,
        over all images, pixels, channels and uses of the layer; not a number where the loss does not need it.

    Raises:
        InputError: if the network gives no logits.
    """
    model = unwrapped(model)
    with torch.enable_grad(), undisturbed(model, training=True), responses(model) as found:
        images = images.detach().clone().requires_grad_()  # so that there is a gradient behind frozen layers, too
        with autocast(images.device, precision):
            logits = model(images.clone())
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise InputError(f"{type(model).__name__} gives no logits (N, classes), which the loss needs")
        loss = F.cross_entropy(logits.float(), labels)
        outputs = [output for uses in found.values() for output in uses]
        gradients = iter(torch.autograd.grad(loss, outputs, allow_unused=True))
    norms = []
    for uses in found.values():
        squares = [g.float().square().sum() for g in (next(gradients) for _ in uses) if g is not None]
        norms.append(sum(squares).sqrt().to(loss.device) if squares else loss.new_full((), torch.nan))
    return torch.stack(norms)


def check_gradients(layers: list[tuple[str, nn.Module]]) -> None:
    """Refuse in one line what has no gradients to record."""
    for name, module in layers:
        if isinstance(module.weight, nn.parameter.UninitializedParameter):
            raise InputError(f"{name} is not built yet: run a batch through the network first")
        if not isinstance(module.weight, nn.Parameter):
            raise InputError(f"{name} computes its weight at each pass (pruned or parametrised): it has no gradient")
    if not any(module.weight.requires_grad for _, module in layers):
        raise InputError("nothing to record: no convolution or linear layer whose weight requires a gradient")


class BackwardPasses:
    """A context in which ``note(step)`` is called at the end of each backward pass that reaches one of ``weights``.

    Passes that add to one gradient are one step; a new one begins when weights change or gradients are cleared.
    """

    def __init__(self, weights: list[Tensor], note: Callable[[int], None]):
        self.weights, self.note = weights, note
        self._step, self._versions = -1, None  # the last step, and of which version its weights were

    def __enter__(self) -> None:
        self._hook = register_multi_grad_hook(self.weights, self._begins, mode="any")

    def __exit__(self, *exception) -> None:
        self._hook.remove()

    def _begins(self, _: Tensor) -> None:
        """Called with the first gradient of each backward pass, before it is added to ``.grad``: is this a new step?"""
        versions = [weight._version for weight in self.weights]  # counts changes in place
        cleared = not any(weight.grad is not None and weight.grad.any() for weight in self.weights)
        if cleared or versions != self._versions:
            self._step, self._versions = self._step + 1, versions
        # Run at the end of the backward pass, behind what DistributedDataParallel runs there to add up the gradients.
        at_the_end = torch.autograd.Variable._execution_engine.queue_callback
        at_the_end(lambda: at_the_end(lambda: self.note(self._step)))
