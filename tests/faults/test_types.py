"""Numbers beyond their type, the terminal, and models from elsewhere: what was wrong once, and cases of its kind."""

import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import unicodedata
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations
from math import inf, nan
from pathlib import Path

import pytest
import torch

import evaluate
from minirlhf.annotation import log
from minirlhf.evaluation.items import write_items
from minirlhf.evaluation.panels import read_curves
from minirlhf.harness.files import Diverged, UserError, read_bytes, read_text
from minirlhf.harness.folders import load_state
from minirlhf.harness.loop import Loop, Run
from minirlhf.harness.options import fail, option, parse, run_script
from minirlhf.lm import checkpoint, sft, tokenizer_files
from minirlhf.lm.bpe import split
from minirlhf.lm.examples import document_examples
from minirlhf.lm.generation import Sampling, generate
from minirlhf.lm.reading import read_records
from minirlhf.lm.safetensors import Safetensors, write_safetensors
from minirlhf.lm.tokenizer import SPECIALS, Tokenizer
from minirlhf.rl import config
from minirlhf.tools.annotate_page import Handler, Page

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, make_gpt, tokenizer):
    """A checkpoint folder of a small model."""
    checkpoint.save(tmp_path / "sft", make_gpt(vocab_size=tokenizer.vocab_size), tokenizer, {})
    return tmp_path / "sft"


@contextmanager
def alarm(seconds: int = 5):
    """Fails what hangs."""
    def ring(*_):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def rewrite(folder, change) -> None:
    """The weights of the folder, changed by a function of a dict of tensors."""
    path = folder / "model.safetensors"
    write_safetensors(path, change(dict(Safetensors(path))))


def refused(folder) -> str:
    """The line in which the folder is refused."""
    with pytest.raises(UserError) as error:
        checkpoint.load(folder)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(folder))
    return str(error.value)


# Numbers beyond their type


@pytest.mark.parametrize("seed", range(8))
def test_fault_21_weights_that_are_not_finite_floats_are_refused_by_name(seed, folder):
    """Any tensor, any number of it; what is finite in float64 alone; whole numbers; a key that stands twice."""
    rng = random.Random(seed)
    names = list(Safetensors(folder / "model.safetensors"))
    name, bad = rng.choice(names), [nan, inf, -inf, 1e39, -3.5e38, torch.int64, torch.uint8, torch.bool][seed]

    def spoil(tensors):
        x = tensors[name].double() if isinstance(bad, float) else tensors[name].to(bad)
        if isinstance(bad, float):
            x.view(-1)[rng.randrange(x.numel())] = bad
        return tensors | {name: x}

    rewrite(folder, spoil)
    assert name.removeprefix("transformer.") in refused(folder)


def test_fault_21_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": torch.ones(1), "b": torch.ones(1)})
    assert len(Safetensors(path)) == 2
    data = path.read_bytes()
    for old, new in ((b'"b"', b'"a"'), (b'"shape":[1],', b'"dtype":[], ')):  # a tensor's name, and within an entry
        path.write_bytes(data.replace(old, new))
        with pytest.raises(UserError, match="header"):
            Safetensors(path)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("size", [1e20, 1e30, 1e38])
def test_fault_21_a_model_whose_logits_are_not_finite_has_diverged(size, temperature, make_gpt):
    """Its weights are finite: the numbers of a learning rate that was too large."""
    model = make_gpt()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(size)
    with pytest.raises(Diverged, match="not finite"):
        generate(model, [[1, 2], [3]], Sampling(4, temperature), 0, [0, 1])


@pytest.mark.parametrize("key", ["vocab_size", "n_positions", "n_layer", "n_head", "n_embd"])
@pytest.mark.parametrize("size", [10**9, 10**18, 2**63, 10**30, 10**400, 2.0, "2", True, [2], -1, 0])
def test_fault_23_sizes_that_config_makes_up_build_nothing(key, size, folder):
    """Held against the tensors first; a number that is no whole one is none, also where it would do."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: size}))
    with alarm():
        refused(folder)


def test_fault_23_a_layer_that_is_far_away_is_not_counted_to(folder):
    rewrite(folder, lambda tensors: tensors | {"transformer.h.999999999.ln_1.weight": torch.ones(16)})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_layer": 10**9}))
    with alarm():
        assert "1000000000" in refused(folder)


@dataclass(frozen=True)
class Some:
    """Some options."""

    n: int = option(1, "a number")
    x: float = option(1.0, "another")
    path: str = option("", "a file")
    paths: tuple[str, ...] = option((), "files")


@pytest.mark.parametrize("given", [
    {"n": 10**400}, {"n": 2**63}, {"x": 10**400}, {"x": -(10**400)}, {"path": "a\0b"}, {"paths": ["a", "\0"]},
    {"path": "\ud800"}, {"paths": ["x\udfffy"]},
], ids=lambda given: f"{given!r:.20}")  # fmt: skip
def test_fault_23_a_config_file_holds_no_number_and_no_path_beyond_the_machine(given, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(given))
    with pytest.raises(UserError):
        parse("Do.", Some, argv=["--config", str(tmp_path / "c.json")])
    for n in (2**63 - 1, -7):
        assert parse("Do.", Some, argv=["--n", str(n)])[0].n == n
    assert parse("Do.", Some, argv=["--path", "\udcff"])[0].path == "\udcff"  # a name that is no UTF-8
    for read in (read_bytes, read_text, load_state, lambda path: read_records([path])):
        with pytest.raises(UserError, match="null byte|No such file"):
            read(tmp_path / "a\0.jsonl")


# The terminal


class Terminal(io.TextIOWrapper):
    """What a script prints to, of any encoding."""

    def __init__(self, encoding: str, errors: str = "strict") -> None:
        super().__init__(io.BytesIO(), encoding, errors)

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "gbk", "koi8-r", "utf-8"])
def test_fault_24_printing_never_raises_whatever_stdout_can_show(encoding, monkeypatch):
    """Nothing is lost either: what the encoding lacks is spelt out."""
    terminal, words = Terminal(encoding), "± 好 é й 🙂 \ud800 plain"
    monkeypatch.setattr(sys, "stdout", terminal)
    run_script(lambda: print(words))
    said = terminal.text()
    assert "plain" in said and all(c in said or ascii(c)[1:-1] in said for c in words)


@pytest.mark.parametrize("broken", [True, False])
def test_fault_24_reports_stand_before_anything_is_printed(broken, tmp_path, make_evaluation, monkeypatch, capsys):
    """On a full disk too; and a stdout of ASCII is no reason to end otherwise than with 0."""
    run, sets = make_evaluation([{"prompt": f"{i} 好"} for i in range(3)], lambda model, i, k: model * (i + 1))
    run["settings"] = {"metrics": ""}
    write_items(tmp_path / "items.jsonl", run, sets)
    stdout = open("/dev/full", "w") if broken else Terminal("ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--from", str(tmp_path / "items.jsonl"), "--out", str(tmp_path)])
    if broken:
        saved = os.dup(stdout.fileno())
        with pytest.raises(SystemExit) as stop:
            run_script(evaluate.main)
        os.close(saved)
        assert stop.value.code == 2 and capsys.readouterr().err.splitlines()[-1].endswith("No space left on device")
    else:
        run_script(evaluate.main)
        assert "report.html" in stdout.text()
    assert json.loads((tmp_path / "report.json").read_text())["models"] and (tmp_path / "report.html").exists()


@pytest.mark.parametrize("command", [["evaluate.py"], ["-m", "minirlhf.tools.doctor", "nowhere"]], ids=str)
def test_fault_25_ctrl_c_while_torch_is_imported_is_one_line(command):
    """At several moments after its library has been mapped."""
    for delay in (0.0, 0.3):
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while process.poll() is None and "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert err.endswith(b".py: interrupted\n") and err.count(b"\n") == 1
        assert process.returncode in (130, -signal.SIGINT)  # 130 both, to a shell


def test_fault_25_who_imports_the_package_keeps_ctrl_c_for_himself():
    program = "import signal, minirlhf; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert said.stdout == "True\n"


@contextmanager
def training(out, seconds: float, total: int = 3, resume: bool = False):
    """(pid, stderr) of a process whose steps take so long; it has run_script around, as every script has."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(writer, 2)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            sys.argv = ["train.py"]
            signal.signal(signal.SIGINT, signal.default_int_handler)

            def main():
                with Loop(Run(out, resume=resume), total, 100, {}) as loop:
                    for _ in loop:
                        print("in a step", file=sys.stderr)
                        end = time.monotonic() + seconds
                        while time.monotonic() < end:
                            time.sleep(0.01)
                        loop.record({}, 0)

            run_script(main)
            os._exit(0)
        except SystemExit as stop:
            os._exit(stop.code)
        finally:
            os._exit(99)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as stderr:
        yield child, stderr


def until(stderr, words: str) -> str:
    """The first line with those words. A bar stands before it, or in it."""
    return next(line for line in stderr if words in line)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_fault_25_a_long_round_answers_at_once_and_a_second_signal_stops_it(first, second, tmp_path):
    with training(tmp_path / "run", seconds=20) as (child, stderr):
        until(stderr, "in a step")
        began = time.monotonic()
        os.kill(child, first)
        until(stderr, "finishing the round; press again to stop now")
        os.kill(child, second)
        rest = stderr.read()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130 and time.monotonic() - began < 5
    (line,) = [line for line in rest.splitlines() if line.startswith("train.py: ")]
    assert rest.endswith(line + "\n") and "Traceback" not in rest
    assert line.endswith("run: stopped; --resume goes on from the last save, if there is one")


def test_fault_25_a_signal_in_the_very_last_round_loses_nothing(tmp_path):
    """The line says to go on with --resume, and that works."""
    with training(tmp_path, seconds=0.3, total=1) as (child, stderr):
        until(stderr, "in a step")
        os.kill(child, signal.SIGINT)
        rest = stderr.read()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    assert rest.splitlines()[-1].endswith("stopped after step 1 of 1; go on with --resume")
    with training(tmp_path, seconds=20, total=1, resume=True) as (child, stderr):
        assert "in a step" not in stderr.read() and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("seed", range(6))
def test_fault_26_an_error_is_one_line_of_500_visible_characters(seed, monkeypatch):
    """Of any length and content, on a terminal of any encoding; its beginning and its end are kept."""
    rng = random.Random(seed)
    pool = ["\x1b[2J", "\u202e", "\u2066", "\r", "\n", "\0", "\x07", "\u200b", "\ud800", "\u2028", "好", "é", "word "]
    words = "".join(rng.choice(pool) for _ in range(rng.choice([0, 3, 200, 10**5]))).strip()
    for encoding in ("utf-8", "ascii"):
        terminal = Terminal(encoding, "backslashreplace")
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(sys, "argv", ["/x/train\x1b.py"])
        assert fail(f"x.jsonl: bad: {words} : do that", 2) == 2
        said = terminal.text()
        assert said.endswith("do that\n") and said.startswith("train\\x1b.py: x.jsonl: bad")
        assert said[:-1].isprintable() and len(said) <= 501
        assert len(words) < 1000 or len(said) == 501


def test_fault_26_warnings_are_cut_like_errors(capsys, monkeypatch):
    import warnings

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    run_script(lambda: None)
    said = warnings.formatwarning("a\x1b\n" * 1000, UserWarning, "x.py", 1)
    assert said.endswith("\n") and said[:-1].isprintable() and len(said) <= 501


def stand_in(path, kind: str) -> None:
    """Something at the path that can be opened, or named, and is no file."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(os.path.relpath(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(f"/dev/{kind}")


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "zero", "random", "null"])
def test_fault_28_what_is_no_file_is_refused_before_it_is_read(kind, folder, tmp_path, monkeypatch):
    """Wherever a file is named: weights, config, tokenizer, run.json, state, records, options, a study, a log."""
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    known = {path.name: path.read_bytes() for path in folder.iterdir()}
    with alarm():
        for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
            stand_in(folder / name, kind)
            assert name in refused(folder)
            shutil.rmtree(folder)
            folder.mkdir()
            for other, data in known.items():
                (folder / other).write_bytes(data)
        thing = tmp_path / "thing.jsonl"
        stand_in(thing, kind)
        for read in (read_bytes, read_text, load_state, lambda path: read_records([path])):
            with pytest.raises(UserError, match="thing.jsonl: "):
                read(thing)
        with pytest.raises(UserError, match="thing.jsonl: "):
            parse("Do.", Some, argv=["--config", str(thing)])
        stand_in(folder / "log.jsonl", kind)
        assert read_curves(folder) == []


def test_fault_28_stdin_is_refused_when_it_is_a_pipe_and_read_when_it_is_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("to be")
    before, (reader, writer) = os.dup(0), os.pipe()  # with a writer that says nothing
    with open(tmp_path / "a.txt") as file, alarm():
        try:
            os.dup2(file.fileno(), 0)
            assert read_text("/dev/stdin") == "to be"
            os.dup2(reader, 0)
            with pytest.raises(UserError, match="/dev/stdin: a pipe"):
                read_text("/dev/stdin")
        finally:
            os.dup2(before, 0)
            for handle in (before, reader, writer):
                os.close(handle)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A study's page, which soon gives up on a connection."""
    monkeypatch.setattr(Handler, "timeout", 0.3)
    places = [{"prompt": "p", "left": "l", "right": "r"}]
    key = {"models": ["a", "b"], "identical": {}, "places": [{"item": "i", "kind": "pair", "left": "a", "good": None}]}
    log.create(tmp_path / "study", {"question": "which?", "places": places}, key)
    with log.Session(tmp_path / "study", "ann") as session, Page(session) as page:
        thread = threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        yield page
        page.shutdown()
        thread.join()


def post(page, body: str, headers: str) -> str:
    """The status of a judgement that is sent with these headers."""
    head = f"POST /{page.session.token}/judge HTTP/1.1\r\nHost: {page.hosts[0]}\r\nOrigin: http://{page.hosts[0]}\r\n"
    with socket.create_connection(page.server_address, timeout=5) as s:
        s.sendall(f"{head}{headers}\r\n\r\n{body}".encode())
        return s.makefile().readline().split()[1]


@pytest.mark.parametrize("seconds", ["9" * 3000, "1e400", "-1", "NaN", "1e9", "true", '"1"', "[1]", "null"])
def test_fault_29_no_judgement_takes_longer_than_a_life(seconds, page, tmp_path):
    event = '{"event": "e", "do": "left", "place": 0, "seconds": %s}'
    before = (tmp_path / "study" / "ann.log").read_bytes()
    assert post(page, event % seconds, f"Content-Length: {len(event % seconds)}") == "400"
    assert (tmp_path / "study" / "ann.log").read_bytes() == before
    assert post(page, event % "12.5", f"Content-Length: {len(event % '12.5')}") == "200"


@pytest.mark.parametrize("headers", [
    "Content-Length: {n}\r\nContent-Length: {m}", "Content-Length: {m}\r\nContent-Length: {n}", "X: y",
    "Content-Length: {n}\r\ncontent-length: {n}", "Content-Length: {n}, {n}", "Content-Length: +{n}",
    "Content-Length: {n}\r\nTransfer-Encoding: chunked", "Content-Length: 99999", "Content-Length: {n}\r\n {m}",
])  # fmt: skip
def test_fault_29_a_request_has_one_length(headers, page, tmp_path):
    """Two programs that read two lengths see two requests."""
    body = '{"event": "e", "do": "left", "place": 0, "seconds": 1}'
    assert post(page, body, headers.format(n=len(body), m=3)) == "413"
    assert page.session.place == 0


@pytest.mark.parametrize("start", ["", "GET / HTTP/1.1\r\n", "POST /x/judge HTTP/1.1\r\nContent-Length: 9000\r\n\r\n"])
def test_fault_29_a_client_that_drips_is_cut_off(start, page):
    """In the first line, the headers and the body: it holds its thread no longer than one that is silent."""
    with socket.create_connection(page.server_address, timeout=5) as s:
        s.sendall(start.encode())
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 4:
                s.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - began < 3


# Models from elsewhere


def nudged(x):
    y = x.clone()
    y[-1, -1] += 1e-6
    return y


@pytest.mark.parametrize("head", [
    nudged, lambda x: -x, lambda x: x.flip(0), lambda x: x[:-1], lambda x: torch.cat([x, x[:1]]), lambda x: x.t(),
    lambda x: x.half(), lambda x: torch.randn(x.shape),
])  # fmt: skip
def test_fault_30_a_head_of_its_own_is_refused_and_the_embedding_once_more_is_not(head, folder):
    plain = checkpoint.load(folder)[0]
    for prefix in ("", "transformer."):
        rewrite(folder, lambda tensors: tensors | {f"{prefix}lm_head.weight": tensors["transformer.wte.weight"]})
        assert checkpoint.fingerprint(checkpoint.load(folder)[0]) == checkpoint.fingerprint(plain)
        rewrite(folder, lambda tensors: tensors | {f"{prefix}lm_head.weight": head(tensors["transformer.wte.weight"])})
        assert "lm_head.weight" in refused(folder)
        rewrite(folder, lambda tensors: {k: v for k, v in tensors.items() if "lm_head" not in k})


def token(name: str, **change) -> dict:
    """An added token as Hugging Face writes it."""
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {"content": name, "special": True} | flags | change


@pytest.fixture
def elsewhere(tmp_path, make_gpt):
    """A function that makes a GPT-2 folder of vocab.json and merges.txt, with some rows more, and files beside it."""
    words = Tokenizer.train(["low lower lowest newer wider " * 9], 270, "gpt2", ["<|endoftext|>"])

    def make(rows: int = 0, **files):
        folder = tmp_path / "gpt2"
        shutil.rmtree(folder, ignore_errors=True)
        model = make_gpt(vocab_size=words.vocab_size + rows)
        checkpoint.save(folder, model, words, {})
        content = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
        (folder / "vocab.json").write_text(json.dumps(content["vocab"]))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(content["merges"]) + "\n", "utf-8")
        for name, value in files.items():
            (folder / f"{name}.json").write_text(json.dumps(value))
        return folder, model, words.vocab_size

    return make


@pytest.mark.parametrize("eos", [None, "<|im_end|>", "<|endoftext|>"])
@pytest.mark.parametrize("how", ["added_tokens", "decoder", "both"])
def test_fault_31_added_tokens_keep_their_ids_and_rows_and_the_eos_is_the_folders(how, eos, elsewhere, tmp_path):
    """Named in either of two places, as a name or with its flags; and saved and loaded again."""
    names = ["<|user|>", "<|im_end|>", "<x>"]
    n = elsewhere()[2]
    roles = {"additional_special_tokens": [names[0], {"content": names[2]}], "pad_token": {"content": names[1]}}
    roles |= {"eos_token": eos} if eos else {}
    files = {"special_tokens_map": roles}
    if how != "decoder":
        files["added_tokens"] = {name: n + i for i, name in enumerate(names)}
    if how != "added_tokens":
        decoder = {str(n + i): token(name) for i, name in enumerate(names)} | {str(n - 1): token("<|endoftext|>")}
        files["tokenizer_config"] = {"added_tokens_decoder": decoder, "eos_token": eos and {"content": eos}}
    folder, model, _ = elsewhere(rows=3, **files)
    for place in (folder, tmp_path / "again"):
        read, tokenizer = checkpoint.load(place)
        assert [tokenizer.special_ids[name] for name in names] == [n, n + 1, n + 2]
        assert torch.equal(read.wte.weight, model.wte.weight)
        assert tokenizer.eos_id == tokenizer.special_ids[eos or "<|endoftext|>"]
        assert tokenizer.encode("<|user|> low") == Tokenizer(tokenizer.merges, "gpt2").encode("<|user|> low")
        checkpoint.save(tmp_path / "again", read, tokenizer, {})
    assert json.loads((tmp_path / "again" / "config.json").read_text())["eos_token_id"] == tokenizer.eos_id
    assert checkpoint.load_with_roles(folder)[1].special_ids.keys() >= {*SPECIALS, *names}


@pytest.mark.parametrize("name, content", [
    ("tokenizer_config", {"add_prefix_space": True}), ("tokenizer_config", {"add_bos_token": True}),
    ("tokenizer_config", {"add_eos_token": 1}), ("added_tokens", {"lower": 270}),
    ("tokenizer_config", {"added_tokens_decoder": {"270": token("word", special=False)}}),
    ("tokenizer_config", {"eos_token": "<|gone|>"}), ("special_tokens_map", {"eos_token": {"content": "<|gone|>"}}),
    ("special_tokens_map", {"additional_special_tokens": ["<|endoftext|>", "<|gone|>"]}),
    ("tokenizer_config", {"extra_special_tokens": ["<|gone|>"]}), ("tokenizer_config", [1]), ("added_tokens", "x"),
    ("tokenizer_config", {"added_tokens_decoder": [1]}),
    ("tokenizer_config", {"added_tokens_decoder": {"a": token("b")}}),
    ("tokenizer_config", {"eos_token": {"lstrip": 1}}),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("kind", ["vocab", "tokenizer"])
def test_fault_31_what_would_encode_otherwise_is_refused_by_file(name, content, kind, elsewhere, folder):
    """Beside vocab.json, and beside tokenizer.json too."""
    place = elsewhere()[0] if kind == "vocab" else folder
    (place / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{name}.json: "):
        tokenizer_files.load(place)


def test_fault_31_two_eos_and_an_eos_that_text_can_spell_are_refused(elsewhere):
    folder, _, n = elsewhere(1, tokenizer_config={"eos_token": "<|endoftext|>"})
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<a>"}')
    (folder / "added_tokens.json").write_text(json.dumps({"<a>": n}))
    with pytest.raises(UserError, match="special_tokens_map.json: eos_token is '<a>', '<|endoftext|>' in tokenizer"):
        tokenizer_files.load(folder)
    folder, _, _ = elsewhere(tokenizer_config={"eos_token": "low"})
    with pytest.raises(UserError, match="eos_token 'low' is an ordinary token"):
        tokenizer_files.load(folder)


@pytest.mark.parametrize("micro_rows", [1, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fault_32_validation_obeys_micro_rows_and_dtype(micro_rows, dtype, make_gpt, tokenizer, tmp_path, monkeypatch):
    """And its loss is that of one row at a time, to rounding."""
    seen, original = [], sft.negative_log_likelihood

    def spy(model, batch):
        if not torch.is_grad_enabled():
            kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
            seen.append((len(batch.inputs), kind))
        return original(model, batch)

    monkeypatch.setattr(sft, "negative_log_likelihood", spy)
    model = make_gpt(vocab_size=tokenizer.vocab_size)
    examples = [e for n in range(3, 20) for e in document_examples({"text": "abc" * n}, tokenizer, 32)]
    config = sft.FitConfig(steps=1, lr=0.0, micro_rows=micro_rows, eval_every=1)
    sft.fit(model, lambda step: examples[:2], examples, config, Run(tmp_path, dtype=dtype))
    assert {kind for _, kind in seen} == {dtype} and max(n for n, _ in seen) <= micro_rows
    assert sum(n for n, _ in seen) == len(examples)
    total, count = sft.evaluate_loss(model, examples, 1)
    said = json.loads((tmp_path / "log.jsonl").read_text())["validation_loss"]
    assert said == pytest.approx(total / count, rel=1e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("files", [["tf_model.h5"], ["flax_model.msgpack"], ["flax_model.msgpack", "tf_model.h5"]], ids=str)
def test_fault_33_weights_in_another_file_are_refused_with_the_way_out(files, folder):
    for name in files:
        (folder / name).write_bytes(b"{}")
    checkpoint.load(folder)  # beside one model.safetensors they count for nothing
    (folder / "model.safetensors").unlink()
    line = refused(folder)
    assert any(name in line for name in files) and "save_pretrained" in line


@pytest.mark.parametrize("rates", [*permutations((0.0, 0.1, 0.2)), (0.1, 0.1, 0.0), (nan, nan, nan), ("0", "0", "0")])
def test_fault_33_three_dropouts_that_are_not_one_number_are_refused(rates, folder):
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    keys = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
    path.write_text(json.dumps(raw | dict(zip(keys, rates))))
    assert "config.json" in refused(folder)
    path.write_text(json.dumps({k: v for k, v in raw.items() if k not in keys}))
    assert checkpoint.load(folder)[0].config.dropout == 0.1  # GPT2Config's own, where the file says nothing
    path.write_text(json.dumps(raw | dict.fromkeys(keys, 0.3)))
    assert checkpoint.load(folder)[0].config.dropout == 0.3


def test_fault_33_a_name_of_the_same_function_is_read_and_quantisation_is_refused(folder):
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    for name in ("gelu_pytorch_tanh", "gelu_new", "gelu", "relu", "gelu_10"):
        path.write_text(json.dumps(raw | {"activation_function": name}))
        assert checkpoint.load(folder) if name in ("gelu_pytorch_tanh", "gelu_new") else "activation" in refused(folder)
    for said in ({"quant_method": "gptq", "bits": 4}, {"load_in_8bit": True}, {}, "x"):
        path.write_text(json.dumps(raw | {"quantization_config": said}))
        assert "quantization_config" in refused(folder)


def test_fault_34_characters_newer_than_pythons_tables_are_punctuation_and_that_is_said():
    """Each a piece apart from the letters beside it; tiktoken's tables may know some of them as letters."""
    rng = random.Random(0)
    unknown = [chr(i) for i in range(0x10000) if unicodedata.category(chr(i)) == "Cn"]
    for char in rng.sample(unknown, 200):
        assert split(f"ab{char}cd 1{char}", "gpt2") == ["ab", char, "cd", " 1", char]
    for path in ("lm/tokenizer.py", "lm/README.md"):
        assert "Python's Unicode tables" in (ROOT / "minirlhf" / path).read_text("utf-8")


def test_fault_35_what_dapo_lacks_here_is_said_wherever_it_is_spoken_of():
    for text in (config.__doc__, (ROOT / "minirlhf" / "rl" / "README.md").read_text("utf-8")):
        said = " ".join(text.split())
        assert "dynamic sampling and its shaping of overlong answers" in said


# Hugging Face


@pytest.fixture
def transformers(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("transformers")


def test_fault_31_hugging_face_has_the_same_tokens_and_the_same_end(transformers, elsewhere):
    n = elsewhere()[2]
    roles = {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|user|>"]}
    folder, _, _ = elsewhere(2, added_tokens={"<|user|>": n, "<|im_end|>": n + 1}, special_tokens_map=roles)
    ours, theirs = tokenizer_files.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert (len(theirs), theirs.eos_token_id) == (ours.vocab_size, ours.eos_id)
    assert all(theirs.convert_tokens_to_ids(name) == i for name, i in ours.special_ids.items())
    text = "lower newest 12  é"
    assert theirs(text)["input_ids"] == ours.encode(text)


@pytest.mark.parametrize("name", ["gelu_pytorch_tanh", "gelu_new"])
def test_fault_33_hugging_face_computes_the_same_logits(name, transformers, tmp_path, tokenizer):
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=260, n_positions=32, n_embd=16, n_layer=2, n_head=2,
                                     activation_function=name)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    tokenizer_files.save(tokenizer, tmp_path)
    model, ids = checkpoint.load(tmp_path)[0].eval(), torch.tensor([[1, 5, 200, 3]])
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(ids)), theirs(ids).logits, atol=1e-5, rtol=1e-5)
