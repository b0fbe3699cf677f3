"""KV caches of a Sigma: pages of K and pages of V, and one block table for both.

Shape letters: B sequences, S new tokens of each, L tokens of the longest sequence, P pages, T tokens of a
page, M entries of a block table, K and V heads, D width of k, E width of v.

A page holds T tokens of one sequence, head-major: [P, K, T, D] for K and [P, V, T, E] for V, with the same
page ids, so that one allocator serves both although their bytes differ. Padding takes no slot. The contiguous
cache is the same thing with one page, as long as it may get, for each sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache

from sigma_model.config import SigmaConfig


class PagedCache(Cache):
    """Keys and values in pages that are handed out as sequences grow.

    ``num_pages`` is the whole pool, allocated now; None: it starts empty and doubles as needed. Page 0 is
    an ordinary page. Each layer takes (n_k * d_k + n_v * d_v) elements a token of the pool, nothing more.

    A model's forward calls ``begin`` once, ``append`` in each layer, and attends over ``k_pages[layer]``,
    ``v_pages[layer]``, ``block_table`` [B, M] int32 and ``seq_lens`` [B] int32 (new tokens included), or over
    ``gather``. ``generate(past_key_values=cache)`` takes it too; every batch needs a new cache or ``reset``.
    """

    def __init__(
        self,
        config: SigmaConfig,
        *,
        page_size: int = 64,
        num_pages: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(layers=[])
        for name, value in (("page_size", page_size), ("num_pages", num_pages)):
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value} must be at least 1")
        self.page_size = page_size
        self.grows = num_pages is None
        layers, pages = range(config.num_hidden_layers), num_pages or 0
        k_shape = (pages, config.num_k_heads, page_size, config.k_head_dim)
        v_shape = (pages, config.num_v_heads, page_size, config.v_head_dim)
        # zeros, not empty: a reader multiplies masked slots by 0, and 0 * NaN is NaN
        self.k_pages = [torch.zeros(k_shape, dtype=dtype, device=device) for _ in layers]
        self.v_pages = [torch.zeros(v_shape, dtype=dtype, device=device) for _ in layers]
        self.reset()

    def reset(self) -> None:
        """Forget all sequences; the pool stays."""
        self._free = list(range(self.num_pages))
        self._tables: list[list[int]] = []
        self._lengths: list[int] = []
        # columns of the batch, padding included, and how many of the last are free of padding
        self._columns = self._columns_without_padding = 0
        device = self.k_pages[0].device
        self.block_table = torch.zeros(0, 0, dtype=torch.int32, device=device)
        self.seq_lens = torch.zeros(0, dtype=torch.int32, device=device)
        self.slots = torch.zeros(0, 0, dtype=torch.int64, device=device)
        self._padded = False

    @property
    def num_pages(self) -> int:
        """Pages of the pool, free ones included."""
        return self.k_pages[0].shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all pages of all layers."""
        return sum(pages.nbytes for pages in (*self.k_pages, *self.v_pages))

    @property
    def is_empty(self) -> bool:
        """Whether no token has come yet."""
        return self._columns == 0

    @property
    def max_seq_len(self) -> int:
        """Tokens of the longest sequence."""
        return max(self._lengths, default=0)

    def begin(self, batch_size: int, length: int, mask_BS: Tensor | None = None) -> None:
        """Take slots for ``length`` new tokens of each sequence; ``slots`` [B, S] names them, -1 for padding.

        ``mask_BS``: 1 = token, 0 = padding, which must come before the tokens (left padding).
        Raises ValueError for another batch than the first one, right padding, and a pool that is full.
        """
        if not self.is_empty and batch_size != len(self._lengths):
            raise ValueError(
                f"the cache holds {len(self._lengths)} sequences, the batch has {batch_size}; "
                "call reset() or make a new cache for another batch"
            )
        if self.is_empty:
            self._tables, self._lengths = [[] for _ in range(batch_size)], [0] * batch_size
        device = self.seq_lens.device
        counts = [length] * batch_size
        self._padded = mask_BS is not None
        if mask_BS is not None:
            mask_BS = mask_BS.to(device, torch.int64)
            falls_B = (mask_BS[:, 1:] < mask_BS[:, :-1]).any(-1)
            *counts, falls = torch.cat([mask_BS.sum(-1), falls_B.sum()[None]]).tolist()
            if falls:
                raise ValueError(
                    "attention_mask has padding after tokens; a cache takes left padding only "
                    "(padding_side='left' of the tokenizer)"
                )
            self._padded = min(counts, default=length) < length
        before_B = torch.tensor(self._lengths, device=device)
        lengths = [old + new for old, new in zip(self._lengths, counts, strict=True)]
        self._hold([-(-tokens // self.page_size) for tokens in lengths])
        self._lengths = lengths
        self._columns += length
        self._columns_without_padding = 0 if self._padded else self._columns_without_padding + length
        self.seq_lens = torch.tensor(self._lengths, dtype=torch.int32, device=device)
        if not self._padded:
            places_BS = before_B[:, None] + torch.arange(length, device=device)
        else:
            assert mask_BS is not None
            # padding before the first token has no place; it gets no slot below
            places_BS = (before_B[:, None] + mask_BS.cumsum(-1) - 1).clamp(min=0)
        if self.block_table.shape[1]:
            page_BS = self.block_table.long().gather(1, places_BS // self.page_size)
            slots = page_BS * self.page_size + places_BS % self.page_size
        else:
            slots = torch.full_like(places_BS, -1)
        if self._padded:
            assert mask_BS is not None
            slots = slots.masked_fill(mask_BS.eq(0), -1)
        self.slots = slots

    def append(self, layer_idx: int, k_BSKD: Tensor, v_BSVE: Tensor) -> None:
        """Write the new tokens' keys and values of one layer into the slots that ``begin`` took, in torch.

        The sigma backend's kernel does the same. Gradients stop here: a cache is for generating.
        """
        slots = self.slots.flatten()
        k_NKD, v_NVE = k_BSKD.detach().flatten(0, 1), v_BSVE.detach().flatten(0, 1)
        if self._padded:
            tokens = slots >= 0
            slots, k_NKD, v_NVE = slots[tokens], k_NKD[tokens], v_NVE[tokens]
        page, place = slots // self.page_size, slots % self.page_size
        k_pages, v_pages = self.k_pages[layer_idx], self.v_pages[layer_idx]
        k_pages[page, :, place] = k_NKD.to(k_pages.dtype)
        v_pages[page, :, place] = v_NVE.to(v_pages.dtype)

    def gather(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """K [B, K, L, D] and V [B, V, L, E] of one layer; what lies behind a sequence's end is no token."""

        def copied(pages: Tensor) -> Tensor:
            by_token = pages[self.block_table.long()].transpose(1, 2)
            return by_token.flatten(2, 3)[:, :, : self.max_seq_len]

        return copied(self.k_pages[layer_idx]), copied(self.v_pages[layer_idx])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the batch so far, padding included: what Hugging Face's generate counts in."""
        return self._columns

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Tokens that fit one sequence alone; -1: as many as memory holds."""
        return -1 if self.grows else self.num_pages * self.page_size

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens of each sequence (assisted generation)."""
        count = -tokens_to_remove
        if not 0 <= count <= self._columns_without_padding:
            raise ValueError(
                f"crop({tokens_to_remove}): give minus the number of tokens to forget, at most the last "
                f"{self._columns_without_padding} columns, which hold no padding"
            )
        self._columns -= count
        self._columns_without_padding -= count
        self._lengths = [tokens - count for tokens in self._lengths]
        self._hold([-(-tokens // self.page_size) for tokens in self._lengths])
        self.seq_lens = self.seq_lens - count

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Sequence b becomes a copy of sequence ``beam_idx[b]`` (beam search)."""
        order = beam_idx.tolist()
        sources = [page for b in order for page in self._tables[b]]
        self._lengths = [self._lengths[b] for b in order]
        self._hold([-(-tokens // self.page_size) for tokens in self._lengths])
        targets = [page for table in self._tables for page in table]
        for pages in (*self.k_pages, *self.v_pages):
            # reads all sources before it writes
            pages[targets] = pages[sources]
        self.seq_lens = torch.tensor(self._lengths, dtype=torch.int32, device=self.seq_lens.device)

    def _hold(self, counts: list[int]) -> None:
        """Give each sequence this many pages, no more and no less."""
        if counts == [len(table) for table in self._tables]:
            return
        for table, count in zip(self._tables, counts, strict=True):
            self._free.extend(reversed(table[count:]))
            del table[count:]
        missing = sum(counts) - sum(map(len, self._tables))
        if missing > len(self._free):
            self._grow(missing - len(self._free))
        for table, count in zip(self._tables, counts, strict=True):
            table.extend(self._free.pop(0) for _ in range(count - len(table)))
        width = max(counts)
        rows = [table + [0] * (width - len(table)) for table in self._tables]
        self.block_table = torch.tensor(rows, dtype=torch.int32, device=self.seq_lens.device)

    def _grow(self, missing: int) -> None:
        old = self.num_pages
        if not self.grows:
            raise ValueError(
                f"the cache is full: it has {old} pages of {self.page_size} tokens and needs {missing} more; "
                "give it more (num_pages) or generate fewer tokens"
            )
        added = max(missing, old)
        for pages in (self.k_pages, self.v_pages):
            for layer, held in enumerate(pages):
                pages[layer] = torch.cat([held, held.new_zeros(added, *held.shape[1:])])
        self._free.extend(range(old, old + added))


class ContiguousCache(PagedCache):
    """One run of ``max_length`` tokens for each of ``batch_size`` sequences, allocated now.

    K [B, K, max_length, D] and V [B, V, max_length, E] of a layer are its pages, read without a copy.
    """

    def __init__(
        self,
        config: SigmaConfig,
        batch_size: int,
        max_length: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(config, page_size=max_length, num_pages=batch_size, dtype=dtype, device=device)

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Tokens that fit each sequence."""
        return self.page_size

    def _hold(self, counts: list[int]) -> None:
        if max(counts, default=0) > 1 or len(counts) > self.num_pages:
            raise ValueError(
                f"the cache is full: it holds {self.num_pages} sequences of {self.page_size} tokens; "
                "give it a larger batch_size or max_length, or take a PagedCache, which grows"
            )
        # sequence b keeps page b, tokens or not
        super()._hold([1] * len(counts))

    def gather(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Views K [B, K, L, D] and V [B, V, L, E] of one layer."""
        part = slice(0, len(self._lengths)), slice(None), slice(0, self.max_seq_len)
        return self.k_pages[layer_idx][part], self.v_pages[layer_idx][part]
