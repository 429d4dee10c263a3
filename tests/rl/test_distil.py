"""Distillation: the losses by definition, their gradients against the oracle, and the loop."""

import json
import signal
from dataclasses import replace
from math import exp, log

import pytest
import torch
from enumerated import close, gradient, random_logits

from minirlhf.harness.files import Interrupted, UserError
from minirlhf.harness.loop import Run
from minirlhf.lm import sft
from minirlhf.lm.chat import Example
from minirlhf.lm.config import FitConfig
from minirlhf.rl import distil
from minirlhf.rl.distil import accumulate, answers, distillation_loss, train
from minirlhf.rl.losses import reinforce_loss
from minirlhf.rl.options import Distil
from minirlhf.theory.oracle import TokenMDP, kl, policy_gradient, probabilities, response_logprobs, token_logprobs_of

CONFIG = FitConfig(steps=4, lr=1e-2, warmup=1, save_every=3, micro_rows=3)
PROMPTS = [[65, 66, 67], [70], [80, 81], [90, 91, 92, 93, 94], [66, 67]]
EXAMPLES = [Example([5, 6, 7, 8, 1], [False, False, True, True, True]), Example([9, 3, 1], [False, True, True]),
            Example([4, 4, 2, 7, 7, 7, 1], [False, False, True, False, False, True, True])]  # fmt: skip
KINDS = pytest.mark.parametrize("loss", ["forward", "reverse"])


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The losses


@KINDS
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_loss_equals_its_definition(loss, temperature):
    student, teacher, mask = normal(0, 2, 3, 5), normal(1, 2, 3, 5), torch.tensor([[1, 1, 0], [0, 1, 0]]).bool()
    want = 0.0
    for z, z_teacher in zip(student[mask].tolist(), teacher[mask].tolist()):
        pi, p = ([exp(x / temperature) for x in row] for row in (z, z_teacher))
        pi, p = ([x / sum(row) for x in row] for row in (pi, p))
        a, b = (p, pi) if loss == "forward" else (pi, p)
        want += temperature**2 * sum(x * log(x / y) for x, y in zip(a, b))
    assert float(distillation_loss(student, teacher, mask, loss, temperature)) == pytest.approx(want, abs=1e-12)


@KINDS
def test_a_student_that_is_its_teacher_has_loss_0_and_nothing_to_learn(loss):
    z = normal(0, 4, 6).requires_grad_()
    found = distillation_loss(z, z.detach() + 3.0, torch.ones(4).bool(), loss, 2.0)  # equal up to a constant
    close(found, torch.zeros(()).double())
    close(gradient(found, z), torch.zeros(4, 6).double())


@KINDS
def test_at_high_temperature_the_gradient_is_that_of_matching_logits(loss):
    """(z − z_teacher) / V for logits of mean 0, whatever T: Hinton et al. 2015, eq. 4."""
    teacher = normal(1, 3, 5)
    z, teacher = normal(0, 3, 5).requires_grad_(), teacher - teacher.mean(-1, keepdim=True)
    for temperature in (1e3, 1e4):
        found = gradient(distillation_loss(z, teacher, torch.ones(3).bool(), loss, temperature), z)
        close(found, (z - z.mean(-1, keepdim=True) - teacher) / 5, atol=1e-2)
        assert found.norm() > 0.3


@KINDS
def test_what_stands_outside_of_the_mask_has_no_influence(loss):
    mask = torch.tensor([True, False, True])
    student, teacher = normal(0, 3, 5).requires_grad_(), normal(1, 3, 5)
    clean = gradient(distillation_loss(student, teacher, mask, loss), student)
    spoilt, teacher[1] = student.detach().clone(), torch.nan
    spoilt[1] = torch.inf
    got = gradient(distillation_loss(spoilt.requires_grad_(), teacher, mask, loss), spoilt)
    assert torch.equal(got, clean) and not got[1].any()


# Exactly, on a world in which every answer is listed


@pytest.fixture
def world():
    """(The MDP with reward 0, the student's logits with a gradient, the teacher's logits), X = 2, S = 7, V = 3."""
    mdp = TokenMDP(3, 1, 3, ((0, 2), (2,)), lambda prompt, response: 0.0)
    return mdp, random_logits(0, mdp).requires_grad_(), random_logits(1, mdp)


def expected(loss_of, sampler, mdp):
    """E_x E_{y ~ sampler} loss_of(x, n), a scalar; no gradient flows through the probabilities."""
    p = probabilities(sampler.detach().log_softmax(-1), mdp) / len(mdp.prompts)  # (X, N)
    return sum(w * loss_of(x, n) for x, row in enumerate(p) for n, w in enumerate(row))


def token_kl(student, teacher, mdp, loss):
    """(x, n) -> Σ_t L_t of the n-th answer to prompt x, as training computes it."""
    return lambda x, n: distillation_loss(student[x, mdp.states[n]], teacher[x, mdp.states[n]], mdp.mask[n], loss)


def test_on_the_teachers_answers_forward_is_the_kl_of_whole_answers(world):
    mdp, student, teacher = world
    whole = kl(teacher.log_softmax(-1), student.log_softmax(-1), mdp).mean()
    found = expected(token_kl(student, teacher, mdp, "forward"), teacher, mdp)
    close(found, whole, 1e-10)
    close(gradient(found, student), gradient(whole, student), 1e-10)


def noise_of(loss_of, sampler, mdp, student):
    """The variance of the gradient of loss_of(x, n) where the sampler draws the answer, summed over the logits."""
    mean = gradient(expected(loss_of, sampler, mdp), student)
    return expected(lambda x, n: (gradient(loss_of(x, n), student) - mean).square().sum(), sampler, mdp)


def test_hard_has_the_gradient_of_forward_on_average_and_more_noise(world):
    mdp, student, teacher = world
    forward = token_kl(student, teacher, mdp, "forward")
    hard = lambda x, n: -response_logprobs(student.log_softmax(-1), mdp)[x, n]
    close(*(gradient(expected(f, teacher, mdp), student) for f in (hard, forward)), 1e-10)
    assert noise_of(forward, teacher, mdp, student) < 0.6 * noise_of(hard, teacher, mdp, student)


def test_on_its_own_answers_reverse_is_the_kl_of_whole_answers_and_its_gradient_lacks_the_score_function(world):
    """With it, it is minus the policy gradient of reward 0, the teacher as reference and β = 1."""
    mdp, student, teacher = world
    logp, ref = student.log_softmax(-1), teacher.log_softmax(-1)
    each = (logp.exp() * (logp - ref)).sum(-1).detach()  # (X, S)
    after = torch.where(mdp.mask, each[:, mdp.states], 0.0)  # (X, N, L)
    after = after.flip(-1).cumsum(-1).flip(-1) - after  # Σ_{u>t}
    loss = token_kl(student, teacher, mdp, "reverse")
    score = lambda x, n: reinforce_loss(token_logprobs_of(logp, mdp)[x, n], -after[x, n], mdp.mask[n].double())
    found, rest = expected(loss, student, mdp), expected(score, student, mdp)
    close(found, kl(logp, ref, mdp).mean(), 1e-10)
    wanted = -policy_gradient(logp, ref, mdp, beta=1.0)
    close(gradient(kl(logp, ref, mdp).mean(), student), wanted, 1e-10)
    close(gradient(found, student) + gradient(rest, student), wanted, 1e-10)
    assert gradient(rest, student).norm() > 0.1 * wanted.norm()
    noise = [noise_of(f, student, mdp, student) for f in (loss, lambda x, n: loss(x, n) + score(x, n))]
    assert noise[0] < 0.6 * noise[1]


def test_the_gradient_of_reverse_is_that_of_the_kl_in_each_state_visited(world):
    """Σ_s d(s) ∇KL(π_s ‖ p_s), by hand: ∂KL / ∂z_a = π_a (log π_a / p_a − KL)."""
    mdp, student, teacher = world
    pi, ratio = student.softmax(-1), student.log_softmax(-1) - teacher.log_softmax(-1)  # (X, S, V) each
    want = torch.zeros_like(pi)
    p = probabilities(student.log_softmax(-1), mdp) / 2
    for x, n in ((x, n) for x in range(2) for n in range(len(mdp.responses))):
        for s in mdp.states[n][mdp.mask[n]]:
            want[x, s] += p[x, n] * pi[x, s] * (ratio[x, s] - (pi[x, s] * ratio[x, s]).sum())
    close(gradient(expected(token_kl(student, teacher, mdp, "reverse"), student, mdp), student), want, 1e-10)


# A step


def one_token_at_a_time(student, teacher, loss):
    """The mean loss of EXAMPLES, each prefix in a pass of its own."""
    total, count = 0.0, 0
    for e in EXAMPLES:
        for t in (t for t, counts in enumerate(e.mask) if counts):
            z, z_teacher = (m.logits(m(torch.tensor([e.ids[:t]])))[:, -1].double() for m in (student, teacher))
            if loss == "hard":
                total = total - z.log_softmax(-1)[0, e.ids[t]]
            else:
                total = total + distillation_loss(z, z_teacher.detach(), torch.ones(1).bool(), loss)
            count += 1
    return total / count


@pytest.mark.parametrize("micro_rows", [1, 3])
@pytest.mark.parametrize("loss", ["forward", "reverse", "hard"])
def test_a_step_is_that_of_one_token_at_a_time(loss, micro_rows, make_gpt):
    """Neither prompts nor padding count, and the last token, EOS, does."""
    student, slow, teacher = make_gpt(0), make_gpt(0), make_gpt(1, width=32, context=7)
    found, tokens = accumulate(student, teacher, EXAMPLES, Distil("text", loss), micro_rows, torch.float32)
    want = one_token_at_a_time(slow, teacher, loss)
    want.backward()
    assert tokens == 8 and found == pytest.approx(float(want.detach()), rel=1e-5)
    for a, b in zip(student.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)
    assert all(p.grad is None for p in teacher.parameters())


def test_hard_on_text_is_sft_to_the_bit(make_gpt):
    ours, theirs = make_gpt(0), make_gpt(0)
    found = accumulate(ours, make_gpt(1), EXAMPLES, Distil("text", "hard"), 2, torch.float32)
    assert found == sft.accumulate(theirs, EXAMPLES, 2, torch.float32)[:2]
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters()))


def test_an_answer_is_learned_with_its_eos_and_cut_at_the_context(make_policy, tokenizer, tmp_path):
    said = answers(make_policy(0), PROMPTS, Distil(max_new=8), tokenizer.eos_id, 9, Run(tmp_path), 1)
    for prompt, e in zip(PROMPTS, said, strict=True):
        assert e.ids[: len(prompt)] == prompt and len(prompt) < len(e.ids) <= 9
        assert e.mask == [False] * len(prompt) + [True] * (len(e.ids) - len(prompt))
        assert tokenizer.eos_id not in e.ids[:-1]
    assert {e.ids[-1] == tokenizer.eos_id for e in said} == {True, False}


def test_the_temperature_of_the_loss_is_not_that_of_sampling(make_policy, tokenizer, tmp_path):
    told = tokenizer.eos_id, 32, Run(tmp_path), 1
    said = [answers(make_policy(0), PROMPTS, Distil(max_new=8, temperature=t), *told) for t in (1.0, 5.0)]
    assert said[0] == said[1]


# The loop


def run(student, out, how=Distil(max_new=8), prompts=PROMPTS, rows=5.0, config=CONFIG, teacher=None, **told):
    return train(student, teacher, {"data": (prompts, rows)}, 256, how, config, Run(out, **told))


def logged(out, name):
    return [json.loads(line)[name] for line in (out / "log.jsonl").read_text().splitlines()]


def test_an_epoch_has_each_example_once_in_steps_of_so_many_rows(make_gpt, make_policy, tmp_path):
    still = FitConfig(steps=3, lr=0.0)
    run(make_gpt(0), tmp_path / "text", Distil("text"), EXAMPLES, 1.0, still, make_gpt(1))
    want = [accumulate(make_gpt(0), make_gpt(1), [e], Distil("text"), 1, torch.float32)[0] for e in EXAMPLES]
    assert sorted(logged(tmp_path / "text", "loss")) == pytest.approx(sorted(want), rel=1e-5)
    run(make_policy(0), tmp_path / "teacher", Distil("teacher", max_new=1), rows=2.0, config=still, teacher=make_policy(1))
    assert logged(tmp_path / "teacher", "tokens") == [2, 2, 2]


@pytest.mark.parametrize("on, times", [("teacher", 1), ("own", 3)])
def test_the_teacher_answers_once_and_the_student_anew_in_each_step(on, times, make_policy, tmp_path, monkeypatch):
    said, by = [], []

    def spy(model, *rest):
        by.append(model)
        said.append(answers(model, *rest))
        return said[-1]

    monkeypatch.setattr(distil, "answers", spy)
    student, teacher = make_policy(0), make_policy(1)
    run(student, tmp_path, Distil(on, max_new=8), [[66]] * 5, teacher=teacher, config=FitConfig(steps=3, lr=0.0))
    assert len(by) == times and all(model is (student if on == "own" else teacher) for model in by)
    assert len(set(map(str, said))) == times


@pytest.mark.parametrize("how", [Distil("own", "reverse", max_new=8), Distil("teacher", "forward", max_new=8)])
def test_the_student_comes_nearer_and_the_teacher_stays(how, make_policy, make_gpt, tmp_path):
    student, teacher = make_gpt(5, vocab_size=260, width=8, layers=1), make_policy(1)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    run(student, tmp_path, how, teacher=teacher, config=FitConfig(steps=25, lr=3e-2, warmup=5))
    losses = logged(tmp_path, "loss")
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_the_student_has_dropout_and_its_teacher_none(make_gpt, tmp_path):
    for name, mine, its in (("student", 0.5, 0.0), ("teacher", 0.0, 0.5)):
        student, teacher = make_gpt(0, dropout=mine), make_gpt(0, dropout=its).train()
        run(student, tmp_path / name, Distil("text"), EXAMPLES, 3.0, teacher=teacher)
    assert logged(tmp_path / "student", "loss")[0] > 0.1 and abs(logged(tmp_path / "teacher", "loss")[0]) < 1e-6


def test_a_run_shorter_than_its_warmup_still_reaches_the_peak(make_gpt, tmp_path):
    config = FitConfig(steps=2, lr=1e-2, warmup=50)
    run(make_gpt(0), tmp_path, Distil("text"), EXAMPLES, 3.0, config, make_gpt(1))
    assert logged(tmp_path, "lr") == [0.005, 0.01]


def test_a_step_without_a_prompt_learns_nothing_and_goes_on(make_policy, tmp_path):
    """As with a weight so small that not every step has a row."""
    student, start = make_policy(0), make_policy(0)
    run(student, tmp_path, rows=0.1, teacher=make_policy(1))
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), start.parameters(), strict=True))


@pytest.mark.parametrize("on", ["own", "teacher"])
def test_a_run_that_is_interrupted_and_resumed_gives_the_same_bits(on, make_policy, tmp_path, monkeypatch):
    whole, cut, again = (make_policy(0, dropout=0.1) for _ in range(3))
    how = Distil(on, "forward", max_new=8)
    run(whole, tmp_path / "whole", how, teacher=make_policy(1))

    def accumulate_and_stop(*args):
        signal.raise_signal(signal.SIGTERM)
        return accumulate(*args)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="after step 1 of 4"):
        patch.setattr(distil, "accumulate", accumulate_and_stop)
        run(cut, tmp_path / "cut", how, teacher=make_policy(1))
    with pytest.raises(UserError, match="saved with teacher = "):
        run(again, tmp_path / "cut", how, teacher=make_policy(2), resume=True)
    with pytest.raises(UserError, match="saved with temperature = "):
        run(again, tmp_path / "cut", replace(how, temperature=2.0), teacher=make_policy(1), resume=True)
    run(again, tmp_path / "cut", how, teacher=make_policy(1), resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
