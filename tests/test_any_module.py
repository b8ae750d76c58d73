"""Networks that are not of this package: the recorder and the instruments work on them, or refuse in one line."""

import copy
import math

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from resnet56 import GradientRecorder, InputError, build_model, weighted_layers
from resnet56.observe import output_gradient_norms


@pytest.fixture
def batch():
    torch.manual_seed(9)
    return torch.randn(8, 3, 32, 32), torch.arange(8) % 10


def backward(model, batch):
    model.zero_grad()
    F.cross_entropy(model(batch[0]).float(), batch[1]).backward()


def convnet(*between, inplace=False):
    """Two convolutions and a linear layer, with modules between the first convolution and its ReLU."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), *between, nn.ReLU(inplace),
        nn.Conv2d(8, 8, 3, 2), nn.ReLU(inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip


def by_hand(model, batch, responses):
    """The gradient norm at the outputs of some of a sequence's modules, by retain_grad."""
    x, kept = batch[0], []
    for index, module in enumerate(copy.deepcopy(model).train()):
        x = module(x)
        if index in responses:
            x.retain_grad()
            kept.append(x)
    F.cross_entropy(x, batch[1]).backward()
    return [x.grad.norm().item() for x in kept]


def test_torchvisions_resnet_is_recorded(batch):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    with GradientRecorder(model, probe=batch) as recorder:
        backward(model, batch)
    table = recorder.table().set_index("layer")
    assert len(table) == 18 and table.notna().all(axis=None)
    assert table["stage"].unique().tolist() == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    for name, row in table.iterrows():
        assert row["gradient_norm"] == pytest.approx(model.get_submodule(name).weight.grad.norm().item(), rel=1e-5)


def test_operations_in_place_change_nothing(batch):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)  # its ReLUs work in place
    kept = copy.deepcopy(model)
    for module in kept.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    norms = output_gradient_norms(model, *batch)
    assert torch.equal(norms, output_gradient_norms(kept, *batch)) and norms.isfinite().all()


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8)])
@pytest.mark.parametrize("inplace", [False, True])
def test_the_response_is_behind_the_normalisation_whatever_it_is_called(batch, norm, inplace):
    model = convnet(*([norm] if norm else []), inplace=inplace)
    places = [0, 2, 6] if norm is None else [1, 3, 7]
    expected = by_hand(convnet(*([copy.deepcopy(norm)] if norm else [])), batch, places)
    assert output_gradient_norms(model, *batch).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("inplace", [False, True])
def test_what_lies_between_layer_and_normalisation_counts(batch, inplace):
    expected = by_hand(convnet(nn.ReLU(), nn.BatchNorm2d(8)), batch, [0, 4, 8])
    model = convnet(nn.ReLU(inplace), nn.BatchNorm2d(8))  # not given the layer's output
    assert output_gradient_norms(model, *batch).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("frozen", ["conv1", "layer1", "fc", "bn1"])
def test_a_frozen_layer_has_no_gradient_and_the_others_theirs(batch, frozen):
    torch.manual_seed(0)
    model = build_model("resnet8")
    whole = output_gradient_norms(model, *batch)
    model.get_submodule(frozen).requires_grad_(False)
    with GradientRecorder(model, probe=batch) as recorder:
        backward(model, batch)
    table = recorder.table()
    still = table["layer"].str.startswith(frozen)
    assert table.loc[still, ["gradient_norm", "zero_share", "gradient_rms"]].isna().all(axis=None)
    assert table.loc[~still, "gradient_norm"].notna().all() and still.sum() == {"layer1": 2, "bn1": 0}.get(frozen, 1)
    assert table["output_gradient_norm"].tolist() == pytest.approx(whole.tolist(), rel=1e-4)


class Twice(nn.Module):
    """One convolution and one normalisation, gone through three times, and a layer that is never reached."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.again = self.conv
        self.spare = nn.Linear(4, 4)
        self.head = nn.Linear(3, 10)

    def forward(self, x, keep=lambda x: x):
        for layer in (self.conv, self.again):
            x = F.relu(keep(self.norm(layer(x))))
        return keep(self.head(keep(self.conv(x)).mean(dim=(2, 3))))


def test_a_layer_used_several_times_counts_once_with_all_its_uses(batch):
    torch.manual_seed(0)
    model, kept = Twice(), []

    def keep(x):
        x.retain_grad()
        kept.append(x)
        return x

    F.cross_entropy(copy.deepcopy(model)(batch[0], keep), batch[1]).backward()
    uses = [x.grad.norm().item() for x in kept]
    with GradientRecorder(model, probe=batch) as recorder:
        backward(model, batch)
    table = recorder.table().set_index("layer")
    assert table.index.tolist() == ["conv", "spare", "head"]
    assert table.loc["conv", "output_gradient_norm"] == pytest.approx(math.hypot(*uses[:3]), rel=1e-4)
    assert table.loc["head", "output_gradient_norm"] == pytest.approx(uses[3], rel=1e-4)
    assert table.loc["conv", "gradient_norm"] == pytest.approx(model.conv.weight.grad.norm().item(), rel=1e-5)
    assert table.loc["spare", ["gradient_norm", "zero_share", "output_gradient_norm"]].isna().all()


def test_layers_that_share_a_weight_show_its_gradient(batch):
    model = convnet()
    model.append(nn.ReLU()).append(nn.Linear(10, 10)).append(nn.Linear(10, 10))
    model[-1].weight = model[-2].weight
    with GradientRecorder(model) as recorder:
        backward(model, batch)
    norms = recorder.table()["gradient_norm"]
    assert norms.iloc[-1] == norms.iloc[-2] == pytest.approx(model[-1].weight.grad.norm().item())


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda model: torch.compile(model, backend="eager"),
        lambda model: torch.compile(nn.DataParallel(nn.DataParallel(model)), backend="eager"),
    ],
)
def test_wrapped_networks_are_looked_into(batch, wrap):
    torch.manual_seed(0)
    model = build_model("resnet8")
    wrapped = wrap(model)
    backward(wrapped, batch)  # compiled before there is a hook
    with GradientRecorder(wrapped, probe=batch) as recorder:
        backward(wrapped, batch)
    with GradientRecorder(model, probe=batch) as plain:
        backward(model, batch)
    table = recorder.table()
    assert table["layer"].tolist() == [name for name, _ in weighted_layers(model)]
    assert table.notna().all(axis=None)
    for column in ("gradient_norm", "output_gradient_norm"):
        assert table[column].tolist() == pytest.approx(plain.table()[column].tolist(), rel=1e-4)


def test_a_part_that_was_compiled_is_looked_into(batch):
    torch.manual_seed(0)
    model = build_model("resnet8")
    expected, names = output_gradient_norms(model, *batch), [name for name, _ in weighted_layers(model)]
    model.layer1 = torch.compile(model.layer1, backend="eager")
    model.layer2.compile(backend="eager")
    model(batch[0])
    assert [name for name, _ in weighted_layers(model)] == names
    assert output_gradient_norms(model, *batch).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_distributed_networks_show_the_summed_gradient(batch, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        model = build_model("resnet8")
        wrapped = nn.parallel.DistributedDataParallel(model)
        wrapped.register_comm_hook(None, doubled)  # stands in for a second process with the same gradient
        with GradientRecorder(wrapped) as recorder:
            backward(wrapped, batch)
        table = recorder.table()
        grown = [module.weight.grad.norm().item() for _, module in weighted_layers(model)]
        assert table["gradient_norm"].tolist() == pytest.approx(grown, rel=1e-5)
        backward(model, batch)
        alone = [2 * module.weight.grad.norm().item() for _, module in weighted_layers(model)]
        assert grown == pytest.approx(alone, rel=1e-3)
    finally:
        torch.distributed.destroy_process_group()


def doubled(state, bucket):
    future = torch.futures.Future()
    future.set_result(2 * bucket.buffer())
    return future


@pytest.mark.parametrize(
    "model, shape",
    [
        (nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 10)), (8, 3, 8)),
        (nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)), (8, 3, 4, 4, 4)),
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10)), (8, 3, 4, 4)),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.LayerNorm(7), nn.Linear(7, 10)), (8, 3, 2, 2)),
    ],
)
def test_convolutions_of_all_kinds_are_recorded(model, shape):
    batch = torch.randn(shape), torch.arange(8)
    with GradientRecorder(model, probe=batch) as recorder:
        backward(model, batch)
    assert len(recorder.table()) == 2 and recorder.table().notna().all(axis=None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_recorded(batch, dtype):
    model = convnet().to(dtype)
    nn.init.constant_(model[0].weight, 5000)  # its length is beyond float16
    probe = (0.01 * batch[0]).to(dtype), batch[1]
    with GradientRecorder(model, probe=probe) as recorder:
        backward(model, probe)
    table = recorder.table()
    assert table["weight_norm"].iloc[0] == pytest.approx(5000 * model[0].weight.numel() ** 0.5, rel=1e-2)
    assert table["output_gradient_norm"].notna().all()


def pruned():
    model = convnet()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    return model


def parametrised():
    model = convnet()
    nn.utils.parametrizations.weight_norm(model[0])
    return model


@pytest.mark.parametrize(
    "model, words",
    [
        (nn.Sequential(nn.Flatten()), "no convolution or linear layer"),
        (convnet().requires_grad_(False), "no convolution or linear layer whose weight requires a gradient"),
        (nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(10)), "0 is not built yet"),
        (pruned(), "0 computes its weight"),
        (parametrised(), "0 computes its weight"),
    ],
)
def test_what_cannot_be_recorded_is_refused_at_the_start(model, words):
    with pytest.raises(InputError, match=words) as refusal:
        GradientRecorder(model)
    assert "\n" not in str(refusal.value)


def test_a_wrong_use_is_refused_at_the_start(batch):
    with pytest.raises(InputError, match="every 0 steps"):
        GradientRecorder(convnet(), every=0)
    headless = convnet()[:3]
    GradientRecorder(headless)
    with pytest.raises(InputError, match="gives no logits"):
        GradientRecorder(headless, probe=batch)


@pytest.mark.parametrize("to_none", [True, False])
def test_accumulated_gradients_are_one_step(batch, to_none):
    model, expected = convnet(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientRecorder(model, every=2) as recorder:
        for _ in range(3):
            optimizer.zero_grad(set_to_none=to_none)
            for part in (0, 1, 2):
                F.cross_entropy(model(batch[0][part::3]), batch[1][part::3]).backward()
            expected.append(model[0].weight.grad.norm().item())
            optimizer.step()
    table = recorder.table()
    assert table["step"].unique().tolist() == [0, 2] and len(table) == 6
    assert table.loc[table["layer"] == "0", "gradient_norm"].tolist() == pytest.approx(expected[::2])


def test_steps_are_told_apart_by_cleared_gradients_or_by_changed_weights(batch):
    model = convnet()
    with GradientRecorder(model) as recorder:
        backward(model, batch)
        backward(model, batch)  # cleared before
        with torch.no_grad():
            model[0].weight.mul_(0.9)
        F.cross_entropy(model(batch[0]), batch[1]).backward()  # not cleared, but moved
        F.cross_entropy(model(batch[0]), batch[1]).backward()  # neither
    with recorder:
        backward(model, batch)
    assert recorder.table()["step"].unique().tolist() == [0, 1, 2, 3]


def test_two_losses_of_one_pass_can_be_recorded_with_a_probe(batch):
    torch.manual_seed(0)
    model = build_model("resnet8")
    logits, other = model(batch[0]), model(batch[0].flip(3))
    with GradientRecorder(model, probe=batch) as recorder:
        F.cross_entropy(logits, batch[1]).backward(retain_graph=True)
        F.cross_entropy(other, batch[1]).backward()
        F.cross_entropy(logits, batch[1]).backward()
    assert recorder.table()["step"].eq(0).all()


def test_only_gradients_for_the_weights_count(batch):
    model = convnet()
    images = batch[0].clone().requires_grad_()
    with GradientRecorder(model) as recorder:
        torch.autograd.grad(model(images).sum(), images)
    assert recorder.table().empty and "gradient_norm" in recorder.table()


def test_dropout_draws_what_it_would_have_drawn(batch):
    nets = []
    for probe in (None, batch):
        model = convnet(nn.Dropout(0.5))
        torch.manual_seed(4)
        with GradientRecorder(model, probe=probe):
            for _ in range(2):
                backward(model, batch)
        nets.append(model)
    assert torch.equal(nets[0][0].weight.grad, nets[1][0].weight.grad)


def test_no_hook_is_left_by_a_training_that_fails(batch):
    model = convnet(nn.BatchNorm2d(8))
    model[1].eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(ZeroDivisionError), GradientRecorder(model, probe=batch):
        backward(model, batch)
        raise ZeroDivisionError
    with pytest.raises(RuntimeError):
        output_gradient_norms(model, batch[0][:, :2], batch[1])  # two channels
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(weight._backward_hooks or weight._post_accumulate_grad_hooks for weight in model.parameters())
    assert [module.training for module in model.modules()] == modes
