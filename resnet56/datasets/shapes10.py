"""Shapes10: a ten-class data set of drawn 32x32 colour images, made from a seed.

It stands in for CIFAR-10 where no network is at hand: 32x32 RGB pixels, ten
balanced classes, as many images as asked for.  Every image looks like a piece of
printed cloth: light copies of one figure (discs, or rings, ..., or stars) repeat
on a darker ground.  Spacing, place, tilt, stretch and size of the figures are
random.  Figure and ground each carry a random colour and a random texture (plain,
gradient, stripes, checks or dots).  Two dots or strokes lie behind the figures,
two lie on top and hide parts of them, and every pixel gets some noise.

Only the outline of the figure tells the class.  All ten figures have the same
area, and colours, textures, places and noise have the same distribution for
every class.  Mirroring an image left to right does not change its class.

The pixels are the same bytes on every machine.  Randomness is a counter-based
hash (splitmix64) and all arithmetic is elementwise integer or IEEE float32
(+ - * / sqrt floor min max), whose results the standards fix to the last bit;
there are no sines, no powers and no sums over arrays.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

CLASSES = ("disc", "ring", "crescent", "heart", "square", "frame", "triangle", "hourglass", "cross", "star")

SIDE = 32  # pixels along an image edge
CHUNK = 100  # images drawn at a time
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
PIXEL = np.arange(SIDE * SIDE)
X = (PIXEL % SIDE - 15.5).astype(np.float32)[None]  # (1, 1024) pixel centres,
Y = (PIXEL // SIDE - 15.5).astype(np.float32)[None]  # origin mid-image, y down


# ---------------------------------------------------------------- randomness


def _hash(seed: int, index: np.ndarray, first: int, count: int) -> np.ndarray:
    """Random uint64 (len(index), count): slots first, first+1, ... of each image.

    The value depends on (seed, image index, slot) alone.
    """
    slot = np.arange(first, first + count).astype(np.uint64)
    counter = index.astype(np.uint64)[:, None] * np.uint64(1024) + slot[None]
    return _mix(_mix(np.array([[seed]], dtype=np.uint64)) + counter * GOLDEN)


def _mix(z: np.ndarray) -> np.ndarray:
    """The output function of splitmix64: a bijection of uint64 that scrambles."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class _Dice:
    """Deals out uniform random columns, one value per image and call."""

    def __init__(self, seed: int, index: np.ndarray):
        unit = (_hash(seed, index, 0, 128) >> np.uint64(40)).astype(np.float32)
        self.columns = iter((unit * np.float32(2.0**-24)).T[:, :, None])

    def __call__(self, low: float, high: float) -> np.ndarray:
        """Uniform float32 (n, 1) in [low, high)."""
        return next(self.columns) * (high - low) + low

    def rgb(self, low: float, high: float) -> np.ndarray:
        """Uniform float32 (n, 3, 1): three independent channels."""
        return np.stack([self(low, high) for _ in range(3)], axis=1)

    def turn(self, limit: float) -> tuple[np.ndarray, np.ndarray]:
        """Cosine and sine (n, 1) of a random angle theta, without calling cos or sin.

        limit is the largest |tan(theta / 2)|: 0.25 gives +-28 degrees, 1 gives +-90.
        """
        t = self(-limit, limit)
        return (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)


# -------------------------------------------------------------------- shapes


def _disc(u, v, radius):
    return np.sqrt(u * u + v * v) - radius


def _star(u, v):
    """Five-pointed star: the points outside at most one side of a pentagon."""
    first = second = np.full_like(u, -9)
    for nx, ny in (
        (0, 1),
        (0.9510565, 0.309017),
        (-0.9510565, 0.309017),
        (0.5877853, -0.809017),
        (-0.5877853, -0.809017),
    ):
        side = u * nx + v * ny - 0.517
        second = np.maximum(second, np.minimum(first, side))
        first = np.maximum(first, side)
    return second


def _distance(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Approximate signed distance (negative inside) to a figure of area pi."""
    a, b = np.abs(u), np.abs(v)
    if name == "disc":
        return _disc(u, v, 1.0)
    if name == "ring":
        return np.abs(_disc(u, v, 1.0)) - 0.25
    if name == "crescent":
        return np.maximum(_disc(u, v + 0.485, 1.371), -_disc(u, v + 1.223, 1.054))
    if name == "heart":
        return np.minimum((a + np.abs(v - 0.293) - 0.938) * 0.7071068, _disc(a - 0.469, v + 0.176, 0.663))
    if name == "square":
        return np.maximum(a, b) - 0.886
    if name == "frame":
        return np.abs(np.maximum(a, b) - 0.89) - 0.2206
    if name == "triangle":
        return np.maximum(a * 0.8660254 + v * 0.5, -v) - 0.7776
    if name == "hourglass":
        return np.maximum(b - 1.28, (a - b * 0.8 - 0.1) * 0.7808688)
    if name == "cross":
        return np.maximum(np.maximum(a, b) - 1.145, np.minimum(a, b) - 0.42)
    return _star(u, v)


# ------------------------------------------------------------------- drawing


def _wave(t: np.ndarray) -> np.ndarray:
    """Triangle wave of period 1 between -1 and 1."""
    return np.abs(t - np.floor(t) - 0.5) * 4 - 1


def _texture(dice: _Dice, colour: np.ndarray) -> np.ndarray:
    """A texture (n, 3, 1024) of two tones around colour (n, 3, 1)."""
    c, s = dice.turn(1)
    # 0 plain (half of all), 1 gradient, 2 stripes, 3 checks, 4 dots
    kind = np.floor(np.maximum(dice(-3, 5), 0))
    pitch = np.where(kind == 1, dice(40, 80), dice(4, 10))  # pixels per period
    p = _wave((X * c + Y * s) / pitch + dice(0, 1))
    q = _wave((Y * c - X * s) / pitch + dice(0, 1))
    along = np.where((kind == 3) | (kind == 0), np.float32(0), np.float32(1))
    both = np.where(kind == 3, np.float32(1), np.float32(0))
    across = np.where(kind == 4, np.float32(1), np.float32(0))
    sharp = np.where(kind == 1, np.float32(1), dice(1, 4))
    w = np.clip((p * (along + both * q) + across * (q - 0.4)) * sharp, -1, 1)
    return colour + dice.rgb(-0.1, 0.1) * w[:, None]


def _blend(canvas: np.ndarray, colour: np.ndarray, d: np.ndarray) -> None:
    """Paint colour where the signed distance d (n, 1024), in pixels, is negative."""
    alpha = np.clip(0.5 - d, 0, 1)[:, None]
    canvas += (colour - canvas) * alpha


def _stroke(dice: _Dice, reach: float, length: float, width: float) -> np.ndarray:
    """Distance in pixels to a random round-ended stroke (a dot when short)."""
    c, s = dice.turn(1)
    x, y = X - dice(-reach, reach), Y - dice(-reach, reach)
    half = np.maximum(dice(-length, length), 0)
    along = np.maximum(np.abs(x * c + y * s) - half, 0)
    return _disc(along, y * c - x * s, dice(0.5 * width, width))


def _draw_chunk(seed: int, index: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Images number index (n,) of the seed, of classes labels (n,): uint8 (n, 3, 32, 32)."""
    n, dice = len(index), _Dice(seed, index)
    ground = dice.rgb(0.05, 0.45)
    figure = ground + (dice.rgb(0.5, 1.0) - ground) * dice(0.4, 1.0)[:, None]

    canvas = _texture(dice, ground)
    for _ in range(2):
        _blend(canvas, dice.rgb(0.05, 0.75), _stroke(dice, reach=16, length=5, width=2))

    # From pixels to figure coordinates: turn, fold the plane into square cells, turn in the cell, stretch.
    c, s = dice.turn(0.25)
    cell = dice(13, 18)
    p, q = (X * c + Y * s) / cell + dice(0, 1), (Y * c - X * s) / cell + dice(0, 1)
    p, q = p - np.floor(p) - 0.5, q - np.floor(q) - 0.5  # -0.5 .. 0.5 across a cell
    c, s = dice.turn(0.1)
    size, stretch = dice(0.22, 0.29), dice(0.85, 1.18)  # size: of the disc's radius, in cells
    u, v = (p * c + q * s) / size * stretch, (q * c - p * s) / size / stretch
    distance = np.empty((n, SIDE * SIDE), np.float32)
    for label, name in enumerate(CLASSES):
        rows = labels == label
        distance[rows] = _distance(name, u[rows], v[rows])
    _blend(canvas, _texture(dice, figure), distance * size * cell)

    for _ in range(2):
        _blend(canvas, dice.rgb(0.05, 0.75), _stroke(dice, reach=14, length=8, width=2))

    noise = _hash(seed, index, 128, 3 * SIDE * SIDE // 8).astype("<u8").view(np.uint8)
    noise = noise.reshape(n, 3, SIDE * SIDE).astype(np.float32) / 127.5 - 1  # -1 .. 1
    pixels = np.clip(canvas * 255 + noise * 8 + 0.5, 0, 255)
    return np.floor(pixels).astype(np.uint8).reshape(n, 3, SIDE, SIDE)


def draw(count: int, seed: int, workers: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Draw images 0 .. count-1 of a seed.

    Returns pixels, uint8 (count, 3, 32, 32), and labels, int64 (count,), indices
    into CLASSES.  Every ten images in a row hold each class once, in random
    order.  Image i depends on (seed, i) alone, so a smaller draw is a prefix of
    a larger one, whatever the number of worker threads.
    """
    index = np.arange(count)
    tens = np.arange((count + 9) // 10)
    order = np.argsort(_hash(seed, tens * 10, 1000, 10), axis=1, kind="stable")
    labels = order.reshape(-1)[:count].astype(np.int64)
    pixels = np.empty((count, 3, SIDE, SIDE), np.uint8)

    def fill(start: int) -> None:
        part = slice(start, start + CHUNK)
        pixels[part] = _draw_chunk(seed, index[part], labels[part])

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(fill, range(0, count, CHUNK)))
    return pixels, labels
