"""Our tokenizer against lm-eval's own ``hf`` model: the same ids and texts."""

from __future__ import annotations

from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM

from lr2eval.backends.requests import PromptLM
from lr2eval.errors import BackendError, CheckpointError
from lr2eval.model.tokenizer import PromptTokenizer
from tests.tasks.conftest import TOKENIZERS

HISTORY = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which?"}]


class OurLM(PromptLM):
    generate_until = loglikelihood = loglikelihood_rolling = None


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


@pytest.fixture
def theirs(tokenizer: Any) -> Any:
    """lm-eval's model without its weights."""
    lm = object.__new__(HFLM)
    lm.tokenizer, lm.add_bos_token, lm.custom_prefix_token_id, lm.chat_template_args = tokenizer, None, None, {}
    return lm


def test_texts_and_pairs_have_lm_evals_ids(tokenizer: Any, theirs: Any) -> None:
    prompts = PromptTokenizer(tokenizer)
    ours = OurLM(prompts, limit=100)
    first = tokenizer.bos_token or tokenizer.eos_token
    assert prompts.prefix_token_id == theirs.prefix_token_id
    texts = ["", "grass is green", "  grass ", f"{first}grass", f"{first} is\n\ngreen", f"grass{first}"]
    for text in texts:
        assert ours.tok_encode(text) == theirs.tok_encode(text)
        assert prompts.encode(text) == theirs.tok_encode(text, add_special_tokens=False)
        assert ours.tok_decode(prompts.encode(text)) == theirs.tok_decode(prompts.encode(text))
    for context in filter(None, texts):
        for continuation in (" is", "is green", "\n"):
            pair = theirs._encode_pair(context, continuation)
            if all(pair):
                assert ours._pair(0, context, continuation) == pair
            else:
                with pytest.raises(BackendError, match=r"request 0: .* adds no token"):
                    ours._pair(0, context, continuation)


def test_chats_have_lm_evals_text(tokenizer: Any, theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not tokenizer.chat_template:
        monkeypatch.setattr(
            tokenizer, "chat_template", "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
        )
    prompts = PromptTokenizer(tokenizer, chat=True)
    begun = [*HISTORY, {"role": "assistant", "content": "The"}]
    for history, opens in ((HISTORY, True), (begun, False)):
        assert prompts.apply_chat_template(history, opens) == theirs.apply_chat_template(history, opens)
    assert prompts.render("Which?", "The") == theirs.apply_chat_template(begun[1:], False)
    strict = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + tokenizer.chat_template
    )
    monkeypatch.setattr(tokenizer, "chat_template", strict)
    assert prompts.apply_chat_template(HISTORY) == theirs.apply_chat_template(HISTORY) != ""
    assert "Be brief." not in prompts.apply_chat_template(HISTORY)
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('never') }}")
    with pytest.raises(CheckpointError, match=r"the chat template fails \(never\)"):
        prompts.apply_chat_template(HISTORY)
    assert prompts.chat_template(True) == tokenizer.chat_template
    assert prompts.chat_template(False) is None
