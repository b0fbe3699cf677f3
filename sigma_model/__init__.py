"""The model of arXiv 2501.13629: config, modeling, tokenizer, training/ (the loop), evaluation/.
Runs with torch, triton, numpy, numba, pyarrow, safetensors and transformers alone.
Imports no Ray, no vLLM outside vllm_plugin/, no datatrove, no pydantic; may import kernels.
Config keys and state-dict names are fixed here; every checkpoint ever written keeps loading.
The tables and equations cited in docstrings are those of the paper."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_HOMES = {
    "SigmaConfig": "sigma_model.config",
    "SigmaModel": "sigma_model.modeling",
    "SigmaForCausalLM": "sigma_model.modeling",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: only who asks for a class pays
    if name not in _HOMES:
        raise AttributeError(f"module 'sigma_model' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def _register_config(auto: ModuleType) -> None:
    from sigma_model.config import SigmaConfig

    auto.AutoConfig.register(SigmaConfig.model_type, SigmaConfig)


def _register_model(auto: ModuleType) -> None:
    from sigma_model.config import SigmaConfig
    from sigma_model.modeling import SigmaForCausalLM, SigmaModel

    auto.AutoModel.register(SigmaConfig, SigmaModel)
    auto.AutoModelForCausalLM.register(SigmaConfig, SigmaForCausalLM)


_AUTO = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_model,
}


class _RegisterWithAuto:
    """Import hook: puts Sigma into transformers' Auto classes when those are first imported."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _AUTO else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_then_register(module: ModuleType) -> None:
            execute(module)
            _AUTO[name](module)

        spec.loader.exec_module = execute_then_register  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _RegisterWithAuto)
for _name, _register in _AUTO.items():
    if _name in sys.modules:
        _register(sys.modules[_name])
