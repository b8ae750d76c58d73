"""The recorder against gradients taken by hand; and that it changes nothing."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resnet56 import Engine, GradientRecorder, Recipe, Trainer, build_model, fit
from resnet56.fast.engine import has_hooks
from resnet56.layers import stage_of
from resnet56.observe import output_gradient_norms


@pytest.fixture
def probe():
    torch.manual_seed(9)
    return torch.randn(10, 3, 32, 32), torch.arange(10)


def test_recorded_norms_are_those_of_autograd():
    torch.manual_seed(0)
    model = build_model("resnet8", shortcut="B")
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    with GradientRecorder(model) as recorder:
        F.cross_entropy(model(images), labels).backward()
    table = recorder.table()
    assert table["depth"].tolist() == list(range(1, 9)) and table["step"].eq(0).all()
    assert table["stage"].tolist() == ["stem"] + ["layer1"] * 2 + ["layer2"] * 2 + ["layer3"] * 2 + ["head"]
    for row in table.itertuples():
        weight = model.get_submodule(row.layer).weight
        assert row.gradient_norm == pytest.approx(weight.grad.double().pow(2).sum().sqrt().item(), rel=1e-5)
        assert row.weight_norm == pytest.approx(weight.double().pow(2).sum().sqrt().item(), rel=1e-5)
        assert row.gradient_rms == pytest.approx(weight.grad.double().pow(2).mean().sqrt().item(), rel=1e-5)
        assert row.gradient_to_weight == pytest.approx((weight.grad.norm() / weight.norm()).item(), rel=1e-5)
        assert row.zero_share == 0


def test_zero_gradients_are_counted():
    model = build_model("plain8")
    nn.init.zeros_(model.layer1[0].bn2.weight[:4])
    nn.init.constant_(model.layer1[0].bn2.bias[:4], -1)  # a quarter of the channels is dead
    with GradientRecorder(model) as recorder:
        F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    shares = recorder.table().set_index("layer")["zero_share"]
    assert shares["layer1.0.conv2"] == 0.25 and shares["layer2.0.conv1"] == 0.25 and shares["layer2.0.conv2"] == 0


@pytest.mark.parametrize("arch", ["plain8", "resnet8"])
def test_gradients_at_outputs_are_those_of_a_forward_pass_by_hand(arch, probe):
    torch.manual_seed(0)
    model = build_model(arch)
    images, labels = probe
    outputs = []

    def keep(output):
        output.retain_grad()
        outputs.append(output)
        return output

    by_hand = copy.deepcopy(model).train()
    x = F.relu(keep(by_hand.bn1(by_hand.conv1(images))))
    for stage in (by_hand.layer1, by_hand.layer2, by_hand.layer3):
        for block in stage:
            out = keep(block.bn2(block.conv2(F.relu(keep(block.bn1(block.conv1(x)))))))
            if block.residual:
                out = out + (block.downsample(x) if block.downsample else x)
            x = F.relu(out)
    F.cross_entropy(keep(by_hand.fc(x.mean(dim=(2, 3)))), labels).backward()

    before = copy.deepcopy(model.state_dict())
    norms = output_gradient_norms(model.eval(), images, labels)
    assert torch.allclose(norms, torch.stack([output.grad.norm() for output in outputs]), rtol=1e-4)
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_two_layer_linear_net_by_hand():
    """For y = b a x and the loss y, the gradients are b x and a x."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.fc = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)

        def forward(self, x):
            return self.fc(self.conv1(x))

    net = Net()
    nn.init.constant_(net.conv1.weight, 3.0)
    nn.init.constant_(net.fc.weight, -5.0)
    with GradientRecorder(net) as recorder:
        net(torch.tensor([[2.0]])).sum().backward()
    assert recorder.table()["gradient_norm"].tolist() == [10.0, 6.0]


def test_the_gradient_at_a_layers_output_does_not_depend_on_what_is_frozen(probe):
    torch.manual_seed(0)
    model = build_model("resnet8")
    expected = output_gradient_norms(model, *probe)
    for frozen in (model.conv1, model.bn1, model.layer1):
        frozen.requires_grad_(False)
    torch.testing.assert_close(output_gradient_norms(model, *probe), expected)
    assert expected.isfinite().all()


@pytest.mark.parametrize("loop", [Trainer, Engine])
def test_the_probe_is_measured_in_the_precision_of_the_training(split, probe, loop):
    torch.manual_seed(0)
    trainer = loop(build_model("plain8"), split, Recipe(iterations=1, batch_size=20, precision="bf16"), "cpu")
    bf16, fp32 = (output_gradient_norms(trainer.model, *probe, precision) for precision in ("bf16", "fp32"))
    with GradientRecorder(trainer, probe=probe) as recorder:
        fit(trainer)
    recorded = torch.tensor(recorder.table()["output_gradient_norm"].tolist())
    torch.testing.assert_close(recorded, bf16)
    assert ((recorded - fp32).abs() > 1e-4 * fp32).any()


@pytest.mark.parametrize(("every", "steps"), [(1, list(range(7))), (3, [0, 3, 6]), (50, [0])])
@pytest.mark.parametrize("loop", [Trainer, Engine])
def test_every_nth_step_is_recorded(split, probe, loop, every, steps):
    tables = []
    for network in ("model", "trainer"):
        torch.manual_seed(0)
        trainer = loop(build_model("plain8"), split, Recipe(iterations=7, batch_size=20), "cpu")
        with GradientRecorder(trainer.model if network == "model" else trainer, every, probe) as recorder:
            fit(trainer)
        tables.append(recorder.table())
    assert tables[0].equals(tables[1]) and tables[0].notna().all(axis=None)
    assert tables[0]["step"].unique().tolist() == steps and len(tables[0]) == 8 * len(steps)


def test_a_resumed_trainer_records_the_steps_it_takes(split):
    trainer = Trainer(build_model("resnet8"), split, Recipe(iterations=7, batch_size=20), "cpu")
    for _ in range(4):
        trainer.take_step()
    with GradientRecorder(trainer, every=3) as recorder:
        fit(trainer)
    assert recorder.table()["step"].unique().tolist() == [6]


def test_what_was_recorded_is_part_of_a_trainers_state(split, probe):
    def new():
        torch.manual_seed(0)
        trainer = Trainer(build_model("resnet8"), split, Recipe(iterations=7, batch_size=20), "cpu")
        return trainer, GradientRecorder(trainer, 2, probe)

    trainer, whole = new()
    with whole:
        fit(trainer)
    trainer, first = new()
    with first:
        for _ in range(3):
            trainer.take_step()
        state = copy.deepcopy(trainer.state_dict())
    trainer, second = new()
    with second:
        trainer.load_state_dict(state)
        fit(trainer)
    assert second.table().equals(whole.table())


def test_recording_changes_no_bit_and_leaves_no_hook(split, probe):
    nets = []
    for record in (False, True):
        torch.manual_seed(0)
        trainer = Trainer(build_model("resnet8"), split, Recipe(iterations=6, batch_size=20), "cpu")
        if record:
            with GradientRecorder(trainer, every=2, probe=probe), GradientRecorder(trainer.model, every=3, probe=probe):
                fit(trainer)
        else:
            fit(trainer)
        nets.append(trainer.model)
    for one, other in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert not has_hooks(nets[1]) and not trainer.recorders


def test_stages():
    names = ["conv1", "layer1.0.conv1", "layer3.8.conv2", "fc"]
    assert [stage_of(name) for name in names] == ["stem", "layer1", "layer3", "head"]
