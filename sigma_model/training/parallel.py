"""Ranks, and how a model is spread over them: FSDP2, HSDP and tensor parallelism, all torch's own.

Whoever starts the ranks (torchrun, Ray Train) sets RANK, LOCAL_RANK and WORLD_SIZE; without them
there is one process, and none of this is used.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)
from torch.utils.checkpoint import checkpoint

from sigma_model.config import SigmaConfig
from sigma_model.modeling import SigmaForCausalLM
from sigma_model.training.config import ParallelConfig, TrainConfig

Result = TypeVar("Result")
# a rank that waits longer waits for a dead one
TIMEOUT = datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """The ranks of a run, and where this one stands."""

    device: torch.device
    rank: int = 0
    size: int = 1
    tensor_parallel: int = 1
    mesh: DeviceMesh | None = None
    """(dp_replicate, dp_shard, tp); None in one process."""
    control: dist.ProcessGroup | None = None
    """Small integers and objects between the loops, on the CPU."""
    checkpoints: dist.ProcessGroup | None = None
    """The same for the thread that writes checkpoints."""

    @property
    def data_rank(self) -> int:
        """Which share of each batch this rank reads: those of a tensor-parallel group read the same."""
        return self.rank // self.tensor_parallel

    @property
    def data_size(self) -> int:
        """In how many shares a batch is cut."""
        return self.size // self.tensor_parallel

    def add_up(self, numbers: list[int]) -> list[int]:
        """Each number's sum over the data ranks; no device waits."""
        if self.control is None:
            return numbers
        values = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(values, group=self.control)
        return [value // self.tensor_parallel for value in values.tolist()]

    def any(self, *flags: bool) -> list[bool]:
        """Whether any rank says so, flag by flag."""
        return [count > 0 for count in self.add_up([flag * self.tensor_parallel for flag in flags])]

    def sum_over_data(self, sums: torch.Tensor) -> torch.Tensor:
        """``sums`` of the data ranks added up over all ranks, on the device."""
        if self.mesh is not None:
            dist.all_reduce(sums)
            sums /= self.tensor_parallel
        return sums

    def together(self, work: Callable[[], Result]) -> Result:
        """``work()`` of this rank; where it raises ValueError or OSError on one, all raise it: none waits."""
        error: Exception | None = None
        try:
            result = work()
        except (ValueError, OSError) as caught:
            error = caught
        errors: list[Exception | None] = [error]
        if self.control is not None:
            errors = [None] * self.size
            dist.all_gather_object(errors, error, group=self.control)
        for found in errors:
            if found is not None:
                raise found
        return result


@contextlib.contextmanager
def join_world(config: TrainConfig) -> Iterator[World]:
    """Meet the other ranks, if there are any. Raises ValueError for a shape they cannot have."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device = cuda, but torch sees no GPU; write auto or cpu")
    cuda = config.device != "cpu" and torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    tensor_parallel = config.parallel.tensor_parallel
    replicas = config.parallel.dp_replicate
    if size % (tensor_parallel * replicas):
        raise ValueError(
            f"{size} ranks are no multiple of parallel.dp_replicate x parallel.tensor_parallel = "
            f"{replicas} x {tensor_parallel}; start another number of ranks, or lower one of them"
        )
    if size == 1:
        yield World(device)
        return
    ours = not dist.is_initialized()
    if ours:
        # the CPU's part carries numbers and checkpoints
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    try:
        shape = (replicas, size // (replicas * tensor_parallel), tensor_parallel)
        yield World(
            device=device,
            rank=dist.get_rank(),
            size=size,
            tensor_parallel=tensor_parallel,
            mesh=init_device_mesh(device.type, shape, mesh_dim_names=("dp_replicate", "dp_shard", "tp")),
            control=dist.new_group(backend="gloo", timeout=TIMEOUT),
            checkpoints=dist.new_group(backend="gloo", timeout=TIMEOUT),
        )
    finally:
        if ours:
            dist.destroy_process_group()


def check_tensor_parallel(model: SigmaConfig, ranks: int) -> None:
    """Raise ValueError where a model's heads or widths cannot be cut into ``ranks`` parts."""
    if ranks == 1:
        return
    if model.k_head_dim != model.head_dim:
        raise ValueError(
            f"parallel.tensor_parallel = {ranks}, but the model maps K of width {model.k_head_dim} up to "
            f"{model.head_dim}, which is not cut; use 1 and more of dp_shard"
        )
    for name in ("num_k_heads", "num_v_heads", "intermediate_size", "aug_q_dim"):
        if getattr(model, name) % ranks:
            raise ValueError(
                f"parallel.tensor_parallel = {ranks} does not divide {name} = {getattr(model, name)}; no "
                f"head is cut or copied: use a divisor of num_k_heads = {model.num_k_heads}"
            )


def spread(model: SigmaForCausalLM, config: TrainConfig, world: World) -> None:
    """Cut the model over the ranks, and say what of each block is compiled and recomputed."""
    parallel, mesh = config.parallel, world.mesh
    if mesh is not None and parallel.tensor_parallel > 1:
        for layer in model.model.layers:
            parallelize_module(layer, mesh["tp"], _tensor_parallel_plan(model.config))
    for layer in model.model.layers:
        # of the forward alone: names of parameters stay, and FSDP's hooks stay outside
        if config.compile:
            layer.forward = torch.compile(layer.forward)
        if config.activation_checkpointing:
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    if mesh is not None and world.data_size > 1:
        _shard(model, config.dtype, parallel, mesh)


def _tensor_parallel_plan(model: SigmaConfig) -> dict:
    """Heads and the inner widths of both MLPs are cut; the residual stream is whole on every rank."""
    whole, cut = Replicate(), Shard(-1)
    plan = {
        "self_attn": PrepareModuleInput(
            input_layouts=(whole, None, None, None, None),
            desired_input_layouts=(whole, None, None, None, None),
        ),
        "self_attn.q_proj": ColwiseParallel(),
        "self_attn.k_proj": ColwiseParallel(),
        "self_attn.v_proj": ColwiseParallel(),
        "self_attn.o_proj": RowwiseParallel(),
        "mlp": PrepareModuleInput(input_layouts=(whole,), desired_input_layouts=(whole,)),
        "mlp.gate_proj": ColwiseParallel(),
        "mlp.up_proj": ColwiseParallel(),
        "mlp.down_proj": RowwiseParallel(),
    }
    if model.aug_q_dim:
        # the MLP on top of q reads all heads and gives each rank its own again
        plan["self_attn.q_proj"] = ColwiseParallel(output_layouts=whole, use_local_output=False)
        plan["self_attn.q_gate_proj"] = ColwiseParallel()
        plan["self_attn.q_up_proj"] = ColwiseParallel()
        plan["self_attn.q_down_proj"] = RowwiseParallel(output_layouts=cut)
    return plan


def _shard(model: SigmaForCausalLM, dtype: str, parallel: ParallelConfig, mesh: DeviceMesh) -> None:
    over = mesh["dp_replicate", "dp_shard"] if parallel.dp_replicate > 1 else mesh["dp_shard"]
    # bf16 weights travel, gradients are added up in float32; the angles of RoPE must stay float32
    narrow = torch.bfloat16 if dtype == "bfloat16" else None
    policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32, cast_forward_inputs=False)
    modules: list[torch.nn.Module] = [*model.model.layers, model]
    for module in modules:
        fully_shard(module, mesh=over, mp_policy=policy)
    for module in modules:
        assert isinstance(module, FSDPModule)
        # the loss is divided by the tokens of all ranks already: their gradients add up
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(model, "pretraining_loss")


def parameters_by_mesh(model: torch.nn.Module) -> list[dict[str, torch.nn.Parameter]]:
    """Parameters by name, those cut over the same ranks together: torch's fused operations take no mix."""
    groups: dict[DeviceMesh | None, dict[str, torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        groups.setdefault(mesh, {})[name] = parameter
    return list(groups.values())


def clip_gradients(groups: list[dict[str, torch.nn.Parameter]], most: float) -> torch.Tensor:
    """Scale all gradients down to a global norm of at most ``most``; the norm before, on the device."""
    norms = []
    for group in groups:
        norm = torch.nn.utils.get_total_norm([p.grad for p in group.values() if p.grad is not None])
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    for group in groups:
        torch.nn.utils.clip_grads_with_norm_(group.values(), most, norm)
    return norm


def level_gradients(groups: list[dict[str, torch.nn.Parameter]], world: World) -> None:
    """Average what tensor parallelism does not cut: equal on its ranks, or they would drift apart."""
    if world.mesh is None or world.tensor_parallel == 1:
        return
    mesh = world.mesh["tp"]
    for group in groups:
        for parameter in group.values():
            names = parameter.device_mesh.mesh_dim_names if isinstance(parameter, DTensor) else ()
            if parameter.grad is None or "tp" in (names or ()):
                continue
            grad = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
            dist.all_reduce(grad, group=mesh.get_group())
            grad /= world.tensor_parallel
