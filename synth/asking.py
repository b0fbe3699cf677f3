"""Asks a plan's questions, many at a time; checks what comes back; asks again with another seed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from synth import holder
from synth.checks import check
from synth.engine import Completion, Engine, Refused, Request
from synth.journal import Journal
from synth.plan import Part, request_seed
from synth.recipe import Recipe, Sampling

# of their own: a check may wait for a judge, whose answer needs the loop's threads for the journal
_CHECKERS = ThreadPoolExecutor(4, "checks")
JUDGEMENT = Sampling(temperature=0.0, top_p=1.0, max_tokens=8)


@dataclass(frozen=True)
class Attempt:
    """One answer and the documents made of it: rows of synth.checks.SCHEMA. Without an answer, why."""

    part: Part
    recipe: Recipe
    number: int
    request: Request
    completion: Completion | None
    documents: pa.Table | None
    error: str = ""

    @property
    def accepted(self) -> int:
        return self.documents["drop_rule"].null_count if self.documents is not None else 0


async def ask(engine: Engine, journal: Journal, request: Request) -> Completion:
    """The recorded answer, or the engine's, recorded."""
    known = journal.done.get(request.key)
    if known is not None:
        return known
    completion = await engine.generate(request)
    await journal.record(request.key, completion)
    return completion


@dataclass
class Asking:
    """The questions of one shard on their way."""

    engine: Engine
    journal: Journal
    seed: int
    revision: str
    retries: int
    attempts: list[Attempt] = field(default_factory=list)

    async def all(self, parts: list[Part]) -> list[Attempt]:
        """Every attempt, in order of (row, part, recipe, attempt). Raises the first failure."""
        waiting = iter(parts)

        async def work() -> None:
            for part in waiting:
                # at once, so that the recipes share the document at the head of their prompts
                await together([self._recipe(part, recipe) for recipe in part.recipes])

        await together([work() for _ in range(min(self.engine.slots, len(parts)))])
        order: Callable[[Attempt], Any] = lambda a: (a.part.row, a.part.number, a.recipe.name, a.number)  # noqa: E731
        return sorted(self.attempts, key=order)

    async def _recipe(self, part: Part, recipe: Recipe) -> None:
        # a greedy writer says the same again
        retries = self.retries if recipe.sampling.temperature > 0 else 0
        for number in range(retries + 1):
            attempt = await self._attempt(part, recipe, number)
            self.attempts.append(attempt)
            if attempt.accepted or attempt.error:
                return

    async def _attempt(self, part: Part, recipe: Recipe, number: int) -> Attempt:
        question: Mapping[str, Any]
        if recipe.chat:
            question = {"messages": recipe.messages(part.text, part.title)}
        else:
            question = {"prompt": recipe.completion_prompt(part.text, part.title)}
        key = f"{part.id}/{part.number}/{recipe.name}/{recipe.version}/{self.revision}/{number}"
        seed = request_seed(self.seed, part.id, part.number, recipe, number)
        request = Request(key=key, sampling=recipe.sampling, seed=seed, **question)
        try:
            completion = await ask(self.engine, self.journal, request)
        except Refused as error:
            return Attempt(part, recipe, number, request, None, None, str(error))
        loop = asyncio.get_running_loop()
        documents = await loop.run_in_executor(_CHECKERS, self._check, part, recipe, key, completion)
        return Attempt(part, recipe, number, request, completion, documents)

    def _check(self, part: Part, recipe: Recipe, key: str, completion: Completion) -> pa.Table:
        source = pa.table({"text": [part.text], "title": pa.array([part.title], pa.string())})
        output = pa.table(
            {
                "output": [completion.text],
                "finish_reason": [completion.finish_reason],
                "source_row": pa.array([0], pa.int64()),
            }
        )

        def judge(chats: list[list[dict[str, str]]]) -> list[str]:
            return holder.call(self._judge(key, chats))

        return check(recipe, source, output, judge)

    async def _judge(self, key: str, chats: list[list[dict[str, str]]]) -> list[str]:
        """The judge's answers; "" where the engine refuses, which is no verdict."""

        async def one(number: int, chat: list[dict[str, str]]) -> str:
            request = Request(key=f"{key}/judge/{number}", sampling=JUDGEMENT, seed=0, messages=chat)
            try:
                return (await ask(self.engine, self.journal, request)).text
            except Refused:
                return ""

        return await asyncio.gather(*(one(number, chat) for number, chat in enumerate(chats)))


async def together(work: list[Any]) -> None:
    """All of it; the first failure ends the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in work:
                group.create_task(part)
    except BaseExceptionGroup as failures:
        first: BaseException = failures
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
