"""Stage 4 of ``day.py``: how much does a GPU get done? A random model of LLaMA3-8B's shape, ours beside lm-eval's hf.

Both get the same prompts and as many rows in a batch; both are timed after one warming call, in turn.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2]))
from backend import choice, generation, words
from checks import GIB, Check, Stage, clear, main

from lr2eval.backends import hf
from lr2eval.model.checkpoint import Checkpoint
from tests.tiny_models import EOS, VOCABULARY, tiny_tokenizer

ANSWER = 32
"""New tokens of an answer."""


def both(stage: Stage) -> tuple[Any, Any]:
    """(our back end, lm-eval's) over one random model in bfloat16. Its weights are never on disk."""
    if "both" in stage.shared:
        found: tuple[Any, Any] = stage.shared["both"]
        return found
    from lm_eval.models.huggingface import HFLM

    small = stage.rehearse
    config = LlamaConfig(
        vocab_size=VOCABULARY if small else 128256, hidden_size=64 if small else 4096,
        intermediate_size=128 if small else 14336, num_hidden_layers=2 if small else 32,
        num_attention_heads=4 if small else 32, num_key_value_heads=2 if small else 8, max_position_embeddings=65536,
        bos_token_id=None, eos_token_id=EOS, pad_token_id=1, architectures=["LlamaForCausalLM"],
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        torch.manual_seed(0)
        with torch.device(stage.device):
            model = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    model.lm_head.weight.data[EOS] = 0.0
    model.lm_head.weight.data[VOCABULARY:] = 0.0  # the tokenizer knows no others
    folder = stage.work / "shapes" / "throughput"
    config.save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(_nothing())
    load, hf.load_model = hf.load_model, lambda *_: model
    try:
        ours = hf.WindowedHFLM(Checkpoint.open(folder), dtype="bfloat16", device=stage.device)
    finally:
        hf.load_model = load
    stage.shared["both"] = ours, functools.partial(HFLM, pretrained=model, tokenizer=tokenizer, max_length=65536)
    return ours, stage.shared["both"][1]


def _nothing() -> bytes:
    """A weight file with one number, so that the folder counts as a checkpoint."""
    header = json.dumps({"none": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0\0"


def answers(stage: Stage, length: int, rows: int) -> tuple[str, dict[str, Any]]:
    """Prompts of one length, each with an answer of 32 tokens."""
    length = length // 128 if stage.rehearse else length
    return _beside(stage, length, rows, generating=True)


def scores(stage: Stage, length: int, rows: int) -> tuple[str, dict[str, Any]]:
    """Prompts of one length with one choice each; nothing is shared."""
    length = length // 128 if stage.rehearse else length
    return _beside(stage, length, rows, generating=False)


def _beside(stage: Stage, length: int, rows: int, *, generating: bool) -> tuple[str, dict[str, Any]]:
    ours, theirs = both(stage)
    texts = [words(ours.tokenizer, length - ANSWER, seed) for seed in range(rows)]
    requests = [generation(text, ANSWER) if generating else choice(text, " lamp") for text in texts]
    plan = ours.plan("generate_until" if generating else "loglikelihood", requests)
    size = max(map(len, plan))
    other = theirs(batch_size=size)
    first = requests[:1]
    seconds: dict[str, float] = {}
    found: dict[str, Any] = {}
    for name, lm in (("lr2eval", ours), ("lm-eval", other)):
        act = lm.generate_until if generating else lm.loglikelihood
        act(first, disable_tqdm=True)
        clear()
        seconds[name], found[name] = stage.timed(lambda act=act: act(requests, disable_tqdm=True))
    same = sum(a == b if generating else abs(a[0] - b[0]) < 0.1 for a, b in zip(*found.values(), strict=True))
    read = sum(len(ours.tok_encode(text)) for text in texts)
    what = "answers" if generating else "scores"
    said = (
        f"{rows} prompts of {read // rows:,} tokens, {size} rows a batch: {rows / seconds['lr2eval']:.2f} {what}/s "
        f"({read / seconds['lr2eval']:,.0f} tokens/s), lm-eval's hf {rows / seconds['lm-eval']:.2f} "
        f"({seconds['lm-eval'] / seconds['lr2eval']:.2f} times our seconds); {same} of {rows} "
        f"{'equal' if generating else 'within 0.1 nats'}"
    )
    return said, {"seconds": seconds, "same": same, "rows": rows, "tokens": read, "batch": size}


def step(stage: Stage) -> tuple[str, Any]:
    """One whole training step on a long row of 32k: forward, backward, AdamW."""
    from training import engine, row_of

    from lr2eval.method.train.parallel import Ranks

    stage.shared.clear()
    clear()
    length, hidden, layers, window, vocabulary = 32768, 4096, 6, 8192, 128256
    if stage.rehearse:
        length, hidden, layers, window, vocabulary = 256, 256, 2, 128, 512
    found = engine(Ranks(device=stage.device), hidden, layers, window, length, attention="sdpa",
                   gradient_checkpointing=True)  # fmt: skip
    row = row_of("long", length, window, vocabulary)

    def once() -> Any:
        return found.step([[row]], float(length - 1), 1e-5)

    once()  # makes the optimizer's state
    seconds = sorted(stage.timed(once)[0] for _ in range(3))
    memory = "" if stage.device == "cpu" else f", {torch.cuda.max_memory_allocated() / GIB:.1f} GiB in all"
    said = (
        f"{layers} of 32 layers, a long row of {length:,} tokens: {seconds[1]:.2f} s a step (3 steps, {seconds[0]:.2f} "
        f"to {seconds[2]:.2f}), {length / seconds[1]:,.0f} tokens/s{memory}"
    )
    return said, {"seconds": seconds}


CHECKS = [
    Check("answers to prompts of 8k", functools.partial(answers, length=8192, rows=16), 25, measures=True, gib=60),
    Check("answers to prompts of 32k", functools.partial(answers, length=32768, rows=4), 25, measures=True, gib=60),
    Check("scores of prompts of 8k", functools.partial(scores, length=8192, rows=16), 20, measures=True, gib=60),
    Check("one training step at 32k", step, 15, measures=True, gib=75),
]

if __name__ == "__main__":
    sys.exit(main(CHECKS))
