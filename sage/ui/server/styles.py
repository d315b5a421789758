"""Styles and fonts inside the page itself, so that a browser need not ask for each of them.

Gradio's page loads the style sheet of every component on its own: forty requests for a few bytes
each. What the components on this page need is put into its head; a link that is switched off stands
for each file, and Gradio's loader takes it for one that is there already. Where Gradio's files are
not as expected nothing is put in, and its loader does what it always does.
"""

import base64
import json
import re
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from pathlib import Path

import gradio

FRONTEND = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
FONTS = Path(__file__).resolve().parents[3] / "assets" / "ui" / "fonts"
FONT = "Sage Sans"
WEIGHTS = {"regular": 400, "bold": 700}

_ENTRY = re.compile(rb'<script type="module"[^>]* src="\./assets/(index-[\w-]+\.js)"></script>')
_OWN_SHEET = re.compile(rb'<link rel="stylesheet"[^>]* href="\./assets/index-[\w-]+\.css">')
_SHEET = re.compile(r'<img class="sage-(?:sheet|trunks)"[^>]* src="(gradio_api/[^"]+)"')
_FILES = re.compile(r"m\.f=(\[.*?\])")
_LOADED = re.compile(r"import\(`\./([\w-]+\.js)`\)[^`]*?__vite__mapDeps\(\[([\d,]*)\]\)")
_COMPONENT = r"[,{{]{}:{{[^{{}}]*?component:\(\)=>[^`]*`\./[\w-]+\.js`[^`]*?mapDeps\(\[([\d,]*)\]\)"


def with_styles(page: bytes, kinds: Collection[str]) -> bytes:
    """A page of Gradio's with fonts, and with the style sheets of its components.

    Args:
        page: HTML as Gradio renders it.
        kinds: Types of the components on it, as its configuration names them.
    """
    entry = _ENTRY.search(page)
    sheets = sheets_of(entry.group(1).decode(), frozenset(kinds)) if entry else {}
    own = f"<style>{font_faces()}{''.join(sheets.values())}</style>{_stand_ins(sheets)}".encode()
    if _OWN_SHEET.search(page):  # after Gradio's own rules, which those of components refine
        return _OWN_SHEET.sub(lambda found: found.group(0) + own, page, count=1)
    return page.replace(b"</head>", own + b"</head>", 1)


def _stand_ins(names: Collection[str]) -> str:
    """A script that adds links which are switched off.

    Written as HTML they would be fetched all the same: some browsers look for addresses before
    they look at `disabled`.
    """
    if not names:
        return ""
    made = "Object.assign(document.createElement('link'),{rel:'stylesheet',disabled:true,href})"
    hrefs = json.dumps([f"./assets/{name}" for name in names])
    return f"<script>for(const href of {hrefs})document.head.append({made})</script>"


def with_pictures(page: bytes, values: Iterable[object]) -> bytes:
    """A page that asks for its first pictures at once, not when its scripts have built it.

    Args:
        page: HTML as Gradio renders it.
        values: Of its components; sheets of pictures are found in their HTML.
    """
    found = [address for value in values for address in _SHEET.findall(str(value))]
    links = "".join(f'<link rel="preload" as="image" href="{address}">' for address in found)
    return page.replace(b"<head>", b"<head>" + links.encode(), 1)


@cache
def font_faces() -> str:
    """The page's fonts as CSS."""
    return "".join(_face(name, weight) for name, weight in WEIGHTS.items())


def _face(name: str, weight: int) -> str:
    data = base64.b64encode((FONTS / f"{name}.woff2").read_bytes()).decode()
    return (
        f'@font-face{{font-family:"{FONT}";font-weight:{weight};font-display:swap;'
        f"src:url(data:font/woff2;base64,{data}) format('woff2')}}"
    )


@cache
def sheets_of(entry: str, kinds: frozenset[str]) -> dict[str, str]:
    """The style sheets that a page loads for its components: their text by file name.

    Args:
        entry: Name of the script that the page starts.
        kinds: Types of the components.
    """
    found: dict[str, str] = {}
    for name in dict.fromkeys(_names(entry, kinds)):
        path = FRONTEND / name
        text = path.read_text(encoding="utf-8") if path.is_file() else "url("
        if "url(" not in text:  # an address is read against that of its own file
            found[name] = text
    return found


def _names(entry: str, kinds: Collection[str]) -> Iterator[str]:
    """Names of style sheets in the order of loading: the frame's, then the components'."""
    text, files = _script(entry)
    yield from _sheets(files)
    for name in [script for script, _ in _LOADED.findall(text)]:
        text, files = _script(name)
        for script, numbers in _LOADED.findall(text):
            if script.startswith("Blocks-"):
                yield from _sheets(_numbered(numbers, files))
        for kind in sorted(kinds):
            for numbers in re.findall(_COMPONENT.format(kind), text):
                yield from _sheets(_numbered(numbers, files))


def _numbered(numbers: str, files: list[str]) -> list[str]:
    return [files[int(number)] for number in numbers.split(",") if number]


def _sheets(files: list[str]) -> list[str]:
    return [name for name in files if name.endswith(".css")]


@cache
def _script(name: str) -> tuple[str, list[str]]:
    """A script's text, and the files that it may load."""
    path = FRONTEND / name
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    files = _FILES.search(text)
    names = json.loads(files.group(1)) if files else []
    return text, [name.removeprefix("./") for name in names]
