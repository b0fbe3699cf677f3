"""A frozen crawl of real pages: WARC files made from this interpreter's own documentation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from pipelines.warc import PartWriter

MODULES = """
abc argparse array ast asyncio base64 bisect bz2 calendar cmath codecs collections colorsys
configparser contextlib copy csv ctypes dataclasses datetime decimal difflib dis doctest email enum
fileinput fnmatch fractions ftplib functools getopt getpass gettext glob graphlib gzip hashlib heapq hmac
html http imaplib importlib inspect io ipaddress itertools json keyword linecache locale logging lzma
mailbox marshal math mimetypes mmap multiprocessing netrc numbers operator optparse os pathlib pdb pickle
pickletools pkgutil platform plistlib poplib posixpath pprint profile pstats py_compile queue quopri random
re reprlib resource runpy sched secrets select selectors shelve shlex shutil signal site smtplib socket
socketserver sqlite3 ssl stat statistics string struct subprocess symtable sys sysconfig tabnanny tarfile
tempfile textwrap threading time timeit token tokenize trace traceback tracemalloc types typing unicodedata
unittest urllib.parse urllib.request uuid venv warnings wave weakref webbrowser xml.dom xml.sax zipapp
zipfile zipimport zlib zoneinfo
""".split()  # noqa: SIM905


def write_warcs(folder: Path, parts: int, modules: int = len(MODULES)) -> list[Path]:
    """The pages of ``modules`` modules, as pydoc shows them, in ``parts`` WARC files."""
    pages = folder / "pages"
    pages.mkdir(parents=True)
    names = MODULES[:modules]
    subprocess.run(
        [sys.executable, "-I", "-m", "pydoc", "-w", *names],
        cwd=pages,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    html = sorted(pages.glob("*.html"))
    assert len(html) > 0.9 * modules
    paths = []
    for part in range(parts):
        path = folder / f"part-{part}.warc.gz"
        writer = PartWriter(path, {"software": "CorpusMill tests"})
        for page in html[part::parts]:
            url = f"http://docs.test/{page.name}"
            writer.response(url, 200, [("Content-Type", "text/html; charset=utf-8")], page.read_bytes())
        # the same text under another name, and a page that is not there
        first = html[part].read_bytes()
        writer.response(f"http://docs.test/copy/{part}", 200, [("Content-Type", "text/html")], first)
        writer.response(f"http://docs.test/gone/{part}", 404, [("Content-Type", "text/html")], b"<p>gone</p>")
        writer.close()
        paths.append(path)
    return paths


def write_frozen_dag(folder: Path, warcs: list[Path], until: str = "heldout") -> Path:
    """The quickstart's DAG, read from frozen WARC files, in small."""
    root = Path(__file__).parents[2]
    page: dict[str, Any] = yaml.safe_load((root / "configs" / "quickstart.yaml").read_text())
    nodes = page["nodes"]
    nodes["pages"] = {"stage": "read_warc", "paths": [str(path) for path in warcs]}
    nodes["classifier"]["min_examples"] = 2
    nodes["tokenizer"]["vocab_size"] = 1024
    nodes["model"]["model"] = str(root / "configs" / "model" / "sigma_tiny.yaml")
    nodes["model"]["config"] |= {"steps": 12, "eval_interval": 6, "checkpoint_interval": 4}
    nodes["model"]["config"]["schedule"]["warmup_steps"] = 2
    names = list(nodes)
    page["nodes"] = {name: nodes[name] for name in names[: names.index(until) + 1]}
    page |= {"name": "frozen", "store": str(folder / "store")}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "dag.yaml"
    file.write_text(yaml.safe_dump(page, sort_keys=False))
    return file
