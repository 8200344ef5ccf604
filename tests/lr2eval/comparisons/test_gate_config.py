from __future__ import annotations

from pathlib import Path

import pytest

from lr2eval.comparisons.gate_config import GateConfig
from lr2eval.errors import UsageError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    return path


def test_a_whole_file(tmp_path: Path) -> None:
    config = GateConfig.load(
        {},
        write(
            tmp_path,
            """
            confidence = 0.9
            min_retention = 0.98
            tasks = ["mmlu", "ruler"]
            baseline = "runs/baseline.json"
            baseline_digest = "abcdef0123"
            [checks."ruler:vt"]
            margin = 3
            [weights.ruler]
            vt = 2
            """,
        ),
    )
    assert config.tasks == ("mmlu", "ruler")
    assert config.baseline == tmp_path / "runs/baseline.json"
    assert config.limits("mmlu").min_retention == 0.98
    assert (config.limits("ruler:vt").margin, config.limits("ruler:vt").min_retention) == (3, None)
    assert config.weights == {"ruler": {"vt": 2}}


def test_the_default_limit_is_a_retention() -> None:
    limits = GateConfig.load({}, None).limits("mmlu")
    assert (limits.margin, limits.min_retention) == (None, 0.985)


def test_a_flag_replaces_the_limits_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "min_retention = 0.9\ntasks = ['mmlu']")
    config = GateConfig.load({"margin": 2.0, "tasks": None}, file)
    assert (config.margin, config.min_retention, config.tasks) == (2.0, None, ("mmlu",))
    assert GateConfig.load({"tasks": "ruler, mmlu"}, file).tasks == ("ruler", "mmlu")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("min_retention = 98.5", "--min-retention 98.5"),
        ("margin = -1", "--margin -1"),
        ("confidence = 0.3", "--confidence 0.3"),
        ("marign = 1", "marign: unknown option; did you mean margin?"),
        ("[checks.mmlu]\nmargins = 1", "checks.mmlu.margins: unknown option; did you mean checks.mmlu.margin?"),
        ("[weights.ruler]\nvt = 0", "every weight must be a positive number"),
        ("[weights.ruler]\nvt = inf", "weights.ruler.vt: must be a finite number"),
        ("baseline_digest = 'abc'", "baseline_digest"),
        ("= 1", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        GateConfig.load({}, write(tmp_path, text))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        GateConfig.load({}, tmp_path / "gate.toml")
