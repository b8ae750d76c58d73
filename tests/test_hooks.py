"""The recorder against gradients taken by hand; and that it changes nothing."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resnet56 import GradientRecorder, Recipe, Trainer, build_model, fit
from resnet56.hooks import stage_of


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


@pytest.mark.parametrize(("every", "steps"), [(1, list(range(7))), (3, [0, 3, 6]), (50, [0])])
def test_every_nth_step_is_recorded(split, every, steps):
    tables = []
    for network in ("model", "trainer"):
        torch.manual_seed(0)
        trainer = Trainer(build_model("plain8"), split, Recipe(iterations=7, batch_size=20), "cpu")
        with GradientRecorder(trainer.model if network == "model" else trainer, every=every) as recorder:
            fit(trainer, progress=False)
        tables.append(recorder.table())
    assert tables[0].equals(tables[1])
    assert tables[0]["step"].unique().tolist() == steps and len(tables[0]) == 8 * len(steps)


def test_a_resumed_trainer_records_the_steps_it_takes(split):
    trainer = Trainer(build_model("resnet8"), split, Recipe(iterations=7, batch_size=20), "cpu")
    for _ in range(4):
        trainer.take_step()
    with GradientRecorder(trainer, every=3) as recorder:
        fit(trainer, progress=False)
    assert recorder.table()["step"].unique().tolist() == [6]


def test_recording_changes_no_bit_and_leaves_no_hook(split):
    nets = []
    for record in (False, True):
        torch.manual_seed(0)
        trainer = Trainer(build_model("resnet8"), split, Recipe(iterations=6, batch_size=20), "cpu")
        if record:
            with GradientRecorder(trainer, every=2):
                fit(trainer, progress=False)
        else:
            fit(trainer, progress=False)
        nets.append(trainer.model)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)
        assert not other._post_accumulate_grad_hooks


def test_stages():
    names = ["conv1", "layer1.0.conv1", "layer3.8.conv2", "fc"]
    assert [stage_of(name) for name in names] == ["stem", "layer1", "layer3", "head"]
