"""A model labels a sample, a classifier learns from it, is calibrated and applied: one declared flow."""

from __future__ import annotations

from pathlib import Path

import pytest
from synth_runs import endpoint, rows, scripted, write_documents
from toy_runs import manifests, run, write_dag

from synth.rubric import Rubric, builtin_rubrics, load_rubric

# half of them about the system, by their own name
SYSTEM = (
    *("subprocess", "socket", "signal", "shutil", "os", "select", "threading", "queue", "ssl", "logging"),
    *("selectors", "sched", "platform", "tempfile", "glob", "multiprocessing", "asyncio", "mmap", "resource"),
)
OTHER = (
    *("json", "textwrap", "csv", "heapq", "bisect", "random", "statistics", "fractions", "decimal", "html"),
    *("string", "calendar", "colorsys", "difflib", "dataclasses", "enum", "functools", "operator", "typing"),
)


def test_annotate_train_calibrate_apply(local_ray: int, tmp_path: Path) -> None:
    """Labels only where the sample says so, held-out documents never asked about, and the agreement
    with labels that the training did not see in the report."""
    titles = {f"Title: {name}\n": "system" for name in SYSTEM} | {
        f"Title: {name}\n": "Other." for name in OTHER
    }
    with scripted(tmp_path, labels=titles) as server:
        dag = {
            "docs": write_documents(tmp_path / "in", (*SYSTEM, *OTHER)) | {"heldout_fraction": 0.1},
            "labelled": {
                "stage": "label",
                "input": "docs",
                "engine": endpoint(server),
                "rubric": "system_domain",
                "sample": 0.9,
                "most_words": 200,
            },
            "classifier": {
                "stage": "train_classifier",
                "input": "labelled",
                "label_column": "llm_label",
                "target": "system",
                "min_examples": 8,
                "min_count": 1,
                "report_fraction": 0.3,
            },
            "classified": {"stage": "classify", "inputs": {"documents": "labelled", "model": "classifier"}},
        }
        code, engine = run(write_dag(tmp_path, dag), tmp_path / "run")
        assert code == 0, [job.error for job in engine.jobs.values()]
        asked = len(server.asked())
    found = rows(tmp_path / "run", "classified")
    assert len(found) == len(SYSTEM) + len(OTHER)
    labelled = [row for row in found if row["llm_label"] is not None]
    assert asked == len(labelled) < len(found)
    assert all(row["split"] == "train" for row in labelled)
    assert all((row["llm_label"] == "system") == (row["title"] in SYSTEM) for row in labelled)
    assert all(row["llm_rubric"] == "system_domain/1" for row in labelled)
    assert all(row["domain_label"] in ("system", "other") for row in found)
    made = manifests(tmp_path / "run")
    report = made["labelled"]["report"]
    assert report["asked"] == report["requests"] == sum(report["labelled"].values()) == len(labelled)
    agreement = made["classifier"]["report"]
    assert agreement["examples"]["report"] >= 4 and 0 <= agreement["accuracy"] <= 1
    assert set(agreement["confusion"]) == {"system", "other"}


def test_what_is_no_answer_is_asked_again(local_ray: int, tmp_path: Path) -> None:
    with scripted(tmp_path, labels={"Title: json\n": "system"}) as server:
        dag = {
            "docs": write_documents(tmp_path / "in", ("json", "csv"), shards=1),
            "labelled": {
                "stage": "label",
                "input": "docs",
                "engine": endpoint(server),
                "rubric": "system_domain",
                "sample": 1.0,
            },
        }
        assert run(write_dag(tmp_path, dag), tmp_path / "run")[0] == 0
        assert len(server.asked()) == 1 + 3
    by_title = {row["title"]: row for row in rows(tmp_path / "run", "labelled")}
    assert by_title["json"]["llm_label"] == "system"
    assert by_title["csv"]["llm_label"] is None and by_title["csv"]["llm_answer"] == "none of them"


@pytest.mark.parametrize(
    ("answer", "label", "grade"),
    [
        ("4", "useful", 4),
        ("**5**", "useful", 5),
        ("4/5", "useful", 4),
        ("Grade: 1", "useless", 1),
        ("3", None, 3),
        ("about 4.5", None, None),
        ("none", None, None),
    ],
)
def test_grades(answer: str, label: str | None, grade: int | None) -> None:
    assert builtin_rubrics()["usefulness"].read(answer)[:2] == (label, grade)


@pytest.mark.parametrize(
    ("answer", "label"),
    [("System", "system"), ("It is other.", "other"), ("systems", None), ("ecosystem", None)],
)
def test_labels(answer: str, label: str | None) -> None:
    assert builtin_rubrics()["system_domain"].read(answer)[0] == label


def test_a_wrong_rubric_says_where(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nversion: 1\nprompt: Grade it.\ngrade: {a: [1, 2], b: [3, 4]}\n")
    with pytest.raises(ValueError, match=r"mine.yaml:4: field 'grade' is unknown; did you mean 'grades'"):
        load_rubric(file)
    with pytest.raises(ValueError, match="two labels at least"):
        Rubric(name="x", version=1, prompt="x", labels=("one",))
