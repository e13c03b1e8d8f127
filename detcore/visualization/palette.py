"""Colours of classes: the same class has the same colour in every picture and every run."""
import colorsys
from collections.abc import Sequence

from detcore.errors import ConfigError

Color = tuple[int, int, int]

# Palettes of data sets are only a look; all of these names give the project's own colours.
_NAMED = ("none", "random", "coco", "voc", "citys")
_GOLDEN_RATIO = 0.618033988749895


def get_palette(palette: str | Color | Sequence[Sequence[int]] | None, num_classes: int) -> list[Color]:
    """One colour per class.

    Args:
        palette: a list of RGB colours (repeated from the start if it is too short), one RGB colour for all
            classes, or None or the name of a palette for the project's own, whose neighbours differ strongly.
        num_classes: number of classes.

    Returns:
        RGB colours, 0 to 255.

    Raises:
        ConfigError: an unknown name.
    """
    if palette is None or isinstance(palette, str):
        if palette is not None and palette not in _NAMED:
            raise ConfigError(
                f"palette must be one of {', '.join(_NAMED)}, a colour or a list of colours, got {palette!r}"
            )
        return [_color(index) for index in range(num_classes)]
    colors = list(palette)
    if not colors:
        return get_palette(None, num_classes)
    if isinstance(colors[0], int):
        return [_checked(colors)] * num_classes
    return [_checked(colors[index % len(colors)]) for index in range(num_classes)]


def text_color(background: Color) -> Color:
    """Black or white, whichever can be read on the background (luminance of ITU-R BT.601)."""
    red, green, blue = background
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140
    return (0, 0, 0) if bright else (255, 255, 255)


def _color(index: int) -> Color:
    """Hues a golden section apart never come close soon; brightness and saturation alternate on top."""
    hue = (0.03 + index * _GOLDEN_RATIO) % 1.0
    saturation = (0.85, 0.65, 0.95)[index % 3]
    value = (0.95, 0.85, 0.75)[index // 3 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _checked(color: object) -> Color:
    if isinstance(color, Sequence) and len(color) == 3 and all(0 <= int(part) <= 255 for part in color):
        return int(color[0]), int(color[1]), int(color[2])
    raise ConfigError(f"a colour is three numbers (red, green, blue) from 0 to 255, got {color!r}")
