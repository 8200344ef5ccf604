"""``lr2eval search``: find RoPE factors for a longer window by needle perplexity, and compare them with the rules."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from lr2eval import _manifest
from lr2eval._checkpoint import Checkpoint
from lr2eval._config import first_problem, format_length, put, read_sets
from lr2eval._errors import MissingDataError, StoreError, UsageError
from lr2eval._ids import digest
from lr2eval._paths import cache_dir, write_json
from lr2eval._rope_facts import real_index
from lr2eval._search_progress import SearchProgress
from lr2eval._tables import printed_table, table

if TYPE_CHECKING:
    from lr2eval.method.executors import Executor
    from lr2eval.method.needles import Sample
    from lr2eval.method.rope import OriginalRope, RopeScaling
    from lr2eval.method.search_config import SearchConfig
    from lr2eval.method.search_journal import Journal
    from lr2eval.method.search_result import SearchResult
    from lr2eval.method.search_run import Plan, Scorer, SplitDone
    from lr2eval.method.search_space import Space

MANY = 64
"""Scale factors beyond this are further than anybody has published for one step."""


def load_search_config(flags: Mapping[str, Any], sets: Sequence[str]) -> SearchConfig:
    """``--set key=value`` under flags (``None`` = not given). Raises :class:`UsageError` naming what is wrong."""
    from lr2eval.method.search_config import SearchConfig

    values: dict[str, Any] = {}
    for key, value in read_sets(sets):
        put(values, key, value)
    values |= {key: value for key, value in flags.items() if value is not None}
    unknown = sorted(values.keys() - SearchConfig.model_fields.keys())
    if unknown:
        raise UsageError(f"--set {unknown[0]}: a search has no such setting; docs/searching.md lists them")
    try:
        return SearchConfig.model_validate(values)
    except ValidationError as error:
        raise UsageError(first_problem(error)) from error


def search_command(config: SearchConfig, *, command: Sequence[str]) -> None:
    """Search, compare, write ``factors.json``, ``search.json`` and ``report.html``; the same command again resumes."""
    from lr2eval._models import locate
    from lr2eval.method.rope_source import ModelRope

    config.where.check()
    folder = locate(config.model, offline=config.offline)
    rope = ModelRope.read(folder).original(from_original=config.from_original)
    try:
        spaces, plan = config.spaces(rope), config.plan()
    except ValueError as error:
        raise UsageError(f"{error}") from error
    if spaces[0].scale > MANY:
        said = f"warning: s = {spaces[0].scale:g} is beyond {MANY}, further than any published result"
        print(said, file=sys.stderr)
    with SearchProgress() as progress:
        _search(config, folder, rope, spaces, plan, progress, command)


def _search(
    config: SearchConfig,
    folder: Path,
    rope: OriginalRope,
    spaces: Sequence[Space],
    plan: Plan,
    progress: SearchProgress,
    command: Sequence[str],
) -> None:
    from filelock import FileLock, Timeout

    from lr2eval._search_workers import Loading
    from lr2eval._tokens import PromptTokenizer
    from lr2eval.method.search_journal import Journal
    from lr2eval.reports import render_search

    progress.message("checking model and text")
    checkpoint = Checkpoint.open(folder, cache=cache_dir())
    samples, data = _samples(config, PromptTokenizer.load(folder))
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
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / "run.lock", timeout=0).acquire()
    except Timeout:
        raise StoreError(f"{home}: another lr2eval is writing it; wait for it or choose another --out") from None
    except OSError as error:
        raise StoreError(f"{home}: {error.strerror or error}; mend that and run the same command again") from error
    with lock:
        _claim(home, settings, data, command)
        loading = Loading(checkpoint, dtype, device, samples, config.where)
        with Journal.open(home) as journal, loading.executor() as executor:
            found = _search_and_compare(config, checkpoint, rope, spaces, plan, executor, journal, progress, data)
        _write(home, config, *found)
        report = render_search(home, home / "report.html")
    _print(found[0], home, report)


def _search_and_compare(
    config: SearchConfig,
    checkpoint: Checkpoint,
    rope: OriginalRope,
    spaces: Sequence[Space],
    plan: Plan,
    executor: Executor,
    journal: Journal,
    progress: SearchProgress,
    data: Mapping[str, Any],
) -> tuple[SearchResult, list[SplitDone]]:
    from lr2eval.method.search_run import Scorer, search

    rules = _rules(rope, config)
    after = (len(rules) + 2) * (config.samples + config.held_out)
    progress.start(len(spaces) * plan.split_cost() + after, after, plan.settings.iterations, config.workers)
    if len(journal):
        progress.message(f"resuming: {len(journal):,} evaluations are there")
    done = search(spaces, plan, executor, journal, progress)
    scorer = Scorer(executor, journal, progress)
    found = _result(config, checkpoint, rope, spaces, done, rules, scorer, data)
    tokens = sum(each.tokens for each in journal.rows())
    return found.model_copy(update={"data": found.data | {"tokens_read": tokens}}), done


def _samples(config: SearchConfig, tokenizer: Any) -> tuple[list[Sample], dict[str, Any]]:
    """Samples of the search, then held-out ones, and what the manifest says about them."""
    from lr2eval.method import needles
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


def _claim(home: Path, settings: Mapping[str, Any], data: Mapping[str, Any], command: Sequence[str]) -> None:
    """Write the manifest, or check that the folder belongs to this very search."""
    known = _manifest.read(home)
    if known is not None:
        _manifest.refuse_other(known["settings"], settings, home)
        return
    _manifest.write(
        home,
        {
            "kind": "search",
            "settings": dict(settings),
            "data": dict(data),
            "versions": _manifest.versions(),
            "command": list(command),
            "created": _manifest.now(),
        },
    )


def _device(config: SearchConfig) -> str:
    import torch

    return config.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _rules(rope: OriginalRope, config: SearchConfig) -> dict[str, RopeScaling]:
    """Every rule that asks for nothing but a target and can serve it."""
    from lr2eval.method.rope_rules import RULES

    found = {}
    for name, rule in RULES.items():
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
    from lr2eval.method.search_result import rule_facts, sealed, split_facts

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

    from lr2eval.method.search_result import FACTORS_FILE, FILE

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


def _print(result: SearchResult, home: Path, report: Path) -> None:
    from lr2eval.method.search_result import FACTORS_FILE

    shown = table("factors", f"search ({result.samples})", f"held out ({result.held_out})", "")
    for rule in sorted(result.rules, key=lambda each: each.held_out_perplexity or each.search_perplexity or 1e300):
        shown.add_row(rule.name, _shown(rule.search_perplexity), _shown(rule.held_out_perplexity), rule.made_by)
    for column in shown.columns[1:3]:
        column.justify = "right"
    print(f"{result.model}: {format_length(result.original_window)} to {format_length(result.target_length)}")
    print(
        "needle perplexity on the samples of the search and on unseen ones"
        if result.objective == "needle"
        else "plain perplexity on the samples of the search, needle perplexity on unseen ones"
    )
    printed_table(shown)
    reached = "none" if result.d_rcd is None else result.d_rcd
    print(
        f"split {result.split}, d_rcd {reached}, d_tcd {result.d_tcd} (0-based pairs); {result.evaluations:,} "
        f"evaluations, {result.discarded} candidates discarded, {result.given_up} given up early"
    )
    print(f"report: {report}")
    print(home / FACTORS_FILE)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _run_name(model: str, config: SearchConfig) -> str:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.") or "model"
    return f"search-{safe}-{format_length(config.target_length)}-{digest(config.settings())[:8]}"
