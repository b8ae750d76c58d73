"""Networks from files: checkpoints and records of this package, and the weights of others with their normalisation.

Others subtract a mean and divide by a standard deviation per channel; here a mean image is subtracted. So their
division is folded into the weights of the first convolution, and their mean becomes a mean image of one colour: the
network takes the same input as ours, and its logits are those of its authors' code.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from ..data import normalise
from ..datasets import shapes10
from ..datasets.loading import CIFAR10_CLASSES
from ..errors import InputError
from ..model import build_model, parse_arch
from .checkpoint import load_checkpoint, load_model, read_tensors
from .runs import MEAN, load_run

#: Means and standard deviations per channel, of pixels from 0 to 1, by the name that ``--normalise`` takes.
NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),  # not its deviation, but what most write
    "cifar10-std": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # under which checkpoints of others keep the weights
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # of DataParallel, torch.compile, Lightning
LARGEST = 100_000_000  # pixels of an image


@dataclass(frozen=True)
class Network:
    """A trained network, and what its file says of it."""

    model: nn.Module  #: on the CPU, in evaluation mode
    mean: Tensor  #: the mean image to subtract, ``(3, 32, 32)``
    title: str  #: what printouts call it
    data: str | None = None  #: name of the data set it was trained on, if the file says it
    fingerprint: str | None = None  #: of that data set
    precision: str = "fp32"  #: for evaluation

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the ten classes."""
        return shapes10.CLASSES if self.data == "shapes10" else CIFAR10_CLASSES


def load_network(path: str | Path, arch: str | None = None, normalisation: str | None = None) -> Network:
    """Load a network from a checkpoint of ``resnet56 train``, from recorded weights, or from a file of others.

    Args:
        path: of a ``torch.save`` or safetensors file; no code stored in it is run. That of others holds a state dict,
            such as those of akamaster's pytorch_resnet_cifar10 and chenyaofo's pytorch-cifar-models.
        arch: of weights of others, whose names do not tell a plain network from a residual one; if None, residual.
        normalisation: of weights of others, a name in ``NORMALISATIONS``; if None, ``"imagenet"`` where the last layer
            is called ``linear``, as by akamaster, else ``"cifar10"``, as by chenyaofo.

    Raises:
        InputError: if the file cannot be read, holds another network, or says ``arch`` and ``normalisation`` itself.
    """
    path = Path(path)
    content = read_tensors(path)
    if MEAN not in content and not str(content.get("format")).startswith("resnet56 checkpoint"):
        return _load_foreign(path, content, arch, normalisation)
    if arch or normalisation:
        flag = "--arch" if arch else "--normalise"
        raise InputError(f"{path} says itself how it is built and normalised; leave {flag} out")
    if MEAN in content:
        about = load_run(path.parent).about
        mean = content.pop(MEAN)
        model = _fitting(path, content, about["arch"], about["shortcut"] or "A")
        data, fingerprint, steps = about["data"]["name"], about["data"]["fingerprint"], about["steps"]
    else:
        about = load_checkpoint(path)
        model, mean = load_model(about), about["mean"]
        data, fingerprint, steps = about["data"], about["fingerprint"], about["trainer"]["step"]
    title = f"{about['arch']} after {steps:,} steps"
    return Network(model, mean, title, data, fingerprint, about["recipe"]["precision"])


def _load_foreign(path: Path, content: dict, arch: str | None, normalisation: str | None) -> Network:
    for key in WRAPPERS:
        content = content[key] if isinstance(content.get(key), dict) else content
    while prefix := next((p for p in PREFIXES if content and all(str(name).startswith(p) for name in content)), None):
        content = {name.removeprefix(prefix): value for name, value in content.items()}
    normalisation = normalisation or ("imagenet" if "linear.weight" in content else "cifar10")
    for theirs, ours in (r"\blinear\.", "fc."), (r"\bshortcut\.", "downsample."):  # akamaster's and ours
        content = {re.sub(theirs, ours, str(name)): value for name, value in content.items()}
    blocks = sum(bool(re.fullmatch(r"layer1\.\d+\.conv1\.weight", name)) for name in content)
    if not blocks:
        raise InputError(
            f"{path} holds no network of this family, which has conv1.weight, layer1.0.conv1.weight, ..., fc.weight; "
            f"it has {_some(list(content))}; give weights of a CIFAR-10 ResNet of depth 6n+2"
        )
    arch = "{}{}".format(*parse_arch(arch or f"resnet{6 * blocks + 2}"))
    model = _fitting(path, content, arch, "B" if any(".downsample." in name for name in content) else "A")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALISATIONS[normalisation])
    model.conv1.weight.data /= std
    title = f"{arch} of {path.name}, normalised as for {normalisation}"
    return Network(model, (255 * mean).expand(3, 32, 32).clone(), title)


def _fitting(path: Path, state: dict, arch: str, shortcut: str) -> nn.Module:
    """Build a network and give it weights, all of them, or refuse in one line that names those that do not fit."""
    model = build_model(arch, shortcut)
    expected = model.state_dict()
    optional = {name: value for name, value in expected.items() if name.endswith("num_batches_tracked")}
    state = optional | state  # PyTorch before 0.4.1 had none
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
    there = [name for name in expected if name in state]
    problems = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [f"{name} {shapes[name]}" for name in there if shapes[name] != expected[name].shape],
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise InputError(f"{path} does not fit {arch}, {listed}; give weights of that network, or another --arch")
    model.load_state_dict(state)
    return model.eval()


def _some(names: list[str]) -> str:
    return ", ".join(map(str, names[:4])) + f" and {len(names) - 4} more" * (len(names) > 4) or "nothing"


# --- An image of one's own ------------------------------------------------------------------------------


def read_image(path: str | Path) -> tuple[Tensor, tuple[int, int]]:
    """Read an image file of any size: the largest square in its middle, scaled to 32x32, on white where transparent.

    Returns the pixels, uint8 ``(3, 32, 32)``, and the width and height that it had. What cannot be read is an
    ``InputError``.
    """
    try:
        with Image.open(path) as file:
            width, height = file.size
            large = width * height > LARGEST
            image = None if large else ImageOps.exif_transpose(file).convert("RGBA")
    except OSError as error:
        raise InputError(
            f"{path} cannot be read as an image ({error.strerror or error}); give a PNG or JPEG file"
        ) from error
    except Exception as error:  # a damaged file can raise nearly anything
        raise InputError(f"{path} is a damaged image ({error}); give an intact PNG or JPEG file") from error
    if large:
        raise InputError(f"{path} has {width}x{height} pixels; scale it down first, 32x32 are used")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image = ImageOps.fit(image, (32, 32), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1), (width, height)


@torch.no_grad()
def classify(network: Network, pixels: Tensor) -> list[tuple[str, float]]:
    """Return the three most probable classes of one image, uint8 ``(3, 32, 32)``, with their probabilities, 0 to 1."""
    probabilities = network.model(normalise(pixels[None], network.mean)).softmax(dim=1)[0]
    values, indices = probabilities.topk(3)
    return [(network.classes[index], value) for index, value in zip(indices.tolist(), values.tolist(), strict=True)]
