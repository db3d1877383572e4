import csv
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ganhub.cli import main
from ganhub.data import PictureSet, write_set
from ganhub.data import prepare as preparing
from ganhub.data.crop import Crop, by_eyes, cut, propose, read_table, table_of
from ganhub.data.duplicates import BLOCK, fingerprint, repeats
from ganhub.data.prepare import prepare
from ganhub.errors import BadInput


def noise(seed, width=80, height=64):
    """A coloured picture of blobs, unlike that of any other seed."""
    small = np.random.RandomState(seed).randint(0, 256, (20, 20, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """Six different pictures in two sub-folders, with labels."""
    root = tmp_path / "pictures"
    lines = ["file,kind,year"]
    for i in range(6):
        file = root / ("red" if i % 2 else "blue") / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise(i, 80 + i).save(file)
        lines.append(f"{i}.png,{'b' if i < 2 else 'a'},{1900 + i % 3}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def dropped(made):
    return {row.file: row.note for row in made.summary.dropped}


# ---- the set


def by_hand(file, pictures, labels, kind="png"):
    """A zip as NVIDIA's dataset_tool.py writes one."""
    names = [f"{i // 1000:05d}/img{i:08d}.{kind}" for i in range(len(pictures))]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, picture in zip(names, pictures, strict=True):
            out = io.BytesIO()
            Image.fromarray(picture).save(out, "jpeg" if kind == "jpg" else kind)
            archive.writestr(name, out.getvalue())
        pairs = None if labels is None else [[n, k] for n, k in zip(names, labels, strict=True)]
        archive.writestr("dataset.json", json.dumps({"labels": pairs and pairs[::-1]}))
    return file


def random_pictures(n=5, shape=(16, 16, 3)):
    return np.random.RandomState(0).randint(0, 256, (n, *shape), dtype=np.uint8)


def test_reads_what_nvidias_tool_writes(tmp_path):
    x = random_pictures()
    read = PictureSet(by_hand(tmp_path / "s.zip", x, [2, 0, 1, 2, 2]))
    assert (read.pictures() == x).all() and (read.size, read.channels, len(read)) == ((16, 16), 3, 5)
    assert read.labels.dtype == np.int64 and read.labels.tolist() == [2, 0, 1, 2, 2]  # whatever their order in the file
    assert (read.c_dim, read.classes) == (3, ["0", "1", "2"])
    assert read.one_hot(0).tolist() == [0, 0, 1] and read.one_hot([1, 2]).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert (read.license, read.rows, read.names) == ("", [{}] * 5, read.files)

    none = PictureSet(by_hand(tmp_path / "none.zip", x, None))
    assert none.labels is None and none.c_dim == 0 and none.one_hot([1, 2]).shape == (2, 0)
    vectors = PictureSet(by_hand(tmp_path / "v.zip", x, [[i, 0.5] for i in range(5)]))
    assert vectors.labels.dtype == np.float32 and vectors.c_dim == 2 and vectors.classes == []
    assert vectors.one_hot([4]).tolist() == [[4.0, 0.5]]
    grey = PictureSet(by_hand(tmp_path / "grey.zip", x[..., 0], [0] * 5))
    assert grey.channels == 1 and (grey.pictures([3, 1]) == x[[3, 1], :, :, :1]).all()
    assert PictureSet(by_hand(tmp_path / "j.zip", x, None, "jpg")).picture(0).shape == (16, 16, 3)

    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        archive.extractall(tmp_path / "folder")
    loose = PictureSet(tmp_path / "folder")
    assert (loose.pictures() == x).all() and loose.labels.tolist() == read.labels.tolist()
    assert len(loose.sha256) == 64 and loose.sha256 != read.sha256
    (tmp_path / "folder/dataset.json").unlink()
    assert PictureSet(tmp_path / "folder").labels is None


def test_writes_what_nvidias_reader_reads(tmp_path):
    """Its rules: PNGs of one shape, found by sorting their names; `labels` has a whole number for each of them."""
    x = random_pictures(12, (8, 8, 1))
    write_set(tmp_path / "s.zip", iter(x), names=[f"{i}.png" for i in range(12)], labels=list(range(12)), license="CC0")
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        entries = archive.infolist()
        assert all(e.compress_type == zipfile.ZIP_STORED and e.external_attr >> 16 == 0o644 for e in entries)
        files = [e.filename for e in entries if e.filename != "dataset.json"]
        assert files == sorted(files) == [f"00000/img{i:08d}.png" for i in range(12)]
        about = json.loads(archive.read("dataset.json"))
        assert about["labels"] == [[name, i] for i, name in enumerate(files)]
        for name, picture in zip(files, x, strict=True):
            image = Image.open(archive.open(name))
            assert image.format == "PNG" and image.mode == "L" and (np.array(image) == picture[..., 0]).all()
    read = PictureSet(tmp_path / "s.zip")
    assert (read.pictures() == x).all() and read.names[3] == "3.png" and read.license == "CC0"
    assert [f.name for f in tmp_path.iterdir()] == ["s.zip"]

    write_set(tmp_path / "big.zip", (x[0] for _ in range(1001)), names=[""] * 1001)
    assert PictureSet(tmp_path / "big.zip").files[-1] == "00001/img00001000.png"


def test_a_set_is_read_by_other_processes(tmp_path):
    """A forked process must not share the place in the file with its parent."""
    x = random_pictures(40)
    read = PictureSet(by_hand(tmp_path / "s.zip", x, None))
    assert (pickle.loads(pickle.dumps(read)).picture(7) == x[7]).all()
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            os._exit(0 if all((read.pictures() == x).all() for _ in range(10)) else 1)
        children.append(child)
    assert all((read.pictures() == x).all() for _ in range(10))
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


def test_a_set_that_cannot_be_read_says_why(tmp_path):
    x = random_pictures()

    def refused(words, file, **changes):
        if changes:
            with zipfile.ZipFile(file) as archive:
                entries = {n: archive.read(n) for n in archive.namelist()}
            with zipfile.ZipFile(file, "w") as archive:
                for name, data in (entries | changes).items():
                    archive.writestr(name, data)
        with pytest.raises(BadInput, match=words):
            PictureSet(file).pictures()

    whole = by_hand(tmp_path / "s.zip", x, [0, 1, 0, 1, 0])
    png = io.BytesIO()
    Image.new("RGBA", (16, 16)).save(png, "png")
    small, half = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 16)).save(small, "png")
    Image.fromarray(x[0]).save(half, "png")
    half.truncate(400)
    for words, name, data in [
        ("img00000002.png in .*neither grey nor RGB but RGBA", "00000/img00000002.png", png.getvalue()),
        ("img00000003.png in .* is 8x16x3 and .* is 16x16x3", "00000/img00000003.png", small.getvalue()),
        ("img00000001.png in .* is damaged", "00000/img00000001.png", half.getvalue()),
        ("is no JSON", "dataset.json", b"{"),
        ("object with the key `labels`", "dataset.json", b"[]"),
        ("as pairs", "dataset.json", b'{"labels": [1, 2]}'),
        ("no label for 00000/img00000000.png", "dataset.json", b'{"labels": [["x.png", 1]]}'),
    ]:  # fmt: skip
        refused(words, by_hand(whole, x, [0, 1, 0, 1, 0]), **{name: data})
    refused("whole number from 0", by_hand(whole, x, [0, 1, -1, 0, 0]))
    refused("whole number from 0", by_hand(whole, x, [0, 1, 0.5, 0, 0]))
    refused("vectors of one length", by_hand(whole, x, [[0], [1], [0, 1], [0], [0]]))
    refused("There is no set", tmp_path / "absent.zip")
    (tmp_path / "text.zip").write_text("no zip")
    refused("text.zip cannot be read as a zip", tmp_path / "text.zip")
    (tmp_path / "empty").mkdir()
    refused("no picture in .*empty", tmp_path / "empty")
    write_set(tmp_path / "c.zip", iter(x), names=[""] * 5, labels=[0, 1, 2, 0, 0], classes=["a", "b"])
    refused("names for 2 classes only", tmp_path / "c.zip")


def test_nothing_half_written_is_left(tmp_path):
    def breaking():
        yield from random_pictures(2)
        raise BadInput("The third picture is broken.")

    with pytest.raises(BadInput, match="third"):
        write_set(tmp_path / "s.zip", breaking(), names=["", "", ""])
    assert not list(tmp_path.iterdir())


# ---- crops


def test_a_square_is_cut_where_it_is_said():
    image = Image.new("RGB", (100, 60), "white")
    ImageDraw.Draw(image).rectangle((20, 10, 39, 29), fill=(255, 0, 0))
    (square,) = cut(image, [Crop("", 20, 10, 20)], 8)
    assert square.shape == (8, 8, 3) and (square == (255, 0, 0)).all()
    (wide,) = cut(image, [Crop("", 10, 0, 40)], 8)
    assert (wide[3:5, 3:5] == (255, 0, 0)).all() and (wide[0] > 240).all()
    (over,) = cut(image, [Crop("", -12, -6, 32)], 8)  # beyond the edge the picture goes on as it ends
    assert (over == 255)[:3].all() and (over == 255)[:, :7].all()
    with pytest.raises(BadInput, match="lies outside of the picture, which is 100x60"):
        list(cut(image, [Crop("p.png", 90, 40, 90)], 8))


def test_a_turned_square_equals_the_turned_picture():
    image = noise(3, 90, 90)
    (turned,) = cut(image, [Crop("", 20, 25, 40, 90)], 40)
    straight = np.asarray(image.crop((20, 25, 60, 65)).rotate(90))  # what is seen turns the other way
    assert abs(turned.astype(int) - straight).max() <= 1
    (slightly,) = cut(image, [Crop("", 20, 25, 40, 1e-6)], 16)
    (not_at_all,) = cut(image, [Crop("", 20, 25, 40)], 16)
    assert abs(slightly.astype(int) - not_at_all).max() <= 2
    (small,) = cut(image, [Crop("", 12.5, 14.25, 51.5, 30)], 16)
    (large,) = cut(image.resize((360, 360), Image.Resampling.BICUBIC), [Crop("", 50, 57, 206, 30)], 16)
    assert abs(small.astype(int) - large).max() <= 5  # the same square of a larger copy


def test_eyes_come_to_their_places():
    image = Image.new("RGB", (300, 300), (90, 120, 150))
    draw = ImageDraw.Draw(image)
    eyes = ((110, 150), (180, 110))
    for (x, y), colour in zip(eyes, ((255, 0, 0), (0, 255, 0)), strict=True):
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=colour)
    crop = by_eyes("p.png", *eyes, margin=2.5)
    assert (crop.size, crop.angle) == (pytest.approx(201.56, abs=0.01), pytest.approx(-29.74, abs=0.01))
    (square,) = cut(image, [crop], 100)
    for channel, x in ((0, 30), (1, 70)):  # level, 100 / 2.5 apart, at 42 % of the height
        other = square[..., 1 - channel].astype(int)
        rows, columns = np.nonzero(square[..., channel].astype(int) - other > 120)
        assert (columns.mean() + 0.5, rows.mean() + 0.5) == (pytest.approx(x, abs=1), pytest.approx(42, abs=1))


def test_a_picture_without_a_face_says_so(tmp_path):
    pytest.importorskip("skimage", reason="faces are found with scikit-image")
    (tmp_path / "plain").mkdir()
    Image.new("RGB", (80, 80), "grey").save(tmp_path / "plain/p.png")
    with pytest.raises(BadInput, match="p.png: no face found"):
        prepare(tmp_path / "plain", tmp_path / "s.zip", size=16, crop="face")


def test_the_square_of_a_face_is_kept_or_not(monkeypatch):
    """What is done with the faces that are found; finding them is tested beside the finder."""
    pytest.importorskip("skimage", reason="faces are found with scikit-image")
    from ganhub.data import faces

    def proposed(*eyes, smallest=16):
        found = [faces.Face((0, 0, 1), pair, 1.0) for pair in eyes]
        monkeypatch.setattr(faces, "find_faces", lambda picture: found)
        (crop,) = propose(np.zeros((100, 100, 3), np.uint8), "p.png", "face", 2.5, smallest)
        return crop.keep, crop.note, crop.size

    assert proposed(((40, 50), (60, 50))) == (True, "", 50)
    assert proposed(((40, 50), (60, 50)), ((0, 9), (5, 9))) == (True, "the largest of 2 faces", 50)
    assert proposed(((5, 50), (25, 50))) == (False, "20% of the face's square lie outside of the picture", 50)
    too_small = "the face's square is too small: 50 pixels a side"
    assert proposed(((40, 50), (60, 50)), smallest=64) == (False, too_small, 50)


@pytest.mark.parametrize("place", [5, 70, 135])
def test_saliency_follows_what_stands_out(place):
    picture = np.full((60, 200, 3), 200, np.uint8)
    picture[20:40, place : place + 20 : 2] = (20, 40, 60)
    (crop,) = propose(picture, "p", "saliency")
    assert crop.size == 60 and crop.x <= place and place + 20 <= crop.x + 60 and crop.y == 0
    (tall,) = propose(np.ascontiguousarray(picture.swapaxes(0, 1)), "p", "saliency")
    assert tall.size == 60 and tall.y <= place and place + 20 <= tall.y + 60 and tall.x == 0
    (plain,) = propose(np.full((60, 200, 3), 90, np.uint8), "p", "saliency")
    assert plain.x == pytest.approx(70, abs=3)


def test_subjects_of_pages_become_several_entries(tmp_path):
    page = Image.new("RGB", (127, 192), (250, 244, 226))
    draw = ImageDraw.Draw(page)
    draw.ellipse((36, 26, 84, 74), fill=(200, 30, 20))
    draw.ellipse((41, 99, 83, 141), fill=(40, 120, 30))
    (tmp_path / "pages").mkdir()
    page.save(tmp_path / "pages/p.png")
    made = prepare(tmp_path / "pages", tmp_path / "s.zip", size=16, crop="page")
    read = PictureSet(made.set)
    assert read.names == ["p.png", "p.png"]
    assert abs(read.pictures()[:, 8, 8].astype(int) - [(200, 30, 20), (40, 120, 30)]).max() <= 3
    assert abs(read.pictures()[:, 0, 0].astype(int) - (250, 244, 226)).max() <= 3
    with pytest.raises(BadInput, match="no painted subject of 64 pixels"):
        prepare(tmp_path / "pages", tmp_path / "t.zip", size=64, crop="page")


# ---- pictures of every kind


def kinds(root: Path) -> None:
    root.mkdir()
    halves = Image.new("RGB", (40, 40), (200, 40, 40))
    halves.paste((40, 40, 200), (0, 20, 40, 40))  # red above blue
    exif = Image.Exif()
    exif[0x0112] = 3
    halves.rotate(180).save(root / "exif.jpg", exif=exif, quality=95)
    halves.convert("CMYK").resize((44, 44)).save(root / "cmyk.jpg", quality=95)
    grey = np.repeat(np.array([60000, 3000], np.uint16), 24)[:, None].repeat(48, 1)
    Image.fromarray(grey).save(root / "sixteen.png")
    palette = halves.quantize(4).resize((52, 52), Image.Resampling.NEAREST)
    palette.save(root / "palette.png", transparency=palette.getpixel((0, 51)))
    alpha = halves.resize((56, 56), Image.Resampling.NEAREST).convert("RGBA")
    alpha.putalpha(Image.fromarray(np.repeat(np.array([255, 0], np.uint8), 28)[:, None].repeat(56, 1)))
    alpha.save(root / "alpha.webp", lossless=True)


def test_pictures_of_every_kind_become_rgb(tmp_path):
    kinds(tmp_path / "in")
    prepare(tmp_path / "in", tmp_path / "s.zip", size=16)
    # the same picture again and again, so only one of those that are alike is left; a table keeps all
    table = [Crop(f.name, 0, 0, Image.open(f).width) for f in sorted((tmp_path / "in").iterdir())]
    (tmp_path / "all.csv").write_text(table_of(table))
    read = PictureSet(prepare(tmp_path / "in", tmp_path / "all.zip", size=16, crops=tmp_path / "all.csv").set)
    assert read.channels == 3
    seen = {name: read.picture(i)[[3, 12], 8].astype(int) for i, name in enumerate(read.names)}
    white, red, blue = (255,) * 3, (200, 40, 40), (40, 40, 200)
    for name, above, below, within in [
        ("exif.jpg", red, blue, 6),
        ("cmyk.jpg", red, blue, 8),
        ("sixteen.png", (60000 >> 8,) * 3, (3000 >> 8,) * 3, 1),
        ("palette.png", red, white, 1),
        ("alpha.webp", red, white, 1),
    ]:
        assert abs(seen[name] - [above, below]).max() <= within, name


def test_what_cannot_be_used_is_left_out_with_its_reason(folder, tmp_path):
    whole = (folder / "red/1.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.jpg").touch()
    noise(50, 30, 12).save(folder / "small.png")
    noise(51).save(folder / "old.tif")
    Image.new("1", (9000, 9000)).save(folder / "bomb.png")
    (folder / ".hidden.png").write_bytes(whole)
    (folder / "notes.txt").touch()
    made = prepare(folder, tmp_path / "s.zip", size=16)
    why = dropped(made)
    assert {name: why[name].split(".")[0].split(";")[0] for name in why} == {
        "cut.png": "The picture is damaged or cut off",
        "text.jpg": "This is no picture that can be read here",
        "empty.jpg": "This is no picture that can be read here",
        "small.png": "It is too small: 30x12 pixels",
        "old.tif": "This is a TIFF file",
        "bomb.png": "The picture is 9000x9000",
    }
    assert (made.summary.kept, made.summary.files, made.summary.others) == (6, 12, 2)
    report = made.report.read_text()
    assert "6 pictures of 16x16 pixels, from 12 files" in report and "`small.png`: It is too small" in report
    assert "| It is too small: N pixels. | 1 |" in report and "not stated" in report
    assert prepare(folder, tmp_path / "t.zip", size=16, smallest=8).summary.kept == 7


def test_what_cannot_become_a_set_says_why(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.png").touch()
    for words, where, how in [
        ("There is no folder .*absent", "absent", {}),
        ("There is no picture in .*empty", "empty", {}),
        (r"no picture for a set in .*\(a.png: This is no picture", "broken", {}),
        ("no picture for a set", "pictures", {"size": 128}),
        ("power of two from 4 to 2048, not 48", "pictures", {"size": 48}),
        ("There is no crop 'nose'; there are centre, face", "pictures", {"crop": "nose"}),
        ("There is no .*labels.csv to take the column 'kind' from", "broken", {"label": "kind"}),
    ]:
        with pytest.raises(BadInput, match=words):
            prepare(tmp_path / where, tmp_path / "s.zip", **{"size": 16, **how})
    with pytest.raises(BadInput, match="A set is a zip: name it .*s.zip"):
        prepare(folder, tmp_path / "s.tar", size=16)
    with pytest.raises(BadInput, match="cannot be written"):
        prepare(folder, folder / "labels.csv/s.zip", size=16)
    os.rename(folder / "red/1.png", os.fsencode(folder) + b"/\xff.png")
    with pytest.raises(BadInput, match="is not UTF-8; rename"):
        prepare(folder, tmp_path / "s.zip", size=16)


# ---- twice the same


def test_the_same_picture_is_kept_once(folder, tmp_path):
    (folder / "copy.png").write_bytes((folder / "red/1.png").read_bytes())
    noise(2, 82).save(folder / "again.jpg", quality=60)
    noise(4, 400, 304).save(folder / "larger.webp", quality=80)
    made = prepare(folder, tmp_path / "s.zip", size=16)
    why = dropped(made)
    assert sorted(why) == ["blue/2.png", "blue/4.png", "red/1.png"]
    assert why["red/1.png"] == "the same file as copy.png"  # the first of two alike
    assert why["blue/2.png"].startswith("nearly the same as again.jpg (")
    assert why["blue/4.png"].startswith("nearly the same as larger.webp (")  # the larger of two
    assert "- `red/1.png`: the same file as copy.png" in made.report.read_text()
    kept = ["again.jpg", "blue/0.png", "copy.png", "larger.webp", "red/3.png", "red/5.png"]
    assert PictureSet(made.set).names == kept


def test_what_is_left_out_takes_nobodys_place(folder, tmp_path):
    """The larger of two has no label: the smaller one stays."""
    noise(4, 400, 304).save(folder / "larger.png")
    made = prepare(folder, tmp_path / "s.zip", size=16, label="kind")
    assert dropped(made) == {"larger.png": "no kind is told"} and made.summary.kept == 6


def test_repeats_equal_a_plain_search():
    bits = np.random.RandomState(0).randint(0, 2, (2 * BLOCK + 300, 256), dtype=np.uint8)
    rng = np.random.RandomState(1)
    for i in range(0, len(bits) - 7, 7):  # a repeat somewhere, in this block or another
        bits[rng.randint(i + 1, len(bits))] = bits[i] ^ (rng.rand(256) < 0.04)
    found = repeats([row.tobytes() for row in np.packbits(bits, axis=1)])
    kept, want = [], {}
    for i, row in enumerate(bits):
        distances = (bits[kept] != row).sum(1) if kept else np.array([99])
        if distances.min() <= 20:
            want[i] = (kept[int(distances.argmin())], int(distances.min()))
        else:
            kept.append(i)
    assert found == want and 200 < len(found) < 400
    assert repeats([]) == {} and repeats([b"\0" * 32] * 3) == {1: (0, 0), 2: (0, 0)}


def test_fingerprints_stay_when_a_picture_is_saved_again():
    def differ(a, b):
        return bin(int.from_bytes(fingerprint(a), "big") ^ int.from_bytes(fingerprint(b), "big")).count("1")

    image, out = noise(0, 200, 200), io.BytesIO()
    image.save(out, "jpeg", quality=50)
    assert max(differ(image, Image.open(out)), differ(image, image.resize((100, 100)))) <= 20
    assert min(differ(image, noise(i, 200, 200)) for i in range(1, 20)) > 60


# ---- the same every time


def files_of(made):
    return {f.name.partition(".")[2]: f.read_bytes() for f in (made.set, made.table, made.sheet, made.report)}


def test_two_runs_are_equal_whatever_the_processes(folder, tmp_path):
    kinds(folder / "kinds")
    one = files_of(prepare(folder, tmp_path / "1/s.zip", size=16, crop="saliency", processes=1))
    two = files_of(prepare(folder, tmp_path / "2/s.zip", size=16, crop="saliency", processes=2))
    assert one == two
    assert files_of(prepare(folder, tmp_path / "2/s.zip", size=16, crop="saliency", processes=1)) == one  # and over it


def test_a_corrected_table_is_cut_by(folder, tmp_path):
    made = prepare(folder, tmp_path / "s.zip", size=16, label="kind")
    first = PictureSet(made.set)
    again = PictureSet(prepare(folder, tmp_path / "t.zip", size=16, label="kind", crops=made.table).set)
    assert (again.pictures() == first.pictures()).all() and again.labels.tolist() == first.labels.tolist()

    rows = list(csv.DictReader(made.table.open()))
    assert list(rows[0]) == ["file", "x", "y", "size", "angle", "how", "keep", "note"]
    rows[0] |= {"x": "3.5", "y": "7", "size": "31", "angle": "-12.5"}
    rows[1]["keep"] = "no"
    with made.table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(BadInput, match="s.crops.csv was changed since s.zip was made: use it with --crops"):
        prepare(folder, made.set, size=16)
    corrected = prepare(folder, made.set, size=16, label="kind", crops=made.table)
    read = PictureSet(made.set)
    assert read.names == [row["file"] for row in rows if row["keep"] == "yes"] and corrected.summary.kept == 5
    (want,) = cut(Image.open(folder / rows[0]["file"]), [Crop("", 3.5, 7, 31, -12.5)], 16)
    assert (read.picture(0) == want).all() and not (first.picture(0) == want).all()
    assert read_table(made.table)[0] == Crop(rows[0]["file"], 3.5, 7, 31, -12.5, "centre")
    prepare(folder, made.set, size=16)  # the table is that of the set again, so nothing is lost


def test_a_wrong_table_names_its_line(folder, tmp_path):
    for words, line in [
        ("line 2: `keep` is yes or no, not 'maybe'", "red/1.png,0,0,20,0,centre,maybe,"),
        ("line 2: x, y, size and angle are numbers", "red/1.png,a,0,20,0,,,"),
        ("line 2: a square that is kept needs a size", "red/1.png,0,0,0,0,,yes,"),
        ("line 2: a square that is kept needs a size", "red/1.png,nan,0,9,0,,yes,"),
        ("keeps 'red/9.png', and there is no such picture", "red/9.png,0,0,9,0,,yes,"),
        ("red/1.png: The square of red/1.png at 0, 0 of 900 pixels lies outside", "red/1.png,0,0,900,0,,yes,"),
        ("no picture for a set", "red/1.png,0,0,20,0,,no,"),
    ]:
        (tmp_path / "t.csv").write_text(f"file,x,y,size,angle,how,keep,note\n{line}\n")
        with pytest.raises(BadInput, match=words):
            prepare(folder, tmp_path / "s.zip", size=16, crops=tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("file,x\n")
    with pytest.raises(BadInput, match="t.csv has no column y, size"):
        read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("file,x,y,size\nred/1.png,0,0,20\n")
    assert prepare(folder, tmp_path / "s.zip", size=16, crops=tmp_path / "t.csv").summary.unlisted == 5


# ---- labels


def test_labels_from_a_column_or_from_folders(folder, tmp_path):
    read = PictureSet(prepare(folder, tmp_path / "s.zip", size=16, label="kind", license="CC0", credit="me").set)
    by_name = dict(zip(read.names, read.labels.tolist(), strict=True))
    assert read.classes == ["a", "b"] and {n for n, k in by_name.items() if k == 1} == {"blue/0.png", "red/1.png"}
    assert read.rows[read.names.index("red/5.png")] == {"kind": "a", "year": "1902"}
    assert (read.license, read.credit, read.settings["label"]) == ("CC0", "me", "kind")

    read = PictureSet(prepare(folder, tmp_path / "f.zip", size=16, label="folder").set)
    assert read.classes == ["blue", "red"] and read.labels.tolist() == [0, 0, 0, 1, 1, 1]
    made = prepare(folder / "red", tmp_path / "n.zip", size=16, labels=folder / "labels.csv", label="year")
    assert PictureSet(made.set).classes == ["1900", "1901", "1902"]
    assert "| 1900 | 1 |" in made.report.read_text()
    none = PictureSet(prepare(folder, tmp_path / "x.zip", size=16).set)
    assert none.labels is None and none.rows[0]["kind"] == "b"


def test_labels_that_are_missing_or_doubtful(folder, tmp_path):
    lines = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join([*lines[:3], "2.png,,1900", *lines[4:6]]))
    made = prepare(folder, tmp_path / "s.zip", size=16, label="kind")
    assert dropped(made) == {"blue/2.png": "no kind is told", "red/5.png": "no kind is told"}
    with pytest.raises(BadInput, match="labels.csv has no column 'colour'; it has file, kind, year"):
        prepare(folder, tmp_path / "s.zip", size=16, label="colour")
    noise(9).save(folder / "loose.png")
    assert dropped(prepare(folder, tmp_path / "s.zip", size=16, label="folder")) == {
        "loose.png": "no sub-folder to name it"
    }
    noise(10).save(folder / "blue/1.png")
    with pytest.raises(BadInput, match=r"line 3: 1.png may be blue/1.png or red/1.png; write the path"):
        prepare(folder, tmp_path / "s.zip", size=16, label="kind")
    (folder / "labels.csv").write_text("file,kind\nred/1.png,a\nblue/1.png,b\nred/1.png,b\n")
    with pytest.raises(BadInput, match="line 4: red/1.png has been labelled before"):
        prepare(folder, tmp_path / "s.zip", size=16, label="kind")
    (folder / "labels.csv").write_text("file,kind\nred/1.png,10\nblue/1.png,9\n")
    assert PictureSet(prepare(folder, tmp_path / "s.zip", size=16, label="kind").set).classes == ["9", "10"]
    (folder / "labels.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="labels.csv cannot be read as a table"):
        prepare(folder, tmp_path / "s.zip", size=16, label="kind")


# ---- the command


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    told = capsys.readouterr()
    return end.value.code, told.out, told.err


def test_the_command(folder, tmp_path, capsys):
    out = tmp_path / "new/set.zip"
    arguments = ("data", "prepare", folder, "--out", out, "--size", 16, "--label", "folder", "--license", "CC0-1.0")
    code, told, progress = run(capsys, *arguments)
    assert code == 0 and told.splitlines() == [str(out.with_suffix(s)) for s in (".zip", ".crops.csv", ".png", ".md")]
    assert "Cutting: 6 of 6" in progress
    assert Image.open(out.with_suffix(".png")).size == (48, 32)
    code, told, _ = run(capsys, *arguments, "--json")
    facts = json.loads(told)
    assert facts["classes"] == {"blue": 3, "red": 3} and facts["sha256"] == PictureSet(out).sha256
    assert "| licence | CC0-1.0 |" in out.with_suffix(".md").read_text()
    code, _, told = run(capsys, *arguments, "--crop", "centre", "--crops", out.with_suffix(".crops.csv"))
    assert code == 2 and "leave out --crop" in told
    code, _, told = run(capsys, "data", "prepare", tmp_path / "absent", "--out", out)
    assert code == 2 and told == f"ganhub: There is no folder {tmp_path / 'absent'}.\n"


def test_a_lost_process_is_a_sentence(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "_look", _end)
    with pytest.raises(BadInput, match="process ended"):
        prepare(folder, tmp_path / "s.zip", size=16, processes=2)


def _end(*_):
    os._exit(1)


def test_memory_does_not_grow_with_the_pictures(tmp_path):
    """600 pictures of 128 x 128 more are 29 MB of pixels more, of which nothing is seen."""
    few, many = tmp_path / "few", tmp_path / "many"
    for folder, count in ((few, 100), (many, 700)):
        folder.mkdir()
        for i in range(count):
            noise(i, 128, 128).save(folder / f"{i}.jpg")
    code = """
import re, sys
from pathlib import Path
from ganhub.data import prepare
prepare.ON_SHEET = 50  # as many in both
made = prepare.prepare(Path(sys.argv[1]), Path(sys.argv[1] + ".zip"), size=128, processes=1)
print(made.summary.kept, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
    peaks = {}
    for folder in (few, many):
        told = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
        kept, peaks[folder] = map(int, told.stdout.split())
        assert kept == len(list(folder.iterdir()))
    # VmHWM in kB; what getrusage tells would begin with the peak of the process that started this one.
    assert peaks[many] - peaks[few] < 10_000, peaks
