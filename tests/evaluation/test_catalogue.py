"""Each metric equals the textbook function on the same texts; and which are chosen for which data."""

from dataclasses import replace
from math import comb, exp, isnan, log

import numpy as np
import pytest

from minirlhf.evaluation.ask import Policy, text_items
from minirlhf.evaluation.catalogue import DEFAULT, METRICS, metric_names, metric_table
from minirlhf.evaluation.items import TestSet
from minirlhf.evaluation.metric import Metric, View, view_of
from minirlhf.evaluation.questions import turn_records
from minirlhf.harness.files import UserError
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.records import references_of
from minirlhf.metrics.calibration import ece_if_calibrated, expected_calibration_error
from minirlhf.metrics.overlap import bleu_from_statistics, bleu_statistics, chrf_from_statistics, chrf_statistics, rouge
from minirlhf.metrics.scores import (
    bits_per_byte, classification_statistics, distinct_n, duplicate_rate, expectation_adjusted_distinct,
    macro_f1, micro_f1, perplexity, precision_recall_f1, self_bleu,
)
from minirlhf.tasks import TASKS

MAT, TODAY = "the cat sat on the mat", "no, not at all today"
PAIRS = [{"prompt": "p", "response": MAT}, {"prompt": "q", "response": TODAY}]
SAID = {"a": ["the cat sat on mat", "cat the on the mat sat", "no, not at all", "yes or no"],
        "b": [MAT, "a dog", TODAY, f" {TODAY}\n"]}  # fmt: skip


def view(records, said: dict[str, list[str]], texts=None, rewards=None, vocabulary=260) -> View:
    """Of each model's texts, the samples of the first prompt, those of the second, ..."""
    items = {}
    for model, answers in said.items():
        each = len(answers) // len(records)
        items[model] = [
            {"index": i // each, "sample": i % each, "response": text, "ids": list(text.encode()),
             "stop": "eos", "tokens": len(text.encode()) + 1,
             "scores": {} if rewards is None else {"reward": rewards[model][i]}}
            for i, text in enumerate(answers)
        ]  # fmt: skip
    unknown = [{"index": i, "nll": None, "confidence": []} for i in range(len(records))]
    return view_of(TestSet("", records, items, texts or {m: unknown for m in said}), vocabulary)


def seen(s: TestSet) -> View:
    """The view of a set of made-up items, whose reward has no name."""
    return view_of(replace(s, about={}), 260)


def values(metrics: list[Metric]) -> dict[str, dict[str, float]]:
    """name -> model -> the metric of all prompts together."""
    return {
        x.name: {m: float(x.combine(s.sum(0, keepdims=True))[0]) for m, s in x.statistics.items()}
        for x in metrics
    }


def measured(v: View, *names: str) -> dict[str, dict[str, float]]:
    return values(metric_table(v, names))


def text(i: int, confidence: list[float], correct: list[int], n_bytes: int = 3) -> dict:
    """An item of how a text is predicted."""
    nll = float(-np.log(confidence).sum())
    return {"index": i, "nll": nll, "tokens": len(confidence), "bytes": n_bytes, "confidence": confidence,
            "correct": correct}  # fmt: skip


def test_of_a_conversation_the_last_answer_is_compared_with_references_and_labels():
    records = [r | {"label": r["response"]} for r in PAIRS]
    last, talk = view(records, SAID), view(records, {m: [f"what? ‹that› {x}" for x in xs] for m, xs in SAID.items()})
    for model, items in talk.sampled.items():
        for x, answer in zip(items, SAID[model]):
            x["answer"] = answer
    names = "accuracy", "f1", "exact", "bleu", "chrf", "rouge"
    assert str(measured(talk, *names)) == str(measured(last, *names))  # as text, for NaN is not NaN


def test_only_what_can_lie_nowhere_else_is_taken_for_a_share():
    """Neither a count, nor what a user's reward gives, though all of it may lie in [0, 1]."""
    v = view(PAIRS, SAID, rewards={m: [0.5] * 4 for m in SAID})
    for items in v.sampled.values():
        for x in items:
            x["scores"] |= {"a.py:f": 0.5, "model:out/rm:0.5": 0.5, "needless": 0.5, "gold": 0.5}
    bounded = {m.name: m.bounded for m in metric_table(replace(v, reward="gold", greedy=v.sampled), ["reward"])}
    assert {name for name, share in bounded.items() if share} == {"reward = gold", "reward, greedy", "gold", "gold, greedy"}
    assert not metric_table(replace(v, greedy=v.sampled), ["reward"])[0].bounded


NO_TEXT = {"index": 1, "nll": None, "tokens": 0, "bytes": 0, "confidence": [], "correct": []}

# Answers beside references and labels


@pytest.mark.parametrize("records, said", [
    (PAIRS, SAID),
    ([{"prompt": "p", "response": "今天天气很好"}, {"prompt": "q", "response": "我们在家吃饭"}],
     {"a": ["今天天气好", "天气很好今天", "我们在家吃饭", "在家"], "b": ["今天天气很好", "好", "我们", "吃饭在家我们"]}),
    ([{"prompt": "p", "reference": [MAT, "on the mat sat the cat"]},
      {"prompt": "q", "reference": [TODAY, "no, never at all"]}], SAID),
    ([{"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": MAT}]},
      {"prompt": "q", "reference": TODAY}], SAID),
], ids=["english", "chinese", "several references", "conversations"])  # fmt: skip
def test_overlap_equals_direct_calls(records, said):
    """Of all samples as one corpus, each beside the references of its prompt, in the right tokenisation."""
    got = measured(view(records, said), "bleu", "chrf", "chrf++", "rouge", "exact")
    paired = [references_of(records[i // 2]) for i in range(4)]
    tokens = "zh" if "天" in str(records) else "13a"
    for model, texts in said.items():
        rows = [bleu_statistics(*pair, tokens) for pair in zip(texts, paired)]
        assert got[f"BLEU ({tokens})"][model] == pytest.approx(bleu_from_statistics(sum(rows)))
        for name, word_order in (("chrF", 0), ("chrF++", 2)):
            rows = [chrf_statistics(*pair, word_order) for pair in zip(texts, paired)]
            assert got[name][model] == pytest.approx(chrf_from_statistics(sum(rows)))
        each = [rouge(hypothesis, references) for hypothesis, references in zip(texts, paired)]
        for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
            assert got[f"{name} F"][model] == pytest.approx(sum(x[name] for x in each) / 4)
        matches = [said.strip() in [x.strip() for x in references] for said, references in zip(texts, paired)]
        assert got["exact match"][model] == sum(matches) / 4
    assert 0 < got["exact match"]["b"] + got["exact match"]["a"] < 2


LABELS = ["no", "yes", "yes", "no", "maybe"]
GIVEN = [("yes", "eos"), (" yes ", "eos"), ("yes", "length"), ("no", "eos"), ("what", "eos")]
CALLED = ["yes", "yes", None, "no", None]


def labelled() -> View:
    """Five questions with one answer each; the last two are no label, or did not end."""
    records = [{"prompt": str(i), "label": label} for i, label in enumerate(LABELS)]
    rows = [{"index": i, "sample": 0, "response": x, "stop": stop} for i, (x, stop) in enumerate(GIVEN)]
    return view_of(TestSet("", records, {"m": rows}))


def test_accuracy_is_the_share_that_is_right_and_what_is_no_label_is_counted():
    assert measured(labelled(), "accuracy") == {"accuracy": {"m": 2 / 5}, "no label": {"m": 2 / 5}}


def test_precision_recall_and_f1_equal_direct_calls():
    """What is no label, or did not end, is predicted as none."""
    got, names = measured(labelled(), "f1"), ["maybe", "no", "yes"]
    counts = sum(classification_statistics(*pair, names) for pair in zip(LABELS, CALLED))
    assert got["F1, macro"]["m"] == pytest.approx(macro_f1(counts))
    assert got["F1, micro"]["m"] == pytest.approx(micro_f1(counts))
    for kind, wanted in zip(("precision", "recall", "F1"), precision_recall_f1(counts)):
        for name, value in zip(names, wanted):
            assert got[f"{kind}, {name}"]["m"] == pytest.approx(value, nan_ok=True)
    assert isnan(got["precision, maybe"]["m"])  # never predicted, and said to be


@pytest.mark.parametrize("one, nought", [(1, 0), (" 1", "0\n")], ids=["numbers", "white space"])
def test_labels_are_compared_as_text_without_the_white_space_around_them(one, nought):
    records = [{"prompt": "a", "label": one}, {"prompt": "b", "label": nought}]
    got = measured(view(records, {"m": ["1", "1"]}), "accuracy", "f1")
    assert got["accuracy"]["m"] == 0.5 and got["recall, 1"]["m"] == 1


@pytest.mark.parametrize("none", [{}, {"label": None}, {"label": " "}], ids=repr)
def test_what_has_no_label_is_left_out_of_accuracy_and_f1(none):
    """Value, units and so every interval are those of the labelled records alone."""
    some = [{"prompt": "a", "label": "x"}, {"prompt": "c", "label": "y"}, {"prompt": "d", "label": "x"}]
    every = [some[0], {"prompt": "b"} | none, *some[1:]]
    alone, among = view(some, {"m": ["x", "x", "y"]}), view(every, {"m": ["x", "y", "x", "y"]})
    for one, other in zip(metric_table(alone, ["accuracy", "f1"]), metric_table(among, ["accuracy", "f1"])):
        assert one.name == other.name and (one.statistics["m"] == other.statistics["m"]).all()
    with pytest.raises(UserError, match="needs a label in some records"):
        measured(view([{"prompt": "b"} | none], {"m": ["x"]}), "accuracy")


# Rewards


def test_the_best_of_rewards_of_0_and_1_is_pass_at_k():
    """For 2, 4, ... and all samples of a prompt, each from all of them, without bias."""
    rewards = {"a": [0, 1, 1, 0, 0, 0, 0, 1, 0, 0], "b": [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]}
    got = measured(view(PAIRS, {m: ["x"] * 10 for m in "ab"}, rewards=rewards), "best")
    assert list(got) == ["reward, best of 2", "reward, best of 4", "reward, best of 5"]
    for k in (2, 4, 5):
        for m, r in rewards.items():
            right = [sum(r[start : start + 5]) for start in (0, 5)]
            expected = np.mean([1 - comb(5 - c, k) / comb(5, k) for c in right])
            assert got[f"reward, best of {k}"][m] == pytest.approx(expected)


def test_the_reward_and_the_tasks_own_quantities_are_means_over_samples_and_over_greedy_answers():
    """Unparsable answers are better fewer, and shown of samples alone; the sampled reward is the primary one."""
    rows = [{"index": 0, "sample": k, "scores": {"reward": r, "parsed": r > 1, "unparsable": r < 1}}
            for k, r in ((-1, 5.0), (0, 1.0), (1, 0.0))]  # fmt: skip
    metrics = metric_table(view_of(TestSet("", PAIRS[:1], {"m": rows}, {"m": [NO_TEXT]}, {"reward": "merit"})), ["reward"])
    expected = {"reward = merit": 0.5, "reward, greedy": 5, "parsed": 0, "parsed, greedy": 1}
    expected["unparsable"] = 0.5
    assert values(metrics) == {name: {"m": x} for name, x in expected.items()}
    assert [m.direction for m in metrics] == [1, 1, 1, 1, -1]
    assert [m.primary for m in metrics] == [True, False, False, False, False]


# Texts


def test_perplexity_and_bits_per_byte_are_those_of_the_corpus():
    """10 nats over 10 tokens and 12 over 4: 4.8135, not the mean of two perplexities, 11.40."""
    rows = [{"index": 0, "nll": 10.0, "tokens": 10, "bytes": 9}]
    rows.append({"index": 1, "nll": 12.0, "tokens": 4, "bytes": 3})
    got = measured(view(PAIRS, SAID, {m: rows for m in SAID}), "perplexity")
    assert got["reference perplexity"]["a"] == pytest.approx(4.8135197411, rel=1e-9) == perplexity(22, 14)
    assert got["reference bits per byte"]["a"] == pytest.approx(bits_per_byte(22, 12))


def test_the_calibration_error_is_that_of_all_tokens_together():
    rng = np.random.default_rng(0)
    rows = [text(i, rng.uniform(0.1, 1, n).tolist(), rng.integers(0, 2, n).tolist())
            for i, n in enumerate((40, 7))]  # fmt: skip
    got = measured(view(PAIRS, SAID, {m: rows for m in SAID}), "calibration")["calibration error"]
    p, y = (rows[0][key] + rows[1][key] for key in ("confidence", "correct"))
    assert got["a"] == pytest.approx(expected_calibration_error(p, y)) and got["a"] > 0.1
    (metric,) = metric_table(view(PAIRS, SAID, {m: rows for m in SAID}), ["calibration"])
    chance = float(ece_if_calibrated(p, n_simulations=200).mean())  # of what a calibrated model would show
    assert metric.floor == {m: chance for m in SAID} and chance > 0.05


def test_the_calibration_error_at_a_temperature_is_that_of_the_tempered_confidences():
    """With the temperatures beside it; where none was fitted there is no such row."""
    rng = np.random.default_rng(0)
    rows = [text(i, rng.uniform(0.5, 1, n).tolist(), rng.integers(0, 2, n).tolist()) for i, n in enumerate((40, 7))]
    for x in rows:
        x["tempered"] = [p / 2 for p in x["confidence"]]
    v = replace(view(PAIRS, SAID, {m: rows for m in SAID}), temperatures={"a": 1.25, "b": 3.0})
    plain, tempered = metric_table(v, ["calibration"])
    assert tempered.name == "calibration error at T" and (tempered.group, tempered.direction) == (plain.group, -1)
    assert tempered.note == "T, fitted on validation texts: 1.250 a, 3.000 b" and not plain.note
    q, y = (rows[0][key] + rows[1][key] for key in ("tempered", "correct"))
    assert values([tempered])["calibration error at T"]["b"] == pytest.approx(expected_calibration_error(q, y))
    assert [m.name for m in metric_table(replace(v, temperatures={}), ["calibration"])] == ["calibration error"]


def test_the_brier_score_is_that_of_all_tokens_together():
    """The mean of (confidence − right)²: of .8 right, .6 wrong and .9 right, (.04 + .36 + .01) / 3."""
    rows = [text(0, [0.8, 0.6], [1, 0]), text(1, [0.9], [1])]
    got = measured(view(PAIRS, SAID, {m: rows for m in SAID}), "brier")["Brier score"]
    assert got["a"] == pytest.approx(0.41 / 3)


@pytest.mark.parametrize("name", ["perplexity", "calibration", "brier"])
def test_models_are_compared_on_the_texts_that_all_of_them_can_score(name):
    """The second has a shorter context: a text that is too long for it leaves both."""
    both = [text(0, [0.5, 0.5], [1, 0]), text(1, [0.125] * 20, [0] * 20)]
    for metric in metric_table(view(PAIRS, SAID, {"a": both, "b": [both[0], NO_TEXT]}), [name]):
        a, b = metric.statistics.values()
        assert a.tolist() == b.tolist() and a[0].any() and not a[1].any()


def test_the_turns_of_a_conversation_are_one_row_of_every_metric():
    """Whose statistics are the sums of theirs."""
    said = [("user", "q"), ("assistant", "a b c d"), ("user", "r"), ("assistant", "e f g h")]
    records = turn_records([{"messages": [{"role": role, "content": content} for role, content in said]}, PAIRS[0]])
    texts = [text(i, [0.5, 0.25], [1, 0]) for i in range(3)]
    v = view(records, {"m": ["a b c d", "e f", "cat"]}, {"m": texts}, {"m": [1.0, 2.0, 3.0]})
    for row in v.sampled["m"]:
        row |= {"kl": 1.0, "k1": 1.0, "k3": 1.0, "entropy": 1.0}
    v.greedy["m"].extend(v.sampled["m"])
    metrics = metric_table(v, ["all"])
    assert len(metrics) > 15 and {len(m.statistics["m"]) for m in metrics} == {2}
    (reward,) = [m for m in metrics if m.primary]
    assert reward.statistics["m"].tolist() == [[3, 2], [3, 1]]


@pytest.mark.parametrize("context", [400, 100])
def test_reviews_are_measured_against_their_grammar(context, tokenizer):
    """A uniform model pays log V a token; a text longer than the context is in no mean."""
    records = TASKS["reviews"].records("test", 12, 0)
    model = GPT(GPTConfig(tokenizer.vocab_size, context=context, layers=1, heads=1, width=8)).eval()
    model.wte.weight.data.zero_()
    texts = text_items(Policy(model, tokenizer), records)
    kept = [r for r, x in zip(records, texts) if x["nll"] is not None]
    assert kept and (kept == records) == (context == 400)
    got = measured(view(records, {"m": ["x"] * 12}, {"m": texts}), "perplexity")
    paid = [log(tokenizer.vocab_size) * (len(r["response"].encode()) + 1) for r in kept]
    exact = [-TASKS["reviews"].log_probability(r["response"], r["subject"]) for r in kept]
    H = sum(TASKS["reviews"].entropy_of(r["subject"]) for r in kept) / len(kept)
    assert got["nats per text"]["m"] == pytest.approx(sum(paid) / len(kept), rel=1e-5)
    excess = sum(a - b for a, b in zip(paid, exact)) / len(kept)
    assert got[f"above entropy {H:.2f}, %"]["m"] == pytest.approx(100 * excess / H, rel=1e-5)


def test_entities_are_counted_over_all_texts_and_of_that_task_alone():
    """1 of 1, and 1 of 2 said where 3 are: P = 2/3, R = 2/4, F1 = 4/7; the mean of both texts' F1 would be 0.7."""
    right = ["place: Oslo", "person: Ann; group: Tor; place: Rome"]
    records = [{"task": "entities", "prompt": "p", "response": text, "entities": text} for text in right]
    v = view(records, {"m": ["place: Oslo", "place: Rome; person: Tor"]})
    got = measured(v, "entities")
    assert [got[f"entity {x}"]["m"] for x in ("precision", "recall", "F1, micro")] == pytest.approx([2 / 3, 2 / 4, 4 / 7])
    with pytest.raises(UserError, match="entities needs records of the task entities"):
        measured(view([records[0], PAIRS[0]], {"m": ["a", "b"]}), "entities")


# Distance and diversity


def test_distances_and_shape_equal_means_over_items(make_evaluation):
    _, (s,) = make_evaluation(PAIRS, lambda m, i, k: "…" if k == 0 else m * (i + 2), samples=3)
    got = measured(seen(s), "kl", "estimates", "surprise", "entropy", "length")
    for m, rows in s.items.items():
        rows = [x for x in rows if x["sample"] >= 0]
        mean = {key: sum(x[key] for x in rows) / 6 for key in ("kl", "k1", "k3", "tokens", "entropy")}
        assert got["KL to reference, nats"][m] == pytest.approx(mean["kl"])
        assert [got[f"KL by {k}, nats"][m] for k in ("k1", "k3")] == pytest.approx([mean["k1"], mean["k3"]])
        assert got["length, tokens"][m] == pytest.approx(mean["tokens"])
        assert got["entropy, nats/token"][m] == pytest.approx(mean["entropy"] / mean["tokens"])
        assert got["perplexity under ref"][m] == pytest.approx(exp((mean["kl"] + mean["entropy"]) / mean["tokens"]))
        assert got["ended with EOS"][m] == pytest.approx(2 / 3)


def test_diversity_is_that_of_a_prompts_samples_averaged_over_prompts():
    """Repetition from prompt to prompt is not counted."""
    got = measured(view(PAIRS, SAID, vocabulary=300), "distinct", "adjusted", "self-bleu", "duplicates")
    for m, texts in SAID.items():
        groups = [texts[:2], texts[2:]]
        ids = [[list(t.encode()) for t in group] for group in groups]
        expected = {
            "distinct-2 per prompt": [distinct_n(x, 2) for x in ids],
            "adjusted distinct-1": [expectation_adjusted_distinct(x, 1, 300) for x in ids],
            "self-BLEU per prompt": [self_bleu(x) for x in groups],
            "duplicates per prompt": [duplicate_rate(x) for x in groups],
        }
        for name, each in expected.items():
            assert got[name][m] == pytest.approx(sum(each) / 2), name


def test_a_prompt_whose_diversity_is_undefined_is_in_no_mean():
    """Single tokens have no bigram, and of one sample there is none to be like."""
    got = measured(view(PAIRS, {"m": ["a", "b", "aaaa", "a"]}), "distinct")
    assert got["distinct-2 per prompt"]["m"] == pytest.approx(1 / 3)
    assert isnan(measured(view(PAIRS, {"m": ["a b c d", "b"]}), "self-bleu")["self-BLEU per prompt"]["m"])


def test_repetition_is_that_of_answers_long_enough_to_have_any():
    got = measured(view(PAIRS, {"m": ["abababab", "abc", "abcdefgh", ""]}), "repetition")
    assert got["repeated 4-grams"]["m"] == pytest.approx((3 / 5 + 0) / 2)


# Which of them


def defaults(record: dict, reward: bool, make_evaluation) -> list[str]:
    """The names of those that are taken by default."""
    records = [record, record | {"prompt": "other"}]
    _, (s,) = make_evaluation(records, lambda m, i, k: "some text", len if reward else None)
    return [m.name for m in metric_table(seen(s))]


COMMON = ["reference perplexity", "reference bits per byte", "calibration error", "KL to reference, nats",
          "entropy, nats/token", "distinct-2 per prompt", "self-BLEU per prompt", "length, tokens",
          "ended with EOS"]  # fmt: skip
REWARD = ["reward", "reward, greedy"]
PER_CLASS = ["F1, macro", "F1, micro", "precision, x", "recall, x", "F1, x"]


@pytest.mark.parametrize("record, reward, chosen", [
    ({"prompt": "p", "response": "x", "task": "arithmetic", "answer": "x"}, True, REWARD + COMMON),
    ({"prompt": "p", "response": "x", "task": "sentiment", "label": "x"}, True, REWARD + PER_CLASS + COMMON),
    ({"prompt": "p", "response": "x", "task": "translation", "reference": "x"}, True,
     [*REWARD, "BLEU (13a)", "chrF", *COMMON]),
    ({"prompt": "p", "response": "x", "task": ["arithmetic"]}, False, ["BLEU (13a)", "chrF", *COMMON]),
    ({"prompt": "p", "response": "x"}, False, ["BLEU (13a)", "chrF", *COMMON]),
    ({"prompt": "p", "response": "x"}, True, [*REWARD, "BLEU (13a)", "chrF", *COMMON]),
    ({"prompt": "p", "reference": ["x", "y"]}, False, ["BLEU (13a)", "chrF", *COMMON[3:]]),
    ({"prompt": "p", "label": "x"}, False, ["accuracy", "no label", *PER_CLASS, *COMMON[3:]]),
    ({"prompt": "p", "response": "x", "label": "x"}, False, ["accuracy", "no label", *PER_CLASS, *COMMON]),
    ({"prompt": "p"}, False, COMMON[3:]),
], ids=["task", "labelled task", "translation", "no task", "pairs", "pairs and reward", "references", "labels",
        "labelled pairs", "prompts"])  # fmt: skip
def test_what_is_measured_by_default_suits_the_data(record, reward, chosen, make_evaluation):
    got = defaults(record, reward, make_evaluation)
    assert sorted(got) == sorted(chosen) and (got[0] in REWARD) == reward


def test_all_is_whatever_the_data_allow(make_evaluation):
    _, (s,) = make_evaluation(PAIRS, lambda m, i, k: "some text", None)
    v = seen(s)
    got = [m.name for m in metric_table(v, ["all"])]
    lacking = {"reward", "best", "accuracy", "f1", "entities"}
    assert got == [m.name for name in METRICS if name not in lacking for m in metric_table(v, [name])]
    assert set(DEFAULT) < set(METRICS) and len(set(got)) == len(got)


def test_those_named_are_measured_in_their_order():
    assert list(measured(view(PAIRS, SAID), "chrf", "duplicates")) == ["chrF", "duplicates per prompt"]


def test_names_are_words_between_commas():
    assert metric_names(" chrf, kl,,") == ["chrf", "kl"] and metric_names("") == []


@pytest.mark.parametrize("word, name", [
    ("reward", "reward"), ("scores", "reward"), ("BLEU", "bleu"), ("KL", "kl"), ("ROUGE", "rouge"), ("ppl", "perplexity"),
    ("Accuracy", "accuracy"), ("exact_match", "exact"), ("self_bleu", "self-bleu"), ("ECE", "calibration"),
])  # fmt: skip
def test_names_that_people_guess_are_understood(word, name):
    assert metric_names(word) == [name] and name in METRICS


@pytest.mark.parametrize("words", ["chrf,belu", "all, belu"])
def test_an_unknown_name_is_answered_with_those_there_are(words):
    with pytest.raises(UserError) as error:
        metric_names(words)
    assert str(error.value) == f"--metrics belu: there are all, {', '.join(METRICS)}"


@pytest.mark.parametrize("name, needed", [
    ("reward", "a reward or a generated task"), ("best", "a reward"), ("accuracy", "a label in some records"),
    ("f1", "a label in some records"), ("exact", "a response or reference in each record"),
    ("bleu", "a response or reference in each record"), ("chrf", "a response or reference in each record"),
    ("chrf++", "a response or reference in each record"),
    ("rouge", "a response or reference in each record"), ("perplexity", "a response in each record"),
    ("calibration", "a response in each record"), ("brier", "a response in each record"),
    ("repetition", "answers of four tokens or more"),
])
def test_a_metric_that_lacks_what_it_needs_says_so(name, needed):
    """Of references, one record without is enough."""
    with pytest.raises(UserError) as error:
        metric_table(view([PAIRS[0], {"prompt": "q"}], {"m": ["a", "b"]}), ["length", name])
    assert str(error.value) == f"--metrics {name} needs {needed}"


def test_which_direction_is_good(make_evaluation):
    """KL, entropy, diversity and length are neither good nor bad."""
    _, (s,) = make_evaluation(PAIRS, lambda m, i, k: "some text")
    signs = {m.name: m.direction for m in metric_table(seen(s), ["all"])}
    better = {name for name, sign in signs.items() if sign == 1}
    assert better == {"reward", "reward, greedy", "reward, best of 2", "exact match", "BLEU (13a)", "chrF",
                      "chrF++", "rouge1 F", "rouge2 F", "rougeL F", "rougeLsum F", "ended with EOS"}  # fmt: skip
    assert {name for name, sign in signs.items() if sign == -1} == {
        "reference perplexity", "reference bits per byte", "calibration error", "Brier score"
    }


def test_every_metric_has_one_row_of_finite_statistics_a_unit_and_model(make_evaluation):
    _, (s,) = make_evaluation([*PAIRS, PAIRS[0]], lambda m, i, k: "" if k else "some text")
    for metric in metric_table(seen(s), ["all"]):
        assert list(metric.statistics) == ["base", "sft", "ppo"]
        for statistics in metric.statistics.values():
            assert len(statistics) == 2 and np.isfinite(statistics).all()
