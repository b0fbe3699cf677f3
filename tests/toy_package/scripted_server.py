"""A small endpoint that speaks OpenAI's API and writes by a script: what a recipe asks for, made of the
document's own words, a seed always giving the same. It can be slow, busy, away, want a key, refuse.

    python scripted_server.py '{"log": FILE, "key": "", "delay": 0, "busy": 0, "broken": 0, "bad_every": 0}'

Prints its port. Each request that it answers is a line in the log: {"at", "seed", "path", "prompt"}.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import sys
import time

from aiohttp import web

TABLE = "| Name | Meaning | Default |\n| --- | --- | --- |\n"


class Writer:
    """Plain words of a document, put together anew: no run of five words stays, no word is invented."""

    def __init__(self, document: str, seed: int):
        self.draw = random.Random(seed)
        # what may be an option, a path, a number or a name of code stays out
        found = re.findall(r"(?<![\w./-])[a-z]{3,12}(?![\w./(=-])", document)
        self.words = list(dict.fromkeys(found)) or ["nothing"]
        self.size = len(document.split())

    def phrase(self, words: int = 3) -> str:
        return " ".join(self.draw.choices(self.words, k=words))

    def sentence(self) -> str:
        openings = ("Where", "When", "Because", "If", "As", "Since", "While")
        return (
            f"{self.draw.choice(openings)} the {self.phrase()} is with the {self.phrase()}, it has"
            f" the {self.phrase()} and that {self.phrase(2)}."
        )

    def prose(self, words: int) -> str:
        return " ".join(self.sentence() for _ in range(words // 20 + 1))

    def question(self) -> str:
        return f"What is the {self.phrase()} of the {self.phrase(2)}?"


def write(document: str, instruction: str, seed: int) -> str:
    """What the recipe with this instruction asks for."""
    writer = Writer(document, seed)
    length = max(100, int(0.3 * writer.size))
    parts = range(4)
    if "Q: the question" in instruction:
        return "\n\n".join(f"Q: {writer.question()}\nA: {writer.prose(length // 4)}" for _ in parts)
    if "## Symptom" in instruction:
        heads = ("Symptom", "Diagnosis", "Fix", "Verify")
        return "\n\n".join(f"## {head}\n\n{writer.prose(length // 4)}" for head in heads)
    if "```bash" in instruction or "```kql" in instruction:
        kind = "bash" if "```bash" in instruction else "kql"
        code = (
            (lambda: "echo " + writer.phrase(2))
            if kind == "bash"
            else (lambda: f"{writer.phrase(1)} | count")
        )
        return "\n\n".join(
            f"Request: {writer.prose(length // 8)}\n```{kind}\n{code()}\n```" for _ in range(3)
        )
    if "reference table" in instruction or "Markdown table" in instruction:
        rows = "\n".join(f"| {writer.phrase(1)} | {writer.phrase(4)} | - |" for _ in range(5))
        tail = f"Q: {writer.question()}\nA: {writer.sentence()}"
        return f"{writer.prose(length)}\n\n{TABLE}{rows}\n\n{tail}"
    if '"Ana: "' in instruction:
        return "\n".join(f"{name}: {writer.prose(length // 8)}" for name in ("Ana", "Ben") * 4)
    if '"- "' in instruction:
        items = "\n".join(f"- {writer.sentence()}" for _ in range(length // 20 + 4))
        return (
            f"```\n{writer.phrase(2)}\n```\n\n{items}\n\n{writer.sentence()}"
            if "fenced" in instruction
            else items
        )
    if "numbered steps" in instruction:
        return writer.prose(60) + "\n\n" + "\n".join(f"{n}. {writer.prose(length // 5)}" for n in range(1, 5))
    return "\n\n".join(writer.prose(length // 3) for _ in range(3))


class Server:
    def __init__(self, script: dict):
        self.script = {
            "key": "",
            "delay": 0.0,
            "busy": 0,
            "broken": 0,
            "bad_every": 0,
            "context": 0,
            **script,
        }
        self.counts = {"busy": 0, "broken": 0}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        script = self.script
        if script["key"] and request.headers.get("Authorization") != f"Bearer {script['key']}":
            return _problem(401, "Incorrect API key provided")
        page = await request.json()
        if page["model"] != "scripted":
            return _problem(404, f"The model `{page['model']}` does not exist")
        asked = page.get("prompt") or page["messages"][-1]["content"]
        if script["context"] and len(asked) > script["context"]:
            return _problem(400, "maximum context length exceeded")
        digest = hashlib.sha256(json.dumps([page["seed"], asked]).encode()).hexdigest()
        # the first requests find it busy, or lose their connection
        for fault in ("busy", "broken"):
            if self.counts[fault] < script[fault]:
                self.counts[fault] += 1
                self._log(page, request, digest, fault)
                if fault == "broken":
                    assert request.transport is not None
                    request.transport.abort()
                    return web.Response(status=500)
                return _problem(429, "slow down", {"Retry-After": "0.2"})
        self._log(page, request, digest, "answered")
        await asyncio.sleep(script["delay"])
        text = self._text(page, asked)
        usage = {"prompt_tokens": len(str(asked)) // 4, "completion_tokens": len(text) // 4}
        inner = {"message": {"role": "assistant", "content": text}} if "messages" in page else {"text": text}
        choice = {"index": 0, "finish_reason": "stop", **inner}
        return web.json_response({"model": "scripted", "choices": [choice], "usage": usage})

    def _text(self, page: dict, asked: str) -> str:
        every = self.script["bad_every"]
        if every and page["seed"] % every == 0:
            return "I'm sorry, I can't help with that."
        if label := self.script.get("labels"):
            # a grader: by a word in the document
            return next((answer for word, answer in label.items() if word in asked), "none of them")
        if "Grade how well" in asked:
            return str(2 + len(asked) % 4)
        match = re.match(r"<(document[\w-]*)>\n(.*)\n</\1>\n\n(.*)", asked, re.DOTALL)
        if match:
            return write(match[2], match[3], page["seed"])
        return write(asked, "", page["seed"])

    def _log(self, page: dict, request: web.Request, digest: str, what: str) -> None:
        line = {"at": time.time(), "seed": page["seed"], "path": request.path, "prompt": digest, "what": what}
        with open(self.script["log"], "a") as file:
            file.write(json.dumps(line) + "\n")


def _problem(status: int, message: str, headers: dict | None = None) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


async def main() -> None:
    server = Server(json.loads(sys.argv[1]))
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/chat/completions", server.answer)
    app.router.add_post("/v1/completions", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", server.script.get("port", 0))
    await site.start()
    print(runner.addresses[0][1], flush=True)
    # ends with the test that started it
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(main())
