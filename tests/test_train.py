"""Training against a hand-written loop, closed forms, and itself resumed."""

import dataclasses
import os
import signal

import pytest
import torch
from torch.nn import functional as F

from resnet56 import PAPER, InputError, Recipe, Trainer, build_model, evaluate, fit, weighted_layers
from resnet56.data import normalise, pixel_mean
from resnet56.devices import pick_device
from resnet56.fast import fit_together
from resnet56.progress import Interrupted
from resnet56.records.checkpoint import Checkpoint, load_checkpoint, load_model, resume
from resnet56.train import NonFiniteLoss, parameter_groups

RECIPE = Recipe(iterations=12, batch_size=20, lr=0.05, seed=4)


def new_trainer(split, recipe=RECIPE, arch="resnet8"):
    torch.manual_seed(recipe.seed)
    return Trainer(build_model(arch), split, recipe, "cpu")


def new_checkpoint(path, **changes):
    settings = dict(arch="resnet8", shortcut="A", data="noise", fingerprint="0" * 64, validation=0)
    return Checkpoint(path=path, **settings | changes)


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# --- Recipe -------------------------------------------------------------------------------------------


def test_the_papers_schedule():
    rates = {step: PAPER.lr_at(step, 64_000) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)}
    assert rates == pytest.approx({0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001})
    assert (PAPER.batch_size, PAPER.momentum, PAPER.weight_decay) == (128, 0.9, 1e-4)
    assert 182 < PAPER.iterations / (45_000 // 128) < 183


def test_one_cycle_goes_straight_up_to_the_peak_and_down_to_zero():
    recipe = Recipe(iterations=100, lr=0.4, schedule="one-cycle")
    rates = [recipe.lr_at(step, 100) for step in range(100)]
    assert max(rates) <= 0.4 and rates.index(max(rates)) in (24, 25)
    assert rates[:3] == pytest.approx([0.016, 0.032, 0.048]) and rates[-2:] == pytest.approx([0.4 * 2 / 75, 0.4 / 75])
    assert sum(rates) / 100 == pytest.approx(0.2, rel=0.02)  # the area of a triangle


def test_decay_spares_normalisation_and_biases_if_asked_to():
    model = build_model("resnet8")
    (everything,) = parameter_groups(model, Recipe(epochs=1))
    assert len(everything["params"]) == len(list(model.parameters()))
    decayed, spared = parameter_groups(model, Recipe(epochs=1, decay_all=False))
    assert len(decayed["params"]) == len(weighted_layers(model)) and decayed["weight_decay"] == 1e-4
    assert len(spared["params"]) == 2 * 7 + 1 and spared["weight_decay"] == 0  # 7 normalisations, 1 bias


def test_warmup_returns_to_the_full_rate():
    recipe = Recipe(iterations=64_000, warmup=400)
    assert [recipe.lr_at(step, 64_000) for step in (0, 399, 400)] == pytest.approx([0.01, 0.01, 0.1])


def test_epochs_count_whole_batches():
    assert Recipe(epochs=2, batch_size=30).total_steps(100) == 6
    assert Recipe(epochs=0.5, batch_size=10).total_steps(100) == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(lr=-0.1), "lr must be positive, not -0.1"),
        (dict(lr=float("nan")), "lr must be"),
        (dict(iterations=0), "iterations must be at least 1"),
        (dict(iterations=None), "either iterations or epochs"),
        (dict(epochs=3), "either iterations or epochs"),
        (dict(batch_size=0), "batch_size must be"),
        (dict(momentum=1.0), "momentum must be"),
        (dict(weight_decay=-1), "weight_decay must be"),
        (dict(milestones=(32_000,)), "fractions of the run"),
        (dict(precision="fp16"), "fp32 or bf16"),
        (dict(schedule="cosine"), "schedule must be step or one-cycle"),
        (dict(label_smoothing=1.0), "label_smoothing must be"),
        (dict(seed=-1), "seed must be"),
        (dict(warmup=-1), "warmup must be"),
    ],
)
def test_senseless_recipes_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(PAPER, **changes)


def test_unknown_and_missing_devices():
    with pytest.raises(InputError, match="unknown device 'tpu'"):
        pick_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no cuda device"):
            pick_device("cuda")


# --- Steps --------------------------------------------------------------------------------------------


def test_fit_equals_sgd_written_out_by_hand(split):
    recipe = Recipe(iterations=4, batch_size=20, lr=0.05, weight_decay=1e-3, seed=4)
    trainer = new_trainer(split, recipe)
    history = fit(trainer, progress=False)

    torch.manual_seed(recipe.seed)
    model = build_model("resnet8").train()
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    losses = []
    for step, lr in enumerate([0.05, 0.05, 0.005, 0.0005]):
        images, labels = trainer.batches[step]
        loss = F.cross_entropy(model(images), labels)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, model.parameters())
        with torch.no_grad():
            for p, v, g in zip(model.parameters(), velocity, gradients, strict=True):
                v.mul_(recipe.momentum).add_(g + recipe.weight_decay * p)
                p.sub_(lr * v)
    for one, other in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert history["train_loss"].tolist() == pytest.approx([sum(losses) / 4], rel=1e-4)
    assert history["lr"].tolist() == pytest.approx([0.0005])


def test_same_seed_same_bits_other_seed_other_weights(split):
    nets = [new_trainer(split, dataclasses.replace(RECIPE, seed=seed)) for seed in (1, 1, 2)]
    for trainer in nets:
        fit(trainer, progress=False)
    assert same_weights(nets[0].model, nets[1].model)
    assert not same_weights(nets[0].model, nets[2].model)


def test_training_learns_to_tell_bright_from_dark(split):
    pixels = split.pixels // 16 + (split.labels[:, None, None, None] * 23).to(torch.uint8)
    easy = type(split)(pixels, split.labels)
    trainer = new_trainer(easy, Recipe(iterations=60, batch_size=50, lr=0.05))
    history = fit(trainer, progress=False)
    assert history["train_error"].iloc[-1] < 50 < 80 < history["train_error"].iloc[0]


def test_evaluate_equals_a_loop_over_single_images(split):
    model = build_model("resnet8")
    model.train()(torch.randn(8, 3, 32, 32))  # running statistics that are not the initial ones
    mean = pixel_mean(split)
    score = evaluate(model, split, mean, batch_size=32)
    assert model.training
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(normalise(pixels[None], mean)) for pixels in split.pixels])
    assert score.loss == pytest.approx(F.cross_entropy(logits, split.labels).item(), rel=1e-4)
    wrong = sum(int(row.argmax() != label) for row, label in zip(logits, split.labels, strict=True))
    assert score.error == pytest.approx(100 * wrong / len(split)) and score.accuracy == pytest.approx(100 - score.error)


def test_bf16_stays_close_to_fp32(split):
    losses = {}
    for precision in ("fp32", "bf16"):
        trainer = new_trainer(split, dataclasses.replace(RECIPE, iterations=3, precision=precision))
        losses[precision] = fit(trainer, progress=False)["train_loss"].iloc[0]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02) and losses["bf16"] != losses["fp32"]


def test_validation_is_recorded_at_each_epochs_end(split):
    trainer = new_trainer(split, dataclasses.replace(RECIPE, batch_size=25))
    history = fit(trainer, validation=split, progress=False)
    assert history["step"].tolist() == [4, 8, 10, 12]  # epochs of 4 steps, and each 10th step
    assert history["epoch"].tolist() == pytest.approx([1.0, 2.0, 2.5, 3.0])
    assert history["validation_error"].notna().tolist() == [True, True, False, True]
    score = evaluate(trainer.model, split, trainer.batches.mean)
    assert history["validation_loss"].iloc[-1] == pytest.approx(score.loss)


# --- Checkpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 5, 7, 10, 11])
def test_a_resumed_run_ends_with_the_same_bits(split, tmp_path, stop):
    whole = new_trainer(split)
    expected = fit(whole, progress=False)

    first = new_trainer(split)
    for _ in range(stop):
        first.take_step()
    checkpoint = new_checkpoint(tmp_path / "run.pt")
    checkpoint.save(first)
    torch.manual_seed(99)
    second = Trainer(build_model("resnet8"), split, RECIPE, "cpu")
    resume(second, checkpoint)
    assert second.step == stop
    history = fit(second, progress=False)
    assert same_weights(whole.model, second.model)
    assert history.equals(expected)


def test_a_checkpoint_holds_the_model_and_runs_no_code(split, tmp_path):
    trainer = new_trainer(split)
    fit_together({"run": trainer}, checkpoints={"run": new_checkpoint(tmp_path / "run.pt")}, progress=False)
    model = load_model(load_checkpoint(tmp_path / "run.pt"))
    assert same_weights(model, trainer.model) and not model.training
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["run.pt"]


@pytest.mark.parametrize(
    ("changes", "recipe", "words"),
    [
        (dict(arch="plain8"), RECIPE, "arch is resnet8 there, plain8 here"),
        (dict(fingerprint="1" * 64), RECIPE, "fingerprint is 000"),
        (dict(), dataclasses.replace(RECIPE, lr=0.2), "lr is 0.05 there, 0.2 here"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(split, tmp_path, changes, recipe, words):
    new_checkpoint(tmp_path / "run.pt").save(new_trainer(split))
    checkpoint = new_checkpoint(tmp_path / "run.pt", **changes)
    trainer = new_trainer(split, recipe, checkpoint.arch)
    with pytest.raises(InputError, match=words):
        resume(trainer, checkpoint)


def test_missing_damaged_and_foreign_checkpoints_are_refused(split, tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(InputError, match="no checkpoint at"):
        load_checkpoint(path)
    new_checkpoint(path).save(new_trainer(split))
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 30):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="damaged or not a checkpoint"):
            load_checkpoint(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(InputError, match="not a checkpoint made by"):
        load_checkpoint(path)


class Evil:
    def __reduce__(self):
        return os.system, ("false",)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path):
    torch.save({"format": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="damaged or not a checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")


def test_divergence_stops_the_run_and_keeps_the_last_good_checkpoint(split, tmp_path):
    checkpoint = new_checkpoint(tmp_path / "run.pt")
    trainer = new_trainer(split, dataclasses.replace(RECIPE, iterations=40))
    trainer.take_step()
    checkpoint.save(trainer)
    before = checkpoint.path.read_bytes()
    with torch.no_grad():
        trainer.model.fc.weight.fill_(float("inf"))
    with pytest.raises(NonFiniteLoss, match="no longer finite"):
        fit_together({"run": trainer}, checkpoints={"run": checkpoint}, progress=False)
    assert checkpoint.path.read_bytes() == before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_finish_the_step_and_save(split, tmp_path, signum):
    trainer = new_trainer(split)
    take_step = trainer.take_step

    def take_step_and_signal():
        take_step()
        if trainer.step == 3:
            os.kill(os.getpid(), signum)

    trainer.take_step = take_step_and_signal
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted) as caught:
        fit_together({"run": trainer}, checkpoints={"run": new_checkpoint(tmp_path / "run.pt")}, progress=False)
    assert caught.value.signum == signum and signal.getsignal(signum) == before
    assert load_checkpoint(tmp_path / "run.pt")["trainer"]["step"] == 3
