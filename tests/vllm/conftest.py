"""One engine for the gate: a tiny Sigma behind ``corpusmill serve``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_server import CORPUSMILL, Server, server
from toy_sigma import write_tiny_sigma

from pipelines.sites import free_ports


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Folder and model of a tiny Sigma with augmented Q, tied embeddings, 8 query, 2 K and 4 V heads."""
    folder = tmp_path_factory.mktemp("models") / "tiny-sigma"
    return folder, write_tiny_sigma(folder)


@pytest.fixture(scope="session")
def served(tiny: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """``corpusmill serve`` of it on a loopback port."""
    (port,) = free_ports(1)
    command = [*CORPUSMILL, "serve", str(tiny[0]), "--port", str(port), "--block-size", "16"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with server(command, f"http://127.0.0.1:{port}", log) as running:
        yield running
