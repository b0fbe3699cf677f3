"""The vLLM engine as its owner sees it: a child process that holds vLLM, and the requests on their way."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import importlib.util
import itertools
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process

from synth.engine import Completion, EngineDied, EngineSettings, Refused, Request

START_SECONDS = 900  # a large model from a slow disk
LAST_WORDS = 400  # lines kept
_ERROR = re.compile(r"\b(?!EngineDeadError)\w+(?:Error|Exception): .*")


class Vllm:
    """A Hugging Face model on this machine. Sends token ids, so page text is never control.

    ``slots`` is 1.1 x max_num_seqs: the next requests wait inside the engine, not outside.
    """

    def __init__(self, settings: EngineSettings, child: Process):
        assert settings.prompts is not None
        self.settings, self.child, self.prompts = settings, child, settings.prompts
        self.slots = -(-settings.max_num_seqs * 11 // 10)
        self.free = asyncio.Semaphore(self.slots)
        self.waiting: dict[str, asyncio.Future] = {}
        self.numbers = itertools.count()
        self.words: collections.deque[str] = collections.deque(maxlen=LAST_WORDS)
        self.tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._overhear())]
        self.ready = asyncio.get_running_loop().create_future()
        self.dead = ""

    @classmethod
    async def start(cls, settings: EngineSettings) -> Vllm:
        """Start vLLM and wait until it answers. Raises ValueError with vLLM's own words when it cannot."""
        if importlib.util.find_spec("vllm") is None:
            raise ValueError(
                "engine kind vllm: vLLM is not installed: pip install 'corpusmill[cpu]' (or [cuda]), or"
                " name another kind of engine"
            )
        _ = settings.prompts  # an error here is clearer than vLLM's
        child = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "synth.vllm_child", str(os.getpid())],
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=1 << 28,
            start_new_session=True,
            env={**os.environ, "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn"},
        )
        engine = cls(settings, child)
        fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
        engine._send({"settings": fields})
        try:
            await asyncio.wait_for(asyncio.shield(engine.ready), START_SECONDS)
        except BaseException:
            await engine.close()
            raise
        return engine

    def _send(self, page: dict) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(page).encode() + b"\n")

    async def generate(self, request: Request) -> Completion:
        try:
            if request.messages:
                ids = self.prompts.conversation(request.messages)
            else:
                ids = self.prompts.continuation(request.prompt)
        except ValueError as error:
            raise Refused(str(error)) from error
        room = self.settings.context - len(ids)
        if room < request.sampling.max_tokens:
            raise Refused(
                f"{len(ids)} tokens of prompt and {request.sampling.max_tokens} of answer do not fit into"
                f" a context of {self.settings.context}"
            )
        async with self.free:
            return await self._ask(ids, request)

    async def _ask(self, ids: list[int], request: Request) -> Completion:
        if self.dead:
            raise EngineDied(self.dead)
        name = str(next(self.numbers))
        answer = self.waiting[name] = asyncio.get_running_loop().create_future()
        sampling = {**dataclasses.asdict(request.sampling), "stop": list(request.sampling.stop)}
        self._send({"id": name, "ids": ids, "sampling": sampling, "seed": request.seed})
        try:
            page = await answer
        except asyncio.CancelledError:
            if not self.dead:
                self._send({"abort": name})
            raise
        finally:
            self.waiting.pop(name, None)
        if "error" in page:
            raise Refused(f"vLLM refused it: {page['error']}")
        return Completion(page["text"], page["finish_reason"], page["prompt_tokens"], page["output_tokens"])

    async def _listen(self) -> None:
        """Hand each answer to who waits for it; the end of the child's output is its death."""
        assert self.child.stdout is not None
        while line := await self.child.stdout.readline():
            page = json.loads(line)
            if "ready" in page:
                self.ready.set_result(page["ready"])
            elif "failed" in page:
                text = f"engine: vLLM could not start with {self.settings.model}: {page['failed']}"
                self.ready.set_exception(ValueError(f"{text}\n{self._last_words()}"))
                self.ready.exception()
            elif "dead" in page:
                self.dead = f"vLLM's engine died: {page['dead']}"
            elif (waiting := self.waiting.get(page["id"])) and not waiting.done():
                waiting.set_result(page)
        code = await self.child.wait()
        self.dead = self.dead or f"vLLM's process ended with exit code {code}"
        self.dead += f"; its last words:\n{self._last_words()}"
        for waiting in [*self.waiting.values(), self.ready]:
            if not waiting.done():
                waiting.set_exception(EngineDied(self.dead))
                waiting.exception()

    def _last_words(self) -> str:
        """What vLLM printed of errors, the cause first; without any, its last lines."""
        errors = [match[0].strip() for line in self.words if (match := _ERROR.search(line))]
        return "\n".join(list(dict.fromkeys(errors))[:4] or [line.rstrip() for line in list(self.words)[-8:]])

    async def _overhear(self) -> None:
        assert self.child.stderr is not None
        while line := await self.child.stderr.readline():
            self.words.append(line.decode(errors="replace"))

    async def close(self) -> None:
        """End the child and all that it started: they are one process group."""
        self.dead = self.dead or "it was closed"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        await self.child.wait()
        for task in self.tasks:
            task.cancel()
