"""Run a module in a process that dies with its parent: ``python -m pipelines.child PID MODULE ...``."""

from __future__ import annotations

import runpy
import sys

from synth.child import die_with_parent


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    module = sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
