"""Personal data and secrets: email addresses, public IP addresses, keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from filters.columns import with_columns
from kernels.text.pii import EMAIL, IPV4, IPV6, KEY, find_pii, replace_spans

Mode = Literal["redact", "drop", "count"]


@dataclass(frozen=True, kw_only=True)
class Pii:
    """Counts email addresses, public IPv4 and IPv6 addresses and secret keys, and for each kind
    replaces them in ``text``, drops the document, or leaves it. Left alone: addresses reserved for
    documentation, private networks, dotted versions and section numbers, systemd units, git@host,
    user@host in a URL, and keys that manuals print as examples. Keys are those with a known form:
    AWS, GitHub, GitLab, Google, Slack, Stripe, OpenAI, Anthropic, Hugging Face, npm, PyPI tokens,
    and private key blocks. Names, telephone numbers and passwords are not found.
    """

    stage: ClassVar = "pii"
    shape: ClassVar = "map"
    version: ClassVar = 1
    determinism: ClassVar = "exact"
    libraries: ClassVar = ()
    inputs: ClassVar = {"documents": "documents"}
    output: ClassVar = "documents"
    needs: ClassVar = ("text",)
    adds: ClassVar = {"pii_emails": "int32", "pii_ips": "int32", "pii_keys": "int32"}

    emails: Mode = "redact"
    """What to do with email addresses: redact, drop (rule ``pii_emails``) or count."""
    ips: Mode = "redact"
    """What to do with public IP addresses: redact, drop (rule ``pii_ips``) or count."""
    keys: Mode = "redact"
    """What to do with secret keys: redact, drop (rule ``pii_keys``) or count."""
    email_placeholder: str = "email@example.com"
    """Stands for an email address."""
    ipv4_placeholder: str = "192.0.2.1"
    """Stands for an IPv4 address; the default is reserved for documentation (RFC 5737)."""
    ipv6_placeholder: str = "2001:db8::1"
    """Stands for an IPv6 address; the default is reserved for documentation (RFC 3849)."""
    key_placeholder: str = "<SECRET_KEY>"
    """Stands for a secret key or a private key block."""

    def __post_init__(self) -> None:
        for kind in ("emails", "ips", "keys"):
            mode = getattr(self, kind)
            if mode not in ("redact", "drop", "count"):
                raise ValueError(f"{kind} is {mode!r}; one of redact, drop, count")

    def annotate(self, table: pa.Table) -> pa.Table:
        text = table["text"]
        spans = find_pii(text)
        replacements = {}
        if self.emails == "redact":
            replacements[EMAIL] = self.email_placeholder
        if self.ips == "redact":
            replacements |= {IPV4: self.ipv4_placeholder, IPV6: self.ipv6_placeholder}
        if self.keys == "redact":
            replacements[KEY] = self.key_placeholder
        if np.isin(spans[:, 3], list(replacements)).any():
            redacted = replace_spans(text, spans, replacements).cast(text.type)
            at = table.schema.get_field_index("text")
            table = table.set_column(at, table.schema.field(at), redacted)
        counts = {
            "pii_emails": _count(spans, (EMAIL,), table.num_rows),
            "pii_ips": _count(spans, (IPV4, IPV6), table.num_rows),
            "pii_keys": _count(spans, (KEY,), table.num_rows),
        }
        table = with_columns(table, self.adds, counts)
        dropping = [name for name in ("emails", "ips", "keys") if getattr(self, name) == "drop"]
        if not dropping:
            return table
        rule = np.full(table.num_rows, None, object)
        for name in reversed(dropping):
            rule[counts[f"pii_{name}"] > 0] = f"pii_{name}"
        column = pa.array(rule, pa.string())
        return with_columns(table, {"drop_rule": "string"}, {"drop_rule": column})


def _count(spans: np.ndarray, kinds: tuple[int, ...], rows: int) -> np.ndarray:
    return np.bincount(spans[np.isin(spans[:, 3], kinds), 0], minlength=rows)
