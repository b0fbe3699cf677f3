"""Compile a kernel for a GPU that need not be there, and read what it needs off the machine code.

The arguments are those of a launch, with tensors on any device, ``meta`` too: an op's own launcher makes
both, so what is compiled here is what would run. Triton's interpreter must be off in the process.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.diffqkv.shapes import interpreted

# how PTX spells the instructions that a design asks for
INSTRUCTIONS = {
    "wgmma": "wgmma.mma_async",
    "mma": "mma.sync",
    "tcgen05": "tcgen05.mma",
    "cp.async": "cp.async.c",
    "tma": "cp.async.bulk.tensor",
    "atomic": "atom.global",
}
_POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Resources:
    """Of a compiled kernel: registers and bytes of spills a thread, bytes of shared memory a block."""

    kernel: str
    architecture: str
    registers: int
    spills: int
    shared: int
    # how often each of INSTRUCTIONS stands in the PTX; absent ones are left out
    instructions: dict[str, int]


def compile_for(architecture: str, kernel: Any, arguments: Mapping[str, Any]) -> Resources:
    """Compile ``kernel`` for ``architecture`` ("sm_90") as a launch with ``arguments`` would.

    ``arguments``: by name, num_warps and num_stages among them. As a launch does, an int of 1 becomes a
    constant and multiples of 16 are told to the compiler; tensors are taken to be aligned to 16 bytes.
    """
    if interpreted():
        raise RuntimeError(
            "Triton's interpreter is on, so kernels cannot be compiled: set TRITON_INTERPRET=0"
        )
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        special = not parameter.do_not_specialize
        aligned = isinstance(value, torch.Tensor) or (isinstance(value, int) and special and value % 16 == 0)
        if parameter.is_constexpr or value is None or (special and type(value) is int and value == 1):
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
            continue
        signature[parameter.name] = _type(value)
        if aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
    options = {name: arguments[name] for name in ("num_warps", "num_stages")}
    capability = int(architecture.removeprefix("sm_"))
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )
    ptx = compiled.asm["ptx"]
    usage = _usage(compiled.asm["cubin"])
    return Resources(
        kernel=kernel.__name__.strip("_"),
        architecture=architecture,
        registers=usage["REG"],
        spills=usage["STACK"] + usage["LOCAL"],
        shared=compiled.metadata.shared,
        instructions={name: ptx.count(text) for name, text in INSTRUCTIONS.items() if text in ptx},
    )


def _type(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return _POINTERS[value.dtype]
    if isinstance(value, float):
        return "fp32"
    assert isinstance(value, int), value
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _usage(cubin: bytes) -> dict[str, int]:
    """What the bundled cuobjdump says of a kernel: REG (a thread), LOCAL and STACK (bytes a thread) ..."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name: int(count) for name, count in re.findall(r"(\w+):(\d+)", text)}
