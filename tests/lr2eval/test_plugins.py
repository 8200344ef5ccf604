"""What other packages add through entry points: tasks, RoPE rules and back ends, good ones and broken ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lr2eval as public
from lr2eval import plugins
from lr2eval.errors import UsageError
from lr2eval.method.rope.rules import RULES, rope_rule, rule_failures
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.search.config import SearchConfig
from lr2eval.registry import benchmarks, failures
from lr2eval.runs import backend
from lr2eval.runs.backend import backend_failures, check_backend
from lr2eval.runs.config import RunConfig
from lr2eval.workflows.search import _rules

Run = Callable[..., Any]
Install = Callable[..., None]

RULE = '''
from lr2eval import OriginalRope, RopeScaling


def flat(rope: OriginalRope, target: int, *, share: float = 1.0) -> RopeScaling:
    """Every factor is a share of s.

    More about it.
    """
    return RopeScaling(
        long_factor=(share * target / rope.window,) * rope.pairs,
        short_factor=(1.0,) * rope.pairs,
        long_attention_factor=1.0,
        short_attention_factor=1.0,
        original_window=rope.window,
        target_window=target,
        theta=rope.theta,
        rotary_dim=rope.rotary_dim,
        provenance="flat",
    )
'''
ROPE = OriginalRope(10_000.0, 16, 512)
ROPE_COMMAND = ("rope", "--model", "demo", "--target-length", "8k")

BACKEND = """
from lm_eval.api.model import LM

from lr2eval import BackendRequest, UsageError

ASKED = []


class Parrot(LM):
    def __init__(self, word):
        super().__init__()
        self.word = word

    def generate_until(self, requests, disable_tqdm=False):
        return [self.word for _ in requests]

    def loglikelihood(self, requests, disable_tqdm=False):
        return [(-float(len(request.args[1])), False) for request in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        return [0.0 for _ in requests]


def parrot(request: BackendRequest) -> LM:
    ASKED.append(request)
    if "word" not in request.options:
        raise UsageError("the parrot needs a word: --set parrot_1.word=WORD")
    return Parrot(str(request.options["word"]))
"""
QUICK = ("--tasks", "ruler:niah_single_1,facts", "--limit", "2", "--lengths", "768", "--samples-per-task", "2",
         "--offline", "--device", "cpu", "--seed", "3")  # fmt: skip

GROUPS: dict[str, tuple[str, Callable[[], dict[str, str]], Callable[[], set[str]]]] = {
    "task": (plugins.TASKS, failures, lambda: set(benchmarks())),
    "RoPE rule": (plugins.ROPE_RULES, rule_failures, lambda: set(public.rope_rules())),
    "back end": (plugins.BACKENDS, backend_failures, set),
}
"""Kind, as messages call it: the group, what says which plug-ins fail, and the names of those that work."""


def test_a_rule_is_a_rule_like_any_other(install: Install, lr2eval: Run) -> None:
    install("strange_rule", RULE, "flat = strange_rule:flat", group=plugins.ROPE_RULES)
    rule = public.rope_rules()["flat"]
    assert rule.about == "Every factor is a share of s."
    assert dict(rule.settings) == {"share": False}
    assert list(public.rope_rules()) == [*RULES, "flat"]

    shown = lr2eval(*ROPE_COMMAND, "--rule", "flat", "--json")
    assert shown.code == 0, shown.err
    assert set(json.loads(shown.out)["factors"]) == {16.0}
    half = lr2eval(*ROPE_COMMAND, "--rule", "flat", "--set", "share=0.5", "--json")
    assert set(json.loads(half.out)["factors"]) == {8.0}
    assert (
        "flat.shade: unknown option; did you mean flat.share?"
        in lr2eval(*ROPE_COMMAND, "--rule", "flat", "--set", "shade=1").error
    )
    assert "did you mean flat?" in lr2eval(*ROPE_COMMAND, "--rule", "flatt").error

    every = json.loads(lr2eval(*ROPE_COMMAND, "--rule", "all", "--json").out)
    assert every["rules"]["flat"]["made_by"] == "flat"
    assert "yarn" in every["rules"]
    assert any(line.split()[:1] == ["flat"] for line in lr2eval(*ROPE_COMMAND, "--rule", "all").out.splitlines())


def test_a_search_compares_with_rules_of_other_packages(install: Install) -> None:
    before = _rules(ROPE, SearchConfig(model="any", target_length=2048))
    demanding = RULE.replace("share: float = 1.0", "share: float")
    install("strange_rule", RULE, "flat = strange_rule:flat", group=plugins.ROPE_RULES)
    install("strange_other", demanding, "demanding = strange_other:flat", group=plugins.ROPE_RULES)
    assert public.rope_rules().keys() == RULES.keys() | {"flat", "demanding"}
    compared = _rules(ROPE, SearchConfig(model="any", target_length=2048))
    assert compared.keys() == before.keys() | {"flat"}  # a rule that must be given a setting cannot take part
    assert compared["flat"].long_factor == (4.0,) * 8


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('no luck\\nat all')", "RuntimeError: no luck"),
        ("raise TypeError('no luck')", "TypeError: no luck"),
        ("raise OverflowError('no luck')", "OverflowError: no luck"),
        ("raise ValueError('too far for me')", "too far for me"),
        ("raise SystemExit", "SystemExit"),
        ("return None", "returned NoneType, not a RopeScaling"),
        ("return flat(rope, 2 * target)", "returned factors for another RoPE or another target length"),
        ("return flat(OriginalRope(500.0, 4, 512), target)", "returned factors for another RoPE"),
    ],
)
def test_a_rule_that_fails_is_left_out(install: Install, lr2eval: Run, body: str, reason: str) -> None:
    source = f"{RULE}\ndef bad(rope, target):\n    {body}\n"
    install("strange_rule", source, "flat = strange_rule:flat\nbad = strange_rule:bad", group=plugins.ROPE_RULES)
    alone = lr2eval(*ROPE_COMMAND, "--rule", "bad")
    assert alone.code == 2
    assert alone.error.startswith(f"--rule bad: {reason}")
    every = lr2eval(*ROPE_COMMAND, "--rule", "all", "--json")
    assert every.code == 0, every.err
    assert json.loads(every.out)["left_out"]["bad"].startswith(reason)
    assert {"flat", "yarn"} <= json.loads(every.out)["rules"].keys()
    compared = _rules(ROPE, SearchConfig(model="any", target_length=2048)).keys()
    assert "bad" not in compared
    assert {"flat", "yarn"} <= compared


@pytest.mark.parametrize(
    ("name", "meaning"),
    [("yarn", "a built-in rule"), ("all", "every rule"), ("seed", "a row of a search"), ("searched", "a row")],
)
def test_a_rule_cannot_take_a_name_that_means_something(
    install: Install, lr2eval: Run, name: str, meaning: str
) -> None:
    install("strange_rule", RULE, f"{name} = strange_rule:flat", group=plugins.ROPE_RULES)
    (line,) = rule_failures().values()
    assert f"RoPE rule plug-in {name!r} of strange-rule 1.2 cannot be used ({name} means {meaning}" in line
    assert public.rope_rules() == RULES
    assert line in lr2eval("tasks").out
    every = json.loads(lr2eval(*ROPE_COMMAND, "--rule", "all", "--json").out)
    assert every["rules"].get("yarn", {})["made_by"].startswith("yarn")


def test_a_back_end_answers_a_run(install: Install, lr2eval: Run, toy_checkpoint: Path, tmp_path: Path) -> None:
    install("strange_parrot", BACKEND, "parrot-1 = strange_parrot:parrot", group=plugins.BACKENDS)
    command = ("run", "--model", toy_checkpoint, "--backend", "parrot-1", *QUICK, "--out", tmp_path / "run")
    done = lr2eval(*command, "--set", "parrot_1.word=polly", "--set", "parrot_1.loud=true")
    assert done.code == 0, done.err
    (request,) = sys.modules["strange_parrot"].ASKED
    assert isinstance(request, public.BackendRequest)
    assert (request.folder, request.window, request.original_window) == (toy_checkpoint, 1024, None)
    assert (request.device, request.dtype, request.seed, request.batch_size) == ("cpu", "auto", 3, "auto")
    assert (request.truncation, request.window_policy) == ("error", "exact")
    assert (request.chat, request.trust_remote_code) == (False, False)
    assert request.tokenizer.encode_rendered("river") == request.tokenizer.tokenizer.encode("river") != []
    assert request.options == {"word": "polly", "loud": True}

    opened = public.open_run(tmp_path / "run")
    assert opened.manifest["config"]["backend"] == "parrot-1"
    samples = opened.samples
    assert set(samples[samples.benchmark == "ruler"].answer) == {"polly"}
    choices = samples[samples.benchmark == "facts"]
    assert len(choices) == 2
    assert set(choices.score) <= {0.0, 100.0}

    again = lr2eval(*command, "--set", "parrot_1.word=polly", "--set", "parrot_1.loud=true")
    assert again.code == 0, again.err
    assert len(sys.modules["strange_parrot"].ASKED) == 1, "a finished run needs no back end"
    other = lr2eval(*command, "--set", "parrot_1.word=jack")
    assert other.code == 2
    assert "options.parrot_1.word" in other.error


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("raise UsageError('the parrot needs a word')", 2, "the parrot needs a word"),
        ("raise RuntimeError('no seed\\nleft')", 5, "--backend bad could not start: RuntimeError: no seed"),
        ("raise SystemExit(3)", 5, "--backend bad could not start: SystemExit: 3"),
        ("return None", 5, "--backend bad returned NoneType, not an lm_eval.api.model.LM"),
    ],
)
def test_a_back_end_that_does_not_start(
    install: Install, lr2eval: Run, toy_checkpoint: Path, tmp_path: Path, body: str, code: int, said: str
) -> None:
    source = f"{BACKEND}\ndef bad(request):\n    {body}\n"
    install("strange_parrot", source, "bad = strange_parrot:bad", group=plugins.BACKENDS)
    done = lr2eval("run", "--model", toy_checkpoint, "--backend", "bad", *QUICK, "--out", tmp_path / "run")
    assert done.code == code, done.err
    assert done.error == said
    assert backend_failures() == {}, "it loads; what is wrong shows when it is called"


def versions(run: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((run / "manifest.json").read_text())["versions"]
    return found


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise RuntimeError('no luck\\nat all')", "failed (RuntimeError: no luck)"),
        ("raise OSError(28, 'No space left')", "failed (OSError: [Errno 28] No space left)"),
        ("raise SystemExit(3)", "failed (SystemExit: 3)"),
        ("return [None for _ in requests]", "returned something that is no answer to generate_until"),
        ("return None", "returned something that is no answer to generate_until"),
    ],
)
def test_a_back_end_that_fails_while_it_answers(
    install: Install, lr2eval: Run, toy_checkpoint: Path, tmp_path: Path, body: str, said: str
) -> None:
    source = BACKEND.replace("return [self.word for _ in requests]", body)
    install("strange_parrot", source, "parrot = strange_parrot:parrot", group=plugins.BACKENDS)
    done = lr2eval(
        "run", "--model", toy_checkpoint, "--backend", "parrot", *QUICK, "--set", "parrot.word=x", "--out",
        tmp_path / "run",
    )  # fmt: skip
    assert done.code == 5, done.err
    assert done.error.startswith("ruler/niah_single_1@768")
    assert said in done.error
    assert "failed" not in said or "--backend parrot of strange-parrot 1.2 failed" in done.error
    assert versions(tmp_path / "run")["strange-parrot"] == "1.2"
    assert public.open_run(tmp_path / "run").shards.task.tolist() == ["facts"], "what was finished is kept"


def test_a_stream_and_attributes_of_a_back_end_are_checked_too() -> None:
    class Streaming:
        limit = 7

        def stream(self) -> Iterator[int]:
            yield 1
            raise ValueError("dry")

        def known(self) -> None:
            raise UsageError("mine")

    made: Any = plugins.Checked(Streaming(), "it", public.BackendError)
    made.limit += 1
    assert made.limit == 8
    assert getattr(made, "measure", None) is None
    stream = made.stream()
    assert next(stream) == 1
    with pytest.raises(public.BackendError, match=r"it failed \(ValueError: dry\)"):
        next(stream)
    with pytest.raises(UsageError, match="mine"):
        made.known()


TASK = (Path(__file__).parents[2] / "examples" / "plugin" / "lr2eval_example" / "task.py").read_text(encoding="utf-8")
FOUND = 'lambda row, answers: {"found": float(row["value"] in answers[0])}'


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("return [self._shard(", "1 / 0; return [self._shard(", 2,
         "benchmark hidden of strange-task 1.2 failed (ZeroDivisionError: division by zero)"),
        ("    import datasets", "    raise SystemExit('bye')", 5, "@768 of strange-task 1.2 failed (SystemExit: bye)"),
        ("return SampleInfo(", "raise KeyError('gone'); return SampleInfo(", 5,
         "@768 of strange-task 1.2 failed (KeyError: 'gone')"),
        ("return SampleInfo(", "return None; return SampleInfo(", 5,
         "@768 of strange-task 1.2 failed (TypeError: describe returned NoneType, not SampleInfo)"),
        (FOUND, "lambda row, answers: 1 / 0", 5,
         "@768 of strange-task 1.2 failed (ZeroDivisionError: division by zero)"),
        (FOUND, "lambda row, answers: None", 5,
         "@768 of strange-task 1.2 failed (TypeError: process_results returned NoneType, not dict)"),
    ],
    ids=["prepare", "load", "describe", "describe nothing", "score", "score nothing"],
)  # fmt: skip
def test_a_task_that_fails_while_it_is_used(
    install: Install, lr2eval: Run, toy_checkpoint: Path, tmp_path: Path, old: str, new: str, code: int, said: str
) -> None:
    assert old in TASK
    install("strange_task", TASK.replace(old, new), "hidden = strange_task:HIDDEN")
    install("strange_parrot", BACKEND, "parrot = strange_parrot:parrot", group=plugins.BACKENDS)
    done = lr2eval(
        "run", "--model", toy_checkpoint, "--backend", "parrot", *QUICK, "--tasks", "hidden", "--set",
        "parrot.word=x", "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.code == code, done.err
    assert said in done.error
    if old == FOUND:  # the plan needs the task, so the others fail before anything is written
        assert versions(tmp_path / "run")["strange-task"] == "1.2"


def test_a_back_end_must_be_a_function(install: Install) -> None:
    install("strange_parrot", "bad = 7", "bad = strange_parrot:bad", group=plugins.BACKENDS)
    (line,) = backend_failures().values()
    assert "back end plug-in 'bad' of strange-parrot 1.2 cannot be used (strange_parrot:bad is not a function)" in line
    with pytest.raises(UsageError, match="--backend bad: back end plug-in 'bad'"):
        check_backend(RunConfig(model="any", tasks=("facts",), backend="bad"))


@pytest.mark.parametrize("name", ["hf", "vllm", "local-completions", "local-chat-completions"])
def test_a_back_end_cannot_take_a_built_in_name(install: Install, lr2eval: Run, name: str) -> None:
    install("strange_parrot", BACKEND, f"{name} = strange_parrot:parrot", group=plugins.BACKENDS)
    (line,) = backend_failures().values()
    assert f"'{name}' of strange-parrot 1.2 cannot be used ({name} is a built-in back end)" in line
    assert line in lr2eval("tasks").out


def test_a_server_is_asked_although_a_plugin_has_its_name(
    install: Install, monkeypatch: pytest.MonkeyPatch, toy_checkpoint: Path
) -> None:
    install("strange_parrot", BACKEND, "local-completions = strange_parrot:parrot", group=plugins.BACKENDS)
    monkeypatch.setattr(backend, "_foreign", lambda *_: "the server")
    checkpoint: Any = SimpleNamespace(window=512, folder=toy_checkpoint)
    config = RunConfig(model="any", tasks=("facts",), backend="local-completions")
    assert backend.load_backend(checkpoint, config) == "the server"


def test_the_built_in_back_end_runs_although_a_plugin_has_its_name(
    install: Install, lr2eval: Run, toy_checkpoint: Path, tmp_path: Path
) -> None:
    install("strange_parrot", BACKEND, "hf = strange_parrot:parrot", group=plugins.BACKENDS)
    done = lr2eval("run", "--model", toy_checkpoint, *QUICK, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "strange_parrot" not in sys.modules


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("from lr2eval._types import Shard", "ModuleNotFoundError: No module named 'lr2eval._types'"),
        ("from lr2eval.benchmark import NoSuchThing", "ImportError: cannot import name 'NoSuchThing' from 'lr2eval.be"),
        ("import lr2eval_by_somebody_else", "ModuleNotFoundError: No module named 'lr2eval_by_somebody_else'"),
        ("raise RuntimeError('first\\nsecond')", "RuntimeError: first)"),
        ("raise RuntimeError('x' * 5000)", f"RuntimeError: {'x' * 200})"),
        ("import sys; sys.exit()", "SystemExit)"),
        ("import sys; sys.exit('bye')", "SystemExit: bye)"),
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("good = 7", "AttributeError: module 'strange_bad' has no attribute 'bad'"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_harms_nobody(install: Install, kind: str, source: str, reason: str) -> None:
    group, failing, working = GROUPS[kind]
    before = working()
    install("strange_bad", source, "bad = strange_bad:bad", group=group)
    assert working() == before
    assert failing().keys() == {"bad"}
    (line,) = failing().values()
    assert line.startswith(f"{kind} plug-in 'bad' of strange-bad 1.2 cannot be used ({reason}")
    assert line.endswith("; update or uninstall it")
    assert "\n" not in line


def test_commands_say_why_a_plugin_cannot_be_used(install: Install, lr2eval: Run, toy_checkpoint: Path) -> None:
    groups = {"strange_rule": plugins.ROPE_RULES, "strange_task": plugins.TASKS, "strange_engine": plugins.BACKENDS}
    for module, group in groups.items():
        source = "from lr2eval._types import Shard" if module == "strange_task" else "raise RuntimeError('gone')"
        install(module, source, f"bad = {module}:bad", group=group)
    listed = lr2eval("tasks")
    assert listed.code == 0, listed.err
    run = ("run", "--model", toy_checkpoint, "--offline", "--lengths", "768", "--dry-run")
    for command, module in (
        ((*ROPE_COMMAND, "--rule", "bad"), "strange-rule"),
        ((*run, "--tasks", "bad"), "strange-task"),
        ((*run, "--tasks", "facts", "--backend", "bad"), "strange-engine"),
    ):
        refused = lr2eval(*command)
        assert refused.code == 2
        assert f"plug-in 'bad' of {module} 1.2 cannot be used" in refused.error
        assert refused.error.removeprefix("--rule bad: ").removeprefix("--backend bad: ") in listed.out.splitlines()
    assert lr2eval(*run, "--tasks", "facts,ruler:niah_single_1").code == 0


def test_one_name_in_two_packages(install: Install) -> None:
    install("strange_rule", RULE, "flat = strange_rule:flat", group=plugins.ROPE_RULES)
    install("strange_other", RULE, "flat = strange_other:flat", group=plugins.ROPE_RULES)
    with pytest.raises(UsageError, match=r"'flat' is provided by strange-other 1\.2 and strange-rule 1\.2; uninstall"):
        rope_rule("flat")
    assert "flat" not in public.rope_rules()


def test_an_interruption_while_a_plugin_is_imported_ends_the_command(install: Install) -> None:
    install("strange_bad", "raise KeyboardInterrupt", "bad = strange_bad:bad", group=plugins.ROPE_RULES)
    with pytest.raises(KeyboardInterrupt):
        public.rope_rules()
