"""Where a tokenizer surely cuts a text, read from its own description (``tokenizer.json``): whitelists with reasons."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

SPACE = "\u2581"
"""What sentencepiece makes of a space."""
_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
KNOWN_PATTERNS = frozenset(
    {
        _GPT2,
        # Llama 3, Qwen 2
        rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}",
        rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_TAIL}",
    }
)
"""Regular expressions no match of which holds a space after something else, looking ahead at white space only."""
PLAIN = re.compile(r"[a-zA-Z0-9 \n.,:;?!()\"'-]*\Z")
"""Words in which :func:`pieces` may look for cuts."""
_LOCAL_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase"}
_DELETING_NORMALIZERS = {"BertNormalizer", "StripAccents"}
_DROPPING_PRE_TOKENIZERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_PROCESSORS = {"TemplateProcessing", "ByteLevel", "BertProcessing", "RobertaProcessing"}


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


def pieces(state: Mapping[str, Any]) -> re.Pattern[str] | None:
    """Finds the pieces of a :data:`PLAIN` word, for a tokenizer that :func:`cuts_before_spaces`; ``None``: not known.

    A match of the known expressions that holds letters ends with them, and one that holds digits has nothing else but
    a space in front. So there is a cut behind every run of letters and of digits: hazy|-apple, 12|ab|-3|.
    """
    stages = _parts(state, "pre_tokenizer", "pretokenizers")
    first = next((stage for stage in stages if stage["type"] != "Digits"), dict[str, Any]())
    # A token that is cut out before anything else must not lie across a cut.
    across = any(PLAIN.match(token["content"]) for token in state.get("added_tokens") or ())
    if first.get("type") not in ("Split", "ByteLevel") or not first.get("use_regex", True) or across:
        return None
    pattern = first["pattern"]["Regex"] if first["type"] == "Split" else _GPT2
    vocabulary = "\n".join(state["model"]["vocab"]) if state["model"].get("type") == "BPE" else "00"
    # Digits that no token joins to anything are tokens of their own.
    single = r"|\p{N}|" in pattern or not re.search("[0-9].|.[0-9]", vocabulary)
    digits = "[0-9]" if single else "[0-9]{1,3}" if r"\p{N}{1,3}" in pattern else "[0-9]+"
    return re.compile(rf"[^a-zA-Z0-9]*(?:[a-zA-Z]+|{digits})|[^a-zA-Z0-9]+")


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
