"""Bad states and logs of trainings that are to go on, and folders that cannot be written to."""

import io
import pickle

import torch

from bad_inputs.table import FOLDER, LOOP, PIPE, Bad, Spoil, bad, cut, in_line, line, nested, state

SFT = "train_sft.py --config more.json --init out/base --out stopped --resume"
PPO = "train_ppo.py --config ppo.json --out stopped-ppo --resume"
DPO = "train_dpo --config dpo.json --out stopped-dpo --resume"


class Attack:
    """What is run by a careless reader of pickles."""

    def __reduce__(self) -> tuple:
        return exec, ("open('attacked', 'w')",)


def saved(value: object) -> bytes:
    """As torch saves it."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def kept_by(command: str, spoil: Spoil, *says: str, claim: str) -> Bad:
    """The state of a stopped training spoilt."""
    folder = {SFT: "stopped/sft", PPO: "stopped-ppo", DPO: "stopped-dpo"}[command]
    return bad(claim, command, "train_state.pt", *says, files={f"{folder}/train_state.pt": spoil})


def logged(spoil: Spoil, *says: str, claim: str, command: str = PPO) -> Bad:
    """The log of a stopped training spoilt."""
    folder = "stopped/sft" if command == SFT else "stopped-ppo"
    return bad(claim, command, "log.jsonl", *says, files={f"{folder}/log.jsonl": spoil})


def lacks(key: str) -> Spoil:
    """A state without one of its parts."""
    return state(lambda x: {k: v for k, v in x.items() if k != key})


def has(**changes: object) -> Spoil:
    """A state with other parts."""
    return state(lambda x: x.update(changes))


def moments(change) -> Spoil:
    """A state in which an average that Adam keeps of a gradient is another."""

    def of(found: dict) -> None:
        entry = found["parts"]["stepper"]["optimizer"]["state"][0]
        entry["exp_avg"] = change(entry["exp_avg"])

    return state(of)


def first_tensor(change) -> Spoil:
    """A state in which the first tensor of the model is another."""

    def of(found: dict) -> None:
        for part in found["parts"].values():
            if name := next((k for k, v in part.items() if isinstance(v, torch.Tensor)), None):
                part[name] = change(part[name])
                return

    return state(of)


STATES = [
    bad("nothing to go on with", "train_sft.py --config sft.json --out new --resume", "new"),
    bad("nothing to go on with, in PPO", "train_ppo.py --config ppo.json --out new --resume", "new"),
    bad("nothing to go on with, in DPO", "train_dpo --config dpo.json --out new --resume", "new"),
    bad("nothing to go on with, of a reward model", "train_reward --data prefs.jsonl --held-out 0 --out new --resume",
        "new"),
    bad("a stopped SFT gone on with by PPO", "train_ppo.py --config ppo.json --out stopped/sft --resume",
        "stopped/sft"),
    bad("a stopped PPO gone on with by DPO", "train_dpo --config dpo.json --out stopped-ppo --resume", "stopped-ppo"),
    bad("another learning rate", f"{SFT} --lr 0.5", "lr", "0.5"),
    bad("another seed", f"{SFT} --seed 5", "seed", "5"),
    bad("another batch", f"{SFT} --batch 3", "stopped"),
    bad("another number of records", f"{SFT} --examples 21", "stopped"),
    bad("another type of numbers", f"{SFT} --dtype bfloat16", "dtype", "float32"),
    bad("another checkpoint of the same shape to start from", SFT.replace("out/base", "out/sft"), "init"),
    bad("another beta", f"{PPO} --beta 0.5", "beta", "0.5"),
    bad("another algorithm", f"{PPO} --algo reinforce-baseline", "stopped-ppo"),
    bad("another reward", f"{PPO} --reward mine.py:length", "data"),
    bad("another reference", f"{PPO} --init out/base", "init"),
    bad("another strength of DPO", f"{DPO} --beta 0.5", "beta", "0.5"),
    bad("other comparisons", f"{DPO} --data own.jsonl", "data",
        files={"own.jsonl": "".join(
            f'{{"prompt": "a {i}", "chosen": "b", "rejected": "c"}}\n' for i in range(8))}),
    kept_by(PPO, FOLDER, claim="a state that is a folder"),
    kept_by(PPO, PIPE, claim="a state that is a pipe"),
    kept_by(PPO, b"", claim="a state of no byte"),
    kept_by(PPO, cut(-1), claim="a state that lacks a byte"),
    kept_by(PPO, cut(1000), claim="a state of a thousand bytes"),
    kept_by(SFT, cut(-2000), claim="a state of SFT that lacks its end"),
    kept_by(DPO, cut(-2000), claim="a state of DPO that lacks its end"),
    kept_by(PPO, bytes(5000), claim="a state of zeros"),
    kept_by(PPO, "no state", claim="a state that is a text"),
    kept_by(PPO, saved([1, 2]), claim="a state that is a list"),
    kept_by(PPO, saved({}), claim="a state of no part"),
    kept_by(PPO, saved(torch.ones(3)), claim="a state that is a tensor"),
    kept_by(PPO, pickle.dumps(Attack()), claim="a state that is code"),
    kept_by(PPO, saved({"settings": Attack()}), claim="a state that holds code"),
    *(kept_by(PPO, lacks(key), claim=f"a state without its {key}")
      for key in ("settings", "step", "seconds", "kept", "rng", "parts")),
    kept_by(PPO, has(settings=[]), claim="settings that are a list"),
    kept_by(PPO, has(settings={}), claim="settings of none"),
    kept_by(PPO, has(step="1"), claim="a step that is a text"),
    kept_by(PPO, has(step=-1), claim="a step below 0"),
    kept_by(PPO, has(step=10**12), claim="a step beyond the last"),
    kept_by(PPO, has(step=None), claim="a step that is null"),
    kept_by(PPO, has(step=1.5), claim="a step between two"),
    kept_by(PPO, has(seconds="long"), claim="seconds that are a word"),
    kept_by(PPO, has(kept=3), claim="kept values that are a number"),
    kept_by(PPO, has(kept={}), claim="kept values of none"),
    kept_by(PPO, has(kept={"tokens": "many", "beta": "high"}), claim="kept values that are words"),
    kept_by(PPO, has(rng=torch.ones(3)), claim="random numbers of another kind"),
    kept_by(PPO, has(rng="random"), claim="random numbers that are a text"),
    kept_by(PPO, has(parts=[]), claim="parts that are a list"),
    kept_by(PPO, has(parts={}), claim="parts of none"),
    kept_by(PPO, state(lambda x: x["parts"].update(stepper={})), claim="a state of no optimizer"),
    kept_by(PPO, state(lambda x: x["parts"].update(stepper=3)), claim="an optimizer that is a number"),
    kept_by(PPO, state(lambda x: x["parts"].update(policy={})), claim="a state of no weight"),
    kept_by(PPO, first_tensor(lambda x: x[:3]), claim="a weight of another shape"),
    kept_by(PPO, moments(lambda x: x[:3]), claim="an average of Adam of another shape"),
    kept_by(PPO, moments(lambda x: x.long()), claim="an average of Adam of whole numbers"),
    kept_by(PPO, moments(lambda x: "average"), claim="an average of Adam that is a text"),
    kept_by(PPO, moments(lambda x: x * float("nan")), claim="an average of Adam of NaN"),
    kept_by(PPO, first_tensor(lambda x: "weight"), claim="a weight that is a text"),
    kept_by(PPO, first_tensor(lambda x: x * float("nan")), claim="a weight of NaN, in a state"),
    kept_by(SFT, first_tensor(lambda x: x[:3]), claim="a weight of another shape, in SFT"),
    kept_by(DPO, first_tensor(lambda x: x[:3]), claim="a weight of another shape, in DPO"),
]  # fmt: skip
LOGS = [
    logged(line(1, "no JSON }"), "1", claim="a log of a line that is not JSON"),
    logged(line(1, "[{}"), "1", claim="a log of a line that ends in the middle of a list"),
    logged(line(1, "{}"), "1", claim="a log of a line without a step"),
    logged(in_line(1, {"step": "one"}), "1", claim="a log of a step that is a word"),
    logged(in_line(1, {"step": None}), "1", claim="a log of a step that is null"),
    logged(in_line(1, {"step": [1]}), "1", claim="a log of a step that is a list", command=SFT),
    logged(line(1, f'{{"step": {nested(100_000)}}}'), "1", claim="a log of a line nested 100,000 deep"),
    logged(lambda old: b"\xff\xfe" + old, claim="a log that is not UTF-8"),
    logged(FOLDER, claim="a log that is a folder"),
    logged(PIPE, claim="a log that is a pipe"),
]
IS_FILE, BELOW = "corpus.txt", "corpus.txt/new"
OUTPUTS = [
    *(bad(f"an output that is {what}, {whose}", command.format(out), "corpus.txt")
      for out, what in ((IS_FILE, "a file"), (BELOW, "below a file"))
      for whose, command in {
          "of SFT": "train_sft.py --config sft.json --out {}",
          "of PPO": "train_ppo.py --config ppo.json --out {}",
          "of DPO": "train_dpo --config dpo.json --out {}",
          "of a reward model": "train_reward --data prefs.jsonl --held-out 0 --out {}",
          "of an evaluation": "evaluate.py --config eval.json --out {}",
          "of a report made again": "evaluate.py --from out/eval/items.jsonl --out {}",
          "of a study": "annotate make --models base ppo --set sentiment --pairs 3 --study {}",
          "of over-optimisation": "overoptimise --out {}",
          "of the study of SFT and RL": "sft_against_rl --out {}",
      }.items()),
    bad("comparisons written to a folder", "make_preferences --task sentiment --pairs 2 --out out", "out"),
    bad("comparisons written below a file", "make_preferences --task sentiment --pairs 2 --out corpus.txt/p.jsonl",
        "corpus.txt"),
    bad("preferences written to a folder", "judgements --export out", "out"),
    bad("an output that no folder can be", "train_ppo.py --config ppo.json --out /proc/new", "/proc/new"),
    bad("an output whose name is too long", f"train_ppo.py --config ppo.json --out {'n' * 5000}", "nnn"),
    bad("an output that is a link to itself", "train_ppo.py --config ppo.json --out link", "link",
        files={"link": LOOP}),
    bad("SFT over the checkpoint that it starts from", "train_sft.py --config more.json --init out/sft --out out",
        "out/sft", "--out"),
    bad("PPO over the checkpoint that it starts from", "train_ppo.py --config ppo.json --init out/sft --out out/sft",
        "out/sft", "--out"),
    bad("PPO over the checkpoint that it starts from, spelt otherwise",
        "train_ppo.py --config ppo.json --init out/sft --out out/../out/sft/", "out/sft", "--out"),
    bad("DPO over the checkpoint that it starts from", "train_dpo --config dpo.json --init out/sft --out out/sft",
        "out/sft", "--out"),
    bad("a reward model over the checkpoint that it starts from",
        "train_reward --data prefs.jsonl --held-out 0 --init out/sft --out out/sft", "out/sft", "--out"),
    bad("a folder of other settings, of over-optimisation", "overoptimise --out o", "settings.json",
        files={"o/settings.json": "{"}),
    bad("a folder begun with other settings, of over-optimisation", "overoptimise --out o", "o", "--out",
        files={"o/settings.json": "{}"}),
    bad("a folder begun with other settings, of SFT and RL", "sft_against_rl --out o", "o", "--out",
        files={"o/settings.json": '{"steps": 3}'}),
    bad("settings nested 100,000 deep", "sft_against_rl --out o", "settings.json",
        files={"o/settings.json": nested(100_000)}),
]  # fmt: skip
CURVES = [
    bad("curves of a folder that is not there", "curves nowhere --out new", "nowhere"),
    bad("curves of a log without a step", "curves out/ppo stopped-ppo --out new", "stopped-ppo", "log.jsonl",
        files={"stopped-ppo/log.jsonl": ""}),
    bad("curves of a log that is not JSON", "curves out/ppo --out new", "log.jsonl", "line 1",
        files={"out/ppo/log.jsonl": line(1, "no JSON }")}),
    bad("curves of a run.json of another kind", "curves out/ppo --out new", "run.json", files={"out/ppo/run.json": '{"data": 3}'}),
    bad("curves written below a file", "curves out/ppo --out corpus.txt/x", "corpus.txt"),
]  # fmt: skip
RUNS: list[Bad] = [*STATES, *LOGS, *OUTPUTS, *CURVES]
