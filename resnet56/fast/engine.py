"""The engine: the steps of :class:`resnet56.train.Trainer`, taken faster by the tricks of chapter 5.

The channels of a pixel lie side by side in memory, one kernel updates all weights, and on request PyTorch's compiler
merges operations. On NVIDIA GPUs a whole step, hundreds of small kernels, is recorded as a CUDA graph and launched at
once, and engines that are stepped in turn overlap, each on a stream of its own. Under torchrun each process computes
its share of every batch, and gradients are added up. bfloat16 changes the numbers, so it is part of the recipe.
"""

import copy
import functools
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ..devices import accounted, autocast
from ..train import Trainer, parameter_groups
from ..treatments import Treatment
from .distributed import rank, total, world_size


class Engine(Trainer):
    """The fast path: takes the same steps as the plain loop, on the same batches, with the same schedule.

    It is made like a :class:`resnet56.train.Trainer`. Each trick can be left out, to see what it brings. Graphs are for
    NVIDIA GPUs, one process and the fused optimizer; elsewhere ``graphed`` does nothing. ``parts`` are what the steps
    cost, see :func:`resnet56.devices.accounted`; ``how`` is what records say of the loop.
    """

    def __init__(self, *arguments, channels_last=True, fused=True, compiled=False, graphed=True, **options):
        super().__init__(*arguments, **options)
        model, recipe, on_gpu = self.model, self.recipe, self.device.type == "cuda"
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        model.to(memory_format=self.memory_format)
        fused = fused and self.device.type in ("cpu", "cuda")
        self._lr = torch.tensor(recipe.lr, device=self.device)  # a graph reads it where it lies
        self.optimizer = torch.optim.SGD(
            parameter_groups(model, recipe), self._lr, recipe.momentum, nesterov=recipe.nesterov, fused=fused or None
        )
        self._network = torch.compile(model) if compiled else model
        if world_size() > 1:
            self._network = DistributedDataParallel(self._network, [self.device] if on_gpu else None)
        self._stream = torch.cuda.Stream(self.device) if on_gpu else None
        treated = type(self.treatment) is not Treatment  # its methods are Python, which a graph leaves out
        self._graphed = graphed and fused and on_gpu and world_size() == 1 and not treated
        self.parts: list[dict] = []
        self._graph: torch.cuda.CUDAGraph | None = None
        deterministic = not on_gpu or torch.are_deterministic_algorithms_enabled()
        self.how = {"loop": "engine", "compiled": compiled, "graphed": self._graphed}
        self.how |= {"processes": world_size(), "deterministic": deterministic}
        self._wait()

    def take_step(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(accounted(self.parts, self.device))
            if self._stream:  # with the convolution algorithms that cuDNN finds fastest by trying
                exact = torch.are_deterministic_algorithms_enabled()
                stack.enter_context(torch.cuda.stream(self._stream))
                stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=not exact, deterministic=exact))
            super().take_step()

    @property
    def seconds(self) -> float:
        """Time spent in training steps, in seconds."""
        return sum(part["seconds"] for part in self.parts)

    def _update(self, draw: Tensor, lr: float) -> Tensor:
        self._lr.fill_(lr)
        if not self._graphed or has_hooks(self.model):  # hooks are Python, which a graph leaves out
            return self._step(draw[:, rank() :: world_size()])
        if self._graph is None:
            before, unread = copy.deepcopy(self.state_dict()), self._unread
            self._draw = draw.clone()
            self._graph, self._metrics = self._record(lambda: self._step(self._draw))
            self.load_state_dict(before)  # as if nothing had happened
            self._unread = unread  # the very list that the loss of this step is about to be appended to
        self._draw.copy_(draw)
        self._graph.replay()
        return self._metrics.clone()

    def _step(self, draw: Tensor) -> Tensor:
        """Take one step on this process's share of a batch; no line waits for the device."""
        images, labels = self.batches.views(draw)
        self.model.train()
        with autocast(self.device, self.recipe.precision):
            logits = self._network(images.contiguous(memory_format=self.memory_format))
        smoothing = self.recipe.label_smoothing
        loss = F.cross_entropy(logits.float(), labels, reduction="sum", label_smoothing=smoothing)
        loss = loss / self.recipe.batch_size  # this share's part of the mean over the whole batch
        self.optimizer.zero_grad()
        (loss * world_size()).backward()  # several processes average their gradients, but we want the sum
        self.treatment.after_backward(self.model)
        self.optimizer.step()
        self.treatment.after_step(self.model)
        errors = (logits.argmax(dim=1) != labels).sum() / self.recipe.batch_size
        return total(torch.stack([loss.detach(), errors]))

    def _record(self, function: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Record a function as a CUDA graph, which works on the tensors that it finds now, so these stay for good."""
        for _ in range(3):  # trials: cuDNN chooses its algorithms, and the optimizer makes its momentum
            function()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            result = function()
        return graph, result

    def replayed(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Return ``function``, a measurement on this network's weights, made cheap to repeat: as a CUDA graph."""
        recorded = functools.cache(lambda: self._record(function))

        def replay() -> Tensor:
            graph, result = recorded()
            graph.replay()
            return result.clone()

        return replay if self._graphed else function

    def state_dict(self) -> dict:
        self._wait()
        return super().state_dict() | {"parts": self.parts}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.parts = [dict(part) for part in state.get("parts", [])]  # the plain loop counts none
        self._wait()

    def _wait(self) -> None:
        """Wait until all that was queued on the GPU is done, on whatever stream."""
        if self._stream:
            torch.cuda.synchronize(self.device)


def has_hooks(model: nn.Module) -> bool:
    """Tell whether hooks hang on the model's weights or modules."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    on_weights = any(weight._post_accumulate_grad_hooks or weight._backward_hooks for weight in model.parameters())
    return on_weights or any(getattr(module, kind) for module in model.modules() for kind in kinds)
