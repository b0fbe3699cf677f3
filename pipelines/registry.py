"""Which stages there are: ours, and those of installed packages (entry point ``corpusmill.stages``).

A user's stage follows pipelines/stage.py and is registered by the decorator, in a module that the
package names under the entry point group ``corpusmill.stages``.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
import unicodedata
from functools import cache
from typing import Any

import pydantic

# Keys of a node that are the engine's own; a stage may not name a parameter so.
NODE_KEYS = ("stage", "input", "inputs", "materialize", "keep_dropped", "max_quarantine", "cpus")

# One line a stage: name -> module:class. Loaded only when used, so that the command line starts fast.
BUILT_IN = {
    "read_warc": "pipelines.crawl.stage:ReadWarc",
    "read_parquet": "pipelines.read_parquet:ReadParquet",
    "crawl": "pipelines.crawl.stage:Crawl",
    "extract": "pipelines.extract.stage:Extract",
    "url_rules": "filters.url:UrlRules",
    "language": "filters.language:Language",
    "text_statistics": "filters.text_statistics:TextStatistics",
    "pii": "filters.pii:Pii",
    "decide": "filters.decide:Decide",
    "exact_dedup": "filters.exact_dedup:ExactDedup",
    "minhash_dedup": "filters.minhash_dedup:MinhashDedup",
    "minhash_index": "filters.minhash_index:MinhashIndex",
    "line_dedup": "filters.line_dedup:LineDedup",
    "rebalance": "filters.rebalance:Rebalance",
    "decontaminate": "filters.decontaminate:Decontaminate",
    "template_monitor": "synth.checks.template:TemplateMonitor",
    "train_classifier": "filters.train_classifier:TrainClassifier",
    "classify": "filters.classify:Classify",
    "train_tokenizer": "pipelines.train_tokenizer:TrainTokenizer",
    "load_tokenizer": "pipelines.train_tokenizer:LoadTokenizer",
    "tokenize": "pipelines.tokenize:Tokenize",
    "train": "pipelines.train:Train",
    "synthesize": "synth.synthesize:Synthesize",
    "label": "synth.label:Label",
}
# Stages that are no more, and how to write them now.
REPLACED = {
    "gopher_quality": "text_statistics, families: [gopher]",
    "gopher_repetition": "text_statistics, families: [repetition]",
    "c4": "text_statistics, families: [c4]",
    "fineweb": "text_statistics, families: [fineweb]",
}
_registered: dict[str, Any] = {}


def stage(cls: Any) -> Any:
    """Class decorator: makes a user's stage known under its ``stage`` name."""
    check_stage(cls)
    _registered[cls.stage] = cls
    return cls


def check_stage(cls: Any) -> None:
    """Raise TypeError, naming what is missing, unless ``cls`` follows the contract."""
    cls_name = cls.__name__
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"stage {cls_name} must be a dataclass (see pipelines/stage.py)")
    for name in ("stage", "shape", "version", "determinism", "libraries", "inputs", "output"):
        if not hasattr(cls, name):
            raise TypeError(f"stage {cls_name} lacks the class variable {name!r}")
    for field in dataclasses.fields(cls):
        if field.name in NODE_KEYS:
            raise TypeError(f"stage {cls_name}: parameter {field.name!r} is a key of the engine")


@cache
def _entry_points_loaded() -> bool:
    for point in importlib.metadata.entry_points(group="corpusmill.stages"):
        point.load()
    return True


def stage_names() -> list[str]:
    _entry_points_loaded()
    return sorted({*BUILT_IN, *_registered})


def stage_class(name: str) -> Any:
    """The class of the stage ``name``; KeyError with the nearest name when there is none."""
    if name in _registered:
        return _registered[name]
    if name in BUILT_IN:
        module, _, cls = BUILT_IN[name].partition(":")
        return getattr(importlib.import_module(module), cls)
    _entry_points_loaded()
    if name in _registered:
        return _registered[name]
    if name in REPLACED:
        raise KeyError(
            f"stage {name!r} is now {REPLACED[name]}; one text_statistics, with all families as it has"
            " them by default, reads a text once"
        )
    raise KeyError(f"no stage is called {name!r}{nearest(name, stage_names())}")


def nearest(word: str, words: list[str]) -> str:
    """A suggestion to end an error message with: '; did you mean x?', or nothing."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


@cache
def adapter(cls: Any) -> pydantic.TypeAdapter:
    """Pydantic's reading of the stage's fields: types, and the docstring under each field."""
    cls.__pydantic_config__ = pydantic.ConfigDict(
        extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True
    )
    return pydantic.TypeAdapter(cls)


def parameters(cls: Any) -> dict[str, dict[str, Any]]:
    """JSON Schema of each parameter of a stage: type, default, description."""
    return adapter(cls).json_schema().get("properties", {})


def library_versions(libraries: tuple[str, ...]) -> dict[str, str]:
    """Versions of what can change a stage's output: distributions, and "unicodedata", Python's own."""
    missing = [name for name in libraries if name != "unicodedata" and not _is_installed(name)]
    if missing:
        raise ValueError(f"{missing[0]} is not installed: run `make install` (or pip install {missing[0]})")
    return {
        name: unicodedata.unidata_version if name == "unicodedata" else importlib.metadata.version(name)
        for name in sorted(libraries)
    }


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
