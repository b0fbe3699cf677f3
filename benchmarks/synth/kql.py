"""Our grammar of KQL beside the language's own parser: ``python -m benchmarks.synth.kql [FOLDER ...]``.

The peer is Microsoft's parser as npm brings it, run with node; it is fetched to ``.peers/`` when first
used. Both are asked whether a text is a query: queries of ours, the same broken in ten ways, and the
.kql and .txt files of the folders. Every text on which they differ is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
from collections import Counter
from pathlib import Path

from benchmarks.peers import ROOT
from benchmarks.results import Row, publish
from benchmarks.synth.queries import QUERIES, breakers
from synth.checks.kql import KqlError, check_kql

PACKAGE, VERSION = "@kusto/language-service-next", "12.4.1"
_ASK = """
const fs = require('fs'), folder = process.argv[1];
for (const name of ['bridge.min.js', 'Kusto.Language.Bridge.min.js'])
    (0, eval)(fs.readFileSync(folder + '/' + name, 'utf8'));
const queries = JSON.parse(fs.readFileSync(0, 'utf8'));
console.log(JSON.stringify(queries.map((query) => {
    const found = globalThis.Kusto.Language.KustoCode.Parse(query).GetSyntaxDiagnostics();
    return found.Count ? found.getItem(0).Message : null;
})));
"""


def peer_folder() -> Path:
    """Where the peer's scripts lie, fetched first if they are not there."""
    home = ROOT / ".peers" / "kql"
    folder = home / "node_modules" / PACKAGE
    if not folder.exists():
        home.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--prefix", home, f"{PACKAGE}@{VERSION}"], check=True)
    return folder


def problems_of_peer(queries: list[str]) -> list[str | None]:
    """What the peer says against each query, None for nothing."""
    command = ["node", "-e", _ASK, str(peer_folder())]
    done = subprocess.run(command, input=json.dumps(queries), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def problem(query: str) -> str | None:
    """What we say against a query."""
    try:
        check_kql(query)
    except KqlError as error:
        return str(error)
    return None


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument(
        "folders", nargs="*", type=Path, help="folders of .kql and .txt files, a query each"
    )
    draw = random.Random(0)
    texts = [("ours, whole", query) for query in QUERIES]
    for name, spoil in breakers().items():
        for query in QUERIES:
            worse = spoil(query, draw)
            if worse is not None and worse != query:
                texts.append((f"ours, {name}", worse))
    for folder in arguments.parse_args().folders:
        files = sorted(file for file in folder.rglob("*") if file.suffix in (".kql", ".txt"))
        texts += [(folder.name, file.read_text(errors="replace")) for file in files]
    counts: Counter[tuple[str, str]] = Counter()
    for (kind, query), theirs in zip(texts, problems_of_peer([query for _, query in texts]), strict=True):
        mine = problem(query)
        verdict = "agree" if (mine is None) == (theirs is None) else "we refuse" if mine else "we accept"
        counts[kind, verdict] += 1
        if verdict != "agree":
            print(f"{kind}, {verdict}: {query.strip()[:200]!r}\n    ours: {mine}\n    the peer's: {theirs}")
    rows = []
    for kind in dict.fromkeys(kind for kind, _ in texts):
        found = {verdict: counts[kind, verdict] for verdict in ("agree", "we refuse", "we accept")}
        alone = f"{found['we refuse']} refused by us, {found['we accept']} by the peer alone"
        of = f"of {sum(found.values())}; {alone}"
        rows.append(Row(f"{kind}: same verdict", found["agree"], "queries", of))
    publish("synth_kql", rows, red=[], versions={PACKAGE: VERSION})


if __name__ == "__main__":
    main()
