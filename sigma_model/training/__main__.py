"""``python -m sigma_model.training CONFIG [--set key=value] [--progress plain|json]``."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import time
from typing import Any

from sigma_model.training.config import read_config

DONE, BAD_CONFIG, DISK_FULL, DIVERGED, INTERRUPTED = 0, 2, 4, 5, 130
SECONDS_BETWEEN_LINES = 3.0


class PlainProgress:
    """A line every few seconds, and one for every evaluation; on a terminal the last line is live."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self.first: tuple[float, int] | None = None
        self.printed = 0.0

    def __call__(self, row: dict[str, Any]) -> None:
        now = time.monotonic()
        self.first = self.first or (now, row["step"])
        keep = "heldout_loss" in row or row["step"] == row["steps"]
        pause = SECONDS_BETWEEN_LINES / (10 if self.live else 1)
        if not keep and now - self.printed < pause:
            return
        self.printed = now
        text = f"step {row['step']}/{row['steps']}"
        if row.get("loss") is not None:
            text += f"  loss {row['loss']:.4f}  {row['tokens_per_s']:,.0f} tokens/s"
        if row.get("mfu") is not None:
            text += f"  MFU {row['mfu']:.1%}"
        if row.get("skipped"):
            text += "  skipped"
        if row.get("heldout_loss") is not None:
            text += f"  held-out {row['heldout_loss']:.4f}"
        done = row["step"] - self.first[1]
        if done:
            left = (now - self.first[0]) / done * (row["steps"] - row["step"])
            text += f"  {left:.0f} s left"
        if self.live:
            # the line before may have been longer
            text = f"\x1b[2K{text}"
        print(text, end="\n" if keep or not self.live else "\r", flush=True)


def print_json(row: dict[str, Any]) -> None:
    """One JSON object a step, for a parent process."""
    keys = ("step", "steps", "loss", "heldout_loss", "tokens_per_s", "skipped")
    print(json.dumps({key: row[key] for key in keys if key in row}), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 done, 2 config, 4 disk, 5 diverged, 130 stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m sigma_model.training",
        description="Train a Sigma on token shards. The same command again goes on from the last checkpoint.",
        epilog="Under torchrun every rank runs it. "
        "Exit codes: 0 done, 2 config, 4 disk full, 5 diverged, 130 stopped. "
        "example: python -m sigma_model.training configs/train/sigma_1_5b.yaml "
        "--set steps=1000 --set optimizer.learning_rate=2e-4",
    )
    parser.add_argument("config", help="YAML file; configs/train/ holds examples")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="replace one key of the config")  # fmt: skip
    parser.add_argument("--progress", choices=("plain", "json"), default="plain",
                        help="what to print while training")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        config = read_config(options.config, options.set)
        # torch takes seconds to import: a wrong config is told at once
        from transformers.utils import logging

        from sigma_model.training.loop import Interrupted, train

        logging.disable_progress_bar()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_CONFIG
    try:
        report = train(config, PlainProgress() if options.progress == "plain" else print_json)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_CONFIG
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return DIVERGED
    except Interrupted as error:
        print(str(error), file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            print(f"error: cannot write to {config.output}: {error}; give another output folder",
                  file=sys.stderr)  # fmt: skip
            return BAD_CONFIG
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: no room in {config.output}: {error}; free some and run the same command "
              "again", file=sys.stderr)  # fmt: skip
        return DISK_FULL
    if options.progress == "plain" and os.environ.get("RANK", "0") == "0":
        print(json.dumps(report, indent=1))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
