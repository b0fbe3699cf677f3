"""Greedy continuations by vLLM in this process, one engine after the other: ``python greedy_grid.py PLAN``.

PLAN is JSON: prompts (lists of token ids), and runs, each {"model", "new", "options"}. Prints JSON: a run is
the tokens and log-probabilities of each prompt, the bytes of a page, pages, and how often a prefix was found.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"

from vllm import LLM, SamplingParams, TokensPrompt


def run(model: str, new: int, options: dict, prompts: list[list[int]]) -> dict:
    engine = LLM(model, dtype="float32", enforce_eager=True, max_model_len=512, **options)
    sampling = SamplingParams(temperature=0, max_tokens=new, logprobs=1, ignore_eos=True)
    answers = engine.generate([TokensPrompt(prompt_token_ids=p) for p in prompts], sampling, use_tqdm=False)
    best = [answer.outputs[0] for answer in answers]
    found = {
        "tokens": [list(answer.token_ids) for answer in best],
        "logprobs": [
            [place[token].logprob for place, token in zip(a.logprobs, a.token_ids, strict=True)] for a in best
        ],
        "cached": sum(answer.num_cached_tokens or 0 for answer in answers),
    }
    core = engine.llm_engine.engine_core
    if hasattr(core, "engine_core"):
        cache = core.engine_core.scheduler.kv_cache_config
        (group,) = cache.kv_cache_groups
        found |= {"page_bytes": group.kv_cache_spec.page_size_bytes, "pages": cache.num_blocks}
    core.shutdown()
    del engine, core
    gc.collect()
    return found


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    results = [run(**each, prompts=plan["prompts"]) for each in plan["runs"]]
    Path(sys.argv[1]).with_suffix(".out.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
