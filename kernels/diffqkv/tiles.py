"""What several kernels share: tiles of rows, and which sequence a block of packed rows belongs to."""

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


@triton.jit
def find_block(cu_seqlens, num_sequences, block, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Sequence of a block: its first token, its tokens, the block's index in it, the blocks it owns.

    Sequence b has ROWS rows a token and owns the blocks from ``cu_seqlens[b] * ROWS // BLOCK + b`` on:
    always enough of them, and the grid is known without a look at the lengths. Some blocks are empty.
    """
    low = 0
    high = num_sequences
    while high - low > 1:
        middle = (low + high) // 2
        first = tl.load(cu_seqlens + middle).to(tl.int64) * ROWS // BLOCK + middle
        before = first <= block
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    start = tl.load(cu_seqlens + low).to(tl.int64)
    length = (tl.load(cu_seqlens + low + 1).to(tl.int64) - start).to(tl.int32)
    index = (block - (start * ROWS // BLOCK + low)).to(tl.int32)
    owned = (length * ROWS + BLOCK - 1) // BLOCK
    return start, length, index, owned
