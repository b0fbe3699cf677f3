"""Self-check of ``minhash_dedup``: pairs of known similarity are planted, and counted when found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from filters.minhash_dedup import MinhashDedup

SIMILARITIES = (0.7, 0.75, 0.8, 0.85, 0.9)


def self_check(stage: MinhashDedup, pairs: int = 250) -> list[dict[str, Any]]:
    """For each of SIMILARITIES: similarity reached, pairs planted, share found, share expected."""
    rows = []
    for seed, jaccard in enumerate(SIMILARITIES):
        reached, found, expected = planted_recall(stage, jaccard, pairs, seed=seed)
        rows.append({"jaccard": reached, "pairs": pairs, "found": found, "expected": expected})
    return rows


def planted_recall(
    stage: MinhashDedup, jaccard: float, pairs: int = 1000, shingles: int = 296, seed: int = 0
) -> tuple[float, float, float]:
    """(similarity reached, share of planted pairs that share a band, what the S-curve expects).

    Each pair is a text of random words and a copy with words replaced, far enough apart to break
    ``ngram`` shingles each, as many as bring the pair nearest to ``jaccard``; the expectation is
    1 - (1 - J^rows)^bands at the similarity reached.
    """
    words = shingles + stage.ngram - 1
    # one replaced word takes n shingles from either side: J = (S - x) / (S + x), x = replaced * n
    replaced = round(shingles * (1 - jaccard) / (1 + jaccard) / stage.ngram)
    if replaced * stage.ngram * 2 > shingles:
        raise ValueError(f"{shingles} shingles are too few to plant pairs of similarity {jaccard}")
    draw = np.random.default_rng(seed)
    texts = []
    for _ in range(pairs):
        # a word is five bytes in hexadecimal
        numbers = draw.integers(0, 256, (words, 5), np.uint8)
        texts.append(numbers.tobytes().hex(" ", 5))
        # inside both ends, n words apart, so that no two replaced words share a shingle
        places = np.arange(stage.ngram - 1, shingles, stage.ngram)
        numbers[draw.choice(places, replaced, replace=False)] ^= 255
        texts.append(numbers.tobytes().hex(" ", 5))
    signed = stage.sized(len(texts)).sign(0, pa.table({"text": texts}), None)
    records = pa.concat_tables(table.replace_schema_metadata() for table in signed.values())
    rows = records["row"].to_numpy()
    keys = list(zip(records["hash"].to_pylist(), (rows >> 1).tolist(), strict=True))
    sides = [{key for key, row in zip(keys, rows, strict=True) if row & 1 == side} for side in (0, 1)]
    found = len({pair for _, pair in sides[0] & sides[1]})
    broken = replaced * stage.ngram
    reached = (shingles - broken) / (shingles + broken)
    return reached, found / pairs, 1 - (1 - reached**stage.rows) ** stage.bands
