"""Learn a reward model from comparisons of two responses to one prompt, or from labelled texts.

    P(chosen is better) = σ(Δ),   Δ = r(chosen) − r(rejected)     Bradley and Terry 1952
    L = − p log σ(Δ) − (1 − p) log σ(−Δ)                          Ouyang et al. 2022, eq. 1, with p = 1
    L = − log softmax(z)_label                                    cross-entropy of K classes, z = W · LN(x)_last

averaged over the comparisons or texts of a step. All those of a prompt are in one step, so that an epoch is one pass
over each response (Ouyang et al. 2022, section 3.5). Comparisons fix r up to a constant, and PPO wants a
scale: at the end r becomes (r − mean) / std over responses of the checkpoint that training began with (Ziegler et al.
2019, section 2). How well r tells
what was chosen is measured before that, on comparisons held out. Command: tools/train_reward.py.
Proved by tests/preferences/test_train_reward.py.
"""

import dataclasses
from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minirlhf.harness.loop import Loop, Run
from minirlhf.lm.batches import Mixture, micro_batches
from minirlhf.lm.chat import render_prompt
from minirlhf.lm.model import GPT
from minirlhf.lm.optim import Stepper, learning_rate, make_adamw
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.metrics.calibration import ece_if_calibrated, expected_calibration_error, reliability_bins
from minirlhf.metrics.intervals import wilson
from minirlhf.metrics.scores import classification_statistics, macro_f1
from minirlhf.preferences.comparisons import Judged
from minirlhf.preferences.config import RewardConfig
from minirlhf.preferences.simulated import respond
from minirlhf.rl.reward_model import RewardModel, predict_rewards, text_ids

REFERENCE = 256  # responses over which mean and std are taken
BINS = 10  # of the calibration error


def preference_loss(delta: Tensor, p: Tensor | float = 1.0) -> Tensor:
    """− p log σ(Δ) − (1 − p) log σ(−Δ), the mean: the likelihood of choices under Bradley and Terry's model.

    delta: (B,) Δ = r(chosen) − r(rejected); log 2 at 0.  p: probability that the chosen one is the better, in [0, 1];
    its logit is where the loss is least.
    Source: Christiano et al. 2017, eq. 1; Ouyang et al. 2022, eq. 1, where prompts weigh alike, and here comparisons.
    """
    return -(p * F.logsigmoid(delta) + (1 - p) * F.logsigmoid(-delta)).mean()


def accumulate_pairs(model: RewardModel, pairs: Sequence[Judged], micro_rows: int, dtype: torch.dtype) -> float:
    """Add the gradient of the mean loss of the comparisons, or labelled texts, to .grad; returns that loss.

    The same to rounding for every micro_rows. A response in several comparisons goes through the network once.
    """
    loss = 0.0
    for part in micro_batches([max(map(len, pair.texts)) for pair in pairs], micro_rows, model.trunk):
        some = [pairs[i] for i in part]
        place: dict[tuple[int, ...], int] = {}
        index = [[place.setdefault(ids, len(place)) for ids in pair.texts] for pair in some]
        said = model(list(place), dtype)[torch.tensor(index)]  # (n, 2), or (n, 1, K) of labelled texts
        wanted = torch.tensor([pair.wanted for pair in some], device=said.device)  # (n,)
        labels = said.dim() == 3
        mean = F.cross_entropy(said[:, 0], wanted) if labels else preference_loss(said[:, 0] - said[:, 1], wanted)
        share = mean * len(some) / len(pairs)
        share.backward()
        loss += float(share.detach())
    return loss


def fit_rewards(model: RewardModel, groups: Sequence[list[Judged]], config: RewardConfig, run: Run, **source) -> dict:
    """Train the model in place on groups, the comparisons or labelled texts of one prompt each; returns the cost.

    source: what else a resume must find as it was, by name. Raises Interrupted (state saved), Diverged, and UserError
    for another run's state.
    """
    stepper = Stepper(make_adamw([model], config.lr, config.weight_decay), config.max_norm)
    batches = Mixture({"prompts": (groups, config.batch)}, run.seed)
    steps = ceil(config.epochs * len(groups) / config.batch)
    settings = dataclasses.asdict(config) | dataclasses.asdict(model.trunk.config) | source
    model.train()
    with Loop(run, steps, config.save_every, settings, model=model, stepper=stepper) as loop:
        for step in loop:
            pairs = [pair for group in batches.step(step) for pair in group]
            lr = learning_rate(step, config.lr, min(config.warmup, steps), steps, 0.1)
            loss = accumulate_pairs(model, pairs, config.micro_rows, run.dtype)
            figures = {"loss": loss, "pairs": len(pairs), "lr": lr, "grad_norm": stepper.step(lr)}
            tokens = sum(len(ids) for pair in pairs for ids in pair.texts)
            loop.record(figures | {"skipped": stepper.skipped}, tokens, "loss")
    model.eval()
    return loop.cost()


def sign_agreement(delta: np.ndarray, p: np.ndarray) -> np.ndarray:
    """How probably the judge of a pair says what the sign of delta says, (N,): p, 1 − p, or 1/2 for a tie."""
    return 0.5 + np.sign(delta) * (p - 0.5)


def measure(delta: np.ndarray, pairs: Sequence[Judged]) -> dict:
    """How well differences of rewards, (N,), tell what was chosen: before `normalise` changes their scale.

    accuracy: the mean agreement, with Wilson's interval (of pairs: too narrow where a prompt has many).
    longer: that of choosing the longer one.  calibration: of each bin of σ(|Δ|) its mean, the agreement and
    the number of pairs; ece: their weighted mean distance; ece_if_calibrated: what chance alone makes of it.
    gold: of the pairs whose gold rewards differ, the share that is in their order.
    """
    p, gold = np.array([(pair.wanted, pair.gold) for pair in pairs], dtype=float).T  # (N,) each
    length = np.array([len(chosen) - len(rejected) for chosen, rejected in (pair.texts for pair in pairs)])  # (N,)
    right = sign_agreement(delta, p)  # (N,)
    confidence = 1 / (1 + np.exp(-np.abs(delta)))  # (N,)
    bins = reliability_bins(confidence, right, BINS)
    figures = {
        "pairs": len(pairs), "accuracy": float(right.mean()), "interval": wilson(float(right.sum()), len(pairs)),
        "longer": float(sign_agreement(length, p).mean()),
        "loss": float(preference_loss(torch.from_numpy(delta), torch.from_numpy(p))),
        "ece": float(expected_calibration_error(confidence, right, BINS)),
        "ece_if_calibrated": float(ece_if_calibrated(confidence, BINS).mean()),
        "calibration": [[b["confidence"], b["accuracy"], float(b["count"])] for b in bins],
    }  # fmt: skip
    if (known := gold != 0).any():
        figures["gold"] = float(sign_agreement(delta, (1 + np.sign(gold)) / 2)[known].mean())
    return figures


def measure_labels(logits: Tensor, texts: Sequence[Judged]) -> dict:
    """How well a classifier's logits, (N, K), tell the labels: accuracy with Wilson's interval, macro F1, mean loss.

    commonest: the accuracy of always saying the label that most of the texts have.  ece: the calibration error of the
    probability of what it says.
    """
    labels, (sure, said) = torch.tensor([text.wanted for text in texts]), logits.softmax(1).max(1)  # (N,) each
    right, most, names = (said == labels).tolist(), int(labels.bincount().max()), range(logits.shape[1])
    counts = sum(classification_statistics(*pair, names) for pair in zip(labels.tolist(), said.tolist()))  # (3K,)
    figures = {"texts": len(texts), "accuracy": sum(right) / len(texts), "interval": wilson(sum(right), len(texts))}
    figures |= {"f1": float(macro_f1(counts)), "ece": float(expected_calibration_error(sure.tolist(), right, BINS))}
    return figures | {"commonest": most / len(texts), "loss": float(F.cross_entropy(logits, labels))}


def summary(held_out: dict) -> str:
    """What `measure` or `measure_labels` says, as lines to print."""
    low, high = held_out["interval"]
    accuracy, loss = f"accuracy {held_out['accuracy']:.3f} [{low:.3f}, {high:.3f}]", f"loss {held_out['loss']:.3f}"
    if "texts" in held_out:
        commonest = f"the commonest label {held_out['commonest']:.3f}"
        more = f"macro F1 {held_out['f1']:.3f}, ECE {held_out['ece']:.3f}"
        return f"{held_out['texts']} held-out texts: {accuracy}, {commonest}, {more}, {loss}"
    text = f"{held_out['pairs']} held-out comparisons: {accuracy}, the longer one {held_out['longer']:.3f}, {loss}"
    text += f"; order of the gold rewards {held_out['gold']:.3f}" if "gold" in held_out else ""
    bins = ", ".join(f"{said:.2f} -> {was:.2f} ({n:.0f})" for said, was, n in held_out["calibration"])
    chance = f"{held_out['ece_if_calibrated']:.3f} by chance alone"
    return f"{text}\ncalibration, said -> was (pairs): {bins}; ECE {held_out['ece']:.3f}, {chance}"


def learn(
    model: RewardModel, groups: Sequence[list[Judged]], held_out: Sequence[Judged], config: RewardConfig, run: Run,
    **source,
) -> None:
    """Fit the model; when it ends or is stopped, print how it does on what is held out, and tell run.json."""
    labelled = len(groups[0][0].texts) == 1

    def save(about: dict, parts: dict) -> None:
        cost, what = about["cost"], f"{sum(map(len, groups))} {'labelled texts' if labelled else 'comparisons'}"
        print(f"{run.out}: {what}, {cost['steps']} steps, {cost['seconds']:.0f} s")
        model.eval()
        if held_out:
            first, *second = (predict_rewards(model, texts) for texts in zip(*(x.texts for x in held_out)))
            if labelled:
                about["held_out"] = measure_labels(first, held_out)  # first: (N, K)
            else:
                about["held_out"] = measure((first - second[0]).double().numpy(), held_out)  # (N,) each
            print(summary(about["held_out"]))
        run.save(about | {"data_hash": run.data}, parts)

    fit_rewards(model, groups, config, dataclasses.replace(run, save=save), **source)


def reference_texts(
    trunk: GPT, tokenizer: Tokenizer, records: Sequence[dict], max_new: int, seed: int
) -> list[tuple[int, ...]]:
    """Prompt and response of samples of the trunk, of those that end: REFERENCE prompts from the records."""
    rng, context = np.random.default_rng(seed), trunk.config.context
    drawn = [records[i] for i in rng.integers(len(records), size=REFERENCE)]
    asked = [record for record in drawn if len(render_prompt(record, tokenizer)) < context]
    seeds = rng.integers(2**63, size=len(asked)).tolist()
    answers = respond(trunk, tokenizer, asked, max_new, seeds) if asked else []
    return [text_ids(r, text, tokenizer, context) for r, text in zip(asked, answers) if text is not None]
