"""What makes a comparison of models worthless, to be said before its numbers: nothing, if all is well.

An alarm is one fact with its figures (what), what it spoils (why), and what to do (remedy). The items are
those of `ask.sample_items`, set -> model -> items, and the fingerprints of the weights. Answers that
agree because both are right, or are alike because the right ones are, raise none.
Proved by tests/evaluation/test_alarms.py.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean

from minirlhf.metrics.intervals import standard_error, t_quantile, wilson

Alarm = dict[str, str]  # what, why, remedy
ItemList = Sequence[dict]

LEAST = 20  # different prompts; fewer agree, or lean to one side, by luck
SAME = 0.99  # of greedy answers in common: training that did anything changes more of those that were wrong
ENDED = 0.95  # of responses: with more of them cut off, the limit and not the text makes the mean reward
UNPARSABLE = 0.05  # of responses: beyond it, a difference in score can be one of format alone
ALIKE = 0.5  # of the way from how often the right answers repeat each other to all answers being one
ROUNDING = 1e-3  # nats a response that float32 may be off
CHANCE = 1e-4  # of a gap that raises an alarm though nothing is wrong: 4.05 standard errors of 100 prompts


def alarms(
    models: Mapping[str, Mapping], items: Mapping[str, Mapping[str, ItemList]], train_prompts: Collection[str] = (),
    against: str = "",
) -> list[Alarm]:  # fmt: skip
    """Every alarm: first those of the models, then set by set.

    models: name -> "sha256", "stage", "reference" (whose KL it is), "trained_against", as in items.jsonl; one of stage
    "base" was never taught to answer, and how it does is no alarm.  against: what the others are compared with.
    """
    found = [*same_weights(models), *other_reference(models, against)]
    for title, of in items.items():
        greedy = {m: {x["prompt"]: x for x in rows if x["sample"] < 0} for m, rows in of.items()}
        found += same_answers(title, models, greedy)
        found += trained_prompts(title, of, train_prompts)
        found += constant_reward(title, of)
        for m, rows in of.items():
            sampled = [x for x in rows if x["sample"] >= 0]
            found += wrong_kl(title, m, sampled)
            if models[m].get("stage") != "base":
                found += no_end(title, m, sampled)
                found += unparsable(title, m, sampled)
                found += one_answer(title, m, greedy[m])
    return found


def same_weights(models: Mapping[str, Mapping]) -> Iterator[Alarm]:
    """Several names for one checkpoint."""
    names: dict[str, list[str]] = {}
    for name, model in models.items():
        names.setdefault(model["sha256"], []).append(name)
    for sha, twins in names.items():
        if len(twins) > 1:
            yield {"what": f"same weights: {' and '.join(twins)} are one checkpoint ({sha[:8]})",
                   "why": "the comparison compares a model with itself: every difference is 0 or noise",
                   "remedy": "name the trained model's folder; or did training not save what it learnt?"}


def other_reference(models: Mapping[str, Mapping], against: str) -> Iterator[Alarm]:
    """A policy whose KL and J are not to the model that it was trained against, or not to what it is compared with."""
    for name, model in models.items():
        own, trained = model.get("reference"), model.get("trained_against")
        if trained and models[own]["sha256"] != trained:
            yield {"what": f"other reference: KL and J of {name} are to {own}, not to what it was trained against",
                   "why": "KL, J and share are not those of its training: another distance, from another start",
                   "remedy": f"name the weights {trained[:8]} among --models; if they are gone, train {name} again"}
        elif trained and against not in (name, own):
            yield {"what": f"two yardsticks: {name} is compared with {against}, its KL and J are to {own}",
                   "why": f"a difference from {against} is not what training gained: that began at {own}",
                   "remedy": f"--against {own}; or read the differences as those of two models"}


def same_answers(title: str, models: Mapping[str, Mapping], greedy: Mapping[str, Mapping]) -> Iterator[Alarm]:
    """Two models of different weights that answer alike, and not because both are right."""
    for a, b in combinations(greedy, 2):
        pairs = [(greedy[a][p], greedy[b][p]) for p in greedy[a] if p in greedy[b]]
        equal = sum(x["response"] == y["response"] for x, y in pairs)
        wrong = sum(x.get("answer", x["response"]).strip() != (x.get("reference") or "").strip() for x, _ in pairs)
        if models[a]["sha256"] != models[b]["sha256"] and wrong >= LEAST and equal > SAME * len(pairs):
            yield {"what": f"same answers: {a} and {b}, of different weights, give the same greedy "
                           f"answer to {equal} of {len(pairs)} prompts of {title}",
                   "why": "in all but name a model is compared with itself: no greedy metric can differ",
                   "remedy": "look whether the trained weights were saved and loaded; if so, "
                             "training hardly moved the model: a larger learning rate, a smaller beta"}


def trained_prompts(title: str, of: Mapping[str, ItemList], train_prompts: Collection[str]) -> Iterator[Alarm]:
    """Test prompts that stand among the training prompts."""
    asked = dict.fromkeys(x["prompt"] for rows in of.values() for x in rows)
    if known := [prompt for prompt in asked if prompt in train_prompts]:
        yield {"what": f"train/test overlap: {len(known)} of {len(asked)} prompts of {title} were trained "
                       f"on, such as {known[0]!r:.60}",
               "why": "a model that remembers them looks better than it is on prompts it has never seen",
               "remedy": "leave them out of the test file; or leave them out of training, and train again"}


def constant_reward(title: str, of: Mapping[str, ItemList]) -> Iterator[Alarm]:
    """One reward for all that any model said."""
    rewards = [x["scores"]["reward"] for rows in of.values() for x in rows if "reward" in x["scores"]]
    if len(rewards) > 1 and min(rewards) == max(rewards):
        yield {"what": f"constant reward: {rewards[0]:g} for all {len(rewards)} responses to {title}",
               "why": "a reward that tells no two responses apart tells no two models apart",
               "remedy": "put a good and a bad response to the reward by hand; if it is sound, other prompts"}


def wrong_kl(title: str, model: str, rows: ItemList) -> Iterator[Alarm]:
    """A mean KL below 0, which no two distributions have; or k1 away from the exact KL that it estimates."""
    if not rows:
        return
    kl, k1 = (fmean(x[name] for x in rows) for name in ("kl", "k1"))
    gaps: dict[str, list[float]] = {}
    for x in rows:
        gaps.setdefault(x["prompt"], []).append(x["k1"] - x["kl"])
    means = [fmean(values) for values in gaps.values()]  # a value a prompt: its samples are not independent
    gap, error = fmean(means), standard_error(means)
    cause = {"why": "what was sampled is not what was scored: KL, J and best-of-n are those of another model",
             "remedy": "the same temperature, prompt and mask for both; no top-k or top-p, no dropout"}
    if kl < -ROUNDING:
        yield {"what": f"negative KL: {kl:.3f} nats a response, {model} to the reference on {title}"} | cause
    elif len(means) >= LEAST and abs(gap) > t_quantile(1 - CHANCE / 2, len(means) - 1) * error + ROUNDING:
        yield {"what": f"wrong KL: {kl:.3f} nats a response exactly, {k1:.3f} by k1, of {model} on {title}: "
                       f"they differ by {gap:.3f}, with a standard error of {error:.3f}"} | cause


def no_end(title: str, model: str, rows: ItemList) -> Iterator[Alarm]:
    """Too many responses that did not end by themselves."""
    stops = Counter(x["stop"] for x in rows)
    if stops["eos"] < ENDED * len(rows):
        yield {"what": f"no end: {stops['eos']} of {len(rows)} responses of {model} on {title} end with EOS; "
                       f"{stops['length']} were cut at the length limit, {stops['context']} at the context",
               "why": "the reward of half a text is not that of the text, and its length is the limit's",
               "remedy": "a larger --max-new, or a model with more context; SFT with the EOS in the loss"}


def unparsable(title: str, model: str, rows: ItemList) -> Iterator[Alarm]:
    """Too many responses that are no answer at all."""
    bad, n = sum(x["scores"].get("unparsable", 0) == 1 for x in rows), len(rows)
    if bad > UNPARSABLE * n:
        low, high = wilson(bad, n)
        yield {"what": f"unparsable: {bad} of {n} responses of {model} on {title}, {bad / n:.1%} "
                       f"[{low:.1%}, {high:.1%}], are no answer",
               "why": "they count as wrong: scores then tell the format apart, more than the answers",
               "remedy": "read some in items.jsonl; SFT on the format, or a parser that takes what is meant"}


def one_answer(title: str, model: str, answers: Mapping[str, dict]) -> Iterator[Alarm]:
    """One greedy answer to most prompts, where the right answers are not as much alike."""
    n = len(answers)
    said, right = (Counter(x.get(key) for x in answers.values()) for key in ("response", "reference"))
    common = max((times for text, times in right.items() if text), default=0) / max(n, 1)
    (text, times), = said.most_common(1) or [("", 0)]
    if n >= LEAST and times / n > common + ALIKE * (1 - common):
        yield {"what": f"one answer: {model} says {text!r:.50} to {times} of {n} prompts of {title}",
               "why": "it hardly looks at the prompt (mode collapse): its scores are those of a constant",
               "remedy": "in RL a larger beta, a smaller learning rate, a reward that depends on the prompt"}
