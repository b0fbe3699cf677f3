"""datatrove's chain, WARC to token files, as its FineWeb example strings it together.

Left out: language identification, whose model only a model hub has. MinHash's four stages keep their
defaults (14 buckets of 8 hashes of 5-grams), its filter writes straight into the tokenizer. Words and
sentences are spaCy's. The argument names the extractor: "trafilatura" (the default) or "resiliparse".
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

# in the parent, so that the extractors' child processes are ready within their second
import trafilatura  # noqa: F401
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.extractors.base import BaseExtractor
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    URLFilter,
)
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.logging import logger
from resiliparse.extract.html2text import extract_plain_text

from benchmarks.peers import serve


class Resiliparse(BaseExtractor):
    name = "Resiliparse"

    def __init__(self) -> None:
        super().__init__()

    def extract(self, text: str) -> str:
        return extract_plain_text(text, main_content=True, alt_texts=False)


def run(warcs: str, tokenizer: str, end_token: str) -> dict:
    """The whole chain over a folder of WARC files; what each step counted."""
    with tempfile.TemporaryDirectory() as folder:
        kept = f"{folder}/kept"
        config = MinhashConfig()
        steps = [
            WarcReader(warcs),
            URLFilter(use_integrated_lists=False),
            _extractor(),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            C4QualityFilter(filter_no_terminal_punct=False),
            FineWebQualityFilter(),
            JsonlWriter(kept),
        ]
        counts = _execute(folder, "filter", steps)
        sign = MinhashDedupSignature(f"{folder}/signatures", config)
        _execute(folder, "sign", [JsonlReader(kept), sign])
        buckets = MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)
        _execute(folder, "buckets", [buckets], tasks=config.num_buckets)
        cluster = MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config)
        _execute(folder, "cluster", [cluster])
        tokens = DocumentTokenizer(
            f"{folder}/tokens", tokenizer, local_working_dir=f"{folder}/unshuffled", eos_token=end_token
        )
        duplicates = MinhashDedupFilter(f"{folder}/remove")
        return counts | _execute(folder, "tokens", [JsonlReader(kept), duplicates, tokens])


def extract(warcs: str) -> dict:
    """Reading and extraction alone."""
    with tempfile.TemporaryDirectory() as folder:
        return _execute(folder, "extract", [WarcReader(warcs), _extractor()])


def _extractor() -> BaseExtractor:
    return Trafilatura() if sys.argv[1] == "trafilatura" else Resiliparse()


def _execute(folder: str, name: str, steps: list[PipelineStep], tasks: int = 1) -> dict:
    """Run a pipeline as a user does; what each step counted."""
    logs = f"{folder}/logs/{name}"
    LocalPipelineExecutor(steps, tasks=tasks, workers=1, logging_dir=logs).run()
    stats = json.loads(Path(logs, "stats.json").read_text())
    return {step["name"]: step["stats"] for step in stats}


def main() -> None:
    logger.remove()
    serve(run=run, extract=extract)


if __name__ == "__main__":
    main()
