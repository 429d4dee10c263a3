"""People compare two models' answers, blind, on one machine; no judgement is ever lost.

python -m minirlhf.tools.annotate make --set reviews   pairs of answers in out/eval -> out/judgements
python -m minirlhf.tools.annotate judge                a page in the browser of this machine
python -m minirlhf.tools.annotate close                no more judgements
python -m minirlhf.tools.judgements                        which model is better: it opens a closed study alone

Stop whenever you like, the same command goes on. Several people judge one study at a time, each with a name
of their own (--annotator). Proved by tests/tools/test_annotate.py.
"""

from collections import Counter
from dataclasses import dataclass

from minirlhf.annotation import log, pairs
from minirlhf.evaluation.items import read_sets
from minirlhf.harness.files import UserError
from minirlhf.harness.options import option, parse, run_script
from minirlhf.tools.annotate_page import Page


@dataclass(frozen=True)
class Annotation:
    """What to do."""

    action: str = option("judge", "make, judge or close", bare=True)
    study: str = option("out/judgements", "folder of the study")
    annotator: str = option("anonymous", "who judges; letters, digits, - and _")
    port: int = option(8765, "of the page; 0: any that is free", least=0)
    early: bool = option(False, "close although not everything is judged")


@dataclass(frozen=True)
class Making:
    """How to make a study."""

    items: str = option("out/eval/items.jsonl", "responses, as evaluate.py writes them")
    models: tuple[str, ...] = option(("sft", "ppo"), "the two models to compare, by their names there")
    set: str = option("", "the test set; none: the only one there is")
    pairs: int = option(100, "of answers to compare", least=1)
    question: str = option("Which answer is better?", "what the judges decide, in one sentence")
    seed: int = option(0, "decides which pairs, their order and their sides", least=0)


def make(options: Annotation, making: Making) -> None:
    """Write the study and say what is in it."""
    sets = read_sets(making.items)
    study, key = pairs.make(sets, making.models, making.set, making.pairs, making.question, making.seed)
    log.create(options.study, study, key | {"source": making.items})
    n, ties = Counter(place["kind"] for place in key["places"]), len(key["identical"])
    print(f"{options.study}: {n['pair'] + ties} pairs of {' and '.join(making.models)}; "
          f"identical and counted as ties: {ties}")
    print(f"to judge: {len(key['places'])} items: {n['pair']} pairs; of them again, with sides swapped: "
          f"{n['duplicate']}; attention checks: {n['attention']}")


def judge(options: Annotation) -> None:
    """Serve the page until Ctrl-C. Says whose list it is, and from where: somebody else's would be spoilt unseen."""
    with log.Session(options.study, options.annotator) as session:
        name, total = session.annotator, session.total
        if session.torn:
            print(f"{session.torn} bytes of a line that a kill had cut off are now in "
                  f"{session.path.with_suffix('.torn')}")
        if session.place == 0:
            print(f"{name} begins at place 1 of {total}")
        elif session.place < total:
            print(f"{name} goes on at place {session.place + 1} of {total}; "
                  "somebody else gives another --annotator NAME")
        try:
            page = Page(session, options.port)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", error)
            raise UserError(f"--port {options.port}: {why}; --port 0 takes any that is free") from None
        with page:
            print(page.address)
            print("Open this address in a browser on this machine. Ctrl-C ends; nothing is lost.", flush=True)
            try:
                page.serve_forever()
            except KeyboardInterrupt:
                rest = "that was all" if session.place == total else "the same command goes on"
                print(f"\n{name}: {session.place} of {total} judged, all saved; {rest}")


def close(options: Annotation) -> None:
    """End the study and say who judged."""
    done = log.close(options.study, options.early)
    who = ", ".join(f"{name} {n}" for name, n in sorted(done.items()))
    print(f"{options.study}: closed; judged: {who or 'nothing'}")
    print(f"what it says: python -m minirlhf.tools.judgements {options.study}")


def main() -> None:
    """Make, judge or close."""
    options, making = parse(__doc__.splitlines()[0], Annotation, Making)
    if options.action == "make":
        make(options, making)
    elif options.action == "judge":
        judge(options)
    elif options.action == "close":
        close(options)
    else:
        raise UserError(f"no action {options.action}: make, judge or close")


if __name__ == "__main__":
    run_script(main)
