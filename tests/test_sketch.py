"""The sketch of the architecture says what the modules are."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import rgb_to_hsv, to_rgb

from resnet56 import build_model
from resnet56.layers import count_parameters
from resnet56.plots import describe_layers, plot_architecture
from resnet56.plots.style import PLAIN, RESIDUAL


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def patches(axis, kind):
    """The patches of an axis by what follows ``kind-`` in their gid."""
    return {p.get_gid().removeprefix(f"{kind}-"): p for p in axis.patches if (p.get_gid() or "").startswith(f"{kind}-")}


def test_the_layers_of_depth_8_are_these():
    table = describe_layers(build_model("resnet8")).set_index("layer")
    assert table.index.tolist() == [
        "conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2", "layer3.0.conv1",
        "layer3.0.conv2", "fc",
    ]  # fmt: skip
    assert table["depth"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert table["size"].tolist() == [32, 32, 32, 16, 16, 8, 8, 1]
    assert table["channels"].tolist() == [16, 16, 16, 32, 32, 64, 64, 10]
    assert table["stride"].tolist() == [1, 1, 1, 2, 1, 2, 1, 1]
    assert table["kind"].tolist() == ["conv 3x3"] * 7 + ["linear"]
    assert table["stage"].tolist() == ["stem", "layer1", "layer1", "layer2", "layer2", "layer3", "layer3", "head"]
    assert table["block"].tolist() == ["", *["layer1.0"] * 2, *["layer2.0"] * 2, *["layer3.0"] * 2, ""]
    assert table["shortcut"].tolist() == ["", "", "identity", "", "A", "", "A", ""]
    kernel = 3 * 3
    pairs = [(3, 16), (16, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)]  # channels in and out
    assert table["parameters"].tolist() == [kernel * a * b for a, b in pairs] + [64 * 10 + 10]


@pytest.mark.parametrize("arch", ["plain56", "resnet56"])
def test_depth_56_adds_up(arch):
    model = build_model(arch)
    table = describe_layers(model)
    assert len(table) == 56
    normalisation = 2 * (16 * 19 + 32 * 18 + 64 * 18)  # a scale and a shift for every channel of 55 convolutions
    assert table["parameters"].sum() + normalisation == count_parameters(model) == 853_018
    counts = table["shortcut"].value_counts().to_dict()
    assert counts == ({"": 56} if arch == "plain56" else {"": 29, "identity": 25, "A": 2})


def test_option_b_is_told_from_option_a():
    shortcuts = [describe_layers(build_model("resnet14", option))["shortcut"].tolist() for option in "AB"]
    assert shortcuts[1] == [{"A": "B"}.get(shortcut, shortcut) for shortcut in shortcuts[0]]
    assert shortcuts[1].count("B") == 2


def test_shapes_are_measured_not_known():
    model = build_model("plain8")
    model.layer1[0].conv1.stride = (2, 2)  # every map from here on has half the side
    assert describe_layers(model)["size"].tolist() == [32, 16, 16, 8, 8, 4, 4, 1]


def test_the_network_is_left_as_it_was():
    model = build_model("resnet8")
    model.layer2.eval()  # part of it frozen
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    plot_architecture({"resnet8": model})
    assert [module.training for module in model.modules()] == modes and len(set(modes)) == 2
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("depth", [8, 20, 110])
def test_a_box_for_every_layer_and_an_arc_for_every_residual_block(depth):
    plain, residual = plot_architecture({arch: build_model(arch) for arch in (f"plain{depth}", f"resnet{depth}")}).axes
    blocks = (depth - 2) // 2
    assert len(patches(plain, "layer")) == len(patches(residual, "layer")) == depth
    assert len(patches(plain, "shortcut")) == 0
    arcs = patches(residual, "shortcut")
    assert len(arcs) == blocks
    assert {block for block, arc in arcs.items() if arc.get_linestyle() != "-"} == {"layer2.0", "layer3.0"}
    assert "no shortcuts" in plain.get_title("left") and f"{blocks} shortcuts" in residual.get_title("left")
    assert plain.get_xlim() == residual.get_xlim()
    for axis, colour in ((plain, PLAIN), (residual, RESIDUAL)):
        widest = patches(axis, "layer")[f"layer3.{blocks // 3 - 1}.conv2"]
        assert to_rgb(widest.get_facecolor()) == pytest.approx(to_rgb(colour))


def test_boxes_show_size_and_channels_and_arcs_enclose_their_block():
    (axis,) = plot_architecture({"resnet20": build_model("resnet20")}).axes
    boxes = patches(axis, "layer")
    names = ["conv1", "layer1.2.conv2", "layer2.0.conv1", "layer3.1.conv1"]
    assert [boxes[name].get_height() for name in names] == [32, 32, 16, 8]
    shades = [rgb_to_hsv(to_rgb(boxes[name].get_facecolor()))[1] for name in names]  # saturation
    assert shades[0] == shades[1] < shades[2] < shades[3]
    edges = [(box.get_x(), box.get_x() + box.get_width()) for box in boxes.values()]
    assert all(right < left for (_, right), (left, _) in zip(edges, edges[1:], strict=False))
    for block, arc in patches(axis, "shortcut").items():
        extent = arc.get_path().get_extents()
        inside = [name for name, (x0, x1) in zip(boxes, edges, strict=True) if extent.x0 < x0 and x1 < extent.x1]
        assert inside == [f"{block}.conv1", f"{block}.conv2"]
        assert extent.y1 > boxes[f"{block}.conv1"].get_height() / 2


def test_words_say_what_is_drawn_once():
    both = plot_architecture({"plain8": build_model("plain8"), "resnet8": build_model("resnet8", "B")})
    above, below = [[text.get_text() for text in axis.texts] for axis in both.axes]
    for words in ("layer1\n32x32, 16 channels", "layer2\n16x16, 32 channels", "layer3\n8x8, 64 channels"):
        assert words in below and words not in above
    assert below.count("option B: 1x1 projection") == 2 and not any("option" in text for text in above)
    for texts in (above, below):
        assert "image\n3x32x32" in texts and "10 logits" in texts
