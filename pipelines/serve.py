"""``corpusmill serve`` and ``corpusmill generate``: a checkpoint through vLLM."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIGMA = "sigma_diffqkv"


def check_checkpoint(folder: Path, tensor_parallel_size: int = 1) -> None:
    """Raises ValueError with the cure where vLLM would fail a minute later."""
    if not (folder / "config.json").is_file():
        inside = [path.parent for path in sorted(folder.glob("*/config.json"))]
        hint = f"; did you mean {inside[0]}?" if inside else ""
        raise ValueError(f"{folder} is no checkpoint: it holds no config.json{hint}")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds no weights (*.safetensors)")
    if importlib.util.find_spec("vllm") is None:
        raise ValueError("vLLM is not installed: pip install 'corpusmill[cpu]', or [cuda] on a GPU machine")
    if json.loads((folder / "config.json").read_text()).get("model_type") != SIGMA:
        return
    if not any(
        point.name == "sigma" for point in importlib.metadata.entry_points(group="vllm.general_plugins")
    ):
        raise ValueError(
            "the installed corpusmill does not tell vLLM of Sigma (entry point vllm.general_plugins: sigma); "
            "install it again: make install"
        )
    from sigma_model.config import SigmaConfig
    from sigma_model.vllm_plugin.limits import check_servable

    check_servable(SigmaConfig.from_pretrained(folder), tensor_parallel_size)


def serve(
    checkpoint: Path,
    host: str,
    port: int,
    name: str | None,
    tensor_parallel_size: int,
    arguments: Sequence[str],
) -> None:
    """Become vLLM's server; does not return. Raises ValueError where that cannot work."""
    check_checkpoint(checkpoint, tensor_parallel_size)
    _check_free(host, port)
    command = [sys.executable, "-m", "pipelines.vllm_server", str(checkpoint)]
    command += ["--host", host, "--port", str(port), "--served-model-name", name or checkpoint.resolve().name]
    command += ["--tensor-parallel-size", str(tensor_parallel_size), *arguments]
    # in place of this process: signals and the exit code are the server's own
    os.execv(sys.executable, command)


def _check_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"cannot serve on {host}:{port} ({error.strerror}); give another --port"
            ) from None


def read_prompts(file: Path) -> list[str]:
    """One prompt a line; or JSON lines, each with a key ``prompt``. Raises ValueError with file and line."""
    lines = file.read_text(encoding="utf-8").splitlines()
    if file.suffix != ".jsonl":
        return [line for line in lines if line.strip()]
    prompts = []
    for number, line in enumerate(lines, 1):
        try:
            prompts.append(json.loads(line)["prompt"])
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f'{file}, line {number}: not a JSON object with a "prompt"') from None
    return prompts


def generate(
    checkpoint: Path,
    prompts: Sequence[str],
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> list[dict]:
    """Completions of ``prompts`` by vLLM in this process, as prompt, text, finish_reason and token counts.

    Text that spells a special token is ordinary text. Prompt i samples with the seed ``seed + i``.
    """
    from pipelines.vllm_server import cpu_options
    from synth.vllm_defaults import set_environment

    check_checkpoint(checkpoint)
    set_environment()
    # all of vLLM in this process: nothing is left when it dies
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    # stdout is for what the model says
    os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"
    from vllm import LLM, SamplingParams, TokensPrompt
    from vllm.platforms import current_platform

    engine = LLM(str(checkpoint), **(cpu_options(checkpoint) if current_platform.is_cpu() else {}))
    tokenizer: Any = engine.get_tokenizer()
    longest = engine.model_config.max_model_len
    inputs, sampling = [], []
    for i, prompt in enumerate(prompts):
        ids = tokenizer.encode(prompt, add_special_tokens=False, split_special_tokens=True)
        if not ids or len(ids) + max_tokens > longest:
            raise ValueError(
                f"prompt {i} has {len(ids)} tokens: it needs at least 1, and with {max_tokens} new ones it "
                f"must fit into the model's {longest}"
            )
        inputs.append(TokensPrompt(prompt_token_ids=ids))
        sampling.append(
            SamplingParams(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed + i)
        )
    rows = []
    for prompt, answer in zip(prompts, engine.generate(inputs, sampling, use_tqdm=False), strict=True):
        best = answer.outputs[0]
        counts = {"prompt_tokens": len(answer.prompt_token_ids or ()), "output_tokens": len(best.token_ids)}
        rows.append({"prompt": prompt, "text": best.text, "finish_reason": best.finish_reason, **counts})
    return rows
