"""Tokenizer artifacts and token shards, on pydoc pages and on texts that spell special tokens."""

import hashlib
import json
import os
import pydoc
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
)
from transformers import AutoTokenizer

from pipelines.tokenize import Tokenize, read_encoder, token_facts
from pipelines.train_tokenizer import SPLIT_PATTERN, LoadTokenizer, TrainTokenizer

MODULES = ["os", "socket", "json", "textwrap", "threading", "shutil", "csv", "heapq", "bisect"]
TRAIN = TrainTokenizer(vocab_size=1_000, special_tokens=("<|user|>", "<|assistant|>"))
END = "<|endoftext|>"


def table(texts: list[str | None], split: str = "train", **columns: list) -> pa.Table:
    ids = [hashlib.blake2b(str(n).encode(), digest_size=16).hexdigest() for n in range(len(texts))]
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "text": pa.array(texts, pa.large_string()),
            "split": pa.array([split] * len(texts), pa.string()),
            **columns,
        }
    )


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="session")
def documents() -> pa.Table:
    return table([pydoc.plain(pydoc.render_doc(module)) for module in MODULES])


@pytest.fixture(scope="session")
def trained(documents: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    report = TRAIN.fit(folder, folder, 0, quiet, documents=ds.dataset(documents))
    assert report["vocab_size"] == report["vocab_size_asked"] == 1_000
    assert report["documents"] == len(documents)
    assert report["bytes"] == pc.sum(pc.binary_length(documents["text"])).as_py()
    return folder


def decode(folder: Path, ids: list[int]) -> str:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return tokenizer.decode(ids, skip_special_tokens=False)


# -- train_tokenizer -------------------------------------------------------------------------------


def test_loads_in_transformers(documents: pa.Table, trained: Path) -> None:
    hugging_face = AutoTokenizer.from_pretrained(trained)
    assert len(hugging_face) == 1_000
    assert hugging_face.eos_token == END
    facts = token_facts(trained)
    assert facts == {
        "vocab_size": 1_000,
        "eos_id": hugging_face.eos_token_id,
        "tokenizer_hash": hashlib.sha256((trained / "tokenizer.json").read_bytes()).hexdigest(),
    }
    out = Tokenize().expand(documents, trained)
    for text, ids in zip(documents["text"].to_pylist(), out["tokens"].to_pylist(), strict=True):
        assert hugging_face(text)["input_ids"] == ids[:-1]
        assert ids[-1] == facts["eos_id"]
    messages = [hugging_face.convert_tokens_to_ids(token) for token in TRAIN.special_tokens]
    assert messages == [1, 2]


@pytest.mark.parametrize("threads", ["1", "3"])
def test_same_bytes_for_any_order_and_threads(
    documents: pa.Table, trained: Path, tmp_path: Path, threads: str
) -> None:
    pq.write_table(documents.take(np.arange(len(documents))[::-1]), tmp_path / "reversed.parquet")
    program = (
        "import sys; from pathlib import Path; import pyarrow.dataset as ds\n"
        "from pipelines.train_tokenizer import TrainTokenizer\n"
        "folder = Path(sys.argv[1])\n"
        f"{TRAIN!r}.fit(folder, folder, 9, print,"
        " documents=ds.dataset(folder / 'reversed.parquet'))"
    )
    environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=environment,
        check=True,
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_golden_merges(tmp_path: Path) -> None:
    """If this goes red, the trained tokenizer changed: bump TrainTokenizer.version."""
    texts = ["the thread reads the file, then 12345 others don't 'read' it\n\n    return it\n"] * 3
    report = TrainTokenizer(vocab_size=268).fit(
        tmp_path, tmp_path, 0, quiet, documents=ds.dataset(table(texts))
    )
    assert report["vocab_size"] == 268
    merges = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    assert [" ".join(merge) for merge in merges] == [
        "t h", "r e", "th e", "a d", "re ad", "i t", "Ġ Ġ", "Ġ the", "Ġ it", "' t", "1 2",
    ]  # fmt: skip
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated")
    pieces = [piece for piece, _ in split.pre_tokenize_str("don't 'tell' 12345\n\n    x_y  z\t")]
    assert pieces == [
        "don", "'t", " '", "tell", "'", " 123", "45", "\n\n", "   ", " x", "_", "y",
        " ", " z", "\t",
    ]  # fmt: skip


def test_heldout_documents_do_not_train(documents: pa.Table, trained: Path, tmp_path: Path) -> None:
    heldout = table(["zyzzyva quokka " * 500] * 20, split="heldout")
    both = ds.dataset(pa.concat_tables([documents, heldout]))
    TRAIN.fit(tmp_path, tmp_path, 0, quiet, documents=both)
    assert (tmp_path / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()
    with pytest.raises(ValueError, match="no text to train on"):
        TRAIN.fit(tmp_path, tmp_path, 0, quiet, documents=ds.dataset(heldout))


def test_sample_takes_its_share(tmp_path: Path) -> None:
    many = ds.dataset(table([f"word {number}" for number in range(2_000)]))
    stage = TrainTokenizer(vocab_size=300, sample=0.25)
    report = stage.fit(tmp_path, tmp_path, 0, quiet, documents=many)
    assert 400 < report["documents"] < 600


@pytest.mark.parametrize("character", ["a", " ", "=", "\n", "字"])
def test_endless_runs_take_no_endless_time(tmp_path: Path, character: str) -> None:
    hostile = table([character * 300_000 + "x"])
    started = time.process_time()
    stage = TrainTokenizer(vocab_size=300)
    stage.fit(tmp_path, tmp_path, 0, quiet, documents=ds.dataset(hostile))
    out = Tokenize().expand(hostile, tmp_path)
    assert decode(tmp_path, out["tokens"][0].as_py()) == character * 300_000 + "x" + END
    assert time.process_time() - started < 10
    vocabulary = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab()
    assert max(len(token) for token in vocabulary if token != END) <= stage.max_token_length


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"vocab_size": 256}, "no room"),
        ({"special_tokens": (END,)}, "different"),
        ({"end_token": ""}, "not empty"),
        ({"max_token_length": 1}, "max_token_length"),
        ({"sample": 0}, "sample"),
    ],
)
def test_parameters_are_checked(parameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainTokenizer(**parameters)


# -- tokenize --------------------------------------------------------------------------------------


def test_rows_and_columns(trained: Path) -> None:
    shard = table(
        ["one", None, "", "two two", "three"],
        source=["s", "s", None, "s", "s"],
        domain_label=["system", None, "other", "system", "other"],
    )
    split = pa.array(["train", "train", "train", "heldout", None])
    shard = shard.set_column(2, "split", split)
    out = Tokenize().expand(shard, trained)
    assert out.schema == pa.schema(
        {
            "doc_id": pa.string(),
            "tokens": pa.list_(pa.uint32()),
            "source": pa.string(),
            "domain_label": pa.string(),
            "parent_row": pa.int64(),
            "drop_rule": pa.string(),
            "error": pa.string(),
        }
    )
    assert out["parent_row"].to_pylist() == [0, 1, 2, 3, 4]
    assert out["doc_id"].equals(shard["id"])
    assert out["source"].equals(shard["source"])
    assert out["domain_label"].equals(shard["domain_label"])
    rules = [None, "empty", "empty", "other_split", "other_split"]
    assert out["drop_rule"].to_pylist() == rules
    assert out["error"].null_count == 5
    assert out["tokens"].is_null().to_pylist() == [False, True, True, True, True]
    heldout = Tokenize(split="heldout").expand(shard.drop_columns(["source"]), trained)
    assert decode(trained, heldout["tokens"][3].as_py()) == "two two" + END
    assert heldout["source"].null_count == 5
    empty = Tokenize().expand(shard.slice(0, 0), trained)
    assert empty.schema == out.schema and len(empty) == 0


@pytest.mark.parametrize("batch_documents", [1, 2, 1_000])
def test_batches_do_not_show(documents: pa.Table, trained: Path, batch_documents: int) -> None:
    whole = Tokenize().expand(documents, trained)
    halves = pa.concat_tables([documents.slice(0, 4), documents.slice(4)])
    assert Tokenize(batch_documents=batch_documents).expand(halves, trained).equals(whole)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(max_size=60), max_size=5))
def test_text_comes_back_unchanged(trained: Path, texts: list[str]) -> None:
    out = Tokenize().expand(table(texts), trained)
    for text, ids in zip(texts, out["tokens"].to_pylist(), strict=True):
        if text:
            assert ids[-1] == 0 and 0 not in ids[:-1]
            assert decode(trained, ids) == text + END
        else:
            assert ids is None


def test_a_page_full_of_end_tokens(trained: Path) -> None:
    pages = [END * 1_000, f"before {END} after", END, f" {END}\n" * 50, "<|user|>hi<|assistant|>"]
    out = Tokenize().expand(table(pages), trained)
    tokens = np.concatenate(out["tokens"].to_pylist())
    assert (tokens == token_facts(trained)["eos_id"]).sum() == len(pages)
    assert not np.isin(tokens, [1, 2]).any()
    for page, ids in zip(pages, out["tokens"].to_pylist(), strict=True):
        assert decode(trained, ids[:-1]) == page


def test_one_page_that_is_not_utf8_does_not_lose_the_others(trained: Path) -> None:
    offsets = pa.array([0, 3, 6, 9], pa.int32()).buffers()[1]
    broken = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"oneb\xffdtwo"))
    shard = table(["", "", ""]).set_column(1, "text", broken)
    out = Tokenize().expand(shard, trained)
    assert out["error"].to_pylist() == [None, "the text is not valid UTF-8", None]
    assert out["drop_rule"].null_count == 3
    texts = [ids and decode(trained, ids) for ids in out["tokens"].to_pylist()]
    assert texts == ["one" + END, None, "two" + END]


def test_works_in_a_fork_of_a_process_with_threads(documents: pa.Table, trained: Path) -> None:
    expected = Tokenize().expand(documents, trained)
    tokenizer = Tokenizer.from_file(str(trained / "tokenizer.json"))
    tokenizer.encode_batch(documents["text"].to_pylist())
    child = os.fork()
    if child == 0:
        os._exit(0 if Tokenize().expand(documents, trained).equals(expected) else 1)
    deadline = time.monotonic() + 20
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the forked process hangs")
        time.sleep(0.02)
    assert os.waitstatus_to_exitcode(status) == 0


# -- load_tokenizer --------------------------------------------------------------------------------


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def save(tokenizer: Tokenizer, **config: object) -> Path:
        folder = tmp_path / "given"
        folder.mkdir()
        tokenizer.save(str(folder / "tokenizer.json"))
        if config:
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return folder

    return save


def load(path: Path, **parameters: str) -> Path:
    out = path.parent / "artifact"
    out.mkdir()
    facts = LoadTokenizer(path=str(path), **parameters).fit(out, out, 0, quiet)
    assert facts == token_facts(out)
    return out


def test_loaded_tokenizer_reads_text_as_text(trained: Path, save: Callable[..., Path]) -> None:
    """Marks added as not special, a start token, truncation and padding: as folders out there."""
    given = Tokenizer.from_file(str(trained / "tokenizer.json"))
    given.add_tokens([AddedToken("<think>", normalized=False), AddedToken(" " * 8)])
    given.post_processor = processors.TemplateProcessing(
        single="<|user|> $A", special_tokens=[("<|user|>", 1)]
    )
    given.enable_truncation(5)
    given.enable_padding(length=64)
    folder = load(save(given, eos_token={"content": END}))
    texts = [f"<think>{END}<|user|>", "a" * 8 + " " * 8 + "b" * 8 + "<think>"]
    out = Tokenize().expand(table(texts), folder)
    think, spaces = given.token_to_id("<think>"), given.token_to_id(" " * 8)
    for text, ids in zip(texts, out["tokens"].to_pylist(), strict=True):
        assert decode(folder, ids) == text + END
        assert think not in ids and 1 not in ids and ids.count(0) == 1
    assert spaces in out["tokens"][1].as_py()
    assert token_facts(folder)["vocab_size"] == 1_002


def test_special_token_that_letters_reach_is_an_error(save: Callable[..., Path]) -> None:
    """A Unigram model whose vocabulary holds "</s>" finds it in plain text, whatever is set."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -2.0) for letter in "abs<>/")]
    given = Tokenizer(models.Unigram(pieces, unk_id=0))
    given.decoder = decoders.Fuse()
    given.add_special_tokens(["</s>", "<unk>"])
    folder = load(save(given, eos_token="</s>"))
    out = Tokenize().expand(table(["ab", "a</s>b", "a?b"]), folder)
    assert out["tokens"].to_pylist()[0][-1] == token_facts(folder)["eos_id"] == 1
    assert [error is not None for error in out["error"].to_pylist()] == [False, True, False]
    assert "special token" in out["error"][1].as_py()
    # an unknown character is not an attack
    assert 0 in out["tokens"][2].as_py()


def test_end_token_by_choice(trained: Path, save: Callable[..., Path]) -> None:
    given = Tokenizer.from_file(str(trained / "tokenizer.json"))
    path = save(given)
    with pytest.raises(ValueError, match="name it in `end_token` of load_tokenizer"):
        read_encoder(path)
    folder = load(path, end_token="<|assistant|>")
    assert token_facts(folder)["eos_id"] == 2
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|assistant|>"
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<nowhere>"}')
    with pytest.raises(ValueError, match="'<nowhere>' is not in tokenizer.json"):
        read_encoder(folder)


def test_identity_is_content_not_place(trained: Path, tmp_path: Path) -> None:
    copy = LoadTokenizer(path=str(trained))
    copy.fit(tmp_path, tmp_path, 0, quiet)
    assert LoadTokenizer(path=str(tmp_path)).identity() == copy.identity()
    assert LoadTokenizer(path=str(tmp_path), end_token="x").identity() != copy.identity()
    (tmp_path / "tokenizer.json").write_text("{}")
    assert LoadTokenizer(path=str(tmp_path)).identity() != copy.identity()
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer\.json; .*save_pretrained"):
        LoadTokenizer(path=str(tmp_path)).identity()
    with pytest.raises(ValueError, match=r"no tokenizer\.json; .*save_pretrained"):
        Tokenize().expand(table(["x"]), tmp_path)
