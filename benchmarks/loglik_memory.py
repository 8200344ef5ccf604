"""Peak memory of one log-likelihood over a long context: a bare forward, lr2eval's path, lm-eval's own path.

    python benchmarks/loglik_memory.py [--tokens 16384] [--layers 30] [--dtype float32]

Each variant runs in its own process, whose peak resident set the kernel counts. The model is a random Llama of
SmolLM2-135M's shape (hidden 576, 9 heads of 64, 3 for keys and values, vocabulary 49152). Fewer layers than its 30 save
time and change only the weights and lm-eval's KV cache. Writes ``benchmarks/results/loglik_memory.json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from machine import facts
from make_toy_model import main as make_toy_model

CONTINUATION = 16
VOCABULARY = 49_152
VARIANTS = {
    "backbone": "one forward without logits",
    "lr2eval": "lr2eval, logits where needed",
    "lm-eval": "lm-eval's HFLM",
}
RESULT = Path(__file__).parent / "results" / "loglik_memory.json"


def make_checkpoint(folder: Path, tokens: int, layers: int, dtype: torch.dtype) -> None:
    """A checkpoint folder; the tokenizer is the toy model's, as the ids are drawn directly."""
    from transformers import LlamaConfig, LlamaForCausalLM

    make_toy_model(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=tokens,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)


def measure(variant: str, folder: Path, tokens: int, dtype: str) -> dict[str, Any]:
    """In this process: load, note the memory, score once, note the peak (MiB)."""
    from lm_eval.models.huggingface import HFLM

    from lr2eval.backends.hf import WindowedHFLM
    from lr2eval.model.checkpoint import Checkpoint

    torch.set_num_threads(1)
    ids = torch.randint(2, VOCABULARY, (tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    if variant == "lm-eval":
        lm = HFLM(pretrained=str(folder), device="cpu", dtype=dtype, batch_size=1, max_length=tokens)
    else:
        lm = WindowedHFLM(Checkpoint.open(folder), device="cpu", dtype=dtype)
    pair = ids[:-CONTINUATION], ids[-CONTINUATION:]
    before = peak()
    if variant == "backbone":
        with torch.no_grad():
            lm.model.model(torch.tensor([ids[:-1]]), use_cache=False)
        answer = None
    elif variant == "lm-eval":
        ((answer, _),) = lm._loglikelihood_tokens([(None, *pair)], disable_tqdm=True)
    else:
        ((answer, _),) = lm._score_pairs([pair])
    return {"variant": variant, "loaded_mib": before, "peak_mib": peak(), "log_probability": answer}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--variant", choices=["checkpoint", *VARIANTS], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant == "checkpoint":
        make_checkpoint(options.folder, options.tokens, options.layers, getattr(torch, options.dtype))
        return 0
    if options.variant:
        print(json.dumps(measure(options.variant, options.folder, options.tokens, options.dtype)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        # Everything big happens in children: a child's peak starts at what its parent holds when it forks.
        rows = []
        for variant in ("checkpoint", *VARIANTS):
            command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant, "--folder", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            if variant in VARIANTS:
                rows.append(json.loads(done.stdout.splitlines()[-1]))
    base = rows[0]["peak_mib"]
    print(f"{options.tokens} tokens, {options.layers} layers, vocabulary {VOCABULARY}, {options.dtype}")
    for row in rows:
        row["ratio"] = round(row["peak_mib"] / base, 3)
        memory = f"loaded {row['loaded_mib']:6} MiB  peak {row['peak_mib']:6} MiB  x {row['ratio']:.2f}"
        print(f"{VARIANTS[row['variant']]:32} {memory}  log-probability {row['log_probability']}")
    result = {
        "what": "peak resident memory of one log-likelihood",
        "tokens": options.tokens,
        "continuation": CONTINUATION,
        "layers": options.layers,
        "vocabulary": VOCABULARY,
        "dtype": options.dtype,
        "machine": facts(),
        "rows": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if rows[1]["ratio"] <= 1.2 else 1


if __name__ == "__main__":
    sys.exit(main())
