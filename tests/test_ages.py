"""Ages of the faces in a folder, from tables and from names."""

import pytest
from PIL import Image

from ganhub.data.ages import read_ages
from ganhub.errors import BadInput


def write(folder, *names):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file)


def test_utkface(tmp_path):
    write(
        tmp_path, "25_0_2_20170116174525125.jpg", "61_1_20170109142408075.jpg.chip.jpg", "x/1_1_3_20161219140623097.jpg"
    )
    found, left_out = read_ages(tmp_path)
    assert [(a.file, a.age, dict(a.facts)) for a in found] == [
        ("25_0_2_20170116174525125.jpg", 25, {"gender": "male"}),
        ("61_1_20170109142408075.jpg.chip.jpg", 61, {"gender": "female"}),
        ("x/1_1_3_20161219140623097.jpg", 1, {"gender": "female"}),
    ]
    assert len({a.person for a in found}) == 3 and not left_out


def test_cacd(tmp_path):
    write(tmp_path, "14_Given_Name_0001.jpg", "53_Given_Name_0012.jpg", "40_Other_0003.jpg", "cover.jpg")
    found, left_out = read_ages(tmp_path)
    assert [(a.age, a.person) for a in found] == [(14, "Given_Name"), (40, "Other"), (53, "Given_Name")]
    assert left_out == {"a name that tells no age": 1}


def test_imdb_wiki(tmp_path):
    write(
        tmp_path,
        "00/nm0000100_rm46373120_1955-1-6_2003.jpg",
        "00/nm0000100_rm46373121_1955-1-6_1999.jpg",
        "48/10000548_1925-08-04_1964.jpg",
        "49/10000549_1925-00-00_1964.jpg",
        "50/10000550_1985-01-01_1964.jpg",
        "51/10000551_1700-01-01_1964.jpg",
    )
    found, left_out = read_ages(tmp_path)
    assert [(a.age, a.person) for a in found] == [(48, "nm0000100"), (44, "nm0000100"), (38, "10000548")]
    assert left_out == {"no age is told": 1, "an age below 0 or above 116": 2}


def test_table_of_ages(tmp_path):
    write(tmp_path, "a.png", "b.png", "c.png", "d.png", "20_0_2_20170116174525125.jpg")
    (tmp_path / "labels.csv").write_text("file,age,person,gender\na.png,31,p1,female\nb.png,31.9,p1,female\nc.png,,,\n")
    found, left_out = read_ages(tmp_path)
    assert [(a.file, a.age, a.person, dict(a.facts)) for a in found] == [
        ("a.png", 31, "p1", {"gender": "female"}),
        ("b.png", 31, "p1", {"gender": "female"}),
    ]
    assert left_out == {"not in the table": 2, "no age is told": 1}


def test_table_of_years(tmp_path):
    write(tmp_path / "in", "a.png", "b.png", "c.png")
    table = tmp_path / "elsewhere.csv"
    table.write_text("file,birth_year,photo_year\na.png,1960,2001\nb.png,1960-11-30,2001\nc.png,about 1960,2001\n")
    found, left_out = read_ages(tmp_path / "in", table)
    assert [a.age for a in found] == [41, 40] and left_out == {"no age is told": 1}


def test_portraits(shared):
    found, left_out = read_ages(shared / "data" / "portraits" / "crop128", shared / "data" / "portraits" / "labels.csv")
    ages = [a.age for a in found]
    assert len(found) + sum(left_out.values()) == 2149 and set(left_out) == {"no age is told"}
    assert len(found) == 1150 and min(ages) >= 18 and max(ages) < 100
    assert {a.facts["source"] for a in found} >= {"congress"} and "age" not in found[0].facts


def test_refusals(tmp_path):
    with pytest.raises(BadInput, match="is no folder"):
        read_ages(tmp_path / "nothing")
    write(tmp_path, "a.png")
    with pytest.raises(BadInput, match="no face of known age .1 with a name that tells no age.; give a labels.csv"):
        read_ages(tmp_path)
    (tmp_path / "labels.csv").write_text("picture,age\na.png,3\n")
    with pytest.raises(BadInput, match="has no column 'file'"):
        read_ages(tmp_path)
