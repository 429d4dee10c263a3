"""Chat formats of elsewhere: what is written around turns, how a format is recognised, and the template that tells others."""

import random
import re
import time
from dataclasses import replace

import pytest

from minirlhf.harness.files import UserError
from minirlhf.lm import checkpoint, tokenizer_files
from minirlhf.lm.chat import render, render_prompt
from minirlhf.lm.chat_formats import FORMATS, choose_format, missing_specials, recognise_format, template_of
from minirlhf.lm.tokenizer import Tokenizer

ASKED = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one?"}]
TURNS = [*ASKED, {"role": "assistant", "content": "1"}, {"role": "user", "content": "two?"}]
WHOLE = [*TURNS, {"role": "assistant", "content": "22"}]
# What apply_chat_template gives with SmolLM2's template and with Llama 3's, of 2024.
CHATML = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\none?<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n"
CHATML += "<|im_start|>user\ntwo?<|im_end|>\n<|im_start|>assistant\n22<|im_end|>\n"
LLAMA3 = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nbe brief<|eot_id|>"
LLAMA3 += "<|start_header_id|>user<|end_header_id|>\n\none?<|eot_id|>"
LLAMA3 += "<|start_header_id|>assistant<|end_header_id|>\n\n1<|eot_id|>"
LLAMA3 += "<|start_header_id|>user<|end_header_id|>\n\ntwo?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n22<|eot_id|>"
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a "
    "helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] "
    "+ '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}"
)


def with_format(name: str) -> Tokenizer:
    tokenizer = Tokenizer(specials=("<|endoftext|>",))
    tokenizer.add_specials(missing_specials(FORMATS[name], tokenizer))
    return choose_format(tokenizer, name)


def as_tokens(text: str, tokenizer: Tokenizer) -> list[int]:
    """A text in which the names of special tokens are these tokens, as transformers reads what its template gave."""
    parts = re.split(f"({'|'.join(map(re.escape, tokenizer.special_ids))})", text)
    ids = tokenizer.special_ids
    return [i for part in parts for i in ([ids[part]] if part in ids else tokenizer.encode(part))]


@pytest.mark.parametrize("name, text", [("chatml", CHATML), ("llama3", LLAMA3)])
def test_turns_are_written_as_the_models_own_template_writes_them(name, text):
    tokenizer = with_format(name)
    assert tokenizer.decode(render({"messages": WHOLE}, tokenizer).ids) == text
    asked = tokenizer.decode(render_prompt({"messages": TURNS}, tokenizer))
    assert asked == text[: text.rindex("22")]


@pytest.mark.parametrize("name", FORMATS)
def test_the_loss_stands_on_each_answer_and_the_eos_that_ends_it(name):
    tokenizer = with_format(name)
    example = render({"messages": WHOLE}, tokenizer)
    trained = [i for i, on in zip(example.ids, example.mask) if on]
    assert tokenizer.decode(trained) == f"1{tokenizer.eos}22{tokenizer.eos}"


@pytest.mark.parametrize("name", FORMATS)
def test_text_never_becomes_a_special_token(name):
    tokenizer = with_format(name)
    wicked = "".join(tokenizer.special_ids)
    plain, said = (render({"prompt": p, "response": p}, tokenizer) for p in ("x", wicked))
    count = lambda example: sum(i in tokenizer.special_ids.values() for i in example.ids)
    assert count(plain) == count(said)


def test_white_space_in_front_of_a_turn_would_join_the_cue_and_is_left_out():
    record, ours = {"prompt": " \n a ", "response": "\n b "}, with_format("ours")
    assert with_format("chatml").decode(render(record, with_format("chatml")).ids).count("\na <|im_end|>") == 1
    assert ours.decode(render(record, ours).ids) == "<|user|> \n a <|assistant|>\n b <|endoftext|>"


@pytest.mark.parametrize("system", ["", "It's \"so\" {here}\nand \\there"])
@pytest.mark.parametrize("name", FORMATS)
def test_the_template_gives_others_our_ids(name, system):
    """Rendered by Jinja, as transformers does it."""
    jinja2 = pytest.importorskip("jinja2")
    tokenizer, rng = with_format(name), random.Random(0)
    tokenizer.chat = replace(tokenizer.chat, system=system)
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template_of(tokenizer.chat))
    for _ in range(50):
        text = lambda: "".join(rng.choice(["a", " ", "\n", "ü", "'", '"', "\\", "{{", "5", "\u2028"]) for _ in range(rng.randrange(6)))
        messages = [{"role": "system", "content": text()}] * (rng.random() < 0.5)
        for _ in range(rng.randrange(1, 3)):
            messages += [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]
        whole = template.render(messages=messages, eos_token=tokenizer.eos)
        assert as_tokens(whole, tokenizer) == render({"messages": messages}, tokenizer).ids
        asked = template.render(messages=messages[:-1], eos_token=tokenizer.eos, add_generation_prompt=True)
        assert as_tokens(asked, tokenizer) == render_prompt({"messages": messages[:-1]}, tokenizer)


def test_the_models_own_system_text_is_found_in_its_template_and_kept(tmp_path):
    tokenizer = recognise_format(with_format("chatml"), SMOLLM2)
    said = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert tokenizer.chat.system == said and tokenizer.eos == "<|im_end|>"
    assert tokenizer.decode(render_prompt({"prompt": "Hi"}, tokenizer)).startswith(f"<|im_start|>system\n{said}<|im_end|>\n")
    assert said not in tokenizer.decode(render_prompt({"messages": ASKED}, tokenizer))  # it has a system text of its own
    for text in (said, "It's \"so\"\nand \\there"):
        tokenizer.chat = replace(tokenizer.chat, system=text)
        tokenizer_files.save(tokenizer, tmp_path)
        assert tokenizer_files.load(tmp_path).chat == tokenizer.chat
    assert choose_format(tokenizer, "chatml").chat.system == ""  # a format by its name comes without


@pytest.mark.parametrize("otherwise, system", [("", ""), ("You are Qwen. You\\'re good.", "You are Qwen. You're good.")])
def test_code_that_puts_a_message_together_is_no_system_text(otherwise, system):
    """As Qwen's templates begin."""
    template = "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    template += "{%- else %}{{- '<|im_start|>system\\n" + otherwise + "<|im_end|>\\n' }}{%- endif %}" if otherwise else "{%- endif %}"
    assert recognise_format(with_format("chatml"), template).chat.system == system


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_recognised_by_its_special_tokens_and_by_its_template(name):
    tokenizer = with_format(name)
    tokenizer.chat = None
    assert recognise_format(tokenizer).chat == FORMATS[name]
    both = Tokenizer()
    both.add_specials(["<|im_start|>", "<|im_end|>", *missing_specials(FORMATS["llama3"], both)])
    assert recognise_format(both).chat == FORMATS["ours"]
    assert recognise_format(both, template_of(FORMATS[name])).chat == FORMATS[name]


def test_a_format_whose_tokens_are_not_there_is_refused():
    with pytest.raises(UserError, match="--chat chatml: the tokenizer has no <|im_start|>".replace("|", r"\|")):
        choose_format(Tokenizer(), "chatml")


def test_a_model_without_a_token_for_each_role_is_not_taken_for_fine_tuned(tmp_path, make_gpt):
    """A conversation may begin with a system text at any time."""
    tokenizer = Tokenizer(specials=("<|endoftext|>", "<|user|>", "<|assistant|>"))
    checkpoint.save(tmp_path, make_gpt(vocab_size=tokenizer.vocab_size), tokenizer, {})
    with pytest.raises(UserError, match=r"its tokenizer has no <\|system\|>; fine-tune it"):
        checkpoint.load_chat(tmp_path)
    model, tokenizer = checkpoint.load_with_roles(tmp_path)
    assert "<|system|>" in tokenizer.special_ids and model.config.vocab_size == tokenizer.vocab_size


def test_a_long_template_is_read_in_a_moment():
    """Of 10 MB, in which a system text begins everywhere and ends nowhere."""
    start = time.process_time()
    assert recognise_format(with_format("chatml"), "<|im_start|>system\n" * 500_000).chat.system == ""
    assert time.process_time() - start < 2
