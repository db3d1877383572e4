"""Pictures of a folder -> a prepared set: square, of one size, labelled, in one file."""

from ganhub.data.dataset import PictureSet, write_set

__all__ = ["PictureSet", "write_set"]
