"""Every check rejects what was spoiled for it, for that reason, and little else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.synth.faults import FAULTS
from synth.checks import CHECKS

# an opening keeps its share; a repeated sentence may make an answer too long first
LEAST = {"template": 0.8, "repetition": 0.85}
MEASURE = """
import json, pathlib, sys
from benchmarks.synth.planted import measure
print(json.dumps(measure(50, pathlib.Path(sys.argv[1]))))
"""
DATASET_RULES = {"near_duplicate", "contaminated", "template"}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    # in a process of its own: what pydoc says of a module follows from what is imported beside it
    return json.loads(
        subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path_factory.mktemp("planted"))],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )


def test_every_check_has_faults():
    # the judge is asked in test_checks
    assert {fault.rule for fault in FAULTS} == set(CHECKS) - {"judge"}


def test_faults_are_caught_for_their_reason(table):
    faults = [row for row in table if row["check"] != "clean"]
    assert {row["check"] for row in faults} == {fault.rule for fault in FAULTS} | DATASET_RULES
    assert all(row["planted"] >= 50 for row in faults)
    wrong = []
    for row in faults:
        least = LEAST.get(row["check"], 0.92)
        if row["caught"] < least * row["planted"] or row["precision"] < 0.95:
            wrong.append(row)
    assert not wrong, wrong


def test_clean_outputs_pass(table):
    clean = [row for row in table if row["check"] == "clean"]
    assert all(row["planted"] >= 50 and row["passed"] >= 0.95 * row["planted"] for row in clean), clean
    assert sum(row["passed"] for row in clean) >= 0.99 * sum(row["planted"] for row in clean)
