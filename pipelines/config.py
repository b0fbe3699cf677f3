"""A DAG as YAML, read by the safe loader and checked before anything runs.

    name: quickstart
    seed: 0
    store: store              # where datasets live, shared by all runs; relative to the YAML's user
    nodes:
      pages:     {stage: crawl, seeds: ["http://127.0.0.1:8411/"]}
      documents: {stage: extract, input: pages}

A node is a stage, its ``input`` (or ``inputs: {name: node}``) and its parameters. ``${env:NAME}``
is the only way in for secrets; we write the placeholder, never the value.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
import yaml

from pipelines import registry
from pipelines.dataset import KINDS

TOP_KEYS = {"name": str, "seed": int, "store": str, "nodes": dict}
KEEP_DROPPED = ("text", "scores", "none")
_ENV = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


class ConfigError(ValueError):
    """A config that cannot run. Lists every mistake with file, line, node and field."""


@dataclass(frozen=True)
class Node:
    """One node: ``step`` is the stage with its parameters, ``params`` what fingerprints and logs see."""

    name: str
    step: Any
    params: dict
    inputs: dict[str, str]
    materialize: bool = False
    keep_dropped: str = "text"
    max_quarantine: float = 0.001
    cpus: int = 1

    @property
    def stage(self) -> str:
        return self.step.stage

    @property
    def shape(self) -> str:
        return self.step.shape


@dataclass(frozen=True)
class Dag:
    """A checked DAG; ``nodes`` in an order in which every input comes before its users."""

    name: str
    seed: int
    store: str
    nodes: dict[str, Node]
    text: str
    file: str
    secrets: dict[str, str] = field(default_factory=dict)

    def redact(self, text: str) -> str:
        """``text`` with every value that came from ${env:NAME} replaced by that placeholder."""
        for value in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(value, self.secrets[value])
        return text

    def consumers(self, name: str) -> list[Node]:
        return [node for node in self.nodes.values() if name in node.inputs.values()]


@dataclass
class _Reader:
    file: str
    lines: dict[tuple, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)

    def error(self, path: tuple, text: str) -> None:
        while path and path not in self.lines:
            path = path[:-1]
        line = self.lines.get(path)
        self.errors.append(f"{self.file}:{line}: {text}" if line else f"{self.file}: {text}")

    def index(self, node: yaml.Node, path: tuple = ()) -> None:
        """Note the line of every key; a key given twice is an error, as YAML itself says."""
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*path, key.value)
                if here in self.lines and key.value != "<<":
                    self.lines[here] = key.start_mark.line + 1
                    self.error(here, f"{'.'.join(map(str, here))} is given twice")
                self.lines[here] = key.start_mark.line + 1
                self.index(value, here)
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                self.lines[(*path, i)] = value.start_mark.line + 1
                self.index(value, (*path, i))


def load(file: str | Path, settings: list[str] | None = None) -> Dag:
    """Read, override by ``settings`` ("nodes.crawl.max_pages=50") and check a DAG. Raises ConfigError."""
    reader = _Reader(str(file))
    try:
        text = Path(file).read_text()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise ConfigError(f"{where}: not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: a DAG is a mapping with the key 'nodes'")
    assert tree is not None
    reader.index(tree)
    for setting in settings or []:
        _apply(setting, value, reader)
    dag = _check(value, reader)
    if reader.errors:
        raise ConfigError("\n".join(reader.errors))
    return dag


def _apply(setting: str, value: dict, reader: _Reader) -> None:
    path, equals, text = setting.partition("=")
    keys = path.split(".")
    if not equals or not path:
        reader.errors.append(f"--set {setting}: write it as path=value, as nodes.crawl.max_pages=50")
        return
    for key in keys[:-1]:
        if not isinstance(value.get(key), dict):
            reader.errors.append(f"--set {setting}: there is no {key!r}" + registry.nearest(key, list(value)))
            return
        value = value[key]
    try:
        value[keys[-1]] = yaml.safe_load(text)
    except yaml.YAMLError:
        reader.errors.append(f"--set {setting}: {text!r} is not YAML: quote it, as 'path=\"value\"'")


def _check(value: dict, reader: _Reader) -> Dag:
    for key in value:
        if key not in TOP_KEYS:
            near = registry.nearest(str(key), list(TOP_KEYS))
            reader.error((key,), f"unknown key {key!r}: known are {', '.join(TOP_KEYS)}{near}")
    for key, kind in TOP_KEYS.items():
        if key in value and not isinstance(value[key], kind):
            reader.error((key,), f"{key} must be a {kind.__name__}, not {value[key]!r}")
    specs = value.get("nodes")
    if not isinstance(specs, dict) or not specs:
        reader.error(("nodes",), "'nodes' must name at least one node")
        specs = {}
    nodes: dict[str, Node] = {}
    for name, spec in specs.items():
        node = _check_node(str(name), spec, specs, reader)
        if node:
            nodes[node.name] = node
    for node in nodes.values():
        _check_kinds(node, nodes, reader)
    ordered = _order(nodes, reader) if not reader.errors else nodes
    redacted = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return Dag(
        name=str(value.get("name", Path(reader.file).stem)),
        seed=value.get("seed", 0),
        store=substitute(value.get("store", "store"), reader, ("store",)),
        nodes=ordered,
        text=redacted,
        file=reader.file,
        secrets=reader.secrets,
    )


def _check_node(name: str, spec: Any, specs: dict, reader: _Reader) -> Node | None:
    here = ("nodes", name)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        reader.error(here, f"node {name!r}: a name is lower-case letters, digits and _, as 'documents'")
    if not isinstance(spec, dict) or not isinstance(spec.get("stage"), str):
        reader.error(here, f"node {name!r}: must be a mapping with the key 'stage'")
        return None
    try:
        cls = registry.stage_class(spec["stage"])
    except KeyError as error:
        reader.error((*here, "stage"), f"node {name!r}, field 'stage': {error.args[0]}")
        return None
    inputs = _check_inputs(name, spec, cls, specs, reader)
    options = {key: spec[key] for key in registry.NODE_KEYS[3:] if key in spec}
    _check_options(name, options, reader)
    params = {key: item for key, item in spec.items() if key not in registry.NODE_KEYS}
    known = list(registry.parameters(cls))
    for key in [key for key in params if key not in known]:
        near = registry.nearest(str(key), known + list(registry.NODE_KEYS))
        reader.error(
            (*here, key),
            f"node {name!r}, field {key!r}: stage {cls.stage!r} has no such parameter{near}"
            if near
            else f"node {name!r}, field {key!r}: stage {cls.stage!r} has no such parameter"
            f" (it has: {', '.join(known) or 'none'})",
        )
    params = {key: item for key, item in params.items() if key in known}
    step = _build(name, cls, params, here, reader)
    if step is None:
        return None
    if "cpus" not in options:
        options["cpus"] = getattr(cls, "cpus", 1)
    # what the fingerprint sees: defaults filled in, secrets still as placeholders
    dumped = registry.adapter(cls).dump_python(step, mode="json")
    dumped.update({key: item for key, item in params.items() if _ENV.search(str(item))})
    return Node(name=name, step=step, params=dumped, inputs=inputs, **options)


def _build(name: str, cls: Any, params: dict, here: tuple, reader: _Reader) -> Any | None:
    filled = {key: substitute(item, reader, (*here, key)) for key, item in params.items()}
    try:
        return registry.adapter(cls).validate_python(filled)
    except pydantic.ValidationError as error:
        for problem in error.errors():
            path = tuple(str(part) if isinstance(part, str) else part for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            where = f", field {'.'.join(map(str, path))!r}" if path else ""
            reader.error((*here, *path), f"node {name!r}{where}: {message}")
        return None


def _check_options(name: str, options: dict, reader: _Reader) -> None:
    here = ("nodes", name)
    if options.get("keep_dropped", "text") not in KEEP_DROPPED:
        reader.error(
            (*here, "keep_dropped"),
            f"node {name!r}, field 'keep_dropped': one of {', '.join(KEEP_DROPPED)}",
        )
    if not isinstance(options.get("materialize", False), bool):
        reader.error((*here, "materialize"), f"node {name!r}, field 'materialize': true or false")
    rate = options.get("max_quarantine", 0.0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        reader.error((*here, "max_quarantine"), f"node {name!r}, field 'max_quarantine': a share from 0 to 1")
    cpus = options.get("cpus", 1)
    if isinstance(cpus, bool) or not isinstance(cpus, int) or cpus < 1:
        reader.error((*here, "cpus"), f"node {name!r}, field 'cpus': a whole number from 1")


def _check_inputs(name: str, spec: dict, cls: Any, specs: dict, reader: _Reader) -> dict[str, str]:
    here = ("nodes", name)
    if "input" in spec and "inputs" in spec:
        reader.error((*here, "inputs"), f"node {name!r}: give 'input' or 'inputs', not both")
    wanted = list(cls.inputs)
    given = spec.get("inputs", {})
    if "input" in spec:
        given = {wanted[0] if wanted else "input": spec["input"]}
    if not isinstance(given, dict) or not all(isinstance(item, str) for item in given.values()):
        reader.error((*here, "inputs"), f"node {name!r}, field 'inputs': a mapping of input to node name")
        return {}
    for key, source in given.items():
        path = (*here, "input") if "input" in spec else (*here, "inputs", key)
        if key not in wanted:
            near = registry.nearest(str(key), wanted)
            takes = f"stage {cls.stage!r} takes {', '.join(wanted) if wanted else 'no input'}"
            reader.error(path, f"node {name!r}, input {key!r}: {takes}{near}")
        if source not in specs:
            near = registry.nearest(source, [str(item) for item in specs])
            reader.error(path, f"node {name!r}, input {key!r}: no node is called {source!r}{near}")
    for key in wanted:
        if key not in given and key not in getattr(cls, "optional", ()):
            reader.error(here, f"node {name!r}: input {key!r} ({cls.inputs[key]}) is missing")
    # in the stage's order: the first is the one whose shards are gone through
    return {key: given[key] for key in [*wanted, *given] if key in given}


def _check_kinds(node: Node, nodes: dict[str, Node], reader: _Reader) -> None:
    for key, source in node.inputs.items():
        wanted = node.step.inputs.get(key)
        if source in nodes and wanted is not None and nodes[source].step.output != wanted:
            reader.error(
                ("nodes", node.name),
                f"node {node.name!r}, input {key!r}: needs {wanted}, but {source!r} (stage"
                f" {nodes[source].stage!r}) gives {nodes[source].step.output}",
            )
    assert node.step.output in KINDS


def _order(nodes: dict[str, Node], reader: _Reader) -> dict[str, Node]:
    """Inputs first; names a cycle node by node."""
    ordered: dict[str, Node] = {}
    trail: list[str] = []

    def visit(name: str) -> None:
        if name in ordered or reader.errors:
            return
        if name in trail:
            cycle = " -> ".join([*trail[trail.index(name) :], name])
            reader.error(("nodes", name), f"the nodes form a cycle: {cycle}")
            return
        trail.append(name)
        for source in nodes[name].inputs.values():
            visit(source)
        trail.pop()
        ordered[name] = nodes[name]

    for name in nodes:
        visit(name)
    return ordered


def substitute(value: Any, reader: _Reader, path: tuple) -> Any:
    """Fill in ${env:NAME} in strings, at any depth; a variable that is not set is an error."""
    if isinstance(value, dict):
        return {key: substitute(item, reader, (*path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [substitute(item, reader, (*path, i)) for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match) -> str:
        if match[1] not in os.environ:
            reader.error(path, f"{'.'.join(map(str, path))}: the environment has no {match[1]}: export it")
            return ""
        if os.environ[match[1]]:
            reader.secrets[os.environ[match[1]]] = match[0]
        return os.environ[match[1]]

    return _ENV.sub(fill, value)


def json_schema() -> dict:
    """JSON Schema of a DAG file, for editors: completion and checks as you type."""
    options = {
        "input": {"type": "string", "description": "the node whose dataset this node reads"},
        "inputs": {"type": "object", "description": "input name: node, where there are several"},
        "materialize": {"type": "boolean", "description": "write this node's rows even in a chain"},
        "keep_dropped": {"enum": list(KEEP_DROPPED), "description": "what to keep of dropped rows"},
        "max_quarantine": {"type": "number", "description": "share of rows that may fail (0.001)"},
        "cpus": {"type": "integer", "description": "cores that one work item takes"},
    }
    branches = []
    for name in registry.stage_names():
        schema = registry.adapter(registry.stage_class(name)).json_schema()
        branches.append(
            {
                "description": schema.get("description", ""),
                "properties": {"stage": {"const": name}, **options, **schema.get("properties", {})},
                "required": ["stage", *schema.get("required", [])],
                "additionalProperties": False,
            }
        )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "CorpusMill DAG",
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "seed": {"type": "integer", "default": 0},
            "store": {"type": "string", "default": "store"},
            "nodes": {"type": "object", "additionalProperties": {"oneOf": branches}},
        },
        "required": ["nodes"],
        "additionalProperties": False,
    }
