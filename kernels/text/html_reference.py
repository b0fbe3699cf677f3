"""The contract of the HTML kernels: the same columns, trees and text in plain Python, a page at a time."""

from __future__ import annotations

import html.entities
import re

import numpy as np

from kernels.text import html_names as names
from kernels.text.html_attributes import MAX_ELEMENT_WORDS
from kernels.text.html_names import TAGS, word_id
from kernels.text.html_tokens import MAX_DEPTH

_WS = rb"[\x00-\x20]"
_TAG = re.compile(rb"<(/?)([A-Za-z][^\x00-\x20>/]*)")
_ATTRIBUTE = re.compile(
    rb"([^\x00-\x20>/][^\x00-\x20=>/]*)" + _WS + rb"*"
    rb"(?:=" + _WS + rb"*(?:\"([^\"]*)(?:\"|\Z)|'([^']*)(?:'|\Z)|([^\x00-\x20>]*)))?"
)
_COMMENT_END = re.compile(rb"--!?>")
_DISPLAY_NONE = re.compile(rb"display[\x00-\x20:]*none", re.IGNORECASE)
_CODE = re.compile(rb"&#(?:[xX]([0-9A-Fa-f]+)|([0-9]+));?")
_NAMED = re.compile(rb"&([0-9A-Za-z]{1,31};?)")
_SVG_ENDS = re.compile(rb"div|ul|li[^nN]|sp|bu|p[\x00-\x20>]", re.IGNORECASE)
_PUBLISHED = re.compile(rb'"datepublished"[^"]*"([^"]+)"', re.IGNORECASE | re.DOTALL)
_COMMONS = re.compile(rb"h...(?:.[sS]|[^sS]).{2}creativecommons\.org/", re.IGNORECASE | re.DOTALL)
_BLOCK = {tag for tag in TAGS.values() if names.BLOCK_TAGS[tag]}
_MASK = 2**64 - 1


def _character(page: bytes, at: int, end: int) -> tuple[str | None, int]:
    """The characters of the reference at ``page[at]``, and the place behind it."""
    if match := _CODE.match(page, at, end):
        code = int(match[1], 16) if match[1] else int(match[2])
        if 128 <= code < 160:
            code = int(names.CODE_PAGE[code - 128]) or code
        if code == 0 or code > 0x10FFFF or 0xD800 <= code < 0xE000:
            code = 0xFFFD
        return chr(code), match.end()
    if match := _NAMED.match(page, at, end):
        name = match[1].decode()
        for length in range(len(name), 0, -1):
            if (char := html.entities.html5.get(name[:length])) is not None:
                return char, at + 1 + length
    return None, at + 1


def _name_words(value: bytes) -> list[int]:
    """Of a class attribute, its words and parts as the kernel writes them."""
    found = []
    for token in re.split(rb"[\x00-\x20]+", value):
        parts = re.findall(rb"[A-Z]*[a-z]+|[A-Z]+", token)
        # a capital opens a new part behind a small letter only
        merged = [part.lower().decode() for part in parts]
        kept = [part for part in merged if len(part) > 1]
        found += [word_id(part) for part in kept]
        if len(kept) > 1:
            found.append(
                word_id(token.lower().decode("latin-1"), 0x5555) if token.isascii() else _bytes_id(token)
            )
    return found


def _bytes_id(token: bytes) -> int:
    value = 7
    for byte in token:
        value = (value * 31 + (byte + 32 if 65 <= byte <= 90 else byte)) & _MASK
    return (((value ^ 0x5555) * 0x9E3779B97F4A7C15) & _MASK) >> 46


class Tokens:
    """What ``html_tokens.Workspace`` says of a page: lists of rows, bytes of text, marks."""

    def __init__(self, page: bytes):
        self.page = page
        self.elements: list[list[int]] = [[0] * 7]
        self.words: list[int] = []
        self.blocks: list[list[int]] = []
        self.text = bytearray()
        self.marks: dict[int, tuple[int, int]] = {}
        self._open: list[tuple[int, int]] = [(0, 0)]
        # block element, table row, cell, list item, lists: of each open element
        self._places: list[list[int]] = [[0] * 5]
        self._over = 0
        self._block: list[int] | None = None
        self._gap = self._images = 0
        self._endless: set[int] = set()
        at = 0
        while at < len(page):
            at = self._step(at)
        self._close()

    def _has(self, name: str) -> bool:
        return any(tag == TAGS[name] for tag, _ in self._open)

    def _step(self, at: int) -> int:
        page, size = self.page, len(self.page)
        tag = _TAG.match(page, at)
        if page[at] != 60 or not (
            tag or page[at + 1 : at + 2] in (b"!", b"?") or (page[at + 1 : at + 2] == b"/" and at + 2 < size)
        ):
            stop = page.find(b"<", at + 1)
            self._read_text(at, size if stop < 0 else stop)
            return size if stop < 0 else stop
        if tag is None:
            if page[at + 1 : at + 4] == b"!--":
                end = _COMMENT_END.search(page, at + 2)
                return end.end() if end else size
            return self._behind(b">", at)
        number = TAGS.get(tag[2].decode("latin-1").lower(), 0) if tag[2].isascii() else 0
        if tag[1]:
            self._end(number)
            return self._behind(b">", tag.end())
        return self._start(number, tag[2], tag.end())

    def _behind(self, byte: bytes, at: int) -> int:
        found = self.page.find(byte, at)
        return len(self.page) if found < 0 else found + 1

    def _read_text(self, at: int, stop: int) -> None:
        page = self.page
        is_pre, is_link = self._has("pre"), self._has("a")
        link_from = len(self.text)
        while at < stop:
            piece: bytes = page[at : at + 1]
            at += 1
            if piece == b"&":
                char, at = _character(page, at - 1, stop)
                piece = piece if char is None else char.encode()
            elif page[at - 1 : at + 1] == b"\xc2\xa0":
                piece = b"\xc2\xa0"
                at += 1
            if len(piece) == 1 and piece[0] <= 32:
                if is_pre and (piece == b"\0" or (piece == b"\r" and page[at : at + 1] == b"\n")):
                    continue
                if not is_pre:
                    self._gap = max(self._gap, 1)
                    continue
                piece = b"\n" if piece == b"\r" else piece
            elif piece == b"\xc2\xa0":
                if not is_pre and self._block is None:
                    continue
                piece = b" "
            if self._block is None:
                element, *place = self._places[-1]
                begin, inner = len(self.text), self._open[-1][1]
                self._block = [begin, 0, element, inner, 0, int(is_link), 0, at, *place, int(is_pre)]
                self._gap = 0
                link_from = begin
            self.text += (b"", b" ", b"\n", b"\n\n")[self._gap]
            self._gap = 0
            self.text += piece
        if is_link and self._block is not None:
            self._block[4] += len(self.text) - link_from

    def _close(self) -> None:
        block, self._block = self._block, None
        if block is None:
            return
        text = bytes(self.text[block[0] :])
        kept = text.rstrip(bytes(range(33)))
        if kept and block[12]:
            kept = text
        del self.text[block[0] + len(kept) :]
        if kept:
            block[1], block[6] = len(self.text), self._images
            self.blocks.append(block)
            self._images = 0

    def _boundary(self) -> None:
        if self._block is not None and self._block[12] and self._has("pre"):
            if self.text[-1:] != b"\n":
                self.text += b"\n"
            return
        self._close()
        self._gap = 0

    def _pop(self, keep: int) -> None:
        del self._open[keep:], self._places[keep:]

    def _end(self, tag: int) -> None:
        is_block = tag in _BLOCK
        if self._over:
            self._over -= not names.VOID_TAGS[tag]
        elif tag not in (TAGS["body"], TAGS["html"]):
            for k in range(len(self._open) - 1, max(1, len(self._open) - 64) - 1, -1):
                other = self._open[k][0]
                if other == tag:
                    self._pop(k)
                    break
                stops = other < 64 and int(names.END_STOPS) >> other & 1 and not names.TABLE_PARTS[tag]
                if stops if is_block else other in _BLOCK:
                    break
        if is_block:
            self._boundary()

    def _start(self, tag: int, name: bytes, at: int) -> int:
        page, size = self.page, len(self.page)
        at, words, flags, self_closing, is_data, path = self._attributes(tag, at)
        if names.RAW_TAGS[tag]:
            if tag == TAGS["svg"] and self_closing:
                return at
            end = size if tag in self._endless else self._raw_end(tag, name, at)
            if end >= size:
                self._endless.add(tag)
                return size if tag in (TAGS["script"], TAGS["style"]) else at
            if is_data and (match := _PUBLISHED.search(page, at, end)):
                self.marks.setdefault(names.PUBLISHED_DATA, match.span(1))
            if tag == TAGS["title"] and end > at:
                self.marks.setdefault(names.TITLE, (at, end))
            return self._behind(b">", end) if page[end + 1 : end + 2] == b"/" else end
        if names.VOID_TAGS[tag]:
            self._images += tag == TAGS["img"]
            if tag == TAGS["br"]:
                if not self._has("pre"):
                    self._gap = 2 if self._gap < 2 else 3
                elif self._block is not None:
                    self.text += b"\n"
            if tag in _BLOCK:
                self._boundary()
            return at
        self._imply_ends(tag)
        if tag in _BLOCK:
            self._boundary()
        if len(self._open) == MAX_DEPTH:
            self._over += 1
            return at
        return self._push(tag, words, flags, path, at)

    def _imply_ends(self, tag: int) -> None:
        closes, stops = int(names.CLOSES[tag]), int(names.STOPS[tag])
        keep = len(self._open)
        for k in range(len(self._open) - 1, max(1, len(self._open) - 32) - 1, -1):
            other = self._open[k][0]
            bit = 1 << other if other < 64 else 0
            if tag == TAGS["a"]:
                if other in _BLOCK:
                    break
                keep = k if other == tag else keep
            elif closes & bit:
                keep = k
            elif stops & bit:
                break
        self._pop(keep)

    def _push(self, tag: int, words: list[int], flags: int, path: int, at: int) -> int:
        row, depth = len(self.elements), len(self._open)
        parent = self._open[-1][1]
        above = self.elements[parent]
        first = len(self.words)
        self.words += words
        path = ((above[5] * 0x9E3779B1 + path * 0x85EBCA77) & _MASK) >> 7 & 0x7FFFFFFF
        flags |= above[2] | int(names.TAG_FLAGS[tag])
        self.elements.append([tag, parent, flags, first, len(self.words), path, depth])
        place = list(self._places[-1])
        if tag in _BLOCK:
            place[0] = row
        if tag == TAGS["table"]:
            place[1] = place[2] = 0
        elif tag == TAGS["tr"]:
            place[1:3] = row, 0
        elif tag in (TAGS["td"], TAGS["th"]):
            place[2] = row
        elif tag == TAGS["li"]:
            place[3] = row
        elif tag in (TAGS["ul"], TAGS["ol"]):
            place[4] += 1
        elif tag == TAGS["pre"]:
            at += self.page[at : at + 1] == b"\r"
            at += self.page[at : at + 1] == b"\n"
        if tag == TAGS["a"] and self._block is not None:
            self._block[5] += 1
        self._open.append((tag, row))
        self._places.append(place)
        return at

    def _attributes(self, tag: int, at: int) -> tuple[int, list[int], int, bool, bool, int]:
        page, size = self.page, len(self.page)
        words: list[int] = []
        flags, self_closing, is_data, path = 0, False, False, tag
        said: dict[int, tuple[int, int]] = {}
        license_, canonical = False, False
        while at < size and page[at] != 62:
            if page[at] <= 32 or page[at] == 47:
                self_closing = self_closing if page[at] <= 32 else True
                at += 1
                continue
            self_closing = False
            match = _ATTRIBUTE.match(page, at)
            assert match
            at = match.end()
            name = match[1].lower()
            start, end = next((match.span(k) for k in (2, 3, 4) if match[k] is not None), (0, 0))
            value = page[start:end]
            kind = names.ATTRIBUTES.get(name.decode("latin-1"), -1) if name.isascii() else -1
            before = len(words)
            if kind == names.CLASS:
                words += _name_words(value)
                if min(len(words), MAX_ELEMENT_WORDS) > before:
                    path = (path * 31 + words[before]) & _MASK
            elif kind in (names.ID, names.NAME):
                words += _name_words(value[:40])
            elif kind == names.HIDDEN_ATTRIBUTE or (kind == names.STYLE and _hides(value)):
                flags |= names.HIDDEN
            elif kind == names.ARIA_ATTRIBUTE and value[:1].lower() == b"t":
                flags |= names.ARIA_HIDDEN
            elif kind == names.REL and tag in (TAGS["a"], TAGS["link"]):
                license_ |= b"license" in value.lower()
                canonical |= value.lower().startswith(b"canonical")
            elif kind == names.TYPE:
                is_data = tag == TAGS["script"] and value.lower().startswith(b"application/ld+json")
            elif kind == names.LANG and tag == TAGS["html"]:
                self._mark(names.LANGUAGE, (start, end))
            if kind >= 0:
                said[kind] = (start, end)
            del words[MAX_ELEMENT_WORDS:]
        self._say(tag, said, license_, canonical)
        return min(at + 1, size + 1), words, flags, self_closing, is_data, path

    def _mark(self, kind: int, span: tuple[int, int]) -> None:
        if span[1] > span[0]:
            self.marks.setdefault(kind, span)

    def _say(self, tag: int, said: dict, license_: bool, canonical: bool) -> None:
        href = said.get(names.HREF, (0, 0))
        if license_:
            self._mark(names.LICENSE, href)
        if canonical and tag == TAGS["link"]:
            self._mark(names.CANONICAL, href)
        if tag == TAGS["a"] and href[1] - href[0] > 30 and _COMMONS.match(self.page, *href):
            self._mark(names.COMMONS, href)
        about = said.get(names.NAME, (0, 0))
        if tag == TAGS["meta"]:
            name = self.page[slice(*about)][:64].lower()
            known = names.META_NAMES.get(name.decode("latin-1"))
            if known is not None:
                self._mark(known, said.get(names.CONTENT, (0, 0)))
        elif tag == TAGS["time"] and about[1] > about[0]:
            self._mark(names.PUBLISHED_TIME, said.get(names.DATETIME, (0, 0)))

    def _raw_end(self, tag: int, name: bytes, at: int) -> int:
        page, size = self.page, len(self.page)
        depth = escaped = 0
        comment_end = at
        begins = re.compile(re.escape(name) + rb"(?:[\x00-\x20/>]|\Z)", re.IGNORECASE)
        while (at := page.find(b"<", at)) >= 0:
            escaped = escaped if at < comment_end else 0
            if page[at + 1 : at + 2] == b"/":
                if begins.match(page, at + 2):
                    if escaped == 2:
                        escaped = 1
                    elif depth == 0:
                        return at
                    else:
                        depth -= 1
            elif tag == TAGS["script"]:
                if escaped == 0 and page[at + 1 : at + 4] == b"!--":
                    escaped = 1
                    end = _COMMENT_END.search(page, at + 2)
                    comment_end = end.end() if end else size
                elif escaped == 1 and begins.match(page, at + 1):
                    escaped = 2
            elif tag == TAGS["template"]:
                depth += begins.match(page, at + 1) is not None
            elif tag == TAGS["svg"] and _SVG_ENDS.match(page + b" ", at + 1):
                return at
            at += 1
        return size


def _hides(style: bytes) -> bool:
    first = re.search(rb"display", style[:-4], re.IGNORECASE)
    return bool(first and _DISPLAY_NONE.match(style, first.start()))


def tree_scores(columns: np.ndarray, features, thresholds, masks, leaves) -> list[int]:
    """The contract of ``add_trees``."""
    scores = [0] * columns.shape[1]
    for b in range(columns.shape[1]):
        for tree in range(len(features)):
            left = 2**32 - 1
            for feature, threshold, mask in zip(features[tree], thresholds[tree], masks[tree], strict=True):
                if columns[feature, b] > threshold:
                    left &= int(mask)
            scores[b] += int(leaves[tree][(left & -left).bit_length() - 1])
    return scores
