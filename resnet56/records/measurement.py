"""Measurements: a table with its conditions, saved without pickle."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..errors import InputError
from .files import data_dir, new_folder
from .runs import checksum, sha256


@dataclass(frozen=True)
class Measurement:
    """A tidy table, and what was measured on what.

    Attributes:
        about: conditions, a dict that JSON can hold.
        table: the numbers, a row per measured thing.
    """

    about: dict
    table: pd.DataFrame


def save_measurement(path: str | Path, measurement: Measurement) -> None:
    """Write a measurement into a new folder ``path``: ``measurement.json`` and ``table.csv``, whole or not at all.

    Numbers in the table keep six significant digits; infinite ones and those that are not a number are kept too.

    Raises:
        InputError: if it cannot be written, or there is something of that name.
    """
    with new_folder(Path(path)) as folder:
        measurement.table.to_csv(folder / "table.csv", index=False, float_format="%.6g", na_rep="nan")
        about = {**measurement.about, "files": {"table.csv": sha256(folder / "table.csv")}}
        about = json.loads(json.dumps(about))  # what it will be when loaded: a number as a key becomes a string
        about["checksum"] = checksum(about)
        (folder / "measurement.json").write_text(json.dumps(about, indent=2) + "\n")


def load_measurement(path: str | Path) -> Measurement:
    """Load a measurement, by its folder or by the name of its folder in ``data/runs/``.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    folder = Path(path) if Path(path).is_dir() else data_dir() / "runs" / path
    try:
        about = json.loads((folder / "measurement.json").read_text())
        if about["checksum"] != checksum(about) or about["files"]["table.csv"] != sha256(folder / "table.csv"):
            raise InputError(f"measurement {folder.name} is damaged (its checksum differs); get it again")
        # Only "nan" is not a number: names may be empty, or "None".
        return Measurement(about, pd.read_csv(folder / "table.csv", keep_default_na=False, na_values=["nan"]))
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"measurement {folder.name} cannot be read ({error}); get it again") from error
