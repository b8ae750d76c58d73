"""Instruments against closed forms and loops written out by hand."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resnet56 import InputError, build_model, evaluate, pixel_mean
from resnet56.data import normalise
from resnet56.gradients import output_gradient_norms
from resnet56.instruments.initialisation import GROWTH, branch_variances, gradient_growth
from resnet56.instruments.lesions import lesion_each, lesion_random, without_blocks
from resnet56.instruments.modes import calibrate
from resnet56.instruments.paths import gradient_along, path_lengths
from resnet56.instruments.responses import layer_responses
from resnet56.instruments.shattering import (
    autocorrelation,
    brown_noise,
    correlations,
    input_gradients,
    line,
    mean_correlation,
    white_noise,
)
from resnet56.layers import basic_blocks

both = pytest.mark.parametrize("family", ["plain", "resnet"])


@pytest.fixture
def batch(split):
    return normalise(split.pixels[:32], pixel_mean(split)), split.labels[:32]


def network(arch: str, images: torch.Tensor, seed: int = 0) -> nn.Module:
    """A network with weights, gains and running statistics that differ from layer to layer."""
    torch.manual_seed(seed)
    model = build_model(arch)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    calibrate(model, images)
    return model.eval()


@pytest.fixture
def untouched():
    """A list for pairs of a network and a copy of its state: none may be changed, or have a hook left on it."""
    nets = []
    yield nets
    assert nets
    for model, state in nets:
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# --- Responses ----------------------------------------------------------------------------------------


@both
def test_responses_are_those_of_a_forward_pass_by_hand(family, batch, untouched):
    images, _ = batch
    model = network(f"{family}14", images)
    untouched.append((model, copy.deepcopy(model.state_dict())))
    expected = []

    def noted(x):
        expected.append(x.std().item())
        return x

    with torch.no_grad():
        x = F.relu(noted(model.bn1(model.conv1(images))))
        for block in basic_blocks(model).values():
            out = noted(block.bn2(block.conv2(F.relu(noted(block.bn1(block.conv1(x)))))))
            x = F.relu(out + (block.downsample(x) if block.downsample else x) if block.residual else out)
        noted(model.fc(x.mean(dim=(2, 3))))
    table = layer_responses(model.train(), images)
    assert model.training
    assert table["std"].tolist() == pytest.approx(expected, rel=1e-5)
    assert table["depth"].tolist() == list(range(1, 15)) and table["layer"].iloc[-1] == "fc"


# --- Shattered gradients ------------------------------------------------------------------------------


def test_input_gradients_are_those_of_finite_differences(batch):
    images, _ = batch
    model = network("resnet8", images).double()
    images = images[:2].double()
    gradients = input_gradients(model, images, output=3)
    assert gradients.shape == (2, 3072)
    for pixel in (0, 1500, 3071):
        nudge = torch.zeros(3072, dtype=torch.float64)
        nudge[pixel] = 1e-5
        with torch.no_grad():
            up, down = (model(images + sign * nudge.view(3, 32, 32))[:, 3] for sign in (1, -1))
        assert torch.allclose((up - down) / 2e-5, gradients[:, pixel], rtol=1e-3, atol=1e-7)


def test_a_line_runs_from_image_to_image(batch):
    start, end = batch[0][:2]
    images = line(start, end, points=5)
    assert torch.equal(images[0], start) and torch.equal(images[4], end)
    assert torch.allclose(images[1], 0.75 * start + 0.25 * end, atol=1e-6)


def test_autocorrelation_is_the_usual_one():
    series = np.random.default_rng(0).normal(size=(20, 3)).cumsum(axis=0)
    mean = [sum(series[t][d] for t in range(20)) / 20 for d in range(3)]
    covariance = [
        sum((series[t][d] - mean[d]) * (series[t + lag][d] - mean[d]) for t in range(20 - lag) for d in range(3))
        for lag in range(6)
    ]
    expected = [value / covariance[0] for value in covariance]
    assert autocorrelation(torch.tensor(series), 5).tolist() == pytest.approx(expected)


def test_noises_have_the_autocorrelation_that_theory_gives_them():
    assert autocorrelation(white_noise(256, 3072), 10)[1:].abs().max() < 0.01
    # a random walk of T steps about its own mean: the expected sums of products, from Cov(walk_s, walk_t) = min(s, t)
    steps = np.arange(1, 257)
    covariance = np.minimum(steps[:, None], steps)
    centring = np.eye(256) - 1 / 256
    covariance = centring @ covariance @ centring
    expected = [np.trace(covariance, offset=lag) / np.trace(covariance) for lag in range(11)]
    assert autocorrelation(brown_noise(256, 3072), 10).tolist() == pytest.approx(expected, abs=0.02)


def test_correlations_are_cosines():
    gradients = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    half = math.sqrt(0.5)
    assert correlations(gradients).flatten().tolist() == pytest.approx([1, 0, half, 0, 1, half, half, half, 1])
    assert mean_correlation(gradients) == pytest.approx(math.sqrt((0 + 0.5 + 0.5) / 3))
    assert mean_correlation(white_noise(60, 3072)) == pytest.approx(3072**-0.5, rel=0.1)


def test_calibrated_statistics_are_those_of_the_batch(batch):
    images, _ = batch
    torch.manual_seed(0)
    model = build_model("plain8")
    model(images), model(2 * images)  # other statistics, to be replaced
    calibrate(model, images)
    assert model.bn1.momentum == 0.1
    with torch.no_grad():
        assert torch.allclose(model.eval()(images), model.train()(images), atol=1e-3)


# --- Lesions ------------------------------------------------------------------------------------------


@both
def test_a_lesioned_network_is_one_built_without_the_block(family, split, untouched):
    mean = pixel_mean(split)
    model = network(f"{family}20", normalise(split.pixels, mean))
    untouched.append((model, copy.deepcopy(model.state_dict())))
    table = lesion_each(model, split, mean, progress=False).set_index("removed")
    assert table.index.tolist() == ["", *basic_blocks(model)] and table["count"].tolist() == [0] + 9 * [1]
    assert table.loc["", "loss"] == evaluate(model, split, mean).loss
    for stage, index in itertools.product(("layer1", "layer2", "layer3"), range(3)):
        built = copy.deepcopy(model)
        if stage == "layer1" or index > 0:  # the shape stays
            del getattr(built, stage)[index]
        else:  # only the parameter-free shortcut is left of the block, subsampled and padded by hand
            pad = {"layer2": 8, "layer3": 16}[stage]
            getattr(built, stage)[0] = _Padded(pad)
        score = evaluate(built, split, mean)
        row = table.loc[f"{stage}.{index}"]
        assert (row["loss"], row["error"]) == pytest.approx((score.loss, score.error), rel=1e-6)


class _Padded(nn.Module):
    def __init__(self, pad):
        super().__init__()
        self.pad = pad

    def forward(self, x):
        rows = x[:, :, ::2, ::2]
        zeros = torch.zeros(len(x), self.pad, *rows.shape[2:])
        return torch.cat([zeros, rows, zeros], dim=1)


def test_random_lesions_are_the_same_for_both_networks(split):
    mean = pixel_mean(split)
    tables = [
        lesion_random(
            network(f"{family}14", normalise(split.pixels, mean)), split, mean, counts=(1, 3), repeats=2, progress=False
        )
        for family in ("plain", "resnet")
    ]
    assert tables[0]["removed"].tolist() == tables[1]["removed"].tolist()
    assert tables[0]["count"].tolist() == [1, 1, 3, 3]
    assert all(len(set(names.split())) == count for names, count in zip(tables[0]["removed"], tables[0]["count"]))
    model = network("resnet14", normalise(split.pixels, mean))
    with without_blocks(model, tables[1]["removed"].iloc[3].split()):
        assert evaluate(model, split, mean).loss == tables[1]["loss"].iloc[3]


def test_wrong_lesions_are_refused(split):
    model = build_model("resnet8")
    with pytest.raises(InputError, match="no block 'layer4.0'"), without_blocks(model, ["layer1.0", "layer4.0"]):
        pass
    assert len(basic_blocks(model)) == 3
    with pytest.raises(InputError, match="cannot take out 2 blocks: this network has 1 that keep the shape"):
        lesion_random(model, split, pixel_mean(split), counts=(2,), progress=False)


# --- Paths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_the_gradients_of_all_paths_add_up_to_the_gradient(shortcut, batch):
    images, labels = batch
    torch.manual_seed(0)
    model = build_model("resnet8", shortcut)
    calibrate(model, images)
    names = list(basic_blocks(model))
    paths = [set(chosen) for length in range(4) for chosen in itertools.combinations(names, length)]
    assert len(paths) == 8
    total = sum(gradient_along(model, images, labels, path) for path in paths)
    images = images.clone().requires_grad_()
    F.cross_entropy(model.eval()(images), labels).backward()
    assert torch.allclose(total, images.grad, atol=1e-6 * images.grad.abs().max() + 1e-7)
    longest = gradient_along(model, images.detach(), labels, names)
    assert not torch.allclose(longest, images.grad, atol=1e-4)


def test_path_lengths_count_all_paths(batch):
    images, labels = batch
    model = network("resnet14", images)
    table = path_lengths(model, images, labels, samples=2)
    assert table["paths"].tolist() == [1, 6, 15, 20, 15, 6, 1]
    assert table["share"].sum() == pytest.approx(1)
    shortest = gradient_along(model, images, labels, ()).norm().item()
    assert table["total"].iloc[0] == pytest.approx(shortest)
    with pytest.raises(InputError, match="only one path"):
        path_lengths(build_model("plain8"), images, labels)


# --- Before the first step ----------------------------------------------------------------------------


class Wide(nn.Module):
    """A wide, plain, fully connected network with batch normalisation and ReLU."""

    def __init__(self, depth: int, width: int):
        super().__init__()
        self.depth = depth
        for layer in range(1, depth + 1):
            self.add_module(f"conv{layer}", nn.Linear(width, width, bias=False))
            self.add_module(f"bn{layer}", nn.BatchNorm1d(width))
        self.fc = nn.Linear(width, 10)

    def forward(self, x):
        for layer in range(1, self.depth + 1):
            x = F.relu(getattr(self, f"bn{layer}")(getattr(self, f"conv{layer}")(x)))
        return self.fc(x)


def test_in_a_wide_plain_network_the_gradient_grows_as_theory_says():
    torch.manual_seed(0)
    norms = output_gradient_norms(Wide(30, 400), torch.randn(400, 400), torch.arange(400) % 10)
    growth = (norms[0] / norms[24]).item() ** (1 / 24)
    assert growth == pytest.approx(GROWTH, rel=0.02) and pytest.approx(1.2112, abs=1e-4) == GROWTH


def test_growth_is_that_between_the_ends_of_a_stage(batch):
    images, labels = batch
    torch.manual_seed(0)
    model = build_model("plain14")
    norms = output_gradient_norms(model, images, labels).tolist()
    table = gradient_growth(model, images, labels)
    assert table["stage"].tolist() == ["layer1", "layer2", "layer3"] and table["layers"].tolist() == [4, 4, 4]
    assert table["growth"].tolist() == pytest.approx(
        [(norms[first] / norms[first + 3]) ** (1 / 3) for first in (1, 5, 9)]
    )


def test_branches_of_a_fresh_network_have_variance_one(batch, untouched):
    images, _ = batch
    torch.manual_seed(0)
    model = build_model("resnet20").eval()
    untouched.append((model, copy.deepcopy(model.state_dict())))
    table = branch_variances(model, images)
    assert not model.training
    assert table["name"].tolist() == list(basic_blocks(model))
    # batch normalisation sees to the branch; gain 1, bias 0
    assert table["branch"].tolist() == pytest.approx(9 * [1], rel=5e-3)
    assert (table["ratio"] * table["shortcut"]).tolist() == pytest.approx(table["branch"].tolist())
    stem = F.relu(F.batch_norm(model.conv1(images), None, None, training=True))
    assert table["shortcut"].iloc[0] == pytest.approx(stem.var(dim=(0, 2, 3)).mean().item(), rel=1e-5)
    padded = table.set_index("name").loc["layer2.0", "shortcut"]
    assert padded < table.set_index("name").loc["layer1.2", "shortcut"]  # half of the channels are zeros
    assert branch_variances(build_model("plain8"), images).empty
