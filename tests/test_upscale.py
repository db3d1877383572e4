"""Photos enlarged tile by tile: equal to the whole picture, whatever their kind, in memory that does not grow."""

import dataclasses
import json
import resource
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from ganhub.engine import Engine, Job
from ganhub.errors import BadInput, CheckpointError, EngineError, RegistryError
from ganhub.imaging import Photo, read_provenance
from ganhub.models import srresnet
from ganhub.pipelines import overlap as overlaps
from ganhub.pipelines.requests import Progress
from ganhub.pipelines.upscale import UpscaleRequest, bicubic, departure, shrunk, spans, upscale
from ganhub.pipelines.upscale_files import VideoRequest, photos_in, upscale_files, upscale_video
from ganhub.registry import Checkpoint, Registry


class Whole(torch.nn.Module):
    """Four times larger, with the mean of the whole picture in every pixel: what no overlap can make equal."""

    scale, img_channels, multiple, reach = 4, 3, 1, 0

    def forward(self, x):
        large = torch.nn.functional.interpolate(x, scale_factor=4.0, mode="bilinear")
        return 0.9 * large + 0.1 * x.mean((1, 2, 3), keepdim=True)


class Pairs(srresnet.SRResNet):
    """Takes even sides only, as networks with a pixel-unshuffle do."""

    def __init__(self):
        super().__init__(channels=8, blocks=1, ups=((2, 8),), kernels=(3, 3), norm=False)
        self.multiple = 2

    def forward(self, x):
        assert x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
        return super().forward(x)


def network(seed, **config):
    torch.manual_seed(seed)
    config = {"channels": 8, "blocks": 2, "ups": ((2, 8), (2, 8)), "kernels": (3, 3), "norm": False, **config}
    return srresnet.SRResNet(**config)


NETWORKS = {
    "x4": lambda: network(0),
    "other": lambda: network(1),
    "smaller": lambda: network(2, blocks=1),
    "grey": lambda: network(3, img_channels=1),
    "pairs": lambda: (torch.manual_seed(4), Pairs())[1],
    "narrow": lambda: network(5, channels=2, ups=((2, 2), (2, 2))),
    "whole": Whole,
}


def rows():
    facts = {"task": ("upscale",), "family": "srresnet", "source": {"path": "/nowhere"}, "license": "mit"}
    more = {"x4": {"components": {"blend": "other"}}, "other": {"components": {"blend": "smaller"}}}
    for name in NETWORKS:
        yield Checkpoint(id=name, title=name, commercial_use=True, **facts, **more.get(name, {}))
    yield Checkpoint(id="draws", title="draws", commercial_use=True, **{**facts, "task": ("generate",)})


@pytest.fixture(scope="module")
def engine():
    engine = Engine(
        Registry(rows()),
        device="cpu",
        fetch=lambda row, progress=None: row.id,
        read=lambda row, path: NETWORKS[row.id]().eval().requires_grad_(False),
    )
    yield engine
    engine.close(drain=False)


def photo(height=70, width=90, channels=3, depth=8, seed=0):
    most = 255 if depth == 8 else 65535
    pixels = np.random.RandomState(seed).randint(0, most + 1, (height, width, channels))
    return Photo(pixels.astype(np.uint8 if depth == 8 else np.uint16))


def run(engine, checkpoint, picture, **how):
    return list(upscale(engine, UpscaleRequest(checkpoint, picture, **how)))[-1]


def plain(name, picture):
    """What the network answers when it is called by itself, in levels, not rounded."""
    pixels = torch.from_numpy(picture.pixels.astype(np.float32) / (255 if picture.depth == 8 else 65535))
    with torch.no_grad():
        return NETWORKS[name]().eval()(pixels.permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()


def test_the_result_is_the_network_s(engine):
    result = run(engine, "x4", photo())
    assert result.pixels.shape == (280, 360, 3) and result.size == (360, 280)
    want = plain("x4", photo()).clip(0, 1) * 255
    assert np.abs(result.pixels - want).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("tile", [32, 40, 64])
def test_tiles_equal_the_whole(engine, tile):
    whole, tiled = run(engine, "x4", photo(), tile=4096), run(engine, "x4", photo(), tile=tile)
    assert np.array_equal(whole.pixels, tiled.pixels)
    # Without an overlap the seams show, or this test would prove nothing.
    assert not np.array_equal(whole.pixels, run(engine, "x4", photo(), tile=tile, overlap=0).pixels)


def test_a_row_states_the_overlap(engine):
    row = Checkpoint(**{**engine.registry.find("x4").model_dump(), "id": "stated", "preprocess": {"overlap": 3}})
    own = Engine(Registry([row, *rows()]), device="cpu", fetch=lambda row, progress=None: row.id,
                 read=lambda row, path: NETWORKS["x4"]().eval())  # fmt: skip
    with own:
        assert run(own, "stated", photo(), tile=32).provenance["overlap"] == 3
        assert run(own, "stated", photo(), tile=32, overlap=7).provenance["overlap"] == 7


def test_the_overlap_is_measured(engine):
    found = list(overlaps.measure(engine, "x4"))[-1]
    errors = list(found.errors.values())
    assert errors[-1] <= 0.5 and all(error > 0.5 for error in errors[:-1]) and 0 < found.overlap <= found.reach
    one = run(engine, "x4", photo(), tile=4096)
    other = run(engine, "x4", photo(), tile=32, overlap=found.overlap)
    assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1
    with pytest.raises(BadInput, match="whole picture"):
        list(overlaps.measure(engine, "whole"))


def test_networks_that_see_everything_are_faded(engine):
    whole, tiled = run(engine, "whole", photo(), tile=4096), run(engine, "whole", photo(), tile=32)
    assert any("faded" in note for note in tiled.notes)
    apart = np.abs(whole.pixels.astype(int) - tiled.pixels)
    assert 0 < apart.max() <= 6  # the means of tiles differ from that of the picture by so much
    # No step at a border of tiles is larger than the gentlest ramp explains: on a flat picture there is none at all.
    flat = Photo(np.full((70, 90, 3), 77, np.uint8))
    assert np.abs(run(engine, "whole", flat, tile=32).pixels.astype(int) - 77).max() == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (41, 1), (3, 5), (29, 37), (64, 65)])
@pytest.mark.parametrize("name", ["x4", "pairs"])
def test_odd_sizes(engine, name, size):
    result = run(engine, name, photo(*size), tile=32)
    scale = 4 if name == "x4" else 2
    assert result.pixels.shape == (size[0] * scale, size[1] * scale, 3)


def test_transparency_is_enlarged_beside_the_colours(engine):
    alpha = np.full((70, 200), 255, np.uint8)
    alpha[:, 120:] = 0
    alpha[:30, :30] = np.arange(30) * 8
    result = run(engine, "x4", dataclasses.replace(photo(width=200), alpha=alpha), tile=32)
    assert result.pixels.shape == (280, 800, 4)
    assert np.array_equal(result.pixels[..., :3], run(engine, "x4", photo(width=200), tile=32).pixels)
    grey = plain("x4", Photo(alpha[..., None].repeat(3, 2))).clip(0, 1) @ np.array([0.299, 0.587, 0.114])
    shape = result.pixels[:100, :100, 3]  # in tiles that are not all of one opacity
    assert np.abs(shape - grey[:100, :100] * 255).max() <= 1
    assert (result.pixels[200:, -40:, 3] == 0).all() and (result.pixels[200:, :40, 3] == 255).all()


def test_grey_stays_grey_and_16_bits_stay_16(engine):
    result = run(engine, "x4", photo(channels=1, depth=16), tile=32)
    assert result.pixels.shape == (280, 360, 1) and result.pixels.dtype == np.uint16
    assert len(np.unique(result.pixels)) > 1000  # more levels than 8 bits have
    deep, flat = run(engine, "x4", photo(depth=16)), plain("x4", photo(depth=16)).clip(0, 1) * 65535
    assert np.abs(deep.pixels - flat).max() <= 1
    colour = run(engine, "grey", photo())  # a network of one channel answers in grey
    assert colour.pixels.shape == (280, 360, 1)


def test_smaller_scales_and_widths(engine):
    full = run(engine, "x4", photo())
    for how, size in (({"scale": 2}, (180, 140)), ({"scale": 2.5}, (225, 175)), ({"width": 200}, (200, 156))):
        result = run(engine, "x4", photo(), tile=32, **how)
        assert result.size == size and result.pixels.shape == (size[1], size[0], 3)
        want = np.asarray(full.image.resize(size, Image.Resampling.LANCZOS))
        assert np.abs(result.pixels.astype(int) - want).max() <= 2
    with pytest.raises(BadInput, match="4 times larger, 360x280 here, not 450x350"):
        run(engine, "x4", photo(), scale=5)


def test_files_are_written_while_they_are_made(engine, tmp_path):
    kept = run(engine, "x4", photo(), tile=32)
    written = run(engine, "x4", photo(), tile=32, file=tmp_path / "new" / "large.png")
    assert written.pixels is None and np.array_equal(np.asarray(Image.open(written.file)), kept.pixels)
    about = read_provenance(written.file)
    assert about["checkpoint"] == "x4" and about["size"] == [360, 280] and about["generated"] is True
    assert kept.save(tmp_path / "kept.jpg").exists() and read_provenance(tmp_path / "kept.jpg")["task"] == "upscale"
    with pytest.raises(BadInput, match="100|too many"):
        run(engine, "x4", Photo(np.zeros((3000, 3000, 3), np.uint8)))


def test_closing_stops_and_leaves_nothing_behind(engine, tmp_path):
    events = upscale(engine, UpscaleRequest("x4", photo(300, 300), tile=32, file=tmp_path / "large.png"))
    while not (isinstance(event := next(events), Progress) and event.done > 3):
        pass
    events.close()
    assert list(tmp_path.iterdir()) == []
    engine.run(Job("x4", "describe", {}))  # whatever was queued is gone
    assert engine.status()["waiting"] == 0


def test_out_of_memory_halves_the_tile(engine, monkeypatch):
    big = 48 * 48
    G = engine._cache.get(next(e.key for e in engine._cache if e.key.checkpoint == "x4")).network
    seen = []

    def refuse(module, inputs):
        seen.append(inputs[0].shape[2] * inputs[0].shape[3])
        if seen[-1] > big:
            raise torch.OutOfMemoryError("out of memory")

    want = run(engine, "x4", photo()).pixels
    handle = G.register_forward_pre_hook(refuse)
    try:
        result = run(engine, "x4", photo(), tile=128)
    finally:
        handle.remove()
    assert np.array_equal(result.pixels, want) and max(seen) > big and min(seen) <= big
    assert any("out of memory" in note for note in result.notes)


def test_visitors_share_batches(engine):
    sizes = []
    run(engine, "narrow", photo())
    G = engine._cache.get(next(e.key for e in engine._cache if e.key.checkpoint == "narrow")).network
    handle = G.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    results = {}

    def visit(name):
        results[name] = run(engine, "narrow", photo(seed=name), tile=32, visitor=str(name))

    threads = [threading.Thread(target=visit, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.remove()
    assert max(sizes) > 1
    for name, result in results.items():
        assert np.abs(result.pixels.astype(int) - run(engine, "narrow", photo(seed=name), tile=32).pixels).max() <= 1


def test_two_networks_are_blended(engine):
    ends = [run(engine, "x4", photo(), blend=share).pixels for share in (0.0, 1.0)]
    middle = run(engine, "x4", photo(), blend=0.5)
    assert np.abs(ends[1].astype(int) - run(engine, "other", photo()).pixels).max() <= 1
    assert not np.array_equal(ends[0], ends[1]) and middle.provenance["blend"] == {"other": 0.5}
    between = NETWORKS["x4"]()
    for value, other in zip(between.state_dict().values(), NETWORKS["other"]().state_dict().values(), strict=True):
        value.lerp_(other, 0.5)
    x = torch.from_numpy(photo().pixels / np.float32(255)).permute(2, 0, 1)[None]
    with torch.no_grad():
        want = between.eval()(x)[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255
    assert np.abs(middle.pixels - want).max() <= 0.51
    with pytest.raises(CheckpointError, match="blocks"):
        run(engine, "other", photo(), blend=0.3)
    with pytest.raises(BadInput, match="no second network"):
        run(engine, "grey", photo(), blend=0.3)


def test_what_cannot_be_answered_is_told(engine):
    with pytest.raises(BadInput, match="does not enlarge"):
        run(engine, "draws", photo())
    with pytest.raises(RegistryError, match="x5"):
        run(engine, "x5", photo())
    wrong = ({"tile": 3}, {"overlap": -1}, {"blend": 2}, {"scale": 0}, {"scale": 2, "width": 9}, {"precision": "half"})
    for how in wrong:
        with pytest.raises(BadInput):
            UpscaleRequest("x4", photo(), **how)
    good = {"pixels": np.zeros((8, 8, 3), np.uint8), "crop": (0, 0, 8, 8), "depth": 8}
    for item in ({"pixels": None}, {"pixels": np.zeros((8, 8, 1), np.uint8)}, {"crop": (0, 0, 9, 8)}, {"depth": 12}):
        with pytest.raises(BadInput):
            engine.run(Job("x4", "upscale", {**good, **item}))
    with pytest.raises(EngineError, match="not finite"):
        pixels = np.full((8, 8, 3), np.nan, np.float32)
        engine.run(Job("x4", "upscale", {**good, "pixels": pixels}))


@pytest.mark.parametrize("length", [1, 31, 32, 33, 63, 64, 65, 100, 191, 1000])
@pytest.mark.parametrize("fade", [0, 8])
@pytest.mark.parametrize("begin", [0, 20])
def test_spans_cover_everything_once(length, fade, begin):
    if begin >= length:
        return
    found = spans(length, 32, 16, fade, 2 if length % 2 == 0 else 1, begin)
    weight = np.zeros(length)
    for span in found:
        assert span.start >= 0 and span.start + span.size <= length
        assert span.start <= span.keep[0] < span.keep[1] <= span.start + span.size
        inner = fade if span.keep[0] else 0, fade if span.keep[1] < length else 0
        weight[span.keep[0] + inner[0] : span.keep[1] - inner[1]] += 1
    assert (weight[begin:] == 1).all() and len({span.size for span in found}) == 1


def test_many_files_and_a_zip(engine, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b.png", "a.jpg"):
        Image.fromarray(photo().pixels).save(folder / name)
    (folder / "broken.png").write_bytes(b"nothing")
    other = tmp_path / "a.jpg"
    Image.fromarray(photo(seed=2).pixels).save(other)
    paths = photos_in([folder, other])
    result = list(upscale_files(engine, paths, tmp_path / "out", "x4", scale=2))[-1]
    assert [path.name for _, path in result.done] == ["a_x2.jpg", "b_x2.png", "a_x2_2.jpg"]
    assert [name for name, _ in result.failed] == ["broken.png"] and Image.open(result.done[0][1]).size == (180, 140)
    zipped = list(upscale_files(engine, paths, tmp_path / "z", "x4", archive=tmp_path / "all.zip"))[-1]
    with zipfile.ZipFile(zipped.archive) as archive:
        assert sorted(archive.namelist()) == ["a_x4.jpg", "a_x4_2.jpg", "b_x4.png"] and archive.testzip() is None
    with pytest.raises(BadInput, match="no photo"):
        photos_in([tmp_path / "z"])
    with pytest.raises(BadInput, match="There is no file"):
        photos_in([tmp_path / "nowhere.png"])


def test_a_video_keeps_its_sound(engine, tmp_path):
    from imageio_ffmpeg import get_ffmpeg_exe

    source = tmp_path / "clip.mp4"
    command = [get_ffmpeg_exe(), "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=80x64:rate=25:duration=0.2"]
    command += ["-f", "lavfi", "-i", "sine=frequency=440:duration=0.2", "-pix_fmt", "yuv420p", str(source)]
    subprocess.run(command, check=True)
    events = list(upscale_video(engine, VideoRequest("x4", source, tmp_path / "large.mp4")))
    result = events[-1]
    assert result.frames == 5 and result.size == (320, 256)
    said = subprocess.run([get_ffmpeg_exe(), "-i", str(result.file)], capture_output=True, text=True).stderr
    assert "320x256" in said and "Audio: aac" in said and read_provenance(result.file)["checkpoint"] == "x4"


def test_what_is_compared_with(engine):
    small = shrunk(photo(71, 90), 4)
    assert small.pixels.shape == (17, 22, 3)
    plain_one = bicubic(photo(), (360, 280))
    want = np.asarray(Image.fromarray(photo().pixels).resize((360, 280), Image.Resampling.BICUBIC))
    assert np.array_equal(plain_one, want)
    assert bicubic(photo(depth=16), (360, 280)).dtype == np.uint16
    far = plain_one.copy()
    far[:50] = 255 - far[:50]
    heat = np.asarray(departure(far, plain_one))
    assert heat[:50].mean() > 100 and (heat[50:] == 0).all()


@pytest.mark.parametrize("scale", [4, 2])
def test_photos_of_every_kind_equal_real_esrgan_s_own_script(reference, shared, scale):
    """RealESRGANer mirrors ten more pixels at the right and at the bottom, unless it is told not to."""
    case = reference("sr/realesrganer_enhance")
    bgr = case.inputs["bgr"]
    row = Checkpoint(id="esrgan", title="t", task=("upscale",), family="rrdb", license="mit", commercial_use=True,
                     source={"path": str(shared / f"reference/sr/realesrgan_rrdb_x{scale}.pth")})  # fmt: skip
    with Engine(Registry([row]), device="cpu") as own:

        def large(pixels, alpha=None, more=10):
            pixels, alpha = (
                None if a is None else np.pad(a, [(0, more), (0, more), (0, 0)][: a.ndim], mode="reflect")
                for a in (pixels, alpha)
            )
            made = run(own, "esrgan", Photo(np.ascontiguousarray(pixels), alpha)).pixels
            return made[: 29 * scale, : 37 * scale]

        case.check(f"x{scale}_prepad0_bgr", large(bgr[..., ::-1], more=0)[..., ::-1], 1)
        case.check(f"x{scale}_plain_bgr", large(bgr[..., ::-1])[..., ::-1], 1)
        case.check(f"x{scale}_gray", large(bgr[..., 1:2])[..., 0], 1)
        both = large(bgr[..., ::-1], np.ascontiguousarray(bgr[..., 2]))
        case.check(f"x{scale}_bgra", both[..., [2, 1, 0, 3]], 1)
        deep = large(bgr[..., ::-1].astype(np.uint16) * 257)
        case.check(f"x{scale}_uint16_bgr", deep[..., ::-1], 2)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_picture(tmp_path):
    """A photo of 6 megapixels makes one of 96: as pixels alone 288 MB, and Pillow would hold 384."""
    code = f"""
import json, resource, numpy as np
from test_upscale import NETWORKS, rows
from ganhub.engine import Engine
from ganhub.imaging import Photo
from ganhub.pipelines.upscale import UpscaleRequest, upscale
from ganhub.registry import Registry
engine = Engine(Registry(rows()), device="cpu", fetch=lambda row, progress=None: row.id,
                read=lambda row, path: NETWORKS[row.id]().eval().requires_grad_(False))
def most(side):
    picture = Photo(np.random.RandomState(0).randint(0, 256, (side, side, 3), dtype=np.uint8))
    for _ in upscale(engine, UpscaleRequest("x4", picture, file="{tmp_path}/large.png")):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([most(600), most(2450)]))
engine.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="tests", timeout=280)
    small, large = json.loads(done.stdout)
    assert large - small < 200, done.stderr
    assert Image.open(tmp_path / "large.png").size == (9800, 9800)
    assert resource.getpagesize()
