from __future__ import annotations

import pytest
import torch

from lr2eval.method.rope import rules
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.search.journal import Trial, factors_key
from lr2eval.method.search.needles import Sample
from lr2eval.method.search.perplexity import ModelExecutor, mean_nll
from tests.tiny_models import ARCHITECTURES, ORIGINAL, VOCABULARY, tiny_model

PLAIN = {"rope_type": "default", "rope_theta": 1000.0}
ROPE = OriginalRope(1000.0, 16, ORIGINAL)
IDS = tuple(int(i) for i in torch.randint(2, VOCABULARY, (90,), generator=torch.Generator().manual_seed(0)))
SAMPLES = [Sample(IDS[: 60 + i], (58, 59)) for i in range(3)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_factors_are_swapped_and_nothing_is_left_of_the_last_ones(architecture: str) -> None:
    changes = {"original_max_position_embeddings": 256} if architecture == "phi3" else {}
    model = tiny_model(architecture, rope=PLAIN, **changes)
    weights = [p.data_ptr() for p in model.parameters()]
    scalings = [rules.pi(ROPE, 120), rules.yarn(ROPE, 120), rules.pi(ROPE, 120)]
    jobs = [Trial(scaling, sample) for scaling in scalings for sample in range(3)]
    results = list(ModelExecutor(model, SAMPLES).run(jobs))
    assert [(r.factors, r.sample) for r in results] == [(factors_key(job.scaling), job.sample) for job in jobs]
    assert [result.tokens for result in results] == [60, 61, 62] * 3
    assert [result.nll for result in results[:3]] == [result.nll for result in results[6:]]
    for job, result in zip(jobs, results, strict=True):
        fresh = tiny_model(architecture, rope=PLAIN, **changes)
        install_rope(fresh, job.scaling)
        assert result.nll == mean_nll(fresh, SAMPLES[job.sample])
    assert results[0].nll != results[3].nll
    assert weights == [p.data_ptr() for p in model.parameters()], "no weight was loaded anew"


def test_a_model_without_a_known_rotary_module_is_named() -> None:
    model = tiny_model("llama", rope=PLAIN)
    del model.model.rotary_emb
    with pytest.raises(ValueError, match="LlamaForCausalLM has no single rotary module"):
        list(ModelExecutor(model, SAMPLES).run([Trial(rules.pi(ROPE, 120), 0)]))
