"""A tiny Sigma through ``corpusmill serve``: the same tokens as its own modeling, health, a clean end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
import openai
from toy_server import CORPUSMILL, Server
from toy_sigma import judge

from pipelines.serve import check_checkpoint, read_prompts

NEW = 12


def test_same_tokens_as_the_model(served: Server, tiny: tuple[Path, Any]) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    assert [model.id for model in client.models.list()] == ["tiny-sigma"]
    chance = random.Random(1)
    prompts = [[chance.randrange(1, 257) for _ in range(n)] for n in (1, 5, 15, 16, 17, 33, 64, 100, 200)]
    # one prompt twice: its pages are there already
    answers = client.completions.create(
        model="tiny-sigma",
        prompt=[*prompts, prompts[-1]],
        max_tokens=NEW,
        temperature=0,
        logprobs=1,
        extra_body={"ignore_eos": True, "return_token_ids": True, "return_tokens_as_token_ids": True},
    )
    assert len(answers.choices) == 10
    for prompt, answer in zip([*prompts, prompts[-1]], answers.choices, strict=True):
        assert answer.logprobs is not None
        tokens = answer.model_extra["token_ids"]
        assert len(tokens) == NEW
        wrong, _, off = judge(tiny[1], prompt, tokens, answer.logprobs.token_logprobs)
        assert wrong == 0 and off < 1e-4, (len(prompt), wrong, off)


def test_a_seed_does_not_end_the_engine(served: Server) -> None:
    """It does on a CPU where a prompt is cut into chunks; our defaults do not cut."""
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    sampled = [
        client.completions.create(
            model="tiny-sigma", prompt=["a" * 300, "b" * 300], max_tokens=8, temperature=1, seed=7
        )
        for _ in range(2)
    ]
    one, two = ([choice.text for choice in answer.choices] for answer in sampled)
    assert one == two
    assert served.healthy()


def test_the_last_of_the_server(served: Server) -> None:
    """The last test of the session's server: SIGTERM ends it and its family."""
    assert served.healthy()
    assert len(served.family()) >= 2
    code, left = served.end(signal.SIGTERM, 15)
    assert code == 0 and not left, (code, left, served.output())


def test_without_the_plugin_vllm_says_what_it_does_not_know(tiny: tuple[Path, Any]) -> None:
    code = (
        "import sys; from vllm.engine.arg_utils import EngineArgs as E; E(sys.argv[1]).create_model_config()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tiny[0])],
        env={**os.environ, "VLLM_PLUGINS": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode != 0
    assert "sigma_diffqkv" in result.stderr


def test_what_cannot_be_served_is_refused_at_once(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    command = [*CORPUSMILL, "serve", str(tiny[0].parent)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = " ".join(result.stderr.split())
    assert result.returncode == 2 and f"did you mean {tiny[0]}?" in said and "Traceback" not in said
    with pytest.raises(ValueError, match="it must divide num_k_heads = 2"):
        check_checkpoint(tiny[0], 3)
    config = json.loads((tiny[0] / "config.json").read_text())
    wide_k = tmp_path / "wide_k"
    wide_k.mkdir()
    (wide_k / "config.json").write_text(json.dumps({**config, "num_k_heads": 8}))
    with pytest.raises(ValueError, match="holds no weights"):
        check_checkpoint(wide_k)
    (wide_k / "model.safetensors").touch()
    with pytest.raises(ValueError, match="num_k_heads = 8 is above num_v_heads = 4"):
        check_checkpoint(wide_k)


def test_a_file_of_prompts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo three\n")
    assert read_prompts(tmp_path / "a.txt") == ["one", "two three"]
    (tmp_path / "a.jsonl").write_text('{"prompt": "one\\ntwo"}\n{"prom": 1}\n')
    with pytest.raises(ValueError, match=r"a.jsonl, line 2: not a JSON object with a \"prompt\""):
        read_prompts(tmp_path / "a.jsonl")
