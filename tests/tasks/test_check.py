"""--check-data: what is said of the data before anything is trained on them."""

from minirlhf.lm.chat import render
from minirlhf.tasks.check import check_data, check_sources, shown
from minirlhf.tasks.sources import Source


def pair(prompt, response="b"):
    return {"prompt": prompt, "response": response}


def test_counts_lengths_and_what_does_not_fit_are_those_of_the_rendered_records(tokenizer, capsys):
    records = [pair("a" * n) for n in (1, 2, 3, 10)]  # and two roles, an answer, EOS
    check_data({"mine": records}, tokenizer, 7)
    assert capsys.readouterr().out.startswith("mine: 4 records; tokens 5 to 14, median 6.5; 1 exceed the context of 7\n")


def test_three_examples_are_shown_with_the_loss_marked(tokenizer, capsys):
    talk = {"messages": [{"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "a\n"), ("user", "r"))]}
    check_data({"mine": [pair("a", "b"), talk, pair("c", ""), pair("d")]}, tokenizer, 32)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "|  <|user|>a<|assistant|>⟦b<|endoftext|>⟧",
        "|  <|user|>q<|assistant|>⟦a\\n<|endoftext|>⟧<|user|>r",
        "|  <|user|>c<|assistant|>⟦<|endoftext|>⟧",
    ]


def test_the_middle_of_a_long_text_is_left_out(tokenizer):
    line = shown(render(pair("a" * 500 + "b" * 500), tokenizer), tokenizer)
    assert line.startswith("<|user|>aaa") and "a … b" in line and len(line) < 400


def test_prompts_on_both_sides_are_counted_whatever_their_case_and_white_space(tokenizer, capsys):
    check_data({"train": [pair("A b"), pair("c")], "test": [pair(" a  B\n"), pair("d"), pair("C")]}, tokenizer, 32)
    said = capsys.readouterr().out
    assert said.endswith("\ntest: 2 of 3 prompts also stand in train, but for case and white space\n")
    assert "prompts also stand" not in said.replace(said.splitlines()[-1], "")


def test_where_the_training_prompts_are_unknown_no_overlap_is_counted(tokenizer, capsys):
    check_data({"training": [], "test": [pair("a")]}, tokenizer, 32)
    assert capsys.readouterr().out.endswith("\ntest: training is not known, so no overlap can be told\n")


def test_of_a_comparison_both_answers_are_shown(tokenizer, capsys):
    check_data({"train": [{"prompt": "a", "chosen": "b", "rejected": "c"}]}, tokenizer, 32)
    assert capsys.readouterr().out.splitlines() == [
        "train: 1 records; tokens 5 to 5, median 5; 0 exceed the context of 32",
        "|  <|user|>a<|assistant|>⟦b<|endoftext|>⟧", "|  <|user|>a<|assistant|>⟦c<|endoftext|>⟧",
    ]  # fmt: skip


def test_documents_are_shown_as_a_base_model_learns_them(tokenizer, capsys):
    check_sources([Source("data", 1.0, ["raw"], [], [])], tokenizer, 32)
    assert capsys.readouterr().out.splitlines()[1:] == ["|  <|endoftext|>⟦raw<|endoftext|>⟧"]
