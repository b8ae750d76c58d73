"""Treatments against what they promise."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resnet56 import Engine, Recipe, Trainer, build_model, fit
from resnet56.layers import basic_blocks
from resnet56.records.suites import (
    TREATMENTS,  # fmt: skip
    faded,
    switched_on,
)
from resnet56.treatments import (
    Adam,
    BranchGain,
    Clip,
    DeltaOrthogonal,
    Dirac,
    DiracAndClip,
    KeepLength,
    LayerwiseSteps,
    Shortcuts,
    Treatment,
    Warmup,
    weights,
)

RECIPE = Recipe(iterations=6, batch_size=20, lr=0.05, seed=4)


def train(split, treatment=None, arch="plain8", recipe=RECIPE, kind=Trainer, steps=None):
    torch.manual_seed(recipe.seed)
    trainer = kind(build_model(arch), split, recipe, "cpu", treatment)
    for _ in range(recipe.iterations if steps is None else steps):
        trainer.take_step()
    return trainer


def same_bits(one, other) -> bool:
    return all(map(torch.equal, one.model.state_dict().values(), other.model.state_dict().values()))


@pytest.mark.parametrize("kind", [Trainer, Engine])
def test_strength_1_is_the_residual_network_and_0_the_plain_one_to_the_bit(split, kind):
    assert same_bits(train(split, Shortcuts(1.0), "resnet8", kind=kind), train(split, None, "resnet8", kind=kind))
    assert same_bits(train(split, Shortcuts(0.0), "resnet8", kind=kind), train(split, None, "plain8", kind=kind))
    half = train(split, Shortcuts(0.5), "resnet8", kind=kind)
    assert not same_bits(half, train(split, None, "resnet8", kind=kind))


def test_a_shortcut_of_strength_s_adds_s_times_the_input():
    model = build_model("resnet8").eval()
    Shortcuts(0.3).start(model)
    for block, channels, size in zip(basic_blocks(model).values(), (16, 16, 32), (32, 32, 16), strict=True):
        x = torch.randn(2, channels, size, size)
        torch.testing.assert_close(block(x), F.relu(block.branch(x) + 0.3 * block.shortcut(x)))


def test_shortcuts_in_one_stage_only():
    model = build_model("resnet14")
    Shortcuts(1.0, ("layer2",)).start(model)
    assert [block.strength for block in basic_blocks(model).values()] == [0, 0, 1, 1, 0, 0]


def test_a_faded_network_ends_as_the_plain_one(split):
    treated = train(split, Shortcuts(faded), "resnet8")
    plain = build_model("plain8").eval()
    plain.load_state_dict(treated.model.state_dict())
    images = torch.randn(5, 3, 32, 32)
    assert torch.equal(plain(images), treated.model.eval()(images))
    assert [faded(x) for x in (0, 0.3, 0.6, 1)] == pytest.approx([1, 0.5, 0, 0])
    assert [switched_on(x) for x in (0, 0.19, 0.2, 1)] == [0, 0, 1, 1]


def test_a_dirac_network_computes_what_its_stem_computes():
    model = build_model("plain14").eval()
    Dirac().start(model)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        stem = F.relu(model.bn1(model.conv1(images)))
        last = model.layer3(model.layer2(model.layer1(stem)))
    assert last.shape == (4, 64, 8, 8)
    expected = stem[:, :, ::4, ::4] / (1 + 1e-5) ** (12 / 2)  # batch normalisation's epsilon, twelve times
    torch.testing.assert_close(last[:, 24:40], expected)  # 16 -> 32 -> 64: 8 and 16 new channels on either side
    assert last[:, :24].abs().max() == 0 == last[:, 40:].abs().max()


def test_shortcuts_have_the_strength_of_the_start_before_the_first_step():
    model = build_model("resnet8")
    for strength, expected in ((faded, 1), (switched_on, 0)):
        Shortcuts(strength).start(model)
        assert [block.strength for block in basic_blocks(model).values()] == [expected] * 3


def test_a_treatment_is_told_the_progress_of_the_run(split):
    class Listener(Treatment):
        heard = []

        def before_step(self, model, progress):
            self.heard.append(progress)
            return 1.0

    train(split, Listener())  # an epoch has five steps, the run six
    assert Listener.heard == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])


def test_a_treatment_is_called_by_what_it_does():
    """The numbers in the names of the suite's treatments, and those in the chapter, are the treatments'."""
    made = {}
    for name, (arch, treatment, _) in TREATMENTS.items():
        made[name] = treatment(), build_model(arch[:-2] + "8")
        made[name][0].start(made[name][1])
    for strength in (0.0, 0.25, 0.5, 0.75, 1.0):
        blocks = basic_blocks(made[f"strength-{strength}"][1]).values()
        assert [block.strength for block in blocks] == [strength] * 3
    for number, stage in enumerate(("layer1", "layer2", "layer3")):
        blocks = basic_blocks(made[f"only-{stage}"][1]).values()
        assert [block.strength for block in blocks] == [float(place == number) for place in range(3)]
    for name, gain in (("zero-gain", 0), ("gain-3", 3), ("gain-10", 10)):
        assert all((block.bn2.weight == gain).all() for block in basic_blocks(made[name][1]).values())
    warmup, model = made["warmup"]  # a tenth of the run at a hundredth of the rate
    assert [warmup.before_step(model, progress) for progress in (0, 0.0999, 0.1, 0.9)] == [0.01, 0.01, 1, 1]
    for name in ("clip", "dirac-clip", "layerwise"):
        treatment, model = made[name]
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        treatment.after_backward(model)
        if name == "layerwise":
            ratios = [(weight.grad.norm() / weight.norm()).item() for weight in weights(model)]
            assert ratios == pytest.approx([0.1] * len(ratios), rel=1e-4)
        else:
            assert nn.utils.get_total_norm([p.grad for p in model.parameters()]).item() == pytest.approx(1, rel=1e-4)
    changes = {name: change for name, (_, _, change) in TREATMENTS.items() if change}
    assert changes == {"adam": {"lr": 0.001, "momentum": 0.0}, "delta-orthogonal": {"lr": 0.01}}


def test_clipping_bounds_the_gradient_of_all_parameters_together(split):
    free, clipped = (train(split, treatment, steps=1) for treatment in (None, Clip(0.01)))
    lengths = [
        math.sqrt(sum(p.grad.square().sum().item() for p in trainer.model.parameters())) for trainer in (free, clipped)
    ]
    assert lengths[0] > 0.01 and lengths[1] == pytest.approx(0.01, rel=1e-4)


def test_dirac_and_clip_is_both(split):
    model = build_model("plain14")
    DiracAndClip(0.01).start(model)
    kernels = [block.conv1.weight for block in list(basic_blocks(model).values())[:2]]
    assert all(torch.equal(kernel, nn.init.dirac_(torch.empty(16, 16, 3, 3))) for kernel in kernels)
    gradients = [p.grad for p in train(split, DiracAndClip(0.01), steps=1).model.parameters()]
    assert math.sqrt(sum(gradient.square().sum().item() for gradient in gradients)) == pytest.approx(0.01, rel=1e-4)


def test_layerwise_steps_have_the_stated_ratio(split):
    recipe = dataclasses.replace(RECIPE, weight_decay=0.0, momentum=0.0)
    torch.manual_seed(recipe.seed)
    before = [weight.detach().clone() for weight in weights(build_model("plain8"))]
    after = weights(train(split, LayerwiseSteps(0.1), recipe=recipe, steps=1).model)
    for old, new in zip(before, after, strict=True):
        assert ((new - old).norm() / old.norm()).item() == pytest.approx(0.1 * recipe.lr, rel=1e-3)


def test_weights_kept_at_length_have_it_after_each_step(split):
    treatment = KeepLength()
    trainer = train(split, treatment, steps=0)
    initial = [weight.norm().item() for weight in weights(trainer.model)]
    for _ in range(3):
        trainer.take_step()
        assert [weight.norm().item() for weight in weights(trainer.model)] == pytest.approx(initial, rel=1e-5)
    moved = train(split, None, steps=3)
    assert [weight.norm().item() for weight in weights(moved.model)] != pytest.approx(initial, rel=1e-3)


def test_adam_takes_the_steps_of_torchs_own(split):
    recipe = dataclasses.replace(RECIPE, lr=0.001, momentum=0.0, weight_decay=0.0, milestones=())
    treated = train(split, Adam(), recipe=recipe)
    torch.manual_seed(recipe.seed)
    model = build_model("plain8").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    for step in range(recipe.iterations):
        images, labels = treated.batches[step]
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    for one, other in zip(treated.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=2e-4)


def test_warmup_takes_a_hundredth_of_the_rate_first(split):
    recipe = dataclasses.replace(RECIPE, iterations=10, weight_decay=0.0, momentum=0.0)
    torch.manual_seed(recipe.seed)
    start = build_model("plain8").fc.weight.detach().clone()
    slow, fast = (
        train(split, treatment, recipe=recipe, steps=1).model.fc.weight - start for treatment in (Warmup(0.1), None)
    )
    torch.testing.assert_close(slow, fast / 100, rtol=1e-2, atol=1e-6)
    assert [Warmup(0.1).before_step(None, x) for x in (0, 0.09, 0.1, 1)] == [0.01, 0.01, 1, 1]


def test_zero_gain_makes_each_block_that_keeps_its_shape_the_identity():
    model = build_model("resnet14")
    BranchGain(0.0).start(model)
    x = torch.rand(3, 16, 32, 32)
    assert torch.equal(model.layer1[1](x), x)
    BranchGain(3.0).start(model)
    assert (model.layer2[1].bn2.weight == 3).all()


def test_delta_orthogonal_weights_keep_lengths_and_nothing_normalises():
    model = build_model("plain14")
    torch.manual_seed(0)
    DeltaOrthogonal().start(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    x = torch.randn(2, 16, 8, 8)
    out = model.layer1[0].conv1(x)
    assert out.norm().item() == pytest.approx(math.sqrt(2) * x.norm().item(), rel=1e-4)
    wide = model.layer2[0].conv1(x)
    assert wide.shape == (2, 32, 4, 4) and wide.norm().item() == pytest.approx(
        math.sqrt(2) * x[:, :, ::2, ::2].norm().item(), rel=1e-4
    )


@pytest.mark.parametrize("name", TREATMENTS)
def test_each_treatment_is_resumed_with_the_same_bits(split, name):
    arch, treatment, changes = TREATMENTS[name]
    recipe = dataclasses.replace(RECIPE, **{"lr": 0.01, **changes})
    arch = arch.replace("56", "8").replace("20", "8")
    whole = train(split, treatment(), arch, recipe)
    first = train(split, treatment(), arch, recipe, steps=3)
    torch.manual_seed(recipe.seed)
    second = Trainer(build_model(arch), split, recipe, "cpu", treatment())
    second.load_state_dict(first.state_dict())
    fit(second)
    assert same_bits(whole, second)
    if treatment is not Treatment and name not in ("strength-1.0", "clip"):
        assert not same_bits(whole, train(split, None, arch, recipe))
