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
    query_length: int,
    key_length: int,
    device: torch.device,
    segment_ids_BT: torch.Tensor | None = None,
    padding_BT: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """Who may look at whom, bool [B or 1, 1, S, T]; None when that is plain causal over S = T.

    A query sees keys at or before its own position (queries are the last S of the T positions),
    of its own segment (``segment_ids_BT``: packed documents), that are no padding
    (``padding_BT``: 1 = token, 0 = padding). Every query sees itself, so no row is empty.
    """
    if segment_ids_BT is None and padding_BT is None and query_length == key_length:
        return None
    query_T = torch.arange(key_length - query_length, key_length, device=device)[:, None]
    key_T = torch.arange(key_length, device=device)[None, :]
    allowed = (key_T <= query_T)[None, None]
    if segment_ids_BT is not None:
        segment_BS = segment_ids_BT[:, key_length - query_length :]
        allowed = allowed & (segment_BS[:, :, None] == segment_ids_BT[:, None, :])[:, None]
    if padding_BT is not None:
        allowed = (allowed & padding_BT.bool()[:, None, None, :]) | (key_T == query_T)
    return allowed


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
