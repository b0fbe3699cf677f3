"""What is long: runs every tests/proof/test_*.py and writes docs/PROOF.md.

    python tests/proof/run.py            all of them; those proven at this commit are not run again
    python tests/proof/run.py kills      one

A proof says what it found with pytest's ``record_property("figure", ...)``.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STATE = ROOT / ".proof.json"


def main(names: list[str]) -> int:
    """Run the proofs, write the page. Returns 1 when one failed."""
    commit = _git("rev-parse", "--short=12", "HEAD") + ("+changes" if _git("status", "--porcelain") else "")
    known = json.loads(STATE.read_text()) if STATE.exists() else {}
    proofs = {path.stem.removeprefix("test_"): path for path in sorted(HERE.glob("test_*.py"))}
    for name, path in proofs.items():
        proven = known.get(name, {})
        fresh = proven.get("commit") == commit and proven.get("passed") and "+" not in commit
        if (names and name not in names) or (fresh and not names):
            continue
        print(f"{name} ...", flush=True)
        known[name] = _prove(path, commit)
        print(f"{name}: {'passed' if known[name]['passed'] else 'FAILED'} in {known[name]['seconds']} s")
        STATE.write_text(json.dumps(known, indent=1))
        _write_page({key: known[key] for key in proofs if key in known})
    return 0 if all(known.get(name, {}).get("passed") for name in (names or proofs)) else 1


def _prove(path: Path, commit: str) -> dict:
    started = time.monotonic()
    with tempfile.NamedTemporaryFile(suffix=".xml") as junit:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "proof", f"--junitxml={junit.name}", str(path)]
        command += ["-o", "junit_family=legacy"]
        code = subprocess.run(command, cwd=ROOT).returncode
        cases = list(ElementTree.parse(junit.name).iter("testcase"))
    tests = []
    for case in cases:
        figures = [prop.get("value") for prop in case.iter("property")]
        bad = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        result = bad[0] if bad else "passed"
        tests.append({"test": case.get("name"), "result": result, "figures": figures})
    return {
        "commit": commit,
        "date": datetime.date.today().isoformat(),
        "machine": _machine(),
        "passed": code == 0,
        "seconds": round(time.monotonic() - started),
        "says": (path.read_text().split('"""')[1].strip().split("\n")[0]),
        "tests": tests,
    }


def _write_page(proofs: dict[str, dict]) -> None:
    lines = [
        "# Proof",
        "",
        "Written by `make proof`; each part carries its own date, commit and machine.",
    ]
    for name, proof in proofs.items():
        verdict = "passed" if proof["passed"] else "**failed**"
        lines += ["", f"## {name}: {verdict}", "", proof["says"], ""]
        lines += [
            f"{proof['date']}, commit {proof['commit']}, {proof['machine']}, {proof['seconds']} s;"
            f" again with `python tests/proof/run.py {name}`",
            "",
            "| test | result | what was found |",
            "|---|---|---|",
        ]
        for test in proof["tests"]:
            lines.append(f"| {test['test']} | {test['result']} | {'; '.join(test['figures'])} |")
    (ROOT / "docs" / "PROOF.md").write_text("\n".join(lines) + "\n")


def _machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{len(os.sched_getaffinity(0))} cores of {model}, Python {platform.python_version()}"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
