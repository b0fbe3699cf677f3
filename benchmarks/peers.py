"""Peers in environments of their own, and processes that run them or us on chosen cores.

An environment lies in ``.peers/<name>/`` of the checkout and is made when it is first used. A module
ends with ``serve(load=load, sign=sign)`` and answers one question after another, so that engines
take turns while each keeps what it loaded and compiled. Only the standard library is imported here:
this file also runs inside the peers' environments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = {
    "curation": (
        "datatrove[io,processing]==0.10.1",
        # what datatrove's extras leave out: the English word tokenizer, a half of lxml
        "spacy==3.8.18",
        "lxml_html_clean",
        "daft==0.7.26",
        "rensa==0.5.0",
        "datasketch==2.0.0",
        "gaoya==0.2.2",
        "xxhash==3.8.2",
        "polars==2.1.0",
        "scipy==1.17.1",
    ),
    # datatrove's whole chain from WARC to tokens
    "chain": (
        "datatrove[io,processing]==0.10.1",
        "spacy==3.8.18",
        "lxml_html_clean",
        "Resiliparse==2.0.1",
    ),
    # a training loader
    "loader": ("datasets==5.2.0",),
}
_THREADS = (
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


@dataclass(frozen=True)
class Answer:
    """What a process answered, and what it took: seconds, and the most memory it held meanwhile."""

    value: object
    wall: float
    cpu: float
    peak_mb: float


class Process:
    """A module that answers questions, on these cores alone, with as many threads as cores.

    ``module`` is its dotted name and, after spaces, its arguments. ``environment`` is a peers'
    environment, or None for our own Python. ``variables`` are set in the process' environment. Use it
    as a context manager: leaving it ends the process.
    """

    def __init__(
        self,
        module: str,
        environment: str | None = None,
        cores: Sequence[int] = (0,),
        variables: dict[str, str] | None = None,
    ) -> None:
        self.module = module
        python = sys.executable if environment is None else str(python_of(environment))
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._child = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cores)), python, "-m", *module.split()],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={
                **os.environ,
                **dict.fromkeys(_THREADS, str(len(cores))),
                "TOKENIZERS_PARALLELISM": "false",
                "PYTHONPATH": str(ROOT),
                **(variables or {}),
            },
        )

    def ask(self, question: str, **arguments: object) -> Answer:
        """Call the function that the module serves under this name; arguments and value are JSON.

        Raises RuntimeError, with the end of what the process logged, if it fails.
        """
        try:
            self._child.stdin.write(json.dumps({"question": question, "arguments": arguments}) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._child.stdout.readline()
        answer = json.loads(line) if line else {"error": f"it died (exit code {self._child.wait()})"}
        if "error" in answer:
            self._log.seek(0)
            log = self._log.read()[-2000:]
            raise RuntimeError(f"{self.module}, {question}: {answer['error']}\n{log}")
        return Answer(**answer)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stdin.close()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
        self._log.close()


def python_of(environment: str) -> Path:
    """The Python of an environment, made first if it is not there or has other versions."""
    folder = ROOT / ".peers" / environment
    wanted = "\n".join(ENVIRONMENTS[environment])
    made = folder / "requirements.txt"
    if not made.exists() or made.read_text() != wanted:
        print(f"making {folder.relative_to(ROOT)}, which takes about a minute", file=sys.stderr, flush=True)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run(
            [folder / "bin/pip", "install", "--quiet", *ENVIRONMENTS[environment]],
            check=True,
            env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )
        made.write_text(wanted)
    return folder / "bin/python"


def versions(environment: str) -> dict[str, str]:
    """The versions pinned in an environment."""
    pins = (line.split("==") for line in ENVIRONMENTS[environment] if "==" in line)
    return {name.partition("[")[0]: version for name, version in pins}


def serve(**functions: Callable[..., object]) -> None:
    """Answer the questions of :meth:`Process.ask` until there are no more. What is returned must be JSON."""
    # libraries print what they like: answers have a channel of their own
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        _forget_peak()
        cpu, wall = _cpu_seconds(), time.perf_counter()
        try:
            value = functions[asked["question"]](**asked["arguments"])
        except Exception:
            answer: dict = {"error": traceback.format_exc()}
        else:
            wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
            answer = {"value": value, "wall": wall, "cpu": cpu, "peak_mb": _peak_mb()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _cpu_seconds() -> float:
    # with the children that have ended
    return time.process_time() + sum(os.times()[2:4])


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _peak_mb() -> float:
    # not getrusage: its peak is inherited from the process that started this one
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1e3
