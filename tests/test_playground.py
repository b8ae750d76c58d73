"""The playground: its networks are those that PyTorch computes, and what its page says about them is so."""

import base64
import re
from pathlib import Path
from urllib.parse import urlencode

import pdf
import pytest
import torch
from playwright.sync_api import expect, sync_playwright
from torch import nn
from torch.nn import functional as F

from resnet56 import InputError

ROOT = Path(__file__).resolve().parent.parent
STATIC = ROOT / "book" / "_static"
FILES = [STATIC / name for name in ("playground-network.js", "playground.js", "playground.css")]
NETWORK = (STATIC / "playground-network.js").read_text(encoding="utf-8")
DEFAULTS = {"depth": 56, "strength": 1, "rate": 0.05, "init": "he", "remedy": "none", "data": "spirals", "seed": 1}


# The same experiment in PyTorch


class Network(nn.Module):
    """The playground's network: fully connected, 16 wide, y = ReLU(F(x) + strength x)."""

    def __init__(self, depth: int, strength: float):
        super().__init__()
        self.strength = strength
        widths = [2, *[16] * (depth - 1)]
        self.layers = nn.ModuleList(nn.Linear(*pair, bias=False) for pair in zip(widths, widths[1:], strict=False))
        self.norms = nn.ModuleList(nn.BatchNorm1d(16) for _ in self.layers)
        self.last = nn.Linear(16, 2)

    def forward(self, x):
        for index, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            if index % 2 == 1:
                before = x
            x = norm(layer(x))
            if index % 2 == 0 and index > 0:
                x = x + self.strength * before
            x = F.relu(x)
        return self.last(x)

    def by_layer(self) -> list[list[nn.Parameter]]:
        """Return the parameters of each layer: weight, gain, offset."""
        pairs = zip(self.layers, self.norms, strict=True)
        return [[layer.weight, norm.weight, norm.bias] for layer, norm in pairs] + [[*self.last.parameters()]]


def clip(network: Network) -> None:
    total = torch.cat([parameter.grad.ravel() for parameter in network.parameters()]).norm()
    for parameter in network.parameters():
        parameter.grad /= total.clamp(min=1)


def layerwise(network: Network) -> None:
    for parameters in network.by_layer():
        numbers = torch.cat([p.detach().ravel() for p in parameters])
        gradient = torch.cat([p.grad.ravel() for p in parameters])
        for parameter in parameters:
            parameter.grad *= 0.1 * numbers.norm() / (gradient.norm() + 1e-12)


REMEDIES = {"none": lambda network: None, "clip": clip, "layerwise": layerwise}


# The page's own code


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        try:
            browser = pdf.open_browser(playwright)
        except InputError as error:
            pytest.skip(str(error))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def laboratory(browser):
    """An empty page that knows the playground's networks as ``lab``."""
    page = browser.new_page()
    page.add_script_tag(content=f"{NETWORK}\nconst lab = playgroundNetwork();")
    yield page
    page.close()


TRAIN = """([settings, steps]) => {
  const experiment = lab.createExperiment(settings);
  const {network, points, labels} = experiment;
  const draw = lab.createRandom(0);
  const packed = (part) => { // all parameters, layer by layer: weight, gain, offset
    const numbers = network.layers.flatMap((layer) => ["weight", "gain", "offset"].flatMap((name) => [...layer[name][part]]));
    const bytes = new Uint8Array(Float64Array.from(numbers).buffer);
    let text = "";
    for (let n = 0; n < bytes.length; n += 30000) text += String.fromCharCode(...bytes.subarray(n, n + 30000));
    return btoa(text);
  };
  const trail = [];
  for (let step = 0; step < steps; step++) {
    const before = packed("value");
    const batch = Array.from({length: 128}, () => Math.floor(512 * draw()));
    const rows = Float64Array.from(batch.flatMap((index) => [points[2 * index], points[2 * index + 1]]));
    const outputs = lab.forward(network, rows, 128).slice(0, 256);
    const {loss, gradient} = lab.crossEntropy(outputs, batch.map((index) => labels[index]));
    lab.backward(network, gradient, 128);
    const gradients = packed("gradient");
    lab.remedies[settings.remedy](network.layers);
    lab.descend(network.layers, settings.rate);
    trail.push({batch, before, outputs: [...outputs], loss, gradients, after: packed("value")});
  }
  return {trail, points: [...points], labels};
}"""


def unpack(text: str, network: Network) -> list[list[torch.Tensor]]:
    """Return numbers of the page's network in the shapes of PyTorch's, layer by layer."""
    numbers = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float64)
    layers = []
    for parameters in network.by_layer():
        parts = numbers[: sum(map(torch.numel, parameters))].split([parameter.numel() for parameter in parameters])
        numbers = numbers[sum(map(len, parts)) :]
        layers.append([part.reshape(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)])
    assert len(numbers) == 0
    return layers


def load(network: Network, layers: list[list[torch.Tensor]]) -> None:
    with torch.no_grad():
        for parameters, values in zip(network.by_layer(), layers, strict=True):
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)


def difference(found: list[list[torch.Tensor]], right: list[list[torch.Tensor]]) -> float:
    """Return how far two lists of layers are apart in the layer where they differ most, relative to its length."""
    joined = [[torch.cat([part.detach().ravel() for part in layer]) for layer in layers] for layers in (found, right)]
    return max(((one - other).norm() / other.norm()).item() for one, other in zip(*joined, strict=True))


def changes(after: list[list[torch.Tensor]], before: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    return [[new.detach() - old for new, old in zip(*pair, strict=True)] for pair in zip(after, before, strict=True)]


def compare(laboratory, settings: dict, steps: int, free: bool = False) -> dict[str, float]:
    """Train in the page and in PyTorch on the same batches. Return the largest relative difference of each quantity.

    A network that is far from linear makes much of little: after some steps of plain-56 a difference in the last digit
    is one in the first. So PyTorch begins each step with the weights that the page has (its momentum is its own), unless
    it is to run free.
    """
    network = Network(settings["depth"], settings["strength"]).double()
    optimizer = torch.optim.SGD(network.parameters(), lr=settings["rate"], momentum=0.9)
    result = laboratory.evaluate(TRAIN, [settings, steps])
    points, labels = torch.tensor(result["points"], dtype=torch.float64).reshape(-1, 2), torch.tensor(result["labels"])
    worst = dict.fromkeys(["outputs", "loss", "gradients", "changes", "weights"], 0.0)
    for step, seen in enumerate(result["trail"]):
        before, after = unpack(seen["before"], network), unpack(seen["after"], network)
        if step == 0 or not free:
            load(network, before)
        start = [[parameter.detach().clone() for parameter in layer] for layer in network.by_layer()]
        outputs = network(points[seen["batch"]])
        loss = F.cross_entropy(outputs, labels[seen["batch"]])
        optimizer.zero_grad()
        loss.backward()
        found = {
            "outputs": ((torch.tensor(seen["outputs"], dtype=torch.float64) - outputs.ravel()).norm() / outputs.norm()).item(),
            "loss": abs(seen["loss"] / loss.item() - 1),
            "gradients": difference(unpack(seen["gradients"], network),
                                    [[parameter.grad for parameter in layer] for layer in network.by_layer()]),
        }
        REMEDIES[settings["remedy"]](network)
        optimizer.step()
        found["changes"] = difference(changes(after, before), changes(network.by_layer(), start))
        found["weights"] = difference(after, network.by_layer())
        worst = {name: max(value, found[name]) for name, value in worst.items()}
    return worst


CASES = [
    {"data": "disc", "depth": 20},
    *[{"strength": strength, "init": init, "remedy": remedy}
      for strength in (0, 0.5, 1) for init in ("he", "dirac") for remedy in REMEDIES],
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_every_step_is_that_of_pytorch(laboratory, case):
    """Fifty of them: outputs, loss, the gradient of every layer, and what is added to its weights."""
    worst = compare(laboratory, DEFAULTS | case, 50)
    assert max(worst.values()) < 1e-5, worst


@pytest.mark.slow
@pytest.mark.parametrize("init", ["he", "dirac"])
@pytest.mark.parametrize("strength", [0, 0.5, 1])
@pytest.mark.parametrize("remedy", REMEDIES)
def test_weights_after_fifty_steps_are_those_of_pytorch(laboratory, remedy, strength, init):
    """Of networks so shallow that rounding does not grow to something else."""
    case = {"depth": 6, "data": "rings", "strength": strength, "init": init, "remedy": remedy}
    worst = compare(laboratory, DEFAULTS | case, 50, free=True)
    assert max(worst.values()) < 1e-5, worst
