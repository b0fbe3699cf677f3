"""Our attention layer on the layer API of whichever vLLM Python finds; prints JSON.

No engine and no device: vLLM's own spec, page views and metadata, our layer, its builder and all that may
compute it (plain torch, our Triton kernels and vLLM's stock one in Triton's interpreter), in two steps of
mixed sequences (a chunk of a prompt, then the rest beside a decoding token) against a dense reference.
"""

# ruff: noqa: E402

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace

import torch
from triton.backends import backends

# vLLM turns Triton off where it finds no driver; the interpreter needs none
backends.setdefault("cpu", next(iter(backends.values())))

import vllm
from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config
from vllm.forward_context import set_forward_context
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.kv_cache_interface import KVCacheTensor, create_kv_cache_views
from vllm.v1.kv_cache_layout import KVCacheLayout

from sigma_model.attention import reference_attention
from sigma_model.config import SigmaConfig
from sigma_model.modeling import rope_angles, rotate
from sigma_model.vllm_plugin import attention
from sigma_model.vllm_plugin.attention import StockBackend
from sigma_model.vllm_plugin.backends import TorchBackend, TritonBackend
from sigma_model.vllm_plugin.model import rotary_embedding

LAYOUTS = ("LBNHC", "LBHNC", "BLNHC")
SHAPES = ((8, 2, 4, 32, 32), (4, 1, 4, 16, 24))
PAGE, NUM_PAGES, LAYERS = 16, 12, 2
# tokens that two sequences have and get in each step: a prompt cut in two beside one that starts to decode
STEPS = (((0, 21), (0, 5)), ((21, 14), (5, 1)))
TABLE = ((7, 2, 9), (1, 10, 3))


def page_views(layer, config: VllmConfig, layout: KVCacheLayout) -> tuple[list[torch.Tensor], int]:
    """vLLM's own views of a buffer for LAYERS layers, and the bytes of a page."""
    spec = layer.get_kv_cache_spec(config)
    page = spec.page_size_bytes
    size = page * NUM_PAGES * LAYERS
    outer = layout.is_layer_compact
    place = KVCacheTensor(
        size=size,
        layers=[f"layers.{i}" for i in range(LAYERS)],
        layer_stride=page * NUM_PAGES if outer else page,
        block_stride=page if outer else page * LAYERS,
    )
    raw = torch.zeros(size, dtype=torch.int8)
    return create_kv_cache_views(raw, spec, NUM_PAGES, layout, place), page


def metadata(step: tuple[tuple[int, int], ...]) -> CommonAttentionMetadata:
    new = [count for _, count in step]
    bounds = torch.tensor([0, *new], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    lengths = torch.tensor([have + count for have, count in step], dtype=torch.int32)
    slots = [
        TABLE[b][place // PAGE] * PAGE + place % PAGE
        for b, (have, count) in enumerate(step)
        for place in range(have, have + count)
    ]
    values = {
        "query_start_loc": bounds,
        "query_start_loc_cpu": bounds,
        "seq_lens": lengths,
        "num_reqs": len(step),
        "num_actual_tokens": sum(new),
        "max_query_len": max(new),
        "max_seq_len": int(lengths.max()),
        "block_table_tensor": torch.tensor(TABLE, dtype=torch.int32),
        # two tokens of padding behind
        "slot_mapping": torch.tensor([*slots, -1, -1], dtype=torch.int64),
    }
    names = {field.name for field in dataclasses.fields(CommonAttentionMetadata)}
    return CommonAttentionMetadata(**{name: value for name, value in values.items() if name in names})


def largest_error(backend, shape: tuple[int, ...], layout: KVCacheLayout) -> tuple[float, int]:
    """Largest difference from the dense reference over both steps, and the bytes of a page."""
    n_q, n_k, n_v, d, e = shape
    chance = torch.Generator().manual_seed(3)
    config = VllmConfig(device_config=DeviceConfig("cpu"))
    config.cache_config.block_size = PAGE
    attention.choose_backend = lambda asked: backend
    with set_current_vllm_config(config):
        layer = attention.DiffQKVAttention(
            n_q, n_k, n_v, d, e, cache_config=config.cache_config, prefix="layers.1"
        )
    # of the model's config, which is not there
    layer.kv_cache_torch_dtype = torch.float32
    views, page = page_views(layer, config, layout)
    layer.kv_cache = views[1]
    spec = layer.get_kv_cache_spec(config)
    known = SimpleNamespace(
        # what vLLM's own builder asks of the model's config, which is not there
        model_config=SimpleNamespace(
            get_num_attention_heads=lambda parallel: n_q,
            get_num_kv_heads=lambda parallel: n_k,
            get_head_size=lambda: d,
            rswa_window=None,
        ),
        compilation_config=config.compilation_config,
        parallel_config=config.parallel_config,
        scheduler_config=config.scheduler_config,
    )
    builder = layer.get_attn_backend().get_builder_cls()(spec, ["layers.1"], known, torch.device("cpu"))
    total = [sum(step[b][1] for step in STEPS) for b in range(len(TABLE))]
    q = [torch.randn(n, n_q, d, generator=chance) for n in total]
    k = [torch.randn(n, n_k, d, generator=chance) for n in total]
    v = [torch.randn(n, n_v, e, generator=chance) for n in total]
    expected = [
        reference_attention(*(x[b].transpose(0, 1)[None] for x in (q, k, v)), None, d**-0.5)[0].transpose(
            0, 1
        )
        for b in range(len(TABLE))
    ]
    worst = torch.zeros(())
    for step in STEPS:
        common = metadata(step)
        batch = builder.build(0, common)

        def rows(x, step=step):
            new = [x[b][have : have + count] for b, (have, count) in enumerate(step)]
            padding = torch.full_like(x[0][:2], float("nan"))
            return torch.cat([*new, padding]).flatten(1)

        context = set_forward_context(
            {"layers.1": batch}, config, slot_mapping={"layers.1": common.slot_mapping}
        )
        with set_current_vllm_config(config), context:
            out = layer(rows(q), rows(k), rows(v))
        # a NaN stays one
        error = (out - rows(expected))[: common.num_actual_tokens].abs().max()
        worst = torch.stack([worst, error]).max()
    assert not views[0].any(), "wrote into another layer's pages"
    # the layer's page holds the table's own pages only
    touched = views[1].flatten(1).ne(0).any(1).nonzero()[:, 0].tolist()
    used = {TABLE[b][place // PAGE] for b, n in enumerate(total) for place in range(n)}
    assert set(touched) == used, (touched, used)
    return float(worst), page


def rotary_error() -> float:
    """Largest difference of a rotated K, up to 4096 tokens on, from our modeling's."""
    shape = SigmaConfig(head_dim=32, rope_theta=50_000.0, max_position_embeddings=4096)
    positions, k = torch.arange(4096), torch.randn(4096, 32)
    with set_current_vllm_config(VllmConfig(device_config=DeviceConfig("cpu"))):
        _, rotated = rotary_embedding(shape)(positions, k.clone(), k.clone())
    expected = rotate(k[None, :, None], rope_angles(positions[None], 32, shape.rope_theta))
    return float((rotated - expected[0, :, 0]).abs().max())


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for backend in (TorchBackend, TritonBackend, StockBackend):
        for layout in LAYOUTS:
            for shape in SHAPES:
                error, page = largest_error(backend, shape, KVCacheLayout[layout])
                n_q, n_k, n_v, d, e = shape
                exact = PAGE * (n_k * d + n_v * e) * 4
                rows.append([backend.__name__, layout, shape, error, page, exact])
    json.dump({"version": vllm.__version__, "rotary": rotary_error(), "rows": rows}, sys.stdout)


if __name__ == "__main__":
    main()
