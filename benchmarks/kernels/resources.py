"""Registers, spills and shared memory of every shipped launch configuration, compiled without a GPU.

python -m benchmarks.kernels.resources [--architecture sm_90] [--op prefill] [--all] [--json]
prints the table of docs/kernels.md. ``--all`` adds float16, float32, odd head dims and other head counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

# a compiler is what is asked for here
os.environ["TRITON_INTERPRET"] = "0"
# said aloud, since Triton changes its default: multiply-adds are fused
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import torch

from kernels.diffqkv import append, bounded, decode, prefill, prefill_backward, topk
from kernels.diffqkv.aot import compile_for
from kernels.diffqkv.configs import ARCHITECTURES, SHARED_MEMORY, TABLE
from kernels.diffqkv.pages import check_paged_call

# (d_k, d_v): the shapes of Sigma-1.5B and 10B, their half-K variants, and the widest
HEAD_DIMS = ((64, 64), (32, 64), (128, 128), (64, 128), (256, 256))
MORE_HEAD_DIMS = ((192, 128), (96, 192), (16, 16), (24, 40))
HEADS = (32, 4, 16)
# those of the other models in configs/model, and three query heads to a pair
MORE_HEADS = {
    (32, 32, 32): ((64, 64), (32, 64), (128, 128)),
    (32, 16, 16): ((64, 64), (32, 64), (128, 128)),
    (32, 4, 4): ((64, 64), (32, 64), (128, 128)),
    (32, 32, 16): ((64, 64), (128, 128)),
    (32, 16, 32): ((64, 64), (128, 128)),
    (32, 16, 4): ((64, 64), (128, 128)),
    (32, 4, 1): ((64, 64), (128, 128)),
    (32, 1, 4): ((64, 64), (128, 128)),
    (8, 2, 4): ((32, 32),),
    (24, 4, 8): ((64, 64), (128, 128)),
}
TILE_NAMES = ("BLOCK_M", "BLOCK_N", "BLOCK_L", "TOP")


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


def paged_launches(
    architecture: str, heads: tuple[int, int, int], d_k: int, d_v: int, dtype: torch.dtype
) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Op, kernel and arguments of each launch over a cache of head-major pages of 64 tokens."""

    def tensor(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    (n_q, n_k, n_v), index = heads, torch.int32
    k_pages, v_pages = tensor(99, n_k, 64, d_k).transpose(1, 2), tensor(99, n_v, 64, d_v).transpose(1, 2)
    for op, q_length in (("decode", 1), ("extend", 64)):
        lengths = tensor(8, 512, dtype=index), tensor(9, dtype=index), tensor(8, dtype=index)
        q = tensor(8 * q_length, n_q, d_k)
        call = check_paged_call(q, k_pages, v_pages, *lengths, d_k**-0.5, q_length, None)
        for kernel, _, arguments in decode.decode_launches(call, *call.empty_results(), architecture):
            yield op, kernel, arguments
        if op == "decode":
            results = call.empty_results()
            for kernel, _, arguments in topk.topk_decode_launches(
                call, *results, 100, False, 0, 0, architecture
            ):
                yield "topk_decode", kernel, arguments
            # the scores' pass is that of topk_decode, the combination that of decode
            for kernel, _, arguments in bounded.bounded_decode_launches(call, *results, 1e-3, architecture)[
                1:3
            ]:
                yield "bounded_decode", kernel, arguments
    slots, angles = tensor(8, dtype=torch.int64), tensor(8, d_k // 2)
    rows = tensor(8, n_k, d_k), tensor(8, n_v, d_v)
    kernel, _, arguments = append.kv_append_launch(*rows, k_pages, v_pages, slots, angles, angles)
    yield "kv_append", kernel, arguments


def cases(everything: bool) -> Iterator[tuple[tuple[int, int, int], tuple[int, int], torch.dtype]]:
    """Heads, head dims and dtype to compile for."""
    for dims in HEAD_DIMS:
        yield HEADS, dims, torch.bfloat16
    if everything:
        for dims in MORE_HEAD_DIMS:
            yield HEADS, dims, torch.bfloat16
        for heads, all_dims in MORE_HEADS.items():
            for dims in all_dims:
                yield heads, dims, torch.bfloat16
        for dtype in (torch.float16, torch.float32):
            for width in sorted({width for _, width, size in TABLE if size == dtype.itemsize}):
                yield HEADS, (width, width), dtype


def launches(case: tuple[Any, ...]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """All that is launched for an architecture, heads, head dims and dtype."""
    yield from prefill_launches(*case)
    yield from paged_launches(*case)


def measure(architectures: list[str], ops: list[str], everything: bool) -> Iterator[dict[str, Any]]:
    """A row for each compiled kernel, on all cores; one that several cases share is compiled once."""
    jobs: dict[str, tuple[tuple[Any, ...], int]] = {}
    for architecture in architectures:
        for heads, dims, dtype in cases(everything):
            case = (architecture, heads, *dims, dtype)
            for number, (op, kernel, arguments) in enumerate(launches(case)):
                if not ops or op in ops:
                    jobs.setdefault(_key(architecture, kernel, arguments), (case, number))
    with ProcessPoolExecutor() as pool:
        yield from pool.map(_row, *zip(*jobs.values(), strict=True))


def _key(architecture: str, kernel: Any, arguments: dict[str, Any]) -> str:
    """What tells compiled kernels apart: of an int at run time, only whether it is 1 or a multiple of 16."""
    values = []
    for parameter in kernel.params:
        value = arguments[parameter.name]
        if isinstance(value, torch.Tensor):
            value = value.dtype
        elif isinstance(value, int) and not parameter.is_constexpr:
            value = value == 1, value % 16 == 0
        values.append(value)
    return f"{architecture} {kernel.__name__} {values} {arguments['num_warps']} {arguments['num_stages']}"


def _row(case: tuple[Any, ...], number: int) -> dict[str, Any]:
    architecture, heads, d_k, d_v, dtype = case
    op, kernel, arguments = next(itertools.islice(launches(case), number, None))
    found = compile_for(architecture, kernel, arguments)
    return {
        "op": op,
        "kernel": found.kernel,
        "architecture": architecture,
        "heads": "/".join(map(str, heads)),
        "d_k": d_k,
        "d_v": d_v,
        "dtype": str(dtype).removeprefix("torch."),
        "tiles": " x ".join(str(arguments[name]) for name in TILE_NAMES if name in arguments),
        "warps": arguments["num_warps"],
        "stages": arguments["num_stages"],
        "registers": found.registers,
        "spills": found.spills,
        "shared": found.shared,
        "fits": found.shared <= SHARED_MEMORY[architecture],
        "instructions": found.instructions,
    }


def markdown(row: dict[str, Any] | None) -> str:
    """One row of the table, or its head."""
    if row is None:
        names = ["op", "kernel", "GPU", "heads", "d_k, d_v", "dtype", "tile", "warps", "stages"]
        names += ["registers", "spilled bytes", "shared bytes", "instructions"]
        return "| " + " | ".join(names) + " |\n|" + "---|" * len(names)
    cells = [
        row["op"],
        row["kernel"],
        row["architecture"],
        row["heads"],
        f"{row['d_k']}, {row['d_v']}",
        row["dtype"],
    ]
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
