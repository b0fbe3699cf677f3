"""datatrove: the shingles and signatures of MinhashDedupSignature, without its files.

The first argument says how it splits words: "default" is its own English tokenizer (spaCy), "space"
a tokenizer that splits at white space, the fastest it can be given.
"""

from __future__ import annotations

import sys
import tempfile

import numpy as np
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.word_tokenizers import WordTokenizer

from benchmarks.curation.engines.common import BANDS, NGRAM, ROWS, SLOTS, run


class SpaceTokenizer(WordTokenizer):
    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return text.splitlines()

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError


def step(words: str, folder: str) -> MinhashDedupSignature:
    config = MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)
    return MinhashDedupSignature(folder, config, SpaceTokenizer() if words == "space" else "en")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        signer = step(sys.argv[1], folder)

        def sign(texts: list[str]) -> np.ndarray:
            slots = np.zeros((len(texts), SLOTS), np.uint64)
            for row, text in enumerate(texts):
                shingles = signer.get_shingles(text)
                if shingles.size:
                    slots[row] = np.concatenate(signer.get_signature(shingles))
            return slots

        run(sign)


if __name__ == "__main__":
    main()
