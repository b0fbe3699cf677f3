"""Checkpoints that a kill at any moment cannot spoil, written beside the training.

checkpoints/step_00000100/{shard-*.safetensors, state.json, _COMPLETE}: every rank writes its part of the
tensors through torch's distributed checkpoint (DCP) in safetensors, so nothing is ever unpickled and any
number of ranks can read it. The marker is written last and holds the SHA-256 of the others; a folder
without it, or that it does not match, is no checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

from sigma_model.training.config import frozen_changes
from sigma_model.training.parallel import World

MARKER = "_COMPLETE"
STATE = "state.json"
FILE_BYTES = 2 << 30

# said at every save and load of one process
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint whose files are what its marker says."""

    path: Path
    state: dict[str, Any]
    """What is no tensor: counters, loader, config, revision."""


class Checkpoints:
    """The checkpoints of a run: at most one is being written, the last ``keep`` are kept."""

    def __init__(self, folder: Path, keep: int, world: World) -> None:
        self.folder = folder
        self.keep = keep
        self.world = world
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Copy ``tensors`` and begin to write the checkpoint of ``step``; all ranks call it.

        Waits for the one before, and raises what that ran into: OSError when the disk is full. The
        checkpoints before stay as they are.
        """
        self.wait()
        target = self.folder / f"step_{step:08d}"
        if self.world.rank == 0 and target.exists():
            shutil.rmtree(target)
        writer = HuggingFaceStorageWriter(
            str(target), fqn_to_index_mapping=_files_of(tensors), save_distributed=True
        )
        # the tensors are copied when this returns
        upload = dcp.async_save(
            tensors,
            storage_writer=writer,
            process_group=self.world.checkpoints,
            no_dist=self.world.checkpoints is None,
        )
        assert isinstance(upload, Future)
        self._writing = self._thread.submit(self._finish, upload, target, json.dumps(state, indent=1))

    def failed(self) -> bool:
        """Whether the checkpoint being written has failed already; wait raises why."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def wait(self) -> None:
        """Until nothing is being written. Raises OSError when the disk was full."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Let what is being written end, well or not."""
        self._thread.shutdown(wait=True)

    def last(self, passed_over: list[str], sound: bool = False) -> Checkpoint | None:
        """The newest complete checkpoint that is not damaged; all ranks call it.

        ``passed_over`` gets a line for each damaged one. ``sound``: only one whose last step was taken.
        """
        for path in reversed(_complete(self.folder)):
            try:
                hashes = json.loads((path / MARKER).read_text())
                found = self._hash(path, sorted(hashes))
                damaged = [name for name in hashes if found[name] != hashes[name]]
            except ValueError:
                damaged = [MARKER]
            if damaged:
                passed_over.append(
                    f"checkpoint {path} is damaged ({', '.join(damaged)}); taking the one before"
                )
                continue
            state = json.loads((path / STATE).read_text())
            if not sound or not state["counters"]["skipped"]:
                return Checkpoint(path, state)
        return None

    def read(self, checkpoint: Checkpoint, tensors: dict[str, torch.Tensor]) -> None:
        """Fill ``tensors`` in place, whatever number of ranks wrote them; all ranks call it."""
        read_tensors(checkpoint.path, tensors, self.world.control)

    def _finish(self, upload: Future, target: Path, state: str) -> None:
        """Wait for the tensors, hash them, write the state and the marker; every rank's own thread."""
        try:
            upload.result()
        except CheckpointException as error:
            if self.world.rank == 0:
                shutil.rmtree(target, ignore_errors=True)
            raise _cause(error) from error
        failure: OSError | None = None
        try:
            if self.world.rank == 0:
                (target / STATE).write_text(state)
                _sync(target / STATE)
        except OSError as error:
            failure = error
        names = sorted(path.name for path in target.iterdir())
        found = self._hash(target, names, self.world.checkpoints)
        if self.world.rank == 0 and failure is None:
            try:
                (target / MARKER).write_text(json.dumps(found))
                _sync(target / MARKER)
                self._clean(target)
            except OSError as error:
                failure = error
        if self.world.checkpoints is not None:
            told = [failure]
            dist.broadcast_object_list(told, src=0, group=self.world.checkpoints)
            failure = told[0]
        if failure is not None:
            raise failure

    def _clean(self, newest: Path) -> None:
        """Drop all but the last complete ones, and what was left unfinished before them."""
        keep = set(_complete(self.folder)[-self.keep :])
        for path in self.folder.glob("step_*"):
            if path < newest and path not in keep:
                # the marker goes first: a half-deleted folder must not look whole
                (path / MARKER).unlink(missing_ok=True)
                shutil.rmtree(path)

    def _hash(
        self, folder: Path, names: list[str], group: dist.ProcessGroup | None = None
    ) -> dict[str, str | None]:
        """SHA-256 by file, None where there is none; each rank hashes its share."""
        group = group or self.world.control
        own = {name: _hash_if_there(folder / name) for name in names[self.world.rank :: self.world.size]}
        if group is None:
            return own
        parts: list[Any] = [None] * self.world.size
        dist.all_gather_object(parts, own, group=group)
        return {name: digest for part in parts for name, digest in part.items()}


def refuse_changes(checkpoint: Checkpoint, config: dict[str, Any]) -> None:
    """Raise ValueError that names the key when ``config`` is not the training of the checkpoint."""
    for key, was, value in frozen_changes(checkpoint.state["config"], config):
        raise ValueError(
            f"checkpoint {checkpoint.path} was trained with {key} = {was!r}, the config now says {value!r}; "
            "restore it, or start afresh with another output folder"
        )


def read_tensors(
    path: Path, tensors: dict[str, torch.Tensor], group: dist.ProcessGroup | None = None
) -> None:
    """Fill ``tensors`` in place from a checkpoint's folder."""
    reader = HuggingFaceStorageReader(str(path))
    dcp.load(tensors, storage_reader=reader, process_group=group, no_dist=group is None)


def find_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in ``folder``, or the newest sound one of the run there. ValueError without one."""
    world, notes = World(torch.device("cpu")), list[str]()
    if (folder / MARKER).is_file():
        one = Checkpoints(folder.parent, 1, world)
        hashes = json.loads((folder / MARKER).read_text())
        if one._hash(folder, sorted(hashes)) != hashes:
            raise ValueError(f"checkpoint {folder} is damaged; take another of its run")
        return Checkpoint(folder, json.loads((folder / STATE).read_text()))
    found = Checkpoints(folder / "checkpoints", 1, world).last(notes)
    if found is None:
        raise ValueError(f"{folder} holds no complete checkpoint; give the output folder of a training, or "
                         "one of its checkpoints/step_*")  # fmt: skip
    return found


def _complete(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"step_*/{MARKER}") if path.stat().st_size)


def _files_of(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """Which file of a rank holds which tensor: DCP builds a file in memory before it writes it."""
    files, number, size = {}, 1, 0
    for name, tensor in tensors.items():
        size += tensor.numel() * tensor.element_size()
        if size > FILE_BYTES:
            number, size = number + 1, tensor.numel() * tensor.element_size()
        files[name] = number
    return files


def _cause(error: CheckpointException) -> BaseException:
    """The first rank's own error: DCP wraps them."""
    causes = [cause for cause, _ in error.failures.values()]
    return next((cause for cause in causes if isinstance(cause, OSError)), causes[0])


def _hash_if_there(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
