"""Splits, augmentation and imports against brute force and torchvision's own transforms."""

import hashlib
import io
import os
import pickle
import re
import stat
import subprocess
import sys
import tarfile
import threading
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10
from torchvision.transforms import functional as TF

from resnet56 import InputError
from resnet56.data import Batches, Split, augment, hold_out, make_data_set, normalise, pixel_mean
from resnet56.datasets import import_images, importing, load_data, loading, official, survey_data
from resnet56.datasets.importing import save_cached
from resnet56.datasets.loading import CIFAR10_CLASSES
from resnet56.observe import evenly

# --- Splits and batches -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["by class", "mixed"])
@pytest.mark.parametrize("count", [1, 7, 10, 100, 128, 301, 499])
def test_evenly_takes_as_many_of_each_class_whatever_the_count_and_the_order(order, count):
    labels = torch.arange(10).repeat_interleave(50)
    labels = labels[torch.randperm(500, generator=torch.Generator().manual_seed(0))] if order == "mixed" else labels
    number = torch.arange(500, dtype=torch.int32).view(torch.uint8).reshape(500, 4)
    chosen = evenly(Split(number, labels), count)
    counts = chosen.labels.bincount(minlength=10)
    assert counts.sum() == count and counts.max() - counts.min() <= 1 and (counts.diff() >= 0).all()
    indices = chosen.pixels.view(torch.int32).flatten()
    assert (indices.diff() > 0).all() and torch.equal(chosen.labels, labels[indices])  # in order, none twice
    assert torch.equal(evenly(Split(number, labels), count).pixels, chosen.pixels)
    for label in range(10):  # and evenly over the images of a class: no gap is much larger than another
        members = (labels == label).nonzero().flatten().tolist()
        places = [members.index(index) for index in indices[chosen.labels == label].tolist()]
        gaps = np.diff([*places, 50 + places[0]]) if places else np.array([1])
        assert gaps.max() - gaps.min() <= 1 and places[:1] in ([], [0])


def test_evenly_takes_what_small_classes_have_and_refuses_nothing():
    split = Split(torch.arange(33), torch.tensor([0] * 20 + [1] * 3 + [2] * 10))
    assert evenly(split, 15).labels.bincount().tolist() == [6, 3, 6]
    assert evenly(split, 30).labels.bincount().tolist() == [17, 3, 10]
    assert len(evenly(split, 33)) == len(evenly(split, 1000)) == 33
    with pytest.raises(InputError, match="cannot choose 0 images; choose 1 or more"):
        evenly(split, 0)


def test_hold_out_is_stratified_disjoint_and_seeded(split):
    rest, held = hold_out(split, 20, seed=1)
    assert held.labels.bincount().tolist() == [2] * 10 and rest.labels.bincount().tolist() == [8] * 10
    together = torch.cat([rest.pixels, held.pixels]).flatten(1)
    assert len(together.unique(dim=0)) == len(split)
    assert torch.equal(hold_out(split, 20, seed=1)[1].pixels, held.pixels)
    assert not torch.equal(hold_out(split, 20, seed=2)[1].pixels, held.pixels)


def test_what_is_held_out_is_drawn_from_the_whole_class_and_the_rest_keeps_its_order():
    split = Split(torch.arange(1000), torch.arange(1000) % 10)
    rest, held = hold_out(split, 100)
    assert len(rest) == 900 and len(held) == 100
    assert sorted(rest.pixels.tolist() + held.pixels.tolist()) == list(range(1000))
    for part in (rest, held):
        assert (part.pixels.diff() > 0).all() and torch.equal(part.labels, part.pixels % 10)
    assert 350 < held.pixels.float().mean() < 650  # neither the first nor the last of each class


@pytest.mark.parametrize("count", [-10, 15, 100, 110])
def test_hold_out_refuses_uneven_counts(split, count):
    with pytest.raises(InputError, match="cannot hold out .* multiple of 10 below 100, or 0 for none"):
        hold_out(split, count)


def test_hold_out_refuses_to_use_up_a_small_class():
    split = Split(torch.arange(23), torch.tensor([0] * 20 + [1] * 3))
    assert hold_out(split, 4)[1].labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(InputError, match="a multiple of 2 below 6"):
        hold_out(split, 6)


def test_nothing_held_out(data_set):
    assert hold_out(data_set.train, 0) == (data_set.train, None)


def test_the_fingerprint_tells_pixels_labels_and_splits_apart():
    pixels, labels = np.zeros((4, 3, 32, 32), np.uint8), np.arange(4)
    arrays = [pixels[:2], labels[:2], pixels[2:], labels[2:]]
    data = make_data_set("a", "A", list("abcd"), arrays)
    content = b"".join(array.astype(np.uint8).tobytes() for array in arrays)
    assert data.fingerprint == hashlib.sha256(content).hexdigest()
    assert data.train.pixels.dtype == torch.uint8 and data.train.labels.dtype == torch.int64
    assert (
        data.train.labels.tolist() == [0, 1] and data.test.labels.tolist() == [2, 3] and data.classes == tuple("abcd")
    )
    for other in range(4):
        changed = [array.copy() for array in arrays]
        changed[other].flat[-1] += 1
        assert make_data_set("a", "A", list("abcd"), changed).fingerprint != data.fingerprint


def test_pixel_mean_is_the_mean_image(split):
    expected = split.pixels.numpy().astype(np.float64).mean(axis=0)
    found = pixel_mean(split)
    assert found.dtype == torch.float32 and found.shape == (3, 32, 32)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_pixels_are_normalised_by_the_mean_image_of_the_training_images(split):
    batches = Batches(split, 100, seed=0)
    mean = split.pixels.numpy().astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(batches.mean.numpy(), mean, rtol=1e-6)
    expected = (split.pixels.numpy() - mean) / 255
    np.testing.assert_allclose(normalise(split.pixels, batches.mean).numpy(), expected, atol=1e-6)
    chosen, top, left, flip = batches.draw(0)
    images, labels = batches[0]
    assert torch.equal(labels, split.labels[chosen])
    for i in range(100):  # pixel by pixel, by the words of the paper
        padded = np.zeros((3, 40, 40))
        padded[:, 4:36, 4:36] = expected[chosen[i]]
        crop = padded[:, top[i] : top[i] + 32, left[i] : left[i] + 32]
        np.testing.assert_allclose(images[i].numpy(), crop[:, :, ::-1] if flip[i] else crop, atol=1e-6)


def test_augment_equals_torchvision_image_by_image(split):
    generator = torch.Generator().manual_seed(5)
    top, left = torch.randint(0, 9, (2, len(split)), generator=generator)
    flip = torch.randint(0, 2, (len(split),), generator=generator).bool()
    mean = pixel_mean(split)
    batch = augment(split.pixels, mean, top, left, flip)
    for i, pixels in enumerate(split.pixels):
        image = TF.pad((pixels - mean) / 255, 4)
        image = TF.crop(image, int(top[i]), int(left[i]), 32, 32)
        image = TF.hflip(image) if flip[i] else image
        assert torch.equal(batch[i], image), i


def test_centred_crop_without_flip_is_the_original_view(split):
    four, no = torch.full((len(split),), 4), torch.zeros(len(split), dtype=torch.bool)
    mean = pixel_mean(split)
    assert torch.equal(augment(split.pixels, mean, four, four, no), normalise(split.pixels, mean))


def test_every_crop_and_flip_is_drawn_per_image():
    from conftest import random_split

    batches = Batches(random_split(2000), 2000, seed=0)
    chosen, top, left, flip = batches.draw(0)
    for corner in (top, left):
        assert corner.bincount().numel() == 9 and corner.bincount().min() > 150  # expected 222 each
    assert flip.bincount().numel() == 2 and 850 < flip.sum() < 1150
    for one, other in ((top, left), (top, flip), (left, flip), (chosen, top), (chosen, flip)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_an_epoch_shows_every_image_once_and_the_next_is_shuffled_anew(split):
    batches = Batches(split, 20, seed=0)
    assert batches.steps_per_epoch == 5
    orders = []
    for epoch in range(2):
        orders.append(torch.cat([batches.draw(epoch * 5 + step)[0] for step in range(5)]).tolist())
        assert sorted(orders[-1]) == list(range(100))
    assert orders[0] != orders[1] and list(range(100)) not in orders
    assert not torch.equal(batches.draw(0)[1:], batches.draw(5)[1:])


def test_an_incomplete_last_batch_is_left_out_and_seeds_share_no_epoch(split):
    batches, other = Batches(split, 30, seed=0), Batches(split, 30, seed=1)
    assert batches.steps_per_epoch == 3 and all(batches.draw(step).shape == (4, 30) for step in range(6))
    assert not torch.equal(batches.draw(3), other.draw(0))


def test_draws_are_pinned(split):
    """What was recorded, and is saved in checkpoints, can be continued."""
    assert Batches(split, 5, seed=2).draw(21).tolist() == [
        [1, 86, 3, 69, 39],
        [0, 6, 3, 2, 6],
        [3, 4, 6, 4, 0],
        [1, 1, 0, 1, 1],
    ]


def test_a_batch_depends_on_seed_and_step_alone(split):
    one, other = Batches(split, 20, seed=0), Batches(split, 20, seed=0)
    for step in range(8):
        one[step]
    images, labels = other[8]
    assert torch.equal(one[8][0], images) and torch.equal(one[8][1], labels)
    assert not torch.equal(Batches(split, 20, seed=1)[8][0], images)


def test_a_batch_larger_than_the_data_is_refused(split):
    with pytest.raises(InputError, match="larger than the training set"):
        Batches(split, 101, seed=0)


# --- Loading ------------------------------------------------------------------------------------------


def test_environment_variable_names_the_data(monkeypatch):
    monkeypatch.setenv("RESNET56_DATA", "nosuch")
    with pytest.raises(InputError, match="unknown data set 'nosuch'"):
        load_data()
    with pytest.raises(InputError, match="no imported data set"):
        load_data("cifar10-jpeg")  # what is asked for goes before the environment


def no_network(*args, **kwargs):
    raise OSError("network is unreachable")


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", no_network)


@pytest.fixture
def drawings(monkeypatch, data_set):
    drawn = replace(data_set, name="shapes10", title="shapes10")
    monkeypatch.setattr("resnet56.datasets.loading._load_shapes10", lambda: drawn)
    return drawn


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Write a tiny official CIFAR-10, both versions, in a folder and an archive each; return the photographs' truth.

    Image ``i`` of a file is a colour photograph: a gradient to the right in red, downwards in green, and noise in blue.
    """
    noise, truth, sums, binary = np.random.default_rng(0), {"train": [], "test": []}, {}, {}
    files = [(f"data_batch_{number}", 4) for number in range(1, 6)] + [("test_batch", 6)]
    for name, count in files:
        images = np.zeros((count, 32, 32, 3), np.uint8)
        images[..., 0] = np.arange(32)
        images[..., 1] = 7 * np.arange(32)[:, None]
        images[..., 2] = noise.integers(0, 256, (count, 32, 32))
        labels = noise.integers(0, 10, count).tolist()
        truth["test" if name == "test_batch" else "train"] += zip(images, labels, strict=True)
        rows = [
            [*image[..., 0].flat, *image[..., 1].flat, *image[..., 2].flat] for image in images
        ]  # as on its website
        other = {"fine_labels": labels[::-1], "coarse_labels": labels[::-1], "filenames": [f"{i}.png" for i in labels]}
        batch = {"data": np.array(rows, np.uint8), "labels": labels, "batch_label": name, **other}
        sums[name] = write(tmp_path / "cifar-10-batches-py" / name, pickle.dumps(batch))
        lines = b"".join(bytes([label, *row]) for label, row in zip(labels, rows, strict=True))
        binary[f"{name}.bin"] = write(tmp_path / "cifar-10-batches-bin" / f"{name}.bin", lines)
    meta = write(
        tmp_path / "cifar-10-batches-py" / "batches.meta", pickle.dumps({"label_names": list(CIFAR10_CLASSES)})
    )
    for folder, archive in (("py", "python"), ("bin", "binary")):
        make_tar(tmp_path / f"cifar-10-batches-{folder}", tmp_path / f"cifar-10-{archive}.tar.gz", "w:gz")
    md5 = hashlib.md5((tmp_path / "cifar-10-python.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name, _ in files[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})
    monkeypatch.setattr(official, "BINARY_MD5", binary)
    return truth


def write(path: Path, content: bytes) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return hashlib.md5(content).hexdigest()


def check_truth(data, truth):
    assert data.name == "cifar10" and data.title == "CIFAR-10" and data.classes == CIFAR10_CLASSES
    for part in ("train", "test"):
        found = getattr(data, part)
        assert len(found) == len(truth[part])
        for pixels, label, (image, expected) in zip(found.pixels, found.labels, truth[part], strict=True):
            assert label == expected and np.array_equal(pixels.permute(1, 2, 0).numpy(), image)


BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
OFFICIAL = ("cifar-10-batches-py", "cifar-10-python.tar.gz", "cifar-10-batches-bin", "cifar-10-binary.tar.gz")


@pytest.mark.parametrize("source", OFFICIAL)
@pytest.mark.parametrize("name", ["auto", "cifar10"])
def test_official_files_on_disk_are_used_without_a_network(source, name, tiny, offline, tmp_path, data_folder, capsys):
    (tmp_path / source).rename(data_folder / source)
    assert survey_data()[0] == ["cifar10", "shapes10"] and os.listdir(data_folder) == [source]
    check_truth(load_data(name), tiny)
    kept = [] if "batches" in source else ["cifar10.npz"]  # an archive is kept unpacked, a folder is as good
    assert sorted(os.listdir(data_folder)) == sorted([source, *kept])
    check_truth(load_data(name), tiny)
    if kept:
        (data_folder / source).unlink()
        assert survey_data() == (["cifar10", "shapes10"], [])
        check_truth(load_data(name), tiny)
    assert not capsys.readouterr().out


def test_the_binary_versions_checksums_are_those_that_others_publish_too():
    sums = "".join(official.BINARY_MD5[f"{name}.bin"] for name in [*BATCHES, "test_batch"])
    assert (
        len(official.BINARY_MD5) == 6 and hashlib.md5(sums.encode()).hexdigest() == "5fca883f308a4e098a01d5e5abd410bf"
    )


def test_our_reading_of_the_official_files_is_torchvisions(tiny, tmp_path, data_folder):
    (tmp_path / OFFICIAL[0]).rename(data_folder / OFFICIAL[0])
    data = load_data("cifar10")
    for train, part in ((True, data.train), (False, data.test)):
        theirs = CIFAR10(data_folder, train=train)
        assert np.array_equal(part.pixels.permute(0, 2, 3, 1).numpy(), theirs.data)
        assert part.labels.tolist() == theirs.targets and tuple(theirs.classes) == data.classes


def damage(path: Path, how: str) -> str:
    """Damage one official file, and return what has to be said of it."""
    if how == "missing":
        path.unlink()
        return f"{path.name} is missing"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if how == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    return f"{path.name} differs \\({path.stat().st_size:,} bytes of MD5 [0-9a-f]{{32}}, not [0-9a-f]{{32}}"


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("how", ["missing", "cut", "changed"])
def test_a_damaged_folder_is_not_listed_and_the_error_says_what_is_wrong(
    file, how, tiny, offline, drawings, tmp_path, data_folder, capsys
):
    folder = data_folder / OFFICIAL[0]
    (tmp_path / OFFICIAL[0]).rename(folder)
    words = damage(folder / file, how)
    words = f"{folder} is not the official CIFAR-10: {words}.*; get it again"
    assert survey_data()[0] == ["shapes10"]
    with pytest.raises(InputError, match=words + ".*cannot download .* network is unreachable; put"):
        load_data("cifar10")
    assert load_data() is drawings
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "is not the official CIFAR-10" in out and "Notice: using shapes10" in out
    (tmp_path / OFFICIAL[1]).rename(data_folder / OFFICIAL[1])  # what was advised
    names, problems = survey_data()
    assert names == ["cifar10", "shapes10"] and len(problems) == 1 and f"{file} " in problems[0]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    check_truth(load_data("cifar10"), tiny)
    assert f"Notice: using CIFAR-10, {data_folder / OFFICIAL[1]}, because {folder} is not" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in folder.iterdir()}  # nothing is replaced unasked
    check_truth(load_data("cifar10"), tiny)
    assert not capsys.readouterr().out  # it was kept


@pytest.mark.parametrize("how", ["cut", "foreign"])
def test_a_damaged_archive_is_passed_over(how, tiny, offline, tmp_path, data_folder, copy_folder, capsys):
    archive = data_folder / OFFICIAL[1]
    content = (tmp_path / OFFICIAL[1]).read_bytes()
    archive.write_bytes(content[: len(content) // 2] if how == "cut" else b"<html>404</html>")
    import_images(copy_folder(), progress=False)
    assert survey_data()[0] == ["cifar10-png", "shapes10"]
    capsys.readouterr()
    assert load_data().name == "cifar10-png"
    out = capsys.readouterr().out
    assert out.startswith(
        f"Notice: using CIFAR-10 (PNG copy, 30 + 20 images), {data_folder / 'cifar10-png.npz'}, because "
    )
    assert f"{archive} is not a complete" in out and out.count("\n") == 1


def test_auto_goes_on_from_a_damaged_copy_to_an_intact_one(offline, copy_folder, data_folder, capsys):
    root = copy_folder()
    import_images(root, progress=False)
    image = next(root.rglob("*.png"))
    Image.new("RGB", (32, 32)).save(image, "JPEG")
    import_images(root, progress=False)
    cache = data_folder / "cifar10-png.npz"
    cache.write_bytes(cache.read_bytes()[:-100])
    assert survey_data()[0] == ["cifar10-jpeg", "shapes10"] and str(cache) in survey_data()[1][0]
    assert load_data().name == "cifar10-jpeg"
    assert f"because {cache} is damaged (" in capsys.readouterr().out


class FakeWeb:
    """Answers like the official site, with ``content``."""

    def __init__(self, content):
        self.content = content

    def __call__(self, request, timeout=None):
        response = io.BytesIO(self.content)
        response.url, response.length = getattr(request, "full_url", request), len(self.content)
        return response


def test_the_download_is_kept(tiny, tmp_path, data_folder, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", FakeWeb((tmp_path / OFFICIAL[1]).read_bytes()))
    check_truth(load_data(), tiny)
    assert os.listdir(data_folder) == ["cifar10.npz"]
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    check_truth(load_data(), tiny)


def test_the_folder_for_data_is_made_for_the_download(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", FakeWeb((tmp_path / OFFICIAL[1]).read_bytes()))
    monkeypatch.setenv("RESNET56_HOME", str(tmp_path / "new" / "data"))
    check_truth(load_data(), tiny)
    assert os.listdir(tmp_path / "new" / "data") == ["cifar10.npz"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNET56_HOME", str(tmp_path / "file" / "data"))
    with pytest.raises(InputError, match="cannot write .*file/data: "):
        load_data("cifar10")


def test_what_cannot_be_kept_is_used_all_the_same(tiny, tmp_path, data_folder, monkeypatch):
    def refuse(data):
        raise InputError("cannot write")

    (tmp_path / OFFICIAL[1]).rename(data_folder / OFFICIAL[1])
    monkeypatch.setattr(loading, "save_cached", refuse)
    check_truth(load_data(), tiny)
    monkeypatch.setattr(loading.shapes10, "draw", lambda count, seed: tiny_arrays)
    tiny_arrays = [np.zeros((10, 3, 32, 32), np.uint8), np.arange(10)]
    fingerprint = make_data_set("shapes10", "", "", [*tiny_arrays, *tiny_arrays]).fingerprint
    monkeypatch.setattr(loading, "SHAPES10_FINGERPRINT", fingerprint)
    assert load_data("shapes10").fingerprint == fingerprint and os.listdir(data_folder) == [OFFICIAL[1]]


def test_a_damaged_folder_is_not_replaced_by_the_download(tiny, tmp_path, data_folder, monkeypatch, capsys):
    monkeypatch.setattr(urllib.request, "urlopen", FakeWeb((tmp_path / OFFICIAL[1]).read_bytes()))
    (data_folder / OFFICIAL[0]).mkdir()
    (data_folder / OFFICIAL[0] / "data_batch_1").write_text("mine")
    check_truth(load_data("cifar10"), tiny)
    assert "Notice: using CIFAR-10, the download, because" in capsys.readouterr().out
    assert sorted(os.listdir(data_folder)) == [OFFICIAL[0], "cifar10.npz"]
    assert (data_folder / OFFICIAL[0] / "data_batch_1").read_text() == "mine"
    (data_folder / OFFICIAL[1]).write_text("mine too")
    (data_folder / "cifar10.npz").write_text("and mine")
    check_truth(load_data("cifar10"), tiny)
    words = "cifar10.npz is damaged .*data_batch_1 differs.*is not a complete"
    assert re.search(f"Notice: using CIFAR-10, the download, because .*{words}", capsys.readouterr().out)
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(InputError, match=words):
        load_data("cifar10")
    assert (data_folder / OFFICIAL[1]).read_text() == "mine too"
    assert (data_folder / "cifar10.npz").read_text() == "and mine"


def test_a_download_of_something_else_is_refused(tiny, data_folder, monkeypatch, drawings, capsys):
    monkeypatch.setattr(urllib.request, "urlopen", FakeWeb(b"<html>log in here</html>"))
    with pytest.raises(InputError, match="sent is not the official CIFAR-10"):
        load_data("cifar10")
    assert load_data() is drawings and "sent is not the official" in capsys.readouterr().out
    assert not os.listdir(data_folder)


def test_offline_cifar10_names_the_alternatives(offline, data_folder):
    with pytest.raises(InputError, match="(?s)network is unreachable.*data import.*shapes10") as caught:
        load_data("cifar10")
    assert "\n" not in str(caught.value) and not os.listdir(data_folder)


def test_auto_falls_back_to_shapes10_and_says_so(offline, capsys, drawings):
    assert load_data("auto") is drawings
    assert "Notice: using shapes10" in capsys.readouterr().out


def test_notices_can_be_printed_on_any_terminal(tmp_path):
    home = tmp_path / "d\u00e4ta"
    (home / OFFICIAL[0]).mkdir(parents=True)
    code = "from resnet56.datasets import loading as l; l.notice(l.survey_data()[1][0])"
    environment = os.environ | {"RESNET56_HOME": str(home), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "d\\xe4ta" in done.stdout and "has neither the official files nor" in done.stdout, done.stderr


def test_auto_prefers_an_imported_copy(copy_folder, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    import_images(copy_folder(), progress=False)
    assert load_data().name == "cifar10-png"


# --- Importing ----------------------------------------------------------------------------------------


@pytest.fixture
def copy_folder(tmp_path):
    """Write a tiny copy of CIFAR-10: image ``i`` of class ``c`` has a pixel value made of both."""

    def make(suffix="png", train=3, test=2):
        root = tmp_path / "copy"
        for part, count in (("train", train), ("test", test)):
            for label, name in enumerate(CIFAR10_CLASSES):
                (root / part / name).mkdir(parents=True)
                for i in range(count):
                    array = np.full((32, 32, 3), 20 * label + i, np.uint8)
                    Image.fromarray(array).save(root / part / name / f"{i:04d}.{suffix}")
        return root

    return make


def make_tar(root, path, mode):
    with tarfile.open(path, mode) as archive:
        archive.add(root, arcname=root.name)
    return path


def make_zip(root, path, mode="w"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root.parent))
    return path


@pytest.mark.parametrize("mode", ["", "gz", "bz2", "xz", "zip"])
def test_folder_and_archives_give_the_same_data(copy_folder, tmp_path, mode, data_folder):
    root = copy_folder()
    expected = import_images(root, progress=False)
    make = make_zip if mode == "zip" else make_tar
    archive = make(root, tmp_path / "archive", f"w:{mode}")  # its content tells its kind, not its name
    load_data("cifar10-png")
    (data_folder / "cifar10-png.npz").unlink()
    imported = import_images(archive, progress=False)
    assert imported.fingerprint == expected.fingerprint == load_data("cifar10-png").fingerprint
    assert imported.title == "CIFAR-10 (PNG copy, 30 + 20 images)"
    for part, count in ((imported.train, 3), (imported.test, 2)):
        assert part.labels.tolist() == sorted(list(range(10)) * count)
        expected_values = [20 * label + i for label in range(10) for i in range(count)]
        assert part.pixels[:, 1, 5, 7].tolist() == expected_values
        assert (part.pixels.flatten(1) == part.pixels[:, :1, 0, 0]).all()


def test_the_order_in_an_archive_does_not_matter(copy_folder, tmp_path, data_folder):
    root = copy_folder()
    expected = import_images(root, progress=False)
    (data_folder / "cifar10-png.npz").unlink()
    with zipfile.ZipFile(tmp_path / "copy.zip", "w") as archive:
        for file in sorted(root.rglob("*.png"), reverse=True):
            archive.write(file, file.relative_to(root))
    assert import_images(tmp_path / "copy.zip", progress=False).fingerprint == expected.fingerprint


def test_jpeg_copies_are_labelled_so(copy_folder):
    imported = import_images(copy_folder("jpg"), progress=False)
    assert imported.name == "cifar10-jpeg" and imported.title.startswith("CIFAR-10 (JPEG copy")


def test_a_full_copy_has_the_plain_title(tmp_path, monkeypatch):
    files = [
        (PurePosixPath(part, name, f"{i}.jpg"), b"")
        for part, count in (("train", 5000), ("test", 1000))
        for name in CIFAR10_CLASSES
        for i in range(count)
    ]
    monkeypatch.setattr(importing, "read_files", lambda path, limit: files)
    monkeypatch.setattr(importing, "_decode", lambda *arguments: (np.zeros((3, 32, 32), np.uint8), "JPEG"))
    monkeypatch.setattr(importing, "save_cached", lambda data: None)
    data = import_images(tmp_path, progress=False)
    assert data.title == "CIFAR-10 (JPEG copy)" and len(data.train) == 50_000 and len(data.test) == 10_000


def image_bytes(kind, size=(32, 32), mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


def add_file(archive, name, content=None, kind=tarfile.REGTYPE, target=""):
    member = tarfile.TarInfo(name)
    content = image_bytes("PNG") if content is None else content
    member.type, member.linkname = kind, target
    member.size = len(content) if kind == tarfile.REGTYPE else 0
    archive.addfile(member, io.BytesIO(content))


BAD_MEMBERS = {
    "wrong class": (dict(name="train/zebra/0\n.png"), "'zebra', which is not one of CIFAR-10's"),
    "31x32": (dict(name="train/cat/x.png", content=image_bytes("PNG", (31, 32))), "31x32 RGB, not 32x32 RGB"),
    "grey": (dict(name="train/cat/x.png", content=image_bytes("PNG", mode="L")), "32x32 L, not 32x32 RGB"),
    "not an image": (dict(name="train/cat/x.png", content=b"hello"), "cannot be decoded"),
    "parent": (dict(name="copy/../../evil.png"), "unsafe path"),
    "absolute": (dict(name="/etc/evil.png"), "unsafe path"),
    "symlink": (dict(name="train/cat/x.png", kind=tarfile.SYMTYPE, target="/etc/passwd"), "is a link"),
    "hardlink": (dict(name="train/cat/x.png", kind=tarfile.LNKTYPE, target="train/cat/0000.png"), "is a link"),
    "device": (dict(name="train/cat/x.png", kind=tarfile.CHRTYPE), "is a link or a device"),
    "bomb": (
        dict(name="train/cat/x.png", content=image_bytes("PNG")[:16] + b"\0\0\xea\x60" * 2 + image_bytes("PNG")[24:]),
        "cannot be decoded",
    ),
    "bitmap": (dict(name="train/cat/x.png", content=image_bytes("BMP")), "cannot be decoded as PNG or JPEG"),
    "half a header": (dict(name="train/cat/x.png", content=image_bytes("PNG")[:20]), "cannot be decoded"),
    "huge": (dict(name="train/cat/x.png", content=bytes(2 << 20)), "2,097,152 bytes"),
    "misplaced": (dict(name="cat.png"), "not of the form"),
    "one too many": (
        dict(name="train/cat/x.png"),
        "train/cat has 4 images, other classes 3; give each class equal size",
    ),
    "twice": (dict(name="other/train/cat/0000.png"), "there twice"),
    "backslashes": (dict(name="..\\..\\evil.png"), "unsafe path"),
    "drive": (dict(name="C:evil.png"), "unsafe path"),
    "long name": (dict(name=f"train/cat/{'x' * 300}.png", content=b""), "cannot be decoded"),
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_bad_archives_are_refused_and_leave_nothing(case, copy_folder, tmp_path, data_folder):
    member, words = BAD_MEMBERS[case]
    path = make_tar(copy_folder(), tmp_path / "copy.tar", "w")
    with tarfile.open(path, "a") as archive:
        add_file(archive, **member)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=words) as caught:
        import_images(path, progress=False)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


ZIP_CASES = {name: case for name, case in BAD_MEMBERS.items() if name not in ("hardlink", "device")}


@pytest.mark.parametrize("case", ZIP_CASES)
def test_bad_zip_files_are_refused_and_leave_nothing(case, copy_folder, tmp_path, data_folder):
    member, words = ZIP_CASES[case]
    path = make_zip(copy_folder(), tmp_path / "copy.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo(member["name"])
        if member.get("kind") == tarfile.SYMTYPE:
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
        info.filename = member["name"]  # as others would write it
        archive.writestr(info, member.get("content", image_bytes("PNG")))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=words) as caught:
        import_images(path, progress=False)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_encrypted_zip_files_are_refused(copy_folder, tmp_path, data_folder):
    path = make_zip(copy_folder(), tmp_path / "copy.zip")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # the flag of the first member in the directory
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive, pytest.raises(InputError, match="is encrypted; unpack it"):
        assert archive.infolist()[0].flag_bits & 1
        import_images(path, progress=False)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize("first", [True, False])
def test_a_header_of_a_gigabyte_is_refused_before_it_is_read(kind, first, tmp_path, data_folder):
    member = tarfile.TarInfo("train/cat/0.png")
    member.type, member.size = kind, 1 << 30
    path = tmp_path / "copy.tar"
    with open(path, "wb") as file:
        if not first:
            small = tarfile.TarInfo("readme")
            file.write(small.tobuf())
        file.write(member.tobuf())
        file.truncate(2 << 30)  # a gigabyte of zeros is there, in a sparse file
    with pytest.raises(InputError, match="announces 1,073,741,824 bytes"):
        import_images(path, progress=False)
    path.unlink()


def test_many_files_that_are_large_together_are_refused(tmp_path, data_folder, monkeypatch):
    monkeypatch.setattr("resnet56.datasets.archives.MAX_TOTAL", 100_000)
    for count, size, words in ((3, 40_000, "too many for"), (26, 0, "too many for"), (2, 40_000, "neither")):
        folder = tmp_path / f"{count}-{size}"
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.txt").write_bytes(bytes(size))
        for path in (folder, make_tar(folder, tmp_path / "a.tar", "w"), make_zip(folder, tmp_path / "a.zip")):
            with pytest.raises(InputError, match=words):
                import_images(path, progress=False)


@pytest.mark.parametrize("mode", ["", "gz", "bz2", "xz", "zip"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_archives_are_refused(copy_folder, tmp_path, data_folder, mode, share):
    path = (make_zip if mode == "zip" else make_tar)(copy_folder(), tmp_path / "copy.tar", f"w:{mode}")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match="is not a complete"):
        import_images(path, progress=False)
    assert not list(data_folder.iterdir())


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_unsafe_folders_in_archives_are_refused(make, tmp_path, monkeypatch):
    (tmp_path / "x" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "x" / "inner")
    with pytest.raises(InputError, match="unsafe path '../inner'|unsafe path '../inner/'|unsafe path '..'"):
        import_images(make(Path(".."), tmp_path / "copy", "w"), progress=False)


def test_folders_can_be_given_relative_to_where_one_is(copy_folder, monkeypatch):
    root = copy_folder()
    monkeypatch.chdir(root / "train")
    assert len(import_images("..", progress=False).train) == 30


def test_what_cannot_be_read_is_not_called_damaged(tiny, tmp_path, data_folder, monkeypatch):
    def refuse(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / OFFICIAL[0]).rename(data_folder / OFFICIAL[0])
    monkeypatch.setattr(Path, "read_bytes", refuse)
    words = f"cannot read {data_folder / OFFICIAL[0] / 'batches.meta'}: Permission denied; make it readable"
    assert survey_data() == (["shapes10"], [words])
    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(InputError, match="cannot read .*cifar10-png.npz: Permission denied; make it readable$"):
        load_data("cifar10-png")


def test_a_folder_that_cannot_be_listed_is_not_passed_over(copy_folder, monkeypatch):
    root, scandir = copy_folder(), os.scandir

    def refuse(path):
        if Path(path).name == "cat":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    for file in root.glob("*/cat/*"):
        file.unlink()
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="cannot read .*/cat: Permission denied; make it readable$"):
        import_images(root, progress=False)


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_a_damaged_stream_is_called_that(mode, copy_folder, tmp_path):
    path = make_tar(copy_folder(), tmp_path / "copy.tar", f"w:{mode}")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path} is not a complete .tar.* or .zip archive .*; get it again"):
        import_images(path, progress=False)


def test_a_damaged_member_of_a_zip_file_is_called_that(copy_folder, tmp_path):
    path, image = tmp_path / "copy.zip", copy_folder() / "train" / "cat" / "0000.png"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.write(image, name := "train/cat/0000.png")
    content = bytearray(path.read_bytes())
    content[30 + len(name) + 10 : 30 + len(name) + 20] = bytes(10)  # behind the header
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path} is not a complete .*; get it again"):
        import_images(path, progress=False)


@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_tar_file_cut_between_two_files_is_refused(size, copy_folder, tmp_path):
    path = make_tar(copy_folder(train=1, test=1), tmp_path / "copy.tar", "w")
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    with open(path, "r+b") as file:
        file.truncate(last.offset + size)
    with pytest.raises(InputError, match="is not a complete .* .it ends too early"):
        import_images(path, progress=False)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(10_000), b"PK", b"\x1f\x8b\x08"])
def test_what_is_no_archive_is_refused(content, tmp_path):
    path = tmp_path / "copy.tar.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a complete .tar, .tar.gz, .tar.xz or .zip archive|has neither"):
        import_images(path, progress=False)


def test_links_in_folders_are_refused(copy_folder):
    root = copy_folder()
    os.symlink("/etc", root / "train" / "cat" / "inner")
    with pytest.raises(InputError, match="is a link"):
        import_images(root, progress=False)


def test_missing_class_and_missing_path(copy_folder, tmp_path):
    root = copy_folder()
    for file in (root / "test" / "frog").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="no test images of frog"):
        import_images(root, progress=False)
    with pytest.raises(InputError, match="does not exist"):
        import_images(tmp_path / "nowhere", progress=False)


def test_the_format_is_what_the_content_says(copy_folder, data_folder):
    root = copy_folder()
    for number, file in enumerate(sorted(root.rglob("*.png"))):
        if number:
            Image.open(file).convert("RGB").save(file, "JPEG")
    imported = import_images(root, progress=False)  # one PNG is left
    assert imported.name == "cifar10-jpeg" and imported.title == "CIFAR-10 (JPEG and PNG copy, 30 + 20 images)"
    Image.new("RGB", (32, 32)).save(root / "test" / "airplane" / "0000.png", "JPEG")
    (data_folder / "cifar10-jpeg.npz").unlink()
    assert import_images(root, progress=False).title == "CIFAR-10 (JPEG copy, 30 + 20 images)"


def test_images_keep_their_rows_columns_and_colours(copy_folder):
    root = copy_folder()
    photograph = np.zeros((32, 32, 3), np.uint8)
    photograph[..., 0], photograph[..., 1] = np.arange(32), 7 * np.arange(32)[:, None]
    Image.fromarray(photograph).save(root / "train" / "bird" / "0001.png")
    pixels = import_images(root, progress=False).train.pixels[2 * 3 + 1]
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), photograph)


def test_other_files_and_hidden_ones_are_left_out(copy_folder):
    root = copy_folder()
    (root / "train" / "cat" / "._0000.png").write_text("of a Mac")
    (root / "readme.txt").write_text("hello")
    (root / "train" / "cat" / "0000.png").rename(root / "train" / "cat" / "0000.PNG")
    assert len(import_images(root, progress=False).train) == 30


def test_a_second_import_replaces_nothing(copy_folder, data_folder, capsys):
    root = copy_folder()
    first = import_images(root, progress=False)
    cache = data_folder / "cifar10-png.npz"
    content = cache.read_bytes()
    assert not capsys.readouterr().out
    assert import_images(root, progress=False).fingerprint == first.fingerprint
    assert f"the very same images are in {cache} already" in capsys.readouterr().out
    Image.new("RGB", (32, 32), "red").save(root / "train" / "cat" / "0000.png")
    with pytest.raises(InputError, match=f"{cache} holds other images .*delete it or move it away first") as caught:
        import_images(root, progress=False)
    assert first.fingerprint[:12] in str(caught.value) and cache.read_bytes() == content
    cache.unlink()  # what was advised
    second = import_images(root, progress=False)
    assert load_data("cifar10-png").fingerprint == second.fingerprint != first.fingerprint
    cache.write_bytes(content[:-100])
    with pytest.raises(InputError, match=f"{cache} is damaged .*; delete it, then "):
        import_images(root, progress=False)
    assert cache.read_bytes() == content[:-100]


@pytest.mark.parametrize("same", [True, False])
def test_of_two_imports_at_once_the_first_stays(same, copy_folder, data_folder, monkeypatch, capsys):
    """The second ends while the first is being saved."""
    root, saving, go_on = copy_folder(), threading.Event(), threading.Event()

    def slowly(data):
        saving.set()
        assert go_on.wait(60)
        save_cached(data)

    monkeypatch.setattr(importing, "save_cached", slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(import_images, root, progress=False)
        assert saving.wait(60)
        saving.clear()
        if not same:
            Image.new("RGB", (32, 32), "red").save(root / "train" / "cat" / "0000.png")
        second = pool.submit(import_images, root, progress=False)
        assert not saving.wait(1) and not second.done()  # neither saved over the first, nor given up
        go_on.set()
        fingerprint = first.result().fingerprint
        if same:
            assert second.result().fingerprint == fingerprint
            assert "the very same images are in" in capsys.readouterr().out
        else:
            with pytest.raises(InputError, match="holds other images"):
                second.result()
    assert load_data("cifar10-png").fingerprint == fingerprint and os.listdir(data_folder) == ["cifar10-png.npz"]


@pytest.mark.parametrize("source", [*OFFICIAL, "zip", "parent"])
def test_the_official_files_are_imported_as_cifar10(source, tiny, offline, tmp_path, data_folder, capsys):
    path = tmp_path / source
    if source == "zip":
        make_zip(tmp_path / OFFICIAL[0], path)
    if source == "parent":
        (path / "copies").mkdir(parents=True)
        (tmp_path / OFFICIAL[0]).rename(path / OFFICIAL[0])
        (tmp_path / OFFICIAL[2]).rename(path / OFFICIAL[2])  # both versions: the images are not taken twice
    check_truth(import_images(path, progress=False), tiny)
    assert os.listdir(data_folder) == ["cifar10.npz"] and survey_data()[0] == ["cifar10", "shapes10"]
    check_truth(load_data(), tiny)
    assert not capsys.readouterr().out
    check_truth(import_images(path, progress=False), tiny)
    words = f"the very same images are in {data_folder / 'cifar10.npz'} already; nothing was written"
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("source", OFFICIAL[::2])
@pytest.mark.parametrize("how", ["missing", "cut", "changed"])
def test_changed_official_files_are_not_imported(source, how, tiny, tmp_path, data_folder):
    file = sorted((tmp_path / source).glob("data_batch*"))[2]
    words = damage(file, how)
    with pytest.raises(InputError, match=f"{source} is not the official CIFAR-10: {words}") as caught:
        import_images(tmp_path / source, progress=False)
    assert "\n" not in str(caught.value) and not os.listdir(data_folder)


def test_an_import_does_not_replace_a_damaged_folder(tiny, tmp_path, data_folder):
    folder = data_folder / OFFICIAL[0]
    folder.mkdir()
    (folder / "data_batch_1").write_text("mine")
    check_truth(import_images(tmp_path / OFFICIAL[1], progress=False), tiny)
    assert (folder / "data_batch_1").read_text() == "mine" and os.listdir(folder) == ["data_batch_1"]
    check_truth(load_data(), tiny)


def test_a_foreign_pickle_is_never_opened(tiny, tmp_path, data_folder):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    (tmp_path / OFFICIAL[0] / "data_batch_1").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="data_batch_1 differs"):
        import_images(tmp_path / OFFICIAL[0], progress=False)
    (tmp_path / OFFICIAL[0]).rename(data_folder / OFFICIAL[0])
    assert survey_data()[0] == ["shapes10"] and not (tmp_path / "evil").exists()


def test_a_damaged_cache_is_refused(copy_folder, data_folder):
    import_images(copy_folder(), progress=False)
    cache = data_folder / "cifar10-png.npz"
    content = bytearray(cache.read_bytes())
    content[len(content) // 2] ^= 1
    cache.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        load_data("cifar10-png")


def test_a_cache_with_other_pixels_than_its_fingerprint_says_is_refused(copy_folder, data_folder):
    import_images(copy_folder(), progress=False)
    cache = data_folder / "cifar10-png.npz"
    with np.load(cache) as file:
        arrays = dict(file)
    arrays["test_pixels"][0, 0, 0, 0] ^= 1
    np.savez(cache, **arrays)  # sound as a file
    with pytest.raises(InputError, match="cifar10-png.npz is damaged .its checksum differs.; delete it"):
        load_data("cifar10-png")
