"""Talk with a model, or with several that answer the same question in turn.

python -m minirlhf.tools.chat out/sft out/ppo             a conversation with two, each has its own history
python -m minirlhf.tools.chat out/ppo < questions.txt     one question per line; answers alone are printed

Proved by tests/tools/test_chat.py.
"""

import sys
from contextlib import suppress
from dataclasses import dataclass

from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script


@dataclass(frozen=True)
class Chat:
    """With whom to talk, and how they answer."""

    model: tuple[str, ...] = option((), "a checkpoint, or several to compare", bare=True)
    system: str = option("", "the system text")
    temperature: float = option(0.7, "of sampling; 0 takes the most probable token", least=0)
    top_p: float = option(1.0, "samples the fewest, most probable tokens with this mass", above=0, most=1)
    max_new: int = option(256, "longest answer, in tokens", least=1)


def main() -> None:
    """Answer line by line, until /quit or the end; at a terminal behind a prompt."""
    options, machine = parse(__doc__, Chat, Machine, without=("dtype",))
    device, _ = machine.set_up()
    from minirlhf.lm.conversation import Speaker  # here: --help does not wait for torch
    from minirlhf.lm.generation import Sampling

    speakers = [Speaker(x, device, f"{x}: " * (len(options.model) > 1)) for x in options.model]
    sampling, system = Sampling(options.max_new, options.temperature, top_p=options.top_p), options.system
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")  # what is not UTF-8 is U+FFFD
    if terminal := sys.stdin.isatty() and sys.stdout.isatty():
        print("/reset forgets, /system TEXT sets the system text and forgets, /quit ends; Ctrl-C stops an answer")
        with suppress(ImportError):  # on Windows
            import readline  # noqa: F401 (input() then knows the arrow keys)
    lines = iter(lambda: input("> " * terminal).strip(), "/quit")
    with suppress(EOFError):
        for seed, line in enumerate(filter(None, lines), machine.seed):  # asked again, another answer
            command, _, rest = line.partition(" ")
            system = rest.strip() if command == "/system" else system
            for speaker in speakers:
                if command in ("/reset", "/system"):
                    speaker.history.clear()
                else:
                    speaker.answer(line, system, sampling, seed)


if __name__ == "__main__":
    run_script(main)
