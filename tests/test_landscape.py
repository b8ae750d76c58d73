"""The landscape against closed forms, against a loop that moves the weights by hand, and through interruptions."""

import copy
import math
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from resnet56 import build_model, evaluate
from resnet56.errors import InputError
from resnet56.instruments import landscape
from resnet56.instruments.landscape import filter_normalised_directions, loss_landscape
from resnet56.progress import Interrupted
from resnet56.train import Score

MEAN = torch.full((3, 32, 32), 120.0)


def trained(arch: str, shortcut: str = "A") -> nn.Module:
    """A network whose batch normalisation is not that of a fresh one."""
    torch.manual_seed(3)
    model = build_model(arch, shortcut)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.fixture
def images(split):
    return split[::10].to("cpu")[:4]


def loss_line(*arguments, seed=0, **options) -> pd.DataFrame:
    return loss_landscape(*arguments, axes=1, seeds=(seed,), **options)


def loss_surface(*arguments, seed=0, **options) -> pd.DataFrame:
    return loss_landscape(*arguments, seeds=(seed,), **options)


def direction_of(model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    return filter_normalised_directions(model, 1, seed)[0]


@pytest.mark.parametrize("arch, shortcut", [("plain8", "A"), ("resnet8", "B")])
def test_each_filter_of_the_direction_is_as_long_as_the_networks(arch, shortcut):
    model = trained(arch, shortcut)
    direction = direction_of(model)
    modules = dict(model.named_modules())
    assert list(direction) == [name for name, _ in model.named_parameters()]
    for name, part in direction.items():
        layer, kind = name.rsplit(".", 1)
        if isinstance(modules[layer], (nn.Conv2d, nn.Linear)) and kind == "weight":
            for own, filter in zip(modules[layer].weight, part, strict=True):
                assert math.sqrt(filter.double().square().sum()) == pytest.approx(
                    math.sqrt(own.detach().double().square().sum()), rel=1e-5
                )
        else:
            assert part.shape == model.get_parameter(name).shape and not part.any()


def test_the_direction_is_gaussian_and_that_of_its_seed():
    model = trained("resnet8")
    direction, other = direction_of(model), direction_of(model, seed=1)
    part = direction["layer3.0.conv2.weight"]
    normed = part / part.flatten(1).std(dim=1)[:, None, None, None]
    assert abs(normed.mean()) < 0.02 and normed.pow(4).mean() == pytest.approx(3, abs=0.1)  # a Gaussian's kurtosis
    cosine = nn.functional.cosine_similarity(part.flatten(), other["layer3.0.conv2.weight"].flatten(), dim=0)
    assert abs(cosine) < 0.03
    assert all(torch.equal(direction[name], again) for name, again in direction_of(model).items())


def test_a_filter_of_zeros_does_not_move():
    model = trained("plain8")
    nn.init.zeros_(model.conv1.weight[:2])
    part = direction_of(model)["conv1.weight"]
    assert not part[:2].any() and part[2:].isfinite().all() and part[2:].any()


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_linear_models_landscape_is_the_softmaxs_closed_form(split, at_once):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    table = loss_surface(model, split, MEAN, points=5, reach=2, seed=7, at_once=at_once, progress=False)

    one, two = (direction["1.weight"].double().numpy() for direction in filter_normalised_directions(model, 2, seed=7))
    weight, bias = (parameter.detach().double().numpy() for parameter in model[1].parameters())
    inputs = ((split.pixels - MEAN) / 255).double().numpy().reshape(len(split), -1)
    labels = split.labels.numpy()
    assert table["x"].tolist() == np.repeat([-2, -1, 0, 1, 2], 5).tolist()
    assert table["y"].tolist() == np.tile([-2, -1, 0, 1, 2], 5).tolist()
    for row in table.itertuples():
        logits = inputs @ (weight + row.x * one + row.y * two).T + bias
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
        assert row.loss == pytest.approx(losses.mean(), rel=1e-5)
        assert row.error == pytest.approx(100 * (logits.argmax(axis=1) != labels).mean())


@pytest.mark.parametrize("arch, shortcut", [("plain8", "A"), ("resnet8", "A"), ("resnet8", "B")])
def test_the_surface_is_that_of_a_loop_by_hand(images, arch, shortcut):
    model = trained(arch, shortcut)
    table = loss_surface(model, images, MEAN, points=3, reach=0.5, seed=2, progress=False)
    one, two = filter_normalised_directions(model, 2, seed=2)
    for row in table.itertuples():
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                parameter += row.x * one[name] + row.y * two[name]
        score = evaluate(moved, images, MEAN)
        assert (row.loss, row.error) == (pytest.approx(score.loss, rel=1e-4), score.error)
    together = loss_surface(model, images, MEAN, points=3, reach=0.5, seed=2, at_once=4, progress=False)
    pd.testing.assert_frame_equal(together, table, rtol=1e-4)
    assert table["loss"].nunique() == 9


def test_many_batches_make_one_mean(split, monkeypatch):
    model = trained("plain8")
    monkeypatch.setattr(landscape, "BATCH_SIZE", 30)
    alone, together = (loss_line(model, split, MEAN, points=3, at_once=n, progress=False) for n in (1, 3))
    pd.testing.assert_frame_equal(together, alone, rtol=1e-4)


def test_the_centre_is_the_network_itself_and_the_line_is_a_row_of_the_surface(images):
    model = trained("resnet8")
    line = loss_line(model, images, MEAN, points=5, seed=1, progress=False)
    surface = loss_surface(model, images, MEAN, points=5, seed=1, progress=False)
    score = evaluate(model, images, MEAN)
    centre = line[line["x"] == 0]
    assert centre["loss"].item() == pytest.approx(score.loss, rel=1e-5) and centre["error"].item() == score.error
    row = surface[surface["y"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(row[["seed", "x", "loss", "error"]], line, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("at_once", [1, 2])
def test_the_network_is_left_as_it_was(images, training, at_once):
    model = trained("resnet8").train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    strides = [parameter.stride() for parameter in model.parameters()]
    loss_line(model, images, MEAN, points=3, at_once=at_once, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert strides == [parameter.stride() for parameter in model.parameters()]
    assert all(module.training == training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("at_once", [1, 4])
def test_several_pairs_of_directions_are_several_landscapes(images, at_once):
    model = trained("resnet8")
    options = dict(points=3, reach=0.2, at_once=at_once, progress=False)
    for axes in (1, 2):
        table = loss_landscape(model, images, MEAN, axes=axes, seeds=(3, 5), **options)
        assert list(table)[: axes + 1] == ["seed", "x", "y"][: axes + 1] and len(table) == 2 * 3**axes
        for seed in (3, 5):
            alone = loss_landscape(model, images, MEAN, axes=axes, seeds=(seed,), **options)
            part = table[table["seed"] == seed].reset_index(drop=True)
            pd.testing.assert_frame_equal(part, alone, rtol=1e-4)


def test_what_cannot_be_moved_is_refused(images):
    with pytest.raises(InputError, match="no convolution or linear layer"):
        loss_landscape(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3072)), images, MEAN, progress=False)
    with pytest.raises(InputError, match="not built yet"):
        loss_landscape(nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), images, MEAN, progress=False)


def test_wrapped_and_frozen_networks_have_the_landscape_of_what_is_inside(images):
    model = trained("resnet8")
    expected = loss_line(model, images, MEAN, points=3, progress=False)
    wrapped = nn.DataParallel(copy.deepcopy(model).requires_grad_(False))
    pd.testing.assert_frame_equal(loss_line(wrapped, images, MEAN, points=3, progress=False), expected)


@pytest.mark.parametrize("axes", [0, 3])
def test_a_landscape_has_one_axis_or_two(images, axes):
    with pytest.raises(InputError, match=f"{axes} axes"):
        loss_landscape(trained("plain8"), images, MEAN, axes=axes, progress=False)


@pytest.mark.parametrize("points", [-1, 1, 4])
def test_a_grid_without_a_centre_is_refused(images, points):
    with pytest.raises(InputError, match="odd"):
        loss_line(trained("plain8"), images, MEAN, points=points, progress=False)


# --- Interrupted, and wild ----------------------------------------------------------------------------


def stop_at(call: int, monkeypatch):
    """Send SIGINT during evaluation number ``call``."""
    calls = []

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return evaluate(*arguments)

    monkeypatch.setattr(landscape, "evaluate", interrupted)
    return calls


def test_an_interrupted_surface_goes_on(images, tmp_path, monkeypatch):
    model, partial = trained("resnet8"), tmp_path / "partial.json"
    expected = loss_surface(model, images, MEAN, points=3, progress=False)
    stop_at(4, monkeypatch)
    with pytest.raises(Interrupted):
        loss_surface(model, images, MEAN, points=3, progress=False, partial=partial)
    calls = stop_at(0, monkeypatch)
    table = loss_surface(model, images, MEAN, points=3, progress=False, partial=partial)
    assert len(calls) == 5 and not partial.exists()
    pd.testing.assert_frame_equal(table, expected, check_exact=True)


def test_part_of_another_landscape_is_refused(images, tmp_path, monkeypatch):
    partial = tmp_path / "partial.json"
    torch.manual_seed(0)
    plain = build_model("plain8")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(1, patch)
        loss_line(plain, images, MEAN, points=3, progress=False, partial=partial)

    torch.manual_seed(0)
    residual = build_model("resnet8")  # the same numbers in another network
    moved = copy.deepcopy(plain)
    moved.layer1[0].bn1.running_mean[0] += 1
    others = [
        (residual, images, {}),
        (moved, images, {}),
        (plain, images[:3], {}),
        (plain, images, {"seed": 1}),
        (plain, images, {"reach": 2}),
    ]
    for model, seen, options in others:
        with pytest.raises(InputError, match="another measurement"):
            loss_line(model, seen, MEAN, points=3, progress=False, partial=partial, **options)
    loss_line(plain, images, MEAN, points=3, at_once=2, progress=False, partial=partial)  # its own goes on


def test_losses_that_are_not_finite_are_kept_through_an_interruption(images, tmp_path, monkeypatch):
    model, partial = trained("plain8"), tmp_path / "partial.json"
    nn.init.constant_(model.layer3[0].bn2.weight, 1e35)  # finite at the centre; far away the logits overflow
    options = dict(points=5, reach=30, progress=False)
    expected = loss_line(model, images, MEAN, **options)
    assert np.isfinite(expected["loss"]).tolist() == [False, False, True, False, False]
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(3, patch)
        loss_line(model, images, MEAN, partial=partial, **options)
    table = loss_line(model, images, MEAN, partial=partial, **options)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    together = loss_line(model, images, MEAN, at_once=5, **options)
    pd.testing.assert_frame_equal(together, expected, rtol=1e-4)


def test_an_infinite_loss_is_kept_through_an_interruption(images, tmp_path, monkeypatch):
    model, partial = trained("plain8"), tmp_path / "partial.json"

    def infinite(*arguments):
        signal.raise_signal(signal.SIGINT)
        return Score(math.inf, 90)

    monkeypatch.setattr(landscape, "evaluate", infinite)
    with pytest.raises(Interrupted):
        loss_line(model, images, MEAN, points=3, progress=False, partial=partial)
    monkeypatch.setattr(landscape, "evaluate", lambda *arguments: Score(1.0, 50))
    table = loss_line(model, images, MEAN, points=3, progress=False, partial=partial)
    assert table["loss"].tolist() == [math.inf, 1, 1] and table["error"].tolist() == [90, 50, 50]
