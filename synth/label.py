"""The stage ``label``: a language model grades or classifies a sample of the documents."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from synth import holder
from synth.asking import ask, together
from synth.engine import EngineSettings, Refused, Request
from synth.journal import Journal
from synth.plan import LEAST_ROOM, SLACK, in_share, split_text, token_counter
from synth.recipe import Sampling
from synth.rubric import Rubric, builtin_rubrics, load_rubric


@dataclass
class _Answer:
    label: str | None = None
    grade: int | None = None
    text: str | None = None
    attempts: int = 0
    refused: bool = False


@dataclass(frozen=True, kw_only=True)
class Label:
    """Ask a model about a sample of the documents and write its answers beside them.

    Every row stays. ``llm_label`` is what ``train_classifier`` takes as its ``label_column``: null for
    documents outside the sample, held-out ones, and those whose answer was no label in three attempts or
    that the engine refused (``llm_answer`` says why).
    """

    stage: ClassVar[str] = "label"
    shape: ClassVar[str] = "expand"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "recorded"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {"documents": "documents", "model": "artifact"}
    optional: ClassVar[tuple[str, ...]] = ("model",)
    output: ClassVar[str] = "documents"
    resident: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("id", "text")
    adds: ClassVar[dict[str, str]] = {
        "llm_label": "string",
        "llm_grade": "int32",
        "llm_answer": "string",
        "llm_rubric": "string",
        "llm_model": "string",
        "llm_model_revision": "string",
    }

    engine: EngineSettings
    """The model that answers, as in ``synthesize``."""
    rubric: str
    """Name of a built-in rubric (system_domain, usefulness), or the path of your own (.yaml)."""
    sample: float = 0.05
    """Share of the documents that are asked about, chosen by the hash of the id."""
    most_words: int = 800
    """Words of a document that the model sees, from its start."""
    replicas: int = 1
    """Engines at work at the same time."""

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise ValueError(f"sample is {self.sample}: it must lie above 0 and up to 1")
        if self.most_words < 1 or self.replicas < 1:
            raise ValueError("most_words and replicas must be at least 1")
        _ = self.questions

    @cached_property
    def questions(self) -> Rubric:
        """The rubric itself."""
        if self.rubric.endswith((".yaml", ".yml")):
            return load_rubric(self.rubric)
        known = builtin_rubrics()
        if self.rubric not in known:
            raise ValueError(f"rubric: there is no rubric {self.rubric!r}; there are {', '.join(known)}")
        return known[self.rubric]

    @property
    def gpus(self) -> int:
        return self.engine.gpus

    def identity(self) -> dict[str, Any]:
        """What the fingerprint sees: the rubric's content and the model's revision, no place."""
        return {
            "engine": self.engine.identity(),
            "context": self.engine.context,
            "rubric": self.questions.identity(),
            "sample": self.sample,
            "most_words": self.most_words,
        }

    def expand(
        self,
        shard: pa.Table,
        *,
        node: str,
        seed: int,
        scratch: Path,
        progress: Callable[[str], None],
        model: Path | None = None,
    ) -> tuple[pa.Table, dict[str, Any]]:
        """The rows of the shard with the model's answers, and how many there are of each."""
        settings = self.engine.at(model)
        revision = settings.model_revision
        texts = self._sample(shard, settings, seed)
        journal = Journal(scratch / "generations.jsonl")
        answers: dict[int, _Answer] = {}

        async def work() -> None:
            engine = await holder.engine_of(settings)
            waiting = iter(texts.items())

            async def some() -> None:
                for row, (id_, title, text) in waiting:
                    key = f"{id_}/0/{self.questions.name}/{self.questions.version}/{revision}"
                    answers[row] = await self._ask(engine, journal, key, seed, text, title)

            await together([some() for _ in range(min(engine.slots, len(texts)))])

        try:
            if texts:
                holder.run(work(), lambda: progress(f"{len(answers)} of {len(texts)} documents labelled"))
        finally:
            journal.close()
        return self._table(shard, answers, settings, revision), _report(answers)

    def estimate(self, shard: pa.Table, *, seed: int, model: Path | None = None) -> dict[str, dict[str, int]]:
        """What would be asked for one shard, without retries."""
        settings = self.engine.at(model)
        count = token_counter(settings.prompts)
        texts = self._sample(shard, settings, seed)
        own = count(self.questions.messages("", None)[0]["content"])
        tokens = sum(own + count(title or "") + count(text) for _, title, text in texts.values())
        most = len(texts) * self.questions.max_tokens
        return {self.questions.name: {"requests": len(texts), "prompt_tokens": tokens, "output_tokens": most}}

    def _sample(
        self, shard: pa.Table, settings: EngineSettings, seed: int
    ) -> dict[int, tuple[str, str | None, str]]:
        """Row: (id, title, the start of the text that fits) of those to ask about."""
        count = token_counter(settings.prompts)
        own = count(self.questions.messages("", None)[0]["content"])
        room = settings.context - own - self.questions.max_tokens - SLACK
        if room < LEAST_ROOM:
            raise ValueError(
                f"rubric {self.questions.name!r}: of a context of {settings.context} tokens, {own} of its"
                f" question leave {max(0, room)} for the document: raise engine.context"
            )
        nothing = [None] * shard.num_rows
        columns = [
            shard[name].to_pylist() if name in shard.column_names else nothing
            for name in ("id", "text", "title", "split")
        ]
        found = {}
        for row, (id_, text, title, split) in enumerate(zip(*columns, strict=True)):
            if split == "heldout" or not in_share(self.sample, seed, "label", id_):
                continue
            pieces = split_text(
                text or "", self.most_words, max(LEAST_ROOM, room - count(title or "")), count
            )
            if pieces:
                found[row] = (id_, title, pieces[0])
        return found

    async def _ask(
        self, engine: Any, journal: Journal, key: str, seed: int, text: str, title: str | None
    ) -> _Answer:
        """The first of three answers that is one; the first is greedy."""
        answer = _Answer()
        for attempt in range(3):
            sampling = Sampling(
                temperature=0.7 if attempt else 0.0, top_p=1.0, max_tokens=self.questions.max_tokens
            )
            own_seed = int.from_bytes(hashlib.blake2b(f"{seed}\0{key}\0{attempt}".encode()).digest()[:4]) >> 1
            request = Request(
                key=f"{key}/{attempt}",
                sampling=sampling,
                seed=own_seed,
                messages=self.questions.messages(text, title),
            )
            try:
                said = (await ask(engine, journal, request)).text
            except Refused as error:
                return _Answer(text=f"refused: {error}", attempts=attempt + 1, refused=True)
            label, grade, is_answer = self.questions.read(said)
            answer = _Answer(label, grade, said, attempt + 1)
            if is_answer:
                break
        return answer

    def _table(
        self, shard: pa.Table, answers: dict[int, _Answer], settings: EngineSettings, revision: str
    ) -> pa.Table:
        rows = range(shard.num_rows)
        none = _Answer()
        asked = [answers.get(row, none) for row in rows]
        rubric = f"{self.questions.name}/{self.questions.version}"
        columns: dict[str, list] = {
            "llm_label": [answer.label for answer in asked],
            "llm_grade": [answer.grade for answer in asked],
            "llm_answer": [answer.text for answer in asked],
            "llm_rubric": [rubric if row in answers else None for row in rows],
            "llm_model": [settings.model_name if row in answers else None for row in rows],
            "llm_model_revision": [revision if row in answers else None for row in rows],
        }
        for name, kind in self.adds.items():
            shard = shard.append_column(name, pa.array(columns[name], pa.type_for_alias(kind)))
        return shard.append_column("parent_row", pa.array(list(rows), pa.int64()))


def _report(answers: dict[int, _Answer]) -> dict[str, Any]:
    labels = Counter(answer.label for answer in answers.values() if answer.label is not None)
    grades = Counter(str(answer.grade) for answer in answers.values() if answer.grade is not None)
    return {
        "asked": len(answers),
        "requests": sum(answer.attempts for answer in answers.values()),
        "labelled": dict(sorted(labels.items())),
        "grades": dict(sorted(grades.items())),
        "without_label": len(answers) - labels.total(),
        "refused": sum(answer.refused for answer in answers.values()),
    }
