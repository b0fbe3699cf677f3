"""What a shape costs, by arithmetic: parameters by part, bytes of KV cache a token."""

from __future__ import annotations

from sigma_model.config import SigmaConfig


def count_parameters(config: SigmaConfig) -> dict[str, int]:
    """Numbers of parameters by part, over all layers; parts the shape does not have are absent.

    The sum is that of ``SigmaForCausalLM(config).parameters()``: a tied head counts once.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    q_width = config.num_q_heads * config.head_dim
    parts = {
        "embedding": config.vocab_size * hidden,
        "Q projection": layers * hidden * q_width,
        "augmented Q": layers * 3 * q_width * config.aug_q_dim,
        "K projection": layers * hidden * config.num_k_heads * config.k_head_dim,
        "K up-map": 0,
        "V projection": layers * hidden * config.num_v_heads * config.v_head_dim,
        "output projection": layers * config.num_q_heads * config.v_head_dim * hidden,
        "FFN": layers * 3 * hidden * config.intermediate_size,
        "norms": (2 * layers + 1) * hidden,
        "untied head": 0 if config.tie_word_embeddings else config.vocab_size * hidden,
    }
    if config.k_head_dim != config.head_dim:
        parts["K up-map"] = layers * config.k_head_dim * config.num_k_heads * config.head_dim
    return {part: count for part, count in parts.items() if count}


def kv_cache_bytes_per_token(config: SigmaConfig, bytes_per_element: int = 2) -> int:
    """Bytes that one token keeps in the cache, over all layers: K and V, nothing else."""
    k_width = config.num_k_heads * config.k_head_dim
    v_width = config.num_v_heads * config.v_head_dim
    return config.num_hidden_layers * (k_width + v_width) * bytes_per_element


def training_flops_per_token(config: SigmaConfig, length: int, *, causal: bool = False) -> float:
    """Floating-point operations of forward and backward, a token of sequences of ``length``.

    The convention of MFU: 6 for every parameter that is multiplied (the head once, the embedding's
    lookup never, norms and recomputation neither), and for attention
    6 * layers * query heads * (k_head_dim + v_head_dim) * length with every pair of positions
    counted; ``causal``: half of that, the pairs that a causal mask lets through.
    """
    parts = count_parameters(config)
    head = config.vocab_size * config.hidden_size
    matrices = sum(parts.values()) - parts["embedding"] - parts["norms"] - parts.get("untied head", 0) + head
    pair = config.num_q_heads * (config.k_head_dim + config.v_head_dim)
    attention = 6 * config.num_hidden_layers * pair * length
    return 6 * matrices + attention * (0.5 if causal else 1.0)
