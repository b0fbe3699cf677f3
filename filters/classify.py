"""Score every document with the fastText classifier that ``train_classifier`` made."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LABEL_PREFIX = "__label__"


def in_spaces(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Each text between two spaces, so that " word " finds a whole word anywhere in it."""
    space, nothing = pa.scalar(" ", texts.type), pa.scalar("", texts.type)
    return pc.binary_join_element_wise(space, texts, space, nothing)


def normalize_text(
    texts: pa.Array | pa.ChunkedArray, max_chars: int, hidden_words: list[str] | None = None
) -> pa.Array | pa.ChunkedArray:
    """The words of a document as fastText sees them, on one line; same length, nulls stay.

    The first ``max_chars`` characters, lower-case; everything but letters, marks and digits becomes
    one space, so no text can spell fastText's own marks (``__label__``, ``</s>``, a line break).
    Words or phrases in ``hidden_words`` (already normalized) are taken out.
    """
    texts = pc.utf8_lower(pc.utf8_slice_codeunits(texts, 0, max_chars))
    texts = pc.replace_substring_regex(texts, r"[^\pL\pM\pN]+", " ")
    if hidden_words:
        # Longest first: RE2 takes the first alternative that fits.
        words = "|".join(sorted(hidden_words, key=len, reverse=True))
        texts = in_spaces(texts)
        texts = pc.replace_substring_regex(texts, f"(?: (?:{words}))+ ", " ")
    return pc.utf8_trim_whitespace(texts)


@dataclass(frozen=True)
class Classifier:
    """A trained fastText model with the settings of its training (``model.json``)."""

    model: Any = field(repr=False)
    labels: list[str]
    target: str
    threshold: float
    max_chars: int
    hidden_words: list[str]

    def normalize(self, texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return normalize_text(texts, self.max_chars, self.hidden_words)

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """Probabilities, float32 [texts, labels], of normalized, non-empty texts."""
        scores = np.zeros((len(texts), len(self.labels)), np.float32)
        predictions = zip(*self.model.predict(texts, k=-1), strict=True) if texts else ()
        for row, (names, values) in zip(scores, predictions, strict=True):
            row[[int(name.removeprefix(LABEL_PREFIX)) for name in names]] = values
        # fastText adds 1e-5 before its logarithm, so it can return a little more than 1.
        return np.clip(scores, 0.0, 1.0)

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Index of each row's label, int64 [rows]: the target where its probability reaches the
        threshold, else the most likely of the others."""
        target = self.labels.index(self.target)
        others = probabilities.copy()
        others[:, target] = -1.0
        reached = probabilities[:, target] >= np.float32(self.threshold)
        return np.where(reached, target, others.argmax(axis=1))


def read_classifier(folder: Path) -> Classifier:
    """The classifier in the folder of an artifact; ValueError if it holds none."""
    # Imported here: listing the stages must not load it.
    import fasttext

    try:
        settings = json.loads((folder / "model.json").read_text())
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no classifier (model.json is missing): "
            "give classify the output of a train_classifier node as its `model` input"
        ) from error
    return Classifier(model=fasttext.load_model(str(folder / "model.bin")), **settings)


# An artifact never changes, so a worker keeps the last one loaded from shard to shard.
_cached_classifier = lru_cache(maxsize=1)(read_classifier)


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Add the classifier's label and score to every document.

    ``domain_score`` (float32, 0 to 1) is the probability of the target label, whatever the document
    was labelled. ``domain_label`` is the target label where the score reaches the threshold that
    ``train_classifier`` calibrated for its ``target_precision``, else the most likely of the other
    labels. Both are null where the text holds no letter or digit.
    """

    stage: ClassVar = "classify"
    shape: ClassVar = "map"
    version: ClassVar = 1
    determinism: ClassVar = "exact"
    libraries: ClassVar = ("fasttext-numpy2-wheel", "pyarrow")
    inputs: ClassVar = {"documents": "documents", "model": "artifact"}
    output: ClassVar = "documents"
    needs: ClassVar = ("text",)
    adds: ClassVar = {"domain_label": "string", "domain_score": "float"}

    def annotate(self, table: pa.Table, model: Path) -> pa.Table:
        classifier = _cached_classifier(Path(model))
        texts = pc.fill_null(classifier.normalize(table["text"]), "").to_pylist()
        rows = np.array([row for row, text in enumerate(texts) if text], np.int64)
        probabilities = classifier.probabilities([texts[row] for row in rows])
        score = np.zeros(len(texts), np.float32)
        score[rows] = probabilities[:, classifier.labels.index(classifier.target)]
        label = np.zeros(len(texts), np.int64)
        label[rows] = classifier.decide(probabilities)
        missing = np.ones(len(texts), bool)
        missing[rows] = False
        names = pa.array(classifier.labels, pa.string())
        table = table.append_column("domain_label", names.take(pa.array(label, mask=missing)))
        return table.append_column("domain_score", pa.array(score, mask=missing))
