"""LoRA: what is learnt beside a frozen network, and the network without it."""

import copy
import signal
from dataclasses import dataclass

import pytest
import torch
from llamas import CASES, by_formula, some_ids

from minirlhf.harness.files import Interrupted, UserError
from minirlhf.harness.folders import load_state, save_state
from minirlhf.harness.loop import Run
from minirlhf.harness.options import option, parse
from minirlhf.lm.chat import Example
from minirlhf.lm.config import FitConfig, LoRAOptions
from minirlhf.lm.generation import Sampling, generate, responses_of
from minirlhf.lm.lora import WithoutAdapters, adapt, adapters_off, layers_of, merge
from minirlhf.lm.model import GPT, GPTConfig, KVCache, ScalarHead
from minirlhf.lm.optim import Stepper, make_adamw
from minirlhf.lm.sft import accumulate, evaluate_loss, fit
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.ppo import models_of, train
from minirlhf.rl.rollout import collect, score_tokens

IDS = some_ids(3, 12)
EXAMPLES = [Example(row.tolist(), [False] * 3 + [True] * 9) for row in IDS]


@pytest.fixture(params=["gpt", "llama", "llama3", "qwen2"])
def base(request, make_gpt):
    """A model of either kind, without dropout; equal in every test."""
    return make_gpt(vocab_size=97) if request.param == "gpt" else by_formula(CASES[request.param])


def learnt(model: GPT, rank: int = 4, alpha: float = 6.0, targets: tuple[str, ...] = ()) -> GPT:
    """The model with adapters that have learnt something: no B is 0."""
    torch.manual_seed(1)
    adapt(model, rank, alpha, targets)
    with torch.no_grad():
        for layer in layers_of(model).values():
            layer.B.normal_(std=0.1)
    return model


def with_its_product(model: GPT, base: GPT) -> dict[str, torch.Tensor]:
    """The parameters of the base, each adapted matrix W + α/r · B A, by loops over ranks; differentiable in A and B."""
    state = dict(base.named_parameters())
    for path, layer in layers_of(model).items():
        product = sum(torch.outer(layer.B[:, i], layer.A[i]) for i in range(len(layer.A)))  # (out, in)
        state[f"{path}.weight"] = state[f"{path}.weight"] + 6.0 / 4 * product
    return state


def bits(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_an_adapter_changes_nothing_at_first(base):
    before = base(IDS)
    assert torch.equal(adapt(base, 4, 8.0)(IDS), before)


def test_the_output_is_that_of_w_plus_alpha_over_r_times_b_a(base):
    model = learnt(copy.deepcopy(base))
    wanted = torch.func.functional_call(base, with_its_product(model, base), (IDS,))
    torch.testing.assert_close(model(IDS), wanted, atol=1e-5, rtol=1e-5)
    assert (model(IDS) - base(IDS)).abs().max() > 0.01


def test_the_gradients_are_those_of_w_plus_alpha_over_r_times_b_a(base):
    base.double()
    model = learnt(copy.deepcopy(base)).double()
    slow = torch.func.functional_call(base, with_its_product(model, base), (IDS,)).cos().sum()
    parameters = [p for layer in layers_of(model).values() for p in (layer.A, layer.B)]
    wanted = torch.autograd.grad(slow, parameters)
    model(IDS).cos().sum().backward()
    assert all(w.abs().max() > 1e-6 for w in wanted)
    for p, w in zip(parameters, wanted):
        torch.testing.assert_close(p.grad, w, atol=1e-10, rtol=1e-8)


def test_merged_it_computes_the_same_and_has_the_names_of_the_base(base):
    """To 1e-12 in float64."""
    names, model = base.state_dict().keys(), learnt(base).double()
    before = model(IDS)
    assert merge(model) is model and model.state_dict().keys() == names
    torch.testing.assert_close(model(IDS), before, atol=1e-12, rtol=1e-12)
    assert all(p.requires_grad for p in model.parameters())


def test_what_is_merged_is_the_product_added_once_to_each_target_alone(base):
    model = learnt(copy.deepcopy(base))
    wanted = with_its_product(model, base)
    for name, p in merge(model).named_parameters():
        torch.testing.assert_close(p, wanted[name], atol=1e-6, rtol=1e-6)


def test_with_the_adapters_off_it_is_the_base_to_the_bit(base):
    model = learnt(copy.deepcopy(base))
    with adapters_off(model):
        assert torch.equal(model(IDS), base(IDS))
    assert not torch.equal(model(IDS), base(IDS))


def test_adapters_and_dropout_are_on_again_behind_an_error():
    model = learnt(GPT(GPTConfig(97, 32, 1, 2, 16, dropout=0.5)).train())
    with pytest.raises(ValueError, match="stop"), adapters_off(model):
        assert not model.training
        raise ValueError("stop")
    assert model.training and all(m.training for m in model.modules())
    assert all(layer.on for layer in layers_of(model).values())


def test_only_a_and_b_have_gradients_and_are_in_the_optimizer(base):
    model = learnt(base)
    ours = {id(p) for layer in layers_of(model).values() for p in (layer.A, layer.B)}
    head = ScalarHead(model.config.width)
    optimizer = make_adamw([model, head], 1e-2, 0.0, slow=model.h, share=0.5)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(ours | {id(p) for p in head.parameters()})
    accumulate(model, EXAMPLES, 2, torch.float32)
    assert {id(p) for p in model.parameters() if p.grad is not None} == ours


def test_a_step_moves_the_adapters_and_leaves_the_base(base):
    before = bits(base)
    model = adapt(base, 2, 4.0)
    stepper = Stepper(make_adamw([model], 1e-2, 0.1), 1.0)
    losses = []
    for _ in range(8):
        losses.append(accumulate(model, EXAMPLES, 3, torch.float32)[0])
        stepper.step(1e-2)
    assert losses[-1] < losses[0] - 0.05
    with adapters_off(model):
        assert evaluate_loss(model, EXAMPLES)[0] / 27 == pytest.approx(losses[0], rel=1e-5)
    assert same([p for name, p in model.named_parameters() if not name.endswith((".A", ".B"))], before)


def test_a_is_normal_with_variance_1_over_in_and_torchs_seed_decides_it():
    def drawn(seed: int) -> GPT:
        model = GPT(GPTConfig(97, 32, 2, 2, 64))
        torch.manual_seed(seed)
        return adapt(model, 16, 32.0)

    A = [layer.A for layer in layers_of(drawn(0)).values()]
    z = torch.cat([(a * a.shape[1] ** 0.5).flatten() for a in A]).double()  # 14,336 numbers, N(0, 1)
    assert abs(z.mean()) < 4 / len(z) ** 0.5 and abs(z.var() - 1) < 4 * (2 / len(z)) ** 0.5
    assert abs(z.abs().mean() - (2 / torch.pi) ** 0.5) < 0.02  # of a uniform of this variance it is 0.866
    assert same(bits(drawn(0)), bits(drawn(0)))
    again = [layer.A for layer in layers_of(drawn(1)).values()]
    assert not any(torch.equal(a, b) for a, b in zip(A, again)) and not torch.equal(A[0], A[4])


@torch.no_grad()
def test_it_answers_with_the_cache_as_without(base):
    model, cache = learnt(base), KVCache()
    steps = [model(IDS[:, :5], None, cache)] + [model(IDS[:, t : t + 1], None, cache) for t in range(5, 12)]
    whole = model(IDS)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5 * float(whole.abs().max()), rtol=0)
    greedy = responses_of(generate(model, [[5, 6], [7]], Sampling(6, temperature=0), 0, [1, 2]))
    assert greedy == responses_of(generate(merge(model), [[5, 6], [7]], Sampling(6, temperature=0), 0, [1, 2]))


def test_under_bfloat16_it_is_near_and_its_gradients_are_float32(base):
    model = learnt(base)
    wide, _, _ = accumulate(model, EXAMPLES, 3, torch.float32)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    narrow, _, _ = accumulate(model, EXAMPLES, 3, torch.bfloat16)
    assert narrow == pytest.approx(wide, rel=0.03)
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad.dtype == torch.float32
            assert (p.grad - gradients[name]).norm() < 0.2 * gradients[name].norm() + 1e-3, name


def test_a_frozen_base_in_bfloat16_keeps_adapters_in_float32(base):
    """Half the memory: what learns keeps its precision."""
    for layer in (x for x in base.h.modules() if isinstance(x, torch.nn.Linear)):
        layer.bfloat16()
    model = learnt(base)
    assert {layer.A.dtype for layer in layers_of(model).values()} == {torch.float32}
    loss, _, _ = accumulate(model, EXAMPLES, 3, torch.bfloat16)
    assert loss > 0 and {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize(
    "rank, targets, said",
    [(0, (), "rank 0; the smallest matrix has 16"), (17, (), "rank 17; the smallest matrix has 16"),
     (-1, (), "rank -1"), (4, ("c_attn", "q_proj"), "no layer 'q_proj' in a block; take of c_attn, c_fc, c_proj"),
     (4, ("wte",), "no layer 'wte'"), (4, ("",), "no layer ''")],
)  # fmt: skip
def test_what_cannot_be_adapted_is_refused_and_the_model_is_as_it_was(rank, targets, said, model):
    with pytest.raises(UserError, match=f"LoRA: {said}"):
        adapt(model, rank, 8.0, targets)
    assert not layers_of(model) and all(p.requires_grad for p in model.parameters())


def test_adapters_on_adapters_are_refused(model):
    with pytest.raises(ValueError, match="merge them first"):
        adapt(adapt(model, 4, 8.0), 4, 8.0)
    adapt(merge(model), 4, 8.0)


def test_adapters_stand_beside_the_targets_alone_and_never_beside_the_head():
    model = adapt(by_formula(CASES["qwen2"]), 4, 8.0)
    kinds = ("attn.k_proj", "attn.o_proj", "attn.q_proj", "attn.v_proj", "mlp.down_proj", "mlp.gate_proj", "mlp.up_proj")
    assert sorted(layers_of(model)) == [f"h.{i}.{kind}" for i in range(2) for kind in kinds]
    two = adapt(by_formula(CASES["qwen2"]), 4, 8.0, ("q_proj", "v_proj"))
    assert sorted(layers_of(two)) == [f"h.{i}.attn.{kind}" for i in range(2) for kind in ("q_proj", "v_proj")]


@dataclass(frozen=True)
class Start:
    """Where a training starts."""

    init: str = option("a folder", "")


def test_the_options_say_rank_alpha_and_layers(model):
    nothing, _ = parse("", LoRAOptions, Start, argv=[])
    assert nothing.adapt(model) is model and not layers_of(model)
    given, _ = parse("", LoRAOptions, Start, argv="--lora 3 --lora-alpha 12 --lora-on c_fc c_proj".split())
    layers = layers_of(given.adapt(copy.deepcopy(model)))
    assert {path.rpartition(".")[2] for path in layers} == {"c_fc", "c_proj"}
    assert {(len(layer.A), layer.alpha) for layer in layers.values()} == {(3, 12.0)}
    short, _ = parse("", LoRAOptions, Start, argv=["--lora", "3"])
    assert {layer.alpha for layer in layers_of(short.adapt(model)).values()} == {6.0}


@pytest.mark.parametrize("words", ["--lora-alpha 2", "--lora-on c_fc", "--merge"])
def test_an_option_of_lora_without_a_rank_can_do_nothing(words):
    with pytest.raises(UserError, match="without --lora"):
        parse("", LoRAOptions, Start, argv=words.split())


RECORDS = [{"prompt": "a"}, {"prompt": "more words"}, {"prompt": "bc"}, {"prompt": "d"}]


@pytest.fixture
def models(make_policy, tokenizer):
    """PPO's models of an adapted policy, whose reference is the policy without adapters."""
    policy = learnt(make_policy(0))
    return models_of(policy, tokenizer, PPOConfig().algorithm, ref=WithoutAdapters(policy))


def rewarded(record: dict):
    return lambda prompt, response, record: float(len(response))


def test_the_reference_without_adapters_scores_as_a_copy_of_the_base_to_the_bit(models, make_policy):
    rollout = collect(models, RECORDS, rewarded, range(4), Sampling(8), -1.0)
    base = make_policy(0)
    with torch.no_grad():
        wanted, _, _ = score_tokens(base, None, rollout)
    assert torch.equal(rollout.ref_logprobs, wanted) and rollout.kl().abs().min() > 1e-4
    assert torch.equal(score_tokens(models.reference, None, rollout)[0], wanted)


def test_the_reference_takes_no_memory_no_dropout_and_no_gradient(make_gpt):
    """It stands in the place of a GPT: with a mask and a cache, too."""
    base, policy = make_gpt(vocab_size=97), learnt(make_gpt(vocab_size=97, dropout=0.5)).train()
    reference = WithoutAdapters(policy)
    mask, cache = torch.arange(12) >= torch.tensor([[4], [0], [2]]), KVCache()
    said = reference(IDS, mask, cache)
    assert not said.requires_grad and cache.length == 12 and policy.training
    assert torch.equal(said, base(IDS, mask, KVCache())) and torch.equal(reference.logits(said), base.logits(said))
    assert reference.wte is policy.wte and reference.config is policy.config


def test_ppo_moves_the_adapters_and_neither_base_nor_reference(models, make_policy, tmp_path):
    config = PPOConfig(iterations=2, batch=4, minibatches=2, lr=1e-2, warmup=0, max_new=6)
    before = [layer.B.clone() for layer in layers_of(models.policy).values()]
    train(models, lambda step: RECORDS, rewarded, config, Run(tmp_path))
    assert not any(torch.equal(a, layer.B) for a, layer in zip(before, layers_of(models.policy).values()))
    base = make_policy(0)
    with torch.no_grad():
        assert torch.equal(models.reference(IDS), base(IDS)) and not torch.equal(models.policy(IDS), base(IDS))


CONFIG = FitConfig(steps=6, lr=1e-2, warmup=0, save_every=2)


def fitted(out, resume: bool = False, stop: int = -1, rank: int = 4) -> GPT:
    """SFT of adapters, with dropout; perhaps interrupted in a step."""
    def batch_of(step: int) -> list[Example]:
        if step == stop:
            signal.raise_signal(signal.SIGINT)
        return EXAMPLES

    torch.manual_seed(0)
    model = adapt(GPT(GPTConfig(97, 32, 2, 2, 16, dropout=0.2)), rank, 8.0)
    fit(model, batch_of, [], CONFIG, Run(out, resume=resume))
    return model


def test_a_state_holds_the_adapters_alone_and_a_resume_goes_on_to_the_same_bits(tmp_path):
    straight = fitted(tmp_path / "a")
    with pytest.raises(Interrupted):
        fitted(tmp_path / "b", stop=2)
    state = load_state(tmp_path / "b" / "train_state.pt")["parts"]
    names = {f"{path}.{x}" for path in layers_of(straight) for x in "AB"}
    assert state["model"].keys() == names and len(state["stepper"]["optimizer"]["state"]) == len(names)
    assert same(bits(fitted(tmp_path / "b", resume=True)), bits(straight))


@pytest.mark.parametrize("change", ["rank", "missing", "foreign"])
def test_a_state_of_other_adapters_is_refused(change, tmp_path):
    with pytest.raises(Interrupted):
        fitted(tmp_path, stop=2)
    path = tmp_path / "train_state.pt"
    state = load_state(path)
    part = state["parts"]["model"]
    if change != "rank":
        name = next(iter(part))
        value = part.pop(name)
        part |= {"other": value} if change == "foreign" else {}
        save_state(path, state)
    with pytest.raises(UserError, match="train_state.pt: damaged"):
        fitted(tmp_path, resume=True, rank=4 if change != "rank" else 2)
