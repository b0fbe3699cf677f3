"""Tiles of rows that lie anywhere, loaded and stored with the masks that head dims and lengths need."""

import triton
import triton.language as tl


@triton.jit
def load_rows(base, offsets, valid, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, MASKED: tl.constexpr):
    """[rows, BLOCK_DIM] at ``base + offsets``; zeros past DIM and, if MASKED, in rows that are not valid."""
    dims = tl.arange(0, BLOCK_DIM)
    pointers = base + offsets[:, None] + dims[None, :]
    if DIM == BLOCK_DIM:
        if MASKED:
            tile = tl.load(pointers, mask=valid[:, None], other=0.0)
        else:
            tile = tl.load(pointers)
    else:
        mask = dims[None, :] < DIM
        if MASKED:
            mask = mask & valid[:, None]
        tile = tl.load(pointers, mask=mask, other=0.0)
    return tile


@triton.jit
def store_rows(base, offsets, valid, tile, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """Write [rows, BLOCK_DIM] to ``base + offsets``, valid rows and the first DIM dims of them."""
    dims = tl.arange(0, BLOCK_DIM)
    pointers = base + offsets[:, None] + dims[None, :]
    mask = valid[:, None] & (dims[None, :] < DIM)
    tl.store(pointers, tile.to(base.dtype.element_ty), mask=mask)
