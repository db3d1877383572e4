"""The latent part of the Faces tab for programs: project_face, edit_face, morph_faces, list_face_generators.

What was found of somebody is kept as in the page: in memory, for this session, until half an hour after its last use or
`delete_photos`. `project_face` and `edit_face` have twins for agents, which get pictures from single outputs only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ganhub.directions import parse_moves
from ganhub.errors import BadInput
from ganhub.latents import Latents, load_latents, parse_layers, save_latents
from ganhub.pipelines.edit import EditRequest, MorphRequest, edit, morph
from ganhub.pipelines.faces import align, chosen, need_consent, plain, read_face_photo
from ganhub.pipelines.project import SPACES, ProjectRequest, project
from ganhub.tabs import _faces_api
from ganhub.tabs._api import described, over_http, sheet_of
from ganhub.tabs._faces_latent_layout import Held, LatentLayout, side_of
from ganhub.tabs._faces_store import Store, delete, photo_in
from ganhub.tabs._widgets import sentences, visitor

MOST_STEPS = 1000


def publish(part: LatentLayout, store: Store, first: str) -> None:
    """Add the endpoints to the current page.

    Args:
        store: of the tab.
        first: generator that answers where none is named.
    """
    api = Api(part, store)
    controls: dict[str, Any] = {
        "photo": photo_in(part.context.demo, delete, visible=False, label="photo"),
        "consent": gr.Checkbox(False, visible=False),
        "checkpoint": gr.Textbox(first, visible=False),
        "steps": gr.Number(200, minimum=1, maximum=MOST_STEPS, precision=0, visible=False),
        "space": gr.Dropdown(list(SPACES), value=SPACES[0], visible=False),
        "aligned": gr.Checkbox(False, visible=False),
        "face": gr.Number(0, minimum=0, maximum=100, precision=0, visible=False),
        "box": gr.Textbox("", visible=False),
        "mark": gr.Checkbox(True, visible=False),
        "latents": gr.File(visible=False, type="filepath"),
        "other": gr.File(visible=False, type="filepath"),
        "moves": gr.Textbox("", visible=False),
        "layers": gr.Textbox("", visible=False),
        "mix": gr.Number(None, minimum=0, precision=0, visible=False),
        "mix_layers": gr.Textbox("", visible=False),
        "pictures": gr.Number(6, minimum=2, maximum=32, precision=0, visible=False),
    }
    picture = gr.Image(visible=False, type="filepath", format="png", label="picture")
    file = gr.File(visible=False, label="latents")
    about = gr.JSON(visible=False, label="provenance")
    found = ["photo", "consent", "checkpoint", "steps", "space", "aligned", "face", "box", "mark"]
    changed = ["latents", "moves", "layers", "mix", "mix_layers", "mark"]
    for function, name, names, outputs in (
        (api.project_face, "project_face", found, [picture, file, about]),
        (sheet_of(api.project_face, "project_face_picture"), "project_face_picture", found, picture),
        (api.edit_face, "edit_face", changed, [picture, file, about]),
        (sheet_of(api.edit_face, "edit_face_picture"), "edit_face_picture", changed, picture),
        (api.morph_faces, "morph_faces", ["other", "latents", "pictures", "mark"], picture),
    ):
        given = [controls[n] for n in names]
        gr.Button(visible=False).click(function, given, outputs, api_name=name, show_progress="hidden")
    gr.api(api.list_face_generators, api_name="list_face_generators")


class Api:
    """What the endpoints do. The docstrings are what an agent reads; the names of the methods are the tools'."""

    def __init__(self, part: LatentLayout, store: Store):
        self.part, self.context, self.store = part, part.context, store
        self.faces = _faces_api.Api(part.context, store)

    @sentences
    def list_face_generators(self) -> list[dict[str, Any]]:
        """List the generators of faces that a photo can be found in, and the directions that are known for each.

        Returns:
            One entry per checkpoint: id, title, description, licence, whether its file is on disk, and `directions`
            (id and title).
        """
        rows = [self.context.registry.find(name) for _, name in self.part.generators()]
        known = {row.id: [{"id": d.id, "title": d.title} for d in self.part.directions(row)] for row in rows}
        return [{**described(row), "directions": known[row.id]} for row in rows]

    @over_http
    @sentences
    def project_face(
        self,
        photo: Any,
        consent: bool,
        checkpoint: str,
        steps: int = 200,
        space: str = "w+",
        aligned: bool = False,
        face: int = 0,
        box: str = "",
        mark: bool = True,
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Find the latent of a face: the point of a generator's latent space whose picture looks most like it.

        Args:
            photo: picture of at most 24 megapixels: JPEG, PNG, WebP, TIFF, GIF, BMP or AVIF. It is not kept.
            consent: true where the person in the photo is an adult and agrees; nothing is done without it.
            checkpoint: id of a generator of faces; list_face_generators names them.
            steps: of the search, 1 to 1000.
            space: w+ for a latent of each layer, which comes nearer, or w for one of all.
            aligned: true where the photo is cut as the generator's pictures are; no face is sought then.
            face: which one, 0 for the largest.
            box: instead of looking: middle x, middle y, side of the square from brow to chin in pixels, and by how many
                degrees it is turned, like 310, 240, 180, 0.
            mark: a corner says that the picture is AI-generated.

        Returns:
            What the generator draws there, the latent (.npz), and provenance with figures of how near it comes.
        """
        who, row = visitor(request), self.context.registry.find(checkpoint)
        if aligned:
            need_consent(consent)
            if photo is None:
                raise BadInput("There is no photo; give one as a file.")
            picture = plain(read_face_photo(photo, _faces_api.MOST_PIXELS))
        else:
            kept, found = self.faces._faces(photo, consent, box, _faces_api.BEST)
            picture = align(plain(kept), chosen(found, int(face))[0], {"size": side_of(row), **row.preprocess}).picture
        wanted = ProjectRequest(row.id, picture, consent, int(steps), space, preview=0, mark=mark, visitor=who)
        *_, result = project(self.context.engine, wanted)
        self.store.keep_latents(who, Held(result.latents, result.latents))
        with self.store.answer(who).files() as folder:
            about = {**result.picture.provenance, "notes": result.notes}
            yield str(result.picture.save(folder)), self._file(result.latents, folder), about

    @over_http
    @sentences
    def edit_face(
        self,
        latents: Any = None,
        moves: str = "",
        layers: str = "",
        mix: int | None = None,
        mix_layers: str = "",
        mark: bool = True,
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Move a face along directions, or mix it with the face of a seed.

        Args:
            latents: what project_face gave (.npz); empty for what it found in this session.
            moves: directions and how far, like direction-age=1.5, direction-smile=-1; 1 is a clear change.
            layers: only these layers move, like 0-7; empty for all.
            mix: seed of another face, some layers of which are taken over.
            mix_layers: which, like 4-9.
            mark: a corner says that the picture is AI-generated.

        Returns:
            The picture, its latent (.npz), and provenance.
        """
        who = visitor(request)
        saved = self._given(latents, who)
        wanted = EditRequest(
            saved.checkpoint, saved, parse_moves(moves), parse_layers(layers) if layers.strip() else None,
            None if mix is None else int(mix), parse_layers(mix_layers) if mix_layers.strip() else (), mark=mark,
            visitor=who,
        )  # fmt: skip
        *_, result = edit(self.context.engine, wanted)
        self.store.keep_latents(who, Held(result.latents, result.latents))
        with self.store.answer(who).files() as folder:
            (picture, *_) = result.pictures
            yield str(picture.save(folder)), self._file(result.latents, folder), picture.provenance

    @sentences
    def morph_faces(
        self,
        other: Any,
        latents: Any = None,
        pictures: int = 6,
        mark: bool = True,
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Show the way from one face to another, side by side.

        Args:
            other: the latent (.npz) of the face to end with.
            latents: of the face to begin with; empty for what project_face found in this session.
            pictures: of the way, 2 to 32.
            mark: a corner says that the picture is AI-generated.

        Returns:
            The strip as PNG.
        """
        who = visitor(request)
        if other is None:
            raise BadInput("There is no other face; give its latents (.npz).")
        try:
            a, b = self._given(latents, who), self._given(other, who)
        finally:
            delete(Path(other))  # also where the first was no good
        *_, result = morph(self.context.engine, MorphRequest(a.checkpoint, a, b, int(pictures), mark=mark, visitor=who))
        with self.store.answer(who).files() as folder:
            yield str(result.strip.save(folder))

    def _given(self, file: str | None, who: str) -> Latents:
        """Latents of a file, which is deleted as a photo is, or of the session."""
        if file is None:
            return self.store.latents_of(who).now
        try:
            saved = load_latents(Path(file), "The file")
        finally:
            delete(Path(file))
        if not saved.checkpoint:
            raise BadInput("The file does not say which generator its latents are of; give one that project_face made.")
        return saved

    def _file(self, latents: Latents, folder: Path) -> str:
        file = folder / f"{latents.checkpoint}_face.npz"
        save_latents(file, latents)
        return str(file)
