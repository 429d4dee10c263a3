"""Conversations: the policy speaks, its environment replies, and so on; one trajectory, of one reward.

    ids       a a E  u u u  b E       the policy's turns a and b, and between them what the environment said
    mask      1 1 1  0 0 0  1 1       loss, KL, value, GAE and every normaliser see the policy's tokens alone

An environment is a function reply(conversation, rng) -> text or None, where None ends the conversation: a simulated
user, a game, a tool. A turn of it is a transition, drawn and not chosen. conversation is the record with all "messages"
so far. rng is a random.Random of the row and turn, so that a resumed run hears the same. Ids are joined, and never
made anew from text, which could give other ids than those that were sampled.
Source: Sutton et al. 2000, theorem 1: the gradient of the policy alone, whatever the transitions.
Proved by tests/rl/test_turns.py and, against an exact solution, tests/theory/test_two_turns.py.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import groupby
from random import Random
from typing import Any

import numpy as np
import torch

from minirlhf.harness import ranks
from minirlhf.harness.loop import Unharmed
from minirlhf.harness.user_code import place_of, shown, undisturbed
from minirlhf.lm.chat import encode_format
from minirlhf.lm.generation import Generation, Sampling, generate, pad_left, responses_of
from minirlhf.lm.model import GPT
from minirlhf.lm.records import ChatFormat, is_plain, question_of
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.rl.options import Turns
from minirlhf.rl.reward_files import load_function

Reply = Callable[[dict, Random], str | None]


def heard_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """What stands between two answers where a user says `text`, as `chat.render` writes it."""
    form = tokenizer.chat
    before, after = (encode_format(x, tokenizer) for x in around(form))
    return before + tokenizer.encode(text if form.cue.endswith("|>") else text.lstrip()) + after


def around(form: ChatFormat) -> tuple[str, str]:
    """What stands before and behind a user's words between two answers."""
    return form.gap + form.cue.format(role="user"), form.close + form.cue.format(role="assistant")


def answer(reply: Reply, conversation: dict, rng: Random) -> str | None:
    """What the environment says to a copy. Raises Unharmed for what it raises, and for anything but a text or None."""
    try:
        with undisturbed():
            said = reply(deepcopy(conversation), rng)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's function may raise anything, SystemExit too
        what = f"raised {type(error).__name__}: {shown(error, str, 300)}"
        raise Unharmed(f"the environment {what} ({place_of(reply, error)})") from error
    if said is not None and not (isinstance(said, str) and is_plain(said)):
        raise Unharmed(f"the environment gave {shown(said)}, no text and not None ({place_of(reply)})")
    return said


def answers(talks: Sequence[tuple[Reply | None, dict, str]]) -> list[str | None]:
    """`answer` of each (environment, conversation, seed). In shares each is asked once; all processes hear the same."""
    return [reply and answer(reply, talk, Random(seed)) for reply, talk, seed in talks]


@dataclass(frozen=True)
class Conversations:
    """The `speak` of `rollout.Models` where an environment may reply.

    reply_of(record): its environment, or None where one answer is all.  turns: most answers of the policy.
    """

    reply_of: Callable[[dict], Reply | None]
    turns: int = 6

    def replies(self, *sets: Iterable[dict]) -> bool:
        """Whether any record in them has an environment. The reference tilted by the reward is then no optimum: it
        tilts the environment, too."""
        return any(self.reply_of(record) for records in sets for record in records)

    def about(self, sets: dict[str, Iterable[dict]]) -> list[int]:
        """What a resumed run must share beside the environment: the most answers, where any record has one."""
        return [self.turns] * self.replies(*sets.values())

    def __call__(
        self, model: GPT, tokenizer: Tokenizer, prompts: Sequence[list[int]], records: Sequence[dict],
        sampling: Sampling, seeds: Sequence[int],
    ) -> tuple[Generation, list[dict]]:  # fmt: skip
        """The conversations behind each prompt, and the records with all that was said before the last answer.

        A turn is of sampling.max_new tokens at most. A conversation ends, too, with an answer that does not, and where
        the context leaves no room for a reply and a token behind it.
        """
        g = generate(model, prompts, sampling, tokenizer.eos_id, seeds)
        parts = [[said] for said in spoken(g)]  # of each row: an answer, a reply, an answer, ...
        records, rows, ended = list(records), list(range(len(prompts))), g.ended.tolist()
        for turn in range(1, self.turns):
            texts, talks, going = [tokenizer.decode(ids) for ids in responses_of(g)], [], []
            for i, text, whole in zip(rows, texts, g.ended.tolist()):
                messages = [*question_of(records[i]), {"role": "assistant", "content": text}]
                reply = self.reply_of(records[i]) if whole else None
                talks.append((reply, records[i] | {"messages": messages}, f"{seeds[i]} {turn}"))
            for i, (_, talk, _), said in zip(rows, talks, ranks.in_shares(answers, talks)):
                ids = heard_ids(said, tokenizer) if said is not None else []
                used = len(prompts[i]) + sum(len(x) for x, _ in parts[i]) + len(ids)
                if said is not None and used < model.config.context:
                    parts[i].append((ids, [0.0] * len(ids)))
                    records[i] = talk | {"messages": [*talk["messages"], {"role": "user", "content": said}]}
                    going.append(i)
            if not (rows := going):
                break
            asked = [[*prompts[i], *(x for ids, _ in parts[i] for x in ids)] for i in rows]
            own = [int(np.random.SeedSequence([seeds[i], turn]).generate_state(1)[0]) for i in rows]
            g = generate(model, asked, sampling, tokenizer.eos_id, own)
            for i, said, whole in zip(rows, spoken(g), g.ended.tolist()):
                parts[i].append(said)
                ended[i] = whole
        return joined(prompts, parts, ended, tokenizer.eos_id, model.wte.weight.device), records


def speaking(options: Turns, reply_of: Callable[[dict], Reply | None]) -> Conversations:
    """With the environment that the options name, else with what reply_of gives. Raises UserError."""
    if options.environment:
        reply = load_function(options.environment, f"--environment {options.environment}", "FILE.py:FUNCTION")
        return Conversations(lambda record: reply, options.turns)
    return Conversations(reply_of, options.turns)


def spoken(g: Generation) -> list[tuple[list[int], list[float]]]:
    """The ids of each row, EOS included, and their log-probs."""
    return [(ids[mask].tolist(), logp[mask].tolist()) for ids, mask, logp in zip(g.ids, g.mask, g.logprobs)]


def joined(
    prompts: Sequence[list[int]], parts: list[list[tuple]], ended: list[bool], pad: int, device: torch.device
) -> Generation:  # fmt: skip
    """Rows of answers and replies in turn, as (ids, log-probs), as one Generation with holes in its mask."""
    R = max(sum(len(ids) for ids, _ in row) for row in parts)
    ids, logprobs = torch.full((len(parts), R), pad), torch.zeros(len(parts), R)  # (B, R) each
    mask = torch.zeros(len(parts), R, dtype=torch.bool)  # (B, R)
    for i, row in enumerate(parts):
        end = 0
        for k, (said, logp) in enumerate(row):
            place, end = slice(end, end + len(said)), end + len(said)
            ids[i, place], logprobs[i, place], mask[i, place] = torch.tensor(said), torch.tensor(logp), k % 2 == 0
    return Generation(*(x.to(device) for x in (*pad_left(prompts, pad), ids, mask, logprobs, torch.tensor(ended))))


def transcripts(rows: Any, tokenizer: Tokenizer) -> list[str]:
    """What was said in each row of a Generation or Rollout: answers, and what the environment said in ‹ ›."""
    texts, (before, after) = [], around(tokenizer.chat)
    for ids, mask, last in zip(rows.ids.tolist(), rows.mask.tolist(), responses_of(rows)):
        turns = [(own, [i for i, _ in run]) for own, run in groupby(zip(ids, mask), key=lambda pair: pair[1])]
        turns = turns[: 1 + max(k for k, (own, _) in enumerate(turns) if own)]  # not the padding
        said = [tokenizer.decode(x[:-1]) if own else f"‹{tokenizer.decode(x).removeprefix(before).removesuffix(after)}›"
                for own, x in turns[:-1]]  # fmt: skip
        texts.append(" ".join([*said, tokenizer.decode(last)]))
    return texts
