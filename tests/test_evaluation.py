"""Evaluation: items from models, metrics from items, and the same numbers by other ways."""

import json
from math import exp, isnan, log, nan

import numpy as np
import pytest
import torch

from minirlhf import evaluation
from minirlhf.data import render
from minirlhf.evaluation import (
    Metric,
    metric_table,
    ratio,
    reference_nll,
    reference_optimum,
    regret_metrics,
    response_statistics,
    sample_items,
    scores_of,
)
from minirlhf.generation import Generation
from minirlhf.metrics import bits_per_byte, distinct_n, perplexity, precision_recall_f1
from minirlhf.model import GPT, GPTConfig
from minirlhf.oracle import TokenMDP, kl, objective, optimum, response_logprobs
from minirlhf.overlap import corpus_bleu, corpus_chrf
from minirlhf.tasks import TASKS

RECORDS = [
    {"prompt": "a", "response": "wow!", "reference": "wow, that was a very good thing"},
    {"prompt": "longer", "response": "the cat"},
    {"prompt": "bc", "response": "é好"},
    {"prompt": "d", "response": "no"},
]
MAX_NEW, SAMPLES = 8, 3


def reward(prompt: str, response: str, record: dict) -> float:
    """Some number that differs between responses."""
    return len(response) + (prompt == "a") / 4


def sampled(model, reference, tokenizer, records=RECORDS, **changes) -> list[dict]:
    settings = {"reward_of": lambda record: reward, "max_new": MAX_NEW, "samples": SAMPLES, "seed": 0}
    return sample_items(model, reference, tokenizer, records, **{**settings, **changes})


def uniform(vocab_size: int, **shape) -> GPT:
    """A model to which every token is as likely as any other."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size, **{"context": 32, "layers": 1, "heads": 1, "width": 8, **shape})).eval()
    torch.nn.init.zeros_(model.wte.weight)
    return model


def whole(metrics: list[Metric], name: str) -> dict[str, float]:
    """model -> the metric of all prompts together."""
    (metric,) = [m for m in metrics if m.name == name]
    return {m: float(metric.combine(s.sum(0, keepdims=True))[0]) for m, s in metric.statistics.items()}


def by_hand(items: list[dict], value, greedy: bool = False) -> float:
    """The mean over the sampled (or greedy) responses."""
    values = [value(x) for x in items if (x["sample"] < 0) == greedy]
    return sum(values) / len(values)


@pytest.fixture
def made(make_policy, tokenizer) -> tuple:
    """(models, items, nll) of two models, the second the reference."""
    models = {"rl": make_policy(0), "sft": make_policy(1)}
    items = {name: sampled(model, models["sft"], tokenizer) for name, model in models.items()}
    return models, items, {name: reference_nll(model, tokenizer, RECORDS) for name, model in models.items()}


# Items


def test_the_kl_of_a_model_with_itself_is_exactly_0(made):
    """And that with another is not; k1 and k3, which look at the sampled tokens alone, are 0 too."""
    _, items, _ = made
    assert {x[k] for x in items["sft"] for k in ("kl", "k1", "k3")} == {0.0}
    assert all(x["kl"] > 0 and x["k3"] > 0 for x in items["rl"])


@pytest.mark.parametrize("garbage", [0, 1])
def test_expected_statistics_by_enumeration(make_gpt, every_response, garbage):
    """Over all responses kl, k1 and k3 average to the KL of the two laws, entropy to the entropy."""
    model, reference = make_gpt(0, vocab_size=3).double(), make_gpt(1, vocab_size=3).double()
    g = every_response([2, 1], V=3, R=3)
    g.ids[~g.mask] = garbage
    got = response_statistics(model, reference, g)
    law = []
    for net in (model, reference):
        rows = [[2, 1, *ids[mask].tolist()] for ids, mask in zip(g.ids, g.mask)]
        with torch.no_grad():
            passes = [net.logits(net(torch.tensor([row])))[0].log_softmax(-1) for row in rows]
        law.append([float(sum(p[t - 1, row[t]] for t in range(2, len(row)))) for p, row in zip(passes, rows)])
    p = [exp(x) for x in law[0]]
    kl = sum(w * (a - b) for w, a, b in zip(p, *law))
    assert sum(p) == pytest.approx(1)
    for name in ("kl", "k1", "k3"):
        assert sum(w * x for w, x in zip(p, got[name])) == pytest.approx(kl, abs=1e-6)
    H = -sum(w * log(w) for w in p)
    assert sum(w * x for w, x in zip(p, got["entropy"])) == pytest.approx(H, abs=1e-6)
    assert got["k1"] == pytest.approx([a - b for a, b in zip(*law)], abs=1e-6)


def test_padding_has_no_influence_on_the_statistics(make_gpt, every_response):
    models = make_gpt(0, vocab_size=3), make_gpt(1, vocab_size=3)
    g = every_response([2, 1], V=3, R=3)
    wide = Generation(*(torch.nn.functional.pad(x, pad, value=v) for x, pad, v in (
        (g.prompt_ids, (3, 0), 1), (g.prompt_mask, (3, 0), False), (torch.where(g.mask, g.ids, 2), (0, 2), 1),
        (g.mask, (0, 2), False), (g.logprobs, (0, 2), nan))), g.ended)
    clean, got = response_statistics(*models, g), response_statistics(*models, wide)
    for name in clean:
        assert got[name] == pytest.approx(clean[name], abs=1e-5)


def test_there_is_a_greedy_item_and_as_many_samples_as_asked_for_each_prompt_in_order(made):
    _, items, _ = made
    expected = [(i, k) for i in range(len(RECORDS)) for k in range(-1, SAMPLES)]
    for rows in items.values():
        assert [(x["index"], x["sample"]) for x in rows] == expected
        assert [x["prompt"] for x in rows] == [RECORDS[i]["prompt"] for i, _ in expected]
        assert [x["reference"] for x in rows if x["sample"] == 0] == [
            "wow, that was a very good thing", "the cat", "é好", "no"
        ]


def test_items_say_what_was_sampled(made, tokenizer):
    """Both kinds of end occur; tokens count the EOS; the text is that of the ids."""
    _, items, _ = made
    rows = items["rl"] + items["sft"]
    assert {x["stop"] for x in rows} == {"eos", "length"}
    for x in rows:
        assert x["response"] == tokenizer.decode(x["ids"]) and tokenizer.eos_id not in x["ids"]
        assert x["tokens"] == len(x["ids"]) + (x["stop"] == "eos") <= MAX_NEW
        assert x["stop"] == "eos" or x["tokens"] == MAX_NEW


def test_the_greedy_item_is_the_most_probable_token_at_each_step(made, tokenizer):
    models, items, _ = made
    for x in items["rl"]:
        if x["sample"] < 0:
            ids = render({"messages": [{"role": "user", "content": x["prompt"]}]}, tokenizer).ids
            ids.append(tokenizer.special_ids["<|assistant|>"])
            for token in x["ids"]:
                with torch.no_grad():
                    logits = models["rl"].logits(models["rl"](torch.tensor([ids])))[0, -1]  # (V,)
                assert int(logits.argmax()) == token
                ids.append(token)


def test_every_model_is_given_the_same_random_numbers(tokenizer, monkeypatch):
    """Two models that say everything with equal probability say the same, though one has no chat format."""
    monkeypatch.setattr(evaluation, "ROWS", 5)
    a = uniform(tokenizer.vocab_size)
    b = uniform(tokenizer.vocab_size, width=4, layers=2, context=20)
    first, second = sampled(a, a, tokenizer), sampled(b, b, tokenizer, chat=False)
    assert [x["ids"] for x in first] == [x["ids"] for x in second]
    random = [tuple(x["ids"]) for x in first if x["sample"] >= 0]
    assert len(set(random)) == len(random)


def test_a_sample_depends_on_neither_its_neighbours_nor_the_number_of_samples(made, tokenizer):
    models, items, _ = made
    few = sampled(models["rl"], models["sft"], tokenizer, RECORDS[:2], samples=1)
    all_of_them = {(x["index"], x["sample"]): x["ids"] for x in items["rl"]}
    assert [x["ids"] for x in few] == [all_of_them[x["index"], x["sample"]] for x in few]


def test_another_seed_samples_other_responses(made, tokenizer):
    models, items, _ = made
    others = sampled(models["rl"], models["sft"], tokenizer, seed=1)
    pairs = list(zip(items["rl"], others))
    assert all(x["ids"] == y["ids"] for x, y in pairs if x["sample"] < 0)
    assert sum(x["ids"] != y["ids"] for x, y in pairs if x["sample"] >= 0) > len(RECORDS)


def test_a_response_that_did_not_end_scores_missing_eos(make_policy, tokenizer):
    model, asked = make_policy(0), []
    noted = lambda p, r, record: asked.append(r) or reward(p, r, record)
    items = sampled(model, model, tokenizer, reward_of=lambda record: noted, missing_eos=-9.0)
    for x in items:
        own = reward(x["prompt"], x["response"], {})
        assert x["scores"] == {"reward": own if x["stop"] == "eos" else -9.0}
    assert len(asked) == sum(x["stop"] == "eos" for x in items) < len(items)


def test_a_tasks_own_quantities_are_0_where_the_response_did_not_end_but_unparsable_is_kept():
    """Half a review may well parse."""
    (record,) = TASKS["reviews"].records("test", 1, 0)
    of_task = lambda record: TASKS["reviews"].reward
    ended, cut = (scores_of(record, record["response"], ended, of_task, -1.0) for ended in (True, False))
    assert ended["grammatical"] == 1 and 0 <= ended["reward"] <= 1
    assert cut == {"reward": -1.0, "grammatical": 0.0}
    (question,) = TASKS["sentiment"].records("test", 1, 0)
    for finished in (True, False):
        assert scores_of(question, "what", finished, None, 0.0)["unparsable"] == 1


def test_items_survive_json_and_can_be_scored_again_without_the_model(made):
    """The same means from what stands in items.jsonl alone."""
    _, items, nll = made
    read = {name: [json.loads(json.dumps(x)) for x in rows] for name, rows in items.items()}
    assert read == items
    for rows in read.values():
        for x in rows:
            of = lambda record: reward
            again = scores_of(RECORDS[x["index"]], x["response"], x["stop"] == "eos", of, 0.0)
            assert again == x["scores"]
    for a, b in zip(metric_table(items, nll, RECORDS), metric_table(read, nll, RECORDS)):
        assert a.name == b.name
        assert all(np.array_equal(a.statistics[m], b.statistics[m]) for m in a.statistics)


# Perplexity


@torch.no_grad()
def test_reference_nll_equals_one_pass_a_record(made, tokenizer):
    """Response and EOS given the prompt; "wow!" ends in the id 0, which pads the batch."""
    models, _, nll = made
    assert tokenizer.encode("!") == [0]
    for i, record in enumerate(RECORDS):
        example = render(record, tokenizer)
        logp = models["rl"].logits(models["rl"](torch.tensor([example.ids])))[0].double().log_softmax(-1)
        targets = [t for t, trained in enumerate(example.mask) if trained]
        total = -sum(float(logp[t - 1, example.ids[t]]) for t in targets)
        n_bytes = len(record["response"].encode())
        assert len(targets) == n_bytes + 1
        assert nll["rl"][i].tolist() == pytest.approx([total, n_bytes + 1, n_bytes], abs=1e-4)


def test_perplexity_of_a_uniform_model_is_the_vocabulary_size(tokenizer):
    model = uniform(tokenizer.vocab_size)
    nll = {"m": reference_nll(model, tokenizer, RECORDS)}
    items = {"m": sampled(model, model, tokenizer)}
    metrics = metric_table(items, nll, RECORDS)
    assert whole(metrics, "reference perplexity")["m"] == pytest.approx(tokenizer.vocab_size, rel=1e-5)
    tokens, n_bytes = sum(len(r["response"].encode()) + 1 for r in RECORDS), 4 + 7 + 5 + 2
    expected = tokens * log(tokenizer.vocab_size) / (log(2) * n_bytes)
    assert whole(metrics, "reference bits per byte")["m"] == pytest.approx(expected, rel=1e-5)
    assert whole(metrics, "entropy, nats/token")["m"] == pytest.approx(log(tokenizer.vocab_size), rel=1e-5)


def test_the_bytes_of_a_conversation_are_those_of_every_turn_that_is_scored(tokenizer):
    turns = [("user", "q"), ("assistant", "12"), ("user", "r"), ("assistant", "345")]
    record = {"messages": [{"role": role, "content": content} for role, content in turns]}
    ((_, tokens, n_bytes),) = reference_nll(uniform(tokenizer.vocab_size), tokenizer, [record])
    assert (tokens, n_bytes) == (2 + 1 + 3 + 1, 2 + 3)


def test_a_record_without_response_or_too_long_is_undefined_and_left_out(tokenizer):
    model = uniform(tokenizer.vocab_size)
    records = [{"prompt": "a", "response": "bc"}, {"prompt": "a"}, {"prompt": "a", "response": "b" * 40}]
    nll = reference_nll(model, tokenizer, records)
    assert [isnan(x) for x in nll[:, 0]] == [False, True, True] and nll[0, 1:].tolist() == [3, 2]
    metrics = metric_table({"m": sampled(model, model, tokenizer, records)}, {"m": nll}, records)
    assert whole(metrics, "reference perplexity")["m"] == pytest.approx(tokenizer.vocab_size, rel=1e-5)


def test_models_are_compared_on_the_records_that_all_of_them_can_score(tokenizer):
    """The second has a shorter context: a record that is too long for it leaves both."""
    records = [{"prompt": "a", "response": "bc"}, {"prompt": "a", "response": "b" * 20}]
    models = {"a": uniform(tokenizer.vocab_size), "b": uniform(tokenizer.vocab_size, context=12)}
    nll = {name: reference_nll(model, tokenizer, records) for name, model in models.items()}
    assert [isnan(table[1, 0]) for table in nll.values()] == [False, True]
    items = {name: sampled(model, model, tokenizer, records) for name, model in models.items()}
    metrics = metric_table(items, nll, records)
    (metric,) = [m for m in metrics if m.name == "reference perplexity"]
    for statistics in metric.statistics.values():
        assert statistics[:, 1].tolist() == [3, 0]
    expected = dict.fromkeys("ab", tokenizer.vocab_size)
    assert whole(metrics, "reference perplexity") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("context", [400, 100])
def test_reviews_are_measured_against_their_grammar(tokenizer, context):
    """A uniform model pays log V a token; a text longer than the context is in no mean."""
    records = TASKS["reviews"].records("test", 12, 0)
    model = uniform(tokenizer.vocab_size, context=context)
    nll = reference_nll(model, tokenizer, records)
    known = [not isnan(x) for x in nll[:, 0]]
    assert any(known) and all(known) == (context == 400)
    metrics = metric_table({"m": sampled(model, model, tokenizer, records, max_new=2)}, {"m": nll}, records)
    kept = [r for r, k in zip(records, known) if k]
    paid = [log(tokenizer.vocab_size) * (len(r["response"].encode()) + 1) for r in kept]
    exact = [-TASKS["reviews"].log_probability(r["response"], r["subject"]) for r in kept]
    H = sum(TASKS["reviews"].entropy(r["subject"]) for r in kept) / len(kept)
    assert whole(metrics, "nats a text")["m"] == pytest.approx(sum(paid) / len(kept), rel=1e-5)
    excess = sum(a - b for a, b in zip(paid, exact)) / len(kept)
    assert whole(metrics, f"above the grammar's {H:.2f}, %")["m"] == pytest.approx(100 * excess / H, rel=1e-5)


# Metrics from items


def test_a_ratio_is_a_sum_over_a_sum_and_undefined_for_nothing():
    assert ratio(np.array([[3.0, 2.0], [0.0, 5.0]])).tolist() == [1.5, 0.0]
    assert isnan(ratio(np.zeros((1, 2)))[0])


def test_means_in_the_table_equal_means_over_items(made):
    _, items, nll = made
    metrics = metric_table(items, nll, RECORDS, "usefulness")
    for m, rows in items.items():
        tokens = sum(x["tokens"] for x in rows if x["sample"] >= 0)
        entropy = sum(x["entropy"] for x in rows if x["sample"] >= 0) / tokens
        expected = {
            "reward = usefulness": by_hand(rows, lambda x: x["scores"]["reward"]),
            "reward, greedy": by_hand(rows, lambda x: x["scores"]["reward"], greedy=True),
            "KL to reference, nats": by_hand(rows, lambda x: x["kl"]),
            "entropy, nats/token": entropy,
            "length, tokens": by_hand(rows, lambda x: x["tokens"]),
            "ended with EOS": by_hand(rows, lambda x: x["stop"] == "eos"),
        }
        for name, value in expected.items():
            assert whole(metrics, name)[m] == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_every_metric_has_one_row_of_finite_statistics_a_prompt_and_model(made):
    _, items, nll = made
    for metric in metric_table(items, nll, RECORDS):
        assert list(metric.statistics) == ["rl", "sft"]
        for statistics in metric.statistics.values():
            assert len(statistics) == len(RECORDS) and np.isfinite(statistics).all()


def test_perplexity_and_bits_per_byte_are_those_of_the_corpus(made):
    _, items, nll = made
    metrics = metric_table(items, nll, RECORDS)
    for m, table in nll.items():
        total, tokens, n_bytes = table.sum(0)
        assert whole(metrics, "reference perplexity")[m] == pytest.approx(perplexity(total, tokens))
        assert whole(metrics, "reference bits per byte")[m] == pytest.approx(bits_per_byte(total, n_bytes))


def test_corpus_perplexity_of_two_documents():
    """10 nats over 10 tokens and 12 over 4: 4.8135, not the mean of two perplexities, 11.40."""
    nll = {"m": np.array([[10.0, 10, 10], [12.0, 4, 4]])}
    metrics = evaluation.nll_metrics(nll, [{"prompt": "a"}] * 2)
    assert whole(metrics, "reference perplexity")["m"] == pytest.approx(4.8135197411, rel=1e-9)


@pytest.mark.parametrize("references", [["the cat sat on the mat", "no"], ["今天天气很好", "我们在家"]])
def test_bleu_and_chrf_equal_direct_calls(references):
    """Of all samples as one corpus, each beside the reference of its prompt, in the right tokenisation."""
    said = [["the cat sat on mat", "cat the on mat sat", "no", "yes or no"],
            ["今天天气好", "天气很好今天", "我们在家", "在家"]][references[0] != "the cat sat on the mat"]
    records = [{"prompt": "p", "response": r, "task": "translation"} for r in references]
    rows = [{"index": i // 2, "sample": i % 2, "response": text} for i, text in enumerate(said)]
    paired = [[references[i // 2]] for i in range(4)]
    bleu, chrf = evaluation.overlap_metrics({"m": rows}, records)
    assert bleu.name == ("BLEU (13a)" if references[1] == "no" else "BLEU (zh)")
    assert whole([bleu], bleu.name)["m"] == pytest.approx(corpus_bleu(said, paired))
    assert whole([chrf], "chrF")["m"] == pytest.approx(corpus_chrf(said, paired))
    assert len(bleu.statistics["m"]) == 2


def test_overlap_is_computed_only_where_every_record_has_a_reference(made):
    _, items, nll = made
    names = {m.name.split(" ")[0] for m in metric_table(items, nll, RECORDS)}
    assert {"BLEU", "chrF"} <= names
    without = [*RECORDS[:3], {"prompt": "d"}]
    assert not {"BLEU", "chrF"} & {m.name.split(" ")[0] for m in metric_table(items, nll, without)}


def test_precision_recall_and_f1_equal_direct_calls():
    """What is no label, or did not end, is predicted as none."""
    labels = ["no", "yes", "yes", "no", "maybe"]
    said = [("yes", "eos"), (" yes ", "eos"), ("yes", "length"), ("no", "eos"), ("what", "eos")]
    records = [{"prompt": str(i), "label": label} for i, label in enumerate(labels)]
    rows = [{"index": i, "sample": 0, "response": text, "stop": stop} for i, (text, stop) in enumerate(said)]
    metrics = evaluation.label_metrics({"m": rows}, records)
    names = ["maybe", "no", "yes"]
    expected = precision_recall_f1(labels, ["yes", "yes", None, "no", None], names)
    assert whole(metrics, "F1, macro")["m"] == pytest.approx(expected.macro[2])
    for c, name in enumerate(names):
        got = [whole(metrics, f"{kind}, {name}")["m"] for kind in ("precision", "recall", "F1")]
        wanted = [expected.precision[c], expected.recall[c], expected.f1[c]]
        if name == "maybe":  # never predicted: precision is undefined, and said to be
            assert isnan(got[0]) and got[1:] == wanted[1:]
        else:
            assert got == pytest.approx(wanted)


def test_distinct_2_is_the_mean_over_prompts_that_have_a_bigram():
    """Pooled over a prompt's samples; repetition from prompt to prompt is not counted here."""
    said = {0: [[1, 2, 3], [1, 2]], 1: [[7], []], 2: [[4, 4, 4, 4]]}
    rows = [{"index": i, "ids": ids} for i, samples in said.items() for ids in samples]
    got = evaluation.with_distinct({"m": rows})["m"]
    assert [(x["index"], x["distinct"], x["known"]) for x in got] == [
        (0, distinct_n(said[0], 2), True), (1, 0.0, False), (2, distinct_n(said[2], 2), True)
    ]
    assert (got[0]["distinct"], got[2]["distinct"]) == pytest.approx((2 / 3, 1 / 3))


def test_distinct_2_in_the_table(made):
    _, items, nll = made
    metrics = metric_table(items, nll, RECORDS)
    for m, rows in items.items():
        per_prompt = [distinct_n([x["ids"] for x in rows if x["index"] == i and x["sample"] >= 0], 2)
                      for i in range(len(RECORDS))]
        known = [x for x in per_prompt if not isnan(x)]
        assert whole(metrics, "distinct-2 given the prompt")[m] == pytest.approx(sum(known) / len(known))


def test_which_direction_is_good(made):
    """KL, entropy, diversity and length are neither good nor bad."""
    _, items, nll = made
    signs = {m.name: m.direction for m in metric_table(items, nll, RECORDS)}
    assert signs["reward"] == signs["chrF"] == signs["ended with EOS"] == 1
    assert signs["reference perplexity"] == -1
    assert {signs[n] for n in ("KL to reference, nats", "entropy, nats/token", "length, tokens")} == {0}


# What is achievable


def test_items_hold_how_much_likelier_the_compared_model_finds_them(make_policy, tokenizer):
    """log compared − log reference, also of what the reference said; of its own samples that is k1."""
    policy, reference = make_policy(0), make_policy(1)
    own = sampled(policy, reference, tokenizer, compared=policy)
    assert all(x["log_ratio"] == x["k1"] for x in own) and any(x["log_ratio"] for x in own)
    its = sampled(reference, reference, tokenizer, compared=policy)
    swapped = sampled(reference, policy, tokenizer)
    assert [x["log_ratio"] for x in its] == pytest.approx([-x["k1"] for x in swapped], abs=1e-4)
    assert "log_ratio" not in swapped[0]


MDP = TokenMDP(3, 0, 3, ((1,),), lambda x, y: len(set(y)) / 2 - 0.3 * (2 in y), missing_eos=-0.5)


def mdp_items(share: float = 0.5, n: int = 4000, prompts: int = 40) -> tuple[dict, list]:
    """Items of a reference, a policy and the optimum for β = 0.3 on the oracle's MDP, and their tables."""
    g = torch.Generator().manual_seed(0)
    tables = [torch.randn(1, len(MDP.prefixes), 3, generator=g, dtype=torch.float64).log_softmax(-1) for _ in "ab"]
    tables.append(optimum(tables[0], MDP, 0.3)[0])
    ref, policy, best = (response_logprobs(table, MDP)[0].numpy() for table in tables)
    rng, items = np.random.default_rng(0), {}
    for name, law, count in (("ref", ref, int(share * n)), ("best", best, n), ("pi", policy, n - int(share * n))):
        chosen = rng.choice(len(law), count, p=np.exp(law) / np.exp(law).sum())
        items[name] = [
            {"index": i % prompts, "sample": i // prompts, "tokens": 3, "scores": {"reward": float(MDP.scores[0][y])},
             "log_ratio": float(policy[y] - ref[y]), "kl": float(law[y] - ref[y])}
            for i, y in enumerate(chosen.tolist())
        ]  # fmt: skip
    return items, tables


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_objective_and_share_equal_the_oracles(share):
    """Of the reference 0, of the optimum 100 %, of a policy between (J − J_ref) / (J* − J_ref)."""
    items, (ref, policy, best) = mdp_items(share, 40_000)
    metrics, known = regret_metrics(items, "ref", "pi", 0.3, 40)
    J = {name: float(objective(x, ref, MDP, 0.3)) for name, x in (("ref", ref), ("pi", policy), ("best", best))}
    assert whole(metrics, "J = reward - 0.3 KL") == pytest.approx(J, abs=0.01)
    got = whole(metrics, "share of J* - J(ref), %")
    assert got["ref"] == 0
    assert got["best"] == pytest.approx(100, abs=3)
    assert got["pi"] == pytest.approx(100 * (J["pi"] - J["ref"]) / (J["best"] - J["ref"]), abs=6)
    assert known["low"] < known["value"] < known["high"]
    assert known["value"] == pytest.approx(J["best"], abs=0.01)
    assert J["best"] - J["pi"] == pytest.approx(0.3 * float(kl(policy, best, MDP)), abs=1e-9)


def test_the_share_is_left_out_on_few_effective_samples():
    """With a small β all rests on the best of them."""
    items, _ = mdp_items(n=400)
    assert regret_metrics(items, "ref", "pi", 0.3, 40)[1]["value"] is not None
    metrics, known = regret_metrics(items, "ref", "pi", 1e-3, 40)
    assert known["value"] is None and known["effective_size"] < 200
    assert [m.name for m in metrics] == ["J = reward - 0.001 KL"]


def test_best_of_n_of_the_reference_is_told_whoever_was_sampled():
    """From half as many samples of its own; best-of-1 is its reward, and the policy is worth what it earns."""
    items, (ref, _, _) = mdp_items(n=40_000)
    _, known = regret_metrics(items, "ref", "pi", 0.3, 40)
    assert known["best_of"]["1"] == pytest.approx(float(objective(ref, ref, MDP, 0.3)), abs=0.01)
    assert list(known["best_of"].values()) == sorted(known["best_of"].values())
    assert known["tokens"] == {"ref": 3, "pi": 3}
    assert known["reward"] == pytest.approx(np.mean([x["scores"]["reward"] for x in items["pi"]]))


def test_an_optimum_known_from_training_is_taken_instead():
    """Also where the samples at hand could not tell; the share is measured against it."""
    items, _ = mdp_items(n=400)
    known = {"value": 1.5, "low": 1.4, "high": 1.6, "effective_size": 900.0}
    metrics, optimum = regret_metrics(items, "ref", "pi", 1e-3, 40, known)
    J = whole(metrics, "J = reward - 0.001 KL")
    share = whole(metrics, "share of J* - J(ref), %")
    assert share["pi"] == pytest.approx(100 * (J["pi"] - J["ref"]) / (1.5 - J["ref"])) and share["ref"] == 0
    assert {k: optimum[k] for k in known} == known and optimum["beta"] == 1e-3
    assert "beta" not in known


def test_where_there_is_nothing_to_gain_the_share_is_undefined():
    """Rewards that are all the same, and one that beats the mean by less than a tenth of a nat of KL costs."""
    items, _ = mdp_items(n=400)
    for rows in items.values():
        for x in rows:
            x["scores"]["reward"] = 0.25 + 1e-3 * (x["index"] == 0)
    metrics, known = regret_metrics(items, "ref", "pi", 0.3, 40)
    assert isnan(whole(metrics, "share of J* - J(ref), %")["pi"]) and known["value"] == pytest.approx(0.25, abs=0.01)


def test_the_optimum_from_samples_of_the_reference_alone_is_the_oracles():
    """With an interval around it, and none where a few samples decide."""
    items, (ref, _, _) = mdp_items(0.5, 40_000)
    known = reference_optimum(items["ref"], 0.3, 40)
    assert known["value"] == pytest.approx(float(optimum(ref, MDP, 0.3)[2]), abs=0.01)
    assert known["low"] < known["value"] < known["high"] and known["effective_size"] > 200
    few = reference_optimum(items["ref"][:300], 1e-3, 40)
    assert few["value"] is None and few["effective_size"] < 200
    metrics, told = regret_metrics(items, "ref", "pi", 1e-3, 40, few)
    assert [m.name for m in metrics] == ["J = reward - 0.001 KL"] and told["value"] is None
