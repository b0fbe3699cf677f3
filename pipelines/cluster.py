"""Ray: a local cluster of our own, or one that the user names. Never one we happen to find."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
from typing import Any

from pipelines import reaper

OBJECT_STORE_BYTES = 256 << 20  # bulk data goes through storage, not through the object store
_reaper: subprocess.Popen | None = None


def prepare(address: str | None) -> None:
    """Set Ray's environment. Before anything imports ray, which reads it then: a user's stage may."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        # RAY_ADDRESS may point to another program's cluster
        os.environ.pop("RAY_ADDRESS", None)
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))


def connect(address: str | None, workers: int | None) -> int:
    """Connect to ``address``, or start a local Ray with ``workers`` cores. Returns the cores there are.

    A local Ray has token authentication, no dashboard and no usage statistics, and ends with us.
    """
    global _reaper
    prepare(address)
    import ray

    if ray.is_initialized():
        return int(ray.cluster_resources().get("CPU", 1))
    common: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "namespace": "corpusmill",
    }
    if address is not None:
        _check_reachable(address)
    try:
        if address is None:
            _reaper = reaper.watch(os.path.dirname(ray.__file__))
            ray.init(
                address="local",
                num_cpus=workers or len(os.sched_getaffinity(0)),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **common,
            )
        else:
            ray.init(address=address, runtime_env=_packages(), **common)
    except ConnectionError as error:
        raise ConnectionError(f"no Ray cluster answers at {address}: {error}") from error
    return int(ray.cluster_resources().get("CPU", 1))


def _check_reachable(address: str) -> None:
    """Raise ConnectionError at once where Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise ConnectionError(f"no Ray cluster answers at {address}: {error}") from error


def _packages() -> dict:
    """Our packages, sent to the workers of a cluster, in front on their sys.path."""
    from pipelines.house import PACKAGES, check_house

    root = check_house()
    return {"py_modules": [str(root / name) for name in PACKAGES]}


def disconnect() -> None:
    """Leave the cluster; a local one ends."""
    global _reaper
    import ray

    ray.shutdown()
    if _reaper is not None:
        assert _reaper.stdin is not None
        _reaper.stdin.close()
        _reaper.wait()
        _reaper = None
