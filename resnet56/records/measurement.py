"""Measurements: a table with its conditions, saved without pickle."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .files import new_folder
from .store import seal, unsealed


@dataclass(frozen=True)
class Measurement:
    """A tidy table, and what was measured on what."""

    about: dict  #: conditions, as JSON can hold them
    table: pd.DataFrame  #: the numbers, a row per measured thing


def save_measurement(path: str | Path, measurement: Measurement, scratch: Path | None = None) -> None:
    """Write a measurement into a new folder ``path``: ``measurement.json`` and ``table.csv``, whole or not at all.

    Numbers in the table keep six significant digits; infinite ones and those that are not a number are kept too.
    ``scratch`` and errors are as for :func:`resnet56.records.files.new_folder`.
    """
    with new_folder(Path(path), scratch) as folder:
        measurement.table.to_csv(folder / "table.csv", index=False, float_format="%.6g", na_rep="nan")
        seal(folder / "measurement.json", measurement.about)


def load_measurement(path: str | Path) -> Measurement:
    """Load a measurement, by its folder or that folder's name in ``data/runs/``; an ``InputError`` if it is damaged."""
    with unsealed(path, "measurement.json", "measurement") as (folder, about):
        # Only "nan" is not a number: names may be empty, or "None".
        return Measurement(about, pd.read_csv(folder / "table.csv", keep_default_na=False, na_values=["nan"]))
