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
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

from lr2eval._tokens import PromptTokenizer

MEMO_LIMIT = 200_000
"""Distinct words whose token counts are remembered (some 20 megabytes)."""
REACH = 400
"""Characters before the first difference of two texts in which a cut is looked for."""
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
_DIGIT = re.compile(r"[0-9]")
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
        self._last = ("", 0)
        self._cut: Callable[[str], list[str]] | None = None
        self.additive = False
        if getattr(self.tokenizer, "is_fast", False):
            state = json.loads(self.tokenizer.backend_tokenizer.to_str())
            self.additive = cuts_before_spaces(state)
            self._cut = parts_of_words(state) if self.additive else None
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
        count = self._changed(text)
        self._last = (text, self._count(text) if count is None else count)
        return self._last[1] + (0 if bos and text.startswith(bos) else self._special)

    def verified(self, prompt: str, answer_prefix: str) -> bool:
        """Whether both ways of counting agree on this prompt; where they do not, whole prompts are counted on."""
        if self.additive and self.count_prompt(prompt, answer_prefix) != self._plain.count_prompt(
            prompt, answer_prefix
        ):
            self.additive = False
        return self.additive

    def _changed(self, text: str) -> int | None:
        """Tokens of a text from those of the last one, if most of both is the same beginning and end.

        The search for a size asks for the same sample with a few units more or less. Both texts are cut at the same
        places before and behind the stretch in which they differ, so only its words change the count.
        """
        last, count = self._last
        shorter = min(len(last), len(text))
        same = _common(shorter, lambda length: last[:length] == text[:length])
        start = max((match.start() for match in _CUT.finditer(text, max(same - REACH, 0), same)), default=0)
        rest = shorter - start
        tail = _common(rest, lambda length: last[len(last) - length :] == text[len(text) - length :])
        behind = _CUT.search(text, len(text) - tail + 1) if tail else None
        if not start or behind is None or behind.start() > start + len(text) // 2:
            return None
        stop = len(text) - behind.start()
        old, new = last[start : len(last) - stop], text[start : len(text) - stop]
        return count + sum(
            sign * self._sum(Counter(_CUT.split(stretch[1:]))) for sign, stretch in ((-1, old), (1, new)) if stretch
        )

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
        joined = "\n".join(kept)
        first, *words = joined.split(" ")
        counted = Counter(words)
        # Words met before are sound, so only new ones are looked at.
        if any(map(_unsound, (first, *(word for word in counted if word not in self._memo)))):
            first, *words = _CUT.split(joined)
            last = words.pop() if words and _unsound(words[-1]) else None  # the end of the text
            total += 0 if last is None else sum(self._encoded([f" {last}"]))
            counted = Counter(words)
        return total + self._sum(counted) + sum(self._encoded([first] if first else []))

    def _sum(self, words: Mapping[str, int]) -> int:
        """Tokens of words that stand after a space, each so many times."""
        memo = self._memo
        new = [word for word in words if word not in memo]
        if self._cut is None:
            memo.update(zip(new, self._encoded([f" {word}" for word in new]), strict=True))
        else:
            self._memorise(new, self._cut)
        return sum([memo[word] * times for word, times in words.items()])

    def _memorise(self, new: list[str], cut: Callable[[str], list[str]]) -> None:
        """Counts of new words from those of their parts, which are fewer: letters, digits, marks."""
        known = self._parts
        if len(known) > MEMO_LIMIT:
            known.clear()
        parts = [cut(f" {word}") if _PLAIN.fullmatch(word) else [f" {word}"] for word in new]
        unknown = list({part for each in parts for part in each if part not in known})
        known.update(zip(unknown, self._encoded(unknown), strict=True))
        self._memo.update(zip(new, [sum([known[part] for part in each]) for each in parts], strict=True))

    def _encoded(self, texts: list[str]) -> Iterable[int]:
        return map(len, self.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False))


def _unsound(word: str) -> bool:
    """Whether what a plain split calls a word is none, since white space stands before the space behind it."""
    return not word or word[-1].isspace() or word[-1] == "\u180e"


def _common(longest: int, same: Callable[[int], bool]) -> int:
    """The greatest length up to ``longest`` for which ``same`` holds; it holds for every length below that."""
    low, high = 0, longest + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if same(middle) else (low, middle)
    return low


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


def parts_of_words(state: Mapping[str, Any]) -> Callable[[str], list[str]] | None:
    """Cuts plain ASCII words (a space in front) as a tokenizer that cuts before spaces does, if its kind is known.

    Each part is tokenised by itself; which it is depends on the text from its start, and alone it is one part again.
    """
    stages = _parts(state, "pre_tokenizer", "pretokenizers")
    kinds = [stage["type"] for stage in stages]
    digits = None
    if kinds == ["Digits", "ByteLevel"] and stages[1].get("use_regex", True):
        # Digits are taken out first, one by one or in runs; what is left is cut as if it stood alone.
        digits = re.compile("([0-9])" if stages[0]["individual_digits"] else "([0-9]+)")
        pattern = GPT2
    elif kinds == ["ByteLevel"]:
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
    ascii_only = ascii_only.replace(r"\p{L}", "[A-Za-z]").replace(r"\p{N}", "[0-9]")
    if pattern == GPT2 and _digits_stand_alone(state["model"]):
        # Fresh numbers and UUIDs then have parts that were met before.
        ascii_only = ascii_only.replace(" ?[0-9]+", " (?=[0-9])|[0-9]")
    cut = re.compile(ascii_only).findall
    if digits is None:
        return cut
    split = digits.split
    return lambda word: [part for piece in split(word) if piece for part in cut(piece)]


def _digits_stand_alone(model: Mapping[str, Any]) -> bool:
    """Whether every ASCII digit is a token by itself: then no merge reaches over one, and a text is cut there."""
    return model.get("type") == "BPE" and not any(len(token) > 1 and _DIGIT.search(token) for token in model["vocab"])


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
