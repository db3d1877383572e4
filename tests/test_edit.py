"""Latents moved, mixed and turned into one another."""

import json

import numpy as np
import pytest
from PIL import Image
from project_rig import write_faces

from ganhub.cli import main
from ganhub.directions import move, open_direction
from ganhub.engine import Engine, Job
from ganhub.errors import BadInput, RegistryError
from ganhub.imaging import read_provenance
from ganhub.imaging.video import VideoSource
from ganhub.latents import Latents, load_latents, save_latents
from ganhub.pipelines.edit import EditRequest, MorphRequest, edit, morph
from ganhub.registry import load_registry

NAME = "tiny-face"


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def engine(faces, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANHUB_HOME", str(tmp_path_factory.mktemp("home")))
        with Engine(load_registry(faces), device="cpu") as made:
            yield made


def w_of(engine, seed, psi=0.7):
    return engine.run(Job(NAME, "map", {"z": np.random.RandomState(seed).randn(16), "psi": psi}))


def plus(engine, *seeds):
    return Latents("w+", np.stack([w_of(engine, seed) for seed in seeds]), NAME)


def drawn(engine, ws):
    return engine.run(Job(NAME, "synthesize", {"ws": np.asarray(ws, np.float32)}))


def edited(engine, latents, **more):
    return list(edit(engine, EditRequest(NAME, latents, **{"mark": False, **more})))[-1]


def test_nothing_asked_nothing_changed(engine):
    latents = plus(engine, 3, 4)
    result = edited(engine, latents)
    assert (result.latents.values == latents.values).all() and len(result.pictures) == 2
    assert (np.asarray(result.pictures[1].image) == drawn(engine, latents.values[1])).all()


def test_moves_add_up_in_the_layers_asked_for(engine):
    latents = plus(engine, 3)
    direction = open_direction(engine.registry, "tiny-smile", engine.registry.find(NAME), 16)
    result = edited(engine, latents, moves=[("tiny-smile", 1.5), ("tiny-smile", -0.5)], layers=[1, 2])
    want = move(latents.values, direction, 1.0, [1, 2])
    assert np.abs(result.latents.values - want).max() < 1e-5
    assert (result.latents.values[:, [0, 3, 4, 5]] == latents.values[:, [0, 3, 4, 5]]).all()
    assert (np.asarray(result.pictures[0].image) != drawn(engine, latents.values[0])).any()
    about = result.pictures[0].provenance
    assert about["moves"] == [["tiny-smile", 1.5], ["tiny-smile", -0.5]] and about["latents"] == latents.digest()
    back = edited(engine, result.latents, moves=[("tiny-smile", -1.0)], layers=[1, 2])
    assert np.abs(back.latents.values - latents.values).max() < 1e-5


def test_mixing_takes_layers_from_a_seed_or_from_saved_latents(engine):
    latents, other = plus(engine, 3), plus(engine, 9)
    by_seed = edited(engine, latents, mix=9, mix_layers=[0, 4])
    by_file = edited(engine, latents, mix=other, mix_layers=[0, 4])
    assert np.abs(by_seed.latents.values - by_file.latents.values).max() < 1e-6
    got = by_file.latents.values[0]
    assert (got[[0, 4]] == other.values[0][[0, 4]]).all()
    assert (got[[1, 2, 3, 5]] == latents.values[0][[1, 2, 3, 5]]).all()


def test_latents_of_every_space_are_truncated_as_they_say(engine):
    z = np.random.RandomState(3).randn(1, 16)
    want = w_of(engine, 3, psi=0.5)
    assert np.abs(edited(engine, Latents("z", z, NAME, psi=0.5)).latents.values[0] - want).max() < 1e-5
    whole = w_of(engine, 3, psi=1.0)
    for latents in (Latents("w+", whole[None], NAME, psi=0.5), Latents("w", whole[:1], NAME, psi=0.5)):
        assert np.abs(edited(engine, latents).latents.values[0] - want).max() < 1e-5


def test_a_morph_goes_from_one_to_the_other(engine, tmp_path):
    a, b = plus(engine, 3), plus(engine, 4)
    request = MorphRequest(NAME, a, b, frames=8, file=tmp_path / "way.mp4", mark=False)
    *events, result = morph(engine, request)
    assert len(result.pictures) == 6 and [p.provenance["share"] for p in result.pictures] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    ends = [np.asarray(result.pictures[i].image) for i in (0, 5)]
    assert (ends[0] == drawn(engine, a.values[0])).all() and (ends[1] == drawn(engine, b.values[0])).all()
    middle = 0.6 * a.values[0] + 0.4 * b.values[0]
    assert np.abs(result.latents.values[2] - middle).max() < 1e-6
    assert result.strip.image.width > 6 * 96 - 1, "small pictures are enlarged under their labels"
    assert len(list(VideoSource(result.video))) == 8
    assert read_provenance(result.video)["task"] == "morph"
    assert events[-1].done == events[-1].total == 14


def test_stopping_a_morph_leaves_no_video(engine, tmp_path):
    events = morph(engine, MorphRequest(NAME, plus(engine, 3), plus(engine, 4), frames=500, file=tmp_path / "way.mp4"))
    for event in events:
        if event.done > 8:
            break
    events.close()
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_refused(engine):
    latents = plus(engine, 3)
    with pytest.raises(BadInput, match="belong to 'another'"):
        edited(engine, Latents("w+", latents.values, "another"))
    with pytest.raises(BadInput, match="no layer 6"):
        edited(engine, latents, mix=1, mix_layers=[6])
    with pytest.raises(BadInput, match="no layer 9"):
        edited(engine, latents, moves=[("tiny-smile", 1)], layers=[9])
    with pytest.raises(RegistryError, match="does not fit"):
        edited(engine, latents, moves=[("direction-age", 1)])
    with pytest.raises(BadInput, match="strength"):
        EditRequest(NAME, latents, [("tiny-smile", 99.0)])
    with pytest.raises(BadInput, match="Mixing takes"):
        EditRequest(NAME, latents, mix=4)
    with pytest.raises(BadInput, match="no intermediate latent"):
        list(edit(engine, EditRequest("tiny-flat", Latents("z", np.zeros((1, 8))))))


def test_pictures_are_marked_unless_told_otherwise(engine):
    latents = plus(engine, 3)
    plain, marked = (np.asarray(edited(engine, latents, mark=mark).pictures[0].image) for mark in (False, True))
    changed = (plain != marked).any(2)
    assert changed[-2:].any() and not changed[:2].any()


def test_the_commands_edit_and_morph(engine, faces, tmp_path, capsys):
    for seed in (3, 4):
        save_latents(tmp_path / f"{seed}.npz", plus(engine, seed))
    common = ["--registry", str(faces), "--out", str(tmp_path / "out"), "--device", "cpu"]
    with pytest.raises(SystemExit) as caught:
        main(["edit", str(tmp_path / "3.npz"), "--move", "tiny-smile=1.5", "--mix", str(tmp_path / "4.npz"),
              "--mix-layers", "4-5", "--save-latents", str(tmp_path / "new.npz"), "--json", *common])  # fmt: skip
    assert caught.value.code == 0
    told = json.loads(capsys.readouterr().out)["written"]
    assert read_provenance(told[0]["path"])["moves"] == [["tiny-smile", 1.5]]
    assert load_latents(tmp_path / "new.npz").space == "w+"
    with pytest.raises(SystemExit) as caught:
        main(["morph", str(tmp_path / "3.npz"), str(tmp_path / "4.npz"), "--steps", "3", *common])
    assert caught.value.code == 0
    files = capsys.readouterr().out.split()
    assert len(files) == 4 and Image.open(files[-1]).width > Image.open(files[0]).width
    with pytest.raises(SystemExit) as caught:
        main(["edit", str(tmp_path / "3.npz"), "--move", "tiny-smile", *common])
    assert caught.value.code == 2 and "ID=STRENGTH" in capsys.readouterr().err
