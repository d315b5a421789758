"""Pictures of every mode and fault: as they look in a viewer, or refused with a reason."""

import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from sage.training.coco import CaptionedPictures
from sage.training.data import FileSource, squared
from sage.training.pictures import read_picture, to_rgb

RAMP = np.linspace(0, 65535, 256).astype("uint16")
GREY = np.arange(256)


def png(width, height, depth, colour, rows):
    """A PNG from its bytes, for what Pillow does not write."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def levels(path):
    """The red values of the first row."""
    return np.asarray(read_picture(path))[0, :, 0].astype(int)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_grey_is_a_ramp(tmp_path, name):
    Image.fromarray(np.tile(RAMP, (8, 1))).save(tmp_path / name)
    assert np.abs(levels(tmp_path / name) - GREY).max() <= 1


def test_a_dark_sixteen_bit_picture_stays_dark(tmp_path):
    Image.fromarray(np.full((2, 2), 200, "uint16")).save(tmp_path / "a.png")
    assert levels(tmp_path / "a.png").max() == 1


def test_a_transparent_grey_of_sixteen_bits_lies_over_white(tmp_path):
    unseen = struct.pack(">I", 2) + b"tRNS" + struct.pack(">H", 0)
    unseen += struct.pack(">I", zlib.crc32(unseen[4:]))
    whole = png(256, 1, 16, 0, b"\0" + RAMP.astype(">u2").tobytes())
    place = whole.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(whole[:place] + unseen + whole[place:])
    found = levels(tmp_path / "a.png")
    assert found[0] == 255
    assert np.abs(found[1:] - GREY[1:]).max() <= 1


def test_other_ramps(tmp_path):
    wide = RAMP.astype(">u2")
    opaque = np.full(256, 65535)
    contents = {
        "rgb16.png": png(256, 1, 16, 2, b"\0" + np.repeat(wide, 3).tobytes()),
        "grey_alpha16.png": png(
            256, 1, 16, 4, b"\0" + np.stack([RAMP, opaque], 1).astype(">u2").tobytes()
        ),
        "grey16.pgm": b"P5 256 1 65535\n" + wide.tobytes(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert np.abs(levels(tmp_path / name) - GREY).max() <= 1, name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.linspace(0, 1, 256), GREY),
        (np.linspace(0, 255, 256), GREY),
        (np.linspace(0, 65535, 256), GREY),
        (np.linspace(-1, 1, 256), GREY),
        (np.append(np.linspace(0, 1, 255), 40.0), np.append(np.linspace(0, 255, 255), 255)),
        (np.array([np.nan, 0, 1, np.inf]), np.array([0, 0, 255, 255])),
        (np.zeros(3), np.zeros(3)),
    ],
)
def test_floats(tmp_path, values, expected):
    Image.fromarray(values.astype("float32")[None]).save(tmp_path / "a.tif")
    assert np.abs(levels(tmp_path / "a.tif") - expected).max() <= 1


@pytest.mark.parametrize("scale", [1, 257, 70_000])
def test_integers_of_thirty_two_bits(tmp_path, scale):
    Image.fromarray((np.arange(256) * scale).astype("int32")[None]).save(tmp_path / "a.tif")
    assert np.abs(levels(tmp_path / "a.tif") - GREY).max() <= 1


MODES = (
    *("1", "L", "P", "LA", "La", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"),
    *("LAB", "I", "F", "I;16", "I;16L", "I;16B"),
)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(mode):
    picture = squared(Image.new(mode, (5, 3)), 4)
    assert (picture.mode, picture.size) == ("RGB", (4, 4))


def test_transparent_parts_lie_over_white(tmp_path):
    clear = {
        "rgba.png": Image.new("RGBA", (4, 4), (200, 0, 0, 0)),
        "la.png": Image.new("LA", (4, 4), (10, 0)),
        "rgba.webp": Image.new("RGBA", (4, 4), (200, 0, 0, 0)),
    }
    for name, image in clear.items():
        image.save(tmp_path / name)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0] * 128)
    palette.save(tmp_path / "p.gif", transparency=1)
    palette.save(tmp_path / "p.png", transparency=1)
    Image.new("L", (4, 4), 7).save(tmp_path / "l.png", transparency=7)
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    for path in tmp_path.iterdir():
        assert read_picture(path).getpixel((0, 0)) == (255, 255, 255), path.name
    half = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    assert to_rgb(half).getpixel((0, 0)) == pytest.approx((255, 127, 127), abs=1)


def test_colours_of_print_and_of_lab(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    ImageCms.applyTransform(Image.new("RGB", (8, 8), "red"), to_lab).save(tmp_path / "lab.tif")
    for name in ("cmyk.jpg", "lab.tif"):
        assert read_picture(tmp_path / name).getpixel((0, 0)) == pytest.approx((255, 0, 0), abs=6)
    broken = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    broken.save(tmp_path / "profile.jpg", quality=95, icc_profile=b"no profile")
    assert read_picture(tmp_path / "profile.jpg").getpixel((0, 0))[0] > 250


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path, suffix, orientation):
    """The red quarter is drawn where EXIF says that the top left is."""
    stored = Image.new("RGB", (40, 24), "blue")
    corner = {1: "lt", 2: "rt", 3: "rb", 4: "lb", 5: "lt", 6: "lb", 7: "rb", 8: "rt"}[orientation]
    place = (20 * (corner[0] == "r"), 12 * (corner[1] == "b"))
    stored.paste("red", (*place, place[0] + 20, place[1] + 12))
    exif = Image.Exif()
    exif[0x112] = orientation
    stored.save(tmp_path / f"a.{suffix}", exif=exif)
    picture = read_picture(tmp_path / f"a.{suffix}")
    assert picture.size == ((40, 24) if orientation < 5 else (24, 40))
    assert picture.getpixel((5, 5))[0] > 200
    assert picture.getpixel((picture.width - 5, picture.height - 5))[2] > 200


def tag(number, kind, count, value):
    return struct.pack("<HHI", number, kind, count) + value


HEAD = b"Exif\0\0II*\0\x08\0\0\0"


@pytest.mark.parametrize(
    ("exif", "size"),
    [
        # The resolution is text: Pillow cannot write such data back.
        (HEAD + b"\2\0" + tag(0x112, 3, 1, b"\6\0\0\0") + tag(0x11A, 2, 4, b"abc\0"), (20, 40)),
        (HEAD + b"\1\0" + tag(0x112, 2, 4, b"six\0"), (40, 20)),
        (HEAD + b"\1\0" + tag(0x112, 3, 1, b"\x63\0\0\0"), (40, 20)),
        (HEAD + b"\1\0" + tag(0x112, 5, 1, b"\xff\xff\xff\x7f"), (40, 20)),
        (HEAD + b"\xff\xff" + tag(0x112, 3, 1, b"\6\0\0\0"), (20, 40)),
        (b"Exif\0\0", (40, 20)),
        (b"Exif\0\0II*\0\xff\xff\xff\xff", (40, 20)),
        (b"Exif\0\0" + b"\xff" * 40, (40, 20)),
    ],
)
def test_odd_exif_data_do_not_matter(tmp_path, exif, size):
    Image.new("RGB", (40, 20)).save(tmp_path / "1.jpg", exif=exif + b"\0" * 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(tmp_path / "1.jpg").size == size


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_an_animation_is_its_first_frame(tmp_path, suffix):
    first, *others = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green"))
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=others)
    assert read_picture(tmp_path / f"a.{suffix}").getpixel((4, 4))[0] > 250
    assert read_picture(tmp_path / f"a.{suffix}").getpixel((4, 4))[2] < 5


@pytest.mark.parametrize("size", [(1, 1), (1, 9000), (9000, 1), (3, 2)])
def test_odd_sizes_become_squares(tmp_path, size):
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    square = np.asarray(squared(read_picture(tmp_path / "a.png"), 16))
    assert np.array_equal(square, np.full((16, 16, 3), (255, 0, 0)))


def test_what_cannot_be_read_is_an_oserror_with_a_reason(tmp_path):
    photo = tmp_path / "whole.jpg"
    Image.effect_noise((64, 64), 90).convert("RGB").save(photo)
    whole = photo.read_bytes()
    contents = {
        "empty.jpg": b"",
        "text.jpg": b"not a picture",
        "page.jpg": b"<!DOCTYPE html><html>404</html>",
        "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "program.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "bomb.png": png(100_000, 100_000, 1, 0, b""),
        "cut.jpg": whole[: len(whole) // 2],
        "head.jpg": whole[:20],
        "cut.png": png(64, 64, 8, 2, b"\0" * 100)[:60],
        "short.png": png(64, 64, 8, 2, b"\0" * 100),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    for name in (*contents, "folder.jpg", "loop.jpg", "missing.jpg"):
        source = FileSource("d", CaptionedPictures(("a",), (0,), (tmp_path / name,)))
        with pytest.raises(OSError, match=r"\w{3}") as error:
            source.picture(0)
        assert str(tmp_path) not in str(error.value), name
        assert source.picture_name(0).startswith(name)
    assert read_picture(photo).size == (64, 64)


def test_an_unreadable_file_says_so(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    if os.access(tmp_path / "a.png", os.R_OK):  # root may read everything

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(OSError, match="Permission denied"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize(
    "error", [TypeError, KeyError, ZeroDivisionError, struct.error, MemoryError]
)
def test_whatever_a_decoder_raises_is_an_oserror(tmp_path, monkeypatch, error):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")

    def fail(*_):
        raise error("odd")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(OSError, match=error.__name__):
        read_picture(tmp_path / "a.png")
