from __future__ import annotations

import pytest

from lr2eval.tasks.niah.benchmark import found


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        (" 4815162.", 1.0),
        ("The code is 4815162", 1.0),
        ("4815162,1234567", 1.0),
        ("(4815162)x4815162y", 1.0),
        ("94815162", 0.0),
        ("48151620", 0.0),
        ("481516", 0.0),
        ("1234567 94815162 4815162", 1.0),
        ("", 0.0),
        ("four million", 0.0),
    ],
)
def test_whole_numbers_only(answer: str, share: float) -> None:
    assert found(answer, ["4815162"]) == share


def test_share_of_several_in_any_order() -> None:
    assert found("3333333 and 1111111", ["1111111", "2222222", "3333333", "4444444"]) == 0.5
    assert found("1111111 1111111", ["1111111", "2222222"]) == 0.5


def test_digits_of_other_scripts_lengthen_a_number_too() -> None:
    assert found("4815162\u0663", ["4815162"]) == 0.0


def test_no_values() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        found("x", [])
