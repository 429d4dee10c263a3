"""Two processes take the steps that one takes, write as one, and end together."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from minirlhf.harness import ranks
from minirlhf.harness.files import Interrupted, UserError
from minirlhf.harness.folders import load_state
from minirlhf.harness.loop import Loop, Run
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import run_script
from minirlhf.lm import generation, sft
from minirlhf.lm.chat import Example, render_prompt
from minirlhf.lm.generation import Generation, Sampling, row_uniforms
from minirlhf.rl import ppo
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.options import RewardOptions
from minirlhf.rl.critic import start_critic
from minirlhf.rl.reward_files import Rewards
from minirlhf.rl.rollout import parts_of
from minirlhf.rl.turns import Conversations
from minirlhf.rl.watch import Description, Optimum

N = 2
RECORDS = [{"prompt": text} for text in ("a", "longer", "bc", "b", "d", "e", "some more", "f")]
EXAMPLES = [Example(list(range(n)), [False] * 2 + [True] * (n - 2)) for n in (3, 12, 5, 9, 7)]
ROUNDS = {  # a step sums by token, sequence, constant or sum; in two steps of the last, a process has no row
    "ppo": {}, "grpo": {"group": 2}, "dr-grpo": {"group": 4}, "rloo": {"group": 2, "minibatches": 5},
}


def of_a(prompt: str, response: str, record: dict) -> float:
    return sum(c < prompt for c in response) / max(len(response), 1)


def length(prompt: str, response: str, record: dict) -> float:
    return len(response) / 8


def plain(modules, lr, decay, slow=None, share=1.0):
    """Gradient descent, instead of Adam: that blows up the rounding of a gradient that is 0."""
    return torch.optim.SGD([p for module in modules for p in module.parameters()], lr)


def one_round(policy, tokenizer, algo: str, out: Path) -> dict:
    """A round of the algorithm, with all that is global: {parameter: values}, and the seeds that were drawn with."""
    config = {"iterations": 1, "batch": 8, "minibatches": 3, "lr": 0.1, "warmup": 0, "kl_target": 0.1, "max_new": 8}
    config = PPOConfig(algo, **config | ROUNDS[algo])
    rewards, seeds = Rewards({"a": (of_a, 1.0), "b": (length, 0.5)}, RewardOptions()), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "make_adamw", plain)
        patch.setattr(generation, "row_uniforms", lambda own, n: seeds.append(own) or row_uniforms(own, n))
        models, run = ppo.models_of(policy, tokenizer, config.algorithm), Run(out, 3)
        records_of, reward_of = lambda step: RECORDS[: 8 // config.algorithm.group], lambda record: rewards
        start_critic(models, records_of, reward_of, config, run)
        watchers = [Description(config.algorithm), rewards.watch, Optimum(0.1)]
        ppo.train(models, records_of, reward_of, config, run, watchers)
    return {"weights": [*policy.parameters(), *(models.value_head or torch.nn.Identity()).parameters()], "seeds": seeds}


def one_fit(model, out: Path, steps: int = 2, **told) -> dict:
    """Steps of SFT, evaluated behind the last: the parameters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft, "make_adamw", plain)
        config = sft.FitConfig(steps=steps, lr=0.1, warmup=0)
        sft.fit(model, lambda step: EXAMPLES, EXAMPLES[:3], config, Run(out, **told))
    return {"weights": [*model.parameters()]}


def in_processes(job, folder: Path) -> list:
    """job() in each of N forked processes that torchrun might have started: what it gave; None of one that died.

    stderr of all is in folder/stderr.
    """
    store, out = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False), folder / "stderr"
    pids = []
    for rank in range(N):
        pids.append(os.fork())
        if not pids[-1]:
            try:
                place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": N, "MASTER_PORT": store.port}
                place |= {"MASTER_ADDR": "localhost", "TORCHELASTIC_RUN_ID": 1, "TORCHELASTIC_USE_AGENT_STORE": True}
                os.environ |= {key: str(value) for key, value in place.items()}
                sys.stderr = open(out, "a", buffering=1)
                os.dup2(sys.stderr.fileno(), 2)
                torch.save(job(), folder / f"{rank}.pt")
            finally:
                os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)
    files = [folder / f"{rank}.pt" for rank in range(N)]
    return [torch.load(file, weights_only=False) if file.exists() else None for file in files]


def script(main) -> int:
    """The exit status of a script."""
    try:
        return run_script(main) or 0
    except SystemExit as stop:
        return stop.code


def join() -> None:
    Machine(device="cpu").set_up(several=True)


def lines(folder: Path) -> list[str]:
    """What was said on stderr, but for the bar and what glibc and gloo say."""
    said = (folder / "stderr").read_text().replace("\r", "\n").split("\n")
    return [line for line in said if line.startswith(("pytest", "__main__", "-c", "train"))]


def logged(out: Path) -> list[dict]:
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "padding")} for line in log]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What `done` found, by one pair of processes for all tests."""
    return {}


@pytest.fixture
def jobs(make_policy, tokenizer, make_gpt):
    """name -> job(out): the rounds and the fit, from the same start each time."""
    rounds = {algo: lambda out, algo=algo: one_round(make_policy(0), tokenizer, algo, out) for algo in ROUNDS}
    return rounds | {"sft": lambda out: one_fit(make_gpt(1), out)}


@pytest.fixture
def done(both, jobs, tmp_path):
    """name -> (of each process, of one alone, the log of both, the log of one)."""
    if not both:
        one, two = tmp_path / "one", tmp_path / "two"
        alone = {name: work(one / name) for name, work in jobs.items()}  # first: what it imports, the others have
        found = in_processes(lambda: join() or {name: work(two / name) for name, work in jobs.items()}, tmp_path)
        both |= {k: ([x[k] for x in found], alone[k], logged(two / k), logged(one / k)) for k in jobs}
    return both


@pytest.mark.parametrize("name", [*ROUNDS, "sft"])
def test_two_processes_take_the_steps_and_log_the_figures_of_one(done, name):
    pair, alone, log, expected = done[name]
    for x in pair:
        for ours, wanted in zip(x["weights"], alone["weights"], strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-6)
    assert len(log) == len(expected) and [list(line) for line in log] == [list(line) for line in expected]
    for line, wanted in zip(log, expected):
        line, wanted = ({k: -1.0 if x is None else x for k, x in some.items()} for some in (line, wanted))
        assert line == pytest.approx(wanted, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", [*ROUNDS, "sft"])
def test_the_processes_hold_the_same_bits(done, name):
    (first, second), *_ = done[name]
    assert all(map(torch.equal, first["weights"], second["weights"]))


@pytest.mark.parametrize("name", ROUNDS)
def test_two_processes_never_draw_the_same_noise_and_together_that_of_one(done, name):
    (first, second), alone, *_ = done[name]
    for ours, others, wanted in zip(first["seeds"], second["seeds"], alone["seeds"], strict=True):
        assert not {*ours} & {*others} and sorted([*ours, *others]) == sorted(wanted)


@pytest.mark.parametrize("prompts, shares", [([1, 1, 1, 1], ([0, 1], [2, 3])), ([1, 1, 2, 2], ([0, 1], [2, 3]))])
def test_answers_to_a_prompt_stay_together_but_where_a_process_would_have_none(make_gpt, prompts, shares, monkeypatch):
    asked, one = torch.tensor(prompts)[:, None], torch.ones(4, 1)  # (B, 1) each
    rows = Generation(asked, one.bool(), asked, one.bool(), one, one[:, 0].bool())
    monkeypatch.setattr(ranks, "count", lambda: 2)
    for rank, wanted in enumerate(shares):
        monkeypatch.setattr(ranks, "rank", lambda: rank)
        assert parts_of(rows, 32, make_gpt(0), ranks.mine) == [wanted]


def test_a_process_that_had_no_row_adds_nothing(monkeypatch):
    monkeypatch.setattr(ranks, "gather", lambda make: [make(), {}])
    assert ranks.total({"loss": -0.5}) == {"loss": -0.5}


def test_dropout_is_drawn_apart(tmp_path):
    def job():
        join()
        with Loop(Run(tmp_path / "run"), 1, 1, {}) as loop:
            for _ in loop:
                drawn = torch.rand(8).tolist()
                loop.record({}, 0)
        return drawn

    first, second = in_processes(job, tmp_path)
    assert not {*first} & {*second}


def count(out: Path, at=lambda step: None, **told) -> None:
    """A training of six steps that saves every second; at(step) is called in each."""
    with Loop(Run(out, **told), 6, 2, {}) as loop:
        for step in loop:
            at(step)
            ranks.gather(lambda: step)
            loop.record({}, 1)


def test_a_process_that_is_killed_ends_the_run_with_one_line_and_what_was_saved(tmp_path):
    def die(step):
        if step == 3 and ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    began = time.monotonic()
    assert in_processes(lambda: script(lambda: [join(), count(tmp_path / "run", die)]), tmp_path) == [2, None]
    assert time.monotonic() - began < 5
    said, = lines(tmp_path)
    assert "lost a process: " in said and said.endswith("; --resume goes on from the last save, if there is one")
    assert load_state(tmp_path / "run" / "train_state.pt")["step"] == 2
    count(tmp_path / "run", resume=True)
    assert [line["step"] for line in logged(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_what_fails_in_one_process_all_raise_and_one_says(tmp_path):
    def fail(step):
        ranks.gather(lambda: 1 / (1 - ranks.rank()) if step == 3 else 0)

    def main():
        join()
        try:
            count(tmp_path / "run", fail)
        except ZeroDivisionError as error:
            raise UserError(str(error)) from None

    assert in_processes(lambda: script(main), tmp_path) == [2, 2]
    said, = lines(tmp_path)
    assert said.endswith("division by zero")


def test_a_wrong_option_is_said_once(tmp_path):
    def main():
        raise UserError("no option --learnin")

    assert in_processes(lambda: script(main), tmp_path) == [2, 2]
    assert len(lines(tmp_path)) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_one_process_stops_both_behind_one_step(number, tmp_path):
    def stop(step):
        if step == 2 and ranks.rank() == 1:
            os.kill(os.getpid(), number)

    def job():
        join()
        with pytest.raises(Interrupted, match="stopped after step 3 of 6"):
            count(tmp_path / "run", stop)
        return "stopped"

    assert in_processes(job, tmp_path) == ["stopped"] * N
    assert load_state(tmp_path / "run" / "train_state.pt")["step"] == 3


def test_one_process_goes_on_where_two_stopped(make_gpt, tmp_path):
    in_processes(lambda: [join(), one_fit(make_gpt(1), tmp_path / "two")], tmp_path)
    one_fit(make_gpt(1), tmp_path / "one")
    first, second = (one_fit(make_gpt(2), tmp_path / out, 4, resume=True)["weights"] for out in ("two", "one"))
    for ours, wanted in zip(first, second, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-6)


def test_an_environment_is_asked_once_and_all_processes_hear_the_same_of_it(make_policy, tokenizer, tmp_path):
    """Also of one that says what it likes: or the processes would go on with other conversations, and break."""
    policy, asked = make_policy(0, context=160), []
    policy.ln_f.bias.data += 0.8 * policy.wte.weight.data[tokenizer.eos_id]
    moody = lambda conversation, rng: asked.append(1) or "u" * random.SystemRandom().randint(0, 5)
    prompts, speak = [render_prompt(r, tokenizer) for r in RECORDS], Conversations(lambda record: moody, 3)
    found = in_processes(lambda: join() or (
        speak(policy, tokenizer, prompts, RECORDS, Sampling(6), range(8))[1], len(asked)), tmp_path)  # fmt: skip
    (first, n), (second, m) = found
    replies = sum(message["role"] == "user" for record in first for message in record.get("messages", [])[1:])
    assert first == second and n + m == replies > 4 and n and m
