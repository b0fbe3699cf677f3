"""Model shapes in YAML: a file is one model, or ``common`` keys and ``rows`` that change them.

Imports neither torch nor transformers: who plans a run reads shapes, too.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml


def model_rows(path: str | Path) -> list[str]:
    """Names of the rows of a YAML file of rows; empty where the file is one model."""
    return list(_read_yaml(Path(path)).get("rows", ()))


def read_shape(source: str | Path) -> dict[str, Any]:
    """Keys of the model in a YAML file, or in one row of a YAML file of rows, ``FILE:ROW``.

    Raises ValueError where there is no such file or row.
    """
    source = str(source)
    path, colon, row = source.rpartition(":")
    if not colon or Path(source).is_file():
        path, row = source, ""
    values = _read_yaml(Path(path))
    if "rows" not in values:
        if row:
            raise ValueError(f"model file {path} is one model, it has no row {row!r}; write {path}")
        return values
    rows = values["rows"]
    if row not in rows:
        nearest = difflib.get_close_matches(row, rows, n=1) or list(rows)
        raise ValueError(f"model file {path} has no row {row!r}; give a row, as {path}:{nearest[0]}")
    return {**values["common"], **rows[row]}


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"model file {path} does not exist; give a path such as "
                         "configs/model/sigma_tiny.yaml")  # fmt: skip
    values = yaml.safe_load(path.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"model file {path} must hold a mapping of config keys")
    return values
