"""Train a fastText classifier on weak labels and say how far it can be trusted."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from filters.classify import LABEL_PREFIX, Classifier, in_spaces, normalize_text, read_classifier
from filters.fasttext_child import FRESH_BLOCK

RULE_KEYS = ("url", "keywords", "min_keywords")
RELIABILITY_BINS = 10


@dataclass(frozen=True, kw_only=True)
class TrainClassifier:
    """Train a fastText classifier on weak labels, with a report on documents it did not see.

    A weak label is a guess by a rule: a regular expression on the URL, or keywords in the text. The
    report measures agreement with the rules, not truth. A URL rule is the better guide, for its cue
    is not in the text. A keyword's cue is; so by default the keywords of all rules are hidden from
    the model, in training and in use, and what it learns is the text around them.

    Only documents with ``split == "train"`` are read. Of each label, a part chosen by the hash of
    the id is kept out of the training for the report. Writes ``model.bin`` (fastText),
    ``model.json`` (labels, threshold, normalization) and ``report.json``.
    """

    stage: ClassVar = "train_classifier"
    shape: ClassVar = "fit"
    version: ClassVar = 1
    determinism: ClassVar = "seeded"
    libraries: ClassVar = ("fasttext-numpy2-wheel", "pyarrow")
    inputs: ClassVar = {"documents": "documents"}
    output: ClassVar = "artifact"
    needs: ClassVar = ("id", "text", "split")
    adds: ClassVar[dict[str, str]] = {}

    labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Rules for each label, tried in this order, first match wins; a document that matches none is
    not used. ``url``: regular expressions (RE2), any must be found in the URL. ``keywords``: words
    or phrases, of which ``min_keywords`` (default 2) different ones must be in the text."""
    label_column: str | None = None
    """Take labels from this column (say, an LLM's) instead of rules; null is unlabelled."""
    target: str | None = None
    """The label that domain_score is the probability of; by default the first in ``labels``."""
    target_precision: float = 0.9
    """The threshold is the lowest with this precision on the report's documents."""
    report_fraction: float = 0.2
    """Part of each label's documents that is kept for the report."""
    min_examples: int = 50
    """Fewer documents of a label than this is an error."""
    max_examples: int = 50_000
    """Use at most this many documents of a label, chosen by the hash of the id."""
    max_chars: int = 4_000
    """Characters of a document that the model sees, from its start."""
    hide_keywords: bool = True
    """Take the keywords of all rules out of the text that the model sees."""
    dim: int = 64
    """Width of fastText's word vectors."""
    epochs: int = 10
    """Times that the training goes through the examples."""
    learning_rate: float = 0.5
    """fastText's learning rate at the start; it falls linearly to 0."""
    word_ngrams: int = 2
    """Longest sequence of words that is a feature of its own."""
    buckets: int = 100_000
    """Slots for hashed word sequences; the model file takes 4 bytes * dim * (words + buckets)."""
    min_count: int = 3
    """Words that are seen less often than this are no features."""

    def __post_init__(self) -> None:
        if bool(self.labels) == bool(self.label_column):
            raise ValueError("give either `labels` (rules) or `label_column`, and not both")
        if self.labels and len(self.labels) < 2:
            raise ValueError("`labels` needs rules for two labels at least, say system and other")
        for label, rules in self.labels.items():
            _check_rules(label, rules)
        if self.label_column and not self.target:
            raise ValueError("`label_column` needs `target`: the label that domain_score is of")
        if self.labels and self.target and self.target not in self.labels:
            raise ValueError(f"target {self.target!r} is none of the labels {list(self.labels)}")
        for name in ("target_precision", "report_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate}")
        for name in ("max_chars", "dim", "epochs", "word_ngrams", "buckets", "min_count"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if 4 * self.buckets * self.dim <= FRESH_BLOCK:
            raise ValueError(
                f"buckets * dim must be above {FRESH_BLOCK // 4}, not {self.buckets * self.dim}: "
                "a smaller fastText training gives another model each time"
            )
        if not 2 <= self.min_examples <= self.max_examples:
            raise ValueError("min_examples must be at least 2 and at most max_examples")

    def columns(self) -> set[str]:
        """The columns that these parameters need."""
        columns = set(self.needs)
        if self.label_column:
            columns.add(self.label_column)
        if any(rules.get("url") for rules in self.labels.values()):
            columns.add("url")
        return columns

    def fit(
        self,
        out: Path,
        scratch: Path,
        seed: int,
        progress: Callable[[str], None],
        documents: ds.Dataset,
    ) -> dict[str, Any]:
        """Train, measure and write; the report. Raises ValueError when a label has too few
        documents, RuntimeError when fastText fails."""
        examples, rule_counts = self._examples(documents, seed, progress)
        names = list(self.labels) or sorted(set(examples["label"].to_pylist()))
        target = self.target or names[0]
        parts = self._split(examples, names, target, rule_counts)
        training, unseen = (examples.take(pa.array(rows)) for rows in parts)

        progress(f"training on {len(training)} documents")
        settings = {
            "labels": names,
            "target": target,
            "threshold": 0.5,
            "max_chars": self.max_chars,
            "hidden_words": self._hidden_words(),
        }
        self._train(training, names, out, scratch, seed, progress)
        _write_json(out / "model.json", settings)

        progress(f"measuring on {len(unseen)} documents")
        classifier = read_classifier(out)
        report = {
            "examples": {"training": len(training), "report": len(unseen)},
            "documents_by_rule": rule_counts,
            **_measure(classifier, unseen, self.target_precision),
        }
        _write_json(out / "model.json", {**settings, "threshold": report["threshold"]})
        _write_json(out / "report.json", report)
        return report

    def _hidden_words(self) -> list[str]:
        keywords = (word for rules in self.labels.values() for word in rules.get("keywords", ()))
        return sorted({_normalize_keyword(word) for word in keywords}) if self.hide_keywords else []

    def _examples(
        self, documents: ds.Dataset, seed: int, progress: Callable[[str], None]
    ) -> tuple[pa.Table, dict[str, int]]:
        """Labelled documents (key, label, text) in the order of their keys, and rows by rule.

        The key is a hash of seed and id: neither shards nor order of the input matter.
        """
        missing = sorted(self.columns() - set(documents.schema.names))
        if missing:
            raise ValueError(
                f"train_classifier: the documents have no column {missing[0]!r}"
                f"{_nearest(missing[0], documents.schema.names)}"
            )
        schema = pa.schema(
            {"key": pa.uint64(), "label": pa.string(), "text": documents.schema.field("text").type}
        )
        pool, read = schema.empty_table(), 0
        counts: Counter[str] = Counter()
        scan = documents.to_batches(
            columns=sorted(self.columns() - {"split"}),
            filter=ds.field("split") == "train",
            batch_size=4096,
        )
        for batch in scan:
            table = pa.table(batch)
            read += len(table)
            labels = self._label(table, counts)
            table = table.append_column("weak_label", labels).filter(labels.is_valid())
            text = normalize_text(table["text"], self.max_chars, self._hidden_words())
            found = pa.table([_keys(seed, table["id"]), table["weak_label"], text], schema=schema)
            pool = pa.concat_tables([pool, found.filter(pc.not_equal(text, ""))])
            if len(pool) > 4 * self.max_examples * max(2, len(self.labels)):
                pool = self._smallest_keys(pool)
                progress(f"labelled {counts.total() - counts['unlabelled']} of {read} documents")
        return self._smallest_keys(pool), dict(sorted(counts.items()))

    def _label(self, table: pa.Table, counts: Counter[str]) -> pa.ChunkedArray:
        """The weak label of each row or null; adds to ``counts`` how many rows each rule took."""
        if self.label_column:
            labels = table[self.label_column].cast(pa.string())
            for name, count in Counter(labels.to_pylist()).items():
                counts["unlabelled" if name is None else f"{name}: {self.label_column}"] += count
            return labels
        label = np.full(len(table), -1, np.int64)
        words = None
        for number, (name, rules) in enumerate(self.labels.items()):
            for pattern in rules.get("url", ()):
                found = pc.match_substring_regex(table["url"], pattern)
                counts[f"{name}: url {pattern}"] += _assign(label, number, found)
            if rules.get("keywords"):
                if words is None:
                    words = in_spaces(normalize_text(table["text"], self.max_chars))
                seen = np.zeros(len(table), np.int64)
                for keyword in dict.fromkeys(map(_normalize_keyword, rules["keywords"])):
                    found = pc.match_substring(words, f" {keyword} ")
                    seen += pc.fill_null(found, False).to_numpy()
                enough = pa.array(seen >= rules.get("min_keywords", 2))
                counts[f"{name}: keywords"] += _assign(label, number, enough)
        counts["unlabelled"] += int((label < 0).sum())
        names = pa.array(list(self.labels), pa.string())
        return pa.chunked_array([names.take(pa.array(label, mask=label < 0))])

    def _smallest_keys(self, pool: pa.Table) -> pa.Table:
        """In the order of their keys, at most ``max_examples`` rows of each label."""
        pool = pool.take(pc.sort_indices(pool["key"]))
        labels = np.array(pool["label"].to_pylist(), object)
        keep = [np.flatnonzero(labels == name)[: self.max_examples] for name in set(labels)]
        return pool.take(pa.array(np.sort(np.concatenate(keep or [np.empty(0, np.int64)]))))

    def _split(
        self, examples: pa.Table, names: list[str], target: str, rule_counts: dict[str, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows for training and rows for the report, each label shared out alike."""
        labels = np.array(examples["label"].to_pylist(), object)
        if target not in names or len(names) < 2:
            raise ValueError(
                f"train_classifier: column {self.label_column!r} has the labels {names}; it needs "
                f"the target {target!r} and at least one other, in documents of the train split"
            )
        training, unseen = [], []
        for name in names:
            rows = np.flatnonzero(labels == name)
            if len(rows) < self.min_examples:
                raise ValueError(
                    f"train_classifier: only {len(rows)} documents of the train split are labelled "
                    f"{name!r}, min_examples is {self.min_examples}. Widen the rules under "
                    f"`labels: {name}:`, add documents, or lower min_examples. "
                    f"Documents by rule: {rule_counts}"
                )
            cut = min(max(1, round(len(rows) * self.report_fraction)), len(rows) - 1)
            unseen.append(rows[:cut])
            training.append(rows[cut:])
        return np.sort(np.concatenate(training)), np.sort(np.concatenate(unseen))

    def _train(
        self,
        training: pa.Table,
        names: list[str],
        out: Path,
        scratch: Path,
        seed: int,
        progress: Callable[[str], None],
    ) -> None:
        # fastText knows a label by its number, so a label's name may hold anything.
        numbers = pc.index_in(training["label"], pa.array(names, pa.string()))
        kind = training["text"].type
        marks = pa.array([f"{LABEL_PREFIX}{number} " for number in range(len(names))], kind)
        lines = pc.binary_join_element_wise(
            marks.take(numbers.combine_chunks()), training["text"], pa.scalar("", kind)
        )
        source = scratch / "training.txt"
        source.write_text("\n".join(lines.to_pylist()) + "\n")
        arguments = {
            "parent": os.getpid(),
            "input": str(source),
            "model": str(out / "model.bin"),
            "options": {
                "seed": seed % 2**31,
                "dim": self.dim,
                "epoch": self.epochs,
                "lr": self.learning_rate,
                "wordNgrams": self.word_ngrams,
                "bucket": self.buckets,
                "minCount": self.min_count,
            },
        }
        _run_child(arguments, progress)
        source.unlink()


def _run_child(arguments: dict[str, Any], progress: Callable[[str], None]) -> None:
    """Train in a fresh process, which ends with this one or when ``progress`` raises."""
    home = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "filters.fasttext_child", json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        started = time.monotonic()
        try:
            while True:
                try:
                    _, complaint = child.communicate(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    progress(f"fastText trains for {time.monotonic() - started:.0f} s")
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise RuntimeError(
            f"train_classifier: the fastText process ended with {child.returncode} "
            f"(its input is {arguments['input']}): {complaint.strip()[-2000:]}"
        )


def _check_rules(label: str, rules: Any) -> None:
    where = f"labels: {label}:"
    if not isinstance(rules, dict):
        raise ValueError(f"{where} must hold `url` or `keywords`, not {rules!r}")
    for key in rules:
        if key not in RULE_KEYS:
            raise ValueError(f"{where} has no field {key!r}{_nearest(key, RULE_KEYS)}")
    for key in ("url", "keywords"):
        values = rules.get(key, [])
        if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
            raise ValueError(f"{where} `{key}` must be a list of non-empty strings, not {values!r}")
    if not rules.get("url") and not rules.get("keywords"):
        raise ValueError(f"{where} give at least one `url` or `keywords` entry")
    for pattern in rules.get("url", ()):
        try:
            pc.match_substring_regex(pa.array([""]), pattern)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{where} `url` pattern {pattern!r} is not valid: {error}") from error
    keywords = rules.get("keywords", [])
    for keyword in keywords:
        if not _normalize_keyword(keyword):
            raise ValueError(f"{where} keyword {keyword!r} holds no letter or digit")
    needed = rules.get("min_keywords", 2)
    if not isinstance(needed, int) or needed < 1 or (keywords and needed > len(keywords)):
        raise ValueError(
            f"{where} min_keywords {needed!r} must be from 1 to the number of keywords, {len(keywords)}"
        )


def _nearest(name: str, names: Any) -> str:
    near = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {sorted(names)}"


def _normalize_keyword(keyword: str) -> str:
    return normalize_text(pa.array([keyword]), len(keyword))[0].as_py()


def _keys(seed: int, ids: pa.ChunkedArray) -> pa.Array:
    digests = (hashlib.blake2b(f"{seed}:{id}".encode(), digest_size=8).digest() for id in ids.to_pylist())
    return pa.array(np.frombuffer(b"".join(digests), "<u8"))


def _assign(label: np.ndarray, number: int, found: pa.Array | pa.ChunkedArray) -> int:
    """Give ``number`` to the rows that are found and have no label yet; how many these are."""
    rows = (label < 0) & pc.fill_null(found, False).to_numpy(zero_copy_only=False)
    label[rows] = number
    return int(rows.sum())


def _measure(classifier: Classifier, unseen: pa.Table, target_precision: float) -> dict[str, Any]:
    """Agreement of the classifier with the labels of documents it did not see.

    Labels and their precision, recall and F1 are those that ``classify`` gives, with a threshold
    chosen on these same documents: few of them make it look better than it is.
    """
    labels, target = classifier.labels, classifier.labels.index(classifier.target)
    truth = pc.index_in(unseen["label"], pa.array(labels, pa.string())).to_numpy()
    probabilities = classifier.probabilities(unseen["text"].to_pylist())
    score, positive = probabilities[:, target], truth == target
    threshold, reached = _threshold(score, positive, target_precision)
    calibrated = Classifier(**{**vars(classifier), "threshold": threshold})
    predicted = calibrated.decide(probabilities)
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    return {
        "target": classifier.target,
        "threshold": threshold,
        "target_precision": target_precision,
        "target_precision_reached": reached,
        "accuracy": float((truth == predicted).mean()),
        "largest_label_share": float(confusion.sum(axis=1).max() / len(truth)),
        "labels": {name: _scores(confusion, number) for number, name in enumerate(labels)},
        "confusion": {
            name: dict(zip(labels, row, strict=True))
            for name, row in zip(labels, confusion.tolist(), strict=True)
        },
        "reliability": _reliability(score, positive),
    }


def _threshold(score: np.ndarray, positive: np.ndarray, target_precision: float) -> tuple[float, bool]:
    """The lowest score at which precision reaches its target, and True; where none does, the score
    with the best precision, and False."""
    order = np.argsort(-score, kind="stable")
    score, positive = score[order], positive[order]
    last_of_its_score = np.append(score[1:] != score[:-1], True)
    precision = (np.cumsum(positive) / np.arange(1, len(score) + 1))[last_of_its_score]
    score = score[last_of_its_score]
    good = np.flatnonzero(precision >= target_precision)
    best = good[-1] if len(good) else precision.argmax()
    return float(score[best]), bool(len(good))


def _scores(confusion: np.ndarray, number: int) -> dict[str, Any]:
    """Precision, recall and F1 of one label (0 where undefined), and its number of documents."""
    hits = int(confusion[number, number])
    given, true = int(confusion[:, number].sum()), int(confusion[number].sum())
    return {
        "precision": hits / given if given else 0.0,
        "recall": hits / true if true else 0.0,
        "f1": 2 * hits / (given + true) if given + true else 0.0,
        "documents": true,
    }


def _reliability(score: np.ndarray, positive: np.ndarray) -> list[dict[str, Any]]:
    """For each tenth of the score's range that holds documents: how many, their mean score and the
    share that has the target label. A calibrated score has the two about equal."""
    bins = np.minimum((score * RELIABILITY_BINS).astype(np.int64), RELIABILITY_BINS - 1)
    return [
        {
            "from": number / RELIABILITY_BINS,
            "documents": int((bins == number).sum()),
            "mean_score": math.fsum(score[bins == number]) / int((bins == number).sum()),
            "target_share": float(positive[bins == number].mean()),
        }
        for number in np.unique(bins).tolist()
    ]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
