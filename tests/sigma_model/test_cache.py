"""Both caches: what they hold, what they cost, and that generation with them is generation without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from sigma_model import SigmaConfig, SigmaForCausalLM
from sigma_model.cache import ContiguousCache, PagedCache
from sigma_model.counts import kv_cache_bytes_per_token

SHAPE = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_q_heads": 8, "num_k_heads": 2, "num_v_heads": 4, "head_dim": 8, "v_head_dim": 6,
    "aug_q_dim": 40, "rope_theta": 1000.0, "max_position_embeddings": 64, "initializer_range": 0.3,
    "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
CONFIG = SigmaConfig(**SHAPE)
MakeCache = Callable[..., PagedCache]
CACHES: dict[str, MakeCache] = {
    "one token a page": lambda batch, length, **more: PagedCache(CONFIG, page_size=1, **more),
    "growing": lambda batch, length, **more: PagedCache(CONFIG, page_size=4, **more),
    "fixed pool": lambda batch, length, **more: PagedCache(
        CONFIG, page_size=4, num_pages=batch * -(-length // 4), **more
    ),
    "contiguous": lambda batch, length, **more: ContiguousCache(CONFIG, batch, length, **more),
}
every_cache = pytest.mark.parametrize("make", CACHES.values(), ids=CACHES.keys())


def _model(**changes: object) -> SigmaForCausalLM:
    torch.manual_seed(0)
    return SigmaForCausalLM(SigmaConfig(**{**SHAPE, **changes})).eval()


def _prompts(lengths: list[int]) -> dict[str, torch.Tensor]:
    """Left-padded prompts of these lengths."""
    generator = torch.Generator().manual_seed(sum(lengths))
    rows = [torch.randint(1, 97, (n,), generator=generator) for n in lengths]
    width = max(lengths)
    return {
        "input_ids": torch.stack([F.pad(row, (width - len(row), 0)) for row in rows]),
        "attention_mask": torch.stack([F.pad(torch.ones_like(row), (width - len(row), 0)) for row in rows]),
    }


@pytest.mark.parametrize("lengths", [[5], [7, 7], [3, 9, 1, 8]], ids=str)
def test_generation_equals_generation_without_a_cache(lengths: list[int]) -> None:
    model, prompts = _model(), _prompts(lengths)
    more = {"max_new_tokens": 10, "do_sample": False}
    plain = model.generate(**prompts, use_cache=False, **more)
    for name, make in CACHES.items():
        cache = make(len(lengths), max(lengths) + 10)
        assert torch.equal(model.generate(**prompts, past_key_values=cache, **more), plain), name
        # padding took no slot, and the last token is not fed back
        assert cache.seq_lens.tolist() == [n + plain.shape[1] - max(lengths) - 1 for n in lengths]
    # each row alone, without padding
    for row, length in enumerate(lengths):
        alone = model.generate(prompts["input_ids"][row : row + 1, -length:], use_cache=False, **more)
        assert torch.equal(alone[0, length:], plain[row, max(lengths) :][: alone.shape[1] - length])


def test_generate_makes_a_paged_cache_by_itself() -> None:
    model, prompts = _model(), _prompts([3, 9])
    more = {"max_new_tokens": 9, "do_sample": False}
    out = model.generate(**prompts, return_dict_in_generate=True, **more)
    assert isinstance(out.past_key_values, PagedCache)
    assert torch.equal(out.sequences, model.generate(**prompts, use_cache=False, **more))


@pytest.mark.parametrize("changes", [{"k_head_dim": 4}, {"num_k_heads": 4, "num_v_heads": 1}])
def test_other_shapes_generate_alike(changes: dict) -> None:
    model, prompts = _model(**changes), _prompts([6, 2])
    more = {"max_new_tokens": 9, "do_sample": False}
    cached = model.generate(**prompts, past_key_values=PagedCache(model.config, page_size=4), **more)
    assert torch.equal(cached, model.generate(**prompts, use_cache=False, **more))


def test_beam_search_and_assisted_generation() -> None:
    model, prompts = _model(), _prompts([4, 7])
    beams = {"max_new_tokens": 8, "do_sample": False, "num_beams": 3}
    plain = model.generate(**prompts, use_cache=False, **beams)
    assert torch.equal(model.generate(**prompts, **beams), plain)
    contiguous = ContiguousCache(model.config, 6, 15)
    assert torch.equal(model.generate(**prompts, past_key_values=contiguous, **beams), plain)
    one = _prompts([5])
    more = {"max_new_tokens": 12, "do_sample": False}
    drafted = model.generate(
        **one, past_key_values=PagedCache(model.config, page_size=2), prompt_lookup_num_tokens=3, **more
    )
    assert torch.equal(drafted, model.generate(**one, use_cache=False, **more))


@every_cache
def test_a_prompt_in_chunks_with_padding_anywhere_on_the_left(make: MakeCache) -> None:
    model = _model().double()
    prompts = _prompts([4, 11])
    ids, mask = prompts["input_ids"], prompts["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        whole = model(ids, attention_mask=mask, position_ids=positions).logits
        cache, parts = make(2, 11, dtype=torch.float64), []
        # the first row begins in the third chunk
        for begin, end in ((0, 3), (3, 5), (5, 10), (10, 11)):
            part = slice(begin, end)
            more = {"attention_mask": mask[:, :end], "position_ids": positions[:, part]}
            parts.append(model(ids[:, part], past_key_values=cache, **more).logits)
    tokens = mask.bool()
    torch.testing.assert_close(torch.cat(parts, 1)[tokens], whole[tokens], rtol=1e-10, atol=1e-10)


def test_memory_is_exactly_k_and_v_of_each_token() -> None:
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        contiguous = ContiguousCache(CONFIG, batch_size=3, max_length=50, dtype=dtype)
        paged = PagedCache(CONFIG, page_size=16, num_pages=10, dtype=dtype)
        for cache, tokens in ((contiguous, 150), (paged, 160)):
            stored = sum(pages.untyped_storage().nbytes() for pages in (*cache.k_pages, *cache.v_pages))
            # layers * (n_k * d_k + n_v * d_v) * bytes
            assert stored == cache.nbytes == tokens * 2 * (2 * 8 + 4 * 6) * size
            assert stored == tokens * kv_cache_bytes_per_token(CONFIG, size)


def test_pages_are_as_many_as_tokens_need() -> None:
    cache = PagedCache(CONFIG, page_size=4, num_pages=10)
    cache.begin(3, 6, torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]]))
    assert cache.seq_lens.tolist() == [6, 4, 1] and [len(table) for table in cache._tables] == [2, 1, 1]
    assert sorted(page for table in cache._tables for page in table) == [0, 1, 2, 3]
    cache.begin(3, 3)
    assert cache.seq_lens.tolist() == [9, 7, 4] and [len(table) for table in cache._tables] == [3, 2, 1]
    cache.crop(-2)
    assert cache.seq_lens.tolist() == [7, 5, 2] and [len(table) for table in cache._tables] == [2, 2, 1]
    cache.reset()
    assert cache.is_empty and len(cache._free) == 10


@every_cache
def test_what_goes_in_comes_out(make: MakeCache) -> None:
    cache, generator = make(2, 9), torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 9, 2, 8, generator=generator), torch.randn(2, 9, 4, 6, generator=generator)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    cache.begin(2, 5, mask)
    cache.append(1, k[:, :5], v[:, :5])
    cache.begin(2, 4)
    cache.append(1, k[:, 5:], v[:, 5:])
    k_BKLD, v_BVLE = cache.gather(1)
    assert k_BKLD.shape == (2, 2, 9, 8) and v_BVLE.shape == (2, 4, 9, 6)
    for row, first in ((0, 2), (1, 0)):
        assert torch.equal(k_BKLD[row].transpose(0, 1)[: 9 - first], k[row, first:])
        assert torch.equal(v_BVLE[row].transpose(0, 1)[: 9 - first], v[row, first:])
    assert not cache.k_pages[0].any() and not cache.v_pages[0].any()


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="page_size = 0 must be at least 1"):
        PagedCache(CONFIG, page_size=0)
    cache = PagedCache(CONFIG, page_size=4, num_pages=2)
    with pytest.raises(ValueError, match="left padding only"):
        cache.begin(1, 3, torch.tensor([[1, 1, 0]]))
    with pytest.raises(ValueError, match="it has 2 pages of 4 tokens and needs 1 more"):
        cache.begin(1, 9)
    cache.begin(1, 8)
    with pytest.raises(ValueError, match="holds 1 sequences, the batch has 2"):
        cache.begin(2, 1)
    with pytest.raises(ValueError, match="at most the last 8 columns"):
        cache.crop(-9)
    with pytest.raises(ValueError, match="2 sequences of 5 tokens; give it a larger"):
        ContiguousCache(CONFIG, 2, 5).begin(2, 6)
    with pytest.raises(ValueError, match="2 sequences of 5 tokens; give it a larger"):
        ContiguousCache(CONFIG, 2, 5).begin(3, 1)
