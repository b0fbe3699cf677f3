"""DiffQKV attention (arXiv 2501.13629, section 2): the naive contract and the plain torch path.

Shape letters: B batch, S query positions, T key positions, Q query heads, K K heads, V V heads,
D width of q and k, E width of v.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention


def head_map(num_q_heads: int, num_heads: int) -> list[int]:
    """The K (or V) head that each query head reads: floor(q * num_heads / num_q_heads), Eq. 3."""
    return [q * num_heads // num_q_heads for q in range(num_q_heads)]


def allowed_positions(
    length: int,
    device: torch.device,
    segment_ids_BS: torch.Tensor | None = None,
    padding_BS: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """Who may look at whom in whole sequences, bool [B or 1, 1, S, S]; None when that is plain causal.

    A query sees keys at or before its own position, of its own segment (``segment_ids_BS``: packed
    documents), that are no padding (``padding_BS``: 1 = token, 0 = padding). Every query sees itself,
    so no row is empty.
    """
    if segment_ids_BS is None and padding_BS is None:
        return None
    place = torch.arange(length, device=device)
    allowed = (place[None, :] <= place[:, None])[None, None]
    if segment_ids_BS is not None:
        allowed = allowed & (segment_ids_BS[:, :, None] == segment_ids_BS[:, None, :])[:, None]
    if padding_BS is not None:
        itself = place[None, :] == place[:, None]
        allowed = (allowed & padding_BS.bool()[:, None, None, :]) | itself
    return allowed


def allowed_in_cache(length: int, seq_lens_B: torch.Tensor, max_seq_len: int) -> torch.Tensor:
    """Which of the cache's tokens the last ``length`` columns see, bool [B, 1, S, L].

    The last query of a sequence sees all ``seq_lens_B[b]`` tokens, each one before it one less. A query
    that would see none is left padding; it sees the first slot, so that no row is empty.
    """
    device = seq_lens_B.device
    key_L = torch.arange(max_seq_len, device=device)
    last_seen_BS = seq_lens_B[:, None] - length + torch.arange(length, device=device)
    return (key_L <= last_seen_BS.clamp(min=0)[:, :, None])[:, None]


def reference_attention(
    q_BQSD: torch.Tensor,
    k_BKTD: torch.Tensor,
    v_BVTE: torch.Tensor,
    allowed: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """The contract: one query head after the other, in the dtype it is given; [B, Q, S, E]."""
    num_q_heads, query_length, key_length = q_BQSD.shape[1], q_BQSD.shape[2], k_BKTD.shape[2]
    if allowed is None:
        allowed = torch.ones(query_length, key_length, dtype=torch.bool, device=q_BQSD.device)
        allowed = allowed.tril()[None, None]
    k_of = head_map(num_q_heads, k_BKTD.shape[1])
    v_of = head_map(num_q_heads, v_BVTE.shape[1])
    heads = []
    for q in range(num_q_heads):
        scores_BST = q_BQSD[:, q] @ k_BKTD[:, k_of[q]].transpose(1, 2) * scale
        weights_BST = scores_BST.masked_fill(~allowed[:, 0], float("-inf")).softmax(dim=-1)
        heads.append(weights_BST @ v_BVTE[:, v_of[q]])
    return torch.stack(heads, dim=1)


def sdpa_attention(
    q_BQSD: torch.Tensor,
    k_BKTD: torch.Tensor,
    v_BVTE: torch.Tensor,
    allowed: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """The same through torch's fused attention, with K and V repeated to Q heads; [B, Q, S, E]."""
    num_q_heads = q_BQSD.shape[1]
    k_BQTD = k_BKTD.repeat_interleave(num_q_heads // k_BKTD.shape[1], dim=1)
    v_BQTE = v_BVTE.repeat_interleave(num_q_heads // v_BVTE.shape[1], dim=1)
    return scaled_dot_product_attention(
        q_BQSD, k_BQTD, v_BQTE, attn_mask=allowed, is_causal=allowed is None, scale=scale
    )
