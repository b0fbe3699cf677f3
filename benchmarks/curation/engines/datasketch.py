"""datasketch: MinHash.generator over 5-grams made in Python, hashed with xxh32."""

from __future__ import annotations

import re

import numpy as np
from datasketch import MinHash
from xxhash import xxh32_intdigest

from benchmarks.curation.engines.common import SLOTS, ngrams, run

_words = re.compile(r"\w+").findall


def sign(texts: list[str]) -> np.ndarray:
    grams = ([gram.encode() for gram in ngrams(_words(text.lower()))] for text in texts)
    return np.stack(
        [hashed.hashvalues for hashed in MinHash.generator(grams, num_perm=SLOTS, hashfunc=xxh32_intdigest)]
    )


run(sign)
