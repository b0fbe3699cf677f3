"""The checks one by one, and the table they make together."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synth.checks import CHECKS, REQUIRED, SCHEMA, check
from synth.checks.mentions import Source, mentions
from synth.checks.syntax import LANGUAGES
from synth.recipe import builtin_recipes, load_recipe

SOURCE = """\
Usage: tool [-v] [-q] [--[no-]color] [--retries=N] --force-with-lease FILE
The timeout is 30 seconds by default, for at most 1,000 items or 5 GB; –quiet says less. There are three
modes. It reads /etc/tool/config.yaml, which https://docs.tool.dev/guide describes, and the table Perf with
the columns CounterValue and Computer. The function textwrap.wrap(text, width=70) returns a list; set
TOOL_HOME before. Run `tool get pods` on Python 3.10, from 10 to 20 times. See `legacy' names and the 2-tuple.
"""


@pytest.mark.parametrize(
    "text",
    [
        "Use `--retries`, no: --retries N.",
        "`tool -v --color --no-color`, **--quiet**, (`--force-with-lease`), -vq",
        "It waits 30s, 30 seconds, 30 sec or 30; 1000 items, 1,000 items, 1_000; 5GB and 5 gb.",
        "See https://docs.tool.dev/guide/, <https://docs.tool.dev/guide>, [here](https://docs.tool.dev/guide).",
        "/etc/tool/config.yaml, `config.yaml`, /etc/tool/ and /etc/tool.",
        "`wrap`, `wrap()`, textwrap.wrap(), `textwrap.wrap(text, width=70)`, “TOOL_HOME”, `text`",
        "1. one\n2. two\n\n## 4. four\n\nStep 5: five",
        "There are 3 modes, i.e. several, e.g. one and/or two.And so on",
        "```kql\nlet most = 30;\nPerf\n| where CounterValue > most\n| summarize n = count() by Computer\n```",
        '```bash\nsudo tool get pods <name> # show the pods\ncat $TOOL_HOME | grep "no such thing"\n```',
        '```json\n{"timeout": 30, "modes": null}\n```',
        "Python 3.10, 10-20 times, 10–20 times, ten times; GitHub and macOS; http://example.com/x.",
        "`legacy` and 2-tuples",
    ],
)
def test_what_a_source_says_is_no_invention(text):
    source = Source(SOURCE)
    assert [mention for mention in mentions(text) if not source.knows(mention)] == []


@pytest.mark.parametrize(
    ("text", "kind", "word"),
    [
        ("Use --force now.", "flag", "--force"),
        ("Use `--retry`.", "flag", "--retry"),
        ("`tool -x`", "flag", "-x"),
        ("It waits 31 seconds.", "number", "31"),
        ("It waits 30 minutes.", "number", "30"),
        ("At most 10,000 items.", "number", "10,000"),
        ("Up to 5 TB.", "number", "5"),
        ("On Python 3.11.", "number", "3.11"),
        ("10 to 25 times", "number", "25"),
        ("https://docs.tool.dev/guides", "url", "https://docs.tool.dev/guides"),
        ("In /etc/tools/config.yaml.", "path", "/etc/tools/config.yaml"),
        ("`config.yml`", "path", "config.yml"),
        ("Call `unwrap`.", "name", "unwrap"),
        ("textwrap.fill() does it.", "name", "textwrap.fill()"),
        ("Set TOOL_DIR.", "name", "TOOL_DIR"),
        ("The CounterName column.", "name", "CounterName"),
        ("```bash\ntool put pods\n```", "name", "put"),
        ("```kql\nPerf | where Level > 1\n```", "name", "Level"),
        ("```yaml\nlimit: 3\n```", "name", "limit"),
    ],
)
def test_inventions(text, kind, word):
    source = Source(SOURCE)
    found = {(mention.kind, mention.text) for mention in mentions(text) if not source.knows(mention)}
    assert (kind, word) in found


@pytest.mark.parametrize(
    ("language", "good", "bad"),
    [
        ("bash", 'for f in *; do echo "$f"; done', 'for f in *; do echo "$f"'),
        ("sh", "git checkout [-b] <branch> && make", "echo 'x"),
        ("console", "$ ls -l\ntotal (0\n$ pwd", "$ ls (\ntotal 0"),
        ("json", '{"a": [1, 2]}', '{"a": [1, 2],}'),
        ("json", '{"a": 1}\n{"b": 2}', '{"a": NaN}'),
        ("yaml", "a: 1\nb: [x, !Ref y]\n---\nc: &k {d: *k}", "a: 1\n b: 2"),
        ("yml", "- a\n- b", "a: 1\nb: 2\na: 3"),
        ("kql", "Perf | where <column> > 3 | take 5", "Perf | where | take 5"),
    ],
)
def test_syntax(language, good, bad):
    assert LANGUAGES[language](good) is None
    assert LANGUAGES[language](bad)


def test_reading_shell_runs_nothing(tmp_path):
    trace = tmp_path / "ran"
    for code in (
        f"touch {trace}",
        f"$(touch {trace})",
        f"`touch {trace}`",
        f": <(touch {trace})",
        f"set +n; touch {trace}",
    ):
        LANGUAGES["bash"](code)
    assert not trace.exists()


def test_yaml_makes_no_object_and_no_explosion():
    assert LANGUAGES["yaml"]("!!python/object/apply:os.system [ls]") is None
    laughs = "a0: &a0 [x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
    )
    assert LANGUAGES["yaml"](laughs) is None


def outputs(*raws, finish="stop"):
    return pa.table(
        {"output": list(raws), "finish_reason": [finish] * len(raws), "source_row": [0] * len(raws)}
    )


SOURCES = pa.table({"text": [SOURCE * 2], "title": ["tool"]})
GOOD = (
    "The tool works on one FILE and tries again as often as `--retries` says. By default it gives up after"
    " 30 seconds. Settings come from /etc/tool/config.yaml. Whoever wants to see fewer messages calls it with"
    " -q, and with -v it says more. Metrics land in Perf, where CounterValue holds what was measured on a"
    " Computer, so that slow machines stand out at once."
)


def test_the_table():
    raws = [GOOD, "", GOOD + " Add --frob.", GOOD + " I hope this helps!", "Short."]
    found = check(builtin_recipes()["wiki"], SOURCES, outputs(*raws))
    assert found.schema == SCHEMA
    rows = found.to_pylist()
    assert [row["output_row"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["drop_rule"] for row in rows] == [None, "parse", "identifiers", "refusal", "length"]
    assert rows[2]["check_detail"] == "the source has no flag --frob" and rows[2]["synth_invented"] == 1
    good = rows[0]
    assert good["text"] == GOOD and good["check_detail"] is None
    assert all(good[f"check_{name}"] is True for name in REQUIRED)
    # what could not be parsed has nothing to say to the checks after it
    assert rows[1]["check_parse"] is False and rows[1]["check_identifiers"] is None
    # later checks ran on what an earlier one rejected
    assert rows[4]["check_length"] is False and rows[4]["check_identifiers"] is True
    empty = check(builtin_recipes()["wiki"], SOURCES, outputs())
    assert empty.schema == SCHEMA and empty.num_rows == 0


def test_rejections_go_by_the_order_of_the_checks():
    cut = check(builtin_recipes()["wiki"], SOURCES, outputs("", finish="length")).to_pylist()[0]
    assert cut["drop_rule"] == "finish" and cut["check_parse"] is False
    assert list(CHECKS)[:2] == ["finish", "parse"] and list(CHECKS)[-1] == "judge"


def test_the_judge_is_asked_about_what_passed(tmp_path):
    path = tmp_path / "judged.yaml"
    path.write_text("name: judged\nversion: 1\nprompt: Do it.\nchecks: {judge: {share: 1.0, least: 4}}\n")
    recipe = load_recipe(path)
    asked = []

    def generate(chats):
        asked.extend(chats)
        return ["5", "**2**: an invention", "no idea"]

    raws = [GOOD, GOOD.replace("slow", "quick"), GOOD.replace("fewer", "some"), GOOD + " Use --frob."]
    rows = check(recipe, SOURCES, outputs(*raws), generate).to_pylist()
    assert (
        len(asked) == 3 and GOOD in asked[0][0]["content"] and "--force-with-lease" in asked[0][0]["content"]
    )
    assert [row["synth_judge_grade"] for row in rows] == [5, 2, None, None]
    assert [row["check_judge"] for row in rows] == [True, False, None, None]
    assert [row["drop_rule"] for row in rows] == [None, "judge", None, "identifiers"]
    with pytest.raises(ValueError, match="'judged'.*needs an engine"):
        check(recipe, SOURCES, outputs(GOOD))


PIECES = [
    *(
        "```bash\n",
        "```kql\n",
        "```",
        "`",
        "--x",
        "-v",
        "/a/b.yaml",
        "https://a.b/c",
        "1,000",
        "3 s",
        "foo_bar()",
    ),
    *(
        "Q: ",
        "A: ",
        "| a | b |\n",
        "|---|\n",
        "\n",
        "\n\n",
        "## Symptom\n",
        "Request: ",
        "Ana: ",
        "1. ",
        "- ",
    ),
    *("(", "{", "<", "$", "\\", "é", "中", "\x00", "T | where ", "a: ", "word ", "'", '"'),
]
FORMS = "wiki faq runbook param_table nl2kql incident_dialogue tutorial continue"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=40))
def test_any_answer_has_a_verdict(pieces):
    raw = "".join(pieces).encode(errors="replace").decode()
    for name in (
        "wiki",
        "faq",
        "runbook",
        "param_table",
        "nl2kql",
        "incident_dialogue",
        "tutorial",
        "continue",
    ):
        found = check(builtin_recipes()[name], SOURCES, outputs(raw))
        assert found.num_rows == 1 and found["check_finish"].to_pylist() == [True]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=40))
def test_a_text_knows_itself(pieces):
    """What a text mentions, the text mentions, however it is spelled."""
    # a backtick that pairs otherwise in one than in the other is no matter of the source
    text = " ".join(piece for piece in pieces if "`" not in piece)
    source = Source(text)
    assert [mention for mention in mentions(text) if not source.knows(mention)] == []
