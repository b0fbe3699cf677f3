"""vLLM as the writer, on a CPU: killed in mid-run and gone on from, and nothing left behind."""

from __future__ import annotations

import collections
import contextlib
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from synth_runs import MODULES, recorded, rows, write_documents
from tiny_models import doc_of, write_llama
from toy_runs import alive, driver, manifests, wait_for, wait_gone, write_dag

pytestmark = pytest.mark.proof

STARTS = 400  # seconds that an engine may take on a machine that is shared


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with random weights."""
    import argparse
    import textwrap

    return write_llama(tmp_path_factory.mktemp("writer"), [doc_of(argparse), doc_of(textwrap)])


def engine_cores(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those of ``processes`` that run vLLM's engine."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            # a title is cut to 15 characters
            if "EngineCor" in " ".join([process.name(), *process.cmdline()]):
                found.append(process)
    return found


def test_the_engine_process_killed(writer: Path, tmp_path: Path) -> None:
    """SIGKILL to vLLM's own child in mid-run: another actor takes over, nothing is asked again.

    Every request has its own seed, and prompts are of all lengths that fit: had a prefill been split,
    this engine would not have lived (see vllm_child.engine_arguments).
    """
    engine = {"kind": "vllm", "model": str(writer), "context": 2048, "max_num_seqs": 8}
    new = {
        "stage": "synthesize",
        "input": "docs",
        "engine": engine,
        "recipes": ["continue"],
        "max_tokens": 48,
    }
    dag = {"docs": write_documents(tmp_path / "in", MODULES, shards=2), "new": {**new, "most_parts": 8}}
    with driver(write_dag(tmp_path, dag), tmp_path / "run") as first:
        first.until(lambda: len(recorded(tmp_path / "store")) >= 20, STARTS)
        seen = first.family()
        cores = engine_cores(seen)
        assert len(cores) == 1, alive(seen)
        cores[0].kill()
        before = recorded(tmp_path / "store")
        wait_for(lambda: not engine_cores(seen), 10)
        assert first.wait(STARTS) == 0, first.output()
    wait_gone(seen)
    counts = collections.Counter(recorded(tmp_path / "store"))
    assert 20 <= len(before) < len(counts), "it was killed too late"
    assert set(counts.values()) == {1}, "a recorded answer was asked for again"
    made = rows(tmp_path / "run", "new") + rows(tmp_path / "run", "new", "dropped")
    report = manifests(tmp_path / "run")["new"]["report"]
    assert report["recipes"]["continue"]["requests"] == len(counts)
    assert report["answers_from_journal"] >= len(before)
    assert {row["parents"][0] for row in made} == {row["id"] for row in rows(tmp_path / "run", "docs")}


def test_the_owner_killed_while_vllm_starts(writer: Path) -> None:
    """Nothing that vLLM has started lives 10 s after a SIGKILL to who owns the engine."""
    code = (
        "import asyncio; from synth.engine import EngineSettings, start_engine;"
        f"asyncio.run(start_engine(EngineSettings(kind='vllm', model={str(writer)!r}, context=512)))"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    family: list[psutil.Process] = []
    try:

        def started() -> bool:
            family[:] = psutil.Process(owner.pid).children(recursive=True)
            return bool(engine_cores(family))

        wait_for(started, STARTS)
    finally:
        owner.kill()
        owner.wait()
    assert len(family) >= 2, alive(family)
    wait_gone(family)


def test_a_model_that_vllm_cannot_run(tmp_path: Path) -> None:
    from synth import holder
    from synth.engine import EngineSettings

    settings = EngineSettings(kind="vllm", model=str(tmp_path))
    with pytest.raises(ValueError, match="holds no tokenizer that transformers reads"):
        holder.call(holder.engine_of(settings))
