"""Every benchmark of this folder, one after the other: ``python -m benchmarks.curation``.

Each module here that has a ``main`` is run in a process of its own, in order of name; arguments go to
those that know them. One that fails does not stop the others.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def questions() -> list[str]:
    """Names of the modules that answer a question: those that can be run."""
    found = []
    for file in sorted(FOLDER.glob("[a-z]*.py")):
        functions = [
            node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)
        ]
        if "main" in functions:
            found.append(file.stem)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--wcxb", type=Path, help="Parquet file of WCXB pages, for those that use it")
    parser.add_argument("--growth", action="store_true", help="10^7 documents as well: 7 GB of disk")
    chosen = parser.parse_args()
    failed = []
    for question in questions():
        print(f"\n== {question}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.curation.{question}"]
        source = (FOLDER / f"{question}.py").read_text()
        if chosen.wcxb and '"--wcxb"' in source:
            command += ["--wcxb", str(chosen.wcxb)]
        if chosen.growth and '"--growth"' in source:
            command.append("--growth")
        if subprocess.run(command).returncode:
            failed.append(question)
    if failed:
        sys.exit(f"without figures: {', '.join(failed)}")


if __name__ == "__main__":
    main()
