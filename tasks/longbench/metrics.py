"""LongBench's metrics, value for value those behind its published scores (THUDM/LongBench: metrics.py, eval.py).

All give 0..1 for one answer and one reference; :func:`score` takes the best reference. A test reproduces 84 published
scores from 19,003 predictions.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from lr2eval.errors import MissingPackageError, UsageError
from lr2eval.tasks.longbench.rouge_l import rouge_l
from lr2eval.tasks.longbench.suite import DATA_SETS

_ASCII = str.maketrans("", "", string.punctuation)
# Full-width forms, quotes, dashes, brackets: what upstream drops from Chinese text beside ASCII punctuation.
_CHINESE = str.maketrans(
    "",
    "",
    string.punctuation
    + "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠"
    + "｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿"
    + "–—‘’‛“”„‟…‧﹏.",
)
_WITHOUT_JIEBA = "Chinese answers are scored by words that jieba cuts; pip install 'lr2eval[longbench]'"
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def score(dataset: str, prediction: str, answers: Sequence[str], all_classes: Sequence[str] | None) -> float:
    """Score (0..1) of an answer in ``dataset``: the best over ``answers``, of the first line where that rule holds.

    ``all_classes`` are the labels of a classification data set, ``None`` elsewhere.
    """
    rules = DATA_SETS[dataset]
    if rules.first_line:
        prediction = prediction.lstrip("\n").split("\n")[0]
    if rules.metric == "classification":
        return max((classification(prediction, answer, all_classes or ()) for answer in answers), default=0.0)
    return max((METRICS[rules.metric](prediction, answer) for answer in answers), default=0.0)


def check_installed(datasets: Iterable[str]) -> None:
    """Raise :class:`MissingPackageError` if one of ``datasets`` needs jieba and it is not installed."""
    chinese = [name for name in datasets if DATA_SETS[name].metric in ("qa_f1_zh", "rouge_zh")]
    if chinese and importlib.util.find_spec("jieba") is None:
        raise MissingPackageError(f"longbench:{chinese[0]}: {_WITHOUT_JIEBA}")


def qa_f1(prediction: str, answer: str) -> float:
    """Word overlap without case, punctuation and articles."""
    return _f1(_words(prediction), _words(answer))


def qa_f1_zh(prediction: str, answer: str) -> float:
    """Word overlap of Chinese text, cut into words by jieba."""
    return _f1(_chinese_words(prediction), _chinese_words(answer))


def rouge_zh(prediction: str, answer: str) -> float:
    """ROUGE-L over jieba's words."""
    return rouge_l(" ".join(_cut(prediction)), " ".join(_cut(answer)))


def classification(prediction: str, answer: str, all_classes: Sequence[str]) -> float:
    """1/k if ``answer`` is among the k classes that ``prediction`` names, else 0.

    A class whose name is part of the answer's does not count against it. Upstream removes such classes from the list
    while walking over it, so the class after a removed one is not looked at; the scores depend on that.
    """
    named = [each for each in all_classes if each in prediction]
    place = 0
    while place < len(named):
        if named[place] in answer and named[place] != answer:
            named.remove(named[place])
        place += 1
    return 1.0 / len(named) if answer in named else 0.0


def count(prediction: str, answer: str) -> float:
    """Share of the numbers in ``prediction`` that are ``answer``."""
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(str(answer)) / len(numbers) if numbers else 0.0


def retrieval(prediction: str, answer: str) -> float:
    """Share of the numbers in ``prediction`` that are the paragraph's of ``answer`` ("Paragraph 7")."""
    return count(prediction, _number_after("Paragraph ", answer))


def retrieval_zh(prediction: str, answer: str) -> float:
    """The same for answers in Chinese."""
    return count(prediction, _number_after("段落", answer))


def code_similarity(prediction: str, answer: str) -> float:
    """Similarity of ``answer`` and the first line of ``prediction`` that is no comment and no fence, in hundredths.

    The ratio is that of ``difflib``, on which the published scores rest (fuzzywuzzy without its C extension).
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next((each for each in lines if not any(mark in each for mark in ("`", "#", "//"))), "")
    if line == answer:
        return 1.0
    if not line or not answer:
        return 0.0
    return round(100 * difflib.SequenceMatcher(None, line, answer).ratio()) / 100


METRICS: dict[str, Callable[..., float]] = {
    "qa_f1": qa_f1,
    "qa_f1_zh": qa_f1_zh,
    "rouge": rouge_l,
    "rouge_zh": rouge_zh,
    "classification": classification,
    "count": count,
    "retrieval": retrieval,
    "retrieval_zh": retrieval_zh,
    "code_similarity": code_similarity,
}


def _f1(prediction: Sequence[str], answer: Sequence[str]) -> float:
    same = sum((Counter(prediction) & Counter(answer)).values())
    if not same:
        return 0.0
    precision, recall = same / len(prediction), same / len(answer)
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_ASCII)).split()


def _chinese_words(text: str) -> list[str]:
    plain = ("".join(word.lower().translate(_CHINESE).split()) for word in _cut(text))
    return [word for word in plain if word]


def _number_after(words: str, answer: str) -> str:
    found = re.search(rf"{words}(\d+)", answer)
    if found is None:
        raise UsageError(f"the answer {answer[:40]!r} has no {words.strip()!r} with a number; correct the data")
    return found[1]


def _cut(text: str) -> list[str]:
    return list(_cutter().cut(text))


@cache
def _cutter() -> Any:
    """jieba's tokenizer with its dictionary. Raises :class:`MissingPackageError` if it is not installed.

    Left to itself jieba reads a cache of marshalled objects from the shared temporary folder, where anybody can put
    one; its dictionary takes a second to read without.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is old: escape sequences, pkg_resources
            import jieba
    except ImportError as error:
        raise MissingPackageError(_WITHOUT_JIEBA) from error
    cutter = jieba.Tokenizer()
    cutter.FREQ, cutter.total = cutter.gen_pfdict(cutter.get_dict_file())
    cutter.initialized = True
    return cutter
