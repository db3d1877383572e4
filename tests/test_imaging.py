"""Pictures: pixels, sheets, videos, provenance inside files, and uploads of every odd kind."""

import io
import json
import os
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, PngImagePlugin

from ganhub import imaging
from ganhub.errors import BadInput
from ganhub.imaging import (
    VideoWriter,
    cross_grid,
    encode_image,
    grid,
    labelled_grid,
    load_image,
    read_provenance,
    read_upload,
    save_image,
    strip,
    to_pil,
    to_uint8,
    write_video,
)

ABOUT = {
    "ganhub": "0.1.0", "task": "generate", "checkpoint": "tiny", "seed": 7, "psi": 0.7, "label": None,
    "title": "Früchte 果物 <b>\n", "generated": True, "notice": "AI-generated",
}  # fmt: skip


def noise(width, height, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def levels(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max()


# Pixels


def test_to_uint8_cuts_off_as_nvidia_does():
    x = torch.linspace(-1.5, 1.5, 3 * 8 * 8).reshape(1, 3, 8, 8)
    want = (x.permute(0, 2, 3, 1) * 127.5 + 128).clamp(0, 255).to(torch.uint8).numpy()
    assert np.array_equal(to_uint8(x), want) and to_uint8(x).shape == (1, 8, 8, 3)
    assert np.array_equal(to_uint8(x.numpy()), want)
    assert to_uint8(torch.tensor([[[[-1.0, 0.0, 0.9999, 1.0]]]])).ravel().tolist() == [0, 128, 255, 255]
    assert to_uint8(x.bfloat16()).dtype == np.uint8


def test_to_uint8_equals_the_reference(reference):
    case = reference("stylegan2ada/f_skip_uncond_r32.G")
    got = to_uint8(torch.from_numpy(case.outputs["img_G_psi0.7_const"]))
    case.check("img_uint8_psi0.7_const", got, 0)


def test_one_channel_is_grey():
    assert to_pil(to_uint8(torch.zeros(2, 1, 4, 6))[0]).mode == "L"
    assert to_pil(to_uint8(torch.zeros(2, 3, 4, 6))[0]).size == (6, 4)


# Sheets


def test_grid_and_strip():
    tiles = [np.full((4, 6, 3), k, np.uint8) for k in range(5)]
    sheet = np.asarray(grid(tiles))
    assert sheet.shape == (8, 18, 3) and sheet[5, 7, 0] == 4 and sheet[5, 13, 0] == 255
    padded = grid(tiles, columns=5, padding=2)
    assert padded.size == (5 * 8 + 2, 8) and padded.getpixel((3, 3)) == (0, 0, 0)
    assert strip(tiles).size == (30, 4)
    assert grid([noise(4, 4, 1)]).mode == "L"
    assert grid([noise(4, 4, 1), noise(4, 4)]).mode == "RGB"
    with pytest.raises(BadInput):
        grid([])


def test_cross_grid_has_the_sources_outside():
    tile = lambda value: np.full((2, 2, 3), value, np.uint8)  # noqa: E731
    sheet = np.asarray(cross_grid([tile(1), tile(2)], [tile(3), tile(4), tile(5)], [tile(10 + k) for k in range(6)]))
    assert sheet[::2, ::2, 0].tolist() == [[0, 3, 4, 5], [1, 10, 11, 12], [2, 13, 14, 15]]


def test_labelled_grid_shows_pictures_and_words():
    tiles = [np.full((32, 32, 3), 40 * k, np.uint8) for k in range(6)]
    sheet = labelled_grid(tiles, ["psi 0", "psi 0.5", "psi 1"], ["seed 0", "seed 12345"])
    pixels = np.asarray(sheet)
    for k in range(6):
        y, x = sheet.height - 96 * (2 - k // 3) + 48, sheet.width - 96 * (3 - k % 3) + 48
        assert pixels[y, x, 0] == 40 * k
    above = pixels[: sheet.height - 192]
    assert above.min() < 100 and above.shape[0] >= 12
    beside = pixels[sheet.height - 192 :, : sheet.width - 288]
    assert beside.min() < 100 and beside.shape[1] > 40


def test_sheets_stay_bounded(monkeypatch):
    monkeypatch.setattr(imaging.sheets, "MAX_PIXELS", 1_000_000)
    tile = Image.new("RGB", (400, 300), "red")
    for sheet in (grid([tile] * 30), labelled_grid([tile] * 30, ["a"] * 6, ["b"] * 5)):
        assert sheet.width * sheet.height < 1.2e6
        assert sheet.getpixel((sheet.width - 5, sheet.height - 5)) == (255, 0, 0)


# Provenance


@pytest.mark.parametrize("ending", ["png", "jpg", "jpeg", "webp", "PNG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_provenance_survives_a_file(tmp_path, ending, channels):
    pixels = noise(64, 48, channels)
    file = save_image(pixels, tmp_path / "deep" / f"a.{ending}", ABOUT)
    assert read_provenance(file) == ABOUT
    with open(file, "rb") as stream:
        assert read_provenance(stream) == ABOUT
    with Image.open(file) as back:
        back.load()
        if ending.lower() in ("png", "webp"):
            assert levels(back.convert("L" if channels == 1 else "RGB"), pixels) == 0
    assert b"trainedAlgorithmicMedia" in file.read_bytes()
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_provenance_survives_an_encoder_that_reads_info():
    """As Gradio does: str entries of `info` become text chunks of the PNG."""
    image = Image.fromarray(noise(8, 8))
    image.info.update(imaging.png_text(ABOUT))
    chunks = PngImagePlugin.PngInfo()
    for key, value in image.info.items():
        chunks.add_text(key, value)
    out = io.BytesIO()
    image.save(out, "PNG", pnginfo=chunks)
    assert read_provenance(io.BytesIO(out.getvalue())) == ABOUT


def test_save_without_provenance_and_bad_targets(tmp_path):
    save_image(noise(8, 8), tmp_path / "a.png")
    with pytest.raises(BadInput, match="carries no settings"):
        read_provenance(tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    for target in ("a.gif", "a", "file/b.png"):
        with pytest.raises(BadInput):
            save_image(noise(8, 8), tmp_path / target)
    with pytest.raises(BadInput, match="WEBP"):
        encode_image(Image.new("L", (17_000, 2)), "webp")
    with pytest.raises(BadInput, match="too long"):
        encode_image(noise(8, 8), "jpg", {**ABOUT, "seeds": list(range(20_000))})


def png_with_text(text, key="ganhub"):
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(key, text)
    out = io.BytesIO()
    Image.new("L", (4, 4)).save(out, "PNG", pnginfo=chunks)
    return out.getvalue()


def text_bomb():
    """A compressed text chunk that unpacks to 64 MB."""
    data = png_with_text("x")
    body = b"ganhub\0\0" + zlib.compress(b" " * 2**26, 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return data[:33] + chunk + data[33:]


def box(kind, content):
    return struct.pack(">I4s", len(content) + 8, kind) + content


STRANGE = {
    "empty": b"",
    "text": b"hello",
    "no json": png_with_text("{"),
    "list": png_with_text("[1]"),
    "keys missing": png_with_text('{"ganhub": "1"}'),
    "keys of another kind": png_with_text('{"ganhub": 1, "task": [], "checkpoint": {}}'),
    "infinite": png_with_text(json.dumps(ABOUT)[:-1] + ', "psi": Infinity}'),
    "deep": png_with_text("[" * 40_000),
    "long": png_with_text(json.dumps({**ABOUT, "pad": "x" * 60_000})),
    "long number": png_with_text('{"ganhub":' + "9" * 10_000 + "}"),
    "text bomb": text_bomb(),
    "cut png": encode_image(noise(64, 64), "png", ABOUT)[:40],
    "cut jpeg": encode_image(noise(64, 64), "jpg", ABOUT)[:60],
    "other png": png_with_text("Steps: 20", "parameters"),
    "gif": b"GIF89a" + bytes(100),
    "empty mp4": box(b"ftyp", b"isom"),
    "mp4 of a lie": box(b"ftyp", b"isom") + struct.pack(">I4s", 2**31, b"moov"),
    "mp4 with 64-bit lie": box(b"ftyp", b"isom") + struct.pack(">I4sQ", 1, b"moov", 2**63),
    "mp4 of nothing": box(b"ftyp", b"isom") + bytes(5000),
    "mp4 without text": box(b"ftyp", b"isom") + box(b"moov", box(b"udta", box(b"meta", bytes(4) + box(b"ilst", b"")))),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_files_have_no_provenance(tmp_path, name):
    (tmp_path / "file").write_bytes(STRANGE[name])
    began = time.process_time()
    with pytest.raises(BadInput) as error:
        read_provenance(tmp_path / "file")
    assert error.value.message.endswith(".") and len(error.value.message) < 200 and time.process_time() - began < 2


def test_missing_file_has_no_provenance(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        read_provenance(tmp_path / "none.png")


# Video


def probe(file):
    """Size, pixel format, codec, frames and duration, as ffmpeg sees them."""
    from imageio_ffmpeg import count_frames_and_secs, get_ffmpeg_exe

    words = subprocess.run([get_ffmpeg_exe(), "-i", str(file)], capture_output=True, text=True).stderr
    return words, count_frames_and_secs(str(file))


@pytest.mark.parametrize(
    ("width", "height", "channels", "made"), [(64, 64, 3, "256x256"), (28, 28, 1, "280x280"), (333, 257, 3, "334x258")]
)
def test_video_plays_everywhere(tmp_path, width, height, channels, made):
    frames = [noise(width, height, channels, seed) for seed in range(7)]
    told = []
    file = write_video(iter(frames), tmp_path / "a.mp4", 5, ABOUT, progress=told.append)
    words, (count, seconds) = probe(file)
    assert "h264" in words and "yuv420p" in words and made in words and "5 fps" in words
    assert count == 7 and seconds == pytest.approx(1.4, abs=0.05) and told == list(range(1, 8))
    assert read_provenance(file) == ABOUT
    data = file.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # starts to play before it is there in full


def test_video_keeps_the_pictures(tmp_path):
    from imageio_ffmpeg import read_frames

    flat = [np.full((128, 128, 3), (200, 40, 90), np.uint8), np.full((128, 128, 3), (20, 140, 250), np.uint8)]
    file = write_video(flat, tmp_path / "a.mp4", 2)
    stream = read_frames(str(file))
    assert next(stream)["size"] == (256, 256)
    for frame, want in zip(stream, flat, strict=True):
        got = np.frombuffer(frame, np.uint8).reshape(256, 256, 3)
        assert levels(got.mean((0, 1)), want[0, 0]) <= 6


def test_video_leaves_nothing_when_it_fails(tmp_path):
    def broken():
        yield noise(64, 64)
        raise RuntimeError("frame")

    with pytest.raises(RuntimeError, match="frame"):
        write_video(broken(), tmp_path / "a.mp4")
    with pytest.raises(BadInput, match="no frame"):
        write_video([], tmp_path / "a.mp4")
    with pytest.raises(BadInput, match="different sizes"):
        write_video([noise(64, 64), noise(32, 32)], tmp_path / "a.mp4")
    with pytest.raises(BadInput, match="written as .mp4"):
        VideoWriter(tmp_path / "a.avi")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(BadInput, match="folder.mp4 cannot be written"):
        write_video([noise(64, 64)] * 2, tmp_path / "folder.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.mp4"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_video_says_when_ffmpeg_cannot_write(tmp_path, monkeypatch):
    writer = VideoWriter(tmp_path / "a.mp4")
    monkeypatch.setattr(writer, "_part", tmp_path / "no such folder" / "a.mp4")
    with pytest.raises(BadInput, match="a.mp4 cannot be written: .*No such file"), writer:
        for seed in range(200):
            writer.add(noise(256, 256, seed=seed))


@pytest.mark.slow
def test_video_needs_no_memory_for_its_length(tmp_path):
    code = (
        "import resource, sys, numpy as np\n"
        "from ganhub.imaging import write_video\n"
        "frame = np.zeros((512, 512, 3), np.uint8)\n"
        "write_video((frame for _ in range(int(sys.argv[1]))), sys.argv[2], 30)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    few, many = (
        int(subprocess.check_output([sys.executable, "-c", code, n, str(tmp_path / "a.mp4")])) for n in ("20", "800")
    )
    assert many - few < 20_000  # kB; 780 frames would be 600,000


# Uploads


def saved(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def picture(mode="RGB", size=(60, 40)):
    """Left half red, right half blue, a white spot at the upper left."""
    image = Image.new("RGB", size, (200, 30, 30))
    draw = ImageDraw.Draw(image)
    draw.rectangle((size[0] // 2, 0, *size), (30, 30, 200))
    draw.rectangle((0, 0, size[0] // 6, size[1] // 4), (255, 255, 255))
    return image.convert(mode)


def turned(orientation, **options):
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose that undoes what the tag asks for
    image = picture()
    if orientation > 1:
        image = image.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, "JPEG", quality=95, exif=exif, **options)


def with_alpha():
    image = picture("RGBA")
    image.paste((0, 255, 0, 0), (0, 30, 60, 40))
    return image


def palette_with_transparency():
    image = picture().quantize(16)
    return saved(image, "PNG", transparency=image.getpixel((1, 1)))


def grey16(value=0x7FFF):
    return Image.fromarray(np.full((40, 60), value, np.uint16))


def animation(format):
    frames = [picture().rotate(angle) for angle in (0, 90, 180)]
    return saved(frames[0], format, save_all=True, append_images=frames[1:])


def rgb16():
    """A PNG of 16 bits a channel, which Pillow cannot write."""
    rows = b"".join(b"\0" + struct.pack(">HHH", 0x7FFF, 0x1FFF, 0xFFFF) * 60 for _ in range(40))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 60, 40, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


JPEG = saved(picture(), "JPEG", quality=95)
PNG = saved(picture(), "PNG")
WEBP = saved(picture(), "WEBP", lossless=True)
NAUGHTY_EXIF = b"Exif\0\0" + b"MM\0*\0\0\0\x08" + b"\xff" * 200


def giant_webp(side=12_000):
    """A lossless WebP whose header claims a square of this side (14 bits each, less one)."""
    return WEBP[:21] + ((side - 1) | (side - 1) << 14 | 0 << 28).to_bytes(4, "little") + WEBP[25:]


GOOD = {
    "jpeg": JPEG,
    "png": PNG,
    "webp": WEBP,
    "lossy webp": saved(picture(), "WEBP", quality=95),
    "progressive jpeg": saved(picture(), "JPEG", quality=95, progressive=True),
    "cmyk jpeg": saved(picture("CMYK"), "JPEG", quality=95),
    "grey jpeg": saved(picture("L"), "JPEG"),
    "grey png": saved(picture("L"), "PNG"),
    "one bit png": saved(picture("L").point(lambda v: 255 * (v > 128)).convert("1"), "PNG"),
    "palette png": saved(picture().quantize(16), "PNG"),
    "palette with transparency": palette_with_transparency(),
    "palette with alpha of each colour": saved(picture().quantize(4), "PNG", transparency=bytes([255, 128, 0, 255])),
    "rgba png": saved(picture("RGBA"), "PNG"),
    "rgba webp": saved(picture("RGBA"), "WEBP", lossless=True),
    "grey with alpha": saved(picture("LA"), "PNG"),
    "rgb with transparent colour": saved(picture(), "PNG", transparency=(1, 2, 3)),
    "16-bit grey": saved(grey16(), "PNG"),
    "16-bit colour": rgb16(),
    "interlaced text": saved(picture(), "PNG", pnginfo=PngImagePlugin.PngInfo()),
    "bad colour profile": saved(picture(), "JPEG", quality=95, icc_profile=b"nonsense" * 20),
    "garbage exif": saved(picture(), "JPEG", quality=95, exif=NAUGHTY_EXIF),
    "exif with place": turned(1),
    "animated webp": animation("WEBP"),
    "animated png": animation("PNG"),
    "mpo": saved(picture(), "MPO", save_all=True, append_images=[picture()]),
    "trailing bytes": JPEG + b"PK\x03\x04" + bytes(1000),
    **{f"orientation {k}": turned(k) for k in range(2, 9)},
}

BAD = {
    "empty": (b"", "not_an_image"),
    "text": (b"hello world", "not_an_image"),
    "html": (b"<!doctype html><img src=x>", "not_an_image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    "gif": (animation("GIF"), "not_an_image"),
    "bmp": (saved(picture(), "BMP"), "not_an_image"),
    "tiff": (saved(picture(), "TIFF"), "not_an_image"),
    "ico": (saved(picture(), "ICO"), "not_an_image"),
    "ppm": (saved(picture(), "PPM"), "not_an_image"),
    "eps": (saved(picture(), "EPS"), "not_an_image"),
    "pdf": (saved(picture(), "PDF"), "not_an_image"),
    "jpeg 2000": (saved(picture(), "JPEG2000"), "not_an_image"),
    "avif": (b"\0\0\0 ftypavif" + bytes(100), "not_an_image"),
    "heic": (b"\0\0\0 ftypheic" + bytes(100), "not_an_image"),
    "photoshop": (b"8BPS\0\1" + bytes(100), "not_an_image"),
    "zip": (b"PK\x03\x04" + bytes(100), "not_an_image"),
    "signature alone": (PNG[:8], "not_an_image"),
    "half a header": (PNG[:20], "not_an_image"),
    "text bomb": (text_bomb(), "not_an_image"),
    "half a jpeg": (saved(Image.fromarray(noise(200, 200)), "JPEG")[:20_000], "damaged"),
    "jpeg cut in its header": (JPEG[: len(JPEG) // 2], "not_an_image"),
    "jpeg without its end": (saved(Image.fromarray(noise(200, 200)), "JPEG")[:-4000], "damaged"),
    "half a png": (PNG[: len(PNG) // 2], "damaged"),
    "half a webp": (saved(Image.fromarray(noise(64, 64)), "WEBP", lossless=True)[:600], None),
    "png with a wrong checksum": (PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:], "damaged"),
    "one pixel": (saved(Image.new("RGB", (1, 1)), "PNG"), "too_small"),
    "line across": (saved(Image.new("RGB", (60_000, 1)), "PNG"), "too_small"),
    "line down": (saved(Image.new("RGB", (1, 60_000)), "PNG"), "too_small"),
    "ribbon": (saved(Image.new("RGB", (2000, 10)), "PNG"), "too_thin"),
    "ribbon down": (saved(Image.new("L", (9, 900)), "PNG"), "too_thin"),
    "png bomb": (saved(Image.new("1", (13_000, 13_000)), "PNG"), "too_many_pixels"),
    "jpeg bomb": (saved(Image.new("L", (12_000, 12_000)), "JPEG", quality=5), "too_many_pixels"),
    "just under Pillow's own limit": (saved(Image.new("1", (9_400, 9_400)), "PNG"), "too_many_pixels"),
    "webp bomb": (giant_webp(), "too_many_pixels"),
    "large webp": (giant_webp(4_500), "too_many_pixels"),
    "header of a giant": (PNG[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + PNG[24:], None),
    "too many bytes": (PNG + bytes(21 * 2**20), "too_many_bytes"),
}


def test_the_tables_are_long():
    assert len(GOOD) >= 30 and len(BAD) >= 30


@pytest.mark.parametrize("name", GOOD)
def test_good_uploads(name):
    began = time.process_time()
    image = load_image(GOOD[name])
    assert time.process_time() - began < 1
    assert image.mode == "RGB" and image.size == (60, 40) and image.info == {} and not image.getexif()
    pixels = np.asarray(image).astype(int)
    left, right = pixels[25, 12], pixels[25, 48]
    if name.startswith("16-bit"):
        assert pixels[25, 12].tolist() == ([127] * 3 if "grey" in name else [127, 31, 255])
    elif "of each colour" in name:
        pass
    elif "grey" in name or "bit" in name:
        assert left[0] == left[1] == left[2]
    elif name == "palette with transparency":
        assert pixels[1, 1].tolist() == [255] * 3 and left[0] > 150
    else:
        assert left[0] > 150 > 80 > left[2] and right[2] > 150 > 80 > right[0], "left is red, right is blue"
        assert pixels[3, 3].min() > 200, "the spot is at the upper left"


def test_animations_say_so():
    for name in ("animated webp", "animated png"):
        assert "first frame" in read_upload(GOOD[name]).notes[0]
    assert read_upload(JPEG).notes == () and read_upload(GOOD["mpo"]).format == "JPEG"
    upload = read_upload(GOOD["orientation 6"])
    assert upload.size == upload.image.size == (60, 40)


def test_transparency_lies_on_white_or_is_kept():
    data = saved(with_alpha(), "PNG")
    assert load_image(data).getpixel((30, 35)) == (255, 255, 255)
    kept = load_image(data, keep_alpha=True)
    assert kept.mode == "RGBA" and kept.getpixel((30, 35))[3] == 0 and kept.getpixel((12, 20))[3] == 255
    assert load_image(JPEG, keep_alpha=True).mode == "RGB"


def test_large_pictures_are_made_smaller():
    data = saved(picture(size=(3000, 2000)), "JPEG")
    upload = read_upload(data, max_side=512)
    assert upload.image.size == (512, 341) and upload.size == (3000, 2000)
    assert load_image(saved(picture(size=(900, 600)), "PNG"), max_side=512).size == (512, 341)
    assert load_image(PNG, max_side=512).size == (60, 40)


@pytest.mark.parametrize("name", BAD)
def test_bad_uploads(name):
    data, code = BAD[name]
    began = time.process_time()
    with pytest.raises(BadInput) as error:
        load_image(data)
    assert time.process_time() - began < 1
    assert error.value.message.endswith(".") and len(error.value.message) < 120
    assert error.value.code == code or code is None


def test_sentences_name_what_was_uploaded():
    for name, word in (("heic", "HEIC"), ("gif", "GIF"), ("tiff", "TIFF"), ("avif", "AVIF"), ("pdf", "PDF")):
        with pytest.raises(BadInput, match=f"This is a {word} file"):
            load_image(BAD[name][0])


def test_uploads_from_files(tmp_path):
    (tmp_path / "me.png").write_bytes(JPEG)  # the name says nothing
    assert load_image(tmp_path / "me.png").size == (60, 40)
    with open(tmp_path / "me.png", "rb") as stream:
        assert load_image(stream).size == (60, 40)
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            load_image(path)


def test_bad_uploads_need_little_memory(tmp_path):
    """Every refusal, one after the other in a child that may not grow."""
    for k, (data, _) in enumerate(BAD.values()):
        (tmp_path / f"{k}").write_bytes(data)
    code = (
        "import resource, sys, pathlib\n"
        "from ganhub.errors import BadInput\n"
        "from ganhub.imaging import load_image\n"
        "load_image(sys.argv[2])\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "for file in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    try: load_image(file); raise SystemExit(file.name)\n"
        "    except BadInput: pass\n"
        "print(peak() - before)\n"
    )
    (tmp_path.parent / "good.jpg").write_bytes(JPEG)
    grown = subprocess.check_output([sys.executable, "-c", code, str(tmp_path), str(tmp_path.parent / "good.jpg")])
    assert int(grown) < 100_000  # kB


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([JPEG, PNG, WEBP, GOOD["animated webp"], GOOD["palette with transparency"], GOOD["cmyk jpeg"]]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    st.floats(0, 1),
)
def test_damaged_uploads_are_a_picture_or_a_sentence(data, changes, cut):
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(data)] = value
    for tried in (bytes(damaged), bytes(damaged[: int(len(data) * cut)])):
        try:
            image = load_image(tried)
        except BadInput as error:
            assert error.message.endswith(".")
        else:
            assert image.mode == "RGB" and image.info == {} and image.width * image.height <= 40e6


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_sentence(data):
    with pytest.raises(BadInput):
        load_image(data)
