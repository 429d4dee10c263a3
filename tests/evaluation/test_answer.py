"""What an evaluation says in short: chosen rows, meanings, and the answer with its price."""

import re
from pathlib import Path

import pytest

from minirlhf.evaluation import answer
from minirlhf.evaluation.answer import MEANING, MOST, answer_lines, chief_rows, headline, price
from minirlhf.evaluation.catalogue import metric_table
from minirlhf.evaluation.metric import view_of
from minirlhf.evaluation.report import build

CHAPTER = Path(answer.__file__).with_name("README.md")


def row(metric, old=0.5, new=0.75, verdict="better", group="quality", primary=False) -> dict:
    """A metric of sft and ppo."""
    d = None if None in (old, new) else new - old
    ends = {"low": None, "high": None} if d is None else {"low": d - 0.125, "high": d + 0.125}
    models = {m: {"value": x, "low": x, "high": x} for m, x in (("sft", old), ("ppo", new))}
    return {"metric": metric, "group": group, "primary": primary, "models": models,
            "differences": {"ppo": {"value": d, "verdict": verdict} | ends}}  # fmt: skip


REWARD = row("reward = merit", primary=True)
KL = row("KL to reference, nats", 0.0, 4.0, "higher", "drift")
PERPLEXITY = row("reference perplexity", 3.25, 4.75, "worse", "drift")
DISTINCT = row("distinct-2 per prompt", 0.75, 0.5, "lower", "diversity")
ENTROPY = row("entropy, nats/token", 1.0, 0.5, "lower", "diversity")
ENDED = row("ended with EOS", 1.0, 0.875, "worse")
NAMES = ["reward = merit", "reward, greedy", "grammatical", "grammatical, greedy", "reference perplexity",
         "reference bits per byte", "calibration error", "KL to reference, nats", "entropy, nats/token",
         "distinct-2 per prompt", "self-BLEU per prompt", "length, tokens", "ended with EOS", "J = reward - 0.1 KL",
         "share of J* - J(ref), %"]  # fmt: skip
EIGHT = ["reward = merit", "reward, greedy", "grammatical", "reference perplexity", "KL to reference, nats",
         "distinct-2 per prompt", "J = reward - 0.1 KL", "share of J* - J(ref), %"]  # fmt: skip


def chosen(*dull, old=0.5) -> list[str]:
    """Which of all rows are taken, where some say the same of both models."""
    rows = [row(name, *((old, old) if name in dull else ()), primary=name.startswith("reward =")) for name in NAMES]
    return [r["metric"] for r in chief_rows(rows)]


def test_the_eight_rows_are_those_of_the_chapter_in_the_order_of_the_table():
    assert chosen() == EIGHT and len(EIGHT) == MOST


@pytest.mark.parametrize("old", [1.0, None])
def test_a_row_without_a_difference_or_a_number_gives_its_place_to_entropy_and_then_the_next(old):
    """The primary metric stays whatever it says: it is what the answer goes by."""
    assert chosen("distinct-2 per prompt", old=old) == sorted(EIGHT[:5] + ["entropy, nats/token"] + EIGHT[6:], key=NAMES.index)
    assert chosen("distinct-2 per prompt", "grammatical", "reward = merit", old=old) == sorted(
        ["grammatical, greedy", "entropy, nats/token", *EIGHT[:2], *EIGHT[3:5], *EIGHT[6:]], key=NAMES.index)


def test_few_rows_are_all_shown_whatever_they_say():
    rows = [row(name, 1.0, 1.0) for name in NAMES[:MOST]]
    assert chief_rows(rows) == rows


def test_of_one_model_a_row_is_told_by_its_number():
    rows = [row(name, new=None if name == "reward, greedy" else 0.0) | {"differences": {}} for name in NAMES]
    assert "reward, greedy" not in [r["metric"] for r in chief_rows(rows)]


@pytest.mark.parametrize("rows, wanted", [
    ([KL, ENDED, REWARD], REWARD), ([KL, row("BLEU"), row("chrF")], row("BLEU")), ([KL, ENTROPY], KL),
], ids=["reward", "no reward", "no quality"])  # fmt: skip
def test_the_answer_goes_by_the_reward_or_the_first_metric_of_quality(rows, wanted):
    assert headline(rows) == wanted


def test_the_price_is_the_kl_and_what_is_worse_by_its_verdict():
    gold, greedy = row("gold", 0.75, 0.5, "worse"), row("gold, greedy", 0.75, 0.625, "worse")
    assert price([REWARD, gold, greedy, KL, PERPLEXITY, DISTINCT, ENTROPY, ENDED], "ppo", "sft") == (
        "KL 4.000, gold -0.250, perplexity 3.250 -> 4.750, distinct-2 -0.250, ended with EOS -0.125")
    kept = [x | {"differences": {"ppo": {"value": 0.1, "verdict": v}}} for v, x in zip(("better", "higher"), (PERPLEXITY, DISTINCT))]
    assert price([KL, *kept, ENTROPY], "ppo", "sft") == "KL 4.000, entropy -0.500"


def test_nothing_paid_is_said_as_well():
    assert price([REWARD, row("KL to reference, nats", 0.0, 0.0, "no difference shown", "drift")], "ppo", "sft") == "nothing shown"
    assert price([REWARD], "ppo", "sft") == "nothing shown"


def report(against="sft", **sets) -> dict:
    return {"last": "ppo", "against": against, "tasks": {title: {"metrics": rows} for title, rows in sets.items()}}


def test_a_line_for_each_set_says_gain_verdict_and_price_in_columns():
    lines = answer_lines(report(reviews=[REWARD, KL], sums=[row("BLEU", 99.0, 99.0, "no difference shown")]))
    assert lines == [
        "            sft -> ppo      difference [95 %]       verdict",
        "reviews     0.500 -> 0.750  +0.250 [0.125, 0.375]   better      price: KL 4.000",
        "sums, BLEU  99.00 -> 99.00  +0.000 [-0.125, 0.125]  not shown   price: nothing shown",
    ]


def test_an_undefined_difference_is_a_dash_and_the_verdict():
    line = answer_lines(report(a=[row("reward = x", 0.5, None, "undefined", primary=True)]))[1]
    assert line.split() == ["a", "0.500", "->", "-", "-", "undefined", "price:", "nothing", "shown"]


def test_of_one_model_the_value_is_told_with_its_interval_and_no_price():
    alone = [r | {"differences": {}} for r in (REWARD, KL)]
    assert answer_lines(report("ppo", reviews=alone)) == [
        "                         ppo [95 %]", "reviews, reward = merit  0.750 [0.750, 0.750]",
    ]


@pytest.mark.parametrize("models", [("base", "sft", "ppo"), ("sft", "ppo"), ("base", "sft"), ("sft",)])
@pytest.mark.parametrize("reward", [len, None], ids=["reward", "none"])
def test_every_report_has_an_answer_of_ascii(reward, models, make_evaluation):
    """With a reward and without, one model or more, the last one compared or not."""
    made = build(*make_evaluation([{"prompt": f"p{i}"} for i in range(5)], lambda m, i, k: m * k, reward, models=models))
    head, line = answer_lines(made)
    assert line.startswith("made") and (head + line).isascii() and ("price:" in line) == (models[-1] == "ppo")


def test_the_chapter_tells_what_each_metric_means_in_the_words_of_the_page():
    table = CHAPTER.read_text("utf-8").partition("| row begins with |")[2].partition("\n\n")[0]
    assert dict(re.findall(r"^\| (.+?) \| (.+) \|$", table, re.M)) == MEANING


def test_each_meaning_is_one_short_sentence_of_a_metric_that_there_is(make_evaluation):
    labels = {"response": "yes", "label": "yes"}
    run, (s,) = make_evaluation([{"prompt": f"p{i}"} | labels for i in range(5)], lambda m, i, k: "yes yes")
    names = "reward f1 bleu chrf perplexity calibration kl entropy distinct self-bleu".split()
    found = [m.name for m in metric_table(view_of(s), names)] + ["gold", "grammatical", "above entropy", "J = ", "share of J*"]
    found += ["token F1", "fact precision", "fact recall", "entity F1, micro"]  # those of single tasks
    for start, words in MEANING.items():
        assert any(name.startswith(start) for name in found), start
        assert len(words.split()) <= 25 and not words.endswith(".")
