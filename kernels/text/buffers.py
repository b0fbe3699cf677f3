"""Arrow string columns as the two arrays that every text kernel reads."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def text_buffers(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The UTF-8 bytes and offsets of a string or large_string column.

    Returns (data, offsets): ``data`` uint8 [n_bytes], ``offsets`` int64 [n + 1]; the text of row i
    is ``data[offsets[i]:offsets[i + 1]]``. Nulls are empty texts. ``data`` is Arrow's own buffer,
    not copied, unless the column has more than one chunk or a null that hides bytes; offsets need
    not start at 0. Both arrays are read-only. Raises ValueError for a column of another type.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else _one_chunk(column)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type):
        width = "int32"
    elif pa.types.is_large_string(column.type):
        width = "int64"
    else:
        raise ValueError(f"a text kernel reads string or large_string, not {column.type}")
    n = len(column)
    if n == 0:
        return _read_only(np.empty(0, np.uint8)), _read_only(np.zeros(1, np.int64))
    _, offset_buffer, data_buffer = column.buffers()
    offsets = np.frombuffer(offset_buffer, width)[column.offset : column.offset + n + 1]
    if column.null_count and np.diff(offsets)[column.is_null().to_numpy(False)].any():
        # Arrow lets a null row span bytes: only then is a copy needed
        return text_buffers(pc.fill_null(column, ""))
    data = np.empty(0, np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
    return _read_only(data), _read_only(offsets.astype(np.int64, copy=False))


def _read_only(array: np.ndarray) -> np.ndarray:
    # Numba compiles a kernel anew for writable arrays: there should be one version only
    array.flags.writeable = False
    return array


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    # 32-bit offsets overflow when chunks of more than 2 GiB are joined
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) and column.nbytes >= 2**31:
        column = column.cast(pa.large_string())
    joined = column.combine_chunks()
    return joined if isinstance(joined, pa.Array) else pa.concat_arrays(joined.chunks)
