"""Tiny random models of many architectures: our answers and log-likelihoods beside those of stock transformers.

    python benchmarks/matrix.py --write              # all rows (`make matrix`), into the results and the page
    python benchmarks/matrix.py llama jamba          # these rows, to the screen
    python benchmarks/matrix.py --document           # write the page again, from the committed results

Stock is each prompt alone: plain greedy ``generate``, and one whole forward for a log-likelihood. A checkpoint with two
windows (longrope) has another reference, because stock transformers continues a cache across the window: cache-free
decoding, where every forward holds one whole sequence.

Each cell is "equal" (answers token for token, log-likelihoods within 1e-3), "refused: " with our one line, or a third
outcome, which makes the exit code 1.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from lm_eval.api.instance import Instance
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from matrix_models import ARCHITECTURES, BASE, longrope  # noqa: E402

from lr2eval.backends.hf import WindowedHFLM  # noqa: E402
from lr2eval.errors import CheckpointError, Lr2EvalError, first_line  # noqa: E402
from lr2eval.model.checkpoint import Checkpoint  # noqa: E402
from tests.tiny_models import EOS, save_checkpoint, text_of, tiny_tokenizer  # noqa: E402

RESULTS = HERE / "results" / "matrix.json"
PAGE = ROOT / "docs" / "architectures.md"
TOLERANCE = 1e-3
"""In nats, between our log-likelihoods and those of stock transformers, in float32."""
GAP = 1e-4
"""The two best logits of a reference differ by more; else another seed makes another model."""
CHUNK = 16
WINDOW = 256
SEEDS = 8


@dataclass(frozen=True)
class Asked:
    """A prompt with the tokens to generate after it."""

    prompt: str
    new: int = 10


def alike(beginning: int, tails: Sequence[int], seed: int) -> list[Asked]:
    """Prompts that share their first tokens."""
    first = text_of(beginning, tiny_tokenizer(), seed)
    return [Asked(first + " " + text_of(tail, tiny_tokenizer(), 10 * seed + tail)) for tail in tails]


@cache
def prompts() -> dict[str, list[Asked]]:
    """Lengths lie on both sides of 24 (sliding windows), 32 (original windows) and 64 (dynamic scaling)."""
    tokenizer = tiny_tokenizer()
    mixed = [Asked(text_of(length, tokenizer, length)) for length in (7, 21, 30, 45, 45, 70)]
    return {
        "apart": mixed,
        "mixed": mixed,
        "shared": [*alike(22, (2, 6, 9), 1), *alike(50, (3, 8, 17), 2)],
        "long": [Asked(text_of(length, tokenizer, 90 + length), 48) for length in (18, 52)],
    }


def tiny(kind: str, settings: dict[str, Any], seed: int) -> Any:
    """A random model that says plain ASCII and never EOS."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**BASE, **settings}), dtype=torch.float32)
    head = model.get_output_embeddings()
    tokenizer = tiny_tokenizer()
    mute = [t for t in range(len(tokenizer)) if t in tokenizer.all_special_ids or not tokenizer.decode([t]).isascii()]
    head.weight.data[mute] = 0.0
    if getattr(head, "bias", None) is not None:
        head.bias.data[mute] = -1e3
    return model.eval()


class TieError(Exception):
    """The two best logits are too close: a difference there would mean nothing."""


class Stock:
    """What transformers says about each prompt alone, by a model in its first state each time."""

    def __init__(self, folder: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        rope = getattr(self._model.config.get_text_config(), "rope_parameters", None) or {}
        self._two_windows = rope.get("rope_type") == "longrope"
        if type(self._model).__name__ == "PhimoeForCausalLM" and self._two_windows:
            _use_long_factors(self._model.model.rotary_emb)
        self._keeps = "dynamic" in str(rope)

    def _fresh(self) -> Any:
        """The model; a copy where the rotary module remembers what it has seen."""
        return copy.deepcopy(self._model) if self._keeps else self._model

    @torch.no_grad()
    def answer(self, ids: list[int], new: int) -> list[int]:
        model, said = self._fresh(), []
        if self._two_windows:
            for _ in range(new):
                logits = model(torch.tensor([ids + said]), use_cache=False).logits[0, -1]
                said.append(_sure(logits))
            return said
        settings = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=EOS, pad_token_id=1)
        out = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            generation_config=settings, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        for logits in out.logits:
            _sure(logits[0])
        return list(out.sequences[0, len(ids) :].tolist())

    @torch.no_grad()
    def score(self, context: list[int], target: list[int]) -> tuple[float, bool]:
        logits = self._fresh()(torch.tensor([context + target[:-1]]), use_cache=False).logits[0]
        logits = logits[-len(target) :]
        wanted = torch.tensor(target)
        greedy = all(_sure(row) == token for row, token in zip(logits, target, strict=True))
        return float(logits.log_softmax(-1).gather(1, wanted[:, None]).sum()), greedy


def _use_long_factors(rotary: Any) -> None:
    """transformers 5.23 does not tell Phi-3.5-MoE's rotary module the length, so its long factors are never used.

    4.57.1 does, and so does this.
    """
    make, forward = rotary.rope_init_fn, rotary.forward

    def told(x: torch.Tensor, position_ids: torch.Tensor) -> Any:
        rotary.rope_init_fn = lambda config: make(config, None, seq_len=int(position_ids.max()) + 1)
        return forward(x, position_ids)

    rotary.forward = told


def _sure(logits: torch.Tensor) -> int:
    best = logits.float().topk(2)
    if not bool(best.values.isfinite().all()) or float(best.values[0] - best.values[1]) < GAP:
        raise TieError
    return int(best.indices[0])


@dataclass(frozen=True)
class Reference:
    """Stock answers and log-likelihoods for a group of prompts."""

    answers: list[str]
    choices: list[tuple[str, str]]
    scores: list[tuple[float, bool]]


def reference(stock: Stock, asked: Sequence[Asked]) -> Reference:
    tokenizer = tiny_tokenizer()
    known = {each.prompt: stock.answer(tokenizer.encode(each.prompt), each.new) for each in asked}
    said = [known[each.prompt] for each in asked]
    choices, scores = [], []
    for each, tokens in zip(asked, said, strict=True):
        context = tokenizer.encode(each.prompt.rstrip())
        for text in (tokenizer.decode(tokens[:1]), tokenizer.decode(tokens[:3]), " garden", " yellow signal"):
            target = tokenizer.encode(each.prompt + text)[len(context) :]
            if target:  # a token may merge with the one before it
                choices.append((each.prompt, text))
                scores.append(stock.score(context, target))
    return Reference([tokenizer.decode(tokens) for tokens in said], choices, scores)


def compare(lm: WindowedHFLM, asked: Sequence[Asked], wanted: Reference, together: bool) -> tuple[str, float]:
    """("equal" or what differs, largest difference of a log-likelihood)."""
    generating = [
        Instance("generate_until", {}, (each.prompt, {"until": [], "max_gen_toks": each.new}), 0) for each in asked
    ]
    scoring = [Instance("loglikelihood", {}, choice, 0) for choice in wanted.choices]
    if together:
        answers, scores = lm.generate_until(generating), lm.loglikelihood(scoring)
    else:
        answers = [lm.generate_until([request])[0] for request in generating]
        scores = [lm.loglikelihood([request])[0] for request in scoring]
    wrong = sum(got != want for got, want in zip(answers, wanted.answers, strict=True))
    off = max(abs(got[0] - want[0]) for got, want in zip(scores, wanted.scores, strict=True))
    flipped = sum(got[1] != want[1] for got, want in zip(scores, wanted.scores, strict=True))
    if wrong or flipped or not off < TOLERANCE:
        return (
            f"DIFFERENT: {wrong} of {len(answers)} answers, {flipped} greedy flags, log-likelihoods by {off:.2g}",
            off,
        )
    return "equal", off


CELLS: dict[str, tuple[str, bool, int | None]] = {
    "apart": ("apart", False, None),
    "shared": ("shared", True, None),
    "chunked": ("mixed", True, CHUNK),
    "chunked, shared": ("shared", True, CHUNK),
    "mixed lengths": ("mixed", True, None),
    "long answers": ("long", True, None),
}
"""Cell -> (group of prompts, in one call?, prefill chunk)."""


def save(kind: str, settings: dict[str, Any], folder: Path, seed: int) -> bool:
    """Save a model. Returns whether its ``config.json`` states a window that we can read; if not, one is added."""
    save_checkpoint(folder, tiny(kind, settings, seed))
    try:
        Checkpoint.open(folder)
    except CheckpointError as error:
        if "max_position_embeddings" not in str(error):
            return True
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": WINDOW}))
        return False
    return True


def fill(kind: str, settings: dict[str, Any], folder: Path, cells: Sequence[str] = tuple(CELLS)) -> dict[str, Any]:
    """The cells of one row."""
    for seed in range(SEEDS):
        states_window = save(kind, settings, folder, seed)
        stock = Stock(folder)
        try:
            wanted = {group: reference(stock, prompts()[group]) for group in {CELLS[cell][0] for cell in cells}}
        except TieError:
            continue
        break
    else:
        return {**dict.fromkeys(cells, f"NO MODEL: ties under {SEEDS} seeds"), "difference": 0.0, "states window": True}
    found: dict[str, Any] = {}
    worst = 0.0
    loaded: dict[int | None, WindowedHFLM] = {}
    for cell in cells:
        group, together, chunk = CELLS[cell]
        try:
            if chunk not in loaded:
                loaded[chunk] = WindowedHFLM(
                    Checkpoint.open(folder), window=WINDOW, device="cpu", dtype="float32", prefill_chunk=chunk
                )
            found[cell], off = compare(loaded[chunk], prompts()[group], wanted[group], together)
            worst = max(worst, off)
        except Lr2EvalError as error:
            text = str(error).replace(f"{folder}/", "").replace(f"{folder}: ", "")
            found[cell] = f"refused: {text}" if "\n" not in text else f"NOT ONE LINE: {text}"
        except Exception as error:
            found[cell] = f"ERROR: {type(error).__name__}: {first_line(error)}"
    return {**found, "difference": worst, "states window": states_window}


def pairs_of(kind: str, settings: dict[str, Any]) -> int | None:
    """Rotary pairs of the one module that transformers builds; ``None`` without such a module."""
    model = tiny(kind, settings, 0)
    module = getattr(model.base_model, "rotary_emb", None)
    inv_freq = getattr(module, "inv_freq", None)
    return None if inv_freq is None else inv_freq.numel()


RULE = ("shared", "mixed lengths", "long answers")


def window_rule(kind: str, settings: dict[str, Any], folder: Path) -> str:
    """Whether the same architecture with two sets of factors (longrope) keeps the window rule."""
    own = settings.get("rope_parameters", {})
    pairs = pairs_of(kind, settings)
    if pairs is None:
        return NO_MODULE
    kept = {key: own[key] for key in ("partial_rotary_factor", "llama_4_scaling_beta") if key in own}
    changed = {**settings, **longrope(pairs, **kept)}
    try:
        tiny(kind, changed, 0)(torch.arange(3)[None])
    except Exception as error:
        return f"{NOT_BUILT} ({type(error).__name__})"
    found = fill(kind, changed, folder, RULE)
    worse = [str(found[cell]) for cell in RULE if found[cell] != "equal"]
    return worse[0] if worse else "holds"


NO_MODULE, NOT_BUILT = "no single rotary module", "transformers does not build it"
FINE = ("equal", "refused: ", "holds", NO_MODULE, NOT_BUILT)


def row(name: str, folder: Path) -> dict[str, Any]:
    kind, settings, special = ARCHITECTURES[name]
    cells = fill(kind, settings, folder / "own")
    if "longrope" in str(settings.get("rope_parameters")):
        worse = [cells[cell] for cell in RULE if cells[cell] != "equal"]
        rule = worse[0] if worse else "holds"
    else:
        rule = window_rule(kind, settings, folder / "longrope")
    return {"name": name, "type": kind, "special": special, **cells, "window rule": rule}


def third(found: dict[str, Any]) -> list[str]:
    """What is neither equal nor refused in a row."""
    cells = {cell: str(found[cell]) for cell in (*CELLS, "window rule")}
    return [f"{found['name']}, {cell}: {said}" for cell, said in cells.items() if not said.startswith(FINE)]


# The page

BEGIN, END = "<!-- the matrix: written by benchmarks/matrix.py --document -->", "<!-- end -->"


def document(result: dict[str, Any]) -> str:
    """The table in Markdown, and its notes, from the results."""
    notes: dict[str, int] = {}
    heads = ("architecture", "model type", "what is special", *CELLS, "window rule")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for found in result["rows"]:
        special = found["special"] + ("" if found["states window"] else "; window added")
        cells = [_cell(str(found[cell]), notes) for cell in (*CELLS, "window rule")]
        lines.append("| " + " | ".join([found["name"], f"`{found['type']}`", special, *cells]) + " |")
    worst = max(found["difference"] for found in result["rows"])
    bad = sum(len(third(found)) for found in result["rows"])
    refused = sum("refused" in str(found[cell]) for found in result["rows"] for cell in (*CELLS, "window rule"))
    said = (
        f"{len(result['rows'])} architectures, transformers {result['transformers']}, float32 on a CPU. {refused} "
        f"cells are refused, {bad} are neither equal nor refused. The largest difference of a log-likelihood in an "
        f"equal cell is {worst:.1e}."
    )
    return "\n".join([said, "", *lines, "", *(f"{number}. {note}" for note, number in notes.items())])


def _cell(said: str, notes: dict[str, int]) -> str:
    """``refused`` with the number of its note. Notes speak of any model, not of one class."""
    if not said.startswith("refused: "):
        return said.replace("|", "/")
    note = re.sub(
        r"\b[A-Z]\w+(ForCausalLM|RotaryEmbedding|LMHeadModel)\b", r"<model>\1", said.removeprefix("refused: ")
    )
    note = f"`{re.sub(r'<model>(ForCausalLM|LMHeadModel)', 'MODEL', note).replace('<model>RotaryEmbedding', 'MODULE')}`"
    return f"refused ({notes.setdefault(note, len(notes) + 1)})"


def read_results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"rows": []}
    return found


def write_page(result: dict[str, Any]) -> None:
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{document(result)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="rows to run [default: all]")
    parser.add_argument("--write", action="store_true", help="write these rows into the results and the page")
    parser.add_argument("--document", action="store_true", help="only write the page again")
    arguments = parser.parse_args()
    if arguments.document:
        write_page(read_results())
        return 0
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    bad = []
    for name in arguments.names or ARCHITECTURES:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = row(name, Path(folder))
        bad += third(found)
        print(f"{name} ({time.perf_counter() - began:.1f} s, {found['difference']:.1e})", flush=True)
        for cell in (*CELLS, "window rule"):
            if found[cell] not in ("equal", "holds"):
                print(f"    {cell}: {found[cell]}", flush=True)
        if arguments.write:
            rows = {**{known["name"]: known for known in read_results()["rows"]}, name: found}
            kept = [rows[known] for known in ARCHITECTURES if known in rows]
            result = {"transformers": transformers.__version__, "rows": kept}
            RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if arguments.write:
        write_page(read_results())
    print(f"{len(bad)} cells are neither equal nor refused", *bad, sep="\n  ")
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main())
