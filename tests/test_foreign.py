"""Weights of others: their logits, as computed by an independent copy of their networks and normalisation."""

import re

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from resnet56 import InputError, build_model, cli
from resnet56.data import normalise
from resnet56.records.foreign import classify, load_network, read_image

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHENYAOFO = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Theirs(nn.Module):
    """A CIFAR ResNet written by another hand, with the names of akamaster's or chenyaofo's."""

    def __init__(self, blocks: int, last: str, shortcut: str | None):
        super().__init__()
        self.last, self.shortcut, self.blocks = last, shortcut, blocks
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        before = 16
        for stage, width in enumerate((16, 32, 64), start=1):
            blocks = nn.ModuleList()
            for index in range(self.blocks):
                stride = 2 if stage > 1 and index == 0 else 1
                block = nn.ModuleDict(
                    {
                        "conv1": nn.Conv2d(before, width, 3, stride, 1, bias=False),
                        "bn1": nn.BatchNorm2d(width),
                        "conv2": nn.Conv2d(width, width, 3, 1, 1, bias=False),
                        "bn2": nn.BatchNorm2d(width),
                    }
                )
                if shortcut and stride == 2:
                    block[shortcut] = nn.Sequential(nn.Conv2d(before, width, 1, 2, bias=False), nn.BatchNorm2d(width))
                blocks.append(block)
                before = width
            setattr(self, f"layer{stage}", blocks)
        setattr(self, last, nn.Linear(64, 10))
        for module in self.modules():  # no running statistic, scale or shift is what it is by default
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                    values.uniform_(0.5, 1.5)

    @torch.no_grad()
    def logits(self, pixels: torch.Tensor, mean, std) -> torch.Tensor:
        """As torchvision.transforms.ToTensor and Normalize, then the network in evaluation mode."""
        self.eval()
        x = (pixels.double() / 255 - torch.tensor(mean).double().view(3, 1, 1)) / torch.tensor(std).double().view(
            3, 1, 1
        )
        x = self.bn1(self.conv1(x.float())).clamp(min=0)
        for blocks in (self.layer1, self.layer2, self.layer3):
            for block in blocks:
                out = block["bn2"](block["conv2"](block["bn1"](block["conv1"](x)).clamp(min=0)))
                if out.shape == x.shape:
                    side = x
                elif self.shortcut:
                    side = block[self.shortcut](x)
                else:  # option A
                    extra = out.shape[1] // 4
                    side = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra, extra), "constant", 0)
                x = (out + side).clamp(min=0)
        return getattr(self, self.last)(F.avg_pool2d(x, 8).flatten(1))


@pytest.fixture(scope="module")
def pixels():
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def akamaster(theirs):
    weights = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    return {"epoch": 199, "state_dict": weights, "best_prec1": 91.6}


LAYOUTS = {
    "akamaster": ("linear", None, akamaster, IMAGENET),
    "akamaster, option B": ("linear", "shortcut", akamaster, IMAGENET),
    "chenyaofo": ("fc", "downsample", lambda theirs: theirs.state_dict(), CHENYAOFO),
    "compiled": ("fc", None, lambda t: {f"_orig_mod.{k}": v for k, v in t.state_dict().items()}, CHENYAOFO),
    "compiled, in parallel": (
        "fc",
        None,
        lambda t: {f"module._orig_mod.{k}": v for k, v in t.state_dict().items()},
        CHENYAOFO,
    ),
    "net": ("linear", None, lambda t: {"net": t.state_dict(), "acc": 93.0, "epoch": 3}, IMAGENET),
    "old PyTorch": ("fc", None, lambda t: {k: v for k, v in t.state_dict().items() if "tracked" not in k}, CHENYAOFO),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("blocks", [1, 3])
def test_logits_are_those_of_their_own_code(layout, blocks, pixels, tmp_path):
    last, shortcut, wrap, normalisation = LAYOUTS[layout]
    torch.manual_seed(blocks)
    theirs = Theirs(blocks, last, shortcut)
    torch.save(wrap(theirs), tmp_path / "theirs.th")
    network = load_network(tmp_path / "theirs.th")
    with torch.no_grad():
        logits = network.model(normalise(pixels, network.mean))
    torch.testing.assert_close(logits, theirs.logits(pixels, *normalisation), rtol=1e-4, atol=1e-4)
    assert network.title.startswith(f"resnet{6 * blocks + 2} of theirs.th")


@pytest.mark.parametrize(
    ("name", "normalisation"),
    [
        ("imagenet", IMAGENET),
        ("none", ((0, 0, 0), (1, 1, 1))),
        ("cifar10-std", (CHENYAOFO[0], (0.2470, 0.2435, 0.2616))),  # the deviation of its training pixels
    ],
)
def test_safetensors_and_another_normalisation(name, normalisation, pixels, tmp_path):
    theirs = Theirs(1, "fc", "downsample")
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    network = load_network(tmp_path / "theirs.safetensors", normalisation=name)
    with torch.no_grad():
        logits = network.model(normalise(pixels, network.mean))
    torch.testing.assert_close(logits, theirs.logits(pixels, *normalisation), rtol=1e-4, atol=1e-4)


def test_weights_of_a_plain_network_are_told_by_its_name(pixels, tmp_path):
    model = build_model("plain8").eval()
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    network = load_network(tmp_path / "plain.pt", arch="plain8", normalisation="none")
    with torch.no_grad():
        assert torch.allclose(network.model(normalise(pixels, network.mean)), model(pixels / 255), atol=1e-5)
        assert not torch.allclose(
            load_network(tmp_path / "plain.pt", normalisation="none").model(pixels / 255), model(pixels / 255)
        )


class Evil:
    def __reduce__(self):
        return __import__("os").system, ("touch evil-was-here",)


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


REFUSED = {
    "a layer is missing": (lambda s: without(s, "fc.bias"), "missing: fc.bias;"),
    "one too many": (lambda s: s | {"head.weight": torch.ones(1)}, "unexpected: head.weight;"),
    "100 classes": (lambda s: s | {"fc.weight": torch.ones(100, 64)}, r"another shape: fc.weight \(100, 64\);"),
    "another family": (
        lambda s: {"features.0.weight": torch.ones(1)},
        "no network of this family.*has features.0.weight;",
    ),
    "nothing": (lambda s: {}, "no network of this family.*has nothing;"),
    "a list": (lambda s: [1], "holds a list"),
    "a whole model": (
        lambda s: build_model("resnet8"),
        "holds Python objects, which are not loaded; save its state_dict",
    ),
    "code": (lambda s: {"state_dict": Evil()}, "holds Python objects, which are not loaded"),
    "the gap of depth 14": (
        lambda s: without(s | {k.replace("layer1.0", "layer1.1"): v for k, v in s.items()}, "x"),
        "missing: layer2.1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_named_in_one_line(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, words = REFUSED[case]
    torch.save(make(build_model("resnet8").state_dict()), "theirs.pt")
    with pytest.raises(InputError, match=words) as caught:
        load_network("theirs.pt")
    assert "\n" not in str(caught.value) and not (tmp_path / "evil-was-here").exists()
    assert (
        cli.main(["predict", str(Image.new("RGB", (32, 32)).save("a.png") or "a.png"), "--weights", "theirs.pt"]) == 2
    )
    assert re.search(words, capsys.readouterr().err)


# --- Images ---------------------------------------------------------------------------------------------


def test_an_image_of_32x32_is_taken_as_it_is(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    pixels, size = read_image(tmp_path / "a.png")
    assert size == (32, 32) and pixels.dtype == torch.uint8 and (pixels.numpy() == array.transpose(2, 0, 1)).all()


def test_another_size_is_cropped_in_the_middle_and_scaled(tmp_path):
    image = Image.new("RGB", (300, 100), "red")
    image.paste("lime", (100, 0, 200, 50))  # of the square in the middle the upper half is green,
    image.paste("blue", (100, 50, 200, 100))  # the lower one blue
    image.save(tmp_path / "wide.png")
    pixels, size = read_image(tmp_path / "wide.png")
    assert size == (300, 100)
    for row, colour in ((2, [0, 255, 0]), (29, [0, 0, 255])):
        assert (pixels[:, row].int() - torch.tensor(colour)[:, None]).abs().max() <= 20


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_mode_is_read(mode, tmp_path):
    name = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0)) if mode in ("RGBA", "LA") else Image.new("RGB", (40, 40), "white")
    image.convert(mode).save(name)
    assert (read_image(name)[0] >= 250).all()  # white, and white where it is transparent


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (64, 64)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    for name in ("text.png", "cut.png", "nowhere.png", ""):
        with pytest.raises(InputError, match="image"):
            read_image(tmp_path / name)


def test_the_three_most_probable_classes(pixels, tmp_path):
    torch.save(build_model("resnet8").state_dict(), tmp_path / "ours.pt")
    network = load_network(tmp_path / "ours.pt")
    with torch.no_grad():
        network.model.fc.weight.zero_()
        network.model.fc.bias.copy_(torch.tensor([0, 0, 0, 0, 2.0, 0, 3.0, 0, 0, 1.0]))
    total = 7 + np.exp(1) + np.exp(2) + np.exp(3)
    expected = [("frog", np.exp(3) / total), ("deer", np.exp(2) / total), ("truck", np.exp(1) / total)]
    for (name, value), (right, probability) in zip(classify(network, pixels[0]), expected, strict=True):
        assert name == right and value == pytest.approx(probability, rel=1e-5)
