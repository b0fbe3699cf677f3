"""Token datasets on disk, made as a tokenize node writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from toy_training import small_training, write_tokens

WriteDataset = Callable[..., Path]


@pytest.fixture
def write_dataset(tmp_path: Path) -> WriteDataset:
    """write(name, documents, rows_per_group, groups_per_shard, vocab_size) -> folder.

    ``documents``: token lists without the end token; document i has the id f"{name}-{i}".
    """

    def write(name: str, documents: Sequence[Sequence[int]], **layout: int) -> Path:
        return write_tokens(tmp_path / name, documents, **layout)

    return write


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """A small but whole training config."""
    return small_training(tmp_path)
