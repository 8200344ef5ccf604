from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lr2eval.errors import UsageError
from lr2eval.method.data.config import MixtureConfig
from lr2eval.method.data.mixing import prepare_mixture
from lr2eval.method.data.rows import IGNORED, SegmentData
from tests.method.data.mixtures import BOS, EOS, TOKENIZER, byte_tokenizer, corpus, text, write_jsonl

SHORT, LONG = 64, 256


def config(path: Path, lengths: list[int] | None = None, **values: Any) -> MixtureConfig:
    """One JSONL source of documents of these lengths (in tokens), shares as they lie unless given."""
    source = path / "source.jsonl"
    if lengths is not None:
        corpus(source, lengths)
    given = {
        "original_window": SHORT,
        "target_window": LONG,
        "sources": [{"name": "s", "path": str(source)}],
        "min_tokens": 8,
        "buckets": [{"up_to": SHORT}, {}],
        "token_cache": str(path / "cache"),
    }
    return MixtureConfig(**given | values)


def prepare(path: Path, lengths: list[int] | None = None, say: list[str] | None = None, **values: Any) -> SegmentData:
    out = Path(tempfile.mkdtemp(dir=path))
    said = [] if say is None else say
    return prepare_mixture(config(path, lengths, **values), TOKENIZER, out, say=said.append)


def short_documents(data: SegmentData) -> list[tuple[int, ...]]:
    """Tokens of every packed document."""
    found = []
    for row in data:
        ends = np.cumsum(row.document_lengths)
        for begin, end in zip([0, *ends[:-1]], ends, strict=True):
            if not row.long and begin < LONG - row.padding:
                found.append(tuple(row.input_ids[begin:end].tolist()))
    return found


def encoded(number: int, length: int) -> tuple[int, ...]:
    return (BOS, *TOKENIZER.encode(text(number, length)), EOS)


MANY = [int(x) for x in np.random.default_rng(0).integers(9, 65, 300)]
LONGS = [int(x) for x in np.random.default_rng(1).integers(65, 900, 40)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.one_of(st.integers(3, 64), st.integers(65, 700)), min_size=1, max_size=40),
    seed=st.integers(0, 9),
    budget=st.sampled_from([None, 0.5, 0.9]),
)
def test_every_token_is_in_one_row_or_counted(
    tmp_path: Path, lengths: list[int], seed: int, budget: float | None
) -> None:
    lengths = [*lengths, 40, 300]
    there = sum(length for length in lengths if length >= 8)
    tokens = None if budget is None else int(budget * there)
    share = sum(length for length in lengths if length > SHORT) / there
    # Less makes no long row or no short document, which is refused.
    assume(share * (tokens or there) >= LONG + 1)
    assume(tokens is None or (1 - share) * tokens >= SHORT + 1)
    data = prepare(tmp_path, lengths, seed=seed, tokens=tokens)
    documents = [encoded(i, length) for i, length in enumerate(lengths)]
    # No short document is split, none is there twice, none was invented.
    assert not Counter(short_documents(data)) - Counter(each for each in documents if len(each) <= SHORT)
    # Texts differ, so the tokens of a long row are those of pieces of long documents in order.
    left = {i: bytearray(len(each)) for i, each in enumerate(documents) if len(each) > SHORT}
    for row in data:
        assert len(row) == sum(row.document_lengths) == LONG
        assert row.position_ids.max() < (LONG if row.long else SHORT)
        if row.long:
            assert row.document_lengths == (LONG,)
            _strike_off(row.input_ids.tolist(), documents, left)
    in_long = sum(sum(taken) for taken in left.values())
    assert in_long == data.manifest["tokens"]["in_long_rows"]
    in_short = sum(map(len, short_documents(data)))
    assert in_short == data.manifest["tokens"]["in_short_rows"]
    left_out = sum(row["tokens"] for row in data.manifest["left_out"].values())
    assert in_long + in_short + left_out == sum(lengths)
    assert data.manifest["tokens"]["padding"] == sum(row.padding for row in data)


def _strike_off(ids: list[int], documents: list[tuple[int, ...]], left: dict[int, bytearray]) -> None:
    """Mark the tokens of a long row as used; fails for tokens that are in no long document or were used before."""
    while ids:
        count, document, first = max(
            (_common(ids, documents[each][first:]), each, first)
            for each, used in left.items()
            for first in range(len(used))
            if not used[first]
        )
        assert count
        assert not any(left[document][first : first + count])
        left[document][first : first + count] = b"\1" * count
        ids = ids[count:]


def _common(one: list[int], other: tuple[int, ...]) -> int:
    if one[0] != other[0]:
        return 0
    end = min(len(one), len(other))
    return next((at for at in range(end) if one[at] != other[at]), end)


def test_short_documents_are_packed_whole_and_restart(tmp_path: Path) -> None:
    data = prepare(tmp_path, MANY + LONGS)
    assert Counter(short_documents(data)) == Counter(encoded(i, length) for i, length in enumerate(MANY))
    assert data.manifest["waste"] < 0.02
    row = next(row for row in data if not row.long)
    starts = np.flatnonzero(row.position_ids == 0)
    real = starts[starts < LONG - row.padding]
    assert (row.input_ids[real] == BOS).all()
    assert (row.labels[starts] == IGNORED).all()
    assert len(real) > 3


def test_padding_longer_than_the_window_stays_short(tmp_path: Path) -> None:
    data = prepare(tmp_path, [40, *LONGS])
    (row,) = (row for row in data if not row.long)
    assert row.document_lengths == (40, 64, 64, 64, 24)
    assert row.padding == 216
    assert (row.labels[40:] == IGNORED).all()
    assert (row.labels[1:40] == row.input_ids[1:40]).all()
    assert set(row.input_ids[40:].tolist()) == {EOS}


def test_shares_of_buckets_and_budget(tmp_path: Path) -> None:
    buckets = [{"up_to": SHORT, "share": 3}, {"up_to": 300, "share": 3}, {"up_to": 800, "share": 4}]
    data = prepare(tmp_path, MANY + LONGS, tokens=5000, buckets=buckets)
    found = data.manifest["buckets"]
    assert [row["tokens"] for row in found][1:] == [1500, 2000]
    assert 1500 - SHORT < found[0]["tokens"] <= 1500
    assert [row["more_than"] for row in found] == [7, SHORT, 300]
    beyond = [length for length in LONGS if length > 800]
    left_out = data.manifest["left_out"]
    assert left_out["longer than the last bucket (800)"] == {"documents": len(beyond), "tokens": sum(beyond)}
    assert left_out["cut at the token budget"]["tokens"] > 0
    assert data.manifest["segments"]["long"] == 3500 // LONG
    assert data.manifest["left_out"]["rest of the long documents, less than a row"]["tokens"] == 3500 % LONG


def test_by_default_three_of_ten_tokens_are_short(tmp_path: Path) -> None:
    data = prepare(tmp_path, MANY * 3 + LONGS, buckets=None)
    assert [row["share"] for row in data.manifest["buckets"]] == pytest.approx([0.3, 0.7], abs=0.01)
    tokens = data.manifest["tokens"]
    assert tokens["chosen"] == pytest.approx(sum(LONGS) / 0.7, rel=0.01)  # all long ones: they are the scarce ones
    assert tokens["used_again"] == 0


def test_too_few_tokens_are_an_error_or_repeated_as_chosen(tmp_path: Path) -> None:
    there = sum(LONGS) + sum(MANY)
    with pytest.raises(UsageError, match=rf"mixture needs .*; lower tokens to {there:,}, add .*repeat = true"):
        prepare(tmp_path, MANY + LONGS, tokens=2 * there)
    say: list[str] = []
    data = prepare(tmp_path, MANY + LONGS, say, tokens=2 * there, repeat=True)
    assert set(Counter(short_documents(data)).values()) == {2}
    assert data.manifest["tokens"]["used_again"] == there
    assert f"note: {there:,} tokens are from documents that are used again" in say


def test_upsampled_long_documents_are_used_again_and_sources_keep_their_shares(tmp_path: Path) -> None:
    lengths = {"a": (MANY[:100], LONGS[:10], 3.0), "b": (MANY[100:], LONGS[10:], 1.0)}
    sources = []
    for at, (name, (short, long, upsample)) in enumerate(lengths.items()):
        path = corpus(tmp_path / f"{name}.jsonl", short + long, begin=1000 * at)
        sources.append({"name": name, "path": str(path), "upsample": upsample, "share": 1})
    data = prepare(tmp_path, sources=sources, tokens=8000)
    rows = data.manifest["buckets"]
    tokens = {name: [row["sources"][name]["tokens"] for row in rows] for name in lengths}
    assert sum(tokens["a"]) == pytest.approx(4000, abs=SHORT)
    assert sum(tokens["b"]) == pytest.approx(4000, abs=SHORT)
    short, long, upsample = lengths["a"]
    assert tokens["a"][1] / 4000 == pytest.approx(upsample * sum(long) / (upsample * sum(long) + sum(short)), abs=0.01)
    assert tokens["b"][1] / 4000 == pytest.approx(sum(LONGS[10:]) / sum(LONGS[10:] + MANY[100:]), abs=0.01)


def test_result_depends_on_seed_and_content_alone(tmp_path: Path) -> None:
    one = prepare(tmp_path, MANY + LONGS, seed=1)
    assert prepare(tmp_path, seed=1).digest == one.digest
    assert prepare(tmp_path, seed=2).digest != one.digest
    (tmp_path / "cache").rename(tmp_path / "old cache")
    (tmp_path / "source.jsonl").rename(tmp_path / "other.jsonl")
    again = config(tmp_path, sources=[{"name": "s", "path": str(tmp_path / "other.jsonl")}], seed=1)
    assert prepare_mixture(again, TOKENIZER, tmp_path / "two", workers=2).digest == one.digest


def test_weights_of_tokenised_documents_go_along(tmp_path: Path) -> None:
    """Each token's weight is its id modulo 7, so that it can be told anywhere."""
    random = np.random.default_rng(0)
    rows = []
    for length in [30, 50, 20, 700, 100]:
        ids = [int(x) for x in random.integers(2, 200, length)]
        rows.append({"input_ids": ids, "weights": [x % 7 for x in ids]})
    tokenised = write_jsonl(tmp_path / "t.jsonl", rows)
    plain = corpus(tmp_path / "p.jsonl", [60, 50, 300])
    sources = [{"name": "t", "path": str(tokenised), "tokenised": True}, {"name": "p", "path": str(plain)}]
    data = prepare(tmp_path, sources=sources)
    weighted = 0
    for row in data:
        if row.weights is None:
            continue
        expected = row.input_ids % 7
        for index in np.flatnonzero(row.weights != expected):
            assert row.weights[index] == 1  # of the source without weights, or padding
        weighted += int((row.weights == expected).sum())
    left = data.manifest["left_out"]["rest of the long documents, less than a row"]["tokens"]
    assert weighted >= sum(len(row["input_ids"]) for row in rows) - left
    assert data.manifest["sources"][0]["documents"] == 5
    assert not any(row.weights is not None for row in prepare(tmp_path, sources=sources[1:]))


def test_the_same_call_returns_what_is_there_and_another_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = prepare_mixture(config(tmp_path, MANY + LONGS), TOKENIZER, out)
    before = (out / "tokens.bin").stat().st_mtime_ns
    assert prepare_mixture(config(tmp_path), TOKENIZER, out).digest == made.digest
    assert (out / "tokens.bin").stat().st_mtime_ns == before
    with pytest.raises(
        UsageError, match=r"out: has training data made with other settings \(min_tokens, seed\); choose"
    ):
        prepare_mixture(config(tmp_path, seed=5, min_tokens=9), TOKENIZER, out)
    with pytest.raises(UsageError, match=r"made with other settings \(encoder"):
        prepare_mixture(config(tmp_path), byte_tokenizer(bos=False), out)
    with pytest.raises(UsageError, match=r"made with other settings \(content"):
        prepare_mixture(config(tmp_path, [*MANY, 30, *LONGS]), TOKENIZER, out)
    assert SegmentData.open(out).digest == made.digest
    corpus(tmp_path / "source.jsonl", MANY + LONGS)
    (out / "manifest.json").unlink()  # as if interrupted while writing
    with (out / "tokens.bin").open("r+b") as file:
        file.truncate(100)
    assert prepare_mixture(config(tmp_path), TOKENIZER, out).digest == made.digest
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"foreign: has thesis\.tex, which is not training data"):
        prepare_mixture(config(tmp_path), TOKENIZER, foreign)


KILLED = """
import sys
from pathlib import Path
from lr2eval.method.data import mixing
from lr2eval.method.data.rows import SegmentWriter
from tests.method.data.mixtures import TOKENIZER
if __name__ == "__main__":
    path = Path(sys.argv[1])
    from tests.method.data.test_mixing import config
    real, count = SegmentWriter.add, []
    def slow(self, segment):
        real(self, segment)
        count.append(1)
        if len(count) == 9:
            print("nine", flush=True)
            sys.stdin.read()
    SegmentWriter.add = slow
    mixing.prepare_mixture(config(path), TOKENIZER, path / "out")
"""


def test_killed_while_writing_it_starts_the_rows_again(tmp_path: Path) -> None:
    expected = prepare(tmp_path, MANY + LONGS).digest
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "nine\n"
    process.kill()
    process.communicate()
    with pytest.raises(UsageError, match="preparing this training data was interrupted"):
        SegmentData.open(tmp_path / "out")
    assert prepare_mixture(config(tmp_path), TOKENIZER, tmp_path / "out").digest == expected


def test_what_a_killed_command_left_is_not_foreign(tmp_path: Path) -> None:
    out = prepare(tmp_path, MANY + LONGS).folder
    (out / "manifest.json").rename(out / f".manifest.json.{2**22 + 1}.tmp")
    prepare_mixture(config(tmp_path), TOKENIZER, out)
    assert (out / "manifest.json").exists()
    assert not list(out.glob(".*.tmp"))


def test_sources_are_told_in_the_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, length in enumerate([40, 50, 900, 5]):
        (folder / f"{i}.txt").write_text(text(i, length))
    (folder / "cover.jpg").write_bytes(b"x")
    say: list[str] = []
    data = prepare(tmp_path, say=say, sources=[{"name": "t", "path": str(folder)}])
    assert data.manifest["sources"] == [
        {"name": "t", "parts": 1, "ignored_files": 1, "documents": 4, "tokens": 995, "longest": 900}
    ]
    assert data.manifest["left_out"]["shorter than min_tokens (8)"] == {"documents": 1, "tokens": 5}
    assert data.manifest["tokenizer"] == {
        "name": "bytes", "fingerprint": TOKENIZER.fingerprint(), "vocabulary": 258, "bos": BOS, "eos": EOS
    }  # fmt: skip
    assert any("were ignored (cover.jpg ...)" in line for line in say)
    assert any("of the tokens in short rows is padding" in line for line in say)
    json.dumps(data.manifest)


@pytest.mark.parametrize(
    ("lengths", "values", "error"),
    [
        ([20, 30, 64], {}, "no long documents: 3 documents have 20 to 64 tokens, none has more"),
        (
            [300, 400],
            {},
            r"no short documents: 2 documents .* none has between min_tokens \(8\) and original_window \(64\); .*blank",
        ),
        ([5, 400], {}, "no short documents"),
        ([20, 30, 100], {}, "long documents chosen have 100 tokens together, less than one row of 256"),
        (
            [20, 900],
            {"buckets": [{"up_to": 64}, {"up_to": 500}, {}]},
            r"no documents of more than 64 and at most 500 tokens \(2 documents .*\); change buckets",
        ),
        (
            [40, 4000],
            {"tokens": 2000},
            "tokens = 2,000 leaves too few tokens for even one short document; raise",
        ),
        ([], {"sources": [{"name": "e", "path": "{path}/blank.jsonl"}]}, "source 'e': has no documents; remove it"),
    ],
)
def test_what_cannot_be_mixed_is_refused(
    tmp_path: Path, lengths: list[int], values: dict[str, Any], error: str
) -> None:
    (tmp_path / "blank.jsonl").write_text("\n\n")
    given = json.loads(json.dumps(values).replace("{path}", str(tmp_path)))
    with pytest.raises(UsageError, match=error) as caught:
        prepare(tmp_path, lengths, **given)
    assert "\n" not in str(caught.value)


def test_without_share_for_short_documents_none_are_needed(tmp_path: Path) -> None:
    data = prepare(tmp_path, [30, 300, 400], buckets=[{"up_to": SHORT, "share": 0}, {"share": 1}])
    assert data.manifest["segments"] == {"total": 2, "long": 2, "short": 0}
    assert data.manifest["left_out"]["in a bucket of share 0"] == {"documents": 1, "tokens": 30}
    assert len(data) == 2


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"target_window": 64}, "target_window 64 is not longer than original_window 64; raise it"),
        ({"original_window": 1, "target_window": 1}, "a window needs at least 2 tokens"),
        ({"min_tokens": 65}, "min_tokens 65 is more than original_window 64"),
        ({"min_tokens": 1}, r"data\.min_tokens 1: .* greater than or equal to 2"),
        ({"buckets": [{"up_to": 60}, {}]}, r"one needs up_to = 64 \(original_window\), and another must follow"),
        ({"buckets": [{"up_to": 64}]}, "and another must follow"),
        ({"buckets": [{"up_to": 64}, {"up_to": 32}]}, "up_to must ascend"),
        ({"buckets": [{}, {"up_to": 64}]}, "up_to must ascend, and only the last bucket may omit it"),
        ({"buckets": [{"up_to": 64, "share": 1}, {}]}, "buckets: set share for all of them or for none"),
        ({"buckets": [{"up_to": 64, "share": 1}, {"share": 0}]}, "those beyond original_window have no share"),
        ({"sources": []}, r"data\.sources: "),
        ({"sources": [{"name": "a", "path": "x"}] * 2}, "two sources have the same name"),
        ({"sources": [{"name": "a", "path": "x", "share": 1}, {"name": "b", "path": "x"}]}, "sources: set share"),
        ({"sources": [{"name": "a"}]}, r"data\.sources\.0: source 'a': set either path or hub"),
        ({"tokns": 3}, r"data\.tokns: unknown option; did you mean data\.tokens"),
        ({"sources": [{"name": "a", "pth": "x"}]}, r"data\.sources\.0\.pth: unknown option; .*path"),
        ({"buckets": [{"upto": 64}]}, r"data\.buckets\.0\.upto: unknown option; did you mean data\.buckets\.0\.up_to"),
        ({"target_window": "8q"}, "'8q' is not a length"),
    ],
)  # fmt: skip
def test_bad_configurations_are_named(tmp_path: Path, values: dict[str, Any], error: str) -> None:
    with pytest.raises(UsageError, match=error) as caught:
        config(tmp_path, **values)
    assert "\n" not in str(caught.value)


def test_the_table_of_the_guide_is_valid() -> None:
    page = (Path(__file__).parents[3] / "docs" / "training-data.md").read_text(encoding="utf-8")
    recipe = tomllib.loads(page.split("```toml\n")[1].split("```")[0])
    found = MixtureConfig(**recipe.pop("data") | recipe)
    assert (found.original_window, found.target_window) == (8192, 131_072)
    assert (found.tokens, [bucket.share for bucket in found.all_buckets]) == (10**10, [3, 3, 4])
    assert [source.upsample for source in found.sources] == [1, 3]


def test_lengths_may_be_written_short(tmp_path: Path) -> None:
    found = config(tmp_path, original_window="8k", target_window="128k", buckets=[{"up_to": "8k"}, {"up_to": "200k"}])
    assert (found.original_window, found.target_window, found.all_buckets[1].up_to) == (8192, 131_072, 204_800)


def test_real_essays_and_speeches(shared_data: Path, tmp_path: Path) -> None:
    """Essays as long documents, the speeches of plays as short ones, a token a byte: little is padding."""
    with zipfile.ZipFile(shared_data / "paul_graham" / "PaulGrahamEssays.zip") as archive:
        for name in (name for name in archive.namelist() if name.endswith(".txt")):
            (tmp_path / Path(name).name).write_bytes(archive.read(name))
    plays = shared_data / "tinyshakespeare" / "input.txt.gz"
    sources = [
        {"name": "essays", "path": [str(path) for path in sorted(tmp_path.glob("*.txt"))]},
        {"name": "speeches", "path": str(plays), "documents": "paragraphs"},
    ]
    windows = {"original_window": 1024, "target_window": 8192, "min_tokens": 64}
    data = prepare(tmp_path, buckets=None, sources=sources, **windows)
    assert data.manifest["segments"]["short"] > 20
    assert data.manifest["segments"]["long"] > 20
    assert data.manifest["waste"] < 0.02
    assert data.manifest["tokens"]["chosen"] == sum(row["tokens"] for row in data.manifest["buckets"])
