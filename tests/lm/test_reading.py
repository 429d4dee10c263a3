"""Files of every shape that users have, read to records; what is refused is named; what was taken is said."""

import csv
import gzip
import io
import json
from itertools import product

import pytest

from minirlhf.harness.files import UserError
from minirlhf.lm.reading import read_again, read_records

PAIRS = [{"prompt": "a, b", "response": 'say "c"\n\td'}, {"prompt": "é\u2028é", "response": "f"}, {"prompt": "7", "response": "; 8"}]
CONVERSATION = {"messages": [{"role": "user", "content": "one?"}, {"role": "assistant", "content": "1"}]}


def written(path, lines):
    """The path, after writing each line, JSON for what is not a string already."""
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), "utf-8")
    return path


def test_jsonl_is_read_line_by_line_and_blank_lines_are_skipped(tmp_path):
    records = [{"prompt": "a\u2028b", "response": "c\nd"}, {"text": "e"}, CONVERSATION]
    raw = json.dumps(records[0], ensure_ascii=False)
    assert "\u2028" in raw
    assert read_records([written(tmp_path / "x.jsonl", [raw, "", records[1], "  ", records[2]])]) == records


def test_comparisons_are_read(tmp_path):
    """With a p and a gold reward or without; elsewhere these may be anything. An answer may be to say nothing."""
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    records = [pair, {**pair, "p": 0, "gold_chosen": -1.5}, {**pair, "p": 0.5}, {**pair, "rejected": ""}]
    records.append({"prompt": "a", "p": "x", "gold_chosen": None})
    assert read_records([written(tmp_path / "x.jsonl", records)]) == records


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"prompt": "a"', "line 17: not JSON"),
        ("[1, 2]", "line 17: a JSON object is wanted, this is a list"),
        ('{"prompt": ""}', "line 17: the prompt is empty"),
        ('{"prompt": 3}', "line 17: 'prompt' must be a string"),
        ('{"prompt": "a", "response": null}', "line 17: 'response' must be a string"),
        ('{"text": ["a"]}', "line 17: 'text' must be a string"),
        ('{"question": "a"}', "line 17: no 'text', 'prompt' or 'messages'; found question; --map prompt=NAME"),
        ("{}", "line 17: no 'text', 'prompt' or 'messages'; found nothing"),
        ('{"messages": []}', "line 17: 'messages' must be a list that is not empty"),
        ('{"messages": {"role": "user"}}', "line 17: 'messages' must be a list"),
        ('{"messages": ["a"]}', "line 17: a message needs a 'role'"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', "line 17: a message needs a 'role'"),
        ('{"messages": [{"role": "user"}]}', "line 17: a message needs a 'role'"),
        ('{"prompt": "a", "chosen": "b"}', "line 17: 'rejected' is missing"),
        ('{"prompt": "a", "rejected": "b"}', "line 17: 'chosen' is missing"),
        ('{"prompt": "a", "chosen": ["b"], "rejected": "c"}', "line 17: 'chosen' must be a string"),
        ('{"chosen": "b", "rejected": "c"}', "line 17: no 'prompt' or 'messages'"),
        ('{"text": "a", "chosen": "b", "rejected": "c"}', "line 17: no 'prompt' or 'messages'"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "gold_chosen": null}', "line 17: 'gold_chosen' must be"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "gold_rejected": "1"}', "line 17: 'gold_rejected' must"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "p": 1.1}', "line 17: 'p' must be a probability"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "p": NaN}', "line 17: 'p' must be a probability"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "p": true}', "line 17: 'p' must be a probability"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "gold_chosen": "1"}', "line 17: 'gold_chosen' must be a"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "gold_chosen": Infinity}', "line 17: 'gold_chosen' must"),
        (f'{{"prompt": "a", "chosen": "b", "rejected": "c", "gold_chosen": 1{400 * "0"}}}', "line 17: 'gold_chosen'"),
        ('{"prompt": "a", "x": ' + 10**5 * "[" + 10**5 * "]" + "}", "line 17: not JSON that can be read"),
    ],
    ids=lambda x: x[:60],
)
def test_a_bad_record_is_named_by_file_and_line(line, message, tmp_path):
    path = written(tmp_path / "x.jsonl", [{"prompt": "a", "response": "b"}] * 16 + [line])
    with pytest.raises(UserError) as error:
        read_records([path])
    assert str(error.value).startswith(f"{path}, {message}")


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "no data"),
        (b" \n\n", "no data"),
        (b'{"prompt": "caf\xe9"}', "byte 15 is not UTF-8"),
        (None, "No such file"),
    ],
    ids=["empty", "blank", "latin-1", "missing"],
)
def test_a_file_that_cannot_be_used_is_named(data, message, tmp_path):
    path = tmp_path / "x.jsonl"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read_records([path])
    assert str(error.value).startswith(f"{path}: {message}")


def test_a_byte_order_mark_is_no_data(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"prompt": "a", "response": "b"}\n')
    assert read_records([path]) == [{"prompt": "a", "response": "b"}]


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


def table(records, comma):
    """The records as csv writes them."""
    file = io.StringIO()
    rows = csv.DictWriter(file, records[0], delimiter=comma)
    rows.writeheader()
    rows.writerows(records)
    return file.getvalue()


FORMS = {
    "lines": "".join(json.dumps(r) + "\n" for r in PAIRS), "array": json.dumps(PAIRS),
    "pretty array": json.dumps(PAIRS, indent=2), "pretty objects": "\n".join(json.dumps(r, indent=1) for r in PAIRS),
    "csv": table(PAIRS, ","), "tsv": table(PAIRS, "\t"), "semicolons": table(PAIRS, ";"),
}  # fmt: skip


@pytest.mark.parametrize("form, name, packed", list(product(FORMS, ("x", "x.txt", "x.jsonl", "x.csv"), (False, True))))
def test_the_content_says_what_a_file_is_and_not_its_name(form, name, packed, tmp_path):
    data = FORMS[form].encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if packed else data)
    assert read_records([tmp_path / name]) == PAIRS


def test_a_text_is_one_record_and_a_folder_all_its_texts(tmp_path, capsys):
    for name, text in {"b.txt": "It was dark, and\nthe rain, fell.\n", "c.txt": "[1] a note", "c.md": "no"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.txt.gz").write_bytes(gzip.compress("{ braced } text".encode()))
    texts = [{"text": "{ braced } text"}, {"text": "It was dark, and\nthe rain, fell.\n"}, {"text": "[1] a note"}]
    assert read_records([str(tmp_path)]) == texts
    assert read_records([f"{tmp_path}/*.txt"]) == texts[1:] and read_records([f"{tmp_path}/c.*t"]) == texts[2:]
    assert "3 files, 3 records of text (58 characters)" in capsys.readouterr().out.splitlines()[0]
    with pytest.raises(UserError, match="no .txt in this folder"):
        (tmp_path / "empty").mkdir()
        read_records([str(tmp_path / "empty")])


DIALOGUE = "\n\nHuman: q\n\nAssistant: a\n\nHuman: so?\n\nAssistant:"
ASKED = [user("q"), bot("a"), user("so?")]


@pytest.mark.parametrize("row, record", [
    ({"instruction": "add", "input": "1 2", "output": "3"}, {"prompt": "add\n1 2", "response": "3"}),
    ({"instruction": "hi", "input": "", "output": "yo"}, {"prompt": "hi", "response": "yo"}),
    ({"instruction": "hi", "input": None}, {"prompt": "hi"}),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, {"messages": ASKED[:2]}),
    ({"conversations": ASKED}, {"messages": ASKED}),
    ({"prompt": "q", "completion": "a"}, {"prompt": "q", "response": "a"}),
    ({"prompt": [user("q")], "completion": [bot("a")]}, {"messages": ASKED[:2]}),
    ({"prompt": ASKED}, {"messages": ASKED}),
    ({"prompt": ASKED, "chosen": [bot("c")], "rejected": [bot("r")]},
     {"messages": ASKED, "chosen": "c", "rejected": "r"}),
    ({"chosen": [*ASKED, bot("c")], "rejected": [*ASKED, bot("r")]},
     {"messages": ASKED, "chosen": "c", "rejected": "r"}),
    ({"prompt": "q", "chosen": [bot("c")], "rejected": [bot("r")]}, {"prompt": "q", "chosen": "c", "rejected": "r"}),
    ({"chosen": DIALOGUE + " c", "rejected": DIALOGUE + " r\n"}, {"messages": ASKED, "chosen": "c", "rejected": "r"}),
    ({"messages": ASKED, "text": None, "label": None}, {"messages": ASKED}),
    ({"prompt": "q", "label": " "}, {"prompt": "q"}),
], ids=lambda x: str(list(x))[:40])  # fmt: skip
def test_shapes_of_others_become_ours(row, record, tmp_path):
    assert read_records([written(tmp_path / "x", [row, row])]) == [record, record]


@pytest.mark.parametrize("row, message", [
    ({"instruction": ["a"], "output": "b"}, "'instruction' must be a string, it is ['a']"),
    ({"instruction": "a", "input": 0}, "'input' must be a string, it is 0"),
    ({"instruction": "a", "output": None}, "'response' must be a string, it is None"),
    ({"prompt": "a", "completion": 3}, "'response' must be a string"),
    ({"conversations": [{"from": "tool", "value": "a"}]}, "a message needs a 'role'"),
    ({"conversations": [{"from": ["gpt"], "value": "a"}]}, "a message needs a 'role'"),
    ({"conversations": {"a": 1}}, "'messages' must be a list"),
    ({"messages": [user("a")], "response": 3}, "a message needs a 'role' of system, user, assistant and a text"),
    ({"prompt": "a", "chosen": [bot("c")], "rejected": "r"}, "'chosen' must be a string"),
    ({"prompt": "a", "chosen": [bot(3)], "rejected": [bot("r")]}, "'chosen' must be a string"),
    ({"prompt": "a", "chosen": [], "rejected": []}, "'chosen' must be a string"),
])
def test_a_field_of_a_wrong_type_is_named_in_every_shape(row, message, tmp_path):
    path = written(tmp_path / "x", [{"prompt": "a", "response": "b"}] * 2 + [row])
    with pytest.raises(UserError) as error:
        read_records([path])
    assert str(error.value).startswith(f"{path}, line 3: {message}")


def test_comparisons_of_answers_to_different_questions_are_left_out_and_counted(tmp_path, capsys):
    good = {"chosen": [user("q"), bot("c")], "rejected": [user("q"), bot("r")]}
    others = [{"chosen": [user("p"), bot("c")], "rejected": [user("q"), bot("r")]},
              {"chosen": [user("q"), bot("c")], "rejected": [user("q"), bot("r"), user("?")]},
              {"chosen": DIALOGUE + " c", "rejected": "Human: x\n\nAssistant: r"}]  # fmt: skip
    assert len(read_records([written(tmp_path / "x", [good, *others])])) == 1
    said = "1 record of messages, chosen and rejected; 3 left out: chosen and rejected answer different questions\n"
    assert capsys.readouterr().out == f"{tmp_path}/x: {said}"


@pytest.mark.parametrize("name, what", [("x.csv", "rows under a header"), ("x.tsv.gz", "rows under a header"), ("x.jsonl", "JSON objects")])
def test_a_file_that_is_no_table_or_no_json_is_no_text_under_that_name(name, what, tmp_path):
    (tmp_path / name).write_text("question,answer\n")
    with pytest.raises(UserError, match=f"no {what} in it; if it is a text, call it .txt"):
        read_records([f"{tmp_path}/{name}"])


def test_one_line_says_what_was_taken_and_what_was_not(tmp_path, capsys):
    rows = [{"id": i, "prompt": f"p {i}"} | ({"label": "good"} if i else {}) for i in range(4)]
    (tmp_path / "reviews.csv").write_text(table([{"label": "", **row} for row in rows], ","))
    read_records([f"{tmp_path}/reviews.csv"])
    said = f"{tmp_path}/reviews.csv: 4 records of prompt and label; column `id` unused; 1 without a label\n"
    assert capsys.readouterr().out == said
    read_records([written(tmp_path / "x", [{"text": "ab"}, {"prompt": "a", "b\033": 1}])], others="left to the reward")
    said = "1 record of text (2 characters), 1 record of prompt; column `b\\x1b` (in 1) left to the reward\n"
    assert capsys.readouterr().out == f"{tmp_path}/x: {said}"


def test_the_users_names_are_mapped_and_a_name_that_is_none_is_refused(tmp_path):
    path = tmp_path / "x"
    path.write_text("question,answer,agreed,prompt\na,b,0.5,z\n")
    (record,) = read_records([path], "prompt=question,chosen=answer,rejected=prompt,p=agreed")
    assert record == {"prompt": "a", "chosen": "b", "rejected": "z", "p": 0.5}
    for words in ("prompt", "promt=question", "prompt=", "=question"):
        with pytest.raises(UserError, match="give FIELD=YOURS"):
            read_records([path], words)
    with pytest.raises(UserError, match="--map prompt=questions: there is no 'questions'; found agreed, answer, prompt"):
        read_records([path], "prompt=questions")


@pytest.mark.parametrize("text, message", [
    ("prompt,response\na,b,c\n", ", line 2: 3 cells under 2 columns"), ('prompt,response\na,b\n"a,b\nc', ", line 3: "),
    ("prompt,prompt\na,b\n", ", line 1: two columns are 'prompt'"), ("prompt,response\n", ": no data"),
    ("question,answer\na,b\n", ", line 2: no 'text', 'prompt' or 'messages'; found question, answer; --map prompt="),
    ("noise\n" + FORMS["lines"], ", line 1: not JSON"), ('{"prompt": "a"\n{"prompt": "b"}', ", line 1: not JSON"),
    (FORMS["pretty array"][:-1], ": the array does not end"), (FORMS["array"][:-3], ", line 1: not JSON"),
    ('["a", "b"]', ", line 1: a JSON object is wanted, this is a str"), ("{'prompt': 'a'}", ", line 1: not JSON"),
    (FORMS["pretty array"].replace('"7"', "7"), ", line 10: 'prompt' must be a string"),
    ('{"prompt": "a", "n": ' + "9" * 5000 + "}", ", line 1: not JSON"), ("[]", ": no data"), ("a\0b", ": this is binary"),
], ids=repr)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named_and_never_read_as_text(text, message, tmp_path):
    (tmp_path / "x").write_text(text)
    with pytest.raises(UserError) as error:
        read_records([str(tmp_path / "x")])
    assert str(error.value).startswith(f"{tmp_path}/x{message}") and "\n" not in str(error.value)


@pytest.mark.parametrize("begin, kind", [
    (b"PK\3\4", "a zip archive or a spreadsheet"), (b"PAR1", "Parquet"), (b"BZh9", "bzip2"), (b"\xfd7zXZ\0", "xz"),
    (b"\x1f\x8b", "damaged gzip"), ("é".encode("utf-16"), "UTF-16"), (b"%PDF-1.4", "a PDF"), (b"\x89PNG\0", "binary"),
    (gzip.compress(b"PAR1"), "Parquet"), (gzip.compress(b"text " * 99)[:-5], "damaged gzip"),
])  # fmt: skip
def test_what_is_no_text_is_named_by_what_it_is(begin, kind, tmp_path):
    (tmp_path / "x.jsonl").write_bytes(begin)
    with pytest.raises(UserError, match=f"x.jsonl: (this is )?{kind}"):
        read_records([str(tmp_path / "x.jsonl")])


def test_a_cell_of_any_length_is_read(tmp_path):
    (tmp_path / "x").write_text("prompt,response\na," + "b" * 200_000 + "\n")
    assert len(read_records([str(tmp_path / "x")])[0]["response"]) == 200_000


def test_what_a_training_read_is_read_again_with_its_names_and_without_a_word(tmp_path, capsys):
    path = written(tmp_path / "x", [{"q": "a", "response": "b"}])
    runs = [{"data": {"data": [str(path), str(tmp_path / "gone")], "map": "prompt=q"}}, {}, {"data": {"prompts": []}}]
    assert read_again(*runs) == [{"prompt": "a", "response": "b"}] and not capsys.readouterr().out
