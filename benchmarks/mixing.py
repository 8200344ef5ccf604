"""Training data out of real books: shares, waste and speed; and the memory that a big source takes.

    python benchmarks/mixing.py [--data ../shared/data] [--books 24] [--gigabytes 1]

Books (half of them whole as long documents, the paragraphs of the others as short ones) with SmolLM2's tokenizer,
Lt = 512, L = 2048, once with one process and once with two, each into an empty cache; the digests must be equal. Then a
JSONL file of the size asked, words of the books drawn at random, lengths as those of web pages with a long tail: peak
resident memory of the driving process, and the same for a tenth of it, so that one sees what grows. A worker's peak
begins at what its parent held when it started, so it is a bound.
Writes ``benchmarks/results/mixing.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import facts

RESULT = Path(__file__).parent / "results" / "mixing.json"
WINDOWS = {"original_window": 512, "target_window": 2048}


def unpack_books(archive: Path, folder: Path, count: int) -> None:
    """The text between the markers of every book; every second one into ``paragraphs``."""
    for name in ("whole", "paragraphs"):
        (folder / name).mkdir()
    with tarfile.open(archive) as file:
        members = [member for member in file if member.isfile() and member.name.endswith(".txt")][:count]
        for at, member in enumerate(members):
            held = file.extractfile(member)
            assert held is not None
            text = held.read()
            begin, end = text.find(b"*** START"), text.find(b"*** END")
            inner = text[text.find(b"\n", begin) if begin >= 0 else 0 : end if end >= 0 else None]
            (folder / ("paragraphs" if at % 2 else "whole") / Path(member.name).name).write_bytes(inner)


def big_source(path: Path, size: int, books: Path) -> int:
    """JSONL of about ``size`` bytes; returns the number of documents."""
    random = np.random.default_rng(0)
    words = [word for book in sorted(books.iterdir())[:3] for word in book.read_text(encoding="utf-8").split()]
    documents = 0
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < size:
            lengths = np.clip(random.lognormal(5.5, 1.3, 500), 5, 1e5).astype(int)
            for length in lengths:
                places = random.integers(0, len(words), length)
                file.write(json.dumps({"text": " ".join(words[place] for place in places)}) + "\n")
            documents += len(lengths)
    return documents


def prepare(model: Path, sources: list[dict[str, Any]], work: Path, workers: int) -> dict[str, Any]:
    """In this process: prepare into fresh folders, and what it took."""
    from lr2eval.method.data.config import MixtureConfig
    from lr2eval.method.data.mixing import prepare_mixture
    from lr2eval.model.tokenizer import PromptTokenizer

    tokenizer = PromptTokenizer.load(model)
    config = MixtureConfig(**{**WINDOWS, "sources": sources, "token_cache": work / f"cache{workers}"})
    before, began = _peak(resource.RUSAGE_SELF), time.monotonic()
    data = prepare_mixture(config, tokenizer, work / f"out{workers}", workers)
    seconds = time.monotonic() - began
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    read = sum(source["tokens"] for source in data.manifest["sources"])
    return {
        "workers": workers,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(sum(each.ru_utime + each.ru_stime for each in usage), 1),
        "tokens_read": read,
        "tokens_per_second": round(read / seconds),
        "load_average": round(os.getloadavg()[0], 1),
        "started_mib": before,
        "peak_mib": _peak(resource.RUSAGE_SELF),
        "peak_worker_mib": _peak(resource.RUSAGE_CHILDREN) if workers > 1 else None,
        "digest": data.digest,
        "documents": sum(source["documents"] for source in data.manifest["sources"]),
        "segments": data.manifest["segments"],
        "waste_of_short_rows": data.manifest["waste"],
        "waste_of_all_rows": data.manifest["tokens"]["padding"] / (len(data) * data.target_window),
        "cuts": data.manifest["cuts"],
        "buckets": [{key: row[key] for key in ("more_than", "up_to", "share", "tokens", "documents")}
                    for row in data.manifest["buckets"]],
        "left_out": data.manifest["left_out"],
    }  # fmt: skip


def _peak(who: int) -> int:
    return resource.getrusage(who).ru_maxrss // 1024


def measured(model: Path, sources: list[dict[str, Any]], work: Path, workers: int) -> dict[str, Any]:
    """The same in a process of its own, whose peak is its own."""
    given = json.dumps([str(model), sources, str(work), workers])
    done = subprocess.run([sys.executable, __file__, "--one", given], stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{row['workers']} processes: {row['tokens_read']:,} tokens in {row['seconds']} s "
        f"({row['tokens_per_second']:,}/s, {row['cpu_seconds']} CPU s), {row['segments']}, "
        f"waste {row['waste_of_short_rows']:.2%} of short rows, peak {row['peak_mib']} MiB "
        f"(from {row['started_mib']}), workers {row['peak_worker_mib']}",
        flush=True,
    )
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--model", type=Path, default=None, help="folder with a tokenizer; SmolLM2-135M when not given")
    parser.add_argument("--books", type=int, default=24)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        model, sources, work, workers = json.loads(options.one)
        print(json.dumps(prepare(Path(model), sources, Path(work), workers)))
        return 0
    from lr2eval.model.names import locate

    model = options.model or locate("smollm2-135m")
    machine = facts()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        unpack_books(options.data / "books" / "books.tar.xz", work, options.books)
        sources = [
            {"name": "books", "path": str(work / "whole")},
            {"name": "paragraphs", "path": str(work / "paragraphs"), "documents": "paragraphs"},
        ]
        books = [measured(model, sources, work, workers) for workers in (1, 2)]
        assert books[0]["digest"] == books[1]["digest"], "the number of processes changed the rows"
        big = []
        for at, size in enumerate((options.gigabytes / 10, options.gigabytes)):
            folder = work / f"big{at}"
            folder.mkdir()
            count = big_source(folder / "big.jsonl", int(size * 1e9), work / "whole")
            row = measured(model, [{"name": "big", "path": str(folder / "big.jsonl")}], folder, 2)
            assert row["documents"] == count
            big.append({"bytes": (folder / "big.jsonl").stat().st_size, **row})
    result = {
        "what": "preparing training data: books with SmolLM2's tokenizer, and memory of a big synthetic source",
        **WINDOWS,
        "machine": machine,
        "books": books,
        "big": big,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
