"""Videos that come in, and sound that goes out again."""

import subprocess
from fractions import Fraction

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from ganhub.errors import BadInput
from ganhub.imaging import VideoSource, VideoWriter, write_video

SOUND = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100"]
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nclip.mp4\n#EXT-X-ENDLIST\n"


def ffmpeg(*arguments):
    return subprocess.run(
        [get_ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, arguments)], check=True, capture_output=True
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Name -> file; each has 2 seconds."""
    folder = tmp_path_factory.mktemp("clips")
    pictures = ["-f", "lavfi", "-i", "testsrc=size=320x180:rate=30000/1001"]
    made = {
        name: folder / name for name in ("clip.mp4", "clip.webm", "clip.avi", "silent.mkv", "turned.mp4", "wide.mp4")
    }
    for name, options in {
        "clip.mp4": [*SOUND, "-c:a", "aac"],
        "clip.webm": [*SOUND, "-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libvorbis"],
        "clip.avi": [*SOUND, "-c:v", "mpeg4", "-c:a", "pcm_s16le"],
        "silent.mkv": [],
        "wide.mp4": ["-vf", "setsar=4/3"],
    }.items():
        ffmpeg(*pictures, *options, "-t", "2", "-pix_fmt", "yuv420p", made[name])
    ffmpeg("-display_rotation", "90", "-i", made["clip.mp4"], "-c", "copy", made["turned.mp4"])
    made["sound.m4a"] = folder / "sound.m4a"
    ffmpeg("-i", made["clip.mp4"], "-vn", "-c", "copy", made["sound.m4a"])
    return made


@pytest.mark.parametrize(
    ("name", "size", "sound"),
    [
        ("clip.mp4", (320, 180), True),
        ("clip.webm", (320, 180), True),
        ("clip.avi", (320, 180), True),
        ("silent.mkv", (320, 180), False),
        ("turned.mp4", (180, 320), True),
        ("wide.mp4", (426, 180), False),
    ],
)
def test_frames_of_a_video(clips, name, size, sound):
    video = VideoSource(clips[name])
    assert video.size == size and video.has_audio == sound and video.fps == Fraction(30000, 1001)
    assert video.duration == pytest.approx(2, abs=0.05) and abs(video.frames - 60) <= 1
    frames = list(video)
    assert abs(len(frames) - 60) <= 1 and all(f.shape == (*size[::-1], 3) and f.dtype == np.uint8 for f in frames)
    assert len(list(video)) == len(frames), "it can be read again"


def test_frames_are_the_decoders_own(clips):
    raw = ffmpeg("-i", clips["clip.mp4"], "-f", "rawvideo", "-pix_fmt", "rgb24", "-").stdout
    frames = np.stack(list(VideoSource(clips["clip.mp4"])))
    assert np.array_equal(frames, np.frombuffer(raw, np.uint8).reshape(frames.shape))
    turned = np.stack(list(VideoSource(clips["turned.mp4"])))
    assert np.array_equal(np.rot90(frames, 1, (1, 2)), turned)


@pytest.mark.parametrize("side", [320, 720])
def test_colours_come_back(tmp_path, side):
    """Players guess the matrix of a video that names none by its height."""
    red = np.broadcast_to(np.array([200, 40, 90], np.uint8), (side, side, 3))
    file = write_video([red] * 3, tmp_path / "a.mp4", 25)
    assert np.abs(next(iter(VideoSource(file)))[9, 9].astype(int) - red[0, 0]).max() <= 2
    nameless = "h264_metadata=matrix_coefficients=2:colour_primaries=2:transfer_characteristics=2"
    ffmpeg("-i", file, "-c", "copy", "-bsf:v", nameless, tmp_path / "b.avi")
    apart = np.abs(next(iter(VideoSource(tmp_path / "b.avi")))[9, 9].astype(int) - red[0, 0]).max()
    assert apart <= 2 if side == 720 else apart > 10


def tone(file):
    """(Seconds, loudest frequency) of a file's sound."""
    raw = ffmpeg("-i", file, "-vn", "-ac", "1", "-ar", "8000", "-f", "s16le", "-").stdout
    wave = np.frombuffer(raw, np.int16).astype(float)
    return len(wave) / 8000, np.abs(np.fft.rfft(wave)).argmax() * 8000 / len(wave)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.avi"])
def test_sound_is_kept(clips, tmp_path, name):
    video = VideoSource(clips[name])
    about = {"ganhub": "0", "task": "upscale", "checkpoint": "tiny"}
    with VideoWriter(tmp_path / "a.mp4", video.fps, about, audio=video.file) as writer:
        for frame in video:
            writer.add(frame)
    made = VideoSource(tmp_path / "a.mp4")
    assert made.fps == video.fps and made.has_audio and made.size == (640, 360) and abs(made.frames - 60) <= 1
    seconds, frequency = tone(tmp_path / "a.mp4")
    assert seconds == pytest.approx(2, abs=0.1) and frequency == pytest.approx(440, abs=2)
    if name == "clip.mp4":
        streams = [ffmpeg("-i", f, "-vn", "-c", "copy", "-f", "adts", "-").stdout for f in (clips[name], made.file)]
        assert streams[0] == streams[1], "AAC is copied"


def test_a_silent_source_makes_a_silent_video(clips, tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 25, audio=clips["silent.mkv"]) as writer:
        writer.add(np.zeros((256, 256, 3), np.uint8))
    assert not VideoSource(tmp_path / "a.mp4").has_audio


def test_what_is_no_video(clips, tmp_path):
    playlist, text, cut = tmp_path / "a.mp4", tmp_path / "b.avi", tmp_path / "c.mp4"
    playlist.write_text(PLAYLIST.replace("clip.mp4", str(clips["clip.mp4"])))
    text.write_text("This is no video.\n" * 50)
    cut.write_bytes(clips["clip.mp4"].read_bytes()[:2000])
    for file in (playlist, text, cut, tmp_path / "none.mp4", tmp_path):
        with pytest.raises(
            BadInput, match=f"^{file.name} (cannot be read as a video: .+|is no video that is read here.+)\\.$"
        ):
            VideoSource(file)
    with pytest.raises(BadInput, match="sound but no pictures"):
        VideoSource(clips["sound.m4a"])
    playlist.rename(tmp_path / "list.m3u8")
    with pytest.raises(BadInput, match="list.m3u8 is no video that is read here; save it as MP4, MKV or WebM"):
        VideoSource(tmp_path / "list.m3u8")


def test_limits_of_a_video(clips):
    with pytest.raises(BadInput, match="clip.mp4 lasts 2 seconds; the limit is 1. Cut it first"):
        VideoSource(clips["clip.mp4"], max_seconds=1)
    with pytest.raises(BadInput, match="are 320x180; the limit is 0.05 megapixels"):
        VideoSource(clips["clip.mp4"], max_pixels=50_000)
    with pytest.raises(BadInput, match="over 0.01 megapixels"):
        VideoSource(clips["clip.mp4"], max_pixels=10_000)
    video = VideoSource(clips["clip.mp4"])
    video.max_seconds = 1  # as if its header had told less
    with pytest.raises(BadInput, match="lasts over 1 seconds"):
        list(video)


def test_a_rate_without_measure_is_limited(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x64:rate=1000", "-t", "0.5", tmp_path / "a.mp4")
    video = VideoSource(tmp_path / "a.mp4")
    assert video.fps == 120 and abs(len(list(video)) - 60) <= 2


def test_leaving_early_ends_the_decoder(clips):
    frames = iter(VideoSource(clips["clip.mp4"]))
    next(frames)
    process = frames.gi_frame.f_locals["process"]
    assert process.poll() is None
    frames.close()
    assert process.poll() is not None
