"""The environment is what a batched rollout does, a token at a time; and it keeps Gymnasium's convention."""

import doctest
from math import log

import numpy as np
import pytest
import torch

from minirlhf.lm.chat import render_prompt
from minirlhf.lm.generation import Sampling, generate, row_uniforms
from minirlhf.rl.losses import gae, token_rewards
from minirlhf.rl.rollout import Models, collect
from minirlhf.theory import environment
from minirlhf.theory.environment import TextEnv
from minirlhf.theory.oracle import TokenMDP

EOS = 0


def length(prompt: tuple, response: tuple) -> float:
    """A reward that tells the two arguments apart."""
    return 10.0 * len(prompt) + len(response)


def make(prompts=((5, 4, 3), (1, 2), (2,)), reward=length, max_new=3, vocab_size=6) -> TextEnv:
    return TextEnv(TokenMDP(vocab_size, EOS, max_new, prompts, reward, missing_eos=-7.0))


def play(env: TextEnv, prompt: int, actions: list[int]) -> list[tuple]:
    """What reset and the steps return."""
    return [env.reset(options={"prompt": prompt}), *map(env.step, actions)]


# The convention


def test_the_example_in_the_docstring_runs():
    result = doctest.testmod(environment)
    assert result.attempted == 5 and result.failed == 0


@pytest.mark.parametrize("actions, last", [
    ([0], (20.0, True, False)),
    ([3, 0], (21.0, True, False)),
    ([3, 3, 0], (22.0, True, False)),  # EOS as the last token allowed: it did end
    ([3, 3, 3], (-7.0, False, True)),
], ids=str)
def test_eos_terminates_with_the_score_and_the_limit_truncates_without(actions, last):
    """Before the end each reward is 0; the observation grows by the token chosen."""
    first, *steps = play(make(), 1, actions)
    assert first == ((1, 2), {"prompt": 1})
    for t, (observation, reward, terminated, truncated, info) in enumerate(steps, 1):
        assert observation == (1, 2, *actions[:t]) and info == {"prompt": 1}
        assert (reward, terminated, truncated) == (last if t == len(actions) else (0.0, False, False))


def test_the_reward_function_sees_only_responses_that_ended():
    seen = []
    env = make(reward=lambda x, y: float(len(seen.append((x, y)) or y)))
    for actions in ([3, 3, 3], [4, 0]):
        play(env, 1, actions)
    assert seen == [((1, 2), (4,))]


@pytest.mark.parametrize("actions", [[0], [3, 3, 3], None], ids=["after EOS", "after the limit", "at first"])
def test_a_step_outside_an_episode_is_an_error_until_the_next_reset(actions):
    env = make()
    if actions:
        play(env, 0, actions)
    with pytest.raises(RuntimeError, match=r"call reset\(\)"):
        env.step(1)
    assert play(env, 2, [1])[-1][0] == (2, 1)


@pytest.mark.parametrize("action", [-1, 6, 1.5, "a", None])
def test_an_action_that_is_no_token_is_an_error_and_changes_nothing(action):
    env = make()
    play(env, 1, [3])
    with pytest.raises(ValueError, match="from 0 to 5"):
        env.step(action)
    assert env.step(4)[0] == (1, 2, 3, 4)


def test_an_action_may_be_a_tensor_or_a_numpy_integer_and_the_state_holds_ints():
    observation = play(make(), 1, [torch.tensor(3), np.int64(0)])[-1][0]
    assert observation == (1, 2, 3, 0) and all(type(i) is int for i in observation)


def test_the_seed_decides_the_prompts_and_no_seed_goes_on_with_the_draws():
    runs = []
    for seed in (3, 3, 4):
        env = make()
        runs.append([env.reset(seed=seed)] + [env.reset() for _ in range(20)])
    assert runs[0] == runs[1] != runs[2]


def test_prompts_are_drawn_uniformly():
    """600 draws of 3: each count is binomial, 200 ± 11.5; within 4.5 standard deviations."""
    env = make()
    env.reset(seed=0)
    drawn = [env.reset()[1]["prompt"] for _ in range(600)]
    assert all(abs(drawn.count(i) - 200) < 52 for i in range(3))


def test_a_chosen_prompt_draws_nothing():
    runs = []
    for options in (None, {"prompt": 1}):
        env = make()
        env.reset(seed=3)
        if options:
            assert env.reset(options=options) == ((1, 2), {"prompt": 1})
        runs.append([env.reset() for _ in range(10)])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("index", [-1, 3])
def test_a_prompt_that_is_not_there_is_an_error(index):
    with pytest.raises(ValueError, match=f"prompt {index}: there are 3"):
        make().reset(options={"prompt": index})


@pytest.mark.parametrize("settings", [
    {"prompts": ()},
    {"max_new": 0},
    {"vocab_size": 0},
    {"prompts": ((1, 2), (3,), (1, 2, 5), (1, 3))},  # after [1, 2], 5 a state of two prompts
], ids=str)
def test_settings_without_a_decision_problem_are_refused(settings):
    with pytest.raises(ValueError):
        make(**settings)


def test_the_same_prompt_twice_is_no_ambiguity():
    assert play(make(prompts=((1, 2), (1, 2))), 1, [0])[-1][1] == 20.0


# Against the rest of the package


def test_the_environment_is_the_token_mdp_of_the_oracle():
    """Every one of the responses to every prompt: sum of rewards, and whether it ended."""
    mdp = TokenMDP(4, EOS, 3, ((1, 2), (3,)), length, -7.0)
    env = TextEnv(mdp)
    for x, scores in enumerate(mdp.scores.tolist()):
        for response, score, ended in zip(mdp.responses, scores, mdp.ended.tolist()):
            _, *steps = play(env, x, response)
            assert sum(step[1] for step in steps) == score and steps[-1][2:4] == (ended, not ended)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_stepping_with_the_tokens_of_a_rollout_gives_its_rewards_and_returns(make_policy, tokenizer, gamma):
    """`collect` samples, decodes and scores a ragged batch; its token rewards at β = 0 are the steps'."""
    records = [{"prompt": text} for text in ("a", "more words", "bc", "d", "ef", "g")]
    models, reward = Models(make_policy(0), None, make_policy(1), tokenizer), lambda x, text, record: len(text) + 0.5
    r = collect(models, records, lambda record: reward, range(40, 46), Sampling(10, 0.7), missing_eos=-1.0)
    assert set(r.ended.tolist()) == {True, False} and len(set(r.mask.sum(1).tolist())) >= 3
    rewards = token_rewards(r.scores, torch.zeros_like(r.logprobs), r.mask, beta=0.0)  # (B, R)
    _, returns = gae(rewards, torch.zeros_like(rewards), r.mask, gamma, lam=1.0)  # (B, R)

    prompts = tuple(tuple(render_prompt(record, tokenizer)) for record in records)
    env = TextEnv(TokenMDP(tokenizer.vocab_size, tokenizer.eos_id, 10, prompts,
                           lambda x, y: len(tokenizer.decode(list(y))) + 0.5, missing_eos=-1.0))
    for b, ended in enumerate(r.ended.tolist()):
        tokens = r.ids[b, r.mask[b]].tolist()
        (first, _), *steps = play(env, b, tokens)
        assert list(first) == r.prompt_ids[b, r.prompt_mask[b]].tolist() and steps[-1][0] == (*first, *tokens)
        assert [step[2] or step[3] for step in steps] == [False] * (len(tokens) - 1) + [True]
        assert steps[-1][2:4] == (ended, not ended)
        G, slow = 0.0, []
        for _, reward, *_ in reversed(steps):
            G = reward + gamma * G
            slow.insert(0, G)
        assert [step[1] for step in steps] == rewards[b, r.mask[b]].tolist()
        assert returns[b, r.mask[b]].tolist() == pytest.approx(slow, abs=1e-5)


@torch.no_grad()
def test_a_policy_that_acts_in_the_environment_says_what_the_batched_sampler_says(make_gpt):
    """Observe, draw a token by the row's next uniform, step: row by row the tokens of `generate`."""
    model, prompts, seeds = make_gpt(vocab_size=6), [(5, 4, 3), (1, 2), (2, 2), (3,), (4, 1)], range(7, 12)
    g = generate(model, prompts, Sampling(8, temperature=1.3), EOS, seeds)
    env = make(prompts, max_new=8)
    for b, (prompt, seed) in enumerate(zip(prompts, seeds)):
        observation, _ = env.reset(options={"prompt": b})
        uniforms, logprobs = iter(row_uniforms([seed], 8)[0].tolist()), []
        terminated = truncated = False
        while not (terminated or truncated):
            logits = model.logits(model(torch.tensor([observation])))[0, -1]  # (V,)
            p = (logits.double() / 1.3).softmax(-1).tolist()
            u, token = next(uniforms), 0
            while sum(p[: token + 1]) <= u:
                token += 1
            logprobs.append(log(p[token]))
            observation, _, terminated, truncated, _ = env.step(token)
        assert observation == (*prompt, *g.ids[b, g.mask[b]].tolist())
        assert (terminated, truncated) == (bool(g.ended[b]), not g.ended[b])
        assert g.logprobs[b, g.mask[b]].tolist() == pytest.approx(logprobs, abs=1e-4)
    assert set(g.ended.tolist()) == {True, False} and len(set(g.mask.sum(1).tolist())) >= 3
