"""Registers, spills and shared memory of every shipped launch configuration, compiled without a GPU.

python -m benchmarks.kernels.resources [--architecture sm_90] [--op prefill] [--all] [--json]
prints the table of docs/kernels.md. ``--all`` adds float16, float32, odd head dims and other head counts.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

# a compiler is what is asked for here
os.environ["TRITON_INTERPRET"] = "0"
# said aloud, since Triton changes its default: multiply-adds are fused
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import torch

from kernels.diffqkv import prefill, prefill_backward
from kernels.diffqkv.aot import compile_for
from kernels.diffqkv.configs import ARCHITECTURES, SHARED_MEMORY, TABLE

# (d_k, d_v): the shapes of Sigma-1.5B and 10B, their half-K variants, and the widest
HEAD_DIMS = ((64, 64), (32, 64), (128, 128), (64, 128), (256, 256))
MORE_HEAD_DIMS = ((192, 128), (96, 192), (16, 16), (24, 40))
HEADS = (32, 4, 16)
MORE_HEADS = ((32, 4, 4), (32, 16, 16), (32, 32, 32), (32, 16, 4), (24, 4, 8))


def prefill_launches(
    architecture: str, heads: tuple[int, int, int], d_k: int, d_v: int, dtype: torch.dtype
) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Op, kernel and arguments of each launch that forward and backward make."""

    def tensor(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    (n_q, n_k, n_v), tokens = heads, 4096
    q, k, v = tensor(tokens, n_q, d_k), tensor(tokens, n_k, d_k), tensor(tokens, n_v, d_v)
    out, lse = tensor(tokens, n_q, d_v), tensor(n_q, tokens, dtype=torch.float32)
    inputs = (q, k, v, tensor(9, dtype=torch.int32), d_k**-0.5)
    kernel, _, arguments = prefill.forward_launch(*inputs, out, lse, architecture)
    yield "prefill", kernel, arguments
    kernel, _, arguments = prefill_backward.dq_launch(
        *inputs, architecture, out=out, lse=lse, do=out, dlse=lse, dq=q, delta=lse
    )
    yield "prefill_dq", kernel, arguments
    kernel, _, arguments = prefill_backward.dkdv_launch(
        *inputs, architecture, lse=lse, do=out, delta=lse, dk=k, dv=v
    )
    yield "prefill_dkdv", kernel, arguments


def cases(everything: bool) -> Iterator[tuple[tuple[int, int, int], tuple[int, int], torch.dtype]]:
    """Heads, head dims and dtype to compile for."""
    for dims in HEAD_DIMS:
        yield HEADS, dims, torch.bfloat16
    if everything:
        for dims in MORE_HEAD_DIMS:
            yield HEADS, dims, torch.bfloat16
        for heads in MORE_HEADS:
            for dims in ((64, 64), (128, 128)):
                yield heads, dims, torch.bfloat16
        for dtype in (torch.float16, torch.float32):
            for width in sorted({width for _, width, size in TABLE if size == dtype.itemsize}):
                yield HEADS, (width, width), dtype


def measure(architectures: list[str], ops: list[str], everything: bool) -> Iterator[dict[str, Any]]:
    """A row for each compiled kernel."""
    for architecture in architectures:
        for heads, (d_k, d_v), dtype in cases(everything):
            for op, kernel, arguments in prefill_launches(architecture, heads, d_k, d_v, dtype):
                if ops and op not in ops:
                    continue
                found = compile_for(architecture, kernel, arguments)
                yield {
                    "op": op,
                    "architecture": architecture,
                    "heads": "/".join(map(str, heads)),
                    "d_k": d_k,
                    "d_v": d_v,
                    "dtype": str(dtype).removeprefix("torch."),
                    "tiles": f"{arguments['BLOCK_M']} x {arguments['BLOCK_N']}",
                    "warps": arguments["num_warps"],
                    "stages": arguments["num_stages"],
                    "registers": found.registers,
                    "spills": found.spills,
                    "shared": found.shared,
                    "fits": found.shared <= SHARED_MEMORY[architecture],
                    "instructions": sorted(found.instructions),
                }


def markdown(row: dict[str, Any] | None) -> str:
    """One row of the table, or its head."""
    if row is None:
        names = ["op", "GPU", "heads", "d_k, d_v", "dtype", "tile", "warps", "stages"]
        names += ["registers", "spilled bytes", "shared bytes", "instructions"]
        return "| " + " | ".join(names) + " |\n|" + "---|" * len(names)
    cells = [row["op"], row["architecture"], row["heads"], f"{row['d_k']}, {row['d_v']}", row["dtype"]]
    cells += [row["tiles"], row["warps"], row["stages"], row["registers"], row["spills"]]
    cells += [f"{row['shared']:,}", ", ".join(row["instructions"])]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", action="append", choices=ARCHITECTURES)
    parser.add_argument("--op", action="append", default=[])
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measure(arguments.architecture or list(ARCHITECTURES), arguments.op, arguments.all)
    if not arguments.json:
        print(markdown(None))
    for row in rows:
        print(json.dumps(row) if arguments.json else markdown(row), flush=True)


if __name__ == "__main__":
    main()
