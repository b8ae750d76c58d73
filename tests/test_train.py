"""Training against a hand-written loop, closed forms, and itself resumed."""

import dataclasses
import functools
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from resnet56 import FAST, PAPER, Engine, InputError, Recipe, Trainer, build_model, evaluate, fit, weighted_layers
from resnet56.data import normalise, pixel_mean
from resnet56.devices import pick_device
from resnet56.errors import NonFiniteLoss
from resnet56.fast import fit_together, together
from resnet56.progress import Interrupted, OutOfTime
from resnet56.recipe import LAPTOP
from resnet56.records.checkpoint import Checkpoint, load_checkpoint, load_model, resume
from resnet56.train import parameter_groups

RUNS = Path(__file__).parent.parent / "data" / "runs"
RECIPE = Recipe(iterations=12, batch_size=20, lr=0.05, seed=4)


def new_trainer(split, recipe=RECIPE, arch="resnet8", kind=Trainer):
    torch.manual_seed(recipe.seed)
    return kind(build_model(arch), split, recipe, "cpu")


new_engine = functools.partial(new_trainer, kind=Engine)


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


def test_warmup_and_milestones_each_divide_by_ten():
    recipe = Recipe(iterations=100, warmup=60)
    assert [recipe.lr_at(step, 100) for step in (49, 50, 59, 60, 75)] == pytest.approx([0.01, 1e-3, 1e-3, 0.01, 1e-3])


def test_the_presets_are_what_was_recorded_and_printed():
    """The recorded suite tells the laptop's recipe, the table in the chapter "Training in full" the fast one."""
    records = list((RUNS / "laptop-cifar10-jpeg").glob("*/run.json"))
    assert records
    for record in records:
        recorded = json.loads(record.read_text())["recipe"]
        recorded["milestones"] = tuple(recorded["milestones"])
        ours = dataclasses.replace(LAPTOP, seed=recorded["seed"], precision=recorded["precision"])
        assert dataclasses.asdict(ours) == recorded
    ours = dict(batch_size=512, lr=1.6, schedule="one-cycle", nesterov=True, weight_decay=5e-4, decay_all=False)
    assert dataclasses.replace(PAPER, iterations=None, epochs=16, label_smoothing=0.1, **ours) == FAST


def test_epochs_count_whole_batches():
    assert Recipe(epochs=2, batch_size=30).total_steps(100) == 6
    assert Recipe(epochs=0.5, batch_size=10).total_steps(100) == 5


def test_more_epochs_than_anyone_could_wait_for():
    with pytest.raises(InputError, match="epochs must come to at most 1,000,000,000 steps; 100000 are more"):
        Recipe(epochs=1e5, batch_size=1).total_steps(50_000)
    assert Recipe(epochs=1e-6).total_steps(100) == 1 and Recipe(epochs=1e6).total_steps(1280) == 10_000_000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(lr=-0.1), "lr must be from 1e-30 to 1,000, not -0.1"),
        (dict(lr=float("nan")), "lr must be"),
        (dict(iterations=0), "iterations must be a whole number from 1 to 1,000,000,000, not 0"),
        (dict(iterations=None), "give iterations or epochs"),
        (dict(epochs=3), "give iterations or epochs"),
        (dict(batch_size=0), "batch_size must be"),
        (dict(momentum=1.0), "momentum must be"),
        (dict(weight_decay=-1), "weight_decay must be"),
        (dict(milestones=(32_000,)), "fractions of the run"),
        (dict(milestones=(0.0, 0.5)), "fractions of the run"),
        (dict(milestones=(0.5, 1.0)), "fractions of the run"),
        (dict(precision="fp16"), "fp32 or bf16"),
        (dict(schedule="cosine"), "schedule must be step or one-cycle"),
        (dict(label_smoothing=1.0), "label_smoothing must be"),
        (dict(seed=-1), "seed must be"),
        (dict(warmup=-1), "warmup must be"),
        (dict(lr=1e300), "lr must be from 1e-30 to 1,000, not 1e\\+300"),
        (dict(lr=float("inf")), "lr must be from 1e-30 to 1,000, not inf"),
        (dict(iterations=10**300), "iterations must be a whole number from 1 to 1,000,000,000"),
        (dict(iterations=2.5), "iterations must be a whole number from 1 to 1,000,000,000, not 2.5"),
        (dict(iterations=None, epochs=float("inf")), "epochs must be from 1e-06 to 1,000,000, not"),
        (dict(iterations=None, epochs=0), "epochs must be from 1e-06 to 1,000,000, not"),
        (dict(weight_decay=1e300), "weight_decay must be from 0.0 to 1, not 1e\\+300"),
        (dict(weight_decay=float("nan")), "weight_decay must be"),
        (dict(seed=2**32), "seed must be"),
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


INGREDIENTS = {
    "paper": {},
    "momentum": dict(momentum=0.5),
    "no momentum": dict(momentum=0.0),
    "nesterov": dict(nesterov=True),
    "weight decay": dict(weight_decay=0.05),
    "decay of weights only": dict(weight_decay=0.05, decay_all=False),
    "label smoothing": dict(label_smoothing=0.3),
    "one-cycle": dict(schedule="one-cycle"),
    "milestones": dict(milestones=(0.25, 0.75)),
    "warm-up": dict(warmup=2),
    "batch": dict(batch_size=30),
    "epochs": dict(iterations=None, epochs=0.8),
    "seed": dict(seed=7),
    "fast": dict(nesterov=True, weight_decay=0.05, decay_all=False, label_smoothing=0.2, schedule="one-cycle"),
}
RATES = {  # of four steps at 0.05, in closed form
    "one-cycle": [0.05, 0.05, 0.1 / 3, 0.05 / 3],  # the peak is after one step
    "fast": [0.05, 0.05, 0.1 / 3, 0.05 / 3],
    "milestones": [0.05, 0.005, 0.005, 0.0005],
    "warm-up": [0.005, 0.005, 0.005, 0.0005],
}


def batch_by_hand(split, seed, epoch, position, size):
    """A batch made image by image: shuffled, padded with the mean image's own grey, cropped and mirrored."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(split), generator=generator)
    corners = torch.randint(0, 9, (2, len(split)), generator=generator)
    flips = torch.randint(0, 2, (1, len(split)), generator=generator)[0]
    mean = split.pixels.double().mean(dim=0)
    images, labels = [], []
    for place in range(position * size, (position + 1) * size):
        padded = torch.zeros(3, 40, 40)
        padded[:, 4:36, 4:36] = ((split.pixels[order[place]] - mean) / 255).float()
        top, left = corners[:, place].tolist()
        image = padded[:, top : top + 32, left : left + 32]
        images.append(image.flip(2) if flips[place] else image)
        labels.append(int(split.labels[order[place]]))
    return torch.stack(images), labels


def steps_by_hand(split, recipe, rates):
    """Cross-entropy with smoothed labels, weight decay, momentum, as formulas. Returns the network and its metrics."""
    torch.manual_seed(recipe.seed)
    model = build_model("resnet8").train()
    names = {id(module.weight) for _, module in weighted_layers(model)}
    parameters = list(model.parameters())
    velocity = [torch.zeros_like(p) for p in parameters]
    seen = []
    for step, lr in enumerate(rates):
        place = divmod(step, len(split) // recipe.batch_size)  # epoch, and batch within it
        images, labels = batch_by_hand(split, recipe.seed, *place, recipe.batch_size)
        logits = model(images)
        logs = logits - logits.exp().sum(dim=1, keepdim=True).log()
        share = recipe.label_smoothing / 10
        wanted = torch.full_like(logs, share)
        for row, label in zip(wanted, labels, strict=True):
            row[label] += 1 - recipe.label_smoothing
        loss = -(wanted * logs).sum(dim=1).mean()
        seen.append(
            (loss.item(), sum(int(a != b) for a, b in zip(logits.argmax(1), labels, strict=True)) / len(labels))
        )
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, v, g in zip(parameters, velocity, gradients, strict=True):
                if recipe.decay_all or id(p) in names:
                    g = g + recipe.weight_decay * p
                v.mul_(recipe.momentum).add_(g)
                p.sub_(lr * (g + recipe.momentum * v if recipe.nesterov else v))
    return model, seen


@pytest.mark.parametrize("kind", [Trainer, Engine])
@pytest.mark.parametrize("ingredient", INGREDIENTS)
def test_steps_equal_formulas_written_out_by_hand(split, kind, ingredient):
    """Each ingredient against plain arithmetic, and strong enough to be missed if it were left out."""
    changes = dict(iterations=4, batch_size=20, lr=0.05, weight_decay=1e-3, seed=4) | INGREDIENTS[ingredient]
    recipe = Recipe(**changes)
    rates = RATES.get(ingredient, [0.05, 0.05, 0.005, 0.0005])
    torch.manual_seed(recipe.seed)
    trainer = kind(build_model("resnet8"), split, recipe, "cpu")
    history = fit(trainer)
    model, seen = steps_by_hand(split, recipe, rates)
    torch.manual_seed(recipe.seed)
    for one, other, start in zip(
        *(m.parameters() for m in (trainer.model, model, build_model("resnet8"))), strict=True
    ):
        assert (one - other).norm() <= 0.02 * (other - start).norm()  # float error, grown over the steps
    for key, values in zip(("train_loss", "train_error"), zip(*seen, strict=True), strict=True):
        rows = [values[:3], values[3:]] if ingredient == "batch" else [values]  # an epoch of three steps
        scale = 100 if key == "train_error" else 1
        assert history[key].tolist() == pytest.approx([scale * sum(row) / len(row) for row in rows], rel=1e-3)
    assert history["lr"].tolist() == pytest.approx([rates[2], rates[3]] if ingredient == "batch" else [rates[-1]])


def test_precision_is_that_of_the_recipe(split):
    """Convolutions compute in bfloat16 and the loss in float32, in training and in evaluation, or neither does."""
    for kind in (Trainer, Engine):
        for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
            trainer = kind(build_model("resnet8"), split, dataclasses.replace(RECIPE, precision=precision), "cpu")
            seen = []
            trainer.model.layer1.register_forward_hook(
                lambda module, inputs, output, seen=seen: seen.append(output.dtype)
            )
            trainer.take_step()
            trainer.history.append({})
            trainer.validate(split)
            assert seen == [dtype, dtype]
            assert trainer._unread[0].dtype == torch.float32
            assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_the_loss_of_bf16_logits_is_taken_in_float32(split):
    trainer = new_trainer(split, dataclasses.replace(RECIPE, precision="bf16"))
    logits = torch.tensor([[0.5, -1.25, 3.0] + 7 * [0.125]], requires_grad=True).expand(20, 10).bfloat16()
    trainer.model.forward = lambda images: logits + 0 * trainer.model.fc.bias.bfloat16()
    trainer.take_step()
    labels = trainer.batches[0][1]
    expected = F.cross_entropy(logits.double(), labels).item()
    assert trainer._unread[0][0].item() == pytest.approx(expected, rel=1e-6)


def test_divergence_is_seen_in_the_row_where_it_happens(split):
    for device_logs_late in (False, True):
        trainer = new_trainer(split, dataclasses.replace(RECIPE, batch_size=10, iterations=30))
        if device_logs_late:
            trainer.device = torch.device("meta")  # as on a GPU, rows are written at the end of the epoch
        trainer._update = lambda draw, lr, trainer=trainer: torch.tensor([1.0 if trainer.step < 14 else torch.nan, 0.5])
        with pytest.raises(NonFiniteLoss, match="the loss is no longer finite at step 20 of 30; .* 0.005$"):
            for _ in range(30):
                trainer.take_step()
        assert [row["step"] for row in trainer.history] == [10] and trainer.history[0]["train_loss"] == 1.0


def test_rows_hold_means_over_their_own_steps_whether_read_at_once_or_late(split):
    for kind in (torch.device("cpu"), torch.device("meta")):
        trainer = new_trainer(split, Recipe(iterations=30, batch_size=7, lr=0.5, milestones=(0.5,)))  # 14 an epoch
        trainer.device = kind
        trainer._update = lambda draw, lr, trainer=trainer: torch.tensor([float(trainer.step), lr])
        written = []
        for _ in range(30):
            trainer.take_step()
            written.append(len(trainer.history))
        assert [row["step"] for row in trainer.history] == [10, 14, 20, 28, 30]
        assert [row["train_loss"] for row in trainer.history] == [4.5, 11.5, 16.5, 23.5, 28.5]
        assert [row["epoch"] for row in trainer.history] == pytest.approx([10 / 14, 1, 20 / 14, 2, 30 / 14])
        assert [row["lr"] for row in trainer.history] == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.05])
        assert [row["train_error"] for row in trainer.history] == pytest.approx([50, 50, (50 + 5 * 5) / 6, 5, 5])
        assert written[9:14] == ([1, 1, 1, 1, 2] if kind.type == "cpu" else [0, 0, 0, 0, 2])


def test_the_cost_of_each_part_is_counted(split, monkeypatch):
    """Two machines, one after the other: steps, seconds by the clock, seconds of the processor."""
    clocks = {"perf_counter": 100.0, "process_time": 10.0}
    monkeypatch.setattr("resnet56.devices.time", SimpleNamespace(**{k: lambda k=k: clocks[k] for k in clocks}))
    here = {"type": "cpu", "name": "slow"}
    monkeypatch.setattr("resnet56.devices.hardware", lambda device: dict(here))
    trainer = new_engine(split)

    def update(draw, lr):
        clocks["perf_counter"] += 2
        clocks["process_time"] += 3
        return torch.ones(2)

    trainer._update = update
    for _ in range(3):
        trainer.take_step()
    state = trainer.state_dict()
    other = new_engine(split)
    other._update = update
    other.load_state_dict(state)
    here["name"] = "fast"
    other.take_step()
    assert other.parts == [
        {"hardware": {"type": "cpu", "name": "slow"}, "steps": 3, "seconds": 6.0, "processor_seconds": 9.0},
        {"hardware": {"type": "cpu", "name": "fast"}, "steps": 1, "seconds": 2.0, "processor_seconds": 3.0},
    ]
    assert trainer.parts == other.parts[:1] and other.seconds == 8.0 and not other.finished


def test_each_split_has_an_error_of_its_own(split):
    """Evaluation on other images, with another mean, in another mode or with half of them left out would show."""
    trainer = new_engine(split, dataclasses.replace(RECIPE, iterations=8, batch_size=50))
    calls = []
    trainer.model.fc.register_forward_hook(lambda module, inputs, output: calls.append((module.training, len(output))))
    other = split[torch.arange(0, 100, 3)]
    together = functools.partial(fit_together, progress=False)
    for train in (fit, lambda trainer, validation: together({"run": trainer}, validation=validation)):
        trainer.step, trainer.history = 0, []
        calls.clear()
        train(trainer, validation=other)
        assert calls == 4 * [*(2 * [(True, 50)]), (False, 34)]
        rows = [row for row in trainer.history if "validation_loss" in row]
        assert [row["step"] for row in rows] == [2, 4, 6, 8]
        model = trainer.model.eval()
        with torch.no_grad():
            logits = model((other.pixels - split.pixels.double().mean(dim=0).float()) / 255)
        wrong = 100 * (logits.argmax(1) != other.labels).double().mean().item()
        assert rows[-1]["validation_loss"] == pytest.approx(F.cross_entropy(logits, other.labels).item(), rel=1e-3)
        assert rows[-1]["validation_error"] == pytest.approx(wrong)


@pytest.mark.parametrize("kind", [Trainer, Engine])
def test_a_step_is_taken_in_training_mode_whatever_was_done_in_between(split, kind):
    trainer = new_trainer(split, kind=kind)
    for step in range(3):
        trainer.model.eval()
        trainer.take_step()
        assert trainer.model.bn1.num_batches_tracked == step + 1


def test_same_seed_same_bits_other_seed_other_weights(split):
    nets = [new_trainer(split, dataclasses.replace(RECIPE, seed=seed)) for seed in (1, 1, 2)]
    for trainer in nets:
        fit(trainer)
    assert same_weights(nets[0].model, nets[1].model)
    assert not same_weights(nets[0].model, nets[2].model)


def test_training_learns_to_tell_bright_from_dark(split):
    pixels = split.pixels // 16 + (split.labels[:, None, None, None] * 23).to(torch.uint8)
    easy = type(split)(pixels, split.labels)
    trainer = new_trainer(easy, Recipe(iterations=60, batch_size=50, lr=0.05))
    history = fit(trainer)
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
        losses[precision] = fit(trainer)["train_loss"].iloc[0]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02) and losses["bf16"] != losses["fp32"]


def test_validation_is_recorded_at_each_epochs_end(split):
    trainer = new_trainer(split, dataclasses.replace(RECIPE, batch_size=25))
    history = fit(trainer, validation=split)
    assert history["step"].tolist() == [4, 8, 10, 12]  # epochs of 4 steps, and each 10th step
    assert history["epoch"].tolist() == pytest.approx([1.0, 2.0, 2.5, 3.0])
    assert history["validation_error"].notna().tolist() == [True, True, False, True]
    score = evaluate(trainer.model, split, trainer.batches.mean)
    assert history["validation_loss"].iloc[-1] == pytest.approx(score.loss)


# --- Checkpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 5, 7, 10, 11])
def test_a_resumed_run_ends_with_the_same_bits(split, tmp_path, stop):
    whole = new_engine(split)
    expected = fit(whole)

    first = new_engine(split)
    for _ in range(stop):
        first.take_step()
    checkpoint = new_checkpoint(tmp_path / "run.pt")
    checkpoint.save(first)
    torch.manual_seed(99)
    second = Engine(build_model("resnet8"), split, RECIPE, "cpu")
    resume(second, checkpoint)
    assert second.step == stop
    history = fit(second)
    assert same_weights(whole.model, second.model)
    assert history.equals(expected)


def test_a_checkpoint_holds_the_model_and_runs_no_code(split, tmp_path):
    trainer = new_engine(split)
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
    new_checkpoint(tmp_path / "run.pt").save(new_engine(split))
    checkpoint = new_checkpoint(tmp_path / "run.pt", **changes)
    trainer = new_engine(split, recipe, checkpoint.arch)
    with pytest.raises(InputError, match=words):
        resume(trainer, checkpoint)


def test_missing_damaged_and_foreign_checkpoints_are_refused(split, tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(InputError, match="no checkpoint at"):
        load_checkpoint(path)
    new_checkpoint(path).save(new_engine(split))
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
    trainer = new_engine(split, dataclasses.replace(RECIPE, iterations=40))
    trainer.take_step()
    checkpoint.save(trainer)
    before = checkpoint.path.read_bytes()
    with torch.no_grad():
        trainer.model.fc.weight.fill_(float("inf"))
    with pytest.raises(NonFiniteLoss, match="no longer finite"):
        fit_together({"run": trainer}, checkpoints={"run": checkpoint}, progress=False)
    assert checkpoint.path.read_bytes() == before


@pytest.mark.parametrize("broken", ["weight", "statistic", "unread loss"])
def test_a_broken_run_is_never_saved(split, broken):
    trainer = new_trainer(split)
    trainer.take_step()
    trainer.state_dict()
    with torch.no_grad():
        if broken == "unread loss":
            trainer._unread.append(torch.tensor([torch.nan, 0.5]))
        else:
            {"weight": trainer.model.fc.weight, "statistic": trainer.model.bn1.running_var}[broken][0] = torch.inf
    with pytest.raises(NonFiniteLoss, match="the loss or a weight is no longer finite at step 1 of 12"):
        trainer.state_dict()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_finish_the_step_and_save(split, tmp_path, signum):
    trainer = new_engine(split)
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


@pytest.mark.parametrize("together", [False, True])
def test_validation_follows_each_epoch_of_more_than_a_turn_and_no_other_step(split, together):
    trainer, steps = new_engine(split, dataclasses.replace(RECIPE, iterations=35, batch_size=7)), []
    trainer._update = lambda draw, lr: torch.ones(2)
    trainer.validate = lambda validation: steps.append((trainer.step, validation is split))
    if together:
        fit_together({"run": trainer}, validation=split, progress=False)
    else:
        fit(trainer, validation=split)
    assert steps == [(14, True), (28, True), (35, True)]


class Counted:
    """A checkpoint that only counts at which steps it was saved."""

    def __init__(self):
        self.steps = []

    def save(self, trainer):
        self.steps.append(trainer.step)


def test_checkpoints_are_saved_on_the_clock_and_at_the_end(split, monkeypatch):
    recipe = dataclasses.replace(RECIPE, iterations=32, batch_size=100)
    for every, steps in ((0, list(range(1, 33))), (3600, [32])):  # an epoch is one step, and ends a turn
        monkeypatch.setattr(together, "SAVE_EVERY", every)
        checkpoint, trainer = Counted(), new_engine(split, recipe)
        trainer._update = lambda draw, lr: torch.ones(2)
        fit_together({"run": trainer}, checkpoints={"run": checkpoint}, progress=False)
        assert checkpoint.steps == steps


def test_at_the_deadline_all_is_saved_and_a_turn_is_ten_steps(split):
    checkpoint, trainer = Counted(), new_engine(split, dataclasses.replace(RECIPE, iterations=32, batch_size=5))
    trainer._update = lambda draw, lr: torch.ones(2)
    with pytest.raises(OutOfTime):
        fit_together({"run": trainer}, checkpoints={"run": checkpoint}, deadline=0, progress=False)
    assert checkpoint.steps == [10]
