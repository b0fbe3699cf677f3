"""Shapes of a Sigma: the Hugging Face config, read and checked."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from sigma_model.shapes import read_shape

VOCAB_MULTIPLE = 64


class SigmaConfig(PreTrainedConfig):
    """Config of a Sigma with DiffQKV attention (arXiv 2501.13629, section 2 and Table 14).

    Query heads, K heads and V heads are counted apart: query head q reads K head
    floor(q * num_k_heads / num_q_heads) and V head floor(q * num_v_heads / num_q_heads). All widths
    are numbers of elements. ``num_attention_heads``, Hugging Face's name, reads and sets num_q_heads.

    Raises ValueError that names the field and the cure when the shape makes no sense.
    """

    model_type = "sigma_diffqkv"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_attention_heads": "num_q_heads", "num_key_value_heads": "num_k_heads"}

    def __init__(
        self,
        vocab_size: int = 128_256,
        hidden_size: int = 2048,
        intermediate_size: int = 6144,
        num_hidden_layers: int = 26,
        num_q_heads: int = 32,
        num_k_heads: int = 4,
        num_v_heads: int = 16,
        head_dim: int | None = None,
        k_head_dim: int | None = None,
        v_head_dim: int | None = None,
        aug_q_dim: int = 3072,
        rope_theta: float = 50_000.0,
        max_position_embeddings: int = 4096,
        rms_norm_eps: float = 1e-6,
        tie_word_embeddings: bool = True,
        initializer_range: float = 0.02,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        """Head widths left at None: head_dim = hidden_size / num_q_heads (the query's),
        k_head_dim and v_head_dim = head_dim. A k_head_dim below head_dim gives K a trained map up
        to head_dim (section 2, "reduced K head dim"). aug_q_dim is the inner width of the gated
        MLP on top of q_proj (appendix E); 0 leaves it out."""
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        # config.json of the first checkpoints has Hugging Face's name
        self.num_q_heads = kwargs.pop("num_attention_heads", num_q_heads)
        self.num_k_heads = num_k_heads
        self.num_v_heads = num_v_heads
        self.head_dim = _default_head_dim(hidden_size, self.num_q_heads, head_dim)
        self.k_head_dim = self.head_dim if k_head_dim is None else k_head_dim
        self.v_head_dim = self.head_dim if v_head_dim is None else v_head_dim
        self.aug_q_dim = aug_q_dim
        self.rope_theta = rope_theta
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        self.tie_word_embeddings = tie_word_embeddings
        self._check()
        super().__init__(**kwargs)

    def _check(self) -> None:
        for name in (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
            "num_q_heads", "num_k_heads", "num_v_heads", "head_dim", "k_head_dim",
            "v_head_dim", "max_position_embeddings",
        ):  # fmt: skip
            _require_integer(name, getattr(self, name), least=1)
        _require_integer("aug_q_dim", self.aug_q_dim, least=0)
        n_q, n_k, n_v = self.num_q_heads, self.num_k_heads, self.num_v_heads
        for name, count in (("num_k_heads", n_k), ("num_v_heads", n_v)):
            if n_q % count:
                raise ValueError(
                    f"{name} = {count} does not divide num_q_heads = {n_q}: each "
                    f"{name[4]} head serves as many query heads; use one of {_divisors(n_q)}"
                )
        if n_k % n_v and n_v % n_k:
            raise ValueError(
                f"num_k_heads = {n_k} and num_v_heads = {n_v}: one must divide the other, so that "
                "their groups of query heads nest; change one of them"
            )
        if self.k_head_dim % 2:
            raise ValueError(f"k_head_dim = {self.k_head_dim} must be even: RoPE turns pairs")
        if self.k_head_dim > self.head_dim:
            raise ValueError(
                f"k_head_dim = {self.k_head_dim} is above head_dim = {self.head_dim}: "
                "K may be narrower than the query, never wider; lower k_head_dim"
            )
        for name in ("rope_theta", "rms_norm_eps", "initializer_range"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ValueError(f"{name} = {value!r} must be a number above 0")
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < self.vocab_size:
                raise ValueError(
                    f"{name} = {value} lies outside the vocabulary of {self.vocab_size} tokens; "
                    "give an id of the tokenizer or null"
                )


def read_model_config(
    source: str | Path | dict[str, Any],
    *,
    tokenizer_vocab_size: int | None = None,
    **overrides: Any,
) -> SigmaConfig:
    """SigmaConfig from a YAML file, one row of a YAML file of rows, or a mapping of its keys.

    ``FILE:ROW`` is one row of a file that has ``common`` and ``rows``, as
    configs/model/ablations.yaml:gqa16_nk4. ``vocab_size: null`` takes ``tokenizer_vocab_size``,
    padded up to a multiple of 64. ``overrides`` replace keys of the source. Raises ValueError for
    an unknown key, and for a file of rows without a row.
    """
    where = "the inline model" if isinstance(source, dict) else f"model file {source}"
    values = source if isinstance(source, dict) else read_shape(source)
    values = {**values, **overrides}
    known = [name for name in inspect.signature(SigmaConfig).parameters if name != "kwargs"]
    for key in values:
        if key not in known:
            # Hugging Face's name for one of ours is told by ours
            nearest = [SigmaConfig.attribute_map[key]] if key in SigmaConfig.attribute_map else []
            nearest = nearest or difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; known keys: {known}"
            raise ValueError(f"{where} has an unknown key {key!r}{hint}")
    if values.get("vocab_size", 0) is None:
        if tokenizer_vocab_size is None:
            raise ValueError(
                f"{where} has vocab_size: null, which means the tokenizer's, but none is known "
                "here; give vocab_size a number"
            )
        values["vocab_size"] = -(-tokenizer_vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    return SigmaConfig(**values)


def _default_head_dim(hidden_size: int, num_q_heads: int, head_dim: int | None) -> int:
    if head_dim is not None:
        return head_dim
    if hidden_size % max(num_q_heads, 1):
        raise ValueError(
            f"hidden_size = {hidden_size} is no multiple of num_q_heads = {num_q_heads}; "
            "change one of them or give head_dim"
        )
    return hidden_size // max(num_q_heads, 1)


def _require_integer(name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} = {value!r} must be an integer of at least {least}")


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
