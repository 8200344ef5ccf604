"""SmolLM2-135M on vLLM and on the Hugging Face backend, fp32: the same samples, answers and log-probabilities?

``.venv-vllm/bin/python benchmarks/vllm_agreement.py --data-dir DIR`` runs needles in a haystack at 512 and 768 tokens,
RULER's and the grid's, and MMLU questions with five examples. ``--original 512`` (the default) makes
the checkpoint a longrope one whose window of 512 tokens keeps the model's own RoPE and whose longer one has YaRN's
factors, so that the samples need both; ``--original 0`` leaves it as it is. Compared are prompts, windows, answers, the
log-probability of every token of the greedy answers (vLLM's as it said it, the Hugging Face backend's of the same
tokens) with their sums, and of every choice. For ``--stock-questions`` MMLU questions lm-eval's own path is run on the
same engine, and the prompt tokens that each computed are counted. One JSON object is printed and written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import facts

HERE = Path(__file__).parent
TIE = 1e-3
TASKS = "ruler:niah_single_1,ruler:niah_multikey_1,niah,mmlu:global_facts,mmlu:sociology,mmlu:human_aging"


def longrope_version(folder: Path, to: Path, original: int) -> Path:
    """The checkpoint with the same weights, and two windows in its configuration."""
    from transformers import AutoConfig

    from lr2eval.method.rope.rules import yarn
    from lr2eval.method.rope.scaling import OriginalRope

    config = json.loads((folder / "config.json").read_text())
    loaded = AutoConfig.from_pretrained(str(folder))
    head_dim = getattr(loaded, "head_dim", None) or loaded.hidden_size // loaded.num_attention_heads
    rope = OriginalRope(float(loaded.rope_parameters["rope_theta"]), head_dim, original)
    scaling = yarn(rope, 4 * original)
    config |= {"rope_parameters": scaling.rope_parameters(), "max_position_embeddings": 4 * original}
    config.pop("rope_scaling", None)
    to.mkdir()
    for file in folder.iterdir():
        if file.name != "config.json":
            (to / file.name).symlink_to(file.resolve())
    (to / "config.json").write_text(json.dumps(config))
    return to


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--original", type=int, default=512)
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--lengths", default="512,768")
    parser.add_argument("--samples", type=int, default=3, help="per needle task and length")
    parser.add_argument("--questions", type=int, default=12, help="per MMLU subject")
    parser.add_argument("--stock-questions", type=int, default=12)
    parser.add_argument("--json", type=Path, default=HERE / "results" / "vllm_agreement.json")
    arguments = parser.parse_args()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("TQDM_DISABLE", "1")

    import torch

    from lr2eval.model.names import locate

    torch.set_num_threads(1)
    folder = locate(arguments.model)
    with tempfile.TemporaryDirectory() as work:
        if arguments.original:
            folder = longrope_version(folder, Path(work) / "longrope", arguments.original)
        found = compare(folder, arguments)
    text = json.dumps({**found, "machine": facts()}, indent=2)
    print(text)
    arguments.json.write_text(text + "\n")
    return 0 if found["ok"] else 1


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from lm_eval.evaluator import evaluate

    from lr2eval.backends.hf import WindowedHFLM
    from lr2eval.backends.vllm.backend import WindowedVLLM
    from lr2eval.model.checkpoint import Checkpoint
    from lr2eval.runs.config import RunConfig
    from lr2eval.runs.prepare import prepare

    config = RunConfig.load(
        {
            "model": str(folder),
            "tasks": arguments.tasks,
            "lengths": arguments.lengths,
            "offline": True,
            "samples_per_task": arguments.samples,
            "limit": arguments.questions,
            "data_dir": arguments.data_dir,
        }
    )
    run = prepare(config, lambda text: None)
    checkpoint = Checkpoint.open(folder)
    engine = {"enforce_eager": True, "kv_cache_memory_bytes": 2**29, "max_num_seqs": 8}
    vllm = WindowedVLLM(checkpoint, window=checkpoint.window, dtype="float32", options=engine)
    hf = WindowedHFLM(checkpoint, dtype="float32", device="cpu")
    said: dict[tuple[int, ...], list[float]] = {}
    remember(vllm, said)
    rows: list[dict[str, Any]] = []
    seconds = {"vllm": 0.0, "hf": 0.0}
    # Short and long parts of a shard follow each other here; a run does all short ones first.
    for shard in run.shards:
        logged = {}
        for name, lm in (("vllm", vllm), ("hf", hf)):
            task = shard.load()
            task.set_fewshot_seed(0)
            began = time.perf_counter()
            tasks = {"tasks": {task.config.task: task}, "groups": {}, "group_map": {}}
            logged[name] = evaluate(lm, tasks, bootstrap_iters=0)["samples"][task.config.task]
            seconds[name] += time.perf_counter() - began
            logged[name + " details"] = lm.take_details()
        rows += pairs(shard.id, logged, vllm, hf, said)
        print(f"{shard.id}: {len(rows)} samples so far", file=sys.stderr, flush=True)
    generated = [row for row in rows if "tokens" in row]
    chosen = [row for row in rows if "choices" in row]
    differ = [row for row in rows if not row["same_answer"]]
    result = {
        "samples": len(rows),
        "by_window": {
            side: sum(row["window"] == side for row in rows) for side in ("only", "short", "long", "short->long")
        },
        "windows_equal": sum(row["same_window"] for row in rows),
        "prompts_equal": sum(row["same_prompt"] for row in rows),
        "answers_equal": len(rows) - len(differ),
        "differing_beyond_a_tie": [row for row in differ if row.get("margin", 1.0) > TIE],
        "greedy_log_probability": spread([value for row in generated for value in row["tokens"]]),
        "of_whole_answers": spread([row["answer"] for row in generated]),
        "choice_log_probability": spread([value for row in chosen for value in row["choices"]]),
        "tie_tolerance_nats": TIE,
        "engines": [{key: value for key, value in each.items() if key != "options"} for each in vllm.engines],
        "seconds": {name: round(value) for name, value in seconds.items()},
        "original_window": checkpoint.original_window,
        "tasks": arguments.tasks,
        "lengths": arguments.lengths,
    }
    if arguments.stock_questions:
        result["choice_cost"] = choice_cost(run, vllm, arguments.stock_questions)
    vllm.close()
    worst = max(result["greedy_log_probability"]["max"], result["choice_log_probability"]["max"])
    result["ok"] = (
        result["windows_equal"] == result["prompts_equal"] == len(rows)
        and not result["differing_beyond_a_tie"]
        and worst <= TIE
    )
    return result


def remember(vllm: Any, said: dict[tuple[int, ...], list[float]]) -> None:
    """Keep the log-probabilities of the tokens that vLLM generates, by prompt and answer tokens."""
    run = vllm._engines.run

    def noting(window: str, jobs: Any) -> Any:
        for ended in run(window, jobs):
            for job, output in ended:
                [sequence] = output.outputs
                if sequence.logprobs and job.params["max_tokens"] > 1:
                    values = [v[t].logprob for t, v in zip(sequence.token_ids, sequence.logprobs, strict=True)]
                    said[(*job.ids, -1, *sequence.token_ids)] = values
            yield ended

    vllm._engines.run = noting


def pairs(
    shard: str, logged: dict[str, Any], vllm: Any, hf: Any, said: dict[tuple[int, ...], list[float]]
) -> list[dict[str, Any]]:
    """One row per sample; differences in nats."""
    found = []
    per_sample = len(logged["vllm details"]) // len(logged["vllm"])
    for number, (a, b) in enumerate(zip(logged["vllm"], logged["hf"], strict=True)):
        at = number * per_sample
        sides = [logged[name + " details"][at] for name in ("vllm", "hf")]
        row: dict[str, Any] = {
            "sample": f"{shard}#{a['doc_id']}",
            "window": sides[0].window,
            "same_window": sides[0].window == sides[1].window,
            "same_prompt": a["arguments"] == b["arguments"] and sides[0].prompt_tokens == sides[1].prompt_tokens,
        }
        if len(a["arguments"]) > 1:
            ours, theirs = ([response[0][0] for response in each["resps"]] for each in (a, b))
            row["choices"] = [abs(x - y) for x, y in zip(ours, theirs, strict=True)]
            row["same_answer"] = ours.index(max(ours)) == theirs.index(max(theirs))
            best, second = sorted(theirs)[-1:-3:-1]
            row["margin"] = best - second
        else:
            prompt = tuple(vllm._prompt(a["arguments"][0][0]))
            row["same_answer"] = a["resps"] == b["resps"]
            # One that was handed over between the windows was said in two parts; its answer is compared, no more.
            for key, values in said.items():
                if key[: len(prompt) + 1] == (*prompt, -1) and row["window"] != "short->long":
                    answer = list(key[len(prompt) + 1 :])
                    rest = [([*prompt, *answer[:place]], [token]) for place, token in enumerate(answer)]
                    theirs = [value for value, _ in hf._score_pairs(rest)]
                    row["tokens"] = [abs(x - y) for x, y in zip(values, theirs, strict=True)]
                    row["answer"] = abs(sum(values) - sum(theirs))
        found.append(row)
    return found


def spread(values: list[float]) -> dict[str, Any]:
    """Of absolute differences."""
    return {"n": len(values), "max": max(values, default=0.0), "mean": sum(values) / max(1, len(values))}


def choice_cost(run: Any, vllm: Any, questions: int) -> dict[str, Any]:
    """Prompt tokens computed for MMLU questions: ours, and lm-eval's path on the same engine."""
    from lm_eval.evaluator import evaluate

    from tests.vllm_models import lm_evals_model

    shard = next(shard for shard in run.shards if shard.benchmark == "mmlu")
    task = shard.load()
    task.set_fewshot_seed(0)
    asked: list[Any] = []
    vllm._all, whole = (lambda kind, requests: asked.extend(requests) or whole(kind, requests)), vllm._all
    evaluate(vllm, {"tasks": {"t": task}, "groups": {}, "group_map": {}}, bootstrap_iters=0)
    side = vllm._engines.window
    requests = [r for r in asked if vllm._side(len(vllm._pair(0, *r.args)[0])) in (side, "only")][: 4 * questions]
    vllm._engines._llm.llm_engine.reset_prefix_cache()
    before = vllm.engines[-1]
    whole("loglikelihood", requests)
    after = vllm.engines[-1]
    spent = {key: after[key] - before[key] for key in ("requests", "prompt_tokens", "cached_tokens")}
    stock = object.__new__(lm_evals_model())
    stock.model, stock.batch_size, stock.data_parallel_size, stock.lora_request = vllm._engines._llm, 8, 1, None
    stock._max_length = after["max_model_len"]
    outputs: list[Any] = []
    generate = stock._model_generate
    stock._model_generate = lambda **kwargs: outputs.extend(got := generate(**kwargs)) or got
    stock._loglikelihood_tokens([(None, *pair) for pair in vllm._pairs(requests)], disable_tqdm=True)
    theirs = sum(len(output.prompt_token_ids) - (output.num_cached_tokens or 0) for output in outputs)
    ours = spent["prompt_tokens"] - spent["cached_tokens"]
    return {
        "questions": len(requests) // 4,
        "ours": {**spent, "computed_tokens": ours},
        "lm_eval": {"requests": len(outputs), "computed_tokens": theirs},
        "ratio": round(theirs / ours, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
