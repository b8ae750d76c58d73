"""The benchmark: what it counts, not how fast it is; and the threads it runs on."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from resnet56 import Engine, Trainer, build_model, cli, devices
from resnet56.devices import affinity, choose_threads, cpu_quota, explain_threads, has_compiler
from resnet56.errors import InputError
from resnet56.fast import bench as bench_module
from resnet56.fast.bench import Bench, Textbook, bench, busy_processors, load_bench, loops, matmul_gflops
from resnet56.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
CPU = torch.device("cpu")


@pytest.fixture
def quick(monkeypatch):
    """Shorter blocks, and no compiler."""

    def some_loops(*arguments):
        return {name: make for name, make in loops(*arguments).items() if name != "+ compiled"}

    monkeypatch.setattr(bench_module, "BLOCK_SECONDS", 0.01)
    monkeypatch.setattr(bench_module, "loops", some_loops)


def test_every_loop_is_measured_against_the_textbook(quick, data_set):
    result = bench(data_set, arch="resnet8", batch_size=20, device=CPU, rounds=1, progress=False)
    table = result.table()
    assert table.index[0] == "textbook" and len(table) >= 4
    assert (table["end_to_end"] > 0).all()
    assert table["ratio"].tolist() == pytest.approx((table["end_to_end"] / table["end_to_end"].iloc[0]).tolist())
    convolutions = 9 * (1024 * 16 * (3 + 16 + 16) + 256 * 32 * (16 + 32) + 64 * 64 * (32 + 64))  # positions, out, in
    assert result.about["image_gflop"] == pytest.approx(3 * 2 * (convolutions + 64 * 10) / 1e9)


def test_the_command_prints_and_saves_the_table(quick, data_set, data_folder, monkeypatch, capsys):
    monkeypatch.setattr(cli, "load_data", lambda name: data_set)
    (data_folder / "runs").mkdir()
    out = data_folder / "runs" / "mine.json"
    arguments = ["bench", "--arch", "resnet8", "--batch-size", "20", "--rounds", "1", "--device", "cpu"]
    assert cli.main([*arguments, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "textbook" in printed and "GFLOP/s" in printed and "64,000 steps" in printed
    assert load_bench("mine").rows == json.loads(out.read_text())["rows"]
    with pytest.raises(InputError, match="no table of speeds"):
        load_bench("yours")


def test_the_textbook_loop_learns_what_the_others_learn(data_set):
    """It shows the same images, in other crops, and takes the same kind of step."""
    torch.manual_seed(0)
    recipe = Recipe(iterations=1, batch_size=50, lr=0.01)
    textbook = Textbook(build_model("resnet8"), data_set.train, recipe, CPU)
    labels = sorted(label for _ in range(2) for label in next(textbook.loaded)[1].tolist())
    assert labels == sorted(data_set.train.labels.tolist())  # an epoch
    assert next(textbook.loaded)[1].tolist() != next(textbook.loaded)[1].tolist()  # in an order of its own
    before = textbook.model.conv1.weight.clone()
    textbook.take_step()
    assert 0 < textbook.history[0]["train_loss"] < 10
    step = 0.01 * (textbook.model.conv1.weight.grad + 1e-4 * before)  # the first of SGD, with weight decay
    assert torch.allclose(before - textbook.model.conv1.weight, step, atol=1e-7)


def test_the_textbook_images_are_normalised_crops(data_set):
    """An image is one of the 81 crops of its padded original, mirrored or not, normalised channel by channel."""
    images = bench_module._Images(data_set.train)
    assert len(images) == 100 and [images[index][1] for index in (0, 7, 99)] == [0, 7, 9]
    scaled = data_set.train.pixels[::10].double() / 255
    mean, std = scaled.mean(dim=(0, 2, 3)), scaled.std(dim=(0, 2, 3), correction=0)
    pixels = (images[3][0].double() * std.view(3, 1, 1) + mean.view(3, 1, 1)) * 255
    padded = F.pad(data_set.train.pixels[3].double(), (4, 4, 4, 4))
    crops = [padded[:, y : y + 32, x : x + 32] for y in range(9) for x in range(9)]
    assert any(torch.allclose(pixels, view, atol=1e-3) for crop in crops for view in (crop, crop.flip(2)))


def test_the_arithmetic_ceiling_is_that_of_a_matrix_product(monkeypatch):
    ticks = itertools.count(step=0.25)
    monkeypatch.setattr(bench_module, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert matmul_gflops(CPU, "fp32", size=64) == pytest.approx(2 * 64**3 / 0.25 / 1e9)


def test_speeds_are_images_a_second(data_set, monkeypatch):
    """A step of 20 images takes 0.5 s."""

    def seconds(device, step, steps):
        return steps * 0.5

    def one_loop(*arguments):
        return {name: make for name, make in loops(*arguments).items() if name.startswith("plain")}

    monkeypatch.setattr(bench_module, "_time", seconds)
    monkeypatch.setattr(bench_module, "loops", one_loop)
    monkeypatch.setattr(bench_module, "busy_processors", contextlib.nullcontext)
    result = bench(data_set, arch="resnet8", batch_size=20, device=CPU, rounds=2, progress=False)
    assert result.table().iloc[0].to_dict() == {"end_to_end": 40.0, "ratio": 1.0}
    assert set(result.about["beside_others"].values()) == {1.0} and "left_out" in result.about


def test_loops_have_their_turns_in_rounds(data_set, monkeypatch):
    """What slows the machine down for a while slows all of them; by hand, the medians of three rounds."""
    turns, seconds = [], {Trainer: [9.0, 1.0, 2.0], Engine: [1.0, 0.5, 8.0]}

    def take(device, step, steps):
        kind = type(getattr(step, "__self__", None))
        turns.append(kind)
        return seconds[kind][(len(turns) - 5) // 2] if 5 <= len(turns) <= 10 else 1.0

    def two_loops(*arguments):
        return {name: make for name, make in loops(*arguments).items() if name.startswith(("plain", "+ fused"))}

    monkeypatch.setattr(bench_module, "_time", take)
    monkeypatch.setattr(bench_module, "loops", two_loops)
    monkeypatch.setattr(bench_module, "BLOCK_SECONDS", 0.5)  # a step a block
    monkeypatch.setattr(bench_module, "busy_processors", contextlib.nullcontext)
    table = bench(data_set, arch="resnet8", batch_size=20, device=CPU, rounds=3, progress=False).table()
    assert turns[4:10] == [Trainer, Engine] * 3
    assert table["end_to_end"].tolist() == [10.0, 20.0] and table["ratio"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_loop_adds_the_trick_that_it_is_called_by(data_set, monkeypatch, precision):
    monkeypatch.setattr(bench_module, "fast_precision", lambda device: precision)
    made = {name: make() for name, make in loops(data_set, "resnet8", 20, CPU).items()}
    names = ["textbook", "plain: data on the device, nothing read", "+ channels-last", "+ fused optimizer"]
    assert list(made) == [*names, *["+ bf16"] * (precision == "bf16"), "+ compiled"]
    assert [type(trainer) for trainer in made.values()] == [Textbook, Trainer] + [Engine] * (len(made) - 2)
    first, *others = list(made.values())[2:]
    assert {trainer.memory_format for trainer in (first, *others)} == {torch.channels_last}
    assert not first.optimizer.defaults["fused"] and all(trainer.optimizer.defaults["fused"] for trainer in others)
    assert [trainer.recipe.precision for trainer in made.values()] == ["fp32"] * 4 + [precision] * (len(made) - 4)
    assert [trainer.how["compiled"] for trainer in (first, *others)] == [False] * len(others) + [True]


def test_what_cannot_be_compiled_is_left_out_in_a_line(data_set, monkeypatch):
    """Without a compiler, with one that fails, and with nothing in the way but another loop's fault."""
    broken = {"now": "+ compiled"}

    def some_loops(*arguments):
        makers = {name: make for name, make in loops(*arguments).items() if name in ("textbook", "+ compiled")}

        def fail():
            raise RuntimeError("no such compiler\nand a long explanation")

        return makers | {broken["now"]: fail}

    monkeypatch.setattr(bench_module, "BLOCK_SECONDS", 0.01)
    monkeypatch.setattr(bench_module, "loops", some_loops)
    monkeypatch.setattr(bench_module, "_beside_others", lambda *arguments: {"2": 0.4, "1": 0.3})
    for found, words in ((True, "could not compile it (RuntimeError)"), (False, "there is no C++ compiler here")):
        monkeypatch.setattr(bench_module, "has_compiler", lambda found=found: found)
        result = bench(data_set, arch="resnet8", batch_size=20, device=CPU, rounds=1, progress=False)
        assert list(result.table().index) == ["textbook"]
        (line,) = [line for line in result.report().splitlines() if "left out" in line]
        assert line.startswith('"+ compiled" is left out: ') and words in line
    assert "keeps of its speed 40 % on 2 threads, 30 % on 1 thread." in result.report()
    broken["now"] = "textbook"
    with pytest.raises(RuntimeError):
        bench(data_set, arch="resnet8", batch_size=20, device=CPU, rounds=1, progress=False)


def test_a_batch_larger_than_the_data_is_refused_before_any_work(data_set):
    with pytest.raises(InputError, match="a batch of 101 is larger than the training set: use up to 100"):
        bench(data_set, arch="resnet8", batch_size=101, device=CPU, progress=False)


def test_the_report_has_the_numbers_and_reads_old_records():
    """By hand: 2,000 GFLOP/s over 2 GFLOP are 1,000 images a second; 64,000 x 128 images at 500 take 273 minutes."""
    rows = [
        {"loop": "textbook", "step": 260.0, "end_to_end": 250.0, "ratio": 1.0, "memory": 704.6},
        {"loop": "2 networks at once", "step": None, "end_to_end": 500.0, "ratio": 2.0, "memory": None},
    ]
    about = dict(arch="resnet56", batch_size=128, rounds=5, precision="bf16", hardware={"name": "an abacus"})
    about |= dict(image_gflop=2.0, matmul_gflops=2000.0, recording_percent=1.55)
    report = Bench(about, rows).report()
    assert report.splitlines()[3].split() == ["textbook", "250", "1.00"]
    assert report.splitlines()[4].split() == ["2", "networks", "at", "once", "500", "2.00"]
    for words in ("2,000 GFLOP/s", "2.00 GFLOP", "to 1,000 images", "50 %", "it 273 minutes"):
        assert words in report
    assert "704" not in report and "260" not in report and "None" not in report


def test_recorded_tables_are_read_with_and_without_columns_of_old(data_folder):
    (data_folder / "runs").mkdir()
    row = {"loop": "textbook", "end_to_end": 2.0, "ratio": 1.0}
    for old in ({}, {"step": 1.0, "memory": 7.0}):
        Bench({"arch": "x"}, [row | old]).save(data_folder / "runs" / "mine.json")
        assert load_bench("mine").table().loc["textbook"].to_dict() == {"end_to_end": 2.0, "ratio": 1.0}


def test_the_busy_processes_are_busy_and_end():
    with pytest.raises(KeyError), busy_processors():
        busy = [int(pid) for pid in subprocess.check_output(["pgrep", "-P", str(os.getpid())]).split()]
        states = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in busy if Path(f"/proc/{pid}").exists()]
        assert sum(b"os.getppid() == parent" in line for line in states) == affinity()
        raise KeyError
    assert not any(b"getppid() == parent" in line for line in _command_lines())


def _command_lines():
    children = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True).stdout.split()
    paths = [Path(f"/proc/{pid}/cmdline") for pid in children]
    return [path.read_bytes() for path in paths if path.exists()]


def test_the_share_that_is_kept_beside_others(monkeypatch):
    """A loop of 1 s alone, 4 s beside others on three threads, 2 s on one."""
    seen = []

    class Context:
        def __enter__(self):
            seen.append("busy")

        def __exit__(self, *exception):
            seen.append("idle")

    threads = {"now": 3}
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads["now"])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: threads.update(now=count))
    monkeypatch.setattr(bench_module, "busy_processors", Context)
    seconds = {"busy": {3: 4.0, 1: 2.0}, "idle": {3: 1.0, 1: 3.0}}
    monkeypatch.setattr(bench_module, "_time", lambda *arguments: seconds[seen[-1] if seen else "idle"][threads["now"]])
    assert bench_module._beside_others(CPU, None, 2) == {"3": 0.25, "1": 0.5}
    assert seen == ["busy", "idle", "busy", "idle"] and threads["now"] == 3


# --- Devices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cuda", "mps", "first"), [(True, True, "cuda"), (False, True, "mps"), (True, False, "cuda"), (False, False, "cpu")]
)
def test_a_gpu_comes_before_the_processor(cuda, mps, first, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert devices.pick_device() == torch.device(first) and devices.pick_device(CPU) is CPU
    for name, there in (("cuda", cuda), ("mps", mps)):
        with contextlib.nullcontext() if there else pytest.raises(InputError, match=f"no {name} device .*: use cpu"):
            assert devices.pick_device(name).type == name


@pytest.mark.parametrize(
    ("flags", "precision"),
    [("fma avx512_bf16", "bf16"), ("amx_bf16 amx_tile", "bf16"), ("avx512f", "fp32"), ("", "fp32")],
)
def test_bf16_is_for_processors_that_compute_in_it(flags, precision, monkeypatch):
    monkeypatch.setattr(devices, "_cpu_info", {"flags": flags}.get)
    assert devices.fast_precision(CPU) == precision and devices.fast_precision(torch.device("mps")) == "fp32"


# --- Threads ------------------------------------------------------------------------------------------


def machine(root, membership, **files):
    """A made-up ``/proc`` and ``/sys``; names of files have ``/`` for ``__``."""
    for path, content in {"proc/self/cgroup": membership, **files}.items():
        path = root / (path if "/" in path else "sys/fs/cgroup/" + path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


V1 = "12:pids:/docker/abc\n4:cpu,cpuacct:/docker/abc\n3:cpuset:/docker/abc\n1:name=systemd:/docker/abc\n0::/\n"


@pytest.mark.parametrize(
    ("membership", "files", "processors"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, float("inf")),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "300000 100000\n"}, 0.5),
        ("0::/a\n", {"b/cpu.max": "50000 100000\n"}, float("inf")),  # another's
        ("0::/../a\n", {"cpu.max": "70000 20000\n", "a/cpu.max": "50000 100000\n"}, 3.5),  # outside of this container
        (
            V1,
            {
                "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000",
            },
            2.5,
        ),
        (V1, {"cpu/docker/cpu.cfs_quota_us": "250000\n", "cpu/docker/cpu.cfs_period_us": "50000"}, 5),
        (V1, {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000"}, 1),  # mounted alone
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "-1\n", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, float("inf")),
        (V1, {"cpuset/docker/abc/cpu.cfs_quota_us": "1\n", "cpuset/docker/abc/cpu.cfs_period_us": "1"}, float("inf")),
        ("4:cpu:/a\n0::/a\n", {"unified/a/cpu.max": "250000 100000\n"}, 2.5),
        ("0::/a\n", {"a/cpu.max": "nonsense\n"}, float("inf")),
        ("0::/a\n", {"a/cpu.max": "100000 0\n"}, float("inf")),
        ("", {"cpu.max": "200000 100000\n"}, 2),
    ],
)
def test_the_quota_of_a_control_group(tmp_path, membership, files, processors):
    files = {f"sys/fs/cgroup/{path}": content for path, content in files.items()}
    assert cpu_quota(machine(tmp_path, membership, **files)) == processors


def test_without_linux_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path) == float("inf")


@pytest.fixture
def processors(monkeypatch, tmp_path):
    """Return what PyTorch has for threads after ``choose_threads``, and the explanation, on a made-up machine."""
    threads = {}
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads["now"])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: threads.update(now=count))

    def choose(given, seen, quota, **variables):
        monkeypatch.setattr(devices, "affinity", lambda: seen)
        for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        threads["now"] = given
        root = machine(tmp_path, "0::/\n", **{"sys/fs/cgroup/cpu.max": quota})
        choose_threads(root)
        return threads["now"], explain_threads(root)

    return choose


def test_threads_are_as_many_as_a_quota_has_whole_processors(processors):
    for given, seen, quota, expected, words in (
        (64, 64, "200000 100000", 2, "2 threads: a quota allows 2 of 64 processors; "),
        (32, 64, "200000 100000", 2, "2 threads: a quota allows 2 of 64 processors; "),  # one a core
        (64, 64, "190000 100000", 1, "1 thread: a quota allows 1.9 of 64 processors; "),
        (8, 8, "30000 100000", 1, "1 thread: a quota allows 0.3 of 8 processors; "),
        (4, 8, "600000 100000", 4, "4 threads: one for each of the cores this process may run on; "),
        (8, 8, "max 100000", 8, "8 threads: one for each of the processors this process may run on; "),
        (1, 1, "max 100000", 1, "1 thread: one for each of the processors this process may run on; "),
        (7, 8, "200000 100000", 7, "7 threads: torch.set_num_threads said so; "),  # somebody's choice
    ):
        threads, explanation = processors(given, seen, quota)
        assert threads == expected and explanation.startswith(words)


def test_omp_num_threads_stands(processors):
    threads, explanation = processors(8, 8, "200000 100000", OMP_NUM_THREADS="8")
    assert threads == 8 and explanation.startswith("8 threads: OMP_NUM_THREADS or")


def test_how_threads_wait_is_said(processors):
    for variables, sleeps in (({}, False), ({"OMP_WAIT_POLICY": "passive"}, True), ({"GOMP_SPINCOUNT": "0"}, True)):
        assert ("a thread that waits sleeps" in processors(2, 2, "max 100000", **variables)[1]) == sleeps


@pytest.mark.parametrize(
    ("before", "given", "expected"),
    [("", {}, "PASSIVE"), ("", {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ("import torch;", {}, "None")],
)
def test_waiting_threads_sleep_if_torch_is_not_there_yet(before, given, expected):
    code = f"{before}import resnet56, os; print(os.environ.get('OMP_WAIT_POLICY'))"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == expected


def test_a_number_of_threads_set_before_or_after_stands():
    code = "import torch; torch.set_num_threads(13); import resnet56; print(torch.get_num_threads())"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "13"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_affinity_is_what_the_process_may_run_on():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert affinity() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert affinity() == len(before)


def test_a_compiler_is_one_of_the_usual_or_that_of_cxx(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not has_compiler()
    for name, variable in (("clang++", None), ("mine++", "mine++")):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        if variable:
            monkeypatch.setenv("CXX", variable)
        assert has_compiler()
        (tmp_path / name).unlink()
        assert not has_compiler()
