"""Faces out of photos and back, against FFHQ's own alignment and eyes and mouths that people marked."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ganhub.data import crop, landmarks
from ganhub.errors import BadInput
from ganhub.imaging import align
from ganhub.imaging.align import Square, cut, face_mask, ffhq_square, paste, square_for, square_of, square_of_face
from ganhub.registry import Checkpoint, PathSource, Registry, load_registry

CASES = ["astronaut_256", "astronaut_256_t4096", "astronaut_64", "rot30_256", "crop_padded_256"]


@pytest.mark.parametrize("name", CASES)
def test_equals_ffhq(shared, reference, name):
    folder = shared / "reference" / "ffhq_align"
    case, facts = reference("ffhq_align/ffhq_align_a"), json.loads((folder / "cases.json").read_text())[name]
    photo = Image.open(folder / facts["image"]).convert("RGB")
    square = ffhq_square(case.inputs[f"landmarks_{name}"])
    around, corners, *_ = align._surroundings(photo, square, facts["output_size"])
    case.check(f"quad_after_shrink_crop_pad_{name}", (corners + 0.5).flatten())
    case.check(f"imgsize_before_transform_{name}", np.array(around.size))
    got = cut(photo, square, facts["output_size"], facts["transform_size"])
    case.check(name, np.asarray(got.picture))


def waves(width: int, height: int) -> Image.Image:
    """A smooth picture, no two places of which look alike."""
    y, x = np.mgrid[:height, :width]
    layers = [np.sin(x / 9) * 60 + 120, np.cos(y / 11) * 60 + 120, x * 100 / width + y * 100 / height]
    return Image.fromarray(np.stack(layers, axis=-1).astype(np.uint8))


TILTED = square_of((148, 120), (206, 140))
PHOTOS = [
    pytest.param(waves(400, 330), TILTED, 128, id="reduced"),
    pytest.param(waves(400, 330), TILTED, 512, id="enlarged"),
    pytest.param(waves(400, 330), square_of((40, 25), (100, 35)), 128, id="beyond the edge"),
    pytest.param(waves(1501, 1203), square_of((560, 500), (930, 520)), 100, id="much reduced"),
]


@pytest.mark.parametrize("photo, square, size", PHOTOS)
def test_shown_tells_where_every_pixel_was(photo, square, size):
    """What an aligned picture shows at its eyes is at the eyes of the photo, seen through the same reduction."""
    aligned = cut(photo, square, size)
    assert np.abs(aligned.shown.corners - 0.5 - square.corners).max() < 1 + square.side / size
    pixels = np.asarray(photo, np.float64)
    for x, y in [(0.4, 0.5), (0.6, 0.5), (0.5, 0.7), (0.47, 0.61)]:
        px, py = aligned.shown.place((int(x * size) + 0.5) / size, (int(y * size) + 0.5) / size) - 0.5
        around = pixels[round(py) - 1 : round(py) + 2, round(px) - 1 : round(px) + 2]
        seen = np.asarray(aligned.picture, np.float64)[int(y * size), int(x * size)]
        assert (seen >= around.min(axis=(0, 1)) - 6).all() and (seen <= around.max(axis=(0, 1)) + 6).all()


@pytest.mark.parametrize("photo, square, size", PHOTOS)
def test_only_the_face_changes(photo, square, size):
    aligned = cut(photo, square, size)
    mask = face_mask(aligned, square)
    assert mask.shape == (size, size) and mask.dtype == np.float32 and mask.max() == 1
    assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()
    noise = np.random.RandomState(0).randint(0, 256, (size, size, 3))
    out = paste(photo, Image.fromarray(noise.astype(np.uint8)), aligned, mask)
    y, x = np.mgrid[: photo.height, : photo.width]
    places = np.stack([x + 0.5, y + 0.5], axis=-1).reshape(-1, 2) - aligned.shown.corners[0]
    corner, below, _, beside = aligned.shown.corners
    u, v = (np.linalg.inv(np.stack([beside - corner, below - corner], axis=1)) @ places.T).reshape(2, *y.shape)
    grown = 1 + 2 / min(size, square.side) / min(align.MASK_RADII)  # two pixels, of the coarser picture
    (middle_x, middle_y), (rx, ry) = align.FACE_MIDDLE, align.MASK_RADII
    outside = np.hypot((u - middle_x) / rx, (v - middle_y) / ry) > grown
    assert outside.mean() > 0.2
    before, after = np.asarray(photo), np.asarray(out)
    assert np.array_equal(before[outside], after[outside])
    assert (before != after).any(axis=-1)[~outside].mean() > 0.8


@pytest.mark.parametrize("photo, square, size", PHOTOS)
def test_what_did_not_change_stays(photo, square, size):
    aligned = cut(photo, square, size)
    mask = face_mask(aligned, square)
    assert np.array_equal(np.asarray(paste(photo, aligned.picture, aligned, mask)), np.asarray(photo))
    tinted = Image.fromarray(np.clip(np.asarray(aligned.picture, int) + [9, -4, 2], 0, 255).astype(np.uint8))
    assert np.abs(np.asarray(paste(photo, tinted, aligned, mask), int) - np.asarray(photo)).max() <= 1


def test_a_change_lands_where_it_was_seen():
    """A spot between the eyes of the aligned picture comes out between the eyes of the photo, as strong as it was."""
    photo = waves(400, 330)
    for size in (64, 256, 700):
        aligned = cut(photo, TILTED, size)
        u, v = 0.5, 0.55
        y, x = np.mgrid[:size, :size]
        spot = 80 * np.exp(-((((x + 0.5) / size - u) ** 2 + ((y + 0.5) / size - v) ** 2) / 2 / 0.03**2))
        changed = Image.fromarray((np.asarray(aligned.picture, int) + spot[..., None]).clip(0, 255).astype(np.uint8))
        out = paste(photo, changed, aligned, face_mask(aligned, TILTED))
        gained = (np.asarray(out, float) - np.asarray(photo))[..., 2].clip(0, None)
        there = np.array([(gained * axis).sum() / gained.sum() for axis in np.mgrid[:330, :400][::-1]])
        assert np.abs(there - TILTED.place(u, v)).max() < 0.6
        assert 70 < gained.max() < 82


def test_a_face_half_outside_of_the_photo():
    photo = waves(200, 150)
    square = square_of((2, 20), (40, 10))
    aligned = cut(photo, square, 128)
    changed = Image.fromarray(255 - np.asarray(aligned.picture))
    out = paste(photo, changed, aligned, face_mask(aligned, square))
    assert out.size == photo.size and (np.asarray(out) != np.asarray(photo)).any()


def test_the_template_of_a_row():
    registry = load_registry()
    photo, ffhq = waves(800, 700), square_of((300, 300), (420, 290))
    square, size = square_for(registry.find("fast-agingan").preprocess, ffhq)
    assert size == 512
    face = ffhq.part(align.FACE_MIDDLE, align.FACE_SIDE)
    assert face.side / square.side * size == pytest.approx(256)
    assert np.allclose(face.corners.mean(axis=0), square.corners.mean(axis=0))
    aligned = cut(photo, square, size)
    mask = face_mask(aligned, ffhq)
    weights = mask / mask.sum()
    assert np.allclose([(weights * axis).sum() for axis in np.mgrid[:512, :512]], 255.5, atol=1)
    assert mask.sum() == pytest.approx(
        face_mask(cut(photo, ffhq, 512), ffhq).sum() * (ffhq.side / square.side) ** 2, rel=0.01
    )
    assert square_for(registry.find("fran").preprocess, ffhq) == (ffhq, 1024)


@pytest.mark.parametrize(
    "rows",
    [
        {"align": "ffhq"},
        {"size": 10**6},
        {"align": "face", "size": 64},
        {"align": "eyes", "size": 64},
        {"align": "hat", "size": 64},
    ],
)
def test_templates_that_mean_nothing(rows):
    with pytest.raises(BadInput, match="preprocess"):
        square_for(rows, TILTED)


def test_refusals():
    with pytest.raises(BadInput, match="68 landmarks"):
        ffhq_square(np.zeros((5, 2)))
    with pytest.raises(BadInput, match="68 landmarks"):
        ffhq_square(np.full((68, 2), np.nan))
    with pytest.raises(BadInput, match="all in one place"):
        ffhq_square(np.ones((68, 2)))
    with pytest.raises(BadInput, match="outside of the photo"):
        cut(waves(100, 100), Square(TILTED.corners + 900), 64)
    with pytest.raises(BadInput, match="1 to 4096"):
        cut(waves(100, 100), TILTED, 0)
    aligned = cut(waves(400, 330), TILTED, 64)
    with pytest.raises(BadInput, match="64x64"):
        paste(waves(400, 330), waves(32, 32), aligned, np.zeros((64, 64)))
    with pytest.raises(BadInput, match="by landmarks, points, eyes, not by 'nose'"):
        landmarks.locate(np.zeros((64, 64, 3), np.uint8), "nose")
    with pytest.raises(BadInput, match="uint8"):
        landmarks.locate(np.zeros((64, 64)), "eyes")


@pytest.fixture
def blazeface(shared, monkeypatch):
    """The network of the row, from the folder of real checkpoints."""
    file = shared / "weights" / "blazeface_hollance" / "blazefaceback.pth"
    row = load_registry().find("blazeface-back")
    monkeypatch.setattr(
        landmarks, "load_registry", lambda: Registry([row.model_copy(update={"source": PathSource(path=str(file))})])
    )
    landmarks._blazeface.cache_clear()
    yield
    landmarks._blazeface.cache_clear()


def marked(folder):
    """Portraits of the London Set with the square by the eyes and the mouth that people marked."""
    for file in sorted((folder / "landmarks").glob("*.json"))[::15]:
        points = np.array(json.loads(file.read_text()))
        eyes_and_mouth = [18, 19, 21, 22, 28, 30], [23, 24, 26, 27, 31, 33], [87, 93]
        square = square_of(*(points[chosen].mean(axis=0) for chosen in eyes_and_mouth))
        yield Image.open(folder / "original" / f"{file.stem}.jpg").convert("RGB"), square


def off(found: Square, true: Square) -> float:
    """Mean distance of the corners over the side."""
    return np.linalg.norm(found.corners - true.corners, axis=1).mean() / true.side


def test_eyes_alone_come_close(shared):
    """The figures that `ganhub.data.landmarks` states, on every fifteenth of its pictures."""
    pytest.importorskip("skimage")
    errors = []
    for photo, true in marked(shared / "data" / "portraits"):
        (found,) = landmarks.locate(np.array(photo), "eyes")
        errors.append(off(found.square, true))
    assert len(errors) == 7 and np.mean(errors) < 0.04 and max(errors) < 0.09


def test_points_come_close_and_are_found_at_any_turn(shared, blazeface):
    errors = []
    for number, (photo, true) in enumerate(marked(shared / "data" / "portraits")):
        (found,) = landmarks.locate(np.array(photo), "points")
        errors.append(off(found.square, true))
        angle = 15 * number  # counted against the clock
        (turned,) = landmarks.locate(np.array(photo.rotate(angle, fillcolor=(128, 128, 128))), "points")
        across = turned.square.corners[3] - turned.square.corners[0]
        assert np.degrees(np.arctan2(-across[1], across[0])) == pytest.approx(angle, abs=6)
    assert len(errors) == 7 and np.mean(errors) < 0.035 and max(errors) < 0.07


def test_several_faces_and_none(shared, blazeface):
    (one, _), (other, _), *_ = marked(shared / "data" / "portraits")
    group = Image.new("RGB", (1500, 700), (70, 90, 110))
    group.paste(one.resize((480, 480)), (60, 100))
    group.paste(other.resize((300, 300)), (700, 200))
    group.paste(one.resize((200, 200)), (1200, 300))
    found = landmarks.locate(np.array(group), "points")
    middles = [face.square.place(0.5, 0.5) for face in found]
    assert len(found) == 3 and [int(x > 600) + int(x > 1100) for x, _ in middles] == [0, 1, 2]
    assert landmarks.locate(np.array(waves(400, 300)), "points") == []


@pytest.mark.slow
def test_landmarks_are_those_of_face_alignment(tmp_path, monkeypatch):
    """Its own networks with random weights, read here and by the library itself."""
    library = pytest.importorskip("face_alignment")
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models import FAN

    torch.manual_seed(0)
    detector = s3fd()
    for tensor in detector.parameters():
        torch.nn.init.zeros_(tensor)
    detector.conv7_2_mbox_conf.bias.data[1] = 3.0  # one face at each place of the coarsest map
    files = {"face-alignment-s3fd": tmp_path / "s3fd.pth", "face-alignment-2dfan4": tmp_path / "fan.pth"}
    torch.save(detector.state_dict(), files["face-alignment-s3fd"])
    torch.save(FAN(4).state_dict(), files["face-alignment-2dfan4"])
    rows = [
        Checkpoint(
            id=name, task=["component"], family="face_alignment", planned=True, source={"path": str(file)}, title=name,
            license="CC0-1.0", commercial_use=True,
        )
        for name, file in files.items()
    ]  # fmt: skip
    monkeypatch.setattr(landmarks, "load_registry", lambda: Registry(rows))
    assert landmarks.missing("landmarks") is None
    cached = tmp_path / "torch" / "hub" / "checkpoints"
    cached.mkdir(parents=True)
    shutil.copy(files["face-alignment-2dfan4"], cached / library.api.models_urls["2DFAN-4"].rpartition("/")[2])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    theirs = library.FaceAlignment(
        library.LandmarksType.TWO_D,
        device="cpu",
        face_detector_kwargs={"path_to_detector": str(files["face-alignment-s3fd"])},
        compile=False,
    )
    picture = np.array(waves(120, 100))
    landmarks._aligner.cache_clear()
    found = landmarks.locate(picture, "landmarks")
    want = theirs.get_landmarks_from_image(picture)
    assert len(found) == len(want) >= 1
    for mine, points in zip(found, want, strict=True):
        assert np.abs(mine.points - points).max() < 1e-3
        assert np.allclose(mine.square.corners, ffhq_square(points).corners)
    landmarks._aligner.cache_clear()


def test_what_the_precise_way_lacks_is_said():
    import importlib.util

    sentence = landmarks.missing("landmarks")
    if importlib.util.find_spec("face_alignment") is None:
        assert sentence is not None and "ganhub[faces]" in sentence
        with pytest.raises(BadInput, match="install it"):
            landmarks.locate(np.zeros((64, 64, 3), np.uint8), "landmarks")
    else:
        assert sentence is not None and "ganhub pull face-alignment-s3fd face-alignment-2dfan4" in sentence


@pytest.mark.parametrize("by_points", [True, False])
def test_the_crops_of_a_prepared_set_come_out_alike(by_points):
    """`align: eyes` shows a network what `ganhub data prepare --crop face` showed it in its training."""
    photo, left, right = waves(400, 330), (148.0, 120.0), (206.0, 140.0)
    ffhq = square_of(left, right, (150, 190)) if by_points else square_of(left, right)
    eyes = np.array([left, right]) if by_points else None
    square, size = square_for({"align": "eyes", "size": 96, "margin": crop.MARGIN}, ffhq, eyes)
    there = crop.by_eyes("", *((x + 0.5, y + 0.5) for x, y in (left, right)))
    (wanted,) = crop.cut(photo, [there], size)
    assert np.abs(np.asarray(cut(photo, square, size).picture, int) - wanted).mean() < 1


@pytest.mark.parametrize("degrees", [0, 30, -100])
def test_a_face_marked_by_hand(degrees):
    """The square from brow to chin is that part of the square of FFHQ which `align: face` takes for it."""
    square = square_of_face(200, 150, 80, degrees)
    face = square.part(align.FACE_MIDDLE, align.FACE_SIDE)
    assert np.allclose(face.corners.mean(axis=0), (200, 150)) and face.side == pytest.approx(80)
    right = face.corners[3] - face.corners[0]
    assert np.degrees(np.arctan2(right[1], right[0])) == pytest.approx(degrees)
    with pytest.raises(BadInput, match="a side above zero"):
        square_of_face(1, 1, 0)


@pytest.mark.parametrize("degrees", [40, 90, 180])
def test_turned_faces_by_eyes_alone(degrees):
    """Where no face is upright the photo is looked at from other sides; the square is that of the upright photo."""
    from skimage import data

    photo = Image.fromarray(data.astronaut())
    (upright,) = landmarks.locate(np.asarray(photo), "eyes")
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    seen = photo.rotate(degrees, Image.Resampling.BICUBIC)
    (found,) = landmarks.locate(np.asarray(seen), "eyes")
    wanted = (upright.square.corners - 255.5) @ np.array([[cos, -sin], [sin, cos]]) + 255.5
    assert np.abs(found.square.corners - wanted).max() < 0.06 * upright.square.side
