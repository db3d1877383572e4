"""Forward work: what a job may ask of a network, one picture each, run together as a batch.

An operation is three functions. A new one is one entry in `OPERATIONS`.

    check(item, facts)            raises BadInput when the item does not fit the network
    group(item)                   items may share a batch where this is equal
    run(G, facts, items, device)  answers, one per item: plain data, or the GanHubError of that item alone
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganhub import imaging, latents
from ganhub.engine import perception
from ganhub.errors import BadInput, EngineError, GanHubError

Item = dict[str, Any]
Facts = dict[str, Any]
Answer = Any
NOISE_MODES = ("const", "random", "none")
AGES = ("source", "target")


@dataclass(frozen=True)
class Operation:
    """One kind of forward work."""

    check: Callable[[Item, Facts], None]
    group: Callable[[Item], Hashable]
    run: Callable[[Any, Facts, list[Item], torch.device], list[Answer]]


def find(name: str) -> Operation:
    """The operation of a name.

    Raises:
        BadInput: there is none.
    """
    if name not in OPERATIONS:
        raise BadInput(f"There is no operation '{name}'; there are {', '.join(OPERATIONS)}.")
    return OPERATIONS[name]


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A tensor on the device; in float32 where the device has no float64."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if tensor.dtype == torch.float64 and device.type == "mps":
        tensor = tensor.float()
    return tensor.to(device)


def check_array(item: Item, key: str, shape: tuple[int, ...]) -> None:
    """An item's array has this shape and holds finite numbers.

    Raises:
        BadInput: it has not; says what is wrong.
    """
    value = item.get(key)
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise BadInput(f"'{key}' must be an array of numbers of shape {list(shape)}.")
    if value.shape != shape:
        raise BadInput(f"'{key}' has shape {list(value.shape)}; this checkpoint takes {list(shape)}.")
    if not np.isfinite(value).all():
        raise BadInput(f"'{key}' holds numbers that are not finite.")


def check_label(item: Item, facts: Facts) -> None:
    """The class of an item exists.

    Raises:
        BadInput: it does not, or one is needed.
    """
    label, classes = item.get("label"), facts["c_dim"]
    if label is None and classes:
        raise BadInput(f"This checkpoint draws {classes} classes; choose a class from 0 to {classes - 1}.")
    if label is None:
        return
    if not classes:
        raise BadInput("This checkpoint has no classes; leave the class empty.")
    if isinstance(label, bool) or not isinstance(label, (int, np.integer)) or not 0 <= label < classes:
        raise BadInput(f"There is no class {label!r}; choose a whole number from 0 to {classes - 1}.")


def one_hot(items: list[Item], classes: int, device: torch.device) -> Tensor | None:
    """Labels -> [N, classes] float32, or None for a network without classes."""
    if not classes:
        return None
    labels = torch.tensor([int(item["label"]) for item in items])
    return torch.nn.functional.one_hot(labels, classes).float().to(device)


def _check_truncation(item: Item, facts: Facts) -> None:
    psi, cutoff = item.get("psi", 1.0), item.get("cutoff")
    if isinstance(psi, bool) or not isinstance(psi, (int, float)) or not np.isfinite(psi):
        raise BadInput(f"psi must be a number, not {psi!r}.")
    if not facts["w_dim"] and (psi != 1 or cutoff is not None):
        raise BadInput("This checkpoint has no mapping network, so there is nothing to truncate; leave psi at 1.")
    if cutoff is not None and (isinstance(cutoff, bool) or not isinstance(cutoff, int) or cutoff < 0):
        raise BadInput(f"cutoff must be a whole number of layers or empty, not {cutoff!r}.")


def _check_z(item: Item, facts: Facts) -> None:
    check_array(item, "z", (facts["z_dim"],))
    check_label(item, facts)
    _check_truncation(item, facts)


def _check_noise(item: Item, facts: Facts) -> None:
    mode = item.get("noise_mode", "const")
    if mode not in NOISE_MODES:
        raise BadInput(f"There is no noise mode '{mode}'; choose {', '.join(NOISE_MODES)}.")
    seed = item.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise BadInput(f"seed must be a whole number from 0 to 2**63 - 1, not {seed!r}.")


def _check_generate(item: Item, facts: Facts) -> None:
    _check_z(item, facts)
    _check_noise(item, facts)


def _check_map(item: Item, facts: Facts) -> None:
    _need_w(facts)
    _check_z(item, facts)


def _check_synthesize(item: Item, facts: Facts) -> None:
    _need_w(facts)
    if "s" in item:
        check_array(item, "s", latents.shape_of("s", facts))
    else:
        check_array(item, "ws", (facts["num_ws"], facts["w_dim"]))
    _check_noise(item, facts)


def _need_w(facts: Facts) -> None:
    if not facts["w_dim"]:
        raise BadInput("This checkpoint has no mapping network: it turns z into a picture directly.")


def _noise_mode(item: Item) -> str:
    return item.get("noise_mode", "const")


def _map(G: Any, items: list[Item], device: torch.device) -> Tensor:
    """Latents of a batch whose truncations may differ: [N, num_ws, w_dim]."""
    settings = [(float(item.get("psi", 1.0)), item.get("cutoff")) for item in items]
    ws: Tensor | None = None
    for psi, cutoff in dict.fromkeys(settings):
        rows = [i for i, s in enumerate(settings) if s == (psi, cutoff)]
        some = [items[i] for i in rows]
        z = to_device(np.stack([item["z"] for item in some]), device)
        part = G.mapping(z, one_hot(some, G.c_dim, device), psi=psi, cutoff=cutoff)
        if len(rows) == len(items):
            return part
        if ws is None:
            ws = part.new_empty(len(items), *part.shape[1:])
        ws[torch.tensor(rows, device=device)] = part
    assert ws is not None, "a batch is never empty"
    return ws


def own_noise(items: list[Item], device: torch.device) -> Callable[[Any], Tensor]:
    """Draws noise [N, ...] row by row, each row from the generator of its own picture's seed."""
    generators = [torch.Generator().manual_seed(int(item.get("seed", 0))) for item in items]

    def draw(shape: Any) -> Tensor:
        return torch.cat([torch.randn(1, *shape[1:], generator=g) for g in generators]).to(device)

    return draw


def _pictures(images: Tensor) -> list[Answer]:
    finite = images.isfinite().flatten(1).all(1).tolist()
    pixels = np.asarray(imaging.to_uint8(images))
    return [np.ascontiguousarray(row) if good else _not_finite() for row, good in zip(pixels, finite, strict=True)]


def _not_finite() -> GanHubError:
    return EngineError(
        "The network gave numbers that are not finite for this latent; use another seed, or the exact precision.",
        "bad_output",
    )


def _run_map(G: Any, facts: Facts, items: list[Item], device: torch.device) -> list[Answer]:
    ws = _map(G, items, device).float().cpu().numpy()
    return [row.copy() if np.isfinite(row).all() else _not_finite() for row in ws]


def _synthesize(G: Any, ws: Tensor, items: list[Item], device: torch.device) -> Tensor:
    mode = _noise_mode(items[0])
    noise = own_noise(items, device) if mode == "random" else None
    return (G.synthesis if ws.ndim == 3 else G.synthesis.from_styles)(ws, noise_mode=mode, noise=noise)


def _ws(items: list[Item], device: torch.device) -> Tensor:
    """Latents [N, num_ws, w_dim], or styles [N, s_dim]."""
    return to_device(np.stack([item["s" if "s" in item else "ws"].astype(np.float32) for item in items]), device)


def _kind_of_ws(item: Item) -> Hashable:
    return _noise_mode(item), "s" in item


def _run_synthesize(G: Any, facts: Facts, items: list[Item], device: torch.device) -> list[Answer]:
    return _pictures(_synthesize(G, _ws(items, device), items, device))


def _run_render(G: Any, facts: Facts, items: list[Item], device: torch.device) -> list[Answer]:
    images = _synthesize(G, _ws(items, device), items, device).float().cpu().numpy()
    return [image.copy() if np.isfinite(image).all() else _not_finite() for image in images]


def _run_generate(G: Any, facts: Facts, items: list[Item], device: torch.device) -> list[Answer]:
    if G.w_dim:
        return _pictures(_synthesize(G, _map(G, items, device), items, device))
    z = to_device(np.stack([item["z"] for item in items]), device)
    return _pictures(G(z.float(), one_hot(items, G.c_dim, device)))


def _describe(G: Any, facts: Facts, items: list[Item], device: torch.device) -> list[Answer]:
    return [dict(facts) for _ in items]


def _check_upscale(item: Item, facts: Facts) -> None:
    if not facts["scale"]:
        raise BadInput("This checkpoint does not enlarge pictures; choose one that does.")
    pixels, channels, multiple = item.get("pixels"), facts["img_channels"], facts["multiple"]
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 3 or pixels.dtype not in LEVELS or not pixels.size:
        raise BadInput("'pixels' must be an array [h, w, C] of uint8, uint16 or float32.")
    height, width = pixels.shape[:2]
    if pixels.shape[2] != channels or height % multiple or width % multiple:
        raise BadInput(
            f"The tile is {width}x{height} with {pixels.shape[2]} channels; this checkpoint takes {channels} channels "
            f"and sides that are multiples of {multiple}."
        )
    top, left, high, wide = item["crop"]
    if top < 0 or left < 0 or high < 1 or wide < 1 or top + high > height or left + wide > width:
        raise BadInput(f"The crop {item['crop']} lies outside of the tile of {width}x{height}.")
    if item.get("depth") not in DEPTHS:
        raise BadInput(f"The depth is {item.get('depth')!r}; choose 8, 16 or 32 bits.")


def _kind_of_pixels(item: Item) -> Hashable:
    pixels = item.get("pixels")
    return (pixels.shape, pixels.dtype.str) if isinstance(pixels, np.ndarray) else None


LEVELS = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}
DEPTHS: dict[int, Any] = {8: np.uint8, 16: np.uint16, 32: np.float32}


def _run_upscale(G: Any, facts: Facts, items: list[Item], device: torch.device) -> list[Answer]:
    pixels = np.stack([item["pixels"] for item in items])
    x = to_device(pixels.astype(np.float32) / np.float32(LEVELS[pixels.dtype]), device)
    large = G(x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last))
    answers: list[Answer] = []
    for picture, item in zip(large, items, strict=True):
        top, left, height, width = (side * facts["scale"] for side in item["crop"])
        part = picture[:, top : top + height, left : left + width].float().permute(1, 2, 0)
        if not part.isfinite().all():
            answers.append(EngineError("The network gave numbers that are not finite; use the exact precision.",
                                       "bad_output"))  # fmt: skip
            continue
        if item["depth"] == 32:
            answers.append(part.contiguous().cpu().numpy())
            continue
        most = LEVELS[np.dtype(DEPTHS[item["depth"]])]
        levels = part.clamp(0, 1).mul(most).add(0.5).floor()
        answers.append(levels.cpu().numpy().astype(DEPTHS[item["depth"]]))
    return answers


def _check_text(item: Item, facts: Facts) -> None:
    if not facts["reads"]:
        raise BadInput("This checkpoint reads no sentences; choose a text encoder or a CLIP.")
    text = item.get("text")
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT:
        raise BadInput(f"A sentence has 1 to {MAX_TEXT} characters.")


MAX_TEXT = 1000


def _run_text(G: Any, facts: Facts, items: list[Item], device: torch.device) -> list[Answer]:
    return list(G.encode_text([item["text"] for item in items]).float().cpu().numpy())


def _check_look(item: Item, facts: Facts) -> None:
    if not facts["looks"]:
        raise BadInput("This checkpoint does not look at pictures; choose a CLIP.")
    pixels = item.get("pixels")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[2:] not in ((1,), (3,)):
        raise BadInput("'pixels' must be a picture [H, W, 1 or 3] of uint8.")


def _run_look(G: Any, facts: Facts, items: list[Item], device: torch.device) -> list[Answer]:
    pixels = np.stack([np.broadcast_to(item["pixels"], (*item["pixels"].shape[:2], 3)) for item in items])
    x = to_device(pixels, device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return list(G.encode_image(x).float().cpu().numpy())


def _check_paint(item: Item, facts: Facts) -> None:
    if not facts["paints"] or not facts["text_dim"]:
        raise BadInput("This checkpoint does not draw from sentences; choose a StackGAN that does.")
    check_array(item, "z", (facts["z_dim"],))
    check_array(item, "embedding", (facts["text_dim"],))
    seed = item.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise BadInput(f"seed must be a whole number from 0 to 2**63 - 1, or None for the mean, not {seed!r}.")


def _run_paint(G: Any, facts: Facts, items: list[Item], device: torch.device) -> list[Answer]:
    z = to_device(np.stack([item["z"].astype(np.float32) for item in items]), device)
    embedding = to_device(np.stack([item["embedding"].astype(np.float32) for item in items]), device)
    rows = []
    for item in items:
        draw = None if item.get("seed") is None else torch.Generator().manual_seed(item["seed"])
        rows.append(torch.zeros(G.code_dim) if draw is None else torch.randn(G.code_dim, generator=draw))
    stages = [_pictures(pictures) for pictures in G.stages(z, embedding, torch.stack(rows).to(device))]
    answers: list[Answer] = []
    for picture in zip(*stages, strict=True):
        wrong = [stage for stage in picture if isinstance(stage, GanHubError)]
        answers.append(wrong[0] if wrong else list(picture))
    return answers


def _check_differ(item: Item, facts: Facts) -> None:
    perception.check_eyes(item, facts)
    for name in ("pixels", "target"):
        value = item.get(name)
        if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.shape[2:] not in ((1,), (3,)):
            raise BadInput(f"'{name}' must be a picture [H, W, 1 or 3] of uint8.")
    if item["pixels"].shape != item["target"].shape:
        raise BadInput("Two pictures that are compared must have one size.")


def _group_differ(item: Item) -> Hashable:
    return _kind_of_pixels(item), id(item.get("target")), id(item.get("heads"))


def _run_differ(eyes: Any, facts: Facts, items: list[Item], device: torch.device) -> list[Answer]:
    heads = perception.heads_of(items[0], eyes, device)
    target = perception.features(eyes, perception.pixels_of([items[0]["target"]], device), heads)
    mine = perception.features(eyes, perception.pixels_of([item["pixels"] for item in items], device), heads)
    return (mine - target).square().sum(1).tolist()


def _check_age(item: Item, facts: Facts) -> None:
    if not facts["directions"]:
        raise BadInput("This checkpoint does not change the age of faces; choose one that does.")
    pixels, multiple = item.get("pixels"), facts["multiple"]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[2:] != (3,) or not pixels.size:
        raise BadInput("'pixels' must be a picture [H, W, 3] of uint8.")
    if pixels.shape[0] % multiple or pixels.shape[1] % multiple:
        raise BadInput(
            f"The picture is {pixels.shape[1]}x{pixels.shape[0]}; this checkpoint takes sides that are multiples of "
            f"{multiple}."
        )
    low, high = facts["ages"] or (0, 120)
    for name in AGES:
        age = item.get(name)
        if isinstance(age, bool) or not isinstance(age, (int, float)) or not low <= age <= high:
            raise BadInput(f"The {name} age must be a number from {low:g} to {high:g}, not {age!r}.")
    way = "younger" if item["target"] < item["source"] else "older"
    if way not in facts["directions"]:
        raise BadInput(f"This checkpoint only makes faces {' and '.join(facts['directions'])}, not {way}.")


def _run_age(G: Any, facts: Facts, items: list[Item], device: torch.device) -> list[Answer]:
    x = to_device(np.stack([item["pixels"] for item in items]), device).permute(0, 3, 1, 2).float() / 127.5 - 1
    source, target = (torch.tensor([float(item[name]) for item in items], device=device) for name in AGES)
    return _pictures(G(x.contiguous(memory_format=torch.channels_last), source, target))


OPERATIONS: dict[str, Operation] = {
    "age": Operation(_check_age, _kind_of_pixels, _run_age),
    "paint": Operation(_check_paint, lambda item: None, _run_paint),
    "read": Operation(_check_text, lambda item: None, _run_text),
    "differ": Operation(_check_differ, _group_differ, _run_differ),
    "look": Operation(_check_look, _kind_of_pixels, _run_look),
    "describe": Operation(lambda item, facts: None, lambda item: None, _describe),
    "map": Operation(_check_map, lambda item: None, _run_map),
    "synthesize": Operation(_check_synthesize, _kind_of_ws, _run_synthesize),
    "render": Operation(_check_synthesize, _kind_of_ws, _run_render),
    "upscale": Operation(_check_upscale, _kind_of_pixels, _run_upscale),
    "generate": Operation(_check_generate, _noise_mode, _run_generate),
}
