"""A checkpoint examined with its prompts and its reward: all checks of `checks.py`, or one response token by token.

Proved by tests/tools/test_doctor.py.
"""

import dataclasses
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minirlhf.harness.device import autocast
from minirlhf.harness.files import UserError
from minirlhf.harness.options import typed
from minirlhf.lm import checkpoint
from minirlhf.lm.chat import render_prompt
from minirlhf.lm.generation import Generation, Sampling, filled, generate, responses_of
from minirlhf.lm.model import ScalarHead
from minirlhf.lm.optim import Stepper, make_adamw
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.rl.algorithms import advantages_of, rewards_and_kl, surrogate
from minirlhf.rl.config import ALGORITHMS, Algorithm, PPOConfig
from minirlhf.rl.options import RewardOptions, Turns
from minirlhf.rl.losses import gae, masked_sum, token_weights
from minirlhf.rl.ppo import sample_round, update
from minirlhf.rl.reward_files import load_rewards
from minirlhf.rl.rewards import RewardOf
from minirlhf.rl.rollout import Models, Rollout, score_tokens
from minirlhf.rl.turns import speaking
from minirlhf.tasks import reply_of_task, reward_of_task
from minirlhf.tasks.sources import prompts_of, with_room
from minirlhf.tools import checks
from minirlhf.tools.doctor import Doctor

PROMPTS, GROUP = 16, 8  # sampled are 8 responses to each of 16 prompts


@dataclass(frozen=True)
class Patient:
    """A checkpoint, and what it is trained with."""

    models: Models  # with a value head of 0 where the checkpoint has none
    reference_name: str
    records: list[dict]
    reward_of: RewardOf
    config: PPOConfig

    def sample(self, seed: int, dtype: torch.dtype, reward_of: RewardOf) -> Rollout:
        """GROUP responses to each record, by the rollout of training."""
        models = dataclasses.replace(self.models, dtype=dtype)
        return sample_round(models, self.records, reward_of, self.config, np.random.default_rng(seed))[1]


def admit(
    folder: str, options: Doctor, judged: RewardOptions, turns: Turns, device: torch.device, seed: int
) -> Patient:  # fmt: skip
    """Load the checkpoint, and what run.json says it was trained with; options win. Raises UserError."""
    policy, tokenizer = checkpoint.load_chat(folder)
    run = checkpoint.read_run(folder)
    past = run if run.get("stage") in ALGORITHMS else {}  # written by train_ppo.py
    data, training = past.get("data", {}), past.get("training", {})

    files = () if options.task else options.prompts or data.get("prompts", ())
    if not judged.reward and not options.task:
        said = data.get("reward") or ()  # a text in runs of before
        judged = dataclasses.replace(judged, reward=(said,) if isinstance(said, str) else tuple(said))
    if turns.turns == Turns.turns:
        turns = dataclasses.replace(turns, turns=data.get("turns", turns.turns))
    if not turns.environment and not options.task:  # which has its own, or none
        turns = dataclasses.replace(turns, environment=data.get("environment", ""))
    if files and not judged.reward:
        raise UserError("--prompts without --reward: say what is good, --reward FILE.py:FUNCTION")
    sets, _, max_new = prompts_of(folder, options.task, files, 200, seed, options.map or data.get("map", ""))
    records = [record for one_of_each in zip(*sets.values()) for record in one_of_each]
    fit = with_room(records, [partial(render_prompt, tokenizer=tokenizer)], policy.config.context, folder)
    reward = load_rewards(judged, device)
    known = {f.name: f for f in dataclasses.fields(PPOConfig)}
    settings = typed({k: v for k, v in training.items() if k in known}, known, f"{folder}/run.json") | {"group": GROUP}
    settings["max_new"] = past.get("max_new") or max_new
    reference, reference_name = deepcopy(policy), "the checkpoint itself"
    if data.get("init") and Path(data["init"]).exists():
        reference_name = data["init"]
        reference, other = checkpoint.load(reference_name)
        if (other.token_bytes, other.special_ids) != (tokenizer.token_bytes, tokenizer.special_ids):
            raise UserError(f"{reference_name}: the reference of {folder} by its run.json, has other tokens")
        if run.get("reference") not in (None, checkpoint.fingerprint(reference)):
            reference_name += ", which is not what it was trained against any more"
    value_head = ScalarHead(policy.config.width)
    checkpoint.load_value_head(folder, value_head)
    policy, value_head, reference = (m.to(device).eval() for m in (policy, value_head, reference))
    models = Models(policy, value_head, reference, tokenizer, speak=speaking(turns, reply_of_task))
    reward_of = (lambda record: reward) if reward else reward_of_task
    config = PPOConfig(**settings)
    return Patient(models, reference_name, fit[:PROMPTS], reward_of, config)


def examine(p: Patient, dtype: torch.dtype, seed: int) -> Iterator[checks.Finding]:
    """All checks, in the training dtype and in float32 where it matters."""
    config, policy, tokenizer = p.config, p.models.policy, p.models.tokenizer
    algorithm, T, eos, device = config.algorithm, config.temperature, tokenizer.eos_id, policy.wte.weight.device

    def score(rows: Rollout | Generation, kind=torch.float32, temperature=T) -> tuple[Tensor, Tensor, Tensor]:
        with autocast(device, kind):
            return score_tokens(policy, p.models.value_head, rows, temperature)

    told: list[list[dict]] = []  # the records of each rollout, with all that was said before the last answers

    def noting(*asked) -> tuple[Generation, list[dict]]:
        said, records = p.models.speak(*asked)
        told.append(records)
        return said, records

    listener = dataclasses.replace(p, models=dataclasses.replace(p.models, speak=noting))
    rollout = exact = listener.sample(seed, dtype, p.reward_of)
    if dtype != torch.float32:  # other responses, sampled in float32; the reward is not to be asked for these, too
        exact = p.sample(seed, torch.float32, lambda record: lambda prompt, response, record: float(len(response) % 2))
    some = exact.rows(range(min(32, len(exact.ids))))

    for kind, r in {torch.float32: exact, dtype: rollout}.items():
        in_kind = partial(score, kind=kind)
        yield checks.ratio_is_one(in_kind, r, config.minibatches, config.micro_rows, kind, policy)
        yield checks.sampler_is_scorer(in_kind, r, r.sampled_logprobs, T, kind)
    prompts = [render_prompt(record, tokenizer) for record in p.records]
    cold = generate(policy, prompts, Sampling(config.max_new, 0.7 * T), eos, range(len(prompts)))
    yield checks.sampler_is_scorer(partial(score, temperature=0.7 * T), cold, cold.logprobs, 0.7 * T, torch.float32)

    def losses(rows: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        logprobs, values, _ = score(rows)  # (B, R) each
        weights = token_weights(rows.mask, algorithm.aggregate, config.max_new)  # (B, R)
        rows = advantages_of(rows, algorithm, config.beta, config.gamma)
        loss, _ = surrogate(logprobs, values, rows, weights, algorithm, config.beta)
        return logprobs, values, loss

    twin, twin_head = deepcopy((policy, p.models.value_head))
    twins = Models(twin, twin_head, p.models.reference, tokenizer, dtype)
    yield checks.padding_is_invisible(losses, some)
    yield checks.kl_to_itself(policy, twin, p.models.reference, some, T)
    yield checks.responses_end(exact, eos, policy.config.context, config.max_new)
    yield checks.eos_is_trained(score, (getattr(policy, "lm_head", None) or policy.wte).weight, some, tokenizer)

    def train() -> None:
        rows, n = rollout.rows(range(len(some.ids))), len(some.ids)
        rows.scores = torch.linspace(-1, 1, n, device=device)  # something to learn, whatever the reward says
        stepper = Stepper(make_adamw([twin, twin_head], config.lr, 0.0), config.max_norm)
        rows = advantages_of(rows, algorithm, config.beta, config.gamma)
        once = dataclasses.replace(config, epochs=1)
        update(twins, rows, once, config.beta, stepper, config.lr, np.random.default_rng(seed))

    yield checks.reference_stays(twin, deepcopy(policy).requires_grad_(False), train)
    yield checks.reward_is_on_the_end(exact, *rewards_and_kl(exact, algorithm, config.beta), eos)
    yield checks.reward_has_contrast(rollout.scores, rollout.ended, GROUP, config.missing_eos)
    ended = rollout.ended.nonzero().flatten().tolist()[:32]
    texts = responses_of(rollout)
    cases = [(told[0][i], tokenizer.decode(texts[i])) for i in ended]
    yield checks.reward_is_a_function(p.reward_of, cases, config.batch)


def token_table(
    r: Rollout, b: int, tokenizer: Tokenizer, algorithm: Algorithm, beta: float, gamma: float
) -> list[dict]:
    """What training knows of the tokens of response b: two of the prompt, its own, one of padding; A not whitened.

    In a conversation its own are all up to the last turn's end, with mask 0 on what the environment says.
    """
    rewards, kl, _ = rewards_and_kl(r, algorithm, beta)  # (B, R) each
    r = advantages_of(r, dataclasses.replace(algorithm, whiten=False), beta, gamma)
    columns = {"log-prob": r.logprobs, "reference": r.ref_logprobs, f"KL ({algorithm.kl})": kl, "reward": rewards}
    if algorithm.baseline == "value":
        deltas, _ = gae(rewards, r.values, r.mask, gamma, 0.0)  # (B, R): with λ = 0 the advantage is δ
        columns |= {"value": r.values, "delta": deltas}
    columns |= {"advantage": r.advantages, "return": r.returns}
    prompt, n = r.prompt_ids[b][r.prompt_mask[b]].tolist(), int(filled(r.mask)[b].sum())
    table = [{"token": t, "position": i, "mask": 0} for i, t in enumerate(prompt)][-2:]
    for t, token in enumerate(r.ids[b, : n + 1].tolist()):
        cell = {"token": token, "position": len(prompt) + t, "mask": int(r.mask[b, t])}
        table.append(cell | {name: float(x[b, t]) for name, x in columns.items()})
    for line in table:
        line["token"] = repr(tokenizer.decode([line["token"]]))  # repr: white space seen, controls harmless
    return table


def advantage_in_words(algorithm: Algorithm, gamma: float, totals: Tensor) -> str:
    """How the algorithm makes an advantage. totals: (K,) R, the sums of rewards of the responses to the prompt."""
    mean, std, K = f"mean {float(totals.mean()):.4f}", f"std {float(totals.std()):.4f}", len(totals)
    group = f"R the sum of rewards, of {K} responses to the prompt"
    words = {
        "none": f"GAE with gamma {gamma:g}, lambda {algorithm.lam:g} and V = 0",
        "value": f"GAE with gamma {gamma:g} and lambda {algorithm.lam:g}",
        "leave_one_out": f"(R - {mean}) x {K}/{K - 1}, {group}",
        "group": f"R - {mean}, {group}",
        "group_std": f"(R - {mean}) / ({std} + 1e-4), {group}",
    }
    return words[algorithm.baseline] + (", before whitening" if algorithm.whiten else "")


def explain(p: Patient, seed: int) -> Iterator[str]:
    """The response with the highest score of those that ended, and a column of padding, as lines of text."""
    rollout, algorithm, config = p.sample(seed, torch.float32, p.reward_of), p.config.algorithm, p.config
    b = int(torch.where(rollout.ended, rollout.scores, -torch.inf).argmax())
    tokenizer = p.models.tokenizer
    r = checks.pad_columns(rollout, 0, 1, tokenizer.eos_id, 0.0)
    rewards, kl, beta = rewards_and_kl(r, algorithm, config.beta)  # (B, R) each
    table = token_table(r, b, tokenizer, algorithm, config.beta, config.gamma)
    totals = masked_sum(rewards, r.mask, 1).view(-1, GROUP)[b // GROUP]  # (GROUP,)
    yield f"reference: {p.reference_name}; log-probs at temperature {config.temperature:g}"
    yield f"advantage: {advantage_in_words(algorithm, config.gamma, totals)}"
    names = list(table[-1])
    cells = [names]
    for line in table:
        values = (line.get(name, "") for name in names)
        cells.append([f"{x:.4f}" if type(x) is float else str(x) for x in values])
    widths = [max(map(len, column)) for column in zip(*cells)]
    for first, *others in cells:
        yield "  ".join([first.ljust(widths[0]), *(x.rjust(w) for x, w in zip(others, widths[1:]))]).rstrip()
    total, score, nats = (float(x[b].sum()) for x in (rewards, r.scores, kl))
    apart = "" if algorithm.kl_in == "reward" else f"; beta {config.beta:g} x KL stands in the loss"
    yield f"rewards sum to {total:.4f} = score {score:.4f} - beta {beta:g} x KL {nats:.4f}{apart}"
