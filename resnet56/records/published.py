"""Test errors that others published for these networks, on the official CIFAR-10."""

from pathlib import Path

import pandas as pd

HE = "He et al. 2015, Table 6"
FIGURE = "He et al. 2015, Figure 6, read off"
NABLA = "nabla0001/resnet, 5 seeds"


def published() -> pd.DataFrame:
    """Return published test errors on the official CIFAR-10, in percent, as ``published.csv`` lists them.

    Columns: ``family`` (``plain`` or ``resnet``), ``depth``, ``test_error``, ``test_error_std`` (over runs, not a
    number where it was not given), ``source``. The paper gives ResNet-110 as mean and deviation of five runs, the
    others once. a-martyn/resnet gives the lowest of all epochs, chosen on the test images, which flatters.
    """
    return pd.read_csv(Path(__file__).with_name("published.csv"))


def beside_published(summary: pd.DataFrame) -> pd.DataFrame:
    """Set a table that :func:`resnet56.records.runs.summarise` gave beside the published figures, a row per network.

    Columns: ``family``, ``depth``, ``seeds``, ``measured`` (mean and, of several seeds, standard deviation of the test
    error in percent), and one for each source. The published figures are of the official CIFAR-10; say so where
    ``summary`` is of other data.
    """
    measured = summary[["family", "depth", "seeds"]].assign(measured=_written(summary))
    table = published()
    wide = table.assign(written=_written(table)).pivot(index=["family", "depth"], columns="source", values="written")
    return measured.merge(wide.reset_index(), how="left", on=["family", "depth"]).fillna("")


def _written(table: pd.DataFrame) -> list[str]:
    pairs = zip(table["test_error"], table["test_error_std"], strict=True)
    return [f"{error:.2f}" + (f" ± {spread:.2f}" if pd.notna(spread) else "") for error, spread in pairs]
