"""Ways to spoil a clean output, each for one check: what a writer does wrong, done by rule."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.synth.foreign import SENTENCES
from benchmarks.synth.queries import breakers
from benchmarks.synth.writing import FORMS, Document, Writer

PLAIN = ("wiki", "extract_knowledge", "distill")
QUESTIONS = ("faq", "diverse_qa")
TABLES = ("param_table", "compare")
ALL = tuple(FORMS)
# of tasks the asker chooses the numbers
STATING = tuple(name for name in ALL if name not in ("nl2cmd", "nl2kql"))
_FENCE = re.compile(r"```(\w+)\n(.*?)\n( *)```", re.DOTALL)
_INVENTED = ("frobnicate", "max-depth", "force-all", "no-cache", "threads", "strict", "colour", "batch-size")
_META = (
    "I hope this helps!",
    "As an AI language model, I cannot verify this.",
    "The provided text does not say more about it.",
    "Let me know if you need anything else.",
    "Here is the rewritten version of the document:",
    "I'm sorry, but more is not possible.",
    "This is a summary of the main points.",
    "According to the source document, this is all.",
    "Feel free to ask further questions.",
    "I cannot provide any more detail.",
)
_REFUSALS = (
    "I'm sorry, but I can't help with that request. It asks for details that I am not able to give, and it"
    " would be better to ask somebody who knows the matter well, or to look into the manual that came with"
    " it, which surely has a page about this question and many others of the same kind.",
    "As an AI language model, I do not have access to the system that you speak of, and so I cannot say how"
    " it behaves. It may help to run it and to look at what it prints, or to turn to whoever keeps it"
    " running, as they are likely to have met the same question before and to know its answer.",
    "I cannot fulfil this request. To write about it one would have to know things that are not known here,"
    " and what would come out could well be wrong. Please ask for something else, and it will be done with"
    " pleasure and care, in as many words as are wanted and in the form that is asked for.",
)


@dataclass(frozen=True)
class Fault:
    """One way to spoil: ``make`` of (clean output, document, draw, writer) or None where it has no hold."""

    rule: str
    kind: str
    recipes: Sequence[str]
    make: Callable[[str, Document, random.Random, Writer], str | None]
    finish_reason: str = "stop"


def _cut(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    return text[: int(len(text) * draw.uniform(0.3, 0.9))]


def _open_fence(text: str, of: Document, draw: random.Random, writer: Writer) -> str | None:
    at = text.rfind("```")
    return text[:at].rstrip() if at > 0 else None


def _formless(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    return f"{writer.prose(6)} {writer.fact()} {writer.fact()}"


def _no_answer(text: str, of: Document, draw: random.Random, writer: Writer) -> str | None:
    parts = text.split("\n\n")
    at = draw.randrange(len(parts))
    question, newline, _ = parts[at].partition("\n")
    return "\n\n".join([*parts[:at], question, *parts[at + 1 :]]) if newline else None


def _lost_cell(text: str, of: Document, draw: random.Random, writer: Writer) -> str | None:
    rows = [match for match in re.finditer(r"^\|.*\| - \|$", text, re.MULTILINE)]
    row = draw.choice(rows)
    return text[: row.end() - 4] + text[row.end() :]


def _lost_heading(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    return text.replace(draw.choice(("## Symptom", "## Diagnosis", "## Fix", "## Verify")) + "\n\n", "")


def _said(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    return f"{text} {draw.choice(_META)}"


def _refused(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    return draw.choice(_REFUSALS)


def _short(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    return " ".join(writer.sentence(0).split()[: draw.randrange(6, 20)]) + "."


def _long(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    words = of.text.split()
    return " ".join(draw.choice(words) for _ in range(int(len(words) * draw.uniform(2.2, 3))))


def _foreign(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    sentences = SENTENCES[draw.choice(sorted(SENTENCES))]
    fence = _FENCE.search(text)
    said = " ".join(draw.sample(sentences, len(sentences)))
    return f"{of.title}: {said}\n\n{fence[0] if fence else ''}\n\n`{of.path}` {draw.choice(sentences)}"


def _slip(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    """A sentence in another script, as multilingual writers slip into one."""
    return f"{text} {draw.choice(SENTENCES[draw.choice(('zh', 'ja', 'ru'))])}"


def _again(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    sentence = f"{writer.sentence(draw.randrange(9))} "
    # as much again as there is, in the place of its end
    half = text[: len(text) // 2].rpartition("\n")[0] or text[: len(text) // 2]
    return f"{half} " + sentence * max(4, len(text) // 2 // len(sentence) + 1)


def _new_flag(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    flag = draw.choice([word for word in _INVENTED if f"--{word}" not in of.text])
    return f"{text} " + draw.choice(
        ("Add `--{}`.", "It also takes --{}.", "(See --{}.)", "Use **--{}**.")
    ).format(flag)


def _other_flag(text: str, of: Document, draw: random.Random, writer: Writer) -> str | None:
    flags = [flag for flag in of.flags if flag in text]
    if not flags:
        return None
    flag = draw.choice(flags)
    other = draw.choice((f"{flag}-all", f"--no-{flag[2:]}", flag[:-1], flag.replace("--", "--x")))
    return text.replace(flag, other, 1)


def _other_number(text: str, of: Document, draw: random.Random, writer: Writer) -> str | None:
    numbers = [str(of.seconds), f"{of.entries:,}", str(of.entries), str(of.percent)]
    held = [number for number in numbers if re.search(rf"(?<![\w,]){number}(?!,?\d)", text)]
    if not held:
        return None
    number = draw.choice(held)
    places = [at for at, digit in enumerate(number) if digit.isdigit()]
    while True:
        at = draw.choice(places)
        other = number[:at] + draw.choice("123456789") + number[at + 1 :]
        # what another fact of the source says is no invention
        if other.replace(",", "") not in of.text.replace(",", ""):
            return re.sub(rf"(?<![\w,]){number}(?!,?\d)", other, text, count=1)


def _other_unit(text: str, of: Document, draw: random.Random, writer: Writer) -> str | None:
    unit = draw.choice((" minutes", "ms", " hours", "h"))
    found = re.search(rf"\b{of.seconds}(?: seconds|s)\b", text)
    return text[: found.start()] + f"{of.seconds}{unit}" + text[found.end() :] if found else None


def _other_url(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    other = draw.choice(
        (
            of.url.replace("/3/", "/2/"),
            of.url[:-5] + "-guide.html",
            of.url + "#usage2",
            of.url.replace("docs", "help"),
        )
    )
    return text.replace(of.url, other) if of.url in text else f"{text} More is at {other}."


def _other_path(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    other = draw.choice(
        (
            of.path.replace("/etc", "/opt"),
            of.path.replace(".yaml", ".json"),
            of.path + ".d/main",
            of.path[:-6] + ".yaml",
        )
    )
    return text.replace(of.path, other) if of.path in text else f"{text} See {other}."


def _other_name(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    stem = re.sub(r"\W", "_", of.title).lower()
    name = draw.choice(
        (f"{stem}_safe()", f"get_{stem}_info", f"{stem}_v2", f"Auto{of.title.title().replace('.', '')}x")
    )
    return f"{text} " + draw.choice(
        ("There is `{}` too.", "It calls {} for that.", "Older code has `{}`.")
    ).format(name)


def _other_command(text: str, of: Document, draw: random.Random, writer: Writer) -> str | None:
    found = [match for match in _FENCE.finditer(text) if match[1] == "bash" and of.command in match[2]]
    if not found:
        return None
    match = draw.choice(found)
    other = draw.choice((f"{of.command}ctl", "systemctl", "kubectl", of.command.split("-")[0] + "-run9"))
    return text[: match.start()] + match[0].replace(of.command, other, 1) + text[match.end() :]


def _other_column(text: str, of: Document, draw: random.Random, writer: Writer) -> str | None:
    found = [match for match in _FENCE.finditer(text) if match[1] == "kql"]
    if not found:
        return None
    match = draw.choice(found)
    name = draw.choice([name for name in (of.table, *of.columns) if name in match[2]])
    other = draw.choice((f"{name}_s", f"Avg{name}", name.lower() + "2", "SeverityLevel"))
    return text[: match.start()] + match[0].replace(name, other) + text[match.end() :]


def _broken(kind: str) -> Callable[[str, Document, random.Random, Writer], str | None]:
    def make(text: str, of: Document, draw: random.Random, writer: Writer) -> str | None:
        found = [match for match in _FENCE.finditer(text) if match[1] == kind]
        if not found:
            return None
        match = draw.choice(found)
        code = _BREAK[kind](match[2], draw)
        if code is None:
            return None
        return f"{text[: match.start()]}```{kind}\n{code}\n{match[3]}```{text[match.end() :]}"

    return make


def _break_shell(code: str, draw: random.Random) -> str | None:
    return draw.choice(
        (
            code + " '",
            code + " | | sort",
            re.sub(r";? *(?:done|\nfi)\s*$", "", code)
            if re.search(r"(?:done|fi)\s*$", code)
            else code + " (",
            "if " + code,
            code + '\necho "run',
            code.replace(" ", " $(", 1),
            code + " &&",
        )
    )


def _break_json(code: str, draw: random.Random) -> str | None:
    return draw.choice(
        (
            code[:-1],
            code.replace('"', "'"),
            code[:-1] + ",}",
            code.replace(":", "", 1),
            code.replace('"', "", 1),
        )
    )


def _break_yaml(code: str, draw: random.Random) -> str | None:
    lines = code.splitlines()
    return draw.choice(
        (
            "\n".join([lines[0], "   " + lines[1], *lines[2:]]),
            code.replace("interval: ", 'interval: "', 1),
            "\t" + code,
            code + "\n" + lines[0],
            code.replace("endpoint:", "endpoint: [", 1),
            code.replace(": ", " ", 1),
        )
    )


def _break_kql(code: str, draw: random.Random) -> str | None:
    ways = breakers()
    way = draw.choice([name for name in ways if name not in ("operator", "sql")] + ["operator of no name"])
    if way == "operator of no name":
        return re.sub(r"\|\s*(where|summarize|project|extend)\b", "| kind", code, count=1)
    return ways[way](code, draw)


_BREAK: dict[str, Callable[[str, random.Random], str | None]] = {
    "bash": _break_shell,
    "json": _break_json,
    "yaml": _break_yaml,
    "kql": _break_kql,
}


def _near_copy(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    """Most of the source, a word left out here and there."""
    words = of.text.split(" ")
    kept = [word for at, word in enumerate(words) if at % draw.randrange(14, 40) != 13]
    return " ".join(kept[: int(len(kept) * 0.75)])


def _elsewhere(text: str, of: Document, draw: random.Random, writer: Writer) -> str:
    """Words of another subject, in sentences without a name."""
    return " ".join(draw.sample(_SUBJECT, 8))


_SUBJECT = (
    "Bread rises slowly in a cool kitchen, and bakers who wait are rewarded with deeper flavour.",
    "Flour from stone mills keeps more of its germ, which spoils sooner but tastes of hazelnuts.",
    "Knead gently until the dough feels like an earlobe, then cover it with a damp cloth.",
    "Salt slows yeast down, so summer loaves want a pinch more than winter ones.",
    "A heavy iron pot traps steam around the crust, whose shine comes from sugars browning late.",
    "Rye behaves differently: its gums hold water, and kneading hardly helps.",
    "Grandmother scored every loaf with a razor, three strokes for luck and one against the evil eye.",
    "Old bread becomes soup, dumplings, pudding, and finally crumbs for the hens behind the barn.",
    "Sourdough needs feeding daily, much like a cat, and sulks when neglected.",
    "On market days farmers traded eggs against rolls before sunrise, laughing about the weather.",
)

FAULTS = (
    Fault("finish", "truncated", ALL, _cut, "length"),
    Fault("parse", "fence left open", ("wiki", "nl2cmd", "nl2kql", "runbook", "explain_cmd"), _open_fence),
    Fault(
        "parse",
        "another form",
        ("faq", "diverse_qa", "nl2cmd", "nl2kql", "runbook", *TABLES, "knowledge_list", "incident_dialogue"),
        _formless,
    ),
    Fault("parse", "question without answer", QUESTIONS, _no_answer),
    Fault("parse", "table row lacks a cell", TABLES, _lost_cell),
    Fault("parse", "heading missing", ("runbook",), _lost_heading),
    Fault("parse", "empty", ALL, lambda text, of, draw, writer: draw.choice(("", "\n\n", "```\n```"))),
    Fault(
        "refusal", "speaks of the task", (*PLAIN, *QUESTIONS, "runbook", "tutorial", "knowledge_list"), _said
    ),
    Fault("refusal", "refuses", PLAIN, _refused),
    Fault("length", "too short", PLAIN, _short),
    Fault("length", "too long", PLAIN, _long),
    Fault("language", "another language", PLAIN, _foreign),
    Fault("language", "slips into another script", ALL, _slip),
    Fault("repetition", "repeats a sentence", PLAIN, _again),
    Fault("identifiers", "invented flag", ALL, _new_flag),
    Fault("identifiers", "altered flag", ALL, _other_flag),
    Fault("identifiers", "changed number", STATING, _other_number),
    Fault("identifiers", "changed unit", STATING, _other_unit),
    Fault("identifiers", "invented URL", ALL, _other_url),
    Fault("identifiers", "invented path", ALL, _other_path),
    Fault("identifiers", "invented name", ALL, _other_name),
    Fault(
        "identifiers", "invented command", ("nl2cmd", "runbook", "explain_cmd", "tutorial"), _other_command
    ),
    Fault("identifiers", "invented table or column", ("nl2kql", "runbook"), _other_column),
    Fault("syntax", "shell", ("nl2cmd", "runbook", "tutorial", "wiki"), _broken("bash")),
    Fault("syntax", "JSON", ("wiki", "extract_knowledge"), _broken("json")),
    Fault("syntax", "YAML", ("wiki", "extract_knowledge"), _broken("yaml")),
    Fault("syntax", "KQL", ("nl2kql", "runbook"), _broken("kql")),
    Fault("copy", "near copy", ("wiki", "extract_knowledge", "distill"), _near_copy),
    Fault("drift", "another subject", PLAIN, _elsewhere),
)
