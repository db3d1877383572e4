"""Faces found, aligned, made older and younger by tiny networks, and put back so that only they change."""

import io

import numpy as np
import pytest
import torch
from faces_rig import astronaut, crowd, noise, write_agers
from PIL import Image

from ganhub import models
from ganhub.engine import Engine, Job
from ganhub.errors import BadInput
from ganhub.imaging import Photo, VideoSource, read_provenance
from ganhub.imaging.mark import mark
from ganhub.pipelines import faces
from ganhub.pipelines.faces import AgeRequest, age, chosen, find_faces, marked, plain, read_face_photo
from ganhub.pipelines.faces_ages import AgesRequest, ages
from ganhub.pipelines.requests import Progress
from ganhub.registry import Registry, read_rows


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = Engine(Registry(read_rows(write_agers(tmp_path_factory.mktemp("rows")))), device="cpu")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def photo():
    return Photo(np.asarray(astronaut()))


@pytest.fixture(scope="module")
def found(photo):
    return find_faces(plain(photo), "eyes")


def made(events):
    *progress, result = events
    assert progress and all(isinstance(event, Progress) for event in progress)
    return result


def aged(engine, photo, checkpoint="tiny-both", **more):
    return made(age(engine, AgeRequest(checkpoint, photo, consent=True, **more)))


def apart(a, b):
    return (np.asarray(a) != np.asarray(b)).any(axis=-1)


# Consent


@pytest.mark.parametrize("consent", [False, None, 0, "", "yes", 1])
@pytest.mark.parametrize("kind", [AgeRequest, AgesRequest])
def test_no_request_without_consent(photo, kind, consent):
    with pytest.raises(BadInput, match="need consent") as error:
        kind("tiny-both", photo, consent=consent)
    assert error.value.code == "consent"


# Finding


def test_eight_faces_and_one_of_them():
    photo = crowd(8, 96)
    located = find_faces(photo, "eyes")
    assert len(located) == 8
    assert chosen(located, 3) == [located[3]] and len(chosen(located, None)) == 8
    with pytest.raises(BadInput, match="choose one from 0 .the largest. to 7"):
        chosen(located, 8)


def test_no_face_is_a_sentence():
    assert find_faces(noise(), "eyes") == []
    with pytest.raises(BadInput, match="mark the face by hand") as error:
        chosen([])
    assert error.value.code == "no_face"


def test_a_face_that_is_too_small_is_a_sentence():
    located = find_faces(astronaut().resize((96, 96)), "eyes")
    with pytest.raises(BadInput, match="eyes 8 pixels apart, where 16 are needed") as error:
        chosen(located)
    assert error.value.code == "too_small"
    assert len(chosen([*find_faces(astronaut(), "eyes"), *located], None)) == 1


def test_a_face_turned_by_hand_is_upright_in_its_crop(found):
    upright = faces.align(astronaut(), marked(222, 130, 95), {"align": "face", "size": 64, "face": 40}).picture
    turned = astronaut().rotate(-90)  # clockwise
    by_hand = faces.align(turned, marked(511 - 130, 222, 95, 90), {"align": "face", "size": 64, "face": 40}).picture
    assert np.abs(np.asarray(by_hand, int) - np.asarray(upright)).mean() < 3


@pytest.mark.parametrize("kind", ["grey", "grey16", "colour16", "clear"])
def test_photos_of_every_kind_become_plain(kind):
    grey = np.asarray(astronaut().convert("L"))
    wide = np.asarray(astronaut()).astype(np.uint16) * 257
    photo = {
        "grey": Photo(grey[..., None]),
        "grey16": Photo(grey[..., None].astype(np.uint16) * 257),
        "colour16": Photo(wide),
        "clear": Photo(np.asarray(astronaut()), np.where(grey > -1, 0, 0).astype(np.uint8)),
    }[kind]
    out = np.asarray(plain(photo))
    wanted = np.full_like(out, 255) if kind == "clear" else astronaut() if kind == "colour16" else grey[..., None]
    assert out.shape == (512, 512, 3) and np.array_equal(out, np.broadcast_to(wanted, out.shape))


def test_nothing_of_the_file_but_its_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a secret place", 6
    astronaut().save(tmp_path / "holiday.jpg", exif=exif)
    photo = read_face_photo(tmp_path / "holiday.jpg")
    assert photo.name == "photo" and "secret" not in repr(photo.notes)
    assert photo.pixels[0, 511].tolist() == pytest.approx(np.asarray(astronaut())[0, 0], abs=12), "it is not upright"


# Ageing


@pytest.mark.parametrize("checkpoint", ["tiny-both", "tiny-older", "tiny-years"])
@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_only_the_face_changes(engine, photo, found, checkpoint, strength):
    result = aged(engine, photo, checkpoint, faces=found, strength=strength, mark=False)
    differs = apart(result.picture.image, astronaut())
    assert result.picture.image.size == (512, 512)
    (face,) = found
    y, x = np.nonzero(differs)
    if not strength:
        assert not len(y)
        return
    far = np.hypot(x - face.square.place(0.5, 0.54)[0], y - face.square.place(0.5, 0.54)[1])
    assert len(y) > 2000 and far.max() < 0.47 * face.square.side
    full = aged(engine, photo, checkpoint, faces=found, mark=False)
    change = np.asarray(full.picture.image, float) - np.asarray(astronaut())
    less = np.asarray(result.picture.image, float) - np.asarray(astronaut())
    inside = (np.abs(change).max(axis=-1) > 20) & (np.abs(change).max(axis=-1) < 100)
    free = inside & (np.asarray(full.picture.image) % 255 > 0).all(axis=-1)  # nothing was cut off
    assert np.abs(less - strength * change)[free].max() < 2  # rounded three times


def test_the_network_sees_the_template_of_its_row(engine, photo, found):
    """What comes back is what the network gives for the crop of its row, and nothing is rounded in between."""
    for name in ("tiny-both", "tiny-older", "tiny-years"):
        row = engine.registry.find(name)
        result = aged(engine, photo, name, faces=found, source=30, target=70 if name == "tiny-years" else None)
        crop = faces.align(astronaut(), found[0], row.preprocess).picture
        assert np.array_equal(result.before[0], crop) and crop.size == (64, 64)
        network = models.read(checkpoint_of(row), row.family)
        x = torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        wanted = ((network(x, 30.0, 70.0) * 127.5 + 128).clamp(0, 255).byte())[0].permute(1, 2, 0).numpy()
        assert np.abs(wanted.astype(int) - np.asarray(result.after[0])).max() <= 1


def checkpoint_of(row):
    from ganhub import checkpoint, hub

    return checkpoint.read(hub.fetch(row))


def test_older_is_not_younger(engine, photo, found):
    older, younger = (aged(engine, photo, faces=found, direction=way) for way in ("older", "younger"))
    assert apart(older.after[0], younger.after[0]).mean() > 0.9
    by_age = aged(engine, photo, faces=found, source=60, target=30)
    assert np.array_equal(by_age.after[0], younger.after[0]) and "it knows no ages" in by_age.notes[0]


def test_all_faces_or_one(engine):
    photo = Photo(np.asarray(crowd(3)))
    located = find_faces(plain(photo), "eyes")
    one = aged(engine, photo, faces=located, face=1, mark=False)
    every = aged(engine, photo, faces=located, face=None, mark=False)
    thirds = [
        sorted({int(x) // 148 for x in np.nonzero(apart(r.picture.image, plain(photo)))[1]}) for r in (one, every)
    ]
    assert len(thirds[0]) == 1 and thirds[1] == [0, 1, 2] and len(every.after) == 3


def test_an_age_that_nobody_told_is_told(engine, photo, found):
    result = aged(engine, photo, "tiny-years", faces=found, target=70)
    assert "35 years were taken" in result.notes[0]
    known = aged(engine, photo, "tiny-years", faces=found, source=35, direction="older")
    assert known.picture.provenance["target"] == 65 and "35 years" not in " ".join(known.notes)
    assert "source" not in known.picture.provenance, "the age of a person is nobody's business"
    assert aged(engine, photo, "tiny-years", faces=found, source=80).picture.provenance["target"] == 90


@pytest.mark.parametrize(
    "checkpoint, settings, words",
    [
        ("tiny-older", {"direction": "younger"}, "only makes faces older"),
        ("tiny-both", {"target": 60.0}, "goes a fixed way, not to an age"),
        ("tiny-years", {"target": 95.0}, "knows ages from 10 to 90, not 95"),
        ("tiny-bith", {}, "did you mean 'tiny-both'"),
    ],
)
def test_what_a_network_cannot_do(engine, photo, found, checkpoint, settings, words):
    with pytest.raises(BadInput if "mean" not in words else Exception, match=words):
        aged(engine, photo, checkpoint, faces=found, **settings)


def test_a_generator_changes_no_ages(photo):
    engine = Engine(device="cpu", registry=Registry(row for row in read_all() if row.id == "mlp-gan-digits"))
    try:
        with pytest.raises(BadInput, match="does not change ages"):
            aged(engine, photo, "mlp-gan-digits")
        pixels = np.zeros((8, 8, 3), np.uint8)
        with pytest.raises(BadInput, match="does not change the age of faces"):
            engine.run(Job("mlp-gan-digits", "age", {"pixels": pixels, "source": 1, "target": 2}))
    finally:
        engine.close()


def read_all():
    from ganhub.registry import load_registry

    return [load_registry().find("mlp-gan-digits")]


@pytest.mark.parametrize(
    "item, words",
    [
        ({"pixels": np.zeros((8, 8, 1), np.uint8)}, r"\[H, W, 3\] of uint8"),
        ({"pixels": np.zeros((9, 8, 3), np.uint8)}, "sides that are multiples of 2"),
        ({"source": None}, "source age must be a number from 10 to 90"),
        ({"target": 91}, "target age must be a number from 10 to 90"),
    ],
)
def test_the_engine_refuses_by_itself(engine, item, words):
    good = {"pixels": np.zeros((8, 8, 3), np.uint8), "source": 20.0, "target": 30.0}
    with pytest.raises(BadInput, match=words):
        engine.run(Job("tiny-years", "age", {**good, **item}))


def test_visitors_share_batches(engine, photo):
    """Faces of several visitors in one batch come out as each does alone."""
    items = []
    for number, (source, target) in enumerate([(20, 70), (70, 20), (35, 65)]):
        pixels = np.asarray(astronaut().resize((64, 64)).rotate(90 * number))
        items.append({"pixels": pixels, "source": float(source), "target": float(target)})
    for name in ("tiny-both", "tiny-years"):
        alone = [engine.run(Job(name, "age", item)) for item in items]
        tickets = engine.submit_all([Job(name, "age", item, visitor=str(i)) for i, item in enumerate(items)])
        for one, ticket in zip(alone, tickets, strict=True):
            assert np.abs(one.astype(int) - ticket.result(60)).max() <= 1


# What goes out


def test_files_say_that_they_are_generated_and_nothing_of_the_photo(engine, found, tmp_path):
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    astronaut().save(out, "JPEG", exif=exif, quality=95)
    photo = read_face_photo(out.getvalue())
    for kind in ("png", "jpg", "webp"):
        result = aged(engine, photo, faces=found)
        file = result.picture.save(tmp_path, kind)
        about = read_provenance(file)
        assert about["generated"] is True and about["task"] == "age" and about["direction"] == "older"
        assert file.name == f"tiny-both_older.{kind}" and b"secret" not in file.read_bytes()


def test_the_mark_is_in_the_corner_and_on_by_default(engine, photo, found):
    with_mark, without = (aged(engine, photo, faces=found, **how).picture for how in ({}, {"mark": False}))
    y, x = np.nonzero(apart(with_mark.image, without.image))
    assert len(y) > 500 and y.min() > 470 and x.min() > 380
    assert with_mark.provenance["mark"] is True and without.provenance["mark"] is False
    for size in ((8, 8), (64, 64), (300, 40), (2000, 1500)):
        white, black = (mark(Image.new("RGB", size, colour)) for colour in ("white", "black"))
        assert white.size == size and apart(white, Image.new("RGB", size, "white")).any()
        assert apart(black, Image.new("RGB", size, "black")).any()


def test_colours_keep_their_profile(engine, found, tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    out = io.BytesIO()
    astronaut().save(out, "PNG", icc_profile=profile)
    result = aged(engine, read_face_photo(out.getvalue()), faces=found)
    with Image.open(result.picture.save(tmp_path)) as image:
        assert image.info["icc_profile"] == profile


# Strips and videos


def strip(engine, photo, checkpoint, **more):
    return made(ages(engine, AgesRequest(checkpoint, photo, consent=True, mark=False, **more)))


def test_a_strip_of_real_ages(engine, photo, found):
    result = strip(engine, photo, "tiny-years", faces=found, source=30)
    assert result.labels == ["20", "30", "40", "50", "60", "70", "80"]
    assert not any("years were taken" in note for note in result.notes)
    assert len({picture.image.tobytes() for picture in result.pictures}) == 7
    one = result.pictures[0].image
    assert result.strip.image.width >= 7 * one.width and result.strip.image.height > one.height
    assert result.strip.provenance["ages"] == result.labels and result.pictures[2].provenance["age"] == "40"
    few = strip(engine, photo, "tiny-years", faces=found, ages=(30, 60.5))
    assert few.labels == ["30", "60.5"] and any("35 years were taken" in note for note in few.notes)


def test_a_strip_of_a_fixed_way(engine, photo, found):
    both = strip(engine, photo, "tiny-both", faces=found)
    assert both.labels == ["younger 100%", "younger 50%", "as it is", "older 50%", "older 100%"]
    one = strip(engine, photo, "tiny-older", faces=found)
    assert one.labels == ["as it is", "older 25%", "older 50%", "older 75%", "older 100%"]
    first = np.asarray(one.pictures[0].image, float)
    steps = [np.abs(np.asarray(p.image, float) - first).mean() for p in one.pictures]
    assert steps[0] == 0 and np.allclose(steps, np.linspace(0, steps[-1], 5), atol=0.05 * steps[-1])
    with pytest.raises(BadInput, match="knows no ages"):
        strip(engine, photo, "tiny-older", faces=found, ages=(20, 30))


def test_the_strip_shows_what_the_whole_photo_would(engine, photo, found):
    """The part around the face is that of the photo, changed alike."""
    result = strip(engine, photo, "tiny-older", faces=found)
    whole = np.asarray(aged(engine, photo, "tiny-older", faces=found, mark=False).picture.image)
    shown = np.asarray(result.pictures[-1].image)
    corners = found[0].square.part((0.5, 0.5), 1.5).corners
    left, top = np.floor(corners.min(axis=0)).clip(0).astype(int)
    assert np.array_equal(shown, whole[top : top + shown.shape[0], left : left + shown.shape[1]])


@pytest.mark.parametrize("checkpoint", ["tiny-years", "tiny-older"])
def test_a_video_through_the_ages(engine, photo, found, tmp_path, checkpoint):
    file = tmp_path / "ages.mp4"
    result = strip(engine, photo, checkpoint, faces=found, file=file, frames=9, fps=12)
    source = VideoSource(file)
    frames = [frame.astype(float)[::2, ::2] for frame in source]  # under 256 pixels high, so it was enlarged
    assert result.video == file and len(frames) == 9 and source.fps == 12
    height, width = result.pictures[0].image.height, result.pictures[0].image.width
    for frame, picture in ((frames[0], result.pictures[0]), (frames[-1], result.pictures[-1])):
        assert np.abs(frame[:height, :width] - np.asarray(picture.image)).mean() < 4
    about = read_provenance(file)
    assert about["generated"] is True and about["frames"] == 9 and about["ages"] == result.labels


def test_stopping_a_video_leaves_nothing(engine, photo, found, tmp_path):
    request = AgesRequest("tiny-older", photo, True, faces=found, file=tmp_path / "ages.mp4", frames=500)
    events = ages(engine, request)
    for event in events:
        if "frames" in event.message:
            break
    events.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [{"frames": 1}, {"fps": 0}, {"ages": (30,)}, {"ages": range(20, 60)}])
def test_strips_that_cannot_be(photo, settings):
    with pytest.raises(BadInput):
        AgesRequest("tiny-years", photo, True, **settings)


# The command


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`run("age tiny-both me.jpg")` -> exit code, standard output, standard error; in a folder with two photos."""
    from ganhub.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANHUB_DEVICE", "cpu")
    monkeypatch.setenv("GANHUB_REGISTRY", str(write_agers(tmp_path)))
    astronaut().save("me.jpg")
    crowd(2).save("two.png")

    def command(line):
        with pytest.raises(SystemExit) as end:
            main(line.split())
        out, error = capsys.readouterr()
        assert "Traceback" not in error
        return end.value.code, out, error

    return command


def test_align_from_a_shell(run):
    code, out, _ = run("align me.jpg two.png --all --size 64 --consent --how eyes")
    names = [f"out/{name}_aligned.png" for name in ("me_0", "two_0", "two_1")]
    assert code == 0 and out.splitlines() == names
    assert all(Image.open(name).size == (64, 64) for name in names)


def test_age_from_a_shell(run):
    code, out, error = run("age tiny-years me.jpg --to 60 --how eyes --consent --out a --format jpg")
    assert (code, out) == (0, "a/me_60.jpg\n") and "me.jpg: Nobody told how old the face is" in error
    assert read_provenance("a/me_60.jpg")["target"] == 60
    code, out, _ = run("age tiny-years two.png --box 84,84,90 --strip --video --frames 4 --ages 20,50 --consent")
    assert code == 0 and out.splitlines() == ["out/two_ages.mp4", "out/two_ages.png"]
    assert read_provenance("out/two_ages.mp4")["ages"] == ["20", "50"]


@pytest.mark.parametrize(
    "line, words",
    [
        ("align me.jpg", "need consent"),
        ("age tiny-both me.jpg", "need consent"),
        ("age tiny-both me.jpg --consent --box 1,2", "--box takes X,Y,SIDE"),
        ("age tiny-both me.jpg --consent --face 4 --how eyes", "There are 1 faces; choose one"),
        ("age tiny-both none.jpg --consent", "cannot be read"),
    ],
)
def test_refusals_in_a_shell(run, line, words):
    code, out, error = run(line)
    assert code == 2 and words in error and not out
