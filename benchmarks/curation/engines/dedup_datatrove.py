"""datatrove's four MinHash stages, one task each, run in this process.

The argument says how words are split, as in the engine datatrove. The last stage hands its documents
to a step that notes their ids: writing them out is left out of its time, as of ours.
"""

from __future__ import annotations

import sys
import tempfile

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
from datatrove.pipeline.readers import ParquetReader

from benchmarks.curation.engines.datatrove import step
from benchmarks.peers import serve


def dedup(folder: str) -> list[str]:
    """The ids that are kept of the Parquet file in ``folder``."""
    kept: list[str] = []

    def note(data, rank: int = 0, world_size: int = 1):
        for document in data:
            kept.append(document.id)
            yield document

    with tempfile.TemporaryDirectory() as work:
        signer = step(sys.argv[1], f"{work}/signatures")
        config = signer.config
        buckets = MinhashDedupBuckets(f"{work}/signatures", f"{work}/buckets", config=config)
        cluster = MinhashDedupCluster(f"{work}/buckets", f"{work}/remove", config=config)
        stages = (
            ([ParquetReader(folder), signer], 1),
            # one task a band is the least it accepts
            ([buckets], config.num_buckets),
            ([cluster], 1),
            ([ParquetReader(folder), MinhashDedupFilter(f"{work}/remove"), note], 1),
        )
        for number, (pipeline, tasks) in enumerate(stages):
            LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{work}/logs/{number}").run()
    return kept


if __name__ == "__main__":
    serve(dedup=dedup)
