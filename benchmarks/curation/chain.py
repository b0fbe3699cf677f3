"""WARC to token shards against datatrove: ``python -m benchmarks.curation.chain [--wcxb PATH]``.

The same pages, frozen as WARC files, go through our chain (extract, URL rules, the statistics of
Gopher, C4 and FineWeb with their published thresholds, exact and MinHash deduplication, byte-level
BPE) and through datatrove's (the same steps without exact deduplication), each engine in a process of
its own on one core. datatrove gets the first of the pages, as many as it does in a minute or so.
Rates are MB (10^6 bytes) of HTML over CPU seconds; through the engine, over wall seconds of a run
whose driver, Ray and one worker share that core, Ray started before. Nothing is printed if a chain
keeps no document, or if ours keeps other documents through the engine.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import shutil
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
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
# what datatrove needs a minute or so for
PEER_PAGES = 200
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


def measure(corpus: str, table: pa.Table, tokenizer: Path, rounds: int) -> tuple[list[Row], list[str], dict]:
    """Rows of one corpus, what is red, and what each chain did."""
    table = table.take(np.random.default_rng(1).permutation(table.num_rows))
    folder = CACHE / f"chain-{corpus}"
    sizes = {
        "all": write_warcs(table, folder / "all"),
        "some": write_warcs(table.slice(0, PEER_PAGES), folder / "some"),
        "warm": write_warcs(table.slice(0, 10), folder / "warm"),
    }
    given = {"tokenizer": str(tokenizer)}
    did: dict[str, dict] = {}
    rates: dict[str, dict[str, float]] = {}
    with Process("benchmarks.curation.engines.ours_chain") as process:
        process.ask("bare", warcs=str(folder / "warm"), **given)
        for way in ("bare", "engine"):
            for _ in range(rounds):
                progress(f"{corpus}: ours, {way}, {sizes['all']:.0f} MB")
                answer = process.ask(way, warcs=str(folder / "all"), **given)
                value = answer.value
                rate = {
                    "cpu": sizes["all"] / answer.cpu,
                    "wall": sizes["all"] / value.pop("wall", answer.wall),
                }
                best = rates.setdefault(f"ours, {way}", rate)
                if rate["wall"] >= best["wall"]:
                    rates[f"ours, {way}"], did[f"ours, {way}"] = rate, value
    for name, arguments in PEERS.items():
        with Process(f"benchmarks.curation.engines.datatrove_chain {arguments}", "chain") as process:
            paths = {"tokenizer": str(tokenizer / "tokenizer.json"), "end_token": END}
            process.ask("run", warcs=str(folder / "warm"), **paths)
            progress(f"{corpus}: {name}, {sizes['some']:.0f} MB")
            answer = process.ask("run", warcs=str(folder / "some"), **paths)
            rates[name] = {"cpu": sizes["some"] / answer.cpu, "wall": sizes["some"] / answer.wall}
            did[name] = answer.value
    rows = []
    for name, rate in rates.items():
        rows.append(Row(f"{corpus}, {name}", round(rate["cpu"], 3), "MB/s of CPU"))
        rows.append(Row(f"{corpus}, {name}", round(rate["wall"], 3), "MB/s of wall"))
    for way in ("bare", "engine"):
        for name in PEERS:
            ours, theirs = rates[f"ours, {way}"]["wall"], rates[name]["wall"]
            label = f"{corpus}, ours, {way}, against {name}"
            rows.append(Row(label, round(ours, 2), "MB/s of wall", f"{theirs:.3g} MB/s", ours / theirs))
    kept = {way: did[f"ours, {way}"]["kept"] for way in ("bare", "engine")}
    red = [] if kept["bare"] == kept["engine"] else [f"{corpus}: ours keeps {kept}"]
    red += [f"{corpus}: ours, {way}, keeps nothing" for way, count in kept.items() if not count]
    return rows, red, did


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
