"""A paged cache full of sequences, in each layout that the kernels read, for tests and tolerance.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from kernels.diffqkv.pages import fused_page_views

LAYOUTS = ("token-major", "head-major", "fused token-major", "fused head-major")


@dataclass(frozen=True)
class Case:
    """Arguments of a decode op; what no sequence uses is NaN in the pages and no page in the table."""

    q_NQD: torch.Tensor
    k_pages: torch.Tensor
    v_pages: torch.Tensor
    block_table_BM: torch.Tensor
    cu_seqlens_q: torch.Tensor
    seq_lens_B: torch.Tensor

    @property
    def arguments(self) -> tuple[torch.Tensor, ...]:
        return tuple(vars(self).values())

    @property
    def exact(self) -> tuple[torch.Tensor, ...]:
        """The same in float64, for a reference."""
        return tuple(x.double() if x.is_floating_point() else x for x in self.arguments)

    @property
    def max_seqlen_q(self) -> int:
        return max(int(self.cu_seqlens_q.diff().max()), 1)

    def sequence(self, b: int) -> Case:
        """Sequence b by itself."""
        first, last = self.cu_seqlens_q[b : b + 2].tolist()
        rows = slice(b, b + 1)
        return replace(
            self,
            q_NQD=self.q_NQD[first:last],
            block_table_BM=self.block_table_BM[rows],
            cu_seqlens_q=self.cu_seqlens_q.new_tensor([0, last - first]),
            seq_lens_B=self.seq_lens_B[rows],
        )


def empty_pages(
    layout: str,
    num_pages: int,
    page_size: int,
    heads: tuple[int, int],
    dims: tuple[int, int],
    dtype: torch.dtype,
    device: str = "cpu",
) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V pages of NaN: by head, or views of a fused page."""
    (n_k, n_v), (d_k, d_v) = heads, dims

    def full(*shape: int) -> torch.Tensor:
        return torch.full(shape, float("nan"), dtype=dtype, device=device)

    if layout == "token-major":
        return full(num_pages, page_size, n_k, d_k), full(num_pages, page_size, n_v, d_v)
    if layout == "head-major":
        k, v = full(num_pages, n_k, page_size, d_k), full(num_pages, n_v, page_size, d_v)
        return k.transpose(1, 2), v.transpose(1, 2)
    width = d_k + n_v // n_k * d_v
    if layout == "fused token-major":
        fused = full(num_pages, page_size, n_k, width).transpose(1, 2)
    else:
        fused = full(num_pages, n_k, page_size, width)
    return fused_page_views(fused, d_k, d_v)


def paged_case(
    heads: tuple[int, int, int],
    dims: tuple[int, int],
    lengths: Sequence[int],
    q_lengths: Sequence[int],
    page_size: int = 16,
    layout: str = "head-major",
    dtype: torch.dtype = torch.float32,
    whole: bool = False,
    page_seed: int = 0,
    device: str = "cpu",
) -> Case:
    """``whole`` numbers make scores exact, so that equal ones are equal."""
    generator = torch.Generator().manual_seed(sum(lengths) + 1)

    def numbers(*shape: int) -> torch.Tensor:
        if whole:
            return torch.randint(-2, 3, shape, generator=generator).to(device, dtype)
        return torch.randn(shape, generator=generator).to(device, dtype)

    (n_q, n_k, n_v), (d_k, d_v) = heads, dims
    used = [-(-length // page_size) for length in lengths]
    num_pages = sum(used) + 2
    k_pages, v_pages = empty_pages(layout, num_pages, page_size, (n_k, n_v), dims, dtype, device)
    ids = torch.randperm(num_pages, generator=torch.Generator().manual_seed(page_seed)).tolist()
    block_table = torch.full((len(lengths), max(used) + 1), 2**30, dtype=torch.int32)
    for b, length in enumerate(lengths):
        k, v = numbers(length, n_k, d_k), numbers(length, n_v, d_v)
        for i in range(used[b]):
            block_table[b, i] = page = ids.pop()
            rows = slice(i * page_size, (i + 1) * page_size)
            count = len(k[rows])
            k_pages[page, :count] = k[rows].reshape(count, *k_pages.shape[2:])
            v_pages[page, :count] = v[rows].reshape(count, *v_pages.shape[2:])
    return Case(
        numbers(sum(q_lengths), n_q, d_k),
        k_pages,
        v_pages,
        block_table.to(device),
        torch.tensor([0, *q_lengths]).cumsum(0).to(device, torch.int32),
        torch.tensor(lengths, dtype=torch.int32, device=device),
    )
