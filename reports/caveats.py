"""What a reader must know before believing a number. Nothing is silent (D5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lr2eval.record.comparison import Comparison
from lr2eval.record.results import ShardResult
from lr2eval.reports import formats
from lr2eval.reports.load import Key, LoadedRun, keys, sides

FEW = 30
"""Below this many samples an interval is so wide that a score tells little by itself."""

Detail = tuple[str, Sequence[str]]
"""What a caveat says of one run: a sentence, and a list of shards, settings or tasks."""


@dataclass(frozen=True)
class Caveat:
    """One caveat; ``grave`` ones change what the numbers mean, the others how sure they are."""

    title: str
    text: str
    grave: bool
    details: Sequence[tuple[Key, Detail]] = ()


def caveats(runs: Sequence[LoadedRun], comparison: Comparison | None = None) -> list[Caveat]:
    """The grave ones first; what concerns the comparison before what concerns a run."""
    kinds: tuple[tuple[str, str, bool, Callable[[LoadedRun], Detail]], ...] = (
        (
            "Unfinished run",
            "The report shows finished shards only. Run the same command again to finish the rest.",
            True,
            _unfinished,
        ),
        ("Requested but not run", "These tasks are missing from every mean below.", True, _not_run),
        (
            "Stand-in data",
            "These shards used substitute data. Do not compare their scores with published scores.",
            True,
            lambda run: _marked(run, _stand_in),
        ),
        (
            "Scored as in lm-eval",
            "If a question has several accepted answers, its score is the share of them that was found. NVIDIA/RULER "
            "gives full marks for any one of them. So means, effective lengths and weighted averages over these shards "
            "differ from NVIDIA's, and cannot be compared with runs that use its metric. lm-eval itself prints "
            "these scores divided by 100.",
            True,
            lambda run: _marked(run, lambda shard: shard.data.get("scoring") == "lm-eval"),
        ),
        (
            "Order of NVIDIA/RULER",
            "Needles, words and documents stand in NVIDIA/RULER's fixed order (ruler.compat=nvidia). In qa, the first "
            "document of a question's own is always at the same place for the same number of documents, so these "
            "scores say little about other places.",
            False,
            lambda run: _marked(run, lambda shard: shard.data.get("order") == "nvidia"),
        ),
        (
            "Truncated prompts",
            "The middle of these prompts was cut out, perhaps together with the answer.",
            True,
            lambda run: _share(run, "truncated"),
        ),
        (
            "Prompts read in pieces",
            "Prompts of these shards were read in pieces of this many tokens: the settings asked for it, or memory was "
            "short. Answers are the same but for rounding, which may change one now and then.",
            False,
            _pieces,
        ),
        (
            "Skipped samples",
            "These samples were too long for the window. They are not counted in n.",
            True,
            lambda run: _share(run, "skipped"),
        ),
        (
            "Empty answers",
            "The model answered with nothing but white space. These answers are scored like all others.",
            False,
            lambda run: _share(run, "empty"),
        ),
        (
            "Refused answers",
            'The answer begins with a usual English refusal ("I\'m sorry", "I cannot", "As an AI"). '
            "These answers are scored like all others.",
            False,
            lambda run: _share(run, "refused"),
        ),
        (
            "Few samples",
            f"A shard with fewer than {FEW} samples proves little by itself. Look at its interval, not at its score.",
            False,
            _few,
        ),
    )
    found = [] if comparison is None else _of_comparison(comparison)
    for title, text, grave, look in kinds:
        details = [(run, detail) for run in runs if any(detail := look(run))]
        found.append(Caveat(title, text, grave, details))
    return sorted((caveat for caveat in found if caveat.details), key=lambda caveat: not caveat.grave)


def _of_comparison(comparison: Comparison) -> list[Caveat]:
    """What the comparison leaves out, and what differs apart from the model."""
    original, *extended = keys(comparison)
    pairs = list(zip(extended, comparison.pairs, strict=True))
    left_out = [
        (key, ("", [f"{item.what}: {formats.count(item.n)} left out, {item.reason}" for item in pair.left_out]))
        for key, pair in pairs
        if pair.left_out and not comparison.ranking  # which ranks what the original was not asked
    ]
    unfinished = [
        (key, (side.source, ()))
        for key, side in zip([original, *extended], sides(comparison), strict=True)
        if side.kind == "baseline" and not side.complete
    ]
    settings = [(key, ("", pair.caveats)) for key, pair in pairs if pair.caveats]
    return [
        Caveat("Left out of the comparison", "Only one of the two runs has these samples.", True, left_out),
        Caveat("Unfinished baseline", "The baseline was saved before its run had finished.", True, unfinished),
        Caveat("About the compared runs", "These facts can change scores apart from the extension.", False, settings),
    ]


def _unfinished(run: LoadedRun) -> Detail:
    finished = len(run.results.shards)
    return "" if run.results.complete else f"{finished} shard{'s' * (finished != 1)} finished so far.", ()


def _not_run(run: LoadedRun) -> Detail:
    return "", [
        f"{entry.task}{'' if entry.length is None else f' at {formats.length(entry.length)}'}: {entry.reason}"
        for entry in run.results.not_run
    ]


def _marked(run: LoadedRun, marked: Callable[[ShardResult], bool]) -> Detail:
    return "", [shard.id for shard in run.results.shards if marked(shard)]


def _stand_in(shard: ShardResult) -> bool:
    """Tasks mark stand-in data by a fact of that name, or by naming it in the value."""
    return any(
        (key.replace("-", "_") in ("stand_in", "standin") and bool(value))
        or (isinstance(value, str) and "stand-in" in value.lower())
        for key, value in shard.data.items()
    )


def _share(run: LoadedRun, kind: str) -> Detail:
    """How many samples of all, and of each shard. Skipped samples are not among the ``n`` that were scored."""
    counts = [
        (shard.id, getattr(shard, kind), shard.n + (shard.skipped if kind == "skipped" else 0))
        for shard in run.results.shards
    ]
    some, every = sum(count for _, count, _ in counts), sum(n for _, _, n in counts)
    if not some:
        return "", ()
    text = f"{formats.count(some)} of {formats.count(every)} samples ({formats.percent(some / every)})."
    return text, [f"{name}: {count} of {n}" for name, count, n in counts if count]


def _pieces(run: LoadedRun) -> Detail:
    chunks = run.manifest.get("prefill_chunks", {})
    return "", [f"{shard}: {', '.join(f'{size:,}' for size in sizes)} tokens" for shard, sizes in chunks.items()]


def _few(run: LoadedRun) -> Detail:
    few = sum(shard.n < FEW for shard in run.results.shards)
    return f"{few} of {len(run.results.shards)} shards." if few else "", ()
