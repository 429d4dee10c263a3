"""The conversation: its tokens, its cache, whole characters, commands, a history that is too long."""

import io
import os
import re
import signal
import sys

import pytest
import torch

from minirlhf.harness.files import Diverged
from minirlhf.lm import checkpoint, conversation
from minirlhf.lm.chat import render_prompt
from minirlhf.lm.conversation import Speaker
from minirlhf.lm.generation import Sampling, generate, responses_of
from minirlhf.lm.llama import Llama, LlamaConfig
from minirlhf.tools import chat

SAMPLING = {
    "sampled": Sampling(12), "cold": Sampling(12, 0.5), "nucleus": Sampling(12, 1.0, top_p=0.6),
    "greedy": Sampling(12, 0.0), "top k": Sampling(12, 1.5, 5),
}  # fmt: skip
TALK = ("hello", "what?", "and why is that so?")


@pytest.fixture
def speaker(monkeypatch, make_policy, tokenizer):
    """A function that makes a Speaker of a model, or of a policy whose answers end soon."""
    def make(model=None, name="", **shape) -> Speaker:
        model = model or make_policy(0, **{"context": 256, **shape})
        monkeypatch.setattr(conversation, "load_chat", lambda folder: (model, tokenizer))
        return Speaker("a folder", torch.device("cpu"), name)

    return make


@pytest.fixture
def script(monkeypatch, tokenizer):
    """A function that lets a Speaker say tokens of our choice, whatever it is asked; it returns the prompts."""
    def say(speaker: Speaker, *answers) -> list[list[int]]:
        prompts, rest = [], iter(answers)

        def stream(ids, sampling, seed):
            prompts.append(ids)
            yield from next(rest)

        monkeypatch.setattr(speaker, "stream", stream)
        return prompts

    return say


def llama(tokenizer) -> Llama:
    torch.manual_seed(0)
    model = Llama(LlamaConfig(tokenizer.vocab_size, 256, 2, 4, 32, 2, inner=48, tied=False))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(10 if p.dim() > 1 else 1)
    return model.eval()


def expected(speaker: Speaker, ids, sampling, seed) -> list[int]:
    """What `generate` says, EOS included."""
    g = generate(speaker.model, [ids], sampling, speaker.tokenizer.eos_id, [seed])
    return g.ids[0][g.mask[0]].tolist()


def turns(*contents) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


# The tokens


@pytest.mark.parametrize("name", SAMPLING)
@pytest.mark.parametrize("family", ["gpt", "llama"])
def test_the_tokens_are_those_of_generate(family, name, speaker, tokenizer):
    s = speaker(llama(tokenizer) if family == "llama" else None)
    for seed in range(4):
        ids = tokenizer.encode("prompt"[seed:])
        assert [*s.stream(ids, SAMPLING[name], seed)] == expected(s, ids, SAMPLING[name], seed)


def test_an_answer_ends_with_the_eos_with_max_new_and_with_the_context(speaker, tokenizer):
    s = speaker(context=32)
    lengths = {len([*s.stream(tokenizer.encode("x" * 20), Sampling(10), seed)]) for seed in range(20)}
    assert max(lengths) == 10 and len(lengths) > 2
    assert max(len([*s.stream(tokenizer.encode("x" * 29), Sampling(10), seed)]) for seed in range(20)) == 3


@pytest.mark.parametrize("family", ["gpt", "llama"])
def test_the_cache_of_earlier_turns_changes_no_token(family, speaker, tokenizer):
    s = speaker(llama(tokenizer) if family == "llama" else None)
    ids = []
    for turn in range(5):
        ids = ids[: len(ids) - turn] + tokenizer.encode(f"turn {turn}:")  # what was said last is told otherwise
        said = [*s.stream(ids, Sampling(12), turn)]
        assert said == expected(s, ids, Sampling(12), turn)
        ids = ids + said


@pytest.mark.parametrize("heard", [0, 1, 3])
def test_only_new_tokens_are_computed_also_behind_an_answer_that_was_stopped(heard, speaker, monkeypatch):
    s, widths = speaker(), []
    forward = s.model.forward
    monkeypatch.setattr(s.model, "forward", lambda ids, *more: widths.append(ids.shape[1]) or forward(ids, *more))
    said = []
    for token in s.stream([40] * 9, Sampling(12), 1):
        said.append(token)
        if len(said) > heard:
            break
    assert widths == [9] + [1] * heard
    widths.clear()
    [*s.stream([*[40] * 9, *said, 41, 42], Sampling(1), 2)]
    assert widths == [3]  # the last token said was sampled, and not computed
    widths.clear()
    [*s.stream([*[40] * 9, *said, 41, 42], Sampling(1), 2)]
    assert widths == [1]  # of the last token logits are wanted


def test_logits_that_are_not_finite_are_an_error_as_in_generate(speaker):
    s = speaker()
    torch.nn.init.constant_(s.model.ln_f.bias, torch.inf)
    with pytest.raises(Diverged, match="not finite"):
        next(s.stream([1], Sampling(2), 0))


# An answer


def test_text_is_printed_with_its_token_and_half_a_character_never(speaker, monkeypatch, tokenizer):
    s, seen, arrived = speaker(), [], io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(arrived, "utf-8"))  # what is not flushed does not arrive

    def stream(ids, sampling, seed):
        for token in [*tokenizer.encode("a🙂é!"), tokenizer.eos_id]:
            yield token
            seen.append(arrived.getvalue().decode())

    monkeypatch.setattr(s, "stream", stream)
    s.answer("?", "", Sampling(9), 0)
    assert seen == ["a", "a", "a", "a", "a🙂", "a🙂", "a🙂é", "a🙂é!"] and arrived.getvalue().decode() == "a🙂é!\n"
    assert s.history == turns("?", "a🙂é!")


def test_what_is_cut_off_has_a_mark_and_half_a_character_at_its_end_is_replaced(speaker, script, capsys, tokenizer):
    s = speaker()
    script(s, tokenizer.encode("ok 🙂")[:-1])
    s.answer("?", "", Sampling(9), 0)
    assert capsys.readouterr().out == "ok \ufffd …\n" and s.history == turns("?", "ok \ufffd")


def test_control_characters_are_spelt_out_and_others_are_not(speaker, script, capsys, tokenizer):
    s = speaker()
    script(s, [*tokenizer.encode("\x1b[31m\x9b\r\x7fa\tb\n中\u3000👩\u200d💻"), tokenizer.eos_id])
    s.answer("?", "", Sampling(9), 0)
    assert capsys.readouterr().out == "\\x1b[31m\\x9b\\x0d\\x7fa\tb\n中\u3000👩\u200d💻\n"


@pytest.mark.parametrize("where", ["sampling", "printing"])
def test_ctrl_c_stops_one_answer_and_keeps_what_was_said(where, speaker, monkeypatch, capsys):
    s, whole = speaker(), speaker()
    whole.answer("hello", "", Sampling(12), 3)
    all_of_it = capsys.readouterr().out
    owner, name, times = (s.model, "forward", 3) if where == "sampling" else (conversation, "show", 4)  # show: the name first
    usual, calls = getattr(owner, name), []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == times:
            os.kill(os.getpid(), signal.SIGINT)
        return usual(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        s.answer("hello", "", Sampling(12), 3)
    out = capsys.readouterr().out
    assert out.endswith(" …\n") and all_of_it.startswith(out[:-3]) and len(out) < len(all_of_it)
    assert [m["role"] for m in s.history] == ["user", "assistant"]
    s.answer("more", "", Sampling(12), 4)  # and its cache is whole
    again = speaker()
    again.history = s.history[:2]
    again.answer("more", "", Sampling(12), 4)
    assert s.history == again.history and len(s.history) == 4


def test_a_turn_is_asked_behind_those_before(speaker, script, tokenizer):
    s = speaker()
    prompts = script(s, *([*tokenizer.encode(a), tokenizer.eos_id] for a in ("A", "B")))
    s.answer("a?", "be brief", Sampling(9), 0)
    s.answer("b?", "be brief", Sampling(9), 0)
    system = [{"role": "system", "content": "be brief"}]
    asked = [[*system, *turns("a?")], [*system, *turns("a?", "A", "b?")]]
    assert prompts == [render_prompt({"messages": messages}, tokenizer) for messages in asked]


# The context


def test_the_oldest_exchange_is_forgotten_and_it_is_said_in_one_line(speaker, script, tokenizer, capsys):
    s = speaker(name="x: ", context=64)  # of which 16 are to answer in
    answers = [[*tokenizer.encode(5 * c), tokenizer.eos_id] for c in "abcd"]
    prompts = script(s, *answers)
    for c in "ABCD":
        s.answer(14 * c, "s", Sampling(99), 0)  # it would fit without the oldest question and with its answer
    last = [{"role": "system", "content": "s"}, *turns(14 * "C", 5 * "c", 14 * "D")]
    assert prompts[-1] == render_prompt({"messages": last}, tokenizer) and len(prompts[-1]) + 16 <= 64
    assert s.history == turns(14 * "C", 5 * "c", 14 * "D", 5 * "d")
    out, err = capsys.readouterr()
    assert err == 2 * "x: the context is full, its oldest exchanges are forgotten: 1\n"
    assert out.splitlines() == [f"x: {5 * c}" for c in "abcd"]


def test_short_answers_need_less_room(speaker, script, tokenizer, capsys):
    s = speaker(context=64)
    script(s, *([*tokenizer.encode(10 * c), tokenizer.eos_id] for c in "abc"))
    for c in "ABC":
        s.answer(10 * c, "s", Sampling(2), 0)
    assert len(s.history) == 6 and capsys.readouterr().err == ""


def test_a_question_too_long_is_refused_and_nothing_is_forgotten(speaker, capsys):
    s = speaker(context=64)
    s.history = turns("a", "b")
    s.answer("q" * 62, "", Sampling(4), 0)
    assert capsys.readouterr() == ("", "64 tokens do not fit the context of 64; ask in fewer\n")
    assert s.history == turns("a", "b")
    s.answer("q" * 61, "", Sampling(4), 0)
    assert s.history[:1] == turns("q" * 61) and capsys.readouterr().err.endswith("forgotten: 1\n")


# The command


@pytest.fixture
def folders(tmp_path, make_policy, tokenizer, monkeypatch):
    """Two checkpoints, a and b, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        checkpoint.save(name, make_policy(seed, context=96, dropout=0.5), tokenizer, {})


@pytest.fixture
def say(folders, monkeypatch, run_main):
    """say(text, *argv): the command with a pipe of that text -> (exit status, stdout, stderr)."""
    def say(text, *argv):
        pipe = io.BytesIO(text if isinstance(text, bytes) else text.encode())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(pipe, "utf-8"))
        return run_main(chat.main, "chat.py", *argv)

    return say


def alone(folder: str, messages: list[dict], sampling: Sampling, seed: int) -> tuple[str, str]:
    """The answer of a checkpoint by `generate`: as it is printed, and as it is."""
    model, tokenizer = checkpoint.load_chat(folder)
    g = generate(model, [render_prompt({"messages": messages}, tokenizer)], sampling, tokenizer.eos_id, [seed])
    said = tokenizer.decode(responses_of(g)[0])
    return said.translate(conversation.CONTROLS) + ("" if g.ended[0] else " …"), said


def test_a_pipe_gets_answers_and_nothing_else(say):
    messages, expected, sampling = [], "", Sampling(9, 0.8, top_p=0.9)
    for seed, question in enumerate(TALK, 5):
        messages += turns(question)
        shown, said = alone("a", messages, sampling, seed)
        messages.append({"role": "assistant", "content": said})
        expected += shown + "\n"
    argv = "a --temperature 0.8 --top-p 0.9 --max-new 9 --seed 5".split()
    assert say("\n".join(TALK), *argv) == say("\n\n".join(TALK) + "\n/quit\nno more", *argv) == (0, expected, "")


def test_two_models_answer_in_turn_each_with_its_own_history(say):
    status, out, err = say("\n".join(TALK), "a", "b", "--max-new", 6)
    assert (status, err) == (0, "")
    parts = re.split("^([ab]): ", out, flags=re.MULTILINE)[1:]  # a name, its answer, a name, ...
    assert parts[::2] == [*"ababab"]
    apart = [say("\n".join(TALK), name, "--max-new", 6)[1] for name in "ab"]
    assert ["".join(parts[1::4]), "".join(parts[3::4])] == apart and apart[0] != apart[1]


def test_reset_forgets_all_but_the_system_text(say):
    greedy = ("a", "--temperature", "0", "--system", "be brief")
    fresh = say("hello", *greedy)[1]
    assert say("hello\n/reset\nhello", *greedy)[1] == 2 * fresh != say("hello\nhello", *greedy)[1]
    assert say("hello", *greedy[:3])[1] != fresh


def test_system_sets_the_text_and_forgets(say):
    greedy = ("a", "--temperature", "0")
    fresh, told = say("hello", *greedy)[1], say("hello", *greedy, "--system", "be brief")[1]
    assert say("hello\n/system  be brief \nhello\n/system\nhello", *greedy)[1] == fresh + told + fresh


def test_a_line_that_is_not_utf8_is_a_question(say):
    assert say(b"caf\xe9\n", "a")[:2] == say("caf\ufffd", "a")[:2]


def test_a_terminal_is_told_the_commands_and_prompted(folders, monkeypatch, run_main):
    asked, typed = [], iter(["hello", "/quit"])
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: asked.append(prompt) or next(typed))
    status, out, _ = run_main(chat.main, "chat.py", "a")
    assert status == 0 and out.startswith("/reset") and out.count("\n") > 1 and asked == ["> ", "> "]


@pytest.mark.parametrize("argv, says", [
    ("", "the following arguments are required: MODEL"), ("none", "none: no such checkpoint folder"),
    ("a none", "none: no such checkpoint folder"), ("a --temperature -1", "--temperature -1.0: must be at least 0"),
])  # fmt: skip
def test_a_model_that_is_not_there_ends_in_one_line(argv, says, say):
    status, out, err = say("hello", *argv.split())
    assert status == 2 and out == "" and err.startswith(f"chat.py: {says}") and err.count("\n") == 1
