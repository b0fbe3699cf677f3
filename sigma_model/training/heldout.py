"""The held-out loss of each named dataset, over the same sequences each time."""

from __future__ import annotations

import torch

from sigma_model.modeling import SigmaForCausalLM
from sigma_model.training.config import TrainConfig
from sigma_model.training.data import TokenDataset, open_datasets
from sigma_model.training.loader import heldout_batches
from sigma_model.training.packing import IGNORE
from sigma_model.training.parallel import World
from sigma_model.training.sequences import PackedSequences


class HeldOut:
    """The held-out datasets of a config."""

    def __init__(self, config: TrainConfig, train: dict[str, TokenDataset], world: World) -> None:
        """Raises ValueError for a dataset of another tokenizer, and for one that is trained on."""
        self.config = config
        self.world = world
        self.streams = {
            name: _open(config, name, folders, train) for name, folders in config.data.named_heldout.items()
        }

    @torch.no_grad()
    def losses(self, model: SigmaForCausalLM) -> dict[str, float]:
        """Mean cross-entropy by dataset, nats a token; all ranks call it."""
        model.eval()
        found = {name: self._loss(model, stream) for name, stream in self.streams.items()}
        model.train()
        return found

    def _loss(self, model: SigmaForCausalLM, stream: PackedSequences) -> float:
        config, world = self.config, self.world
        count = min(config.eval_sequences, stream.sequences_in_epoch(0))
        micro = config.micro_batch_sequences or max(config.batch_sequences // world.data_size, 1)
        parts = list(heldout_batches(stream, count, micro, world.device))
        sums = torch.zeros(2, dtype=torch.float64, device=world.device)
        for first in range(0, len(parts), world.data_size):
            # with FSDP all ranks must run: one that has nothing left is asked for nothing
            mine = first + world.data_rank
            part = dict(parts[mine] if mine < len(parts) else parts[0])
            if mine >= len(parts):
                part["labels"] = torch.full_like(part["labels"], IGNORE)
            dtype = getattr(torch, config.dtype)
            sums[0] += model.pretraining_loss(**part, dtype=dtype)[0]  # type: ignore[arg-type]
            sums[1] += (part["labels"] != IGNORE).sum()
        total, asked = world.sum_over_data(sums).tolist()
        return total / max(asked, 1)


def _open(
    config: TrainConfig, name: str, folders: list[str], train: dict[str, TokenDataset]
) -> PackedSequences:
    heldout = open_datasets(folders, config.data.verify)
    for other, dataset in train.items():
        if heldout.tokenizer_hash != dataset.tokenizer_hash:
            raise ValueError(
                f"data.heldout was tokenized by {heldout.tokenizer_hash[:12]}, data.train by "
                f"{dataset.tokenizer_hash[:12]}; tokenize both with one tokenizer"
            )
        if heldout.fingerprint == dataset.fingerprint:
            raise ValueError(f"data.heldout is data.train itself ({name!r} is {other!r}): its loss would "
                             "mean nothing; give a dataset of split heldout")  # fmt: skip
    return PackedSequences(
        heldout,
        sequence_length=config.sequence_length,
        seed=0,
        window_tokens=config.data.window_tokens,
        document_masking=config.data.document_masking,
    )
