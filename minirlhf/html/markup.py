"""The building blocks of the page: its style, escaped text, numbers, verdicts, tables, figures in a grid.

Every text from data or model goes through `show`. So no text can become markup, break the encoding, or turn the
reading direction of the words around it. Numbers go through `num`. Proved by tests/html/test_page.py.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

from minirlhf.evaluation.answer import ends
from minirlhf.evaluation.panels import all_finite
from minirlhf.evaluation.table import number
from minirlhf.html.svg import dark_rules, visible

STYLE = Path(__file__).with_name("page.css")


def show(value: object) -> str:
    """Any text as HTML text or attribute. Nothing in it is markup, and invisible characters are spelled out."""
    return escape(visible(str(value)))


def num(x: float | None, signed: bool = False) -> str:
    """A number with a real minus sign; a dash if it is undefined."""
    return number(x, signed).replace("-", "−") if all_finite(x) else "–"


def interval(estimate: dict) -> str:
    """[low, high], or nothing where there is none."""
    return ends(estimate).replace("-", "−")


def chances(d: dict) -> str:
    """By which p the verdict goes: the one after Holm's correction, where there is one, with the other behind it."""
    words = [f"{name}&nbsp;{'&lt;&nbsp;0.001' if x < 0.001 else f'=&nbsp;{x:.3f}'}"
             for key, name in (("p_holm", "Holm’s p"), ("p", "p")) if all_finite(x := d.get(key))]
    return f"by {', '.join(words)}" if words else ""


def power(d: dict) -> str:
    """How large a difference a comparison without a result could have shown; "" where all prompts say the same."""
    if not all_finite(d.get("minimum_detectable")):
        return ""
    words = f"{d['n']} prompts could have shown a difference of {num(d['minimum_detectable'])}, 4 times in 5"
    if all_finite(d.get("prompts_needed"), d.get("value")):
        needed = float(f"{d['prompts_needed']:.2g}")  # two figures of an estimate are enough
        words += f"; the one seen would take about {needed:,.0f}"
    return words


def in_cells(d: dict) -> list[str]:
    """Two cells of a table: the difference, and the verdict with p and the difference that could have been shown."""
    verdict, note = d["verdict"], ""
    if verdict == "undefined" or not all_finite(d.get("value")):
        verdict, note = "undefined", show(d.get("undefined") or "no number to compare")
    elif verdict == "no difference shown":
        verdict, note = "not shown", power(d)
    kind = verdict if verdict in ("better", "worse") else "neither"
    notes = "".join(f"<small>{x}</small>" for x in (chances(d), note) if x)
    return [f"{num(d.get('value'), True)}<small>{interval(d)}</small>",
            f'<span class="verdict {kind}">{show(verdict)}</span>{notes}']


def captioned(title: str, note: str, draw: Callable[..., str], *data: object) -> str:
    """A figure, draw(title, *data), with title and note as HTML above it, where they wrap."""
    svg = draw(title, *data).replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
    return f"<figure><figcaption><b>{show(title)}</b>{show(note)}</figcaption>{svg}</figure>\n"


def grid(plots: Iterable[str], kind: str = "grid") -> str:
    """Figures side by side, as many as fit; an empty string if there are none."""
    inside = "".join(plots)
    return f'<div class="{kind}">{inside}</div>' if inside else ""


def html_table(caption: str, head: Sequence[str], rows: Iterable[str | Sequence[str]]) -> str:
    """A table, of which each row is a block of its own on a narrow screen: there a cell says what its column is.

    rows: the heading of those that follow, or the HTML of a row's cells; the first of these names the row.
    """
    columns, body = "".join(f'<th scope="col">{show(name)}</th>' for name in head), ""
    for row in rows:
        if isinstance(row, str):
            body += f'<tr><th scope="rowgroup" colspan="{len(head)}">{show(row)}</th></tr>\n'
        else:
            cells = "".join(f'<td data-of="{show(name)}">{cell}</td>' for name, cell in zip(head[1:], row[1:]))
            body += f'<tr><th scope="row">{row[0]}</th>{cells}</tr>\n'
    inside = f"<caption>{show(caption)}</caption><thead><tr>{columns}</tr></thead>\n<tbody>{body}</tbody>"
    box = f'<div class="scroll" tabindex="0" role="region" aria-label="{show(caption)}">'
    return f"{box}<table>{inside}</table></div>"


def facts(values: dict) -> str:
    """Names and values. A value that is not text, or is empty text, is shown as JSON."""
    rows = []
    for name, x in values.items():
        words = x if isinstance(x, str) and x else json.dumps(x, ensure_ascii=False)
        rows.append(f"<div><dt>{show(name)}</dt><dd>{show(words)}</dd></div>")
    return f'<dl class="facts">{"".join(rows)}</dl>'


def passage(text: str) -> str:
    """A text from data or model, with its own line breaks and its own reading direction."""
    return f'<div class="text" dir="auto">{show(text) or "<i>nothing</i>"}</div>'


def kl_strip(strip: dict) -> str:
    """The tokens of an answer, each coloured by the KL of policy to reference at its place."""
    top = max([k for k in strip["kl"] if all_finite(k)], default=0.0)
    boxes = ""
    for piece, k, r in zip(strip["pieces"], strip["kl"], strip.get("log_ratio") or [None] * len(strip["kl"])):
        share = max(k, 0.0) / top if all_finite(k) and top > 0 else 0.0
        kind = "token less" if all_finite(r) and r < 0 else "token"
        seen = piece.replace("\n", "↵\n") or "◌"  # line breaks, and a token that only begins a character
        tip = f"KL {num(k)} nats" + (f", log ratio {num(r, True)}" if all_finite(r) else "")
        boxes += f'<span class="{kind}" style="--k:{share:.2f}" title="{tip}">{show(seen)}</span>'
    note = "0 at every token: policy and reference are the same here."
    if top > 0:
        note = "".join(f'<span class="token" style="--k:{s}">{num(s * top)}</span>' for s in (0, 0.5, 1))
        note += ' nats. <span class="token less" style="--k:.5">Dashed</span>: '
        note += "the token is less likely than under the reference."
    return (f'<b>Where RL changed the policy</b><p class="strip" dir="auto">{boxes}</p>'
            f'<p class="quiet">KL of the policy to the reference at each token: {note}</p>')


def document(title: str, body: str, head: str = "") -> str:
    """The whole file. Its content policy forbids scripts and requests of any kind. head: HTML that goes there."""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">{head}
<title>{show(title)}</title>
<style>
{STYLE.read_text("utf-8").replace("DARK_RULES", dark_rules())}</style></head>
<body><main>
{body}
</main></body></html>
"""
