"""WARC to token shards against datatrove: ``python -m benchmarks.curation.chain [--wcxb PATH]``.

The same pages, frozen as WARC files, go through our chain (extract, URL rules, the statistics of
Gopher, C4 and FineWeb with their published thresholds, exact and MinHash deduplication, byte-level
BPE) and through datatrove's (the same steps without exact deduplication), each in a process of its own
on one core; datatrove gets the first of the pages. Rates are MB (10^6 bytes) of HTML over CPU seconds of
the fastest round. Through the engine these are the seconds of driver, Ray and one worker together, after
a small run that has warmed the worker; Ray's start is not among them. "After extraction" leaves out what
reading and extraction alone take. Nothing is printed if our two ways keep other documents, or if a chain
keeps none.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from benchmarks.corpora import CACHE, packages, pages, progress, texts, wcxb
from benchmarks.peers import Process, versions
from benchmarks.results import Row, publish, versions_of
from kernels.text.bpe_split import PATTERNS

END = "<|endoftext|>"
VOCAB_SIZE = 32_768
PAGES_PER_WARC = 500
# what datatrove needs half a minute for
PEER_MB = 20
# enough that every chain keeps some
WARM_PAGES = 100
DATE = "2026-01-01T00:00:00Z"
PEERS = {
    "datatrove with resiliparse": "resiliparse",
    "datatrove with trafilatura, its default": "trafilatura",
}


def write_warcs(table: pa.Table, folder: Path) -> float:
    """Freeze pages as WARC files of PAGES_PER_WARC each; MB of HTML in them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for start in range(0, table.num_rows, PAGES_PER_WARC):
        with (folder / f"{start // PAGES_PER_WARC:05d}.warc.gz").open("wb") as file:
            writer = WARCWriter(file, gzip=True, warc_version="1.1")
            for page in table.slice(start, PAGES_PER_WARC).to_pylist():
                writer.write_record(_record(writer, page))
    return table["html"].nbytes / 1e6


def _record(writer: WARCWriter, page: dict):
    url = f"http://{page['site']}.example/{page['path']}"
    http = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
    identity = uuid.UUID(bytes=hashlib.blake2b(url.encode(), digest_size=16).digest())
    # the payload's type is named as Common Crawl does it, which saves datatrove a guess
    headers = {
        "WARC-Record-ID": f"<urn:uuid:{identity}>",
        "WARC-Date": DATE,
        "WARC-Identified-Payload-Type": "text/html",
    }
    payload = io.BytesIO(page["html"])
    return writer.create_warc_record(url, "response", payload, http_headers=http, warc_headers_dict=headers)


def write_tokenizer(folder: Path) -> Path:
    """A byte-level BPE with GPT-2's pattern, trained on other texts of the corpus; made once."""
    if not (folder / "tokenizer_config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(next(iter(PATTERNS))), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[AddedToken(END, special=True)],
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts(1500, seed=9)["text"].to_pylist(), trainer)
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(f'{{"eos_token": "{END}"}}')
    return folder


@dataclass
class Cost:
    """CPU seconds a MB of HTML: the whole chain, and reading and extraction alone."""

    whole: float
    extraction: float
    did: dict


def measure(corpus: str, table: pa.Table, tokenizer: Path, rounds: int) -> tuple[list[Row], list[str], dict]:
    """Rows of one corpus, what is red, and what each chain did."""
    table = table.take(np.random.default_rng(1).permutation(table.num_rows))
    folder = CACHE / f"chain-{corpus}"
    warm = folder / "warm"
    write_warcs(table.slice(0, WARM_PAGES), warm)
    sizes = np.cumsum(pc.binary_length(table["html"]).to_numpy()) / 1e6
    some = write_warcs(table.slice(0, max(WARM_PAGES, np.searchsorted(sizes, PEER_MB))), folder / "some")
    size = write_warcs(table, folder / "all")
    ours = {way: measure_ours(way, folder, size, tokenizer, rounds) for way in ("bare", "engine")}
    # a worker's items are timed by the wall: what extraction takes is the same by either way
    ours["engine"].extraction = ours["bare"].extraction
    peers = {name: measure_peer(extractor, folder, some, tokenizer) for name, extractor in PEERS.items()}
    rows = []
    for name, peer in peers.items():
        for way, cost in ours.items():
            for part, mine, theirs in (
                ("whole chain", cost.whole, peer.whole),
                ("after extraction", cost.whole - cost.extraction, peer.whole - peer.extraction),
            ):
                label = f"{corpus}, {part}, ours {way}"
                rate = f"{name}: {1 / theirs:.3g} MB/s"
                rows.append(Row(label, round(1 / mine, 1), "MB/s of HTML", rate, theirs / mine))
        bound = ours["bare"].extraction
        label = f"{corpus}, if only extraction took time"
        rate = f"{name}: {1 / peer.whole:.3g} MB/s"
        rows.append(Row(label, round(1 / bound, 1), "MB/s of HTML", rate, peer.whole / bound))
    kept = {way: cost.did["kept"] for way, cost in ours.items()}
    red = [] if kept["bare"] == kept["engine"] else [f"{corpus}: ours keeps {kept}"]
    red += [f"{corpus}: ours, {way}, keeps nothing" for way, count in kept.items() if not count]
    did = {f"ours, {way}": cost.did for way, cost in ours.items()}
    did |= {name: cost.did for name, cost in peers.items()}
    return rows, red, {"MB": round(size, 1), "MB for datatrove": round(some, 1), **did}


def measure_ours(way: str, folder: Path, size: float, tokenizer: Path, rounds: int) -> Cost:
    given = {"warcs": str(folder / "all"), "tokenizer": str(tokenizer)}
    best = Cost(np.inf, np.inf, {})
    with Process("benchmarks.curation.engines.ours_chain") as process:
        if way == "engine":
            given["warm"] = str(folder / "warm")
        else:
            process.ask(way, **{**given, "warcs": str(folder / "warm")})
        for _ in range(rounds):
            progress(f"ours, {way}: {size:.0f} MB of HTML")
            answer = process.ask(way, **given)
            seconds = answer.value.get("cpu", answer.cpu)
            if seconds / size < best.whole:
                best = Cost(seconds / size, answer.value["seconds"]["extract"] / size, answer.value)
    return best


def measure_peer(extractor: str, folder: Path, size: float, tokenizer: Path) -> Cost:
    given = {"tokenizer": str(tokenizer / "tokenizer.json"), "end_token": END}
    with Process(f"benchmarks.curation.engines.datatrove_chain {extractor}", "chain") as process:
        process.ask("run", warcs=str(folder / "warm"), **given)
        progress(f"datatrove, {extractor}: {size:.0f} MB of HTML")
        extraction = process.ask("extract", warcs=str(folder / "some"))
        whole = process.ask("run", warcs=str(folder / "some"), **given)
    return Cost(whole.cpu / size, extraction.cpu / size, whole.value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--wcxb", type=Path, help="Parquet file of WCXB pages, as a second corpus")
    parser.add_argument("--pages", type=int, default=4000, help="documentation pages (4000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often ours has its turn (3)")
    chosen = parser.parse_args()
    corpora = {"documentation": pages(chosen.pages)}
    if chosen.wcxb:
        corpora["WCXB"] = wcxb(chosen.wcxb)
    tokenizer = write_tokenizer(CACHE / "chain-tokenizer")
    rows: list[Row] = []
    red: list[str] = []
    facts = {}
    for corpus, table in corpora.items():
        found, wrong, facts[corpus] = measure(corpus, table, tokenizer, chosen.rounds)
        rows, red = rows + found, red + wrong
    publish(
        "curation_chain",
        rows,
        red=red,
        versions={**versions_of("pyarrow", "Resiliparse", "ray"), **versions("chain")},
        packages=packages(),
        left_out="language identification, in all: datatrove's model lies on a model hub",
        chains=facts,
    )


if __name__ == "__main__":
    main()
