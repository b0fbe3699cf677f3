"""What the tests of all ops need: paged caches, tensors that are NaN until they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from benchmarks.kernels import cases


@pytest.fixture(scope="session")
def empty_pages() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    return cases.empty_pages


@pytest.fixture(scope="session")
def paged_case() -> Callable[..., cases.Case]:
    return cases.paged_case


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """torch.empty gives NaN: what a kernel does not write is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
