"""ROUGE-L as the package ``rouge`` 1.0.1 computes it, on which LongBench's published scores rest.

Six to twelve times as fast on real answers.

That package's measure is its own: sentences end at full stops, a pair of sentences contributes the *distinct* words of
one longest common subsequence, and what is shared is counted over the union of all pairs. Among equally long
subsequences the one that its backtracking meets decides, so the same choice is made here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

_EPSILON = 1e-8


def rouge_l(prediction: str, reference: str) -> float:
    """F-measure (0..1) of the words (by white space) that ``prediction`` shares in order with ``reference``.

    0 where either is empty or nothing but full stops, for which the package raises and LongBench counts 0. The
    package also gives up (0) on pairs of sentences of about a thousand words together, Python's recursion limit; here
    they are scored.
    """
    hypotheses, references = _sentences(prediction), _sentences(reference)
    if not hypotheses or not references:
        return 0.0
    shared: set[str] = set()
    for sentence in references:
        for other in hypotheses:
            shared.update(_common(sentence, other))
    precision = len(shared) / len({word for words in hypotheses for word in words})
    recall = len(shared) / len({word for words in references for word in words})
    return 2.0 * ((precision * recall) / (precision + recall + _EPSILON))


def _sentences(text: str) -> list[list[str]]:
    # A sentence of white space alone holds one word, the empty one; the package counts it.
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _common(x: Sequence[str], y: Sequence[str]) -> list[str]:
    """Words of a longest common subsequence, last first; of several the one that leaves ``y`` first on the way back.

    The table of lengths is kept as one whole number per row (Hyyro 2004): bit ``j`` is 0 where the length grows from
    ``y[:j]`` to ``y[: j + 1]``.
    """
    places: dict[str, int] = defaultdict(int)
    for j, word in enumerate(y):
        places[word] |= 1 << j
    everything = (1 << len(y)) - 1
    rows = [everything]
    for word in x:
        row = rows[-1]
        matched = row & places.get(word, 0)
        rows.append(((row + matched) | (row - matched)) & everything)

    def length(i: int, j: int) -> int:
        return j - (rows[i] & ((1 << j) - 1)).bit_count()

    words = []
    i, j = len(x), len(y)
    while i and j:
        if x[i - 1] == y[j - 1]:
            words.append(x[i - 1])
            i, j = i - 1, j - 1
        elif length(i - 1, j) > length(i, j - 1):
            i -= 1
        else:
            j -= 1
    return words
