"""Bad items and reports of evaluations."""

from bad_inputs.table import (
    FOLDER, GONE, NAN, PIPE, Bad, Spoil, bad, cut, first_of, in_line, line, nested, swap, with_keys,
)

from minirlhf.evaluation.items import VERSION

AGAIN = "evaluate.py --from out/eval/items.jsonl --out new"
REPORTS = "evaluate.py --reports old/report.json out/eval/report.json"


def items(spoil: Spoil, *says: str, claim: str) -> Bad:
    """The items of an evaluation spoilt."""
    return bad(claim, AGAIN, "items.jsonl", *says, files={"out/eval/items.jsonl": spoil})


def run(changes: dict, *says: str, claim: str) -> Bad:
    """The first line, about the whole evaluation, with other values."""
    return items(in_line(1, changes), *says, claim=claim)


def report(spoil: Spoil, *says: str, claim: str) -> Bad:
    """The report of the older evaluation spoilt."""
    return bad(claim, REPORTS, "old/report.json", *says, files={"old/report.json": spoil})


def response(changes: dict, claim: str) -> Bad:
    """The first response with other values."""
    return items(first_of("response", changes), claim=claim)


def text(changes: dict, claim: str) -> Bad:
    """The first line of how a model predicts with other values."""
    return items(first_of("text", changes), claim=claim)


FILES = [
    bad("items that are not there", "evaluate.py --from none.jsonl", "none.jsonl"),
    bad("a report in the place of items", "evaluate.py --from out/eval/report.json --out new", "report.json"),
    bad("own data in the place of items", "evaluate.py --from pairs.jsonl --out new", "pairs.jsonl"),
    bad("a log in the place of items", "evaluate.py --from out/sft/log.jsonl --out new", "log.jsonl"),
    bad("a checkpoint in the place of items", "evaluate.py --from out/sft --out new", "out/sft"),
    items(FOLDER, claim="items that are a folder"),
    items(PIPE, claim="items that are a pipe"),
    items(b"", claim="items of no byte"),
    items("\n\n", claim="items of blank lines"),
    items(cut(2000), claim="items that end too soon"),
    items(cut(-30), claim="items that lack the end of a line"),
    items(lambda old: b"\n".join(old.split(b"\n")[:-2]) + b"\n", claim="items that lack a line"),
    items(lambda old: old.split(b"\n")[0] + b"\n", claim="items of a first line alone"),
    items(lambda old: b"\n".join(old.split(b"\n")[1:]), claim="items without a first line"),
    items(lambda old: old + old, claim="items twice in a file"),
    items(lambda old: b"\xff" + old, "UTF-8", claim="items that are not UTF-8"),
    items(line(3, "no JSON"), "3", claim="items with a line that is not JSON"),
    items(line(3, "[]"), "3", claim="items with a line that is a list"),
    items(line(3, nested(100_000)), "3", claim="items with a line nested 100,000 deep"),
    items(line(3, "{}"), "3", claim="items with a line without a key"),
    items(line(2, '{"kind": "set", "set": "other"}'), claim="items with a set of another name"),
]
FIRST_LINE = [
    run({"version": 1}, "version", claim="items of an older version"),
    run({"version": VERSION + 1}, "version", claim="items of a version to come"),
    run({"version": "2"}, "version", claim="items of a version that is a text"),
    run({"version": GONE}, "version", claim="items of no version"),
    run({"kind": "set"}, claim="items that begin with a set"),
    run({"models": GONE}, "models", claim="items of models that are not told"),
    run({"models": {}}, "models", claim="items of no model"),
    run({"models": ["base", "sft", "ppo"]}, "models", claim="models in a list"),
    run({"models": 3}, "models", claim="models that are a number"),
    run({"models.sft": 3}, claim="a model that is a number"),
    run({"models.sft": GONE}, claim="a model that is missing"),
    run({"models.more": {}}, claim="a model that said nothing"),
    run({"models.sft.cost": 3}, "cost", claim="a cost that is a number, in the items"),
    run({"models.sft.cost": {"seconds": "long"}}, "cost", claim="a cost of other keys, in the items"),
    run({"models.sft.curves": 3}, "curves", claim="curves that are a number"),
    run({"models.sft.curves": [{"name": "loss"}]}, "curves", claim="a curve without points"),
    run({"models.sft.curves": [{"name": "loss", "x": "step", "points": [["a", "b"]]}]}, "curves",
        claim="a curve of words"),
    run({"reference": "gpt4"}, "reference", claim="a reference that is none of the models of a file"),
    run({"reference": 3}, claim="a reference that is a number"),
    run({"reference": ["sft"]}, "reference", claim="a reference that is a list, in the items"),
    run({"reference": GONE}, "reference", claim="a reference that is missing"),
    run({"against": "gpt4"}, "gpt4", claim="compared with none of the models of a file"),
    run({"against": GONE}, "against", claim="compared with a model that is not told"),
    run({"models.sft.reference": "gpt4"}, "gpt4", claim="a model's reference that is none of the models"),
    run({"models.sft.reference": 3}, "models.sft.reference", claim="a model's reference that is a number"),
    run({"models.sft.trained_against": 3}, "trained_against", claim="a model trained against a number"),
    run({"seed": "zero"}, "seed", claim="a seed that is a word, in the items"),
    run({"seed": -1}, "seed", claim="a seed below 0, in the items"),
    run({"seed": GONE}, "seed", claim="a seed that is missing"),
    run({"vocabulary": "large"}, "vocabulary", claim="a vocabulary that is a word"),
    run({"settings": GONE}, "settings", claim="settings that are missing"),
    run({"settings": 3}, "settings", claim="settings that are a number"),
    run({"settings.metrics": 3}, "metrics", claim="metrics that are a number"),
]  # fmt: skip
LATER_LINES = [
    items(first_of("set", {"kind": "st"}), "line", claim="a line of a kind that there is not"),
    items(first_of("set", {"kind": 3}), "line", claim="a kind that is a number"),
    items(first_of("set", {"kind": []}), "line", claim="a kind that is a list"),
    items(first_of("set", {"set": 3}), "line", claim="a set that is a number"),
    items(first_of("set", {"set": ["a"]}), "line", claim="a set that is a list"),
    items(first_of("set", {"beta": "high"}), claim="a beta that is a word, in the items"),
    items(first_of("set", {"beta": 0.1, "optimum": 3}), claim="an optimum that is a number, in the items"),
    items(first_of("set", {"beta": 0.1, "optimum": {"value": "high"}}), claim="an optimum of other keys"),
    items(first_of("set", {"temperatures": 3}), claim="temperatures that are a number"),
    items(first_of("set", {"trained_on": 3}), claim="training prompts that are a number"),
    items(first_of("set", {"ngram": 3}), claim="an n-gram model that is a number"),
    items(first_of("set", {"attention": 3}), claim="an attention that is a number"),
    items(first_of("prompt", {"record": GONE}), "line", claim="a prompt without its record"),
    items(first_of("prompt", {"record": 3}), claim="a record that is a number"),
    items(first_of("prompt", {"record": {}}), claim="a record of no key"),
    items(first_of("prompt", {"record.prompt": 3}), claim="a record whose prompt is a number"),
    items(first_of("prompt", {"record": {"messages": []}}), claim="a record of no turn"),
    items(first_of("prompt", {"set": "nowhere"}), "line", claim="a prompt of a set that there is not"),
    text({"nll": "high"}, claim="a loss that is a word"),
    text({"nll": GONE}, claim="a loss that is missing"),
    text({"tokens": "many"}, claim="a number of tokens that is a word"),
    text({"confidence": 3}, claim="a confidence that is a number"),
    text({"confidence": ["high"]}, claim="a confidence that is a word"),
    text({"confidence": [7.0], "correct": [1]}, claim="a confidence of 7"),
    text({"correct": []}, claim="a confidence in nothing"),
    text({"model": "gpt4"}, claim="a loss of a model that there is not"),
    text({"model": []}, claim="a loss of a model that is a list"),
    response({"scores": []}, claim="scores in a list"),
    response({"scores": {"reward": "high"}}, claim="a score that is a word"),
    response({"scores": {"other": 1}}, claim="a score of another name"),
    response({"scores": {"reward": NAN, "unparsable": 1.0}}, claim="a score of NaN"),
    response({"index": "0"}, claim="an index that is a text"),
    response({"index": 99}, claim="an index of no prompt"),
    response({"index": -1}, claim="an index below 0"),
    response({"sample": "greedy"}, claim="a sample that is a word"),
    response({"sample": 10**12}, claim="a sample of 10**12"),
    response({"prompt": 3}, claim="a prompt that is a number, in the items"),
    response({"response": 3}, claim="an answer that is a number"),
    response({"response": None}, claim="an answer that is null"),
    response({"response": GONE}, claim="an answer that is missing"),
    response({"stop": 3}, claim="an end that is a number"),
    response({"tokens": "many"}, claim="a length that is a word"),
    response({"ids": "1 2"}, claim="ids in a text"),
    response({"ids": ["a"]}, claim="ids that are words"),
    response({"kl": "far"}, claim="a KL that is a word"),
    response({"kl": None}, claim="a KL that is null"),
    response({"k1": [1]}, claim="a KL that is a list"),
    response({"entropy": "high"}, claim="an entropy that is a word"),
    response({"model": "gpt4"}, claim="an answer of a model that there is not"),
    response({"set": "nowhere"}, claim="an answer of a set that there is not"),
]
COMPARED = [
    bad("a report that is not there", "evaluate.py --reports none.json out/eval/report.json", "none.json"),
    bad("items in the place of a report", "evaluate.py --reports out/eval/items.jsonl out/eval/report.json",
        "items.jsonl"),
    bad("a checkpoint in the place of a report", "evaluate.py --reports out/sft out/ppo", "out/sft"),
    bad("a run in the place of a report", "evaluate.py --reports out/sft/run.json out/ppo/run.json", "run.json"),
    bad("one run counted three times", "evaluate.py --reports old/report.json out/eval/report.json old/report.json",
        "report.json"),
    report(b"", claim="a report of no byte"),
    report(FOLDER, claim="a report that is a folder"),
    report(cut(-2), claim="a report that ends too soon"),
    report("[]", claim="a report that is a list"),
    report(nested(100_000), claim="a report nested 100,000 deep"),
    report(with_keys({"version": 1}), "version", claim="a report of an older version"),
    report(with_keys({"version": [2]}), "version", claim="a report of a version that is a list"),
    report(with_keys({"version": GONE}), "version", claim="a report of no version"),
    bad("a report without the items beside it", REPORTS, "old/items.jsonl", files={"old/items.jsonl": GONE}),
    bad("a report with damaged items beside it", REPORTS, "old/items.jsonl", files={"old/items.jsonl": cut(3000)}),
    bad("a report with items of an older version", REPORTS, "old/items.jsonl", "version",
        files={"old/items.jsonl": in_line(1, {"version": 1})}),
    bad("reports of other sets", REPORTS, "sentiment",
        files={"old/items.jsonl": lambda old: old.replace(b'"set": "sentiment"', b'"set": "other"')}),
    bad("training runs of other models", f"{REPORTS} old/report.json", "report.json",
        files={"old/items.jsonl": lambda old: old.replace(b'"ppo"', b'"grpo"')}),
    bad("reports of one run, to compare with another method", f"{REPORTS} --against grpo", "ppo of seed 0", "once"),
    bad("a training run whose model is its reference", f"{REPORTS} old/report.json", "report.json",
        files={"old/items.jsonl": swap('"against": "sft"', '"against": "ppo"')}),
]  # fmt: skip
REPORTS_AND_ITEMS = [*FILES, *FIRST_LINE, *LATER_LINES, *COMPARED]
