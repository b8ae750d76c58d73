"""Splits, augmentation and imports against brute force and torchvision's own transforms."""

import io
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as TF

from resnet56 import InputError
from resnet56.data import Batches, Split, augment, evenly, hold_out, normalise, pixel_mean
from resnet56.datasets import import_images, load_data
from resnet56.datasets.loading import CIFAR10_CLASSES

# --- Splits and batches -------------------------------------------------------------------------------


def test_evenly_takes_as_many_of_each_class_from_a_set_in_the_order_of_classes():
    labels = torch.arange(10).repeat_interleave(50)
    ordered = Split(torch.zeros(500, 3, 32, 32, dtype=torch.uint8), labels)
    assert evenly(ordered, 100).labels.bincount().tolist() == [10] * 10
    assert len(evenly(ordered, 1000)) == 500


def test_hold_out_is_stratified_disjoint_and_seeded(split):
    rest, held = hold_out(split, 20, seed=1)
    assert held.labels.bincount().tolist() == [2] * 10 and rest.labels.bincount().tolist() == [8] * 10
    together = torch.cat([rest.pixels, held.pixels]).flatten(1)
    assert len(together.unique(dim=0)) == len(split)
    assert torch.equal(hold_out(split, 20, seed=1)[1].pixels, held.pixels)
    assert not torch.equal(hold_out(split, 20, seed=2)[1].pixels, held.pixels)


@pytest.mark.parametrize("count", [0, 15, 100])
def test_hold_out_refuses_uneven_counts(split, count):
    with pytest.raises(InputError, match="cannot hold out"):
        hold_out(split, count)


def test_pixel_mean_is_the_mean_image(split):
    expected = split.pixels.numpy().astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(pixel_mean(split).numpy(), expected, rtol=1e-6)


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
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.1


def test_an_epoch_shows_every_image_once_and_the_next_is_shuffled_anew(split):
    batches = Batches(split, 20, seed=0)
    assert batches.steps_per_epoch == 5
    orders = []
    for epoch in range(2):
        orders.append(torch.cat([batches.draw(epoch * 5 + step)[0] for step in range(5)]).tolist())
        assert sorted(orders[-1]) == list(range(100))
    assert orders[0] != orders[1]


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


def test_offline_cifar10_names_the_alternatives(monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(InputError, match="(?s)network is unreachable.*data import.*shapes10") as caught:
        load_data("cifar10")
    assert "\n" not in str(caught.value)


def test_auto_falls_back_to_shapes10_and_says_so(monkeypatch, capsys, data_set):
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setattr("resnet56.datasets.loading._load_shapes10", lambda: data_set)
    assert load_data("auto") is data_set
    assert "Notice: using shapes10" in capsys.readouterr().out


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


@pytest.mark.parametrize("mode", ["", "gz", "xz"])
def test_folder_and_archives_give_the_same_data(copy_folder, tmp_path, mode):
    root = copy_folder()
    expected = import_images(root, progress=False)
    archive = make_tar(root, tmp_path / f"copy.tar{'.' + mode if mode else ''}", f"w:{mode}")
    imported = import_images(archive, progress=False)
    assert imported.fingerprint == expected.fingerprint == load_data("cifar10-png").fingerprint
    assert imported.title == "CIFAR-10 (PNG copy, 30 + 20 images)"
    for part, count in ((imported.train, 3), (imported.test, 2)):
        assert part.labels.tolist() == sorted(list(range(10)) * count)
        expected_values = [20 * label + i for label in range(10) for i in range(count)]
        assert part.pixels[:, 1, 5, 7].tolist() == expected_values
        assert (part.pixels.flatten(1) == part.pixels[:, :1, 0, 0]).all()


def test_jpeg_copies_are_labelled_so(copy_folder):
    imported = import_images(copy_folder("jpg"), progress=False)
    assert imported.name == "cifar10-jpeg" and imported.title.startswith("CIFAR-10 (JPEG copy")


def test_a_full_copy_has_the_plain_title(copy_folder, monkeypatch):
    monkeypatch.setattr("resnet56.datasets.importing.FULL_SIZE", (30, 20))
    assert import_images(copy_folder("jpg"), progress=False).title == "CIFAR-10 (JPEG copy)"


def png_bytes(size=(32, 32), mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def add_file(archive, name, content=None, kind=tarfile.REGTYPE, target=""):
    member = tarfile.TarInfo(name)
    content = png_bytes() if content is None else content
    member.type, member.linkname = kind, target
    member.size = len(content) if kind == tarfile.REGTYPE else 0
    archive.addfile(member, io.BytesIO(content))


BAD_MEMBERS = {
    "wrong class": (dict(name="train/zebra/0.png"), "'zebra', which is not one of CIFAR-10's"),
    "31x32": (dict(name="train/cat/x.png", content=png_bytes((31, 32))), "31x32 RGB, not 32x32 RGB"),
    "grey": (dict(name="train/cat/x.png", content=png_bytes(mode="L")), "32x32 L, not 32x32 RGB"),
    "not an image": (dict(name="train/cat/x.png", content=b"hello"), "cannot be decoded"),
    "parent": (dict(name="copy/../../evil.png"), "unsafe path"),
    "absolute": (dict(name="/etc/evil.png"), "unsafe path"),
    "symlink": (dict(name="train/cat/x.png", kind=tarfile.SYMTYPE, target="/etc/passwd"), "is a link"),
    "hardlink": (dict(name="train/cat/x.png", kind=tarfile.LNKTYPE, target="train/cat/0000.png"), "is a link"),
    "device": (dict(name="train/cat/x.png", kind=tarfile.CHRTYPE), "is a link or a device"),
    "bomb": (
        dict(name="train/cat/x.png", content=png_bytes()[:16] + b"\0\0\xea\x60" * 2 + png_bytes()[24:]),
        "cannot be decoded",
    ),
    "half a header": (dict(name="train/cat/x.png", content=png_bytes()[:20]), "cannot be decoded"),
    "huge": (dict(name="train/cat/x.png", content=bytes(2 << 20)), "2,097,152 bytes"),
    "misplaced": (dict(name="cat.png"), "not of the form"),
    "one too many": (dict(name="train/cat/x.png"), "equal size"),
    "twice": (dict(name="other/train/cat/0000.png"), "there twice"),
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


@pytest.mark.parametrize("mode", ["", "gz", "xz"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_archives_are_refused(copy_folder, tmp_path, data_folder, mode, share):
    path = make_tar(copy_folder(), tmp_path / "copy.tar", f"w:{mode}")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError):
        import_images(path, progress=False)
    assert not list(data_folder.iterdir())


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


def test_a_damaged_cache_is_refused(copy_folder, data_folder):
    import_images(copy_folder(), progress=False)
    cache = data_folder / "cifar10-png.npz"
    content = bytearray(cache.read_bytes())
    content[len(content) // 2] ^= 1
    cache.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        load_data("cifar10-png")
