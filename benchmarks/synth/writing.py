"""Documents made of pydoc text, and a rule that writes clean outputs of each recipe from them.

A document is an object's docstring and a section of facts for operators: a command with options, a
path, a URL, a table, settings, numbers with units. Its outputs say the same in other words and other
spelling (backticks, "30s" for "30 seconds", 4096 for 4,096), in the recipe's form.
"""

from __future__ import annotations

import importlib
import inspect
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

_MODULES = """
argparse asyncio base64 bisect calendar codecs collections concurrent.futures configparser contextlib copy
csv datetime decimal difflib email.message enum fileinput fnmatch fractions ftplib functools gettext glob
gzip heapq http.client http.cookiejar imaplib inspect io ipaddress itertools json linecache locale logging
lzma mailbox mimetypes multiprocessing os os.path pathlib pdb pickle pkgutil platform poplib pprint profile
queue random re sched secrets selectors shelve shlex shutil signal smtplib socket socketserver sqlite3 ssl
statistics string struct subprocess tarfile tempfile textwrap threading timeit tokenize traceback types
typing unittest urllib.parse urllib.request uuid warnings wave weakref xml.dom.minidom xml.etree.ElementTree
xmlrpc.client zipfile zoneinfo
"""
# common words and another that fits about as well: enough to be no copy
_PAIRS = """
the:this a:one an:one is:becomes are:become if:when when:whenever and:plus or:else of:from to:towards
in:within return:give returns:gives returned:given value:result values:results object:thing objects:things
string:text used:applied use:apply file:document files:documents function:routine method:routine
should:ought must:has will:shall can:may not:never be:stay by:through with:using that:which this:that
from:out for:towards on:upon it:that as:like at:near all:every each:every any:some new:fresh given:passed
default:usual list:sequence first:initial last:final set:collection name:label number:count raise:throw
raised:thrown create:make see:consult only:just also:too other:another same:identical else:otherwise
"""
_OTHER_WORDS = dict(pair.split(":") for pair in _PAIRS.split())
_OPENINGS = (
    "In practice",
    "As a rule",
    "For operators",
    "Seen from outside",
    "In short",
    "Put differently",
    "On most systems",
    "To be exact",
    "For everyday work",
    "Behind the scenes",
)
_PROBLEMS = (
    "stalls",
    "is slow",
    "gives up too early",
    "writes nothing",
    "keeps old entries",
    "runs out of room",
)


@dataclass(frozen=True)
class Document:
    """A source and the facts that its text states."""

    title: str
    text: str
    sentences: tuple[str, ...]
    command: str
    flags: tuple[str, ...]
    path: str
    url: str
    table: str
    columns: tuple[str, ...]
    seconds: int
    entries: int
    percent: int


def documents(count: int, seed: int = 0) -> list[Document]:
    """So many documents, no two of one object, in a drawn order."""
    found = {}
    for module_name in _MODULES.split():
        module = importlib.import_module(module_name)
        for name in getattr(module, "__all__", None) or dir(module):
            thing = getattr(module, name, None)
            if name.startswith("_") or not (inspect.isfunction(thing) or inspect.isclass(thing)):
                continue
            members = [(name, thing)]
            if inspect.isclass(thing):
                members += [(f"{name}.{key}", value) for key, value in vars(thing).items() if key[0] != "_"]
            for label, member in members:
                doc = inspect.getdoc(member) or ""
                sentences = _sentences(doc)
                if len(sentences) >= 3 and 50 <= len(doc.split()) <= 400:
                    found.setdefault(doc, (module_name, label, sentences))
    draw = random.Random(seed)
    chosen = sorted(found.items(), key=lambda item: item[1][:2])
    draw.shuffle(chosen)
    return [_document(doc, *rest, random.Random(f"{seed} {rest[:2]}")) for doc, rest in chosen[:count]]


def _sentences(doc: str) -> tuple[str, ...]:
    prose = [" ".join(part.split()) for part in doc.split("\n\n") if ">>>" not in part and "::" not in part]
    sentences = [one for part in prose for one in re.split(r"(?<=[.!?])\s+(?=[A-Z])", part)]
    plain = [one for one in sentences if 6 <= len(one.split()) <= 50 and re.search(r"[a-z]{3}", one)]
    return tuple(plain)


def _document(doc: str, module: str, label: str, sentences: tuple[str, ...], draw: random.Random) -> Document:
    stem = re.sub(r"\W|_", "", label).lower()
    camel = stem.capitalize()
    command = f"{module.split('.')[-1]}-{stem}"
    words = [
        "retries",
        "timeout",
        "verbose",
        "limit",
        "output",
        "dry-run",
        "quiet",
        "workers",
        "since",
        "format",
    ]
    flags = tuple(f"--{word}" for word in draw.sample(words, 4))
    path = f"/etc/{module.replace('.', '/')}/{stem}.yaml"
    url = f"https://docs.python.org/3/library/{module}.html"
    table = f"{camel}Events"
    columns = ("TimeGenerated", f"{camel}Id", "DurationMs", "Outcome")
    seconds, entries = draw.randrange(11, 600), draw.randrange(1100, 99000)
    percent = draw.randrange(12, 98)
    text = f"""{doc}

Operation

{label} can be run as `{command}`, with the options {", ".join(flags[:3])} and {flags[3]}. A call such as

    {command} {flags[0]} {draw.randrange(2, 9)} {flags[1]}

waits for {seconds} seconds at most and handles up to {entries:,} entries before it stops. It reads its
settings from {path}, where the keys are retention, interval and endpoint; the interval is {seconds} seconds
unless it is given, and cleaning begins when the disk is {percent}% full. Each run writes a row to the table
{table}, with the columns {", ".join(columns)}; Outcome is "ok" or "failed". More is at {url}.
"""
    return Document(
        label, text, sentences, command, flags, path, url, table, columns, seconds, entries, percent
    )


class Writer:
    """Writes clean outputs of a document; another seed writes others."""

    def __init__(self, document: Document, seed: str) -> None:
        self.of = document
        self.draw = random.Random(seed)

    def sentence(self, number: int) -> str:
        """A sentence of the source in other words."""
        words = self.of.sentences[number % len(self.of.sentences)].rstrip(".").split()
        changed = [_OTHER_WORDS.get(word, word) for word in words]
        # where no word has another, one is added
        for at in range(4, len(changed), 5):
            if changed[at - 4 : at + 1] == words[at - 4 : at + 1]:
                changed[at] = f"then {changed[at]}"
        opening = self.draw.choice(_OPENINGS)
        first = changed[0] if changed[0][1:] != changed[0][1:].lower() else changed[0].lower()
        return f"{opening}, {' '.join([first, *changed[1:]])}."

    def prose(self, count: int) -> str:
        """So many sentences in another order."""
        order = self.draw.sample(range(len(self.of.sentences)), min(count, len(self.of.sentences)))
        return " ".join(self.sentence(number) for number in order)

    def fact(self) -> str:
        """One of the facts for operators, in a spelling of its own."""
        of = self.of
        return self.draw.choice(
            (
                f"A run stops after {self._seconds()} if nothing comes.",
                f"No more than {self._number(of.entries)} entries are taken at a time.",
                f"What is configured lies in `{of.path}`.",
                f"Once the disk reaches {of.percent} %, old entries are cleaned.",
                f"Give `{of.flags[2]}` or **{of.flags[3]}** where the usual way does not fit.",
                f"The manual is found under <{of.url}>.",
                f'Failures have "failed" as their `Outcome` in {of.table}.',
                f"With ({of.flags[0]}) the command `{of.command}` tries again.",
            )
        )

    def _seconds(self) -> str:
        return self.draw.choice((f"{self.of.seconds} seconds", f"{self.of.seconds}s"))

    def _number(self, number: int) -> str:
        return self.draw.choice((f"{number:,}", str(number)))

    def shells(self, count: int) -> list[str]:
        of = self.of
        return self.draw.sample(
            (
                f"{of.command} {of.flags[0]} <count> {of.flags[1]}",
                f"sudo {of.command} {of.flags[2]} | grep failed",
                f"cat {of.path} | grep interval",
                f'if ! {of.command} {of.flags[3]}; then\n  echo "failed"\nfi',
                f'for run in "$@"; do {of.command} {of.flags[1]}; done',
                f"grep retention {of.path}",
            ),
            count,
        )

    def queries(self, count: int) -> list[str]:
        of = self.of
        return self.draw.sample(
            (
                f'{of.table}\n| where Outcome == "failed"\n| summarize failures = count()'
                f" by bin(TimeGenerated, {of.seconds}s)",
                f"{of.table}\n| summarize avg(DurationMs), max(DurationMs) by {of.columns[1]}",
                f"{of.table}\n| where DurationMs > {of.entries}\n| project TimeGenerated, {of.columns[1]}",
                f"let slow = {of.seconds}s;\n{of.table}\n"
                "| extend took = totimespan(DurationMs)\n| where took > slow",
                f"{of.table}\n| summarize arg_max(TimeGenerated, *) by {of.columns[1]}\n"
                "| sort by DurationMs desc",
            ),
            count,
        )

    def data(self, kind: str) -> str:
        of = self.of
        if kind == "json":
            return f'{{"retention": {of.percent}, "interval": {of.seconds}, "endpoint": "{of.url}"}}'
        return f"retention: {of.percent}\ninterval: {of.seconds}s\nendpoint:\n  - {of.url}\n"

    def fence(self) -> str:
        kind = self.draw.choice(("bash", "json", "yaml", "kql"))
        return f"```{kind}\n{self.code(kind).rstrip()}\n```"

    def code(self, kind: str) -> str:
        return self.codes(kind, 1)[0]

    def codes(self, kind: str, count: int) -> list[str]:
        if kind in ("json", "yaml"):
            return [self.data(kind)] * count
        return self.shells(count) if kind == "bash" else self.queries(count)

    # the recipes' forms

    def brief(self) -> str:
        return f"{self.of.title}: {self.prose(3)} {self.fact()} {self.fact()}"

    def plain(self) -> str:
        middle = f"{self.fact()}\n\n{self.fence()}\n\n{self.fact()}"
        return f"{self.of.title}: {self.prose(5)} {middle} {self.prose(2)}"

    def bullets(self) -> str:
        lines = [self.sentence(number) for number in range(len(self.of.sentences))][:5]
        lines += [self.fact() for _ in range(3)]
        self.draw.shuffle(lines)
        return "\n".join(f"- {line}" for line in lines)

    def questions(self) -> str:
        label = self.draw.choice((("Q: ", "A: "), ("**Question:** ", "**Answer:** "), ("### ", "")))
        asked = (
            "What does {} do?",
            "How is {} used?",
            "What is known about {}?",
            "When does {} stop?",
            "Why {}?",
        )
        pairs = [
            f"{label[0]}{question.format(self.of.title)}\n{label[1]}{self.sentence(number)} {self.fact()}"
            for number, question in enumerate(self.draw.sample(asked, 4))
        ]
        return "\n\n".join(pairs)

    def steps(self) -> str:
        return (
            f"The goal is to run `{self.of.command}`. {self.prose(5)}\n\n"
            f"1. {self.fact()}\n\n   ```bash\n   {self.of.command} {self.of.flags[1]}\n   ```\n\n"
            f"2. {self.fact()}\n3. {self.fact()}\n4. {self.fact()}\n\n"
            f"All went well when `{self.of.table}` has a new row."
        )

    def runbook(self) -> str:
        problem = self.draw.choice(_PROBLEMS)
        return (
            f"## Symptom\n\n`{self.of.command}` {problem}. {self.prose(2)}\n\n"
            f"## Diagnosis\n\n{self.fact()}\n\n```kql\n{self.code('kql')}\n```\n\n"
            f"## Fix\n\n{self.sentence(1)}\n\n```bash\n{self.code('bash')}\n```\n\n"
            f"## Verify\n\n{self.fact()} {self.sentence(2)}"
        )

    def table(self) -> str:
        meanings = [self.sentence(at)[:60].rsplit(" ", 1)[0].replace("`", "'") for at in range(4)]
        rows = [f"| `{flag}` | {said} | - |" for flag, said in zip(self.of.flags, meanings, strict=True)]
        head = "| Name | Meaning | Default |\n| --- | --- | --- |\n"
        return f"{self.prose(2)}\n\n{head}" + "\n".join(rows) + f"\n\n{self.fact()} {self.sentence(0)}"

    def explained(self) -> str:
        return (
            f"```bash\n{self.of.command} {self.of.flags[0]}\n```\n\n"
            f"- `{self.of.command}`: {self.sentence(0)}\n"
            f"- `{self.of.flags[0]}`: {self.fact()}\n\n{self.prose(3)}"
        )

    def pairs(self, kind: str) -> str:
        asked = [
            f"Request: {self.draw.choice(_OPENINGS)}, show what happens when {self.of.title} {problem}.\n"
            f"```{kind}\n{code}\n```"
            for problem, code in zip(self.draw.sample(_PROBLEMS, 3), self.codes(kind, 3), strict=True)
        ]
        return "\n\n".join(asked)

    def dialogue(self) -> str:
        said = [f"`{self.of.command}` {self.draw.choice(_PROBLEMS)}. {self.fact()}"]
        said += [
            self.sentence(0),
            self.fact(),
            self.sentence(1),
            self.fact() + " " + self.sentence(2),
            "That was it.",
        ]
        said += ["Then the fix can go out.", self.fact()]
        return "\n".join(f"{('Ana', 'Ben')[at % 2]}: {line}" for at, line in enumerate(said))


FORMS: dict[str, Callable[[Writer], str]] = {
    "compare": Writer.table,
    "distill": Writer.brief,
    "diverse_qa": Writer.questions,
    "explain_cmd": Writer.explained,
    "extract_knowledge": Writer.plain,
    "faq": Writer.questions,
    "incident_dialogue": Writer.dialogue,
    "knowledge_list": Writer.bullets,
    "nl2cmd": lambda writer: writer.pairs("bash"),
    "nl2kql": lambda writer: writer.pairs("kql"),
    "param_table": Writer.table,
    "runbook": Writer.runbook,
    "tutorial": Writer.steps,
    "wiki": Writer.plain,
}
"""By recipe, how its clean output is written."""
