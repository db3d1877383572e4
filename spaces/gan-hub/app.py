"""GAN Hub as a Hugging Face Space."""

from ganhub import zerogpu  # noqa: F401 - before anything that may touch a device
from ganhub.ui import build_app, launch

demo = build_app()
if __name__ == "__main__":
    launch(demo)
