"""Pictures: from tensors, onto sheets, into files that say where they come from, and safely out of uploads."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ganhub.imaging.bands import PictureWriter, Resampler, open_picture, output_format
from ganhub.imaging.photos import Photo, read_photo
from ganhub.imaging.provenance import encode_image, png_text, read_provenance, save_image
from ganhub.imaging.sheets import cross_grid, grid, labelled_grid, strip
from ganhub.imaging.uploads import Upload, load_image, read_upload
from ganhub.imaging.video import VideoSource, VideoWriter, write_video

__all__ = [
    "Photo",
    "PictureWriter",
    "Resampler",
    "Upload",
    "VideoSource",
    "VideoWriter",
    "cells",
    "cross_grid",
    "encode_image",
    "grid",
    "labelled_grid",
    "load_image",
    "open_picture",
    "output_format",
    "png_text",
    "read_photo",
    "read_provenance",
    "read_upload",
    "save_image",
    "strip",
    "to_pil",
    "to_uint8",
    "write_video",
]


def to_uint8(images: Any) -> np.ndarray:
    """Pixels of a network's output, rounded as NVIDIA's generators do: `(x * 127.5 + 128)`, clamped, cut off.

    Args:
        images: tensor on any device, or array; [N, C, H, W] in [-1, 1].

    Returns:
        uint8 [N, H, W, C].
    """
    if isinstance(images, np.ndarray):
        moved = images.transpose(0, 2, 3, 1).astype(np.float32)
        return np.ascontiguousarray((moved * np.float32(127.5) + np.float32(128)).clip(0, 255).astype(np.uint8))
    moved = images.detach().float().permute(0, 2, 3, 1)
    return moved.mul(127.5).add(128).clamp(0, 255).byte().contiguous().cpu().numpy()


def to_pil(pixels: np.ndarray) -> Image.Image:
    """A PIL image (L or RGB) of uint8 [H, W, 1 or 3]."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def cells(pixels: np.ndarray, count: int = 4) -> list[list[int]]:
    """Mean colours of `count` x `count` cells, row by row: enough to see that a picture is the same one.

    Args:
        pixels: uint8 [H, W, C], at least `count` high and wide.

    Returns:
        count * count lists of C levels.
    """
    rows = np.array_split(pixels.astype(np.float64), count)
    means = [cell.mean(axis=(0, 1)) for row in rows for cell in np.array_split(row, count, axis=1)]
    return np.stack(means).round().astype(int).tolist()
