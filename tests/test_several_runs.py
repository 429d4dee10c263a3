"""Several training runs: each run's difference, the interval of their mean, and what is refused."""

import math

import numpy as np
import pytest
from test_comparison import PROMPTS, answers, write

from minirlhf.files import UserError
from minirlhf.seeds import compare_runs
from minirlhf.several_runs import compare, lines, run
from minirlhf.stats import holm


def prompts_of(s: int) -> list[str]:
    """Prompts that run s alone is asked."""
    return [f"{prompt} of {s}" for prompt in PROMPTS]


@pytest.fixture
def of_runs(tmp_path):
    """A function of each run's gain, or title -> gains, that compares the runs."""
    def of_runs(*gains, shared=False, noise=True, **more) -> dict:
        paths = []
        for s, gain in enumerate(gains):
            sets = {}
            for title, g in (gain if isinstance(gain, dict) else {"task": gain}).items():
                asked = PROMPTS if shared else prompts_of(s)
                sets[title] = {"sft": answers(asked), "ppo": answers(asked, shift=g, noise=(s + 1) * noise)}
            paths.append(write(tmp_path / str(s), sets, reference="sft", **more))
        return compare(paths)

    return of_runs


def row(found: dict, metric: str = "reward", title: str = "task") -> dict:
    (part,) = [part for part in found["sets"] if part["set"] == title]
    return next(row for row in part["metrics"] if row["metric"] == metric)


def gain_of(s: int, shift: float) -> np.ndarray:
    """(prompts,) mean reward of ppo less that of sft in run s."""
    a, b = ([np.mean([x["scores"]["reward"] for x in rows if x["index"] == i and x["sample"] >= 0]) for i in range(30)]
            for rows in (answers(prompts_of(s), shift=shift, noise=s + 1), answers(prompts_of(s))))  # fmt: skip
    return np.array(a) - np.array(b)


def test_each_run_shows_its_difference_of_sampled_rewards(of_runs):
    seen = row(of_runs(0.1, 0.2, 0.3))["by_run"]
    assert seen == pytest.approx([gain_of(s, shift).mean() for s, shift in enumerate((0.1, 0.2, 0.3))])


def test_runs_on_prompts_of_their_own_are_independent_draws(of_runs):
    """Gains of exactly 1, 2 and 3: 2 ± 4.302653 / √3, and Student's p with 2 degrees of freedom."""
    seen = row(of_runs(1.0, 2.0, 3.0, noise=False))
    half = 4.302653 / math.sqrt(3)
    assert (seen["value"], seen["low"], seen["high"]) == pytest.approx((2, 2 - half, 2 + half), abs=1e-5)
    t = 2 * math.sqrt(3)
    assert seen["p"] == pytest.approx(1 - t / math.sqrt(t * t + 2))  # the t distribution of 2 degrees, exactly
    assert "from_prompts" not in seen


def test_two_runs_have_a_t_of_12_7(of_runs):
    seen = row(of_runs(1.0, 2.0, noise=False))
    assert seen["high"] - seen["value"] == pytest.approx(12.7062 / 2, abs=1e-4)
    assert seen["p"] == pytest.approx(1 - 2 / math.pi * math.atan(3)) and seen["verdict"] == "no difference shown"


def test_runs_on_the_same_prompts_are_a_sample_of_both(of_runs):
    """What seeds.compare_runs says of (S, n) scores."""
    gains = (0.1, 0.2, 0.4)
    found = of_runs(*gains, shared=True)
    table = [[[np.mean([x["scores"]["reward"] for x in rows if x["index"] == i and x["sample"] >= 0]) for i in range(30)]
              for rows in (answers(shift=gain, noise=s + 1), answers())] for s, gain in enumerate(gains)]  # fmt: skip
    c, seen = compare_runs(*np.array(table).transpose(1, 0, 2)), row(found)
    assert found["sets"][0]["shared_prompts"]
    assert (seen["low"], seen["high"], seen["p"]) == pytest.approx((*c.interval, c.p_value))
    assert (seen["from_training"], seen["from_prompts"]) == pytest.approx((c.from_training, c.from_prompts))
    assert row(of_runs(*gains))["low"] != pytest.approx(seen["low"])


@pytest.mark.parametrize("shared", [False, True])
def test_runs_that_agree_to_the_bit_say_nothing_of_the_next(shared, of_runs):
    """Two runs of a coarse metric often do, by chance: a t of infinity would call that shown."""
    found = of_runs(0.25, 0.25, noise=False, shared=shared)
    seen = row(found)
    assert seen["value"] == pytest.approx(0.25) and seen["verdict"] == "undefined"
    assert seen["p"] is None and seen["low"] is None
    same = row(found, "unparsable")
    assert (same["value"], same["p"], same["verdict"]) == (0, 1, "no difference shown")


def test_rewards_go_by_holms_p_over_the_sets(of_runs):
    """Of two sets alike, each is shown alone at 5 %, and neither beside the other."""
    gains = (1.0, 1.2, 1.75)
    alone = row(of_runs(*gains, noise=False))
    assert 0.025 < alone["p"] < 0.05 and alone["verdict"] == "better"
    found = of_runs(*({"one": g, "two": g} for g in gains), noise=False)
    seen = [row(found, title=title) for title in ("one", "two")]
    assert [x["p_holm"] for x in seen] == pytest.approx(holm([alone["p"]] * 2).tolist())
    assert {x["verdict"] for x in seen} == {"no difference shown"}


@pytest.mark.parametrize("steps, verdict", [((1, 2, 3), "no difference shown"), ((1.5, 2, 2.5), "higher")])
def test_other_quantities_go_by_their_own_p(steps, verdict, tmp_path):
    """t of 3.46 and 6.93, of which 4.30 is the limit."""
    paths = []
    for s, step in enumerate(steps):
        sets = {"sft": answers(prompts_of(s)), "ppo": answers(prompts_of(s))}
        for x in sets["ppo"]:
            x["kl"] += step
        paths.append(write(tmp_path / str(s), {"task": sets}, reference="sft"))
    assert row(compare(paths), "KL to reference, nats")["verdict"] == verdict


def test_a_lower_share_of_unparsable_answers_is_better_and_a_lower_kl_is_lower(tmp_path):
    paths = []
    for s in range(3):
        asked = prompts_of(s)
        sets = {"sft": answers(asked), "ppo": answers(asked)}
        for x in sets["ppo"]:
            x["kl"] -= 1 + s / 100
        for x in sets["sft"]:
            x["scores"] = x["scores"] | {"unparsable": 1 - s / 100}
        paths.append(write(tmp_path / str(s), {"task": sets}, reference="sft"))
    found = compare(paths)
    assert (row(found, "unparsable")["value"], row(found, "unparsable")["verdict"]) == (pytest.approx(-0.99), "better")
    kl = row(found, "KL to reference, nats")
    assert (kl["value"], kl["verdict"]) == (pytest.approx(-1.01), "lower")


def test_only_sets_and_scores_of_all_runs_are_compared(of_runs):
    found = of_runs({"a": 0.1, "b": 0.1}, {"b": 0.2, "c": 0.1})
    assert [part["set"] for part in found["sets"]] == ["b"]


def test_the_table_shows_every_run_and_says_whose_prompts_they_are(of_runs):
    text = lines(of_runs(1.0, 2.0, 3.0, noise=False))
    (line,) = [line for line in text.split("\n") if line.startswith("reward")]
    assert line.split() == ["reward", "+1.000", "+2.000", "+3.000", "+2.000", "±2.484", "not", "shown"]
    assert "ppo - sft" in text and "3 runs, each on prompts of its own" in text
    assert "each on the same prompts" in lines(of_runs(1.0, 2.0, shared=True))


def test_what_are_no_runs_of_one_recipe_is_refused(of_runs, tmp_path):
    of_runs(0.1, 0.2)
    first, second = (str(tmp_path / f"{s}/report.json") for s in (0, 1))
    sides = {"sft": answers(), "ppo": answers()}
    renamed = {"sft": answers(), "dpo": answers()}
    alone = write(tmp_path / "alone", {"task": sides}, reference="ppo")
    other = write(tmp_path / "other", {"task": renamed}, reference="sft")
    elsewhere = write(tmp_path / "elsewhere", {"else": sides}, reference="sft")
    for paths, message in (
        ([first], "two training runs or more"), ([first, first], "weights of another of these runs"),
        ([first, other], "dpo - sft, where .* has ppo - sft"), ([alone, alone], "ppo - ppo, .*: evaluate two models"),
        ([first, elsewhere], "no test set is in all"),
        ([first, str(tmp_path / "gone.json")], "gone.json"),
    ):
        with pytest.raises(UserError, match=message) as error:
            run(paths)
        assert "\n" not in str(error.value)
    assert run([first, second])["last"] == "ppo"
