"""The stage ``synthesize``: documents -> new documents, written by a language model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from synth import holder
from synth.asking import Asking, Attempt
from synth.checks import COLUMNS
from synth.engine import EngineSettings
from synth.journal import Journal
from synth.plan import Plan, Planner, Rule, token_counter
from synth.recipe import Recipe, builtin_recipes, load_recipe

# What a new document has from the one it was made of.
INHERITED = (
    *("title", "url", "fetched_at", "license", "optout", "warc_file", "warc_offset", "warc_record_id"),
    *("split", "language_label", "domain_label", "domain_score"),
)
OWN = {
    "id": "string",
    "text": "large_string",
    "source": "string",
    "content_type": "string",
    "parents": "list<string>",
    "synth_recipe": "string",
    "synth_version": "int32",
    "synth_model": "string",
    "synth_model_revision": "string",
    "synth_seed": "int64",
    "synth_attempt": "int32",
    "synth_part": "int32",
    "synth_ordinal": "int32",
    "synth_prompt_hash": "string",
    "synth_prompt_tokens": "int32",
    "synth_output_tokens": "int32",
}
_FIELDS = {**OWN, **COLUMNS, "parent_row": "int64", "error": "string"}


@dataclass(frozen=True, kw_only=True)
class Synthesize:
    """Turn documents into new documents with a language model; each is checked, and rejected with a reason.

    The planner chooses recipes for each document by ``rules`` and cuts long ones at headings. Every
    answer is recorded before it counts; a run that was killed goes on and asks for nothing again.
    A rejected answer is asked for anew with another seed. Kept rows are the new documents alone:
    the rejected lie beside them, each with its rule. Drop rules of documents that nothing was asked
    of: ``heldout``, ``no_recipe``, ``too_short``.
    """

    stage: ClassVar[str] = "synthesize"
    shape: ClassVar[str] = "expand"
    version: ClassVar[int] = 1
    determinism: ClassVar[str] = "recorded"
    libraries: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[dict[str, str]] = {"documents": "documents", "model": "artifact"}
    optional: ClassVar[tuple[str, ...]] = ("model",)
    output: ClassVar[str] = "documents"
    resident: ClassVar[bool] = True
    adds: ClassVar[dict[str, str]] = {**OWN, **COLUMNS}

    engine: EngineSettings
    """The model that writes: kind (vllm, openai, echo), model, context and what that kind needs."""
    recipes: tuple[str, ...] = ()
    """Names of built-in recipes and paths of your own (.yaml); by default all built-in ones."""
    rules: tuple[Rule, ...] = ()
    """Which documents get which recipes: a list of {where, recipes, draw}, the first that fits
    decides; without any, each document gets every recipe of ``recipes``."""
    retries: int = 2
    """Times that a rejected answer is asked for again, each with a new seed; at most 2."""
    most_parts: int = 16
    """A longer document gives no more parts than this."""
    max_tokens: int = 0
    """An answer is at most this long, where a recipe would allow more; 0 leaves it to the recipes."""
    replicas: int = 1
    """Engines at work at the same time."""

    def __post_init__(self) -> None:
        if not 0 <= self.retries <= 2:
            raise ValueError(f"retries is {self.retries}: it must be 0, 1 or 2")
        if self.most_parts < 1 or self.replicas < 1 or self.max_tokens < 0:
            raise ValueError("most_parts and replicas must be at least 1, max_tokens at least 0")
        known = self.known_recipes
        for number, rule in enumerate(self.rules):
            if unknown := [name for name in rule.recipes if name not in known]:
                raise ValueError(
                    f"rules.{number}: there is no recipe {unknown[0]!r} among {', '.join(known)}: name it in"
                    " `recipes` too"
                )

    @cached_property
    def known_recipes(self) -> dict[str, Recipe]:
        """The recipes by name, their answers cut to ``max_tokens``."""
        built_in = builtin_recipes()
        found: dict[str, Recipe] = {}
        for name in self.recipes or tuple(built_in):
            is_file = name.endswith((".yaml", ".yml"))
            if not is_file and name not in built_in:
                raise ValueError(f"recipes: there is no recipe {name!r}; there are {', '.join(built_in)}")
            recipe = load_recipe(name) if is_file else built_in[name]
            if recipe.name in found:
                raise ValueError(f"recipes: two are called {recipe.name!r}")
            found[recipe.name] = self._shortened(recipe)
        return found

    def _shortened(self, recipe: Recipe) -> Recipe:
        if not self.max_tokens or recipe.sampling.max_tokens <= self.max_tokens:
            return recipe
        return replace(recipe, sampling=replace(recipe.sampling, max_tokens=self.max_tokens))

    @property
    def used_recipes(self) -> dict[str, Recipe]:
        """The recipes that some document may get."""
        named = {name for rule in self.rules for name in rule.recipes}
        return {n: r for n, r in self.known_recipes.items() if n in named or not self.rules}

    @property
    def gpus(self) -> int:
        return self.engine.gpus

    def columns(self) -> set[str]:
        """The columns that these parameters need."""
        named = {column for rule in self.rules for column in rule.where if column != "words"}
        return {"id", "text", *named}

    def identity(self) -> dict[str, Any]:
        """What the fingerprint sees: content of recipes and revision of the model, no place, no speed."""
        return {
            "engine": self.engine.identity(),
            "context": self.engine.context,
            "recipes": [recipe.identity() for recipe in self.used_recipes.values()],
            "rules": [[rule.where, rule.recipes, rule.draw, rule.share] for rule in self.rules],
            "retries": self.retries,
            "most_parts": self.most_parts,
        }

    def planner(self, engine: EngineSettings) -> Planner:
        """Plans with the tokenizer of ``engine``. Raises ValueError when its context is too small."""
        return Planner(
            self.used_recipes,
            self.rules,
            context=engine.context,
            most_parts=self.most_parts,
            count=token_counter(engine.prompts),
        )

    def estimate(self, shard: pa.Table, *, seed: int, model: Path | None = None) -> dict[str, dict[str, int]]:
        """What would be asked for one shard, by recipe, without retries."""
        return self.planner(self.engine.at(model)).plan(shard, seed).budget

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
        """New documents and rejected answers of one shard, and the report of its recipes."""
        settings = self.engine.at(model)
        plan = self.planner(settings).plan(shard, seed)
        revision = settings.model_revision
        journal = Journal(scratch / "generations.jsonl")
        recorded = len(journal.done)

        async def work() -> list[Attempt]:
            engine = await holder.engine_of(settings)
            asking = Asking(engine, journal, seed, revision, self.retries)
            return await asking.all(plan.parts)

        def look() -> None:
            progress(f"{len(journal.done)} answers of about {plan.requests} requests")

        try:
            attempts = holder.run(work(), look) if plan.parts else []
        finally:
            journal.close()
        table = _Output(shard, node, settings.model_name, revision).table(attempts, plan)
        return table, _report(attempts, plan, recorded)


@dataclass
class _Output:
    """The rows of one shard: made, rejected, refused, left out."""

    shard: pa.Table
    node: str
    model: str
    revision: str
    rows: dict[str, list] = field(default_factory=lambda: {name: [] for name in _FIELDS})

    def table(self, attempts: list[Attempt], plan: Plan) -> pa.Table:
        for attempt in attempts:
            self._attempt(attempt)
        ids = self.shard["id"].to_pylist()
        for row, reason in plan.left_out.items():
            self._row(row, {"id": ids[row], "parents": [], "drop_rule": reason})
        order = sorted(range(len(self.rows["parent_row"])), key=self.rows["parent_row"].__getitem__)
        types = {name: _type(kind) for name, kind in _FIELDS.items()}
        made = pa.table({name: pa.array(self.rows[name], kind) for name, kind in types.items()})
        made = made.take(pa.array(order, pa.int64()))
        inherited = [name for name in INHERITED if name in self.shard.column_names]
        parents = self.shard.select(inherited).take(made["parent_row"])
        columns = {**{name: parents[name] for name in inherited}, **{n: made[n] for n in made.column_names}}
        first = [name for name in ("id", "text") if name in columns]
        return pa.table({name: columns[name] for name in [*first, *(n for n in columns if n not in first)]})

    def _attempt(self, attempt: Attempt) -> None:
        part, recipe, answer = attempt.part, attempt.recipe, attempt.completion
        facts = {
            "source": self.node,
            "content_type": "text/plain",
            "parents": [part.id],
            "synth_recipe": recipe.name,
            "synth_version": recipe.version,
            "synth_model": self.model,
            "synth_model_revision": self.revision,
            "synth_seed": attempt.request.seed,
            "synth_attempt": attempt.number,
            "synth_part": part.number,
            "synth_prompt_hash": attempt.request.prompt_hash,
        }
        if answer is None or attempt.documents is None:
            self._row(part.row, {**facts, "id": self._id(attempt, 0), "text": "", "error": attempt.error})
            return
        facts |= {"synth_prompt_tokens": answer.prompt_tokens, "synth_output_tokens": answer.output_tokens}
        for document in attempt.documents.to_pylist():
            ordinal = document.pop("ordinal")
            document.pop("output_row")
            identity = {"id": self._id(attempt, ordinal), "synth_ordinal": ordinal}
            self._row(part.row, {**facts, **identity, **document})

    def _row(self, parent_row: int, values: dict[str, Any]) -> None:
        for name, column in self.rows.items():
            column.append(parent_row if name == "parent_row" else values.get(name))

    def _id(self, attempt: Attempt, ordinal: int) -> str:
        """32 hex digits of BLAKE2b-128 over parents, node, recipe, version, part, attempt and ordinal."""
        recipe, part = attempt.recipe, attempt.part
        names = [part.id, self.node, recipe.name, recipe.version, part.number, attempt.number, ordinal]
        return hashlib.blake2b("\0".join(map(str, names)).encode(), digest_size=16).hexdigest()


def _type(kind: str) -> pa.DataType:
    return pa.list_(pa.string()) if kind == "list<string>" else pa.type_for_alias(kind)


def _report(attempts: list[Attempt], plan: Plan, recorded: int) -> dict[str, Any]:
    """Per recipe: requests, documents, accepted ones, reasons of the others, tokens. Adds up over shards."""
    recipes: dict[str, dict[str, Any]] = {}
    for name, budget in plan.budget.items():
        planned = {f"planned_{key}": value for key, value in budget.items()}
        counts = ("requests", "retries", "refused", "documents", "accepted", "prompt_tokens", "output_tokens")
        recipes[name] = {**planned, **dict.fromkeys(counts, 0), "rejected": {}}
    for attempt in attempts:
        sums = recipes[attempt.recipe.name]
        sums["requests"] += 1
        sums["retries"] += attempt.number > 0
        if attempt.completion is None or attempt.documents is None:
            sums["refused"] += 1
            continue
        sums["documents"] += attempt.documents.num_rows
        sums["accepted"] += attempt.accepted
        sums["prompt_tokens"] += attempt.completion.prompt_tokens
        sums["output_tokens"] += attempt.completion.output_tokens
        reasons = Counter(reason for reason in attempt.documents["drop_rule"].to_pylist() if reason)
        sums["rejected"] = dict(Counter(sums["rejected"]) + reasons)
    return {"recipes": recipes, "parts": len(plan.parts), "answers_from_journal": recorded}
