"""A back end: ``lr2eval run --model DIR --tasks mmlu --backend plain --set plain.attention=eager``.

It runs stock transformers, one request after the other. Put your engine in place of ``_answer`` and ``_score``.
"""

from typing import Any

import torch
from lm_eval.api.model import LM
from transformers import AutoModelForCausalLM

from lr2eval import BackendError, BackendRequest, UsageError


def plain(request: BackendRequest) -> LM:
    """What the entry point names: from a request to an lm-eval model."""
    if unknown := sorted(request.options.keys() - {"attention"}):
        raise UsageError(f"plain.{unknown[0]}: unknown option; plain has attention")
    if request.truncation != "error":
        raise UsageError(f"--truncation {request.truncation}: the back end plain refuses long prompts; drop the flag")
    return Plain(request)


class Plain(LM):
    """A model of transformers."""

    def __init__(self, request: BackendRequest) -> None:
        super().__init__()
        self.window = request.window
        self.place = request.device or ("cuda" if torch.cuda.is_available() else "cpu")
        folder = str(request.folder)
        self.prompts = request.tokenizer
        self.tokenizer = request.tokenizer.tokenizer
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=request.dtype,
            attn_implementation=request.options.get("attention"),
            trust_remote_code=request.trust_remote_code,
        )
        self.model = model.to(self.place).eval()

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """For --chat: the messages as one text."""
        return self.prompts.apply_chat_template(chat_history, add_generation_prompt)

    def expect(self, *, chat: bool) -> None:
        """Whether the next prompts are chats, which get no other special tokens than their template's."""
        self.prompts = self.prompts.with_chat(chat)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Text after each prompt. ``args`` is (prompt, generation settings)."""
        return [self._answer(*request.args) for request in requests]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (prompt, continuation): its log-probability, and whether greedy decoding would say it."""
        return [self._score(*request.args) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """For each (text,): its log-probability. Tasks of perplexity ask for it."""
        raise BackendError("the back end plain scores no whole texts; use --backend hf")

    def _ids(self, prompt: str, room: int) -> Any:
        ids = torch.tensor([self.prompts.encode_rendered(prompt)], device=self.place)
        if ids.shape[1] + room > self.window:
            raise BackendError(f"{ids.shape[1]} prompt tokens and {room} new ones exceed the window of {self.window}")
        return ids

    @torch.inference_mode()
    def _answer(self, prompt: str, settings: dict[str, Any]) -> str:
        most = settings["max_gen_toks"]
        ids = self._ids(prompt, most)
        made = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False)
        answer = self.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        for stop in settings["until"]:
            answer = answer.split(stop)[0] if stop else answer
        return answer

    @torch.inference_mode()
    def _score(self, prompt: str, continuation: str) -> tuple[float, bool]:
        start = self._ids(prompt, 0).shape[1]
        ids = self._ids(prompt + continuation, 0)
        scores = self.model(ids).logits[0, start - 1 : -1].log_softmax(-1)
        said = ids[0, start:]
        picked = scores.gather(1, said[:, None]).sum()
        return picked.item(), bool((scores.argmax(-1) == said).all())
