"""Pictures written and resized band by band: the same as whole ones, in memory that stays flat."""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

from ganhub.errors import BadInput
from ganhub.imaging import Photo, Resampler, encode_image, open_picture, output_format, read_photo, read_provenance

ABOUT = {"ganhub": "0.1.0", "task": "upscale", "checkpoint": "tiny", "title": "Früchte 果物", "generated": True}
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(width, height, channels=3, bits=8):
    """Half of it smooth, so that every branch of a filter is taken."""
    array = np.random.RandomState(width).randint(0, 2**bits, (height, width, channels))
    array[height // 3 :] = (array[height // 3 :] >> 4) + np.arange(width)[:, None]
    return array.astype(np.uint8 if bits == 8 else np.uint16)


def image(pixels):
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def written(file, pixels, step=7, **options):
    height, width, channels = pixels.shape
    with open_picture(file, width, height, channels, 8 * pixels.itemsize, **options) as writer:
        for top in range(0, height, step):
            writer.add(pixels[top : top + step])
    return file


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("size", "step"), [((87, 61), 7), ((1, 1), 1), ((1, 300), 300), ((70_001, 3), 1)])
def test_png_of_8_bits_equals_what_went_in(tmp_path, channels, size, step):
    pixels = noise(*size, channels)
    with Image.open(written(tmp_path / "a.png", pixels, step)) as back:
        assert back.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
        assert np.array_equal(np.asarray(back).reshape(pixels.shape), pixels)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_equals_what_went_in(tmp_path, channels):
    pixels = noise(87, 61, channels, 16)
    photo = read_photo(written(tmp_path / "a.png", pixels))  # through another decoder
    assert photo.depth == 16 and np.array_equal(photo.pixels, pixels[..., : (channels + 1) // 2 * 2 - 1])
    assert channels % 2 or np.array_equal(photo.alpha, pixels[..., -1])


def test_png_is_small(tmp_path):
    y, x = np.mgrid[:512, :512] / 512
    wave = np.stack([np.sin(9 * x + 4 * y), np.cos(7 * y * x), np.sin(5 * x * x)], axis=-1)
    pixels = (wave * 100 + 128 + np.random.RandomState(0).rand(512, 512, 3)).astype(np.uint8)
    ours = written(tmp_path / "a.png", pixels).stat().st_size
    Image.fromarray(pixels).save(tmp_path / "pillow.png")
    assert ours < 1.1 * (tmp_path / "pillow.png").stat().st_size


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_provenance_and_profile_are_inside(tmp_path, ending):
    pixels = noise(40, 30)
    file = written(tmp_path / f"a.{ending}", pixels, provenance=ABOUT, profile=PROFILE)
    assert read_provenance(file) == ABOUT
    with Image.open(file) as back, Image.open(io.BytesIO(encode_image(image(pixels), ending, ABOUT, PROFILE))) as whole:
        assert back.info["icc_profile"] == whole.info["icc_profile"] == PROFILE
        assert np.array_equal(np.asarray(back), np.asarray(whole))
        assert b"trainedAlgorithmicMedia" in file.read_bytes()
    plain = written(tmp_path / f"b.{ending}", pixels)
    with Image.open(plain) as back:
        assert not {"icc_profile", "exif", "ganhub"} & set(back.info)


def test_jpeg_and_webp(tmp_path):
    grey = read_photo(written(tmp_path / "a.jpg", noise(64, 1, 1)))
    assert grey.pixels.shape == (1, 64, 1)
    pixels = np.maximum(noise(33, 22, 4), 1)
    photo = read_photo(written(tmp_path / "a.webp", pixels))
    assert np.array_equal(photo.pixels, pixels[..., :3]) and np.array_equal(photo.alpha, pixels[..., 3])


@pytest.mark.parametrize(
    ("name", "size", "channels", "depth", "words"),
    [
        ("a.gif", (9, 9), 3, 8, "written as png, jpg or webp, not as 'a.gif'"),
        ("a", (9, 9), 3, 8, "written as png, jpg or webp"),
        ("a.jpg", (9, 9), 4, 8, "JPEG knows no transparency; write a as png"),
        ("a.jpg", (9, 9), 2, 8, "JPEG knows no transparency"),
        ("a.jpeg", (9, 9), 3, 16, "JPEG knows no 16 bits a channel"),
        ("a.webp", (9, 9), 3, 16, "WEBP knows no 16 bits a channel"),
        ("a.jpg", (65_501, 9), 3, 8, "65501x9; JPEG ends at 65,500 pixels a side; write it as png"),
        ("a.webp", (9, 16_384), 3, 8, "9x16384; WEBP ends at 16,383 pixels a side; write it as png"),
        ("a.jpg", (24_000, 16_000), 3, 8, "24000x16000; JPEG is written up to 100 megapixels here; write it as png"),
    ],
)
def test_what_a_format_cannot_hold(tmp_path, name, size, channels, depth, words):
    with pytest.raises(BadInput, match=words):
        open_picture(tmp_path / name, *size, channels, depth)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_nothing_remains_of_a_picture_that_fails(tmp_path, ending):
    file = tmp_path / f"a.{ending}"
    with pytest.raises(RuntimeError, match="stopped"), open_picture(file, 9, 9, 3) as writer:
        writer.add(noise(9, 4))
        raise RuntimeError("stopped")
    with pytest.raises(ValueError, match="4 rows of 9"), open_picture(file, 9, 9, 3) as writer:
        writer.add(noise(9, 4))
    for rows in (noise(8, 4), noise(9, 4, 4), noise(9, 4, 3, 16), noise(9, 10)):
        with pytest.raises(ValueError, match="after 0 rows"), open_picture(file, 9, 9, 3) as writer:
            writer.add(rows)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadInput, match="cannot be written"):
        written(tmp_path / "file" / f"a.{ending}", noise(9, 9))
    file.mkdir()
    with pytest.raises(BadInput, match="cannot be written"):
        written(file, noise(9, 9))
    assert {path.name for path in tmp_path.iterdir()} == {file.name, "file"}


def test_a_picture_replaces_another_at_the_end(tmp_path):
    file = written(tmp_path / "deep" / "a.png", noise(9, 9))
    before = file.read_bytes()
    writer = open_picture(file, 20, 9, 3)
    writer.add(noise(20, 9))
    assert file.read_bytes() == before
    assert writer.close() == file and Image.open(file).size == (20, 9)


def test_output_format():
    pixels = np.zeros((1, 1, 3), np.uint8)
    found = {kind: output_format(Photo(pixels, format=kind)) for kind in ("JPEG", "WEBP", "PNG", "TIFF", "GIF", "BMP")}
    assert found == {"JPEG": "jpg", "WEBP": "webp", "PNG": "png", "TIFF": "png", "GIF": "png", "BMP": "png"}


@pytest.mark.slow
def test_384_megapixels_need_little_memory_and_time(tmp_path):
    code = (
        "import resource, sys, time, numpy as np\n"
        "from ganhub.imaging import open_picture\n"
        "band = np.random.RandomState(0).randint(0, 60, (128, 24_000, 3)).astype(np.uint8)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before, began = peak(), time.process_time()\n"
        "with open_picture(sys.argv[1], 24_000, 16_000, 3) as writer:\n"
        "    for _ in range(125): writer.add(band)\n"
        "print(peak() - before, time.process_time() - began)\n"
    )
    grown, seconds = subprocess.check_output([sys.executable, "-c", code, str(tmp_path / "a.png")]).split()
    assert int(grown) < 50_000  # kB; the picture has 1,152,000
    assert float(seconds) < 120  # of one core; a third of it on a quiet machine
    data = (tmp_path / "a.png").read_bytes()
    assert struct.unpack(">II", data[16:24]) == (24_000, 16_000) and data[-8:-4] == b"IEND"


# Resampling

SIZES = [
    ((87, 61), (53, 37)), ((87, 61), (211, 307)), ((300, 1009), (100, 331)), ((50, 1009), (201, 2018)),
    ((3, 100), (7, 3)), ((1, 1), (5, 7)), ((5, 900), (1, 1)), ((64, 64), (64, 65)), ((1, 4000), (3, 12_001)),
]  # fmt: skip


def resampled(pixels, target, step):
    resampler = Resampler(pixels.shape[1::-1], target)
    return np.concatenate([resampler.add(pixels[top : top + step]) for top in range(0, len(pixels), step)])


@pytest.mark.parametrize("step", [1, 7, 64, 5000])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_resampling_equals_the_whole(source, target, step):
    for channels in (1, 3):
        pixels = noise(*source, channels)
        whole = np.asarray(image(pixels).resize(target, Image.Resampling.LANCZOS)).reshape(*target[::-1], channels)
        ours = resampled(pixels, target, step)
        assert ours.dtype == np.uint8 and np.abs(ours.astype(int) - whole).max() <= 1
    deep = noise(*source, 1, 16)
    whole = image(deep.astype(np.float32)).resize(target, Image.Resampling.LANCZOS)
    ours = resampled(deep, target, step)
    assert ours.dtype == np.uint16 and np.abs(ours[..., 0] - np.asarray(whole).clip(0, 65535)).max() <= 16  # of 257


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [2, 4])
def test_colours_under_transparency_do_not_bleed(bits, channels):
    most = 2**bits - 1
    pixels = np.zeros((90, 60, channels), np.uint8 if bits == 8 else np.uint16)
    pixels[:45, :, 0] = pixels[:45, :, -1] = most  # opaque above; below clear, over black
    out = resampled(pixels, (31, 47), 8)
    assert (out[out[..., -1] > most // 4][:, 0] >= most - 2).all() and out[-1, 0, -1] == 0 and out[0, 0, -1] == most
    noisy = noise(60, 90, channels, bits)
    noisy[..., -1] |= most // 2 + 1
    if bits == 8:
        whole, tolerance = np.asarray(Image.fromarray(noisy).resize((31, 47), Image.Resampling.LANCZOS)), 2
    else:
        levels = noisy.astype(np.float32)
        levels[..., :-1] *= levels[..., -1:]
        planes = [
            Image.fromarray(plane).resize((31, 47), Image.Resampling.LANCZOS) for plane in np.moveaxis(levels, -1, 0)
        ]
        whole, tolerance = np.stack(planes, axis=-1), 32
        whole[..., :-1] /= whole[..., -1:]
        whole = whole.clip(0, most)
    assert np.abs(resampled(noisy, (31, 47), 8).astype(float) - whole).max() <= tolerance


def test_the_same_size_changes_nothing():
    pixels = noise(20, 30, 4)
    assert np.array_equal(resampled(pixels, (20, 30), 7), pixels)


def test_rows_come_as_soon_as_they_can():
    resampler = Resampler((40, 1000), (160, 4000))
    given = [len(resampler.add(noise(40, 100))) for _ in range(10)]
    assert sum(given) == 4000 and given[0] > 370 and max(given) <= 420 and resampler._held.size < 40 * 3 * 15
    for rows in (noise(41, 10), noise(40, 10)):
        with pytest.raises(ValueError, match="of \\(40, 1000\\)"):
            resampler.add(rows)
