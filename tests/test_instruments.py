"""Instruments against closed forms and loops written out by hand."""

import copy
import itertools
import math
import random
import signal

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from resnet56 import InputError, build_model, evaluate, pixel_mean
from resnet56.data import Split, normalise
from resnet56.instruments import lesions
from resnet56.instruments.diagnosis import (
    dead_filters,
    diagnosis,
    identity_distances,
    inspect_network,
    layer_responses,
    turning_angles,
)
from resnet56.instruments.initialisation import GROWTH, branch_ratio, branch_variances, calibrate, shortcut_power
from resnet56.instruments.lesions import lesion_each, lesion_random, without_blocks
from resnet56.instruments.paths import gradients_along, path_lengths
from resnet56.instruments.shattering import along_line, autocorrelation, brown_noise, input_gradients, line, white_noise
from resnet56.layers import basic_blocks, weighted_layers
from resnet56.observe import output_gradient_norms
from resnet56.progress import Interrupted
from resnet56.treatments import BranchGain, DeltaOrthogonal, Dirac, Shortcuts

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


def test_gradients_of_many_images_are_those_of_each_alone(batch):
    model = network("plain8", batch[0])
    images = torch.cat([batch[0].roll(shift, dims=3) for shift in range(5)])[:130]
    together = input_gradients(model, images, output=1)
    assert together.shape == (130, 3072)
    for place in (0, 127, 128, 129):
        alone = input_gradients(model, images[place : place + 1], output=1)[0]
        assert torch.allclose(together[place], alone, rtol=1e-3, atol=1e-6)


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


def test_a_series_that_is_too_short_is_refused():
    with pytest.raises(InputError, match="lag 5 of a series of 5"):
        autocorrelation(torch.randn(5, 2), 5)


def test_the_slope_along_the_line_is_that_of_the_logit(batch):
    images, _ = batch
    model = network("resnet8", images).double()
    start, end = images[:2].double()
    table = along_line(model, start, end, points=5, output=2)
    step = 1e-6
    with torch.no_grad():
        for row in table.itertuples():
            here, up, down = (model(start.lerp(end, row.position + d)[None])[0, 2].item() for d in (0, step, -step))
            assert row.logit == pytest.approx(here) and row.slope == pytest.approx((up - down) / (2 * step), rel=1e-3)
    assert table["position"].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_lines_need_a_network_with_such_a_logit(batch):
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(3072, 10)).requires_grad_(False)
    assert input_gradients(model, batch[0], output=9).shape == (32, 3072)
    for other, output in ((model, 10), (model[:1], 0)):
        with pytest.raises(InputError, match=f"no logit {output}"):
            input_gradients(other, batch[0], output)


def test_calibrated_statistics_are_those_of_the_batch(batch):
    images, _ = batch
    torch.manual_seed(0)
    model = build_model("plain8")
    model(images), model(2 * images)  # other statistics, to be replaced
    calibrate(model, images)
    assert model.training and model.bn1.momentum == 0.1 and not any(m._forward_hooks for m in model.modules())
    x = model.conv1(images)
    assert torch.allclose(model.bn1.running_mean, x.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(model.bn1.running_var, x.var(dim=(0, 2, 3)), rtol=1e-4)
    with torch.no_grad():
        assert torch.allclose(model.eval()(images), model.train()(images), atol=1e-3)


def test_normalisation_without_running_statistics_is_left_alone(batch):
    model = build_model("plain8")
    model.bn1 = nn.BatchNorm2d(16, track_running_stats=False)
    calibrate(model, batch[0])
    assert model.bn1.running_mean is None and model.layer1[0].bn1.running_mean.any()


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
    assert all(
        len(set(names.split())) == count for names, count in zip(tables[0]["removed"], tables[0]["count"], strict=True)
    )
    model = network("resnet14", normalise(split.pixels, mean))
    with without_blocks(model, tables[1]["removed"].iloc[3].split()):
        assert evaluate(model, split, mean).loss == tables[1]["loss"].iloc[3]


@both
def test_the_control_has_batch_normalisation_estimated_again(family, split, untouched):
    mean = pixel_mean(split)
    images = normalise(split.pixels, mean)
    model = network(f"{family}8", images)
    untouched.append((model, copy.deepcopy(model.state_dict())))
    plain = lesion_each(model, split, mean, progress=False)
    table = lesion_each(model, split, mean, recalibrate=images[:40], progress=False)
    assert table[list(plain)].equals(plain)
    for names in ((), ("layer1.0",), ("layer2.0",)):
        lesioned = copy.deepcopy(model)
        with without_blocks(lesioned, names):
            calibrate(lesioned, images[:40])
            score = evaluate(lesioned, split, mean)
        row = table.set_index("removed").loc[" ".join(names)]
        assert (row["loss_recalibrated"], row["error_recalibrated"]) == (score.loss, score.error)
    assert (table["loss_recalibrated"] != table["loss"]).all()
    several = lesion_random(model, split, mean, counts=(1,), repeats=1, recalibrate=images[:40], progress=False)
    assert several["loss_recalibrated"].item() == table["loss_recalibrated"].iloc[1]


def test_a_lesion_leaves_the_shortcut_its_strength(batch):
    images, _ = batch
    model = network("resnet14", images)
    Shortcuts(0.5).start(model)
    x = F.relu(torch.randn(2, 16, 32, 32))
    with without_blocks(model, ["layer1.1", "layer2.0"]):
        assert torch.equal(model.layer1[1](x), 0.5 * x)
        assert torch.equal(model.layer2[0](x), 0.5 * F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)))
    Shortcuts(0.0).start(model)
    with without_blocks(model, ["layer1.1"]):
        assert torch.equal(model.layer1[1](x), x), "as in a plain network, the block is left out"


def test_blocks_are_back_after_an_error(batch):
    model = network("resnet8", batch[0])
    expected = model(batch[0])
    with pytest.raises(ZeroDivisionError), without_blocks(model, ["layer1.0", "layer3.0", "layer1.0"]):
        assert not torch.equal(model(batch[0]), expected)
        raise ZeroDivisionError
    assert torch.equal(model(batch[0]), expected)


def test_part_of_other_lesions_is_refused(split, tmp_path, monkeypatch):
    mean, partial = pixel_mean(split), tmp_path / "partial.json"
    torch.manual_seed(0)
    model = build_model("plain8")
    expected = lesion_each(model, split, mean, progress=False)

    def stop(*arguments):
        signal.raise_signal(signal.SIGINT)
        return evaluate(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(lesions, "evaluate", stop)
        lesion_each(model, split, mean, progress=False, partial=partial)
    torch.manual_seed(0)
    residual = build_model("resnet8")  # the same numbers in another network
    moved = copy.deepcopy(model)
    moved.layer1[0].bn1.running_mean[0] += 1
    for other in (
        (residual, split, mean),
        (moved, split, mean),
        (model, Split(255 - split.pixels, split.labels), mean),
        (model, Split(split.pixels, (split.labels + 1) % 10), mean),
        (model, split, mean + 1),
    ):
        with pytest.raises(InputError, match="another measurement"):
            lesion_each(*other, progress=False, partial=partial)
    assert lesion_each(model, split, mean, progress=False, partial=partial).equals(expected)
    partial.write_text("{}")
    with pytest.raises(InputError, match="part of a measurement, is damaged"):
        lesion_each(model, split, mean, progress=False, partial=partial)


def test_lesions_reach_into_a_wrapper(split, batch):
    mean = pixel_mean(split)
    model = network("resnet8", batch[0])
    wrapped = nn.DataParallel(copy.deepcopy(model))
    tables = [lesion_each(net, split, mean, progress=False) for net in (model, wrapped)]
    assert tables[0].equals(tables[1])


def test_instruments_for_blocks_refuse_networks_without_them(split, batch):
    images, labels = batch
    stranger, mean = torchvision.models.resnet18(num_classes=10), pixel_mean(split)
    for instrument in (
        lambda: lesion_each(stranger, split, mean, progress=False),
        lambda: lesion_random(stranger, split, mean, progress=False),
        lambda: path_lengths(stranger, images, labels),
        lambda: branch_variances(stranger, images),
        lambda: diagnosis(stranger, images, labels),
    ):
        with pytest.raises(InputError, match="ResNet has no blocks of resnet56.model.BasicBlock: use build_model"):
            instrument()
    assert layer_responses(stranger, images)["std"].notna().all()


def test_wrong_lesions_are_refused(split):
    model = build_model("resnet8")
    with pytest.raises(InputError, match="no block 'layer4.0'"), without_blocks(model, ["layer1.0", "layer4.0"]):
        pass
    assert len(basic_blocks(model)) == 3
    with pytest.raises(InputError, match="cannot take out 2 blocks: this network has 1 that keep the shape"):
        lesion_random(model, split, pixel_mean(split), counts=(2,), progress=False)


# --- Paths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shortcut, strength", [("A", 1.0), ("B", 1.0), ("A", 0.5)])
def test_the_gradients_of_all_paths_add_up_to_the_gradient(shortcut, strength, batch):
    images, labels = batch
    torch.manual_seed(0)
    model = build_model("resnet8", shortcut)
    Shortcuts(strength).start(model)
    calibrate(model, images)
    model.requires_grad_(False)
    names = list(basic_blocks(model))
    paths = [set(chosen) for length in range(4) for chosen in itertools.combinations(names, length)]
    assert len(paths) == 8
    found = gradients_along(model, images, labels, paths)
    assert model.training and found.shape == (8, *images.shape)
    images = images.clone().requires_grad_()
    F.cross_entropy(model.eval()(images), labels).backward()
    assert torch.allclose(found.sum(dim=0), images.grad, atol=1e-6 * images.grad.abs().max() + 1e-7)
    assert not torch.allclose(found[-1], images.grad, atol=1e-4)


def test_a_path_is_followed_by_detaching_all_others(batch):
    images, labels = batch
    model = network("resnet14", images)
    path = ["layer1.0", "layer2.1"]
    pixels = images.clone().requires_grad_()
    x = F.relu(model.bn1(model.conv1(pixels)))
    for name, block in basic_blocks(model).items():
        branch, shortcut = block.branch(x), block.shortcut(x)
        x = F.relu(branch + shortcut.detach() if name in path else branch.detach() + shortcut)
    F.cross_entropy(model.fc(x.mean(dim=(2, 3))), labels).backward()
    found = gradients_along(model, images, labels, [path, names := list(basic_blocks(model))])
    assert torch.allclose(found[0], pixels.grad, rtol=1e-3, atol=1e-4 * pixels.grad.abs().max())
    assert len(names) == 6 and not torch.equal(found[0], found[1])


def test_path_lengths_count_all_paths(batch, untouched):
    images, labels = batch[0][:8], batch[1][:8]
    model = network("resnet14", images)
    untouched.append((model, copy.deepcopy(model.state_dict())))
    table = path_lengths(model, images, labels)
    assert table["length"].tolist() == list(range(7)) and table["sampled"].equals(table["paths"])
    assert table["paths"].tolist() == [1, 6, 15, 20, 15, 6, 1]
    names = list(basic_blocks(model))
    for length in (0, 2):
        every = gradients_along(model, images, labels, list(itertools.combinations(names, length)))
        mean = every.flatten(1).norm(dim=1).mean().item()
        assert table["gradient"][length] == pytest.approx(mean) == table["gradient_low"][length]
    assert table["total"].tolist() == pytest.approx((table["paths"] * table["gradient"]).tolist())
    assert table["share"].tolist() == pytest.approx((table["total"] / table["total"].sum()).tolist())
    assert table["share_low"].tolist() == pytest.approx(table["share"].tolist()), "no sampling, no interval"
    with pytest.raises(InputError, match="only one path"):
        path_lengths(build_model("plain8"), images, labels)


def test_where_there_are_many_paths_some_are_drawn_at_random(batch):
    images, labels = batch[0][:1], batch[1][:1]
    model = network("resnet20", batch[0])
    whole = path_lengths(model, images, labels)
    table = path_lengths(model, images, labels, samples=30, seed=1)
    assert table["sampled"].tolist() == [1, 9, 30, 30, 30, 30, 30, 30, 9, 1]
    assert table["paths"].equals(whole["paths"]) and whole["sampled"].equals(whole["paths"])
    assert table["gradient"][[0, 1, 8, 9]].tolist() == pytest.approx(whole["gradient"][[0, 1, 8, 9]].tolist())
    table9 = path_lengths(model, images, labels, samples=9)
    assert table9["gradient"][[1, 8]].equals(table["gradient"][[1, 8]]), "as many as there are: each once"
    again = path_lengths(model, images, labels, samples=30, seed=1)
    assert table.equals(again) and not table.equals(path_lengths(model, images, labels, samples=30, seed=2))
    names, draw = list(basic_blocks(model)), random.Random(1)
    for length in range(2, 8):  # within four standard errors of the mean of all paths
        paths = [draw.sample(names, length) for _ in range(30)]
        norms = gradients_along(model, images, labels, paths).flatten(1).norm(dim=1)
        assert table["gradient"][length] == pytest.approx(norms.mean().item())
        assert abs(table["gradient"][length] - whole["gradient"][length]) < 4 * norms.std().item() / 30**0.5


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


def test_the_intervals_hold_what_all_paths_give(batch):
    images, labels = batch[0][:1], batch[1][:1]
    model = network("resnet20", batch[0])
    whole = path_lengths(model, images, labels)
    table = path_lengths(model, images, labels, samples=30, seed=1)
    assert table["sampled"].tolist() == [1, 9, 30, 30, 30, 30, 30, 30, 9, 1]
    assert (table["gradient_low"] <= table["gradient"]).all() and (table["gradient"] <= table["gradient_high"]).all()
    inside = (table["gradient_low"] <= whole["gradient"] + 1e-9) & (whole["gradient"] <= table["gradient_high"] + 1e-9)
    assert inside.sum() >= 8, "95 % intervals of six sampled lengths"
    again = path_lengths(model, images, labels, samples=30, seed=1)
    assert table.equals(again) and not table.equals(path_lengths(model, images, labels, samples=30, seed=2))
    # the standard error of a mean, 1.96 of which are half the interval
    names, draw = list(basic_blocks(model)), random.Random(1)
    for length in range(2, 5):
        paths = [draw.sample(names, length) for _ in range(30)]
        norms = gradients_along(model, images, labels, paths).flatten(1).norm(dim=1)
        half = (table["gradient_high"][length] - table["gradient_low"][length]) / 2
        assert half == pytest.approx(1.96 * norms.std(correction=0).item() / 30**0.5, rel=0.15)


def test_in_a_wide_plain_network_the_gradient_grows_as_theory_says():
    torch.manual_seed(0)
    norms = output_gradient_norms(Wide(30, 400), torch.randn(400, 400), torch.arange(400) % 10)
    growth = (norms[0] / norms[24]).item() ** (1 / 24)
    assert growth == pytest.approx(GROWTH, rel=0.02) and pytest.approx(1.2112, abs=1e-4) == GROWTH


def test_the_growth_is_that_of_relus_variance_in_a_simulation():
    torch.manual_seed(0)
    z = torch.randn(1_000_000)
    assert 0.5 / z.relu().var().item() == pytest.approx(GROWTH**2, rel=5e-3)


class WideBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        layers = (nn.Linear(width, width, bias=False), nn.BatchNorm1d(width))
        self.branch = nn.Sequential(*layers, nn.ReLU(), nn.Linear(width, width, bias=False), nn.BatchNorm1d(width))

    def forward(self, x):
        return F.relu(x + self.branch(x))


def test_shares_of_branches_are_those_of_a_reflected_random_walk():
    torch.manual_seed(0)
    x, variances = torch.zeros(200_000), []
    for _ in range(100):
        variances.append(x.var().item())  # of the shortcut of the next block
        x = (x + torch.randn(len(x))).relu()
    for block in (20, 50, 99):
        assert variances[block] == pytest.approx((1 - 2 / math.pi) * block, rel=0.03)
        assert 1 / variances[block] == pytest.approx(branch_ratio(block), rel=0.03)
    assert branch_ratio(1) == pytest.approx(2.752, abs=1e-3)


def test_with_shortcuts_the_gradient_grows_as_the_power_that_theory_says():
    assert shortcut_power() == pytest.approx(1.358, abs=1e-3)
    two = 2 * shortcut_power()
    share = np.linspace(0, 1, 1_000_001)[1:] - 5e-7  # the sum over blocks behind, by brute force
    back = 2 / np.pi * np.arcsin(np.sqrt(share)) * share ** (two - 1)
    assert back.mean() * GROWTH**2 / (1 - 2 / np.pi) == pytest.approx(1, abs=1e-4)

    torch.manual_seed(0)
    x, outputs = F.relu(torch.randn(256, 256)).requires_grad_(), []
    for _ in range(96):
        x = WideBlock(256)(x)
        x.retain_grad()
        outputs.append(x)
    (x * torch.randn(x.shape)).sum().backward()
    norms = [output.grad.norm().item() for output in outputs]
    power = math.log(norms[11] / norms[47]) / math.log(48 / 12)
    assert power == pytest.approx(shortcut_power(), rel=0.1)
    early, late = norms[11] / norms[23], norms[59] / norms[71]
    assert early > 1.5 * late, "no factor a layer: it falls"


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
    Shortcuts(0.5).start(model)
    halved = branch_variances(model, images)
    assert halved["shortcut"].iloc[0] == pytest.approx(table["shortcut"].iloc[0] / 4, rel=1e-5)
    with pytest.raises(InputError, match="plain network has no shortcuts"):
        branch_variances(build_model("plain8"), images)


# --- Diagnosis ----------------------------------------------------------------------------------------


def treated(arch, treatment=None):
    torch.manual_seed(0)
    model = build_model(arch)
    if treatment:
        treatment.start(model)
    return model


@pytest.fixture
def photos():
    """Smooth noise, more like photographs than white noise is."""
    torch.manual_seed(1)
    images = F.interpolate(torch.randn(64, 3, 8, 8), 32, mode="bicubic") / 4
    return images, torch.arange(64) % 10


def test_a_diagnosis_tells_the_treatments_apart(photos, untouched):
    models = {
        "plain": treated("plain14"),
        "residual": treated("resnet14"),
        "dirac": treated("plain14", Dirac()),
        "weak": treated("resnet14", Shortcuts(0.25)),
        "zero": treated("resnet14", BranchGain(0.0)),
    }
    untouched += [(model, copy.deepcopy(model.state_dict())) for model in models.values()]
    found = {name: diagnosis(model, *photos) for name, model in models.items()}
    assert all(
        list(row) == ["identity_distance", "gradient_growth", "autocorrelation_1", "autocorrelation_15", "dead_filters"]
        for row in found.values()
    )
    distance, growth, near, far = (
        {name: row[quantity] for name, row in found.items()} for quantity in list(found["plain"])[:4]
    )
    assert distance["plain"] > 0.95 and 0.3 < distance["residual"] < 0.6 and distance["dirac"] < 0.2
    assert distance["zero"] < 1e-6 and distance["residual"] < distance["weak"] < distance["plain"]
    assert growth["plain"] == pytest.approx(GROWTH, rel=0.1) and growth["zero"] == pytest.approx(1, abs=0.01)
    assert 1.05 < growth["residual"] < growth["plain"] and growth["dirac"] < 1.1
    assert near["plain"] < near["residual"] < near["zero"] and far["plain"] < far["residual"] < near["residual"]
    assert all(row["dead_filters"] == 0 for row in found.values())
    assert diagnosis(nn.DataParallel(models["plain"]), *photos) == pytest.approx(found["plain"])


def test_a_diagnosis_needs_no_normalisation(photos):
    found = diagnosis(treated("plain14", DeltaOrthogonal()), *photos)
    assert all(math.isfinite(value) for value in found.values()) and 0.9 < found["gradient_growth"] < 1.1


def test_growth_is_measured_between_the_ends_of_blocks(photos):
    model = treated("plain20")
    norms = dict(
        zip([name for name, _ in weighted_layers(model)], output_gradient_norms(model, *photos).tolist(), strict=True)
    )
    product = math.prod(norms[f"layer{n}.0.conv2"] / norms[f"layer{n}.2.conv2"] for n in (1, 2, 3))
    assert diagnosis(model, *photos)["gradient_growth"] == pytest.approx(product ** (1 / 12))
    assert math.isnan(diagnosis(treated("plain8"), *photos)["gradient_growth"])


def test_the_autocorrelation_is_that_of_a_calibrated_copy(photos):
    model = treated("resnet8")
    found = diagnosis(model, *photos)
    calibrate(model, photos[0])
    curve = autocorrelation(input_gradients(model, line(photos[0][0], photos[0][-1])), 15)
    assert [found["autocorrelation_1"], found["autocorrelation_15"]] == pytest.approx(curve[[1, 15]].tolist())


def test_the_distance_is_one_minus_the_squared_correlation_of_each_channel(photos):
    images, _ = photos
    model = treated("resnet14")
    seen = {}
    for name in ("layer1.1", "layer2.0"):
        model.get_submodule(name).register_forward_hook(lambda block, x, y, name=name: seen.update({name: (x[0], y)}))
    model(images)
    found = identity_distances(model, images)
    assert list(found) == list(basic_blocks(model))
    for name, skip, first in (("layer1.1", 1, 0), ("layer2.0", 2, 8)):
        x, y = (maps.detach().transpose(0, 1) for maps in seen[name])
        shares = [
            np.corrcoef(x[c, :, ::skip, ::skip].flatten(), y[first + c].flatten())[0, 1] ** 2 for c in range(len(x))
        ]
        assert found[name] == pytest.approx(1 - np.mean(shares), rel=1e-3)


def test_a_block_that_gives_the_opposite_or_nothing_is_far_from_the_identity(photos):
    images, _ = photos
    model = treated("plain8", Dirac())
    near = identity_distances(model, images)["layer1.0"]
    block = model.layer1[0]
    with torch.no_grad():
        block.conv2.weight.neg_()
        nn.init.constant_(block.bn2.bias, 3.0)
    assert near < 0.2 and identity_distances(model, images)["layer1.0"] == 1
    nn.init.constant_(block.bn2.bias, -100.0)
    assert identity_distances(model, images)["layer1.0"] == 1


@both
def test_dead_filters_are_those_that_relu_silences(family, photos):
    images, _ = photos
    model = treated(f"{family}14")
    assert dead_filters(model, images, training=True) == [0] * 14
    nn.init.constant_(model.bn1.bias[3:5], -100.0)
    nn.init.constant_(model.layer2[1].bn1.bias[7:8], -100.0)
    nn.init.constant_(model.layer1[1].bn2.bias[:1], -100.0)
    nn.init.constant_(model.layer3[0].bn2.bias[2:3], -2.0)  # not silent everywhere
    nn.init.constant_(model.fc.bias[:1], -100.0)  # no ReLU follows
    layers = [name for name, _ in weighted_layers(model)]
    dead = dict(zip(layers, dead_filters(model, images, training=True), strict=True))
    expected = dict.fromkeys(layers, 0) | {"conv1": 2, "layer1.1.conv2": 1, "layer2.1.conv1": 1}
    assert dead == expected
    assert diagnosis(model, *photos)["dead_filters"] == 4
    nn.init.constant_(model.layer1[1].bn2.weight[:1], 0.01)
    nn.init.constant_(model.layer1[1].bn2.bias[:1], -0.2)  # below 0 everywhere; a shortcut's sum is not
    assert dead_filters(model, images, training=True)[4] == (family == "plain")
    calibrate(model, 0 * images)
    assert sum(dead_filters(model, images)) != sum(dead_filters(model, images, training=True)), "the mode counts"


def test_an_inspection_sets_the_instruments_side_by_side(split):
    mean = pixel_mean(split)
    train, test = split[:40], split[40:]
    images, batch = normalise(test.pixels, mean), normalise(train.pixels, mean)
    model = network("resnet14", 0.1 * images)
    nn.init.constant_(model.layer2[1].bn1.bias[7:9], -100.0)
    nn.init.constant_(model.bn1.running_mean[:3], 100.0)  # dead only with the running statistics
    table = inspect_network(model, mean, train, test, progress=False)
    assert table[["depth", "layer", "stage", "std"]].equals(layer_responses(model, images))
    assert table["gradient"].tolist() == output_gradient_norms(model, batch, train.labels).tolist()
    dead = table.set_index("layer")["dead"]
    assert dead["conv1"] == 3 and dead["layer2.1.conv1"] == 2
    lesioned = table.dropna(subset="lesion").set_index("layer")["lesion"]
    assert lesioned.index.tolist() == [f"{name}.conv2" for name in basic_blocks(model)]
    for name in basic_blocks(model):
        with without_blocks(model, [name]):
            assert lesioned[f"{name}.conv2"] == evaluate(model, test, mean).error
    assert table.attrs == {"error": evaluate(model, test, mean).error}


def test_turning_angles_are_those_of_trigonometry():
    model = build_model("resnet8")
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.conv1.weight *= -3
        weight = model.layer1[0].conv1.weight
        other = torch.randn_like(weight)
        other -= (other * weight).sum() / weight.square().sum() * weight  # at a right angle
        weight += other * weight.norm() / other.norm() * math.tan(math.radians(0.01))
        model.fc.weight.zero_()
    table = turning_angles(before, model.state_dict()).set_index("layer")["angle"]
    assert table.index.tolist() == [name for name, _ in weighted_layers(model)]
    assert table["conv1"] == pytest.approx(180) and table["layer1.0.conv1"] == pytest.approx(0.01, rel=1e-2)
    assert table["layer1.0.conv2"] == 0 and math.isnan(table["fc"])
