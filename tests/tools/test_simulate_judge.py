"""The simulated annotator judges what is shown, by the law that it is told."""

import json
import sys

import pytest

from minirlhf.annotation import pairs, study_files
from minirlhf.annotation.log import Session, close, results
from minirlhf.harness.files import UserError
from minirlhf.preferences.simulated import Labeller
from minirlhf.rl.rewards import prompt_text
from minirlhf.tasks import TASKS
from minirlhf.tools import simulate_judge
from minirlhf.tools.simulate_judge import gold_of, judge

PROMPTS = [f"p{i}" for i in range(300)]


def rows(answer) -> list[dict]:
    """Responses of two models to PROMPTS, as evaluate.py writes them."""
    return [{"set": "s", "model": model, "index": i, "sample": 0, "prompt": prompt, "response": answer(model, i)}
            for model in ("sft", "ppo") for i, prompt in enumerate(PROMPTS)]  # fmt: skip


@pytest.fixture
def study(tmp_path):
    """A study of 300 pairs, in which ppo's answers are worth one more than sft's."""
    study, key = pairs.make(rows(lambda m, i: f"{m == 'ppo':d} {i} {m}"), ("sft", "ppo"), "s", 300, "which?", 0)
    study_files.create(tmp_path / "study", study, key)
    return tmp_path / "study"


def worth(prompt: str, response: str) -> float:
    return float(response[0])


def wins(folder, **labeller) -> float:
    """How often ppo won."""
    with Session(folder, "ada") as session:
        judge(session, worth, Labeller(**labeller), 0)
    close(folder)
    kinds = [row["choice"] for row in results(folder) if row["kind"] == "pair"]
    assert len(kinds) == 300
    return kinds.count("b") / 300


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
        judge(session, lambda prompt, response: 1.0, Labeller(), 0)
    close(study)
    assert {row["choice"] for row in results(study)} == {"tie"}


def test_it_goes_on_where_another_session_stopped(study):
    with Session(study, "ada") as session:
        session.act("bad", 0)
    with Session(study, "ada") as session:
        assert judge(session, worth, Labeller(), 0) == session.log.total - 1


def test_the_seed_decides_what_is_chosen(study, tmp_path):
    def choices(name: str, seed: int) -> list[str]:
        with Session(study, name) as session:
            judge(session, worth, Labeller(temperature=1.0), seed)
            return [event["do"] for event in session.log.state.judged[name]]

    assert choices("a", 1) == choices("b", 1) != choices("c", 2)


def test_who_likes_length_chooses_the_longer_answer_on_either_side(tmp_path):
    answers = {"sft": "1", "ppo": "0, but long"}
    study, key = pairs.make(rows(lambda m, i: answers[m]), ("sft", "ppo"), "s", 300, "?", 0)
    study_files.create(tmp_path / "study", study, key)
    assert wins(tmp_path / "study", temperature=1e6, length_bias=50.0) == 1


def test_the_command_passes_on_all_that_it_is_told(study, tmp_path, monkeypatch, capsys):
    told = []
    monkeypatch.setattr(simulate_judge, "gold_of", lambda items: items)

    def hear(session, *rest):
        told.append((session.annotator, *rest))
        return 7

    monkeypatch.setattr(simulate_judge, "judge", hear)
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


def write_items(path, record: dict, *said: str) -> str:
    """An items.jsonl of one record and a model's answers to it."""
    lines = [{"kind": "run", "version": 2}, {"kind": "prompt", "set": "s", "index": 0, "record": record}]
    answer = {"kind": "response", "set": "s", "model": "sft", "index": 0, "prompt": prompt_text(record)}
    lines += [answer | {"sample": i, "response": text} for i, text in enumerate(said)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_gold_is_the_tasks_own_reward_of_the_prompts_record(tmp_path):
    (record,) = TASKS["arithmetic"].records("test", 1, 0)
    gold = gold_of(write_items(tmp_path / "items.jsonl", record, record["answer"], "no"))
    assert gold(record["prompt"], record["answer"]) == 1 and gold(record["prompt"], "no") == 0
    with pytest.raises(UserError, match="no generated task has the prompt 'what"):
        gold("what?", "no")


def test_what_answers_another_prompt_is_worth_less_than_any_answer(tmp_path):
    """However right it would be: of an attention item a person sees that, and so passes it."""
    (record,) = TASKS["reviews"].records("test", 1, 0)
    gold = gold_of(write_items(tmp_path / "items.jsonl", record, "no review"))
    assert gold(record["prompt"], "the plot was amazing.") < gold(record["prompt"], "no review") == 0


def test_gold_finds_a_conversation_by_what_is_shown_and_is_asked_the_last_turn(tmp_path, monkeypatch):
    turns = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "x"}]
    record = {"task": "arithmetic", "messages": [*turns, {"role": "user", "content": "and?"}]}
    monkeypatch.setattr(TASKS["arithmetic"], "reward", lambda *case: float(case == ("and?", "yes", record)))
    assert gold_of(write_items(tmp_path / "items.jsonl", record, "yes"))(pairs.shown_prompt(record), "yes") == 1


def test_without_the_items_there_is_no_gold(tmp_path):
    with pytest.raises(UserError, match="no prompts in it"):
        gold_of(str(tmp_path / "gone.jsonl"))
