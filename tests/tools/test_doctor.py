"""The doctor: each check calls a sound trainer sound and finds a planted defect; the table; the command."""

import dataclasses
import itertools
import json
import random
import re
import time
from copy import deepcopy
from math import nan

import pytest
import torch

from minirlhf.harness.files import UserError
from minirlhf.lm import checkpoint
from minirlhf.lm.generation import Sampling, generate
from minirlhf.lm.gguf_models import write_gguf
from minirlhf.lm.model import ScalarHead
from minirlhf.lm.safetensors import write_safetensors
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.rl.algorithms import advantages_of
from minirlhf.rl.config import ALGORITHMS
from minirlhf.rl.options import RewardOptions, Turns
from minirlhf.rl.losses import gae, kl_estimate, masked_mean, masked_sum, token_rewards
from minirlhf.rl.rollout import Models, Rollout, collect, score_tokens
from minirlhf.tools import checks, doctor, examination

T, BETA, MAX_NEW = 0.7, 0.1, 10
FLOAT = torch.float32
RECORDS = [{"prompt": p} for p in ("a", "more words", "bc", "d")]
PPO = ALGORITHMS["ppo"]
NAMES = [
    *["ratio = 1", "sampler = scorer"] * 2, "sampler = scorer", "padding is invisible", "KL to itself is 0",
    "responses end", "EOS is trained", "reference stays", "reward is on the EOS", "reward has contrast",
    "reward is a function",
]  # fmt: skip
REWARDS = """
import random
def length(prompt, response, record):
    return float(len(response))
def constant(prompt, response, record):
    return 0.5
def noise(prompt, response, record):
    return random.random()
def nan(prompt, response, record):
    return float("nan")
"""


@pytest.fixture
def policy(make_policy):
    """Of a context in which 10 tokens fit behind every prompt."""
    return make_policy(0)


@pytest.fixture
def head():
    """A value head that says something."""
    torch.manual_seed(7)
    head = ScalarHead(16)
    with torch.no_grad():
        head.weight.normal_()
    return head


@pytest.fixture
def rollout(policy, head, make_policy, tokenizer):
    """Two responses to each record, ragged, some cut off; the reward is their length."""
    records = [record for record in RECORDS for _ in range(2)]
    models, reward = Models(policy, head, make_policy(1), tokenizer), lambda p, r, x: float(len(r))
    made = collect(models, records, lambda record: reward, range(40, 48), Sampling(MAX_NEW, T), -1.0)
    assert 0 < int(made.ended.sum()) < 8 and len(set(made.mask.sum(1).tolist())) >= 3
    return made


@pytest.fixture
def score(policy, head):
    """The scorer of training."""
    return lambda rows: score_tokens(policy, head, rows, T)


@pytest.fixture
def losses(score):
    """(log π, V, a loss) as padding_is_invisible wants them."""
    def losses(rows):
        logprobs, values, _ = score(rows)
        advantages = advantages_of(rows, PPO, BETA).advantages
        return logprobs, values, masked_mean(advantages * logprobs, rows.mask)

    return losses


def dropping(model):
    """The model in training mode, with dropout."""
    model = deepcopy(model).train()
    model.config = dataclasses.replace(model.config, dropout=0.2)
    return model


def broken(finding):
    """Whether it says so, and with a reason and a remedy."""
    lines = str(finding).splitlines()
    assert (len(lines) == 1) == (finding.ok is True)
    if finding.ok is not True:
        assert lines[1].strip().startswith("why: ") and lines[2].strip().startswith("do:  ")
    assert lines[0].startswith({True: "ok ", False: "BROKEN ", None: "note "}[finding.ok])
    return finding.ok is False


def test_the_ratio_is_1_however_the_round_is_cut(rollout, score):
    for minibatches, micro_rows in ((1, 8), (2, 3), (100, 1)):
        assert not broken(checks.ratio_is_one(score, rollout, minibatches, micro_rows, FLOAT))


@pytest.mark.parametrize("defect", ["temperature", "dropout", "one row", "nan"])
def test_a_ratio_other_than_1_is_found(defect, policy, head, rollout, score):
    """Also where it is one token of one row, and where it is NaN."""
    if defect == "temperature":
        score = lambda rows: score_tokens(policy, head, rows)  # noqa: E731
    elif defect == "dropout":
        wild = dropping(policy)
        score = lambda rows: score_tokens(wild, head, rows, T)  # noqa: E731
    else:
        rollout.logprobs[5, 0] += nan if defect == "nan" else 0.005
    assert broken(checks.ratio_is_one(score, rollout, 2, 3, FLOAT))


def test_the_sampler_is_the_scorer(rollout, score):
    finding = checks.sampler_is_scorer(score, rollout, rollout.sampled_logprobs, T, FLOAT)
    assert not broken(finding) and "T = 0.7" in finding.figure


@pytest.mark.parametrize("defect", ["temperature", "top-k", "shift"])
def test_a_sampler_of_another_distribution_is_found(defect, policy, rollout, score, tokenizer):
    rows, logprobs = rollout, rollout.sampled_logprobs.roll(1, 1)
    if defect == "temperature":
        logprobs = score_tokens(policy, None, rows)[0].detach()
    elif defect == "top-k":
        rows = generate(policy, [[3], [4, 5]], Sampling(MAX_NEW, T, top_k=5), tokenizer.eos_id, [0, 1])
        logprobs = rows.logprobs
    assert broken(checks.sampler_is_scorer(score, rows, logprobs, T, FLOAT))
    assert broken(checks.sampler_is_scorer(score, rows, logprobs, T, torch.bfloat16))


def test_padding_is_invisible(losses, rollout):
    assert not broken(checks.padding_is_invisible(losses, rollout))


def test_padded_rows_are_the_rows_between_padding(rollout):
    wide = checks.pad_columns(rollout, 3, 5, 1, nan)
    assert wide.ids.shape[1] == rollout.ids.shape[1] + 5
    assert wide.prompt_ids.shape[1] == rollout.prompt_ids.shape[1] + 3
    assert torch.equal(wide.mask.sum(1), rollout.mask.sum(1)) and wide.values[:, -5:].isnan().all()
    back = wide.rows(range(8))
    for f in dataclasses.fields(rollout):
        assert torch.equal(getattr(back, f.name), getattr(rollout.rows(range(8)), f.name))


@pytest.mark.parametrize("defect", ["left padding is text", "right padding is text", "mean over all columns"])
def test_padding_that_counts_is_found(defect, losses, score, rollout):
    def careless(rows):
        if defect.startswith("left"):
            rows = dataclasses.replace(rows, prompt_mask=torch.ones_like(rows.prompt_mask))
            return *score(rows)[:2], torch.zeros(())
        logprobs, values, loss = losses(rows)
        if defect.startswith("right"):
            rows = dataclasses.replace(rows, mask=torch.ones_like(rows.mask))
            return logprobs, values, score(rows)[0].sum()
        return logprobs, values, logprobs.mean()

    assert broken(checks.padding_is_invisible(careless, rollout))


def test_the_kl_to_an_equal_model_is_exactly_0(policy, make_policy, rollout):
    assert not broken(checks.kl_to_itself(policy, deepcopy(policy), make_policy(1), rollout, T))


def test_the_kl_to_the_reference_is_the_sum_over_the_tokens(policy, make_policy, rollout):
    figure = checks.kl_to_itself(policy, deepcopy(policy), make_policy(1), rollout, T).figure
    k1 = float(masked_sum(kl_estimate(rollout.logprobs, rollout.ref_logprobs), rollout.mask)) / 8
    assert f"k1 {k1:.3f} nats" in figure


def test_a_kl_to_itself_above_0_is_found(policy, make_policy, rollout):
    """Dropout in one of the two, and a copy that has moved by very little."""
    wild, moved = dropping(policy), deepcopy(policy)
    with torch.no_grad():
        moved.ln_f.bias[0] += 1e-3
    for twin in (wild, moved):
        assert broken(checks.kl_to_itself(policy, twin, make_policy(1), rollout, T))


def test_an_eos_that_is_never_sampled_is_found(rollout, tokenizer):
    assert not broken(checks.responses_end(rollout, tokenizer.eos_id, 32, MAX_NEW))
    share = float(rollout.ended.float().mean())
    assert f"{share:.0%} of responses" in checks.responses_end(rollout, tokenizer.eos_id, 32, MAX_NEW).figure
    cut = rollout.rows((~rollout.ended).nonzero().flatten())
    assert broken(checks.responses_end(cut, tokenizer.eos_id, 32, MAX_NEW))


def test_responses_that_are_cut_are_counted_by_what_cut_them():
    """Of ten responses behind 2 tokens, one ends, six stop at 3 tokens and three at a context of 4."""
    lengths, ids, nothing = torch.tensor([3] * 7 + [2] * 3), torch.ones(10, 3, dtype=torch.long), torch.zeros(10, 3)
    prompts = torch.ones(10, 2, dtype=torch.long)
    prompt_mask, mask, ended = prompts > 0, torch.arange(3) < lengths[:, None], torch.arange(10) == 0
    prompt_mask[1:7] = False  # shorter, so that their responses reach max_new below the context
    ids[0, 2] = 0  # the EOS
    logprobs = torch.full((10, 3), 0.25).log()
    r = Rollout(prompts, prompt_mask, ids, mask, logprobs, logprobs, *[nothing] * 4, torch.zeros(10), ended)
    finding = checks.responses_end(r, 0, 4, 3)
    assert finding.ok is None and not broken(finding)
    cut = "cut by max_new = 3: 60%, by the context of 4: 30%; mean length 2.7"
    assert finding.figure == f"10% of responses, p(EOS) there 0.25 on average; {cut}"
    r.ended[:9] = True
    assert checks.responses_end(r, 0, 4, 3).ok is True


def test_the_eos_is_trained(policy, score, rollout, tokenizer):
    """And where no response ends, there is nothing to complain of."""
    for rows in (rollout, rollout.rows((~rollout.ended).nonzero().flatten())):
        assert not broken(checks.eos_is_trained(score, policy.wte.weight, rows, tokenizer))


@pytest.mark.parametrize("rows", [slice(None), slice(0, 4)])
def test_an_eos_that_is_masked_out_is_found(rows, policy, score, rollout, tokenizer):
    """As where the padding is the EOS and the mask is `ids != pad`; also in some rows alone."""
    rollout.mask[rows] &= rollout.ids[rows] != tokenizer.eos_id
    assert broken(checks.eos_is_trained(score, policy.wte.weight, rollout, tokenizer))


def test_an_eos_without_a_gradient_is_found(policy, score, rollout, tokenizer):
    """The positions are in the mask, but the loss does not depend on what stands there."""
    def deaf(rows):
        logprobs = score(rows)[0]
        return (torch.where(rows.ids == tokenizer.eos_id, logprobs.detach(), logprobs),)

    assert broken(checks.eos_is_trained(deaf, policy.wte.weight, rollout, tokenizer))


def test_text_that_becomes_an_eos_is_found(policy, score, rollout):
    class Naive(Tokenizer):
        def encode(self, text):
            return [self.special_ids[text]] if text in self.special_ids else super().encode(text)

    assert broken(checks.eos_is_trained(score, policy.wte.weight, rollout, Naive()))


def move(model):
    """One parameter goes elsewhere."""
    with torch.no_grad():
        model.h[0].mlp.c_fc.weight[0, 0] += 1


@pytest.mark.parametrize("defect", ["", "aliased", "one tensor shared", "trained too", "policy stands still"])
def test_a_reference_that_is_not_apart_is_found(defect, policy):
    reference = policy if defect == "aliased" else deepcopy(policy)
    if defect == "one tensor shared":
        reference.wpe = policy.wpe
    who = {"trained too": (policy, reference), "policy stands still": ()}.get(defect, (policy,))
    finding = checks.reference_stays(policy, reference, lambda: [move(model) for model in who])
    assert broken(finding) == bool(defect)


@pytest.mark.parametrize(
    "defect", ["", "a slot late", "on the first token", "sign of the KL", "EOS not in the mask"]
)
def test_a_reward_in_another_place_is_found(defect, rollout, tokenizer):
    if defect == "EOS not in the mask":
        rollout.mask &= rollout.ids != tokenizer.eos_id
    kl = kl_estimate(rollout.logprobs, rollout.ref_logprobs)
    rewards = token_rewards(rollout.scores, kl, rollout.mask, -BETA if "sign" in defect else BETA)
    bare = token_rewards(rollout.scores, kl, rollout.mask, 0.0)
    if defect == "a slot late":
        rewards += bare.roll(1, 1) - bare
    elif defect == "on the first token":
        rewards[:, 0] += bare.sum(1)
        rewards -= bare
    finding = checks.reward_is_on_the_end(rollout, rewards, kl, BETA, tokenizer.eos_id)
    assert broken(finding) == bool(defect)
    last = int(rollout.mask[int(rollout.scores.abs().argmax())].sum()) - 1
    assert defect or f"on token {last}, the last is {last};" in finding.figure


def test_contrast_is_measured_within_prompts():
    """Two of three prompts give their responses one reward; 1, 2 and 3 have the standard deviation 1."""
    ended = torch.tensor([True] * 6 + [False] * 3)
    finding = checks.reward_has_contrast(torch.tensor([1.0, 2, 3, 5, 5, 5, 7, 7, 7]), ended, 3, -1.0)
    assert finding.ok is None and not broken(finding)
    assert finding.figure.startswith("mean 4.667 from 1.000 to 7.000; std within a prompt 0.333 (0 in 67%);")
    assert finding.figure.endswith("33% got missing_eos = -1")
    assert checks.reward_has_contrast(torch.tensor([1.0, 2, 3, 5, 5, 6]), ended[:6], 3, 0.0).ok is True


def test_a_constant_reward_is_found():
    """Also where the responses that were cut have another score, and where none has ended."""
    ended = torch.tensor([True, True, False, True])
    assert broken(checks.reward_has_contrast(torch.full((4,), 0.1), ended, 2, 0.1))
    assert broken(checks.reward_has_contrast(torch.tensor([0.1, 0.1, 0.0, 0.1]), ended, 2, 0.0))
    assert broken(checks.reward_has_contrast(torch.tensor([0.0, 0.0]), torch.tensor([False, False]), 2, 0.0))


def test_a_reward_that_changes_its_mind_is_found():
    cases = [(record, "x") for record in RECORDS]
    counter, rng = itertools.count(), random.Random(0)
    for reward, wrong in (
        (lambda p, r, x: len(p + r), False),
        (lambda p, r, x: rng.random(), True),
        (lambda p, r, x: next(counter) == 5, True),
    ):
        assert broken(checks.reward_is_a_function(lambda record: reward, cases, 8)) == wrong
    assert checks.reward_is_a_function(lambda record: None, [], 8).ok is None
    slow = checks.reward_is_a_function(lambda record: lambda *case: time.sleep(0.01) or 1.0, cases, 300)
    assert float(slow.figure.split("; ")[1].removesuffix(" s per round of 300")) >= 3
    with pytest.raises(UserError, match="the reward is nan"):
        checks.reward_is_a_function(lambda record: lambda p, r, x: nan, cases, 8)


def columns_of(table):
    """The lines of a table behind the prompt, by column."""
    return {name: [line[name] for line in table[2:]] for name in table[-1]}


@pytest.mark.parametrize("algo", ["ppo", "reinforce", "grpo"])
def test_the_rewards_of_the_table_add_up(algo, rollout, tokenizer):
    """On the tokens of one response, of the last two of the prompt, and of a column of padding."""
    algorithm, b = ALGORITHMS[algo], int(rollout.ended.long().argmax())
    r = checks.pad_columns(rollout, 0, 1, tokenizer.eos_id, 0.0)
    table = examination.token_table(r, b, tokenizer, algorithm, BETA, 0.9)
    column, n, P = columns_of(table), int(r.mask[b].sum()), int(r.prompt_mask[b].sum())
    assert column["mask"] == [1] * n + [0]
    assert [line["position"] for line in table] == list(range(P - 2, P + n + 1))
    beta = BETA if algorithm.kl_in == "reward" else 0.0
    total = float(r.scores[b]) - beta * sum(column[f"KL ({algorithm.kl})"])
    assert sum(column["reward"]) == pytest.approx(total, abs=1e-5)
    assert column["token"][n - 1] == "'<|endoftext|>'" and table[1]["token"] == "'<|assistant|>'"


@pytest.mark.parametrize("algo", ["ppo", "a2c", "reinforce"])
def test_the_advantages_of_the_table_are_gae(algo, rollout, tokenizer):
    """Not whitened, with a discount; without a critic V is 0. δ from its definition, the rest from `algos`."""
    algorithm, gamma = dataclasses.replace(ALGORITHMS[algo], lam=0.8), 0.9
    for b, n in enumerate(rollout.mask.sum(1).tolist()):
        column = columns_of(examination.token_table(rollout, b, tokenizer, algorithm, BETA, gamma))
        column = {name: x[:n] for name, x in column.items()}  # the longest response has no padding
        V = column["value"] if algorithm.baseline == "value" else [0.0] * n
        args = torch.tensor([column["reward"]]), torch.tensor([V]), torch.ones(1, n, dtype=torch.bool)
        advantages, returns = gae(*args, gamma, 0.8)
        assert column["advantage"] == pytest.approx(advantages[0].tolist(), abs=1e-6)
        assert column["return"] == pytest.approx(returns[0].tolist(), abs=1e-6)
        for t, delta in enumerate(column.get("delta", ())):
            assert delta == pytest.approx(column["reward"][t] + gamma * [*V, 0.0][t + 1] - V[t], abs=1e-6)
        assert ("value" in column) == ("delta" in column) == (algorithm.baseline == "value")


@pytest.mark.parametrize("algo", ["rloo", "grpo", "dr-grpo", "dapo"])
def test_the_advantage_of_the_table_is_relative_to_the_other_response(algo, rollout, tokenizer):
    """In groups of two, whose R are d apart: d for RLOO, else d / 2, and with σ that over σ = |d| / √2."""
    algorithm = dataclasses.replace(ALGORITHMS[algo], group=2)
    for b, n in enumerate(rollout.mask.sum(1).tolist()):
        own, other = (columns_of(examination.token_table(rollout, i, tokenizer, algorithm, BETA, 1.0)) for i in (b, b ^ 1))
        d = sum(own["reward"]) - sum(other["reward"])
        wanted = {"rloo": d, "dr-grpo": d / 2}.get(algo, d / 2 / (abs(d) / 2**0.5 + 1e-4))
        assert own["advantage"][:n] == pytest.approx([wanted] * n, abs=1e-5) and "value" not in own


def test_tokens_of_the_table_cannot_rearrange_a_terminal(rollout, tokenizer):
    b = int(rollout.mask.sum(1).argmax())
    rollout.ids[b, :3] = torch.tensor([tokenizer.encode(c)[0] for c in "\n\x1b "])
    table = examination.token_table(rollout, b, tokenizer, PPO, BETA, 1.0)
    assert [line["token"] for line in table[2:5]] == [r"'\n'", r"'\x1b'", "' '"]


@pytest.fixture
def call(run_main, monkeypatch, tmp_path):
    """A function that runs the doctor in tmp_path; returns (exit status, stdout, stderr).

    There stand out/sft without a run.json of tasks, out/ppo that came from it, prompts and rewards.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(REWARDS)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "much " * 10}) + "\n")

    def call(*argv):
        kind = () if "--explain" in argv else ("--dtype", "float32")  # a response is explained in float32
        return run_main(doctor.main, "doctor.py", *argv, "--threads", "1", *kind)

    return call


@pytest.fixture
def folders(call, policy, head, make_policy, tokenizer, tmp_path):
    """out/sft and out/ppo, which came from it, as the scripts leave them."""
    sft, ppo = tmp_path / "out" / "sft", tmp_path / "out" / "ppo"
    start = make_policy(1)
    checkpoint.save(sft, start, tokenizer, {"stage": "sft", "tasks": {}, "training": {"beta": 9.0}})
    data = {"prompts": ["p.jsonl"], "reward": ["mine.py:length"], "init": "out/sft"}
    training = {"beta": BETA, "gamma": 0.9, "lam": 0.8, "temperature": T, "of another version": 3}
    run = {"stage": "ppo", "reference": checkpoint.fingerprint(start), "tasks": {}, "data": data, "training": training, "max_new": MAX_NEW}
    checkpoint.save(ppo, policy, tokenizer, run)
    write_safetensors(ppo / "value_head.safetensors", head.state_dict())
    return tmp_path


def test_a_sound_run_is_called_sound_in_every_check(call, folders):
    """Prompts, reward, reference and settings are those of the run, out/ppo without being named."""
    status, out, err = call()
    read, head, *lines = out.splitlines()
    assert status == 0 and err == "" and read == "p.jsonl: 4 records of prompt"
    assert head == "out/ppo: ppo, beta 0.1, temperature 0.7, float32; 4 prompts x 8 responses; reference: out/sft"
    found = [line[8:32].strip() for line in lines if line[:8].strip()]
    assert found == [name for i, name in enumerate(NAMES) if i not in (2, 3)]
    assert [line for line in lines if line.startswith("BROKEN")] == []
    assert "cut by max_new = 10" in out and int(re.search(r"through (\d+) of \1 ends", out)[1]) > 8


@pytest.mark.parametrize(
    "reward, name", [("constant", "reward has contrast"), ("noise", "reward is a function")]
)
def test_what_is_broken_is_named_and_the_exit_status_is_1(reward, name, call, folders):
    status, out, _ = call("out/ppo", "--reward", f"mine.py:{reward}")
    broken = [line for line in out.splitlines() if line.startswith("BROKEN")]
    assert status == 1 and [line[8:32].strip() for line in broken] == [name]


def test_bfloat16_is_examined_beside_float32(folders):
    patient = examination.admit("out/ppo", doctor.Doctor(), RewardOptions(), Turns(), torch.device("cpu"), 0)
    findings = list(examination.examine(patient, torch.bfloat16, 0))
    assert [finding.name for finding in findings] == NAMES
    assert all(finding.ok is not False for finding in findings)
    assert [finding.figure.split(", ")[-1] for finding in findings[:4]] == ["float32"] * 2 + ["bfloat16"] * 2


def test_examining_leaves_the_checkpoint_as_it_was(folders):
    patient = examination.admit("out/ppo", doctor.Doctor(), RewardOptions(), Turns(), torch.device("cpu"), 0)
    models = patient.models
    before = [checkpoint.fingerprint(model) for model in (models.policy, models.reference)]
    head = models.value_head.weight.clone()
    assert len(list(examination.examine(patient, FLOAT, 0))) == len(NAMES) - 2
    assert [checkpoint.fingerprint(model) for model in (models.policy, models.reference)] == before
    assert torch.equal(models.value_head.weight, head)


def test_the_reward_is_asked_again_what_the_rollout_asked_it(folders):
    """Twice, the same responses to the same prompts, without EOS; and never for bfloat16's sake."""
    patient, calls = examination.admit("out/ppo", doctor.Doctor(), RewardOptions(), Turns(), torch.device("cpu"), 0), []
    reward = lambda *case: calls.append(case) or float(len(case[1]))  # noqa: E731
    list(examination.examine(dataclasses.replace(patient, reward_of=lambda record: reward), torch.bfloat16, 0))
    n = len(calls) // 3
    assert n > 8 and calls[:n] == calls[n : 2 * n] == calls[2 * n :]


@pytest.fixture
def talk(folders, make_policy, tokenizer):
    """out/talk, a checkpoint of conversations of three answers at most."""
    (folders / "more.py").write_text("def more(conversation, rng):\n    return 'u' * rng.randint(0, 5)\n")
    policy, run = make_policy(0, context=160), json.loads((folders / "out" / "ppo" / "run.json").read_text())
    policy.ln_f.bias.data += 0.8 * policy.wte.weight.data[tokenizer.eos_id]
    said = {"init": "", "environment": "more.py:more", "turns": 3}
    checkpoint.save(folders / "out" / "talk", policy, tokenizer, run | {"data": run["data"] | said})
    return folders


def test_conversations_are_sound_in_every_check(call, talk):
    """Each turn that was replied to has ended: with as many EOS as turns, more than conversations, nothing is broken."""
    status, out, err = call("out/talk")
    assert status == 0 and err == "" and "BROKEN" not in out
    assert int(re.search(r"through (\d+) of \1 ends", out)[1]) > 32


def test_the_reward_of_a_conversation_is_asked_again_what_the_rollout_asked_it(talk):
    patient, calls = examination.admit("out/talk", doctor.Doctor(), RewardOptions(), Turns(), torch.device("cpu"), 0), []
    reward = lambda *case: calls.append(case) or float(len(case[1]))  # noqa: E731
    list(examination.examine(dataclasses.replace(patient, reward_of=lambda record: reward), FLOAT, 0))
    n = len(calls) // 3
    assert n > 8 and calls[:n] == calls[n : 2 * n] == calls[2 * n :]
    assert any(len(record.get("messages", ())) > 2 for _, _, record in calls[:n])


def test_the_table_tells_the_policys_tokens_of_a_conversation_from_those_of_its_environment(talk, tokenizer):
    """Up to the end of the last turn, where the score stands."""
    patient = examination.admit("out/talk", doctor.Doctor(), RewardOptions(), Turns(), torch.device("cpu"), 0)
    r = checks.pad_columns(patient.sample(0, FLOAT, patient.reward_of), 0, 1, tokenizer.eos_id, 0.0)
    b = int((r.mask.long().diff(dim=1).clamp(min=0).sum(1) * r.ended).argmax())  # the most turns
    column, n = columns_of(examination.token_table(r, b, tokenizer, PPO, BETA, 0.9)), int(r.mask[b].nonzero().max()) + 1
    assert column["mask"] == r.mask[b, : n + 1].long().tolist() and 0 < sum(column["mask"]) < n
    assert sum(column["reward"]) == pytest.approx(float(r.scores[b]) - BETA * sum(column["KL (k1)"]), abs=1e-5)


@pytest.mark.parametrize("options, given, turns, replies", [
    (doctor.Doctor(), Turns(), 3, True), (doctor.Doctor(), Turns(turns=2), 2, True),
    (doctor.Doctor(task="arithmetic"), Turns(), 3, False),
])
def test_the_environment_and_the_turns_are_those_of_the_run_unless_others_are_given(options, given, turns, replies, talk):
    """Another task has its own environment, or none."""
    patient = examination.admit("out/talk", options, RewardOptions(), given, torch.device("cpu"), 0)
    assert patient.models.speak.turns == turns and patient.models.speak.replies(patient.records) == replies


def test_a_checkpoint_is_its_own_reference_before_ppo(call, folders):
    """It has no critic, no settings and no prompts of its own; those of train_ppo.py hold."""
    status, out, _ = call("out/sft", "--prompts", "p.jsonl", "--reward", "mine.py:length")
    assert out.splitlines()[1].startswith("out/sft: ppo, beta 0.025, temperature 1, float32; 4 prompts x 8 responses; reference: the ")
    assert status == 0 and "to the reference 0.000, k1 0.000" in out
    assert "cut by max_new = 64" in out
    assert "max_new = 8:" in call("out/sft", "--task", "arithmetic")[1]


def test_a_reference_that_is_a_gguf_file_is_found(call, folders, tokenizer):
    """Its tokenizer is of another class, its ids mean the same."""
    model, run = checkpoint.load(folders / "out" / "sft")[0], folders / "out" / "ppo" / "run.json"
    config = checkpoint.config_to_json(model.config, tokenizer.eos_id)
    write_gguf(folders / "sft.gguf", config, checkpoint.to_huggingface(model), tokenizer)
    run.write_text(run.read_text().replace('"out/sft"', '"sft.gguf"'))
    assert call("out/ppo")[1].splitlines()[1].endswith("reference: sft.gguf")


def test_explain_prints_one_response_that_adds_up(call, folders):
    """By the numbers printed, in the settings of the run, with its critic and its reference."""
    status, out, err = call("out/ppo", "--explain")
    _, _, title, settings, _, *lines, last = out.splitlines()
    assert status == 0 and err == "" and title == "reference: out/sft; log-probs at temperature 0.7"
    assert settings == "advantage: GAE with gamma 0.9 and lambda 0.8, before whitening"
    table = [[float(x) for x in line.split()[-10:]] for line in lines[2:]]
    position, mask, logp, ref, kl, reward, value, _, advantage, back = zip(*table)
    assert mask == (1,) * (len(mask) - 1) + (0,) and position[-1] == position[0] + len(mask) - 1
    assert any(value) and all(abs(p - q - k) < 2e-4 for p, q, k in zip(logp, ref, kl))
    assert all(abs(a + v - g) < 2e-4 for a, v, g in zip(advantage, value, back))
    total, score, coefficient, nats = (float(word) for word in last.split() if word[-1].isdigit())
    assert total == pytest.approx(score - coefficient * nats, abs=2e-4) and coefficient == 0.1
    assert total == pytest.approx(sum(reward), abs=1e-3) and nats == pytest.approx(sum(kl), abs=1e-3)


@pytest.mark.parametrize("algo, formula, factor", [
    ("grpo", r"\(R - mean (\S+)\) / \(std (\S+) \+ 1e-4\)", lambda std: 1 / (float(std) + 1e-4)),
    ("rloo", r"\(R - mean (\S+)\) x (8)/7", lambda K: 8 / 7),
    ("dr-grpo", r"R - mean (\S+)()", lambda nothing: 1.0),
], ids=["grpo", "rloo", "dr-grpo"])
def test_explain_compares_a_response_as_its_row_does(algo, formula, factor, call, folders):
    """By the numbers printed: every token has the one advantage that the heading says, not that of GAE."""
    path = folders / "out" / "ppo" / "run.json"
    run = json.loads(path.read_text())
    path.write_text(json.dumps(run | {"stage": algo, "training": run["training"] | {"algo": algo}}))
    _, _, _, settings, names, *lines, last = call("out/ppo", "--explain")[1].splitlines()
    heading = f"advantage: {formula}, R the sum of rewards, of 8 responses to the prompt"
    mean, by = re.fullmatch(heading, settings).groups()
    wanted = (float(last.split()[3]) - float(mean)) * factor(by)  # R is what the rewards sum to
    assert names.split()[-3:] == ["reward", "advantage", "return"]
    said = [float(line.split()[-2]) for line in lines[2:]]
    assert said == pytest.approx([wanted] * (len(said) - 1) + [0], abs=2e-3)  # of figures of four digits


WRONG = [
    ("nowhere", "nowhere: no such checkpoint folder"),
    ("out/sft", "out/sft was not trained on a generated task: give --task, or --prompts and --reward"),
    ("out/sft --prompts p.jsonl", "--prompts without --reward"),
    ("--prompts long.jsonl", "no prompt of 1 records fits the model's context of 32"),
    ("--prompts missing.jsonl", "missing.jsonl: No such file"),
    ("--reward mine.py:nan", "the reward is nan, no finite"),
    ("--reward mine.py:missing", "no function 'missing'"),
    ("--task revews", "no task 'revews'"),
    ("--task arithmetic --prompts missing.jsonl", "--task can do nothing beside --prompts"),
    ("--explian", "no option --explian; did you mean --explain?"),
    ("out/ppo out/sft", "no option out/sft"),
]


def test_explain_takes_all_that_it_uses(call, folders):
    """The environment of a conversation, say."""
    given = "--environment mine.py:none --turns 2 --reward mine.py:length --reward-timeout 60 --reward-threads 2"
    status, _, err = call("out/sft", "--explain", *given.split())
    assert "can do nothing" not in err


@pytest.mark.parametrize("command, message", WRONG, ids=[command for command, _ in WRONG])
def test_wrong_use_ends_in_one_line_and_status_2(command, message, call, folders):
    status, out, err = call(*command.split())
    assert status == 2 and err.startswith("doctor.py: ") and err.count("\n") == 1 and message in err


def test_without_a_name_all_rl_that_began_at_the_sft_model_is_examined(call, folders, make_policy, tokenizer):
    """One behind the other, each under its name; that of older weights is named and left out, and says so if asked."""
    run = json.loads((folders / "out" / "ppo" / "run.json").read_text())
    for name, reference in (("twin", run["reference"]), ("old", "0" * 64)):
        checkpoint.save(folders / "out" / name, make_policy(2), tokenizer, run | {"stage": "rloo", "reference": reference})
    status, out, _ = call()
    heads = [line.split(": ")[0] for line in out.splitlines() if "reference: out/sft" in line]
    assert status == 0 and heads == ["out/ppo", "out/twin"]
    assert out.startswith("out/old is left out: it was trained against other weights than those of out/sft now\n")
    assert "reference: out/sft, which is not what it was trained against any more" in call("out/old")[1]


def test_without_a_checkpoint_it_names_the_script_that_makes_one(call):
    status, _, err = call()
    assert status == 2 and err.count("\n") == 1 and "train_sft.py" in err


def test_parts_of_other_models_are_refused(call, folders, make_gpt, tokenizer):
    """A value head of another width, a reference of other tokens, a model that knows no roles."""
    head = folders / "out" / "ppo" / "value_head.safetensors"
    write_safetensors(head, ScalarHead(8).state_dict())
    status, _, err = call("out/ppo")
    assert status == 2 and "value_head.safetensors: is of another model" in err
    other = Tokenizer(specials=[*tokenizer.special_ids, "<|more|>"])
    checkpoint.save(folders / "out" / "sft", make_gpt(vocab_size=other.vocab_size), other, {})
    status, _, err = call("out/ppo")
    assert status == 2 and "out/sft: the reference of out/ppo by its run.json, has other tokens" in err
    bare = Tokenizer(specials=["<|endoftext|>"])
    checkpoint.save(folders / "out" / "ppo", make_gpt(vocab_size=bare.vocab_size), bare, {})
    status, _, err = call("out/ppo")
    assert status == 2 and "its tokenizer has no <|user|>; fine-tune it with train_sft.py first" in err
