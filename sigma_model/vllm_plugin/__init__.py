"""Sigma in vLLM (0.29 to 0.33), as a plugin that vLLM finds by its entry point ``vllm.general_plugins``.
The one place of ``sigma_model`` that imports vLLM, and vLLM is who loads it: others import limits.py alone.
The KV cache is vLLM's own: a K head and its V heads are one KV head whose V is wide (attention.py), so
that paging, prefix caching, chunked prefill and tensor parallelism are vLLM's too.
"""

from __future__ import annotations


def register() -> None:
    """Tell vLLM of Sigma; called in each of its processes, maybe more than once, and touches no device."""
    from vllm import ModelRegistry
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    # puts our config into transformers' AutoConfig, from which vLLM reads config.json
    import sigma_model  # noqa: F401

    if "SigmaForCausalLM" not in ModelRegistry.get_supported_archs():
        # by name: vLLM looks at the class in a process of its own first
        ModelRegistry.register_model("SigmaForCausalLM", "sigma_model.vllm_plugin.model:SigmaForCausalLM")
    register_backend(AttentionBackendEnum.CUSTOM, "sigma_model.vllm_plugin.backends.TritonBackend")
