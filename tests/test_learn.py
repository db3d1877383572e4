"""Learning a direction: the statistics against a reference, and the pipeline on small generators."""

import json
from dataclasses import replace

import learn_rig as rig
import numpy as np
import pytest
from hub_rig import SECRET, server
from publish_rig import run

from ganhub import hub
from ganhub.cli import main
from ganhub.directions import Direction, move, open_direction, orthogonal, read_direction, save_direction
from ganhub.engine import Engine
from ganhub.errors import BadInput, RegistryError
from ganhub.imaging import VideoSource, read_provenance
from ganhub.latents import Latents
from ganhub.metrics import directions as stats
from ganhub.pipelines._sampling import Source
from ganhub.pipelines.found import find_directions
from ganhub.pipelines.generate import generate
from ganhub.pipelines.labels import Attribute, Labelling, Marked, Piles, Sentences, attributes_of, read_table
from ganhub.pipelines.learn import LearnRequest, keep, learn, slug
from ganhub.pipelines.requests import GenerateRequest, request_of
from ganhub.pipelines.slide import SlideRequest, slide
from ganhub.registry import Registry, load_registry, read_rows

__all__ = ["run", "server"]

RNG = np.random.RandomState(1)


def planted(count, dim, noise=0.0, seed=0):
    """Latents [count, dim], labels that a known direction decides, and that direction."""
    rng = np.random.RandomState(seed)
    latents, true = rng.randn(count, dim), rng.randn(dim)
    true /= np.linalg.norm(true)
    return latents, latents @ true + noise * rng.randn(count) > 0, true


def cosine(a, b):
    return float(a.ravel() @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b))


# Statistics


def test_interfacegan_as_published(reference):
    case = reference("directions/interfacegan")
    w = case.inputs["w"]
    scores = {n: case.inputs[n] for n in ("scores", "scores2", "scores3")}
    found = {
        "boundary_default": stats.interfacegan(w, scores["scores"])[0],
        "boundary_ratio0.2": stats.interfacegan(w, scores["scores"], 0.2)[0],
        "boundary_num300_split1": stats.interfacegan(w, scores["scores"], 300, 1.0)[0],
        "boundary_cond2": stats.interfacegan(w, scores["scores2"], 0.2)[0],
        "boundary_cond3": stats.interfacegan(w, scores["scores3"], 0.2)[0],
    }
    for key, normal in found.items():
        case.check(key, normal)
    primal, *others = (found[f"boundary_{n}"][0] for n in ("ratio0.2", "cond2", "cond3", "default"))
    for count in (1, 2, 3):
        case.check(f"project_{count}", orthogonal(primal, others[:count])[None])
    steps = np.linspace(-3, 3, 7)
    wide = np.repeat(w[1:2, None], 8, 1)
    moved = move(np.repeat(wide, 7, 0), Direction("d", "D", "w", primal, 1.0), steps)
    case.check("interp_wplus_3d", moved)


@pytest.mark.parametrize("method", stats.METHODS)
def test_a_planted_direction_is_found(method):
    latents, labels, true = planted(400, 32)
    found = stats.learn(latents, labels, method)
    assert cosine(found.vector, true) > 0.9 and found.accuracy > 0.85 and found.auc > 0.93
    assert found.chance <= 0.002 and found.accuracy_interval[0] < found.accuracy < found.accuracy_interval[1]
    assert set(found.others) == set(stats.METHODS) - {method}
    assert found.unit == pytest.approx(0.8, abs=0.12)  # the means of a Gaussian's halves
    agree = (found.scores(latents) > 0) == labels
    assert agree.mean() > 0.9


def test_what_is_held_out_is_not_seen():
    """Accuracies are those of new latents, with noise on the labels too."""
    latents, labels, true = planted(500, 64, noise=0.7)
    found = stats.learn(latents, labels)
    new = np.random.RandomState(5).randn(5000, 64)
    truth = new @ true + 0.7 * np.random.RandomState(6).randn(5000) > 0
    got = ((found.scores(new) > 0) == truth).mean()
    assert found.accuracy_interval[0] - 0.02 < got < found.accuracy_interval[1] + 0.02


@pytest.mark.parametrize("seed", range(10))
def test_random_labels_are_refused_as_chance(seed):
    rng = np.random.RandomState(seed)
    with pytest.raises(BadInput, match="could be chance.*Label more pictures") as error:
        stats.learn(rng.randn(200, 32), rng.randint(0, 2, 200))
    assert error.value.code == "chance"


def test_layers_of_their_own():
    rng = np.random.RandomState(0)
    latents = rng.randn(120, 4, 16)
    labels = latents[:, 2] @ np.ones(16) > 0
    found = stats.learn(latents, labels)
    size = np.linalg.norm(found.vector, axis=1)
    assert found.vector.shape == (4, 16) and size.argmax() == 2 and size[2] > 1.5 * np.delete(size, 2).max()


@pytest.mark.parametrize(
    "change, code, told",
    [
        (lambda x, y: (x[:30], np.ones(30)), "one_sided", "none without the attribute"),
        (lambda x, y: (x[:30], np.zeros(30)), "one_sided", "none with the attribute"),
        (
            lambda x, y: (x[:8], np.array([1, 1, 1, 1, 1, 1, 1, 0])),
            "few",
            "7 pictures with the attribute and 1 without",
        ),
        (lambda x, y: (np.repeat(x[:10], 9, 0), np.tile(np.repeat([0, 1], 45), 1)), "few", "duplicates counted once"),
        (lambda x, y: (np.concatenate([x, x]), np.concatenate([y, ~y])), "contradictory", "both with and without"),
        (lambda x, y: (x, np.full(len(x), 2)), "bad_input", "1 with the attribute and 0 without"),
        (lambda x, y: (x, y[:-1]), "bad_input", "needs one label"),
        (lambda x, y: (x * np.inf, y), "bad_input", "not finite"),
    ],
)
def test_labels_that_nothing_can_be_learned_from(change, code, told):
    latents, labels, _ = planted(100, 8)
    with pytest.raises(BadInput, match=told) as error:
        stats.learn(*change(latents, labels))
    assert error.value.code == code


def test_duplicates_count_once():
    latents, labels, _ = planted(100, 8)
    found = stats.learn(np.concatenate([latents, latents[:20]]), np.concatenate([labels, labels[:20]]))
    assert sum(found.counts) == 100 and found.notes == ("20 duplicates counted once.",)


def test_top_and_bottom():
    places, labels = stats.top_and_bottom(np.array([3.0, 1, 2, 5, 4, 0]), 1 / 3)
    assert places.tolist() == [3, 4, 1, 5] and labels.tolist() == [1, 1, 0, 0]
    for scores, share, told in ((np.ones(9), 0.2, "same score"), (np.arange(9), 0.7, "at most 0.5")):
        with pytest.raises(BadInput, match=told):
            stats.top_and_bottom(scores, share)


def test_intervals():
    assert stats.wilson(0.5, 100) == pytest.approx((0.404, 0.596), abs=1e-3)
    low, high = stats.wilson(1.0, 20)
    assert high == 1 and low == pytest.approx(0.839, abs=1e-3)


def test_principal_directions():
    basis = np.linalg.qr(RNG.randn(12, 12))[0]
    ws = RNG.randn(4000, 3) * [5, 2, 1] @ basis[:3] + 7
    found, sizes = stats.principal(ws, 3)
    np.testing.assert_allclose(sizes, [5, 2, 1], rtol=0.06)
    assert all(abs(cosine(a, b)) > 0.99 for a, b in zip(found, basis[:3], strict=True))
    with pytest.raises(BadInput, match="no 13 principal"):
        stats.principal(ws, 13)


def test_factorised_directions():
    basis = np.linalg.qr(RNG.randn(6, 6))[0]
    layers = [RNG.randn(40, 6) * [4, 1, 1, 1, 1, 0.2] @ basis for _ in range(3)]
    found, sizes = stats.factorised(layers, 6)
    assert abs(cosine(found[0], basis[0])) > 0.98 and abs(cosine(found[5], basis[5])) > 0.98
    rows = np.concatenate(layers)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(rows.T @ rows)[::-1]
    np.testing.assert_allclose(sizes**2, values, rtol=1e-6)  # SeFa takes eigenvectors of A^T A


# Labels


def test_a_table_of_seeds(tmp_path):
    (tmp_path / "t.csv").write_text("seed,label\n0,1\n5,no\n7,with\n\n")
    table = read_table(tmp_path / "t.csv")
    assert table.seeds == (0, 5, 7) and table.values == [1, 0, 1] and not table.is_scores
    (tmp_path / "t.csv").write_text("seed;score\n0;1.5\n5;-2\n")
    assert read_table(tmp_path / "t.csv").is_scores


def test_a_table_of_latents(tmp_path):
    saved = Latents("w", RNG.randn(3, 4))
    (tmp_path / "t.csv").write_text("latent,label\n2,1\n0,0\n")
    table = read_table(tmp_path / "t.csv", saved)
    np.testing.assert_array_equal(table.latents.values, saved.values[[2, 0]])


@pytest.mark.parametrize(
    "text, latents, told",
    [
        ("0,1\n", False, "begins with the line"),
        ("seed,label\n0,maybe\n", False, "line 2: '0,maybe'"),
        ("seed,label\nx,1\n", False, "line 2"),
        ("seed,label\n0\n", False, "line 2"),
        ("seed,label\n0,nan\n", False, "line 2"),
        ("seed,label\n-4,1\n", False, "out of range"),
        ("latent,label\n0,1\n", False, "the .npz file"),
        ("seed,label\n0,1\n", True, "no saved latents are wanted"),
        ("latent,label\n9,1\n", True, "the latent 9; the file holds 0 to 2"),
        ("", False, "begins with the line"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, text, latents, told):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BadInput, match=told):
        read_table(tmp_path / "t.csv", Latents("w", RNG.randn(3, 4)) if latents else None)


def labelled(active, seed):
    latents, truth, true = planted(600, 48, seed=seed)
    labelling = Labelling(latents, seed)
    while len(labelling.labels) < 90:
        picture = labelling.next(1)[0] if active else len(labelling.labels)
        labelling.give(picture, bool(truth[picture]))
    marked = labelling.marked()
    found = stats.learn(latents[list(marked.seeds)], np.array(marked.values))
    return labelling, cosine(found.vector, true)


def test_active_learning_needs_fewer_labels():
    active = [labelled(True, seed)[1] for seed in range(3)]
    plain = [labelled(False, seed)[1] for seed in range(3)]
    assert np.mean(active) > np.mean(plain) + 0.03


def test_the_estimate_is_honest():
    labelling, _ = labelled(True, 0)
    assert len(labelling.foretold) > 12 and "random pictures" in labelling.estimate()
    assert 0.55 < np.mean(labelling.foretold) < 1


def test_labelling_step_by_step():
    labelling = Labelling(RNG.randn(12, 4))
    assert len(labelling.next(5)) == 5 and "At least 6 of either" in labelling.estimate()
    labelling.give(3, True)
    labelling.give(4, None)
    assert labelling.counts == (0, 1) and 3 not in labelling.next(12) and labelling.marked().seeds == (3,)
    assert labelling.take_back() == 4 and labelling.take_back() == 3 and labelling.take_back() is None
    with pytest.raises(BadInput, match="No picture is labelled"):
        labelling.marked()
    with pytest.raises(BadInput, match="no picture 12"):
        labelling.give(12, True)
    for seed in range(12):
        labelling.give(seed, seed % 2 == 0)
    assert labelling.next() == []


# The pipeline


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    rows = read_rows(rig.write_rows(tmp_path_factory.mktemp("rows")))
    features = [row for row in load_registry() if row.id in ("features-small", "lpips-vgg", "vgg16")]
    engine = Engine(Registry([*rows, *features]), device="cpu")
    yield engine
    engine.close()


def last(events):
    *_, result = events
    return result


def reds(engine, seeds):
    pictures = last(generate(engine, GenerateRequest("planted", seeds=seeds))).images
    return np.array([np.asarray(picture)[..., 0].mean() for picture in pictures])


def clicked(engine, count=200):
    seeds = list(range(count))
    red = reds(engine, seeds)
    return Marked((red > np.median(red)).astype(float).tolist(), seeds)


@pytest.fixture(scope="module")
def learned(engine):
    return last(learn(engine, LearnRequest("planted", "Red!", clicked(engine), effect=12)))


def test_the_planted_attribute_is_found_from_two_hundred_labels(learned):
    direction = learned.direction
    assert cosine(direction.vector, rig.true_direction()) > 0.9
    assert direction.id == "direction-planted-red" and direction.space == "w" and direction.title == "Red!"
    assert direction.card["accuracy"] > 0.9 and direction.card["chance"] <= 0.002
    assert direction.generator["w_dim"] == rig.DIM and direction.generator["dataset"] == rig.DATA
    assert len(direction.generator["sha256"]) == 64 and learned.row.generator == direction.generator


def test_its_effect_is_measured(learned, engine):
    effect = learned.effect
    others = {name: line for name, line in effect.lines.items() if name in ("red", "green")}
    assert set(others) == {"red", "green"} and len(effect.lines) == 3
    red, green = others["red"], others["green"]
    assert red == sorted(red) and red[2] == 0 and red[-1] > 1 and abs(green[-1]) < 0.6 * red[-1]
    assert effect.likeness[2] == 1 and max(effect.likeness[0], effect.likeness[4]) < 0.9
    assert learned.strip.image.width > learned.strip.image.height
    assert learned.direction.card["effect"]["change"]["red"] == pytest.approx(red, abs=1e-3)


def test_random_labels_make_no_direction(engine):
    rng = np.random.RandomState(0)
    marked = Marked(rng.randint(0, 2, 120).astype(float).tolist(), range(120))
    with pytest.raises(BadInput, match="could be chance"):
        last(learn(engine, LearnRequest("planted", "Nothing", marked)))


def test_a_network_scores_the_samples(engine, monkeypatch):
    request = LearnRequest("planted", "Red", Attribute("planted-judge", "red"), samples=300, keep=0.5, effect=0)
    result = last(learn(engine, request))
    assert cosine(result.direction.vector, rig.true_direction()) > 0.9
    assert result.direction.card["labels"] == "red by planted-judge, the highest and lowest of 300 pictures"
    with monkeypatch.context() as patch:  # what was seen once is known: another answer needs no second look
        patch.setattr(Source, "looks", None)
        green = last(learn(engine, replace(request, name="Green", source=Attribute("planted-judge", "green"))))
        assert abs(cosine(green.direction.vector, result.direction.vector)) < 0.7
    assert [a.name for a in attributes_of(engine.registry, engine.registry.find("planted"))] == ["red", "green"]
    with pytest.raises(BadInput, match="says nothing of 'blue'; it knows red, green"):
        last(learn(engine, replace(request, source=Attribute("planted-judge", "blue"))))
    with pytest.raises(BadInput, match="No CLIP is named"):
        last(learn(engine, replace(request, source=Sentences("red", "green"))))


def test_z_and_every_layer_for_itself(engine):
    marked = clicked(engine, 150)
    z = last(learn(engine, LearnRequest("planted", "In z", marked, space="z", effect=6))).direction
    assert z.space == "z" and z.vector.shape == (rig.DIM,)
    wide = last(learn(engine, LearnRequest("planted", "Wide", marked, space="w+", layers=(2, 3), effect=0))).direction
    assert wide.space == "w+" and not wide.vector[:2].any() and wide.vector[2:4].any() and wide.layers == (2, 3)
    with pytest.raises(BadInput, match="has the layers 0 to"):
        last(learn(engine, LearnRequest("planted", "Far", marked, layers=(2, 40))))


def test_a_generator_without_w(engine):
    seeds = list(range(80))
    pictures = last(generate(engine, GenerateRequest("planted-z", seeds=seeds))).images
    light = np.array([np.asarray(p).mean() for p in pictures])
    marked = Marked((light > np.median(light)).astype(float).tolist(), seeds)
    found = last(learn(engine, LearnRequest("planted-z", "Light", marked, effect=6)))
    assert found.direction.space == "z" and found.strip is not None
    with pytest.raises(BadInput, match="no intermediate latent"):
        last(learn(engine, LearnRequest("planted-z", "Light", marked, space="w")))


def test_kept_directions_are_offered_compared_and_held_still(engine, learned, own_home):
    planted_row = engine.registry.find("planted")
    row = keep(learned.direction, planted_row, engine.registry)
    try:
        assert [r.id for r in engine.registry.directions_for(planted_row)] == [row.id]
        assert load_registry().find(row.id).generator == row.generator  # the next start finds it
        read = open_direction(engine.registry, row.id, planted_row, rig.DIM)
        np.testing.assert_array_equal(read.vector, learned.direction.vector)
        assert read.unit == pytest.approx(learned.direction.unit) and read.card["accuracy"] > 0.9
        with pytest.raises(RegistryError, match="There is a row"):
            keep(learned.direction, planted_row, engine.registry)
        green = Attribute("planted-judge", "green")
        request = LearnRequest("planted", "Green", green, samples=300, still=[row.id], effect=0)
        other = last(learn(engine, request)).direction
        assert abs(cosine(other.vector, learned.direction.vector)) < 1e-5
        assert other.card["cosines"] == {row.id: 0} and other.card["independent_of"] == [row.id]
        with pytest.raises(BadInput, match="'unknown' is no direction of 'planted'"):
            last(learn(engine, replace(request, still=["unknown"])))
    finally:
        engine.registry.remove(row.id)


def test_names_become_ids():
    assert slug("Dark glasses!") == "dark-glasses" and slug("Größe") == "groe" or slug("Größe") == "grosse"
    assert slug("果物") == "direction"


# Using


def test_a_strip_a_grid_and_a_video(engine, learned, tmp_path):
    direction = learned.direction
    result = last(slide(engine, SlideRequest("planted", direction, seeds=(1, 2), strengths=(-1, 0, 1))))
    red = np.array([np.asarray(p.image)[..., 0].mean() for p in result.pictures]).reshape(2, 3)
    assert (np.diff(red, axis=1) > 5).all()
    plain = last(generate(engine, GenerateRequest("planted", seeds=(1, 2), psi=0.7))).images
    assert np.abs(np.asarray(result.pictures[1].image).astype(int) - np.asarray(plain[0])).max() <= 1
    about = read_provenance(result.pictures[2].save(tmp_path))
    assert about["moves"] == [{"direction": direction.id, "strength": 1.0}] and about["seed"] == 1
    second = replace(direction, id="other", vector=np.roll(direction.vector, 1))
    grid = last(slide(engine, SlideRequest("planted", direction, seeds=(1,), across=second)))
    assert len(grid.pictures) == 15 and grid.pictures[0].provenance["moves"][1]["direction"] == "other"
    file = tmp_path / "there.mp4"
    film = last(slide(engine, SlideRequest("planted", direction, seeds=(1, 2), strengths=(-2, 2), frames=6, file=file)))
    assert film.frames == 10 and VideoSource(file).frames == 10


def test_saved_latents_move_too(engine, learned):
    w = last(generate(engine, GenerateRequest("planted", seeds=(3,)))).latents
    request = SlideRequest("planted", learned.direction, latents=w, strengths=(0, 1), psi=1.0)
    same = last(slide(engine, request)).pictures
    plain = last(generate(engine, GenerateRequest("planted", seeds=(3,)))).images[0]
    assert np.abs(np.asarray(same[0].image).astype(int) - np.asarray(plain)).max() <= 1
    assert np.asarray(same[1].image)[..., 0].mean() > np.asarray(same[0].image)[..., 0].mean() + 5


def test_pictures_of_seeds_move_along_directions(engine, learned, own_home, tmp_path):
    planted_row = engine.registry.find("planted")
    row = keep(learned.direction, planted_row, engine.registry)
    try:
        asked = GenerateRequest("planted", seeds=(1, 2), psi=0.7, moves=((row.id, 1.0),))
        moved = last(generate(engine, asked))
        strip = last(slide(engine, SlideRequest("planted", row.id, seeds=(1, 2), strengths=(1,), psi=0.7)))
        for one, other in zip(moved.pictures, strip.pictures, strict=True):
            assert np.array_equal(np.asarray(one.image), np.asarray(other.image))
        about = read_provenance(moved.pictures[1].save(tmp_path))
        assert about["moves"] == [[row.id, 1.0]] and request_of(about) == replace(asked, seeds=(2,), precision="exact")
        # What is saved is what is seen, wherever it is loaded.
        again = last(generate(engine, GenerateRequest.from_latents("planted", moved.latents))).images
        assert moved.latents.space == "w+" and np.array_equal(np.asarray(again[1]), np.asarray(moved.images[1]))
        back = GenerateRequest("planted", latents=moved.latents, moves=((row.id, -1.0),))
        plain = last(generate(engine, GenerateRequest("planted", seeds=(1, 2), psi=0.7)))
        assert "moves" not in plain.provenance[0]
        near = last(generate(engine, back)).images[0]
        assert np.abs(np.asarray(near).astype(int) - np.asarray(plain.images[0])).max() <= 1
        assert GenerateRequest("planted", seeds=(1, 2), psi=0.7, moves=((row.id, 0),)) == plain.request
        for moves, words in ((((row.id, 99.0),), "strength of"), (((row.id, "far"),), "must be a number")):
            with pytest.raises(BadInput, match=words):
                GenerateRequest("planted", seeds=(1,), moves=moves)
        with pytest.raises(RegistryError, match="does not fit 'planted-z'"):
            last(generate(engine, GenerateRequest("planted-z", seeds=(1,), moves=((row.id, 1.0),))))
    finally:
        engine.registry.remove(row.id)


def test_a_direction_of_z_moves_z(engine, own_home):
    row = engine.registry.find("planted-z")
    vector = np.eye(8)[2]
    light = Direction("light", "Light", "z", vector, 1.0, generator={"family": "mlp_gan", "dataset": rig.DATA})
    kept = keep(light, row, engine.registry)
    try:
        moved = last(generate(engine, GenerateRequest("planted-z", seeds=(4,), moves=((kept.id, 2.0),))))
        plain = last(generate(engine, GenerateRequest("planted-z", seeds=(4,))))
        np.testing.assert_allclose(moved.latents.values - plain.latents.values, 2 * vector[None], atol=1e-6)
        assert moved.latents.space == "z" and not np.array_equal(moved.images[0], plain.images[0])
    finally:
        engine.registry.remove(kept.id)


def test_directions_of_others_are_refused(engine, learned):
    foreign = replace(learned.direction, generator={**learned.direction.generator, "sha256": "f" * 64})
    with pytest.raises(RegistryError, match="does not fit 'planted': it belongs to generators with sha256 ffff"):
        last(slide(engine, SlideRequest("planted", foreign)))
    z = replace(learned.direction, space="z")
    with pytest.raises(BadInput, match="different spaces"):
        last(slide(engine, SlideRequest("planted", learned.direction, across=z)))


@pytest.mark.parametrize(
    "change, told",
    [
        ({"strengths": ()}, "at least one strength"),
        ({"strengths": (99,)}, "strength '99'"),
        ({"frames": 5}, "into a file"),
        ({"seeds": range(400)}, "at most 1024"),
        ({"layers": [99]}, "no layer 99"),
    ],
)
def test_requests_that_cannot_be_answered(engine, learned, change, told):
    with pytest.raises(BadInput, match=told):
        last(slide(engine, SlideRequest("planted", learned.direction, **change)))


# Photos, and what nobody labelled


@pytest.mark.slow
def test_two_piles_of_photos(engine, tmp_path):
    """Pictures of the generator's own stand in for photos: which are red is known."""
    pictures = last(generate(engine, GenerateRequest("planted", seeds=range(40), psi=0.7))).images
    red = np.array([np.asarray(p)[..., 0].mean() for p in pictures])
    piles = {True: [], False: []}
    for place in (*red.argsort()[:7], *red.argsort()[-7:]):
        pictures[place].save(tmp_path / f"{place}.png")
        piles[bool(red[place] > np.median(red))].append((f"{place}.png", tmp_path / f"{place}.png"))
    (tmp_path / "no.png").write_text("no photo")
    piles[True].append(("no.png", tmp_path / "no.png"))
    with pytest.raises(BadInput, match="consent"):
        last(learn(engine, LearnRequest("planted", "Red", Piles(piles[True], piles[False]))))
    given = Piles(piles[True], piles[False], consent=True, steps=6)
    result = last(learn(engine, LearnRequest("planted", "Red", given, effect=8)))
    assert result.notes[0].startswith("Left out, photo 8 with") and "no.png" not in result.notes[0]
    assert result.direction.card["labels"].startswith("photos, 7 with and 7")
    assert result.effect.lines["red"][-1] > 0.5


@pytest.mark.parametrize("way", ["sefa", "ganspace"])
def test_directions_that_nobody_labelled(engine, way):
    found = last(find_directions(engine, "planted", way, 3, samples=300))
    assert [d.id for d in found] == [f"direction-planted-{way}-{k}" for k in range(3)]
    shares = [d.card["share"] for d in found]
    assert shares == sorted(shares, reverse=True) and abs(cosine(found[0].vector, found[1].vector)) < 1e-5
    with pytest.raises(BadInput, match="no 17 "):
        last(find_directions(engine, "planted", way, 17, samples=300))
    with pytest.raises(BadInput, match="no intermediate latent"):
        last(find_directions(engine, "planted-z", way))


# The command


@pytest.fixture
def command(tmp_path, capsys):
    rows = tmp_path / "rows"
    rows.mkdir()
    file = rig.write_rows(rows)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["direction", *map(str, arguments), "--registry", str(file)])
        said = capsys.readouterr()
        assert ended.value.code in (0, None), said.err
        return said.out

    return run


def test_learn_apply_and_compare_from_a_shell(command, engine, tmp_path):
    marked = clicked(engine, 120)
    lines = [f"{seed},{int(value)}" for seed, value in zip(marked.seeds, marked.values, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["seed,label", *lines]))
    out = tmp_path / "out"
    said = command("learn", "planted", "--name", "Red", "--table", tmp_path / "t.csv", "--out", out)
    file = out / "direction-planted-red.safetensors"
    assert "held-out accuracy" in said and "of 100 shuffles" in said and file.exists()
    assert {p.suffix for p in out.iterdir()} == {".safetensors", ".yaml", ".png"}
    assert read_rows(out / "direction-planted-red.yaml")[0].id == "direction-planted-red"
    how = ("--strengths", "-1,1", "--seeds", "0", "--out", out / "strip", "--json")
    written = json.loads(command("apply", "planted", file, *how))["written"]
    assert len(written) == 3 and written[0]["provenance"]["moves"][0]["strength"] == -1
    command("find", "planted", "ganspace", "--count", "2", "--out", out)
    files = [out / f"direction-planted-ganspace-{k}.safetensors" for k in (0, 1)]
    table = json.loads(command("compare", "planted", file, *files, "--json"))
    assert table["direction-planted-red"]["direction-planted-red"] == 1
    film = out / "red.mp4"
    command("apply", "planted", file, "--strengths", "-1,1", "--seeds", "0", "--frames", "3", "--out", film)
    assert VideoSource(film).frames == 4


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["learn", "planted", "--name", "Red"], "Name one source of labels"),
        (["learn", "planted", "--name", "Red", "--against", "x"], "--against with --text"),
        (["learn", "planted", "--name", "Red", "--with", "here"], "two piles"),
        (["learn", "planted", "--name", "Red", "--attribute", "planted-judge"], "says nothing of ''"),
        (["apply", "planted", "no-such"], "no checkpoint 'no-such'"),
        (["compare", "planted"], "name at least two"),
    ],
)
def test_what_the_command_refuses(arguments, told, tmp_path, capsys):
    file = rig.write_rows(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["direction", *arguments, "--registry", str(file)])
    assert ended.value.code == 2 and told in capsys.readouterr().err


# The Hub


def test_a_direction_goes_to_the_hub_and_back(run, server, monkeypatch, learned, tmp_path):
    server.users[SECRET] = ["owner2"]
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")  # the server speaks the older protocol
    rows = rig.write_rows(tmp_path)
    file = save_direction(learned.direction, tmp_path / "red.safetensors")
    code, out, error = run(f"publish {file} --to owner2/red --push --json --registry {rows}")
    assert code == 0, error
    stored = {name for repository, name in server.repositories if repository == "owner2/red"}
    assert stored >= {"README.md", "model.safetensors", "weights.yaml", "effect.png"}
    text = (tmp_path / "red.publish" / "README.md").read_text()
    assert "Held-out accuracy" in text and "license: cc0-1.0" in text and "ganhub add hf://owner2/red" in text
    code, out, error = run("add hf://owner2/red")
    assert code == 0, error
    row = load_registry().find("red")
    assert row.task == ("direction",) and row.generator == learned.row.generator
    assert read_direction(row, hub.fetch(row)).card["accuracy"] == learned.direction.card["accuracy"]
    code, _, error = run(f"publish {rows} --to owner2/red")
    assert code == 2
