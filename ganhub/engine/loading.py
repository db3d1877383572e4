"""A registry row -> a network that is ready to answer, prepared beside the running work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ganhub import checkpoint, models
from ganhub.engine import device as devices
from ganhub.engine.cache import Cache, Key, Loaded
from ganhub.errors import CheckpointError, EngineError, GanHubError
from ganhub.registry import Checkpoint, Registry

log = logging.getLogger(__name__)


def read_network(row: Checkpoint, path: Path) -> nn.Module:
    """The network in a row's file: float32, on the CPU, in eval mode.

    Raises:
        GanHubError: the file cannot be read, or is not what its row says.
    """
    return models.read(checkpoint.read(path, sha256=row.sha256), row.family, **row.config)


def blended(
    parts: list[tuple[Checkpoint, Path]], share: float, read: Callable[[Checkpoint, Path], nn.Module] = read_network
) -> nn.Module:
    """The network of one file, or `share` of the second one's weights in those of the first.

    Raises:
        GanHubError: a file cannot be read, or the two have different layers.
    """
    networks = [read(row, path) for row, path in parts]
    return networks[0] if len(networks) == 1 else models.blend(networks[0], networks[1], share)


def check_resolution(row: Checkpoint, network: Any) -> None:
    """The network draws what its row promises.

    Raises:
        CheckpointError: it draws another size.
    """
    size = getattr(network, "img_size", None)
    if row.resolution is None or size is None:
        return
    said = (row.resolution, row.resolution) if isinstance(row.resolution, int) else tuple(row.resolution)
    if tuple(size) != said:
        raise CheckpointError(
            f"The row '{row.id}' says {said[0]}x{said[1]} pixels (height x width), but its file draws "
            f"{size[0]}x{size[1]}; correct `resolution:` in the row."
        )


def facts_of(row: Checkpoint, network: Any, precision: str) -> dict[str, Any]:
    """What a caller may know of a loaded network, as plain data."""
    size = getattr(network, "img_size", None)
    return {
        "checkpoint": row.id,
        "family": row.family,
        "precision": precision,
        "z_dim": getattr(network, "z_dim", 0),
        "c_dim": getattr(network, "c_dim", 0),
        "w_dim": getattr(network, "w_dim", 0),
        "num_ws": getattr(network, "num_ws", 0),
        "s_dim": getattr(getattr(network, "synthesis", None), "s_dim", 0),
        "img_size": None if size is None else (int(size[0]), int(size[1])),
        "img_channels": getattr(network, "img_channels", 0),
        "z_distribution": getattr(network, "z_distribution", "normal"),
        "scale": getattr(network, "scale", 0),
        "reach": getattr(network, "reach", 0),
        "multiple": getattr(network, "multiple", 1),
        "text_dim": getattr(network, "text_dim", 0),
        "reads": hasattr(network, "encode_text"),
        "looks": hasattr(network, "encode_image"),
        "paints": hasattr(network, "stages"),
        "directions": list(getattr(network, "directions", ())),
        "ages": getattr(network, "ages", None),
        "widths": list(network.widths) if hasattr(network, "activations") else [],
        "parameters": sum(p.numel() for p in network.parameters()),
    }


class _Unwanted(Exception):
    """Nobody waits for the network any more."""


class Loader:
    """Loads networks in threads of its own, each once, however many ask for it.

    Downloads run side by side; files are read and given room one at a time, so that no more than one network is
    in memory beyond the budget. What is loaded lies in `ready` until the worker has warmed it up and published it.

    Args:
        registry: rows by id.
        device: where networks go.
        cache: whose budget they count against.
        lock: the engine's lock.
        fetch: row -> local file; `hub.fetch`.
        read: row and file -> network on the CPU; `read_network`.
        wanted: whether anybody still waits for a key.
        failed: called, without the lock, with the key and the error of a load that failed.
    """

    def __init__(
        self,
        registry: Registry,
        device: torch.device,
        cache: Cache,
        lock: threading.Condition,
        fetch: Callable[..., Path],
        read: Callable[[Checkpoint, Path], nn.Module],
        wanted: Callable[[Key], bool],
        failed: Callable[[Key, GanHubError], None],
    ):
        self.registry, self.device, self.cache, self.lock = registry, device, cache, lock
        self.fetch, self.read, self.wanted, self.failed = fetch, read, wanted, failed
        self.ready: list[Loaded] = []
        self.under_way: dict[Key, dict[str, Any]] = {}
        """What is being loaded, and how far it is."""
        self.closed = False
        self._files: dict[Key, list[tuple[Checkpoint, Path]]] = {}
        self._gate = threading.Lock()

    def want(self, key: Key) -> None:
        """Begins a load, unless the network is there or on its way. The caller holds the lock."""
        if self.closed or key in self.under_way or self.cache.get(key) is not None:
            return
        state = {"checkpoint": key.checkpoint, "precision": key.precision, "stage": "fetch"}
        self.under_way[key] = state
        threading.Thread(target=self._load, args=(key, state), name=f"load {key.checkpoint}", daemon=True).start()

    def files_of(self, key: Key) -> list[tuple[Checkpoint, Path]]:
        """The row of a key and the local file that it was loaded from; those of its blend too."""
        return self._files[key]

    def finish(self, key: Key, error: GanHubError | None = None) -> None:
        """The worker has published a network, or could not: the next load may begin."""
        if error is not None:  # while the key counts as under way, nobody begins the same load again
            self.failed(key, error)
        with self.lock:
            self.under_way.pop(key, None)
            self.cache.give_up(key)
            self.lock.notify_all()

    def _load(self, key: Key, state: dict[str, Any]) -> None:
        try:
            names = [key.checkpoint, *(key.blend[:1] if key.blend else ())]
            rows = [self.registry.find(name) for name in names]
            row = rows[0]
            files = [(each, self.fetch(each, progress=lambda event: self._tell(state, event))) for each in rows]
            self._files[key] = files
            with self._gate:
                self._tell(state, stage="read")
                network = blended(files, key.blend[1] if key.blend else 0.0, self.read)
                check_resolution(row, network)
                self.make_room(key, models.parameter_bytes(network))
                entry = self._prepare(row, key, network)
                self.make_room(key, entry.weights)
                with self.lock:
                    self.ready.append(entry)
                    self.lock.notify_all()
                    # Not `key in`: once published it may be unloaded, and on its way again, before we look.
                    while self.under_way.get(key) is state and not self.closed:
                        self.lock.wait()
        except _Unwanted:
            self.finish(key, None)
        except GanHubError as error:
            self.finish(key, error)
        except Exception as error:
            log.exception("Loading %s failed.", key.checkpoint)
            text = f"The checkpoint '{key.checkpoint}' could not be loaded ({type(error).__name__}: {error})."
            self.finish(key, CheckpointError(text))

    def _prepare(self, row: Checkpoint, key: Key, network: nn.Module) -> Loaded:
        facts = facts_of(row, network, key.precision)
        for last_try in (False, True):
            try:
                prepared = models.prepare(row.family, network.to(self.device), key.precision)
                prepared = prepared.to(self.device).eval().requires_grad_(False)
                break
            except Exception as error:
                if not devices.is_out_of_memory(error):
                    raise
            with self.lock:
                evicted = self.cache.evict_all_unused()
            devices.release(self.device)
            if last_try or not evicted:
                raise too_large(key.checkpoint)
        weights = models.parameter_bytes(prepared)
        return Loaded(key, prepared, {**facts, "bytes": weights}, weights)

    def make_room(self, key: Key, size: int) -> None:
        """Waits until `size` bytes are set aside.

        Raises:
            EngineError: `out_of_memory`, they never can be.
            _Unwanted: nobody waits any more.
        """
        if size > self.cache.budget:
            raise too_large(key.checkpoint, size, self.cache.budget)
        with self.lock:
            while not self.cache.set_aside(key, size):
                if self.closed or not self.wanted(key):
                    raise _Unwanted
                self.lock.wait(1.0)

    def _tell(self, state: dict[str, Any], event: Any = None, stage: str = "fetch") -> None:
        with self.lock:
            state["stage"] = stage
            for name in ("done", "total", "speed", "seconds_left"):
                if hasattr(event, name):
                    state[name] = getattr(event, name)


def too_large(checkpoint_id: str, size: int = 0, budget: int = 0) -> EngineError:
    """The sentence for a network that the device has no room for."""
    need = f" needs {size / 1e9:.2f} GB, more than the {budget / 1e9:.2f} GB that the engine may use;" if size else ""
    need = need or " does not fit the device's memory, even alone;"
    return EngineError(
        f"The checkpoint '{checkpoint_id}'{need} choose a smaller one or the fast precision.", "out_of_memory"
    )
