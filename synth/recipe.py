"""Recipes as data: how a document becomes a prompt, and what its answer has to be.

A recipe is a YAML file; those of ``synth/recipes/`` are built in, a user writes one more and names
its path. The document comes first and the instruction after it, and the system message is the same
for all built-in recipes, so that all prompts of one document share the long prefix in the engine's
cache. Page text is quoted as plain text between tags that it does not hold itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from synth.checks import CHECKS, REQUIRED
from synth.parse import PARSERS
from synth.reading import Reader, RecipeError, nearest

__all__ = ["Length", "Recipe", "RecipeError", "Sampling", "builtin_recipes", "load_recipe"]

FOLDER = Path(__file__).parent / "recipes"
SYSTEM = (
    "You write training documents for a language model from a source document. Use only facts, names,"
    " commands, options, paths and numbers that the source gives, spelled as it spells them. Write in the"
    " source's language. Answer with the document alone: no greeting, no remark about the task or the source."
)
# what engines and prompts cannot do without, and the version of the frame around the document
_FRAME = 1


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer is drawn; the names are those of the OpenAI interface and of vLLM."""

    temperature: float = 0.6
    top_p: float = 0.95
    max_tokens: int = 1024
    """At most so many tokens; an answer that needs more is cut off and fails the check "finish"."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer, not part of it."""
    repetition_penalty: float = 1.0
    """Of vLLM; endpoints that do not know it get it only where it is not 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must lie in 0..2, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie above 0 and up to 1, not {self.top_p}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, not {self.max_tokens}")
        if not 0 < self.repetition_penalty <= 2:
            raise ValueError(
                f"repetition_penalty must lie above 0 and up to 2, not {self.repetition_penalty}"
            )


@dataclass(frozen=True, kw_only=True)
class Length:
    """Sizes in words as synth.checks.count_words counts them."""

    least_source_words: int = 80
    """The planner leaves shorter documents alone."""
    most_source_words: int = 1500
    """The planner splits longer documents."""
    least_words: int = 40
    """Of a new document."""
    most_words: int = 2000
    least_ratio: float = 0.0
    """Words of a new document for each word of its source."""
    most_ratio: float = 4.0

    def __post_init__(self) -> None:
        for low, high in (
            ("least_source_words", "most_source_words"),
            ("least_words", "most_words"),
            ("least_ratio", "most_ratio"),
        ):
            if not 0 <= getattr(self, low) <= getattr(self, high):
                raise ValueError(f"{low} must lie in 0..{high} ({getattr(self, high)}): {getattr(self, low)}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to make new documents of a document; see the fields' texts and docs/synthesize.md."""

    name: str
    version: int
    """Raised by hand whenever the prompt, the parser or the sampling changes."""
    prompt: str
    """What comes after the document: the instruction, or for ``chat: false`` what the text goes on with."""
    system: str = SYSTEM
    """A recipe with another system message shares no prefix with the others."""
    chat: bool = True
    """Whether the writer follows instructions (``messages``) or only goes on (``completion_prompt``)."""
    sampling: Sampling = field(default_factory=Sampling)
    length: Length = field(default_factory=Length)
    parser: str = "text"
    parser_parameters: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Checks by name with the parameters that differ from the defaults (:meth:`built_checks`)."""

    def messages(self, text: str, title: str | None = None) -> list[dict[str, str]]:
        """The chat of a document of this text: the system message, then document and instruction."""
        user = f"{quote(text, title)}\n\n{self.prompt.strip()}\n"
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]

    def completion_prompt(self, text: str, title: str | None = None) -> str:
        """What a base model goes on from: title, text, and the recipe's ``prompt``."""
        head = f"{title}\n\n" if title and title.strip() not in text[: 2 * len(title)] else ""
        return f"{head}{text.rstrip()}{self.prompt}"

    @cached_property
    def prompt_hash(self) -> str:
        """16 hex digits over all that makes a prompt of a document, the frame around it included."""
        seen = [_FRAME, self.system if self.chat else None, self.prompt, self.chat]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]

    @cached_property
    def built_parser(self) -> Any:
        """The parser with its parameters, of synth/parse.py."""
        return PARSERS[self.parser](**self.parser_parameters)

    @cached_property
    def built_checks(self) -> tuple[Any, ...]:
        """The checks that an output goes through, cheap first: one of each class of synth/checks.

        Those of REQUIRED always run; of the others, and with other parameters than the default
        ones, what ``checks`` says: ``{name: parameters}`` or ``{name: off}``, which is left out.
        """
        return tuple(cls(**self.checks[name]) for name, cls in CHECKS.items() if name in self.checks)

    def identity(self) -> dict[str, Any]:
        """Everything that can change an output, as JSON; what a fingerprint sees of a recipe."""
        return json.loads(json.dumps({**dataclasses.asdict(self), "frame": _FRAME}))


def quote(text: str, title: str | None = None) -> str:
    """The document between tags that neither its text nor its title holds."""
    tag, number = "document", 1
    while f"{tag}>" in text or f"{tag}>" in (title or ""):
        number += 1
        tag = f"document-{number}"
    head = f"Title: {title.strip()}\n\n" if title and title.strip() else ""
    return f"<{tag}>\n{head}{text.strip()}\n</{tag}>"


def load_recipe(path: str | Path) -> Recipe:
    """The recipe of a YAML file. Raises RecipeError with every mistake: file, line, field, nearest name."""
    reader = Reader(path)
    value = dict(reader.value)
    for key, cls in (("sampling", Sampling), ("length", Length)):
        if key in value:
            value[key] = reader.build(cls, value[key], (key,))
    if "parser" in value:
        value["parser"], value["parser_parameters"] = _parser(reader, value["parser"])
    value["checks"] = _checks(reader, value.get("checks", {}))
    # the first errors are the ones to mend; a section that failed would be told again as wrong
    reader.raise_errors()
    recipe = reader.build(Recipe, value, ())
    reader.raise_errors()
    if not recipe.name.isidentifier() or recipe.name != recipe.name.lower():
        reader.error(("name",), f"must be lower-case letters, digits and _, not {recipe.name!r}")
    if recipe.version < 1:
        reader.error(("version",), f"must be 1 or more, not {recipe.version}")
    if recipe.chat and not recipe.prompt.strip():
        reader.error(("prompt",), "is empty: say what to write")
    reader.raise_errors()
    return recipe


def _parser(reader: Reader, given: Any) -> tuple[str, dict[str, Any]]:
    """``parser: name`` or ``parser: {name: {parameter: value}}``."""
    name: Any = given
    parameters: Any = {}
    if isinstance(given, dict) and len(given) == 1:
        ((name, parameters),) = given.items()
    if name not in PARSERS:
        reader.error(("parser",), f"names no parser: {name!r}{nearest(str(name), list(PARSERS))}")
        return "", {}
    path = ("parser", name) if isinstance(given, dict) else ("parser",)
    built = reader.build(PARSERS[name], parameters, path)
    return name, dataclasses.asdict(built) if built else {}


def _checks(reader: Reader, given: Any) -> dict[str, dict[str, Any]]:
    """All checks with all their parameters, in their order; REQUIRED ones even where not named."""
    if not isinstance(given, dict):
        reader.error(("checks",), f"must be a mapping of check to parameters, not {given!r}")
        return {}
    for name in given:
        if name not in CHECKS:
            reader.error(("checks", str(name)), "is no check" + nearest(str(name), list(CHECKS)))
    built = {}
    for name, cls in CHECKS.items():
        parameters = given.get(name, {} if name in REQUIRED else False)
        if parameters is False:
            continue
        check = reader.build(cls, {} if parameters in (None, True) else parameters, ("checks", name))
        if check:
            built[name] = dataclasses.asdict(check)
    return built


@cache
def builtin_recipes() -> dict[str, Recipe]:
    """The recipes of ``synth/recipes/*.yaml`` by name, in the order of their names."""
    recipes = [load_recipe(path) for path in sorted(FOLDER.glob("*.yaml"))]
    return {recipe.name: recipe for recipe in recipes}
