"""Decodes a user's picture file into 8-bit RGB as it looks in a viewer, or says why it cannot.

Knows Pillow and its modes; nothing of captions, folders or models. What is decided here, as file
formats leave it open:

* Transparent parts are laid over white, as on a page.
* Of an animation (GIF, WebP, APNG) or a file of several pages the first frame is taken.
* The orientation in EXIF is followed; whatever else is wrong with the EXIF data does not matter.
* 16-bit grey is divided by 257, so that 65535 is white. Integers and floats of 32 bits have no
  fixed white; see `_white`. Values that are not numbers are black.
* A colour profile is followed for CMYK and LAB, where there is no good reading without one; for RGB
  it is left out, as other training code does.
"""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

# Bumped when a picture is read otherwise than before: latents that are kept depend on it.
READING = 2
# What a photograph or drawing comes in. Pillow knows more, of which some start other programs
# (EPS starts Ghostscript): a folder of strangers' files must not.
FORMATS = (
    *("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "PPM", "AVIF", "JPEG2000"),
    *("TGA", "ICO", "SGI", "PCX", "QOI"),
)
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".tif", ".tiff", ".bmp"}
    | {".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".tga", ".ico", ".sgi", ".pcx"}
    | {".qoi"}
)
ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
MAY_HAVE_A_TRANSPARENT_COLOUR = ("1", "L", "P", "RGB")


def read_picture(path: Path) -> Image.Image:
    """The picture in a file, RGB and upright.

    Raises:
        OSError: If it cannot be decoded, whatever the reason.
    """
    try:
        # Pillow warns of odd metadata and large pictures, which is not the user's concern.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read(path)
    except Exception as error:  # a broken file makes Pillow raise nearly anything
        raise OSError(_reason(error)) from error


def _read(path: Path) -> Image.Image:
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    with Image.open(path, formats=known) as image:
        image.seek(0)
        image.load()
        return upright_rgb(image)


def _reason(error: Exception) -> str:
    """Why, in few words and without the folder."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture in a format that is read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {str(error)[:100]}"


def upright_rgb(image: Image.Image) -> Image.Image:
    """An 8-bit RGB picture of an image in any mode, turned as its EXIF data say."""
    picture = to_rgb(image)
    turn = TURNS.get(_orientation(image))
    return picture if turn is None else picture.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # EXIF data are written by anything and checked by nothing
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """An 8-bit RGB picture of an image in any of Pillow's modes."""
    transparent = "transparency" in image.info and image.mode in MAY_HAVE_A_TRANSPARENT_COLOUR
    if image.mode in WITH_ALPHA or transparent:
        straight = image.convert("LA") if image.mode == "La" else image
        layer = straight.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        picture, unseen = _from_values(values, image.mode), image.info.get("transparency")
        if isinstance(unseen, int) and (values == unseen).any():
            picture.paste("white", mask=Image.fromarray((values == unseen).astype(np.uint8) * 255))
        return picture
    if image.mode in ("CMYK", "LAB"):
        return _by_profile(image)
    return image.convert("RGB")


def _from_values(values: np.ndarray, mode: str) -> Image.Image:
    """Grey levels of more than 8 bits."""
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("no value is a number")
    values[np.isnan(values)] = 0
    values = np.clip(values, values[finite].min(), values[finite].max())
    black, white = (0.0, 65535.0) if mode.startswith("I;16") else _white(values, mode)
    grey = np.clip((values - black) / (white - black), 0, 1) * 255
    return Image.fromarray(np.round(grey).astype(np.uint8)).convert("RGB")


def _white(values: np.ndarray, mode: str) -> tuple[float, float]:
    """Black and white of values without a fixed range (ours).

    Floats up to 1, highlights aside, have their white at 1; other values at 255 or 65535, whichever
    holds them first. What fits none of these is spread from its smallest to its largest value.
    """
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        if mode == "F" and np.percentile(values, 99) <= 1:
            return 0.0, 1.0
        for white in (255.0, 65535.0):
            if high <= white:
                return 0.0, white
    return low, high if high > low else low + 1


def _by_profile(image: Image.Image) -> Image.Image:
    """CMYK by its profile, or plainly without one; LAB by its definition."""
    sRGB = ImageCms.createProfile("sRGB")
    try:
        if image.mode == "LAB":
            profile = ImageCms.createProfile("LAB")
        else:
            profile = ImageCms.ImageCmsProfile(BytesIO(image.info["icc_profile"]))
        picture = ImageCms.profileToProfile(image, profile, sRGB, outputMode="RGB")
        if picture is not None:
            return picture
    except (KeyError, OSError, TypeError, ValueError, ImageCms.PyCMSError):
        if image.mode == "LAB":
            raise
    return image.convert("RGB")
