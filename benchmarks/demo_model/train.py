"""Training of the demo model from nothing: ``python -m demo_model.train FOLDER [--seed N] [--recipe FILE]``.

A Llama of a million parameters with a byte-level BPE of its own learns to find needles in text in the wording of the
ruler tasks, and a thousand invented facts, on one core in about an hour. Every number that decides
the result stands in ``demo.toml``; step ``n`` sees the same text whatever happened before, so a killed training goes
on where it was. One seed gives one model, up to the arithmetic of the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from demo_model import reserved
from demo_model.muon import Muon
from demo_model.text import BOS, EOS, Document, Phrases, Words, Writer, documents, mixture
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lr2eval.base.files import write_json
from lr2eval.tasks.facts import table
from lr2eval.tasks.haystacks import filler

RECIPE = Path(__file__).with_name("demo.toml")


SPECIAL = ("<pad>", BOS, EOS)


PAD_ID, BOS_ID, EOS_ID = range(3)
TOKENIZER_LINES = 40_000
STATE, LOG = "state.pt", "log.jsonl"
SAVE_EVERY, LOG_EVERY, TEST_EVERY = 200, 50, 500


@dataclass(frozen=True)
class DemoRecipe:
    """``demo.toml`` read; the tables stay as they are."""

    seed: int
    tokens_per_step: int
    window: int
    first_window: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    growth: dict[str, Any]
    text: dict[str, Any]
    cycles: list[dict[str, Any]]

    @property
    def steps(self) -> int:
        """Of all cycles."""
        return sum(cycle["steps"] for cycle in self.cycles)

    def cycle(self, step: int) -> tuple[dict[str, Any], float]:
        """The cycle of a step and the share of it that is done before."""
        for cycle in self.cycles:
            if step < cycle["steps"] or cycle is self.cycles[-1]:
                return cycle, step / cycle["steps"]
            step -= cycle["steps"]
        raise ValueError("a recipe needs at least one cycle")

    @classmethod
    def read(cls, path: Path = RECIPE, **changes: Any) -> DemoRecipe:
        """The recipe of a file; ``changes`` to its top-level keys."""
        return cls(**{**tomllib.loads(path.read_text(encoding="utf-8")), **changes})


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with one token per digit, trained on lines of the demo's own text; ``<s>`` before a prompt."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        _lines(),
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, BOS_ID)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def _lines() -> Iterator[str]:
    rng, words, phrases = Random(1), Words.load(), Phrases()
    for _ in range(TOKENIZER_LINES):
        key, value, u = words.key(rng), str(rng.randint(10**6, 10**7 - 1)), rng.random()
        if u < 0.5:
            yield f"{phrases.needle(key, value)}\n {rng.choice(words.nouns)} {rng.choice(words.adjectives)}"
        elif u < 0.6:
            asked = phrases.question(key) + phrases.prefix(key)
            yield f"{phrases.instruction()}{phrases.noise}{asked} {value}"
        elif u < 0.75:
            yield filler.sentence(rng)
        else:
            fact = rng.choice(table.facts())
            yield f"{fact.stem} {fact.object}."


class Text:
    """Windows of tokens and the weights of their answers, step by step."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, recipe: DemoRecipe) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._recipe = recipe
        self._counts: dict[str, int] = {}
        words = Words.load()
        known = [word for word in words.all if self.count(f" {word}") == 1]
        Random(3).shuffle(known)
        self.words = words
        self.writer = Writer(self.count, known, words, reserved.values())

    def count(self, text: str) -> int:
        """Tokens of a text by itself."""
        found = self._counts.get(text)
        if found is None:
            if len(self._counts) > 100_000:
                self._counts.clear()
            found = self._counts[text] = len(self._backend.encode(text, add_special_tokens=False).ids)
        return found

    def encode(self, document: Document) -> tuple[list[int], list[float]]:
        """Tokens of a document and the weight of each: that of the piece in which it ends."""
        encoded = self._backend.encode("".join(piece for piece, _ in document), add_special_tokens=False)
        weights: list[float] = []
        end, at = 0, 0
        ends = []
        for piece, _ in document:
            end += len(piece)
            ends.append(end)
        for _, stop in encoded.offsets:
            while ends[at] < stop:
                at += 1
            weights.append(document[at][1])
        return encoded.ids, weights

    def windows(self, step: int, length: int, window: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens_BL, weights_BL) of a step at a time when the model's window is ``window``."""
        recipe = self._recipe
        rows = [
            self._window(Random(f"{recipe.seed}/{step}/{row}"), length, window, recipe.cycle(step)[0])
            for row in range(max(3, recipe.tokens_per_step // length))
        ]
        return torch.tensor([ids for ids, _ in rows]), torch.tensor([weights for _, weights in rows])

    def _window(self, rng: Random, length: int, window: int, cycle: Mapping[str, Any]) -> tuple[list[int], list[float]]:
        recipe = self._recipe
        pool = 100 if window < 64 else 200 if window < 96 else 10**6
        mix = mixture(rng, window, recipe.window, cycle)
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) < length:
            document = documents(self.writer, rng, length - len(ids), pool, mix, recipe.text.get("long_documents"))
            if rng.random() < 0.8 and not document[0][0].startswith(BOS):
                document = [(BOS, 0.0), *document]
            more, theirs = self.encode(document)
            ids += more
            weights += theirs
        return ids[:length], weights[:length]


def make_model(recipe: DemoRecipe) -> LlamaForCausalLM:
    """Fresh weights from the recipe's seed."""
    shape = recipe.model
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape["vocabulary"],
            hidden_size=shape["hidden"],
            intermediate_size=shape["intermediate"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            num_key_value_heads=shape["heads"],
            head_dim=shape["head_dim"],
            max_position_embeddings=recipe.window,
            rope_parameters={"rope_type": "default", "rope_theta": shape["rope_theta"]},
            tie_word_embeddings=True,
            rms_norm_eps=1e-5,
            initializer_range=0.05,
            bos_token_id=BOS_ID,
            eos_token_id=EOS_ID,
            pad_token_id=PAD_ID,
        )
    )


class Training:
    """The loop; everything that a killed one needs stands in ``folder / state.pt``."""

    def __init__(self, recipe: DemoRecipe, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.model = make_model(recipe)
        self.text = Text(tokenizer, recipe)
        named = list(self.model.named_parameters())
        matrices = [p for name, p in named if p.dim() == 2 and "embed" not in name]
        others = [p for name, p in named if p.dim() != 2 or "embed" in name]
        rates = recipe.optimizer
        self._adam = torch.optim.AdamW(others, lr=rates["others"], betas=(0.9, 0.97), weight_decay=0.0)
        self._muon = Muon(matrices)
        self.step, self.window, self.accuracy, self.seconds = 0, recipe.first_window, 0.0, 0.0
        self._recent: list[tuple[float, float, float]] = []

    def run(self, say: Callable[[str], None]) -> None:
        """Train to the end, going on from a saved state."""
        self._resume()
        began = time.monotonic() - self.seconds
        while self.step < self.recipe.steps:
            self._one()
            self.seconds = time.monotonic() - began
            if self.step % LOG_EVERY == 0:
                self._report(say)
            if self.step % SAVE_EVERY == 0 or self.step == self.recipe.steps:
                self._save()

    def _one(self) -> None:
        recipe, step = self.recipe, self.step
        rng = Random(f"{recipe.seed}/{step}")
        length = self.window if rng.random() < 0.7 else rng.randint(min(20, self.window), self.window)
        tokens_BL, weights_BL = self.text.windows(step, length, self.window)
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        loss, *measured = losses(self.model, tokens_BL, weights_BL, recipe.text["other"], recipe.text["other_share"])
        self.model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.optimizer["clip"])
        scale = self.rate(step)
        self._adam.param_groups[0]["lr"] = recipe.optimizer["others"] * scale
        self._adam.step()
        self._muon.step(recipe.optimizer["matrices"] * scale)
        self.step += 1
        self._recent.append((measured[0], measured[1], measured[2]))
        self.accuracy = 0.95 * self.accuracy + 0.05 * measured[2]
        self._grow()

    def rate(self, step: int) -> float:
        """Learning rate at a step as a share of the optimizer's: warm-up, then constant and linear in each cycle."""
        rates, (cycle, done) = self.recipe.optimizer, self.recipe.cycle(step)
        start = cycle["decay_from"]
        decay = 1.0 if done < start else max(0.03, 1 - (done - start) / (1 - start))
        return float(min(1.0, (step + 1) / rates["warmup"]) * cycle["rate"] * decay)

    def _grow(self) -> None:
        growth, full = self.recipe.growth, self.recipe.window
        if self.step >= growth["forced"]:
            self.window = full
        elif self.step % 10 == 0 and self.accuracy > growth["small" if self.window < 96 else "large"]:
            self.window = min(full, self.window + (8 if self.window < 64 else 16))

    def _report(self, say: Callable[[str], None]) -> None:
        answers, others, right = (sum(column) / len(self._recent) for column in zip(*self._recent, strict=True))
        self._recent.clear()
        facts: dict[str, Any] = {"step": self.step, "seconds": round(self.seconds), "window": self.window}
        facts |= {"answers": round(answers, 3), "others": round(others, 3), "right": round(right, 3)}
        if self.step % TEST_EVERY == 0:
            facts |= self.test()
        line = json.dumps(facts)
        say(line)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def test(self, count: int = 40, length: int = 512) -> dict[str, float]:
        """Share of prompts of ``length`` tokens with held-out keys whose whole number is right, and of facts told."""
        found = {}
        for task in ("single_1", "multikey_1", "multikey_2"):
            made = [
                self.text.writer.task(Random(f"test/{task}/{n}"), task, length, key=self.text.words.held_out_key)
                for n in range(count)
            ]
            found[task] = round(exact(self.model, [self.text.encode(document) for document in made]), 3)
        stated = [[(fact.stem, 0.0), (f" {fact.object}", 1.0)] for fact in table.facts()[:: len(table.facts()) // 100]]
        found["facts"] = round(exact(self.model, [self.text.encode([(BOS, 0.0), *d]) for d in stated]), 3)
        return found

    def _save(self) -> None:
        state = {
            "recipe": json.dumps(self.recipe.__dict__, sort_keys=True),
            "model": self.model.state_dict(),
            "adam": self._adam.state_dict(),
            "muon": self._muon.state(),
            "step": self.step,
            "window": self.window,
            "accuracy": self.accuracy,
            "seconds": self.seconds,
        }
        new = self.folder / f"{STATE}.new"
        torch.save(state, new)
        new.replace(self.folder / STATE)

    def _resume(self) -> None:
        path = self.folder / STATE
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        if state["recipe"] != json.dumps(self.recipe.__dict__, sort_keys=True):
            raise SystemExit(f"{path}: of another recipe or seed; choose another folder")
        self.model.load_state_dict(state["model"])
        self._adam.load_state_dict(state["adam"])
        self._muon.load(state["muon"])
        self.step, self.window = state["step"], state["window"]
        self.accuracy, self.seconds = state["accuracy"], state["seconds"]


def losses(
    model: Any, tokens_BL: torch.Tensor, weights_BL: torch.Tensor, other: float, share: float
) -> tuple[torch.Tensor, float, float, float]:
    """The loss (answers + ``other`` times a random ``share`` of the rest), both parts, accuracy on answers.

    Logits are made only where the loss looks: the vocabulary costs as much as the model.
    """
    hidden_BLH = model.model(input_ids=tokens_BL, use_cache=False).last_hidden_state[:, :-1]
    targets_BL, weights_BL = tokens_BL[:, 1:], weights_BL[:, 1:]
    answers_BL = weights_BL > 0
    others_BL = ~answers_BL & (torch.rand(weights_BL.shape) < share)
    logits_NV = model.lm_head(torch.cat([hidden_BLH[answers_BL], hidden_BLH[others_BL]]))
    targets_N = torch.cat([targets_BL[answers_BL], targets_BL[others_BL]])
    each_N = cross_entropy(logits_NV, targets_N, reduction="none")
    count = int(answers_BL.sum())
    weights_N = weights_BL[answers_BL]
    total = weights_N.sum().clamp(min=1.0)
    answers = (each_N[:count] * weights_N).sum() / total
    rest = each_N[count:].mean() if len(each_N) > count else answers.new_zeros(())
    right_N = (logits_NV[:count].argmax(-1) == targets_N[:count]).float()
    return answers + other * rest, answers.item(), rest.item(), ((right_N * weights_N).sum() / total).item()


@torch.no_grad()  # type: ignore[untyped-decorator]
def exact(model: Any, rows: Sequence[tuple[list[int], list[float]]]) -> float:
    """Share of rows whose tokens of weight 1 are all the most likely ones: greedy decoding would give them."""
    right = 0
    for ids, weights in rows:
        hidden_LH = model.model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        places = [at for at, weight in enumerate(weights) if weight == 1.0]
        told = model.lm_head(hidden_LH[[place - 1 for place in places]]).argmax(-1).tolist()
        right += told == [ids[place] for place in places]
    return right / len(rows)


def export(training: Training, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The checkpoint as a Hugging Face folder, with the recipe it came from."""
    training.model.save_pretrained(folder)
    tokenizer.model_max_length = training.recipe.window
    tokenizer.save_pretrained(folder)
    write_json(folder / "recipe.json", training.recipe.__dict__)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="state, log and, at the end, the model in FOLDER/model")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    given = parser.parse_args(None if arguments is None else list(arguments))
    recipe = DemoRecipe.read(given.recipe, **({} if given.seed is None else {"seed": given.seed}))
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(recipe.model["vocabulary"])
    training = Training(recipe, tokenizer, given.folder)
    training.run(lambda line: print(line, file=sys.stderr, flush=True))
    export(training, tokenizer, given.folder / "model")
    print(json.dumps({"seed": recipe.seed, "steps": recipe.steps, **training.test(200)}))


if __name__ == "__main__":
    main()
