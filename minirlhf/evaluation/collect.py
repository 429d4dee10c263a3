"""Collect the items: load the models, put every test set to each, and add what training knew of it.

`collect_items` gives what `items.py` stores and `report.py` judges. `questions.py` says what is asked.
Proved by tests/evaluation/test_collect.py and tests/test_scripts.py.
"""

import math
from dataclasses import asdict, replace
from pathlib import Path

import torch

from minirlhf.evaluation.ask import Policy, Protocol, fitted_temperature, sample_items, text_items
from minirlhf.evaluation.attention import shown_attention
from minirlhf.evaluation.config import START, Evaluation
from minirlhf.evaluation.items import TestSet
from minirlhf.evaluation.long_texts import document_ids
from minirlhf.evaluation.metric import units, view_of
from minirlhf.evaluation.optimum import reference_optimum
from minirlhf.evaluation.panels import choose_examples, read_curves
from minirlhf.evaluation.questions import answered, left_out, prompts_that_fit, shots_of, test_sets
from minirlhf.evaluation.table import one_line
from minirlhf.harness.device import autocast, environment
from minirlhf.harness.files import UserError
from minirlhf.harness.loop import bar
from minirlhf.lm import checkpoint
from minirlhf.lm.chat import render, render_prompt
from minirlhf.lm.chat_formats import missing_specials
from minirlhf.lm.generation import Sampling, generate, responses_of
from minirlhf.lm.reading import read_again, read_records
from minirlhf.lm.records import prompt_of
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.metrics.ngram import fit_ngram
from minirlhf.rl.config import ALGORITHMS
from minirlhf.rl.options import RewardOptions
from minirlhf.rl.reward_files import load_rewards
from minirlhf.rl.rewards import prompt_text
from minirlhf.tasks import TASKS, task_of
from minirlhf.tasks.check import check_data
from minirlhf.tasks.sources import OWN

ORDER, NGRAM_ANSWERS = 4, 5000  # of the n-gram model that a transformer must beat
VALIDATION = 200  # records that each model's temperature is fitted on


def rl_runs(start: str) -> list[str]:
    """Folders beside `start` of RL that was trained against its weights, the newest last; names what is left out."""
    found = []
    weights = checkpoint.fingerprint(checkpoint.load(start)[0]) if Path(start).is_dir() else ""
    whole = [p for name in ("config.json", "adapter_config.json") for p in Path(start).parent.glob(f"*/{name}")]
    for folder in dict.fromkeys(p.parent for p in sorted(whole, key=lambda path: (path.stat().st_mtime, path))):
        run = checkpoint.read_run(folder)
        trained = run.get("stage") in ALGORITHMS and "pruned" not in run  # a pruned copy of a run is asked for by name
        if trained and run.get("reference") == weights:
            found.append(str(folder))
        elif trained:
            print(f"{folder} is left out: it was trained against other weights than those of {start} now")
    return found


def load_models(
    options: Evaluation, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Policy], dict[str, dict], dict[str, str]]:
    """The policy, run.json and folder of each name. dtype: of sampling. Raises UserError."""
    if not (pairs := options.models):
        pairs = [f"{Path(f).name}={f}" for f in ("out/base", START, *rl_runs(START)) if Path(f).is_dir()]
        if not pairs:
            raise UserError("out/: no models there; run train_sft.py first, or give --models NAME=FOLDER")
        print(f"--models {' '.join(pairs)}")
    folders = dict(pair.partition("=")[::2] for pair in pairs)
    if "" in {*folders, *folders.values()} or not 0 < len(pairs) == len(folders):
        raise UserError(f"--models {' '.join(pairs)}: give each as name=PATH, each name once")
    models, runs = {}, {name: checkpoint.read_run(folder) for name, folder in folders.items()}
    for name, folder in folders.items():
        model, tokenizer = checkpoint.load(folder)
        roles = runs[name].get("stage") != "base" and not missing_specials(tokenizer.chat, tokenizer)
        models[name] = Policy(model.to(device).eval(), tokenizer, roles, dtype, getattr(torch, options.score_dtype))
    return models, runs, folders


def kl_references(given: str, against: str, runs: dict[str, dict], weights: dict[str, str]) -> dict[str, str]:
    """model -> the model that its KL and J are to: the one given, or that which its run.json says it was trained
    against, by its fingerprint; where there is none, that of the last, or `against`. That of the last is its own.

    weights: model -> fingerprint.
    """
    named = {sha: name for name, sha in [*weights.items(), (weights[against], against)]}
    own = {m: named.get(runs[m].get("reference")) for m in weights}
    last = given or list(own.values())[-1] or against
    return {m: given or known or last for m, known in own.items()} | {last: last}


def check_sets(options: Evaluation, seed: int, policy: Policy, runs: dict[str, dict]) -> None:
    """--check-data: `check_data` of the test sets beside what the models were trained on."""
    sets = test_sets(options, None, runs, seed)
    parts = {"training": [r for records in training_records(runs).values() for r in records]}
    parts |= {title: records for title, records, *_ in sets}
    check_data(parts, policy.tokenizer, policy.model.config.context)


def collect_items(
    options: Evaluation, judged: RewardOptions, seed: int, models: dict[str, Policy], runs: dict[str, dict],
    folders: dict[str, str],
) -> tuple[dict, list[TestSet]]:
    """(run, sets) of `items.py`: everything for which the models are needed. Raises UserError."""
    named = {"--against": [options.against], "--reference": [options.reference], "--shots-for": options.shots_for}
    for option, name in [(option, name) for option, names in named.items() for name in names]:
        if name not in ("", *models):
            raise UserError(f"{option} {name}: not one of {', '.join(models)}")
    against = options.against or ("sft" if "sft" in models else next(iter(models)))
    weights = {name: checkpoint.fingerprint(policy.model) for name, policy in models.items()}
    references, last = kl_references(options.reference, against, runs, weights), list(models)[-1]
    reference = references[last]
    tokens = {
        name: (policy.model.config.vocab_size, policy.tokenizer.token_bytes, policy.tokenizer.special_ids)
        for name, policy in models.items()
    }
    if others := [name for name in models if tokens[name] != tokens[reference]]:
        raise UserError(f"{others[0]} and {reference} have different tokenizers, so no KL: evaluate them apart")
    ref = models[reference]
    policy, vocabulary, device = models[last], ref.model.config.vocab_size, ref.model.wte.weight.device
    run = {"reference": reference, "against": against, "seed": seed, "vocabulary": vocabulary}
    run |= {"settings": asdict(options) | asdict(judged), "models": {
        name: {"folder": folder, "sha256": weights[name], "reference": references[name],
               "trained_against": runs[name].get("reference"), "stage": runs[name].get("stage"),
               "seed": runs[name].get("seed"), "cost": runs[name].get("cost"), "curves": read_curves(folder)}
        for name, folder in folders.items()
    }}  # fmt: skip
    run["environment"] = environment() | {"sampling": str(policy.dtype), "scoring": str(policy.scored)}
    beta = options.beta or runs[last].get("training", {}).get("beta", 0.0)
    seen = training_records(runs)
    trained = {prompt_of(r) for records in seen.values() for r in records}
    sets, fitted = [], {}  # fitted: task -> model -> temperature
    reward = load_rewards(judged, device)
    wanted = []
    for title, records, reward_of, name, max_new in test_sets(options, reward, runs, seed):
        asked = models
        if options.shots:
            task = "" if options.data else task_of(records[0]).NAME
            examples = read_records(options.shots_from) if options.shots_from else seen.get(task or OWN, [])
            shots = shots_of(records, examples, options.shots, seed)
            asked = models | {name: replace(models[name], shots=shots) for name in options.shots_for or models}
        told = f"{title} behind --shots {options.shots}" if options.shots else title
        s = TestSet(title, prompts_that_fit(records, asked, told), about={"reward": name})
        wanted.append((s, reward_of, max_new, asked))
    answers = sum(len(s.records) for s, *_ in wanted) * len(models) * (1 + options.samples)
    with bar(answers, "asking", unit=" answers", leave=False) as progress:
        for s, reward_of, max_new, asked in wanted:
            policy, ref = asked[last], asked[reference]
            generated = "" if options.data else task_of(s.records[0]).NAME
            if generated not in fitted:
                fitted[generated] = temperatures(generated, asked, seed)
            s.about["temperatures"] = fitted[generated]
            protocol = Protocol(reward_of, max_new, options.samples, seed, bool(judged.reward), options.missing_eos,
                                reward.each if reward else dict, progress.update)
            for name, of in asked.items():
                compared = policy.model if name in (reference, last) else None
                s.items[name] = sample_items(of, asked[references[name]], s.records, protocol, compared)
                s.texts[name] = text_items(of, s.records, s.about["temperatures"].get(name))
            # Asked in other ids, as a base model is, their answers are no mixture of answers to one prompt.
            alike = all(policy.prompt(r) == ref.prompt(r) for r in s.records) and not policy.speak.replies(s.records)
            if beta > 0 and reward_of is not None and last != reference and alike:
                settings = {"beta": beta, "missing_eos": options.missing_eos}
                known = optimum_of_training(runs[last], weights[reference], settings, judged.reward, s.title)
                if ref.shots or runs[last].get("max_new", max_new) < max_new:
                    known = None  # training asked the reference without examples, or cut answers that go on here
                if known is None and options.reference_samples:
                    progress.total += len(s.records) * (1 + options.reference_samples)
                    more = sample_items(ref, ref, s.records, replace(protocol, samples=options.reference_samples))
                    known = reference_optimum([x for x in more if x["sample"] >= 0], beta, units(s.records))
                s.about |= {"beta": beta, "optimum": known}
            view = view_of(s)
            chosen = choose_examples(view, against, last, seed)["median"]
            said = next(x for x in view.sampled[last] if x["index"] == chosen)
            shown = shown_attention(policy.model, policy.tokenizer, policy.prompt(s.records[chosen]) + said["ids"])
            s.about["attention"] = {"model": last, "index": chosen} | shown
            scored = [r for i, r in enumerate(s.records) if all(t[i]["nll"] is not None for t in s.texts.values())]
            for line in left_out(s.records, len(scored)):
                progress.write(f"{s.title}: {line}")
            if policy.chat:
                task = task_of(s.records[0])
                s.about["ngram"] = ngram_baseline(seen.get(task.NAME if task else OWN, []), scored, policy.tokenizer)
            s.about["trained_on"] = [prompt_text(r) for r in s.records if prompt_of(r) in trained]
            sets.append(s)
    return run, sets


def temperatures(task: str, models: dict[str, Policy], seed: int) -> dict[str, float]:
    """model -> the temperature that calibrates it on validation records of a generated task, none of a test split.

    {} of a user's own data, which have no such split, and where for some model no temperature is best.
    """
    if not task:
        return {}
    records = TASKS[task].records("validation", VALIDATION, seed)
    fitted = {name: fitted_temperature(policy, records) for name, policy in models.items()}
    return fitted if all(0 < t < math.inf for t in fitted.values()) else {}


def optimum_of_training(run: dict, reference: str, wanted: dict, reward: tuple[str, ...], title: str) -> dict | None:
    """J* of a test set as training came to know it, if that was for the same reference and reward. It is of training's
    prompts, which are taken to be like those of the test set of this title.

    wanted: what else must be the same, by option.  And for what is sampled here: at temperature 1.
    """
    known, wanted = run.get("optimum", {}).get(title), {"temperature": 1.0} | wanted
    same = run.get("reference") == reference and list(run.get("data", {}).get("reward", ())) == list(reward)
    same = same and wanted.items() <= run.get("training", {}).items()
    return known if same and known and known["value"] is not None else None


def training_records(runs: dict[str, dict]) -> dict[str, list[dict]]:
    """data set -> what the models were trained on, made or read again by their run.json; nothing of what is gone."""
    data = [(run.get("data", {}), run) for run in runs.values()]
    made = {(name, d.get("examples", 0), run.get("seed", 0)) for d, run in data for name in run.get("tasks", {})}
    seen: dict[str, list[dict]] = {}
    for name, n, seed in sorted(made):
        seen.setdefault(name, []).extend(TASKS[name].records("train", n, seed) if name in TASKS else [])
    return seen | {OWN: [r for r in read_again(*runs.values()) if "text" not in r]}


def ngram_baseline(seen: list[dict], records: list[dict], tokenizer: Tokenizer) -> dict | None:
    """What an n-gram model of training answers gives the records' own: its order, how many answers, nll, tokens."""
    learnt = [render(r, tokenizer).ids for r in seen[:NGRAM_ANSWERS] if answered(r)]
    asked = [r for r in records if answered(r)]
    if not learnt or not asked:
        return None
    ngram, nll, tokens = fit_ngram(learnt, ORDER, tokenizer.vocab_size), 0.0, 0
    for record in asked:
        logp = ngram.log_prob(render(record, tokenizer).ids)  # (T,)
        start = len(render_prompt(record, tokenizer))
        nll, tokens = nll - float(logp[start:].sum()), tokens + len(logp) - start
    return {"order": ORDER, "answers": len(learnt), "nll": nll, "tokens": tokens}


def print_answers(options: Evaluation, seed: int, models: dict[str, Policy], runs: dict[str, dict]) -> None:
    """Print what each model says to --prompt; a model without roles goes on where it ends, unless it knows own data."""
    prompts_that_fit([{"prompt": options.prompt}], models, "--prompt")
    for name, policy in models.items():
        bare = not policy.chat and not runs[name].get("data", {}).get("data")
        begun = document_ids(options.prompt, policy.tokenizer)[:-1]  # without the EOS
        ids = begun if bare else policy.prompt({"prompt": options.prompt})
        with autocast(policy.model.wte.weight.device, policy.dtype):
            g = generate(policy.model, [ids], Sampling(options.max_new, temperature=0), policy.tokenizer.eos_id, [seed])
        print(f"{name}: {one_line(policy.tokenizer.decode(responses_of(g)[0]))}{'' if g.ended[0] else ' …'}")
