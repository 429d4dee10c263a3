"""Tables to cite: every figure, what it rests on, and no text that becomes markup."""

import csv
import io
import re

import pytest

from minirlhf.evaluation.answer import chief_rows
from minirlhf.evaluation.cite import COLUMNS, ENDING, LATEX, cite
from minirlhf.evaluation.report import build
from minirlhf.evaluation.table import number

EVIL = "a|b_c*d`e[f](g)<h>&i%j$k#l{m}~n^o\\p\"q'--r\ns\u202e"
PAIRS = [{"prompt": f"p{i}", "response": "x" * i} for i in range(6)]


@pytest.fixture
def made(make_evaluation):
    """The report of three models, whose title and one model's name are hostile if that is asked for."""
    def make(evil=False, models=("base", "sft", "ppo"), reward=len) -> dict:
        run, (s,) = make_evaluation(PAIRS, lambda m, i, k: m * (i % 3 + (m == "ppo")), reward, models=models)
        if evil:
            s.title = s.about["reward"] = EVIL
        return build(run, [s])

    return make


def lines_of(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_a_line_for_each_set_metric_and_model_with_every_figure_in_full(made):
    report = made()
    lines = lines_of(cite(report, "csv"))
    rows = report["tasks"]["made"]["metrics"]
    assert len(lines) == 3 * len(rows) and list(lines[0]) == COLUMNS
    for line, (row, model) in zip(lines, ((row, model) for row in rows for model in row["models"])):
        assert (line["set"], line["metric"], line["model"]) == ("made", row["metric"], model)
        for key, x in row["models"][model].items():
            assert line[key] == ("" if x is None else repr(x))
        d = row["differences"].get(model, {})
        for key in ("value", "low", "high", "p"):
            wanted = d.get(key)
            assert line["p" if key == "p" else f"difference_{key}"] == ("" if wanted is None else repr(wanted))
        assert (line["verdict"], line["against"]) == ((d["verdict"], "sft") if d else ("", ""))
        assert (line["prompts"], line["seed"]) == ("6", str(report["seed"]))
        assert line["sha256"] == report["models"][model]["sha256"]


def test_csv_keeps_any_text(made):
    assert {line["set"] for line in lines_of(cite(made(True), "csv"))} == {EVIL}


@pytest.mark.parametrize("kind", ["markdown", "latex"])
def test_a_table_has_values_intervals_difference_p_rule_and_verdict_and_says_what_it_rests_on(kind, made):
    report = made()
    text = cite(report, kind)
    row = report["tasks"]["made"]["metrics"][0]
    assert None not in row["models"]["ppo"].values()
    for x in (*row["models"].values(), row["differences"]["ppo"]):
        for key in ("value", "low", "high"):
            assert x[key] is None or number(x[key]) in text.replace("$-$", "-"), (key, x)
    for words in ("base", "sft", "ppo", row["differences"]["ppo"]["verdict"], "Holm", "6 prompts (n = 6 independent)",
                  "seed 0", "95", "intervals over prompts", "permutation test"):  # fmt: skip
        assert words in text, words
    assert all(m["sha256"][:12] in text for m in report["models"].values())


def cells_of(line: str) -> list[str]:
    """The cells of a row of a Markdown table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_every_row_of_markdown_has_the_cells_of_its_head_whatever_the_texts(made):
    table = cite(made(True), "markdown").partition("\n\n")[0].splitlines()
    assert len({len(cells_of(line)) for line in table}) == 1 and len(cells_of(table[0])) == 8
    assert not re.search(r"(?<!\\)[`*_<~$#]", re.sub("< 0.001", "", table[2].partition(" | ")[0]))
    assert re.sub(r"\\(.)", r"\1", cells_of(table[2])[0]) == "reward = " + EVIL.replace("\n", " ").replace("\u202e", "")


def test_latex_balances_and_leaves_no_character_of_its_own_unescaped(made):
    text = cite(made(True), "latex")
    bare = re.sub(r"\\\\|\\[{}]", "", text)
    assert bare.count("{") == bare.count("}") and text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    assert not re.search(r"(?<!\\)[%#~^_]", text) and len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    rows = text.partition("\\hline\n")[2].partition("\\end{tabular}")[0].strip().splitlines()
    assert all(len(re.findall(r"(?<!\\)&", line)) == 7 and line.endswith(r" \\") for line in rows)
    assert not any(line.startswith(("[", "*")) for line in rows)  # they would belong to the line break before


def test_each_character_that_latex_reads_has_a_form_that_it_shows():
    assert {*"\\{}$&#^_%~<>|\"[]*"} <= {*LATEX} and all(form != c for c, form in LATEX.items())


def test_the_rows_are_those_that_are_chosen(made):
    report = made()
    few = cite(report, "markdown", chief_rows).partition("\n\n")[0].splitlines()
    assert len(few) == 2 + 8 < len(cite(report, "markdown").partition("\n\n")[0].splitlines())


@pytest.mark.parametrize("kind", ENDING)
@pytest.mark.parametrize("models, reward", [(("sft",), len), (("base", "sft"), len), (("sft", "ppo"), None)])
def test_one_model_or_no_reward_is_no_trouble(kind, models, reward, made):
    text = cite(made(models=models, reward=reward), kind)
    assert ("ppo" in text) == ("ppo" in models) and "None" not in text and "nan" not in text
