"""The networks of He et al. (2015), section 4.2: ResNets for CIFAR-10 and plain ones (chapter "The residual block").

A network of depth 6n+2 is one 3x3 convolution, three stages of n basic blocks (two 3x3 convolutions each) with 16, 32
and 64 channels on 32x32, 16x16 and 8x8 maps, global average pooling and one linear layer. A plain network is the same
without the shortcuts: same parameters, same initialisation, same names, which follow torchvision's ResNet.
"""

import re

from torch import Tensor, nn
from torch.nn import functional as F

from .errors import InputError

NUM_CLASSES = 10


class OptionA(nn.Module):
    """Shortcut option A where the shape changes: subsample the map, pad the new channels with zeros.

    It has no parameters (He et al. 2015, sections 3.3 and 4.2). Half of the zeros lie at each end of the channel axis.
    """

    def __init__(self, extra_channels: int):
        super().__init__()
        self.extra_channels = extra_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C + extra_channels, H/2, W/2)``."""
        half = self.extra_channels // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each followed by batch normalisation; with or without a shortcut around both.

    The first convolution has the stride; ``shortcut`` is ``"A"`` or ``"B"`` (He et al. 2015, section 3.3), or None.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: str | None):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.residual = shortcut is not None
        self.strength = 1.0  # of the shortcut; others are tried in the chapter "Treatments"
        self.downsample = None  # the shortcut is the identity, unless the shape changes:
        reshaped = stride != 1 or in_channels != channels
        if shortcut == "A" and reshaped:
            self.downsample = OptionA(channels - in_channels)
        elif shortcut == "B" and reshaped:
            projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, channels, H/stride, W/stride)``."""
        out = self.branch(x)
        if self.residual:
            out = out.add(self.shortcut(x), alpha=self.strength)
        return F.relu(out)

    def branch(self, x: Tensor) -> Tensor:
        """Return the two convolutions' contribution, before the addition and the last nonlinearity."""
        out = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(out))

    def shortcut(self, x: Tensor) -> Tensor:
        """Return what a residual block adds to its branch: the input, in the output's shape."""
        return x if self.downsample is None else self.downsample(x)


class CifarNet(nn.Module):
    """A plain or residual network for 32x32 RGB images, with n ``blocks`` in each of three stages: of depth 6n+2."""

    def __init__(self, blocks: int, shortcut: str | None = "A"):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(blocks, 16, 16, 1, shortcut)
        self.layer2 = self._stage(blocks, 16, 32, 2, shortcut)
        self.layer3 = self._stage(blocks, 32, 64, 2, shortcut)
        self.fc = nn.Linear(64, NUM_CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)  # std = sqrt(2 / fan_in): He et al. 2015b, eq. 10
        # fc keeps PyTorch's smaller uniform weights: He's factor of 2 is for layers that ReLU follows.

    @staticmethod
    def _stage(blocks: int, in_channels: int, channels: int, stride: int, shortcut: str | None):
        first = BasicBlock(in_channels, channels, stride, shortcut)
        rest = [BasicBlock(channels, channels, 1, shortcut) for _ in range(blocks - 1)]
        return nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, 3, 32, 32)`` to logits ``(N, 10)``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean(dim=(2, 3)))


def parse_arch(arch: str) -> tuple[str, int]:
    """Split ``"resnet56"`` into ``("resnet", 56)``; an InputError if it is not plain or resnet and a depth of 6n+2."""
    match = re.fullmatch(r"(plain|resnet)-?(\d+)", arch.lower())
    if not match:
        raise InputError(f"unknown architecture {arch!r}: use plainN or resnetN, for example resnet56 or plain20")
    depth = int(match[2])
    if depth < 8 or (depth - 2) % 6:
        lower = depth - (depth - 2) % 6
        nearest = f"the nearest are {lower} and {lower + 6}" if depth > 8 else "the smallest is 8"
        raise InputError(
            f"no network of depth {depth}: the depth must be 6n+2 (three stages of n two-layer blocks, plus the first "
            f"and last layer); {nearest}"
        )
    return match[1], depth


def build_model(arch: str, shortcut: str = "A") -> CifarNet:
    """Build a network such as ``"resnet56"`` or ``"plain20"``, freshly initialised from torch's global generator.

    Where the shape changes, shortcut ``"A"`` is a subsampled and zero-padded identity, the paper's choice for CIFAR-10,
    and ``"B"`` a 1x1 projection. Raises InputError for another name, depth (6n+2) or shortcut.
    """
    family, depth = parse_arch(arch)
    if shortcut not in ("A", "B"):
        raise InputError(f"unknown shortcut option {shortcut!r}: use A (zero-padded identity) or B (projection)")
    return CifarNet((depth - 2) // 6, shortcut if family == "resnet" else None)
