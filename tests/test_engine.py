"""The engine against the plain loop, and against itself."""

import dataclasses

import pytest
import torch

from resnet56 import FAST, Engine, GradientRecorder, Recipe, Trainer, build_model, evaluate, fit, fit_together
from resnet56.fast.engine import has_hooks
from resnet56.treatments import Treatment

RECIPE = Recipe(iterations=20, batch_size=50, lr=0.01, seed=3)
FAST_RECIPE = dataclasses.replace(FAST, epochs=None, iterations=20, batch_size=50, lr=0.01, seed=3)
RECIPES = pytest.mark.parametrize("recipe", [RECIPE, FAST_RECIPE], ids=["paper", "fast"])
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def train(kind, split, recipe=RECIPE, device="cpu", arch="resnet8", **tricks):
    torch.manual_seed(recipe.seed)
    trainer = kind(build_model(arch), split, recipe, device, **tricks)
    fit(trainer)
    return trainer


def weights(model) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().double().cpu() for parameter in model.parameters()])


def distance(one, other) -> float:
    """How far apart two networks ended, as a share of the way they went from their common start."""
    torch.manual_seed(other.recipe.seed)
    start = weights(build_model("resnet8"))
    end = weights(other.model)
    return float((weights(one.model) - end).norm() / (end - start).norm())


def same_bits(one, other) -> bool:
    return all(map(torch.equal, one.model.state_dict().values(), other.model.state_dict().values()))


# --- Equal to the plain loop --------------------------------------------------------------------------


@RECIPES
def test_twenty_steps_equal_those_of_the_plain_loop(split, recipe):
    plain, engine = train(Trainer, split, recipe), train(Engine, split, recipe)
    assert distance(engine, plain) < 0.02  # float error, grown over the steps
    assert distance(train(Engine, split, dataclasses.replace(recipe, lr=0.011)), plain) > 0.04  # a wrong rate is seen
    for one, other in zip(plain.history, engine.history, strict=True):
        assert other == pytest.approx(one, rel=1e-3)
    one, other = (evaluate(trainer.model, split, trainer.batches.mean).loss for trainer in (plain, engine))
    assert other == pytest.approx(one, rel=1e-3)


@RECIPES
def test_without_the_tricks_they_are_the_very_same_bits(split, recipe):
    bare = train(Engine, split, recipe, channels_last=False, fused=False)
    assert same_bits(bare, train(Trainer, split, recipe))


def channels_last(tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def test_each_trick_is_there_unless_it_is_left_out(split):
    for on in (True, False):
        engine = Engine(build_model("resnet8"), split, RECIPE, "cpu", channels_last=on, fused=on, graphed=on)
        seen = []
        layer = engine.model.layer2[0].conv2
        layer.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(channels_last(inputs[0])))
        engine.take_step()
        assert seen == [on] and bool(engine.optimizer.param_groups[0]["fused"]) == on
        assert channels_last(engine.model.layer1[0].conv1.weight) == on
        assert engine.how == dict(loop="engine", compiled=False, graphed=False, processes=1, deterministic=True)


def test_bf16_stays_within_a_fifth_of_the_way(split):
    recipe = dataclasses.replace(RECIPE, iterations=5, batch_size=20)
    plain, engine = train(Trainer, split, recipe), train(Engine, split, dataclasses.replace(recipe, precision="bf16"))
    assert 0.001 < distance(engine, plain) < 0.2
    assert engine.history[-1]["train_loss"] == pytest.approx(plain.history[-1]["train_loss"], rel=0.02)


@pytest.mark.slow
def test_compiled_steps_equal_those_of_the_plain_loop(split):
    assert distance(train(Engine, split, compiled=True), train(Trainer, split)) < 0.05


def test_a_run_begun_by_one_loop_is_finished_by_the_other(split):
    plain = train(Trainer, split)
    for first, second in ((Trainer, Engine), (Engine, Trainer)):
        torch.manual_seed(3)
        begun = first(build_model("resnet8"), split, RECIPE, "cpu")
        for _ in range(7):
            begun.take_step()
        finished = second(build_model("resnet8"), split, RECIPE, "cpu")
        finished.load_state_dict(begun.state_dict())
        fit(finished)
        assert distance(finished, plain) < 0.02


# --- Exact --------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits(split):
    assert same_bits(train(Engine, split), train(Engine, split))


def test_networks_trained_together_are_those_trained_alone(split):
    together = {}
    for arch, seed, steps in (("resnet8", 0, 20), ("plain8", 0, 20), ("resnet8", 1, 13)):
        torch.manual_seed(seed)
        recipe = dataclasses.replace(RECIPE, seed=seed, iterations=steps)
        together[f"{arch} {seed}"] = Engine(build_model(arch), split, recipe, "cpu")
    fit_together(together, progress=False)
    assert [trainer.step for trainer in together.values()] == [20, 20, 13]
    for name, trainer in together.items():
        assert same_bits(trainer, train(Engine, split, trainer.recipe, arch=name.split()[0])), name


def test_hooks_of_all_kinds_are_seen(split):
    trainer = Engine(build_model("resnet8"), split, RECIPE, "cpu")
    assert not has_hooks(trainer.model)
    with GradientRecorder(trainer):
        assert not has_hooks(trainer.model)  # it looks on from outside, so that a graph can be replayed
    with GradientRecorder(trainer.model):
        assert has_hooks(trainer.model)
    module, weight = trainer.model.layer2, trainer.model.fc.weight
    for register in (
        module.register_forward_hook,
        module.register_forward_pre_hook,
        module.register_full_backward_hook,
        module.register_full_backward_pre_hook,
        weight.register_hook,
        weight.register_post_accumulate_grad_hook,
    ):
        handle = register(lambda *arguments: None)
        assert has_hooks(trainer.model), register
        handle.remove()
        assert not has_hooks(trainer.model)


class Frozen(Treatment):
    """Without gradients nothing moves, but for weights that are set at the end of a step."""

    def after_backward(self, model):
        for parameter in model.parameters():
            assert parameter.grad.any()
            parameter.grad.zero_()

    def after_step(self, model):
        model.fc.bias.data.fill_(0.5)


@pytest.mark.parametrize("kind", [Trainer, Engine])
def test_a_treatment_sees_the_gradients_before_the_step_and_the_weights_after_it(split, kind):
    recipe = dataclasses.replace(RECIPE, weight_decay=0.0)
    torch.manual_seed(3)
    trainer = kind(build_model("resnet8"), split, recipe, "cpu", Frozen())
    before = weights(trainer.model)
    trainer.take_step()
    after = weights(trainer.model)
    assert torch.equal(before[:-10], after[:-10]) and after[-10:].eq(0.5).all()


@pytest.mark.parametrize("kind", [Trainer, Engine])
def test_a_step_is_taken_in_training_mode(split, kind):
    trainer = kind(build_model("resnet8").eval(), split, RECIPE, "cpu")
    trainer.take_step()
    assert trainer.model.training and trainer.model.bn1.running_mean.any()


class Replay:
    """What a CUDA graph does, without a GPU: it runs a function again on the tensors that it found."""

    def __init__(self, function):
        self.function, self.result = function, function()

    def replay(self):
        self.result.copy_(self.function())


def test_recording_a_step_leaves_no_trace_and_each_replay_has_its_own_batch_and_rate(split, monkeypatch):
    recorded = []

    def record(self, function):
        function(), function()
        recorded.append(Replay(function))
        return recorded[-1], recorded[-1].result

    monkeypatch.setattr(Engine, "_record", record)
    torch.manual_seed(RECIPE.seed)
    graphed = Engine(build_model("resnet8"), split, RECIPE, "cpu")
    graphed._graphed = True
    fit(graphed, progress=False)
    launched = train(Engine, split, RECIPE)
    assert len(recorded) == 1 and same_bits(graphed, launched) and graphed.history == launched.history
    measure = graphed.replayed(lambda: graphed.model.fc.bias.detach() + 1)
    for value in (2.0, 3.0):
        graphed.model.fc.bias.data.fill_(value)
        assert measure().eq(value + 1).all()
    assert len(recorded) == 2  # once for both
    assert launched.replayed(len) is len


# --- On an NVIDIA GPU ---------------------------------------------------------------------------------


@needs_gpu
@RECIPES
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replayed_graphs_equal_steps_launched_one_by_one(split, recipe, precision):
    recipe = dataclasses.replace(recipe, precision=precision)
    graphed, launched = (train(Engine, split, recipe, "cuda", graphed=graphed) for graphed in (True, False))
    assert graphed._graph is not None
    assert distance(graphed, launched) < 0.05
    assert distance(graphed, train(Trainer, split, recipe, "cuda")) < (0.05 if precision == "fp32" else 0.2)
    for one, other in zip(launched.history, graphed.history, strict=True):
        assert other == pytest.approx(one, rel=0.02)


@needs_gpu
def test_on_a_gpu_networks_trained_together_are_those_trained_alone(split):
    torch.use_deterministic_algorithms(True)
    try:
        alone = [train(Engine, split, dataclasses.replace(RECIPE, seed=seed), "cuda") for seed in range(3)]
        together = {}
        for seed in range(3):
            torch.manual_seed(seed)
            recipe = dataclasses.replace(RECIPE, seed=seed)
            together[str(seed)] = Engine(build_model("resnet8"), split, recipe, "cuda")
        fit_together(together, progress=False)
        assert all(map(same_bits, alone, together.values()))
    finally:
        torch.use_deterministic_algorithms(False)


@needs_gpu
def test_gradients_are_recorded_beside_a_graph_and_at_hooks_alike(split):
    images, labels = torch.randn(20, 3, 32, 32), torch.arange(20) % 10
    tables = []
    for on_trainer in (True, False):
        torch.manual_seed(3)
        trainer = Engine(build_model("resnet8"), split, RECIPE, "cuda")
        with GradientRecorder(trainer if on_trainer else trainer.model, 5, (images, labels)) as recorder:
            fit(trainer)
        assert (trainer._graph is not None) == on_trainer
        tables.append(recorder.table())
    assert tables[0]["step"].unique().tolist() == [0, 5, 10, 15]
    numbers = tables[0].columns.drop(["layer", "stage"])
    assert tables[0][numbers].to_numpy() == pytest.approx(tables[1][numbers].to_numpy(), rel=0.1, abs=1e-3)
