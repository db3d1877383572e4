"""Photos of every odd kind: bits, transparency, colour profile and orientation as they are in the file."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, features

from ganhub.errors import BadInput
from ganhub.imaging import read_photo

SIZE = (31, 22)
FINE = {"quality": 98, "subsampling": 0}
TURNED, KEPT = "turned upright", "is kept"


def noise(channels, bits=8, size=SIZE, seed=0):
    array = np.random.RandomState(seed).randint(0, 2**bits, (size[1], size[0], channels))
    return array.astype(np.uint8 if bits == 8 else np.uint16)


def smooth(channels=3, size=SIZE):
    """What survives JPEG."""
    y, x = np.mgrid[: size[1], : size[0]]
    return np.stack([40 + 3 * x, 200 - 4 * y, 90 + 2 * x + 2 * y], axis=-1)[..., :channels].astype(np.uint8)


def image(pixels):
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def saved(pixels, format, **options):
    out = io.BytesIO()
    (image(pixels) if isinstance(pixels, np.ndarray) else pixels).save(out, format, **options)
    return out.getvalue()


def chunked(*chunks):
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png16(pixels, *chunks, size=None):
    """A PNG of 16 bits a channel, which Pillow writes in grey only; `size` is what its header claims."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", *(size or (width, height)), 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return chunked((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def tiff16(pixels, order="<", orientation=1, photometric=None, tile=None, extra=2):
    """A plain TIFF of 16 bits a channel."""
    height, width, channels = pixels.shape
    body = pixels.astype(order + "u2")
    if tile:
        padded = np.pad(body, ((0, -height % tile), (0, -width % tile), (0, 0)))
        blocks = padded.reshape(-(-height // tile), tile, -(-width // tile), tile, channels).swapaxes(1, 2)
        pieces = [block.tobytes() for line in blocks for block in line]
        layout = [(322, 3, [tile]), (323, 3, [tile])]
    else:
        pieces, layout = [body.tobytes()], [(278, 3, [height])]
    offsets = [8 + sum(map(len, pieces[:k])) for k in range(len(pieces))]
    where, sizes = (324, 325) if tile else (273, 279)
    if photometric is None:
        photometric = 2 if channels > 2 else 1
    tags = [(256, 3, [width]), (257, 3, [height]), (258, 3, [16] * channels), (259, 3, [1]), (262, 3, [photometric])]
    tags += [(274, 3, [orientation]), (277, 3, [channels]), (where, 4, offsets), (sizes, 4, [len(p) for p in pieces])]
    tags += layout + ([(338, 3, [extra])] if channels == 4 else [])
    data = b"".join(pieces)
    start = 8 + len(data)
    after = start + 2 + 12 * len(tags) + 4
    directory, tail = struct.pack(order + "H", len(tags)), b""
    for tag, kind, values in sorted(tags):
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            packed, tail = struct.pack(order + "I", after + len(tail)), tail + packed
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "I", start) + data + directory + bytes(4) + tail


def turned_back(pixels, orientation):
    """What a camera stores so that `orientation` makes it `pixels`."""
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    if orientation == 1:
        return pixels
    planes = [
        image(pixels[..., k : k + 1]).transpose(Image.Transpose(back[orientation])) for k in range(pixels.shape[-1])
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def with_exif(pixels, format, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.0)})  # a place
    return saved(turned_back(pixels, orientation), format, exif=exif, **options)


def icc(space, pcs, kind, tags):
    """An ICC profile, version 2."""
    body, table, at = b"", b"", 128 + 4 + 12 * (len(tags) + 1)
    title = struct.pack(">4sIII", b"desc", 0, 10, 0)[:8] + struct.pack(">I", 10) + b"Test <b>x\0" + bytes(79)
    for name, data in [(b"desc", title), *tags]:
        data += bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data
    white = struct.pack(">3i", 63190, 65536, 54061)
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"\0\0\0\0", 0x02400000, kind, space, pcs) + bytes(12) + b"acsp"
    head += bytes(28) + white
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags) + 1) + table + body


def xyz(*values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))


CURVE = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256))
P3 = icc(
    b"RGB ", b"XYZ ", b"mntr",
    [(b"rXYZ", xyz(0.515, 0.241, -0.001)), (b"gXYZ", xyz(0.292, 0.692, 0.042)), (b"bXYZ", xyz(0.157, 0.067, 0.784)),
     (b"wtpt", xyz(0.9642, 1, 0.8249)), (b"rTRC", CURVE), (b"gTRC", CURVE), (b"bTRC", CURVE)],
)  # fmt: skip
GREY = icc(b"GRAY", b"XYZ ", b"mntr", [(b"wtpt", xyz(0.9642, 1, 0.8249)), (b"kTRC", CURVE)])


def press():
    """A CMYK profile under which all inks are black."""
    ramp = bytes(range(256))
    inks = [[255 * (4 - sum(corner)) // 4, 128, 128] for corner in np.ndindex(2, 2, 2, 2)]
    matrix = struct.pack(">9i", *(65536 * (k in (0, 4, 8)) for k in range(9)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + bytes(sum(inks, [])) + ramp * 3
    return icc(b"CMYK", b"Lab ", b"prtr", [(b"wtpt", xyz(0.9642, 1, 0.8249)), (b"A2B0", lut)])


def palette():
    """Of four colours, the second transparent."""
    index = (np.indices(SIZE[::-1]).sum(0) % 4).astype(np.uint8)
    picture = Image.fromarray(index).convert("P")
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8)
    picture.putpalette(colours.tobytes())
    return picture, colours[index], np.where(index == 1, 0, 255).astype(np.uint8)


def animation(format):
    frames = [image(smooth()), image(smooth()[::-1]), image(smooth()[:, ::-1])]
    return saved(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)


P, COLOURS, HOLES = palette()
KEYED = noise(3, 16, seed=4)
KEYED[3, 5] = (1000, 2000, 3000)
KEY_HOLES = np.where((KEYED == (1000, 2000, 3000)).all(-1), 0, 65535)
KEY = struct.pack(">3H", 1000, 2000, 3000)
GREY_KEYED = noise(1, 16)
GREY_HOLES = np.where(GREY_KEYED[..., 0] == GREY_KEYED[7, 7, 0], 0, 65535)
BITS = noise(1) > 127

# name: (file, pixels, alpha, format, words of its notes)
GOOD = {
    "rgb png": (saved(noise(3), "PNG"), noise(3), None, "PNG", []),
    "rgba png": (saved(noise(4), "PNG"), noise(4)[..., :3], noise(4)[..., 3], "PNG", []),
    "opaque rgba png": (saved(image(noise(3)).convert("RGBA"), "PNG"), noise(3), None, "PNG", []),
    "la png": (saved(noise(2), "PNG"), noise(2)[..., :1], noise(2)[..., 1], "PNG", []),
    "l png": (saved(noise(1), "PNG"), noise(1), None, "PNG", []),
    "1 png": (saved(Image.fromarray(BITS[..., 0]), "PNG"), BITS * np.uint8(255), None, "PNG", []),
    "p png": (saved(P, "PNG"), COLOURS, None, "PNG", []),
    "p png with a clear colour": (saved(P, "PNG", transparency=1), COLOURS, HOLES, "PNG", []),
    "i;16 png": (saved(noise(1, 16), "PNG"), noise(1, 16), None, "PNG", []),
    "i;16 png with a clear grey": (
        png16(GREY_KEYED, (b"tRNS", struct.pack(">H", GREY_KEYED[7, 7, 0]))), GREY_KEYED, GREY_HOLES, "PNG", [],
    ),
    "rgb16 png": (png16(noise(3, 16)), noise(3, 16), None, "PNG", []),
    "rgba16 png": (png16(noise(4, 16)), noise(4, 16)[..., :3], noise(4, 16)[..., 3], "PNG", []),
    "la16 png": (png16(noise(2, 16)), noise(2, 16)[..., :1], noise(2, 16)[..., 1], "PNG", []),
    "rgb16 png with a clear colour": (png16(KEYED, (b"tRNS", KEY)), KEYED, KEY_HOLES, "PNG", []),
    "rgb16 png turned": (
        png16(turned_back(noise(3, 16), 6), (b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")),
        noise(3, 16), None, "PNG", [TURNED],
    ),
    "rgb jpeg": (saved(smooth(), "JPEG", **FINE), smooth(), None, "JPEG", []),
    "l jpeg": (saved(smooth(1), "JPEG", quality=98), smooth(1), None, "JPEG", []),
    "mpo": (saved(smooth(), "MPO", **FINE), smooth(), None, "JPEG", []),
    "cmyk jpeg": (
        saved(image(smooth()).convert("CMYK"), "JPEG", **FINE), smooth(), None, "JPEG", ["it has none"],
    ),
    "cmyk tiff": (saved(image(smooth()).convert("CMYK"), "TIFF"), smooth(), None, "TIFF", ["it has none"]),
    "cmyk with a damaged profile": (
        saved(image(smooth()).convert("CMYK"), "TIFF", icc_profile=press()[:200]), smooth(), None, "TIFF",
        ["is damaged"],
    ),
    "webp": (saved(smooth(), "WEBP", lossless=True), smooth(), None, "WEBP", []),
    "rgba webp": (saved(noise(4), "WEBP", lossless=True, exact=True), noise(4)[..., :3], noise(4)[..., 3], "WEBP", []),
    "tiff": (saved(noise(3), "TIFF", compression="tiff_lzw"), noise(3), None, "TIFF", []),
    "rgba tiff": (saved(noise(4), "TIFF"), noise(4)[..., :3], noise(4)[..., 3], "TIFF", []),
    "rgb16 tiff": (tiff16(noise(3, 16)), noise(3, 16), None, "TIFF", []),
    "rgb16 tiff of a Mac": (tiff16(noise(3, 16), ">"), noise(3, 16), None, "TIFF", []),
    "rgba16 tiff": (tiff16(noise(4, 16)), noise(4, 16)[..., :3], noise(4, 16)[..., 3], "TIFF", []),
    "rgbx16 tiff": (tiff16(noise(4, 16), extra=0), noise(4, 16)[..., :3], None, "TIFF", []),
    "i;16 tiff": (tiff16(noise(1, 16)), noise(1, 16), None, "TIFF", []),
    "i;16 tiff of a Mac": (tiff16(noise(1, 16), ">"), noise(1, 16), None, "TIFF", []),
    "i;16 tiff, white is zero": (tiff16(noise(1, 16), photometric=0), 65535 - noise(1, 16), None, "TIFF", []),
    "rgb16 tiff turned": (tiff16(turned_back(noise(3, 16), 7), orientation=7), noise(3, 16), None, "TIFF", [TURNED]),
    "rgb16 tiff in tiles": (tiff16(noise(3, 16), tile=16), noise(3, 16) >> 8, None, "TIFF", ["Only 8 of the 16 bits"]),
    "tiff of two pages": (
        saved(noise(3), "TIFF", save_all=True, append_images=[image(noise(3, seed=1))]), noise(3), None, "TIFF",
        ["several pages: only the first is"],
    ),
    "gif": (saved(P, "GIF"), COLOURS, None, "GIF", []),
    "gif with a clear colour": (saved(P, "GIF", transparency=1), COLOURS, HOLES, "GIF", []),
    "bmp": (saved(noise(3), "BMP"), noise(3), None, "BMP", []),
    "bmp grey": (saved(noise(1), "BMP"), noise(1), None, "BMP", []),
    "animated webp": (animation("WEBP"), smooth(), None, "WEBP", ["animated: only its first frame is"]),
    "animated png": (animation("PNG"), smooth(), None, "PNG", ["animated: only its first frame is"]),
    "p3 png": (saved(noise(3), "PNG", icc_profile=P3), noise(3), None, "PNG", ["profile (Test bx) is kept."]),
    "p3 jpeg": (saved(smooth(), "JPEG", **FINE, icc_profile=P3), smooth(), None, "JPEG", [KEPT]),
    "p3 webp": (saved(smooth(), "WEBP", lossless=True, icc_profile=P3), smooth(), None, "WEBP", [KEPT]),
    "grey profile": (saved(noise(1), "PNG", icc_profile=GREY), noise(1), None, "PNG", [KEPT]),
    "colour profile on grey": (saved(noise(1), "TIFF", icc_profile=P3), noise(1), None, "TIFF", ["other colours"]),
    "half a profile": (saved(noise(3), "PNG", icc_profile=P3[:140]), noise(3), None, "PNG", ["it is damaged"]),
    "a profile of 2 MB": (saved(noise(3), "TIFF", icc_profile=P3 + bytes(2**21)), noise(3), None, "TIFF", ["1 MB"]),
    "1x1": (saved(noise(3, size=(1, 1)), "PNG"), noise(3, size=(1, 1)), None, "PNG", []),
    "1x1 grey gif": (saved(noise(1, size=(1, 1)), "GIF"), noise(1, size=(1, 1)), None, "GIF", []),
    "1x1 jpeg": (saved(np.full((1, 1, 3), 77, np.uint8), "JPEG"), np.full((1, 1, 3), 77), None, "JPEG", []),
    "1x1 rgba16": (png16(noise(4, 16, (1, 1))), noise(4, 16, (1, 1))[..., :3], noise(4, 16, (1, 1))[..., 3], "PNG", []),
    "1xN": (saved(noise(3, size=(1, 5000)), "PNG"), noise(3, size=(1, 5000)), None, "PNG", []),
    "Nx1": (saved(noise(3, size=(70_001, 1)), "PNG"), noise(3, size=(70_001, 1)), None, "PNG", []),
    "Nx1 of 16 bits": (png16(noise(3, 16, (9001, 1))), noise(3, 16, (9001, 1)), None, "PNG", []),
    "trailing bytes": (saved(noise(3), "PNG") + b"PK\3\4" + bytes(1000), noise(3), None, "PNG", []),
    **{f"jpeg turned {k}": (with_exif(smooth(), "JPEG", k, **FINE), smooth(), None, "JPEG",
                            [TURNED] * (k > 1)) for k in range(1, 9)},
    **{f"png turned {k}": (with_exif(noise(4), "PNG", k), noise(4)[..., :3], noise(4)[..., 3], "PNG",
                           [TURNED] * (k > 1)) for k in range(1, 9)},
    **{f"tiff turned {k}": (with_exif(noise(3), "TIFF", k), noise(3), None, "TIFF", [TURNED] * (k > 1))
       for k in range(1, 9)},
    **{f"turned {k}, packed": (with_exif(noise(3), "TIFF", k, compression="tiff_lzw"), noise(3), None, "TIFF", [TURNED])
       for k in (3, 6)},
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good_photos(name):
    data, pixels, alpha, format, words = GOOD[name]
    photo = read_photo(data, "C:\\my files\\a/beach.day.jpg")
    assert photo.pixels.shape == pixels.shape and photo.size == pixels.shape[1::-1] and photo.pixels.flags.c_contiguous
    lossy = format == "JPEG" or "cmyk" in name
    assert np.abs(photo.pixels.astype(int) - pixels).max() <= (3 if lossy else 0)
    assert photo.depth == (16 if pixels.max() > 255 else 8)
    if alpha is None:
        assert photo.alpha is None
    else:
        assert np.array_equal(photo.alpha, alpha) and photo.alpha.dtype == photo.pixels.dtype
    assert photo.format == format and photo.name == "beach.day"
    assert len(photo.notes) == len(words) and all(word in note for word, note in zip(words, photo.notes, strict=True))
    assert all(note.endswith(".") for note in photo.notes)
    assert (photo.profile is not None) == any(KEPT in note for note in photo.notes)


def test_the_profile_is_the_files_own():
    assert read_photo(GOOD["p3 jpeg"][0]).profile == P3 and read_photo(GOOD["grey profile"][0]).profile == GREY
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read_photo(saved(smooth(), "PNG", icc_profile=srgb)).profile == srgb


def test_cmyk_goes_by_its_profile():
    photo = read_photo(saved(image(smooth()).convert("CMYK"), "TIFF", icc_profile=press()))
    assert photo.notes == ("Its CMYK colours were converted to sRGB by its own colour profile (Test bx).",)
    assert photo.profile is None and np.ptp(photo.pixels.astype(int), axis=-1).max() <= 1, "all its inks are black"
    ink = np.asarray(image(smooth()).convert("CMYK")).astype(int).sum(-1)
    assert np.corrcoef(ink.ravel(), photo.pixels[..., 0].ravel())[0, 1] < -0.99


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif():
    photo = read_photo(with_exif(smooth(), "AVIF", 6, quality=100, subsampling="4:4:4"))
    assert (
        photo.format == "AVIF" and np.abs(photo.pixels.astype(int) - smooth()).max() <= 4 and TURNED in photo.notes[0]
    )


def test_animated_gif():
    photo = read_photo(animation("GIF"))
    assert photo.pixels.shape == (*SIZE[::-1], 3) and photo.notes == ("It is animated: only its first frame is used.",)


@pytest.mark.parametrize(
    ("given_name", "stem"),
    [("a.b.png", "a.b"), ("../../etc/passwd", "passwd"), ("C:\\x\\Zürich 雪.JPG", "Zürich 雪"), ("", "picture"),
     ("..", "picture"), ("a\nb\0'\";$`.png", "ab"), ("x" * 300, "x" * 100)],
)  # fmt: skip
def test_names(given_name, stem):
    assert read_photo(GOOD["1x1"][0], given_name).name == stem


def test_photos_from_files(tmp_path):
    (tmp_path / "holiday.png").write_bytes(GOOD["rgb jpeg"][0])  # the name says nothing of the format
    photo = read_photo(tmp_path / "holiday.png")
    assert photo.name == "holiday" and photo.format == "JPEG"
    with open(tmp_path / "holiday.png", "rb") as stream:
        assert read_photo(stream).name == "holiday"
    assert read_photo(io.BytesIO(GOOD["rgb jpeg"][0])).name == "picture"
    for file in (tmp_path / "none.png", tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            read_photo(file)


def cut(name, part):
    data = GOOD[name][0]
    return data[: int(len(data) * part)]


PNG = GOOD["rgb png"][0]
WHOLE_IN_HALF = ("trailing bytes", "animated png", "tiff of two pages")
HUGE = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
BAD = {
    "empty": (b"", "not_an_image"),
    "text named .png": (b"This is no picture at all.\n" * 20, "not_an_image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    "heic": (b"\0\0\0 ftypheic" + bytes(100), "not_an_image"),
    "eps": (saved(smooth(), "EPS"), "not_an_image"),
    "ico": (saved(smooth(), "ICO"), "not_an_image"),
    "signature alone": (PNG[:8], "not_an_image"),
    "float tiff": (saved(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "not_an_image"),
    "32-bit tiff": (saved(Image.fromarray(np.ones((9, 9), np.int32)), "TIFF"), "not_an_image"),
    **{f"half of {name}": (cut(name, 0.5), None) for name in GOOD if name not in WHOLE_IN_HALF},
    "cut png": (cut("rgb png", 0.9), "damaged"),
    "cut rgb16 png": (cut("rgb16 png", 0.9), "damaged"),
    "cut jpeg": (cut("rgb jpeg", 0.9), "damaged"),
    "wrong checksum": (PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:], "damaged"),
    "png bomb": (chunked((b"IHDR", HUGE), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")), "too_many_pixels"),
    "png of 110 megapixels": (saved(Image.new("1", (11_000, 10_000)), "PNG"), "too_many_pixels"),
    "16-bit png bomb": (png16(noise(3, 16), size=(50_000, 50_000)), "too_many_pixels"),
    "16-bit png that claims more": (png16(noise(3, 16), size=(9_000, 9_000)), "damaged"),
    "gif bomb": (b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + GOOD["gif"][0][10:], "too_many_pixels"),
    "bmp bomb": (GOOD["bmp"][0][:18] + struct.pack("<ii", 50_000, 50_000) + GOOD["bmp"][0][26:], "too_many_pixels"),
    "long line": (saved(Image.new("1", (300_001, 1)), "PNG"), "too_thin"),
    "16-bit tiff that ends early": (tiff16(noise(3, 16))[:-6], None),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_photos(name, tmp_path):
    data, code = BAD[name]
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(BadInput) as error:
        read_photo(tmp_path / "a.png")
    assert error.value.message.endswith(".") and len(error.value.message) < 120
    assert error.value.code == code or (code is None and error.value.code in ("damaged", "not_an_image"))


def test_a_limit_of_pixels_and_bytes():
    assert read_photo(PNG, max_pixels=SIZE[0] * SIZE[1]).size == SIZE
    with pytest.raises(BadInput, match="31x22; the limit is 0.0006 megapixels") as error:
        read_photo(PNG, max_pixels=600)
    assert error.value.code == "too_many_pixels"
    with pytest.raises(BadInput) as error:
        read_photo(PNG + bytes(17 * 2**20), max_pixels=1000)
    assert error.value.code == "too_many_bytes"


KINDS = ["rgb16 png", "rgba png", "p3 jpeg", "cmyk jpeg", "rgb16 tiff", "rgb16 tiff in tiles", "tiff", "gif", "bmp",
         "animated webp", "p png with a clear colour", "i;16 tiff", "tiff of two pages"]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    st.booleans(),
    st.floats(0, 1),
)
def test_damaged_photos_are_a_photo_or_a_sentence(name, changes, in_header, part):
    data = bytearray(GOOD[name][0])
    for place, value in changes:
        data[place % (min(len(data), 200) if in_header else len(data))] = value
    for tried in (bytes(data), bytes(data[: int(len(data) * part)])):
        try:
            photo = read_photo(tried, max_pixels=10**6)
        except BadInput as error:
            assert error.message.endswith(".")
        else:
            height, width, channels = photo.pixels.shape
            assert width * height <= 10**6 and channels in (1, 3) and photo.pixels.dtype in (np.uint8, np.uint16)
            assert photo.alpha is None or photo.alpha.shape == (height, width)
