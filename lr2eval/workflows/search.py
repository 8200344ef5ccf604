"""Find RoPE factors for a longer window by needle perplexity, and compare them with the rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lr2eval.base.files import cache_dir, write_json
from lr2eval.base.ids import digest
from lr2eval.base.machine import now, versions
from lr2eval.base.units import format_length
from lr2eval.errors import MissingDataError, UsageError
from lr2eval.listener import Listener
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.rope_facts import real_index
from lr2eval.record.folder import claim, locked

if TYPE_CHECKING:
    from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
    from lr2eval.method.search.config import SearchConfig
    from lr2eval.method.search.executors import Executor
    from lr2eval.method.search.journal import Journal
    from lr2eval.method.search.needles import Sample
    from lr2eval.method.search.result import SearchResult
    from lr2eval.method.search.run import Plan, Scorer, SplitDone
    from lr2eval.method.search.space import Space


MANY = 64
"""Scale factors beyond this are further than anybody has published for one step."""


@dataclass(frozen=True)
class SearchOutcome:
    """A finished search. ``factors`` is the file that ``train`` and ``export`` take."""

    result: SearchResult
    folder: Path
    factors: Path
    report: Path


def search(config: SearchConfig, *, listener: Listener | None = None, command: Sequence[str] = ()) -> SearchOutcome:
    """Search RoPE factors for ``config.target_length`` by needle perplexity and compare them with the rules.

    Writes ``factors.json``, ``search.json`` and ``report.html`` into ``config.out`` or ``runs/search-MODEL-CONFIG``.
    Every evaluation is journalled: the same call again resumes, and a finished search is only read.

    Raises :class:`lr2eval.UsageError` for a model or text that does not fit, :class:`lr2eval.StoreError` for a folder
    that cannot be written.
    """
    from lr2eval.method.rope.source import ModelRope
    from lr2eval.model.names import locate

    listener = listener or Listener()
    config.where.check()
    folder = locate(config.model, offline=config.offline)
    rope = ModelRope.read(folder).original(from_original=config.from_original)
    try:
        spaces, plan = config.spaces(rope), config.plan()
    except ValueError as error:
        raise UsageError(f"{error}") from error
    if spaces[0].scale > MANY:
        listener.message(f"warning: s = {spaces[0].scale:g} is beyond {MANY}, further than any published result")
    try:
        return _search(config, folder, rope, spaces, plan, listener, command)
    finally:
        listener.ended()


def _search(
    config: SearchConfig,
    folder: Path,
    rope: OriginalRope,
    spaces: Sequence[Space],
    plan: Plan,
    listener: Listener,
    command: Sequence[str],
) -> SearchOutcome:
    from lr2eval.method.search.journal import Journal
    from lr2eval.method.search.result import FACTORS_FILE
    from lr2eval.model.tokenizer import PromptTokenizer
    from lr2eval.reports import render_search
    from lr2eval.workflows.search_workers import Loading

    listener.message("checking model and text")
    checkpoint = Checkpoint.open(folder, cache=cache_dir())
    samples, data = search_samples(config, PromptTokenizer.load(folder))
    device, dtype = _device(config), checkpoint.dtype if config.dtype == "auto" else config.dtype
    settings = config.settings() | {
        "haystack": data["haystack"],  # a text is its content (the samples' hash), wherever it lies
        "splits": [space.split for space in spaces],
        "device": device,
        "dtype": dtype,
        "wording": data["needles"]["wording"],
        "fingerprint": checkpoint.fingerprint,
        "samples_sha256": data["samples_sha256"],
    }
    home = config.out or Path("runs") / _run_name(checkpoint.name, config)
    with locked(home):
        facts = {"kind": "search", "data": data, "versions": versions(), "command": list(command), "created": now()}
        claim(home, settings, facts)
        loading = Loading(checkpoint, dtype, device, samples, config.where)
        with Journal.open(home) as journal, loading.executor() as executor:
            result, done = _search_and_compare(
                config, checkpoint, rope, spaces, plan, executor, journal, listener, data
            )
        _write(home, config, result, done)
        report = render_search(home, home / "report.html")
    return SearchOutcome(result, home, home / FACTORS_FILE, report)


def _search_and_compare(
    config: SearchConfig,
    checkpoint: Checkpoint,
    rope: OriginalRope,
    spaces: Sequence[Space],
    plan: Plan,
    executor: Executor,
    journal: Journal,
    listener: Listener,
    data: Mapping[str, Any],
) -> tuple[SearchResult, list[SplitDone]]:
    from lr2eval.method.search.run import Scorer
    from lr2eval.method.search.run import search as search_splits

    rules = _rules(rope, config)
    after = (len(rules) + 2) * (config.samples + config.held_out)
    total = len(spaces) * plan.split_cost() + after
    listener.search_started(total, after, plan.settings.iterations, config.workers)
    if len(journal):
        listener.message(f"resuming: {len(journal):,} evaluations are there")
    done = search_splits(spaces, plan, executor, journal, listener)
    scorer = Scorer(executor, journal, listener)
    found = _result(config, checkpoint, rope, spaces, done, rules, scorer, data)
    tokens = sum(each.tokens for each in journal.rows())
    return found.model_copy(update={"data": found.data | {"tokens_read": tokens}}), done


def search_samples(config: SearchConfig, tokenizer: Any) -> tuple[list[Sample], dict[str, Any]]:
    """Samples of the search, then held-out ones, and what the manifest says about them."""
    from lr2eval.method.search import needles
    from lr2eval.tasks import haystacks

    try:
        settings = config.needle_settings()
    except ValueError as error:
        raise UsageError(f"needles: {error}") from error
    try:
        haystack = haystacks.load({"haystack": config.haystack}, config.data_dir, config.offline, benchmark="search")
    except (UsageError, MissingDataError) as error:
        # The loader speaks of a task's options; here they are flags.
        raise UsageError(str(error).replace("--set search.haystack=", "--haystack ")) from error
    texts = [_sentences(text) for text in haystack.texts]
    text = needles.TokenText(haystack.name, texts, tokenizer)
    make = needles.make_samples if config.objective == "needle" else needles.plain_samples
    samples = make(text, tokenizer, settings, config.samples)
    # What a rule is worth is told by needles, whatever the search looked at.
    samples += needles.make_samples(text, tokenizer, settings, config.held_out, first=config.samples)
    data = {
        "haystack": haystack.name,
        "haystack_sha256": haystack.sha256,
        "haystack_tokens": len(text.ids),
        "haystack_texts": len(haystack.texts),
        "repeated": config.repeat,
        "samples_sha256": digest([sample.sha256 for sample in samples]),
        "needles": settings.to_json(),
        "depths": [list(sample.depths) for sample in samples],
    }
    return samples, data


def _sentences(text: str) -> list[str]:
    """Sentences, none of them running over an empty line."""
    from lr2eval.tasks import haystacks

    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    return [sentence for paragraph in paragraphs for sentence in haystacks.split(paragraph)]


def _device(config: SearchConfig) -> str:
    import torch

    return config.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _rules(rope: OriginalRope, config: SearchConfig) -> dict[str, RopeScaling]:
    """Every rule that asks for nothing but a target and can serve it."""
    from lr2eval.method.rope.rules import rope_rules

    found = {}
    for name, rule in rope_rules().items():
        if any(rule.settings.values()):
            continue
        try:
            found[name] = rule.make(rope, config.target_length)
        except ValueError:
            continue  # ntk in a window of under 7 tokens, YaRN for one pair: not there to compare with
    return found


def _result(
    config: SearchConfig,
    checkpoint: Checkpoint,
    rope: OriginalRope,
    spaces: Sequence[Space],
    done: Sequence[SplitDone],
    rules: Mapping[str, RopeScaling],
    scorer: Scorer,
    data: Mapping[str, Any],
) -> SearchResult:
    from lr2eval.method.search.result import rule_facts, sealed, split_facts

    best = min(done, key=lambda each: each.best.score)
    compared = dict(rules)
    seeds = [(each.seed, space) for each, space in zip(done, spaces, strict=True) if each.seed is not None]
    if seeds:
        seed, space = min(seeds, key=lambda pair: pair[0].score)
        compared["seed"] = space.scaling(seed.candidate)
    compared["searched"] = best.scaling
    every = range(config.samples + config.held_out)
    scores = scorer.nlls(list(compared.values()), every)
    parted = [(nlls[: config.samples], nlls[config.samples :]) for nlls in scores]
    facts = [
        rule_facts(name, scaling, *part, None if name == "searched" else parted[-1])
        for (name, scaling), part in zip(compared.items(), parted, strict=True)
    ]
    rounds = [each for split in done for each in split.rounds]
    return sealed(
        model=checkpoint.name,
        fingerprint=checkpoint.fingerprint,
        original_window=rope.window,
        target_length=config.target_length,
        scale=best.scaling.scale,
        theta=rope.theta,
        rotary_dim=rope.rotary_dim,
        periods=list(rope.periods),
        d_tcd=rope.d_tcd,
        d10_tcd=rope.d10_tcd,
        d_rcd=real_index(best.scaling.long_factor, best.scaling.scale),
        objective=config.objective,
        samples=config.samples,
        held_out=config.held_out,
        reach=config.reach,
        split=best.split,
        power=best.best.candidate.power / 100,
        factors=list(best.scaling.long_factor),
        attention_factor=best.scaling.long_attention_factor,
        best_nll=best.best.score,
        evaluations=sum(each.evaluations for each in rounds),
        discarded=sum(each.discarded for each in rounds),
        given_up=sum(each.given_up for each in rounds),
        splits=[split_facts(each) for each in done],
        rules=facts,
        data=dict(data),
    )


def _write(home: Path, config: SearchConfig, result: SearchResult, done: Sequence[SplitDone]) -> None:
    from dataclasses import replace

    from lr2eval.method.search.result import FACTORS_FILE, FILE

    best = next(each for each in done if each.split == result.split)
    scaling = replace(best.scaling, provenance=f"search({best.scaling.provenance})")
    perplexities = {rule.name: rule.held_out_perplexity for rule in result.rules}
    note = {
        "digest": result.digest,
        "needle_perplexity": perplexities if config.held_out else {},
        "objective": result.objective,
        "seed": config.seed,
        "evaluations": result.evaluations,
    }
    write_json(home / FILE, result.model_dump(mode="json"))
    write_json(home / FACTORS_FILE, scaling.to_json() | {"search": note})


def _run_name(model: str, config: SearchConfig) -> str:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.") or "model"
    return f"search-{safe}-{format_length(config.target_length)}-{digest(config.settings())[:8]}"
