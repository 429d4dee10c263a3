"""The chassis of training: its log, bar and signals; and each training, killed at random moments, to the same bits."""

import json
import os
import random
import signal
from math import nan

import pytest
import torch

from minirlhf.harness.files import Diverged, Interrupted, UserError
from minirlhf.harness.folders import load_state, read_log, save_state
from minirlhf.harness.loop import Loop, Run, Unharmed
from minirlhf.lm.batches import Mixture
from minirlhf.lm.chat import render
from minirlhf.lm.config import FitConfig
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.optim import Stepper, make_adamw
from minirlhf.lm.sft import fit as fit_sft
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.preferences.comparisons import Judged
from minirlhf.preferences.config import RewardConfig
from minirlhf.preferences.dpo import ImplicitReward
from minirlhf.preferences.train_reward import fit_rewards
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.critic import start_critic
from minirlhf.rl.ppo import models_of, train
from minirlhf.rl.reward_model import RewardModel
from minirlhf.rl.watch import Description, Optimum


class Counter:
    """A part with something to save."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict:
        return {"count": self.count}

    def load_state_dict(self, state: dict) -> None:
        self.count = state["count"]


def count(out, total=6, save_every=2, at=lambda step: None, settings=None, **told):
    """Counts the steps of a loop; at(step) is called in each. Returns (counter, cost)."""
    counter = Counter()
    with Loop(Run(out, **told), total, save_every, settings or {}, counter=counter) as loop:
        for step in loop:
            at(step)
            counter.count += 1
            loop.record({"count": counter.count}, 10, "count")
    return counter, loop.cost()


def logged(out) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_log_is_drawn_at_every_save_and_at_the_end(tmp_path):
    drawn = []
    count(tmp_path / "run", 5, 2, draw=lambda out, goes_on: drawn.append((len(logged(out)), goes_on)))
    assert drawn == [(2, True), (4, True), (5, True), (5, False)]


def test_a_run_that_is_overwritten_leaves_no_whole_checkpoint_of_its_rounds(tmp_path):
    """They would be taken for the new run's. What else stands in the folder is left alone."""
    count(tmp_path / "run")
    for name in ("best", "round-20", "mine"):
        (tmp_path / "run" / name).mkdir()
        (tmp_path / "run" / name / "config.json").write_text("{}")
    count(tmp_path / "run", overwrite=True)
    assert [path.parent.name for path in (tmp_path / "run").glob("*/config.json")] == ["mine"]


def test_what_takes_long_to_draw_is_drawn_seldom(tmp_path, monkeypatch):
    """In about a fiftieth of the time, by a clock on which a step takes 20 s and a picture 2."""
    now, drawn = [0.0], []
    monkeypatch.setattr("minirlhf.harness.loop.time.perf_counter", lambda: now[0])

    def draw(out, goes_on):
        now[0] += 2
        drawn.append(goes_on)

    def step(_):
        now[0] += 20

    count(tmp_path / "run", 12, 1, at=step, draw=draw)
    assert drawn == [True] * 3 + [False]


@pytest.mark.parametrize("stop", [
    lambda step: step == 2 and signal.raise_signal(signal.SIGINT), lambda step: 1 / (step - 3),
], ids=["Ctrl-C", "an error"])  # fmt: skip
def test_the_log_of_a_run_that_ends_early_is_drawn_as_ended(stop, tmp_path):
    drawn = []
    with pytest.raises((Interrupted, ZeroDivisionError)):
        count(tmp_path / "run", 6, 6, at=stop, draw=lambda out, goes_on: drawn.append((len(logged(out)), goes_on)))
    assert drawn[-1] == (3, False)


def test_what_was_done_is_saved_before_the_log_is_drawn(tmp_path):
    """Who presses Ctrl-C while it is drawn loses the picture alone."""
    def fails(step):
        if step == 3:
            raise Unharmed("no reward")

    def stopped(out, goes_on):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        count(tmp_path / "run", 6, 6, at=fails, draw=stopped)
    assert count(tmp_path / "run", 6, 6, resume=True)[1]["steps"] == 6 and len(logged(tmp_path / "run")) == 6


def test_a_picture_that_cannot_be_drawn_ends_no_training(tmp_path, capsys):
    def fails(out, goes_on):
        raise OSError("the pencil is broken")

    assert count(tmp_path / "run", 4, 2, draw=fails)[1]["steps"] == 4
    assert "cannot be drawn: OSError: the pencil is broken" in capsys.readouterr().out


@pytest.mark.parametrize("steps", [6, 8], ids=["finished", "extended"])
def test_a_setting_of_several_numbers_is_compared_by_a_resume(steps, tmp_path):
    """As the scaling of Llama 3's positions is; run.json, in which a finished run's stand, has no tuples."""
    count(tmp_path, settings={"steps": 6, "scaling": (8.0, 8192)})
    assert count(tmp_path, steps, settings={"steps": steps, "scaling": (8.0, 8192)}, resume=True)[1]["steps"] == steps
    with pytest.raises(UserError, match=r"saved with scaling = \(8.0, 8192\), now \(4.0, 8192\)"):
        count(tmp_path, settings={"steps": 6, "scaling": (4.0, 8192)}, resume=True)


def test_each_step_ends_in_a_line_of_json_that_is_written_at_once(tmp_path):
    out = tmp_path / "deep" / "run"
    count(out, at=lambda step: step and logged(out)[step - 1])
    assert [(x["step"], x["count"]) for x in logged(out)] == [(n, n) for n in range(1, 7)]
    assert all(a["seconds"] <= b["seconds"] for a, b in zip(logged(out), logged(out)[1:]))


def test_what_is_not_finite_is_null_in_the_log(tmp_path):
    """NaN is no JSON: only Python would read the line."""
    with Loop(Run(tmp_path), 1, 1, {}) as loop:
        for _ in loop:
            loop.record({"loss": nan, "norm": float("inf"), "share": None}, 0, "loss")
    text = (tmp_path / "log.jsonl").read_text()
    assert '"loss": null, "norm": null, "share": null' in text and "NaN" not in text


def test_the_bar_names_the_folder_and_shows_what_matters(tmp_path, capsys):
    count(tmp_path / "grpo-3")
    err = capsys.readouterr().err
    assert "grpo-3:" in err and "6/6" in err and "count=6" in err and "tok_s=" in err


def test_tokens_and_seconds_count_on_over_a_resume(tmp_path):
    def stop(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        count(tmp_path, at=stop)
    spent = logged(tmp_path)[-1]["seconds"]
    counter, cost = count(tmp_path, resume=True)
    assert counter.count == 6 and cost["steps"] == 6 and cost["tokens"] == 60 and cost["seconds"] > spent
    assert [x["step"] for x in logged(tmp_path)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [0, 2, 5])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(number, step, tmp_path):
    """After the last step too: a script may have more to do."""
    with pytest.raises(Interrupted, match=f"stopped after step {step + 1} of 6; go on with --resume"):
        count(tmp_path, at=lambda now: now == step and os.kill(os.getpid(), number))
    assert load_state(tmp_path / "train_state.pt")["step"] == step + 1 == len(logged(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_kills_and_the_handlers_come_back(number, tmp_path):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        count(tmp_path, at=lambda step: [os.kill(os.getpid(), number) for _ in range(2)])
    assert signal.getsignal(number) is before and not (tmp_path / "train_state.pt").exists()


def test_a_state_is_saved_every_n_steps_and_at_the_end(tmp_path):
    def die(step):
        if step == 5:
            raise MemoryError

    with pytest.raises(MemoryError):
        count(tmp_path, total=7, save_every=2, at=die)
    assert load_state(tmp_path / "train_state.pt")["step"] == 4
    count(tmp_path, total=7, save_every=2)
    assert load_state(tmp_path / "train_state.pt")["step"] == 7


def test_a_half_written_line_and_steps_after_the_last_save_leave_the_log(tmp_path):
    def die(step):
        if step == 5:
            raise MemoryError

    with pytest.raises(MemoryError):
        count(tmp_path, save_every=3, at=die)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "los')
    count(tmp_path, save_every=3, resume=True)
    assert [x["step"] for x in logged(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_log_that_an_editor_wrote_again_is_cut_at_the_ends_of_its_lines(tmp_path):
    """Windows puts two bytes at the end of a line, and three in front of all."""
    lines = [json.dumps({"step": i}) for i in (1, 2)]
    (tmp_path / "log.jsonl").write_bytes(b"\xef\xbb\xbf" + "".join(line + "\r\n" for line in lines).encode())
    ends = [end for end, _ in read_log(tmp_path / "log.jsonl")]
    assert ends == [3 + len(lines[0]) + 2, (tmp_path / "log.jsonl").stat().st_size]


def test_a_state_for_which_the_disk_has_no_room_is_an_error_of_the_disk(tmp_path, monkeypatch):
    """torch makes a RuntimeError of it, which would end in a traceback."""
    def full(state, file):
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc:672]")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left on device"):
        save_state(tmp_path / "train_state.pt", {})


def test_a_state_in_a_folder_whose_name_is_no_text_is_read(tmp_path):
    folder = tmp_path / os.fsdecode(b"x\xff")
    save_state(folder / "train_state.pt", {"step": 3, "x": torch.ones(2)})
    assert load_state(folder / "train_state.pt")["step"] == 3


def test_of_no_step_nothing_is_drawn_and_nothing_said(tmp_path, capsys):
    def refuse(out, goes_on):
        raise UserError("no log.jsonl with a step in it")

    with Loop(Run(tmp_path, draw=refuse), 0, 1, {}) as loop:
        assert not list(loop)
    assert "cannot be drawn" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_new_run_forgets_the_old_one_when_its_first_step_is_done(overwrite, tmp_path):
    """Killed then, it has nothing to resume; killed before, the old one stands there as it was."""
    def die(step, at=1):
        if step == at:
            raise MemoryError

    out = tmp_path / "run"
    count(out)
    before = [(out / name).read_bytes() for name in ("train_state.pt", "log.jsonl")]
    with pytest.raises(MemoryError):
        count(out, at=lambda step: die(step, 0), overwrite=overwrite)
    assert before == [(out / name).read_bytes() for name in ("train_state.pt", "log.jsonl")]
    with pytest.raises(MemoryError):
        count(out, at=die, overwrite=overwrite)
    assert not (out / "train_state.pt").exists() and [x["step"] for x in logged(out)] == [1]


@pytest.mark.parametrize("change, message", [
    ({"settings": {"lr": 2}}, "lr = 1, now 2"), ({"seed": 1}, "seed = 0, now 1"),
    ({"data": "b"}, "data = , now b"), ({"init": "c"}, "init = , now c"),
    ({"dtype": torch.bfloat16}, "dtype = torch.float32, now torch.bfloat16"),
])  # fmt: skip
def test_a_resume_of_another_run_is_refused_by_name_and_leaves_it_whole(change, message, tmp_path):
    count(tmp_path, settings={"lr": 1})
    before = [(tmp_path / name).read_bytes() for name in ("train_state.pt", "log.jsonl")]
    with pytest.raises(UserError, match=f"train_state.pt: saved with {message}: resume with the same"):
        count(tmp_path, **{"settings": {"lr": 1}, "resume": True} | change)
    assert before == [(tmp_path / name).read_bytes() for name in ("train_state.pt", "log.jsonl")]


@pytest.mark.parametrize("state", [
    {"settings": {"seed": 0}, "step": 3, "model": {}, "optimizer": {}},  # of another version
    {"settings": [], "step": 3, "seconds": 1.0, "kept": {}, "rng": None, "parts": {}},
], ids=["another version", "settings of another kind"])  # fmt: skip
def test_a_state_that_is_none_of_ours_is_refused_in_one_line_and_changes_nothing(state, tmp_path):
    save_state(tmp_path / "train_state.pt", state)
    with pytest.raises(UserError, match="not a state of this version; train without --resume"):
        count(tmp_path, resume=True)


def test_two_parts_of_one_kind_keep_their_own_states(tmp_path):
    def stop(step):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def both(resume, at=lambda step: None):
        counters = Counter(), Counter()
        with Loop(Run(tmp_path, resume=resume), 4, 1, {}, a=counters[0], b=counters[1]) as loop:
            for step in loop:
                at(step)
                counters[0].count += 1
                counters[1].count += 10
                loop.record({}, 0)
        return [counter.count for counter in counters]

    with pytest.raises(Interrupted):
        both(False, stop)
    assert both(True) == [4, 40]


def test_what_is_resumed_does_not_live_in_the_file(tmp_path):
    """Weights and moments stay what they are, whatever becomes of the state that they came from."""
    def part():
        model = torch.nn.Linear(3, 2)
        return model, Stepper(make_adamw([model], 0.1, 0.0), 1.0)

    (model, stepper), (again, stepper_again) = part(), part()
    model(torch.ones(1, 3)).sum().backward()
    stepper.step(0.1)
    with Loop(Run(tmp_path), 1, 1, {}, model=model, stepper=stepper) as loop:
        for _ in loop:
            loop.record({}, 0)
    Loop(Run(tmp_path, resume=True), 1, 1, {}, model=again, stepper=stepper_again)
    path = tmp_path / "train_state.pt"
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(again.weight, model.weight)
    for got, wanted in zip(stepper_again.optimizer.state.values(), stepper.optimizer.state.values(), strict=True):
        assert got["exp_avg"].any() and all(torch.equal(got[key], x) for key, x in wanted.items())


def test_with_nothing_to_resume_a_resume_is_refused(tmp_path):
    with pytest.raises(UserError, match="train_state.pt: .*nothing to resume"):
        count(tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_a_finished_run_is_resumed_without_a_further_step(tmp_path):
    count(tmp_path)
    counter, cost = count(tmp_path, resume=True, at=lambda step: 1 / 0)
    assert counter.count == 6 and cost["tokens"] == 60 and len(logged(tmp_path)) == 6


def test_divergence_names_the_folder_the_step_and_the_state(tmp_path):
    def diverge(step):
        if step == 2:
            raise Diverged("too fast")

    with pytest.raises(Diverged, match="step 3: too fast; .*train_state.pt, if it was written before, is good"):
        count(tmp_path, at=diverge)
    assert load_state(tmp_path / "train_state.pt")["step"] == 2


# Each training


def weights(*modules) -> list[torch.Tensor]:
    return [p.detach().clone() for module in modules for p in module.parameters()]


def gpt(seed=0, dropout=0.2) -> GPT:
    torch.manual_seed(seed)
    return GPT(GPTConfig(Tokenizer().vocab_size, context=32, layers=1, heads=2, width=16, dropout=dropout))


def sft(out, resume) -> list[torch.Tensor]:
    """With dropout, whose random numbers have to go on where they were."""
    model, tokenizer = gpt(), Tokenizer()
    examples = [render({"prompt": "abc"[: n % 4], "response": "xyz" * n}, tokenizer) for n in range(1, 7)]
    config = FitConfig(steps=9, lr=1e-2, warmup=2, eval_every=4, save_every=2)
    fit_sft(model, Mixture({"a": (examples, 3)}, 0).step, examples[:2], config, Run(out, resume=resume))
    return weights(model)


PAIRS = [[Judged(((1, 259, 5 + n, 6, 0), (1, 259, 9, 10 + n, 0)), wanted=0.9)] for n in range(12)]


def reward(out, resume) -> list[torch.Tensor]:
    model = RewardModel(gpt())
    fit_rewards(model, PAIRS, RewardConfig(epochs=3, batch=4, lr=1e-2, save_every=2), Run(out, resume=resume))
    return weights(model)


def dpo(out, resume) -> list[torch.Tensor]:
    model = ImplicitReward(gpt(), [259], 0.1)
    fit_rewards(model, PAIRS, RewardConfig(epochs=3, batch=4, lr=1e-2, save_every=2), Run(out, resume=resume))
    return weights(model)


def ppo(out, resume) -> list[torch.Tensor]:
    """With a critic, a β that adapts, and a watcher that counts."""
    policy, optimum = gpt(), Optimum(0.1)
    config = PPOConfig(iterations=7, batch=4, minibatches=2, lr=1e-2, kl_target=0.5, kl_horizon=50.0, max_new=6,
                       save_every=2)  # fmt: skip
    models, run = models_of(policy, Tokenizer(), config.algorithm), Run(out, resume=resume)
    records_of = lambda step: [{"prompt": p} for p in "abcd"]
    reward_of = lambda record: lambda prompt, response, record: float(len(response))
    start_critic(models, records_of, reward_of, config, run)
    train(models, records_of, reward_of, config, run, [Description(config.algorithm), optimum])
    counted = [torch.tensor([x["n"], x["first"], x["second"]]) for x in optimum.state_dict().values()]
    return weights(policy, models.value_head) + counted


def killed(training, out, resume, place, n) -> bool:
    """Run the training in a process of its own that is killed at the n-th call of `place`; whether it came so far."""
    child = os.fork()
    if child == 0:
        owner, name, before = place
        original, calls = getattr(owner, name), []

        def dying(*arguments, **named):
            calls.append(None)
            if before and len(calls) == n:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*arguments, **named)
            if len(calls) == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, dying)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            training(out, resume)
        finally:
            os._exit(1)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("training", [sft, reward, dpo, ppo])
def test_killed_at_random_moments_and_resumed_a_training_gives_the_same_bits(training, tmp_path):
    """SIGKILL in a step, and in a save before or after the file is flushed or renamed; resumed after each."""
    straight = training(tmp_path / "a", False)
    rng, out = random.Random(training.__name__), tmp_path / "b"
    steps = [((Loop, "record", before), n) for before in (True, False) for n in (1, 2, 3)]
    saves = [(os, "fsync", True), (os, "replace", True), (os, "replace", False), (torch, "save", False)]
    moments = rng.sample(steps, 3) + [(place, 1) for place in rng.sample(saves, 3)]
    died = [killed(training, out, (out / "train_state.pt").exists(), *m) for m in rng.sample(moments, len(moments))]
    assert all(died) and load_state(out / "train_state.pt")["step"] > 0
    resumed = training(out, True)
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))
    untimed = [[{k: v for k, v in record.items() if k != "seconds"} for record in logged(tmp_path / x)] for x in "ab"]
    assert untimed[0] == untimed[1]
