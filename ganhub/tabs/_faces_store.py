"""Photos of visitors: pixels in memory, and what was made of them in one private folder; nothing stays.

The folder lies inside Gradio's own for this process, so that what a killed process left goes at the next start; here it
is emptied on a timer, at a click, and soon after a page is closed. A dropped file is read and deleted: Gradio keeps
uploads under the names that visitors gave them, with all that their cameras noted.
"""

from __future__ import annotations

import math
import secrets
import shutil
import threading
import time
from abc import ABCMeta
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ganhub.data.landmarks import Located
from ganhub.errors import BadInput
from ganhub.imaging import Photo

KEEP = 1800
"""Seconds after a visitor's last click until his photo is forgotten."""
LEFT = 120
"""Seconds after he closed the page: a phone closes it while its camera is open."""
ANSWERS = 600
"""Seconds that a picture is there which a program was given."""
SHOWN = 3
"""Seconds that a dropped file lies where Gradio put it: the browser fetches it once to show it."""
MOST_BYTES = 2_000_000_000
"""Of all photos in memory; then the one that was not used for longest goes."""
AGENTS = "*/file.*"
"""What Gradio's MCP server calls the files that agents send, in Gradio's folder; it forgets them there."""
GONE = "There is no photo of yours here: drop one. What was there goes at a click, or half an hour after the last one."


class _WithoutStub(type(gr.Image)):  # type: ignore[misc]
    """Makes a component as Gradio does, without the file that Gradio writes beside the source for editors."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> Any:
        return ABCMeta.__new__(cls, name, bases, attributes)


def photo_in(demo: gr.Blocks, away: Callable[[Path], None], **how: Any) -> gr.Image:
    """An image that reaches a handler as its bytes: not decoded, and not kept.

    Args:
        demo: the page; its own pictures are no photos, and stay.
        away: what deletes the file, once it is read: `delete`, or a store's `soon`.
    """

    class PhotoIn(gr.Image, metaclass=_WithoutStub):
        is_template = True  # an image for the browser

        def preprocess(self, payload: Any) -> Any:
            if payload is None:
                return None
            own = any(payload.path in block.keep_in_cache for block in demo.blocks.values())
            if own or payload.path is None or str(payload.url or "").startswith("data:"):
                raise gr.Error("Give the photo as a file.", print_exception=False)
            path = Path(payload.path)
            try:
                data = path.read_bytes()
            except OSError:
                raise gr.Error(GONE, print_exception=False) from None
            away(path)
            return data

    return PhotoIn(type="filepath", **how)


def delete(file: Path) -> None:
    """Deletes a dropped file and the folder that Gradio made for it; nothing where it is gone already.

    Of what an agent sends Gradio's MCP server writes a file and uploads it to the page from there: it goes as well.
    """
    with suppress(OSError):
        data = file.read_bytes()
        _unlink(file)
        for twin in Path(get_upload_folder()).glob(AGENTS):
            if twin.stat().st_size == len(data) and twin.read_bytes() == data:
                _unlink(twin)


def _unlink(file: Path) -> None:
    with suppress(OSError):
        file.unlink()
        file.parent.rmdir()


@dataclass(eq=False)
class Shelf:
    """A private folder for pictures of somebody, until it is deleted."""

    folder: Path
    until: float = 0.0
    gone: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def files(self) -> Iterator[Path]:
        """A new folder whose name nobody guesses; a deletion waits until it is filled.

        Raises:
            BadInput: everything has been deleted.
        """
        with self.lock:
            if self.gone:
                raise BadInput(GONE, "gone")
            folder = self.folder / secrets.token_urlsafe(12)
            folder.mkdir(parents=True, mode=0o700)
            yield folder

    def delete(self) -> None:
        with self.lock:
            self.gone = True
            shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(eq=False, kw_only=True)
class Kept(Shelf):
    """A visitor's photo while he works on it."""

    photo: Photo
    found: list[Located]
    """Its faces."""
    example: bool = False
    """It came with the app, so that nobody's consent is missing."""
    which: int | None = 0
    """The face that he chose; None for all."""
    by_hand: tuple[float, float, float, float] | None = None
    """Middle, side and turn of a face that he marked, in pixels and degrees."""


class Store:
    """What is known of visitors' photos, by visitor.

    Args:
        keep, left: seconds; see `KEEP` and `LEFT`.
    """

    def __init__(self, keep: float = KEEP, left: float = LEFT):
        self.keep, self.left = keep, left
        self.root = Path(get_upload_folder()) / "faces"
        self._kept: dict[str, Kept] = {}
        self._latents: dict[str, tuple[Any, float]] = {}
        """What was found of visitors in latent spaces, and until when it is there."""
        self._answers: list[tuple[str, Shelf]] = []
        """Pictures that programs were given, of whom."""
        self._dropped: list[tuple[Path, float]] = []
        """Files to be deleted, and when."""
        self._looked = 0.0
        self._lock = threading.Lock()
        self._sweeper: threading.Thread | None = None

    def put(self, who: str, photo: Photo, found: list[Located], example: bool = False) -> Kept:
        """A visitor's photo, in place of the one before."""
        kept = Kept(self._folder(), time.monotonic() + self.keep, photo=photo, found=found, example=example)
        with self._lock:
            away = [self._kept.pop(who)] if who in self._kept else []
            self._kept[who] = kept
            over = sum(other.photo.pixels.nbytes for other in self._kept.values()) - MOST_BYTES
            for name in sorted(self._kept, key=lambda name: self._kept[name].until)[:-1]:
                if over > 0:
                    over -= self._kept[name].photo.pixels.nbytes
                    away.append(self._kept.pop(name))
        for other in away:
            other.delete()
        self._sweep_on()
        return kept

    def answer(self, who: str) -> Shelf:
        """A folder for what a program is given, which it fetches at once."""
        shelf = Shelf(self._folder(), time.monotonic() + ANSWERS)
        with self._lock:
            self._answers.append((who, shelf))
        self._sweep_on()
        return shelf

    def keep_latents(self, who: str, latents: Any) -> None:
        """A visitor in a latent space, which is as good as a photo."""
        with self._lock:
            self._latents[who] = (latents, time.monotonic() + self.keep)
        self._sweep_on()

    def latents_of(self, who: str) -> Any:
        """What `keep_latents` was given, for half an hour more.

        Raises:
            BadInput: there is nothing, or nothing any more.
        """
        with self._lock:
            if who not in self._latents:
                raise BadInput("There is no latent of yours here; project your photo first, or load one.", "gone")
            latents = self._latents[who][0]
            self._latents[who] = (latents, time.monotonic() + self.keep)
            return latents

    def _folder(self) -> Path:
        return self.root / secrets.token_urlsafe(18)

    def get(self, who: str) -> Kept:
        """A visitor's photo, which stays for half an hour more.

        Raises:
            BadInput: there is none, or none any more.
        """
        with self._lock:
            kept = self._kept.get(who)
            if kept is None:
                raise BadInput(GONE, "gone")
            kept.until = time.monotonic() + self.keep
        return kept

    def soon(self, file: Path) -> None:
        """Deletes a dropped file once the browser has shown it."""
        with self._lock:
            self._dropped.append((file, time.monotonic() + SHOWN))
        self._sweep_on()

    def forget(self, who: str) -> bool:
        """Deletes everything of a visitor; tells whether there was something."""
        self._delete_dropped(math.inf)  # whose they are nobody knows, but they are read
        return self._delete(lambda owner, until: owner == who)

    def sweep(self) -> None:
        """Deletes what is over its time."""
        now = time.monotonic()
        self._delete_dropped(now)
        self._delete(lambda owner, until: until <= now)
        if now - self._looked > 60:  # what agents sent in vain, because the queue was full
            self._looked = now
            for file in Path(get_upload_folder()).glob(AGENTS):
                with suppress(OSError):
                    if time.time() - file.stat().st_mtime > self.keep:
                        _unlink(file)

    def _delete(self, chosen: Callable[[str, float], bool]) -> bool:
        with self._lock:
            kept = {who: kept for who, kept in self._kept.items() if chosen(who, kept.until)}
            latents = [who for who, (_, until) in self._latents.items() if chosen(who, until)]
            for who in latents:
                del self._latents[who]
            answers = [pair for pair in self._answers if chosen(pair[0], pair[1].until)]
            self._kept = {who: other for who, other in self._kept.items() if who not in kept}
            self._answers = [pair for pair in self._answers if pair not in answers]
        for shelf in (*kept.values(), *(shelf for _, shelf in answers)):
            shelf.delete()
        return bool(kept or latents or answers)

    def _delete_dropped(self, until: float) -> None:
        with self._lock:
            due = [file for file, when in self._dropped if when <= until]
            self._dropped = [entry for entry in self._dropped if entry[0] not in due]
        for file in due:
            delete(file)

    def leave(self, who: str) -> None:
        """The page was closed: what is there goes soon, if nobody comes back."""
        with self._lock:
            soon = time.monotonic() + self.left
            if who in self._kept:
                self._kept[who].until = min(self._kept[who].until, soon)
            if who in self._latents:
                latents, until = self._latents[who]
                self._latents[who] = (latents, min(until, soon))

    def _sweep_on(self) -> None:
        with self._lock:
            if self._sweeper is None:
                self._sweeper = threading.Thread(target=self._sweeping, name="photos", daemon=True)
                self._sweeper.start()

    def _sweeping(self) -> None:
        while True:
            time.sleep(1)
            self.sweep()
            with self._lock:
                if not (self._kept or self._latents or self._answers or self._dropped):
                    self._sweeper = None
                    return
