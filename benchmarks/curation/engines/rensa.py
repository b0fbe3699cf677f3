"""rensa: exact R-MinHash of 5-grams made in Python. (Its rho path looks at a few tokens only.)"""

from __future__ import annotations

import re

import numpy as np
from rensa import RMinHash

from benchmarks.curation.engines.common import SLOTS, ngrams, run

_words = re.compile(r"\w+").findall


def sign(texts: list[str]) -> np.ndarray:
    grams = [ngrams(_words(text.lower())) for text in texts]
    return np.array(RMinHash.digest_matrix_from_token_sets(grams, SLOTS, 1).to_rows(), np.uint32)


run(sign)
