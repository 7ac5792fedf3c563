"""Valid inputs, spoilt in a way that knows their structure."""

from __future__ import annotations

import copy
import datetime
import json
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import strategies as st

from .readers import BORDER, Reader, seeds


def nested(depth: int, kind: str = "list") -> Any:
    """Return lists or mappings inside each other."""
    data: Any = 1
    for _ in range(depth):
        data = [data] if kind == "list" else {"nodes": data}
    return data


def aliases(levels: int) -> bytes:
    """Return a few lines of YAML that stand for 9 to the power of ``levels`` values."""
    lines = [b"\nx0: &x0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    for level in range(1, levels + 1):
        lines.append(b"x%d: &x%d [%s]" % (level, level, b", ".join([b"*x%d" % (level - 1)] * 9)))
    return b"\n".join(lines) + b"\n"


NASTY: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 65, 10**18, 10**30, 10**400, -(10**400), 0.5, -0.0, 1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", "-", "all", "zeroize", "tanh", "os.system", "x" * 5000,
    "\ud800", "\x00", "é\u2028", "nodes", "{", "[", '{"_type": "x"}', "[" * 5000, "1e999", "embedded", "/", "..",
    [], {}, [[]], [{}], {"": 0}, {"_type": "builtins.eval"}, {"__instance_type__": ["os", "system"]}, [1] * 100,
    nested(60), nested(70), nested(200), nested(80, "dict"), datetime.date(2026, 1, 1), b"\xff",
)  # fmt: skip
NASTY_TEXT: tuple[bytes, ...] = (
    aliases(11), aliases(1),
    b"\na: &a {k: 1, l: 2}\nb: &b {<<: [*a, *a, *a, *a]}\nc: {<<: [*b, *b, *b, *b]}\n",
    b"\nnodes: &n [*n]\n", b"\nchoices: &n {a: *n}\n", b" !!int ''", b" !!float ''", b" !!bool maybe",
    b" !!timestamp x", b" !!binary x", b" !!set {a, b}", b" !!omap [a: 1]",
    b" !!python/object/apply:os.system ['true']",
    b"0x" + b"f" * 600, b"1:" * 300 + b"1", b"9" * 5000, b"-", b"? [a]\n: b\n", b"\x00", b"\xff\xfe",
    b"\xef\xbb\xbf", b"%YAML 9.9\n---\n", b"\n--- \n---\n", b"[" * 3000, b"{" * 2000, b"- " * 2000,
    b'{"nodes":' * 900, b"'", b'"', b"\t", b"2026-99-99", b"<<: 1\n", b"&a", b"*a", b"\\ud800", b"\r", b"\x85",
    b"\xe2\x80\xa8", b"", b"\n\n",
)  # fmt: skip
NASTY_CELLS: tuple[bytes, ...] = (
    b"nan", b"inf", b"1e39", b"-1e999", b"1_0", b"0x1", b"\xd9\xa3", b"\xff", b"", b"B-", b"I-LOC", b"X-LOC", b"O",
    b"S-A", b"E-A", b"<unk>", b"<eos>", b"-DOCSTART-", b"\xc2\xa0", b"\x00", b"9" * 5000, b"word" * 300, b"1",
    b"\xed\xa0\x80", b"auto", b"loose", b"bioes", b"utf-16", b"hex", b"idna", b"rot13", b"utf-7", b"no-such",
    b"punycode", b"\r",
)  # fmt: skip

# In C where PyYAML was built with it: coverage makes the writer in Python ten times as slow.
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

plain_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda parts: st.one_of(st.lists(parts, max_size=3), st.dictionaries(st.text(max_size=4), parts, max_size=3)),
    max_leaves=6,
)


def inputs(reader: Reader) -> st.SearchStrategy[bytes]:
    """Inputs for a reader: valid ones with up to three changes to their parts, and some with changes to their bytes."""
    whole = {"tree": _trees, "text": _texts, "bytes": lambda one: st.sampled_from(seeds(one))}[reader.kind](reader)
    return st.one_of(whole, _spoilt(whole, NASTY_TEXT if reader.kind == "tree" else NASTY_CELLS))


@st.composite
def _trees(draw: Callable[..., Any], reader: Reader) -> bytes:
    document = copy.deepcopy(draw(st.sampled_from(reader.documents)))
    for _ in range(draw(st.integers(1, 3))):
        document = _changed(draw, document)
    writer = draw(st.sampled_from([_as_json, _as_yaml]))
    text = writer(document)
    if reader.name == "setting (--set)":
        return b"name=" + text
    return text + (BORDER + seeds(reader)[0].partition(BORDER)[2] if reader.name == "experiment" else b"")


def _changed(draw: Callable[..., Any], document: Any) -> Any:
    """Change one value of a document: replace it, drop it, repeat it, rename its key; also inside texts of JSON."""
    places = _places(document)
    # A copy: the next change may be to a part of it.
    value = copy.deepcopy(draw(st.one_of(st.sampled_from(NASTY), plain_values)))
    if not places:
        return value
    holder, key = draw(st.sampled_from(places))
    inner = holder[key]
    if isinstance(inner, str) and inner[:1] in ("{", "[") and draw(st.booleans()):
        try:
            holder[key] = _as_json(_changed(draw, json.loads(inner))).decode()
            return document
        except (ValueError, RecursionError):
            pass
    change = draw(st.sampled_from(["replace", "replace", "drop", "repeat", "rename", "wrap"]))
    if change == "replace":
        holder[key] = value
    elif change == "drop":
        del holder[key]
    elif change == "wrap":
        holder[key] = draw(
            st.sampled_from([[inner], {"nodes": inner}, {key: inner} if key != "" else [inner], str(inner)[:999]])
        )
    elif isinstance(holder, list):
        holder.insert(key, copy.deepcopy(inner))
    else:
        holder[
            draw(st.one_of(st.text(max_size=6), st.sampled_from(list(holder)), st.sampled_from(["_type", "__x__"])))
        ] = inner
    return document


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a document; of a deep one those near its top."""
    found: list[tuple[Any, Any]] = []
    waiting = [(document, 0)]
    while waiting and len(found) < 200:
        one, depth = waiting.pop()
        keys = list(one) if isinstance(one, dict) else list(range(len(one))) if isinstance(one, list) else []
        found += [(one, key) for key in keys]
        waiting += [(one[key], depth + 1) for key in keys if depth < 8]
    return found


def _as_json(document: Any) -> bytes:
    try:
        return json.dumps(document, default=str).encode()
    except (ValueError, RecursionError):  # too deep, or a number with too many digits
        return b'{"nodes": ' + b"9" * 4000 + b"}"


def _as_yaml(document: Any) -> bytes:
    try:
        return yaml.dump(document, Dumper=_Dumper, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError, yaml.YAMLError):
        return b"nodes: " + b"- " * 500


@st.composite
def _texts(draw: Callable[..., Any], reader: Reader) -> bytes:
    lines = draw(st.sampled_from(seeds(reader))).split(b"\n")
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.integers(0, len(lines) - 1))
        cells = lines[number].split(b" ")
        place = draw(st.integers(0, len(cells) - 1))
        new = draw(st.one_of(st.sampled_from(NASTY_CELLS), st.binary(max_size=6), st.text(max_size=4).map(_utf8)))
        change = draw(st.sampled_from(["cell", "cell", "more", "less", "line", "twice", "gone"]))
        if change == "cell":
            cells[place] = new
        elif change == "more":
            cells.insert(place, new)
        elif change == "less":
            del cells[place]
        lines[number] = b" ".join(cells)
        if change == "line":
            lines.insert(number, new)
        elif change == "twice":
            lines.insert(number, lines[number])
        elif change == "gone" and len(lines) > 1:
            del lines[number]
    return b"\n".join(lines)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@st.composite
def _spoilt(draw: Callable[..., Any], whole: st.SearchStrategy[bytes], pieces: tuple[bytes, ...]) -> bytes:
    """Cut, overwrite, repeat or insert some bytes."""
    data = draw(whole)
    start = draw(st.integers(0, len(data)))
    stop = draw(st.integers(start, min(len(data), start + 64)))
    new = draw(st.one_of(st.sampled_from(pieces), st.binary(max_size=8)))
    change = draw(st.sampled_from(["insert", "overwrite", "cut", "end", "repeat", "flip"]))
    if change == "end":
        return data[:start]
    if change == "flip" and start < len(data):
        return data[:start] + bytes([data[start] ^ (1 << draw(st.integers(0, 7)))]) + data[start + 1 :]
    middle = {"insert": new + data[start:stop], "overwrite": new, "cut": b"", "repeat": data[start:stop] * 3}
    return data[:start] + middle.get(change, data[start:stop]) + data[stop:]
