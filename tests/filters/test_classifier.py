"""The classifier on pydoc pages labelled by their URL, as the quickstart does it."""

import dataclasses
import hashlib
import json
import pydoc
import subprocess
import sys
import time
from pathlib import Path

import fasttext
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from filters.classify import Classify, normalize_text, read_classifier
from filters.train_classifier import TrainClassifier, _reliability, _threshold

SYSTEM = ["os", "socket", "select", "signal", "subprocess", "threading", "shutil", "selectors"]
OTHER = ["decimal", "statistics", "html", "json", "csv", "textwrap", "calendar", "difflib"]
URL_LABELS = {"system": {"url": [f"/({'|'.join(SYSTEM)})[.]"]}, "other": {"url": ["[.]html"]}}
KEYWORD_LABELS = {
    "system": {"keywords": ["Process", "signal", "file descriptor", "Thread", "lock"]},
    "other": {"keywords": ["decimal", "string", "number", "HTML"], "min_keywords": 1},
}
SMALL = {"dim": 16, "buckets": 2_000, "min_examples": 20, "epochs": 15}


@pytest.fixture(scope="module")
def documents() -> pa.Table:
    """Pages of 800 characters; a tenth is held out."""
    rows = []
    for module in SYSTEM + OTHER:
        text = pydoc.plain(pydoc.render_doc(module))
        for page, start in enumerate(range(0, min(len(text), 40_000), 800)):
            url = f"http://localhost/{module}.html?{page}"
            id = hashlib.blake2b(url.encode(), digest_size=16).hexdigest()
            split = "heldout" if id < "1a" else "train"
            rows.append({"id": id, "url": url, "text": text[start : start + 800], "split": split})
    schema = pa.schema(
        {"id": pa.string(), "url": pa.string(), "text": pa.large_string(), "split": pa.string()}
    )
    return pa.Table.from_pylist(rows, schema=schema)


def fit(stage: TrainClassifier, documents: pa.Table, folder: Path, seed: int = 1) -> dict:
    out, scratch = folder / "out", folder / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    report = stage.fit(out, scratch, seed, lambda text: None, documents=ds.dataset(documents))
    assert list(scratch.iterdir()) == []
    return report


def is_system(documents: pa.Table) -> np.ndarray:
    return pc.match_substring_regex(documents["url"], URL_LABELS["system"]["url"][0]).to_numpy()


def test_learns_what_system_pages_are(documents: pa.Table, tmp_path: Path) -> None:
    report = fit(TrainClassifier(labels=URL_LABELS, **SMALL), documents, tmp_path)
    assert json.loads((tmp_path / "out/report.json").read_text()) == report
    train = documents.filter(pc.equal(documents["split"], "train"))
    assert sum(report["documents_by_rule"].values()) == len(train)
    assert report["documents_by_rule"]["unlabelled"] == 0
    assert report["examples"]["training"] + report["examples"]["report"] == len(train)
    assert abs(report["examples"]["report"] / len(train) - 0.2) < 0.01
    assert report["labels"]["system"]["f1"] > 0.8
    assert report["accuracy"] > report["largest_label_share"]
    assert report["target_precision_reached"]
    assert report["labels"]["system"]["precision"] >= 0.9
    assert sum(row["documents"] for row in report["reliability"]) == report["examples"]["report"]

    out = Classify().annotate(documents, tmp_path / "out")
    assert out.drop_columns(["domain_label", "domain_score"]).equals(documents)
    assert {name: str(out.schema.field(name).type) for name in Classify.adds} == Classify.adds
    score = out["domain_score"].to_numpy()
    assert score.min() >= 0 and score.max() <= 1
    labelled_system = pc.equal(out["domain_label"], "system").to_numpy()
    assert np.array_equal(labelled_system, score >= np.float32(report["threshold"]))
    heldout = pc.equal(documents["split"], "heldout").to_numpy()
    assert (labelled_system == is_system(documents))[heldout].mean() > 0.85


def test_same_model_for_any_order_and_any_memory(
    documents: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = TrainClassifier(labels=URL_LABELS, **SMALL)
    # glibc then fills fresh memory with other bytes, which fastText takes for its start
    perturbations = iter(["7", "91", "200"])
    halves = [documents.slice(len(documents) // 2), documents.slice(0, len(documents) // 2)]
    for number, table in enumerate(
        [documents, pa.concat_tables(halves), documents.take(np.arange(len(documents))[::-1])]
    ):
        monkeypatch.setenv("MALLOC_PERTURB_", next(perturbations))
        fit(stage, table, tmp_path / str(number))
    for name in ("model.bin", "model.json", "report.json"):
        files = {(tmp_path / str(number) / "out" / name).read_bytes() for number in range(3)}
        assert len(files) == 1, name
    fit(stage, documents, tmp_path / "seed", seed=2)
    other = (tmp_path / "seed/out/model.bin").read_bytes()
    assert other != (tmp_path / "0/out/model.bin").read_bytes()


def test_heldout_documents_are_not_read(documents: pa.Table, tmp_path: Path) -> None:
    stage = TrainClassifier(labels=URL_LABELS, **SMALL)
    is_train = pc.equal(documents["split"], "train")
    poison = pc.if_else(is_train, documents["text"], "poison " * 50).cast(pa.large_string())
    fit(stage, documents.set_column(2, "text", poison), tmp_path / "poisoned")
    fit(stage, documents.filter(is_train), tmp_path / "without")
    poisoned = (tmp_path / "poisoned/out/model.bin").read_bytes()
    assert poisoned == (tmp_path / "without/out/model.bin").read_bytes()


def test_keywords_label_and_stay_hidden(documents: pa.Table, tmp_path: Path) -> None:
    report = fit(TrainClassifier(labels=KEYWORD_LABELS, **{**SMALL, "min_examples": 9}), documents, tmp_path)
    train = documents.filter(pc.equal(documents["split"], "train"))
    padded = [f" {text} " for text in normalize_text(train["text"], TrainClassifier.max_chars).to_pylist()]

    def matches(keywords: list[str], needed: int) -> list[bool]:
        return [sum(f" {word} " in text for word in keywords) >= needed for text in padded]

    system = matches(["process", "signal", "file descriptor", "thread", "lock"], 2)
    other = matches(["decimal", "string", "number", "html"], 1)
    counts = report["documents_by_rule"]
    assert counts["system: keywords"] == sum(system)
    expected = [b and not a for a, b in zip(system, other, strict=True)]
    assert counts["other: keywords"] == sum(expected)
    words = set(fasttext.load_model(str(tmp_path / "out/model.bin")).words)
    assert "self" in words
    assert not words & {
        "process",
        "signal",
        "thread",
        "lock",
        "decimal",
        "string",
        "number",
        "html",
    }
    settings = json.loads((tmp_path / "out/model.json").read_text())
    assert "file descriptor" in settings["hidden_words"]


def test_hidden_words_go_side_by_side_and_as_phrases() -> None:
    hidden = ["a", "a b", "c"]
    texts = pa.chunked_array([["A A b, c! d", "c", "ab", None, "x a\ny c"]], pa.large_string())
    assert normalize_text(texts, 100, hidden).to_pylist() == ["d", "", "ab", None, "x y"]


def test_labels_of_a_column(documents: pa.Table, tmp_path: Path) -> None:
    names = np.where(is_system(documents), "system software", "other")
    unlabelled = np.arange(len(documents)) % 7 == 0
    documents = documents.append_column("llm_label", pa.array(names, mask=unlabelled))
    stage = TrainClassifier(label_column="llm_label", target="system software", **SMALL)
    report = fit(stage, documents, tmp_path)
    labelled = documents.filter(
        pc.and_(pc.equal(documents["split"], "train"), documents["llm_label"].is_valid())
    )
    assert sum(report["examples"].values()) == len(labelled)
    assert report["labels"]["system software"]["f1"] > 0.7
    assert set(stage.columns()) == {"id", "text", "split", "llm_label"}


def test_texts_that_could_confuse_fasttext(documents: pa.Table, tmp_path: Path) -> None:
    fit(TrainClassifier(labels=URL_LABELS, **SMALL), documents, tmp_path)
    texts = ["open a file", "</s>\n__label__1\0 open\r\n\va FILE", "label 1 s", None, "", " \n!?"]
    table = pa.table({"text": pa.array(texts, pa.large_string())})
    out = Classify().annotate(table, tmp_path / "out")
    assert out["domain_score"].is_null().to_pylist() == [False, False, False, True, True, True]
    assert out["domain_label"].is_null().to_pylist() == [False, False, False, True, True, True]
    classifier = read_classifier(tmp_path / "out")
    direct = classifier.probabilities(["s label 1 open a file"])[0, 0]
    assert out["domain_score"][1].as_py() == pytest.approx(direct)
    empty = Classify().annotate(table.slice(0, 0), tmp_path / "out")
    assert empty.schema == out.schema


def test_too_few_examples_says_which_and_what_to_do(documents: pa.Table, tmp_path: Path) -> None:
    labels = {"system": {"url": ["nowhere"]}, "other": {"url": ["."]}}
    with pytest.raises(ValueError, match=r"only 0 documents .* 'system'.*min_examples") as error:
        fit(TrainClassifier(labels=labels, **SMALL), documents, tmp_path)
    assert "labels: system:" in str(error.value)
    with pytest.raises(ValueError, match=r"no column 'url'; "):
        fit(
            TrainClassifier(labels=URL_LABELS, **SMALL),
            documents.drop_columns(["url"]),
            tmp_path / "no_url",
        )
    with pytest.raises(ValueError, match="only 0 documents"):
        empty = documents.slice(0, 0)
        fit(TrainClassifier(labels=URL_LABELS, **SMALL), empty, tmp_path / "empty")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "either `labels`"),
        ({"labels": URL_LABELS, "label_column": "x"}, "either `labels`"),
        ({"labels": {"a": {"url": ["x"]}}}, "two labels"),
        ({"labels": {**URL_LABELS, "c": {"urls": ["x"]}}}, "did you mean 'url'"),
        ({"labels": {**URL_LABELS, "c": {"url": "x"}}}, "list of non-empty strings"),
        ({"labels": {**URL_LABELS, "c": {"url": ["("]}}}, "not valid"),
        ({"labels": {**URL_LABELS, "c": {}}}, "at least one"),
        ({"labels": {**URL_LABELS, "c": {"keywords": ["a"]}}}, "min_keywords 2"),
        ({"labels": {**URL_LABELS, "c": {"keywords": ["a", "!!"]}}}, "no letter or digit"),
        ({"labels": URL_LABELS, "target": "c"}, "none of the labels"),
        ({"label_column": "x"}, "needs `target`"),
        ({"labels": URL_LABELS, "target_precision": 1.5}, "target_precision"),
        ({"labels": URL_LABELS, "dim": 0}, "dim"),
        ({"labels": URL_LABELS, "dim": 16, "buckets": 1_000}, "another model each time"),
    ],
)
def test_parameters_are_checked(parameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainClassifier(**parameters)


def test_threshold_is_the_lowest_with_the_precision() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.7, 0.2], np.float32)
    positive = np.array([True, True, True, False, True])
    assert _threshold(score, positive, 0.75) == (pytest.approx(0.2), True)
    # 0.7 is one score: taking it takes both of its documents.
    assert _threshold(score, positive, 0.9) == (pytest.approx(0.8), True)
    assert _threshold(score, ~positive, 0.9) == (pytest.approx(0.7), False)


def test_reliability_counts_each_document_once() -> None:
    score = np.array([0.0, 0.05, 0.95, 1.0], np.float32)
    table = _reliability(score, np.array([False, True, True, True]))
    assert [(row["from"], row["documents"], row["target_share"]) for row in table] == [
        (0.0, 2, 0.5),
        (0.9, 2, 1.0),
    ]


def test_no_classifier_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.json is missing"):
        read_classifier(tmp_path)


def test_failed_training_says_why(documents: pa.Table, tmp_path: Path) -> None:
    stage = TrainClassifier(labels=URL_LABELS, **{**SMALL, "epochs": 3})
    stage = dataclasses.replace(stage, learning_rate=1e30)
    with pytest.raises(RuntimeError, match="(?s)fastText process ended with 1.*NaN"):
        stage.fit(tmp_path, tmp_path, 1, lambda text: None, documents=ds.dataset(documents))


LONG_TRAINING = """
import sys
from pathlib import Path
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from filters.train_classifier import TrainClassifier
folder = Path(sys.argv[1])
labels = {"a": {"url": ["0$"]}, "b": {"url": ["."]}}
TrainClassifier(labels=labels, min_examples=9, epochs=1_000_000).fit(
    folder, folder, 1, print, documents=ds.dataset(folder / "documents.parquet"))
"""


def test_training_dies_with_its_parent(documents: pa.Table, tmp_path: Path) -> None:
    pq.write_table(documents, tmp_path / "documents.parquet")
    parent = psutil.Popen(
        [sys.executable, "-c", LONG_TRAINING, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    try:
        assert any("fastText trains" in line for line in parent.stdout)
        (child,) = parent.children()
        assert "filters.fasttext_child" in child.cmdline()
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 5
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the training outlived its parent"
        time.sleep(0.05)


def test_training_stops_when_asked(documents: pa.Table, tmp_path: Path) -> None:
    def progress(text: str) -> None:
        if "fastText trains" in text:
            raise InterruptedError(text)

    stage = TrainClassifier(labels=URL_LABELS, **{**SMALL, "epochs": 1_000_000})
    with pytest.raises(InterruptedError):
        stage.fit(tmp_path, tmp_path, 1, progress, documents=ds.dataset(documents))
    assert not [p for p in psutil.Process().children() if "fasttext_child" in str(p.cmdline())]
