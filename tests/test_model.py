"""The networks against the paper's counts, torchvision's block, and closed forms."""

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock as TorchvisionBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet

from resnet56 import InputError, build_model, count_macs, count_parameters, weighted_layers
from resnet56.model import OptionA

PUBLISHED = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


@pytest.mark.parametrize(("depth", "count"), PUBLISHED.items())
def test_parameter_counts_are_the_published_ones(depth, count):
    assert count_parameters(build_model(f"resnet{depth}")) == count
    assert count_parameters(build_model(f"plain{depth}")) == count


def test_option_b_adds_two_projections():
    # two 1x1 convolutions, 16 to 32 and 32 to 64, and their batch normalisation
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert count_parameters(build_model("resnet56", shortcut="B")) == 853_018 + projections == 855_770


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_macs_follow_the_closed_form(depth):
    n = (depth - 2) // 6
    stage = 9 * 16 * 16 * 32 * 32  # one 3x3 convolution within a stage; the same in all three
    expected = 9 * 3 * 16 * 32 * 32 + 2 * n * stage + 2 * (stage // 2 + (2 * n - 1) * stage) + 64 * 10
    assert count_macs(build_model(f"resnet{depth}")) == count_macs(build_model(f"plain{depth}")) == expected


def test_resnet56_takes_125_million_macs():
    assert count_macs(build_model("resnet56")) == 125_485_696


def test_counting_macs_leaves_the_model_as_it_was():
    model = build_model("resnet8")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("depth", [20, 56, 110])
def test_depth_counts_weighted_layers(depth, shortcut):
    layers = weighted_layers(build_model(f"resnet{depth}", shortcut))
    assert len(layers) == depth
    assert layers[0][0] == "conv1" and layers[-1][0] == "fc"
    assert layers[1][0] == "layer1.0.conv1" and layers[-2][0] == f"layer3.{(depth - 8) // 6}.conv2"


@pytest.mark.parametrize("arch", ["plain56", "resnet56"])
def test_stage_shapes(arch):
    model = build_model(arch).eval()
    shapes = {}
    for name in ("conv1", "layer1", "layer2", "layer3", "fc"):
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: shapes.update({name: tuple(output.shape)})
        )
    with torch.no_grad():
        model(torch.zeros(2, 3, 32, 32))
    assert shapes == {
        "conv1": (2, 16, 32, 32),
        "layer1": (2, 16, 32, 32),
        "layer2": (2, 32, 16, 16),
        "layer3": (2, 64, 8, 8),
        "fc": (2, 10),
    }


def test_plain_and_residual_start_from_the_same_weights():
    torch.manual_seed(3)
    plain = build_model("plain56")
    torch.manual_seed(3)
    residual = build_model("resnet56")
    assert plain.state_dict().keys() == residual.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, residual.state_dict()[name]), name


def test_plain_block_is_the_residual_block_minus_its_shortcut():
    plain, residual = build_model("plain8").layer1[0].eval(), build_model("resnet8").layer1[0].eval()
    residual.load_state_dict(plain.state_dict())
    before_relu = {}
    for name, block in (("plain", plain), ("residual", residual)):
        block.bn2.register_forward_hook(lambda m, i, o, name=name: before_relu.update({name: o}))
    x = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        assert torch.equal(plain(x), before_relu["plain"].relu())
        assert torch.equal(residual(x), (before_relu["residual"] + x).relu())
    assert torch.equal(before_relu["plain"], before_relu["residual"])


def test_option_a_pads_both_sides_and_subsamples():
    x = torch.randn(2, 16, 8, 8)
    y = OptionA(16)(x)
    assert y.shape == (2, 32, 4, 4)
    assert (y[:, :8] == 0).all() and (y[:, 24:] == 0).all()
    for row in range(4):
        for column in range(4):
            assert torch.equal(y[:, 8:24, row, column], x[:, :, 2 * row, 2 * column])


def torchvision_twin(n: int) -> nn.Module:
    """torchvision's own ResNet, cut down to the CIFAR shape: an independent implementation of option B."""
    twin = TorchvisionResNet(TorchvisionBlock, [1, 1, 1, 1])
    twin.inplanes = 16
    twin.conv1, twin.bn1, twin.maxpool = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.Identity()
    twin.layer1 = twin._make_layer(TorchvisionBlock, 16, n)
    twin.layer2 = twin._make_layer(TorchvisionBlock, 32, n, stride=2)
    twin.layer3 = twin._make_layer(TorchvisionBlock, 64, n, stride=2)
    twin.layer4, twin.fc = nn.Identity(), nn.Linear(64, 10)
    return twin


def test_option_b_loads_torchvisions_weights_and_computes_the_same():
    twin, model = torchvision_twin(9), build_model("resnet56", shortcut="B")
    model.load_state_dict(twin.state_dict())  # strict: every name and shape must match
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(model(x), twin(x), rtol=1e-4, atol=1e-5)


def test_he_initialisation():
    torch.manual_seed(0)
    model = build_model("resnet110")
    for name, layer in weighted_layers(model)[1:-1]:
        fan_in = 9 * layer.in_channels
        assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1), name
    standard = torch.cat(
        [layer.weight.flatten() * layer.weight[0].numel() ** 0.5 for _, layer in weighted_layers(model)[:-1]]
    )
    assert (standard.double() ** 4).mean().item() == pytest.approx(3 * 2**2, rel=0.02)  # of a normal distribution


@pytest.mark.parametrize(
    ("arch", "words"), [("vgg16", "unknown architecture"), ("resnet57", "56 and 62"), ("plain2", "6n\\+2")]
)
def test_wrong_names_and_depths_are_refused(arch, words):
    with pytest.raises(InputError, match=words):
        build_model(arch)


def test_wrong_shortcut_is_refused():
    with pytest.raises(InputError, match="shortcut option 'C'"):
        build_model("resnet20", shortcut="C")
