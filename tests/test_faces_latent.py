"""The latent part of the Faces tab without a browser: find, move, mix, morph, save, load, stop, forget."""

import io
import shutil
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from faces_rig import astronaut
from PIL import Image
from project_rig import write_faces

from ganhub.engine import Engine, Job
from ganhub.errors import BadInput
from ganhub.imaging import Photo, VideoSource, read_provenance
from ganhub.latents import load_latents
from ganhub.pipelines import project
from ganhub.pipelines.faces import marked
from ganhub.registry import load_registry
from ganhub.tabs import Context, faces
from ganhub.tabs._faces_latent import LatentPart, figures_words
from ganhub.tabs._faces_latent_api import Api
from ganhub.tabs._faces_latent_layout import Held

ROW = "tiny-face"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANHUB_HOME", str(tmp_path_factory.mktemp("home")))
        rows = load_registry(write_faces(tmp_path_factory.mktemp("faces")))
        with Engine(rows, device="cpu") as made:
            yield made


@pytest.fixture
def part(engine, monkeypatch):
    monkeypatch.setattr(project, "MOST", 32)
    with gr.Blocks() as demo:
        context = Context(engine, engine.registry, demo, "faces", gr.HTML())
        tab = faces.FacesTab(context)
        tab.layout.lay_out(tab.store.soon)
        made = LatentPart(context, tab)
        made.lay_out()
        made.join()
    yield made
    tab.store.forget("me")


ME = SimpleNamespace(session_hash="me")


def with_photo(part, example=False):
    part.tab.store.put("me", Photo(np.asarray(astronaut())), [marked(220, 110, 110, 0)], example)


def search(part, **more):
    how = {"checkpoint": ROW, "steps": 20, "space": "w+", "start": "mean", **more}
    data = {getattr(part, name): value for name, value in how.items() if name != "consent"}
    return {**data, part.tab.layout.consent: more.get("consent", True)}


def through(updates):
    """All updates, each put over those before."""
    last = {}
    for update in updates:
        last |= update
    return last


def found(part):
    with_photo(part)
    return through(part.found(search(part), ME))


def pixels(file):
    return np.asarray(Image.open(file))


def test_a_face_is_found_and_shown_with_its_figures(part):
    page = found(part)
    held = part.tab.store.latents_of("me")
    assert held.base.space == "w+" and (held.base.values == held.now.values).all()
    assert pixels(page[part.target]).shape == pixels(page[part.now]).shape == (256, 256, 3)
    about = read_provenance(page[part.now])
    assert about["task"] == "project" and about["generated"]
    assert "no LPIPS" in page[part.figures] and "random pictures" in page[part.figures]
    assert part.tab.store.root in Path(page[part.now]).parents, (
        "a picture of somebody lies outside of the private folder"
    )
    assert load_latents(page[part.save].value["path"]).digest() == held.base.digest()
    assert page[part.sliders[0]].label == "Smile" and page[part.sliders[0]].visible
    assert not page[part.sliders[1]].visible


def test_no_face_without_consent(part):
    with_photo(part)
    with pytest.raises(gr.Error, match="consent"):
        through(part.found(search(part, consent=False), ME))
    with_photo(part, example=True)
    assert part.now in through(part.found(search(part, consent=False), ME))
    part.tab.store.forget("me")
    with pytest.raises(gr.Error, match="no photo of yours here"):
        through(part.found(search(part), ME))


def test_sliders_move_from_where_it_was_found(part):
    first = pixels(found(part)[part.now])
    data = {part.checkpoint: ROW, part.layers: "", **dict.fromkeys(part.sliders, 0)}
    there = part.moved({**data, part.sliders[0]: 2}, ME)
    assert "Smile +2" in there[part.note] and (pixels(there[part.now]) != first).any()
    assert read_provenance(there[part.now])["moves"] == [["tiny-smile", 2.0]]
    few = part.moved({**data, part.sliders[0]: 2, part.layers: "0-1"}, ME)
    held = part.tab.store.latents_of("me")
    assert (held.now.values[0][2:] == held.base.values[0][2:]).all() and (pixels(few[part.now]) != first).any()
    back = part.moved(data, ME)
    assert (pixels(back[part.now]) == first).all()
    with pytest.raises(gr.Error, match="no layer 9"):
        part.moved({**data, part.sliders[0]: 2, part.layers: "9"}, ME)


def test_mixing_and_morphing(part):
    found(part)
    before = part.tab.store.latents_of("me").now.values[0]
    note, button = part._keeper("a")(ME)
    assert "Kept as A" in note and not button.interactive
    page = through(part.mixed({part.checkpoint: ROW, part.other: "7", part.mix_layers: "3-5"}, ME))
    held = part.tab.store.latents_of("me")
    assert (held.base.values[0][:3] == before[:3]).all() and (held.base.values[0][3:] != before[3:]).any()
    assert "seed 7" in page[part.note]
    with pytest.raises(gr.Error, match="no B yet"):
        through(part.mixed({part.checkpoint: ROW, part.other: "b", part.mix_layers: "3-5"}, ME))
    with pytest.raises(gr.Error, match="A to B"):
        through(part.morphed({part.checkpoint: ROW}, ME))
    assert part._keeper("b")(ME)[1].interactive
    page = through(part.morphed({part.checkpoint: ROW}, ME))
    assert len(list(VideoSource(page[part.video].value["path"]))) == 90
    assert pixels(page[part.strip].value["path"]).shape[1] > 6 * 90


def test_a_saved_latent_comes_back(part, tmp_path):
    page = found(part)
    digest = part.tab.store.latents_of("me").now.digest()
    file = tmp_path / "upload" / "mine.npz"
    file.parent.mkdir()
    shutil.copy(page[part.save].value["path"], file)
    part.tab.store.forget("me")
    with pytest.raises(BadInput):
        part.tab.store.latents_of("me")
    page = through(part.loaded({part.load: str(file), part.checkpoint: "stylegan2-portraits"}, ME))
    assert page[part.checkpoint] == ROW and part.tab.store.latents_of("me").now.digest() == digest
    assert not file.exists(), "what is loaded is as good as a photo"
    data = {part.checkpoint: "stylegan2-portraits", part.layers: "", **dict.fromkeys(part.sliders, 0)}
    with pytest.raises(gr.Error, match="found in 'tiny-face'"):
        part.moved(data, ME)


def test_stop_keeps_what_was_reached(part):
    with_photo(part)
    updates = part.found(search(part, steps=1000), ME)
    for update in updates:
        if update.get(part.now):
            part.tab.runs.end("me")
            break
    page = through(updates)
    assert "Stopped" in page[part.note] and part.tab.store.latents_of("me").now.checkpoint == ROW
    assert pixels(page[part.now]).shape == (256, 256, 3)


def test_deleting_ends_a_search_and_nothing_of_it_stays(part):
    with_photo(part)
    folder = part.tab.store.get("me").folder
    updates = part.found(search(part, steps=1000), ME)
    for update in updates:
        if update.get(part.now):
            assert folder.exists()
            part.tab.forget(ME)
            break
    with pytest.raises(gr.Error, match="no photo of yours here"):
        through(updates)
    with pytest.raises(BadInput):
        part.tab.store.latents_of("me")
    assert not folder.exists()


def test_a_sentence_needs_a_clip_that_knows_faces(part):
    found(part)
    with pytest.raises(gr.Error, match="clip-vit-b-32"):
        through(part.guided({part.checkpoint: ROW, part.sentence: "a smile"}, ME))


# Programs


@pytest.fixture
def api(part):
    return Api(part, part.tab.store)


@pytest.fixture
def photo(engine):
    """Bytes of a photo that is cut as the generator's pictures are."""
    pixels = engine.run(Job(ROW, "generate", {"z": np.random.RandomState(5000).randn(16), "psi": 0.7}))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def test_programs_find_edit_and_morph_a_face(api, photo, tmp_path):
    ((picture, file, about),) = api.project_face(photo, True, ROW, 30, aligned=True, mark=False, request=ME)
    assert about["figures"]["distance"] < about["figures"]["start"] and pixels(picture).shape == (16, 16, 3)
    assert load_latents(file).digest() == about["latents"]
    kept = tmp_path / "upload" / "kept.npz"
    kept.parent.mkdir()
    shutil.copy(file, kept)
    ((moved, _, told),) = api.edit_face(moves="tiny-smile=2, tiny-smile=-1", layers="0-3", mark=False, request=ME)
    assert told["moves"] == [["tiny-smile", 2.0], ["tiny-smile", -1.0]] and (pixels(moved) != pixels(picture)).any()
    ((mixed, _, told),) = api.edit_face(mix=3, mix_layers="4-5", mark=False, request=ME)
    assert told["mix"] == 3
    (strip,) = api.morph_faces(str(kept), pictures=3, mark=False, request=ME)
    assert read_provenance(strip)["task"] == "morph" and not kept.exists()
    assert api.store.root in Path(strip).parents
    api.store.forget("me")
    assert not Path(strip).exists() and not Path(picture).exists()
    with pytest.raises(gr.Error, match="no latent of yours"):
        list(api.edit_face(request=ME))


def test_programs_need_consent_and_read_sentences(api, photo):
    for aligned in (True, False):
        with pytest.raises(gr.Error, match="consent"):
            list(api.project_face(photo, False, ROW, aligned=aligned, request=ME))
    with pytest.raises(gr.Error, match="no face|No face"):
        list(api.project_face(photo, True, ROW, request=ME))
    with pytest.raises(gr.Error, match="'smile' is no move"):
        list(api.project_face(photo, True, ROW, 1, aligned=True, request=ME))
        list(api.edit_face(moves="smile", request=ME))
    with pytest.raises(gr.Error, match="no other face"):
        list(api.morph_faces(None, request=ME))
    listed = {entry["id"]: entry for entry in api.list_face_generators()}
    assert listed[ROW]["directions"] == [{"id": "tiny-smile", "title": "Smile"}]


def test_generators_and_what_fits_them(part):
    ids = [name for _, name in part.generators()]
    assert "stylegan2-portraits" in ids and "stylegan2-fruit" not in ids and ROW in ids
    _, words, _, *sliders = part.fit("stylegan2-ffhq-1024")
    assert sum(slider.visible for slider in sliders) > 10 and "several" in words
    _, words, _, *sliders = part.fit("tiny-kinds")
    assert not any(slider.visible for slider in sliders[1:]) and words
    assert Held(*[part] * 2).a is None and "LPIPS" in figures_words(
        {"measure": "LPIPS", "distance": 1, "start": 2, "others": {"least": 1, "median": 2}, "rmse": 3.0}
    )
