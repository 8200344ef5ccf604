from __future__ import annotations

import torch

from lr2eval.backends.generation import Decoding, _RowEnds
from tests.tiny_models import tiny_tokenizer


def _ids(*texts: str) -> torch.Tensor:
    tokenizer = tiny_tokenizer()
    return torch.tensor([[token for c in text for token in tokenizer.encode(c)] for text in texts])


def test_each_row_ends_by_itself() -> None:
    ends = _RowEnds(tiny_tokenizer(), ["xy"], starts=[2, 2, 2], columns=[6, 4, 9])
    assert ends(_ids("xyaa", "aaaa", "aaax"), None).tolist() == [False, True, False]
    assert ends(_ids("xyaaa", "aaaxy", "aaaxy"), None).tolist() == [False, True, True]
    assert ends(_ids("xyaaab", "aaaxyb", "aaaxyb"), None).tolist() == [True, True, True]
    # The first row's stop string stands in its prompt, the second row's beyond its end.
    assert ends.stopped == {2: 5}


def test_beams_trade_places_so_nothing_is_remembered_of_them() -> None:
    ends = _RowEnds(tiny_tokenizer(), ["xy"], starts=[1, 1], columns=[9, 4])
    assert ends(_ids("axy", "aaa", "aaa", "aax"), None).tolist() == [True, False, False, False]
    assert ends(_ids("aaaa", "axyx", "aaaa", "aaaa"), None).tolist() == [False, True, True, True]
    assert ends.stopped == {}


def test_settings_are_greedy_unless_sampling_is_asked_for() -> None:
    parsed = Decoding.parse({"until": ["a", ""], "max_gen_toks": 5, "temperature": 0.0}, "<eos>")
    assert (parsed.stops, parsed.new_tokens) == (("a", "<eos>"), 5)
    assert dict(parsed.extra) == {"do_sample": False}
    assert parsed.cut("bcad<eos>") == "bc"
    sampled = Decoding.parse({"temperature": 0.7, "top_p": 0.9}, None)
    assert (sampled.stops, sampled.new_tokens) == ((), 256)
    assert dict(sampled.extra) == {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0}


def test_parsing_leaves_the_task_alone() -> None:
    raw = {"until": ["a"]}
    Decoding.parse(raw, "<eos>")
    assert raw == {"until": ["a"]}
