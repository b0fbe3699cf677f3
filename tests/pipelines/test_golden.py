"""Bytes that move without a bump of the stage's ``version`` turn this red.

After a change that is meant: bump ``version`` in the stage, then
``python tests/pipelines/test_golden.py`` writes golden.json anew.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.registry import BUILT_IN

HERE = Path(__file__).parent
GOLDEN = HERE / "golden.json"
EXEMPT = {
    "crawl": "recorded: what a site answered, not a function of anything here",
    "train": "seeded by torch, which promises the same bytes only on the same machine",
    "synthesize": "recorded: what a model answered (tests/synth holds the rows to a scripted writer's)",
    "label": "recorded, as synthesize",
    "load_tokenizer": "copies a folder that the user has",
}
WORDS = {
    "system": "the kernel of a process is to be read with care and that file has an open descriptor"
    " when memory for threads and signals of sockets is mapped by calls that return an error to buffer",
    "garden": "the rose of a garden is to be seen with care and that bed has an old fence"
    " when water for herbs and shrubs of summer is given by hands that bring an apple to table",
}


def make_warc(file: Path) -> None:
    """Pages of made-up prose on two subjects, some twice, some with an address or a rule's fault."""
    draw = random.Random(7)
    bodies: list[tuple[str, str]] = []
    for number in range(60):
        topic = "system" if number % 2 else "garden"
        words = WORDS[topic].split()
        lines = []
        for _ in range(draw.randint(4, 9)):
            line = " ".join(draw.choice(words) for _ in range(draw.randint(12, 25)))
            lines.append(f"<p>{line.capitalize()}.</p>")
        if number % 9 == 0:
            lines.append(f"<p>Write to person{number}@host{number}.org about it, or do not.</p>")
        if number % 13 == 0:
            lines = ["<p>javascript must be enabled</p>"]
        bodies.append((f"/{topic}/{number}.html", "\n".join(lines)))
    bodies += [(path.replace(".html", "-copy.html"), body) for path, body in bodies[10:16]]
    bodies += [
        (path.replace(".html", "-near.html"), body + "\n<p>The end.</p>") for path, body in bodies[20:26]
    ]
    with open(file, "wb") as out:
        for number, (path, body) in enumerate(bodies):
            page = f"<html><head><title>Page {number}</title></head><body><main>{body}</main></body></html>"
            answer = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{page}".encode()
            head = (
                "WARC/1.0\r\nWARC-Type: response\r\n"
                f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{number:012d}>\r\n"
                f"WARC-Target-URI: http://example.com{path}\r\nWARC-Date: 2025-01-01T00:00:00Z\r\n"
                "Content-Type: application/http; msgtype=response\r\n"
                f"Content-Length: {len(answer)}\r\n\r\n"
            )
            # level 0: the same bytes from every zlib
            out.write(gzip.compress(head.encode() + answer + b"\r\n\r\n", compresslevel=0, mtime=0))


def outcome(folder: Path) -> dict[str, dict]:
    """stage: its version, its libraries' versions, and fingerprints of its inputs and its output."""
    from toy_runs import manifests, run

    make_warc(folder / "pages.warc.gz")
    os.environ["GOLDEN_WARC"] = str(folder / "pages.warc.gz")
    rows = {"id": [str(n) for n in range(20)], "text": [f"text {n}" for n in range(20)]}
    pq.write_table(pa.table(rows), folder / "texts.parquet", row_group_size=5)
    os.environ["GOLDEN_PARQUET"] = str(folder / "texts.parquet")
    os.environ["GOLDEN_QUIZ"] = str(HERE / "golden_quiz.txt")
    code, engine = run(HERE / "golden.yaml", folder / "run", [f"store={folder / 'store'}"])
    assert code == 0, [job.error for job in engine.jobs.values() if job.error]
    found = {}
    for manifest in manifests(folder / "run").values():
        (step,) = manifest["stages"]
        found[step["stage"]] = {
            "version": step["version"],
            "libraries": step["libraries"],
            "inputs": sorted(manifest["inputs"].values()),
            "content": manifest["content_fingerprint"],
            "counts": {key: manifest["counts"][key] for key in ("rows_in", "kept", "quarantined")},
        }
    return found


@pytest.fixture(scope="module")
def found(local_ray: int, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    return outcome(tmp_path_factory.mktemp("golden"))


RECORDED = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


@pytest.mark.parametrize("stage", RECORDED)
def test_bytes_move_only_with_the_version(stage: str, found: dict[str, dict]) -> None:
    assert stage in found, f"golden.yaml no longer runs {stage!r}"
    was, now = RECORDED[stage], found[stage]
    if was["libraries"] != now["libraries"]:
        pytest.skip(f"recorded with {was['libraries']}, here are {now['libraries']}")
    if was["inputs"] != now["inputs"] and was["version"] == now["version"]:
        pytest.skip("its input moved: see the stage before it")
    assert was["version"] == now["version"], f"version of {stage!r} moved: run this file to record it"
    assert was["content"] == now["content"], (
        f"the output of {stage!r} moved ({was['counts']} -> {now['counts']}), its version"
        f" {now['version']} did not: bump it if this is meant, then run this file to record it"
    )


def test_every_stage_is_recorded() -> None:
    missing = set(BUILT_IN) - set(RECORDED) - set(EXEMPT)
    assert not missing, f"add {sorted(missing)} to golden.yaml, then run this file to record them"


def test_the_input_says_something(found: dict[str, dict]) -> None:
    """A golden of nothing would hold for ever."""
    assert found["decide"]["counts"]["kept"] < found["decide"]["counts"]["rows_in"]
    for stage in ("exact_dedup", "minhash_dedup"):
        assert found[stage]["counts"]["kept"] < found[stage]["counts"]["rows_in"]
    for stage, page in found.items():
        fits = ("toy_fit", "train_classifier", "train_tokenizer", "minhash_index")
        assert page["counts"]["kept"] > 10 or stage in fits


if __name__ == "__main__":
    toys = str(HERE.parent / "toy_package")
    sys.path.insert(0, toys)
    os.environ["PYTHONPATH"] = toys
    with tempfile.TemporaryDirectory() as scratch:
        from pipelines import cluster

        cluster.connect(None, 2)
        GOLDEN.write_text(json.dumps(outcome(Path(scratch)), indent=1, sort_keys=True) + "\n")
        cluster.disconnect()
