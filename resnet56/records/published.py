"""Test errors that others published for these networks, on the official CIFAR-10."""

import pandas as pd

HE = "He et al. 2015, Table 6"
FIGURE = "He et al. 2015, Figure 6, read off"
NABLA = "nabla0001/resnet, 5 seeds"

_ROWS = [
    # family, depth, test error (%), standard deviation, source
    ("resnet", 20, 8.75, None, HE),
    ("resnet", 32, 7.51, None, HE),
    ("resnet", 44, 7.17, None, HE),
    ("resnet", 56, 6.97, None, HE),
    ("resnet", 110, 6.61, 0.16, HE),
    ("plain", 20, 9.0, None, FIGURE),
    ("plain", 56, 13.0, None, FIGURE),
    ("resnet", 20, 8.51, 0.22, NABLA),
    ("resnet", 56, 7.40, 0.27, NABLA),
    ("resnet", 110, 7.14, 0.20, NABLA),
    ("plain", 20, 9.78, 0.13, NABLA),
    ("plain", 56, 12.95, 0.22, NABLA),
]


def published() -> pd.DataFrame:
    """Return published test errors on the official CIFAR-10, in percent.

    Columns: ``family`` (``plain`` or ``resnet``), ``depth``, ``test_error``, ``test_error_std`` (over runs, not a number
    where it was not given), ``source``. The paper gives ResNet-110 as mean and deviation of five runs, the others once.
    """
    table = pd.DataFrame(_ROWS, columns=["family", "depth", "test_error", "test_error_std", "source"])
    return table.astype({"test_error_std": float})


def beside_published(summary: pd.DataFrame) -> pd.DataFrame:
    """Set a table that :func:`resnet56.records.runs.summarise` gave beside the published figures, a row per network.

    Columns: ``family``, ``depth``, ``seeds``, ``measured`` (mean and, of several seeds, standard deviation of the test
    error in percent), and one for each source. The published figures are of the official CIFAR-10; say so where
    ``summary`` is of other data.
    """
    measured = summary[["family", "depth", "seeds"]].copy()
    measured["measured"] = [
        _written(error, spread) for error, spread in zip(summary["test_error"], summary["test_error_std"], strict=True)
    ]
    table = published()
    table["written"] = [
        _written(error, spread) for error, spread in zip(table["test_error"], table["test_error_std"], strict=True)
    ]
    wide = table.pivot(index=["family", "depth"], columns="source", values="written")
    return measured.merge(wide.reset_index(), how="left", on=["family", "depth"]).fillna("")


def _written(error: float, spread: float) -> str:
    return f"{error:.2f}" + (f" ± {spread:.2f}" if pd.notna(spread) else "")
