"""The page around the sections: style, script, and the policy that keeps it from loading anything."""

import json
from collections.abc import Sequence
from html import escape

_STYLE = """
body{font:15px/1.5 sans-serif;margin:2em auto;max-width:1000px;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.5em 0}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;
overflow-wrap:anywhere}.wide{max-width:100%}#stage{position:relative;width:min(100%,640px)}
#stage img{width:100%;display:block;image-rendering:pixelated}#labels{position:absolute;inset:0;height:100%}
.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.3em 1.2em}
.chip{display:inline-block;width:1em;height:1em;margin-right:.4em;vertical-align:-.1em}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:1em}
.card{border-left:6px solid;padding:.2em .8em;background:#f7f7f7}.card img{width:64px;margin:2px}
.histogram{width:100%;height:40px}pre{background:#f4f4f4;padding:1em;overflow:auto}.stale{background:#fff3cd;padding:.6em}
"""
_SCRIPT = """
const axes = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
function show() {
  const slices = axes[at("axis").value], slice = slices[at("slice").value];
  at("grey").src = slice.grey;
  at("labels").src = slice.labels;
  at("stage").style.aspectRatio = slice.aspect;
  at("grey").style.height = "100%";
  at("place").textContent = "zyx"[at("axis").value] + " = " + slice.index;
  at("labels").style.opacity = at("opacity").value / 100;
}
function choose() {
  const count = axes[at("axis").value].length;
  at("slice").max = count - 1;
  at("slice").value = Math.floor(count / 2);
  show();
}
at("axis").addEventListener("change", choose);
for (const id of ["slice", "opacity"]) at(id).addEventListener("input", show);
choose();
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(title: str, notes: Sequence[str], sections: Sequence[str], slices: list[list[dict]]) -> str:
    """The whole page.

    Args:
      title: a text, which is escaped.
      notes: texts that warn of what is out of date.
      sections: HTML.
      slices: for each axis the slices: "index", "aspect" (width over height), and data URIs "grey" and "labels".
    """
    data = json.dumps(slices).replace("<", "\\u003c")
    warnings = "".join(f'<p class="stale">{escape(note)}</p>' for note in notes)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1>{warnings}{''.join(sections)}"
        f'<script type="application/json" id="data">{data}</script><script>{_SCRIPT}</script></body></html>\n'
    )
