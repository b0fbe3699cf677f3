"""The loader: the same sequences for any number of ranks and any kill, phases, clear errors."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sigma_model.config import read_model_config
from sigma_model.modeling import SigmaForCausalLM
from sigma_model.training.config import build_config
from sigma_model.training.loader import Batch, Loader, document_bounds, heldout_batches
from sigma_model.training.order import Order, open_train

LENGTH = 16
WriteDataset = Callable[..., Path]
# two epochs of both datasets and more, a ramp, a phase that changes the mixture
PHASES = [
    {"name": "first", "weights": {"a": 2, "b": 1}, "steps": 14,
     "ramp": [{"tokens": 8 * LENGTH * 6, "batch_sequences": 12}]},
    {"name": "second", "weights": {"b": 3, "a": 1}, "steps": 7, "batch_sequences": 12},
]  # fmt: skip


def _documents(count: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 61, rng.integers(0, 40)).tolist() for _ in range(count)]


@pytest.fixture
def values(write_dataset: WriteDataset) -> dict[str, Any]:
    """A config over two datasets and two phases; model and output are not used."""
    folders = {
        "a": [str(write_dataset("a", _documents(41, 1)))],
        "b": [str(write_dataset("b", _documents(23, 2)))],
    }
    return {
        "model": "m", "output": "o", "sequence_length": LENGTH, "batch_sequences": 8, "seed": 3,
        "data": {"train": folders, "window_tokens": 150, "phases": PHASES, "packing": "best_fit"},
    }  # fmt: skip


def _loader(values: dict[str, Any], world_size: int = 1, rank: int = 0, **data: Any) -> Loader:
    return Loader(build_config({**values, "data": {**values["data"], **data}}), world_size, rank)


def _steps(loaders: list[Loader]) -> Iterable[list[Batch]]:
    """All ranks' batches of each step."""
    return zip(*loaders, strict=True)


def _whole(parts: Iterable[Batch]) -> tuple[list[int], list[list[int]]]:
    """Sequence numbers and inputs of a whole step."""
    parts = list(parts)
    numbers = np.concatenate([part.sequence_numbers for part in parts]).tolist()
    return numbers, torch.cat([part.input_ids for part in parts]).tolist()


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_killed_anywhere_it_goes_on_on_any_number_of_ranks(values: dict[str, Any], packing: str) -> None:
    values["data"]["packing"] = packing
    loader = _loader(values)
    unbroken = [_whole([batch]) for batch in loader]
    end = loader.state()
    loader.close()
    assert np.array_equal(
        np.concatenate([numbers for numbers, _ in unbroken]), np.arange(loader.order.first_sequence[-1])
    )
    # a random chain of kills and ranks, and each change of ranks at the phases' border
    for ranks, kills in (([4, 1, 2], sorted(random.sample(range(1, 20), 2))), ([1, 4, 2, 1], [13, 14, 15])):
        state, seen = None, []
        for world_size, kill in zip(ranks, [*kills, 99], strict=True):
            loaders = [_loader(values, world_size, rank) for rank in range(world_size)]
            if state is not None:
                for loader in loaders:
                    loader.load_state(json.loads(state))
            # what the background threads have read beyond it is lost, as in a kill
            for parts in _steps(loaders):
                seen.append(_whole(parts))
                if len(seen) == kill:
                    break
            states = {json.dumps(loader.state(), sort_keys=True) for loader in loaders}
            assert len(states) == 1, "ranks differ"
            state = states.pop()
            for loader in loaders:
                assert loader.notes == []
                loader.close()
        assert seen == unbroken, f"ranks {ranks}, kills {kills}"
        assert json.loads(state) == end


def test_each_dataset_is_read_epoch_after_epoch_through_all_phases(values: dict[str, Any]) -> None:
    config = build_config(values)
    order = Order(config, open_train(config.data))
    taken: dict[int, list[int]] = {0: [], 1: []}
    for phase, settings in enumerate(order.phases):
        sources, numbers = order.take(phase, 0, settings.sequences)
        for source, number in zip(sources.tolist(), numbers.tolist(), strict=True):
            taken[source].append(number)
    for source, numbers in taken.items():
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > 2 * order.streams[source].sequences_in_epoch(0)
    for number in (0, 100, 143, 144, order.first_sequence[-1] - 1):
        phase, source, place = order.locate(number)
        assert order.take(phase, number - order.first_sequence[phase], 1) == ([source], [place])
    for number in (-1, order.first_sequence[-1]):
        with pytest.raises(ValueError, match=f"there is no sequence {number}"):
            order.locate(number)


def test_tokens_of_each_dataset_are_counted(values: dict[str, Any]) -> None:
    loaders = [_loader(values, 2, rank) for rank in (0, 1)]
    order = loaders[0].order
    alone = Order(loaders[0].config, loaders[0].datasets)
    total = {"a": 0, "b": 0}
    for parts in _steps(loaders):
        counted = {"a": 0, "b": 0}
        for part in parts:
            for number, source in zip(part.sequence_numbers.tolist(), part.source_ids.tolist(), strict=True):
                phase, found, place = alone.locate(number)
                assert found == source and order.phases[phase].name == part.phase
                counted[order.sources[source]] += sum(n for *_, n in alone.streams[source].documents(place))
        assert parts[0].source_tokens == parts[1].source_tokens == counted
        total = {name: total[name] + counted[name] for name in total}
    state = loaders[0].state()
    assert [phase["sequences"] for phase in state["phases"]] == [144, 84]
    assert total == {name: sum(phase["tokens"][name] for phase in state["phases"]) for name in total}
    for loader in loaders:
        loader.close()


def _advance(loader: Loader, steps: int) -> dict[str, Any]:
    for _ in range(steps):
        next(loader)
    state = json.loads(json.dumps(loader.state()))
    loader.close()
    return state


def test_a_begun_phase_is_frozen_later_ones_may_change(
    values: dict[str, Any], write_dataset: WriteDataset
) -> None:
    state = _advance(_loader(values), 5)
    longer = [PHASES[0], {**PHASES[1], "weights": {"b": 1}, "steps": 9}, {**PHASES[1], "name": "third"}]
    loader = _loader(values, phases=longer)
    loader.load_state(state)
    assert len(loader.notes) == 2
    assert "'second' (weights {'b': 3.0, 'a': 1.0}" in loader.notes[0] and "{'b': 1.0}" in loader.notes[0]
    assert "none is now 'third'" in loader.notes[1]
    assert [batch.phase for batch in loader] == ["first"] * 9 + ["second"] * 9 + ["third"] * 7
    loader.close()
    for change, message in (
        (
            {"weights": {"a": 3, "b": 1}},
            r"'first', has begun with datasets.a.weight = 2.0, the config now says 3.0",
        ),
        ({"steps": 15}, "'first', has begun with stages"),
        ({"weights": {"a": 2}}, "'first', has begun with datasets.b.fingerprint"),
    ):
        with pytest.raises(ValueError, match=message):
            _loader(values, phases=[{**PHASES[0], **change}, PHASES[1]]).load_state(state)
    with pytest.raises(ValueError, match="has begun with packing = 'best_fit', the config now says 'concat'"):
        _loader(values, packing="concat").load_state(state)
    other = {**values["data"]["train"], "a": [str(write_dataset("other", _documents(41, 7)))]}
    with pytest.raises(
        ValueError, match="phase 'first' was trained on other data: dataset 'a' had fingerprint"
    ):
        _loader(values, train=other).load_state(state)
    state = _advance(_loader(values), 15)
    with pytest.raises(ValueError, match="has begun 2 phases, data.phases has 1"):
        _loader(values, phases=PHASES[:1]).load_state(state)


def test_what_does_not_divide_or_reach_is_told(values: dict[str, Any], write_dataset: WriteDataset) -> None:
    with pytest.raises(
        ValueError, match="'first': a step of 8 sequences does not divide over 3 ranks; make .* 3"
    ):
        next(_loader(values, 3))
    with pytest.raises(ValueError, match="'second': a step of 12 sequences does not divide over 5 ranks"):
        _loader(values, 5)
    with pytest.raises(ValueError, match="over 2 ranks in micro-batches of 4; make .* a multiple of 8"):
        _loader({**values, "micro_batch_sequences": 4}, 2)
    with pytest.raises(ValueError, match="'second': a step has 12 sequences, fewer than the 16 ranks"):
        _loader(values, 16)
    # a run that has grown need not divide the batches it has behind it
    later = _loader(values, 3)
    later.load_state(_advance(_loader(values), 6))
    assert [len(batch.input_ids) for batch in later] == [4] * 15
    few = {"train": [str(write_dataset("few", [[5] * 40]))], "phases": []}
    with pytest.raises(ValueError, match="data.train holds 3 sequences of 16, fewer than the 4 ranks"):
        _loader(values, 4, **few)
    with pytest.raises(ValueError, match=r"'first' ends with dataset 'b' read 1\.\d+ times, above its limit"):
        _loader(values, max_epochs={"b": 1.2})
    _loader(values, max_epochs={"b": 9, "a": 9})
    short = {"train": [str(write_dataset("short", [[1, 2, 3]]))], "phases": []}
    with pytest.raises(ValueError, match="'train' holds 4 tokens, fewer than one sequence of 16"):
        _loader(values, **short)


def test_datasets_of_one_run_share_a_tokenizer_and_no_data(
    values: dict[str, Any], write_dataset: WriteDataset
) -> None:
    train = values["data"]["train"]
    other = str(write_dataset("c", _documents(9, 3), vocab_size=99))
    with pytest.raises(ValueError, match="'a' was made by tokenizer abc, 'b' by abc; tokenize them with one"):
        _loader(values, train={**train, "b": [other]})
    with pytest.raises(ValueError, match="'a' and 'b' hold the same data"):
        _loader(values, train={**train, "b": train["a"]})


def test_an_error_while_reading_reaches_the_loop(values: dict[str, Any]) -> None:
    loader = _loader(values)
    for path in Path(values["data"]["train"]["a"][0]).glob("data/*.parquet"):
        path.unlink()
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot be read"):
            list(loader)
    loader.close()
    with pytest.raises(ValueError, match="is missing"):
        _loader(values)


def test_micro_batches_carry_bounds_of_documents(values: dict[str, Any]) -> None:
    loader = _loader({**values, "micro_batch_sequences": 2}, 2, 1)
    batch = next(loader)
    parts = list(batch.micro_batches())
    assert len(parts) == 2
    shapes = set()
    for part in parts:
        bounds = part["cu_seqlens"]
        shapes.add(bounds.shape)
        starts = (part["position_ids"].flatten() == 0).nonzero()[:, 0]
        assert bounds[: len(starts)].tolist() == starts.tolist()
        assert (bounds[len(starts) :] == 2 * LENGTH).all() and len(bounds) > len(starts)
    assert len(shapes) == 1
    loader.close()
    assert next(loader := _loader(values, document_masking=False)).cu_seqlens is None
    loader.close()


def test_bounds_have_one_shape_until_documents_are_very_short() -> None:
    def positions(document: int) -> np.ndarray:
        return np.tile(np.arange(64, dtype=np.int32) % document, (4, 1))

    assert document_bounds(positions(64), 2).shape == document_bounds(positions(16), 2).shape == (2, 11)
    assert document_bounds(positions(8), 2).shape == document_bounds(positions(1), 2).shape == (2, 129)


def test_a_batch_keeps_its_memory_while_it_is_held(values: dict[str, Any]) -> None:
    loader = _loader(values)
    held = [next(loader) for _ in range(5)]
    copies = [batch.input_ids.clone() for batch in held]
    for _ in range(5):
        next(loader)
    assert all(torch.equal(batch.input_ids, copy) for batch, copy in zip(held, copies, strict=True))
    loader.close()


MODEL = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_q_heads": 8,
    "num_k_heads": 2, "num_v_heads": 4, "head_dim": 16, "k_head_dim": 16, "rope_theta": 1000.0,
    "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip


@pytest.mark.parametrize("backend", ["reference", "sdpa", "sigma"])
@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_a_document_moves_no_other_documents_logits(
    write_dataset: WriteDataset, packing: str, backend: str
) -> None:
    documents = [
        [t % 60 + 1 for t in range(7 * i, 7 * i + length)] for i, length in enumerate((5, 8, 3, 20, 4))
    ]
    changed = 2
    others = [[61 - t for t in d] if i == changed else d for i, d in enumerate(documents)]
    torch.manual_seed(0)
    model = SigmaForCausalLM(read_model_config(MODEL)).eval()
    model.set_attn_implementation(backend)
    logits, owners = [], []
    for folder in (
        write_dataset("one", documents, rows_per_group=9),
        write_dataset("two", others, rows_per_group=9),
    ):
        # the same fingerprint, so that the order is the same
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": "same"}))
        config = build_config({
            "model": "m", "output": "o", "sequence_length": LENGTH, "batch_sequences": 2, "seed": 1,
            "data": {"train": [str(folder)], "packing": packing},
        })  # fmt: skip
        stream = Order(config, open_train(config.data)).streams[0]
        count = stream.sequences_in_epoch(0)
        with torch.no_grad():
            logits.append(torch.cat([model(**part).logits for part in _without_labels(stream, count)]))
        pieces = [piece for number in range(count) for piece in stream.documents(number)]
        owners.append([int(doc_id.split("-")[1]) for doc_id, _, length in pieces for _ in range(length)])
    assert owners[0] == owners[1]
    lengths = [sum(length for *_, length in stream.documents(n)) for n in range(count)]
    owner = np.full((count, LENGTH), -1)
    owner[np.arange(LENGTH) < np.array(lengths)[:, None]] = owners[0]
    moved = (logits[0] != logits[1]).any(-1).numpy()
    assert moved[owner == changed].all()
    assert not moved[owner != changed].any()


def _without_labels(stream: Any, count: int) -> Iterable[dict[str, torch.Tensor]]:
    for part in heldout_batches(stream, count, count):
        yield {name: tensor for name, tensor in part.items() if name != "labels"}
