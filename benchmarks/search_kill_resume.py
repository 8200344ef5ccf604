"""Kill a search with SIGKILL at random moments, start it again each time, and look whether its history is the same.

``python benchmarks/search_kill_resume.py --kills 10 [--strategy gradient]`` searches once undisturbed, then with the
given number of kills. At the end it checks that the journals hold the same evaluations with the same scores in the same
order, none twice, and that ``search.json`` and ``factors.json`` are equal byte for byte. Prints one JSON object and
exits 1 when anything differs. The tests do three kills with the same code.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from forked import Forked, warm_up

ASSET = Path(__file__).parents[1] / "tests" / "assets" / "tiny-retrieval"


def command(out: Path, strategy: str = "evolution") -> list[str]:
    """A sweep over two splits with racing, or two descents, at 4x: some 200 evaluations of 512 tokens."""
    if strategy == "gradient":
        own, settings = ["--strategy", "gradient"], ["steps=12", "check_every=3", "screen=1"]
    else:
        own = ["--splits", "12,14", "--iterations", "8", "--race"]
        settings = ["initial=10", "population=8", "parents=4", "mutations=2", "crossovers=2", "race_rungs=[1]"]
    return [
        "lr2eval", "search", "--model", str(ASSET), "--target-length", "512", "--repeat",
        "--haystack", str(ASSET / "haystack.txt"), "--wording", str(ASSET / "wording.json"), *own,
        "--samples", "4", "--held-out", "2", "--dtype", "float32", "--device", "cpu",
        "--offline", "--out", str(out), *(part for setting in ("needles=4", *settings) for part in ("--set", setting)),
    ]  # fmt: skip


def search(out: Path) -> None:
    """The ordinary command line."""
    from lr2eval import cli

    sys.argv = command(out, out.parent.name)
    cli.main()


def evaluations(out: Path) -> list[tuple[str, int, float, str | None]]:
    """What the journal holds, read as any other process would."""
    path = out / "evaluations.sqlite"
    if not path.exists():
        return []
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
    try:
        return db.execute("SELECT factors, sample, nll, gradient FROM evaluations ORDER BY number").fetchall()
    except sqlite3.OperationalError:  # killed before the table was there
        return []
    finally:
        db.close()


def campaign(work: Path, kills: int, seed: int, strategy: str = "evolution") -> dict[str, object]:
    """One undisturbed search, then some that are killed. Returns what was seen; ``ok`` says whether all held."""
    work = work / strategy
    work.mkdir()
    calm, rough = work / "calm", work / "rough"
    warm_up()
    began = time.monotonic()
    Forked(search, calm).finish("the undisturbed search")
    duration = time.monotonic() - began
    expected = evaluations(calm)
    rng = random.Random(seed)
    died = 0
    at: list[int] = []
    results: list[bool] = []
    while died < kills:
        child = Forked(search, rough)
        # Every third kill at any time of a run, start included; the others when so many evaluations are there.
        after = rng.uniform(0.2, duration) if died % 3 == 2 else None
        there = len(evaluations(rough))
        wanted = min(there + rng.randint(1, len(expected) // 3), len(expected) - 1)
        started = time.monotonic()
        while child.poll() is None:
            if (time.monotonic() - started > after) if after is not None else len(evaluations(rough)) >= wanted:
                break
            time.sleep(rng.uniform(0.0, 0.03))
        if child.poll() is None:
            died += child.kill()
            at.append(len(evaluations(rough)))
        else:
            child.finish("the resumed search")
        if len(evaluations(rough)) >= len(expected) - 1 and died < kills:
            results.append(same(rough, calm))
            rough = work / f"rough{len(results)}"  # the kills that are left hit a search of their own
    results.append(same(rough, calm))
    return {
        "strategy": strategy,
        "kills": died,
        "evaluations_of_a_search": len(expected),
        "evaluations_at_each_kill": at,
        "searches_compared": len(results),
        "identical": sum(results),
        "undisturbed_seconds": round(duration, 1),
        "seed": seed,
        "ok": all(results),
    }


def same(rough: Path, calm: Path) -> bool:
    """Whether a search that was killed ends as the undisturbed one."""
    Forked(search, rough).finish("the resumed search")
    files = all((rough / name).read_bytes() == (calm / name).read_bytes() for name in ("search.json", "factors.json"))
    return files and evaluations(rough) == evaluations(calm)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategy", choices=("evolution", "gradient"), default="evolution")
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        facts = campaign(Path(work), arguments.kills, arguments.seed, arguments.strategy)
    text = json.dumps(facts, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    return 0 if facts["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
