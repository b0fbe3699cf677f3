"""The optimizers: fused AdamW, or Muon for the matrices inside the blocks and AdamW for the rest."""

from __future__ import annotations

from typing import Any

import torch

from sigma_model.training.config import OptimizerConfig

Groups = list[dict[str, torch.nn.Parameter]]


class Optimizers:
    """One step over all parameters, or none, as a flag on the device says."""

    def __init__(self, groups: Groups, config: OptimizerConfig) -> None:
        """``groups``: parameters by name, each group of one kind (see parallel.parameters_by_mesh)."""
        self.groups = groups
        matrices: Groups = []
        rest = groups
        if config.kind == "muon":
            if not hasattr(torch.optim, "Muon"):
                raise ValueError(f"optimizer.kind = muon, but torch {torch.__version__} has no Muon; it "
                                 "came with 2.9: update torch, or write adamw")  # fmt: skip
            matrices = [{n: p for n, p in group.items() if _is_inner_matrix(n, p)} for group in groups]
            rest = [{n: p for n, p in group.items() if not _is_inner_matrix(n, p)} for group in groups]
        decay, betas = config.weight_decay, (config.beta1, config.beta2)
        split: list[dict[str, Any]] = []
        for group in rest:
            # norms are not drawn to zero
            split += [
                {"params": [p for p in group.values() if p.dim() >= 2], "weight_decay": decay},
                {"params": [p for p in group.values() if p.dim() < 2], "weight_decay": 0.0},
            ]
        split = [group for group in split if group["params"]]
        self.adamw = torch.optim.AdamW(split, config.learning_rate, betas, config.eps, fused=True)
        self.muon = None
        inner = [p for group in matrices for p in group.values()]
        if inner:
            # scaled so that AdamW's learning rate fits both
            self.muon = torch.optim.Muon(
                inner, config.learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
            )

    def step(self, learning_rate: float, skip: torch.Tensor) -> None:
        """Update the weights and drop the gradients; where ``skip`` (float32, 0 or 1) is 1, nothing moves.

        AdamW reads the flag on the device. Muon has no such way: there the host waits for it.
        """
        for optimizer in filter(None, (self.adamw, self.muon)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
        # torch's own switch, made for gradient scaling
        self.adamw.grad_scale, self.adamw.found_inf = None, skip  # type: ignore[attr-defined]
        self.adamw.step()
        if self.muon is not None and not skip.item():
            self.muon.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for optimizer in filter(None, (self.adamw, self.muon)):
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """Every tensor of the optimizers' state by name, not copied; made first where there is none."""
        if not self.adamw.state:
            self._make_state()
        found = {}
        for group in self.groups:
            for name, parameter in group.items():
                for optimizer in filter(None, (self.adamw, self.muon)):
                    values = optimizer.state.get(parameter, {})
                    found.update({f"{name}.{key}": value for key, value in values.items()})
        return found

    def _make_state(self) -> None:
        """As torch makes it: by a step of no gradient and no length."""
        for group in self.groups:
            for parameter in group.values():
                parameter.grad = torch.zeros_like(parameter)
        for optimizer in filter(None, (self.adamw, self.muon)):
            for part in optimizer.param_groups:
                part["lr"] = 0.0
        self.adamw.grad_scale, self.adamw.found_inf = None, None  # type: ignore[attr-defined]
        self.adamw.step()
        if self.muon is not None:
            self.muon.step()
        self.zero_grad()


def _is_inner_matrix(name: str, parameter: torch.nn.Parameter) -> bool:
    return parameter.dim() == 2 and ".layers." in name
