"""Chat templates: what a run needs of them, how they are made to serve, and which are refused in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from lr2eval.errors import CheckpointError
from lr2eval.model.tokenizer import PromptTokenizer, _with_day
from lr2eval.tasks.exact.counting import counting
from tests.tiny_models import tiny_tokenizer
from tests.tokenizer_files import (
    CHATML,
    NEEDS_SYSTEM,
    NO_ASSISTANT,
    NO_LAST_ASSISTANT,
    NO_SYSTEM,
    chatting,
    with_added,
    with_config,
    with_specials,
)

DAY = date(2031, 2, 3)


def prompts(template: Any, **options: Any) -> PromptTokenizer:
    return PromptTokenizer(chatting(template), chat=True, name="model", **options)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.content }", "the chat template fails (unexpected '}')"),
        ("{% if messages %}", "the chat template fails (Unexpected end of template."),
        ("{{ whose.name }}" + CHATML, "the chat template fails ('whose' is undefined)"),
        ("{{ now('%Y') }}" + CHATML, "the chat template fails ('now' is undefined)"),
        ("{{ messages[0]['parts']['text'] }}", "the chat template fails ('dict object' has no attribute 'parts')"),
        ("{{ messages | shout }}", "the chat template fails (No filter named 'shout'.)"),
        ("{{ tools | length }}" + CHATML, "the chat template fails (object of type 'NoneType' has no len())"),
        ("{% for d in documents %}{{ d }}{% endfor %}" + CHATML, "'NoneType' object is not iterable"),
        ("{{ 1 / 0 }}", "the chat template fails (division by zero)"),
        ("{{ raise_exception('first\nsecond') }}", "the chat template fails (first)"),
        ("{% include 'other' %}", "the chat template fails (no loader"),
        ("{{ ''.__class__ }}{{ ''.__class__.mro() }}", "the chat template fails (access to attribute"),
        (NEEDS_SYSTEM + CHATML, "(the first is no system message); add --set chat_system='You are a helpful"),
        ("{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}", "leaves out or changes the text of the"),
        (CHATML.replace("m.content", "m.content | upper"), "leaves out or changes the text of the user"),
        ("Hello.", "leaves out or changes the text of the user"),
        ({"tool_use": CHATML}, "the chat template fails (This model has multiple chat templates with no default"),
        (5, "the chat template fails (chat_template is 5, not a text)"),
        (None, "--chat needs a chat template, and this tokenizer has none; omit --chat"),
        ("", "--chat needs a chat template, and this tokenizer has none; omit --chat"),
    ],
)  # fmt: skip
def test_templates_that_cannot_serve_are_refused_in_one_line(template: Any, reason: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(reason)) as caught:
        prompts(template)
    assert str(caught.value).startswith("model: ")
    assert "\n" not in str(caught.value)
    PromptTokenizer(chatting(template))  # without --chat the template does not matter


@pytest.mark.parametrize(
    "refusal",
    [NO_LAST_ASSISTANT, NO_ASSISTANT, "{% set messages = messages | selectattr('role', 'eq', 'user') | list %}"],
)
@pytest.mark.parametrize("prefix", [" The answer is", "Answer:\n"])
def test_the_begun_answer_follows_where_the_template_takes_none(refusal: str, prefix: str) -> None:
    strict, kind = prompts(refusal + CHATML), prompts(CHATML)
    assert (strict.appends, kind.appends) == (True, False)
    assert (
        strict.render("Which?", prefix)
        == kind.render("Which?", prefix)
        == f"<|user|>Which?<|end|><|assistant|>{prefix}"
    )
    assert strict.render("Which?") == kind.render("Which?")
    assert strict.chat_facts["answer_prefix"] == "appended"
    assert kind.chat_facts == {}


def test_what_a_template_adds_before_an_answer_stays() -> None:
    thinks = CHATML.replace(
        "|>{{ m.content }}", "|>{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}"
    )
    assert prompts(thinks).render("Q", "A:") == "<|user|>Q<|end|><|assistant|><think></think>A:"
    trims = prompts(CHATML.replace("m.content", "m.content | trim"))
    assert (trims.render("Q", " A:"), trims.appends) == ("<|user|>Q<|end|><|assistant|>A:", False)


def test_a_system_message_is_given_before_that_of_the_task() -> None:
    chats = prompts(NEEDS_SYSTEM + CHATML, system="Be kind.")
    assert chats.render("Q", "A") == "<|system|>Be kind.<|end|><|user|>Q<|end|><|assistant|>A"
    assert chats.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q"}]
    ) == ("<|system|>Be kind.\n\nBe brief.<|end|><|user|>Q<|end|><|assistant|>")
    plain = prompts(CHATML)
    assert prompts(CHATML, system="Be kind.").fingerprint() != plain.fingerprint()
    with pytest.raises(CheckpointError, match=r"the chat template fails \(no system here\); omit chat_system"):
        prompts(NO_SYSTEM + CHATML, system="Be kind.")


def test_examples_need_turns() -> None:
    prompts(NO_LAST_ASSISTANT + CHATML).check_examples()
    with pytest.raises(CheckpointError, match=r"the chat template fails \(an assistant\)"):
        prompts(NO_ASSISTANT + CHATML).check_examples()
    forgets = "{% set messages = messages[-1:] %}" + CHATML
    with pytest.raises(CheckpointError, match="leaves out or changes the text of the user"):
        prompts(forgets).check_examples()


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ strftime_now('%d %b %Y') }}", "03 Feb 2031"),
        ('{{ strftime_now(format="%Y-%m-%d") }}', "2031-02-03"),
        ("{{ strftime_now('%A, %-d. %B %y %H:%M') }}", "Monday, 3. February 31 00:00"),
        ("{% if strftime_now is defined %}{% set d = strftime_now('%d %B') %}{% endif %}{{ d }}", "03 February"),
        ("{% macro head() %}{{ strftime_now('%Y') }}{% endmacro %}{{ head() }}", "2031"),
        ("{% for m in messages %}{% if loop.first %}{{ strftime_now('%j') }}{% endif %}{% endfor %}", "034"),
        ("{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ date_string }}",
         "03 Feb 2031"),
    ],
)  # fmt: skip
def test_the_date_is_the_one_that_was_given(template: str, text: str) -> None:
    chats = prompts(template + CHATML, day=DAY)
    assert chats.dated
    assert chats.render("Q") == f"{text}<|user|>Q<|end|><|assistant|>"
    assert chats.chat_facts["date"] == "2031-02-03"
    usual = prompts(template + CHATML)
    assert usual.fingerprint() == prompts(template + CHATML).fingerprint() != chats.fingerprint()
    assert "2024" in usual.chat_facts["date"]
    assert tiny_tokenizer().apply_chat_template(  # nobody else's template has changed
        [{"role": "user", "content": "Q"}], chat_template="{{ strftime_now('%Y') }}", tokenize=False
    ) == str(date.today().year)


def test_templates_without_a_date_do_not_depend_on_it() -> None:
    assert not prompts(CHATML, day=DAY).dated
    assert prompts(CHATML, day=DAY).fingerprint() == prompts(CHATML).fingerprint()
    assert prompts(CHATML, day=DAY).chat_facts == {}
    assert PromptTokenizer(tiny_tokenizer()).chat_facts == {}


@pytest.mark.parametrize(
    "start", ["", "\n", "\n\n", "  ", "\n  ", "{#- note -#}\n", "  {% if true %}\n", "{%- if true -%}\n "]
)
def test_the_date_adds_nothing_else(start: str) -> None:
    """Blanks and newlines at the beginning of a template, some of which Jinja removes, stay as they are."""
    template = start + CHATML + "{% endif %}" * ("if" in start) + "{# strftime_now #}"
    assert template != _with_day(template, DAY)
    stock = tiny_tokenizer().apply_chat_template(
        [{"role": "user", "content": "Q"}], chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert prompts(template, day=DAY).render("Q") == stock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("bos", ["", "{{ bos_token }}", "<s>"])
@pytest.mark.parametrize(
    "specials", [with_specials(), with_specials(before=["<s>"]), with_specials(before=["<s>", "<eos>"])]
)
def test_chats_have_the_ids_of_transformers(folder: Path, bos: str, specials: Callable[[Path], None]) -> None:
    with_added("<s>", bos_token="<s>", chat_template=bos + CHATML)(folder)
    specials(folder)
    stock = AutoTokenizer.from_pretrained(folder)
    chats = PromptTokenizer.load(folder, chat=True)
    question = [{"role": "user", "content": "river stone"}]
    begun = [*question, {"role": "assistant", "content": "lamp"}]
    expected = stock.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    assert chats.encode_rendered(chats.render("river stone")) == expected
    assert expected.count(312) == (1 if bos else 0)
    first = stock.encode("river")[:1] == [312]
    assert chats.chat_facts == ({"special_tokens": "of the template alone"} if first and not bos else {})
    expected = stock.apply_chat_template(begun, continue_final_message=True, return_dict=False)
    assert chats.encode_rendered(chats.render("river stone", "lamp")) == expected
    assert (
        chats.count_prompt("river stone", "lamp")
        == counting(chats).count_prompt("river stone", "lamp")
        == len(expected)
    )
    plain = chats.with_chat(False)
    assert plain.encode_rendered("river") == stock.encode("river")
    assert plain.fingerprint() == PromptTokenizer.load(folder).fingerprint()
    assert counting(chats).with_chat(False).count_prompt("river") == len(stock.encode("river"))


def test_named_templates_and_template_files(folder: Path) -> None:
    with_config(chat_template=[{"name": "default", "template": CHATML}, {"name": "tool_use", "template": "x"}])(folder)
    assert PromptTokenizer.load(folder, chat=True).render("Q") == "<|user|>Q<|end|><|assistant|>"
    (folder / "chat_template.jinja").write_text("[{{ messages[0].content }}]")
    chats = PromptTokenizer.load(folder, chat=True)
    assert chats.render("Q", "A") == "[Q]A"
    assert chats.chat_template(True) == "[{{ messages[0].content }}]"
