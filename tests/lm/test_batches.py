"""Batches, micro-batches and the mixture of data sets."""

import dataclasses
from collections import Counter

import pytest
import torch

from minirlhf.lm.batches import ROOM, Mixture, epoch_order, gather_true, micro_batches, round_up, spread


@pytest.mark.parametrize("rows", [1, 3, 8, 64])
@pytest.mark.parametrize("lengths", [[], [5], [3, 9, 9, 1, 4, 30, 2], [7] * 20, list(range(1, 40))], ids=len)
def test_micro_batches_partition_by_length(lengths, rows):
    parts = micro_batches(lengths, rows)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    assert all(len(part) == rows for part in parts[:-1]) and all(0 < len(part) <= rows for part in parts)
    for part, following in zip(parts, parts[1:]):
        assert min(lengths[i] for i in part) >= max(lengths[i] for i in following)


def test_a_large_model_gets_fewer_tokens_per_pass(model):
    """Padding counts as tokens do; a row longer than that goes alone."""
    lengths = [50, 10, 30, 20, 10, 10, 10, 10]
    sixty = 60 * model.config.layers * model.config.width
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ROOM, "cpu", sixty)
        patch.setattr(model, "config", dataclasses.replace(model.config, vocab_size=4))
        parts = micro_batches(lengths, 4, model)
        assert [[lengths[i] for i in part] for part in parts] == [[50], [30, 20], [10] * 4, [10]]
        patch.setattr(model, "config", dataclasses.replace(model.config, vocab_size=8 * sixty // 60))
        assert [len(part) for part in micro_batches(lengths, 4, model)] == [1, 1, 1, 3, 2]  # 30 tokens: logits count
        patch.setitem(ROOM, "cpu", 1)
        assert [len(part) for part in micro_batches(lengths, 4, model)] == [1] * 8


def test_shapes_are_rounded_up_within_the_context():
    assert [round_up(n, 8, 20) for n in (0, 1, 8, 9, 16, 17, 20, 21)] == [0, 8, 8, 16, 16, 20, 20, 21]


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65])
def test_gathering_true_places_keeps_their_order_and_pads_behind_them(n):
    x = torch.arange(3.0 * 40).view(3, 40, 1)
    mask = torch.zeros(120, dtype=torch.bool)
    mask[torch.randperm(120, generator=torch.Generator().manual_seed(0))[:n]] = True
    mask = mask.view(3, 40)
    picked, count = gather_true(x, mask)
    assert count == n and len(picked) == -(-n // 64) * 64
    assert torch.equal(picked[:n], x[mask])


@pytest.mark.parametrize(
    "n, rows", [(10, 3), (7, 7), (3, 8), (10, 2.5), (5, 0.3), (1, 1), (12, 1 / 3), (9, 0.7)]
)
def test_every_example_comes_once_an_epoch(n, rows):
    mixture = Mixture({"a": (range(n), rows)}, seed=1)
    drawn = [x for step in range(200) for x in mixture.step(step)]
    assert len(drawn) == int(200 * rows)
    for start in range(0, len(drawn) - n + 1, n):
        assert sorted(drawn[start : start + n]) == list(range(n))


def test_fractional_rows_come_in_turn():
    mixture = Mixture({"a": (range(10), 2.5)}, seed=0)
    assert [len(mixture.step(step)) for step in range(6)] == [2, 3, 2, 3, 2, 3]


def test_a_batch_is_a_function_of_seed_and_step():
    """In whatever order steps are asked for, so that a resume needs no iterator's state."""
    sets = {"a": (range(11), 4), "b": (range(100, 105), 1.5)}
    forwards = [Mixture(sets, 3).step(step) for step in range(30)]
    epoch_order.cache_clear()  # as in a new process
    mixture = Mixture(sets, 3)
    assert [mixture.step(step) for step in reversed(range(30))][::-1] == forwards
    assert [Mixture(sets, 4).step(step) for step in range(30)] != forwards


def test_epochs_and_data_sets_have_orders_of_their_own():
    mixture = Mixture({"a": (range(40), 40), "b": (range(40), 40)}, seed=0)
    batches = [mixture.step(step) for step in range(3)]
    assert len({tuple(half) for batch in batches for half in (batch[:40], batch[40:])}) == 6


def test_data_sets_come_in_proportion():
    mixture = Mixture({"a": ("a", 3), "b": ("b", 1), "c": ("c", 0.5)}, seed=0)
    assert Counter(x for step in range(20) for x in mixture.step(step)) == {"a": 60, "b": 20, "c": 10}


def test_spread_puts_numbers_where_the_mask_is_true():
    mask = torch.tensor([[True, False, True], [False, True, False]])
    assert spread(torch.tensor([1.0, 2.0, 3.0]), mask).tolist() == [[1, 0, 2], [0, 3, 0]]
