"""Bad files of the user's own: records to train and evaluate on, prompts, comparisons, texts."""

import json

from bad_inputs.table import FOLDER, LOOP, NAN, PIPE, Bad, bad, cut, line, nested, swap

SFT = "train_sft.py --config own.json --out new --data own.jsonl"
PPO = "train_ppo.py --config mine.json --reward mine.py:length --out new --prompts own.jsonl"
EVAL = "evaluate.py --models sft=out/sft --samples 1 --out new --data own.jsonl"
DPO, RM = "train_dpo --data own.jsonl --out new", "train_reward --data own.jsonl --out new"
PAIR = {"prompt": "say a", "response": "aa"}
COMPARED = {"prompt": "say a", "chosen": "aa", "rejected": "a"}
XLSX = b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00" + bytes(range(256))
GZIP = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xabV*(\xca\xcf-(Q\xb2RP*N"
PARQUET = b"PAR1\x15\x04\x15\xa8\x01\x15\xa8\x01L\x15"


def line_3(command: str, record: object, *says: str, claim: str, good: dict = PAIR) -> Bad:
    """A third line that is wrong: a record, or a text that is none. It is named."""
    text = record if isinstance(record, str) else json.dumps(record)
    content = f"{json.dumps(good)}\n{json.dumps(good | {'prompt': 'b'})}\n{text}\n{json.dumps(good)}\n"
    return bad(claim, command, "own.jsonl", "3", *says, files={"own.jsonl": content})


def file(command: str, content, *says: str, claim: str) -> Bad:
    """A file that is wrong as a whole, which is named."""
    return bad(claim, command, "own.jsonl", *says, files={"own.jsonl": content})


def long(command: str, claim: str) -> Bad:
    """Records whose prompt is longer than the context."""
    record = {"prompt": "word " * 500, "response": "b"}
    return bad(claim, command, "context", files={"own.jsonl": json.dumps(record) + "\n"})


def messages(*turns: object) -> dict:
    """A conversation, of (role, content) or what stands there instead."""
    shaped = [{"role": t[0], "content": t[1]} if isinstance(t, tuple) else t for t in turns]
    return {"messages": shaped}


FILES = [
    bad("data that are not there", "train_sft.py --data none.jsonl --out new", "none.jsonl"),
    bad("one file of two that is not there", "train_sft.py --data pairs.jsonl none.jsonl --out new", "none.jsonl"),
    bad("prompts that are not there", "train_ppo.py --prompts none.jsonl --reward mine.py:length", "none.jsonl"),
    bad("test data that are not there", "evaluate.py --data none.jsonl", "none.jsonl"),
    bad("a text that is not there", "evaluate.py --text none.txt", "none.txt"),
    bad("comparisons that are not there", "train_reward --data none.jsonl", "none.jsonl"),
    bad("comparisons of DPO that are not there", "train_dpo --data none.jsonl", "none.jsonl"),
    bad("comparisons that are not named", "train_reward", "--data"),
    bad("comparisons of DPO that are not named", "train_dpo", "--data"),
    bad("lists of an audit that are not there", "audit out/sft --lists none.json", "none.json"),
    bad("data to write of a model from elsewhere", "audit gpt2 --augment new.jsonl", "--augment", "--trained-on"),
    bad("a list of an audit that there is not", "audit out/sft --lists c.json", "c.json", "swap: no such list",
        files={"c.json": '{"swap": {}}'}),
    bad("a swap that leads nowhere back", "audit out/sft --lists c.json", "c.json", "'big sister'",
        files={"c.json": '{"swaps": {"kin": [["sister", "big sister"]]}}'}),
    bad("lists of an audit of another shape", "audit out/sft --lists c.json", "c.json", "swaps",
        files={"c.json": '{"swaps": ["sister", "brother"]}'}),
    bad("prompts of the doctor that are not there", "doctor out/sft --prompts none.jsonl --reward mine.py:length",
        "none.jsonl"),
    bad("data behind a folder that is a file", "train_sft.py --data corpus.txt/own.jsonl --out new", "corpus.txt/own"),
    bad("data whose name is empty", "train_sft.py --data '' --out new", "--data"),
    bad("data whose name is too long for a file", f"train_sft.py --data {'n' * 5000}.jsonl --out new", "nnn"),
    bad("data whose name holds a line break", "train_sft.py --data 'no\nsuch.jsonl' --out new", "such.jsonl"),
    bad("data whose name would colour the terminal", "train_sft.py --data '\x1b[31mno.jsonl' --out new", "no.jsonl"),
    file(SFT, FOLDER, claim="data that are a folder"),
    file(PPO, FOLDER, claim="prompts that are a folder"),
    file(EVAL, FOLDER, claim="test data that are a folder"),
    file(DPO, FOLDER, claim="comparisons that are a folder"),
    file(SFT, LOOP, claim="data that are a link to themselves"),
    file(SFT, PIPE, claim="data that are a pipe without a writer"),
    file(PPO, PIPE, claim="prompts that are a pipe without a writer"),
    bad("data without an end", "train_sft.py --data /dev/zero --out new", "/dev/zero"),
    bad("a text without an end", "evaluate.py --text /dev/zero", "/dev/zero"),
    file(SFT, b"", claim="data of no byte"),
    file(PPO, b"", claim="prompts of no byte"),
    file(EVAL, b"", claim="test data of no byte"),
    file(RM, b"", claim="comparisons of no byte"),
    file(SFT, "\n\n \n", claim="data of blank lines"),
    file(SFT, "\ufeff", claim="data of a byte order mark and nothing else"),
    bad("a text of white space", "evaluate.py --text own.txt", "own.txt", files={"own.txt": " \n\t"}),
    bad("a text of no byte", "train_sft.py --data own.txt --out new", "own.txt", files={"own.txt": b""}),
    file(SFT, b'{"prompt": "caf\xe9", "response": "b"}\n', "UTF-8", claim="data in Latin-1"),
    file(SFT, json.dumps(PAIR).encode("utf-16"), claim="data in UTF-16"),
    file(EVAL, b'{"prompt": "\xff\xfe", "response": "b"}\n', "UTF-8", claim="test data of bytes that are no text"),
    file(DPO, b'{"prompt": "\xed\xa0\x80"}\n', "UTF-8", claim="comparisons with half a character as bytes"),
    bad("a text in Latin-1", "evaluate.py --text own.txt", "own.txt", "UTF-8", files={"own.txt": b"caf\xe9"}),
    file(SFT, GZIP, claim="data that are compressed, by their bytes"),
    file(SFT, XLSX, claim="data that are a spreadsheet, by their bytes"),
    file(SFT, PARQUET, claim="data that are Parquet, by their bytes"),
    bad("data that are compressed, by their name", "train_sft.py --data own.jsonl.gz --out new", "own.jsonl.gz",
        files={"own.jsonl.gz": GZIP}),
    bad("data that are a spreadsheet, by their name", "train_sft.py --data own.xlsx --out new", "own.xlsx",
        files={"own.xlsx": XLSX}),
    bad("data that are Parquet, by their name", "train_sft.py --data own.parquet --out new", "own.parquet",
        files={"own.parquet": PARQUET}),
    bad("a table without a header", "train_sft.py --data own.csv --out new", "own.csv",
        files={"own.csv": "a,b\nc,d\n"}),
    bad("a table of other columns", "evaluate.py --models sft=out/sft --data own.tsv --out new", "own.tsv",
        files={"own.tsv": "question_id\tgrade\n1\t2\n"}),
    bad("a table of no byte", "train_sft.py --data own.csv --out new", "own.csv", files={"own.csv": b""}),
    bad("a table in Latin-1", "train_sft.py --data own.csv --out new", "own.csv",
        files={"own.csv": b"prompt,response\ncaf\xe9,b\n"}),
    bad("one JSON value that ends too soon", "train_sft.py --data own.json --out new", "own.json",
        files={"own.json": '[{"prompt": "a", "response": "b"}'}),
    bad("one JSON value that is a number", "train_sft.py --data own.json --out new", "own.json",
        files={"own.json": "3"}),
    bad("one JSON value nested 100,000 deep", "train_sft.py --data own.json --out new", "own.json",
        files={"own.json": nested(100_000)}),
    bad("a text in a file for JSON lines", "train_sft.py --data own.jsonl --out new", "own.jsonl", ".txt",
        files={"own.jsonl": "prompt: a\nresponse: b\n"}),
    bad("comparisons that are a text", "train_reward --data corpus.txt", "corpus.txt", "chosen"),
    bad("prompts that are a text",
        "train_ppo.py --config mine.json --reward mine.py:length --out new --prompts corpus.txt"),
    bad("test data that are a text", "evaluate.py --models sft=out/sft --data corpus.txt --out new", "corpus.txt"),
    bad("texts that are prompts", "evaluate.py --text prompts.jsonl", "prompts.jsonl", "--data"),
    bad("data of prompts alone", "train_sft.py --data prompts.jsonl --out new", "prompts.jsonl"),
    bad("data of text alone, behind --init", "train_sft.py --data corpus.txt --init out/base --out new", "corpus.txt"),
    bad("comparisons in the place of pairs", "train_sft.py --data prefs.jsonl --out new", "prefs.jsonl"),
    bad("pairs in the place of comparisons", "train_dpo --data pairs.jsonl --out new", "pairs.jsonl", "chosen"),
    bad("the items of an evaluation as data", "train_sft.py --data out/eval/items.jsonl --out new", "items.jsonl"),
    bad("the log of a training as prompts", "train_ppo.py --prompts out/sft/log.jsonl --reward mine.py:length",
        "log.jsonl"),
    bad("weights as data", "train_sft.py --data out/sft/model.safetensors --out new", "model.safetensors"),
]
LINES = [
    line_3(SFT, '{"prompt": "a"', claim="a line that ends too soon"),
    line_3(SFT, "prompt: a", claim="a line that is not JSON"),
    line_3(SFT, "{'prompt': 'a', 'response': 'b'}", claim="a line in Python's quotes"),
    line_3(SFT, '{"prompt": "a", "response": "b"},', claim="a line with a comma behind it"),
    line_3(SFT, '{"prompt": "a", "response": "b"} and {"prompt": "c"}', claim="a word between two records in a line"),
    line_3(SFT, '{"prompt": "a\tb", "response": "c"}', claim="a line with a bare tab in a text"),
    line_3(SFT, '{"prompt": "a", "response": "b\\x"}', claim="a line with an escape that there is not"),
    line_3(SFT, '["prompt", "response"]', claim="a line that is a list"),
    line_3(SFT, '"prompt"', claim="a line that is a text"),
    line_3(SFT, "null", claim="a line that is null"),
    line_3(SFT, "12", claim="a line that is a number"),
    line_3(SFT, "{}", claim="a line without a key"),
    line_3(SFT, {"question": "a", "solution_x": "b"}, "question", claim="a line of other keys"),
    line_3(SFT, {"Prompt": "a", "Response": "b"}, claim="a line of keys in capitals"),
    line_3(SFT, nested(100_000), claim="a line nested 100,000 deep"),
    line_3(SFT, f'{{"prompt": {nested(900)}, "response": "b"}}', "role", claim="a prompt nested 900 deep"),
    line_3(SFT, '{"prompt": "' + "a" * 5_000_000, claim="a line of 5,000,000 characters that does not end"),
    line_3(SFT, '{"prompt": ' + "9" * 5000 + "}", claim="a prompt that is a number of 5000 digits"),
    file(SFT, f"{json.dumps(PAIR)}\n" + "\x00" * 100, "binary", claim="a line of NULs, as a crash leaves them"),
    line_3(PPO, '{"prompt"', claim="a prompt that ends too soon"),
    line_3(EVAL, '{"prompt"', claim="a test record that ends too soon"),
    line_3(DPO, '{"prompt"', claim="a comparison that ends too soon", good=COMPARED),
    bad("a text in a line that ends too soon", "evaluate.py --text own.jsonl", "own.jsonl", "2",
        files={"own.jsonl": '{"text": "a"}\n{"text": "b\n'}),
]
FIELDS = [
    line_3(SFT, {"prompt": 1, "response": "b"}, "prompt", claim="a prompt that is a number"),
    line_3(SFT, {"prompt": None, "response": "b"}, "prompt", claim="a prompt that is null"),
    line_3(SFT, {"prompt": ["a"], "response": "b"}, "role", claim="a prompt that is a list"),
    line_3(SFT, {"prompt": {"text": "a"}, "response": "b"}, "prompt", claim="a prompt that is an object"),
    line_3(SFT, {"prompt": "", "response": "b"}, "prompt", claim="a prompt that is empty"),
    line_3(SFT, {"prompt": "a", "response": 1}, "response", claim="a response that is a number"),
    line_3(SFT, {"prompt": "a", "response": None}, "response", claim="a response that is null"),
    line_3(SFT, {"prompt": "a", "response": ["b"]}, "response", claim="a response that is a list"),
    line_3(SFT, {"response": "b"}, "prompt", claim="a response to nothing"),
    line_3(SFT, {"text": 1}, "text", claim="a text that is a number"),
    line_3(SFT, {"text": None}, "text", claim="a text that is null"),
    line_3(SFT, {"messages": []}, "messages", claim="a conversation of no turn"),
    line_3(SFT, {"messages": "a"}, "messages", claim="a conversation that is a text"),
    line_3(SFT, {"messages": {"role": "user", "content": "a"}}, "messages", claim="a conversation that is one turn"),
    line_3(SFT, {"messages": None}, claim="a conversation that is null"),
    line_3(SFT, messages("a"), claim="a turn that is a text"),
    line_3(SFT, messages(None), claim="a turn that is null"),
    line_3(SFT, messages({"content": "a"}), "role", claim="a turn without a role"),
    line_3(SFT, messages({"role": "user"}), "content", claim="a turn without content"),
    line_3(SFT, messages(("robot", "a")), "role", claim="a role that there is not"),
    line_3(SFT, messages(("User", "a")), "role", claim="a role in capitals"),
    line_3(SFT, messages((1, "a")), "role", claim="a role that is a number"),
    line_3(SFT, messages((["user"], "a")), "role", claim="a role that is a list"),
    line_3(SFT, messages(("user", 1)), "content", claim="content that is a number"),
    line_3(SFT, messages(("user", None)), "content", claim="content that is null"),
    line_3(SFT, messages(("user", ["a"])), "content", claim="content that is a list"),
    line_3(SFT, messages(("assistant", "a")), "user", claim="a conversation in which nothing is asked"),
    line_3(SFT, messages(("system", "a")), "user", claim="a conversation of the system alone"),
    line_3(PPO, {"reference": "a"}, "prompt", claim="a reference without a prompt"),
    line_3(PPO, {"prompt": ""}, "prompt", claim="a prompt for RL that is empty"),
    line_3(PPO, {"prompt": 3.5}, "prompt", claim="a prompt for RL that is a number"),
    line_3(EVAL, {"prompt": "a", "reference": {"text": "b"}}, "reference", claim="a reference that is an object"),
    line_3(EVAL, {"prompt": "a", "reference": [["b"]]}, "reference", claim="a reference in a list of lists"),
    line_3(EVAL, {"prompt": "a", "reference": ["b", None]}, "reference", claim="a reference that is null, in a list"),
    line_3(EVAL, {"prompt": "a", "reference": "\ud800"}, "reference", claim="a reference of half a character"),
    line_3(EVAL, {"prompt": "a", "label": ["b"]}, "label", claim="a label that is a list"),
    line_3(EVAL, {"prompt": "a", "label": {"b": 1}}, "label", claim="a label that is an object"),
    line_3(EVAL, {"prompt": "a", "label": "\ud800"}, "label", claim="a label of half a character"),
    line_3(EVAL, {"prompt": "a", "label": NAN}, "label", claim="a label of NaN"),
    line_3(DPO, {"prompt": "a", "chosen": "b"}, "rejected", claim="a comparison without the worse", good=COMPARED),
    line_3(DPO, {"prompt": "a", "rejected": "b"}, "chosen", claim="a comparison without the better", good=COMPARED),
    line_3(DPO, {"chosen": "b", "rejected": "c"}, "prompt", claim="a comparison without a prompt", good=COMPARED),
    line_3(DPO, COMPARED | {"chosen": 1}, "chosen", claim="a better answer that is a number", good=COMPARED),
    line_3(DPO, COMPARED | {"rejected": None}, "rejected", claim="a worse answer that is null", good=COMPARED),
    line_3(RM, COMPARED | {"p": 1.5}, "p", claim="a probability above 1", good=COMPARED),
    line_3(RM, COMPARED | {"p": -0.1}, "p", claim="a probability below 0", good=COMPARED),
    line_3(RM, COMPARED | {"p": "0.7"}, "p", claim="a probability that is a text", good=COMPARED),
    line_3(RM, COMPARED | {"p": NAN}, "p", claim="a probability of NaN", good=COMPARED),
    line_3(RM, COMPARED | {"p": True}, "p", claim="a probability that is true", good=COMPARED),
    line_3(RM, COMPARED | {"p": None}, "p", claim="a probability that is null", good=COMPARED),
    line_3(RM, COMPARED | {"gold_chosen": 1e39}, "gold_chosen", claim="a gold reward of 1e39", good=COMPARED),
    line_3(RM, COMPARED | {"gold_rejected": "1"}, "gold_rejected", claim="a gold reward that is a text", good=COMPARED),
]
SIZES = [
    long(PPO, claim="prompts that leave no room in the context"),
    long(EVAL, claim="test prompts that leave no room"),
    long(SFT, claim="records longer than the context"),
    bad("comparisons longer than the context", DPO, "--data", "1 too long",
        files={"own.jsonl": json.dumps(COMPARED | {"prompt": "word " * 500}) + "\n"}),
    bad("comparisons of equal answers alone", RM, "--data", "1 are of equals",
        files={"own.jsonl": json.dumps(COMPARED | {"rejected": "aa"}) + "\n"}),
    long("doctor out/sft --reward mine.py:length --prompts own.jsonl",
        claim="prompts of the doctor that leave no room"),
]  # fmt: skip
IN_PLACE = [  # files that are good but for a small thing
    bad("a file of which the last line was cut off", "train_sft.py --data pairs.jsonl --config own.json --out new",
        "pairs.jsonl", "8", files={"pairs.jsonl": cut(-8)}),
    bad("a first line that is damaged, behind a byte order mark", "train_dpo --data prefs.jsonl", "prefs.jsonl", "1",
        files={"prefs.jsonl": lambda old: b"\xef\xbb\xbf" + old[1:]}),
    bad("a conflict of a merge that is left in a file", "train_sft.py --data pairs.jsonl --config own.json --out new",
        "pairs.jsonl", "5", files={"pairs.jsonl": line(5, "<<<<<<< HEAD")}),
    bad("a byte in the middle that was damaged", "train_reward --data prefs.jsonl", "prefs.jsonl",
        files={"prefs.jsonl": lambda old: old[:100] + b"\xff" + old[101:]}),
    bad("a key misspelt in one line", "train_dpo --data prefs.jsonl", "prefs.jsonl", "1", "chosen",
        files={"prefs.jsonl": swap('"chosen"', '"choosen"')}),
]  # fmt: skip
DATA = [*FILES, *LINES, *FIELDS, *SIZES, *IN_PLACE]
