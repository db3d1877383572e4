"""Training and measuring networks that change ages."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ganhub import checkpoint, models
from ganhub.cli import main
from ganhub.data.ages import ages_of, is_held_out
from ganhub.data.dataset import PictureSet, write_set
from ganhub.errors import BadInput, CheckpointError
from ganhub.metrics.faces import FaceNet, Judges, faces_of, fit_ages, vary, years
from ganhub.training import aging, aging_pairs, loop
from ganhub.training.workers import Workers

TINY = aging.Settings(
    ngf=4, blocks=1, ndf=8, batch=8, warm=0.016, guide_steps=2, ramp=0.0, young=40, old=60, precision="float32",
    weight_cycle=1.0, weight_same=1.0, weight_person=1.0,
)  # fmt: skip
SIDE = 32
CUT = {"crop": "face", "margin": 3.6}


def run_cli(*words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code


def face(age, shade, seed):
    """A disc that is the darker the older, with a tone of its own, on a backdrop."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    picture = np.full((SIDE, SIDE, 3), shade, np.float32) + rng.uniform(-8, 8, 3)
    inside = (x - 15.5) ** 2 + (y - 17) ** 2 < 100
    picture[inside] = 250 - 2 * age + rng.uniform(-10, 10, 3)
    return picture.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Two sources with all ages, one of young people only, in two pictures each."""
    rng = np.random.RandomState(0)
    pictures, names, rows = [], [], []
    for number in range(200):
        source = "studio" if number < 40 else ("east", "west")[number % 2]
        age = int(rng.randint(20, 35 if source == "studio" else 85))
        gender = "female" if number % 3 else "male"
        for expression in ("neutral", "smiling") if source == "studio" else ("",):
            pictures.append(face(age, {"studio": 220, "east": 60, "west": 120}[source], number))
            names.append(f"{source}_{expression}_{number:03d}.png")
            rows.append({"file": names[-1], "source": source, "age": str(age), "gender": gender, "photo_year": "2017"})
    file = tmp_path_factory.mktemp("aging") / "people.zip"
    write_set(file, pictures, names=names, rows=rows, license="CC0-1.0", settings=CUT)
    return file


@pytest.fixture(scope="module")
def run(people, tmp_path_factory):
    """A training through both phases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aging, "WIDTHS", (16, 32))
        return _run(people, tmp_path_factory)


def _run(people, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "faces"
    trainer = aging.Trainer(TINY, PictureSet(people), Workers("cpu"))
    loop.train(trainer, out, images=40, snap=24, data=PictureSet(people), measure=trainer.measure)
    return out


@pytest.fixture(scope="module")
def judges(people):
    small = {"widths": [16, 32], "size": SIDE, "residual": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Judges, "ages_config", {**Judges.ages_config, **small})
        patch.setattr(Judges, "persons_config", {**Judges.persons_config, **small})
        return Judges.taught(PictureSet(people), steps=60)


@pytest.fixture(autouse=True)
def small_guides(monkeypatch):
    monkeypatch.setattr(aging, "WIDTHS", (16, 32))


# --- Who is held out, and what is drawn


def test_people_are_held_out_with_all_their_pictures(people):
    faces = faces_of(PictureSet(people))
    apart = {one.person for one, held in zip(faces.about, faces.held_out.tolist(), strict=True) if held}
    known = {one.person for one, held in zip(faces.about, faces.held_out.tolist(), strict=True) if not held}
    assert not apart & known and 5 < len(apart) < 40 and all(map(is_held_out, apart))
    assert len(known | apart) == 200 and len(faces.about) == 240  # the two expressions are one person
    trainer = aging.Trainer(TINY, PictureSet(people), Workers("cpu"))
    assert {one.person for one in trainer.faces.about} == known


def test_young_and_old_are_drawn_from_the_same_sources_and_genders(people):
    faces = faces_of(PictureSet(people))
    pairs = aging_pairs.Pairs(faces.where(~faces.held_out), 40, 60)
    about = pairs.balance()
    assert about["largest_difference"] == 0 and about["young"]["shares"] == about["old"]["shares"]
    assert set(about["one_side_only"]) == {"studio female", "studio male"}  # no old people there: not drawn at all
    assert about["young"]["age"] < 41 and about["old"]["age"] > 60 and about["old"]["photo_year"] == 2017
    young, old = pairs(50, torch.Generator().manual_seed(1)).tolist()
    for a, b in zip(young, old, strict=True):
        one, other = pairs.faces.about[a], pairs.faces.about[b]
        assert one.age <= 40 and other.age >= 60
        assert (one.facts["source"], one.facts["gender"]) == (other.facts["source"], other.facts["gender"])
    with pytest.raises(BadInput, match="No source and gender has faces of at most 10"):
        aging_pairs.Pairs(faces, 10, 60)


def test_a_face_is_given_what_old_ones_who_look_alike_have(people):
    """Discs are the darker the older, on backdrops that tell the source."""
    faces = faces_of(PictureSet(people))
    pairs = aging_pairs.Pairs(faces, 40, 60)
    found = aging_pairs.changes(faces, pairs.groups).float()
    studio = torch.tensor([one.facts["source"] == "studio" for one in faces.about])
    assert found.shape == (240, 3, SIDE, SIDE) and found[studio].abs().max() == 0  # no old people there
    inside = found[~studio][:, :, 14:20, 13:19]
    assert inside.max() < 0 and (inside.mean((1, 2, 3)) * 127.5 / -2 > 20).all()  # two levels a year
    assert found[~studio][:, :, :3, :3].abs().mean() < 0.05


def test_no_age_is_found_in_a_smile(people):
    trainer = aging.Trainer(TINY, PictureSet(people), Workers("cpu"))
    mouth = aging_pairs.mouth(SIDE, 3.6)
    place = mouth.flatten().argmax().item()
    assert mouth.max() == 1 and mouth[:14].max() == 0 and abs(place % SIDE - 15) <= 3 and 18 < place // SIDE < 26
    assert trainer.changes[:, :, mouth == 1].abs().max() == 0 and trainer.changes.abs().max() > 0
    x = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        said = trainer.guides.eval()["ages"](x)
        assert torch.equal(trainer.guides["ages"](x.masked_fill(mouth == 1, 0)), said)
        assert not torch.equal(trainer.guides["ages"](x.masked_fill(mouth == 0, 0)), said)


def test_ages_are_told_by_names_too_and_sets_that_do_not_fit_are_refused(tmp_path):
    pictures = [face(age, 90, age) for age in (20, 70)]
    names = ["20_1_0_20170116174525125.jpg", "70_0_0_20170116174525126.jpg"]
    write_set(tmp_path / "utk.zip", pictures, names=names, settings=CUT)
    told = ages_of(PictureSet(tmp_path / "utk.zip"))
    assert [one.age for one in told] == [20, 70] and told[0].facts["gender"] == "female"
    write_set(tmp_path / "plain.zip", pictures, names=["a.png", "b.png"], settings=CUT)
    with pytest.raises(BadInput, match="tells no age"):
        aging.Trainer(TINY, PictureSet(tmp_path / "plain.zip"), Workers("cpu"))
    write_set(tmp_path / "centre.zip", pictures, names=names, settings={"crop": "centre"})
    with pytest.raises(BadInput, match="was not cut by faces"):
        aging.Trainer(TINY, PictureSet(tmp_path / "centre.zip"), Workers("cpu"))
    with pytest.raises(BadInput, match="too few to keep every tenth apart"):
        aging.Trainer(TINY, PictureSet(tmp_path / "utk.zip"), Workers("cpu"))


def test_varied_faces_keep_their_mask(people):
    x = torch.zeros(64, 4, SIDE, SIDE)
    x[:, :, 10:20, 5:15] = 0.5
    varied = vary(x, torch.Generator().manual_seed(0))
    assert varied.shape == x.shape and varied[:, 3].max() <= 0.5  # the mask gets no colour
    middle = (varied[:, 3] * torch.arange(SIDE)).sum((1, 2)) / varied[:, 3].sum((1, 2))
    assert (middle < 14).any() and (middle > 17).any()  # some are mirrored


def test_what_is_judged_is_what_is_pasted(people):
    """Nothing outside of the mask, no tint of the whole, as in `imaging.align.paste`."""
    data = PictureSet(people)
    mask = faces_of(data).mask
    x = torch.rand(2, 3, SIDE, SIDE) - 0.5
    masks = mask.expand(2, 1, SIDE, SIDE)
    assert torch.allclose(aging.pasted(x, x + 0.3, masks), x, atol=1e-6)
    made = x.clone()
    made[:, :, 14:18, 14:18] += 0.5
    made[:, :, :2, :2] = 9
    shown = aging.pasted(x, made, masks)
    assert mask[:2, :2].max() == 0 and torch.equal(shown[:, :, :2, :2], x[:, :, :2, :2])
    assert (shown - x)[:, :, 14:18, 14:18].mean() > 0.4 and (shown - x)[:, :, 20:24, 14:18].mean() < 0


# --- Training


def test_a_training_draws_faces_first_and_then_changes_them(people):
    trainer = aging.Trainer(replace(TINY, batch=16, warm=0.32), PictureSet(people), Workers("cpu"))
    drawn = [trainer.step()["loss_draw"].item() for _ in range(20)]
    assert np.mean(drawn[-4:]) < 0.7 * np.mean(drawn[:4])
    older, younger = (trainer.G.model[way].state_dict() for way in ("older", "younger"))
    assert any(not torch.equal(older[key], younger[key]) for key in older)
    scores = {key: value.clone() for key, value in trainer.D.state_dict().items()}
    guides = {key: value.clone() for key, value in trainer.guides.state_dict().items()}
    figures = trainer.step()
    assert all(torch.isfinite(value) for value in figures.values()) and figures["change"] > 0
    older, younger = (trainer.G.model[way].state_dict() for way in ("older", "younger"))
    assert any(not torch.equal(older[key], younger[key]) for key in older if key.endswith("weight"))
    assert any(not torch.equal(value, trainer.D.state_dict()[key]) for key, value in scores.items())
    assert all(torch.equal(value, trainer.guides.state_dict()[key]) for key, value in guides.items())


def test_weights_push_where_they_should(people):
    """With the age alone, faces move to the wanted age; with the backdrop alone, nothing outside changes."""
    names = ("adversarial", "drawn", "cycle", "same", "age", "person", "backdrop")
    alone = {f"weight_{name}": 0.0 for name in names}
    settings = replace(
        TINY, **{**alone, "weight_age": 1.0}, years=8.0, warm=0.08, guide_steps=30, batch=16, lr_g=2e-3, robust=0.0
    )
    trainer = aging.Trainer(settings, PictureSet(people), Workers("cpu"))
    first = [trainer.step() for _ in range(8)][5:]
    last = [trainer.step() for _ in range(20)][-5:]
    assert np.mean([float(f["loss_age"]) for f in last]) < 0.7 * np.mean([float(f["loss_age"]) for f in first[-3:]])


def test_a_resumed_training_goes_on_bit_for_bit(people, run, tmp_path):
    def trainer():
        return aging.Trainer(TINY, PictureSet(people), Workers("cpu"))

    for images in (24, 40):
        loop.train(trainer(), tmp_path / "two", images=images, snap=10**6, resume=True)
    whole = torch.load(run / "state.pt", weights_only=True)["trainer"]
    resumed = torch.load(tmp_path / "two" / "state.pt", weights_only=True)["trainer"]
    assert whole["seen"] == resumed["seen"] == 40 and torch.equal(whole["rng"], resumed["rng"])
    for part in ("G", "D", "average", "guides"):
        assert all(torch.equal(value, resumed[part][key]) for key, value in whole[part].items()), part


def test_one_file_goes_both_ways(run, people, tmp_path):
    raw = checkpoint.read(run / "G.safetensors")
    G = models.read(raw)
    assert models.detect(raw) == "agingan" and G.directions == ("older", "younger") and G.img_size == (SIDE, SIDE)
    x = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    with torch.no_grad():
        older, younger = G.eval()(x, 30, 60), G(x, 60, 30)
    assert older.shape == x.shape and not torch.allclose(older, younger)
    about = json.loads((run / "run.json").read_text())
    assert about["balance"]["largest_difference"] == 0
    assert about["preprocess"] == {"align": "eyes", "size": SIDE, "margin": 3.6}
    measured = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"older_years", "younger_years", "older_itself"} <= set(measured)
    assert Image.open(run / "grid.png").size == (8 * SIDE, 8 * SIDE)
    trainer = aging.Trainer(replace(TINY, warm=0.0), PictureSet(people), Workers("cpu"))
    assert trainer.transfer(run / "G.safetensors") == {"G": f"{len(trainer.G.state_dict())} tensors"}
    half = G.state_dict()["model.older.1.weight"]
    assert torch.equal(trainer.G.state_dict()["model.older.1.weight"], half)


# --- Measuring


def test_judges_learn_ages_of_people_they_do_not_know(judges, people, tmp_path):
    figures = judges.figures
    assert figures["age_correlation"] > 0.8 and figures["age_error"] < 0.7 * figures["age_error_of_mean"]
    judges.save(tmp_path / "judges.safetensors")
    again = Judges.read(tmp_path / "judges.safetensors")
    pictures = faces_of(PictureSet(people)).pictures[:9]
    assert again.figures == figures and torch.equal(again.years(pictures), judges.years(pictures))
    (tmp_path / "other.safetensors").write_bytes((tmp_path / "judges.safetensors").read_bytes())
    checkpoint.save(tmp_path / "other.safetensors", {"G": checkpoint.Network("x", {}, {})}, {"family": "agingan"})
    with pytest.raises(CheckpointError, match="holds no judges"):
        Judges.read(tmp_path / "other.safetensors")


def test_years_of_probabilities():
    assert years(torch.zeros(1, 17)).item() == pytest.approx(55)
    assert years(torch.eye(17) * 100)[3].item() == pytest.approx(30)


def test_a_robust_network_is_harder_to_mislead(people):
    faces = faces_of(PictureSet(people))
    known, tried = faces.where(~faces.held_out), faces.where(faces.held_out)
    fooled = []
    for robust in (0.0, 0.5):
        torch.manual_seed(0)
        net = FaceNet({"widths": [8, 16], "size": SIDE, "residual": False, "outputs": 17}, faces.mask)
        fit_ages(net, known, steps=40, batch=32, robust=robust)
        x = (tried.pictures.float() / 127.5 - 1).requires_grad_(True)
        (slope,) = torch.autograd.grad(years(net(x)).sum(), x)
        far = slope / slope.flatten(1).norm(dim=1)[:, None, None, None]
        with torch.no_grad():
            fooled.append(float((years(net(x + far)) - years(net(x))).mean()))
    assert fooled[1] < fooled[0]


def test_evaluate_measures_what_visitors_get(run, people, judges, tmp_path, capsys):
    file, sheet = tmp_path / "judges.safetensors", tmp_path / "pairs.png"
    judges.save(file)
    command = ["evaluate", run, "--data", people, "--judges", file, "--out", sheet, "--write"]
    assert run_cli(*command, "--device", "cpu", "--json") == 0
    line = json.loads(capsys.readouterr().out)
    for way in ("older", "younger"):
        figures = line["ways"][way]
        assert figures["faces"] >= 3 and figures["backdrop"] == 0 and figures["change"] > 0
        assert figures["years_low"] < figures["years"] < figures["years_high"] and 0 <= figures["itself"] <= 1
    assert set(line["metrics"]) == {"older_years", "older_itself", "younger_years", "younger_itself"}
    assert line["judges"]["age_correlation"] > 0.8 and line["data"]["name"] == "people"
    assert Image.open(sheet).width == 8 * SIDE
    assert json.loads((run / "evaluation.json").read_text())[0]["metrics"] == line["metrics"]
    assert run_cli("evaluate", run, "--data", people, "--count", "5") != 0
    assert "changes ages; --features" in capsys.readouterr().err


def test_a_network_that_makes_all_grey_is_seen_through(people, judges, tmp_path, capsys):
    """The measure itself: a face without features is nobody's, and the backdrop stays."""
    G = models.agingan.build("G", {"ngf": 4, "blocks": 1, "norm": "batch", "directions": ["older"], "img_size": SIDE})
    with torch.no_grad():
        for value in G.parameters():
            value.zero_()  # grey for all: the paste takes the tint away
    loop.ship(G, "agingan", tmp_path / "grey.safetensors")
    judges.save(tmp_path / "judges.safetensors")
    command = ["evaluate", tmp_path / "grey.safetensors", "--data", people]
    assert run_cli(*command, "--judges", tmp_path / "judges.safetensors", "--device", "cpu") == 0
    shown = capsys.readouterr().out
    assert "older, 17 faces" in shown and "younger, " not in shown
    assert ", 0 at most outside" in shown and "100% nearest to themselves" not in shown
