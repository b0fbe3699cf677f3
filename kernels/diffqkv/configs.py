"""Launch configurations, kept by hand: op, head dims, dtype and architecture give tiles, warps and stages.

Nothing is tuned at run time: autotuning needs a GPU, stalls every rank's first step, and depends on clocks.
The rows are what compiles without spills and fits (``docs/kernels.md`` has the table), not yet what a
GPU measured as fastest.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from kernels.diffqkv.shapes import interpreted

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
# bytes of shared memory that one block can have
SHARED_MEMORY = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448}
WIDTHS = (64, 128, 256)


class Launch(NamedTuple):
    """``tiles``: the kernel's tile sizes by the names of its constexpr arguments, e.g. BLOCK_M."""

    tiles: dict[str, int]
    num_warps: int
    num_stages: int

    def options(self) -> dict[str, int]:
        """Keyword arguments of the kernel's launch."""
        return {**self.tiles, "num_warps": self.num_warps, "num_stages": self.num_stages}


def _mn(block_m: int, block_n: int, num_warps: int, num_stages: int) -> Launch:
    return Launch({"BLOCK_M": block_m, "BLOCK_N": block_n}, num_warps, num_stages)


def _split(block_n: int, chunk: int, num_warps: int, num_stages: int) -> Launch:
    """CHUNK: keys of a split, all of which a program walks."""
    return Launch({"BLOCK_N": block_n, "CHUNK": chunk}, num_warps, num_stages)


def _everywhere(launch: Launch) -> dict[str, Launch]:
    return dict.fromkeys(ARCHITECTURES, launch)


# tiles as small as tests want them
INTERPRETED = {
    "prefill": _mn(16, 16, 4, 1),
    "prefill_dq": _mn(16, 16, 4, 1),
    "prefill_dkdv": _mn(16, 16, 4, 1),
    "decode": _split(16, 32, 4, 1),
    "decode_more_k": _split(16, 32, 4, 1),
    "extend": _mn(16, 16, 4, 1),
    "score": _split(16, 32, 4, 1),
    "bounded": Launch({"CHUNK": 48}, 4, 1),
    "select": Launch({"BLOCK_L": 32}, 4, 1),
    "gather": Launch({}, 4, 1),
}

# (op, width, bytes per element) -> architecture -> Launch. Width: the larger head dim, up to 64, 128 or 256.
# 4 bytes (float32, full precision, no tensor cores) is there to be checked, not to be fast; dims to 128.
TABLE: dict[tuple[str, int, int], dict[str, Launch]] = {
    ("prefill", 64, 2): {
        "sm_80": _mn(128, 64, 8, 2),
        "sm_90": _mn(128, 64, 8, 3),
        "sm_100": _mn(128, 64, 8, 3),
    },
    ("prefill", 128, 2): {
        "sm_80": _mn(128, 64, 8, 2),
        "sm_90": _mn(128, 64, 8, 3),
        "sm_100": _mn(128, 64, 8, 3),
    },
    ("prefill", 256, 2): {
        "sm_80": _mn(64, 32, 8, 2),
        "sm_90": _mn(128, 32, 8, 2),
        "sm_100": _mn(128, 32, 8, 2),
    },
    ("prefill_dq", 64, 2): {
        "sm_80": _mn(128, 64, 8, 2),
        "sm_90": _mn(128, 64, 8, 2),
        "sm_100": _mn(128, 64, 8, 2),
    },
    ("prefill_dq", 128, 2): {
        "sm_80": _mn(64, 64, 8, 2),
        "sm_90": _mn(128, 64, 8, 2),
        "sm_100": _mn(128, 64, 8, 2),
    },
    ("prefill_dq", 256, 2): {
        "sm_80": _mn(32, 32, 8, 2),
        "sm_90": _mn(64, 32, 8, 2),
        "sm_100": _mn(64, 32, 8, 2),
    },
    ("prefill_dkdv", 64, 2): {
        "sm_80": _mn(32, 128, 8, 2),
        "sm_90": _mn(32, 128, 8, 2),
        "sm_100": _mn(32, 128, 8, 2),
    },
    ("prefill_dkdv", 128, 2): {
        "sm_80": _mn(32, 64, 8, 2),
        "sm_90": _mn(32, 64, 8, 2),
        "sm_100": _mn(32, 64, 8, 1),
    },
    ("prefill_dkdv", 256, 2): {
        "sm_80": _mn(32, 32, 8, 1),
        "sm_90": _mn(32, 32, 8, 2),
        "sm_100": _mn(32, 32, 8, 2),
    },
    ("prefill", 64, 4): _everywhere(_mn(32, 32, 8, 1)),
    ("prefill", 128, 4): _everywhere(_mn(16, 16, 4, 1)),
    ("prefill_dq", 64, 4): _everywhere(_mn(16, 16, 4, 1)),
    ("prefill_dq", 128, 4): _everywhere(_mn(16, 16, 8, 1)),
    ("prefill_dkdv", 64, 4): _everywhere(_mn(32, 32, 4, 1)),
    ("prefill_dkdv", 128, 4): _everywhere(_mn(16, 16, 4, 1)),
    ("decode", 64, 2): _everywhere(_split(32, 512, 4, 4)),
    ("decode", 128, 2): _everywhere(_split(32, 512, 4, 3)),
    ("decode", 256, 2): _everywhere(_split(32, 512, 4, 2)),
    ("decode", 64, 4): _everywhere(_split(16, 512, 4, 2)),
    ("decode", 128, 4): _everywhere(_split(16, 512, 4, 2)),
    # more K heads than V heads: a program has the tiles of several K heads under way, so fewer stages of each
    ("decode_more_k", 64, 2): _everywhere(_split(32, 512, 4, 3)),
    ("decode_more_k", 128, 2): _everywhere(_split(32, 512, 4, 2)),
    ("decode_more_k", 256, 2): _everywhere(_split(16, 512, 4, 2)),
    ("decode_more_k", 64, 4): _everywhere(_split(16, 512, 4, 2)),
    ("decode_more_k", 128, 4): _everywhere(_split(16, 512, 4, 2)),
    ("extend", 64, 2): _everywhere(_mn(128, 64, 8, 3)),
    ("extend", 128, 2): {
        "sm_80": _mn(64, 64, 8, 2),
        "sm_90": _mn(128, 64, 8, 2),
        "sm_100": _mn(128, 64, 8, 2),
    },
    ("extend", 256, 2): _everywhere(_mn(64, 32, 8, 2)),
    ("extend", 64, 4): _everywhere(_mn(32, 32, 8, 1)),
    ("extend", 128, 4): _everywhere(_mn(16, 16, 4, 1)),
    ("score", 64, 2): _everywhere(_split(64, 1024, 4, 4)),
    ("score", 128, 2): _everywhere(_split(64, 1024, 4, 4)),
    ("score", 256, 2): _everywhere(_split(64, 1024, 4, 3)),
    ("score", 64, 4): _everywhere(_split(32, 1024, 4, 2)),
    ("score", 128, 4): _everywhere(_split(32, 1024, 4, 2)),
    # passes of selective V that see scores or single rows, whatever the head dims and dtype
    **{
        (op, width, size): _everywhere(launch)
        for op, launch in {
            "bounded": Launch({"CHUNK": 2048}, 4, 2),
            "select": Launch({"BLOCK_L": 1024}, 4, 1),
            "gather": Launch({}, 8, 1),
        }.items()
        for width, size in ((64, 2), (128, 2), (256, 2), (64, 4), (128, 4))
    },
}


def architecture(device: torch.device) -> str:
    """Key into the table for a device: sm_80, sm_90, sm_100 or interpreter.

    Raises ValueError for a GPU that none of them stands for.
    """
    if interpreted():
        return "interpreter"
    found = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    name = {"sm_103": "sm_100"}.get(found, found)
    if name not in ARCHITECTURES:
        raise ValueError(
            f"no launch configurations for {found}: the kernels know {', '.join(ARCHITECTURES)}; "
            "use the cudnn or reference backend, or add rows to kernels/diffqkv/configs.py"
        )
    return name


def launch_for(op: str, k_head_dim: int, v_head_dim: int, dtype: torch.dtype, architecture: str) -> Launch:
    """The configuration of ``op`` for these head dims, dtype and architecture; ValueError where none is."""
    if architecture == "interpreter":
        return INTERPRETED[op]
    width = next(width for width in WIDTHS if max(k_head_dim, v_head_dim) <= width)
    if (op, width, dtype.itemsize) not in TABLE:
        raise ValueError(
            f"{op} has no launch configuration for head dims up to {width} in {dtype}: float32 is taken "
            "up to 128; use bfloat16 or float16, or the cudnn or reference backend"
        )
    return TABLE[op, width, dtype.itemsize][architecture]
