"""What writes: one small interface, ``await engine.generate(request)``, and which engines there are.

    vllm     a Hugging Face model on this machine, in a process of its own (synth/vllm_engine.py)
    openai   any endpoint that speaks OpenAI's API (synth/openai_engine.py)
    echo     gives part of its prompt back: for dry runs and tests of a DAG

Every text of a request is plain text: what looks like a special token or a chat marker in it is
spelled out for the model, never obeyed (synth/prompt.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from synth.prompt import Prompts

if TYPE_CHECKING:
    from synth.recipe import Sampling


@dataclass(frozen=True)
class Request:
    """One question. ``key`` names it in journals and logs and is unique in a run.

    Either ``messages`` [{"role", "content"}, ...] for a model that follows instructions, or
    ``prompt``, a text to go on from. ``sampling`` is a recipe's (synth/recipe.py).
    """

    key: str
    sampling: Sampling
    seed: int
    messages: Sequence[Mapping[str, str]] = ()
    prompt: str = ""

    @cached_property
    def prompt_hash(self) -> str:
        """32 hex digits of BLAKE2b-128 over roles and texts."""
        digest = hashlib.blake2b(digest_size=16)
        texts = (text for message in self.messages for text in (message["role"], message["content"]))
        for part in (self.prompt, *texts):
            digest.update(len(part.encode()).to_bytes(8, "little") + part.encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Completion:
    """One answer. ``finish_reason``: "stop", or "length" when it was cut by max_tokens."""

    text: str
    finish_reason: str
    prompt_tokens: int
    output_tokens: int


class Refused(ValueError):
    """This request cannot be answered, whoever asks (too long, not encodable): its row's error."""


class Unreachable(RuntimeError):
    """The endpoint gave no answer after all attempts; the work item is tried again."""


class EngineDied(RuntimeError):
    """The engine's process is gone: whoever holds the engine has to be replaced."""

    spoils_worker = True


class Engine(Protocol):
    """Answers requests, many at a time; ``slots`` of them keep it busy."""

    slots: int

    async def generate(self, request: Request) -> Completion:
        """The answer. Raises Refused, Unreachable, EngineDied, or ValueError for wrong settings."""
        ...

    async def close(self) -> None:
        """End what the engine started."""
        ...


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Which model writes, where, and how fast it may be asked."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    kind: Literal["vllm", "openai", "echo"] = "vllm"
    """vllm (in a process of its own on the worker), openai (an endpoint), or echo (a dry run)."""
    model: str = ""
    """Of vllm: a folder with a Hugging Face model (leave it out where the node has an input model).
    Of openai: the name that the endpoint knows."""
    revision: str = ""
    """Of openai: what tells this model from the next of the same name. Of vllm it is made from the
    model's files."""
    tokenizer: str = ""
    """Of openai: a folder with the model's tokenizer. Prompts are then sent as token ids to
    /completions, and page text cannot be taken for control whatever it spells."""
    context: int = 4096
    """Tokens of prompt and answer together."""
    max_num_seqs: int = 64
    """Of vllm: sequences in one step; a tenth more are kept waiting."""
    memory_gb: float = 1.0
    """Of vllm without a GPU: gigabytes for the KV cache."""
    gpu_memory_utilization: float = 0.9
    """Of vllm on a GPU: share of its memory."""
    tensor_parallel: int = 1
    """Of vllm: GPUs (without any: processes) that share one model."""
    dtype: str = "auto"
    """Of vllm: float32, bfloat16, or auto as the model says."""
    args: tuple[tuple[str, str | int | float | bool], ...] = ()
    """Of vllm: any other of its engine arguments, as [[name, value], ...]."""
    base_url: str = ""
    """Of openai: as https://host/v1, without the key."""
    key_variable: str = "OPENAI_API_KEY"
    """Of openai: the environment variable that holds the key; an endpoint on this machine needs none."""
    concurrency: int = 64
    """Of openai and echo: requests at a time."""
    requests_per_minute: float = 0
    """Of openai: no more requests than this; 0 is no limit."""
    tokens_per_minute: float = 0
    """Of openai: no more tokens of prompt and answer than this; 0 is no limit."""
    attempts: int = 6
    """Of openai: times that a request is sent when the endpoint is busy or away."""
    timeout: float = 600
    """Of openai: seconds for one answer."""

    def __post_init__(self) -> None:
        # workers may have another current folder
        for name in ("model",) if self.kind == "vllm" else ("tokenizer",):
            if getattr(self, name):
                object.__setattr__(self, name, str(Path(getattr(self, name)).absolute()))
        if self.kind == "openai":
            if not self.base_url.startswith(("http://", "https://")):
                raise ValueError(f"engine.base_url is {self.base_url!r}: give it as https://host/v1")
            if "@" in self.base_url.split("/")[2]:
                raise ValueError(f"engine.base_url holds a password: put it into {self.key_variable}")
            if not self.model:
                raise ValueError("engine.model is missing: name a model that the endpoint knows")
        for name in ("context", "max_num_seqs", "tensor_parallel", "concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"engine.{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("requests_per_minute", "tokens_per_minute"):
            if getattr(self, name) < 0:
                raise ValueError(f"engine.{name} is {getattr(self, name)}: it must be 0 (no limit) or more")

    def at(self, folder: Path | None) -> EngineSettings:
        """The same with the model in ``folder``, if there is one (an artifact of a training)."""
        if folder is None:
            if self.kind == "vllm" and not self.model:
                raise ValueError(
                    "engine.model is missing: name a folder with a Hugging Face model, or give the node an"
                    " input `model`"
                )
            return self
        inner = folder / "model" if (folder / "model" / "config.json").exists() else folder
        return replace(self, model=str(inner))

    def identity(self) -> dict:
        """What can change an answer, without places: neither folder, URL nor speed."""
        model = self.model if self.kind == "openai" else ""
        return {"kind": self.kind, "model": model, "revision": self.model_revision, "dtype": self.dtype}

    @property
    def gpus(self) -> int:
        """GPUs that one engine takes where there are any."""
        return self.tensor_parallel if self.kind == "vllm" else 0

    @property
    def model_name(self) -> str:
        """For people: the endpoint's name of the model, or the name of its folder."""
        if self.kind == "echo":
            return "echo"
        return self.model if self.kind == "openai" else Path(self.model).name

    @property
    def model_revision(self) -> str:
        """What tells two models of one name apart; of files, a hash (see synth/revision.py)."""
        from synth.revision import folder_revision

        if self.kind == "vllm":
            return folder_revision(Path(self.model)) if self.model else ""
        return self.revision

    @cached_property
    def prompts(self) -> Prompts | None:
        """How texts become token ids; None where the endpoint's tokenizer is not known."""
        if self.kind == "echo":
            return None
        folder = self.model if self.kind == "vllm" else self.tokenizer
        return Prompts.read(Path(folder)) if folder else None


class Echo:
    """Gives back what it was asked, cut to ``max_tokens`` words: for dry runs and tests of a DAG."""

    def __init__(self, settings: EngineSettings):
        self.slots = settings.concurrency

    async def generate(self, request: Request) -> Completion:
        asked = " ".join(message["content"] for message in request.messages) or request.prompt
        words = asked.split()
        given = words[: request.sampling.max_tokens]
        reason = "stop" if len(given) == len(words) else "length"
        return Completion(" ".join(given), reason, len(words), len(given))

    async def close(self) -> None:
        pass


async def start_engine(settings: EngineSettings) -> Engine:
    """Start the engine that ``settings`` describe. Raises ValueError when they cannot work."""
    if settings.kind == "echo":
        return Echo(settings)
    if settings.kind == "openai":
        from synth.openai_engine import OpenAI

        return OpenAI(settings)
    from synth.vllm_engine import Vllm

    return await Vllm.start(settings)
