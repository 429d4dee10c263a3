"""Comparisons of two responses, and labelled texts, from files to ids, split by prompt.

    {"prompt": ..., "chosen": ..., "rejected": ...}          a line of the file (lm/records.py reads and checks it)
     "p": 0.8        the probability that chosen is better, where it is not certain; 1 if absent
     "gold_chosen": 1, "gold_rejected": 0.2    what they really earn, where it is known
    {"prompt": ..., "response": ..., "label": ...}           no comparison, but a text of a class

Proved by tests/preferences/test_comparisons.py.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from minirlhf.harness.files import UserError
from minirlhf.lm.reading import read_records
from minirlhf.lm.records import label_of, messages_of, prompt_key, question_of, validation_split
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.rl.reward_model import text_ids


def read_preferences(paths: Sequence[str], names: str = "", labels: bool = False) -> list[dict]:
    """The comparisons in some files, read as `read_records` does. Raises UserError for a record that is none.

    labels: where the first record has a label and is no comparison, those with a label instead.
    """
    if not paths:
        raise UserError("--data: name a file of comparisons; python -m minirlhf.tools.make_preferences makes one")
    records = read_records(paths, names)
    if labels and label_of(records[0]) and "chosen" not in records[0]:
        return [record for record in records if label_of(record)]
    for number, record in enumerate(records, 1):
        if "chosen" not in record:
            where = f"{' '.join(map(str, paths))}: record {number}"
            raise UserError(f"{where} has no 'chosen' and 'rejected'; found {', '.join(record)}")
    return records


@dataclass(frozen=True)
class Judged:
    """A comparison, or one text of a class.  texts: ids of prompt, response and EOS, of the chosen one first."""

    texts: tuple[tuple[int, ...], ...]
    wanted: float = 1.0  # p, or the number of the class, an int
    gold: float = 0.0  # the true difference of rewards, 0 if not known


def pairs_by_prompt(
    records: Sequence[dict], tokenizer: Tokenizer, context: int, whole: bool = False
) -> tuple[dict[str, list[Judged]], Counter]:
    """The comparisons of each prompt; and how many were dropped, "equal" and "long", and how many texts "cut".

    whole: for DPO, which would learn from an answer without its question: what exceeds the context is dropped.
    A reward is read at the end: there it loses its beginning, and those that are equal then are dropped.
    """
    groups: dict[str, list[Judged]] = {}
    counts = Counter(equal=0, long=0, cut=0)
    for record in records:
        # One id more than fits shows what does not fit.
        texts = [text_ids(record, record[k], tokenizer, context + 1) for k in ("chosen", "rejected")]
        long = sum(len(ids) > context for ids in texts)
        chosen, rejected = (ids[-context:] for ids in texts)
        if whole and long:
            counts["long"] += 1
        elif chosen == rejected:
            counts["equal"] += 1
        else:
            counts["cut"] += long
            known = "gold_chosen" in record and "gold_rejected" in record
            gold = record["gold_chosen"] - record["gold_rejected"] if known else 0.0
            pair = Judged((chosen, rejected), float(record.get("p", 1)), gold)
            groups.setdefault(prompt_key(record), []).append(pair)
    return groups, counts


def load_comparisons(
    records: Sequence[dict], tokenizer: Tokenizer, context: int, percent: int, whole: bool = False
) -> tuple[list[list[Judged]], list[Judged], dict[str, int]]:
    """(comparisons to train on by prompt, those of the held-out prompts, for run.json what was lost).

    whole: see `pairs_by_prompt`. Prints what was lost.  Raises UserError where nothing is left to train on.
    """
    groups, counts = pairs_by_prompt(records, tokenizer, context, whole)
    n, limit = len(records), f"the context of {context} tokens"
    if counts["equal"]:
        print(f"{counts['equal']} of {n} comparisons dropped: the two are equal within {limit}")
    if counts["long"]:
        print(f"{counts['long']} of {n} comparisons dropped: longer than {limit}")
    if counts["cut"]:
        print(f"{counts['cut']} of {2 * n} texts cut at the front, prompt first: longer than {limit}")
    train, held_out = held_apart(groups, percent)
    if not train:
        why = f"of {n}, {counts['equal']} are of equals, {counts['long']} too long, {len(held_out)} held out"
        remedy = "--held-out 0 trains on all" if held_out else "give others, or a model of a longer context"
        raise UserError(f"--data: no comparison to train on: {why}; {remedy}")
    lost = {"pairs": n, "dropped": counts["equal"] + counts["long"], "cut": counts["cut"]}
    return train, held_out, lost


def held_apart(groups: dict[str, list], percent: int) -> tuple[list[list], list]:
    """What is there of each prompt, for training; and all that is there of the held-out prompts."""
    learnt = {prompt: validation_split(prompt, percent) == "train" for prompt in groups}
    train = [some for prompt, some in groups.items() if learnt[prompt]]
    return train, [x for prompt, some in groups.items() if not learnt[prompt] for x in some]


def load_labelled(
    records: Sequence[dict], tokenizer: Tokenizer, context: int, percent: int
) -> tuple[list[str], list[list[Judged]], list[Judged], dict[str, int]]:
    """(classes, texts to train on by prompt, those of the held-out prompts, for run.json how many there are, and cut).

    A bare text is read as a response; a response that is the label itself is not read. Raises UserError.
    """
    classes, groups, cut = sorted({*map(label_of, records)}), {}, 0
    for record in records:
        last, label = messages_of(record)[-1], label_of(record)
        answer = last["content"] if last["role"] == "assistant" and last["content"].strip() != label else ""
        ids = text_ids(record, answer, tokenizer, context + 1)  # one more than fits shows what does not
        cut += len(ids) > context
        prompt = prompt_key(record) if question_of(record) else answer
        groups.setdefault(prompt, []).append(Judged((ids[-context:],), classes.index(label)))
    train, held_out = held_apart(groups, percent)
    if len(classes) < 2 or not train:
        why = f"{len(records)} labelled texts of {len(classes)} classes, {len(held_out)} held out"
        raise UserError(f"--data: {why}: nothing to learn; give two classes, or a smaller --held-out")
    if cut:
        print(f"{cut} of {len(records)} texts cut at the front: longer than the context of {context} tokens")
    return classes, train, held_out, {"texts": len(records), "cut": cut}
