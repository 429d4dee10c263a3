"""Bad studies of people's judgements: their files, their logs, and what is asked of them."""

from bad_inputs.table import DIGITS, FOLDER, GONE, NAN, Bad, Spoil, bad, cut, in_line, line, nested, with_keys

JUDGED, JUDGE, CLOSE = "judgements", "annotate judge --study open --port 0", "annotate close --study open --early"
MAKE = "annotate make --models base ppo --set sentiment --pairs 3 --study new"
EVENT = '{"event": "e", "do": "left", "place": 1, "seconds": 1.0}'


def study(spoil: Spoil, *says: str, claim: str, command: str = JUDGED) -> Bad:
    """study.json spoilt, of the closed study or the open one."""
    folder = "out/judgements" if command == JUDGED else "open"
    return bad(claim, command, "study.json", *says, files={f"{folder}/study.json": spoil})


def key(spoil: Spoil, *says: str, claim: str) -> Bad:
    """key.json spoilt."""
    return bad(claim, JUDGED, "key.json", *says, files={"out/judgements/key.json": spoil})


def log(spoil: Spoil, *says: str, claim: str, command: str = JUDGED) -> Bad:
    """The log of the annotator ann spoilt."""
    folder = "out/judgements" if command == JUDGED else "open"
    return bad(claim, f"{command} --annotator ann" if command == JUDGE else command, "ann.log", *says,
               files={f"{folder}/ann.log": spoil})  # fmt: skip


FOLDERS = [
    bad("a study that is not there", "judgements nowhere", "nowhere"),
    bad("a study that is not there, to judge", "annotate judge --study nowhere --port 0", "nowhere"),
    bad("a study that is not there, to close", "annotate close --study nowhere", "nowhere"),
    bad("a study that is not there, for a simulated person", "simulate_judge nowhere", "nowhere"),
    bad("a study that is a file", "judgements corpus.txt", "corpus.txt"),
    bad("a study that is a checkpoint", "judgements out/sft", "out/sft"),
    bad("a study that is an empty folder", "judgements empty", "empty", files={"empty": FOLDER}),
    bad("a study that is not closed", "judgements open", "open", "close"),
    bad("a study that is closed, to judge", "annotate judge --study out/judgements --port 0", "closed"),
    bad("a study that is closed, to close", "annotate close --study out/judgements", "closed"),
    bad("a study that is closed, for a simulated person", "simulate_judge out/judgements", "closed"),
    bad("a study that is not finished, to close", "annotate close --study open", "--early"),
    bad("a study that nobody has judged, to close", "annotate close --study open", "--early",
        files={"open/ann.log": GONE}),
    bad("a study counted twice", "judgements --more out/judgements", "out/judgements", "same"),
    bad("a further study that is not there", "judgements --more nowhere", "nowhere"),
    bad("a further study that is not closed", "judgements --more open", "open", "close"),
    bad("a study that nobody has judged", "judgements", "out/judgements", files={"out/judgements/ann.log": GONE}),
]
STUDIES = [
    study(GONE, claim="a study without study.json"),
    study(FOLDER, claim="a study.json that is a folder"),
    study(b"", claim="a study.json of no byte"),
    study(cut(-5), claim="a study.json that ends too soon"),
    study("[]", claim="a study.json that is a list"),
    study(nested(100_000), claim="a study.json nested 100,000 deep"),
    study(b"\xff", claim="a study.json that is not UTF-8"),
    study(with_keys({"version": 1}), "version", claim="a study of an older version"),
    study(with_keys({"version": GONE}), "version", claim="a study of no version"),
    study(with_keys({"question": 3}), claim="a question that is a number", command=JUDGE),
    study(with_keys({"places": GONE}), claim="a study of no place", command=JUDGE),
    study(with_keys({"places": 3}), claim="places that are a number", command=JUDGE),
    study(with_keys({"places": {}}), claim="places that are an object", command=CLOSE),
    study(with_keys({"places.0.left": GONE}), claim="a place without a left answer", command=JUDGE),
    study(with_keys({"places.0.left": 3}), claim="a left answer that is a number", command=JUDGE),
    study(with_keys({"places.0.prompt": None}), claim="a place whose prompt is null", command=JUDGE),
    study(with_keys({"places.0": "left"}), claim="a place that is a text", command=JUDGE),
    study(cut(-5), claim="a study.json that ends too soon, to close", command=CLOSE),
    bad("a study that was changed after it was judged", JUDGED, "out/judgements",
        files={"out/judgements/study.json": with_keys({"question": "Which answer is worse?"})}),
]  # fmt: skip
KEYS = [
    key(GONE, claim="a study without its key"),
    key(FOLDER, claim="a key that is a folder"),
    key(b"", claim="a key of no byte"),
    key(cut(-5), claim="a key that ends too soon"),
    key("[]", claim="a key that is a list"),
    key(nested(100_000), claim="a key nested 100,000 deep"),
    key(with_keys({"version": 1}), "version", claim="a key of an older version"),
    key(with_keys({"study": "0123456789abcdef"}), "study", claim="the key of another study"),
    key(with_keys({"study": 3}), claim="a key of a study that is a number"),
    key(with_keys({"models": "sft"}), claim="models of a key in a text"),
    key(with_keys({"models": ["sft"]}), claim="a key of one model"),
    key(with_keys({"models": ["sft", "ppo", "base"]}), claim="a key of three models"),
    key(with_keys({"models": ["sft", "sft"]}), claim="a key of one model twice"),
    key(with_keys({"models": [["a"], ["b"]]}), claim="a key of models that are lists"),
    key(with_keys({"places": []}), claim="a key of no place"),
    key(with_keys({"places.0": GONE}), claim="a key of a place too few"),
    key(with_keys({"places.0.left": "c"}), claim="a side that there is not"),
    key(with_keys({"places.0.left": 0}), claim="a side that is a number"),
    key(with_keys({"places.0.item": 3}), claim="an item that is a number"),
    key(with_keys({"places.0.kind": GONE}), claim="a place of no kind"),
    key(with_keys({"identical": 3}), claim="identical pairs that are a number"),
]
LOGS = [
    log(FOLDER, claim="a log of judgements that is a folder"),
    log(line(1, "no JSON"), "1", claim="a log that does not say its study"),
    log(line(1, nested(100_000)), "1", claim="a log whose first line is nested 100,000 deep"),
    log(line(1, '{"study": "0123456789abcdef", "token": "t"}'), "1", claim="a log of another study"),
    log(line(1, "[]"), "1", claim="a log whose first line is a list"),
    log(lambda old: b"\n".join(old.split(b"\n")[1:]), "1", claim="a log without its first line"),
    log(line(2, "no JSON"), "2", claim="a judgement that is not JSON"),
    log(line(2, nested(100_000)), "2", claim="a judgement nested 100,000 deep"),
    log(line(2, "{}"), "2", claim="a judgement of no key"),
    log(line(2, b"\xff".decode("latin-1") + EVENT), "2", claim="a judgement behind a strange letter"),
    log(lambda old: old.replace(b"left", b"l\xff\xfet", 1), "2", claim="a judgement that is not UTF-8"),
    log(in_line(2, {"do": "up"}), "2", claim="a judgement that there is not"),
    log(in_line(2, {"do": 3}), "2", claim="a judgement that is a number"),
    log(in_line(2, {"do": ["left"]}), "2", claim="a judgement that is a list"),
    log(in_line(2, {"do": "undo"}), "2", claim="a judgement taken back before it was made"),
    log(in_line(2, {"place": 5}), "2", claim="a judgement of a place whose turn it is not"),
    log(in_line(2, {"place": -1}), "2", claim="a judgement of a place below 0"),
    log(in_line(2, {"place": "0"}), "2", claim="a judgement of a place that is a text"),
    log(in_line(2, {"place": 0.0}), "2", claim="a judgement of a place with a point"),
    log(in_line(2, {"place": False}), "2", claim="a judgement of a place that is false"),
    log(in_line(2, {"place": 10**30}), "2", claim="a judgement of place 10**30"),
    log(in_line(2, {"seconds": -1}), "2", claim="a judgement of less than no time"),
    log(in_line(2, {"seconds": NAN}), "2", claim="a judgement of NaN seconds"),
    log(in_line(2, {"seconds": "long"}), "2", claim="a judgement of seconds that are a word"),
    log(in_line(2, {"seconds": int(DIGITS)}), "2", claim="a judgement of 400 digits of seconds"),
    log(line(2, EVENT.replace("1.0", "9" * 5000)), "2", claim="a judgement of 5000 digits of seconds"),
    log(in_line(2, {"event": 3}), "2", claim="a judgement whose id is a number"),
    log(in_line(2, {"event": GONE}), "2", claim="a judgement without an id"),
    log(lambda old: old + (EVENT.replace("1,", "9,") + "\n").encode(), claim="more judgements than places"),
    log(line(2, "no JSON"), "2", claim="a judgement that is not JSON, on going on", command=JUDGE),
    log(line(1, "[]"), "1", claim="a log whose first line is a list, on going on", command=JUDGE),
    log(FOLDER, claim="a log that is a folder, on going on", command=JUDGE),
    log(line(2, "no JSON"), "2", claim="a judgement that is not JSON, on closing", command=CLOSE),
]
ASKED = [
    bad("a study that there is already", MAKE.replace("new", "open"), "open", "--study"),
    bad("a study whose judgements are there already", MAKE, "new/ann.log", files={"new/ann.log": "{}\n"}),
    bad("a study of items that are not there", f"{MAKE} --items none.jsonl", "none.jsonl"),
    bad("a study of items that end too soon", MAKE, "items.jsonl", files={"out/eval/items.jsonl": cut(-30)}),
    bad("a study of one model", f"{MAKE} --models sft", "--models", "two"),
    bad("a study of three models", f"{MAKE} --models base sft ppo", "--models", "two"),
    bad("a study of one model twice", f"{MAKE} --models sft sft", "--models"),
    bad("a study of a model that there is not", f"{MAKE} --models sft gpt4", "--models", "gpt4"),
    bad("a study of a set that there is not", f"{MAKE} --set chess", "--set", "chess", "sentiment"),
    bad("gold rewards of another task", "judgements --gold arithmetic", "--gold", "arithmetic"),
    bad("gold rewards of items that are not there", "judgements --gold sentiment --items none.jsonl", "--items"),
    bad("gold rewards of items that end too soon", "judgements --gold sentiment", "items.jsonl",
        files={"out/eval/items.jsonl": cut(-30)}),
    bad("gold rewards of items that are a text", "judgements --gold sentiment --items corpus.txt", "corpus.txt"),
    bad("a simulated person without the items", "simulate_judge open --items none.jsonl", "none.jsonl"),
    bad("a simulated person with damaged items", "simulate_judge open", "items.jsonl",
        files={"out/eval/items.jsonl": cut(-30)}),
    bad("a simulated person with items of other prompts", "simulate_judge open", "items.jsonl", files={
        "out/eval/items.jsonl": lambda old: old.replace(b"sentiment:", b"mood:")}),
    bad("a simulated person with a path in the name", "simulate_judge open --annotator a/b", "--annotator"),
    bad("preferences of nobody's choice", "judgements --export p.jsonl", "p.jsonl", files={
        "out/judgements/ann.log": lambda old: old.replace(b'"left"', b'"tie"')}),
]  # fmt: skip
JUDGEMENTS = [*FOLDERS, *STUDIES, *KEYS, *LOGS, *ASKED]
