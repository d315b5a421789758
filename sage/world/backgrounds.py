"""Paints the places of the emoji world with numpy: gradients, horizons and a few plain shapes.

Knows colours and shapes. Knows nothing about sprites, captions or styles. Everything is in
unit coordinates (x to the right, y down, both in [0, 1]), so any size gives the same picture.
"""

from collections.abc import Callable

import numpy as np

from sage.world.words import world_words

# Places with something to stand on; on the others, things float around the middle.
GROUND_PLACES = frozenset(
    {"meadow", "beach", "sunset", "night", "snow", "desert", "table", "city", "forest"}
    | {"mountains", "autumn", "room", "moon"}
    | {"rain", "farm", "jungle", "kitchen", "library", "cave", "volcano", "stage", "garden"}
    | {"ice", "road"}
)


class Canvas:
    """A picture in the making, float32 [size, size, 3] in [0, 255], with soft-edged brushes."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        """Start black, at `size` pixels a side; `rng` gives every variation."""
        self.size = size
        self.rng = rng
        axis = (np.arange(size, dtype=np.float32) + 0.5) / size
        self.x, self.y = np.meshgrid(axis, axis)
        self.pixels = np.zeros((size, size, 3), np.float32)

    def vary(self, centre: float, spread: float) -> float:
        """Random number within `spread` of `centre`."""
        return float(centre + spread * self.rng.uniform(-1, 1))

    def blend(self, mask: np.ndarray, colour: tuple, strength: float = 1.0) -> None:
        """Mix a colour (RGB, 0 to 255) in where mask [size, size] is near 1."""
        weight = (np.clip(mask, 0, 1) * strength)[..., None]
        self.pixels += weight * (np.asarray(colour, np.float32) - self.pixels)

    def edge(self, distance: np.ndarray, softness: float = 1.0) -> np.ndarray:
        """Mask that is 1 where distance (unit lengths) is positive, soft over `softness` pixels."""
        return np.clip(distance * self.size / softness + 0.5, 0, 1)

    def gradient(self, top: tuple, bottom: tuple, start: float = 0.0, stop: float = 1.0) -> None:
        """Fill the rows below `start` with a vertical gradient that ends at `stop`."""
        t = np.clip((self.y - start) / (stop - start), 0, 1)[..., None]
        self.blend_between(self.edge(self.y - start) if start > 0 else None, top, bottom, t)

    def blend_between(
        self, mask: np.ndarray | None, first: tuple, last: tuple, t: np.ndarray
    ) -> None:
        """Mix in the colour at t [size, size, 1] between two colours, where the mask says so."""
        start, stop = np.asarray(first, np.float32), np.asarray(last, np.float32)
        weight = 1.0 if mask is None else mask[..., None]
        self.pixels += weight * (start + t * (stop - start) - self.pixels)

    def disc(self, x: float, y: float, radius: float, colour: tuple, softness: float = 1.0) -> None:
        """Filled circle."""
        self.blend(self.edge(radius - np.hypot(self.x - x, self.y - y), softness), colour)

    def ellipse(self, x: float, y: float, wide: float, high: float, colour: tuple) -> None:
        """Filled ellipse with half axes `wide` and `high`."""
        distance = 1 - np.hypot((self.x - x) / wide, (self.y - y) / high)
        self.blend(self.edge(distance * min(wide, high)), colour)

    def hill(self, height: np.ndarray | float, colour: tuple) -> None:
        """Fill everything below the curve y = height."""
        self.blend(self.edge(self.y - height), colour)

    def wave(self, level: float, amplitude: float, cycles: float) -> np.ndarray:
        """Curve around `level` with a random phase, one height for each pixel."""
        phase = self.rng.uniform(0, 2 * np.pi)
        return level + amplitude * np.sin(2 * np.pi * cycles * self.x + phase)

    def box(self, left: float, top: float, right: float, bottom: float, colour: tuple) -> None:
        """Filled rectangle."""
        sides = (self.x - left, right - self.x, self.y - top, bottom - self.y)
        self.blend(self.edge(np.minimum.reduce(sides)), colour)

    def triangle(self, x: float, top: float, bottom: float, half: float, colour: tuple) -> None:
        """Triangle standing on `bottom`, its point at (x, top), `half` as wide to each side."""
        slope = half / (bottom - top)
        side = (self.y - top) * slope - np.abs(self.x - x)
        self.blend(self.edge(np.minimum(side, bottom - self.y)), colour)

    def dots(self, count: int, top: float, bottom: float, radius: float, colour: tuple) -> None:
        """Scatter small discs between two heights."""
        for _ in range(count):
            x, y = self.rng.uniform(0.02, 0.98), self.rng.uniform(top, bottom)
            self.disc(x, y, radius * self.rng.uniform(0.6, 1.3), colour)

    def cloud(self, x: float, y: float, scale: float, colour: tuple = (255, 255, 255)) -> None:
        """Three puffs and a flat foot."""
        for dx, dy, radius in ((-0.09, 0.01, 0.05), (0.0, -0.02, 0.075), (0.09, 0.01, 0.055)):
            self.ellipse(
                x + dx * scale, y + dy * scale, 1.3 * radius * scale, radius * scale, colour
            )

    def result(self) -> np.ndarray:
        """The finished picture, uint8 [size, size, 3]."""
        return np.clip(np.rint(self.pixels), 0, 255).astype(np.uint8)


def _meadow(c: Canvas) -> None:
    """Blue sky, sun, rolling grass with small flowers."""
    level = c.vary(0.5, 0.04)
    c.gradient((118, 190, 245), (205, 234, 252), stop=level)
    c.disc(c.rng.choice((0.14, 0.86)), 0.14, 0.08, (255, 226, 105))
    c.hill(c.wave(level - 0.03, 0.03, 0.8), (139, 205, 98))
    c.hill(c.wave(level + 0.1, 0.03, 0.6), (116, 188, 78))
    c.dots(7, 0.72, 0.97, 0.014, (255, 250, 240))
    c.dots(4, 0.72, 0.97, 0.014, (255, 214, 80))


def _beach(c: Canvas) -> None:
    """Sky, a strip of turquoise sea with foam, bright sand."""
    level = c.vary(0.34, 0.03)
    c.gradient((140, 208, 250), (222, 242, 252), stop=level)
    c.disc(c.vary(0.8, 0.1), 0.12, 0.075, (255, 232, 120))
    c.gradient((42, 165, 196), (96, 212, 214), start=level, stop=level + 0.2)
    shore = c.wave(level + 0.2, 0.02, 0.9)
    c.hill(shore, (250, 252, 250))
    c.hill(shore + 0.03, (246, 223, 165))
    c.blend(c.edge(c.y - 0.8, 20), (232, 204, 140), 0.7)
    c.dots(6, 0.66, 0.96, 0.012, (214, 184, 124))


def _sunset(c: Canvas) -> None:
    """Purple to orange sky, half a sun on the horizon, dark violet land."""
    level = c.vary(0.66, 0.03)
    c.gradient((104, 62, 140), (240, 110, 90), stop=0.42)
    glow = np.clip((c.y - 0.36) / 0.3, 0, 1)[..., None]
    c.blend_between(c.edge(c.y - 0.3, 12), (240, 116, 88), (255, 196, 92), glow)
    c.disc(c.vary(0.5, 0.22), level - 0.02, 0.17, (255, 236, 140))
    c.hill(c.wave(level, 0.012, 1.0), (92, 52, 98))
    c.hill(c.wave(level + 0.14, 0.02, 0.6), (70, 40, 84))


def _night(c: Canvas) -> None:
    """Dark blue sky with a moon and stars over dark hills."""
    c.gradient((14, 22, 66), (46, 64, 128), stop=0.75)
    c.dots(16, 0.03, 0.55, 0.011, (244, 244, 220))
    x = c.vary(0.5, 0.36)
    c.disc(x, 0.16, 0.09, (250, 242, 196))
    c.disc(x + 0.045, 0.14, 0.078, (22, 32, 82))
    c.hill(c.wave(0.68, 0.03, 0.7), (28, 48, 76))
    c.hill(c.wave(0.8, 0.02, 0.9), (22, 38, 60))


def _snow(c: Canvas) -> None:
    """Pale sky, white hills, bare snowy firs, falling flakes."""
    c.gradient((150, 182, 212), (206, 222, 236), stop=0.55)
    for x in (c.vary(0.1, 0.04), c.vary(0.9, 0.04)):
        c.triangle(x, 0.3, 0.58, 0.09, (88, 128, 132))
        c.triangle(x, 0.27, 0.4, 0.06, (236, 244, 250))
    c.hill(c.wave(0.56, 0.025, 0.6), (228, 238, 248))
    c.hill(c.wave(0.72, 0.02, 0.8), (246, 250, 255))
    c.dots(16, 0.02, 0.6, 0.014, (255, 255, 255))


def _desert(c: Canvas) -> None:
    """Hot yellow sky over orange dunes."""
    c.gradient((252, 214, 140), (255, 240, 200), stop=0.5)
    c.disc(c.vary(0.22, 0.08), 0.16, 0.09, (255, 250, 225))
    c.hill(c.wave(0.5, 0.05, 0.7), (226, 164, 92))
    c.hill(c.wave(0.62, 0.05, 0.6), (212, 142, 72))
    c.hill(c.wave(0.78, 0.04, 0.8), (196, 124, 60))


def _sea(c: Canvas) -> None:
    """Open water to the horizon, rows of waves."""
    level = c.vary(0.36, 0.03)
    c.gradient((176, 214, 242), (226, 240, 248), stop=level)
    c.cloud(c.vary(0.25, 0.1), 0.14, 0.9)
    c.cloud(c.vary(0.8, 0.08), 0.2, 0.7)
    c.gradient((62, 134, 206), (18, 72, 150), start=level)
    for row in np.arange(level + 0.08, 1.0, 0.12):
        line = c.wave(row, 0.012, 3.0)
        c.blend(c.edge(0.012 - np.abs(c.y - line)), (150, 202, 240), 0.7)


def _underwater(c: Canvas) -> None:
    """Turquoise depth with light rays, bubbles, weeds and a sandy floor."""
    c.gradient((70, 200, 215), (8, 84, 130), stop=0.95)
    for x in (c.vary(0.2, 0.08), c.vary(0.5, 0.1), c.vary(0.8, 0.08)):
        ray = 0.05 + 0.03 * c.y - np.abs(c.x - x - 0.18 * c.y)
        c.blend(c.edge(ray, 3) * np.clip(1 - 1.3 * c.y, 0, 1), (190, 245, 240), 0.35)
    c.hill(c.wave(0.88, 0.02, 0.9), (190, 178, 130))
    for x in (c.vary(0.07, 0.03), c.vary(0.17, 0.03), c.vary(0.92, 0.04)):
        stem = x + 0.02 * np.sin(18 * c.y + 20 * x)
        tall = np.minimum(0.016 - np.abs(c.x - stem), c.y - 0.62)
        c.blend(c.edge(np.minimum(tall, 0.94 - c.y)), (30, 150, 90))
    c.dots(8, 0.08, 0.75, 0.016, (206, 244, 246))


def _space(c: Canvas) -> None:
    """Black with a purple nebula, stars and a ringed planet."""
    c.pixels[:] = (12, 8, 26)
    cloud = np.hypot(c.x - c.vary(0.5, 0.3), 1.4 * (c.y - c.vary(0.55, 0.25)))
    c.blend(np.clip(1 - cloud / 0.6, 0, 1), (92, 40, 128), 0.75)
    c.dots(22, 0.02, 0.98, 0.01, (250, 248, 255))
    x, y = c.rng.choice((0.14, 0.86)), c.vary(0.16, 0.04)
    c.disc(x, y, 0.085, (226, 148, 98))
    ring = np.abs(np.hypot((c.x - x) / 0.15, (c.y - y - 0.2 * (c.x - x)) / 0.04) - 1)
    c.blend(c.edge(0.008 - ring * 0.04), (240, 214, 170))


def _table(c: Canvas) -> None:
    """Cream wall and the planks of a wooden table top."""
    level = c.vary(0.36, 0.03)
    c.pixels[:] = (238, 226, 204)
    c.hill(level, (186, 122, 70))
    c.blend(c.edge(c.y - 0.8, 24), (160, 98, 52), 0.6)
    for row in np.linspace(level + 0.16, 1.0, 4)[:3]:
        c.blend(c.edge(0.007 - np.abs(c.y - row)), (120, 72, 38), 0.9)
        grain = c.wave(row - 0.08, 0.008, 1.3)
        c.blend(c.edge(0.004 - np.abs(c.y - grain)), (150, 92, 50), 0.6)
    c.blend(c.edge(0.012 - np.abs(c.y - level)), (140, 86, 46))


def _city(c: Canvas) -> None:
    """Skyline with lit windows behind a grey street."""
    c.gradient((168, 196, 220), (226, 230, 234), stop=0.6)
    left = -0.02
    while left < 1:
        wide, top = c.vary(0.15, 0.03), c.vary(0.3, 0.16)
        shade = c.vary(1, 0.14)
        c.box(left, top, left + wide, 0.72, tuple(shade * v for v in (112, 122, 146)))
        for x in np.arange(left + 0.035, left + wide - 0.02, 0.05):
            for y in np.arange(top + 0.05, 0.62, 0.085):
                c.box(x, y, x + 0.022, y + 0.035, (250, 226, 150))
        left += wide + 0.012
    c.hill(0.7, (92, 94, 102))
    c.hill(0.74, (112, 114, 122))
    for x in np.arange(c.rng.uniform(-0.2, 0.0), 1, 0.3):
        c.box(x, 0.93, x + 0.16, 0.955, (238, 238, 232))


def _forest(c: Canvas) -> None:
    """Tall dark trunks and firs on mossy ground."""
    c.gradient((150, 196, 160), (196, 222, 176), stop=0.6)
    for x in np.arange(c.vary(0.02, 0.04), 1.05, 0.16):
        c.triangle(x + 0.07, c.vary(0.06, 0.05), 0.62, 0.12, (74, 134, 96))
    for x in np.arange(c.vary(0.05, 0.06), 1.1, 0.21):
        c.box(x - 0.015, 0.6, x + 0.015, 0.74, (88, 62, 44))
        for step, half in ((0.0, 0.075), (0.16, 0.1), (0.32, 0.125)):
            top = 0.08 + step
            c.triangle(x, top, top + 0.24, half, (34, 92, 58))
    c.hill(c.wave(0.72, 0.015, 0.9), (86, 112, 58))
    c.hill(c.wave(0.86, 0.015, 0.7), (70, 94, 48))


def _mountains(c: Canvas) -> None:
    """Grey-blue peaks with white caps above a green valley."""
    c.gradient((160, 200, 240), (226, 238, 250), stop=0.6)
    for x, top in ((c.vary(0.2, 0.07), 0.2), (c.vary(0.82, 0.07), 0.24), (c.vary(0.52, 0.06), 0.1)):
        shade = c.vary(0, 8)
        c.triangle(x, top, 0.76, 0.4, (108 + shade, 118 + shade, 142 + shade))
        c.triangle(x, top, top + 0.15, 0.4 * 0.15 / (0.76 - top), (250, 252, 255))
    c.hill(c.wave(0.72, 0.02, 0.7), (112, 148, 96))
    c.hill(c.wave(0.86, 0.02, 0.8), (94, 130, 82))


def _sky(c: Canvas) -> None:
    """Bright blue with white clouds at the rim."""
    c.gradient((70, 156, 236), (170, 216, 250))
    for x, y in ((0.16, 0.14), (0.82, 0.26), (0.14, 0.72), (0.8, 0.88)):
        c.cloud(c.vary(x, 0.08), c.vary(y, 0.05), c.vary(1.15, 0.2))


def _autumn(c: Canvas) -> None:
    """Round orange and red trees, a carpet of fallen leaves."""
    c.gradient((226, 226, 214), (248, 236, 206), stop=0.6)
    crowns = ((214, 112, 40), (190, 62, 38), (232, 164, 48), (200, 88, 36))
    for place, x in enumerate(np.arange(c.vary(0.08, 0.04), 1.05, 0.27)):
        c.box(x - 0.02, 0.4, x + 0.02, 0.72, (96, 66, 48))
        c.disc(x, c.vary(0.28, 0.03), 0.155, crowns[(place + c.rng.integers(4)) % 4])
    c.hill(c.wave(0.68, 0.015, 0.8), (196, 142, 74))
    for colour in crowns[:3]:
        c.dots(7, 0.74, 0.98, 0.02, colour)


def _room(c: Canvas) -> None:
    """Striped wallpaper, a window, a skirting board and a carpet."""
    c.pixels[:] = (176, 206, 196)
    stripes = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * (c.x * 8 + c.rng.uniform())))
    c.blend(stripes, (192, 218, 208))
    x = c.rng.choice((0.18, 0.82))
    c.box(x - 0.13, 0.1, x + 0.13, 0.42, (250, 246, 236))
    c.box(x - 0.105, 0.125, x + 0.105, 0.395, (150, 204, 240))
    c.box(x - 0.01, 0.12, x + 0.01, 0.4, (250, 246, 236))
    c.box(x - 0.12, 0.25, x + 0.12, 0.27, (250, 246, 236))
    c.hill(0.62, (246, 240, 228))
    c.hill(0.67, (204, 168, 128))
    c.ellipse(c.vary(0.5, 0.04), 0.86, 0.44, 0.12, (158, 72, 84))
    c.ellipse(c.vary(0.5, 0.01), 0.86, 0.36, 0.09, (184, 98, 106))


def _moon(c: Canvas) -> None:
    """Grey craters under a black sky, the Earth far away."""
    c.pixels[:] = (10, 12, 20)
    c.dots(14, 0.02, 0.5, 0.01, (245, 245, 250))
    x = c.rng.choice((0.16, 0.84))
    c.disc(x, 0.16, 0.1, (60, 130, 214))
    c.ellipse(x - 0.02, 0.14, 0.045, 0.03, (86, 170, 98))
    c.ellipse(x + 0.03, 0.2, 0.03, 0.02, (86, 170, 98))
    c.hill(c.wave(0.56, 0.02, 0.6), (150, 152, 158))
    c.blend(c.edge(c.y - 0.78, 22), (124, 126, 134), 0.8)
    for cx, cy in ((0.14, 0.72), (0.86, 0.76), (0.3, 0.93), (0.72, 0.94)):
        x, wide = c.vary(cx, 0.05), c.vary(0.09, 0.02)
        c.ellipse(x, cy, wide, wide * 0.42, (106, 108, 116))
        c.ellipse(x, cy + 0.012, wide * 0.85, wide * 0.32, (134, 136, 143))


def _rain(c: Canvas) -> None:
    """Dark clouds, slanting rain, a wet grey ground with puddles."""
    c.gradient((92, 104, 122), (150, 162, 176), stop=0.7)
    for x in (c.vary(0.15, 0.06), c.vary(0.5, 0.08), c.vary(0.85, 0.06)):
        c.cloud(x, c.vary(0.09, 0.02), 1.7, (72, 80, 96))
    c.hill(c.wave(0.7, 0.01, 0.8), (104, 112, 112))
    c.hill(c.wave(0.84, 0.01, 0.7), (92, 100, 102))
    for cx, cy in ((0.2, 0.82), (0.8, 0.8), (0.5, 0.95)):
        c.ellipse(c.vary(cx, 0.05), cy, 0.13, 0.025, (150, 172, 190))
    for _ in range(34):
        x, y = c.rng.uniform(-0.02, 1.02), c.rng.uniform(0.12, 0.95)
        along = np.abs(c.y - y) < 0.035
        line = 0.004 - np.abs(c.x - x + 0.25 * (c.y - y))
        c.blend(c.edge(line) * along, (206, 224, 240), 0.85)


def _farm(c: Canvas) -> None:
    """A red barn on one side, rows of wheat."""
    level = c.vary(0.5, 0.02)
    c.gradient((150, 205, 240), (232, 240, 230), stop=level)
    c.hill(c.wave(level, 0.015, 0.7), (168, 190, 90))
    x = c.rng.choice((0.2, 0.8))
    c.triangle(x, 0.13, 0.29, 0.2, (112, 42, 38))
    c.box(x - 0.16, 0.27, x + 0.16, level + 0.07, (186, 58, 48))
    c.box(x - 0.06, 0.37, x + 0.06, level + 0.07, (244, 238, 228))
    c.box(x - 0.045, 0.385, x + 0.045, level + 0.07, (150, 44, 38))
    c.gradient((232, 196, 92), (204, 158, 60), start=level + 0.07)
    for row in np.arange(level + 0.13, 1.0, 0.075):
        line = c.wave(row, 0.005, 7.0)
        c.blend(c.edge(0.009 - np.abs(c.y - line)), (178, 132, 46), 0.8)


def _jungle(c: Canvas) -> None:
    """Deep green with hanging vines and big leaves at the rim."""
    c.gradient((18, 74, 56), (46, 120, 62))
    for _ in range(7):
        x = c.rng.uniform(0.02, 0.98)
        stem = x + 0.02 * np.sin(9 * c.y + 20 * x)
        tall = np.minimum(0.009 - np.abs(c.x - stem), c.vary(0.45, 0.15) - c.y)
        c.blend(c.edge(tall), (96, 158, 60))
    for cx, cy, turn in (
        (0.06, 0.1, 0.6),
        (0.94, 0.12, -0.6),
        (0.04, 0.45, 0.3),
        (0.96, 0.5, -0.3),
    ):
        x, y = c.vary(cx, 0.03), c.vary(cy, 0.04)
        u = (c.x - x) * np.cos(turn) + (c.y - y) * np.sin(turn)
        v = (c.y - y) * np.cos(turn) - (c.x - x) * np.sin(turn)
        c.blend(c.edge((1 - np.hypot(u / 0.17, v / 0.07)) * 0.07), (64, 176, 78))
        c.blend(c.edge(0.005 - np.abs(v)) * (np.abs(u) < 0.15), (34, 124, 58))
    c.hill(c.wave(0.8, 0.02, 0.9), (28, 82, 44))
    c.hill(c.wave(0.9, 0.015, 0.7), (56, 52, 34))


def _kitchen(c: Canvas) -> None:
    """White wall tiles, a shelf, a pale counter."""
    c.pixels[:] = (226, 238, 240)
    shift = c.rng.uniform(0, 0.125)
    for line in np.arange(0, 1.01, 0.125):
        c.blend(c.edge(0.005 - np.abs(c.x - line - shift + 0.0625)), (182, 202, 208))
        c.blend(c.edge(0.005 - np.abs(c.y - line)), (182, 202, 208))
    x = c.rng.choice((0.2, 0.8))
    c.box(x - 0.17, 0.24, x + 0.17, 0.265, (150, 104, 66))
    for number, colour in enumerate(((214, 84, 66), (84, 150, 128), (240, 184, 76))):
        at = x - 0.11 + 0.11 * number
        c.box(at - 0.035, 0.13, at + 0.035, 0.24, colour)
        c.box(at - 0.025, 0.11, at + 0.025, 0.13, (110, 90, 80))
    c.hill(0.64, (128, 92, 68))
    c.hill(0.66, (212, 208, 200))
    c.blend(c.edge(c.y - 0.86, 20), (190, 184, 176), 0.8)


def _library(c: Canvas) -> None:
    """Shelves of coloured books, a dark wooden floor."""
    c.pixels[:] = (92, 58, 40)
    colours = ((168, 60, 56), (56, 100, 140), (70, 128, 90), (212, 170, 90), (120, 80, 140))
    for top in (0.04, 0.26, 0.48):
        c.box(0.0, top, 1.0, top + 0.18, (58, 34, 24))
        left = c.rng.uniform(-0.03, 0.0)
        while left < 1:
            wide, high = c.vary(0.045, 0.012), c.vary(0.14, 0.025)
            colour = colours[int(c.rng.integers(len(colours)))]
            c.box(left, top + 0.18 - high, left + wide, top + 0.18, colour)
            left += wide + 0.006
    c.hill(0.7, (120, 78, 52))
    c.hill(0.74, (150, 102, 68))


def _cave(c: Canvas) -> None:
    """Dark rock with hanging stone and a light opening far behind."""
    c.pixels[:] = (52, 46, 52)
    x = c.vary(0.5, 0.14)
    glow = np.hypot((c.x - x) / 0.36, (c.y - 0.45) / 0.36)
    c.blend(c.edge((1 - glow) * 0.36), (122, 116, 112))
    c.blend(c.edge((0.72 - glow) * 0.36), (172, 176, 166))
    for at in np.arange(c.vary(0.05, 0.03), 1.02, 0.13):
        long = c.vary(0.2, 0.09)
        half = 0.05 * (1 - c.y / long)
        c.blend(c.edge(np.minimum(half - np.abs(c.x - at), long - c.y)), (36, 32, 38))
    c.hill(c.wave(0.74, 0.02, 0.9), (78, 68, 66))
    c.hill(c.wave(0.86, 0.02, 0.8), (62, 54, 54))


def _volcano(c: Canvas) -> None:
    """A smoking mountain with lava under a dark red sky."""
    c.gradient((62, 26, 36), (150, 62, 44), stop=0.7)
    x = c.vary(0.5, 0.2)
    for dx, dy, radius in ((0.0, 0.14, 0.06), (0.06, 0.08, 0.08), (0.15, 0.03, 0.09)):
        c.disc(x + dx, dy, radius, (96, 84, 88))
    half = 0.07 + 0.42 * np.clip((c.y - 0.2) / 0.5, 0, 1)
    c.blend(c.edge(np.minimum(half - np.abs(c.x - x), c.y - 0.2)), (66, 48, 50))
    flow = x + 0.03 * np.sin(14 * c.y)
    c.blend(c.edge(np.minimum(0.022 + 0.03 * c.y - np.abs(c.x - flow), c.y - 0.2)), (255, 130, 32))
    c.hill(c.wave(0.72, 0.02, 0.8), (48, 36, 40))
    for row in (0.8, 0.91):
        line = c.wave(row, 0.015, 1.6)
        c.blend(c.edge(0.015 - np.abs(c.y - line)), (255, 112, 28))


def _lake(c: Canvas) -> None:
    """Fir trees along a far shore, still water that mirrors them, reeds."""
    level = c.vary(0.42, 0.02)
    c.gradient((190, 216, 236), (244, 236, 220), stop=level)
    c.hill(c.wave(level - 0.1, 0.03, 0.9), (132, 158, 172))
    c.gradient((150, 196, 206), (58, 120, 140), start=level)
    for x in np.arange(c.vary(0.02, 0.03), 1.02, 0.09):
        high = c.vary(0.13, 0.04)
        c.triangle(x, level - high, level, 0.045, (44, 92, 74))
        down = 1 - (c.y - level) / (0.8 * high)
        mirror = np.minimum(0.045 * down - np.abs(c.x - x), c.y - level)
        c.blend(c.edge(mirror), (68, 122, 122), 0.7)
    for row in np.arange(level + 0.2, 1.0, 0.13):
        x, wide = c.rng.uniform(0.1, 0.7), c.vary(0.2, 0.06)
        c.box(x, row, x + wide, row + 0.008, (176, 212, 218))
    for x in (0.03, 0.07, 0.94, 0.98):
        stem = c.vary(x, 0.015)
        c.box(stem - 0.006, c.vary(0.7, 0.05), stem + 0.006, 1.0, (88, 128, 56))


def _stage(c: Canvas) -> None:
    """Red curtains, a beam of light, a wooden floor."""
    c.pixels[:] = (44, 24, 40)
    x = c.vary(0.5, 0.06)
    beam = 0.05 + 0.42 * c.y - np.abs(c.x - x)
    c.blend(c.edge(beam, 3), (250, 236, 180), 0.42)
    folds = 0.5 + 0.5 * np.sin(2 * np.pi * (c.x * 17 + c.rng.uniform()))
    wide = 0.15 + 0.04 * np.cos(5 * c.y)
    side = np.maximum(wide - c.x, c.x - 1 + wide)
    curtain = c.edge(np.maximum(side, 0.1 + 0.02 * np.abs(np.sin(12 * c.x)) - c.y))
    c.blend(curtain, (150, 22, 38))
    c.blend(curtain * folds, (196, 40, 54), 0.8)
    c.hill(0.74, (122, 74, 44))
    c.hill(0.765, (168, 112, 70))
    c.ellipse(x, 0.88, 0.36, 0.07, (214, 170, 118))


def _garden(c: Canvas) -> None:
    """A white fence, hedges, a lawn with rows of flowers."""
    c.gradient((156, 210, 246), (224, 240, 250), stop=0.4)
    for x in np.arange(c.vary(0.0, 0.04), 1.05, 0.16):
        c.disc(x, 0.4, 0.11, (70, 140, 74))
    c.hill(0.44, (84, 156, 82))
    for x in np.arange(c.rng.uniform(-0.05, 0.0), 1.02, 0.085):
        c.box(x, 0.36, x + 0.05, 0.62, (250, 250, 246))
        c.triangle(x + 0.025, 0.32, 0.36, 0.025, (250, 250, 246))
    c.box(0, 0.41, 1, 0.44, (236, 236, 230))
    c.box(0, 0.53, 1, 0.56, (236, 236, 230))
    c.hill(0.62, (124, 196, 94))
    for colour in ((240, 92, 130), (252, 210, 72), (170, 110, 220)):
        c.dots(5, 0.66, 0.7, 0.018, colour)
        c.dots(4, 0.92, 0.97, 0.02, colour)


def _ice(c: Canvas) -> None:
    """Icebergs in cold water, a floe in front, northern lights."""
    c.gradient((24, 56, 92), (120, 176, 206), stop=0.46)
    light = c.wave(0.16, 0.05, 1.1)
    c.blend(np.clip(1 - np.abs(c.y - light) / 0.1, 0, 1), (110, 240, 190), 0.65)
    c.gradient((60, 140, 176), (34, 102, 148), start=0.46)
    for at, top in ((c.vary(0.16, 0.06), 0.24), (c.vary(0.86, 0.06), 0.28)):
        c.triangle(at, top, 0.5, 0.15, (226, 244, 252))
        c.triangle(at + 0.05, top + 0.08, 0.5, 0.1, (176, 216, 236))
    edge = c.wave(0.66, 0.015, 1.4)
    c.hill(edge, (232, 248, 254))
    c.hill(edge + 0.12, (206, 234, 246))
    for x in (c.vary(0.3, 0.1), c.vary(0.7, 0.1)):
        crack = x + 0.04 * np.sin(16 * c.y)
        c.blend(c.edge(np.minimum(0.005 - np.abs(c.x - crack), c.y - 0.72)), (140, 192, 220))


def _road(c: Canvas) -> None:
    """Asphalt that runs to the horizon between green verges."""
    level = c.vary(0.42, 0.03)
    c.gradient((134, 196, 244), (232, 242, 248), stop=level)
    c.cloud(c.vary(0.3, 0.15), 0.15, 1.0)
    c.hill(c.wave(level, 0.01, 1.0), (150, 178, 96))
    x, depth = c.vary(0.5, 0.06), np.clip((c.y - level) / (1 - level), 0, 1)
    middle = x + (0.5 - x) * depth
    ground = c.y - level
    c.blend(c.edge(np.minimum(0.03 + 0.62 * depth - np.abs(c.x - middle), ground)), (240, 240, 236))
    c.blend(c.edge(np.minimum(0.025 + 0.58 * depth - np.abs(c.x - middle), ground)), (84, 86, 94))
    dashes = np.sin(26 * np.sqrt(depth) + c.rng.uniform(0, 6)) > 0
    c.blend(
        c.edge(0.004 + 0.022 * depth - np.abs(c.x - middle)) * dashes * (ground > 0.01),
        (250, 206, 70),
    )


PLAIN_COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (206, 58, 58),
    "orange": (246, 158, 66),
    "yellow": (252, 224, 98),
    "green": (92, 184, 104),
    "blue": (66, 122, 214),
    "purple": (136, 86, 190),
    "pink": (250, 172, 200),
    "white": (250, 250, 250),
    "turquoise": (52, 190, 184),
    "brown": (112, 74, 48),
}


def _plain(colour: tuple[int, int, int]) -> Callable[[Canvas], None]:
    """Painter of one colour, a little lighter in the middle."""

    def paint(c: Canvas) -> None:
        c.pixels[:] = colour
        distance = np.hypot(c.x - c.vary(0.5, 0.1), c.y - c.vary(0.45, 0.1))
        c.blend(np.clip(1 - distance / 0.75, 0, 1), (255, 255, 255), 0.16)
        c.pixels *= c.vary(0.98, 0.02)

    return paint


PAINTERS: dict[str, Callable[[Canvas], None]] = {
    "meadow": _meadow,
    "beach": _beach,
    "sunset": _sunset,
    "night": _night,
    "snow": _snow,
    "desert": _desert,
    "sea": _sea,
    "underwater": _underwater,
    "space": _space,
    "table": _table,
    "city": _city,
    "forest": _forest,
    "mountains": _mountains,
    "sky": _sky,
    "autumn": _autumn,
    "room": _room,
    "moon": _moon,
    "rain": _rain,
    "farm": _farm,
    "jungle": _jungle,
    "kitchen": _kitchen,
    "library": _library,
    "cave": _cave,
    "volcano": _volcano,
    "lake": _lake,
    "stage": _stage,
    "garden": _garden,
    "ice": _ice,
    "road": _road,
} | {f"{name} background": _plain(colour) for name, colour in PLAIN_COLOURS.items()}


def paint_place(place: str, variant: int, size: int = 64) -> np.ndarray:
    """Paint a place, uint8 [size, size, 3]; the same arguments give the same picture.

    Raises ValueError for an unknown place.
    """
    if place not in PAINTERS:
        raise ValueError(f"place is {place!r}; allowed: {tuple(PAINTERS)}.")
    number = world_words().index["place"][place]
    canvas = Canvas(size, np.random.default_rng((number, variant)))
    PAINTERS[place](canvas)
    return canvas.result()
