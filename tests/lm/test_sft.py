"""The next-token loss and the loop: what is trained, that it is exact, and that it can be interrupted."""

import dataclasses
import json
import os
import signal
from math import fsum, log, nan

import numpy as np
import pytest
import torch

from minirlhf.harness.files import Diverged, Interrupted, UserError
from minirlhf.harness.folders import load_state
from minirlhf.harness.loop import Run
from minirlhf.lm.batches import Mixture, collate, micro_batches
from minirlhf.lm.chat import Example, render, render_prompt
from minirlhf.lm.config import FitConfig
from minirlhf.lm.examples import document_examples
from minirlhf.lm.generation import Sampling, generate, responses_of
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.sft import accumulate, evaluate_loss, fit, negative_log_likelihood

CONFIG = FitConfig(steps=10, lr=1e-2, warmup=3, eval_every=4, save_every=3, micro_rows=3)


def examples_of_lengths(lengths, replies=(1, 4, 2, 6, 3)):
    """Random ids; the last 1, 4, 2, ... of each are targets."""
    rng = np.random.default_rng(5)
    out = []
    for i, n in enumerate(lengths):
        reply = min(replies[i % len(replies)], n - 1)
        out.append(Example(rng.integers(260, size=n).tolist(), [False] * (n - reply) + [True] * reply))
    return out


def losses_slowly(model, examples):
    """− log p of each target, one token at a time and each example alone."""
    out = []
    with torch.no_grad():
        for e in examples:
            logits = model.logits(model(torch.tensor([e.ids])))[0].double()
            for t, trained in enumerate(e.mask):
                if trained:
                    out.append(-float(logits[t - 1].log_softmax(-1)[e.ids[t]]))
    return out


def gradients(model, examples, micro_rows):
    """(loss, {parameter: gradient}) of one optimizer step."""
    model.zero_grad(set_to_none=True)
    loss, *_ = accumulate(model, examples, micro_rows, torch.float32)
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def batches(seed=0):
    """Batches of four from a small set of unequal examples, by step."""
    return Mixture({"a": (examples_of_lengths([9, 4, 20, 7, 13, 5, 6]), 4)}, seed).step


def run(model, out, config=CONFIG, batch_of=None, validation=(), **told):
    """`fit` on the CPU."""
    return fit(model, batch_of or batches(), validation, config, Run(out, **told))


def fresh(dropout=0.0, seed=0):
    """A new model of the given seed; torch's generator stands where building it left it."""
    torch.manual_seed(seed)
    return GPT(GPTConfig(260, context=32, layers=1, heads=2, width=16, dropout=dropout))


def logged(out):
    """The records of log.jsonl."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def same_weights(a, b):
    """Whether two models are the same to the bit."""
    other = b.state_dict()
    return all(torch.equal(p, other[name]) for name, p in a.state_dict().items())


def stopping_at(step_to_stop, send):
    """Batches that call `send` while the given step is under way."""
    inner = batches()

    def batch_of(step):
        if step == step_to_stop:
            send()
        return inner(step)

    return batch_of


def terminate():
    """Send this process a SIGTERM, as a batch system does."""
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_loss_equals_a_loop_over_tokens(model):
    examples = examples_of_lengths([9, 4, 20, 7])
    nll = negative_log_likelihood(model, collate(examples))
    assert nll.tolist() == pytest.approx(losses_slowly(model, examples), abs=1e-5)


def test_a_model_that_knows_the_next_token_has_no_loss():
    """Position t holds the embedding of token t + 1; unshifted labels would cost 100 nats."""
    model = GPT(GPTConfig(8, context=8, layers=1, heads=1, width=8))
    hadamard = torch.ones(1, 1)
    for _ in range(3):
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    ids = [3, 1, 4, 1, 5, 2, 6]
    with torch.no_grad():
        for p in model.h.parameters():
            p.zero_()
        model.wte.weight.copy_(20 * hadamard)
        model.wpe.weight[: len(ids) - 1].copy_(1000 * hadamard[ids[1:]])
    nll = negative_log_likelihood(model, collate([Example(ids, [False] + [True] * 6)]))
    assert nll.tolist() == pytest.approx([0.0] * 6, abs=1e-6)


def test_what_stands_at_padding_and_beside_the_mask_has_no_influence(model):
    examples = examples_of_lengths([9, 4, 20])
    batch = collate(examples)
    expected = negative_log_likelihood(model, batch)
    lengths = torch.tensor([len(e.ids) - 1 for e in examples])
    padding = torch.arange(batch.inputs.shape[1]) >= lengths[:, None]
    assert batch.inputs.shape == (3, 24) and padding.sum() == 16 + 21 + 5
    batch.inputs = torch.where(padding, 77, batch.inputs)
    batch.targets = torch.where(batch.mask, batch.targets, -100)
    assert torch.equal(negative_log_likelihood(model, batch), expected)


@pytest.mark.parametrize(
    "lengths, micro_rows, split",
    [
        ([12, 11, 10, 9, 8, 7, 6, 5], 8, [8]),
        ([12, 11, 10, 9, 8, 7, 6, 5], 4, [4, 4]),
        ([32, 9, 8, 8, 7, 6, 5, 5], 7, [7, 1]),
        ([12, 11, 10, 9, 8, 7, 6, 5], 1, [1] * 8),
    ],
)
def test_the_gradient_does_not_depend_on_micro_batches(lengths, micro_rows, split, model):
    """It is that of the mean over all tokens of the step, though the replies are of 1 to 6 tokens."""
    examples = examples_of_lengths(lengths)
    sizes = [len(part) for part in micro_batches(lengths, micro_rows)]
    assert sorted(sizes) == sorted(split)
    loss, grads = gradients(model, examples, micro_rows)
    model.zero_grad(set_to_none=True)
    batch = collate(examples)
    logits = model.logits(model(batch.inputs))
    whole = torch.nn.functional.cross_entropy(logits[batch.mask], batch.targets[batch.mask])
    whole.backward()
    assert loss == pytest.approx(whole.item(), abs=1e-6)
    assert set(grads) == {name for name, _ in model.named_parameters()}
    for name, p in model.named_parameters():
        assert torch.allclose(grads[name], p.grad, rtol=0, atol=1e-6), name


def test_tokens_and_padding_of_a_step_are_counted(model):
    examples = examples_of_lengths([11, 6], replies=(2, 5))
    _, n_tokens, padding = accumulate(model, examples, 1000, torch.float32)
    assert n_tokens == 7
    assert padding == pytest.approx(1 - 15 / (16 + 16))
    assert accumulate(model, examples, 1, torch.float32)[2] == pytest.approx(1 - 15 / (16 + 8))


def test_a_step_without_targets_has_loss_0_and_finite_gradients(model):
    idle = [Example([1, 2, 3], [False] * 3), Example([4, 5], [False] * 2)]
    for examples in (idle, []):
        loss, grads = gradients(model, examples, 100)
        assert loss == 0.0
        assert all(torch.count_nonzero(g) == 0 for g in grads.values())


def test_rows_without_targets_do_not_change_a_step(model):
    examples = examples_of_lengths([9, 4, 20])
    loss, grads = gradients(model, examples, 100)
    again, same = gradients(model, [*examples, Example([1] * 9, [False] * 9)], 100)
    assert again == pytest.approx(loss, abs=1e-6)
    assert all(torch.allclose(grads[name], same[name], rtol=0, atol=1e-6) for name in grads)


@pytest.mark.parametrize("micro_rows", [1, 5, 64])
def test_the_validation_loss_does_not_depend_on_batches_and_has_no_dropout(micro_rows):
    model = fresh(dropout=0.5)
    model.train()
    examples = examples_of_lengths([9, 4, 20, 7, 13, 5, 6])
    total, count = evaluate_loss(model, examples, micro_rows)
    assert model.training
    slow = losses_slowly(model.eval(), examples)
    assert count == len(slow)
    assert total == pytest.approx(fsum(slow), rel=1e-6)
    assert evaluate_loss(model, examples, micro_rows) == (total, count)
    assert not model.training


def test_the_validation_loss_is_summed_in_float64(model):
    """A float32 sum of these 3,000 numbers is off in the eighth digit; theirs in float64 is exact."""
    examples = examples_of_lengths([31] * 100, replies=(30,))
    terms = negative_log_likelihood(model, collate(examples)).tolist()
    assert evaluate_loss(model, examples, 10**6)[0] == pytest.approx(fsum(terms), rel=1e-13)


def test_the_train_mode_comes_back_after_an_error(model):
    model.train()
    with pytest.raises(IndexError):
        evaluate_loss(model, [Example([1, 9999, 2], [False, True, True])])
    assert model.training


def test_the_first_loss_is_that_of_guessing_and_of_the_whole_step(tmp_path):
    """ln V before the first update, over all micro-batches and not the last alone."""
    model, batch = fresh(), batches()(0)
    expected = fsum(losses_slowly(model, batch)) / sum(sum(e.mask) for e in batch)
    config = dataclasses.replace(CONFIG, steps=1, micro_rows=1)
    run(model, tmp_path, config)
    (record,) = logged(tmp_path)
    assert record["step"] == 1 and record["loss"] == pytest.approx(expected, abs=1e-5)
    assert abs(record["loss"] - log(260)) < 0.2


def test_training_learns_replies_and_their_end(tokenizer, tmp_path):
    """A batch is learnt by heart: asked as in generation, the model gives each reply and stops."""
    records = [{"prompt": p, "response": r} for p, r in zip("abcd", ["one", "three", "ii", ""])]
    examples = [render(record, tokenizer) for record in records]
    model = fresh()
    config = FitConfig(steps=120, lr=2e-2, warmup=5, weight_decay=0.0)
    cost = run(model, tmp_path, config, lambda step: examples)
    assert logged(tmp_path)[-1]["loss"] < 0.05
    prompts = [render_prompt(record, tokenizer) for record in records]
    g = generate(model, prompts, Sampling(8, temperature=0), tokenizer.eos_id, range(4))
    assert [tokenizer.decode(ids) for ids in responses_of(g)] == ["one", "three", "ii", ""]
    assert g.ended.all()
    assert cost["steps"] == 120 and cost["tokens"] == 120 * (10 + 4) and cost["skipped"] == 0


def test_pretraining_is_the_same_loop(tokenizer, tmp_path):
    examples = document_examples({"text": "abracadabra" * 4}, tokenizer, 32)
    run(fresh(), tmp_path, dataclasses.replace(CONFIG, steps=60, lr=2e-2), lambda step: examples)
    losses = [record["loss"] for record in logged(tmp_path)]
    assert losses[-1] < 1.0 < 4.0 < losses[0]


def test_each_step_is_logged_and_validated_when_due(tmp_path):
    model, validation = fresh(), examples_of_lengths([6, 8])
    run(model, tmp_path, dataclasses.replace(CONFIG, weight_decay=0.0), validation=validation)
    records = logged(tmp_path)
    assert [r["step"] for r in records] == list(range(1, 11))
    assert [r["step"] for r in records if "validation_loss" in r] == [4, 8, 10]
    slow = losses_slowly(model, validation)
    assert records[-1]["validation_loss"] == pytest.approx(fsum(slow) / len(slow), abs=1e-5)
    assert [r["lr"] for r in records[:3]] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2])
    assert [r["tokens"] for r in records] == [sum(sum(e.mask) for e in batches()(s)) for s in range(10)]
    assert not model.training


def test_a_run_shorter_than_its_warmup_still_reaches_the_peak(tmp_path):
    run(fresh(), tmp_path, dataclasses.replace(CONFIG, steps=2, warmup=50))
    assert [record["lr"] for record in logged(tmp_path)] == [CONFIG.lr / 2, CONFIG.lr]


def test_the_same_seed_gives_the_same_bits_and_another_other_ones(tmp_path):
    models = [fresh(0.1), fresh(0.1), fresh(0.1, seed=1), fresh(0.1)]
    for i, (seed, m) in enumerate(zip((0, 0, 0, 1), models)):
        torch.manual_seed(0)
        run(m, tmp_path / str(i), batch_of=batches(seed))
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])
    assert not same_weights(models[0], models[3])


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("stop", [0, 4, 8])
def test_interrupted_and_resumed_equals_uninterrupted(stop, dropout, tmp_path):
    """To the bit, dropout and all, with other random numbers drawn in between."""
    straight = fresh(dropout)
    run(straight, tmp_path / "a", validation=batches()(0))
    with pytest.raises(Interrupted, match=f"step {stop + 1} of 10; go on with --resume"):
        run(fresh(dropout), tmp_path / "b", batch_of=stopping_at(stop, terminate), validation=batches()(0))
    assert [r["step"] for r in logged(tmp_path / "b")] == list(range(1, stop + 2))
    resumed = fresh(dropout, seed=7)
    torch.rand(100)
    cost = run(resumed, tmp_path / "b", resume=True, validation=batches()(0))
    assert same_weights(straight, resumed)
    first, second = (load_state(tmp_path / x / "train_state.pt") for x in "ab")
    for a, b in zip(*(x["parts"]["stepper"]["optimizer"]["state"].values() for x in (first, second)), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("step", "exp_avg", "exp_avg_sq"))
    records = {x: logged(tmp_path / x) for x in "ab"}
    for record in records["a"] + records["b"]:
        assert record.pop("seconds") > 0
    assert records["a"] == records["b"]
    assert cost["tokens"] == sum(r["tokens"] for r in records["a"]) and cost["steps"] == 10


def test_a_run_that_was_killed_goes_on_from_the_last_saved_step(tmp_path):
    """Killed in step 8, saved after step 6: steps 7 and 8 are done again and stand in the log once."""

    def die():
        raise MemoryError

    straight, resumed = fresh(0.2), fresh(0.2)
    run(straight, tmp_path / "a")
    with pytest.raises(MemoryError):
        run(fresh(0.2), tmp_path / "b", batch_of=stopping_at(8, die))
    assert len(logged(tmp_path / "b")) == 8
    with (tmp_path / "b" / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "los')
    assert load_state(tmp_path / "b" / "train_state.pt")["step"] == 6
    run(resumed, tmp_path / "b", resume=True)
    assert same_weights(straight, resumed)
    assert [r["step"] for r in logged(tmp_path / "b")] == list(range(1, 11))


def test_a_finished_run_is_resumed_without_a_further_step(tmp_path):
    done, again = fresh(), fresh(seed=1)
    run(done, tmp_path)
    run(again, tmp_path, resume=True, batch_of=None)
    assert same_weights(done, again)
    assert len(logged(tmp_path)) == 10


def test_without_resume_a_run_starts_anew(tmp_path):
    first, second = fresh(), fresh()
    run(fresh(seed=1), tmp_path / "a")
    run(first, tmp_path / "a")
    run(second, tmp_path / "b")
    assert same_weights(first, second)
    assert [r["step"] for r in logged(tmp_path / "a")] == list(range(1, 11))


def test_a_new_run_leaves_no_state_of_the_old_one(tmp_path):
    """Killed before it has saved, it has nothing to resume."""

    def die():
        raise MemoryError

    run(fresh(), tmp_path)
    with pytest.raises(MemoryError):
        run(fresh(), tmp_path, batch_of=stopping_at(1, die))
    assert not (tmp_path / "train_state.pt").exists()


def test_dropout_is_on_in_training_however_the_model_comes(tmp_path):
    models = []
    for i, (dropout, training) in enumerate([(0.3, True), (0.3, False), (0.0, True)]):
        models.append(fresh(dropout).train(training))
        run(models[-1], tmp_path / str(i))
    assert same_weights(models[0], models[1]) and not same_weights(models[0], models[2])


def test_a_stop_in_the_last_step_is_not_forgotten(tmp_path):
    """Else a script that trains twice would go on to its second training."""
    with pytest.raises(Interrupted):
        run(fresh(), tmp_path, batch_of=stopping_at(9, terminate))
    assert load_state(tmp_path / "train_state.pt")["step"] == 10


@pytest.mark.parametrize(
    "name, value", [("lr", 2e-2), ("weight_decay", 0.5), ("warmup", 0)]
)
def test_resuming_with_another_setting_is_refused_by_its_name(name, value, tmp_path):
    run(fresh(), tmp_path)
    before = (tmp_path / "train_state.pt").read_bytes()
    with pytest.raises(UserError, match=f"saved with {name} = {getattr(CONFIG, name)}, now {value}"):
        run(fresh(), tmp_path, dataclasses.replace(CONFIG, **{name: value}), resume=True)
    assert (tmp_path / "train_state.pt").read_bytes() == before
    assert len(logged(tmp_path)) == 10


def poisoned(model, bad_steps):
    """Batches that make the model's gradient NaN in the given steps."""
    bad, inner = [False], batches()
    model.ln_f.bias.register_hook(lambda g: g * nan if bad[0] else g)

    def batch_of(step):
        bad[0] = step in bad_steps
        return inner(step)

    return batch_of


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path):
    model = fresh()
    seen = []
    poison = poisoned(model, {4, 5})

    def batch_of(step):
        seen.append([p.detach().clone() for p in model.parameters()])
        return poison(step)

    cost = run(model, tmp_path, batch_of=batch_of)
    moved = [any(not torch.equal(a, b) for a, b in zip(x, y)) for x, y in zip(seen, seen[1:])]
    assert moved == [step not in (4, 5) for step in range(9)]
    assert cost["skipped"] == 2 and [r["skipped"] for r in logged(tmp_path)] == [0, 0, 0, 0, 1, 2, 2, 2, 2, 2]


def test_what_was_skipped_before_a_resume_still_counts(tmp_path):
    model = fresh()
    poison = poisoned(model, {1})
    with pytest.raises(Interrupted):
        run(model, tmp_path, batch_of=lambda step: (terminate() if step == 2 else None) or poison(step))
    assert run(fresh(), tmp_path, resume=True)["skipped"] == 1


def test_the_log_is_json_also_where_a_gradient_is_not_finite(tmp_path):
    """NaN is no JSON: only Python would read the line."""

    def refuse(word):
        raise AssertionError(word)

    model = fresh()
    run(model, tmp_path, batch_of=poisoned(model, {4}))
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize("save_every, saved", [(1, 7), (3, 6)])
def test_divergence_stops_the_run_and_leaves_a_good_state(save_every, saved, tmp_path):
    """Bad from the fourth step on: the state that stands has the weights of the third."""
    config = dataclasses.replace(CONFIG, save_every=save_every)
    good = fresh()
    with pytest.raises(Interrupted):
        run(good, tmp_path / "a", config, stopping_at(2, terminate))
    model = fresh()
    with pytest.raises(Diverged, match="b, step 8: .*5 steps in a row.*train_state.pt"):
        run(model, tmp_path / "b", config, poisoned(model, set(range(3, 10))))
    state = load_state(tmp_path / "b" / "train_state.pt")
    assert state["step"] == saved and state["parts"]["stepper"]["skipped"] == saved - 3
    assert all(torch.equal(p, state["parts"]["model"][name]) for name, p in good.state_dict().items())
