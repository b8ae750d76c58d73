"""Measurements: a table with its conditions, saved without pickle."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..errors import InputError
from .files import data_dir, new_folder
from .runs import how_to_get, seal, unseal


@dataclass(frozen=True)
class Measurement:
    """A tidy table, and what was measured on what.

    Attributes:
        about: conditions, a dict that JSON can hold.
        table: the numbers, a row per measured thing.
    """

    about: dict
    table: pd.DataFrame


def save_measurement(path: str | Path, measurement: Measurement, scratch: Path | None = None) -> None:
    """Write a measurement into a new folder ``path``: ``measurement.json`` and ``table.csv``, whole or not at all.

    Numbers in the table keep six significant digits; infinite ones and those that are not a number are kept too.

    Args:
        path: the folder.
        measurement: what to write.
        scratch: as for :func:`resnet56.records.files.new_folder`.

    Raises:
        InputError: if it cannot be written, or there is something of that name.
    """
    with new_folder(Path(path), scratch) as folder:
        measurement.table.to_csv(folder / "table.csv", index=False, float_format="%.6g", na_rep="nan")
        seal(folder / "measurement.json", measurement.about)


def load_measurement(path: str | Path) -> Measurement:
    """Load a measurement, by its folder or by the name of its folder in ``data/runs/``.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    folder = Path(path) if Path(path).is_dir() else data_dir() / "runs" / path
    about = unseal(folder / "measurement.json", "measurement")
    try:
        # Only "nan" is not a number: names may be empty, or "None".
        return Measurement(about, pd.read_csv(folder / "table.csv", keep_default_na=False, na_values=["nan"]))
    except (OSError, ValueError) as error:
        raise InputError(f"measurement {folder.name} cannot be read ({error}); {how_to_get(folder)}") from error
