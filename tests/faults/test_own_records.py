"""Faults 8 to 13: one record, one rule."""

import gzip
import json
import random
from itertools import product

import pytest
import torch

from minirlhf.evaluation.ask import Policy, Protocol, sample_items, scores_of, text_items
from minirlhf.evaluation.catalogue import metric_table
from minirlhf.evaluation.questions import left_out, turn_records
from minirlhf.evaluation.items import TestSet
from minirlhf.evaluation.metric import view_of
from minirlhf.harness.files import UserError
from minirlhf.lm.chat import render, render_prompt
from minirlhf.lm.reading import read_records
from minirlhf.lm.records import references_of
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.preferences.comparisons import read_preferences
from minirlhf.rl.watch import rows_of
from minirlhf.tasks import TASKS, task_of
from minirlhf.tasks.sources import file_source, prompts_of, sft_sets, text_sets

PARTS = ("a", "b ", " c", "\n", "\n\n", "d\n", "\n\n e", " \n f", "", "好", "<|endoftext|>", "\t")


@pytest.fixture
def write(tmp_path):
    """A function that writes records as JSON lines, under any name, and returns the path."""
    def write(records, name="x"):
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(tmp_path / name)

    return write


def conversation(rng, turns):
    """One of so many turns with white space wherever it may stand."""
    roles = [("user", "assistant")[i % 2] for i in range(turns)]
    return {"messages": [{"role": role, "content": "".join(rng.choices(PARTS, k=3))} for role in roles]}


def test_fault_08_a_base_model_is_asked_in_the_format_of_its_documents(write, make_gpt):
    """Ids of a document = ids of `render` without roles, and the question is how these begin; also over many turns."""
    rng = random.Random(0)
    tokenizer = Tokenizer.train(["".join(rng.choices(PARTS, k=4000)), "\n" * 99], 300)
    records = [{"prompt": "x" + rng.choice(PARTS), "response": rng.choice(PARTS)} for _ in range(60)]
    records += [conversation(rng, turns) for turns in (2, 3, 4, 6) for _ in range(20)]
    source = file_source([write(records)])
    sets, held_out = text_sets([source], tokenizer, 200, 8)
    documents = [example.ids for example in held_out + sets["data"][0]]
    assert documents == [render(record, tokenizer, chat=False).ids for record in source.train]
    for ids, record in zip(documents, source.train):
        messages = record.get("messages") or [{"content": record["prompt"]}, {"content": record["response"]}]
        text = "\n".join(m["content"] for m in messages)
        assert tokenizer.decode(ids[1:]) == text + "<|endoftext|>" * (messages[-1].get("role") != "user")
        prompt = render_prompt(record, tokenizer, chat=False)
        if len(messages) % 2 == 0:
            assert ids == prompt + tokenizer.encode(messages[-1]["content"]) + [tokenizer.eos_id]
    for task in (task for task in TASKS.values() if not hasattr(task, "reply")):
        for record in task.records("train", 5, 0):  # there no break stands between them
            joined = [tokenizer.eos_id, *tokenizer.encode(record["prompt"]), *tokenizer.encode(record["response"])]
            assert render(record, tokenizer, chat=False).ids == [*joined, tokenizer.eos_id]
    policy = Policy(make_gpt(vocab_size=tokenizer.vocab_size, context=64), tokenizer, chat=False)
    (item,) = text_items(policy, [{"prompt": "a", "response": "b"}])
    whole = torch.tensor([[tokenizer.eos_id, *tokenizer.encode("a\nb"), tokenizer.eos_id]])
    logp = policy.model.logits(policy.model(whole[:, :-1]))[0].log_softmax(-1)
    assert item["nll"] == pytest.approx(-logp[-2:].gather(1, whole[0, -2:, None]).sum().item(), rel=1e-4)


TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
ANSWER = {"messages": TURNS}
BOTH = [  # a record with two readings, what it is, and what of it is not used
    ({"text": "t", "prompt": "p", "response": "r"}, {"prompt": "p", "response": "r"}, "`text`"),
    ({"text": "t", "messages": TURNS}, ANSWER, "`text`"),
    ({"text": "t", "prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": "a", "rejected": "b"}, "`text`"),
    ({"messages": TURNS[:1], "response": "a"}, ANSWER, ""),
    ({"messages": TURNS, "response": "other"}, ANSWER, "`response`"),
    ({"messages": TURNS, "prompt": "other"}, ANSWER, "`prompt`"),
    ({"messages": TURNS[:1], "prompt": "other", "response": "a", "text": "t"}, ANSWER, "`prompt` and `text`"),
    ({"conversations": TURNS, "instruction": "i", "output": "o", "text": "t"}, ANSWER, "`prompt`, `response` and `text`"),
]  # fmt: skip


@pytest.mark.parametrize("row, record, unused", BOTH, ids=lambda x: "+".join(x) if isinstance(x, dict) else None)
def test_fault_09_a_record_of_two_kinds_is_one_and_the_same_everywhere(row, record, unused, write, capsys):
    path = write([row] * 3, "x.jsonl")
    assert read_records([path]) == [record] * 3
    said = capsys.readouterr().out
    assert (f"{unused} unused" in said) == bool(unused) and ("unused" in said) == bool(unused)
    assert prompts_of("", "", [path], 0, 0)[0]["data"] == [record] * 3
    assert turn_records(read_records([path])) == [record] * 3
    if "chosen" in record:
        assert read_preferences([path]) == [record] * 3
    else:
        source = file_source([path])
        assert source.train == [record] * 3 and not source.documents
        assert len(sft_sets([source], Tokenizer(), 64, 8)[0]["data"][0]) == 3


WRONG = [["a", None], [["a"]], {"a": 1}, [{"a": 1}], [float("nan")], float("inf"), "\ud800", [True, "\udfff"], {}, 10**400]
RIGHT = ["a", "∅", 3, 4.5, True, -1, "好 \n"]


@pytest.mark.parametrize("key, value", list(product(("reference", "label", "conversation"), [*WRONG, *RIGHT])), ids=repr)
def test_fault_10_fields_that_are_compared_as_text_are_checked(key, value, write):
    rng = random.Random(repr((key, value)))
    n = rng.randrange(5)
    path = write([{"prompt": "p"}] * n + [{rng.choice(("prompt", "text")): "p", key: value}])
    if value in RIGHT:
        read_records([path])
    else:
        with pytest.raises(UserError, match=f"line {n + 1}: '{key}' must be a text or a number"):
            read_records([path])
    lists = write([{"prompt": "p", "reference": value if isinstance(value, list) else [value]}], "lists")
    if value in RIGHT:
        assert references_of(read_records([lists])[0]) == [str(value)]


def labelled_set(labels, answers):
    """A set whose one model gave these answers, each its label or not."""
    records = [{"prompt": f"p{i}", **label} for i, label in enumerate(labels)]
    said = [{"index": i, "sample": k, "response": text, "stop": "eos", "scores": {}, "tokens": 1, "ids": [1], "kl": 0.0,
             "entropy": 0.0} for i, text in enumerate(answers) for k in (-1, 0)]  # fmt: skip
    nothing = [{"index": i, "nll": None} for i in range(len(records))]
    return TestSet("made", records, {"m": said}, {"m": nothing})


@pytest.mark.parametrize("seed", range(8))
def test_fault_11_records_without_a_label_are_left_out_aloud_and_the_rest_is_scored(seed):
    rng = random.Random(seed)
    labels = [rng.choice([{"label": "x"}, {"label": 1}, {}, {"label": None}, {"label": ""}]) for _ in range(40)]
    answers = [rng.choice(["x", "1", "neither"]) for _ in labels]
    known = [i for i, label in enumerate(labels) if label.get("label")]
    s, few = labelled_set(labels, answers), labelled_set([labels[i] for i in known], [answers[i] for i in known])
    of_all, of_known = ({x.name: x for x in metric_table(view_of(t), ["accuracy", "f1"])} for t in (s, few))
    right = sum(str(labels[i]["label"]) == answers[i] for i in known)
    assert of_all["accuracy"].statistics["m"].sum(0).tolist() == [right, len(known)]
    assert of_all.keys() == of_known.keys() and {"F1, macro", "recall, 1"} <= of_all.keys()
    assert all((of_all[name].statistics["m"] == x.statistics["m"]).all() for name, x in of_known.items())
    assert left_out(s.records, 0) == [
        f"{40 - len(known)} of 40 records have no label: accuracy and F1 leave them out"]  # fmt: skip
    assert "accuracy" in [x.name for x in metric_table(view_of(s))]


@pytest.mark.parametrize("task", [*TASKS, "mine", ["arithmetic"], None, 7])
def test_fault_12_a_users_column_task_selects_nothing_that_is_built_in(task, write, make_policy, tokenizer):
    """Neither parser, metrics and reward of a task nor the way its records are written; a reward may read it."""
    fields = {field: "x" for module in TASKS.values() for field in module.FIELDS}
    rows = [{"prompt": "a", "response": "x", "task": task} | fields, {"prompt": "b", "response": "x"} | fields]
    records = read_records([write(rows)])
    again = json.loads(json.dumps(records))  # as items.jsonl keeps them
    for record in (*records, *again):
        assert task_of(record) is None and scores_of(record, "x", True, gold=True) == {}
        assert render(record, tokenizer, chat=False).ids[2] == tokenizer.encode("\n")[0]
    assert rows_of(records) == {} and records[0]["task"] == task
    ref = Policy(make_policy(context=64), tokenizer)
    s = TestSet("mine", records, texts={"m": text_items(ref, records)})
    s.items["m"] = sample_items(ref, ref, records, Protocol(None, 8, 2, 0))
    assert {"accuracy", "F1, macro"} <= {metric.name for metric in metric_table(view_of(s, 260))}


NAMES = ("x", "x.txt", "x.jl", "x.jsonlines", "x.ndjson", "x.JSON", "x.csv", "x.gz", "x.parquet")


@pytest.mark.parametrize("name, form", list(product(NAMES, ("lines", "array", "csv", "gzip"))))
def test_fault_13_no_file_of_records_is_read_as_one_text(name, form, tmp_path):
    rng = random.Random(name + form)
    records = [{"prompt": f"p{i}" + rng.choice(" ,;"), "response": rng.choice("ab")} for i in range(rng.randint(1, 9))]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    table = "prompt,response\n" + "".join(f'"{r["prompt"]}",{r["response"]}\n' for r in records)
    data = {"lines": lines, "array": json.dumps(records, indent=rng.choice((None, 1))), "csv": table, "gzip": lines}[form]
    (tmp_path / name).write_bytes(gzip.compress(data.encode()) if form == "gzip" else data.encode())
    assert read_records([str(tmp_path / name)]) == records
    for junk in (b"PK\3\4", b"PAR1", b"BZh", b"\xfd7zXZ\0", bytes(range(256))):
        (tmp_path / name).write_bytes(junk)
        with pytest.raises(UserError, match=f"{name}: this is .*; save it as JSON lines, CSV or text"):
            read_records([str(tmp_path / name)])
