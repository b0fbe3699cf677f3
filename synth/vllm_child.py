"""The process that holds vLLM's AsyncLLM: ``python -m synth.vllm_child PARENT``, lines of JSON each way.

    in    {"settings": {...}}                     first, once
          {"id", "ids", "sampling", "seed"}       a request
          {"abort": id}
    out   {"ready": {"max_num_seqs", "devices"}}, or {"failed": text}
          {"id", "text", "finish_reason", "prompt_tokens", "output_tokens"}, or {"id", "error": text}
          {"dead": text}                          the engine is gone; this process ends

It dies with its parent, and whatever vLLM starts dies with it: a process that multiprocessing spawns
runs this file as ``__mp_main__`` before anything else, one that it forks runs the hook below.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
from typing import Any

from synth.child import die_with_parent
from synth.vllm_defaults import CPU_OPTIONS, set_environment

if __name__ == "__mp_main__":
    die_with_parent(os.getppid())


def engine_arguments(settings: dict[str, Any], on_cpu: bool) -> dict[str, Any]:
    """vLLM's engine arguments. Without a GPU a prefill is never split (CPU_OPTIONS says why)."""
    arguments: dict[str, Any] = {
        "model": settings["model"],
        "dtype": settings["dtype"],
        "max_model_len": settings["context"],
        "max_num_seqs": settings["max_num_seqs"],
        "tensor_parallel_size": settings["tensor_parallel"],
        "enable_prefix_caching": True,
        "skip_tokenizer_init": False,
        "disable_log_stats": True,
        "seed": 0,
    }
    if on_cpu:
        arguments |= {**CPU_OPTIONS, "max_num_batched_tokens": max(settings["context"], 4096)}
    else:
        arguments["gpu_memory_utilization"] = settings["gpu_memory_utilization"]
    return arguments | {name: value for name, value in settings["args"]}


class Server:
    """Answers what comes in on one stream of lines, on another."""

    def __init__(self, out: Any):
        self.out = out
        self.tasks: dict[str, asyncio.Task] = {}
        self.engine: Any = None

    def tell(self, page: dict) -> None:
        self.out.write(json.dumps(page).encode() + b"\n")
        self.out.flush()

    async def serve(self, lines: asyncio.StreamReader) -> None:
        settings = json.loads(await lines.readline())["settings"]
        try:
            devices = self._start(settings)
        except Exception as error:  # whatever vLLM says of a model, our owner shows
            self.tell({"failed": f"{type(error).__name__}: {error}"})
            return
        self.tell({"ready": {"max_num_seqs": settings["max_num_seqs"], "devices": devices}})
        while line := await lines.readline():
            page = json.loads(line)
            if "abort" in page:
                if task := self.tasks.get(page["abort"]):
                    task.cancel()
                continue
            task = asyncio.create_task(self._answer(page))
            self.tasks[page["id"]] = task
            task.add_done_callback(functools.partial(self._forget, page["id"]))

    def _forget(self, name: str, task: asyncio.Task) -> None:
        self.tasks.pop(name, None)

    def _start(self, settings: dict[str, Any]) -> str:
        set_environment(settings["memory_gb"])
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = engine_arguments(settings, on_cpu=current_platform.is_cpu())
        self.engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        return current_platform.device_name or "cpu"

    async def _answer(self, page: dict) -> None:
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        sampling = SamplingParams(
            **page["sampling"], seed=page["seed"], output_kind=RequestOutputKind.FINAL_ONLY
        )
        try:
            async for result in self.engine.generate(
                TokensPrompt(prompt_token_ids=page["ids"]), sampling, page["id"]
            ):
                answer = result.outputs[0]
                facts = {"text": answer.text, "finish_reason": answer.finish_reason}
                counts = {"prompt_tokens": len(page["ids"]), "output_tokens": len(answer.token_ids)}
            self.tell({"id": page["id"], **facts, **counts})
        except asyncio.CancelledError:
            raise
        except EngineDeadError as error:
            self.tell({"dead": str(error)})
            os._exit(1)
        except Exception as error:
            self.tell({"id": page["id"], "error": f"{type(error).__name__}: {error}"})


async def main(parent: int) -> None:
    die_with_parent(parent)
    os.register_at_fork(after_in_child=lambda: die_with_parent(os.getppid()))
    # what vLLM prints goes to stderr; the old stdout is ours alone
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lines = asyncio.StreamReader(limit=1 << 28)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    await Server(out).serve(lines)
    # the end of our input is our owner's end
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
