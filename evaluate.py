"""Compare models on held-out prompts: base, SFT and PPO, with intervals and verdicts.

python evaluate.py                                         out/base, out/sft, out/ppo on their tasks -> out/eval
python evaluate.py --prompt "47+85="                       what each model answers
python evaluate.py --data mine.jsonl --models a=DIR b=DIR  your own prompts and models
"""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

from minirlhf import checkpoint
from minirlhf.data import read_records, render_prompt
from minirlhf.evaluation import metric_table, reference_nll, reference_optimum, regret_metrics, sample_items
from minirlhf.files import UserError, write_atomic
from minirlhf.generation import generate
from minirlhf.report import compare, one_line, optimum_line, plain, side_by_side, table
from minirlhf.runtime import Machine, environment, option, parse, run_script
from minirlhf.sources import load_reward, parse_tasks, reward_of_task
from minirlhf.tasks import TASKS

VERSION = 1  # of report.json


@dataclass(frozen=True)
class Evaluation:
    """Evaluation."""

    models: tuple[str, ...] = option(("base=out/base", "sft=out/sft", "ppo=out/ppo"), "name=folder of each model")
    reference: str = option("sft", "the model that the last is compared with, and the reference of the KL")
    task: str = option("", "generated tasks, a,b; none: those that the models were trained on")
    data: tuple[str, ...] = option((), "your own .jsonl files instead, with prompt and response, or label")
    reward: str = option("", "your own reward, FILE.py:FUNCTION of (prompt, response, record)")
    beta: float = option(0.0, "KL coefficient of the objective J; 0: the one that the last was trained with", least=0)
    prompts: int = option(200, "held-out prompts of each test set", least=1)
    samples: int = option(4, "responses to each at temperature 1, besides the greedy one", least=1)
    reference_samples: int = option(0, "more of the reference to each, for J* where training did not know it", least=0)
    max_new: int = option(64, "longest response in tokens, for --data and --prompt", least=1)
    show: int = option(2, "samples to print of each test set, side by side", least=0)
    prompt: str = option("", "only print what each model answers to this")
    out: str = option("out/eval", "folder for report.json and items.jsonl")


def main() -> None:
    """Wire checkpoints, prompts, metrics and report together."""
    options, machine = parse(__doc__.splitlines()[0], Evaluation, Machine)
    device, _ = machine.set_up()
    folders = dict(pair.partition("=")[::2] for pair in options.models)
    if "" in folders.values() or not 0 < len(options.models) == len(folders):
        raise UserError(f"--models {' '.join(options.models)}: give each as name=folder, each name once")
    if options.models == Evaluation.models:  # whatever of the default three there is
        folders = {k: v for k, v in folders.items() if Path(v).is_dir()} or folders
    models = {name: checkpoint.load(folder) for name, folder in folders.items()}
    for model, _ in models.values():
        model.to(device).eval()
    runs = {name: read_run(folder) for name, folder in folders.items()}
    chat = {  # a base model knows no roles
        name: runs[name].get("stage") != "base" and "<|user|>" in tokenizer.special_ids
        for name, (_, tokenizer) in models.items()
    }
    if options.prompt:
        prompts_that_fit([{"prompt": options.prompt}], models, chat, "--prompt")
        for name, (model, tokenizer) in models.items():
            ids = render_prompt({"prompt": options.prompt}, tokenizer, chat[name])
            g = generate(model, [ids], options.max_new, tokenizer.eos_id, [machine.seed], temperature=0)
            print(f"{name}: {one_line(tokenizer.decode(g.responses()[0]))}{'' if g.ended[0] else ' …'}")
        return

    if options.reference not in (*models, Evaluation.reference):
        raise UserError(f"--reference {options.reference}: not one of {', '.join(models)}")
    reference = options.reference if options.reference in models else next(iter(models))
    tokens = {name: (m.config.vocab_size, t.token_bytes, t.special_ids) for name, (m, t) in models.items()}
    if others := [name for name in models if tokens[name] != tokens[reference]]:
        raise UserError(f"{others[0]} and {reference} have different tokenizers, so no KL: evaluate them apart")
    start = time.perf_counter()
    report: dict = {"version": VERSION, "reference": reference, "seed": machine.seed, "tasks": {}}
    report |= {"settings": dataclasses.asdict(options), "environment": environment()}
    report["models"] = {
        name: {"folder": folder, "sha256": checkpoint.fingerprint(models[name][0]), "cost": runs[name].get("cost")}
        for name, folder in folders.items()
    }
    last = list(models)[-1]
    beta = options.beta or runs[last].get("training", {}).get("beta", 0.0)
    lines = []
    for title, records, reward_of, reward_name, max_new in test_sets(options, runs, machine.seed):
        records = prompts_that_fit(records, models, chat, title)
        items, nll = {}, {}
        for name, (model, tokenizer) in models.items():
            items[name] = sample_items(
                model, models[reference][0], tokenizer, records, reward_of, max_new, options.samples, machine.seed,
                chat[name], compared=models[last][0] if name in (reference, last) else None,
            )  # fmt: skip
            nll[name] = reference_nll(model, tokenizer, records, chat[name])
        metrics, optimum = metric_table(items, nll, records, reward_name), None
        # A base model is asked in other ids: its answers and the policy's are no mixture of answers to one prompt.
        if beta > 0 and reward_of is not None and last != reference and chat[last] == chat[reference]:
            sha = report["models"][reference]["sha256"]
            known = optimum_of_training(runs[last], sha, beta, options.reward, title)
            if known is None and options.reference_samples:
                model, tokenizer = models[reference]
                more = sample_items(
                    model, model, tokenizer, records, reward_of, max_new, options.reference_samples, machine.seed,
                    chat[reference],
                )  # fmt: skip
                known = reference_optimum([x for x in more if x["sample"] >= 0], beta, len(records))
            more, optimum = regret_metrics(items, reference, last, beta, len(records), known)
            metrics += more
        rows = compare(metrics, reference, machine.seed)
        report["tasks"][title] = {"prompts": len(records), "samples": options.samples, "metrics": rows}
        lines += [json.dumps({"set": title, "model": m} | x, ensure_ascii=False) for m in items for x in items[m]]
        print(f"\n{table(title, rows, list(models), reference)}")
        if optimum is not None:
            print(optimum_line(optimum, reference, last))
            report["tasks"][title]["optimum"] = optimum | {
                k: plain(optimum[k]) for k in ("worth", "low", "high") if k in optimum
            }
        if options.show:
            print(f"\n{side_by_side(items, options.show, machine.seed)}")
    report["seconds"] = time.perf_counter() - start
    print("\ntraining cost")
    for name, run in runs.items():
        if cost := run.get("cost"):
            print(f"  {name:<8} {cost['seconds']:7.0f} s {cost['tokens']:12,} tokens {cost['steps']:6} steps")
    write_atomic(Path(options.out) / "items.jsonl", "".join(line + "\n" for line in lines).encode())
    checkpoint.write_json(Path(options.out) / "report.json", report)
    print(f"\n± and [ ]: 95 %, bootstrap over prompts. Written: {options.out}/report.json, items.jsonl")


def test_sets(options: Evaluation, runs: dict[str, dict], seed: int) -> list[tuple]:
    """(title, records, reward_of or None, its name, max_new) of each set of held-out prompts. Raises UserError."""
    reward = load_reward(options.reward) if options.reward else None
    of = (lambda record: reward) if reward else None
    if options.data:
        records = [r for path in options.data for r in read_records(path) if "text" not in r]
        if not records:
            raise UserError(f"--data {' '.join(options.data)}: no prompts in it")
        return [("data", records, of, "", options.max_new)]
    trained = [name for run in runs.values() for name in run.get("tasks", {})]
    names = parse_tasks(options.task or ",".join(dict.fromkeys(trained))) if options.task or trained else {}
    if not names:
        raise UserError("the models were not trained on a generated task: give --task, or --data")
    return [
        (name if split == "test" else f"{name}, {split[5:]}", TASKS[name].records(split, options.prompts, seed),
         of or reward_of_task, "" if of else TASKS[name].REWARD, TASKS[name].MAX_NEW)
        for name in names for split in TASKS[name].EVAL_SPLITS if split.startswith("test")
    ]  # fmt: skip


def prompts_that_fit(records: list[dict], models: dict, chat: dict[str, bool], title: str) -> list[dict]:
    """The records whose prompt leaves every model room for an answer. Raises UserError if none does."""
    context = min(model.config.context for model, _ in models.values())
    kept = [r for r in records if all(len(render_prompt(r, t, chat[n])) < context for n, (_, t) in models.items())]
    if not kept:
        raise UserError(f"{title}: no prompt of {len(records)} fits the models' context of {context} tokens")
    if len(kept) < len(records):
        left_out = f"{len(records) - len(kept)} of {len(records)} prompts left out"
        print(f"{title}: {left_out}, longer than the context of {context} tokens")
    return kept


def optimum_of_training(run: dict, reference: str, beta: float, reward: str, title: str) -> dict | None:
    """J* of a test set as training came to know it, if that was for the same reference, β, reward and prompts.

    And for what is sampled here: at temperature 1, with 0 for a response that did not end.
    """
    known, wanted = run.get("optimum", {}).get(title), {"beta": beta, "temperature": 1.0, "missing_eos": 0.0}
    same = run.get("reference") == reference and run.get("data", {}).get("reward") == reward
    same = same and wanted.items() <= run.get("training", {}).items()
    return known if same and known and known["value"] is not None else None


def read_run(folder: str) -> dict:
    """run.json of a checkpoint, or {} where it has none (GPT-2 from elsewhere)."""
    path = Path(folder) / "run.json"
    return checkpoint.read_json(path) if path.exists() else {}


if __name__ == "__main__":
    run_script(main)
