"""A conversation with a model, printed as it is sampled.

The tokens are those of `generate` for the same prompt, sampling and seed, each printed at once. A turn computes only
what its prompt does not share with the tokens before. Proved by tests/tools/test_chat.py.
"""

import codecs
import sys
from collections.abc import Iterator
from contextlib import suppress
from os.path import commonprefix

import torch

from minirlhf.harness.files import Diverged
from minirlhf.lm.chat import render_prompt
from minirlhf.lm.checkpoint import load_chat
from minirlhf.lm.generation import Sampling, draw, row_uniforms, truncate_logits
from minirlhf.lm.model import KVCache

CONTROLS = {i: f"\\x{i:02x}" for i in (*range(9), *range(11, 32), *range(127, 160))}  # could rearrange a terminal


class Speaker:
    """One model in a conversation, and what was said: a question and its answer in turn. Raises UserError."""

    def __init__(self, folder: str, device: torch.device, name: str = "") -> None:
        model, self.tokenizer = load_chat(folder)
        self.model, self.name, self.history = model.to(device).eval(), name, []  # its name is printed before answers
        self.cached: tuple[list[int], KVCache] = [], KVCache()  # ids, and the first of them

    @torch.inference_mode()
    def stream(self, ids: list[int], sampling: Sampling, seed: int) -> Iterator[int]:
        """The tokens that `generate` samples behind ids, EOS included, each as soon as it is drawn. Raises Diverged."""
        model, weight, (old_ids, cache) = self.model, self.model.wte.weight, self.cached
        room = min(sampling.max_new, model.config.context - len(ids))
        n = len(commonprefix([ids[:-1], old_ids[: cache.length]]))  # the last of ids is computed: its logits are wanted
        ids, cache.length = list(ids), n
        self.cached = ids, cache  # true at any moment: the caller may leave
        for u in row_uniforms([seed], room).T.to(weight.device):  # (1,)
            new = torch.tensor([ids[cache.length :]], device=weight.device)  # (1, T)
            logits = model.logits(model(new, None, cache)[:, -1]).float() / (sampling.temperature or 1.0)  # (1, V)
            if not logits.isfinite().all():
                raise Diverged("the logits are not finite: take an earlier checkpoint")
            probabilities = truncate_logits(logits, sampling.top_k, sampling.top_p).softmax(-1)  # (1, V)
            ids.append(int(draw(probabilities, u) if sampling.temperature else logits.argmax()))
            yield ids[-1]
            if ids[-1] == self.tokenizer.eos_id:
                return

    def answer(self, question: str, system: str, sampling: Sampling, seed: int) -> None:
        """Print the answer as it comes, … behind one that was cut off. What has no room is forgotten, oldest first."""
        context, asked = self.model.config.context, {"role": "user", "content": question}
        first = [{"role": "system", "content": system}] * bool(system)
        prompt = lambda past: render_prompt({"messages": [*first, *past, asked]}, self.tokenizer)
        if (n := len(prompt([]))) >= context:
            return print(f"{self.name}{n} tokens do not fit the context of {context}; ask in fewer", file=sys.stderr)
        before, room = len(self.history), min(sampling.max_new, context // 4)  # tokens to answer in
        while self.history and len(prompt(self.history)) + room > context:
            del self.history[:2]
        if left := (before - len(self.history)) // 2:
            print(f"{self.name}the context is full, its oldest exchanges are forgotten: {left}", file=sys.stderr)
        show(self.name)
        text, ended, decoder = "", False, codecs.getincrementaldecoder("utf-8")("replace")
        with suppress(KeyboardInterrupt):
            for token in self.stream(prompt(self.history), sampling, seed):
                if ended := token == self.tokenizer.eos_id:
                    break
                text += (piece := decoder.decode(self.tokenizer.decode_bytes([token])))  # "" inside a character
                show(piece)
        show((piece := decoder.decode(b"", True)) + ("\n" if ended else " …\n"))
        self.history += [asked, {"role": "assistant", "content": text + piece}]


def show(text: str) -> None:
    """Print a part of an answer at once, control characters spelt out."""
    print(text.translate(CONTROLS), end="", flush=True)
