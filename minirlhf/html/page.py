"""The comparison as one HTML file: the answer, the tables, the figures, samples, and how it was made.

`report` is the content of report.json. The page leaves out what is absent or None, and names what is undefined.
The file needs no script, no font and no request. It suits light and dark screens, paper and telephones.
Proved by tests/html/test_page.py.
"""

from collections import Counter
from collections.abc import Sequence

from minirlhf.evaluation.answer import MEANING, headline, price
from minirlhf.evaluation.panels import POINTS, all_finite
from minirlhf.evaluation.table import optimum_line
from minirlhf.html import figures
from minirlhf.html.curves import curves_html
from minirlhf.html.markup import (
    captioned, chances, document, facts, grid, html_table, in_cells, interval, kl_strip, num, passage, show,
)

GROUPS = {"quality": "Quality", "drift": "Drift from the reference", "diversity": "Diversity",
          "calibration": "Calibration", "cost": "Cost"}
BEST = ("Bars are 95 % intervals. The dashed curve is the best of n answers of the reference. It stands at "
        "ln n − (n−1)/n nats, an upper bound of its KL, so the true curve lies further left. It pools the answers to "
        "all prompts: where some prompts are harder than others, the true curve also lies lower.")
VALUES = "Brackets hold 95 % intervals over prompts. A verdict is at 5 %; Holm’s p is adjusted for the number of sets."
COST = ("seconds", "tokens", "steps")
PRICE = "KL to the reference, and whatever got worse: the task’s scores, perplexity, diversity, answers that end."
RULE = ("The first sample of each model for four prompts. Three go by the mean reward of {}{}: the highest (best), the "
        "lowest (worst) and the middle (median). Where there is no reward, KL takes its place. The fourth is drawn by "
        "the seed (random). They show what answers look like, and prove nothing.")
CANNOT = (
    "Whether another training seed would give the same verdicts. The intervals cover the noise of prompts and "
    "of sampling. Each model here is one training run.",
    "What happens on prompts of another kind. The verdicts hold for prompts drawn as these were.",
    "Whether people would prefer the answers. A reward measures what it was written to measure. Read the samples.",
    "That two models are equal. “No difference shown” means that these prompts could not tell them apart. "
    "The tables say how large a difference would have been seen.",
    "Which metric to believe. Many are tested, and about one in twenty without any difference has p < 0.05 by chance. "
    "A claim should rest on the primary metric, with its p-value corrected for the number of sets (Holm).",
    "Why a model answers as it does. Neither attention nor KL per token is an explanation by itself.",
)


def page(report: dict) -> str:
    """The whole file."""
    names, last, against = list(report["models"]), report["last"], report["against"]
    compared = against in names and last != against
    title = f"{last} against {against}" if compared else f"Evaluation of {', '.join(names)}"
    parts = {("answer", "The answer"): answer_section(report, compared)}
    for i, (name, task) in enumerate(report["tasks"].items(), 1):
        parts[f"set-{i}", name] = one_set(task, names, last, against if compared else "", report["reference"])
    parts["training", "Training"] = training_section(report["models"])
    parts["made", "How this was made"] = settings_section(report)
    limits = "".join(f"<li>{show(x)}</li>" for x in CANNOT)
    parts["limits", "What this cannot tell you"] = f'<ul class="limits">{limits}</ul>'
    contents, body = "", ""
    for (anchor, heading), html in parts.items():
        if html:
            contents += f'<li><a href="#{anchor}">{show(heading)}</a></li>'
            body += f'<section><h2 id="{anchor}">{show(heading)}</h2>\n{html}</section>\n'
    nav = f'<nav aria-label="Contents"><ul>{contents}</ul></nav>\n'
    return document(title, f"<h1>{show(title)}</h1>\n{alarm_boxes(report.get('alarms') or [])}{nav}{body}")


def alarm_boxes(alarms: Sequence[dict]) -> str:
    """A box for each alarm: what, why, and what to do."""
    return "".join(
        f'<div class="alarm" role="alert"><p><b>Alarm: {show(x["what"])}</b></p><p>{show(x["why"])}</p>'
        f'<p><b>What to do:</b> {show(x["remedy"])}</p></div>\n' for x in alarms
    )


def audit_page(report: dict) -> str:
    """The file of an audit: alarms, the table, what it cannot tell. report: the content of audit.json."""
    names, title = [*report["models"]], f"Audit of {' and '.join(report['models'])}"
    difference = f"{names[-1]} − {names[0]}" if len(names) > 1 else ""
    caption = "Brackets hold 95 % intervals. So many prompts see a difference of that size 4 times in 5."
    table = metrics_table(caption, report["rows"], names, names[-1], difference)
    end = f"<h2>What this cannot tell you</h2><p>{show(report['cannot'])}</p>{facts(report['settings'])}"
    return document(title, f"<h1>{show(title)}</h1>\n{alarm_boxes(report['alarms'])}{table}{end}")


def answer_section(report: dict, compared: bool) -> str:
    """What each set says by its primary metric, a row each: what is gained, and what is paid."""
    last, against, rows = report["last"], report["against"], []
    for i, (title, task) in enumerate(report["tasks"].items(), 1):
        m = headline(task["metrics"])
        rows.append([f'<a href="#set-{i}">{show(title)}</a><small>{show(m["metric"])}</small>'])
        for name in (against, last)[not compared:]:
            rows[-1].append(f"{num(m['models'][name].get('value'))}<small>{interval(m['models'][name])}</small>")
        if compared:
            paid = show(price(task["metrics"], last, against)).replace("-&gt;", "→").replace(" -", " −")
            rows[-1] += [*in_cells(m["differences"][last]), paid.replace(", ", "<br>")]
    if not compared or not rows:
        return html_table(VALUES, ["set", last], rows)
    found = [headline(task["metrics"])["differences"][last] for task in report["tasks"].values()]
    counts = ", ".join(f"{show(v)} on {n}" for v, n in Counter(d["verdict"] for d in found).items())
    lead = f"<p>Is {show(last)} better than {show(against)}? By the primary metric of each set: {counts}, "
    lead += f"of {len(rows)}. The price stands beside it: {PRICE}</p>"
    return lead + html_table(VALUES, ["set", against, last, f"{last} − {against}", "verdict", "price"], rows)


def one_set(task: dict, names: Sequence[str], last: str, against: str, reference: str) -> str:
    """Everything about one set of prompts. against: "" where nothing is compared; reference: of the last one's KL."""
    count = f"{task['prompts']} prompts, {task['samples']} sampled answers to each"
    if (task.get("units") or task["prompts"]) < task["prompts"]:
        count += f"; {task['units']} are independent: turns of a conversation count as one, and so do equal prompts"
    if against and (w := task.get("wins")):
        count += f". {last} has the higher reward on {w['wins']}, the same on {w['ties']}, a lower on {w['losses']}: a "
        count += f"win rate of {num(w['rate'])} {interval(w)}, where a tie is half a win"
    metrics = sorted(task["metrics"], key=lambda m: [*GROUPS, m["group"]].index(m["group"]))
    head = f"{last} − {against}" if against else ""
    values = metrics_table(VALUES, metrics, names, last, head)
    parts = [f'<p class="quiet">{show(count)}.</p>', values]
    others = [name for name in names if name not in (last, against)] if against else []
    for name in others:
        inside = metrics_table(f"{name} − {against}", metrics, [], name, "difference")
        parts.append(f"<details><summary>{show(name)} against {show(against)}</summary>{inside}</details>")
    if reference in names and (best := task.get("optimum")):
        words = f"J* is the largest reward − β KL of any policy, at β = {best['beta']:g}. "
        parts.append(f"<p>{show(words + optimum_line(best, reference, last))}.</p>")
    parts.append(grid(plots_of(task, names), "flow"))
    if task.get("examples"):
        rule = RULE.format(last, f" less that of {against}" if against else "")
        parts.append(f'<h3>Samples, chosen by rule</h3>\n<p class="quiet">{show(rule)}</p>')
        parts += [sample_box(x, i == 0) for i, x in enumerate(task["examples"])]
    if task.get("attention"):
        parts.append(attention_maps(task["attention"]))
    return "\n".join(parts)


def metrics_table(caption: str, metrics: Sequence[dict], names: Sequence[str], model: str, difference: str) -> str:
    """One row per metric, sorted by group, under the groups' headings; ↑ and ↓ say which way is better.

    `names` get values with intervals, and each metric what it means. If `difference` (a heading) is given, `model`'s
    difference and verdict follow. A value that was tested by itself says by which p, and how much its n prompts see.
    """
    rows, above = [], None
    for m in metrics:
        if (group := m["group"]) != above:
            rows.append(GROUPS.get(group, group))
            above = group
        name = show(m["metric"]) + {1: " ↑", -1: " ↓"}.get(m["direction"], "")
        name = f"<b>{name}</b> (primary)" if m.get("primary") else name
        models = [m["models"][x] for x in names]
        words = next((x for start, x in MEANING.items() if m["metric"].startswith(start) and names), "")
        rows.append([f"{name}<small>{show(words)}</small>" if words else name])
        sees = [f"{x['n']} see {num(y)}" if (y := x.get("minimum_detectable")) else "" for x in models]
        notes = ["</small><small>".join(filter(None, (interval(x), chances(x), y))) for x, y in zip(models, sees)]
        rows[-1] += [f"{num(x.get('value'))}<small>{y}</small>" for x, y in zip(models, notes)]
        rows[-1] += in_cells(m["differences"][model]) if difference else []
    return html_table(caption, ["metric", *names] + ([difference, "verdict"] if difference else []), rows)


def plots_of(task: dict, names: Sequence[str]) -> list[str]:
    """The figures of one set."""
    plots = []
    reward = next((m["models"] for m in task["metrics"] if m["primary"]), None)
    kl = next((m["models"] for m in task["metrics"] if m["metric"].startswith("KL to reference")), None)
    if reward and kl:
        best = task.get("best_of_n") or []
        plots.append(captioned("Reward against KL", BEST, figures.frontier, reward, kl, best, names))
    if task.get("lengths"):
        note = "Some answers of each model, evenly spaced. A disc is larger where several fall together. "
        note += "r is Pearson’s correlation over all answers."
        plots.append(captioned("Reward against length", note, figures.lengths, task["lengths"], names))
    for name, c in (task.get("calibration") or {}).items():
        note = f"ECE {num(c.get('ece'))}. A perfectly calibrated model would show {num(c.get('expected'))} with these "
        note += f"{c['n']:,} tokens. Bars: Wilson 95 % intervals."
        plots.append(captioned(f"Calibration of {name}", note, figures.reliability, c))
    return plots


def sample_box(x: dict, opened: bool) -> str:
    """A prompt with every model's answer side by side, and where the last model departs from the reference."""
    answers = ""
    for name, a in x["answers"].items():
        notes = [f"reward {num(a['reward'])}"] if all_finite(a.get("reward")) else []
        notes += [] if a.get("stop") == "eos" else [f"did not end: {show(a.get('stop'))}"]
        answers += f"<div><b>{show(name)}</b> <small>{', '.join(notes)}</small>{passage(a['response'])}</div>"
    expected = f"<div><b>Expected</b>{passage(x['reference'])}</div>" if x.get("reference") else ""
    strip = kl_strip(x["strip"]) if x.get("strip") else ""
    asked = f'<div class="answers"><div><b>Prompt</b>{passage(x["prompt"])}</div>{expected}</div>'
    head = f"<summary>{show(x['rule'])}: prompt {x['index']}</summary>"
    return (f"<details{' open' if opened else ''}>{head}{asked}"
            f'<div class="answers">{answers}</div>{strip}</details>')


def attention_maps(a: dict) -> str:
    """A map for each layer and head."""
    maps = []
    for m in a["maps"]:
        which = "mean of the heads" if m.get("head") is None else f"head {m['head']}"
        maps.append(captioned(f"layer {m['layer']}, {which}", "", figures.heat_map, a["pieces"], m["weights"]))
    return (f'<h3>Attention of {show(a["model"])}, prompt {a["index"]} and its answer</h3><p class="quiet">'
            "A row is the token that looks, a column the token it looks at. Stronger colour: larger weight. A row "
            "sums to 1, except for weight on tokens before those shown. <b>Attention weights are not explanations by "
            "themselves</b>: a token that is looked at may not be used.</p>"
            f'<details><summary>{len(maps)} maps</summary>{grid(maps, "grid maps")}</details>')


def training_section(models: dict[str, dict]) -> str:
    """Learning curves of every stage."""
    html = ""
    for name, m in models.items():
        log = [{"step": x, c["name"]: y} for c in m.get("curves") or [] for x, y in c["points"]]
        html += f"<h3>{show(name)}</h3>{plots}" if (plots := curves_html({name: [log]})) else ""
    note = f'<p class="quiet">Where more than {POINTS} steps were logged, {POINTS} means of neighbours are drawn.</p>'
    return note + html if html else ""


def settings_section(report: dict) -> str:
    """What training cost, settings, seeds, fingerprints and versions."""
    prints = {}
    for name, m in report["models"].items():
        cost = [f"{x:,.0f} {k}" for k in COST if all_finite(x := (m.get("cost") or {}).get(k))]
        prints[name] = f"{', '.join([m['folder'], m.get('stage') or '–', *cost])}, sha256 {m['sha256']}"
    first = {"compared with": report["against"], "seed": report["seed"]}
    kl_to = {name: m["reference"] for name, m in report["models"].items() if m["reference"]}
    first["KL and J"] = "; ".join(f"{name}: to {reference}" for name, reference in kl_to.items())
    first |= {"evaluation took": f"{report['seconds']:.1f} s"} if all_finite(report.get("seconds")) else {}
    first["version of report.json"] = report["version"]
    parts = {"Models": prints, "Settings": first | (report.get("settings") or {}),
             "Environment": report.get("environment") or {}}
    return "".join(f"<h3>{name}</h3>{facts(values)}" for name, values in parts.items() if values)
