"""The stages url_rules and pii."""

import pyarrow as pa
import pytest

from filters.pii import Pii
from filters.url import UrlRules


def test_url_columns():
    urls = {
        "https://Docs.Python.org:8080/3/lib/os.html?x=1&y=20240101123#a9999999999999":
            ("docs.python.org", 3, 2, 11),
        "http://[::1]:80/a//b/": ("[::1]", 2, 0, 0),
        "http://h?q=12345": ("h", 0, 1, 5),
        "http://user:pw@a.b.c./007/": ("a.b.c", 1, 0, 3),
        "//host/x": ("host", 1, 0, 0),
        "http://münchen.example/ü/12": ("münchen.example", 2, 0, 2),
        "mailto:x@y.z": (None, 0, 0, 0),
        "": (None, 0, 0, 0),
        None: (None, 0, 0, 0),
    }  # fmt: skip
    names = ("url_host", "url_depth", "url_query_parameters", "url_longest_number")
    for column in (pa.array(list(urls)), pa.chunked_array([list(urls)[:3], list(urls)[3:]])):
        table = UrlRules().annotate(pa.table({"url": column}))
        assert [tuple(row[n] for n in names) for row in table.to_pylist()] == list(urls.values())
        assert table["url_length"].to_pylist() == [len(url or "") for url in urls]
        assert table["url_rule"].null_count == len(urls)
        added = [str(table.schema.field(name).type) for name in UrlRules.adds]
        assert added == list(UrlRules.adds.values())
    empty = UrlRules(blocked_hosts=("a",)).annotate(table.slice(0, 0))
    assert empty.schema == table.schema


def test_first_list_that_knows_a_url():
    rules = UrlRules(
        blocked_hosts=("Bad.com", "10.0.0.1"),
        blocked_patterns=(r"/login\b", "[.]exe$"),
        blocked_keywords=("casino",),
    )
    urls = {
        "http://bad.com/": "host",
        "http://ADS.bad.com/casino": "host",
        "http://10.0.0.1/x": "host",
        "http://notbad.com/": None,
        "http://bad.com.org/": None,
        "http://ok.org/login?casino": "pattern",
        "http://ok.org/a.exe": "pattern",
        "http://ok.org/CASINO-royal": "keyword",
        "http://ok.org/casinos": None,
        None: None,
    }
    table = rules.annotate(pa.table({"url": list(urls)}))
    assert table["url_rule"].to_pylist() == list(urls.values())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"blocked_hosts": ("http://a.com",)}, "'http://a.com' is no host name"),
        ({"blocked_patterns": ("(",)}, r"'\('"),
        ({"blocked_keywords": ("a b",)}, "use blocked_patterns"),
    ],
)
def test_bad_lists_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        UrlRules(**parameters)


TEXT = pa.table(
    {
        "id": ["a", "b", "c", "d"],
        "text": pa.array(
            [
                "to joe@gmail.com, ann@gmail.com",
                "at 93.184.216.34 or 2a00:1450::7",
                None,
                "1.2.3.4",
            ],
            pa.large_string(),
        ),
    }
)


def test_pii_redacts_by_default_and_again_changes_nothing():
    result = Pii().annotate(TEXT)
    assert result.schema.field("text") == TEXT.schema.field("text")
    assert result["text"].to_pylist() == [
        "to email@example.com, email@example.com", "at 192.0.2.1 or 2001:db8::1", None, "1.2.3.4",
    ]  # fmt: skip
    assert result["pii_emails"].to_pylist() == [2, 0, 0, 0]
    assert result["pii_ips"].to_pylist() == [0, 2, 0, 0]
    assert result["pii_keys"].to_pylist() == [0, 0, 0, 0]
    assert "drop_rule" not in result.column_names
    assert Pii().annotate(result)["text"].equals(result["text"])


def test_pii_modes():
    counted = Pii(emails="count", ips="count", keys="count").annotate(TEXT)
    assert counted["text"].equals(TEXT["text"])
    assert counted["pii_ips"].to_pylist() == [0, 2, 0, 0]
    dropped = Pii(emails="drop", ips="redact").annotate(TEXT)
    assert dropped["drop_rule"].to_pylist() == ["pii_emails", None, None, None]
    assert dropped["text"].to_pylist()[:2] == [
        TEXT["text"][0].as_py(),
        "at 192.0.2.1 or 2001:db8::1",
    ]
    assert Pii(emails="drop").annotate(TEXT.slice(0, 0)).schema == dropped.schema
    with pytest.raises(ValueError, match="keys is 'hide'; one of redact, drop, count"):
        Pii(keys="hide")
