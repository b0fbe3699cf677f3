"""Adding columns to a table, the same way in every annotator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole as float64, 0 where the whole is 0 (a text without words, lines, ...)."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole != 0)


def with_columns(table: pa.Table, adds: Mapping[str, str], values: Mapping) -> pa.Table:
    """The table with the columns ``adds`` ({name: type}); one of the same name is replaced."""
    fields = {field.name: field for field in table.schema}
    columns = dict(zip(table.column_names, table.columns, strict=True))
    for name, type_text in adds.items():
        fields[name] = pa.field(name, pa.type_for_alias(type_text))
        columns[name] = pa.array(values[name]).cast(fields[name].type)
    schema = pa.schema(fields.values(), table.schema.metadata)
    return pa.Table.from_arrays(list(columns.values()), schema=schema)
