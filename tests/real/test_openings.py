"""The openings: reward and gold of every policy are read from the items of an evaluation, and drawn."""

import json

import numpy as np
import pytest

from minirlhf.evaluation.items import TestSet, write_items
from minirlhf.real.openings import scores, write_figure

RM, GOLD = "model:o/rm:positive", "model:o/gold:positive:0"


def items_of(shift: float, samples: int) -> list[dict]:
    """Of 3 prompts; a policy that has gone further, by the KL of `shift`, has more of the reward and less of gold."""
    items = []
    for i in range(3):
        for k in range(-1, samples):
            own = {RM: -2 + shift + k / 10, GOLD: -1 - shift + k / 20 + i / 9}
            items.append({"index": i, "sample": k, "prompt": "p", "response": "r", "reference": "", "stop": "eos", "tokens": 1,
                          "ids": [1], "kl": shift, "k1": shift, "k3": shift, "entropy": 1.0, "scores": {"reward": own[RM]} | own})  # fmt: skip
    return items


def write(folder, policies: dict[str, float], samples: int) -> None:
    folder.mkdir(parents=True)
    s = TestSet("data", [{"prompt": f"p{i}"} for i in range(3)])
    for name, shift in policies.items():
        s.items[name] = items_of(shift, samples)
        s.texts[name] = [{"index": i, "nll": None, "tokens": 0, "bytes": 0, "confidence": [], "correct": []} for i in range(3)]
    about = {"folder": "f", "sha256": "0", "reference": "base", "trained_against": None, "stage": None, "seed": None,
             "cost": None, "curves": []}  # fmt: skip
    run = {"reference": "base", "against": "base", "seed": 0, "vocabulary": 9, "settings": {}, "environment": {}}
    write_items(folder / "items.jsonl", run | {"models": {name: about for name in policies}}, [s])


def test_scores_leave_the_greedy_answer_out():
    proxy, gold, kl = scores(items_of(0.5, 2))
    assert proxy == pytest.approx(np.array([[-1.5, -1.4]] * 3)) and kl.tolist() == [[0.5, 0.5]] * 3
    assert gold[:, 0] == pytest.approx([-1.5, -1.5 + 1 / 9, -1.5 + 2 / 9])


def test_the_figure_has_every_policy_by_its_distance_and_the_table_both_rewards(tmp_path):
    write(tmp_path / "best", {"base": 0.0}, 4)
    policies = {f"{algo}{beta}": shift for algo, s in (("ppo", 0), ("rloo", 1)) for beta, shift in (("0.1", 1 + s), ("1", 0.25 + s))}
    write(tmp_path / "test", {"base": 0.0} | policies, 2)
    table = write_figure(tmp_path)
    drawn = (tmp_path / "openings.svg").read_text()
    assert "2000 labels" in drawn and all(f">{way}<" in drawn for way in ("best-of-n", "PPO", "RLOO"))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| 2000")]
    ppo = next(row for row in rows if row[2] == "PPO")
    assert ppo[3:5] == ["β = 1", "0.50"] and ppo[6:8] == ["β = 0.1", "1.00"] and ppo[-1] == "+0.90"
    assert json.dumps(rows).count("RLOO") == 3 and len(rows) == 9
