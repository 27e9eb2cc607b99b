"""The page around the sections: style, script, and the policy that keeps it from loading anything."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

_STYLE = """
:root{--line:#d9dee3;--soft:#f5f7f9;--ink:#1d252c;--dim:#5b6770;--accent:#0b6bb0}
*{box-sizing:border-box}[hidden]{display:none!important}html{scroll-padding-top:3.4em;scroll-behavior:smooth}
body{font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;margin:0;color:var(--ink);background:#fff}
header,section{max-width:1120px;margin:0 auto;padding:0 1.2em}header{padding-top:1.4em}
h1{font-size:1.7em;margin:0 0 .1em;overflow-wrap:anywhere}h2{font-size:1.3em;margin:1.8em 0 .5em}
h3{font-size:1.02em;margin:1.1em 0 .3em}.lead,.note{color:var(--dim);margin:.2em 0 .7em}.note{font-size:.92em}
nav{position:sticky;top:0;z-index:2;background:#fffffff2;border-bottom:1px solid var(--line);margin-top:.9em}
nav div{max-width:1120px;margin:0 auto;padding:.5em 1.2em;display:flex;flex-wrap:wrap;gap:.2em 1.2em}
nav a{color:var(--accent);text-decoration:none}nav a:hover{text-decoration:underline}
.table{overflow-x:auto}table{border-collapse:collapse;margin:.4em 0}
td,th{border-bottom:1px solid var(--line);padding:.25em 1.1em .25em 0;text-align:left;vertical-align:top;
overflow-wrap:anywhere}th{color:var(--dim);font-weight:600}
details{margin:.8em 0}summary{cursor:pointer;color:var(--accent)}.wide{max-width:100%}
.bar{display:flex;flex-wrap:wrap;gap:.5em 1.4em;align-items:center;margin:.4em 0}.bar label{white-space:nowrap}
.bar input[type=range]{vertical-align:middle;width:220px}.viewer{display:flex;flex-wrap:wrap;gap:1.2em}
#stage{position:relative;flex:1 1 420px;max-width:760px;align-self:flex-start;background:#000}
#stage img,#stage canvas{position:absolute;inset:0;width:100%;height:100%;image-rendering:pixelated}
#stage img{image-rendering:auto}.side{flex:1 1 220px}
.legend{list-style:none;padding:0;margin:.3em 0;display:flex;flex-wrap:wrap;gap:.15em 1.2em}
.side .legend{flex-direction:column}.legend label{cursor:pointer}
.chip{display:inline-block;width:.95em;height:.95em;margin:0 .45em 0 .2em;vertical-align:-.1em;border:2px solid;
border-radius:3px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:1em}
.card{border-left:6px solid;border-radius:4px;padding:.5em .9em .6em;background:var(--soft)}
.card h3{margin:.1em 0 .4em;display:flex;justify-content:space-between;align-items:center;gap:.6em;min-height:1.9em}
button{font:inherit;font-size:.85em;color:var(--accent);background:#fff;border:1px solid var(--line);
border-radius:4px;padding:.1em .6em;cursor:pointer;flex:none}
.number{color:var(--dim);font-weight:400;font-size:.9em}
.card ul{margin:.4em 0 0;padding-left:1.1em;font-size:.92em}
.crops{display:grid;grid-template-columns:repeat(3,1fr);gap:4px}.crops img{width:100%;display:block}
.histogram{width:100%;height:42px;display:block;margin-top:.5em}
.ramp{height:5px;background:linear-gradient(90deg,#000,#fff);border:1px solid var(--line)}
.fields{display:grid;grid-template-columns:4.2em repeat(var(--columns),1fr);gap:4px;align-items:center}
.fields img{width:100%;display:block;image-rendering:pixelated}.fields .name{color:var(--dim);font-size:.92em}
.maps{display:flex;flex-wrap:wrap;gap:1em}.maps figure{margin:0;flex:1 1 380px;max-width:520px}
figcaption{color:var(--dim);font-size:.92em}.scatter{width:100%;background:var(--soft);border-radius:4px}
.scatter path{fill:none;stroke-width:4;stroke-linecap:round;stroke-opacity:.55}
.chart{width:100%;max-width:30rem}.chart text{fill:var(--dim);font-size:12px}.chart path,.chart polyline{fill:none}
.chart polyline{stroke:#0072b2;stroke-width:2}.chart .axis,.chart .mark{stroke:var(--dim)}
.chart .mark{stroke-dasharray:2 3}
pre{background:var(--soft);padding:1em;overflow:auto;border-radius:4px}
.stale{background:#fff3cd;border-left:5px solid #e0a800;padding:.5em .8em;margin:.6em 0}
footer{height:4em}@media print{nav{display:none}}
"""
_SCRIPT = """
const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
let turn = 0, shown = null;
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
function slice() { return data.axes[at("axis").value][at("slice").value]; }
function layer() { return data.layers[at("layer").value]; }
function hidden() {
  const boxes = document.querySelectorAll('#layer' + at("layer").value + ' input:not(:checked)');
  return new Set([...boxes].flatMap(box => box.value.split(" ").map(Number)));
}
function paint() {
  const canvas = at("labels"), context = canvas.getContext("2d"), {ids, wide, high, looks} = shown;
  canvas.width = wide; canvas.height = high;
  const picture = context.createImageData(wide, high), off = hidden(), lines = at("way").value === "lines";
  for (let p = 0; p < ids.length; p++) {
    const id = ids[p], look = looks[id];
    if (!look || off.has(id)) continue;
    const x = p % wide;
    const edge = (x && ids[p - 1] !== id) || (x < wide - 1 && ids[p + 1] !== id) || (p >= wide && ids[p - wide] !== id)
      || (p + wide < ids.length && ids[p + wide] !== id);
    picture.data.set([...look.rgb, edge ? 255 : lines ? 0 : look.alpha], 4 * p);
  }
  context.putImageData(picture, 0, 0);
}
async function show() {
  const now = ++turn, one = slice(), over = layer();
  at("grey").src = one.grey;
  at("stage").style.aspectRatio = one.aspect;
  at("place").textContent = "zyx"[at("axis").value] + " = " + one.index + ", " + one.um + " µm";
  at("labels").style.opacity = at("opacity").value / 100;
  document.querySelectorAll(".layer").forEach(list => list.hidden = list.id !== "layer" + at("layer").value);
  const ids = await unpack(one.labels[over.of]);
  if (now !== turn) return;
  shown = {ids, wide: one.wide, high: ids.length / one.wide, looks: over.looks};
  paint();
}
function choose() {
  const count = data.axes[at("axis").value].length;
  at("slice").max = count - 1;
  at("slice").value = Math.floor(count / 2);
  return show();
}
function name(event) {
  const frame = at("labels").getBoundingClientRect();
  const x = Math.floor((event.clientX - frame.left) / frame.width * shown.wide);
  const y = Math.floor((event.clientY - frame.top) / frame.height * shown.high);
  const look = shown.looks[shown.ids[y * shown.wide + x]];
  at("under").textContent = look ? look.name : "";
}
function only(layer, id) {
  at("layer").value = layer;
  document.querySelectorAll("#layer" + layer + " input").forEach(
    box => box.checked = id === null || box.value.split(" ").includes(String(id)));
  return show();
}
if (data.axes.length) {
  at("axis").addEventListener("change", choose);
  for (const id of ["slice", "layer", "opacity"]) at(id).addEventListener("input", show);
  at("way").addEventListener("input", paint);
  document.querySelectorAll(".layer input").forEach(box => box.addEventListener("input", paint));
  document.querySelectorAll(".all").forEach(b => b.addEventListener("click", () => only(at("layer").value, null)));
  document.querySelectorAll("[data-only]").forEach(b => b.addEventListener("click", () => {
    only(0, b.dataset.only);
    at("slices").scrollIntoView();
  }));
  at("labels").addEventListener("mousemove", event => shown && name(event));
  at("labels").addEventListener("mouseleave", () => at("under").textContent = "");
  choose();
}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(
    title: str,
    lead: str,
    notes: Sequence[str],
    sections: Sequence[tuple[str, str, str]],
    slices: dict[str, Any],
) -> str:
    """The whole page.

    Args:
      title, lead: texts, which are escaped.
      notes: texts that warn of what is out of date.
      sections: (anchor, title, HTML) of each.
      slices: what the script shows: "axes", for each axis the slices with "index", "um", "aspect" (width over
        height), "wide" (pixels), "grey" (a data URI) and "labels" (`markup.packed`); and "layers", each with "of"
        (which of these labels) and "looks" ("name", "rgb" and "alpha" by id).
    """
    data = json.dumps(slices, separators=(",", ":")).replace("<", "\\u003c")
    warnings = "".join(f'<p class="stale">{escape(note)}</p>' for note in notes)
    links = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name, _ in sections)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        f'content="{_POLICY}"><style>{_STYLE}</style></head><body><header><h1>{escape(title)}</h1>'
        f'<p class="lead">{escape(lead)}</p>{warnings}</header><nav><div>{links}</div></nav>'
        f"{''.join(body for *_, body in sections)}<footer></footer>"
        f'<script type="application/json" id="data">{data}</script><script>{_SCRIPT}</script></body></html>\n'
    )
