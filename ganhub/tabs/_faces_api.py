"""The Faces tab for programs: named endpoints over HTTP, and MCP tools that agents can see with.

All that take a photo take `consent` too, and do nothing without it. A photo is read and its file deleted before
anything is made of it; what was made lies in a private folder for ten minutes, or until `delete_photos`. MCP hands
pictures over only where an endpoint has one single output, so `align_face` and `age_face` have twins for agents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ganhub.data.landmarks import NETWORKS, Located
from ganhub.errors import BadInput
from ganhub.imaging import Photo, save_image
from ganhub.pipelines.faces import (
    AgeRequest,
    age,
    align,
    chosen,
    find_faces,
    marked,
    need_consent,
    plain,
    read_face_photo,
)
from ganhub.pipelines.faces_ages import AgesRequest, ages
from ganhub.tabs import Context
from ganhub.tabs._api import described, over_http, sheet_of
from ganhub.tabs._faces_layout import years_of
from ganhub.tabs._faces_store import Store, delete, photo_in
from ganhub.tabs._widgets import sentences, visitor

MOST_PIXELS = 24_000_000
"""Pixels of a photo in the page and from programs."""
BEST = "best"
"""The most exact way to find faces that is ready."""
ALL = -1


def publish(context: Context, store: Store, first: str) -> None:
    """Add list_agers, align_face, age_face, age_strip, age_video, delete_photos and the twins to the current page.

    Args:
        store: of the tab.
        first: checkpoint that answers where none is named.
    """
    api = Api(context, store)

    def number(value: float | None, low: float, high: float, **more: Any) -> gr.Number:
        return gr.Number(value, minimum=low, maximum=high, visible=False, **more)

    controls: dict[str, Any] = {
        "photo": photo_in(context.demo, delete, visible=False, label="photo"),
        "consent": gr.Checkbox(False, visible=False),
        "checkpoint": gr.Textbox(first, visible=False),
        "direction": gr.Dropdown(["older", "younger"], value="older", visible=False),
        "target": number(None, 0, 120),
        "source": number(None, 0, 120),
        "ages": gr.Textbox("", visible=False),
        "strength": number(1, 0, 1),
        "face": number(0, ALL, 100, precision=0),
        "box": gr.Textbox("", visible=False),
        "how": gr.Dropdown([BEST, *NETWORKS], value=BEST, visible=False),
        "mark": gr.Checkbox(True, visible=False),
        "size": number(256, 16, 1024, precision=0),
        "frames": number(90, 2, 300, precision=0),
    }
    picture = gr.Image(visible=False, type="filepath", format="png", label="picture")
    file = gr.File(visible=False, label="video")
    about = gr.JSON(visible=False, label="provenance")
    where, changed = ["face", "box", "how"], ["strength", "mark"]
    one = ["photo", "consent", "checkpoint", "direction", "target", "source", *where, *changed]
    many = ["photo", "consent", "checkpoint", "ages", "source", *where, *changed]
    crop = ["photo", "consent", *where, "size"]
    for function, name, names, outputs in (
        (api.align_face, "align_face", crop, [picture, about]),
        (sheet_of(api.align_face, "align_face_picture"), "align_face_picture", crop, picture),
        (api.age_face, "age_face", one, [picture, about]),
        (sheet_of(api.age_face, "age_face_picture"), "age_face_picture", one, picture),
        (api.age_strip, "age_strip", many, picture),
        (api.age_video, "age_video", [*many, "frames"], [file, about]),
    ):
        given = [controls[n] for n in names]
        gr.Button(visible=False).click(function, given, outputs, api_name=name, show_progress="hidden")
    gr.Button(visible=False).click(api.delete_photos, None, gr.JSON(visible=False), api_name="delete_photos")
    gr.api(api.list_agers, api_name="list_agers")


class Api:
    """What the endpoints do. The docstrings are what an agent reads; the names of the methods are the tools'."""

    def __init__(self, context: Context, store: Store):
        self.context, self.store = context, store

    @sentences
    def list_agers(self) -> list[dict[str, Any]]:
        """List the networks that make faces older or younger, with what their licences allow.

        Returns:
            One entry per checkpoint: id, title, description, ages in years that it knows (lowest and highest; null
            where it goes a fixed way), licence, whether its file is on disk already and otherwise how many bytes have
            to be fetched first.
        """
        return [{**described(row), "ages": years_of(row)} for row in self.context.registry.for_task("age")]

    @over_http
    @sentences
    def align_face(
        self,
        photo: Any,
        consent: bool,
        face: int = 0,
        box: str = "",
        how: str = BEST,
        size: int = 256,
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Find the faces of a photo and cut one out, upright, as the pictures of FFHQ are cut.

        Args:
            photo: picture of at most 24 megapixels: JPEG, PNG, WebP, TIFF, GIF, BMP or AVIF. It is not kept.
            consent: true where the person in the photo is an adult and agrees; nothing is done without it.
            face: which one, 0 for the largest.
            box: instead of looking: middle x, middle y, side of the square from brow to chin in pixels, and by how many
                degrees it is turned, like 310, 240, 180, 0.
            how: best, landmarks (68 points), points (eyes and mouth) or eyes.
            size: side of the result in pixels.

        Returns:
            The face, and the corners of the square of every face that was found, in pixels of the photo.
        """
        picture, found = self._faces(photo, consent, box, how)
        cut = align(plain(picture), chosen(found, int(face))[0], {"size": int(size)}).picture
        squares = [{"corners": other.square.corners.round(2).tolist()} for other in found]
        with self.store.answer(visitor(request)).files() as folder:
            yield str(save_image(cut, folder / "face.png")), {"faces": squares, "notes": list(picture.notes)}

    @over_http
    @sentences
    def age_face(
        self,
        photo: Any,
        consent: bool,
        checkpoint: str,
        direction: str = "older",
        target: float | None = None,
        source: float | None = None,
        face: int = 0,
        box: str = "",
        how: str = BEST,
        strength: float = 1.0,
        mark: bool = True,
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Make a face in a photo older or younger, and put it back, so that only the face changes.

        Args:
            photo: picture of at most 24 megapixels: JPEG, PNG, WebP, TIFF, GIF, BMP or AVIF. It is not kept.
            consent: true where the person in the photo is an adult and agrees; nothing is done without it.
            checkpoint: id of a network that changes ages; list_agers names them.
            direction: older or younger.
            target: age in years to become, for networks that know ages; empty to follow the direction.
            source: age of the face in years, where it is known; kept nowhere.
            face: which one, 0 for the largest, -1 for all.
            box: instead of looking: middle x, middle y, side of the square from brow to chin in pixels, and by how many
                degrees it is turned, like 310, 240, 180, 0.
            how: best, landmarks (68 points), points (eyes and mouth) or eyes.
            strength: 0 for the photo as it is, 1 for all that the network changes.
            mark: a corner says that the picture is AI-generated.

        Returns:
            The photo with the changed face as PNG, and its provenance with notes.
        """
        picture, found = self._faces(photo, consent, box, how)
        settings: dict[str, Any] = {"direction": direction, "target": target, "source": source, "strength": strength}
        wanted = AgeRequest(
            self.context.registry.find(checkpoint).id, picture, consent, face=_which(face), faces=found,
            mark=mark, visitor=visitor(request), **settings,
        )  # fmt: skip
        *_, result = age(self.context.engine, wanted)
        with self.store.answer(visitor(request)).files() as folder:
            yield str(result.picture.save(folder)), {**result.picture.provenance, "notes": result.notes}

    @sentences
    def age_strip(
        self,
        photo: Any,
        consent: bool,
        checkpoint: str,
        ages: str = "",
        source: float | None = None,
        face: int = 0,
        box: str = "",
        how: str = BEST,
        strength: float = 1.0,
        mark: bool = True,
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Show a face at several ages, side by side.

        Args:
            photo: picture of at most 24 megapixels: JPEG, PNG, WebP, TIFF, GIF, BMP or AVIF. It is not kept.
            consent: true where the person in the photo is an adult and agrees; nothing is done without it.
            checkpoint: id of a network that changes ages; list_agers names them.
            ages: years like 20, 40, 60, for networks that know ages; empty for 20 to 80, or for strengths.
            source: age of the face in years, where it is known; kept nowhere.
            face: which one, 0 for the largest, -1 for all.
            box: instead of looking: middle x, middle y, side of the square from brow to chin in pixels, and by how many
                degrees it is turned, like 310, 240, 180, 0.
            how: best, landmarks (68 points), points (eyes and mouth) or eyes.
            strength: 0 for the photo as it is, 1 for all that the network changes.
            mark: a corner says that the picture is AI-generated.

        Returns:
            The strip as PNG.
        """
        wanted = self._through(locals(), request)
        *_, result = _ages(self.context.engine, wanted)
        with self.store.answer(visitor(request)).files() as folder:
            yield str(result.strip.save(folder))

    @over_http
    @sentences
    def age_video(
        self,
        photo: Any,
        consent: bool,
        checkpoint: str,
        ages: str = "",
        source: float | None = None,
        face: int = 0,
        box: str = "",
        how: str = BEST,
        strength: float = 1.0,
        mark: bool = True,
        frames: int = 90,
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Make a video of a face that goes through the ages.

        Args:
            photo: picture of at most 24 megapixels: JPEG, PNG, WebP, TIFF, GIF, BMP or AVIF. It is not kept.
            consent: true where the person in the photo is an adult and agrees; nothing is done without it.
            checkpoint: id of a network that changes ages; list_agers names them.
            ages: years like 20, 40, 60, for networks that know ages; empty for 20 to 80, or for strengths.
            source: age of the face in years, where it is known; kept nowhere.
            face: which one, 0 for the largest, -1 for all.
            box: instead of looking: middle x, middle y, side of the square from brow to chin in pixels, and by how many
                degrees it is turned, like 310, 240, 180, 0.
            how: best, landmarks (68 points), points (eyes and mouth) or eyes.
            strength: 0 for the photo as it is, 1 for all that the network changes.
            mark: a corner says that the picture is AI-generated.
            frames: of the video, 2 to 300; 30 a second.

        Returns:
            The video (H.264 MP4) and its provenance with notes.
        """
        wanted = self._through(locals(), request)
        with self.store.answer(visitor(request)).files() as folder:
            wanted = AgesRequest(**{**vars(wanted), "file": folder / "ages.mp4", "frames": int(frames)})
            *_, result = _ages(self.context.engine, wanted)
            yield str(result.video), {**result.strip.provenance, "notes": result.notes}

    @sentences
    def delete_photos(self, request: gr.Request | None = None) -> dict[str, bool]:
        """Delete at once every picture that was made of your photos in this session; photos themselves are not kept.

        Returns:
            Whether there was something to delete.
        """
        return {"deleted": self.store.forget(visitor(request))}

    def _through(self, values: dict[str, Any], request: gr.Request | None) -> AgesRequest:
        picture, found = self._faces(values["photo"], values["consent"], values["box"], values["how"])
        return AgesRequest(
            self.context.registry.find(values["checkpoint"]).id, picture, values["consent"], source=values["source"],
            face=_which(values["face"]), faces=found, strength=values["strength"], mark=values["mark"],
            ages=_numbers(values["ages"], "ages", "20, 40, 60"), visitor=visitor(request),
        )  # fmt: skip

    def _faces(self, photo: bytes | None, consent: bool, box: str, how: str) -> tuple[Photo, list[Located]]:
        """The photo and its faces."""
        need_consent(consent)
        if photo is None:
            raise BadInput("There is no photo; give one as a file.")
        picture = read_face_photo(photo, MOST_PIXELS)
        numbers = _numbers(box, "box", "310, 240, 180, 0")
        if numbers:
            if len(numbers) not in (3, 4):
                raise BadInput(f"A box is middle x, middle y, side and turn, like 310, 240, 180, 0, not '{box[:40]}'.")
            return picture, [marked(*numbers)]
        return picture, find_faces(plain(picture), None if how == BEST else how)


_ages = ages
"""The pipeline, where an argument has its name."""


def _which(face: int) -> int | None:
    return None if int(face) == ALL else int(face)


def _numbers(text: str, what: str, like: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in str(text or "").split(",") if word.strip())
    except ValueError:
        raise BadInput(f"The {what} cannot be read at '{str(text)[:40]}'; write it like {like}.") from None
