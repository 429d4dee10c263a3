"""People compare two models' answers, blind, on one machine; no judgement is ever lost.

python -m minirlhf.tools.annotate make --set reviews   pairs of answers in out/eval -> out/judgements
python -m minirlhf.tools.annotate judge                a page in the browser of this machine
python -m minirlhf.tools.annotate close                no more judgements
python -m minirlhf.tools.judgements                    which model is better: it opens closed studies only

Stop whenever you like: the same command goes on. Several people can judge one study at the same time, each under
their own name (--annotator). Proved by tests/tools/test_annotate.py.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from minirlhf.annotation import log, pairs
from minirlhf.evaluation.items import TestSet, read_sets
from minirlhf.harness.files import UserError, read_text
from minirlhf.harness.options import option, parse, run_script
from minirlhf.tools.annotate_page import Page

MAKE = "action=make"  # what the options of making need


@dataclass(frozen=True)
class Annotation:
    """What to do."""

    action: str = option("judge", "what to do", choices=("make", "judge", "close"), bare=True)
    study: str = option("out/judgements", "folder of the study")
    annotator: str = option("anonymous", "name of the judge; letters, digits, - and _", needs="action=judge")
    port: int = option(8765, "port of the page; 0: any free one", least=0, needs="action=judge")
    early: bool = option(False, "close the study although not everything is judged", needs="action=close")


@dataclass(frozen=True)
class Making:
    """How to make a study."""

    items: str = option("out/eval/items.jsonl", "responses, as evaluate.py writes them", needs=MAKE)
    models: tuple[str, ...] = option(("sft", "ppo"), "the two models to compare, as --items names them", needs=MAKE)
    set: str = option("", "the test set; empty: the only one in --items", needs=MAKE)
    pairs: int = option(100, "pairs of answers to compare", least=1, needs=MAKE)
    question: str = option("Which answer is better?", "what the judges decide, in one sentence", needs=MAKE)
    rubric: str = option("", "a file with what to go by, which the page shows above the answers", needs=MAKE)
    seed: int = option(0, "decides the pairs, their order and their sides", least=0, needs=MAKE)


def chosen_set(sets: Sequence[TestSet], models: Sequence[str], title: str) -> TestSet:
    """The set with that title, or else the only set. Both models must have answered it. Raises UserError."""
    if len(models) != 2 or models[0] == models[1]:
        raise UserError(f"--models {' '.join(models)}: give the names of two models")
    found = [s for s in sets if s.title == title or not title]
    if len(found) != 1:
        known = ", ".join(sorted(s.title for s in sets))
        raise UserError(f"--set {title or 'is missing'}: choose from {known}")
    if missing := [name for name in models if name not in found[0].items]:
        raise UserError(f"--models {missing[0]}: choose from {', '.join(sorted(found[0].items))}")
    return found[0]


def write_study(options: Annotation, making: Making) -> None:
    """Write the study and say what is in it."""
    s = chosen_set(read_sets(making.items), making.models, making.set)
    answers = list(zip(*(s.items[name] for name in making.models)))
    places, key = pairs.make_places(s.records, answers, making.pairs, making.seed)
    key |= {"models": making.models, "set": s.title, "seed": making.seed, "source": making.items}
    about = {"question": making.question, "rubric": making.rubric and read_text(making.rubric).strip()}
    log.create(options.study, about | {"places": places}, key)
    n, ties = Counter(place["kind"] for place in key["places"]), len(key["identical"])
    print(f"{options.study}: {n['pair'] + ties} pairs of {' and '.join(making.models)}; "
          f"identical and counted as ties: {ties}")
    print(f"{len(places)} items to judge: {n['pair']} pairs, {n['duplicate']} of these again with sides swapped; "
          f"attention checks: {n['attention']}")


def judge_study(options: Annotation) -> None:
    """Serve the page until Ctrl-C. It says whose list this is, so that nobody spoils somebody else's unseen."""
    with log.Session(options.study, options.annotator) as session:
        name, total = session.annotator, session.total
        print(f"{name}: {session.place} of {total} judged; another judge needs another --annotator NAME")
        try:
            page = Page(session, options.port)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", error)
            raise UserError(f"--port {options.port}: {why}; --port 0 takes any free one") from None
        with page:
            print(page.address)
            print("Open this address in a browser on this machine. Ctrl-C ends; nothing is lost.", flush=True)
            try:
                page.serve_forever()
            except KeyboardInterrupt:
                print(f"\n{name}: {session.place} of {total} judged, all saved; the same command goes on")


def main() -> None:
    """Make, judge or close."""
    options, making = parse(__doc__, Annotation, Making)
    if options.action == "make":
        write_study(options, making)
    elif options.action == "judge":
        judge_study(options)
    else:
        who = ", ".join(f"{name} {n}" for name, n in sorted(log.close(options.study, options.early).items()))
        print(f"{options.study}: closed; judged: {who or 'nothing'}")
        print(f"to see the result: python -m minirlhf.tools.judgements {options.study}")


if __name__ == "__main__":
    run_script(main)
