from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from lr2eval.benchmark import TaskContext
from lr2eval.errors import TaskError
from lr2eval.tasks.facts import FACTS, table

Context = Callable[..., TaskContext]


def test_a_thousand_facts_two_for_each_person() -> None:
    facts = table.facts()
    assert len(facts) == len({fact.stem for fact in facts}) == 1000
    assert Counter(fact.relation for fact in facts) == {"home town": 500, "favorite food": 500}
    assert all(fact.object in fact.objects and len(set(fact.objects)) == table.OBJECTS for fact in facts)
    assert facts[0].stem == "The home town of Brutir Lasus is", "the shipped models know this table"


def test_all_as_choices_of_one_relation(context: Context) -> None:
    (shard,) = FACTS.prepare(FACTS.select(None), context())
    assert (shard.id, shard.n, shard.metric) == ("facts/facts", 1000, "acc")
    task = shard.load()
    docs = list(task.eval_docs)
    known = {fact.stem: fact for fact in table.facts()}
    places = Counter()
    for doc in docs:
        fact = known[doc["stem"]]
        assert len(set(doc["choices"])) == 4
        assert set(doc["choices"]) <= set(fact.objects)
        assert shard.describe(doc).gold == (fact.object,)
        places[doc["answer"]] += 1
    assert min(places.values()) > 200, "the right one stands everywhere"
    right = [(-1.0 if n == docs[0]["answer"] else -2.0, False) for n in range(4)]
    assert task.process_results(docs[0], right)["acc"] == 1.0
    assert task.process_results(docs[0], right[::-1])["acc"] == 0.0


def test_the_choice_follows_the_stem_after_a_space(context: Context) -> None:
    (shard,) = FACTS.prepare(["facts"], context(limit=3))
    task = shard.load()
    doc = next(iter(task.eval_docs))
    assert task.doc_to_text(doc) + task.config.target_delimiter + doc["choices"][0] == (
        f"{doc['stem']} {doc['choices'][0]}"
    )


def test_first_ones_under_a_limit_and_no_other_task(context: Context) -> None:
    (few,), (all_,) = FACTS.prepare(["facts"], context(limit=7)), FACTS.prepare(["facts"], context())
    assert few.n == 7
    assert few.data_hash != all_.data_hash
    with pytest.raises(TaskError, match="facts"):
        FACTS.select("letters")
