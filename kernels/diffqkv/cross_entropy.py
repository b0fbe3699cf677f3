"""The language-model head and its loss, chunk by chunk: never all logits at once.

8,192 tokens x 128,256 words x 4 bytes are 4.2 GB of logits, and as much of gradients. The loss is a
scalar, so the gradient of each chunk of tokens is known as soon as its logits are: forward keeps
d_hidden and d_weight, and backward only scales them. The idea is Liger-Kernel's; the z-loss is that
of PaLM (arXiv 2204.02311, section 5).

Shape letters: T tokens, H hidden size, N vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100


def linear_cross_entropy_reference(
    hidden_TH: Tensor, weight_NH: Tensor, labels_T: Tensor, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The contract, with all logits at once; arguments and results as linear_cross_entropy."""
    logits_TN = _wide(hidden_TH @ weight_NH.T)
    entropy = F.cross_entropy(logits_TN, labels_T, ignore_index=IGNORE, reduction="sum")
    normalizers = logits_TN.logsumexp(-1)[labels_T != IGNORE]
    return entropy, entropy + z_loss * normalizers.square().sum()


def linear_cross_entropy(
    hidden_TH: Tensor,
    weight_NH: Tensor,
    labels_T: Tensor,
    z_loss: float = 0.0,
    *,
    chunk_tokens: int = 1024,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums over tokens, not means: (cross-entropy in nats, the same plus z_loss * log(Z)^2).

    Logits are ``hidden_TH @ weight_NH.T``, multiplied in ``dtype`` (that of ``hidden_TH`` when
    None) and reduced in at least float32. ``labels_T`` int64, -100 where nothing is asked.
    Gradients flow through the second result alone, the first is a figure to print. Beside the
    gradients of both inputs, memory holds three tensors of chunk_tokens x N at most.

    Raises ValueError for shapes that do not fit, and for a label outside the vocabulary (on CPU;
    a GPU would have to wait for the answer).
    """
    if hidden_TH.dim() != 2 or weight_NH.dim() != 2 or hidden_TH.shape[1] != weight_NH.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden_TH.shape)} and weight {tuple(weight_NH.shape)} must be [tokens, hidden] "
            "and [vocabulary, hidden]; flatten batch and positions into tokens first"
        )
    if labels_T.shape != hidden_TH.shape[:1] or labels_T.dtype != torch.int64:
        raise ValueError(
            f"labels are {labels_T.dtype} {tuple(labels_T.shape)}; give one int64 label a token, "
            f"[{hidden_TH.shape[0]}]"
        )
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens = {chunk_tokens} must be at least 1")
    with_gradients = torch.is_grad_enabled() and (hidden_TH.requires_grad or weight_NH.requires_grad)
    dtype = dtype or hidden_TH.dtype
    entropy, total, *_ = _chunked(hidden_TH, weight_NH, labels_T, z_loss, chunk_tokens, dtype, with_gradients)
    return entropy, total


def loss_and_gradients(
    hidden_TH: Tensor,
    weight_NH: Tensor,
    labels_T: Tensor,
    z_loss: float,
    chunk_tokens: int,
    dtype: torch.dtype,
    with_gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The op's body: (entropy, total, d total / d hidden, d total / d weight), the last two empty when
    they are not wanted."""
    num_tokens, num_words = hidden_TH.shape[0], weight_NH.shape[0]
    if labels_T.device.type == "cpu":
        outside = labels_T[(labels_T != IGNORE) & ((labels_T < 0) | (labels_T >= num_words))]
        if len(outside):
            raise ValueError(
                f"label {int(outside[0])} lies outside the vocabulary of {num_words} words; give ids of "
                f"the tokenizer, or {IGNORE} where nothing is asked"
            )
    hidden, weight = hidden_TH.to(dtype), weight_NH.to(dtype)
    # chunks add up here: in bf16 the small ones would be lost
    wide = torch.promote_types(dtype, torch.float32)
    entropy, total = hidden.new_zeros((), dtype=wide), hidden.new_zeros((), dtype=wide)
    d_hidden = torch.empty_like(hidden_TH if with_gradients else hidden_TH[:0])
    d_weight = weight_NH.new_zeros(weight_NH.shape if with_gradients else (0,), dtype=wide)
    for begin in range(0, num_tokens, chunk_tokens):
        part = slice(begin, min(begin + chunk_tokens, num_tokens))
        logits_CN, labels_C = (hidden[part] @ weight.T).to(wide), labels_T[part]
        asked_C = labels_C != IGNORE
        word_C1 = labels_C.clamp(min=0)[:, None]
        normalizer_C = logits_CN.logsumexp(-1)
        entropy_C = (normalizer_C - logits_CN.gather(1, word_C1)[:, 0]) * asked_C
        entropy += entropy_C.sum()
        total += (entropy_C + z_loss * normalizer_C.square() * asked_C).sum()
        if with_gradients:
            # d log(Z) / d logits = softmax; the rest is the chain rule, in place of the logits
            d_logits_CN = logits_CN.sub_(normalizer_C[:, None]).exp_()
            d_logits_CN *= (1 + 2 * z_loss * normalizer_C)[:, None]
            d_logits_CN.scatter_add_(1, word_C1, d_logits_CN.new_full(word_C1.shape, -1.0))
            d_logits_CN *= asked_C[:, None]
            d_logits_CN = d_logits_CN.to(dtype)
            d_hidden[part] = d_logits_CN @ weight
            d_weight += d_logits_CN.T @ hidden[part]
    return entropy, total, d_hidden, d_weight.to(weight_NH.dtype)


_chunked = torch.library.custom_op("diffqkv::linear_cross_entropy", loss_and_gradients, mutates_args=())


@_chunked.register_fake
def _(
    hidden_TH: Tensor,
    weight_NH: Tensor,
    labels_T: Tensor,
    z_loss: float,
    chunk_tokens: int,
    dtype: torch.dtype,
    with_gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    entropy = hidden_TH.new_empty((), dtype=torch.promote_types(dtype, torch.float32))
    d_hidden = torch.empty_like(hidden_TH if with_gradients else hidden_TH[:0])
    d_weight = weight_NH.new_empty(weight_NH.shape if with_gradients else (0,))
    return entropy, torch.empty_like(entropy), d_hidden, d_weight


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    entropy, _, d_hidden, d_weight = output
    ctx.mark_non_differentiable(entropy, d_hidden, d_weight)
    ctx.save_for_backward(d_hidden, d_weight)


def _backward(ctx, d_entropy, d_total, *_):  # type: ignore[no-untyped-def]
    d_hidden, d_weight = ctx.saved_tensors
    scaled = (d.mul(d_total.to(d.dtype)) for d in (d_hidden, d_weight))
    return *scaled, None, None, None, None, None


_chunked.register_autograd(_backward, setup_context=_save)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
