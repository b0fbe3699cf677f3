"""Texts to token ids: the chat template is control, everything else is plain text.

A page may spell ``<|im_end|>`` or ``</s>``. Rendering a conversation to one string and encoding that
would make it control. So the template is rendered with a mark in the place of each text, the marks are
cut out, the template's own pieces are encoded with special tokens and the texts without.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

# What chat templates in use are made of, for endpoints that encode by themselves.
_NAMES = (
    "s|bos|eos|pad|unk|mask|sep|cls|im_start|im_end|start_of_turn|end_of_turn|think|tool_call|tool_response"
)
_MARKS = re.compile(
    rf"<(?=[|｜])|<(?=/?(?:{_NAMES})>)|<(?=</?SYS>>)|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_\w+)\])"
)


def defused(text: str) -> str:
    """``text`` with a space after the first sign of what may be a chat marker: ``<|x|>`` to ``< |x|>``.

    For an endpoint whose tokenizer we do not know, so that we cannot send token ids.
    """
    return _MARKS.sub(lambda match: match[0] + " ", text)


@dataclass(frozen=True)
class Prompts:
    """A model's tokenizer and chat template."""

    tokenizer: Any  # transformers.PreTrainedTokenizerFast

    @staticmethod
    def read(folder: Path) -> Prompts:
        """The tokenizer of a Hugging Face folder. Raises ValueError when there is none."""
        from transformers import AutoTokenizer

        if not folder.is_dir():
            raise ValueError(f"engine: {folder} is no folder with a Hugging Face model")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"engine: {folder} holds no tokenizer that transformers reads: {error}"
            ) from error
        if not tokenizer.is_fast:
            raise ValueError(f"engine: {folder}: its tokenizer has no fast form (tokenizer.json)")
        return Prompts(tokenizer)

    @property
    def has_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    @cached_property
    def _plain(self) -> Tokenizer:
        """The tokenizer that takes no text for control: marks that are not special are made so, for
        only special ones can be switched off."""
        settings = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for token in settings.get("added_tokens", []):
            token["special"] = token["special"] or bool(token["content"].strip())
        plain = Tokenizer.from_str(json.dumps(settings))
        plain.encode_special_tokens = True
        plain.no_truncation()
        plain.no_padding()
        return plain

    @cached_property
    def _special(self) -> frozenset[int]:
        unknown = self.tokenizer.unk_token_id
        return frozenset(self.tokenizer.all_special_ids) - {unknown}

    def encode(self, text: str) -> list[int]:
        """Ids of plain text. Raises ValueError where the vocabulary spells a special token even so."""
        ids = self._plain.encode(text, add_special_tokens=False).ids
        if not self._special.isdisjoint(ids):
            raise ValueError("the text spells a special token and cannot be encoded as text")
        return ids

    def count(self, text: str) -> int:
        """Tokens of plain text."""
        return len(self._plain.encode(text, add_special_tokens=False).ids)

    def continuation(self, prompt: str) -> list[int]:
        """Ids of a text to go on from, with the sign for a beginning where the model has one."""
        return [*self._start, *self.encode(prompt)]

    @cached_property
    def _start(self) -> list[int]:
        """What the tokenizer puts before a text (its end sign, if it adds one, must not follow a prompt)."""
        empty = self.tokenizer("").input_ids
        return [token for token in empty[:1] if token == self.tokenizer.bos_token_id]

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)

    @cached_property
    def _knows_system(self) -> bool:
        """Some templates raise at a system message, some leave it out."""
        try:
            text = self._render([{"role": "system", "content": "@@"}, {"role": "user", "content": "x"}])
        except Exception:  # a template may raise what it likes
            return False
        return "@@" in text

    def conversation(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of messages up to where the model answers.

        Without a chat template the texts follow each other, apart by an empty line.
        """
        if not self.has_template:
            return self.continuation("\n\n".join(message["content"] for message in messages) + "\n\n")
        mark = uuid.uuid4().hex
        marked = [{**message, "content": f"{mark}{n}{mark}"} for n, message in enumerate(messages)]
        if not self._knows_system and marked[0]["role"] == "system":
            head, first, *rest = marked
            marked = [{**first, "content": f"{head['content']}\n\n{first['content']}"}, *rest]
        rendered = self._render(marked)
        ids: list[int] = []
        for number, piece in enumerate(re.split(f"{mark}([0-9]+){mark}", rendered)):
            if number % 2:
                ids += self.encode(messages[int(piece)]["content"])
            elif piece:
                ids += self.tokenizer(piece, add_special_tokens=False).input_ids
        return ids
