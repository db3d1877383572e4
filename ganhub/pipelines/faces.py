"""Faces of a photo: found, aligned, made older or younger, and put back so that only they change.

Nothing here keeps a photo, and nothing of it but its pixels comes out: neither its name, nor what its camera noted.
Nobody is aged without consent: a request without it cannot be made.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ganhub.data.landmarks import NETWORKS, Located, locate, missing
from ganhub.engine import Job
from ganhub.errors import BadInput
from ganhub.imaging import Photo, encode_image, png_text, read_photo
from ganhub.imaging.align import Aligned, cut, face_mask, paste, square_for, square_of_face
from ganhub.imaging.mark import mark
from ganhub.imaging.provenance import write_whole
from ganhub.pipelines._work import answers_of, load, loading, provenance
from ganhub.pipelines.requests import PRECISIONS, Progress, choice, number
from ganhub.registry import Checkpoint

if TYPE_CHECKING:
    from ganhub.engine import Engine

SMALLEST = 64
"""Side of the smallest square of FFHQ that is worked on, in pixels of the photo: eyes 16 pixels apart."""
ALIGNED = 256
"""Side of an aligned face where nobody says another."""
UNKNOWN = 35
"""Years that a face is taken to have where nobody tells."""
STEP = 30
"""Years from the age of a face to `older` or `younger` where a network has a real age."""
DIRECTIONS = ("older", "younger")


def need_consent(consent: bool) -> None:
    """Raises:
    BadInput: `consent`, the person in the photo is not said to agree.
    """
    if consent is not True:
        raise BadInput(
            "Photos of people need consent: confirm that you are the adult in the photo, or have that person's "
            "permission (consent=true, or --consent in a terminal).",
            "consent",
        )


def read_face_photo(file: Any, max_pixels: int = 100_000_000) -> Photo:
    """A photo without its name and without what its camera noted.

    Args:
        file: path, bytes or stream.

    Raises:
        BadInput: as `ganhub.imaging.read_photo`.
    """
    return read_photo(file, "photo", max_pixels=max_pixels)


def plain(photo: Photo) -> Image.Image:
    """RGB of 8 bits, what is transparent on white."""
    pixels, alpha = photo.pixels, photo.alpha
    if photo.depth == 16:
        pixels, alpha = (pixels >> 8).astype(np.uint8), None if alpha is None else (alpha >> 8).astype(np.uint8)
    image = Image.fromarray(np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels)
    if alpha is not None:
        image.paste("white", mask=Image.fromarray(255 - alpha))
    return image


# Finding and aligning


def best_way() -> str:
    """The most exact way to find faces that is ready on this machine."""
    return next(way for way in NETWORKS if missing(way) is None or way == "eyes")


def find_faces(photo: Image.Image, how: str | None = None) -> list[Located]:
    """The faces of a photo, the largest first.

    Args:
        photo: RGB, the right way up.
        how: `landmarks`, `points` or `eyes` (`ganhub.data.landmarks`); the best that is ready by default.

    Raises:
        BadInput: there is no such way, or what it needs is not installed.
        FetchError: a network of that way cannot be fetched.
    """
    choice("way to find faces", how, (*NETWORKS, None))
    return locate(np.asarray(photo), how or best_way())


def marked(x: float, y: float, side: float, degrees: float = 0.0) -> Located:
    """A face that somebody marked by a square from brow to chin: its middle, side and turn (clockwise), in pixels.

    Raises:
        BadInput: a side that is none.
    """
    return Located(square_of_face(x, y, side, degrees))


def chosen(faces: Sequence[Located], which: int | None = 0) -> list[Located]:
    """One face by its place from the largest, or all that are large enough where `which` is None.

    Raises:
        BadInput: `no_face`, `too_small`, or there are fewer.
    """
    if not faces:
        raise BadInput(
            "There is no face that is found here; use a photo from the front, or mark the face by hand.", "no_face"
        )
    if which is not None:
        if not 0 <= which < len(faces):
            raise BadInput(f"There are {len(faces)} faces; choose one from 0 (the largest) to {len(faces) - 1}.")
        faces = [faces[which]]
    large = [face for face in faces if face.square.side >= SMALLEST]
    if not large:
        raise BadInput(
            f"The face is too small: eyes {faces[0].square.side / 4:.0f} pixels apart, where {SMALLEST // 4} are "
            "needed; use a photo from nearer by.",
            "too_small",
        )
    return large


def align(photo: Image.Image, face: Located, preprocess: dict[str, Any] | None = None) -> Aligned:
    """A face as a network wants it; as FFHQ has it by default, 256 pixels a side.

    Args:
        preprocess: of the network's row; see `ganhub.imaging.align.square_for`.

    Raises:
        BadInput: the template means nothing, or the face lies outside of the photo.
    """
    return cut(photo, *square_for(preprocess or {"size": ALIGNED}, face.square, face.eyes))


# Ageing


@dataclass(frozen=True)
class AgeRequest:
    """A photo in which faces become older or younger.

    Raises:
        BadInput: when made without consent, or with what no network can answer.
    """

    checkpoint: str
    photo: Photo
    consent: bool = False
    """The person in the photo is an adult and agrees."""
    target: float | None = None
    """Age in years, for networks with a real age; others go a fixed way."""
    direction: str = "older"
    """`older` or `younger`, where there is no `target`."""
    source: float | None = None
    """Age of the face in years, where somebody told it."""
    face: int | None = 0
    """Which, from the largest; None for all."""
    faces: Sequence[Located] = ()
    """Where they are, found before or marked by hand; they are sought where this is empty."""
    how: str | None = None
    """How they are found; see `find_faces`."""
    strength: float = 1.0
    """0 the photo as it is, 1 what the network makes of it."""
    mark: bool = True
    """A word in the corner says that the picture is generated."""
    precision: str | None = None
    visitor: str = ""

    task = "age"

    def __post_init__(self):
        need_consent(self.consent)
        for name, age in (("target age", self.target), ("age of the face", self.source)):
            if age is not None:
                number(name, age, 0, 120)
        choice("direction", self.direction, DIRECTIONS)
        number("strength", self.strength, 0, 1)
        choice("precision", self.precision, (*PRECISIONS, None))


@dataclass(frozen=True)
class FacePicture:
    """A picture of somebody, changed: `image` is RGB with provenance in `info`."""

    image: Image.Image
    provenance: dict[str, Any]
    name: str
    """Stem of its file name; says nothing of the photo's."""
    profile: bytes | None = None
    """The ICC profile that the photo's colours are of."""

    def save(self, folder: str | Path, format: str = "png") -> Path:
        """Write `NAME.FORMAT` with the provenance inside; the folder is made.

        Raises:
            BadInput: the format is none of png, jpg, webp, or the folder cannot be written.
        """
        data = encode_image(self.image, format, self.provenance, self.profile)
        return write_whole(Path(folder) / f"{self.name}.{format}", data)


@dataclass(frozen=True)
class AgeResult:
    """A photo whose faces are older or younger."""

    request: AgeRequest
    picture: FacePicture
    """The whole photo; nothing but the faces and the mark has changed."""
    before: list[Image.Image]
    """Each face as the network saw it."""
    after: list[Image.Image]
    """What the network made of it, at full strength."""
    faces: list[Located]
    notes: list[str] = field(default_factory=list)
    """Sentences for the visitor."""


def age(engine: Engine, request: AgeRequest) -> Generator[Any, None, None]:
    """Progress, then an `AgeResult`.

    Raises:
        GanHubError: the checkpoint cannot be had, it cannot do this, or there is no such face (`no_face`,
            `too_small`).
    """
    row, sha256, facts = yield from open_ager(engine, request)
    source, target, words, notes = route(row, facts, request)
    picture = plain(request.photo)
    faces = yield from faces_of(request, picture)
    parts = [Part.of(picture, face, row, facts) for face in faces]
    (after,) = yield from changed(engine, row, request, parts, [(source, target)])
    out = picture
    for part, made in zip(parts, after, strict=True):
        out = part.put(out, (made, request.strength))
    notes += size_notes(parts)
    about = about_of(request, row, sha256, facts, parts, words)
    yield AgeResult(
        request,
        finished(out, request, about, f"{row.id}_{'_'.join(str(v) for v in words.values())}"),
        [part.aligned.picture for part in parts],
        after,
        faces,
        [*request.photo.notes, *notes],
    )


@dataclass(frozen=True)
class Part:
    """A face on its way through a network."""

    face: Located
    aligned: Aligned
    mask: np.ndarray

    @classmethod
    def of(cls, picture: Image.Image, face: Located, row: Checkpoint, facts: dict[str, Any]) -> Part:
        aligned = align(picture, face, {"size": facts["img_size"][0], **row.preprocess})
        return cls(face, aligned, face_mask(aligned, face.square))

    def put(self, picture: Image.Image, *made: tuple[Image.Image, float]) -> Image.Image:
        """A picture with this face as networks made it, each with its share; only inside of the mask anything moves."""
        before = np.asarray(self.aligned.picture, np.float32)
        change = sum((np.asarray(face, np.float32) - before) * np.float32(share) for face, share in made)
        face = Image.fromarray(np.rint(before + change).clip(0, 255).astype(np.uint8))
        return paste(picture, face, self.aligned, self.mask)


def open_ager(engine: Engine, request: AgeRequest) -> Generator[Progress, None, Any]:
    """The row, its sha256 and the facts of a network that changes ages.

    Raises:
        GanHubError: it cannot be had, or does something else.
    """
    row = engine.registry.find(request.checkpoint)
    if "age" not in row.task:
        raise BadInput(f"'{row.id}' does not change ages; `ganhub list --task age` shows what does.")
    found = yield from load(engine, row.id, request.precision, request.visitor)
    if not found[2]["directions"]:
        raise BadInput(f"The file of '{row.id}' is no network that changes ages; correct its row.")
    return found


def route(
    row: Checkpoint, facts: dict[str, Any], request: AgeRequest
) -> tuple[float, float, dict[str, Any], list[str]]:
    """From which age to which a network goes, that in the words of the provenance, and sentences for the visitor.

    Raises:
        BadInput: the network does not go there.
    """
    notes: list[str] = []
    if facts["ages"] is None:
        way = request.direction
        if request.target is not None and request.source is not None:
            way = "younger" if request.target < request.source else "older"
        elif request.target is not None:
            raise BadInput(f"'{row.id}' goes a fixed way, not to an age; choose a direction instead.")
        if way not in facts["directions"]:
            raise BadInput(f"'{row.id}' only makes faces {facts['directions'][0]}; choose another for {way} ones.")
        if request.target is not None:
            notes.append(f"This network makes faces {way} by a fixed step; it knows no ages.")
        source, target = (60.0, 30.0) if way == "younger" else (30.0, 60.0)
        return source, target, {"direction": way}, notes
    low, high = facts["ages"]
    if request.source is None:
        notes.append(f"Nobody told how old the face is; {UNKNOWN} years were taken.")
    source = float(min(max(UNKNOWN if request.source is None else request.source, low), high))
    step = STEP if request.direction == "older" else -STEP
    target = source + step if request.target is None else float(request.target)
    if request.target is None:
        target = min(max(target, low), high)
    elif not low <= target <= high:
        raise BadInput(f"'{row.id}' knows ages from {low:g} to {high:g}, not {target:g}.")
    return source, target, {"target": target}, notes


def faces_of(request: AgeRequest, picture: Image.Image) -> Generator[Progress, None, list[Located]]:
    """The faces that a request is about.

    Raises:
        BadInput: see `chosen` and `find_faces`.
    """
    if request.faces:
        return chosen(request.faces, request.face)
    yield Progress(0, 0, "Looking for faces")
    return chosen(find_faces(picture, request.how), request.face)


def changed(
    engine: Engine, row: Checkpoint, request: AgeRequest, parts: list[Part], ways: Sequence[tuple[float, float]]
) -> Generator[Progress, None, list[list[Image.Image]]]:
    """What the network makes of every face, way by way.

    Args:
        ways: ages that it goes from and to.
    """
    pixels = [np.asarray(part.aligned.picture) for part in parts]
    jobs = [
        Job(row.id, "age", {"pixels": face, "source": a, "target": b}, request.visitor, request.precision)
        for a, b in ways
        for face in pixels
    ]
    made: list[Image.Image] = []
    with closing(answers_of(engine, jobs)) as answers:
        for answer in answers:
            if answer is not None:
                made.append(Image.fromarray(answer))
            yield (
                Progress(len(made), len(jobs), f"{len(made)} of {len(jobs)} faces") if made else loading(engine, row)
            )
    return [made[i : i + len(parts)] for i in range(0, len(made), len(parts))]


def size_notes(parts: Sequence[Part]) -> list[str]:
    """A sentence where the photo shows more of a face than the network does."""
    small = [part.aligned for part in parts if part.aligned.square.side > 2.5 * part.aligned.picture.width]
    if not small:
        return []
    return [
        f"The network sees the face at {small[0].picture.width} pixels, the photo has it at "
        f"{small[0].square.side:.0f}: what changes is softer than the photo."
    ]


def about_of(
    request: AgeRequest,
    row: Checkpoint,
    sha256: str,
    facts: dict[str, Any],
    parts: Sequence[Part],
    words: dict[str, Any],
) -> dict[str, Any]:
    """Provenance of what was made. The age that somebody told of himself is not in it."""
    how = {
        **words,
        "strength": request.strength,
        "faces": len(parts),
        "aligned": [part.aligned.picture.width for part in parts],
        "precision": facts["precision"],
        "mark": request.mark,
    }
    return provenance("age", row, sha256, how)


def finished(image: Image.Image, request: AgeRequest, about: dict[str, Any], name: str) -> FacePicture:
    """A picture that is ready to go out: marked, and with its provenance."""
    image = mark(image) if request.mark else image.copy()
    image.info.clear()
    image.info.update(png_text(about))
    return FacePicture(image, about, name.replace(".0", ""), request.photo.profile)
