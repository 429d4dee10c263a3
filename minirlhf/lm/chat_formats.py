"""Chat formats of elsewhere, as data: ChatML (SmolLM2, Qwen) and Llama 3's, beside our own.

    ours       <|user|>Hi<|assistant|>Hello<|endoftext|>
    chatml     <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello<|im_end|>\\n
    llama3     <|begin_of_text|><|start_header_id|>user<|end_header_id|>\\n\\nHi<|eot_id|>...

A format is recognised by the special tokens that a vocabulary has, and by the template that comes with it. Every
tokenizer that we save carries a template under which transformers' `apply_chat_template` gives the ids of `chat.render`,
where no text spells a special token: there that text becomes one, here it never does.
Proved by tests/lm/test_chat_formats.py.
"""

import json
import re
from dataclasses import replace

from minirlhf.harness.files import UserError
from minirlhf.lm.records import ChatFormat
from minirlhf.lm.tokenizer import Tokenizer

FORMATS = {
    "ours": ChatFormat(),
    "chatml": ChatFormat("<|im_start|>{role}\n", "<|im_end|>\n", "<|im_end|>", "\n"),
    "llama3": ChatFormat(
        "<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>", "<|eot_id|>", begin="<|begin_of_text|>"),
}  # fmt: skip
CHAT = "how turns are written; none: as the model's tokenizer says, with the system text that it comes with"


def missing_specials(form: ChatFormat, tokenizer: Tokenizer) -> list[str]:
    """The special tokens that a format needs and a tokenizer does not have."""
    cues = "".join(form.cue.format(role=role) for role in ("user", "assistant", "system"))
    wanted = re.findall(r"<\|\w+\|>", form.begin + cues + form.close) + [form.end or tokenizer.eos]
    return [name for name in dict.fromkeys(wanted) if name not in tokenizer.special_ids]


def choose_format(tokenizer: Tokenizer, name: str) -> Tokenizer:
    """Give the tokenizer the format of that name, and the EOS that ends its turns. Raises UserError."""
    if missing := missing_specials(FORMATS[name], tokenizer):
        raise UserError(f"--chat {name}: the tokenizer has no {missing[0]}; choose another format, or none")
    tokenizer.chat = FORMATS[name]
    tokenizer.eos = tokenizer.chat.end or tokenizer.eos
    return tokenizer


def recognise_format(tokenizer: Tokenizer, template: str = "") -> Tokenizer:
    """Give the tokenizer the format that its special tokens, and the Jinja template beside it, speak of, if any."""
    for name, form in FORMATS.items():
        named = re.findall(r"<\|\w+\|>", form.cue)  # none in ours, whose cue depends on who speaks
        if not missing_specials(form, tokenizer) and all(x in template or not template for x in named):
            choose_format(tokenizer, name)
            if not named and template:
                continue  # perhaps it is another's: those are told by their cues
            said = re.escape(form.cue.format(role="system")).replace("\\\n", r"(?:\n|\\n)")
            # Behind a quote stands no text but what is put together, as a message's own.
            turns = (x.partition(form.close.strip()) for x in re.split(said, template)[1:] if form.close)
            if text := next((x for x, closed, _ in turns if closed and x[:1] not in "'\"" and not {*x} & {*"{}"}), ""):
                text = re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), text)
                tokenizer.chat = replace(form, system=text)
            return tokenizer
    return tokenizer


def template_of(form: ChatFormat) -> str:
    """The Jinja template of a format, in one line."""
    quoted = lambda text: json.dumps(text, ensure_ascii=False)
    before, after = form.cue.split("{role}")
    said = "message['content'].lstrip()" if not form.cue.endswith("|>") else "message['content']"
    parts = ["{{ " + quoted(form.begin) + " }}" if form.begin else ""]
    if form.system:
        whole = form.cue.format(role="system") + form.system + form.close
        parts.append("{% if messages[0]['role'] != 'system' %}{{ " + quoted(whole) + " }}{% endif %}")
    parts.append("{% for message in messages %}{{ " + f"{quoted(before)} + message['role'] + {quoted(after)} + {said}" + " }}")
    parts.append("{% if message['role'] == 'assistant' %}{{ eos_token + " + quoted(form.gap) + " }}")
    parts.append("{% else %}{{ " + quoted(form.close) + " }}{% endif %}{% endfor %}")
    cue = form.cue.format(role="assistant")
    return "".join(parts) + "{% if add_generation_prompt %}{{ " + quoted(cue) + " }}{% endif %}"
