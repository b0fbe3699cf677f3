"""Any endpoint that speaks OpenAI's API: kept to its rates, asked again when it is busy or away."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from synth.engine import Completion, EngineSettings, Refused, Request, Unreachable
from synth.plan import CHARS_A_TOKEN
from synth.prompt import defused

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds
BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)


class Rate:
    """At most ``per_minute`` units, spent evenly: a bucket that holds a second's worth, at least one."""

    def __init__(self, per_minute: float):
        self.per_second = per_minute / 60
        self.next = 0.0

    async def spend(self, units: float) -> None:
        """Wait until ``units`` more may be spent."""
        if not self.per_second:
            return
        now = time.monotonic()
        start = max(self.next, now - 1.0)
        self.next = start + units / self.per_second
        await asyncio.sleep(max(0.0, start - now))


class OpenAI:
    """Sends chats to /chat/completions, texts to go on from to /completions.

    Where the model's tokenizer is known both go as token ids to /completions, and page text cannot be
    taken for control; else what looks like a chat marker in it is broken up (synth/prompt.py).
    """

    def __init__(self, settings: EngineSettings):
        self.settings, self.slots = settings, settings.concurrency
        self.url = settings.base_url.rstrip("/")
        key = os.environ.get(settings.key_variable, "")
        if not key and not _is_loopback(self.url):
            raise ValueError(
                f"engine: the environment has no {settings.key_variable}: export the key of {self.url}"
            )
        self.free = asyncio.Semaphore(self.slots)
        self.requests = Rate(settings.requests_per_minute)
        self.tokens = Rate(settings.tokens_per_minute)
        self.session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=aiohttp.ClientTimeout(total=settings.timeout),
            connector=aiohttp.TCPConnector(limit=0),
        )

    async def generate(self, request: Request) -> Completion:
        path, body, size = self._body(request)
        async with self.free:
            return await self._send(path, body, size)

    def _body(self, request: Request) -> tuple[str, dict[str, Any], int]:
        """Path, body and about how many tokens it costs at most."""
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.settings.model,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": request.seed,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.repetition_penalty != 1:
            body["repetition_penalty"] = sampling.repetition_penalty
        if self.settings.prompts is not None:
            try:
                if request.messages:
                    ids = self.settings.prompts.conversation(request.messages)
                else:
                    ids = self.settings.prompts.continuation(request.prompt)
            except ValueError as error:
                raise Refused(str(error)) from error
            return "/completions", {**body, "prompt": ids}, len(ids) + sampling.max_tokens
        if request.messages:
            messages = [{**m, "content": defused(m["content"])} for m in request.messages]
            size = sum(len(message["content"]) for message in messages)
            path, body = "/chat/completions", {**body, "messages": messages}
        else:
            path, body = "/completions", {**body, "prompt": defused(request.prompt)}
            size = len(request.prompt)
        return path, body, int(size / CHARS_A_TOKEN) + sampling.max_tokens

    async def _send(self, path: str, body: dict[str, Any], size: int) -> Completion:
        problem, wanted = "", 0.0
        for attempt in range(self.settings.attempts):
            if attempt:
                await asyncio.sleep(_pause(attempt, wanted))
            await self.requests.spend(1)
            await self.tokens.spend(size)
            wanted = 0.0
            try:
                async with self.session.post(self.url + path, json=body) as response:
                    if response.status == 200:
                        return _completion(await response.json())
                    text = (await response.text())[:500]
                    wanted = _seconds(response.headers.get("Retry-After"))
                    problem = f"{response.status} {' '.join(text.split())}"
                    if response.status not in BUSY:
                        raise self._final(response.status, problem)
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
        raise Unreachable(
            f"engine: {self.url} gave no answer in {self.settings.attempts} attempts; the last problem:"
            f" {problem}: see that it runs, or lower engine.concurrency or its rates"
        )

    def _final(self, status: int, problem: str) -> ValueError:
        if status in (401, 403):
            return ValueError(
                f"engine: {self.url} does not take the key in {self.settings.key_variable}: {problem}"
            )
        if status == 404:
            return ValueError(
                f"engine: {self.url} knows no model {self.settings.model!r}, or not this address: {problem}"
            )
        return Refused(f"the endpoint refused it: {problem}")

    async def close(self) -> None:
        await self.session.close()


def _pause(attempt: int, wanted: float) -> float:
    """Seconds: twice as long each time, somewhere in its upper half so that not all come back at
    once; no less than the endpoint wants, no more than a minute unless it does."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1))
    return max(wanted, random.uniform(longest / 2, longest))


def _seconds(header: str | None) -> float:
    try:
        return min(600.0, float(header or 0))
    except ValueError:  # a date
        return 0.0


def _completion(page: dict[str, Any]) -> Completion:
    try:
        choice, usage = page["choices"][0], page.get("usage") or {}
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return Completion(
            text=text or "",
            finish_reason=choice.get("finish_reason") or "stop",
            prompt_tokens=usage.get("prompt_tokens", 0),
            output_tokens=usage.get("completion_tokens", 0),
        )
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"engine: the endpoint's answer is not of OpenAI's form: {str(page)[:300]}"
        ) from error


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
