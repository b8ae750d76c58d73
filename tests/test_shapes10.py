"""Shapes10 is the same bytes everywhere, balanced, and tells its classes by shape alone."""

import hashlib

import numpy as np
import pytest

from resnet56.data import make_data_set
from resnet56.datasets import load_data
from resnet56.datasets.importing import save_cached
from resnet56.datasets.loading import SHAPES10_FINGERPRINT
from resnet56.datasets.shapes10 import CLASSES, draw

SHA256 = {  # of the bytes of the pixels, then of the labels (little-endian int64)
    "train": "74f69081fd66086ee58e3fd6af6dedc51d769581f62042e1027dd698aa79cf61",
    "test": "b1b4281aa5a3c6aebbd33b245a9ca3a4fef5b98eb69bb6739839cb71c1dcc8ab",
}


@pytest.fixture(scope="module")
def sets():
    """The training and the test set, as (pixels, labels) each."""
    return {"train": draw(50_000, seed=0), "test": draw(10_000, seed=1)}


@pytest.mark.parametrize("name", ["train", "test"])
def test_bytes_are_pinned(sets, name):
    pixels, labels = sets[name]
    digest = hashlib.sha256(pixels.tobytes())
    digest.update(labels.astype("<i8").tobytes())
    assert digest.hexdigest() == SHA256[name]


@pytest.mark.parametrize("name, count", [("train", 50_000), ("test", 10_000)])
def test_shapes_types_and_balance(sets, name, count):
    pixels, labels = sets[name]
    assert pixels.shape == (count, 3, 32, 32) and pixels.dtype == np.uint8
    assert labels.shape == (count,) and labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [count // 10] * len(CLASSES)
    assert (np.sort(labels.reshape(-1, 10)) == np.arange(10)).all()  # every ten images: each class once


@pytest.mark.parametrize("count", [0, 1, 17, 200, 201, 1234])
def test_a_small_draw_is_a_prefix_of_a_large_one(sets, count):
    pixels, labels = draw(count, seed=1)
    assert np.array_equal(pixels, sets["test"][0][:count])
    assert np.array_equal(labels, sets["test"][1][:count])


def test_thread_count_does_not_matter(sets):
    for workers in (1, 3):
        pixels, labels = draw(1000, seed=0, workers=workers)
        assert np.array_equal(pixels, sets["train"][0][:1000])
        assert np.array_equal(labels, sets["train"][1][:1000])


def test_seeds_differ():
    (pixels, labels), (other_pixels, other_labels) = draw(500, seed=2), draw(500, seed=3)
    assert (pixels != other_pixels).any(axis=(1, 2, 3)).all()
    assert (labels != other_labels).any()


def test_no_image_is_constant(sets):
    for pixels, _ in sets.values():
        flat = pixels.reshape(len(pixels), -1)
        assert (flat.max(axis=1) > flat.min(axis=1)).all()


def test_no_image_occurs_twice(sets):
    images = [image.tobytes() for pixels, _ in sets.values() for image in pixels]
    assert len(set(images)) == len(images) == 60_000


def test_colour_does_not_tell_the_class(sets):
    """The mean colour of every class is that of the whole set, within a hundredth of the grey scale."""
    pixels, labels = sets["train"]
    colour = pixels.mean(axis=(2, 3))  # (50000, 3), 0..255
    means = np.stack([colour[labels == label].mean(axis=0) for label in range(10)])
    assert np.abs(means - colour.mean(axis=0)).max() < 2.55


def test_the_loader_draws_once_and_trusts_no_other_cache(sets, monkeypatch, data_folder):
    drawn = []

    def draw_again(count, seed):
        drawn.append((count, seed))
        return sets["test" if seed else "train"]

    monkeypatch.setattr("resnet56.datasets.shapes10.draw", draw_again)
    content = b"".join(part.astype(np.uint8).tobytes() for name in ("train", "test") for part in sets[name])
    for _ in range(2):
        data = load_data("shapes10")
        assert (data.name, data.title, data.classes) == ("shapes10", "shapes10", CLASSES)
        assert data.fingerprint == SHAPES10_FINGERPRINT == hashlib.sha256(content).hexdigest()
        for name, part in (("train", data.train), ("test", data.test)):
            assert np.array_equal(part.pixels, sets[name][0]) and np.array_equal(part.labels, sets[name][1])
        assert drawn == [(50_000, 0), (10_000, 1)]
    cache = data_folder / "shapes10.npz"
    intact = cache.read_bytes()
    cache.write_bytes(intact[:-100])  # damaged: drawn again
    assert load_data("shapes10").fingerprint == SHAPES10_FINGERPRINT and len(drawn) == 4
    assert cache.read_bytes()[-100:] == intact[-100:]
    other = [array[:100] for name in ("train", "test") for array in sets[name]]
    save_cached(make_data_set("shapes10", "shapes10", CLASSES, other))  # of another version: drawn again
    assert load_data("shapes10").fingerprint == SHAPES10_FINGERPRINT and len(drawn) == 6
    monkeypatch.setattr("resnet56.datasets.shapes10.draw", lambda count, seed: other[:2])
    cache.unlink()
    with pytest.raises(RuntimeError, match="came out differently"):
        load_data("shapes10")
    assert not cache.exists()
