"""Scenes of the emoji world: what stands where, drawn at random and painted from sprites.

Knows how scenes are sampled, laid out and painted. Knows nothing about captions or networks.
A scene is a small frozen record; painting it is deterministic.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from sage.world.backgrounds import GROUND_PLACES, paint_place
from sage.world.sprites import Atlas
from sage.world.vocabulary import (
    DEFAULT_STYLES,
    PLACE_BY_NAME,
    PLACES,
    SIZE_WORDS,
    STYLE_BY_NAME,
    THING_BY_NAME,
    THINGS,
)

SPLITS = ("train", "held_out")
HELD_OUT_PERCENT = 10
HELD_OUT_SALT = 42  # chosen so that the pairs spread evenly over things and places
VARIANTS = 16  # painted versions of each place
# Longer side of a sprite in units of the picture's side, for one thing and for several.
SIZES = {"small": 24 / 64, "normal": 37 / 64, "big": 47 / 64}
PAIR_SIZE, THREE_SIZE = 28 / 64, 25 / 64
LIGHT_PLACE = 150  # mean grey value, of 255, above which a place counts as light
HALOS = {"light": (0.15, 0.32), "dark": (1.0, 0.45)}  # grey value and strength of the halo
# How often each kind of scene is sampled: one thing first, so that things are learned quickly.
KINDS = ("one", "one_sized", "two_things", "two_same", "three_same")
KIND_WEIGHTS = (0.62, 0.10, 0.16, 0.06, 0.06)


@dataclass(frozen=True)
class Scene:
    """One scene; `things` go left to right, `count` copies only if there is a single thing."""

    things: tuple[str, ...]
    count: int
    size: str
    place: str
    style: str
    seed: int

    def __post_init__(self) -> None:
        for thing in self.things:
            _check("thing", thing, THING_BY_NAME)
        _check("size", self.size, SIZE_WORDS)
        _check("place", self.place, PLACE_BY_NAME)
        _check("style", self.style, STYLE_BY_NAME)
        if len(self.things) not in (1, 2):
            raise ValueError(f"A scene has 1 or 2 things, not {len(self.things)}.")
        if self.count not in (1, 2, 3) or (self.count > 1 and len(self.things) > 1):
            raise ValueError(f"count is {self.count}; allowed: 1 to 3, and 1 for two things.")


def _check(what: str, value: str, allowed: dict) -> None:
    """Raise ValueError if a name is not one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}; allowed: {tuple(allowed)}.")


def held_out(thing: str, place: str) -> bool:
    """Whether a pair is kept out of training: about one in ten, fixed by a checksum."""
    digest = hashlib.sha256(f"{HELD_OUT_SALT}: {thing}, {place}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def sample_scene(
    rng: np.random.Generator, split: str = "train", styles: Sequence[str] | None = None
) -> Scene:
    """Draw a scene of a split, in one of `styles` (default "flat" and "3d").

    "train" never holds a held-out pair of thing and place; "held_out" gives one-thing scenes
    whose pair is held out. Raises ValueError for another split.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed: {SPLITS}.")
    kind = KINDS[_weighted(rng)]
    if split == "held_out":
        kind = "one"
    things, place = _draw_pair(rng, 2 if kind == "two_things" else 1, split == "held_out")
    return Scene(
        things=things,
        count={"two_same": 2, "three_same": 3}.get(kind, 1),
        size=("small", "big")[rng.integers(2)] if kind == "one_sized" else "normal",
        place=place,
        style=_pick(rng, styles or DEFAULT_STYLES),
        seed=int(rng.integers(2**31)),
    )


_CUMULATIVE = np.cumsum(KIND_WEIGHTS)


def _weighted(rng: np.random.Generator) -> int:
    """Index of a kind, drawn by its weight."""
    drawn = int(np.searchsorted(_CUMULATIVE, rng.random(), side="right"))
    return min(drawn, len(KINDS) - 1)


def _pick(rng: np.random.Generator, options: Sequence) -> object:
    """One of the options, uniformly."""
    return options[int(rng.integers(len(options)))]


def _draw_pair(
    rng: np.random.Generator, number: int, want_held_out: bool
) -> tuple[tuple[str, ...], str]:
    """Different things and a place, all of whose pairs are held out, or none of them."""
    while True:
        chosen = (
            rng.choice(len(THINGS), number, replace=False)
            if number > 1
            else (rng.integers(len(THINGS)),)
        )
        things = tuple(THINGS[int(i)].name for i in chosen)
        place = _pick(rng, PLACES).name
        if all(held_out(thing, place) == want_held_out for thing in things):
            return things, place


# --- layout --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spot:
    """Where a sprite goes: its centre and its longer side, in units of the picture's side."""

    thing: str
    x: float
    y: float
    side: float


def layout(scene: Scene) -> tuple[Spot, ...]:
    """Spots of a scene's things, those further back first; jitter comes from the seed."""
    rng = np.random.default_rng(scene.seed)
    ground = scene.place in GROUND_PLACES
    if len(scene.things) == 2:
        names, xs, side = scene.things, (0.27, 0.73), PAIR_SIZE
        ys = (0.66 if ground else 0.52,) * 2
    elif scene.count == 3:
        names, xs, side = scene.things * 3, (0.5, 0.27, 0.73), THREE_SIZE
        ys = (0.34, 0.72, 0.72) if ground else (0.29, 0.68, 0.68)
    elif scene.count == 2:
        names, xs, side = scene.things * 2, (0.27, 0.73), PAIR_SIZE
        ys = (0.66 if ground else 0.52,) * 2
    else:
        names, xs, side = scene.things, (0.5,), SIZES[scene.size]
        ys = (0.86 - side / 2 if ground else 0.52,)
    jitter = rng.uniform(-1, 1, (len(xs), 2)) * (0.02 if len(xs) > 1 else 0.055, 0.025)
    side = side * float(rng.uniform(0.96, 1.04))
    return tuple(
        Spot(name, x + float(dx), y + float(dy), side)
        for name, x, y, (dx, dy) in zip(names, xs, ys, jitter, strict=True)
    )


# --- painting ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cutout:
    """A scaled sprite with halo and shadow, ready to lay over a picture; all uint8, square."""

    colour: np.ndarray  # [E, E, 3], premultiplied by alpha
    alpha: np.ndarray  # [E, E], of sprite, halo and shadow together
    mask: np.ndarray  # [E, E], of the sprite alone


def cut_out(sprite: np.ndarray, side: int, tone: str, grounded: bool) -> Cutout:
    """Scale a sprite (RGBA, straight) to `side` pixels and put a halo and a shadow behind it.

    The halo is dark on "light" and light on "dark" places, so that anything stands out anywhere.
    """
    pad = max(2, round(side / 10))
    scaled = Image.fromarray(sprite).convert("RGBa")
    if scaled.width != side:
        scaled = scaled.resize((side, side), Image.Resampling.LANCZOS)
    front = np.pad(np.asarray(scaled), ((pad, pad), (pad, pad), (0, 0))) / np.float32(255)
    mask = front[..., 3]
    front = np.minimum(front, mask[..., None])  # Lanczos may overshoot
    halo_value, strength = HALOS[tone]
    behind = _over(_layer(_blurred(mask, side / 22), halo_value, strength), _shadow(mask, grounded))
    whole = _over(front, behind)
    pixels = np.rint(whole * 255).astype(np.uint8)
    return Cutout(pixels[..., :3], pixels[..., 3], np.rint(mask * 255).astype(np.uint8))


def _over(front: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Porter and Duff's "over" for premultiplied float pictures [E, E, 4] in [0, 1]."""
    return front + (1 - front[..., 3:]) * behind


def _layer(alpha: np.ndarray, value: float, strength: float) -> np.ndarray:
    """Premultiplied layer [E, E, 4] of one grey value in [0, 1] with the alpha given."""
    alpha = np.clip(alpha * strength, 0, 1)
    return np.stack([alpha * value] * 3 + [alpha], axis=-1)


def _blurred(mask: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of a mask [E, E] in [0, 1], made a little wider than the mask itself."""
    soft = Image.fromarray(np.rint(mask * 255).astype(np.uint8))
    soft = soft.filter(ImageFilter.GaussianBlur(radius))
    return np.clip(np.asarray(soft) / np.float32(255) * 1.6, 0, 1)


def _shadow(mask: np.ndarray, grounded: bool) -> np.ndarray:
    """Soft flat shadow at the foot of a sprite, or an empty layer where nothing stands."""
    if not grounded:
        return np.zeros((*mask.shape, 4), np.float32)
    rows, columns = np.nonzero(mask > 0.25)
    y, x = np.mgrid[: len(mask), : len(mask)]
    half = max(2.0, 0.42 * (columns.max() - columns.min()))
    middle = (columns.max() + columns.min()) / 2
    distance = np.hypot((x - middle) / half, (y - rows.max()) / (0.22 * half + 0.8))
    return _layer(np.clip(1.35 - distance, 0, 1).astype(np.float32), 0.05, 0.42)


class Painter:
    """Paints scenes; loads the atlas once, keeps scaled sprites and painted places."""

    def __init__(self, size: int = 64, atlas: Atlas | None = None) -> None:
        """Paint pictures of `size` pixels a side, from `atlas` (default: the repository's)."""
        if not 16 <= size <= 256:
            raise ValueError(f"size is {size}; allowed: 16 to 256 pixels.")
        self.size = size
        self._atlas = atlas or Atlas.load()
        self._cutouts: dict[tuple[str, str, int, str, bool], Cutout] = {}
        self._places: dict[tuple[str, int], tuple[np.ndarray, str]] = {}

    def paint(self, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        """Paint a scene: picture uint8 [size, size, 3], mask of its things uint8 [size, size]."""
        background, tone = self._place(scene.place, scene.seed % VARIANTS)
        picture = background.copy()
        mask = np.zeros((self.size, self.size), np.uint8)
        grounded = scene.place in GROUND_PLACES
        for spot in layout(scene):
            side = max(4, round(spot.side * self.size))
            cutout = self._cutout(spot.thing, scene.style, side, tone, grounded)
            self._stamp(picture, mask, cutout, spot)
        return picture, mask

    def _place(self, place: str, variant: int) -> tuple[np.ndarray, str]:
        """Painted place and whether it is "light" or "dark", from the cache."""
        key = (place, variant)
        if key not in self._places:
            picture = paint_place(place, variant, self.size)
            middle = picture[self.size // 4 : -self.size // 4]
            self._places[key] = picture, "light" if middle.mean() > LIGHT_PLACE else "dark"
        return self._places[key]

    def _cutout(self, thing: str, style: str, side: int, tone: str, grounded: bool) -> Cutout:
        """Sprite at `side` pixels with its halo and shadow, from the cache."""
        key = (thing, style, side, tone, grounded)
        if key not in self._cutouts:
            self._cutouts[key] = cut_out(self._atlas.sprite(thing, style), side, tone, grounded)
        return self._cutouts[key]

    def _stamp(self, picture: np.ndarray, mask: np.ndarray, cutout: Cutout, spot: Spot) -> None:
        """Lay a cut-out over the picture and the mask, clipped at the picture's rim."""
        extent = len(cutout.alpha)
        left = round(spot.x * self.size - extent / 2)
        top = round(spot.y * self.size - extent / 2)
        x, y = max(left, 0), max(top, 0)
        right, bottom = min(left + extent, self.size), min(top + extent, self.size)
        inside = (slice(y - top, bottom - top), slice(x - left, right - left))
        under = picture[y:bottom, x:right]
        # Premultiplied "over", in integers; + 127 rounds.
        clear = (255 - cutout.alpha[inside].astype(np.uint16))[..., None]
        seen = (under * clear + 127) // 255 + cutout.colour[inside]
        picture[y:bottom, x:right] = np.minimum(seen, 255)
        np.maximum(mask[y:bottom, x:right], cutout.mask[inside], out=mask[y:bottom, x:right])
