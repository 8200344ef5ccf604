"""Counting the tokens of long prompts from the counts of their words, where that is provably the same.

Most tokenizers cut a text before every space that follows something else than white space, and treat what lies
between two cuts independently: GPT-2's and its successors' regular expressions match a space only in front, BERT drops
spaces, sentencepiece starts a piece with them. For those the tokens of a text are the sum over its words, and a word
met before costs nothing. :func:`cuts_before_spaces` recognises them from the tokenizer's own description; any other
tokenizer counts whole prompts as before.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

from lr2eval._tokens import PromptTokenizer

MEMO_LIMIT = 200_000
"""Distinct words whose token counts are remembered (some 20 megabytes)."""
SPACE = "\u2581"
"""What sentencepiece makes of a space."""
# A space starts a new word unless white space stands before it; U+180E counted as white space in older Unicode.
_CUT = re.compile("(?<=[^\\s\u180e]) ")

_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
KNOWN_PATTERNS = frozenset(
    {
        GPT2,
        # Llama 3, Qwen 2
        rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}",
        rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_TAIL}",
    }
)
"""Regular expressions no match of which holds a space after something else, looking ahead at white space only."""
_PLAIN = re.compile(r"[A-Za-z0-9.,:;!?'\n-]*")
"""Words that can be cut into parts here: plain ASCII."""
_LOCAL_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase"}
_DELETING_NORMALIZERS = {"BertNormalizer", "StripAccents"}
_DROPPING_PRE_TOKENIZERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_PROCESSORS = {"TemplateProcessing", "ByteLevel", "BertProcessing", "RobertaProcessing"}


class CountingTokenizer(PromptTokenizer):
    """A prompt tokenizer with the same counts, quicker where ``additive``: then every word is tokenised once."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self.tokenizer = tokenizer.tokenizer
        self.chat = tokenizer.chat
        self.name = tokenizer.name
        self._plain = tokenizer
        self._memo: dict[str, int] = {}
        self._special = 0
        self._parts: dict[str, int] = {}
        self._pattern: re.Pattern[str] | None = None
        self.additive = False
        if getattr(self.tokenizer, "is_fast", False):
            state = json.loads(self.tokenizer.backend_tokenizer.to_str())
            self.additive = cuts_before_spaces(state)
            self._pattern = parts_of_words(state) if self.additive else None
        if self.additive:
            self._special = len(self.encode_rendered("a")) - len(self.encode("a"))

    def counts(self, texts: Sequence[str]) -> list[int]:
        """As :meth:`PromptTokenizer.counts`."""
        return [self._count(text) for text in texts] if self.additive else self._plain.counts(texts)

    def count_prompt(self, prompt: str, answer_prefix: str = "") -> int:
        """As :meth:`PromptTokenizer.count_prompt`."""
        if not self.additive:
            return self._plain.count_prompt(prompt, answer_prefix)
        text = self.render(prompt, answer_prefix)
        bos = getattr(self.tokenizer, "bos_token", None)
        return self._count(text) + (0 if bos and text.startswith(bos) else self._special)

    def verified(self, prompt: str, answer_prefix: str) -> bool:
        """Whether both ways of counting agree on this prompt; where they do not, whole prompts are counted on."""
        if self.additive and self.count_prompt(prompt, answer_prefix) != self._plain.count_prompt(
            prompt, answer_prefix
        ):
            self.additive = False
        return self.additive

    def _count(self, text: str) -> int:
        """Tokens of a text: repeated lines first, the rest by words."""
        if len(self._memo) > MEMO_LIMIT:
            self._memo.clear()
        kept: list[str] = []
        total = 0
        for line, group in groupby(text.split("\n")):
            repeats = len(list(group))
            if repeats > 1 and len(words := _CUT.split(line)) > 1:
                # One more copy adds the words inside, and one that reaches over the end of the line.
                inside = [*words[1:-1], f"{words[-1]}\n{words[0]}"]
                total += (repeats - 1) * self._sum(Counter(inside))
                repeats = 1
            kept.extend([line] * repeats)
        first, *words = "\n".join(kept).split(" ")
        counted = Counter(words)
        if any(not word or word[-1].isspace() or word[-1] == "\u180e" for word in (first, *counted)):
            first, *words = _CUT.split("\n".join(kept))
            counted = Counter(words)
        return total + self._sum(counted) + sum(self._encoded([first] if first else []))

    def _sum(self, words: Mapping[str, int]) -> int:
        """Tokens of words that stand after a space, each so many times."""
        memo = self._memo
        new = [word for word in words if word not in memo]
        if self._pattern is None:
            memo.update(zip(new, self._encoded([f" {word}" for word in new]), strict=True))
        else:
            self._memorise(new, self._pattern)
        return sum([memo[word] * times for word, times in words.items()])

    def _memorise(self, new: list[str], pattern: re.Pattern[str]) -> None:
        """Counts of new words from those of their parts, which are fewer: letters, digits, marks."""
        known = self._parts
        if len(known) > MEMO_LIMIT:
            known.clear()
        cut = [pattern.findall(f" {word}") if _PLAIN.fullmatch(word) else [f" {word}"] for word in new]
        parts = list({part for each in cut for part in each if part not in known})
        known.update(zip(parts, self._encoded(parts), strict=True))
        self._memo.update(zip(new, [sum([known[part] for part in each]) for each in cut], strict=True))

    def _encoded(self, texts: list[str]) -> Iterable[int]:
        return map(len, self.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False))


_COUNTING: WeakKeyDictionary[PromptTokenizer, CountingTokenizer] = WeakKeyDictionary()


def counting(tokenizer: PromptTokenizer) -> CountingTokenizer:
    """The counting tokenizer of ``tokenizer``, always the same one: reading a large vocabulary takes a second."""
    if isinstance(tokenizer, CountingTokenizer):
        return tokenizer
    if tokenizer not in _COUNTING:
        _COUNTING[tokenizer] = CountingTokenizer(tokenizer)
    return _COUNTING[tokenizer]


def cuts_before_spaces(state: Mapping[str, Any]) -> bool:
    """Whether a tokenizer (``tokenizer.json``) provably cuts at every space that follows no white space.

    False also means "not known": the whitelists name parts that were checked, with the reasons in this function.
    """
    if state.get("truncation") or state.get("padding"):
        return False
    # Added tokens are cut out before anything else; one with a space inside, or which eats the space behind it, could
    # reach over a cut. All others lie within a word.
    for token in state.get("added_tokens") or ():
        if token["rstrip"] or SPACE in token["content"] or any(letter.isspace() for letter in token["content"]):
            return False
    if any(part["type"] not in _PROCESSORS for part in _parts(state, "post_processor", "processors")):
        return False
    model = state["model"]
    # Older files leave out the type.
    if model.get("type") not in ("BPE", "WordPiece", "WordLevel", "Unigram") or model.get("dropout"):
        return False
    stages = _parts(state, "pre_tokenizer", "pretokenizers")
    dropping = any(stage["type"] in _DROPPING_PRE_TOKENIZERS for stage in stages)
    spaces_replaced = False
    for part in _parts(state, "normalizer", "normalizers"):
        kind = part["type"]
        if kind == "Replace" and part["pattern"] == {"String": " "} and part["content"] == SPACE:
            spaces_replaced = True
        elif kind == "Replace" and part["pattern"] == {"Regex": r"\s+"} and part["content"] == " ":
            continue  # a run of white space lies within a word
        elif kind in _DELETING_NORMALIZERS and dropping:
            continue  # what they delete at the end of a word may lay bare a space, which is dropped
        elif kind not in _LOCAL_NORMALIZERS:
            return False
    if spaces_replaced:
        return not stages and _whole_text_bpe_cuts(model)
    return _stages_cut(stages, model)


def parts_of_words(state: Mapping[str, Any]) -> re.Pattern[str] | None:
    """The regular expression by which a tokenizer that cuts before spaces cuts plain ASCII words, if it is known.

    Each match is tokenised by itself; which it is depends on the text from its start, and alone it is one match again.
    """
    stages = _parts(state, "pre_tokenizer", "pretokenizers")
    kinds = [stage["type"] for stage in stages]
    if kinds == ["ByteLevel"]:
        pattern = GPT2
    elif kinds == ["Split", "ByteLevel"] and not stages[1].get("use_regex", True) and not stages[1]["add_prefix_space"]:
        pattern = stages[0]["pattern"]["Regex"]
    else:
        return None
    normal = all(part["type"] in ("NFC", "NFD", "NFKC", "NFKD") for part in _parts(state, "normalizer", "normalizers"))
    if not normal or any(_PLAIN.fullmatch(token["content"]) for token in state.get("added_tokens") or ()):
        return None
    ascii_only = pattern.replace(r"[^\r\n\p{L}\p{N}]", r"[^\r\nA-Za-z0-9]").replace(
        r"[^\s\p{L}\p{N}]", r"[^\sA-Za-z0-9]"
    )
    return re.compile(ascii_only.replace(r"\p{L}", "[A-Za-z]").replace(r"\p{N}", "[0-9]"))


def _stages_cut(stages: Sequence[Mapping[str, Any]], model: Mapping[str, Any]) -> bool:
    """Splitting stages up to the first that surely cuts; what comes after works on each split by itself."""
    for number, stage in enumerate(stages):
        kind = stage["type"]
        if kind in _DROPPING_PRE_TOKENIZERS:
            return all(later["type"] != "Metaspace" for later in stages[number + 1 :])
        if kind == "ByteLevel" and not stage["add_prefix_space"]:
            # With its regular expression it cuts as GPT-2 does; without, it only renames bytes.
            if stage.get("use_regex", True):
                return True
        elif kind == "Split" and stage["pattern"].get("Regex") in KNOWN_PATTERNS:
            # Every character is in a match, so keeping the matches and isolating them are the same.
            if (stage["behavior"], stage["invert"]) not in (("Isolated", False), ("Removed", True)):
                return False
            return all(later["type"] in ("ByteLevel", "Digits") for later in stages[number + 1 :])
        elif kind == "Metaspace" and stage["replacement"] == SPACE and "prepend_scheme" in stage:
            # A word after a space has its mark already, so nothing is put in front of it.
            return len(stages) == 1 and (bool(stage["split"]) or _whole_text_bpe_cuts(model))
        elif kind == "Digits" or (kind == "Punctuation" and stage["behavior"] == "Isolated"):
            continue  # these split by the kind of character: never joining, never across what is decided later
        else:
            return False
    return False


def _whole_text_bpe_cuts(model: Mapping[str, Any]) -> bool:
    """Merges of a whole text never join a word and the next if no token has a space mark behind something else."""
    return (
        model["type"] == "BPE"
        and not model.get("ignore_merges")
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
        and SPACE in model["vocab"]
        and not any(SPACE in token.lstrip(SPACE) for token in model["vocab"])
    )


def _parts(state: Mapping[str, Any], key: str, inner: str) -> list[Mapping[str, Any]]:
    """The steps of a part of the tokenizer, sequences unrolled."""
    part = state.get(key)
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [step for each in part[inner] for step in _parts({key: each}, key, inner)]
