"""Build `assets/world/`: fetch emoji packages, draw them, and write one atlas with attribution.

    python -m sage.world.build_atlas [--out FOLDER] [--packages FOLDER]

Needs `npm` and `resvg-py`; neither is needed to train or to run the page. Knows packages and
licences; knows nothing about scenes.
"""

import argparse
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sage.world.sprites import ATLAS_FOLDER, CELL
from sage.world.words import world_words

DRAWN = 256  # pixels; sprites are drawn large, cropped to their outline, then reduced
MARGIN = 1  # pixels left free on each side of a cell
COLUMNS = 28


@dataclass(frozen=True)
class Source:
    """Where the pictures of a style come from, and under which terms."""

    package: str
    version: str
    licence: str
    licence_url: str
    credit: str
    home: str

    @property
    def archive(self) -> str:
        """File name that `npm pack` gives the package."""
        return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"


SOURCES: dict[str, Source] = {
    "flat": Source(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "MIT",
        "https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE",
        "Fluent Emoji, Copyright (c) Microsoft Corporation",
        "https://github.com/microsoft/fluentui-emoji",
    ),
    "3d": Source(
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "MIT",
        "https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE",
        "Fluent Emoji, Copyright (c) Microsoft Corporation",
        "https://github.com/microsoft/fluentui-emoji",
    ),
    "noto": Source(
        "@iconify-json/noto",
        "1.2.9",
        "Apache-2.0",
        "https://github.com/googlefonts/noto-emoji/blob/main/svg/LICENSE",
        "Noto Emoji, Copyright Google Inc.",
        "https://github.com/googlefonts/noto-emoji",
    ),
    "twemoji": Source(
        "@iconify-json/twemoji",
        "1.2.5",
        "CC-BY-4.0",
        "https://creativecommons.org/licenses/by/4.0/",
        "Twemoji, Copyright Twitter, Inc. and other contributors",
        "https://github.com/jdecked/twemoji",
    ),
}


def fetch(source: Source, folder: Path) -> Path:
    """Return the package's archive in `folder`, downloading it with `npm pack` if missing."""
    archive = folder / source.archive
    if not archive.exists():
        wanted = f"{source.package}@{source.version}"
        subprocess.run(["npm", "pack", "--silent", wanted], cwd=folder, check=True)
    return archive


def _svg_text(icons: dict, name: str) -> str:
    """Wrap an Iconify body in a complete SVG document, following aliases."""
    while name in icons.get("aliases", {}):
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="{box}">{icon["body"]}</svg>'


def _draw_svg(text: str) -> Image.Image:
    """Draw an SVG document at `DRAWN` pixels."""
    import resvg_py  # only this script needs it

    png = resvg_py.svg_to_bytes(svg_string=text, width=DRAWN, height=DRAWN)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def _from_code(table: dict[str, str] | set[str], code: str) -> str:
    """Key of a code point in a package, some of which add the variation selector fe0f."""
    for key in (code, f"{code}-fe0f"):
        if key in table:
            return key
    raise ValueError(f"The package has no picture of code point {code!r}.")


def draw_style(source: Source, archive: Path, codes: dict[str, str]) -> dict[str, Image.Image]:
    """Pictures of all things (`codes`: name -> code point) from one package, RGBA."""
    with tarfile.open(archive) as package:
        if source.package.startswith("@iconify-json/"):
            icons, names = (
                json.loads(_read(package, f"package/{name}.json")) for name in ("icons", "chars")
            )
            return {
                thing: _draw_svg(_svg_text(icons, names[_from_code(names, code)]))
                for thing, code in codes.items()
            }
        files = {Path(name).stem: name for name in package.getnames() if name.endswith(".webp")}
        return {
            thing: Image.open(io.BytesIO(_read(package, files[_from_code(files, code)]))).convert(
                "RGBA"
            )
            for thing, code in codes.items()
        }


def _read(package: tarfile.TarFile, name: str) -> bytes:
    """A file of a package."""
    if (handle := package.extractfile(name)) is None:
        raise ValueError(f"{name!r} of the package is no file.")
    return handle.read()


def fit(picture: Image.Image) -> np.ndarray:
    """Crop to the visible part and centre it in a cell, uint8 [96, 96, 4], straight alpha.

    Pillow resamples RGBA in premultiplied form, so transparent pixels do not bleed.
    """
    alpha = picture.getchannel("A").point([255 if value > 16 else 0 for value in range(256)])
    cropped = picture.crop(alpha.getbbox())
    scale = (CELL - 2 * MARGIN) / max(cropped.size)
    width, height = (max(1, round(side * scale)) for side in cropped.size)
    cell = Image.new("RGBA", (CELL, CELL))
    corner = (CELL - width) // 2, (CELL - height) // 2
    cell.paste(cropped.resize((width, height), Image.Resampling.LANCZOS), corner)
    pixels = np.asarray(cell).copy()
    pixels[pixels[..., 3] < 3] = 0  # invisible colours would only cost bytes
    return pixels


def build(packages: Path) -> tuple[np.ndarray, dict]:
    """Draw everything; return the atlas uint8 [H, W, 4] and its manifest."""
    words = world_words()
    codes = {thing.name: thing.code for thing in words.things}
    drawn = {}
    for style in words.styles:
        source = SOURCES[style.name]
        drawn[style.name] = draw_style(source, fetch(source, packages), codes)
    keys = [(thing, style.name) for thing in codes for style in words.styles]
    rows = -(-len(keys) // COLUMNS)
    atlas = np.zeros((rows * CELL, COLUMNS * CELL, 4), np.uint8)
    sprites = []
    for place, (thing, style) in enumerate(keys):
        row, column = divmod(place, COLUMNS)
        y, x = row * CELL, column * CELL
        atlas[y : y + CELL, x : x + CELL] = fit(drawn[style][thing])
        sprites.append({"thing": thing, "style": style, "row": row, "column": column})
    return atlas, _manifest(sprites, codes)


def _manifest(sprites: list[dict], codes: dict[str, str]) -> dict:
    """What lies where and where it came from."""
    styles = {
        name: {
            "package": source.package,
            "version": source.version,
            "licence": source.licence,
            "credit": source.credit,
            "home": source.home,
        }
        for name, source in SOURCES.items()
    }
    return {
        "image": "atlas.webp",
        "cell": CELL,
        "styles": styles,
        "code_points": codes,
        "sprites": sprites,
    }


ATTRIBUTION_HEAD = """# Attribution

`atlas.webp` holds pictures from the works below; `manifest.json` names style, package, version
and Unicode code point of each. **Changes:** every picture was drawn as a bitmap, cropped to its
visible part, reduced to fit 96 x 96 pixels, and placed in one file. Scenes painted from them, and
pictures made by models trained on such scenes, are further adaptations.

| style | work | licence | package |
| --- | --- | --- | --- |
"""

ATTRIBUTION_FOOT = """
The text of the Apache License 2.0 is in `LICENSE` at the top of this repository, that of
CC-BY-4.0 at the address in the table. About half of the synonyms in `assets/world/words.json`
are tags of [emojibase-data](https://github.com/milesj/emojibase) 17.0.0 (MIT, Copyright (c)
2017-2019 Miles Johnson), cleaned by hand; the others were added by hand.

## MIT License (Fluent Emoji, Copyright (c) Microsoft Corporation; emojibase-data)

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def attribution() -> str:
    """Text of ATTRIBUTION.md."""
    rows = [
        f"| {name} | [{source.credit}]({source.home}) | [{source.licence}]({source.licence_url}) "
        f"| {source.package} {source.version} |\n"
        for name, source in SOURCES.items()
    ]
    return ATTRIBUTION_HEAD + "".join(rows) + ATTRIBUTION_FOOT


def write(atlas: np.ndarray, manifest: dict, folder: Path) -> None:
    """Write atlas.webp (lossless), manifest.json and ATTRIBUTION.md into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(atlas).save(
        folder / manifest["image"], lossless=True, quality=100, method=6, exact=True
    )
    digest = hashlib.sha256((folder / manifest["image"]).read_bytes()).hexdigest()
    text = json.dumps({**manifest, "sha256": digest}, indent=1) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    (folder / "ATTRIBUTION.md").write_text(attribution(), encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ATLAS_FOLDER, help="folder to write")
    parser.add_argument("--packages", type=Path, help="folder that keeps the npm archives")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        atlas, manifest = build(args.packages or Path(temporary))
    write(atlas, manifest, args.out)
    print(f"{len(manifest['sprites'])} sprites in {args.out}")


if __name__ == "__main__":
    main()
