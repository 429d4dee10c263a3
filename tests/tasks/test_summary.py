"""Summaries: what a statement is, what the reward is of, and 50 cases by hand that it ranks as a person would."""

import pytest

from minirlhf.tasks import summary

# A report, and five summaries of it from the best to the worst: right, something left out, something invented, a wrong
# number (or direction, place or item), the whole report. A person forgives a gap before a falsehood.
KINDS = ("right", "omission", "invention", "wrong", "copied")
CASES = {
    "here is the news from oslo. buyers paid 14% more for tea. it rained all morning. rice fell by 9%. nobody knows why.": (
        "in oslo, tea rose 14%, rice fell 9%.",
        "in oslo, tea rose 14%.",
        "in oslo, tea rose 14%, rice fell 9%, corn rose 3%.",
        "in oslo, tea rose 41%, rice fell 9%."),
    "traders met in rome. silver became 8% cheaper. the stalls closed early. gold rose by 31%. the mayor was pleased.": (
        "in rome, silver fell 8%, gold rose 31%.",
        "silver fell 8% and gold rose 31%.",
        "in rome, silver fell 8%, gold rose 31%, the king was pleased.",
        "in paris, silver fell 8%, gold rose 31%."),
    "the market of lima was open. it rained all morning. cotton fell by 12%. cocoa became 2% dearer. many shops stayed empty. "
    "buyers paid 20% less for tin.": (
        "in lima, cocoa rose 2%, cotton fell 12%, tin fell 20%.",
        "in lima, cotton fell 12%, cocoa rose 2%.",
        "in lima, cotton fell 12%, cocoa rose 2%, tin fell 20%, coal fell 20%.",
        "in lima, cotton fell 12%, cocoa rose 2%, tin fell 22%."),
    "here is the news from cairo. the harbour was busy. buyers paid 25% less for salt. nobody knows why. milk rose by 26%. "
    "honey fell by 5%.": (
        "in cairo, salt fell by 25%, milk rose by 26%, honey fell by 5%.",
        "in cairo, salt fell by 25% and honey fell by 5%.",
        "in cairo, salt fell 25%, milk rose 26%, honey fell 5%, nobody liked it.",
        "in cairo, salt rose 25%, milk rose 26%, honey fell 5%."),
    "traders met in seoul. the mayor was pleased. paper rose by 3%. coal rose by 4%. the harbour was busy. zinc fell by 10%.": (
        "in seoul, paper rose by 3%, coal rose by 4%, zinc fell by 10%.",
        "in seoul, coal rose 4%, zinc fell 10%.",
        "in seoul, paper rose 3%, coal rose 4%, zinc fell 10% because of the rain.",
        "in seoul, paper rose 4%, coal rose 3%, zinc fell 10%."),
    "the market of delhi was open. wool became 6% cheaper. nobody knows why. butter became 7% dearer. the stalls closed early.": (
        "in delhi, butter rose 7% and wool fell 6%.",
        "in delhi, wool fell 6%.",
        "in delhi, wool fell 6%, butter rose 7%, cheese rose 7%.",
        "in delhi, wool fell 6%, bread rose 7%."),
    "here is the news from quito. many shops stayed empty. pepper rose by 40%. tea fell by 2%. it rained all morning.": (
        "in quito, pepper rose by 40%, tea fell by 2%.",
        "in quito, pepper rose 40%, many shops stayed empty.",
        "in quito, pepper rose 40%, tea fell 2%, gold fell 2%.",
        "in quito, pepper rose 4%, tea fell 2%."),
    "traders met in dublin. buyers paid 17% more for timber. buyers paid 11% more for rubber. the harbour was busy. "
    "nobody knows why. copper fell by 33%.": (
        "in dublin, timber rose 17%, rubber rose 11%. copper fell 33%.",
        "timber rose 17%, rubber rose 11%, copper fell 33%.",
        "in dublin, timber rose 17%, rubber rose 11%, copper fell 33%, the mayor was pleased.",
        "in dublin, timber fell 17%, rubber fell 11%, copper rose 33%."),
    "the market of lagos was open. corn fell by 19%. it rained all morning. the stalls closed early. sugar fell by 21%.": (
        "in lagos, corn became 19% cheaper, sugar became 21% cheaper.",
        "in lagos, sugar fell 21%.",
        "in lagos, corn fell 19%, sugar fell 21%. more of this tomorrow.",
        "in lagos, corn and sugar fell 20%."),
    "here is the news from tokyo. wheat rose by 15%. the mayor was pleased. coffee rose by 13%. the harbour was busy. "
    "buyers paid 30% less for cheese.": (
        "in tokyo, wheat rose 15%, coffee rose 13%, cheese fell 30%.",
        "in tokyo, cheese fell 30%, coffee rose 13%.",
        "in tokyo, wheat rose 15%, coffee rose 13%, cheese fell 30%, the mayor resigned.",
        "in tokyo, wheat rose 15%, coffee rose 13%, cheese fell 3%."),
}  # fmt: skip


def earned(response: str, report: str) -> float:
    return summary.reward("", response, {"report": report})


@pytest.mark.parametrize("report", CASES, ids=[report.split(".")[0].replace(" ", "-") for report in CASES])
def test_five_summaries_of_a_report_are_ranked_as_a_person_would(report):
    values = dict(zip(KINDS, (earned(text, report) for text in (*CASES[report], report)), strict=True))
    assert values["right"] == 1.0 and values["copied"] == 0.0
    assert values["right"] > values["omission"] > values["invention"] > values["wrong"] > values["copied"], values


def test_over_all_50_cases_a_better_kind_earns_more_on_average():
    """Within a report the gaps are seen above; here also that the kinds stay apart over reports."""
    means = [sum(earned((*texts, report)[i], report) for report, texts in CASES.items()) / 10 for i in range(5)]
    assert all(a > b + 0.05 for a, b in zip(means, means[1:])) and len(CASES) * len(means) == 50


REPORT = "in oslo. tea rose by 2%. rice fell by 3%. corn rose by 4%. it rained all morning."  # 18 words


@pytest.mark.parametrize("text, P, R, value", [
    ("in oslo, tea rose 2%, rice fell 3%, corn rose 4%.", 1, 1, (1 - 11 / 18) / 0.4),
    ("tea rose 2%, rice fell 3%.", 1, 2 / 4, 1.25 * 0.5 / (0.25 + 0.5)),
    ("tea rose 2%, rice fell 9%.", 1 / 2, 1 / 4, 1.25 * 0.125 / (0.125 + 0.25)),
    ("tea rose 2%, tea rose 2%.", 1 / 2, 1 / 4, 1.25 * 0.125 / (0.125 + 0.25)),  # once said is enough
    ("tea rose 2%", 0, 0, 0), ("", 0, 0, 0), (".", 0, 0, 0), ("tea rose 3%.", 0, 0, 0),
    ("it rained all morning.", 1, 0, 0),  # true, and nothing of what matters
    ("tea rose 2%, it rained all morning.", 1, 1 / 4, 1.25 * 0.25 / (0.25 + 0.25)),
])
def test_the_reward_is_the_formula_of_its_chapter(text, P, R, value):
    assert summary.fact_scores(text, REPORT) == pytest.approx((P, R))
    assert earned(text, REPORT) == pytest.approx(value)


def test_every_form_of_a_fact_states_it_and_no_other():
    words = {"place": "rome", "item": "tea", "n": "12"}
    facts = {kind: {tuple(summary.statements(form.format(**words) + ".")) for form in forms.split("|")}
             for kind, forms in summary.FORMS.items()}  # fmt: skip
    assert facts == {"place": {(("place", ("place", "rome")),)}, "up": {(("up", ("item", "tea"), ("n", "12")),)},
                     "down": {(("down", ("item", "tea"), ("n", "12")),)}}  # fmt: skip
    assert summary.statements("".join(f"{text}. " for text in summary.OTHER)) == [(text,) for text in summary.OTHER]


def test_a_statement_that_is_cut_off_is_none_of_the_report():
    for text in ("tea rose 2%. rice fell 3%", "tea rose 2% and rice fell", "tea rose 2%, rice"):
        assert summary.fact_scores(text, REPORT) == (1 / 2, 1 / 4)


def test_words_are_free_up_to_three_fifths_of_the_report_and_a_copy_of_it_earns_nothing():
    reports = ("tea rose 2%.", "tea rose by 2%.", "tea rose 2%. nobody knows why.", "tea rose 2%. it rained all morning.")
    assert [earned("tea rose 2%.", report) for report in reports] == pytest.approx([0, (1 - 3 / 4) / 0.4, 1, 1])
    for record in summary.records("train", 500, 0):
        assert 2 * len(record["reference"].split()) <= len(record["report"].split())
        assert earned(record["report"], record["report"]) == 0.0


def test_a_report_copied_without_the_spaces_between_its_sentences_is_as_long_as_with_them():
    for record in summary.records("test", 50, 0):
        for copied in (record["report"], record["report"].replace(". ", "."), record["report"].replace(". ", ",")):
            assert summary.reward(record["prompt"], copied, record) == 0
