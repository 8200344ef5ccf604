"""Which samples a report shows, by a stated rule, and what it shows of each.

With several runs a sample stands once, with the answers of all of them: same id, same prompt hash (D3).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from lr2eval._errors import StoreError
from lr2eval._store import RunStore, StoredSample
from lr2eval.reports import _text
from lr2eval.reports._load import Run, shard_id

PER_SHARD = 30
PER_REPORT = 720
LEAST = 3
HEAD, TAIL, NEEDLE, AROUND, ANSWER, EXCERPTS, CHOICES = 400, 500, 300, 90, 600, 4, 12
"""Characters (and, at the end, entries) shown of each part of a sample."""

_MARK = {"right": "✓", "partly": "◐", "wrong": "✗", "skipped": "○"}


@dataclass(frozen=True)
class Answer:
    """What one run made of a sample."""

    run: Run
    sample: StoredSample

    @property
    def verdict(self) -> str:
        score = self.sample.score
        if self.sample.skipped or score is None:
            return "skipped"
        return "right" if score >= 100 else "wrong" if score <= 0 else "partly"

    @property
    def mark(self) -> str:
        return _MARK[self.verdict]

    @property
    def empty(self) -> bool:
        return not self.sample.skipped and not self.sample.answer.strip()

    @property
    def text(self) -> str:
        return _text.clip(self.sample.answer, ANSWER)

    @property
    def gist(self) -> str:
        """One line for the closed entry."""
        return _text.clip(" ".join(self.sample.answer[:200].split()), 80)


@dataclass(frozen=True)
class Entry:
    """One sample with the answers of the runs that have it."""

    answers: tuple[Answer, ...]

    @property
    def sample(self) -> StoredSample:
        return self.answers[0].sample

    @property
    def change(self) -> str:
        """``lost`` where a later run scores lower than the first, ``gained`` where one scores higher; else empty.

        Runs come with the original first, so this is what extending the model did to the sample.
        """
        scores = {a.run.number: a.sample.score for a in self.answers if a.sample.score is not None}
        before, after = scores.pop(0, None), scores.values()
        if before is None:
            return ""
        return "lost" if any(s < before for s in after) else "gained" if any(s > before for s in after) else ""

    @property
    def wrong(self) -> bool:
        return any(answer.verdict in ("wrong", "partly") for answer in self.answers)

    @property
    def kinds(self) -> str:
        """Words the sample filter looks for."""
        kinds = [self.change] * bool(self.change) + ["wrong"] * self.wrong
        kinds += ["empty"] * any(answer.empty for answer in self.answers)
        kinds += ["cut"] * any(answer.sample.detail.truncated_tokens > 0 for answer in self.answers)
        kinds += ["skipped"] * any(answer.verdict == "skipped" for answer in self.answers)
        return " ".join(kinds)

    @property
    def columns(self) -> str:
        return " · ".join(f"{key} {text}" for key, text in _text.facts(self.sample.columns) if text != _text.NOTHING)

    @property
    def gold(self) -> str:
        return _text.clip(" | ".join(self.sample.gold), ANSWER)

    @property
    def head(self) -> str:
        return _text.clip(self.sample.prompt_head, HEAD + TAIL if not self.sample.prompt_tail else HEAD)

    @property
    def tail(self) -> str:
        return _text.clip_start(self.sample.prompt_tail, TAIL)

    @property
    def excerpts(self) -> list[tuple[str, str, str]]:
        return [
            (_text.clip_start(before, AROUND), _text.clip(needle, NEEDLE), _text.clip(after, AROUND))
            for before, needle, after in self.sample.excerpts[:EXCERPTS]
        ]


@dataclass(frozen=True)
class ShardSamples:
    """The shown samples of one shard, and how many there are in all."""

    name: str
    title: str
    entries: tuple[Entry, ...]
    total: int
    wrong: int
    lost: int
    gained: int


def places(shards: int) -> int:
    """Samples shown per shard, so that a report of any number of shards stays small enough to send."""
    return max(LEAST, min(PER_SHARD, PER_REPORT // max(1, shards)))


def pick(entries: Sequence[Entry], limit: int) -> tuple[Entry, ...]:
    """Lost samples first, then gained ones, then the rest in their order; always the first ones of each kind.

    Half of the places are for lost and a quarter for gained ones; of the others two in three are for wrong answers,
    for those teach most, but a report of mistakes alone would not show what a right answer looks like. Places one
    kind leaves free go to the other kinds, in this order. Without a comparison there are only wrong and other samples.
    """
    kinds: list[list[Entry]] = [
        [entry for entry in entries if entry.change == "lost"],
        [entry for entry in entries if entry.change == "gained"],
        [entry for entry in entries if not entry.change and entry.wrong],
        [entry for entry in entries if not entry.change and not entry.wrong],
    ]
    shares = [-(-limit // 2) if kinds[0] else 0]
    shares.append(min(limit - shares[0], -(-limit // 4)) if kinds[1] else 0)
    shares.append(-(-2 * (limit - sum(shares)) // 3))
    shares.append(limit - sum(shares))
    taken = [min(len(kind), share) for kind, share in zip(kinds, shares, strict=True)]
    for place, kind in enumerate(kinds):
        taken[place] += min(len(kind) - taken[place], limit - sum(taken))
    lost, gained, wrong, other = (kind[:n] for kind, n in zip(kinds, taken, strict=True))
    return (*lost, *gained, *sorted(wrong + other, key=lambda entry: entry.sample.number))


def collect(runs: Sequence[Run]) -> tuple[list[ShardSamples], dict[str, str], int]:
    """(shown samples by shard, category by shard where the samples name one, places per shard)."""
    shards = {shard_id(shard): shard for run in runs for shard in run.results.shards}
    limit = places(len(shards))
    shown, categories = [], {}
    with ExitStack() as stack:
        stores = [(run, stack.enter_context(RunStore.read(run.folder))) for run in runs]
        for name, shard in shards.items():
            entries = _entries([(run, store, name) for run, store in stores])
            if not entries and shard.n:
                raise StoreError(
                    f"{stores[0][1].path}: no samples of {name}, of which results.json counts {shard.n}; "
                    "restore the run folder from a copy"
                )
            if not entries:
                continue
            category = entries[0].sample.columns.get("category")
            if category is not None:
                categories[name] = str(category)
            length = "" if shard.length is None else f" at {_text.length(shard.length)}"
            shown.append(
                ShardSamples(
                    name=name,
                    title=f"{_text.title(shard.benchmark)} · {_text.task(shard.benchmark, shard.task)}{length}",
                    entries=pick(entries, limit),
                    total=len(entries),
                    wrong=sum(entry.wrong for entry in entries),
                    lost=sum(entry.change == "lost" for entry in entries),
                    gained=sum(entry.change == "gained" for entry in entries),
                )
            )
    return shown, categories, limit


def _entries(sources: Sequence[tuple[Run, RunStore, str]]) -> list[Entry]:
    together: dict[tuple[str, str], list[Answer]] = {}
    for run, store, shard in sources:
        try:
            for sample in store.samples(shard):
                together.setdefault((sample.id, sample.prompt_hash), []).append(Answer(run, sample))
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"{store.path}: damaged sample in {shard} ({error}); restore the run folder from a copy"
            ) from error
    return [Entry(tuple(answers)) for answers in together.values()]
