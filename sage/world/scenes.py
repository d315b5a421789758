"""Scenes of the emoji world: what stands where, drawn at random and painted from sprites.

Knows how scenes are sampled, laid out and painted. Knows nothing about captions or networks.
A scene is a small frozen record; painting it is deterministic.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFilter

from sage.world.backgrounds import GROUND_PLACES, paint_place
from sage.world.sprites import Atlas
from sage.world.words import Words, model_words, world_words

Option = TypeVar("Option")

SPLITS = ("train", "held_out")
HELD_OUT_PERCENT = 10
HELD_OUT_SALT = 42  # chosen so that the pairs spread evenly over things and places
VARIANTS = 16  # painted versions of each place
MOST = 4  # copies of a thing
MOST_CUTOUTS = 20_000  # a painter keeps; about 500 MB at 128 pixels
# Longer side of a sprite in units of the picture's side, for one thing and for several.
SIZES = {"small": 24 / 64, "normal": 37 / 64, "big": 47 / 64}
PAIR_SIZES = {"small": 19 / 64, "normal": 28 / 64, "big": 33 / 64}
SCALES = (0.96, 1.04)  # between which a scene's seed makes all its things larger or smaller
COUNT_SIZES = {2: 28 / 64, 3: 25 / 64, 4: 23 / 64}
# Sizes, left and right, that two things have room for.
SIZED_PAIRS = (
    ("big", "small"),
    ("small", "big"),
    ("small", "normal"),
    ("normal", "small"),
    ("small", "small"),
)
LIGHT_PLACE = 150  # mean grey value, of 255, above which a place counts as light
HALOS = {"light": (0.15, 0.32), "dark": (1.0, 0.45)}  # grey value and strength of the halo
# Kinds of scene: how many different things, how many copies, whether sizes are other than normal.
KINDS = {
    "one": (1, 1, False),
    "one_sized": (1, 1, True),
    "two_things": (2, 1, False),
    "two_sized": (2, 1, True),
    "two_same": (1, 2, False),
    "three_same": (1, 3, False),
    "four_same": (1, 4, False),
}
HELD_OUT_KINDS = {"one": 1.0}


@dataclass(frozen=True)
class Scene:
    """One scene; `things` go left to right, `count` copies only if there is a single thing.

    `size` is that of the first thing, `second_size` that of the one on its right.
    """

    things: tuple[str, ...]
    count: int
    size: str
    place: str
    style: str
    seed: int
    second_size: str = "normal"

    def __post_init__(self) -> None:
        words = world_words()
        for thing in self.things:
            _check("thing", thing, words.thing)
        for size in (self.size, self.second_size):
            _check("size", size, SIZES)
        _check("place", self.place, words.place)
        _check("style", self.style, words.style)
        if len(self.things) not in (1, 2):
            raise ValueError(f"A scene has 1 or 2 things, not {len(self.things)}.")
        if not 1 <= self.count <= MOST or (self.count > 1 and len(self.things) > 1):
            raise ValueError(f"count is {self.count}; allowed: 1 to 4, and 1 for two things.")

    @property
    def sizes(self) -> tuple[str, ...]:
        """Size of each of the things."""
        return (self.size, self.second_size)[: len(self.things)]


def _check(what: str, value: str, allowed: dict) -> None:
    """Raise ValueError if a name is not one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}; allowed: {tuple(allowed)}.")


def held_out(thing: str, place: str) -> bool:
    """Whether a pair is kept out of training: about one in ten, fixed by a checksum."""
    digest = hashlib.sha256(f"{HELD_OUT_SALT}: {thing}, {place}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def sample_scene(
    rng: np.random.Generator,
    split: str = "train",
    styles: Sequence[str] | None = None,
    words: Words | None = None,
    kinds: Mapping[str, float] | None = None,
) -> Scene:
    """Draw a scene of a split.

    Args:
        rng: Where chance comes from.
        split: "train" never holds a held-out pair of thing and place; in "held_out" every thing
            is in a place it was never seen in.
        styles: Names to draw from (default: all that `words` has).
        words: What there is to draw (default: what the built-in model knows).
        kinds: Weights of the kinds of scene that add up to 1 (default: those of `words`, and one
            thing in the held-out split).

    Raises:
        ValueError: For another split.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed: {SPLITS}.")
    words = words or model_words()
    kind = _weighted(rng, words.kinds)
    if kinds or split == "held_out":
        kind = _weighted(rng, kinds) if kinds else next(iter(HELD_OUT_KINDS))
    number, count, sized = KINDS[kind]
    things, place = _draw_pair(rng, words, number, split == "held_out")
    sizes = _draw_sizes(rng, number) if sized else ("normal", "normal")
    return Scene(
        things=things,
        count=count,
        size=sizes[0],
        place=place,
        style=_pick(rng, styles or tuple(words.style)),
        seed=int(rng.integers(2**31)),
        second_size=sizes[1],
    )


def _weighted(rng: np.random.Generator, kinds: Mapping[str, float]) -> str:
    """A kind, drawn by its weight."""
    drawn = int(np.searchsorted(np.cumsum(tuple(kinds.values())), rng.random(), side="right"))
    return tuple(kinds)[min(drawn, len(kinds) - 1)]


def _pick(rng: np.random.Generator, options: Sequence[Option]) -> Option:
    """One of the options, uniformly."""
    return options[int(rng.integers(len(options)))]


def _draw_sizes(rng: np.random.Generator, number: int) -> tuple[str, str]:
    """Sizes of a sized scene's things; "normal" where there is no second one."""
    return (("small", "big")[rng.integers(2)], "normal") if number == 1 else _pick(rng, SIZED_PAIRS)


def _draw_pair(
    rng: np.random.Generator, words: Words, number: int, want_held_out: bool
) -> tuple[tuple[str, ...], str]:
    """Different things and a place, all of whose pairs are held out, or none of them."""
    while True:
        chosen = (
            rng.choice(len(words.things), number, replace=False)
            if number > 1
            else (rng.integers(len(words.things)),)
        )
        things = tuple(words.things[int(i)].name for i in chosen)
        place = _pick(rng, words.places).name
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
    names = scene.things * scene.count
    if len(scene.things) == 2:
        sides = tuple(PAIR_SIZES[size] for size in scene.sizes)
        # On the ground, feet stand on one line.
        ys = tuple(0.66 + (PAIR_SIZES["normal"] - side) / 2 if ground else 0.52 for side in sides)
        xs = (0.27, 0.73)
    elif scene.count > 1:
        sides = (COUNT_SIZES[scene.count],) * scene.count
        xs, ys = _crowd(scene.count, ground)
    else:
        sides, xs = (SIZES[scene.size],), (0.5,)
        ys = (0.86 - sides[0] / 2 if ground else 0.52,)
    jitter = rng.uniform(-1, 1, (len(xs), 2)) * (0.02 if len(xs) > 1 else 0.055, 0.025)
    scale = float(rng.uniform(*SCALES))
    return tuple(
        Spot(name, x + float(dx), y + float(dy), side * scale)
        for name, x, y, side, (dx, dy) in zip(names, xs, ys, sides, jitter, strict=True)
    )


def _crowd(count: int, ground: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Centres, across and down, of 2 to 4 copies of a thing."""
    if count == 4:
        return (0.28, 0.72, 0.28, 0.72), (0.35, 0.35, 0.75, 0.75) if ground else (
            0.29,
            0.29,
            0.71,
            0.71,
        )
    if count == 3:
        return (0.5, 0.27, 0.73), (0.34, 0.72, 0.72) if ground else (0.29, 0.68, 0.68)
    return (0.27, 0.73), (0.66 if ground else 0.52,) * 2


# --- painting ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cutout:
    """A scaled sprite with halo and shadow, ready to lay over a picture; all uint8, square."""

    colour: np.ndarray  # [E, E, 3], premultiplied by alpha
    alpha: np.ndarray  # [E, E], of sprite, halo and shadow together
    mask: np.ndarray  # [E, E], of the sprite alone


def padding(side: int) -> int:
    """Pixels on each side of a sprite that its halo and shadow may take."""
    return max(2, round(side / 10))


def cut_out(sprite: np.ndarray, side: int, tone: str, grounded: bool) -> Cutout:
    """Scale a sprite (RGBA, straight) to `side` pixels and put a halo and a shadow behind it.

    The halo is dark on "light" and light on "dark" places, so that anything stands out anywhere.
    """
    pad = padding(side)
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


# What tells a cut-out from others: thing, style, side in pixels, tone, whether it stands.
CutoutKey = tuple[str, str, int, str, bool]


@dataclass(frozen=True)
class Piece:
    """A cut-out in its place: `left` and `top` of its square, in pixels of the picture."""

    key: CutoutKey
    left: int
    top: int


class Painter:
    """Paints scenes; loads the atlas once, keeps scaled sprites and painted places."""

    def __init__(self, size: int = 64, atlas: Atlas | None = None) -> None:
        """Paint pictures of `size` pixels a side, from `atlas` (default: the repository's)."""
        if not 16 <= size <= 256:
            raise ValueError(f"size is {size}; allowed: 16 to 256 pixels.")
        self.size = size
        self._atlas = atlas or Atlas.load()
        self._cutouts: dict[CutoutKey, Cutout] = {}
        self._places: dict[tuple[str, int], tuple[np.ndarray, str]] = {}

    def paint(self, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        """Paint a scene: picture uint8 [size, size, 3], mask of its things uint8 [size, size]."""
        picture = self.place(scene.place, scene.seed % VARIANTS)[0].copy()
        mask = np.zeros((self.size, self.size), np.uint8)
        for piece in self.pieces(scene):
            self._stamp(picture, mask, piece)
        return picture, mask

    def pieces(self, scene: Scene) -> tuple[Piece, ...]:
        """What is laid over the place, and where, those further back first."""
        _, tone = self.place(scene.place, scene.seed % VARIANTS)
        grounded = scene.place in GROUND_PLACES
        found = []
        for spot in layout(scene):
            side = max(4, round(spot.side * self.size))
            extent = side + 2 * padding(side)
            left, top = (round(at * self.size - extent / 2) for at in (spot.x, spot.y))
            found.append(Piece((spot.thing, scene.style, side, tone, grounded), left, top))
        return tuple(found)

    def place(self, place: str, variant: int) -> tuple[np.ndarray, str]:
        """Painted place and whether it is "light" or "dark", from the cache."""
        key = (place, variant)
        if key not in self._places:
            picture = paint_place(place, variant, self.size)
            middle = picture[self.size // 4 : -self.size // 4]
            self._places[key] = picture, "light" if middle.mean() > LIGHT_PLACE else "dark"
        return self._places[key]

    def cutout(self, key: CutoutKey) -> Cutout:
        """A sprite with its halo and shadow, from the cache."""
        if key not in self._cutouts:
            if len(self._cutouts) >= MOST_CUTOUTS:
                self._cutouts.clear()
            thing, style, side, tone, grounded = key
            sprite = self._atlas.sprite(thing, style)
            self._cutouts[key] = cut_out(sprite, side, tone, grounded)
        return self._cutouts[key]

    def _stamp(self, picture: np.ndarray, mask: np.ndarray, piece: Piece) -> None:
        """Lay a cut-out over the picture and the mask, clipped at the picture's rim."""
        cutout = self.cutout(piece.key)
        extent, left, top = len(cutout.alpha), piece.left, piece.top
        x, y = max(left, 0), max(top, 0)
        right, bottom = min(left + extent, self.size), min(top + extent, self.size)
        inside = (slice(y - top, bottom - top), slice(x - left, right - left))
        under = picture[y:bottom, x:right]
        # Premultiplied "over", in integers; + 127 rounds.
        clear = (255 - cutout.alpha[inside].astype(np.uint16))[..., None]
        seen = (under * clear + 127) // 255 + cutout.colour[inside]
        picture[y:bottom, x:right] = np.minimum(seen, 255)
        np.maximum(mask[y:bottom, x:right], cutout.mask[inside], out=mask[y:bottom, x:right])
