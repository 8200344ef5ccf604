"""Which samples a report shows, by a stated rule, and what it shows of each.

With several runs a sample stands once, with the answers of all of them: same id, same prompt hash (D3).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from markupsafe import escape

from lr2eval.base.visible import visible
from lr2eval.errors import StoreError
from lr2eval.record.store import RunStore, StoredSample
from lr2eval.reports import formats
from lr2eval.reports.load import LoadedRun

PER_SHARD = 30
PER_REPORT = 720
LEAST = 3
BUDGET = 2_200_000
HEAD, TAIL, NEEDLE, AROUND, ANSWER, EXCERPTS, CHOICES = 400, 500, 300, 90, 600, 4, 12
"""Characters (and, at the end, entries) shown of each part of a sample."""

_MARK = {"right": "✓", "partly": "◐", "wrong": "✗", "skipped": "○"}


Stores = Sequence[tuple[LoadedRun, RunStore]]


@dataclass(frozen=True)
class Answer:
    """What one run made of a sample."""

    run: LoadedRun
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
        return formats.clip(self.sample.answer, ANSWER)

    @property
    def gist(self) -> str:
        """One line for the closed entry."""
        return formats.clip(" ".join(self.sample.answer[:200].split()), 80)


@dataclass(frozen=True)
class Outcome:
    """How the runs scored one sample: number of the run -> score, ``None`` where it was skipped."""

    id: str
    prompt_hash: str
    number: int
    scores: dict[int, float | None]

    @property
    def change(self) -> str:
        """``lost`` where a later run scores lower than the first, ``gained`` where one scores higher; else empty.

        Runs come with the original first, so this is what extending the model did to the sample.
        """
        before = self.scores.get(0)
        if before is None:
            return ""
        after = [score for score in self.scores.values() if score is not None]
        return "lost" if min(after) < before else "gained" if max(after) > before else ""

    @property
    def wrong(self) -> bool:
        return any(score is not None and score < 100 for score in self.scores.values())


@dataclass(frozen=True)
class Entry:
    """One shown sample with the answers of the runs that have it."""

    outcome: Outcome
    answers: tuple[Answer, ...]

    @property
    def sample(self) -> StoredSample:
        return self.answers[0].sample

    @property
    def kinds(self) -> str:
        """Words the sample filter looks for."""
        kinds = [self.outcome.change] * bool(self.outcome.change) + ["wrong"] * self.outcome.wrong
        kinds += ["empty"] * any(answer.empty for answer in self.answers)
        kinds += ["cut"] * any(answer.sample.detail.truncated_tokens > 0 for answer in self.answers)
        kinds += ["skipped"] * any(answer.verdict == "skipped" for answer in self.answers)
        return " ".join(kinds)

    @property
    def columns(self) -> str:
        return " · ".join(
            f"{key} {text}" for key, text in formats.facts(self.sample.columns) if text != formats.NOTHING
        )

    @property
    def gold(self) -> str:
        return formats.clip(" | ".join(self.sample.gold), ANSWER)

    @property
    def head(self) -> str:
        return formats.clip(self.sample.prompt_head, HEAD + TAIL if not self.sample.prompt_tail else HEAD)

    @property
    def tail(self) -> str:
        return formats.clip_start(self.sample.prompt_tail, TAIL)

    @property
    def excerpts(self) -> list[tuple[str, str, str]]:
        return [
            (formats.clip_start(before, AROUND), formats.clip(needle, NEEDLE), formats.clip(after, AROUND))
            for before, needle, after in self.sample.excerpts[:EXCERPTS]
        ]

    @property
    def size(self) -> int:
        """About how many bytes of the page it takes."""
        texts = [self.head, self.tail, self.gold, *(part for excerpt in self.excerpts for part in excerpt)]
        for answer in self.answers:
            texts += [answer.text, answer.gist, *(text for text, _ in (answer.sample.choices or ())[:CHOICES])]
        return sum(len(escape(visible(text)).encode()) for text in texts) + 900 + 700 * len(self.answers)


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


def pick(outcomes: Sequence[Outcome], limit: int) -> tuple[Outcome, ...]:
    """Lost samples first, then gained ones, then the rest in their order; always the first ones of each kind.

    Half of the places are for lost and a quarter for gained ones; of the others two in three are for wrong answers,
    because mistakes teach most, and the rest shows what a right answer looks like. Places that one kind does not need
    go to the other kinds, in this order. Without a comparison there are only wrong and other samples.
    """
    kinds: list[list[Outcome]] = [[], [], [], []]
    for outcome in outcomes:
        change = outcome.change
        kinds[0 if change == "lost" else 1 if change else 2 if outcome.wrong else 3].append(outcome)
    shares = [-(-limit // 2) if kinds[0] else 0]
    shares.append(min(limit - shares[0], -(-limit // 4)) if kinds[1] else 0)
    shares.append(-(-2 * (limit - sum(shares)) // 3))
    shares.append(limit - sum(shares))
    taken = [min(len(kind), share) for kind, share in zip(kinds, shares, strict=True)]
    for place, kind in enumerate(kinds):
        taken[place] += min(len(kind) - taken[place], limit - sum(taken))
    lost, gained, wrong, other = (kind[:n] for kind, n in zip(kinds, taken, strict=True))
    return (*lost, *gained, *sorted(wrong + other, key=lambda outcome: outcome.number))


def collect(runs: Sequence[LoadedRun]) -> tuple[list[ShardSamples], dict[str, str], int]:
    """(shown samples by shard, category by shard where the samples name one, places per shard).

    The places are fewer where the samples would take more than ``BUDGET`` bytes of the page.
    """
    shards = {shard.id: shard for run in runs for shard in run.results.shards}
    limit = places(len(shards))
    shown = []
    with ExitStack() as stack:
        stores = [(run, stack.enter_context(RunStore.read(run.folder))) for run in runs]
        judged = _outcomes(stores)
        for name, shard in shards.items():
            outcomes = judged.get(name, [])
            if not outcomes and shard.n:
                raise StoreError(
                    f"{stores[0][1].path}: no samples of {name}, of which results.json counts {shard.n}; "
                    "restore the run folder from a copy"
                )
            if not outcomes:
                continue
            length = "" if shard.length is None else f" at {formats.length(shard.length)}"
            shown.append(
                ShardSamples(
                    name=name,
                    title=f"{formats.title(shard.benchmark)} · {formats.task(shard.benchmark, shard.task)}{length}",
                    entries=_entries(stores, name, pick(outcomes, limit)),
                    total=len(outcomes),
                    wrong=sum(outcome.wrong for outcome in outcomes),
                    lost=sum(outcome.change == "lost" for outcome in outcomes),
                    gained=sum(outcome.change == "gained" for outcome in outcomes),
                )
            )
    size = sum(entry.size for shard in shown for entry in shard.entries)
    if size > BUDGET:
        limit = max(1, limit * BUDGET // size)
        shown = [replace(shard, entries=_fewer(shard.entries, limit)) for shard in shown]
    categories = {
        shard.name: str(category)
        for shard in shown
        if (category := shard.entries[0].sample.columns.get("category")) is not None
    }
    return shown, categories, limit


def _fewer(entries: Sequence[Entry], limit: int) -> tuple[Entry, ...]:
    by_id = {(entry.outcome.id, entry.outcome.prompt_hash): entry for entry in entries}
    return tuple(by_id[o.id, o.prompt_hash] for o in pick([entry.outcome for entry in entries], limit))


def _outcomes(stores: Stores) -> dict[str, list[Outcome]]:
    """By shard, in the order of the samples; equal id and prompt hash is the same sample (D3)."""
    found: dict[str, dict[tuple[str, str], Outcome]] = {}
    for run, store in stores:
        for shard, rows in store.outcomes().items():
            together = found.setdefault(shard, {})
            for number, id_, prompt_hash, score in rows:
                outcome = together.setdefault((id_, prompt_hash), Outcome(id_, prompt_hash, number, {}))
                outcome.scores[run.number] = score
    return {shard: list(together.values()) for shard, together in found.items()}


def _entries(stores: Stores, shard: str, outcomes: Sequence[Outcome]) -> tuple[Entry, ...]:
    """The whole samples of the chosen ones."""
    answers: dict[tuple[str, str], list[Answer]] = {(o.id, o.prompt_hash): [] for o in outcomes}
    for run, store in stores:
        for sample in store.picked(shard, [outcome.id for outcome in outcomes]):
            if (sample.id, sample.prompt_hash) in answers:
                answers[sample.id, sample.prompt_hash].append(Answer(run, sample))
    return tuple(Entry(outcome, tuple(answers[outcome.id, outcome.prompt_hash])) for outcome in outcomes)
