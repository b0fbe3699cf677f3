"""Where a text holds email addresses, public IP addresses and secret keys.

A Numba walk finds candidates by shape; the few there are then pass the rules below in Python, on
the bytes around them. ``find_pii_reference`` finds candidates with regular expressions instead and
is the walk's contract. What technical text is full of is not personal and is left alone:
addresses reserved for documentation, version and section numbers, systemd units, ``git@host``.
"""

from __future__ import annotations

import ipaddress
import re

import numba
import numpy as np
import pyarrow as pa

from kernels.text.buffers import text_buffers

EMAIL, IPV4, IPV6, KEY = range(4)

# shapes that find_pii_reference searches for, and that the walk finds byte by byte
EMAIL_LOCAL = re.compile(rb"(?:[A-Za-z0-9][A-Za-z0-9._%+\-]*)?\Z")
EMAIL_HOST = re.compile(rb"[A-Za-z0-9\-]+(?:\.[A-Za-z0-9\-]+)*")
IPV4_SHAPE = re.compile(
    rb"(?<![A-Za-z0-9_.\-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![A-Za-z0-9_]|\.[A-Za-z0-9]|[+\-][A-Za-z])"
)
IPV6_SHAPE = re.compile(rb"(?<![A-Za-z0-9_:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{1,35}")

_B64 = rb"[A-Za-z0-9+/=]"
KEY_SHAPES = {
    b"AKIA": rb"AKIA[A-Z2-7]{16}(?![A-Za-z0-9])",
    b"ASIA": rb"ASIA[A-Z2-7]{16}(?![A-Za-z0-9])",
    b"AIza": rb"AIza[A-Za-z0-9_\-]{35}(?![A-Za-z0-9_\-])",
    b"ghp_": rb"ghp_[A-Za-z0-9]{36,255}",
    b"gho_": rb"gho_[A-Za-z0-9]{36,255}",
    b"ghu_": rb"ghu_[A-Za-z0-9]{36,255}",
    b"ghs_": rb"ghs_[A-Za-z0-9]{36,255}",
    b"ghr_": rb"ghr_[A-Za-z0-9]{36,255}",
    b"github_pat_": rb"github_pat_[A-Za-z0-9_]{60,255}",
    b"glpat-": rb"glpat-[A-Za-z0-9_\-]{20,}",
    b"xox": rb"xox[abeoprs]-[A-Za-z0-9\-]{20,}",
    b"sk_live_": rb"sk_live_[A-Za-z0-9]{24,}",
    b"rk_live_": rb"rk_live_[A-Za-z0-9]{24,}",
    b"sk-": rb"sk-(?:proj|ant|svcacct)-[A-Za-z0-9_\-]{24,}",
    b"hf_": rb"hf_[A-Za-z0-9]{34,}",
    b"npm_": rb"npm_[A-Za-z0-9]{36}",
    b"pypi-": rb"pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_\-]{50,}",
    b"aws_secret_access_key": rb"aws_secret_access_key['\"]?\s*[=:]\s*['\"]?([A-Za-z0-9/+]{40})",
    b"AWS_SECRET_ACCESS_KEY": rb"AWS_SECRET_ACCESS_KEY['\"]?\s*[=:]\s*['\"]?([A-Za-z0-9/+]{40})",
    b"SecretAccessKey": rb"SecretAccessKey['\"]?\s*[=:]\s*['\"]?([A-Za-z0-9/+]{40})",
    b"-----BEGIN ": rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:[^-]|-(?!----))*"
    rb"(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----)?",
}
_KEY_PATTERNS = {prefix: re.compile(shape) for prefix, shape in KEY_SHAPES.items()}
# a longer private key block is redacted up to here
_KEY_BYTES = 16_384

# RFC 2606 and 6761, and names that manuals use as if they were reserved
_DOCUMENTATION_HOSTS = (
    b"example.com", b"example.net", b"example.org", b"example.edu", b"domain.com", b"domain.tld",
    b"mydomain.com", b"yourdomain.com", b"your-domain.com", b"foo.com", b"bar.com",
)  # fmt: skip
_NOT_TOP_LEVEL = frozenset(
    b"example test invalid localhost local localdomain internal lan home onion"
    b" service socket timer target mount automount swap slice scope device path"
    b" png jpg jpeg gif svg webp ico html htm json yaml yml toml txt conf tar gz tgz whl"
    b" exe dll tex tmpl".split()
)
_SERVICE_ACCOUNTS = (b"git", b"hg", b"svn")
_VERSION_BEFORE = re.compile(
    rb"(?:\b(?:v|ver|version|versions|release|released|rel|rev|revision|build|update|firmware"
    rb"|kernel|section|sections|chapter|table|figure|rfc|since|sec|oid)(?: to| of| is)?[.:=\s\"'(]*"
    rb"|[=<>~!^]=\s*|\xc2\xa7\s*|[a-z]/)$",
    re.IGNORECASE,
)
# special-purpose addresses (IANA registries), which are nobody's: (first, last)
_SPECIAL_IPV4 = [
    (int(net.network_address), int(net.broadcast_address))
    for net in map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",
        ),
    )
]
_SPECIAL_IPV6 = [
    ipaddress.IPv6Network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]

_LOCAL = np.zeros(256, np.bool_)
_LOCAL[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-")] = True
_HOST = np.zeros(256, np.bool_)
_HOST[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-")] = True
_ALNUM = np.zeros(256, np.bool_)
_ALNUM[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")] = True
_WORD = _ALNUM.copy()
_WORD[ord("_")] = True
_HEX = np.zeros(256, np.bool_)
_HEX[list(b"0123456789abcdefABCDEF")] = True

_PREFIXES = tuple(KEY_SHAPES)
_PREFIX_SIZE = np.array([len(prefix) for prefix in _PREFIXES])
_PREFIX_BYTES = np.zeros((len(_PREFIXES), _PREFIX_SIZE.max()), np.uint8)
# bit p: prefix p has this first byte; this second byte
_FIRST = np.zeros(256, np.uint32)
_SECOND = np.zeros(256, np.uint32)
for _p, _prefix in enumerate(_PREFIXES):
    _PREFIX_BYTES[_p, : len(_prefix)] = np.frombuffer(_prefix, np.uint8)
    _FIRST[_prefix[0]] |= np.uint32(1 << _p)
    _SECOND[_prefix[1]] |= np.uint32(1 << _p)
# bytes at which a candidate can begin, or, for "@", be found
_TRIGGER = _FIRST != 0
_TRIGGER[list(b"@0123456789")] = True


@numba.njit(nogil=True, cache=True)
def _email(data, start, end, at):
    """Bounds of the address around the "@" at ``at``; empty if there is none."""
    first = at
    while first > start and _LOCAL[data[first - 1]]:
        first -= 1
    while first < at and not _ALNUM[data[first]]:
        first += 1
    last = at + 1
    while last < end:
        dot = data[last] == 46 and last > at + 1 and last + 1 < end and _HOST[data[last + 1]]
        if not dot and not _HOST[data[last]]:
            break
        last += 1
    if not 1 <= at - first <= 64 or last == at + 1:
        return at, at
    return first, last


@numba.njit(nogil=True, cache=True)
def _ipv4(data, start, end, at):
    """End of the dotted quad that begins at ``at``, or ``at``."""
    if at > start:
        before = data[at - 1]
        if _WORD[before] or before == 46 or before == 45:
            return at
    i = at
    for octet in range(4):
        digits = 0
        while i < end and 48 <= data[i] <= 57:
            digits += 1
            i += 1
        if digits == 0 or digits > 3:
            return at
        if octet < 3:
            if i >= end or data[i] != 46:
                return at
            i += 1
    if i < end:
        after = data[i]
        if _WORD[after]:
            return at
        if i + 1 < end:
            then = data[i + 1]
            letter = _ALNUM[then] and then > 57
            if (after == 46 and _ALNUM[then]) or ((after == 43 or after == 45) and letter):
                return at
    return i


@numba.njit(nogil=True, cache=True)
def _ipv6(data, start, end, at):
    """End of the hexadecimal digits and colons that begin at ``at`` as 2xxx: or 3xxx:."""
    if at > start:
        before = data[at - 1]
        if _WORD[before] or before == 46 or before == 58:
            return at
    if at + 5 >= end or data[at + 4] != 58:
        return at
    i = at + 1
    while i < at + 4:
        if not _HEX[data[i]]:
            return at
        i += 1
    i += 1
    while i < end and i < at + 40 and (_HEX[data[i]] or data[i] == 58):
        i += 1
    return i if i > at + 5 else at


@numba.njit(nogil=True, cache=True)
def _key_prefix(data, start, end, at):
    """Number of the key prefix at ``at``, or -1."""
    if at + 1 >= end:
        return -1
    maybe = _FIRST[data[at]] & _SECOND[data[at + 1]]
    if maybe == 0 or (at > start and (_WORD[data[at - 1]] or data[at - 1] == 45)):
        return -1
    for p in range(_PREFIX_SIZE.size):
        size = _PREFIX_SIZE[p]
        if (maybe >> np.uint32(p)) & np.uint32(1) and at + size <= end:
            same = True
            for j in range(size):
                same &= data[at + j] == _PREFIX_BYTES[p, j]
            if same:
                return p
    return -1


@numba.njit(nogil=True, cache=True)
def _candidates(data, offsets):
    """Rows (row, first byte, byte after the last, kind or KEY + number of the prefix)."""
    found = np.empty((256, 4), np.int64)
    n = 0
    for row in range(offsets.size - 1):
        start, end = offsets[row], offsets[row + 1]
        for i in range(start, end):
            b = data[i]
            if not _TRIGGER[b]:
                continue
            first = i
            last = i
            kind = EMAIL
            if b == 64:
                first, last = _email(data, start, end, i)
            elif 48 <= b <= 57:
                kind = IPV4
                last = _ipv4(data, start, end, i)
                if last == i and (b == 50 or b == 51):
                    kind = IPV6
                    last = _ipv6(data, start, end, i)
            else:
                prefix = _key_prefix(data, start, end, i)
                if prefix >= 0:
                    kind = KEY + prefix
                    last = end
            if last > first:
                if n == found.shape[0]:
                    grown = np.empty((2 * n, 4), np.int64)
                    grown[:n] = found
                    found = grown
                found[n, 0] = row
                found[n, 1] = first
                found[n, 2] = last
                found[n, 3] = kind
                n += 1
    return found[:n]


def _is_email(text: bytes, first: int, last: int) -> bool:
    local, _, host = text[first:last].lower().partition(b"@")
    labels = host.split(b".")
    top = labels[-1]
    if len(labels) < 2 or not 2 <= len(top) <= 24 or not top.isalpha():
        return False
    if any(label[:1] == b"-" or label[-1:] == b"-" for label in labels):
        return False
    if b".." in local or local[-1:] == b"." or top in _NOT_TOP_LEVEL:
        return False
    if any(host == name or host.endswith(b"." + name) for name in _DOCUMENTATION_HOSTS):
        return False
    # user@host:/path is a place to copy to, git@host a service
    if local in _SERVICE_ACCOUNTS or text[last : last + 2] in (b":/", b":~"):
        return False
    # ...://user@host: part of a URL
    token = text[max(0, first - 128) : first].rsplit(None, 1)
    before = token[-1] if token and not text[first - 1 : first].isspace() else b""
    scheme, separator, rest = before.rpartition(b"://")
    return not (separator and b"/" not in rest and b"?" not in rest)


def _is_public_ipv4(text: bytes, first: int, last: int) -> bool:
    octets = text[first:last].split(b".")
    numbers = [int(octet) for octet in octets]
    if max(numbers) > 255 or any(octet[:1] == b"0" and len(octet) > 1 for octet in octets):
        return False
    value = int.from_bytes(bytes(numbers), "big")
    # an address that ends in 0 is a network's
    if numbers[3] == 0 or any(low <= value <= high for low, high in _SPECIAL_IPV4):
        return False
    line = text[max(0, first - 24) : first].rsplit(b"\n", 1)[-1]
    if line.endswith(b"//"):
        return True
    if _VERSION_BEFORE.search(line):
        return False
    # 4.3.99.16, 10.14.6.2: versions, sections, and the well-known resolvers 8.8.8.8, 1.1.1.1
    like_version = max(numbers) < 32 or max(numbers[:2]) < 10
    return not like_version or re.match(rb":[0-9]", text[last : last + 2]) is not None


def _is_public_ipv6(text: bytes, first: int, last: int) -> bool:
    if text[last : last + 1].isalnum() or text[last : last + 1] == b"_":
        return False
    # an address that ends in :: is a network's
    if text[last - 2 : last] == b"::":
        return False
    try:
        address = ipaddress.IPv6Address(text[first:last].decode("ascii"))
    except ValueError:
        return False
    return not any(address in network for network in _SPECIAL_IPV6)


def _key_span(text: bytes, first: int, prefix: bytes) -> tuple[int, int] | None:
    """Bounds of the secret that starts with ``prefix`` at ``first``, or None."""
    match = _KEY_PATTERNS[prefix].match(text, first, first + _KEY_BYTES)
    if match is None:
        return None
    start, end = match.span(match.lastindex or 0)
    secret = text[start:end]
    if prefix == b"-----BEGIN ":
        body = re.findall(_B64 + rb"{16,}", secret)
        return (start, end) if sum(map(len, body)) >= 64 and len(set(b"".join(body))) > 8 else None
    # placeholders: AKIA...EXAMPLE, ghp_xxxxxxxx
    placeholder = re.search(rb"example|x{6}|your|1234567890|\*{3}", secret, re.IGNORECASE)
    random = secret if match.lastindex else secret[len(prefix) :]
    return None if placeholder or len(set(random)) < 10 else (start, end)


def _verified(text: bytes, kind: int, first: int, last: int) -> tuple[int, int, int] | None:
    """(first, last, kind) of a candidate that passes the rules of its kind, bounds adjusted."""
    if kind == EMAIL:
        return (first, last, EMAIL) if _is_email(text, first, last) else None
    if kind == IPV4:
        return (first, last, IPV4) if _is_public_ipv4(text, first, last) else None
    if kind == IPV6:
        # a sentence's colon is no part of an address
        if text[last - 1 : last] == b":" and text[last - 2 : last] != b"::":
            last -= 1
        return (first, last, IPV6) if _is_public_ipv6(text, first, last) else None
    span = _key_span(text, first, _PREFIXES[kind - KEY])
    return (*span, KEY) if span else None


def _without_overlaps(spans: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """In order of their start; of two that overlap the one that starts first, then the longer."""
    kept: list[tuple[int, int, int]] = []
    for span in sorted(spans, key=lambda s: (s[0], -s[1], s[2])):
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
    return kept


def find_pii(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Emails, public IP addresses and secret keys of a string column.

    Returns int64 [n_spans, 4], rows (row, first byte, byte after the last, kind), bytes counted
    from the start of the row's text, kind one of EMAIL, IPV4, IPV6, KEY; sorted, not overlapping.
    """
    data, offsets = text_buffers(column)
    candidates = _candidates(data, offsets)
    spans: list[tuple[int, int, int, int]] = []
    rows, starts = np.unique(candidates[:, 0], return_index=True)
    for row, mine in zip(rows.tolist(), np.split(candidates, starts[1:]), strict=False):
        start = int(offsets[row])
        text = data[start : offsets[row + 1]].tobytes()
        found = [_verified(text, kind, first - start, last - start) for _, first, last, kind in mine.tolist()]
        spans += [(row, *span) for span in _without_overlaps([span for span in found if span])]
    return np.array(spans, np.int64).reshape(-1, 4)


def find_pii_reference(text: str) -> list[tuple[int, int, int]]:
    """The same of one text, candidates found by regular expressions: (first, last, kind)."""
    data = text.encode()
    found: list[tuple[int, int, int] | None] = []
    for at in (m.start() for m in re.finditer(b"@", data)):
        # not one expression: an address that fails may overlap one that does not
        local = EMAIL_LOCAL.search(data[:at])
        host = EMAIL_HOST.match(data, at + 1)
        if local and host and 1 <= len(local[0]) <= 64:
            found.append(_verified(data, EMAIL, local.start(), host.end()))
    found += [_verified(data, IPV4, *m.span()) for m in IPV4_SHAPE.finditer(data)]
    found += [_verified(data, IPV6, *m.span()) for m in IPV6_SHAPE.finditer(data)]
    for number, prefix in enumerate(_PREFIXES):
        for m in re.finditer(rb"(?<![A-Za-z0-9_\-])" + re.escape(prefix), data):
            found.append(_verified(data, KEY + number, m.start(), len(data)))
    return _without_overlaps([span for span in found if span])


def replace_spans(
    column: pa.Array | pa.ChunkedArray, spans: np.ndarray, replacements: dict[int, str]
) -> pa.Array:
    """The column with each span of ``find_pii`` replaced by the text for its kind.

    Kinds without a replacement stay. Nulls stay null; the result is a large_string array.
    """
    data, offsets = text_buffers(column)
    texts = {kind: text.encode() for kind, text in replacements.items()}
    growth = np.zeros(len(offsets), np.int64)
    pieces: list[memoryview | bytes] = []
    view = data.data
    at = int(offsets[0])
    for row, first, last, kind in spans.tolist():
        if kind in texts:
            start = int(offsets[row])
            pieces += [view[at : start + first], texts[kind]]
            at = start + last
            growth[row + 1] += len(texts[kind]) - (last - first)
    pieces.append(view[at : int(offsets[-1])])
    new_offsets = offsets - offsets[0] + growth.cumsum()
    valid = None
    if column.null_count:
        valid = pa.array(column.is_valid().to_numpy(zero_copy_only=False)).buffers()[1]
    buffers = [valid, pa.py_buffer(new_offsets), pa.py_buffer(b"".join(pieces))]
    return pa.Array.from_buffers(pa.large_string(), len(column), buffers)
