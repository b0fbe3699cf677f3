"""What every vLLM that we start is told, where the user says nothing."""

from __future__ import annotations

import os

# Without a GPU. A request with a seed ends the engine when its prompt is cut: vLLM 0.32 rewinds the
# generator after part of a prefill, which a generator on a CPU cannot do.
CPU_OPTIONS = {"enforce_eager": True, "enable_chunked_prefill": False}


def set_environment(kv_cache_gb: float = 1) -> None:
    """What vLLM reads from the environment; before it is imported. ``kv_cache_gb`` counts without a GPU."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # without these the engine takes half of the memory, and each process binds itself to all cores,
    # those that others were given too (Ray's OMP_NUM_THREADS counts)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(kv_cache_gb))))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
