"""Actors that keep what a stage has loaded, a model say, from work item to work item."""

from __future__ import annotations

from typing import Any

from pipelines.work import Task, run_item

OVERLAP = 2  # items at a time in one actor: while one ends, the next keeps the model busy


class Resident:
    """The actor: runs work items as a worker does, and stays."""

    def run(self, task: Task) -> dict:
        return run_item(task)


class Pool:
    """The actors of one node. They start with its first items and end with ``close``."""

    def __init__(self, step: Any, cpus: int):
        import ray

        has_gpus = ray.cluster_resources().get("GPU", 0) > 0
        self.size = getattr(step, "replicas", 1)
        self._actor = ray.remote(Resident).options(
            num_cpus=cpus,
            num_gpus=getattr(step, "gpus", 0) if has_gpus else 0,
            max_concurrency=OVERLAP,
        )
        self._busy: dict[Any, set] = {}

    @property
    def has_room(self) -> bool:
        return len(self._busy) < self.size or any(len(refs) < OVERLAP for refs in self._busy.values())

    @property
    def in_flight(self) -> int:
        return sum(len(refs) for refs in self._busy.values())

    def submit(self, task: Task) -> Any:
        """Run the item on the actor that has least to do. Returns Ray's reference to its result."""
        if len(self._busy) < self.size:
            self._busy[self._actor.remote()] = set()
        actor = min(self._busy, key=lambda actor: len(self._busy[actor]))
        ref = actor.run.remote(task)
        self._busy[actor].add(ref)
        return ref

    def collected(self, ref: Any, spoilt: bool) -> None:
        """An item came back; ``spoilt`` when its actor died or is of no more use, and another takes over."""
        import ray

        for actor, refs in list(self._busy.items()):
            if ref in refs:
                refs.discard(ref)
                if spoilt:
                    # what else was on it comes back as failed, and is not looked for here again
                    ray.kill(actor)
                    del self._busy[actor]

    def close(self) -> None:
        import ray

        for actor in self._busy:
            ray.kill(actor)
        self._busy.clear()
