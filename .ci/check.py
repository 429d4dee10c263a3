"""Check what the main run wrote: that it is whole, and that its figures are those the README promises.

The limits are looser than what three seeds show in the README, so that another machine's rounding passes.
"""

import json
import sys
from pathlib import Path

out = Path(sys.argv[1])
for name in ("base", "sft", "ppo"):
    for file in ("config.json", "model.safetensors", "tokenizer.json", "run.json", "log.jsonl"):
        assert (out / name / file).stat().st_size > 0, f"{name}/{file} is empty"
    assert not (out / name / "train_state.pt").exists(), f"{name}: a finished run keeps its state"

report = json.loads((out / "eval" / "report.json").read_text(encoding="utf-8"))
text = (out / "eval" / "items.jsonl").read_text(encoding="utf-8")
kinds = [json.loads(line)["kind"] for line in text.split("\n")[:-1]]
assert report["version"] == 3 and set(report["models"]) == {"base", "sft", "ppo"}
assert {"reviews", "sentiment", "arithmetic", "translation"} <= set(report["tasks"])
prompts = sum(t["prompts"] for t in report["tasks"].values())
responses = sum(t["prompts"] * (t["samples"] + 1) * 3 for t in report["tasks"].values())
wanted = {"run": 1, "set": len(report["tasks"]), "prompt": prompts, "text": prompts * 3, "response": responses}
assert {kind: kinds.count(kind) for kind in kinds} == wanted, f"{len(kinds)} lines, {wanted} wanted"
assert len({m["sha256"] for m in report["models"].values()}) == 3, "two of the models are the same"

alarms = [alarm["what"] for alarm in report["alarms"]]
assert all(" arithmetic, long" in alarm for alarm in alarms), alarms  # operands longer than any in training
again = json.loads((out / "again" / "report.json").read_text(encoding="utf-8"))
assert again | {"seconds": 0} == report | {"seconds": 0}, "--from gives another report"
page = (out / "eval" / "report.html").read_text(encoding="utf-8")
assert page.endswith("</html>\n") and "<script" not in page and "http://" not in page and "https://" not in page


def metric(task: str, start: str) -> dict:
    """The first metric of a task whose name starts so."""
    return next(row for row in report["tasks"][task]["metrics"] if row["metric"].startswith(start))


for task in report["tasks"]:
    assert metric(task, "KL to reference")["models"]["sft"]["value"] == 0, f"{task}: KL of SFT to itself"

checks = {
    "reviews: SFT within 3 % of the grammar": metric("reviews", "above entropy")["models"]["sft"]["value"] < 3,
    "reviews: PPO's reward": metric("reviews", "reward")["models"]["ppo"]["value"] >= 0.9,
    "reviews: PPO's texts parse": metric("reviews", "grammatical")["models"]["ppo"]["value"] >= 0.95,
    "reviews: PPO better than SFT": metric("reviews", "reward")["differences"]["ppo"]["verdict"] == "better",
    "reviews: share of the achievable J": metric("reviews", "share")["models"]["ppo"]["value"] >= 90,
    "arithmetic: PPO better than SFT": metric("arithmetic", "reward")["differences"]["ppo"]["verdict"] == "better",
}
for name, holds in checks.items():
    print(f"{'ok    ' if holds else 'BROKEN'} {name}")
sys.exit(not all(checks.values()))
