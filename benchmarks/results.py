"""What a benchmark found: a table on the terminal and ``benchmarks/results/AREA_QUESTION.json``."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One figure, and where it has one the peer's figure of the same run that it is compared with."""

    name: str
    value: float
    unit: str
    reference: str = ""
    ratio: float | None = None


def publish(
    question: str, rows: list[Row], *, red: list[str], versions: dict[str, str], **facts: object
) -> None:
    """Print the rows and write them to ``results/<question>.json``, for instance "curation_tokenize".

    ``red`` says which checks failed, in words; if any did, nothing is printed or written and the
    process exits. ``versions`` are those of the libraries that were compared; ``facts`` are what else
    a reader must know (corpus, normalization).
    """
    if red:
        sys.exit("no figures, because a check failed:\n" + "\n".join(f"  {line}" for line in red))
    width = max(len(row.name) for row in rows) + 2
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3g} x"
        print(f"{row.name:{width}}{_number(row.value):>12} {row.unit:22}{ratio:>10}  {row.reference}")
    result = {
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), **versions},
        "date": datetime.date.today().isoformat(),
        "command": command(),
        **facts,
        "rows": [asdict(row) for row in rows],
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{question}.json").write_text(json.dumps(result, indent=2) + "\n")


def versions_of(*distributions: str) -> dict[str, str]:
    """The versions installed beside us."""
    return {name: importlib.metadata.version(name) for name in distributions}


def processor() -> str:
    """The processor's name where Linux tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def command() -> str:
    """How this process was called; of a path its last part, which is all that another machine shares."""
    spec = sys.modules["__main__"].__spec__
    name = spec.name if spec else sys.argv[0]
    return " ".join(["python -m", name.removesuffix(".__main__"), *(Path(arg).name for arg in sys.argv[1:])])


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
