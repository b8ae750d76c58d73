"""Treatments: what is done to a plain network to cure it, or to a residual one to make it ill (chapter "Treatments").

A treatment changes a network before training, or takes part in each step. A :class:`resnet56.train.Trainer` (or the
engine), to which it is given, calls its methods; they do nothing unless a treatment says otherwise.
"""

import torch
from torch import nn

from .layers import STAGES, basic_blocks


class Treatment:
    """No treatment: the methods that others override."""

    def start(self, model: nn.Module) -> None:
        """Change the fresh network, when the trainer is made, before a checkpoint is loaded."""

    def before_step(self, model: nn.Module, progress: float) -> float:
        """Prepare a step; ``progress`` goes from 0 to 1 over the run. Returns the factor of the learning rate."""
        return 1.0

    def after_backward(self, model: nn.Module) -> None:
        """Change the gradients, before the optimizer sees them."""

    def after_step(self, model: nn.Module) -> None:
        """Change the weights, after the optimizer has moved them."""

    def state_dict(self) -> dict:
        """Return what a checkpoint must hold beside the weights."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what :meth:`state_dict` returned."""


def weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights of convolutions and linear layers, from input to output; no biases, no normalisation."""
    return [parameter for parameter in model.parameters() if parameter.ndim > 1]


class Warmup(Treatment):
    """The first ``share`` of the steps at a hundredth of the rate (in the manner of He et al. 2015, section 4.2)."""

    def __init__(self, share: float = 0.1):
        self.share = share

    def before_step(self, model: nn.Module, progress: float) -> float:
        return 0.01 if progress < self.share else 1.0


class Clip(Treatment):
    """The gradient of all parameters together is no longer than ``norm`` (Pascanu et al. 2013, section 3.2)."""

    def __init__(self, norm: float = 1.0):
        self.norm = norm

    def after_backward(self, model: nn.Module) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), self.norm)


class LayerwiseSteps(Treatment):
    """Each layer's gradient is ``ratio`` times as long as its weights, whatever it was (You et al. 2017)."""

    def __init__(self, ratio: float = 0.1):
        self.ratio = ratio

    @torch.no_grad()
    def after_backward(self, model: nn.Module) -> None:
        for weight in weights(model):
            weight.grad *= self.ratio * weight.norm() / weight.grad.norm().clamp(min=1e-30)


class KeepLength(Treatment):
    """Each layer's weights keep their initial length: steps can only turn them."""

    def start(self, model: nn.Module) -> None:
        self.lengths = [weight.detach().norm() for weight in weights(model)]

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        for weight, length in zip(weights(model), self.lengths, strict=True):
            weight *= length / weight.norm()


class Adam(Treatment):
    """Adam's direction (Kingma & Ba 2015, Algorithm 1), for SGD without momentum, which adds rate and weight decay."""

    def start(self, model: nn.Module) -> None:
        self.steps = 0
        self.means = [torch.zeros_like(parameter) for parameter in model.parameters()]
        self.squares = [torch.zeros_like(parameter) for parameter in model.parameters()]

    @torch.no_grad()
    def after_backward(self, model: nn.Module) -> None:
        self.steps += 1
        for parameter, mean, square in zip(model.parameters(), self.means, self.squares, strict=True):
            mean.lerp_(parameter.grad, 0.1)
            square.lerp_(parameter.grad.square(), 0.001)
            spread = (square / (1 - 0.999**self.steps)).sqrt() + 1e-8
            parameter.grad.copy_(mean / (1 - 0.9**self.steps) / spread)

    def state_dict(self) -> dict:
        return {"steps": self.steps, "means": self.means, "squares": self.squares}

    def load_state_dict(self, state: dict) -> None:
        self.steps = state["steps"]
        torch._foreach_copy_(self.means + self.squares, state["means"] + state["squares"])


class Dirac(Treatment):
    """Each convolution of a block hands on its input, as option A does (Zagoruyko & Komodakis 2017)."""

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        for block in basic_blocks(model).values():
            for convolution in (block.conv1, block.conv2):
                extra = convolution.out_channels - convolution.in_channels
                convolution.weight.zero_()
                nn.init.dirac_(convolution.weight[extra // 2 : convolution.out_channels - extra // 2])


class DiracAndClip(Dirac, Clip):
    """Both at once: each block hands on its input, and no gradient is longer than 1."""


class Shortcuts(Treatment):
    """Shortcuts of another strength s, ``y = ReLU(F(x) + s x)``, in a residual network.

    The strength is a number, or a function of the progress from 0 to 1; blocks of other ``stages`` are plain.
    """

    def __init__(self, strength=1.0, stages: tuple[str, ...] = STAGES):
        self.strength = strength if callable(strength) else lambda progress: strength
        self.stages = stages

    def start(self, model: nn.Module) -> None:
        self.before_step(model, 0.0)

    def before_step(self, model: nn.Module, progress: float) -> float:
        for name, block in basic_blocks(model).items():
            block.strength = self.strength(progress) if name.split(".")[0] in self.stages else 0.0
        return 1.0


class BranchGain(Treatment):
    """Each branch's last gain starts at ``gain``: 0 makes its block the identity (Goyal et al. 2017), 10 drowns it."""

    def __init__(self, gain: float):
        self.gain = gain

    def start(self, model: nn.Module) -> None:
        for block in basic_blocks(model).values():
            nn.init.constant_(block.bn2.weight, self.gain)


class DeltaOrthogonal(Treatment):
    """No normalisation; each kernel is root 2 times an orthogonal matrix at its centre, else 0 (Xiao et al. 2018)."""

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                model.set_submodule(name, nn.Identity())
            elif isinstance(module, nn.Conv2d):
                module.weight.zero_()
                nn.init.orthogonal_(module.weight[:, :, 1, 1], gain=2**0.5)
