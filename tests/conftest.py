import pytest
import torch

from resnet56 import InputError
from resnet56.data import DataSet, Split, hold_out


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


def coloured(count: int, wrong: list[int]) -> Split:
    """Images whose class is their colour, which is learned in some steps; those of ``wrong`` show the next class."""
    palette = torch.tensor([[r, g, b] for r in (0, 110, 220) for g in (0, 110, 220) for b in (0, 220)])[:10]
    labels = torch.arange(count) % 10
    shown = labels.clone()
    shown[wrong] = (labels[wrong] + 1) % 10
    noise = torch.randint(0, 30, (count, 3, 32, 32), generator=torch.Generator().manual_seed(count))
    return Split((palette[shown][:, :, None, None] + noise).to(torch.uint8), labels)


def learnable_data() -> DataSet:
    """A data set whose splits have errors of their own: 0 % in training, 30 % of 20 held out, 42 % of the test."""
    places = Split(torch.arange(200), torch.arange(200) % 10)
    held_out = hold_out(places, 20)[1].pixels.tolist()
    train, test = coloured(200, held_out[:6]), coloured(50, list(range(21)))
    return DataSet("learnable", "learnable", tuple("abcdefghij"), train, test, "1" * 64)


@pytest.fixture
def learnable() -> DataSet:
    return learnable_data()


@pytest.fixture(scope="module")
def browser():
    """A browser, for the tests of pages; without one they are skipped."""
    import pdf  # imported here: other tests need no browser
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        try:
            browser = pdf.open_browser(playwright)
        except InputError as error:
            pytest.skip(str(error))
        yield browser
        browser.close()
