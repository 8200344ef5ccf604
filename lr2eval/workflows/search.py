"""Find RoPE factors for a longer window by needle perplexity, and compare them with the rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lr2eval.base.files import cache_dir, file_name, write_json
from lr2eval.base.ids import digest
from lr2eval.base.machine import now, versions
from lr2eval.base.units import format_length
from lr2eval.errors import CheckpointError, MissingDataError, UsageError
from lr2eval.listener import Listener, with_listener
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.rope_facts import real_index
from lr2eval.record.base import sealed, write_record
from lr2eval.record.folder import claim, locked, read_manifest
from lr2eval.record.search import FACTORS_FILE, FILE, FOUND, SEED, SearchResult

if TYPE_CHECKING:
    from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
    from lr2eval.method.search.config import SearchConfig
    from lr2eval.method.search.needles import Sample
    from lr2eval.method.search.perplexity import ModelExecutor
    from lr2eval.method.search.run import JournalScorer, SplitDone
    from lr2eval.method.search.space import Space


BEST_RULES = 3
"""Rules that are compared on the samples of the search too, at their own and at their best temperature."""


@dataclass(frozen=True)
class SearchOutcome:
    """A finished search. ``factors`` is the file that ``train`` and ``export`` take."""

    result: SearchResult
    folder: Path
    factors: Path
    report: Path


@with_listener
def search(config: SearchConfig, *, listener: Listener | None = None, command: Sequence[str] = ()) -> SearchOutcome:
    """Search RoPE factors for ``config.target_length`` by needle perplexity and compare them with the rules.

    Writes ``factors.json``, ``search.json`` and ``report.html`` into ``config.out`` or ``runs/search-MODEL-CONFIG``.
    Every evaluation is journalled: the same call again resumes, and a finished search is only read.

    Raises :class:`lr2eval.UsageError` for a model or text that does not fit, :class:`lr2eval.StoreError` for a folder
    that cannot be written.
    """
    from lr2eval.method.rope.rules import attention_factor, window_ratio
    from lr2eval.method.rope.source import ModelRope
    from lr2eval.model.names import locate
    from lr2eval.workflows.export import scale_warnings

    listener = listener or Listener()
    config.where.check()
    folder = locate(config.model, offline=config.offline)
    rope = ModelRope.read(folder).original(from_original=config.from_original)
    try:
        scale = window_ratio(rope, config.target_length)
        attention_factor(config.attention_factor, rope, config.target_length)  # checked before text is read
        spaces = [] if config.strategy == "gradient" else config.spaces(rope)
    except ValueError as error:
        raise UsageError(f"{error}") from error
    for warning in scale_warnings(scale):
        listener.message(f"warning: {warning}")
    try:
        return _search(config, folder, rope, spaces, listener, command)
    finally:
        listener.ended()


def _search(
    config: SearchConfig,
    folder: Path,
    rope: OriginalRope,
    spaces: Sequence[Space],
    listener: Listener,
    command: Sequence[str],
) -> SearchOutcome:
    import torch

    from lr2eval.method.search.gradient import CANDIDATES, composed, descend, descent_cost
    from lr2eval.method.search.journal import Journal
    from lr2eval.method.search.run import JournalScorer
    from lr2eval.method.search.run import search as search_splits
    from lr2eval.model.tokenizer import PromptTokenizer
    from lr2eval.reports import render_search

    listener.message("checking model and text")
    checkpoint = Checkpoint.open(folder, cache=cache_dir())
    if config.strategy == "gradient" and checkpoint.config.get("quantization_config"):
        raise UsageError(
            f"--strategy gradient: no gradient passes through the quantised weights of {checkpoint.name}; use "
            "evolution or random"
        )
    samples, data = search_samples(config, PromptTokenizer.load(folder))
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    home = config.out or Path("runs") / _run_name(checkpoint.name, config)
    kept = (read_manifest(home) or {}).get("settings", {}).get("dtype")
    dtype = (kept or checkpoint.fitting_dtype(device)) if config.dtype == "auto" else config.dtype
    settings = config.settings() | {
        "haystack": data["haystack"],  # a text is identified by its content (the samples' hash), not by its path
        "splits": [space.split for space in spaces],
        "device": device,
        "dtype": dtype,
        "wording": data["needles"]["wording"],
        "fingerprint": checkpoint.fingerprint,
        "samples_sha256": data["samples_sha256"],
    }
    rules = _rules(rope, config)
    more = composed(rope, config.target_length, config.turns) if config.strategy == "gradient" else {}
    screened = _tempered(rules | more, config)
    rungs = [(min(config.screen, config.samples), len(screened))]
    rungs += [(min(3 * config.screen, config.samples), -(-len(screened) // 4))]
    screening = rungs[0][0] * rungs[0][1] + (rungs[1][0] - rungs[0][0]) * rungs[1][1]
    after = (len(rules) + BEST_RULES + 2) * config.held_out + (2 * BEST_RULES + 2) * config.samples
    cost = descent_cost(config) if config.strategy == "gradient" else len(spaces) * config.split_cost()
    total = screening + cost + after
    with locked(home):
        facts = {"kind": "search", "data": data, "versions": versions(), "command": list(command), "created": now()}
        claim(home, settings, facts)
        load = partial(_load, checkpoint, dtype, samples, rules["none"])
        with Journal.open(home) as journal, config.where.executor(load, checkpoint, device) as executor:
            rounds = config.steps if config.strategy == "gradient" else config.iterations
            listener.search_started(total, after, rounds, config.workers)
            if len(journal):
                listener.message(f"resuming: {len(journal):,} evaluations are already done")
            scorer = JournalScorer(executor, journal, listener)
            warm = _best_temperatures(screened, rungs, scorer)
            if config.strategy == "gradient":
                done = descend(dict(list(warm.items())[: CANDIDATES * config.starts]), config, scorer, listener)
            else:
                done = search_splits(spaces, config, executor, journal, listener)
            best = {name: warm[name] for name in [name for name in warm if name in rules][:BEST_RULES]}
            compared = _compared(done, rules, best)
            near = {name: each for name, each in compared.items() if name.partition("@")[0] in (*best, SEED, FOUND)}
            near |= {name: each for name, each in compared.items() if scorer.known(each, range(config.samples))}
            own = dict(zip(near, scorer.nlls(list(near.values()), range(config.samples)), strict=True))
            held_out = scorer.nlls(list(compared.values()), range(config.samples, config.samples + config.held_out))
            scores = [(own.get(name, []), nlls) for name, nlls in zip(compared, held_out, strict=True)]
            rows = journal.rows()
        data["screened"] = screening
        data["tokens_read"] = sum(each.tokens for each in rows)
        data["tokens_differentiated"] = sum(each.tokens for each in rows if each.gradient is not None)
        result = _result(config, checkpoint, rope, done, compared, scores, data)
        _write(home, config, result, compared[FOUND])
        report = render_search(home, home / "report.html")
    return SearchOutcome(result, home, home / FACTORS_FILE, report)


def _load(
    checkpoint: Checkpoint, dtype: str, samples: Sequence[Sample], first: RopeScaling, device: str
) -> ModelExecutor:
    """A worker's executor. Raises :class:`CheckpointError` for a model that cannot take the factors ``first``."""
    from lr2eval.backends.loading import load_model, quiet
    from lr2eval.method.rope.windowed import install_rope
    from lr2eval.method.search.perplexity import ModelExecutor

    with quiet():
        model = load_model(checkpoint, dtype, device, False).requires_grad_(False)
    try:
        install_rope(model, first)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.folder}: {error}; search with another model") from error
    return ModelExecutor(model, samples)


def search_samples(config: SearchConfig, tokenizer: Any) -> tuple[list[Sample], dict[str, Any]]:
    """Samples of the search, then the held-out ones, and what the manifest says about them."""
    from lr2eval.base.wording import Wording
    from lr2eval.method.search import needles
    from lr2eval.tasks import haystacks

    wording = Wording() if config.wording is None else Wording.read(config.wording)
    try:
        haystack = haystacks.load(config.haystack, config.data_dir, config.offline, benchmark="search")
    except (UsageError, MissingDataError) as error:
        # The loader names a task's options; a search has flags instead.
        raise UsageError(str(error).replace("--set search.haystack=", "--haystack ")) from error
    texts = [_sentences(text) for text in haystack.texts]
    text = needles.TokenText(haystack.name, texts, tokenizer)
    make = partial(needles.make_samples, text, tokenizer, config, wording)
    samples = make(config.samples) + make(config.held_out, first=config.samples)
    depths = [list(sample.depths) for sample in samples]
    samples += make(config.fresh, first=config.samples + config.held_out)
    data = {
        "haystack": haystack.name,
        "haystack_sha256": haystack.sha256,
        "haystack_tokens": len(text.ids),
        "haystack_texts": len(haystack.texts),
        "repeated": config.repeat,
        "samples_sha256": digest([sample.sha256 for sample in samples]),
        "needles": needles.needle_facts(config, wording),
        "depths": depths,
    }
    return samples, data


def _sentences(text: str) -> list[str]:
    """The sentences of a text; an empty line ends a sentence."""
    from lr2eval.tasks import haystacks

    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    return [sentence for paragraph in paragraphs for sentence in haystacks.split(paragraph)]


def _rules(rope: OriginalRope, config: SearchConfig) -> dict[str, RopeScaling]:
    """Every rule that needs nothing but a target length and works for this one."""
    from lr2eval.method.rope.rules import rope_rules

    found = {}
    for name, rule in rope_rules().items():
        if any(rule.settings.values()):  # a setting without a default
            continue
        try:
            found[name] = rule.make(rope, config.target_length)
        except ValueError:
            continue  # for example ntk with a window of under 7 tokens
    return found


def _tempered(rules: Mapping[str, RopeScaling], config: SearchConfig) -> dict[tuple[str, float], RopeScaling]:
    """Every rule at its own temperature, at 0.8 and 1, and at those of LongRoPE and YaRN; or at the one asked for."""
    from lr2eval.method.rope.rules import with_attention

    asked: tuple[str | float | None, ...] = (None, 0.8, 1.0, "su", "yarn")
    if config.attention_factor is not None:
        asked = (config.attention_factor,)
    found: dict[tuple[str, float], RopeScaling] = {}
    for name, scaling in rules.items():
        for each in asked:
            warm = with_attention(scaling, each)
            found.setdefault((name, warm.long_attention_factor), warm)
    return found


def _best_temperatures(
    screened: Mapping[tuple[str, float], RopeScaling], rungs: Sequence[tuple[int, int]], scorer: JournalScorer
) -> dict[str, RopeScaling]:
    """Every rule at its best temperature, the best rule first.

    Each rung is a number of samples, and how many of the best so far are scored on these.
    """
    from lr2eval.method.search.run import finite_mean

    ranked = list(screened)
    for samples, kept in rungs:
        nlls = scorer.nlls([screened[pair] for pair in ranked[:kept]], range(samples))
        order = sorted(zip(ranked[:kept], nlls, strict=True), key=lambda found: finite_mean(found[1]))
        ranked[:kept] = [pair for pair, _ in order]
    best: dict[str, RopeScaling] = {}
    for name, warm in ranked:
        best.setdefault(name, screened[name, warm])
    return best


def _compared(
    done: Sequence[SplitDone], rules: Mapping[str, RopeScaling], warm: Mapping[str, RopeScaling]
) -> dict[str, RopeScaling]:
    """The rules as published, the best of them at their best temperatures, the best unsearched starting vector if there
    is one, and the best found factors, which come last."""
    compared = dict(rules)
    for name, scaling in warm.items():
        if scaling != rules[name]:
            compared[f"{name}@{scaling.long_attention_factor:.3g}"] = scaling
    seeds = [each.seed for each in done if each.seed is not None]
    if seeds:
        compared[SEED] = min(seeds, key=lambda pair: pair[0])[1]
    return compared | {FOUND: _best(done).scaling}


def _best(done: Sequence[SplitDone]) -> SplitDone:
    return min(done, key=lambda each: each.best_nll)


def _result(
    config: SearchConfig,
    checkpoint: Checkpoint,
    rope: OriginalRope,
    done: Sequence[SplitDone],
    compared: Mapping[str, RopeScaling],
    scores: Sequence[tuple[Sequence[float], Sequence[float]]],
    data: Mapping[str, Any],
) -> SearchResult:
    from lr2eval.method.search.result import rule_facts, search_result, split_facts

    best = _best(done)
    facts = [
        rule_facts(name, scaling, *both, None if name == FOUND else scores[-1])
        for (name, scaling), both in zip(compared.items(), scores, strict=True)
    ]
    splits = [split_facts(each) for each in done]
    return search_result(
        model=checkpoint.name,
        fingerprint=checkpoint.fingerprint,
        original_window=rope.window,
        scale=best.scaling.scale,
        periods=list(rope.periods),
        **{name: getattr(rope, name) for name in ("theta", "rotary_dim", "d_tcd", "d10_tcd")},
        **{name: getattr(config, name) for name in ("strategy", "target_length", "samples", "held_out")},
        objective="needle",
        reach=config.reach,
        d_rcd=real_index(best.scaling.long_factor, best.scaling.scale),
        split=best.split,
        power=best.power,
        factors=list(best.scaling.long_factor),
        attention_factor=best.scaling.long_attention_factor,
        best_nll=best.best_nll,
        splits=splits,
        **{name: sum(getattr(each, name) for each in splits) for name in ("evaluations", "discarded", "given_up")},
        rules=facts,
        data=dict(data),
    )


def _write(home: Path, config: SearchConfig, result: SearchResult, found: RopeScaling) -> None:
    scaling = replace(found, provenance=f"search({found.provenance})")
    perplexities = {rule.name: rule.held_out_perplexity for rule in result.rules}
    note = {
        "digest": result.digest,
        "needle_perplexity": perplexities if config.held_out else {},
        "objective": result.objective,
        "seed": config.seed,
        "evaluations": result.evaluations,
    }
    write_record(home / FILE, result)
    write_json(home / FACTORS_FILE, sealed(scaling.to_json() | {"search": note}))


def _run_name(model: str, config: SearchConfig) -> str:
    return f"search-{file_name(model, 'model')}-{format_length(config.target_length)}-{digest(config.settings())[:8]}"
