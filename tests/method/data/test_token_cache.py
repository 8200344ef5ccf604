from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lr2eval.errors import StoreError, UsageError
from lr2eval.method.data import documents as documents_module
from lr2eval.method.data import token_cache
from lr2eval.method.data.documents import DocumentBatch
from lr2eval.method.data.sources import SourceConfig, parts
from lr2eval.method.data.token_cache import (
    Encoder,
    read_lengths,
    read_tokens,
    tokenise,
    write_chunk,
)
from lr2eval.model.tokenizer import PromptTokenizer
from tests.method.data.mixtures import BOS, EOS, TOKENIZER, byte_tokenizer, corpus, text, write_jsonl


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents_module, "BATCH_BYTES", 2000)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[DocumentBatch]:
    """The batches that were tokenised in this process."""
    found: list[DocumentBatch] = []
    real = token_cache._tokens

    def noted(encoder: Encoder, job: token_cache.ChunkJob) -> Any:
        found.append(job.batch)
        return real(encoder, job)

    monkeypatch.setattr(token_cache, "_tokens", noted)
    return found


def run(source: SourceConfig, cache: Path, workers: int = 1, tokenizer: PromptTokenizer = TOKENIZER) -> list[Path]:
    (chunks,) = tokenise([(source, parts(source)[0])], Encoder(tokenizer), cache, workers, lambda _: None)
    return chunks


def texts(chunks: list[Path]) -> list[str]:
    """Every document as text; it must begin with BOS and end with EOS."""
    found = []
    for chunk in chunks:
        first = 0
        for length in read_lengths(chunk).tolist():
            ids, _ = read_tokens(chunk, first, length)
            assert (ids[0], ids[-1]) == (BOS, EOS)
            found.append(TOKENIZER.tokenizer.decode(ids[1:-1]))
            first += length
    return found


LENGTHS = [30, 900, 2, 3000, 64, 500] * 4


def test_documents_come_back_in_order_and_are_made_once(tmp_path: Path, made: list[DocumentBatch]) -> None:
    source = SourceConfig(name="s", path=corpus(tmp_path / "a.jsonl", LENGTHS))
    chunks = run(source, tmp_path / "cache")
    assert texts(chunks) == [text(i, length) for i, length in enumerate(LENGTHS)]
    count = len(made)
    assert count == len(chunks) == 5
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    renamed = (tmp_path / "a.jsonl").rename(tmp_path / "b.jsonl")  # found by content, not by name
    assert run(SourceConfig(name="other", path=renamed), tmp_path / "cache") == chunks
    assert len(made) == count
    source = source.model_copy(update={"path": (renamed,)})
    run(source, tmp_path / "cache", tokenizer=byte_tokenizer(bos=False))
    assert len(made) == 2 * count
    other = byte_tokenizer()
    other.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    run(source, tmp_path / "cache", tokenizer=other)
    assert len(made) == 3 * count


def test_processes_make_the_same_bytes(tmp_path: Path) -> None:
    source = SourceConfig(name="s", path=corpus(tmp_path / "a.jsonl", LENGTHS))
    one, two = (run(source, tmp_path / str(workers), workers) for workers in (1, 2))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert [path.name for path in one] == [path.name for path in two]


def test_only_what_is_missing_or_damaged_is_made_again(tmp_path: Path, made: list[DocumentBatch]) -> None:
    source = SourceConfig(name="s", path=corpus(tmp_path / "a.jsonl", LENGTHS))
    chunks = run(source, tmp_path / "cache")
    before = [path.read_bytes() for path in chunks]
    made.clear()
    chunks[1].unlink()
    damaged = bytearray(chunks[3].read_bytes())
    damaged[-1] ^= 1
    chunks[3].write_bytes(damaged)
    chunks[4].write_bytes(before[4][:-1])
    left = chunks[0].with_name(".000001.tok.1.tmp")
    left.write_bytes(b"of a killed process")
    assert run(source, tmp_path / "cache") == chunks
    assert [batch.number for batch in made] == [1, 3, 4]
    assert [path.read_bytes() for path in chunks] == before
    assert not left.exists()


KILLED = """
import sys
from pathlib import Path
from lr2eval.method.data import documents, token_cache
from lr2eval.method.data.sources import SourceConfig, parts
from tests.method.data.mixtures import TOKENIZER
documents.BATCH_BYTES = 2000
source = SourceConfig(name="s", path=sys.argv[1])
if __name__ == "__main__":
    real = token_cache.write_chunk
    def slow(path, *rest):
        real(path, *rest)
        print(path.name, flush=True)
        if path.name == "000003.tok":
            sys.stdin.read()
    token_cache.write_chunk = slow
    token_cache.tokenise([(source, parts(source)[0])], token_cache.Encoder(TOKENIZER), Path(sys.argv[2]), 1, print)
"""


def test_killed_and_started_again_it_goes_on(tmp_path: Path, made: list[DocumentBatch]) -> None:
    path = corpus(tmp_path / "a.jsonl", LENGTHS)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), str(tmp_path / "cache")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "000003.tok":
            break
    process.kill()
    process.communicate()
    source = SourceConfig(name="s", path=path)
    assert texts(run(source, tmp_path / "cache")) == [text(i, length) for i, length in enumerate(LENGTHS)]
    assert made[0].number == 4


def test_two_runs_at_once_make_it_once(tmp_path: Path, made: list[DocumentBatch]) -> None:
    source = SourceConfig(name="s", path=corpus(tmp_path / "a.jsonl", LENGTHS))
    found: list[list[Path]] = []
    threads = [threading.Thread(target=lambda: found.append(run(source, tmp_path / "cache"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len(made) == len(found[0])


def test_the_first_documents_only(tmp_path: Path, made: list[DocumentBatch]) -> None:
    path = corpus(tmp_path / "a.jsonl", LENGTHS)
    few = run(SourceConfig(name="s", path=path, first=3), tmp_path / "cache")
    assert len(few) < 4
    assert len(texts(few)) >= 3
    count = len(made)
    whole = run(SourceConfig(name="s", path=path), tmp_path / "cache")
    assert whole[: len(few)] == few
    assert len(made) == len(whole) > count  # the first ones are not made again


def test_another_column_is_another_text(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"one": "uno", "two": "due"}])
    for column, expected in (("one", "uno"), ("two", "due")):
        source = SourceConfig(name="s", path=path, column=column)
        assert texts(run(source, tmp_path / "cache")) == [expected]


def test_files_of_equal_content_are_made_once(tmp_path: Path, made: list[DocumentBatch]) -> None:
    paths = [corpus(tmp_path / name, LENGTHS[:4]) for name in ("a.jsonl", "b.jsonl")]
    chunks = run(SourceConfig(name="s", path=paths), tmp_path / "cache")
    assert len(texts(chunks)) == 8
    assert len(chunks) == 2 * len(made)


def test_tokenised_documents_keep_their_tokens_and_weights(tmp_path: Path) -> None:
    rows = [{"input_ids": [5, 6, 7], "weights": [0, 1, 2.5]}, {"input_ids": [8]}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    (chunk,) = run(SourceConfig(name="s", path=path, tokenised=True), tmp_path / "cache")
    assert read_lengths(chunk).tolist() == [3, 1]
    assert [None if each is None else each.tolist() for each in read_tokens(chunk, 0, 3)] == [[5, 6, 7], [0, 1, 2.5]]
    assert [None if each is None else each.tolist() for each in read_tokens(chunk, 3, 1)] == [[8], [1]]
    bad = write_jsonl(tmp_path / "b.jsonl", [*rows, {"input_ids": [3, 258, 2]}])
    with pytest.raises(UsageError, match=r"b\.jsonl, line 3, field 'input_ids': token 258 is outside .* of 258;"):
        run(SourceConfig(name="s", path=bad, tokenised=True), tmp_path / "cache")
    write_jsonl(bad, [{"input_ids": [-1]}])
    with pytest.raises(UsageError, match="token -1 is outside"):
        run(SourceConfig(name="s", path=bad, tokenised=True), tmp_path / "cache", workers=2)


def test_ends_of_documents() -> None:
    assert Encoder(TOKENIZER).encode(["ab", ""])[0].tolist()[::3] == [BOS, EOS]
    assert Encoder(TOKENIZER).encode(["", "a"])[0].tolist() == [BOS, EOS]
    assert len(Encoder(TOKENIZER, bos=False).encode(["ab"])[0]) == 3
    only_eos = Encoder(byte_tokenizer(bos=False))
    assert (only_eos.bos, only_eos.eos) == (None, EOS)
    with pytest.raises(UsageError, match=r"bytes: bos = true, but the tokenizer has no BOS token; set bos_token in"):
        Encoder(byte_tokenizer(bos=False), bos=True)
    with pytest.raises(UsageError, match="neither BOS nor EOS, so nothing marks"):
        Encoder(byte_tokenizer(bos=False, eos=False))
    assert len(Encoder(byte_tokenizer(bos=False, eos=False), bos=False, eos=False).encode(["ab"])[0]) == 2


def test_texts_are_encoded_as_the_tokenizer_does() -> None:
    """Normaliser, special tokens in the text, and a post-processor, truncation and padding that must not act."""
    base = Tokenizer(models.WordLevel({"[U]": 0, "<s>": 1, "a": 2, "b": 3, "<x>": 4}, unk_token="[U]"))
    base.normalizer = normalizers.Lowercase()
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    base.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    base.enable_truncation(2)
    base.enable_padding(length=6)
    made = PreTrainedTokenizerFast(tokenizer_object=base, bos_token="<s>", additional_special_tokens=["<x>"])
    tokenizer = PromptTokenizer(made)
    sample = "A b <x> c a B a"
    expected = tokenizer.encode(sample)
    assert expected == [2, 3, 4, 0, 2, 3, 2]
    made.backend_tokenizer.enable_truncation(2)  # as a call with truncation leaves it
    made.backend_tokenizer.enable_padding(length=12)
    assert Encoder(tokenizer).encode([sample])[0].tolist() == [1, *expected]

    class Slow:
        is_fast, bos_token_id, eos_token_id, chat_template = False, 1, None, None

        def __init__(self) -> None:
            self.special_tokens_map: dict[str, str] = {}

        def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[ord(c) for c in text] for text in texts]}

        def encode(self, text: str, **_: Any) -> list[int]:
            return self([text])["input_ids"][0]

        def get_vocab(self) -> dict[str, int]:
            return {}

        def __len__(self) -> int:
            return 200

    slow = Encoder(PromptTokenizer(Slow()))
    assert [each.tolist() for each in slow.encode(["ab", ""])] == [[1, 97, 98], [1]]
    assert slow.encode([]) == []


def test_a_disk_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    source = SourceConfig(name="s", path=corpus(tmp_path / "a.jsonl", [50]))
    with pytest.raises(StoreError, match=r"cache.*: .*; fix this or choose another token_cache"):
        run(source, tmp_path / "cache")
    with pytest.raises(StoreError, match=r"1\.tok: No such file.*; choose another token_cache"):
        write_chunk(tmp_path / "missing" / "1.tok", [np.arange(3)], [None], np.dtype("<u2"))
    with pytest.raises(StoreError, match=r"gone\.tok: No such file.*; it was removed or damaged"):
        read_lengths(tmp_path / "gone.tok")
