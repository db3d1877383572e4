"""Two piles of photos, projected all together: their latents and labels, without those where it did not work."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing
from typing import Any

import numpy as np
from PIL import Image

from ganhub.errors import BadInput, EngineError
from ganhub.pipelines._sampling import Events, Source
from ganhub.pipelines._work import PATIENCE
from ganhub.pipelines.faces import align, chosen, find_faces, need_consent, plain, read_face_photo
from ganhub.pipelines.labels import Piles
from ganhub.pipelines.project import ProjectRequest, ProjectResult, project
from ganhub.pipelines.requests import Progress

MOST_PHOTOS = 200
"""Of both piles."""
TOGETHER = 8
"""Photos that are under way at once: so many share a step of the engine."""
PIXELS = 32_000_000


def projected(source: Source, given: Piles, space: str, notes: list[str]) -> Events[tuple[np.ndarray, np.ndarray]]:
    """Latents [N, w_dim] or [N, num_ws, w_dim] and labels [N]; what was left out is told in `notes`.

    Raises:
        BadInput: `consent`, too many photos, or the space z.
    """
    need_consent(given.consent)
    count = len(given.photos) + len(given.others)
    if count > MOST_PHOTOS:
        raise BadInput(f"There are {count} photos; at most {MOST_PHOTOS} at a time.")
    if space == "z":
        raise BadInput("Photos are projected into w or w+; choose one of these.")
    targets: list[Image.Image] = []
    labels: list[bool] = []
    for pile, label in ((given.photos, True), (given.others, False)):
        for number, (_, file) in enumerate(pile, 1):
            yield Progress(len(labels), count, f"Looking at photo {len(targets) + 1} of {count}")
            try:  # a photo is told by its place: its name may say who it is
                targets.append(_aligned(source, file))
                labels.append(label)
            except BadInput as error:
                notes.append(f"Left out, photo {number} {'with' if label else 'without'}: {error.message}")
    found: dict[int, np.ndarray] = {}
    stop = threading.Event()

    def work(place: int) -> np.ndarray | None:
        request = ProjectRequest(
            source.row.id, targets[place], consent=True, steps=given.steps, space=space, label=source.label,
            seed=place, preview=0, mark=False, precision=source.precision, visitor=source.visitor,
        )  # fmt: skip
        with closing(project(source.engine, request)) as events:
            for event in events:
                if stop.is_set():
                    return None
                if isinstance(event, ProjectResult):
                    return event.latents.values[0]
        return None

    # A projection waits for its own steps, so each has a thread; in the engine they share every step.
    with ThreadPoolExecutor(TOGETHER, "project") as pool:
        # The first one alone: it draws the samples that all others start from.
        under_way, rest = {pool.submit(work, 0): 0} if targets else {}, range(1, len(targets))
        try:
            while under_way:
                for done in wait(under_way, PATIENCE, FIRST_COMPLETED).done:
                    place = under_way.pop(done)
                    try:
                        latent = done.result()
                        if latent is not None:
                            found[place] = latent
                    except EngineError as error:
                        if error.code in ("queue_full", "visitor_limit"):  # our own are before it
                            under_way[pool.submit(work, place)] = place
                        else:
                            notes.append(f"Left out, photo {place + 1} of all: {error.message}")
                if 0 not in under_way.values():
                    under_way |= {pool.submit(work, place): place for place in rest}
                    rest = range(0)
                yield Progress(len(found), len(targets), f"{len(found)} of {len(targets)} photos projected")
        finally:
            stop.set()
    order = sorted(found)
    if not order:
        raise BadInput("None of the photos could be projected; use photos in which the face is seen from the front.")
    values = np.stack([found[place] for place in order])
    return values[:, 0] if space == "w" else values, np.array([labels[place] for place in order])


def _aligned(source: Source, file: Any) -> Image.Image:
    """A photo as the generator's own pictures are: its face, where the row says how; else as it is."""
    photo = plain(read_face_photo(file, PIXELS))
    if "align" not in source.row.preprocess:
        return photo
    (face,) = chosen(find_faces(photo))
    return align(photo, face, {"size": source.facts["img_size"][0], **source.row.preprocess}).picture
