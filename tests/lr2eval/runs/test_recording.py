from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from lr2eval.backends import Postponed
from lr2eval.benchmark import ResponseDetail, Truncation
from lr2eval.errors import BackendError, RunFailedError, StoreError
from lr2eval.record.store import RunStore
from lr2eval.runs.recording import RecordingLM


class FakeBackend:
    """Answers with the prompt backwards; fails at a chosen prompt; counts what it was asked."""

    limit = 100

    def __init__(self, fail_at: str = "") -> None:
        self.fail_at = fail_at
        self.asked: list[list[str]] = []
        self._last = 0

    def plan(self, request_type: str, requests: list[Instance]) -> list[list[int]]:
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].args[0]))
        return [order[i : i + 2] for i in range(0, len(order), 2)]

    def measure(self, request_type: str, requests: list[Instance]) -> list[int]:
        return [len(request.args[0]) for request in requests]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        prompts = [request.args[0] for request in requests]
        if self.fail_at in prompts:
            raise BackendError("boom")
        self.asked.append(prompts)
        self._last = len(requests)
        return [prompt[::-1] for prompt in prompts]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self.asked.append([request.args[0] for request in requests])
        self._last = len(requests)
        return [(-float(len(request.args[1])), False) for request in requests]

    def take_details(self) -> list[ResponseDetail]:
        return [ResponseDetail(prompt_tokens=5, new_tokens=1) for _ in range(self._last)]


def requests(*prompts: str, kind: str = "generate_until") -> list[Instance]:
    return [
        Instance(kind, {}, (prompt, {"until": []} if kind == "generate_until" else " A"), i, metadata=("t", i, 1))
        for i, prompt in enumerate(prompts)
    ]


def recording(folder: Path, backend: Any, truncation: Truncation = "error", **identity: Any) -> RecordingLM:
    folder.mkdir(exist_ok=True)
    lm = RecordingLM(backend, RunStore.create(folder), {"model": "m", **identity}, truncation=truncation)
    lm.begin("shard")
    return lm


PROMPTS = ("aa", "bbbb", "c", "ddd", "ee")


def test_answers_come_in_the_order_asked(tmp_path: Path) -> None:
    backend = FakeBackend()
    lm = recording(tmp_path, backend)
    assert lm.generate_until(requests(*PROMPTS)) == [p[::-1] for p in PROMPTS]
    assert backend.asked == [["bbbb", "ddd"], ["aa", "ee"], ["c"]]
    assert sorted(lm.details) == [0, 1, 2, 3, 4]


def test_a_back_end_that_cannot_render_a_chat(tmp_path: Path) -> None:
    class Templated(FakeBackend):
        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            raise NotImplementedError("no chats\nhere")

    with pytest.raises(
        BackendError, match=r"^shard: the back end cannot render a chat \(no chats\); omit --chat or use"
    ):
        recording(tmp_path, Templated()).apply_chat_template([])


def test_nothing_finished_is_asked_again(tmp_path: Path) -> None:
    with pytest.raises(BackendError):
        recording(tmp_path, FakeBackend(fail_at="c")).generate_until(requests(*PROMPTS))
    backend = FakeBackend()
    progress: list[float] = []
    lm = recording(tmp_path, backend)
    lm.on_batch = lambda samples, tokens, seconds: progress.append(samples)
    assert lm.generate_until(requests(*PROMPTS)) == [p[::-1] for p in PROMPTS]
    assert backend.asked == [["c"]]
    assert progress == [4, 1]
    again = FakeBackend()
    recording(tmp_path, again).generate_until(requests(*PROMPTS))
    assert again.asked == []


def test_the_plan_of_the_first_session_stays(tmp_path: Path) -> None:
    with pytest.raises(BackendError):
        recording(tmp_path, FakeBackend(fail_at="ee")).generate_until(requests(*PROMPTS))
    backend = FakeBackend()
    backend.plan = lambda kind, reqs: [[i] for i in range(len(reqs))]  # type: ignore[method-assign]
    recording(tmp_path, backend).generate_until(requests(*PROMPTS))
    assert backend.asked == [["aa", "ee"], ["c"]], "a batch of the stored plan must run whole, in its order"


@pytest.mark.parametrize("change", ["model", "prompt"])
def test_responses_of_another_question_are_refused(tmp_path: Path, change: str) -> None:
    recording(tmp_path, FakeBackend()).generate_until(requests(*PROMPTS))
    lm = recording(tmp_path, FakeBackend(), **({"model": "other"} if change == "model" else {}))
    prompts = ("aX", *PROMPTS[1:]) if change == "prompt" else PROMPTS
    with pytest.raises(StoreError, match="choose a new --out"):
        lm.generate_until(requests(*prompts))


def test_equal_prompts_are_separate_requests(tmp_path: Path) -> None:
    lm = recording(tmp_path, FakeBackend())
    assert lm.generate_until(requests("aa", "aa", "aa")) == ["aa", "aa", "aa"]


def test_over_long_is_an_error_before_any_forward(tmp_path: Path) -> None:
    backend = FakeBackend()
    with pytest.raises(RunFailedError, match=r"shard: 1 of 2 requests need more than the window of 100 tokens.*skip"):
        recording(tmp_path, backend).generate_until(requests("a" * 101, "b" * 100))
    assert backend.asked == []


def test_over_long_is_skipped_when_asked(tmp_path: Path) -> None:
    for _ in range(2):  # the second time from the store
        backend = FakeBackend()
        lm = recording(tmp_path, backend, "skip")
        assert lm.generate_until(requests("a" * 101, "bc")) == ["", "cb"]
        assert lm.details[0][0].finish == "skipped"
        assert lm.details[1][0].finish != "skipped"
    assert backend.asked == []


def test_the_window_of_a_shard_counts_where_it_is_narrower(tmp_path: Path) -> None:
    for length, answers in (
        (50, ["", "cb"]),
        (100, ["a" * 51, "cb"]),
        (500, ["a" * 51, "cb"]),
        (None, ["a" * 51, "cb"]),
    ):
        lm = recording(tmp_path / str(length), FakeBackend(), "skip")
        lm.begin("shard", length)
        assert lm.generate_until(requests("a" * 51, "bc")) == answers
    lm = recording(tmp_path / "wide", FakeBackend(), "skip")
    lm.begin("shard", 500)
    assert lm.generate_until(requests("a" * 101)) == [""]


def test_a_choice_document_is_skipped_whole(tmp_path: Path) -> None:
    asked = [
        Instance("loglikelihood", {}, ("a" * (101 if i == 2 else 5), " A"), i, metadata=("t", i // 4, 1))
        for i in range(8)
    ]
    lm = recording(tmp_path, FakeBackend(), "skip")
    lm.loglikelihood(asked)
    assert [detail.finish for detail in lm.details[0]] == ["skipped"] * 4
    assert all(detail.finish != "skipped" for detail in lm.details[1])


def test_all_skipped_is_no_crash(tmp_path: Path) -> None:
    assert recording(tmp_path, FakeBackend(), "skip").generate_until(requests("a" * 101)) == [""]


def test_log_likelihoods_come_back_as_numbers(tmp_path: Path) -> None:
    for _ in range(2):
        lm = recording(tmp_path, FakeBackend())
        assert lm.loglikelihood(requests("x", "y", kind="loglikelihood")) == [(-2.0, False), (-2.0, False)]


def test_a_foreign_model_is_committed_piece_by_piece(tmp_path: Path) -> None:
    class Foreign:
        def __init__(self) -> None:
            self.sizes: list[int] = []

        def generate_until(self, reqs: list[Instance], disable_tqdm: bool = False) -> list[str]:
            self.sizes.append(len(reqs))
            return ["x"] * len(reqs)

    foreign = Foreign()
    recording(tmp_path, foreign).generate_until(requests(*(str(i) for i in range(35))))
    assert foreign.sizes == [16, 16, 3]


def test_a_backend_that_loses_answers_is_caught(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.generate_until = lambda reqs, disable_tqdm=False: ["only one"]  # type: ignore[method-assign]
    with pytest.raises(RunFailedError, match="answered 1 of 2"):
        recording(tmp_path, backend).generate_until(requests("a", "b"))


class StreamingBackend(FakeBackend):
    """Ends requests one by one, the last one first; stops before a chosen prompt."""

    def __init__(self, stop: Exception | None = None, before: str = "") -> None:
        super().__init__()
        self.stop, self.before = stop, before

    def stream(self, request_type: str, requests: list[Instance]) -> Iterator[list[tuple[int, str, ResponseDetail]]]:
        for number, request in reversed(list(enumerate(requests))):
            if request.args[0] == self.before:
                if self.stop:
                    raise self.stop
                continue
            self.asked.append([request.args[0]])
            yield [(number, request.args[0][::-1], ResponseDetail(prompt_tokens=5))]


@pytest.mark.parametrize("stop", [BackendError("gone"), Postponed()])
def test_a_stream_is_kept_as_it_comes(tmp_path: Path, stop: Exception) -> None:
    with pytest.raises(type(stop)):
        recording(tmp_path, StreamingBackend(stop, "bbbb")).generate_until(requests(*PROMPTS))
    backend = StreamingBackend()
    assert recording(tmp_path, backend).generate_until(requests(*PROMPTS)) == [p[::-1] for p in PROMPTS]
    assert backend.asked == [["bbbb"], ["aa"]], "what had ended is not asked again"


def test_a_stream_that_loses_an_answer_is_caught(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match="answered 4 of 5"):
        recording(tmp_path, StreamingBackend(None, "c")).generate_until(requests(*PROMPTS))


def test_closing_closes_the_backend(tmp_path: Path) -> None:
    backend = FakeBackend()
    recording(tmp_path / "a", backend).close()
    closed: list[bool] = []
    backend.close = lambda: closed.append(True)  # type: ignore[attr-defined]
    recording(tmp_path / "b", backend).close()
    assert closed == [True]
