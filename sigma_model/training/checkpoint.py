"""Checkpoints that a kill at any moment cannot spoil.

checkpoints/step_00000100/{state.pt, config.json, _COMPLETE}: the marker is written last and holds
the SHA-256 of the others; a folder without it, or that it does not match, is no checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from sigma_model.training.config import frozen_changes

MARKER = "_COMPLETE"


def save_checkpoint(
    folder: Path, step: int, state: dict[str, Any], config: dict[str, Any], keep: int
) -> Path:
    """Write the checkpoint of ``step``, then drop all but the last ``keep`` complete ones.

    Raises OSError when the disk is full; the checkpoints before stay as they are.
    """
    target = folder / f"step_{step:08d}"
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    _save(state, target / "state.pt")
    (target / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True))
    hashes = {name: _sync_and_hash(target / name) for name in ("state.pt", "config.json")}
    (target / MARKER).write_text(json.dumps(hashes))
    _sync_and_hash(target / MARKER)
    for path in _complete(folder)[:-keep]:
        # the marker goes first: a half-deleted folder must not look whole
        (path / MARKER).unlink()
        shutil.rmtree(path)
    return target


def load_checkpoint(folder: Path, config: dict[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    """State of the last sound checkpoint (None: start afresh), and notes on what was passed over.

    Raises ValueError that names the key when the config is not that of the checkpoint.
    """
    notes = []
    for path in reversed(_complete(folder)):
        hashes = json.loads((path / MARKER).read_text())
        damaged = [name for name in hashes if _hash_if_there(path / name) != hashes[name]]
        if damaged:
            notes.append(f"checkpoint {path} is damaged ({', '.join(damaged)}); taking the one "
                         "before")  # fmt: skip
            continue
        _refuse_changes(path, json.loads((path / "config.json").read_text()), config)
        return torch.load(path / "state.pt", map_location="cpu", weights_only=True), notes
    return None, notes


def _refuse_changes(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key, was, value in frozen_changes(before, now):
        raise ValueError(
            f"checkpoint {path} was trained with {key} = {was!r}, the config now says {value!r}; "
            "restore it, or start afresh with another output folder"
        )


def _complete(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"step_*/{MARKER}") if path.stat().st_size)


def _save(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch hides the file's own error behind one of its own
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _hash_if_there(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_and_hash(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
