"""The engine: the steps of :class:`resnet56.train.Trainer`, taken faster.

What it does differently, and why that is faster:

* **Channels-last.** The channels of a pixel lie side by side in memory, as convolution kernels want them.
* **Fused optimizer.** One kernel updates all weights, instead of several kernels for each.
* **Compiled** (on request). PyTorch's compiler merges batch normalisation, ReLU and addition into one pass over memory.
  Compiling takes a while.
* **Graphed**, on NVIDIA GPUs. A step of ResNet-56 is hundreds of small kernels, and Python takes longer to launch them
  than the GPU to run them. So one step, from the choice of images to the updated weights, is recorded as a CUDA graph,
  and from then on launched whole. Nothing waits for the GPU within an epoch.
* **Own stream**, on NVIDIA GPUs. A small network leaves most of a GPU idle; several engines, stepped in turn, overlap.
* **Several processes.** Under torchrun each process computes its share of every batch, and gradients are added up.

bfloat16 is not on this list: it changes the numbers, so it is part of the recipe.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ..data import Split
from ..devices import accounted, autocast
from ..recipe import Recipe
from ..train import Trainer, parameter_groups
from ..treatments import Treatment
from .distributed import rank, total, world_size


class Engine(Trainer):
    """The fast path: takes the same steps as the plain loop, on the same batches, with the same schedule.

    Args:
        model, train, recipe, device, treatment: as for :class:`resnet56.train.Trainer`.
        channels_last, fused, compiled, graphed: the tricks listed above, each of which can be left out to see what it
            brings. Graphs are for NVIDIA GPUs, one process and the fused optimizer; elsewhere ``graphed`` does nothing.

    Attributes:
        parts: what the steps cost, see :func:`resnet56.devices.accounted`.
        how: what records say of the loop, a dict.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Split,
        recipe: Recipe,
        device: str | torch.device = "auto",
        treatment: Treatment | None = None,
        *,
        channels_last: bool = True,
        fused: bool = True,
        compiled: bool = False,
        graphed: bool = True,
    ):
        super().__init__(model, train, recipe, device, treatment)
        on_gpu = self.device.type == "cuda"
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
        deterministic = not on_gpu or torch.are_deterministic_algorithms_enabled()
        self.parts: list[dict] = []
        self.how = {
            "loop": "engine",
            "compiled": compiled,
            "graphed": self._graphed,
            "processes": world_size(),
            "deterministic": deterministic,
        }
        self._graph: torch.cuda.CUDAGraph | None = None
        self._wait()

    def take_step(self) -> None:
        with accounted(self.parts, self.device), self._on_gpu() if self._stream else nullcontext():
            super().take_step()

    @property
    def seconds(self) -> float:
        """Time spent in training steps, in seconds."""
        return sum(part["seconds"] for part in self.parts)

    @contextmanager
    def _on_gpu(self) -> Iterator[None]:
        """Work on this network's own stream, with the convolution algorithms that cuDNN finds fastest by trying."""
        deterministic = torch.are_deterministic_algorithms_enabled()
        cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=not deterministic, deterministic=deterministic)
        with torch.cuda.stream(self._stream), cudnn:
            yield

    def _update(self, draw: Tensor, lr: float) -> Tensor:
        self._lr.fill_(lr)
        if not self._graphed or has_hooks(self.model):  # hooks are Python, which a graph leaves out
            return self._step(draw[:, rank() :: world_size()])
        if self._graph is None:
            self._capture(draw)
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

    def _capture(self, draw: Tensor) -> None:
        """Record one step as a CUDA graph. It will work on the tensors that it finds now, so these stay for good."""
        before = copy.deepcopy(self.state_dict())
        self._draw = draw.clone()
        for _ in range(3):  # trial steps: cuDNN chooses its algorithms, and the optimizer makes its momentum
            self._step(self._draw)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self._stream):
            self._metrics = self._step(self._draw)
        self.load_state_dict(before)  # as if nothing had happened

    def replayed(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Return ``function``, a measurement on this network's weights, made cheap to repeat: as a CUDA graph."""
        if not self._graphed:
            return function
        graph, result = torch.cuda.CUDAGraph(), None

        def replay() -> Tensor:
            nonlocal result
            if result is None:
                for _ in range(3):
                    function()
                with torch.cuda.graph(graph, stream=self._stream):
                    result = function()
            graph.replay()
            return result.clone()

        return replay

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
    on_weights = any(weight._post_accumulate_grad_hooks or weight._backward_hooks for weight in model.parameters())
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return on_weights or any(getattr(module, kind) for module in model.modules() for kind in kinds)
