"""What tells one model from another: a hash of its files."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

BLOCK, BLOCKS = 1 << 16, 64
_NAMES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "*.bin", "*.gguf")


def folder_revision(folder: Path) -> str:
    """16 hex digits over the model's files: names, sizes, and content.

    Of a file above 4 MiB, 64 blocks of 64 KiB at even distances are read, its first and last among
    them: a training moves every weight, so this tells two checkpoints apart in milliseconds.
    """
    if not folder.is_dir():
        raise ValueError(f"engine.model: {folder} is no folder with a Hugging Face model")
    files = sorted({path for name in _NAMES for path in folder.glob(name) if path.is_file()})
    if not (folder / "config.json").exists():
        raise ValueError(f"engine.model: {folder} holds no config.json, so it is no Hugging Face model")
    return _revision(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=8)
def _revision(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path, size, _ in files:
        digest.update(f"{path.name}:{size};".encode())
        with open(path, "rb") as file:
            if size <= BLOCK * BLOCKS:
                digest.update(file.read())
                continue
            for block in range(BLOCKS):
                file.seek((size - BLOCK) * block // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()
