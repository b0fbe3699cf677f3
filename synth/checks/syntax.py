"""Whether fenced code can be read: shell by ``bash -n``, which runs nothing; JSON, YAML, KQL by parsers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from synth.checks.base import Batch, Verdicts
from synth.checks.kql import KqlError, check_kql

_FENCE = re.compile(r"^([ \t]*)```([\w+-]*)[^\n]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^[ \t]*(?:\$|[\w.-]*@[\w.:~-]+[$#]) ", re.MULTILINE)
# <name>, <pod | node> and [options] stand for words; to a shell they are redirections or globs
_PLACEHOLDER = re.compile(r"<[A-Za-z][\w .|/-]*>|\[[A-Za-z-][^\]\n$=]*\](?:\.{3})?")


def shell_problem(code: str) -> str | None:
    """What ``bash -n`` says against ``code``, None for nothing. It reads it and runs none of it."""
    bash = shutil.which("bash")
    if bash is None:
        raise RuntimeError(
            "the check 'syntax' needs bash to read shell code: install it, or switch the check off"
        )
    code = _PLACEHOLDER.sub("word", code)
    try:
        done = subprocess.run(
            [bash, "--norc", "--noprofile", "-n"],
            input=code.encode(errors="replace"),
            capture_output=True,
            env={"PATH": "", "LC_ALL": "C"},
            timeout=10,
        )
    except subprocess.TimeoutExpired:
        return "bash cannot read it in 10 s"
    if done.returncode == 0 and not done.stderr:
        return None
    return done.stderr.decode(errors="replace").partition("\n")[0].removeprefix(f"{bash}: ")


def _console_problem(code: str) -> str | None:
    """A session: where lines have a prompt, only those are commands."""
    if not _PROMPT.search(code):
        return shell_problem(code)
    lines = [line[match.end() :] for line in code.splitlines() if (match := _PROMPT.match(line))]
    return shell_problem("\n".join(lines))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def json_problem(code: str) -> str | None:
    """Why ``code`` is not one JSON text, nor one on each line."""
    try:
        json.loads(code, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        lines = [line for line in code.splitlines() if line.strip()]
        try:
            records = [json.loads(line, parse_constant=_no_constant) for line in lines]
        except (ValueError, RecursionError):
            return str(error)
        return (
            None if len(records) > 1 and all(isinstance(one, dict | list) for one in records) else str(error)
        )
    return None


def yaml_problem(code: str) -> str | None:
    """Why ``code`` is no YAML, or has a key twice; tags are not looked at, no object is made."""
    try:
        documents = list(yaml.compose_all(code, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        return f"line {mark.line + 1}: {getattr(error, 'problem', error)}" if mark else str(error)
    for node in documents:
        if isinstance(node, yaml.ScalarNode) and ":" not in code and "\n" in code.strip():
            return "a text, no mapping or list"
        if (twice := _twice(node)) is not None:
            return f"line {twice.start_mark.line + 1}: the key {twice.value!r} is given twice"
    return None


def _twice(root: yaml.Node) -> yaml.Node | None:
    """A key that its mapping has twice."""
    # by the object: aliases make a graph of it
    todo, met = [root], {id(root)}
    while todo:
        node = todo.pop()
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                    if key.value in seen:
                        return key
                    seen.add(key.value)
            children = [one for pair in node.value for one in pair]
        new = [child for child in children if id(child) not in met]
        met.update(map(id, new))
        todo += new
    return None


def kql_problem(code: str) -> str | None:
    """Why ``code`` is no query of KQL."""
    try:
        check_kql(re.sub(r"<[A-Za-z][\w -]*>", "placeholder", code))
    except KqlError as error:
        return str(error)
    except RecursionError:
        return "nested too deep"
    return None


LANGUAGES: dict[str, Callable[[str], str | None]] = {
    **dict.fromkeys(("bash", "sh", "shell", "zsh"), shell_problem),
    "console": _console_problem,
    "json": json_problem,
    **dict.fromkeys(("yaml", "yml"), yaml_problem),
    **dict.fromkeys(("kql", "kusto"), kql_problem),
}
"""By a fence's language: code to what is wrong with it, or None."""


@dataclass(frozen=True, kw_only=True)
class Syntax:
    """Fenced blocks marked as shell, console, JSON, YAML or KQL can be read as such, and are not empty."""

    check: ClassVar = "syntax"
    adds: ClassVar[dict[str, str]] = {"synth_code_blocks": "int32"}

    def run(self, batch: Batch) -> Verdicts:
        counts = [0] * len(batch.texts)

        def judge(row: int) -> str | None:
            for indent, language, code in _FENCE.findall(batch.texts[row]):
                problem = LANGUAGES.get(language.lower())
                if problem is None:
                    continue
                counts[row] += 1
                # in a list a fence stands further in, and its code with it
                code = re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)
                found = problem(code) if code.strip() else "is empty"
                if found:
                    return f"{language.lower()}: {found}"
            return None

        verdicts = batch.each(judge)
        verdicts.measured = {"synth_code_blocks": counts}
        return verdicts
