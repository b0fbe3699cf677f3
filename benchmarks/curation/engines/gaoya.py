"""gaoya: MinHashStringIndex, which signs a text only to insert it: so its rate includes that."""

from __future__ import annotations

from gaoya.minhash import MinHashStringIndex

from benchmarks.curation.engines.common import BANDS, NGRAM, ROWS, texts
from benchmarks.peers import serve

_loaded: list[str] = []


def _index() -> MinHashStringIndex:
    # the threshold asks for nothing beyond a shared band
    return MinHashStringIndex(
        hash_size=32,
        jaccard_threshold=0.0,
        num_bands=BANDS,
        band_size=ROWS,
        num_hashes=BANDS * ROWS,
        analyzer="word",
        lowercase=True,
        ngram_range=(NGRAM, NGRAM),
    )


def load(file: str, rows: int | None = None) -> None:
    _loaded[:] = texts(file, rows)


def memory() -> None:
    index = _index()
    for row, text in enumerate(_loaded):
        index.insert_document(row, text)


def pairs(file: str, rows: int) -> int:
    index = _index()
    for row, text in enumerate(texts(file, rows, "left")):
        index.insert_document(row, text)
    return sum(row in index.query(text) for row, text in enumerate(texts(file, rows, "right")))


serve(load=load, memory=memory, pairs=pairs)
