"""Which steps must not move the weights: decided on the device, so that nothing waits for the answer."""

from __future__ import annotations

import torch

from sigma_model.training.config import GuardConfig


class Guard:
    """Judges each step's loss and gradient norm: both finite, and no spike beside the steps before.

    A spike lies more than ``spike_sigma`` standard deviations above the mean of the last ``window``
    steps that were taken (as OLMo-core's skip-step optimizers judge).
    """

    def __init__(self, config: GuardConfig, device: torch.device) -> None:
        self.config = config
        self.history = torch.zeros(2, config.window, device=device)
        self.seen = torch.zeros((), dtype=torch.int64, device=device)
        self._places = torch.arange(config.window, device=device)

    def judge(self, loss: torch.Tensor, grad_norm: torch.Tensor) -> torch.Tensor:
        """float32 scalar, 1 where the step is to be skipped; a step that is not goes into the history."""
        values = torch.stack([loss.detach().float(), grad_norm.detach().float()])
        skip = ~values.isfinite().all()
        if self.config.spike_sigma is not None:
            # a few steps are no measure
            full = self.seen >= self.config.window
            deviation, mean = torch.std_mean(self.history, dim=1)
            skip |= full & (values > mean + self.config.spike_sigma * deviation).any()
            here = (self._places == self.seen % self.config.window) & ~skip
            self.history.copy_(torch.where(here, values[:, None], self.history))
            self.seen += ~skip
        return skip.float()

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps, not copied."""
        return {"history": self.history, "seen": self.seen}
