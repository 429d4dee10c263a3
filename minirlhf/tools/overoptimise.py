"""Optimise learned rewards too far, and see when to stop: python -m minirlhf.tools.overoptimise

python -m minirlhf.tools.overoptimise --prompts p.jsonl --reward mine.py:fn    on your own prompts; your reward is gold

Simulated people compare samples of a checkpoint. Each reward model learns from some of the comparisons. Then best-of-n
and PPO at several beta optimise it. Gold is the task's own reward, or --reward, which none of them sees. A table and a
figure show both rewards on held-out prompts against d = √KL (`experiments/goodhart.py`). Each step is kept when it is
done. Called again, the tool goes on where it stopped. Proved by tests/tools/test_overoptimise.py.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from minirlhf.experiments.config import Overoptimisation, OwnPrompts
from minirlhf.harness.files import UserError, write_atomic
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import parse, run_script
from minirlhf.preferences.config import Labeller, RewardConfig
from minirlhf.rl.options import RewardOptions
from minirlhf.tools import make_preferences, train_reward

if TYPE_CHECKING:
    from minirlhf.experiments.trials import Questions
    from minirlhf.rl.reward_model import LearnedReward


def proxy_of(n: int, options: Overoptimisation, task: "Questions", machine: Machine) -> "LearnedReward":
    """The reward model of n comparisons, made if it is not there."""
    from minirlhf.experiments.trials import begun_anew  # here and below: --help does not wait for torch
    from minirlhf.harness.device import choose_device
    from minirlhf.rl.reward_model import load_reward_model

    out = Path(options.out)
    folder, prefs = out / f"rm.{n}", out / f"prefs.{n}.jsonl"
    if not (folder / "config.json").exists():  # written last
        # The number does not change a seed's comparisons: the 250 are the first of the 1000.
        asked = make_preferences.Options(options.init, options.task, n, out=str(prefs))
        make_preferences.write_preferences(asked, Labeller(options.temperature), machine, task)
        learnt = train_reward.Options((str(prefs),), options.init, out=str(folder), overwrite=True)
        with begun_anew():
            train_reward.make_reward_model(learnt, RewardConfig(options.epochs), machine)
    return load_reward_model(folder, choose_device(machine.device))


def main() -> None:
    """Make what is not yet made, then print the table and draw the figure."""
    options, own, judged, machine = parse(__doc__, Overoptimisation, OwnPrompts, RewardOptions, Machine)
    device, _ = machine.set_up()
    import numpy as np

    from minirlhf.evaluation.ask import Policy
    from minirlhf.experiments.goodhart import (
        Proxy, best_of_points, law_figure, law_tables, order, policy_points, with_interval,
    )
    from minirlhf.experiments.overoptimisation import policy_line, sampled, scored
    from minirlhf.experiments.trials import begun_with, kept, numbers, questions
    from minirlhf.lm import checkpoint

    sizes, betas = numbers(options.pairs, "pairs", int, 1), numbers(options.betas, "betas", float, 0)
    reference, out = Policy(*checkpoint.load_chat(options.init)), Path(options.out)
    reference.model.to(device).eval()
    settings = {k: v for k, v in asdict(options).items() if k not in ("pairs", "betas", "out")}
    settings |= {"init": checkpoint.fingerprint(reference.model), "seed": machine.seed}
    (task,) = questions(options.task, own, judged, reference)
    records = task.records("test", options.held_out, 0)
    if reference.speak.replies(records):  # comparisons, and so the learnt rewards, are of one answer each
        raise UserError(f"--task {options.task}: is of conversations; this is measured on one answer to each prompt")
    begun_with(out, settings | task.about)
    samples = kept(out / "samples.json", lambda: sampled(reference, task, options, machine.seed))
    gold = np.reshape(samples["gold"], (-1, options.best_of))  # (P, N)
    models = []
    for n in sizes:
        reward = proxy_of(n, options, task, machine)
        values = scored(reward, records, list(zip(samples["index"], samples["response"])))
        proxy = np.reshape(values, gold.shape)  # (P, N)
        fixed = reward, reference, task, options, machine
        lines = [kept(out / f"ppo.{n}.{beta}.json", partial(policy_line, n, beta, *fixed)) for beta in betas]
        points = {"best-of-n": best_of_points(gold, proxy), "PPO": policy_points(lines, gold, proxy)}
        models.append(Proxy(n, order(gold, proxy), points))
    start = gold.mean(1)  # (P,)
    said = f"gold reward of the reference {with_interval(start)}"
    write_atomic(out / "overoptimise.svg", law_figure(models, float(start.mean())).encode())
    print(f"\n{task.NAME}: {said}\n\n{law_tables(models, start)}\n\n± and [ ]: 95 %")
    print(f"\nwritten: {out / 'overoptimise.svg'}")


if __name__ == "__main__":
    run_script(main)
