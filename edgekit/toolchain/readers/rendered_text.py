"""Text rendered into pictures: single lines to read, or whole pages to find lines on.

Everything comes from the seed; FreeType, Pillow and libjpeg-turbo compute in integers here, and
text is set with Pillow's own basic layout, whatever else is installed. So two machines with one
version of Pillow make the same files.

Options:
    kind: ``"line"`` (the label is the text) or ``"page"`` (the label is ``{"boxes": [quad, …]}``,
        four corners [x, y] a line, clockwise from the top left, from capitals' tops to descenders).
    count: Number of samples.
    seed: Of everything that varies.
    words: ``"even"`` or ``"odd"``: which half of the vocabulary. Two sets with different halves
        share no word, only digits.
    joiners: What stands between the parts of a text, each a choice; default ``[" "]``. Readers that
        were trained on Chinese lines do not write spaces reliably: give them ``["-", "/", …]``.
    fonts: Globs over the names of the font files in all ``extra`` sources; default ``["*"]``.
    side: Width and height of a page in pixels, default 640.

The ``extra`` entries are folders or files with fonts (.ttf, .otf); their names do not matter.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgekit.runtime.options import Options
from edgekit.runtime.pictures import import_pillow
from edgekit.toolchain.readers import Sample
from edgekit.toolchain.readers.files import glob_regex
from edgekit.wire.errors import ConfigError, MissingToolError

T = TypeVar("T")
Colour = npt.NDArray[np.int32]  # RGB, 0..255
Quad = list[list[float]]

MAX_COUNT = 10_000
MAX_FONT_BYTES = 32 << 20
LINE_SIZES = (20, 44)  # font sizes in pixels
PAGE_SIZES = (12, 34)
MARGIN = 24  # of a page, in pixels

VOCABULARY = """
able about above account across action active actual address advice after again agent agree air
album alert allow almost along amount anchor angle animal annual answer appear apple april area
arrow artist aspect assist august autumn avenue average balance band bank bar basic basket battery
beach bean beauty become bedroom before begin behind below bench benefit better between beyond bill
bird blanket block blue board boat body bolt book border both bottle bottom bowl box brain branch
brand bread breeze brick bridge bright bring brother brown brush bubble budget build bus button
cabin cable cafe calm camera candle canvas capital carbon card care cargo carpet cash castle cause
ceiling center century certain chain chair chance change chapter charge chart check cheese chicken
child choice circle citizen city claim class clean clear client climate clock close cloth cloud
club coast code coffee coin cold collect color column comfort common company concert contact
content cook copper copy corn corner cost cotton count country couple course cover craft cream
create credit crowd culture current curve cycle daily damage dance danger data daughter dawn deal
december decide deep degree delay deliver demand depth desert design desk detail device diagram
diesel dinner direct discount dish display distance district doctor dollar double dozen draft dream
dress drink drive drop duck during dust early earth east easy edge editor effect effort eight
either electric element eleven empty energy engine enjoy enough enter equal escape evening event
every exact example except exchange exit expect expert export extra fabric factor factory fair
family famous farm fashion father feature february fee fence festival field figure file filter
final finger finish fire first fish flag flat flavor flight floor flower fluid focus food forest
formal forward found fountain frame free fresh friday friend front fruit fuel full future gallery
game garage garden gate general gentle gift glass global goal gold grade grain grand graph grass
gravity great green grid ground group growth guard guest guide guitar habit half hall hammer handle
harbor harvest health heart heat heavy height hidden highway hill history hobby holiday home honest
honey hope horizon horse hospital hotel hour house human hundred ice image import inch include
income index industry injury inside insurance invoice iron island item jacket january job journal
journey juice july june junior jungle keep kernel kettle key kind kitchen knife label ladder lake
lamp land language large laser later laundry layer leader leaf learn leather legal lemon length
lesson letter level library license light limit line liquid list liter local logic long loop lucky
lunch machine magnet main manager manual map march margin market master match material matter
maximum meadow meal measure medical medium member memory menu metal meter method middle mile milk
million minimum minute mirror model modern moment monday money month morning mother motion motor
mountain mouse movie museum music narrow nation native nature near network never night nine noise
normal north notebook notice november number nurse object ocean october offer office olive onion
online open opinion option orange order organ origin outdoor output oven owner oxygen package page
paint palace panel paper parcel parent park party passage patient pattern payment peace pencil
people pepper perfect period person phone photo piano picture piece pilot pipe planet plant plastic
plate player plenty pocket point police polish pool popular portion position postal potato powder
power practice present pressure price primary print private problem process produce product profit
program project protect proud public pump purple purpose quality quantity quarter quick quiet radio
railway rain random range rapid ready reason receipt receive record recycle region regular relax
remote repair report rescue reserve result return review reward ribbon rice river road robot rocket
room rough round route rubber sample sand saturday saving scale school science screen search season
second secret section select senior sensor september serial service seven shadow shape share shelf
shine ship shirt short shoulder side signal silver simple single sister size sketch smart smooth
snow social socket soft soil solar solid south space spare special speed spice spirit spring square
staff stage stamp standard station steam steel stone storage store storm street strong student
studio subject sugar summer sunday sunset supply support surface sweet switch symbol system table
talent target taste teacher team temple tenant theater theory thunder thursday ticket tiger timber
title today tomato tool total tour tower traffic train travel treasure tree triangle trip tuesday
tunnel twelve twenty typical umbrella uncle uniform union unique unit update upper urban useful
valley value vehicle version vessel video village vision visitor voice volume wagon wallet warm
warning water wave weather wednesday week weight welcome west wheel white whole window winter wire
wisdom wonder wood work world yard year yellow young zero zone
"""


class Dice:
    """Random choices from the raw stream of PCG64, which numpy keeps the same for ever."""

    def __init__(self, *seed: int) -> None:
        self._bits = np.random.PCG64(list(seed))

    def uniform(self, low: float, high: float) -> float:
        """Return a double within low..high."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def integer(self, low: int, high: int) -> int:
        """Return an integer within low..high, both included."""
        return low + int(self._bits.random_raw()) % (high - low + 1)

    def chance(self, probability: float) -> bool:
        """Return True that often."""
        return self.uniform(0.0, 1.0) < probability

    def pick(self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return items[self.integer(0, len(items) - 1)]

    def noise(self, height: int, width: int) -> npt.NDArray[np.int32]:
        """Return triangular noise, int32[height, width], -255..255."""
        count = -(-height * width // 4)
        raw = np.asarray(self._bits.random_raw(count), dtype="<u8").view(np.uint8)
        pairs = raw.reshape(-1, 2).astype(np.int32).sum(axis=1) - 255
        noise: npt.NDArray[np.int32] = pairs[: height * width].reshape(height, width)
        return noise


def read(
    root: Path | None, options: Mapping[str, Any], extra: Mapping[str, Path]
) -> Iterator[Sample]:
    """Render the samples; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong, or no font matches.
        MissingToolError: Pillow is not installed or cannot draw text.
    """
    if root is not None:
        raise ConfigError("rendered-text makes its own samples: it takes fonts in extra, no uri")
    opts = Options(options, "reader rendered-text")
    kind = opts.choice("kind", ("line", "page"))
    count = int(opts.within("count", 1, MAX_COUNT))
    seed = int(opts.within("seed", 0, 2**31))
    half = opts.choice("words", ("even", "odd"))
    joiners = opts.strings("joiners", (" ",))
    if not joiners or any(len(j) > 8 for j in joiners):  # noqa: PLR2004 - a separator, not a text
        raise ConfigError('reader rendered-text: "joiners" holds a few short strings')
    fonts = Fonts(find_fonts(extra, opts.strings("fonts", ("*",))))
    side = int(opts.within("side", 128, 4096, 640))
    opts.close()
    language = Language(VOCABULARY.split()[0 if half == "even" else 1 :: 2], joiners)
    for index in range(count):
        dice = Dice(seed, index)
        if kind == "line":
            data, label = render_line(dice, fonts, language)
            yield Sample(f"line_{seed}_{index:04d}.jpg", data, ".jpg", label)
        else:
            data, boxes = render_page(dice, fonts, language, side)
            yield Sample(f"page_{seed}_{index:04d}.jpg", data, ".jpg", {"boxes": boxes})


def find_fonts(extra: Mapping[str, Path], globs: Sequence[str]) -> list[Path]:
    """List the font files below some folders whose names match, in the order of their names.

    Raises:
        ConfigError: None matches.
    """
    patterns = [glob_regex(g) for g in globs]
    files = [
        path
        for place in extra.values()
        for path in ([place] if place.is_file() else place.rglob("*"))
        if path.suffix.lower() in (".ttf", ".otf") and path.is_file() and not path.is_symlink()
    ]
    chosen = [p for p in files if any(g.fullmatch(p.name) for g in patterns)]
    if not chosen:
        raise ConfigError(
            f"no font matches {', '.join(globs)}",
            hint="extra = { fonts = { uri = …, sha256 = … } } names where fonts are",
        )
    return sorted(chosen, key=lambda p: (p.name, str(p)))


class Fonts:
    """Font files, opened at the sizes that are asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        import_pillow()
        try:
            from PIL import ImageFont
        except ImportError as error:
            raise MissingToolError("this Pillow cannot draw text") from error
        self._module = ImageFont
        self._data = [(path, _font_bytes(path)) for path in paths]
        self._opened: dict[tuple[int, int], Any] = {}

    def pick(self, dice: Dice, size: int) -> Any:  # noqa: ANN401 - Pillow is imported lazily
        """Return one of the fonts at a size in pixels."""
        index = dice.integer(0, len(self._data) - 1)
        if (index, size) not in self._opened:
            path, data = self._data[index]
            basic = self._module.Layout.BASIC
            try:
                opened = self._module.truetype(io.BytesIO(data), size, layout_engine=basic)
            except OSError as error:
                raise ConfigError(f"not a readable font: {error}", where=str(path)) from error
            self._opened[index, size] = opened
        return self._opened[index, size]


def _font_bytes(path: Path) -> bytes:
    if path.stat().st_size > MAX_FONT_BYTES:
        raise ConfigError(f"the font is over {MAX_FONT_BYTES >> 20} MiB", where=str(path))
    return path.read_bytes()


@dataclass(frozen=True)
class Language:
    """What texts are made of.

    Attributes:
        words: The vocabulary.
        joiners: What stands between two parts, each a choice.
    """

    words: Sequence[str]
    joiners: Sequence[str]


def compose_text(dice: Dice, language: Language, most: int) -> list[str]:
    """Write a line: words and the numbers, dates, prices and codes of labels and receipts.

    Args:
        dice: The choices.
        language: What the text is made of.
        most: Most parts in the line, ≥ 1.

    Returns:
        The parts, with the joiners between them.
    """
    style = dice.pick(("lower", "lower", "capital", "title", "upper"))
    parts: list[str] = []
    for position in range(dice.integer(1, most)):
        if position:
            parts.append(dice.pick(language.joiners))
        if dice.chance(0.25):
            parts.append(_figure(dice))
            continue
        word = dice.pick(language.words)
        if style == "upper":
            word = word.upper()
        elif style == "title" or (style == "capital" and position == 0):
            word = word.capitalize()
        parts.append(word)
    if dice.chance(0.15):
        parts[-1] += dice.pick((".", ",", ":"))
    return parts


def _figure(dice: Dice) -> str:
    n = dice.integer
    kind = n(0, 6)
    if kind == 0:
        return f"{n(1990, 2039)}-{n(1, 12):02d}-{n(1, 28):02d}"
    if kind == 1:
        return f"${n(1, 999)}.{n(0, 99):02d}"
    if kind == 2:  # noqa: PLR2004
        return f"{n(0, 23):02d}:{n(0, 59):02d}"
    if kind == 3:  # noqa: PLR2004
        return f"{n(1, 100)}%"
    if kind == 4:  # noqa: PLR2004
        letters = "ABCDEFGHJKLMNPRSTUVWXYZ"  # no I, O and Q: many fonts draw them as 1 and 0
        return f"{dice.pick(letters)}{dice.pick(letters)}-{n(100, 9999)}"
    return str(n(0, 99) if kind == 5 else n(100, 99999))  # noqa: PLR2004


def render_line(dice: Dice, fonts: Fonts, language: Language) -> tuple[bytes, str]:
    """Draw one line, as a detector would cut it out.

    Returns:
        A JPEG file and the text.
    """
    text = "".join(compose_text(dice, language, 3))
    font = fonts.pick(dice, dice.integer(*LINE_SIZES))
    left, top, right, bottom = font.getbbox(text)
    pad_x, pad_y = dice.integer(2, 10), dice.integer(2, 7)
    width, height = int(right - left) + 2 * pad_x, int(bottom - top) + 2 * pad_y
    mask = _blank(width, height)
    _draw(mask, (pad_x - left, pad_y - top), text, font)
    degrees = dice.uniform(-1.2, 1.2) if dice.chance(0.5) else 0.0
    return _print(dice, mask, degrees), text


def render_page(
    dice: Dice, fonts: Fonts, language: Language, side: int
) -> tuple[bytes, list[Quad]]:
    """Draw a page of blocks of text, slightly turned.

    Returns:
        A JPEG file and the quads of its lines.
    """
    mask = _blank(side, side)
    boxes: list[tuple[float, float, float, float]] = []
    y = MARGIN + dice.integer(0, 30)
    while True:
        size = dice.integer(*PAGE_SIZES)
        font = fonts.pick(dice, size)
        x = MARGIN + dice.integer(0, side // 3)
        for _ in range(dice.integer(1, 5)):
            parts = compose_text(dice, language, 6)
            while len(parts) > 1 and font.getlength("".join(parts)) > side - MARGIN - x:
                del parts[-2:]
            text = "".join(parts)
            left, _, right, _ = font.getbbox(text)
            # A line reaches from its capitals' tops to its descenders, whatever letters it has.
            _, top, _, bottom = font.getbbox("Ag")
            if y + bottom > side - MARGIN or (not boxes and y > side):
                return _finish_page(dice, mask, boxes, side)
            if x + right <= side - MARGIN // 2:
                _draw(mask, (x, y), text, font)
                boxes.append((x + left, y + top, x + right, y + bottom))
            y += round(size * 1.3) + dice.integer(2, 8)
        y += dice.integer(6, 40)


def _finish_page(
    dice: Dice,
    mask: Any,  # noqa: ANN401 - Pillow is imported lazily
    boxes: Sequence[tuple[float, float, float, float]],
    side: int,
) -> tuple[bytes, list[Quad]]:
    degrees = dice.uniform(-2.0, 2.0) if dice.chance(0.6) else 0.0
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    middle = side / 2

    def turn(x: float, y: float) -> list[float]:
        # Pillow turns counter-clockwise as one sees it; y points down.
        dx, dy = x - middle, y - middle
        return [
            round(middle + dx * cosine + dy * sine, 1),
            round(middle - dx * sine + dy * cosine, 1),
        ]

    quads = [[turn(x1, y1), turn(x2, y1), turn(x2, y2), turn(x1, y2)] for x1, y1, x2, y2 in boxes]
    return _print(dice, mask, degrees), quads


def _blank(width: int, height: int) -> Any:  # noqa: ANN401
    image_module, _ = import_pillow()
    return image_module.new("L", (width, height), 0)


def _draw(mask: Any, place: tuple[float, float], text: str, font: Any) -> None:  # noqa: ANN401
    from PIL import ImageDraw

    ImageDraw.Draw(mask).text(place, text, fill=255, font=font)


def _colours(dice: Dice) -> tuple[Colour, Colour]:
    """Choose paper and ink, at least 90 grey levels apart."""
    dark = np.array([dice.integer(0, 90) for _ in range(3)], dtype=np.int32)
    light = np.array([dice.integer(180, 255) for _ in range(3)], dtype=np.int32)
    return (dark, light) if dice.chance(0.2) else (light, dark)


def _print(dice: Dice, mask: Any, degrees: float) -> bytes:  # noqa: ANN401
    """Put ink on paper: turned, blurred, unevenly lit, noisy, and coded as JPEG."""
    from PIL import ImageFilter

    image_module, _ = import_pillow()
    if degrees:
        mask = mask.rotate(degrees, resample=image_module.Resampling.BILINEAR)
    if dice.chance(0.5):
        mask = mask.filter(ImageFilter.BoxBlur(dice.uniform(0.1, 0.7)))
    cover = np.asarray(mask, dtype=np.uint8).astype(np.int32)[..., np.newaxis]
    paper, ink = _colours(dice)
    flat = (paper * (255 - cover) + ink * cover) // 255
    height, width = cover.shape[:2]
    fall = dice.integer(0, 40)  # grey levels that the light loses towards one side
    light = np.arange(width, dtype=np.int32) * fall // max(1, width)
    shade = light if dice.chance(0.5) else light[::-1]
    strength = dice.integer(0, 14)
    grain = dice.noise(height, width) * strength // 255
    pixels = np.clip(flat - shade[np.newaxis, :, np.newaxis] + grain[..., np.newaxis], 0, 255)
    out = io.BytesIO()
    picture = image_module.fromarray(pixels.astype(np.uint8))
    picture.save(out, format="JPEG", quality=dice.integer(60, 95))
    return out.getvalue()
