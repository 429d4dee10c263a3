"""The page: complete, self-contained, and safe with any text."""

import copy
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest

from minirlhf.evaluation.answer import MEANING
from minirlhf.html.figures import WIDTH
from minirlhf.html.markup import STYLE as FILE
from minirlhf.html.markup import document, facts, in_cells, kl_strip, num, power, show
from minirlhf.html.page import page
from minirlhf.html.svg import visible

STYLE = FILE.read_text("utf-8")
HOSTILE = '</script><script>alert(1)</script>"\' onload=x><img src=//x.y/z>--></style>]]>&lt;\u202e\x00\ud800\u2028'
VOID = {"meta", "br"}
ELEMENTS = {
    *"html head meta title style body main h1 h2 h3 nav ul li a section p b i br small div span".split(),
    *"table caption thead tbody tr th td details summary figure figcaption dl dt dd".split(),
    *"svg rect line circle polygon polyline path text g".split(),
}
ATTRIBUTES = {
    *"lang charset http-equiv content name id href class dir style title role aria-label tabindex scope".split(),
    *"colspan open viewbox width height font-family x y x1 y1 x2 y2 cx cy r d points fill fill-opacity".split(),
    *"stroke stroke-width stroke-linejoin stroke-dasharray text-anchor font-size transform".split(),
    "shape-rendering", "data-of",
}


class Reader(HTMLParser):
    """The page as a browser takes it: (element, attributes, text) in order of their start."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[list] = []
        self.open: list[list] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.elements.append([tag, dict(attributes), ""])
        assert len(dict(attributes)) == len(attributes)
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:  # an element's text is that of its children too
            element[2] += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def texts(self, *tags: str) -> list[str]:
        return [text for tag, _, text in self.elements if tag in tags]

    def __getitem__(self, tag: str) -> list[dict]:
        return [attributes for t, attributes, _ in self.elements if t == tag]


def read(report: dict) -> Reader:
    """The page of a report, parsed; with what holds of every page."""
    html = page(report)
    html.encode("utf-8")
    reader = Reader(html)
    assert not reader.open
    assert {tag for tag, _, _ in reader.elements} <= ELEMENTS
    assert {name for _, attributes, _ in reader.elements for name in attributes} <= ATTRIBUTES
    return reader


def difference(verdict: str = "better", value: float | None = 0.1, **other) -> dict:
    low, high = (None, None) if value is None else (value - 0.05, value + 0.05)
    return {"value": value, "low": low, "high": high, "p": None if value is None else 0.012, "n": 40,
            "minimum_detectable": 0.07, "prompts_needed": 1234.0, "verdict": verdict, "decided_by": "p"} | other


def metric(name: str, group: str = "quality", words: str = "", **other) -> dict:
    models = {m + words: {"value": v, "low": v - 0.02, "high": v + 0.02} for m, v in
              (("base", 0.125), ("sft", 0.5), ("ppo", 0.625))}
    differences = {"base" + words: difference("worse", -0.4), "ppo" + words: difference()}
    return {"metric": name + words, "group": group, "direction": 1, "primary": False, "models": models,
            "differences": differences} | other


WORTH = {"value": 6.5, "low": 5.5, "high": 7.5, "effective_size": 432.0}


def task(words: str = "") -> dict:
    base, sft, ppo = (m + words for m in ("base", "sft", "ppo"))
    undefined = metric("F1", words=words)
    undefined["differences"][ppo] = difference("undefined", None, undefined="no label among the answers" + words)
    metrics = [
        metric("KL to reference", "drift", words, direction=0),
        metric("reward", words=words, primary=True),
        undefined,
        metric("length", "cost" + words, words),
    ]
    metrics[0]["differences"][ppo] = difference("no difference shown", 0.01)
    answers = {m: {"response": f"answer of {m}", "stop": "eos", "reward": 0.75} for m in (base, sft, ppo)}
    answers[base]["stop"] = "length" + words
    strip = {"pieces": ["1", "32", "\n", "", "<|eos|>" + words], "kl": [0.0, 0.5, 0.25, 0.125, 1.0],
             "log_ratio": [0.1, -0.5, 0.2, 0.0, 1.0]}
    return {
        "prompts": 40, "units": 38, "samples": 3, "metrics": metrics,
        "optimum": {"value": 0.9, "low": 0.8, "high": 1.0, "effective_size": 321.0, "worth": WORTH, "beta": 0.05,
                    "tokens": {sft: 10.0, ppo: 12.0}},
        "wins": {"wins": 25, "ties": 10, "losses": 5, "rate": 0.75, "low": 0.6, "high": 0.85, "p": 0.001},
        "best_of_n": [{"n": 1, "kl_bound": 0.0, "reward": 0.5}, {"n": 4, "kl_bound": 0.63, "reward": 0.7}],
        "lengths": {m: {"points": [[3, 0.0], [9, 1.0]], "correlation": 0.5} for m in (base, sft, ppo)},
        "calibration": {m: {
            "ece": 0.0625, "expected": 0.015625, "n": 4321,
            "bins": [{"count": 9, "confidence": 0.5, "accuracy": 0.4, "low": 0.2, "high": 0.7}],
        } for m in (base, sft, ppo)},
        "examples": [{
            "rule": rule, "index": i, "prompt": f"prompt {rule}{words}", "reference": "132" + words,
            "answers": {m: a | {"response": f"{a['response']}, {rule}{words}"} for m, a in answers.items()},
            "strip": copy.deepcopy(strip),
        } for i, rule in enumerate(("best", "median", "worst", "random"))],
        "attention": {"model": ppo, "index": 1, "pieces": ["a", words or "b"], "maps": [
            {"layer": 0, "head": 1, "weights": [[1.0, 0.0], [0.5, 0.5]]},
            {"layer": 1, "head": None, "weights": [[1.0, 0.0], [0.5, 0.5]]}]},
    }  # fmt: skip


def report(words: str = "", tasks: tuple[str, ...] = ("arithmetic", "reviews")) -> dict:
    """A full report; words: stand behind every text in it."""
    models = {m + words: {
        "folder": f"out/{m}{words}", "sha256": "0123abcd" + words, "stage": m + words, "reference": "sft" + words,
        "cost": {"seconds": 61.0, "tokens": 1234567, "steps": 90},
        "curves": [{"name": name + words, "x": "step" + words, "points": [[1, 2.0], [2, 1.0]]}
                   for name in ("loss", "validation_loss", "reward", "share/reviews")],
    } for m in ("base", "sft", "ppo")}  # fmt: skip
    return {
        "version": 3, "reference": "sft" + words, "against": "sft" + words, "last": "ppo" + words, "seed": 7, "seconds": 31.25,
        "settings": {"prompts" + words: "forty" + words, "data": ["x" + words]},
        "environment": {"python": "3.11" + words}, "models": models,
        "alarms": [{k: f"{k} of the alarm{words}" for k in ("what", "why", "remedy")}],
        "tasks": {name + words: task(words) for name in tasks},
    }  # fmt: skip


# safety


def strings(x: object) -> Iterator[str]:
    """Every text in a report, keys included that are data."""
    if isinstance(x, str):
        yield x
    elif isinstance(x, dict):
        for key, value in x.items():
            yield from strings(value)
            yield from (key,) if HOSTILE in key else ()
    elif isinstance(x, list):
        for value in x:
            yield from strings(value)


def test_a_hostile_text_arrives_as_text_in_every_field():
    """Markup, quotes, comments, controls, bidi overrides, lone surrogates; none makes an element or attribute."""
    hostile = report(HOSTILE)
    seen = read(hostile)
    words = seen.texts("body")[0] + "".join(v for a in seen["span"] + seen["div"] for v in a.values() if v)
    for text in strings(hostile):
        cut = text == HOSTILE or text.startswith(("loss", "validation", "step", "share"))  # no known quantity
        if HOSTILE in text and not cut:
            assert visible(text) in words or visible(json.dumps(text, ensure_ascii=False)) in words, text
    assert seen.texts("title")[0] == visible(f"ppo{HOSTILE} against sft{HOSTILE}")


@pytest.mark.parametrize("text", [HOSTILE, "plain", "a&amp;b", "<b>", "'\"", "  two\n lines ", "你好 😀"])
def test_show_is_undone_by_a_browser(text):
    """In an attribute and between tags."""
    seen = Reader(f'<p title="{show(text)}">{show(text)}</p>')
    assert seen.elements == [["p", {"title": visible(text)}, visible(text)]]


@pytest.mark.parametrize("words", ["", HOSTILE])
def test_the_page_runs_nothing_and_asks_for_nothing(words):
    html, seen = page(report(words)), read(report(words))
    policy = [m["content"] for m in seen["meta"] if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert all(a["href"].startswith("#") for a in seen["a"])
    assert not re.search(r"url\(|@import|expression\(", STYLE)
    for _, attributes, _ in seen.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "action", "srcset")]
    assert "http://" not in html and "https://" not in html


def test_a_style_attribute_holds_one_number():
    styles = [a["style"] for _, a, _ in read(report(HOSTILE)).elements if "style" in a]
    assert styles and all(re.fullmatch(r"--k:[\d.]+", style) for style in styles)


# completeness


def test_alarms_come_before_everything_but_the_title():
    body = read(report()).texts("body")[0].strip()
    first = "ppo against sft Alarm: what of the alarm why of the alarm What to do: remedy of the alarm"
    assert re.match(first.replace(" ", r"\s*"), body)


def test_every_set_metric_model_and_sample_is_there():
    seen = read(report())
    body = seen.texts("body")[0]
    assert seen.texts("h2") == ["The answer", "arithmetic", "reviews", "Training", "How this was made", "What this cannot tell you"]
    rows = [text for (tag, a, text) in seen.elements if a.get("scope") == "row"]
    for name in ("reward ↑ (primary)", "F1 ↑", "KL to reference", "length ↑"):
        assert sum(row.startswith(name) for row in rows) == 2 * 2  # the last model, and the other
    for rule in ("best", "median", "worst", "random"):
        assert body.count(f"prompt {rule}") == 2
        assert all(body.count(f"answer of {m}, {rule}") == 2 for m in ("base", "sft", "ppo"))
    for text in ("0123abcd", "out/ppo", "1,234,567", "3.11", "31.2", "forty", '["x"]'):
        assert text in body, text


def test_metrics_stand_in_their_groups_in_one_order():
    groups = [text for (_, a, text) in read(report()).elements if a.get("scope") == "rowgroup"]
    assert groups == ["Quality", "Drift from the reference", "Cost"] * 4


def test_the_answer_says_for_each_set_what_is_gained_and_what_is_paid():
    """Both values, the difference with its p, the verdict and the price, in a row for each set."""
    seen = read(report())
    head = [text for tag, a, text in seen.elements if a.get("scope") == "col"][:6]
    assert head == ["set", "sft", "ppo", "ppo − sft", "verdict", "price"]
    first = next(i for i, (tag, _, _) in enumerate(seen.elements) if tag == "tbody")
    row = [text.replace("\u00a0", " ") for tag, _, text in seen.elements[first:] if tag in ("th", "td")][:6]
    assert row == [
        "arithmeticreward", "0.500[0.480, 0.520]", "0.625[0.605, 0.645]", "+0.100[0.050, 0.150]",
        "betterby p = 0.012", "KL 0.625reference perplexity"[:8],
    ]  # fmt: skip
    assert "better on 2" in seen.texts("p")[3]
    assert "ppo has the higher reward on 25, the same on 10, a lower on 5: a win rate of 0.750 [0.600, 0.850]" in seen.texts("p")[4]


def test_each_metric_says_what_it_is_where_it_stands():
    """Beside the values; the other comparison, of the same rows, need not repeat it."""
    words = [text for tag, _, text in read(report()).elements if tag == "small"]
    assert [words.count(MEANING[name]) for name in ("reward", "KL to reference")] == [2, 2]


def test_a_cell_says_what_its_column_is_for_a_screen_without_room_for_the_heading():
    cells = read(report())["td"]
    assert {a["data-of"] for a in cells} == {"base", "sft", "ppo", "ppo − sft", "difference", "verdict", "price"}
    narrow = STYLE.partition("@media screen and (max-width:59.99rem){")[2].partition("@page")[0]
    assert "thead{display:none}" in narrow and "content:attr(data-of)" in narrow


def test_every_figure_has_its_words_and_a_title():
    seen = read(report())
    svgs, titles = seen["svg"], [text for tag, _, text in seen.elements if tag == "svg"]
    assert len(svgs) == 2 * (2 + 3 + 2) + 3 * 3 and all(a["role"] == "img" for a in svgs)
    assert all(titles) and len(seen["figcaption"]) + 3 * 3 == len(seen["figure"]) == len(svgs)  # curves have none
    for text in ("an upper bound of its KL", "not explanations by themselves",
                 "ECE 0.062. A perfectly calibrated model would show 0.016", "β = 0.05. J* = 0.900 ±0.100"):  # fmt: skip
        assert text in seen.texts("body")[0], text


def test_every_stage_has_its_curves():
    seen = read(report())
    heads = [text for text in seen.texts("h3") if text in ("base", "sft", "ppo")]
    assert heads == ["base", "sft", "ppo"]
    titles = [text for text in seen.texts("title") if text in ("loss", "validation_loss", "reward", "share/reviews")]
    assert titles == 3 * ["loss", "validation_loss", "reward"]  # a share of 2, then 1, is noise


def test_headings_can_be_reached_and_headers_say_what_they_head():
    seen = read(report())
    ids = [a["id"] for _, a, _ in seen.elements if "id" in a]
    assert {a["href"] for a in seen["a"]} == {f"#{x}" for x in ids} and len(set(ids)) == len(ids) == 6
    assert all(a.get("scope") in ("row", "col", "rowgroup") for a in seen["th"])


# verdicts


def test_an_undefined_difference_says_why():
    gain, verdict = in_cells(difference("undefined", None, undefined="one prompt <1>"))
    assert gain.startswith("–") and "undefined" in verdict and "one prompt &lt;1&gt;" in verdict
    assert read(report()).texts("body")[0].count("no label among the answers") == 2


def test_what_is_not_shown_says_what_could_have_been_seen_and_how_many_prompts_it_takes():
    d = difference("no difference shown", 0.01)
    words = "40 prompts could have shown a difference of 0.070, 4 times in 5; the one seen would take about 1,200"
    assert power(d) == words and power(d) in in_cells(d)[1]
    assert power(d | {"prompts_needed": None}).endswith("4 times in 5")
    assert power(d | {"minimum_detectable": None}) == ""
    assert power(d) not in in_cells(difference("better"))[1]


def test_the_p_that_decides_stands_first_and_both_are_given_where_there_are_two():
    verdict = in_cells(difference(p=0.0004, p_holm=0.0312))[1].replace("&nbsp;", " ")
    assert "<small>by Holm’s p = 0.031, p &lt; 0.001</small>" in verdict and "Holm" not in in_cells(difference())[1]
    assert "p&nbsp;=&nbsp;0.001<" in in_cells(difference(p=0.00101))[1]
    assert "by" not in in_cells(difference(p=None))[1]


@pytest.mark.parametrize("x, signed, words", [
    (0.125, False, "0.125"), (-0.5, True, "−0.500"), (0.5, True, "+0.500"), (None, False, "–"),
    (float("nan"), False, "–"), (float("inf"), True, "–"), (-0.0001, True, "−1e−04"), (-1e-16, True, "+0.000"),
])  # fmt: skip
def test_numbers_have_a_real_minus_and_a_dash_where_there_is_none(x, signed, words):
    assert num(x, signed) == words


# what may be missing


def without(x: object, path: tuple = ()) -> Iterator[tuple]:
    """Paths of everything optional: parts of a set, numbers, and details of a model."""
    optional = {"optimum", "wins", "best_of_n", "lengths", "calibration", "examples", "attention", "units", "strip",
                "log_ratio", "reference", "cost", "curves", "stage", "expected", "head",
                "correlation", "p_holm", "prompts_needed", "minimum_detectable", "alarms", "seconds"}
    for key, value in x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ():
        if (key in optional and path[-1:] != ("wins",)) or (isinstance(value, float) and key != "effective_size"):
            yield (*path, key)
        if key != "optimum":  # a line of evaluation/report.py, whole
            yield from without(value, (*path, key))


def test_whatever_is_missing_leaves_no_trace_of_none():
    """Each optional part and each number in turn is None; then the page has no None, nan or inf in it."""
    full = report(tasks=("arithmetic",))
    paths = list(without(full))
    assert len(paths) > 200
    kinds = {tuple(k if not isinstance(k, int) else 0 for k in p): p for p in paths}  # of equal places one
    for path in kinds.values():
        changed = copy.deepcopy(full)
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = None
        words = read(changed).texts("body")[0]
        assert not re.search(r"\b(None|nan|inf|null)\b", words), path


@pytest.mark.parametrize("part", ["optimum", "wins", "best_of_n", "lengths", "calibration", "examples", "attention"])
def test_a_part_that_is_absent_is_left_out(part):
    bare = report()
    for t in bare["tasks"].values():
        del t[part]
    assert len(page(bare)) < len(page(report()))
    read(bare)


def test_one_model_is_compared_with_nothing():
    alone = report()
    alone["models"] = {"sft": alone["models"]["sft"]}
    alone["last"] = "sft"
    for t in alone["tasks"].values():
        for m in t["metrics"]:
            m["models"], m["differences"] = {"sft": m["models"]["sft"]}, {}
        del t["wins"], t["best_of_n"], t["lengths"], t["calibration"]
        for x in t["examples"]:
            x["answers"] = {"sft": x["answers"]["sft"]}
    seen = read(alone)
    assert seen.texts("title")[0] == "Evaluation of sft" and "verdict" not in seen.texts("th")
    assert "arithmeticreward0.500[0.480, 0.520]" in seen.texts("body")[0].replace("\n", "")


def test_without_the_reference_among_the_models_nothing_is_compared():
    other = report()
    other["against"] = "gone"
    seen = read(other)
    assert "verdict" not in seen.texts("th") and seen.texts("title")[0] == "Evaluation of base, sft, ppo"


def test_no_alarms_no_sets_and_no_primary_metric_are_no_trouble():
    empty = report(tasks=()) | {"alarms": [], "settings": {}, "environment": {}}
    assert "Alarm" not in read(empty).texts("body")[0]
    others = report()
    for t in others["tasks"].values():
        for m in t["metrics"]:
            m["primary"] = False
    assert read(others).texts("td")[:2] == ["0.500[0.480, 0.520]", "0.625[0.605, 0.645]"]  # the first of quality


# looks


def test_the_strip_shows_each_token_with_its_share_of_the_largest_kl_and_the_sign_of_its_log_ratio():
    strip = {"pieces": ["1", " two\n", ""], "kl": [0.0, 0.5, 0.25], "log_ratio": [0.1, -2.0, None]}
    spans = [(a, text) for tag, a, text in Reader(kl_strip(strip)).elements if tag == "span"]
    assert [text for _, text in spans[:3]] == ["1", " two↵\n", "◌"]
    assert [a["style"] for a, _ in spans[:3]] == ["--k:0.00", "--k:1.00", "--k:0.50"]
    assert [a["class"] for a, _ in spans[:3]] == ["token", "token less", "token"]
    assert spans[1][0]["title"] == "KL 0.500 nats, log ratio −2.000" and spans[2][0]["title"] == "KL 0.250 nats"
    assert [text for _, text in spans[3:6]] == ["0.000", "0.250", "0.500"]  # the legend


def test_a_strip_of_two_equal_models_says_so():
    assert "0 at every token" in kl_strip({"pieces": ["a"], "kl": [0.0]})


def test_texts_keep_their_lines_and_their_direction():
    seen = read(report())
    texts = [a for a in seen["div"] if a.get("class") == "text"]
    assert len(texts) == 2 * 4 * 5 and all(a["dir"] == "auto" for a in texts)
    assert re.search(r"\.text\{[^}]*white-space:pre-wrap", STYLE)


def test_figures_fit_a_telephone_and_tables_scroll_in_their_own_box():
    """360 pixels less the margins of 12 on either side."""
    seen = read(report())
    assert {a["width"] for a in seen["svg"]} == {str(WIDTH)} and WIDTH <= 360 and "padding:1rem 12px" in STYLE
    order = [(tag, a.get("class")) for tag, a, _ in seen.elements]
    assert all(order[i - 1] == ("div", "scroll") for i, (tag, _) in enumerate(order) if tag == "table")


def blend(a: str, b: str, share: float) -> list[float]:
    """Colour a over b, as linear luminance parts. #rrggbb, or "r g b"."""
    def parts(colour: str) -> list[int]:
        if colour[0] == "#":
            return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        return [int(x) for x in colour.split()]

    return [x * share + y * (1 - share) for x, y in zip(parts(a), parts(b))]


def luminance(colour: list[float]) -> float:
    """Relative luminance of 0 … 255 each. Source: WCAG 2.1."""
    r, g, b = (c / 255 / 12.92 if c <= 10.3 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_words_can_be_read_on_every_ground_they_stand_on_in_both_themes():
    """Contrast of at least 4.5 (WCAG 2.1, AA), also on the strongest colour of the KL strip."""
    light, dark = (dict(re.findall(r"--(\w+):([^;}]+)", block)) for block in re.findall(r":root\{[^}]*\}", STYLE))
    strongest = float(re.search(r"var\(--k\)\*([.\d]+)\)\)", STYLE)[1])
    for theme in (light, light | dark):
        pairs = [(theme[word], theme[g], 0.0) for word in ("ink", "muted", "link") for g in ("ground", "panel")]
        for word, ground, share in [*pairs, (theme["ink"], theme["ground"], strongest)]:
            a, b = sorted((luminance(blend(word, word, 1)), luminance(blend(theme["heat"], ground, share))))
            assert (b + 0.05) / (a + 0.05) >= 4.5, (word, ground, share)


def test_dark_is_for_screens_alone_and_folded_parts_are_printed():
    html = document("t", "")
    assert "@media screen and (prefers-color-scheme:dark)" in html and "DARK_RULES" not in html
    assert re.search(r"@media print\{.*details:not\(\[open\]\)::details-content\{content-visibility:visible", html, re.S)


def test_facts_show_what_is_no_text_as_json():
    seen = Reader(facts({"a": "b", "c": ["é", None], "d": "", "e": 0.5}))
    assert seen.texts("dd") == ["b", '["é", null]', '""', "0.5"]
