import pytest
import torch

from resnet56.data import DataSet, Split


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    """Keep every test away from the reader's own data/ folder and environment."""
    monkeypatch.delenv("RESNET56_DATA", raising=False)
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("RESNET56_HOME", str(folder))
    return folder


def random_split(count: int, seed: int = 0) -> Split:
    """Noise images with balanced labels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Split(pixels, torch.arange(count) % 10)


@pytest.fixture
def split() -> Split:
    return random_split(100)


@pytest.fixture
def data_set() -> DataSet:
    classes = tuple("abcdefghij")
    return DataSet("noise", "noise", classes, random_split(100), random_split(50, seed=1), "0" * 64)
