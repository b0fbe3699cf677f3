"""Features of a page's blocks, from the tokenizer's columns: what the trees of the extractor read.

Two word tables carry most of it: what class words and tags around a block, and what words in it, say
about main content (logistic regressions, int8 in units of 1 / ``WORD_SCALE``). Sums of both are
integers; whatever is divided is divided once, so features are the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels.text.html_names import (
    ARIA_HIDDEN,
    HASH_START,
    HASH_STEP,
    HIDDEN,
    NUM_WORDS,
    TAG_FLAGS,
    TAGS,
    word_id,
    word_of,
)
from kernels.text.html_tokens import (
    AT,
    DEPTH,
    ELEMENT,
    END,
    FLAGS,
    IMAGES,
    INNER,
    LINK_BYTES,
    LINKS,
    PARENT,
    PATH,
    START,
    TAG,
    WORDS_FROM,
    WORDS_TO,
)

FEATURE_VERSION = 1
WORD_SCALE = 32
# a tag's own place in the table of class words
TAG_WORDS = NUM_WORDS - 128
# ... and of a word of the element or the one around it that a block begins in: its bits turned
NEAR = 0x15555
# bytes of a block that its text score looks at
_READ = 400
_CONTAINERS = 5
_WINDOWS = (4, 10)
_NEIGHBOURS = (-1, 1)
_FLAG_NAMES = ("nav", "footer", "main", "article", "form", "table")
_FLAG_BITS = np.array([TAG_FLAGS[TAGS[name]] for name in _FLAG_NAMES] + [HIDDEN | ARIA_HIDDEN])

# subjects of class words: how much of a page lies under each tells what kind of page it is
_SUBJECT_NAMES = (
    "comment comments commentlist disqus|reply replies response answer|post posts entry|"
    "thread topic message messages forum|review reviews rating|related recommended recommend similar more|"
    "product products pdp|price prices cart|card cards tile item grid|sidebar widget aside rail|"
    "description desc summary excerpt|share social follow|newsletter subscribe signup login|"
    "modal popup cookie consent overlay|faq accordion|testimonial testimonials quote|author byline bio meta|"
    "breadcrumb breadcrumbs crumb|tags tag category categories|filter filters facet sort|"
    "hero banner cta promo|tab tabs panel|title heading headline|body content text"
)
_SUBJECTS = [names.split() for names in _SUBJECT_NAMES.split("|")]
NUM_SUBJECTS = len(_SUBJECTS)
_SUBJECT_SLOTS = 512
_SUBJECT_WORDS = np.full(_SUBJECT_SLOTS, -1, np.int64)
_SUBJECT_BITS = np.zeros(_SUBJECT_SLOTS, np.int64)
for _number, _names in enumerate(_SUBJECTS):
    for _name in _names:
        _word = word_id(_name)
        _at = _word % _SUBJECT_SLOTS
        while _SUBJECT_WORDS[_at] >= 0:
            _at = (_at + 1) % _SUBJECT_SLOTS
        _SUBJECT_WORDS[_at], _SUBJECT_BITS[_at] = _word, 1 << _number

FEATURES = (
    *("words", "chars", "link_share", "links", "images", "sentences", "commas", "duplicate", "tag"),
    *("inner_tag", "depth"),
    *(f"in_{name}" for name in (*_FLAG_NAMES, "hidden")),
    *("block_share", "words_before", "bytes_before", "since_heading", "words_since_heading"),
    *("since_h1", "words_since_h1"),
    *("chain", "chain_to_best", "chain_to_mean", "inner", "element", "parent", "lowest", "highest"),
    *(
        f"container{n}_{what}"
        for n in range(1, _CONTAINERS + 1)
        for what in ("share", "link_share", "blocks", "words_a_block", "sentences", "chain")
    ),
    *("same_path", "same_path_words", "same_path_links", "same_path_text"),
    *("same_element", "same_container", "same_container2"),
    *(
        f"beside{n:+d}_{what}"
        for n in _NEIGHBOURS
        for what in ("words", "link_share", "chain", "text", "tag")
    ),
    *(f"around{n}_{what}" for n in _WINDOWS for what in ("words", "link_share", "chain", "text")),
    *("text", "heading_text", "heading_chain"),
    *("page_blocks", "page_words", "page_link_share", "page_text_share", "page_elements", "page_main"),
    *("page_article", "page_p", "page_li", "page_td", "page_images", "page_sentences", "page_chain"),
    *("page_best_chain", "page_headings", "page_tiny"),
    *(f"page_{names[0]}" for names in _SUBJECTS),
)
NUM_FEATURES = len(FEATURES)

_H1, _H6, _P, _LI, _TD, _TH = (TAGS[name] for name in ("h1", "h6", "p", "li", "td", "th"))
_MAIN, _ARTICLE = TAG_FLAGS[TAGS["main"]], TAG_FLAGS[TAGS["article"]]
_PAIR = np.uint64(0x9E3779B1)
_PATHS = 4096

# columns of a block's statistics: words, bytes of letters and digits, sentences, commas, the text
# score, a hash of its letters and digits
WORDS, CHARS, SENTENCES, COMMAS, SCORE, HASH = range(6)
NUM_STATISTICS = 6


@njit(nogil=True, cache=True)
def text_words(text, start, end, ids):
    """Places in a word table of the words of ``text[start:end]``, and of each with the word before it,
    of its first bytes; digits count as one letter. Returns how many."""
    count = 0
    key, before = HASH_START, np.uint64(0)
    inside = False
    end = min(end, start + _READ)
    for at in range(start, end + 1):
        byte = np.int64(text[at]) if at < end else np.int64(32)
        if 48 <= byte <= 57:
            byte = np.int64(48)
        elif 65 <= byte <= 90:
            byte += 32
        if byte == 48 or byte >= 128 or 97 <= byte <= 122:
            key = key * HASH_STEP + np.uint64(byte)
            inside = True
        elif inside:
            ids[count] = word_of(key)
            ids[count + 1] = word_of(key * HASH_STEP ^ before * _PAIR)
            count += 2
            before, key, inside = key, HASH_START, False
    return count


@njit(nogil=True, cache=True)
def describe(text, blocks, text_table, statistics):
    """The statistics of each block: int64 [>= n, NUM_STATISTICS]."""
    ids = np.empty(_READ + 2, np.int64)
    for b in range(len(blocks)):
        start, end = blocks[b, START], blocks[b, END]
        words = chars = sentences = commas = 0
        key = np.uint64(14695981039346656037)
        inside = False
        for at in range(start, end):
            byte = np.int64(text[at])
            low = byte | 32
            if 97 <= low <= 122 or byte >= 128 or 48 <= byte <= 57:
                words += not inside
                inside = True
                chars += 1
                key = (key ^ np.uint64(low)) * np.uint64(1099511628211)
            else:
                inside = False
                if byte == 46 or byte == 33 or byte == 63:
                    sentences += at + 1 == end or text[at + 1] <= 32
                commas += byte == 44
        total = 0
        count = text_words(text, start, end, ids)
        for k in range(count):
            total += text_table[ids[k]]
        row = statistics[b]
        row[WORDS], row[CHARS], row[SENTENCES], row[COMMAS], row[HASH] = (
            words,
            chars,
            sentences,
            commas,
            np.int64(key),
        )
        row[SCORE] = np.int64(total * 256 / np.sqrt(max(count, 1)))


@njit(nogil=True, cache=True)
def element_scores(elements, words, class_table, scores):
    """int32 [n, 7]: of each element the score of its tag and class words, the sum over all that it lies
    in and itself, the lowest and the highest of these; what its words say of what lies right in it, the
    sum of the scores, of these, and its subjects."""
    for e in range(len(elements)):
        own = np.int32(class_table[TAG_WORDS + elements[e, TAG]])
        near = np.int32(class_table[(TAG_WORDS + elements[e, TAG]) ^ NEAR])
        subjects = np.int32(0)
        for k in range(elements[e, WORDS_FROM], elements[e, WORDS_TO]):
            word = np.int64(words[k])
            own += class_table[word]
            near += class_table[word ^ NEAR]
            at = word % _SUBJECT_SLOTS
            while _SUBJECT_WORDS[at] >= 0:
                if _SUBJECT_WORDS[at] == word:
                    subjects |= np.int32(_SUBJECT_BITS[at])
                at = (at + 1) % _SUBJECT_SLOTS
        row = scores[e]
        row[0], row[4] = own, near
        if e:
            above = scores[elements[e, PARENT]]
            row[5] = above[5] + own
            row[1] = row[5] + near + above[4]
            row[2], row[3] = min(above[2], own), max(above[3], own)
            row[6] = subjects | above[6]
        else:
            row[5] = row[2] = row[3] = own
            row[1] = own + near
            row[6] = subjects


@njit(nogil=True, cache=True)
def _share(part, whole):
    return np.float32(part / whole) if whole > 0 else np.float32(0)


# columns of an element's totals, over all blocks in it
_T_WORDS, _T_CHARS, _T_LINKS, _T_BLOCKS, _T_SENTENCES = range(5)


@njit(nogil=True, cache=True)
def page_totals(elements, blocks, statistics, scores, size):
    """What the features of all blocks of a page share; see :func:`block_features`."""
    num_blocks, num_elements = len(blocks), len(elements)
    totals = np.zeros((num_elements, 5), np.int64)
    # sums of the blocks before each: words, bytes, of links, words times chain, text score
    before = np.zeros((num_blocks + 1, 5), np.int64)
    same = np.zeros((_PATHS, 4), np.int64)
    paths = np.zeros(_PATHS, np.int32)
    of_page = np.zeros(16 + NUM_SUBJECTS, np.float32)
    subjects = np.zeros(NUM_SUBJECTS, np.int64)
    in_main = in_article = in_p = in_li = in_td = images = headings = tiny = 0
    best = -(1 << 30)
    capacity = 16
    while capacity < 2 * num_blocks:
        capacity *= 2
    seen = np.zeros(capacity, np.int64)
    duplicate = np.zeros(num_blocks, np.bool_)
    for b in range(num_blocks):
        e, inner = blocks[b, ELEMENT], blocks[b, INNER]
        words, chars = statistics[b, WORDS], statistics[b, CHARS]
        chain = scores[inner, 1]
        total = totals[e]
        total[_T_WORDS] += words
        total[_T_CHARS] += chars
        total[_T_LINKS] += blocks[b, LINK_BYTES]
        total[_T_BLOCKS] += 1
        total[_T_SENTENCES] += statistics[b, SENTENCES]
        before[b + 1, 0] = before[b, 0] + words
        before[b + 1, 1] = before[b, 1] + chars
        before[b + 1, 2] = before[b, 2] + blocks[b, LINK_BYTES]
        before[b + 1, 3] = before[b, 3] + words * chain
        before[b + 1, 4] = before[b, 4] + statistics[b, SCORE]
        tag, flags = elements[e, TAG], elements[e, FLAGS]
        in_main += words if flags & _MAIN else 0
        in_article += words if flags & _ARTICLE else 0
        in_p += words if tag == _P else 0
        in_li += words if tag == _LI else 0
        in_td += words if tag == _TD else 0
        images += blocks[b, IMAGES]
        headings += _H1 <= tag <= _H6
        tiny += words <= 2
        if words >= 5:
            best = max(best, chain)
        path = elements[e, PATH] & (_PATHS - 1)
        same[path, 0] += 1
        same[path, 1] += words
        same[path, 2] += blocks[b, LINK_BYTES]
        same[path, 3] += statistics[b, SCORE]
        if scores[inner, 6]:
            for subject in range(NUM_SUBJECTS):
                subjects[subject] += words * (scores[inner, 6] >> subject & 1)
        if words:
            key = statistics[b, HASH] | 1
            at = np.int64(np.uint64(key) >> np.uint64(20)) & (capacity - 1)
            while seen[at] != 0 and seen[at] != key:
                at = (at + 1) & (capacity - 1)
            duplicate[b] = seen[at] == key
            seen[at] = key
    for e in range(num_elements - 1, 0, -1):
        totals[elements[e, PARENT]] += totals[e]
        paths[elements[e, PATH] & (_PATHS - 1)] += 1
    # the nearest element around each that holds more blocks
    wider = np.zeros(num_elements, np.int32)
    for e in range(1, num_elements):
        parent = elements[e, PARENT]
        wider[e] = parent if totals[parent, _T_BLOCKS] > totals[e, _T_BLOCKS] else wider[parent]
    all_words, all_chars = totals[0, _T_WORDS], totals[0, _T_CHARS]
    of_page[0], of_page[1] = num_blocks, all_words
    of_page[2], of_page[3] = _share(totals[0, _T_LINKS], all_chars), _share(all_chars, size)
    of_page[4] = num_elements
    of_page[5], of_page[6], of_page[7] = (
        _share(in_main, all_words),
        _share(in_article, all_words),
        _share(in_p, all_words),
    )
    of_page[8], of_page[9], of_page[10] = _share(in_li, all_words), _share(in_td, all_words), images
    of_page[11], of_page[12] = (
        _share(totals[0, _T_SENTENCES], all_words),
        _share(before[num_blocks, 3], all_words),
    )
    of_page[13] = best
    of_page[14], of_page[15] = _share(headings, num_blocks), _share(tiny, num_blocks)
    for subject in range(NUM_SUBJECTS):
        of_page[16 + subject] = _share(subjects[subject], all_words)
    return totals, before, same, paths, wider, duplicate, of_page


@njit(nogil=True, cache=True)
def block_features(elements, blocks, statistics, scores, shared, size, first, last, state, out):
    """Fill float32 ``out[:NUM_FEATURES, :last - first]``, a row a feature, for the blocks first ... last - 1.

    ``shared`` is what :func:`page_totals` says, ``size`` the page's bytes. ``state`` (int64 [6], zeros
    for the first block) goes on from call to call: the heading before, where its section and the first
    h1 begin.
    """
    totals, before, same, paths, wider, duplicate, of_page = shared
    num_blocks = len(blocks)
    all_words = totals[0, _T_WORDS]
    mean, best = of_page[12], of_page[13]
    # the page's own features come last, and are the same for all its blocks
    for k in range(len(of_page)):
        for j in range(last - first):
            out[NUM_FEATURES - len(of_page) + k, j] = of_page[k]
    for b in range(first, last):
        j = b - first
        block, counts = blocks[b], statistics[b]
        e, inner = block[ELEMENT], block[INNER]
        parent = elements[e, PARENT]
        words, chars, chain = counts[WORDS], counts[CHARS], scores[inner, 1]
        tag = elements[e, TAG]
        flags = elements[inner, FLAGS]
        out[0, j], out[1, j] = words, chars
        out[2, j], out[3, j], out[4, j] = _share(block[LINK_BYTES], chars), block[LINKS], block[IMAGES]
        out[5, j], out[6, j], out[7, j] = counts[SENTENCES], counts[COMMAS], duplicate[b]
        out[8, j], out[9, j], out[10, j] = tag, elements[inner, TAG], elements[e, DEPTH]
        k = 11
        for bit in _FLAG_BITS:
            out[k, j] = (flags & bit) != 0
            k += 1
        words_before = before[b, 0]
        out[k, j], out[k + 1, j] = _share(b, num_blocks), _share(words_before, all_words)
        out[k + 2, j] = _share(block[AT], size)
        out[k + 3, j], out[k + 4, j] = b - state[0], words_before - state[1]
        has_h1 = state[2] > 0
        out[k + 5, j] = b + 1 - state[2] if has_h1 else -999
        out[k + 6, j] = _share(words_before - state[3], all_words) if has_h1 else -1
        k += 7
        out[k, j], out[k + 1, j], out[k + 2, j] = chain, chain - best, chain - mean
        out[k + 3, j], out[k + 4, j], out[k + 5, j] = scores[inner, 0], scores[e, 0], scores[parent, 0]
        out[k + 6, j], out[k + 7, j] = scores[inner, 2], scores[inner, 3]
        k += 8
        c = e if totals[e, _T_BLOCKS] > 1 else wider[e]
        container = c
        for _ in range(_CONTAINERS):
            total = totals[c]
            out[k, j], out[k + 1, j] = (
                _share(total[_T_WORDS], all_words),
                _share(total[_T_LINKS], total[_T_CHARS]),
            )
            out[k + 2, j], out[k + 3, j] = total[_T_BLOCKS], _share(total[_T_WORDS], total[_T_BLOCKS])
            out[k + 4, j], out[k + 5, j] = _share(total[_T_SENTENCES], total[_T_WORDS]), scores[c, 1]
            c = wider[c]
            k += 6
        path = elements[e, PATH] & (_PATHS - 1)
        out[k, j], out[k + 1, j] = same[path, 0], _share(same[path, 1], all_words)
        out[k + 2, j], out[k + 3, j] = (
            _share(same[path, 2], same[path, 1]),
            _share(same[path, 3], same[path, 0]),
        )
        out[k + 4, j] = paths[path]
        out[k + 5, j] = paths[elements[container, PATH] & (_PATHS - 1)]
        out[k + 6, j] = paths[elements[wider[container], PATH] & (_PATHS - 1)]
        k += 7
        for d in _NEIGHBOURS:
            y = b + d
            if 0 <= y < num_blocks:
                beside = statistics[y]
                out[k, j], out[k + 1, j] = beside[WORDS], _share(blocks[y, LINK_BYTES], beside[CHARS])
                out[k + 2, j], out[k + 3, j] = scores[blocks[y, INNER], 1] - chain, beside[SCORE]
                out[k + 4, j] = elements[blocks[y, ELEMENT], TAG]
            else:
                out[k, j] = out[k + 1, j] = out[k + 4, j] = -1
                out[k + 2, j] = out[k + 3, j] = 0
            k += 5
        for d in _WINDOWS:
            low, high = max(0, b - d), min(num_blocks, b + d + 1)
            some = before[high, 0] - before[low, 0]
            out[k, j] = some
            out[k + 1, j] = _share(before[high, 2] - before[low, 2], before[high, 1] - before[low, 1])
            out[k + 2, j] = _share(before[high, 3] - before[low, 3], some) - chain
            out[k + 3, j] = _share(before[high, 4] - before[low, 4] - counts[SCORE], high - low - 1)
            k += 4
        out[k, j], out[k + 1, j], out[k + 2, j] = counts[SCORE], state[4], state[5]
        k += 3
        if _H1 <= tag <= _H6:
            state[0], state[1], state[4], state[5] = b, words_before + words, counts[SCORE], chain
            if tag == _H1 and not has_h1:
                state[2], state[3] = b + 1, words_before
