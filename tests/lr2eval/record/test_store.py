from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from lr2eval.benchmark import ResponseDetail
from lr2eval.errors import StoreError
from lr2eval.record.store import FILE, RunStore, StoredSample


def sample(number: int = 0, **changes: object) -> StoredSample:
    values: dict[str, object] = {
        "id": f"id{number}",
        "shard": "ruler/vt@1024",
        "benchmark": "ruler",
        "task": "vt",
        "length": 1024,
        "number": number,
        "prompt_hash": "p",
        "answer": "a\u2028\U0001f600",
        "score": 50.0,
        "skipped": False,
        "gold": ("x", "y"),
        "metrics": {"m,none": 0.5},
        "columns": {"depth": 0.25, "subject": None},
        "choices": (("A", -1.5), ("B", float("-inf"))),
        "prompt_head": "head",
        "prompt_tail": "tail",
        "excerpts": (("before", "needle", "after"),),
        "source": ("vt.jsonl", 77),
        "detail": ResponseDetail(900, 30, "short->long", "stop", 4),
    }
    return StoredSample(**{**values, **changes})  # type: ignore[arg-type]


def test_samples_come_back_as_they_went_in(tmp_path: Path) -> None:
    samples = [sample(1), sample(0, choices=None, source=None, score=None, skipped=True)]
    with RunStore.create(tmp_path) as store:
        store.save_scores("ruler/vt@1024", samples)
    with RunStore.read(tmp_path) as store:
        assert list(store.samples()) == sorted(samples, key=lambda s: s.number)
        assert list(store.samples("ruler/vt@1024")) == list(store.samples())
        assert list(store.samples("other")) == []
        assert store.shard_done("ruler/vt@1024")
        assert not store.shard_done("other")


def test_samples_can_be_chosen_without_reading_their_texts(tmp_path: Path) -> None:
    other = "ruler/cwe@1024"
    with RunStore.create(tmp_path) as store:
        assert store.outcomes() == {}
        store.save_scores("ruler/vt@1024", [sample(1), sample(0, score=None, skipped=True), sample(2, score=0.0)])
        store.save_scores(other, [sample(3, shard=other)])
    with RunStore.read(tmp_path) as store:
        assert store.outcomes() == {
            "ruler/vt@1024": [(0, "id0", "p", None), (1, "id1", "p", 50.0), (2, "id2", "p", 0.0)],
            other: [(3, "id3", "p", 50.0)],
        }
        assert list(store.picked("ruler/vt@1024", ["id2", "id1", "id3", "absent"])) == [sample(1), sample(2, score=0.0)]
        assert list(store.picked("ruler/vt@1024", [])) == []


def test_responses_and_plan_come_back(tmp_path: Path) -> None:
    detail = ResponseDetail(10, 2, "long", "length")
    with RunStore.create(tmp_path) as store:
        assert store.plan("s", "generate_until") is None
        store.save_plan("s", "generate_until", [[2, 0], [1]])
        store.save_batch("s", "generate_until", [(2, "k2", "text", detail), (0, "k0", "", detail)])
        store.save_batch("s", "loglikelihood", [(0, "k", (-1.25, True), detail)])
    with RunStore.create(tmp_path) as store:
        assert store.plan("s", "generate_until") == [[2, 0], [1]]
        assert store.responses("s", "generate_until") == {2: ("k2", "text", detail), 0: ("k0", "", detail)}
        assert store.responses("s", "loglikelihood") == {0: ("k", [-1.25, True], detail)}


def test_a_batch_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    detail = ResponseDetail()
    with RunStore.create(tmp_path) as store:
        store.save_batch("s", "generate_until", [(0, "k0", "a", detail)])
        with pytest.raises(StoreError):  # request 0 is there already: the whole batch must be undone
            store.save_batch("s", "generate_until", [(1, "k1", "b", detail), (0, "k0", "c", detail)])
        assert store.responses("s", "generate_until") == {0: ("k0", "a", detail)}


def test_committed_batches_survive_sigkill(tmp_path: Path) -> None:
    # The child commits batches and says so, then dies without any chance to tidy up.
    child = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from lr2eval.record.store import RunStore\n"
        "from lr2eval.benchmark import ResponseDetail\n"
        "store = RunStore.create(Path(sys.argv[1]))\n"
        "for i in range(50):\n"
        "    store.save_batch('s', 'generate_until', [(i, f'k{i}', 'x' * 5000, ResponseDetail())])\n"
        "    print(i, flush=True)\n"
        "    if i == 37:\n"
        "        store._db.execute('BEGIN IMMEDIATE')\n"
        "        store._db.execute(\"INSERT INTO meta VALUES ('half', 'done')\")\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", child, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    acknowledged = [int(line) for line in done.stdout.split()]
    with RunStore.create(tmp_path) as store:
        assert sorted(store.responses("s", "generate_until")) == acknowledged == list(range(38))
        assert store._db.execute("SELECT * FROM meta WHERE key = 'half'").fetchall() == []


def test_full_disk_is_one_line_and_keeps_what_was_there(tmp_path: Path) -> None:
    with RunStore.create(tmp_path) as store:
        store.save_batch("s", "generate_until", [(0, "k", "kept", ResponseDetail())])
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count={pages + 2}")  # SQLite then reports a full disk, for real
        with pytest.raises(StoreError, match=r"full.*free some space.*finished work is kept") as caught:
            store.save_batch("s", "generate_until", [(1, "k1", "x" * 1_000_000, ResponseDetail())])
        assert "\n" not in str(caught.value)
        assert list(store.responses("s", "generate_until")) == [0]
        store._db.execute("PRAGMA max_page_count=1000000")
        store.save_batch("s", "generate_until", [(1, "k1", "x" * 1_000_000, ResponseDetail())])
        assert list(store.responses("s", "generate_until")) == [0, 1]


@pytest.mark.parametrize("damage", ["header", "middle", "garbage"])
def test_damaged_database_is_one_line(tmp_path: Path, damage: str) -> None:
    with RunStore.create(tmp_path) as store:
        for i in range(40):
            store.save_batch("s", "generate_until", [(i, "k", "x" * 3000, ResponseDetail())])
    path = tmp_path / FILE
    data = bytearray(path.read_bytes())
    if damage == "garbage":
        data = bytearray(os.urandom(5000))
    else:
        start = 0 if damage == "header" else len(data) // 3
        data[start : start + 8192] = b"\xa5" * 8192
    path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged") as caught, RunStore.create(tmp_path) as store:
        store.responses("s", "generate_until")
    assert "\n" not in str(caught.value)


def test_reading_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no such file; give the folder of a run"):
        RunStore.read(tmp_path)


def test_reading_does_not_write(tmp_path: Path) -> None:
    with RunStore.create(tmp_path) as store:
        store.save_plan("a", "generate_until", [[0]])
    with RunStore.read(tmp_path) as store:
        assert store.plan("a", "generate_until") == [[0]]
        with pytest.raises(StoreError, match="writable"):
            store.save_plan("b", "generate_until", [[0]])


def test_other_store_version_is_refused(tmp_path: Path) -> None:
    with RunStore.create(tmp_path) as store:
        store._db.execute("UPDATE meta SET value = '99' WHERE key = 'store_version'")
    with pytest.raises(StoreError, match="version 99"):
        RunStore.create(tmp_path)


def test_digest_covers_answers_and_scores_not_order(tmp_path: Path) -> None:
    digests = []
    for name, rows in {
        "a": [sample(0), sample(1)],
        "b": [sample(1), sample(0)],
        "c": [sample(0), sample(1, answer="other")],
        "d": [sample(0), sample(1, score=49.0)],
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        with RunStore.create(folder) as store:
            store.save_scores("ruler/vt@1024", rows)
            digests.append(store.seals()[1])
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_wal_is_on(tmp_path: Path) -> None:
    RunStore.create(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE) as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_half_characters_are_replaced(tmp_path: Path) -> None:
    with RunStore.create(tmp_path) as store:
        store.save_scores("mmlu/a", [sample(answer="half \ud800, whole \ud83d\ude00")])
        assert next(store.samples()).answer == "half \ufffd, whole \U0001f600"


def test_a_text_that_became_bytes_is_damage(tmp_path: Path) -> None:
    with RunStore.create(tmp_path) as store:
        store.save_scores("mmlu/a", [sample()])
        store._db.execute("UPDATE shards SET shard=CAST(shard AS BLOB)")
        with pytest.raises(StoreError, match="a text is damaged"):
            store.finished()
