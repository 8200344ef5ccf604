"""Train the tiny retrieval model of ``tests/assets/tiny-retrieval``: ``train_tiny_retrieval.py FOLDER``.

A Llama of half a million parameters learns the language of ``tiny_language.py`` in a window of 128 words, first in a
window of 20 that grows as its answers get right. The number of steps is fixed, so one seed gives one model (up to the
arithmetic of the machine). One thread; some ten minutes on a free core.

Other models and harder facts (``tiny_language.Form``) by flags; ``reproduction/screen.py`` uses them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parent))
import tiny_language as language
from demo_model.muon import Muon

WINDOW = 128
FIRST_WINDOW = 20
TOKENS_PER_STEP = 1536
HAYSTACK_WORDS = 12_000


def make_model(seed: int, layers: int = 3, theta: float = 1000.0) -> LlamaForCausalLM:
    """Two heads of 64 dimensions (32 RoPE pairs), tied embeddings."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(language.WORDS),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=WINDOW,
            rope_parameters={"rope_type": "default", "rope_theta": theta},
            tie_word_embeddings=True,
            rms_norm_eps=1e-5,
            initializer_range=0.05,
            bos_token_id=language.BOS,
            eos_token_id=language.STOP,
            pad_token_id=language.PAD,
        )
    )


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, ``<s>`` in front of a prompt."""
    tokenizer = Tokenizer(models.WordLevel(language.NUMBER, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", language.BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token=".", pad_token="<pad>", unk_token="<unk>"
    )


def batch(documents: Sequence[language.Document]) -> tuple[torch.Tensor, torch.Tensor]:
    """(words_BL, answers_BL)."""
    return (
        torch.from_numpy(np.stack([document.words for document in documents])),
        torch.from_numpy(np.stack([document.answers for document in documents])),
    )


def losses(model: Any, words_BL: torch.Tensor, answers_BL: torch.Tensor) -> tuple[torch.Tensor, float, float]:
    """The loss (answers + a tenth of the rest), the answers' own loss and their accuracy."""
    logits_BLV = model(input_ids=words_BL, use_cache=False).logits[:, :-1].float()
    wanted_BL, weight_BL = words_BL[:, 1:], answers_BL[:, 1:]
    each_BL = cross_entropy(logits_BLV.flatten(0, 1), wanted_BL.flatten(), reduction="none").view(wanted_BL.shape)
    answers = (each_BL * weight_BL).sum() / weight_BL.sum()
    rest = (each_BL * (1 - weight_BL)).sum() / (1 - weight_BL).sum()
    right_BL = (logits_BLV.argmax(-1) == wanted_BL).float()
    return answers + 0.1 * rest, answers.item(), ((right_BL * weight_BL).sum() / weight_BL.sum()).item()


def pairs_in_window(form: language.Form) -> int:
    """20, or as many as fit beside 12 questions."""
    return min(20, (WINDOW - 2 - 12 * form.asking) // form.size)


@torch.no_grad()
def in_window(model: Any, seed: int = 7, form: language.Form = language.PLAIN) -> dict[str, float]:
    """Share of right answers in the window: 4 pairs, 20 pairs, closed-book facts."""
    rng, most = np.random.default_rng(seed), pairs_in_window(form)
    kinds = {
        "pairs_4": lambda: language.recall(rng, WINDOW, 4, 4, at_end=True, form=form),
        "pairs_20": lambda: language.recall(rng, WINDOW, most, 12, at_end=True, form=form),
        "facts": lambda: language.facts(rng, WINDOW),
    }
    return {name: round(losses(model, *batch([make() for _ in range(60)]))[2], 3) for name, make in kinds.items()}


def train(
    seed: int, steps: int, log: Any, layers: int = 3, theta: float = 1000.0, form: language.Form = language.PLAIN
) -> Any:
    """The trained model."""
    model = make_model(seed, layers, theta)
    rng = np.random.default_rng(seed + 11)
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
    adam, muon = torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.97), weight_decay=0.0), Muon(matrices)
    window, answered, began = FIRST_WINDOW, 0.0, time.monotonic()
    for step in range(steps):
        done = step / steps
        rate = min(1.0, (step + 1) / 40) * (1.0 if done < 0.6 else max(0.03, 1 - (done - 0.6) / 0.4))
        length = window if rng.random() < 0.7 else int(rng.integers(FIRST_WINDOW, window + 1))
        rows = max(4, TOKENS_PER_STEP // length)
        documents = [language.document(rng, length, form=form) for _ in range(rows)]
        loss, answer_loss, right = losses(model, *batch(documents))
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.param_groups[0]["lr"] = 3e-3 * rate
        adam.step()
        muon.step(0.02 * rate)
        answered = 0.95 * answered + 0.05 * right
        if done > 0.5:
            window = WINDOW
        elif step % 10 == 0 and answered > (0.72 if window < 64 else 0.6):
            window = min(WINDOW, window + 8)
        if step % 100 == 99:
            facts: dict[str, Any] = {"step": step + 1, "seconds": round(time.monotonic() - began), "window": window}
            facts |= {"answer_loss": round(answer_loss, 3), "answered": round(answered, 3)}
            if step % 400 == 399:
                facts |= in_window(model, form=form)
            print(json.dumps(facts), file=log, flush=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1850)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--theta", type=float, default=1000.0, help="RoPE base")
    parser.add_argument("--gap", type=int, default=0, help="most words between a key and its value")
    parser.add_argument("--doubled", action="store_true", help="keys of two words that many keys share")
    parser.add_argument("--latest", action="store_true", help="keys are stated again; the last value counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    form = language.Form(arguments.gap, arguments.doubled, arguments.latest)
    given = arguments.layers, arguments.theta, form
    model = train(arguments.seed, arguments.steps, sys.stderr, *given).to(torch.bfloat16)
    model.save_pretrained(arguments.folder)
    make_tokenizer().save_pretrained(arguments.folder)
    text = language.text(language.filler(np.random.default_rng(5), HAYSTACK_WORDS)).split()
    lines = [" ".join(text[start : start + 20]) for start in range(0, len(text), 20)]
    (arguments.folder / "haystack.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps({"seed": arguments.seed, "steps": arguments.steps, **in_window(model.float(), form=form)}))


if __name__ == "__main__":
    main()
