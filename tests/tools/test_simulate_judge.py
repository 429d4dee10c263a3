"""The simulated annotator judges what is shown, by the law that it is told."""

import sys

import pytest

from minirlhf.annotation import log, pairs
from minirlhf.annotation.log import Session, close
from minirlhf.annotation.rows import read_rows
from minirlhf.evaluation import items as items_file
from minirlhf.harness.files import UserError
from minirlhf.preferences.config import Labeller
from minirlhf.tasks import TASKS
from minirlhf.tools import simulate_judge
from minirlhf.tools.simulate_judge import gold_of, judge_session

PROMPTS = [f"p{i}" for i in range(300)]


def made(folder, answer):
    """A study of 300 pairs, of which each model has answered so."""
    answers = [[{"index": i, "sample": 0, "response": answer(m, i)} for m in ("sft", "ppo")] for i in range(300)]
    places, key = pairs.make_places([{"prompt": prompt} for prompt in PROMPTS], answers, 300, 0)
    log.create(folder, {"question": "which?", "places": places}, key | {"models": ["sft", "ppo"]})
    return folder


@pytest.fixture
def study(tmp_path):
    """Of 300 pairs, in which ppo's answers are worth one more than sft's."""
    return made(tmp_path / "study", lambda m, i: f"{m == 'ppo':d} {i} {m}")


def worth(prompt: str, response: str) -> float:
    return float(response[0])


def wins(folder, **labeller) -> float:
    """How often ppo won."""
    with Session(folder, "ada") as session:
        judge_session(session, worth, Labeller(**labeller), 0)
    close(folder)
    scores = [row.score for row in read_rows(folder, [])[0] if row.kind == "pair"]
    assert len(scores) == 300
    return scores.count(1) / 300


def test_the_better_answer_wins_as_often_as_bradley_and_terry_say(study):
    """σ(1 / 1) = .731, standard error .026, whichever side it stands on."""
    assert wins(study, temperature=1.0) == pytest.approx(0.731, abs=0.08)


def test_who_is_never_in_doubt_always_chooses_the_better(study):
    assert wins(study, temperature=1e-3) == 1


def test_a_bias_for_a_side_is_none_for_a_model(study):
    """Sides are balanced."""
    assert wins(study, temperature=1e6, position_bias=50.0) == pytest.approx(0.5, abs=1 / 300)


def test_equal_rewards_are_a_tie(study):
    with Session(study, "ada") as session:
        judge_session(session, lambda prompt, response: 1.0, Labeller(), 0)
    close(study)
    assert {row.score for row in read_rows(study, [])[0]} == {0.5}


def test_it_goes_on_where_another_session_stopped(study):
    with Session(study, "ada") as session:
        session.act("bad", 0)
    with Session(study, "ada") as session:
        assert judge_session(session, worth, Labeller(), 0) == session.total - 1


def test_the_seed_decides_what_is_chosen(study, tmp_path):
    def choices(name: str, seed: int) -> list[str]:
        with Session(study, name) as session:
            judge_session(session, worth, Labeller(temperature=1.0), seed)
            return [event["do"] for event in session.judged]

    assert choices("a", 1) == choices("b", 1) != choices("c", 2)


def test_who_likes_length_chooses_the_longer_answer_on_either_side(tmp_path):
    answers = {"sft": "1", "ppo": "0, but long"}
    assert wins(made(tmp_path / "study", lambda m, i: answers[m]), temperature=1e6, length_bias=50.0) == 1


def test_the_command_passes_on_all_that_it_is_told(study, tmp_path, monkeypatch, capsys):
    told = []
    monkeypatch.setattr(simulate_judge, "gold_of", lambda items: items)

    def hear(session, *rest):
        told.append((session.annotator, *rest))
        return 7

    monkeypatch.setattr(simulate_judge, "judge_session", hear)
    words = "--annotator eve --items x --temperature 2 --length-bias 3 --position-bias 4 --seed 5"
    monkeypatch.setattr(sys, "argv", ["simulate", str(study), *words.split()])
    simulate_judge.main()
    assert told == [("eve", "x", Labeller(2.0, 3.0, 4.0), 5)]
    assert capsys.readouterr().out == f"eve: 7 items judged in {study}\n"


@pytest.mark.parametrize("word", ["--soft", "--device", "--dtype", "--threads"])
def test_there_is_no_option_that_does_nothing(study, monkeypatch, word):
    monkeypatch.setattr(sys, "argv", ["simulate", str(study), word, "1"])
    with pytest.raises(UserError, match=f"no option {word}"):
        simulate_judge.main()


@pytest.fixture
def items(make_evaluation, tmp_path):
    """A function that writes an items.jsonl of one record and a model's answers to it."""
    def write(record: dict, *said: str) -> str:
        say = lambda m, i, k: said[max(k, 0)]  # noqa: E731
        made = make_evaluation([record], say, models=("sft",), samples=len(said))
        items_file.write_items(tmp_path / "items.jsonl", *made)
        return str(tmp_path / "items.jsonl")

    return write


def test_gold_is_the_tasks_own_reward_of_the_prompts_record(items):
    (record,) = TASKS["arithmetic"].records("test", 1, 0)
    gold = gold_of(items(record, record["answer"], "no"))
    assert gold(record["prompt"], record["answer"]) == 1 and gold(record["prompt"], "no") == 0
    with pytest.raises(UserError, match="no generated task has the prompt 'what"):
        gold("what?", "no")


def test_what_answers_another_prompt_is_worth_less_than_any_answer(items):
    """However right it would be: of an attention item a person sees that, and so passes it."""
    (record,) = TASKS["reviews"].records("test", 1, 0)
    gold = gold_of(items(record, "no review"))
    assert gold(record["prompt"], "the plot was amazing.") < gold(record["prompt"], "no review") == 0


def test_gold_finds_a_conversation_by_what_is_shown_and_is_asked_the_last_turn(items, monkeypatch):
    turns = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "x"}]
    record = {"task": "arithmetic", "messages": [*turns, {"role": "user", "content": "and?"}]}
    monkeypatch.setattr(TASKS["arithmetic"], "reward", lambda *case: float(case == ("and?", "yes", record)))
    assert gold_of(items(record, "yes"))(pairs.shown_prompt(record), "yes") == 1


def test_without_the_items_there_is_no_gold(tmp_path):
    with pytest.raises(UserError, match="gone.jsonl: No such file"):
        gold_of(str(tmp_path / "gone.jsonl"))
