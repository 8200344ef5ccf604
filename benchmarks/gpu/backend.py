"""Stage 1 of ``day.py``: does the Hugging Face back end compute on a GPU what it computes on a CPU?

The models are random, with the head sizes of the models they are named after. "Stock" is transformers without a cache,
one forward over the whole sequence for each token.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2]))
from checks import GIB, Check, NotHereError, Stage, main

from lr2eval.backends.hf import WindowedHFLM
from lr2eval.model.checkpoint import Checkpoint
from tests.tiny_models import CLASSES, EOS, VOCABULARY, cache_free, save_checkpoint, text_of, tiny_tokenizer

ORIGINAL, WINDOW = 32, 4096
ROWS = 20
SHAPES: dict[str, dict[str, Any]] = {
    "Llama": {"architecture": "llama", "head_dim": 128, "heads": 8, "kv_heads": 2},
    "Qwen3": {"architecture": "qwen3", "head_dim": 128, "heads": 8, "kv_heads": 2},
    "Phi-3": {"architecture": "phi3", "head_dim": 96, "heads": 8, "kv_heads": 8},
    "Phi-4-mini": {"architecture": "phi3", "head_dim": 128, "heads": 6, "kv_heads": 2, "partial": 0.75},
}


def model_of(
    architecture: str, head_dim: int, heads: int, kv_heads: int, partial: float = 1.0, longrope: bool = True
) -> Any:
    """Two random layers that say plain ASCII and never EOS; ``Lt`` is 32 tokens."""
    pairs = int(head_dim * partial) // 2
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4}
    if longrope:
        rope = {
            "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": ORIGINAL,
            "short_factor": [1.0 + 0.4 * i / pairs for i in range(pairs)],
            "long_factor": [1.5 + 7.0 * i / pairs for i in range(pairs)],
        }  # fmt: skip
    if partial != 1.0:
        rope["partial_rotary_factor"] = partial
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": heads * head_dim, "intermediate_size": 2 * heads * head_dim,
        "num_hidden_layers": 2, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "rope_parameters": rope,
        "max_position_embeddings": WINDOW, "initializer_range": 1.6 / (heads * head_dim) ** 0.5,
        "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": 1,
    }  # fmt: skip
    if architecture != "phi3":
        sizes["head_dim"] = head_dim
    elif longrope:
        sizes["original_max_position_embeddings"] = ORIGINAL
    torch.manual_seed(0)
    kind, made = CLASSES[architecture]
    model = made(kind(**sizes)).eval()
    tokenizer = tiny_tokenizer()
    mute = [token for token in range(VOCABULARY) if token == EOS or not tokenizer.decode([token]).isascii()]
    model.lm_head.weight.data[mute] = 0.0
    return model


def folder_of(stage: Stage, name: str, **changes: Any) -> Path:
    """The checkpoint of a shape, saved once. A rehearsal takes heads of an eighth of the size."""
    folder = stage.work / "shapes" / "-".join([name, *changes])
    sizes = SHAPES[name] | ({"head_dim": SHAPES[name]["head_dim"] // 8} if stage.rehearse else {})
    return folder if folder.exists() else save_checkpoint(folder, model_of(**sizes, **changes))


def generation(prompt: str, new: int, until: Sequence[str] = ()) -> Instance:
    return Instance("generate_until", {}, (prompt, {"until": list(until), "max_gen_toks": new}), 0)


def choice(context: str, continuation: str) -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0)


def ours(stage: Stage, folder: Path, dtype: str = "float32", **options: Any) -> WindowedHFLM:
    return WindowedHFLM(Checkpoint.open(folder), dtype=dtype, device=stage.device, **options)


def stock(stage: Stage, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(stage.device)


def answers_of(lm: WindowedHFLM, texts: Sequence[str], new: int, **options: Any) -> list[str]:
    return lm.generate_until([generation(text, new, **options) for text in texts])


def decoded(lm: WindowedHFLM, model: Any, text: str, new: int) -> str:
    """What cache-free decoding by stock transformers answers."""
    return str(lm.tok_decode(cache_free(model, lm.tok_encode(text), new)))


def texts_of(lm: WindowedHFLM, lengths: Sequence[int]) -> list[str]:
    return [text_of(length, lm.tokenizer, seed) for seed, length in enumerate(lengths)]


def equal(got: Sequence[str], wanted: Sequence[str]) -> int:
    return sum(one == other for one, other in zip(got, wanted, strict=True))


def window_rule(stage: Stage, name: str) -> tuple[str, dict[str, Any]]:
    """Each row crosses the window at its own step: float32 must agree in full, bfloat16 is counted."""
    folder, new = folder_of(stage, name), 24
    found = {}
    for dtype in ("float32", "bfloat16"):
        lm, plain = ours(stage, folder, dtype), stock(stage, folder, getattr(torch, dtype))
        texts = texts_of(lm, [18 + seed % 15 for seed in range(ROWS)])
        answers = answers_of(lm, texts, new)
        sides = {detail.window for detail in lm.take_details()}
        assert sides == {"short->long"}, f"the rows did not all cross the window: {sides}"
        found[dtype] = equal(answers, [decoded(lm, plain, text, new) for text in texts])
    assert found["float32"] == ROWS, f"float32: {found['float32']} of {ROWS} answers equal stock's"
    return f"float32 {ROWS} of {ROWS}, bfloat16 {found['bfloat16']} of {ROWS} answers equal stock's", found


def chunks_and_padding(stage: Stage) -> str:
    """Rows of every side in one call, prompts whole and in pieces, answers and log-likelihoods."""
    lengths = [5, ORIGINAL - 8, ORIGINAL - 7, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, 90]
    for name in SHAPES:
        folder = folder_of(stage, name)
        plain, wanted, values = stock(stage, folder), None, None
        for chunk in (None, 7, 40):
            lm = ours(stage, folder, prefill_chunk=chunk)
            texts = texts_of(lm, lengths)
            wanted = wanted or [decoded(lm, plain, text, 8) for text in texts]
            same = equal(answers_of(lm, texts, 8), wanted)
            assert same == len(texts), f"{name}, pieces of {chunk}: {same} of {len(texts)} answers equal stock's"
            got = [value for value, _ in lm.loglikelihood([choice(text, " lamp") for text in texts])]
            values = values or got
            gap = max(abs(one - other) for one, other in zip(got, values, strict=True))
            assert gap < 1e-3, f"{name}, pieces of {chunk}: log-likelihoods differ by {gap:.1e}"
    return f"{len(lengths)} rows x 4 models, whole and in pieces of 7 and 40: all answers equal stock's"


def shared_beginnings(stage: Stage) -> str:
    """Rows that begin alike are read on from each other: fewer tokens, the same answers."""
    lm = ours(stage, folder_of(stage, "Llama"))
    beginning = words(lm.tokenizer, 200 if stage.rehearse else 1500, 100)
    texts = [f"{beginning} {text}" for text in texts_of(lm, [30] * 8)]
    read: list[int] = []
    forward = lm.model.forward

    @functools.wraps(forward)  # generate looks at the signature
    def counted(input_ids: Any = None, *rest: Any, **inputs: Any) -> Any:
        read.append(input_ids.numel())
        return forward(input_ids, *rest, **inputs)

    lm.model.forward = counted
    requests = [choice(text, word) for text in texts for word in (" lamp stone", " river seven")]
    kept, results = lm._kept, []
    for shares in (True, False):
        lm._kept = kept if shares else None
        lm._decoder = dataclasses.replace(lm._decoder, shares=shares)
        read.clear()
        answers = answers_of(lm, texts, 8)
        generating = sum(read)
        read.clear()
        values = [value for value, _ in lm.loglikelihood(requests)]
        results.append((answers, values, generating, sum(read)))
    (a, u, few, few_scored), (b, v, many, many_scored) = results
    assert a == b, f"{equal(a, b)} of {len(a)} answers are the same with and without sharing"
    gap = max(abs(one - other) for one, other in zip(u, v, strict=True))
    assert gap < 1e-3, f"log-likelihoods differ by {gap:.1e}"
    assert 2 * few < many, f"answers: {few:,} tokens read with sharing, {many:,} without"
    assert 2 * few_scored < many_scored, f"scores: {few_scored:,} tokens read with sharing, {many_scored:,} without"
    return (
        f"8 answers the same, 16 log-likelihoods within {gap:.0e}; tokens read: {few:,} instead of {many:,} and "
        f"{few_scored:,} instead of {many_scored:,}"
    )


def against_lm_eval(stage: Stage) -> tuple[str, dict[str, Any]]:
    """Log-likelihoods of lm-eval's own ``hf`` model."""
    from lm_eval.models.huggingface import HFLM

    folder = folder_of(stage, "Qwen3", longrope=False)
    gaps = {}
    for dtype in ("float32", "bfloat16"):
        lm = ours(stage, folder, dtype)
        requests = [choice(text, word) for text in texts_of(lm, [10 + 7 * n for n in range(16)])
                    for word in (" lamp", " river stone", " quiet yellow winter")]  # fmt: skip
        theirs = HFLM(pretrained=str(folder), dtype=dtype, device=stage.device, batch_size=8)
        both = list(zip(lm.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True), strict=True))
        gaps[dtype] = max(abs(one[0] - other[0]) for one, other in both)
        if dtype == "float32":
            greedy = sum(one[1] == other[1] for one, other in both)
            assert greedy == len(both), f"greedy agrees in {greedy} of {len(both)}"
    assert gaps["float32"] < 1e-3, f"float32 differs by {gaps['float32']:.1e} nats"
    said = f"{len(both)} continuations: largest difference {gaps['float32']:.1e} nats in float32"
    return f"{said}, {gaps['bfloat16']:.1e} in bfloat16", gaps


def _broad(stage: Stage) -> Path:
    """A random model broad enough that its activations, keys and values are what fills the memory."""
    folder = stage.work / "shapes" / "broad"
    if not folder.exists():
        kind, made = CLASSES["llama"]
        small = stage.rehearse
        torch.manual_seed(0)
        model = made(
            kind(
                vocab_size=VOCABULARY if small else 32000, hidden_size=64 if small else 1024,
                intermediate_size=128 if small else 3584, num_hidden_layers=2 if small else 8,
                num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=65536, eos_token_id=EOS,
                bos_token_id=None, pad_token_id=1, rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            )
        )  # fmt: skip
        model.lm_head.weight.data[EOS] = 0.0
        save_checkpoint(folder, model.to(torch.bfloat16))
    return folder


def words(tokenizer: Any, tokens: int, seed: int) -> str:
    """A text of nearly ``tokens`` tokens, never more."""
    chooser = random.Random(seed)
    vocabulary = ("river", "stone", "lamp", "garden", "winter", "copper", "signal", "harbour")
    longest = max(len(tokenizer.encode(" " + word)) for word in vocabulary)
    return " ".join(chooser.choice(vocabulary) for _ in range(tokens // longest))


Cases = dict[str, tuple[int | None, int, int, int]]
"""By name: thousands of tokens of a piece, rows, thousands of tokens of a row, new tokens (0: log-likelihoods)."""
BATCHES: Cases = {
    "16 answers": (None, 16, 8, 16),
    "one long answer": (None, 1, 32, 16),
    "one long answer in pieces": (2, 1, 32, 16),
    "16 scores": (None, 16, 8, 0),
    "one long score in pieces": (2, 1, 32, 0),
}
FLOAT32: Cases = {"one answer": (None, 1, 8, 16), "one score in pieces": (2, 1, 8, 0)}


def planned_memory(stage: Stage, dtype: str, cases: Cases) -> tuple[str, dict[str, Any]]:
    """A plan fills at most 0.8 of the free memory, so an estimate may be exceeded by a quarter before it hurts."""
    folder, unit = _broad(stage), 8 if stage.rehearse else 1024
    shares: dict[str, Any] = {}
    for name, (piece, rows, size, new) in cases.items():
        tokens, chunk = size * unit, None if piece is None else piece * unit
        lm = ours(stage, folder, dtype, prefill_chunk=chunk, batch_size=rows)
        texts = [words(lm.tokenizer, tokens, seed) for seed in range(rows)]
        length = max(len(lm.tok_encode(text)) for text in texts)
        requests = [generation(text, new) if new else choice(text, " lamp") for text in texts]
        plan = lm.plan("generate_until" if new else "loglikelihood", requests)
        assert len(plan) == 1, f"{name}: planned as {len(plan)} batches"
        if new:
            estimate = lm._footprint.generating(rows, length, new, padded=rows > 1, chunk=chunk)
        else:
            estimate = lm._footprint.scoring(rows, length, rows, chunk=chunk)
        run = lm.generate_until if new else lm.loglikelihood
        used = stage.peak(lambda run=run, requests=requests: run(requests))
        if used is not None:
            shares[name] = {"planned": estimate, "used": used, "share": round(used / estimate, 3)}
        del lm
    if not shares:
        raise NotHereError(f"a CPU does not count its peak memory; {len(cases)} batches ran")
    worst = max(shares, key=lambda name: shares[name]["share"])
    said = ", ".join(f"{name} {facts['used'] / GIB:.2f} GiB ({facts['share']:.0%})" for name, facts in shares.items())
    assert shares[worst]["share"] <= 1.25, f"more than planned: {said}"
    return f"used (share of the estimate): {said}", shares


def out_of_memory(stage: Stage) -> str:
    """A batch that does not fit is split and read in pieces, and its answers stay."""
    folder, rows, tokens = folder_of(stage, "Llama"), 16, 120 if stage.rehearse else 3000
    lm = ours(stage, folder)
    texts = [words(lm.tokenizer, tokens, seed) for seed in range(rows)]
    wanted = [*answers_of(lm, texts, 8)]
    values = lm.loglikelihood([choice(text, " lamp") for text in texts])
    lm = ours(stage, folder, batch_size=rows)
    lm.memory_limit = 1 << 50
    failed = 0
    if stage.device == "cpu":
        forward = lm.model.forward

        @functools.wraps(forward)
        def limited(input_ids: Any = None, *rest: Any, **inputs: Any) -> Any:
            nonlocal failed
            if input_ids.numel() > 4 * tokens:
                failed += 1
                raise torch.OutOfMemoryError("out of memory")
            return forward(input_ids, *rest, **inputs)

        lm.model.forward = limited
        got, scored = answers_of(lm, texts, 8), lm.loglikelihood([choice(text, " lamp") for text in texts])
    else:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        room = torch.cuda.memory_allocated() + lm._footprint.generating(4, tokens, 8, padded=True, chunk=None)
        before = torch.cuda.memory_stats()["num_ooms"]
        torch.cuda.set_per_process_memory_fraction(room / total)
        try:
            got, scored = answers_of(lm, texts, 8), lm.loglikelihood([choice(text, " lamp") for text in texts])
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        failed = torch.cuda.memory_stats()["num_ooms"] - before
    assert failed, "memory never ran out, so this says nothing"
    gap = max(abs(one[0] - other[0]) for one, other in zip(scored, values, strict=True))
    assert got == wanted, f"{equal(got, wanted)} of {rows} answers stayed"
    assert gap < 1e-3, f"log-likelihoods differ by {gap:.1e}"
    return f"memory ran out {failed} times; {rows} of {rows} answers stayed, log-likelihoods within {gap:.0e}"


def stop_strings(stage: Stage) -> tuple[str, dict[str, Any]]:
    """The stop check decodes the newest tokens of each row at each step: what does it cost?"""
    lm = ours(stage, _broad(stage), "bfloat16", batch_size=64)
    rows, new = (4, 8) if stage.rehearse else (64, 128)
    texts = texts_of(lm, [16] * rows)
    seconds: dict[str, float] = {}
    for stops in ([], ["\n\n\n\n", "Question:"]) * 2:  # the second of each counts
        took, _ = stage.timed(lambda stops=stops: answers_of(lm, texts, new, until=stops))
        seconds["with" if stops else "without"] = took
    step = {name: 1000 * took / new for name, took in seconds.items()}
    return f"{rows} rows: {step['with']:.1f} ms a step with stop strings, {step['without']:.1f} ms without", step


def kernels(stage: Stage) -> tuple[str, dict[str, Any]]:
    """Decoding with cuDNN's attention and without it. Our back end switches it off."""
    lm = ours(stage, _broad(stage), "bfloat16")
    new, found = 8 if stage.rehearse else 64, {}
    for tokens in (64, 128) if stage.rehearse else (2048, 16384):
        texts, steps = [words(lm.tokenizer, tokens, 0)], {}
        for used in (True, False) * 2:  # the second of each counts
            torch.backends.cuda.enable_cudnn_sdp(used)
            first, _ = stage.timed(lambda texts=texts: answers_of(lm, texts, 1))
            took, _ = stage.timed(lambda texts=texts: answers_of(lm, texts, new + 1))
            steps["with" if used else "without"] = 1000 * (took - first) / new
        found[str(tokens)] = steps
    said = ", ".join(f"{name} tokens: {each['with']:.1f} ms a step with cuDNN, {each['without']:.1f} ms without"
                     for name, each in found.items())  # fmt: skip
    return said, found


CHECKS = [
    *(Check(f"window rule, {name}", functools.partial(window_rule, name=name), 6) for name in SHAPES),
    Check("padding and pieces", chunks_and_padding, 12),
    Check("shared beginnings", shared_beginnings, 5),
    Check("log-likelihoods of lm-eval's hf", against_lm_eval, 6),
    Check(
        "memory as planned, bfloat16",
        functools.partial(planned_memory, dtype="bfloat16", cases=BATCHES),
        12,
        gpu_only=True,
        gib=16,
    ),
    Check(
        "memory as planned, float32",
        functools.partial(planned_memory, dtype="float32", cases=FLOAT32),
        6,
        gpu_only=True,
        gib=16,
    ),
    Check("out of memory", out_of_memory, 8),
    Check("cost of stop strings", stop_strings, 8, measures=True),
    Check("cost of cuDNN's attention while decoding", kernels, 12, measures=True),
]

if __name__ == "__main__":
    sys.exit(main(CHECKS))
