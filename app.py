"""GAN Hub: `python app.py [--registry FILE] [--port N]`."""

from ganhub import zerogpu  # noqa: F401 - before anything that may touch a device
from ganhub.ui import build_app, launch, options

settings = options() if __name__ == "__main__" else {}
demo = build_app(registry=settings.pop("registry", None))
if __name__ == "__main__":
    launch(demo, **settings)
