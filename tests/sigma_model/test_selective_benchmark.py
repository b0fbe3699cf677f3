"""The benchmark's selective attention: all rows kept is dense, k rows kept is what the definition says."""

from __future__ import annotations

import pytest
import torch

from benchmarks.model.selective_v import SelectiveV
from sigma_model.attention import reference_attention


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("recent", [False, True])
def test_selective_attention_against_its_definition(renormalize: bool, recent: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 8, 13, 6), (2, 2, 13, 6), (2, 4, 13, 5)]
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    dense = reference_attention(q, k, v, None, 0.7)
    selective = SelectiveV()
    selective.renormalize, selective.recent = renormalize, recent
    for kept in (0, 13):
        selective.k = kept
        torch.testing.assert_close(selective.attend_whole(q, k, v, None, 0.7), dense)
    selective.k = 3
    ours = selective.attend_whole(q, k, v, None, 0.7)
    for row, head, place in ((0, 0, 12), (1, 7, 5), (0, 3, 1)):
        scores = q[row, head, place] @ k[row, head // 4, : place + 1].T * 0.7
        order = torch.arange(place + 1).flip(0) if recent else scores.argsort(descending=True)
        weights, rows = scores.softmax(0), order[:3]
        share = weights[rows] / weights[rows].sum() if renormalize else weights[rows]
        torch.testing.assert_close(ours[row, head, place], share @ v[row, head // 2, rows])
