"""The building blocks of the page: its style, escaped text, numbers, verdicts, tables, figures in a grid.

Every text from data or model goes through `show`. So no text can become markup, break the encoding, or turn the
reading direction of the words around it. Numbers go through `num`. Proved by tests/html/test_page.py.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from html import escape

from minirlhf.evaluation.answer import ends
from minirlhf.evaluation.panels import all_finite
from minirlhf.evaluation.table import number
from minirlhf.html.svg import dark_rules, visible

STYLE = """
:root{color-scheme:light dark;--ground:#ffffff;--ink:#1f2328;--muted:#57606a;--faint:#d0d7de;--panel:#f6f8fa;
--link:#0b5cad;--good:#009e73;--bad:#d55e00;--heat:213 94 0}
@media screen and (prefers-color-scheme:dark){
:root{--ground:#14171a;--ink:#e6e8eb;--muted:#a3abb4;--faint:#454c54;--panel:#1d2125;--link:#7ab8f5}
DARK_RULES}
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{margin:0 auto;padding:1rem 12px 4rem;max-width:76rem;background:var(--ground);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","PingFang SC","Microsoft YaHei",
"Noto Sans CJK SC",sans-serif;overflow-wrap:anywhere}h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0 1rem}
h2{font-size:1.3rem;margin:2.6rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--faint)}
h3{font-size:1.05rem;margin:1.8rem 0 .5rem}p,li,dd{max-width:46rem}a{color:var(--link)}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;padding:0;list-style:none}
small,figcaption,.quiet{color:var(--muted);font-size:.85rem;line-height:1.4}table small{font-size:.95em}
.alarm{border:2px solid var(--bad);border-radius:6px;padding:.3rem 1rem;margin:1rem 0}
.alarm p{margin:.4rem 0;max-width:none}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.88rem;line-height:1.35;width:100%}
caption{text-align:left;color:var(--muted);padding-bottom:.4rem}
th,td{padding:.35rem .7rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--faint);
overflow-wrap:break-word}th:first-child{padding-left:0}th[scope=row]{font-weight:500;width:30%}
th[scope=rowgroup]{color:var(--muted);padding:1rem 0 .2rem;border-bottom-color:var(--muted)}
td{white-space:nowrap;font-variant-numeric:tabular-nums}td small,th small{display:block;font-weight:400}
td:has(.verdict){white-space:normal;min-width:10.8rem}
.verdict{border-left:.5rem solid var(--faint);padding-left:.4rem;font-weight:600}.better{border-color:var(--good)}
.worse{border-color:var(--bad)}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20.5rem),1fr));gap:1.4rem 1.6rem;
margin:1.2rem 0}.flow{columns:20.5rem 3;column-gap:1.6rem;margin:1.2rem 0}.flow figure{padding-bottom:1.4rem}
figure{margin:0;min-width:0;break-inside:avoid}figcaption{margin-bottom:.5rem}
figcaption b{display:block;color:var(--ink);font-size:.95rem}svg{display:block;width:100%;max-width:27rem;height:auto}
.maps figure{overflow-x:auto}.maps svg{width:auto;max-width:none}
details{margin:.7rem 0;border:1px solid var(--faint);border-radius:6px;padding:0 .8rem}
details[open]{padding-bottom:.8rem}summary{cursor:pointer;padding:.55rem 0;font-weight:600}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,15rem),1fr));gap:.8rem}
.text{white-space:pre-wrap;background:var(--panel);border:1px solid var(--faint);border-radius:4px;
margin:.2rem 0 .6rem;padding:.5rem .7rem;max-height:22rem;overflow:auto;font-size:.92rem;unicode-bidi:isolate}
.strip{white-space:pre-wrap;line-height:2.2;margin:.4rem 0}
.token{background:rgb(var(--heat)/calc(var(--k)*.55));border:1px solid var(--faint);border-radius:3px;
border-bottom:calc(1px + var(--k)*4px) solid rgb(var(--heat));padding:1px;margin:0 1px;color:var(--ink);
-webkit-box-decoration-break:clone;box-decoration-break:clone}.less{border-bottom-style:dashed}.facts{margin:0}
.facts div{break-inside:avoid;display:flex;gap:.6rem;border-bottom:1px solid var(--faint);font-size:.88rem;
padding:.2rem 0}.facts dt{color:var(--muted);flex:0 0 40%}.facts dd{margin:0;flex:1;min-width:0}
@media (min-width:48rem){.facts,.limits{columns:2;column-gap:2rem}.limits li{break-inside:avoid}}
@media screen and (max-width:59.99rem){thead{display:none}table,caption,tbody,th,td{display:block}
tr{display:grid;grid-template-columns:1fr 1fr 1fr;gap:.2rem .6rem;padding:.5rem 0;
border-bottom:1px solid var(--faint)}
th[scope],td,td:has(.verdict){border:0;padding:0;width:auto;min-width:0;white-space:normal}th{grid-column:1/-1}
td:last-child{grid-column:span 2}td::before{content:attr(data-of);display:block;color:var(--muted);font-size:.8rem}
.verdict{white-space:nowrap}}
@page{margin:12mm}
@media print{html{font-size:8pt}body{max-width:none;padding:0;font-size:1rem;line-height:1.35}nav{display:none}
.text{max-height:none;overflow:visible;padding:.15rem .5rem;margin:.1rem 0 .3rem}.scroll{overflow:visible}
h2,h3,summary,summary+*,section>.quiet,figcaption,caption,thead,tr:has([scope=rowgroup]){break-after:avoid}
.strip,.strip+p{break-before:avoid}h2{margin:1rem 0 .2rem;padding-top:.3rem}h3{margin:.9rem 0 .2rem}
table{font-size:.8rem;line-height:1.25}th,td{padding:.1rem .3rem}th[scope=rowgroup]{padding-top:.4rem}
section:nth-of-type(n+2) td small{display:inline;margin-left:.5em}th[scope=row]{width:24%}
tr,.answers>div{break-inside:avoid}
section:nth-of-type(n+3) th{&[scope=row]{width:17%}small{display:none}}details .scroll{columns:2}
details th[scope=row][scope]{width:30%!important}
.grid,.flow{display:grid;columns:auto;grid-template-columns:repeat(5,1fr);gap:.8rem;margin:.6rem 0}
.flow figure{padding:0}figcaption{line-height:1.2;font-size:.75rem}.maps svg{width:100%}
.maps{grid-template-columns:repeat(8,1fr);gap:.4rem}p,li,dd{max-width:none}.facts{columns:3}
.strip,.token{print-color-adjust:exact;-webkit-print-color-adjust:exact}details{border:0;padding:0;margin:.1rem 0}
.strip{line-height:1.6;margin:.1rem 0}summary{padding:.1rem 0}p,.strip+p{margin:.3rem 0}details[open]{padding:0}
details:not([open])::details-content{content-visibility:visible;block-size:auto}}
"""


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
<style>{STYLE.replace("DARK_RULES", dark_rules())}</style></head>
<body><main>
{body}
</main></body></html>
"""
