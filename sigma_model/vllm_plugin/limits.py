"""Which Sigmas vLLM can serve, and over how many GPUs; asked before vLLM is imported, and by the model."""

from __future__ import annotations

from sigma_model.config import SigmaConfig

TENSOR_PARALLEL_SIZES = (1, 2, 4)


def check_servable(config: SigmaConfig, tensor_parallel_size: int = 1) -> None:
    """Raises ValueError with the cure for a shape or a split that the plugin does not serve."""
    n_k, n_v = config.num_k_heads, config.num_v_heads
    if n_k > n_v:
        raise ValueError(
            f"num_k_heads = {n_k} is above num_v_heads = {n_v}: vLLM keeps a K head together with its V "
            "heads, so each K head needs at least one; generate with transformers instead"
        )
    if tensor_parallel_size not in TENSOR_PARALLEL_SIZES or n_k % tensor_parallel_size:
        possible = [size for size in TENSOR_PARALLEL_SIZES if n_k % size == 0]
        raise ValueError(
            f"tensor_parallel_size = {tensor_parallel_size}: it must divide num_k_heads = {n_k} and be one "
            f"of {TENSOR_PARALLEL_SIZES}; use one of {possible}, and more replicas for more GPUs"
        )
