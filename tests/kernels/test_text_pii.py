"""kernels.text.pii: the walk against regular expressions, and what is and is not personal."""

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.text.pii import EMAIL, IPV4, IPV6, KEY, find_pii, find_pii_reference, replace_spans

# put together here, so that no scanner takes this file for a leak
ALPHABET = "q7Zr2Kx9Lm4Tn8Wp5Yb3Vc6Hd1Jf0GsQaEuRi"
AWS_KEY = "AKIA" + "Q7ZR2KX4LMTNWPYB"
GITHUB_TOKEN = "ghp" + "_" + ALPHABET[:36]
AWS_SECRET = "aws_secret" + "_access_key = " + (ALPHABET + "z/+")[:40]
PRIVATE_KEY = "\n".join(
    ["-----BEGIN RSA " + "PRIVATE KEY-----", *[ALPHABET * 2] * 4, "-----END RSA PRIVATE KEY-----"]
)

PERSONAL = {
    "mail jane.doe+x@mail.company.io now": (EMAIL, "jane.doe+x@mail.company.io"),
    "<joe@x-y.co.uk>.": (EMAIL, "joe@x-y.co.uk"),
    "mailto:joe@gmail.com?subject=x": (EMAIL, "joe@gmail.com"),
    "so write to joe@gmail.com...": (EMAIL, "joe@gmail.com"),
    "邮箱：joe@gmail.com。": (EMAIL, "joe@gmail.com"),
    "from 93.184.216.34 port 22": (IPV4, "93.184.216.34"),
    "http://8.8.4.4/": (IPV4, "8.8.4.4"),
    "[93.184.216.34]:80": (IPV4, "93.184.216.34"),
    "to 2a00:1450:4001:81b::200e: ok": (IPV6, "2a00:1450:4001:81b::200e"),
    f"key={AWS_KEY};": (KEY, AWS_KEY),
    f"token: {GITHUB_TOKEN}": (KEY, GITHUB_TOKEN),
    f"x\n{PRIVATE_KEY}\ny": (KEY, PRIVATE_KEY),
    f"{AWS_SECRET}\n": (KEY, AWS_SECRET[-40:]),
}
NOT_PERSONAL = [
    "version 1.2.3.4", "version to 93.1.2.44", "XFree86 4.3.99.16",
    "Linux kernel 2.6.32.71", "v115.0.190.70", "pkg==203.1.4.77",
    "Firefox/3.0.0.99", "1.2.3.4 Overview", "see 10.1.2.3, 127.0.0.1 and 192.168.1.77",
    "192.0.2.44 and 198.51.100.7",
    "OID 1.3.6.1.4.1.311", "255.255.255.0", "93.184.216.0/24", "093.184.216.34", "300.1.2.99",
    "lib-93.184.216.34", "34.216.184.93.in-addr.arpa", "93.184.216.34-rc1", "x93.184.216.34",
    "user@example.com", "a@b.example.org", "root@localhost", "me@host.local", "git@github.com:a/b",
    "getty@tty1.service", "logo@2x.png", "@decorator", "a @ b.T", "numpy@1.26.4", "ssh://joe@h.com/",
    "scp x joe@host.com:/tmp", "std::a::b", "2024:01:02 03:04:05", "2001:db8::1", "fe80::1", "::1",
    "2001::f", "2a00:1450::/32", "2a00:1450:x", "-----BEGIN PRIVATE KEY-----\n...\n-----END",
    "AKIA" + "IOSFODNN7EXAMPLE", "ghp_" + "x" * 36, "sk-learn", "hf_hub_download", "AKIAshort",
    "-" * 200, "task_live_" + ALPHABET[:30], "aws_secret_access_key = " + "your" * 10,
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), PERSONAL.items())
def test_finds(text, expected):
    data = text.encode()
    found = [(kind, data[a:b].decode()) for _, a, b, kind in find_pii(pa.array([text])).tolist()]
    assert found == [expected]


@pytest.mark.parametrize("text", NOT_PERSONAL)
def test_leaves_alone(text):
    assert find_pii(pa.array([text])).tolist() == []


PIECES = [
    *PERSONAL, *NOT_PERSONAL, "@", ".", "-", "_", ":", "::", "/", " ", "\n", "a", "0", "99",
    "2a00:",    "x.com", "é", "語", "@gmail.com", "93.184.216.", "34", "+", "%", "-----BEGIN ", "ghp_", "sk-",
]  # fmt: skip


anything = st.text() | st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@settings(max_examples=400, deadline=None)
@given(st.lists(anything, max_size=4))
@example(["a@b.cc@d.ee@f.gg", "a" * 70 + "@gmail.com", "é@gmail.com", "a@-b.com", "..a@b.com"])
def test_walk_equals_regular_expressions(texts):
    column = pa.array([None, *texts], pa.large_string()).slice(1)
    expected = [(row, *span) for row, text in enumerate(texts) for span in find_pii_reference(text)]
    assert [tuple(span) for span in find_pii(column).tolist()] == expected


def test_replaces_and_finds_nothing_after():
    texts = [None, "", "a joe@gmail.com b", "nothing", f"{GITHUB_TOKEN} 93.184.216.34 é joe@x.io"]
    column = pa.chunked_array([texts[:3], texts[3:]], pa.string())
    new = replace_spans(column, find_pii(column), {EMAIL: "<é>", KEY: ""})
    new.validate(full=True)
    assert new.to_pylist() == [None, "", "a <é> b", "nothing", " 93.184.216.34 é <é>"]
    again = replace_spans(new, find_pii(new), {IPV4: "192.0.2.1"})
    assert again.to_pylist()[-1] == " 192.0.2.1 é <é>"
    assert len(find_pii(again)) == 0
