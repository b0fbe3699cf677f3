"""Words that a document may use though its source does not: of shells, of languages, units, numbers."""

from __future__ import annotations

import builtins
import keyword

from synth.checks.kql_words import WORDS as KQL_WORDS

_SHELL = """
awk bash break cat cd chmod chown cp curl cut date diff do done echo elif else env esac exit export false
fi find for function grep head if in jq kill less ls man mkdir mv printf ps pwd read return rm sed sh
sleep sort sudo tail tee test then touch true uniq until wc while xargs
"""
_BRANDS = """
github gitlab javascript typescript postgresql mysql sqlite mongodb macos ios devops youtube linkedin
openai powershell graphql webassembly openssl openssh cpython pypi ipv4 ipv6 utf8 http2
"""
_EXTENSIONS = """
bat bin c cfg cmd conf cpp crt csv db dll env exe gz h html ini ipynb jar java js json key kql ldif lock
log md pem pid ps1 py rb rs rst service sh so sock sql tar tf toml ts txt whl xml yaml yml zip
"""
_PLACEHOLDERS = """
FILE FILES DIR PATH NAME HOST PORT URL USER GROUP ID KEY VALUE SOURCE SRC DEST TARGET COMMAND ARGS
OPTIONS TABLE COLUMN TEXT STRING NUMBER COUNT DATE TIME
"""
_UNITS = """
ns nanosecond nanoseconds
us µs microsecond microseconds
ms msec millisecond milliseconds
s sec secs second seconds
min m mins minute minutes
h hr hrs hour hours
d day days
week weeks
month months
year years
b byte bytes
bit bits
kb k kib kilobyte kilobytes
mb mib megabyte megabytes
gb g gib gigabyte gigabytes
tb tib terabyte terabytes
% percent
hz
mhz
ghz
w watt watts
v volt volts
kbps kbit/s
mbps mbit/s
gbps gbit/s
"""
_ONES = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen
"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety hundred"

SHELL_WORDS = frozenset(_SHELL.split())
SHELLS = ("bash", "sh", "shell", "console", "zsh")
PYTHON_WORDS = frozenset(keyword.kwlist) | {name for name in dir(builtins) if not name.startswith("_")}
PLACEHOLDERS = frozenset(_PLACEHOLDERS.split())
"""Words in capitals that stand for what the reader fills in."""
DATA_WORDS = frozenset(("true", "false", "null", "none", "yes", "no", "on", "off"))
WORDS_BY_FENCE = {
    **dict.fromkeys(SHELLS, SHELL_WORDS),
    **dict.fromkeys(("python", "py", "pycon"), PYTHON_WORDS),
    **dict.fromkeys(("kql", "kusto"), KQL_WORDS),
    **dict.fromkeys(("json", "yaml", "yml", "toml", "ini"), DATA_WORDS),
}
"""By a fence's language; elsewhere in code ANY_WORDS."""
ANY_WORDS = SHELL_WORDS | PYTHON_WORDS | DATA_WORDS
BRANDS = frozenset(_BRANDS.split())
"""Spelled as names of code are, and known to everybody; lower case."""
EXTENSIONS = tuple(_EXTENSIONS.split())
UNITS = {unit: line.split()[0] for line in _UNITS.strip().splitlines() for unit in line.split()}
"""Each spelling of a unit, lower case, to one for all."""
WORD_VALUES = {word: str(n) for n, word in enumerate(_ONES.split())} | {
    word: str(20 + 10 * n) for n, word in enumerate(_TENS.split())
}
"""Numbers in words to their digits."""
