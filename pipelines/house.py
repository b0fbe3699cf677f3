"""Our five packages have plain names; make sure that what Python finds under them is ours.

``kernels`` is also a package of Hugging Face, and a user may have a folder ``pipelines`` of their own.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

PACKAGES = ("kernels", "filters", "sigma_model", "synth", "pipelines")


class ForeignPackage(ImportError):
    """Python finds somebody else's package under one of our names."""


@cache
def check_house() -> Path:
    """Where our packages lie. Raises ForeignPackage, with the cure, when one of them is not ours."""
    root = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        home = origin.parent.parent if origin else None
        # Ray unpacks each package that it sends to a worker in a folder of its own, side by side
        sent = home is not None and home.name.startswith("_ray_pkg_") and home.parent == root.parent
        if origin is None or not (home == root or sent):
            found = origin.parent if origin else "nothing"
            raise ForeignPackage(
                f"the package {name!r} that Python finds is not CorpusMill's ({found}, ours is in"
                f" {root / name}): run `pip uninstall {name}`, or leave the folder that holds it, or take"
                " it off PYTHONPATH; CorpusMill wants an environment of its own"
            )
    return root
