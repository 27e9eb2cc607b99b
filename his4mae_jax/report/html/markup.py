"""Pieces of HTML. Every text that is not ours goes through `html.escape`; pictures are data URIs."""

import base64
import io
import zlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

EXACT = 100  # pixels a side up to which images are enlarged on the page, where artefacts of JPEG would show


def section(anchor: str, title: str, body: str) -> str:
    """One section; body is HTML."""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{body}</section>'


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A table of texts, which are escaped; without a head where all of it is empty."""
    lines = ["<tr>" + "".join(f"<th>{escape(str(cell))}</th>" for cell in head) + "</tr>"] if any(head) else []
    lines += ["<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows]
    return f'<div class="table"><table>{"".join(lines)}</table></div>'


def chip(colour: str, thin: bool = False) -> str:
    """A small square of a colour, or its outline."""
    fill = "transparent" if thin else colour
    return f'<span class="chip" style="background:{escape(fill)};border-color:{escape(colour)}"></span>'


def note(text: str) -> str:
    """A paragraph of small print; a text, which is escaped."""
    return f'<p class="note">{escape(text)}</p>'


def image_uri(values: np.ndarray, quality: int = 80) -> str:
    """Embeds values in [0, 1], grey (rows, columns) or RGB (rows, columns, 3): a small image as PNG, others as JPEG."""
    picture = Image.fromarray(np.round(255 * np.clip(values, 0, 1)).astype(np.uint8))
    kind, options = ("png", {}) if max(picture.size) <= EXACT else ("jpeg", {"quality": quality, "subsampling": 0})
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def packed(labels: np.ndarray) -> str:
    """uint8 labels as base64 of a zlib stream, row by row: smaller than a PNG, and exact in every browser."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(labels, np.uint8).tobytes(), 6)).decode()
