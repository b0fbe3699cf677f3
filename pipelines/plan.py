"""From nodes to work items: fused chains, fingerprints, and the items of each node.

A unit is what is read once and written once: a single node, or a chain of row-local nodes fused
into one. Its fingerprint is SHA-256 over stages, versions, parameters, library versions, content
of its inputs and the run's seed: never over a path, a host, a time or a number of workers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines import registry
from pipelines.config import Dag, Node
from pipelines.dataset import SCHEMA_VERSION, Commit, Manifest, fingerprint, read_commits
from pipelines.phase_files import table_names
from pipelines.storage import Folder


@dataclass(frozen=True)
class Unit:
    """One or more nodes run as one; it is named, and its dataset is named, by the last of them."""

    nodes: tuple[Node, ...]

    @property
    def name(self) -> str:
        return self.nodes[-1].name

    @property
    def last(self) -> Node:
        return self.nodes[-1]

    @property
    def shape(self) -> str:
        return self.last.shape

    @property
    def main_input(self) -> str:
        """The node whose shards this unit goes through, "" for a source."""
        return next(iter(self.nodes[0].inputs.values()), "")

    @property
    def sources(self) -> list[str]:
        """Every node whose dataset this unit reads."""
        inside = {node.name for node in self.nodes}
        names = [name for node in self.nodes for name in node.inputs.values()]
        return [name for name in dict.fromkeys(names) if name not in inside]

    @property
    def determinism(self) -> str:
        order = ("exact", "seeded", "recorded")
        return max((node.step.determinism for node in self.nodes), key=order.index)


def units(dag: Dag, until: str | None = None) -> list[Unit]:
    """The DAG as units, inputs first. ``until``: that node and what it needs."""
    wanted = _ancestors(dag, until) if until else set(dag.nodes)
    chains: dict[str, list[Node]] = {}
    for node in dag.nodes.values():
        if node.name not in wanted:
            continue
        before = next(iter(node.inputs.values()), "")
        users = [user for user in dag.consumers(before) if user.name in wanted] if before else []
        fuse = (
            node.shape == "map"
            and before in chains
            and len(users) == 1
            and dag.nodes[before].shape == "map"
            and not dag.nodes[before].materialize
        )
        chains[node.name] = [*chains.pop(before), node] if fuse else [node]
    return [Unit(tuple(chain)) for chain in chains.values()]


def _ancestors(dag: Dag, name: str) -> set[str]:
    found = {name}
    for source in dag.nodes[name].inputs.values():
        found |= _ancestors(dag, source)
    return found


def _describe(node: Node) -> dict:
    step = node.step
    return {
        "stage": step.stage,
        "version": step.version,
        "params": step.identity() if hasattr(step, "identity") else node.params,
        "libraries": registry.library_versions(step.libraries),
    }


@dataclass
class Plan:
    """A unit with everything its items depend on known."""

    unit: Unit
    fingerprint: str
    annotated: str | None
    dataset: Folder
    inputs: dict[str, Manifest]
    input_folders: dict[str, Folder]
    steps: list[dict]
    items: list[dict] = field(default_factory=list)

    @property
    def input_fingerprints(self) -> dict[str, str]:
        return {name: manifest.content_fingerprint for name, manifest in self.inputs.items()}


def make_plan(
    unit: Unit,
    dag: Dag,
    store: Folder,
    inputs: dict[str, Manifest],
    folders: dict[str, Folder],
    freeze: bool = True,
) -> Plan:
    """The plan of a unit whose inputs are complete (or accepted with a gap), and freeze its items."""
    check_columns(unit, inputs)
    unit = _sized(unit, inputs)
    steps = [_describe(node) for node in unit.nodes]
    common = {
        "inputs": {name: manifest.content_fingerprint for name, manifest in inputs.items()},
        "seed": dag.seed,
        "keep_dropped": unit.last.keep_dropped,
    }
    whole = fingerprint({**common, "steps": steps})
    annotated = None
    if unit.last.stage == "decide" and all(n.stage != "decide" for n in unit.nodes[:-1]):
        annotated = fingerprint({**common, "steps": steps[:-1]})
    dataset = store / f"{unit.name}-{whole[:12]}"
    plan = Plan(unit, whole, annotated, dataset, inputs, folders, steps)
    frozen = dataset.read_json("plan.json")
    if frozen is None and not freeze:
        return plan
    if frozen is None:
        items = first_items(plan)
        body = {"fingerprint": whole, "steps": steps, **common, "items": items}
        dataset.put_if_absent("plan.json", _pretty(body))
        frozen = dataset.read_json("plan.json")
    assert frozen is not None
    plan.items = frozen["items"]
    return plan


def _sized(unit: Unit, inputs: dict[str, Manifest]) -> Unit:
    """The unit with its stage fitted to the number of rows, where it asks for that."""
    node = unit.last
    if unit.shape != "shuffle" or not hasattr(node.step, "sized"):
        return unit
    rows = sum(shard["rows"] for shard in inputs[unit.main_input].shards)
    return Unit((*unit.nodes[:-1], replace(node, step=node.step.sized(rows))))


def _pretty(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def check_columns(unit: Unit, inputs: dict[str, Manifest]) -> None:
    """Raise ValueError unless the columns that each stage needs are there when its turn comes."""
    if not unit.main_input or inputs[unit.main_input].kind != "documents":
        return
    schema = inputs[unit.main_input].schema
    columns = set(schema)
    for node in unit.nodes:
        step = node.step
        needs = step.columns() if hasattr(step, "columns") else getattr(step, "needs", ())
        for column in sorted(needs):
            if columns and column not in columns:
                near = registry.nearest(column, sorted(columns))
                raise ValueError(
                    f"node {node.name!r} (stage {node.stage!r}) needs the column {column!r}, which"
                    f" {unit.main_input!r} does not give{near} (columns: {', '.join(sorted(columns))})"
                )
        columns |= set(getattr(step, "adds", {}))


def first_items(plan: Plan) -> list[dict]:
    """The work items of a unit, or of the first phase of a shuffle."""
    unit = plan.unit
    if unit.shape == "source":
        listed = unit.last.step.items()
        return [
            _item(plan, f"i{number:05d}", {"args": args}, {**args, "path": None})
            for number, args in enumerate(listed)
        ]
    if unit.shape == "fit":
        return [_item(plan, "fit", {}, None)]
    shards = plan.inputs[unit.main_input].shards
    prefix = "s"
    if unit.shape == "shuffle":
        name, per = unit.last.step.phases[0]
        prefix = f"{name}-"
        if per == "slices":
            return [
                _item(
                    plan,
                    f"{prefix}{number:05d}",
                    {"slices": [[shards[shard]["file"], start, stop] for shard, start, stop in slices]},
                    [[shards[shard]["content_hash"], start, stop] for shard, start, stop in slices],
                )
                for number, slices in enumerate(unit.last.step.slices(shards))
            ]
    return [
        _item(plan, f"{prefix}{number:05d}", {"shard": number}, shard["content_hash"])
        for number, shard in enumerate(shards)
    ]


def next_items(plan: Plan, phase: int, before: list[Commit]) -> list[dict]:
    """The items of phase ``phase`` of a shuffle: a pure function of the commits of the one before."""
    name, per = plan.unit.last.step.phases[phase]
    done = fingerprint([file.content_hash for commit in before for file in commit.files])
    names = table_names(before)
    if per == "shard":
        shards = plan.inputs[plan.unit.main_input].shards
        is_last = phase == len(plan.unit.last.step.phases) - 1
        named = set(names)
        return [
            _item(plan, f"{name}-{number:05d}", {"shard": number}, [shard["content_hash"], done])
            for number, shard in enumerate(shards)
            if is_last or f"{number:05d}" in named
        ]
    if per == "partition":
        return [_item(plan, f"{name}-{table}", {"name": table}, done) for table in names]
    assert per == "all", per
    return [_item(plan, f"{name}-all", {}, done)]


def _item(plan: Plan, name: str, args: dict, identity: Any) -> dict:
    key = fingerprint({"unit": plan.fingerprint, "item": name, "inputs": identity})
    return {"item": name, "key": key, **args}


def refilter_source(plan: Plan, store: Folder) -> tuple[Folder, dict[str, Commit]] | None:
    """A finished dataset that differs from this plan in ``decide`` alone and kept what it dropped.

    Its rows carry every statistic already, so only the verdict has to be taken again.
    """
    if plan.annotated is None:
        return None
    prefix = f"{plan.unit.name}-"
    for info in store.list():
        if not info.base_name.startswith(prefix):
            continue
        folder = store / info.base_name
        value = folder.read_json("manifest.json")
        if (
            value
            and value.get("schema_version") == SCHEMA_VERSION
            and value["report"].get("annotated") == plan.annotated
            and plan.unit.last.keep_dropped == "text"
        ):
            return folder, read_commits(folder)
    return None
