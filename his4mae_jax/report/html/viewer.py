"""The slice viewer: its controls and names, and what the template's script shows."""

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from his4mae_jax.data.volumes.grid import centres_nm
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.report.html import markup
from his4mae_jax.report.html.facts import Facts
from his4mae_jax.report.html.grids import Segmented
from his4mae_jax.report.html.slices import SHOWN, Slice

FILL, FAINT, THIN = 255, 110, 28  # alpha of a label, of the most frequent one, and of one that is only outlined


def layers(facts: Facts, segmented: Segmented, slices: Sequence[Slice]) -> list[dict[str, Any]]:
    """What can lie over the image: clusters, clusters in the colours of their classes, ground truth.

    Returns:
      For each "name", "of" (0: labels, 1: ground truth) and "looks" by id ("name", "rgb", "alpha").
    """
    look = facts.look
    most = _most(each.labels for each in slices)
    clusters = {}
    for i in look.names:
        if i not in look.ignored:
            thin = bool(facts.classes) and facts.classes.get(i) is None
            clusters[i] = _look(facts.described(i), look.colours[i], THIN if thin else FAINT if i == most else FILL)
    found = [{"name": "clusters", "of": 0, "looks": clusters}]
    if segmented.truth is None:
        return found
    colours = facts.class_colours(segmented.class_names)
    by_class = dict(zip(segmented.class_names, colours, strict=True))
    usual = _most(each.truth for each in slices)
    if facts.merged:
        common = segmented.class_names[usual] if usual < len(colours) else None
        merged = {
            i: _look(name, by_class[name], FAINT if name == common else FILL)
            for i, name in facts.classes.items()
            if name in by_class
        }
        found += [{"name": "clusters, merged by class", "of": 0, "looks": merged}] if merged else []
    truth = {
        i: _look(name, colours[i], FAINT if i == usual else FILL) for i, name in enumerate(segmented.class_names)
    }  # fmt: skip
    return [*found, {"name": "ground truth", "of": 1, "looks": truth}]


def _look(name, colour, alpha):
    return {"name": name, "rgb": list(bytes.fromhex(colour[1:])), "alpha": alpha}


def _most(arrays) -> int:
    """The most frequent id but for 255, which is that of voxels without annotation; of labels 0 is never shown."""
    counts = sum(np.bincount(array.ravel(), minlength=256) for array in arrays)
    return int(counts[:IGNORE].argmax())


def data(found: list[dict[str, Any]], segmented: Segmented, slices: Sequence[Slice]) -> dict[str, Any]:
    """The content of the page's JSON; see `template.page`."""
    axes: list[list[dict[str, Any]]] = [[], [], []]
    image = segmented.image
    for each in slices:
        high, wide = (min(image.shape[a], SHOWN) * image.voxel_size_nm[a] for a in range(3) if a != each.axis)
        position = (centres_nm(image, each.axis, each.index) - centres_nm(image, each.axis, 0)) / 1000
        axes[each.axis].append({
            "index": each.index, "um": f"{position:.3g}", "aspect": round(wide / high, 4), "wide": each.grey.shape[1],
            "grey": markup.image_uri(each.grey, 78),
            "labels": [markup.packed(x) for x in (each.labels, each.truth) if x is not None],
        })  # fmt: skip
    return {"axes": axes, "layers": found}


def section(found: list[dict[str, Any]], segmented: Segmented, slices: Sequence[Slice]) -> str:
    """The section of the page."""
    choices = "".join(f'<option value="{i}">{escape(layer["name"])}</option>' for i, layer in enumerate(found))
    lists = "".join(_names(i, layer) for i, layer in enumerate(found))
    first = next(each for each in slices if each.axis == 0)
    ratio = first.grey.shape[1] / first.grey.shape[0]
    controls = (
        '<div class="bar"><label>axis <select id="axis"><option value="0">z</option><option value="1">y</option>'
        '<option value="2">x</option></select></label><label>slice <input id="slice" type="range" min="0" value="0">'
        '</label><output id="place"></output></div>'
        f'<div class="bar"><label>over the image <select id="layer">{choices}</select></label>'
        '<label><select id="way"><option value="fill">filled</option><option value="lines">outlines</option></select>'
        '</label><label>opacity <input id="opacity" type="range" min="0" max="100" value="45"></label></div>'
    )
    stage = (
        f'<div id="stage" style="aspect-ratio:{ratio:.4f}"><img id="grey" alt="image">'
        '<canvas id="labels"></canvas></div>'
        f'<div class="side">{lists}<p class="note">Under the pointer: <b id="under"></b></p></div>'
    )
    cut = [n for n in segmented.image.shape if n > SHOWN]
    note = markup.note(f"The middle {SHOWN} voxels of longer axes.") if cut else ""
    return markup.section("slices", "Slices", f'{controls}{note}<div class="viewer">{stage}</div>')


def _names(number: int, layer: dict[str, Any]) -> str:
    """Names of a layer with boxes that hide them; ids of one name are one entry."""
    ids: dict[str, list[int]] = {}
    for i, look in layer["looks"].items():
        ids.setdefault(look["name"], []).append(i)
    count = Counter(look["name"] for look in layer["looks"].values())
    entries = []
    for name, own in ids.items():
        look = layer["looks"][own[0]]
        colour = f"#{bytes(look['rgb']).hex()}"
        more = f" ({count[name]} clusters)" if count[name] > 1 else ""
        box = f'<input type="checkbox" checked value="{" ".join(map(str, own))}">'
        entries.append(
            f"<li><label>{box}{markup.chip(colour, look['alpha'] == THIN)}{escape(name + more)}</label></li>"
        )
    entries.append('<li><button class="all">show all</button></li>')
    return f'<ul class="legend layer" id="layer{number}">{"".join(entries)}</ul>'
