"""Long measurements, point by point: with a progress bar, and resumed after an interruption."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from torch import Tensor
from tqdm import tqdm

from ..errors import InputError
from ..progress import Interrupted, catch_signals
from ..records.files import check_writable, write_file

SAVE_EVERY = 60  # seconds between two saves


def measure_each(
    points: pd.DataFrame,
    measure: Callable[[pd.DataFrame], pd.DataFrame],
    *,
    at_once: int = 1,
    label: str = "measuring",
    progress: bool = True,
    partial: Path | None = None,
    key: str = "",
) -> pd.DataFrame:
    """Measure at every point, and return ``points``, a row each, with the columns of the results.

    Args:
        measure: maps some rows of ``points``, ``at_once`` of them, to a table with a row of results for each.
        progress: show a bar, with ``label`` before it.
        partial: a file to keep the results so far in, saved each minute and on interruption; a later call goes on from
            there, and the finished call deletes it.
        key: says what is measured, such as a :func:`digest` of weights and images; a file of another is refused.

    Raises:
        InputError: if ``partial`` holds something else or cannot be written, or ``at_once`` is below 1.
        Interrupted: on SIGINT or SIGTERM, when the results so far are saved.
    """
    if at_once < 1:
        raise InputError(f"cannot measure {at_once} points at once: give at least 1")
    if partial:
        check_writable(partial.parent)
    key = hashlib.sha256((key + points.to_json(double_precision=15)).encode()).hexdigest()
    results = _load_partial(partial, key) if partial and partial.exists() else []
    look = dict(desc=label, unit="point", disable=not progress, dynamic_ncols=True)
    with tqdm(total=len(points), initial=len(results), **look) as bar, catch_signals() as caught:
        saved = time.monotonic()
        while len(results) < len(points):
            chunk = points.iloc[len(results) : len(results) + at_once]
            results.extend(measure(chunk).to_dict("records"))
            bar.update(len(chunk))
            if partial and (caught or time.monotonic() - saved >= SAVE_EVERY):
                content = json.dumps({"key": key, "results": results}).encode()
                write_file(partial, lambda file, content=content: file.write(content))
                saved = time.monotonic()
            if caught:
                raise Interrupted(caught[0])
    if partial:
        partial.unlink(missing_ok=True)
    return pd.concat([points.reset_index(drop=True), pd.DataFrame(results)], axis=1)


def _load_partial(path: Path, key: str) -> list[dict]:
    try:
        content = json.loads(path.read_text())
        found, results = content["key"], content["results"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}, part of a measurement, is damaged ({error}); move it away to begin anew") from error
    if found != key:
        raise InputError(f"{path} holds part of another measurement; measure as it was begun, or move it away")
    return results


def digest(*tensors: Tensor) -> str:
    """Return the sha256 of tensors' values, shapes and types, as 64 hexadecimal digits."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
