"""What every recipe shares around its steps: the run folder, resuming, reports, snapshots, and a way to stop.

A recipe is a `Trainer`: networks, losses and one step. `train` does the rest. The folder of a run holds

    run.json                        recipe, settings, data with licence and credit, seed, version, command
    log.jsonl, metrics.jsonl        a line for every report and every snapshot
    state.pt                        all there is to go on from, bit for bit on a CPU
    snapshot-KKKKKK.safetensors     G (averaged), G_train and D after so many thousand pictures; grid-KKKKKK.png
    G.safetensors                   the averaged generator, in half precision, as the hub ships it
    metrics.png, tensorboard/       curves
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

import ganhub
from ganhub import checkpoint
from ganhub.checkpoint import Network
from ganhub.data.dataset import PictureSet
from ganhub.errors import BadInput, TrainingError
from ganhub.imaging import to_uint8
from ganhub.latents import z_from_seeds
from ganhub.training import guards
from ganhub.training.workers import Workers

REPORT_SECONDS = 20.0


class Trainer(Protocol):
    """What the loop knows of a recipe."""

    recipe: str
    family: str
    settings: Any
    """A dataclass of plain values."""
    seen: int
    """Real pictures that D was shown."""
    workers: Workers

    def step(self) -> dict[str, Tensor]:
        """One step of D and of G; figures for the log (scalars, averaged between two reports)."""

    def averaged(self) -> Any:
        """The generator that is shown and shipped, in eval mode."""

    def networks(self) -> dict[str, nn.Module]:
        """Networks of a snapshot beside the averaged generator, each with a `config`."""

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""

    def load(self, state: dict[str, Any]) -> None: ...


def train(
    trainer: Trainer,
    out: Path,
    *,
    images: int,
    snap: int,
    data: PictureSet | None = None,
    resume: bool = False,
    origin: str | None = None,
    measure: Callable[[Any], dict[str, Any]] | None = None,
    every: int | None = None,
) -> Any:
    """Trains until D saw `images` real pictures or a signal asks to stop; returns the averaged generator.

    Args:
        trainer: the recipe.
        out: the run folder.
        images: real pictures to show to D, those of earlier runs included.
        snap: pictures between two snapshots.
        data: what is trained on, for `run.json`.
        resume: go on from the state in `out` where there is one.
        origin: the checkpoint whose weights the trainer starts from.
        measure: figures of a generator, taken at every snapshot.
        every: pictures between two reports; every 20 seconds by default.

    Raises:
        TrainingError: the loss has diverged; the last state on disk is from before.
    """
    first = trainer.workers.first
    with Run(out, quiet=not first) as run:
        state = run.saved() if resume else None
        if state:
            trainer.load(state["trainer"])
        if first:
            run.cut_logs(trainer.seen)
            run.describe(trainer, data, origin)
        seconds = state["seconds"] if state else 0.0
        began = last = time.monotonic()
        mark, sums, steps = trainer.seen, {}, 0  # type: int, dict[str, Tensor], int
        snapped = trainer.seen // snap
        while trainer.seen < images:
            if trainer.workers.any(run.stopping):
                break
            for name, value in trainer.step().items():
                sums[name] = sums.get(name, 0) + value.detach()
            steps += 1
            now = time.monotonic()
            due = trainer.seen - mark >= every if every else now - last >= REPORT_SECONDS
            if due or trainer.seen // snap > snapped or trainer.seen >= images:
                figures = {name: float(total) / steps for name, total in sums.items()}
                check(figures, trainer.seen, out)
                speed = (trainer.seen - mark) / max(now - last, 1e-9)
                if first:
                    left = max(images - trainer.seen, 0) / speed
                    run.log(kimg=trainer.seen / 1000, seconds=seconds + now - began, per_second=speed, **figures)
                    run.say(trainer.seen, images, speed, left, figures)
                mark, last, sums, steps = trainer.seen, now, {}, 0
            if trainer.seen // snap > snapped:
                snapped = trainer.seen // snap
                if first:
                    snapshot(trainer, run, seconds + time.monotonic() - began, snap, measure)
                trainer.workers.wait()
                last = time.monotonic()
        if steps:  # stopped between two reports: never save what has diverged
            check({name: float(total) / steps for name, total in sums.items()}, trainer.seen, out)
        if first:
            run.save({"trainer": trainer.state(), "seconds": seconds + time.monotonic() - began})
        G = trainer.averaged()
        if first:
            ship(G, trainer.family, out / "G.safetensors", recipe=trainer.recipe, kimg=trainer.seen / 1000,
                 seed=trainer.settings.seed)  # fmt: skip
            sheet_of(trainer, G).save(out / "grid.png")
            run.close(trainer.seen)
    return G


def snapshot(
    trainer: Trainer, run: Run, seconds: float, snap: int, measure: Callable[[Any], dict[str, Any]] | None
) -> None:
    """Writes state, networks, grid and measures of this moment."""
    run.save({"trainer": trainer.state(), "seconds": seconds})
    G = trainer.averaged()
    name = f"{trainer.seen / 1000:06.0f}" if snap >= 1000 else f"{trainer.seen / 1000:010.3f}"
    parts = {"G": G, **trainer.networks()}
    networks = {part: Network(type(net).__name__, net.config, half(net)) for part, net in parts.items()}
    facts = {"family": trainer.family, "recipe": trainer.recipe, "kimg": trainer.seen / 1000}
    checkpoint.save(run.out / f"snapshot-{name}.safetensors", networks, facts)
    sheet = sheet_of(trainer, G)
    sheet.save(run.out / f"grid-{name}.png")
    run.show("samples", sheet, trainer.seen)
    measured = measure(G) if measure else {}
    said = guards.warnings(measured, run.last)
    for sentence in said:
        print(f"Warning: {sentence}", file=sys.stderr)
    if measure:
        run.measured(trainer.seen, {**measured, "warnings": said})


def check(figures: dict[str, float], seen: int, out: Path) -> None:
    """Raises TrainingError where a loss is not finite or beyond any use."""
    for name, value in figures.items():
        if not math.isfinite(value) or (name.startswith("loss") and abs(value) > 1e4):
            raise TrainingError(
                f"The training in {out} diverged: {name} is {value:.3g} after {seen / 1000:.1f} thousand pictures; "
                "go on from the last snapshot with --resume, a lower learning rate or, in stylegan2, a higher --gamma."
            )


class Run:
    """The folder of a training. As a context, it turns an interrupt or a termination signal into `stopping`."""

    def __init__(self, out: Path, quiet: bool = False):
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"The run folder {out} cannot be made: {error.strerror}; name another --out.") from None
        self.out, self.quiet = out, quiet
        self.stopping = False
        self.last: dict[str, float] = {}
        self._before: dict[int, Any] = {}
        self._board: Any = None

    def __enter__(self) -> Run:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._board:
            self._board.close()

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def cut_logs(self, seen: int) -> None:
        """Removes lines of later than the state that the training goes on from; all of them where there is none."""
        for name in ("log.jsonl", "metrics.jsonl"):
            file = self.out / name
            if file.exists():
                lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
                kept = [line for line in lines if seen and json.loads(line)["kimg"] <= seen / 1000]
                _write(file, "".join(kept))

    def describe(self, trainer: Trainer, data: PictureSet | None, origin: str | None) -> None:
        """Writes `run.json`; a resumed run keeps the checkpoint that it started from."""
        before = self.out / "run.json"
        if origin is None and trainer.seen and before.exists():
            origin = json.loads(before.read_text(encoding="utf-8")).get("origin")
        about = {
            "recipe": trainer.recipe,
            "family": trainer.family,
            "settings": asdict(trainer.settings),
            "data": facts_of(data) if data else None,
            **(trainer.facts() if hasattr(trainer, "facts") else {}),
            "seed": trainer.settings.seed,
            "origin": origin,
            "ganhub": ganhub.__version__,
            "commit": _commit(),
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "workers": trainer.workers.count,
        }
        _write(self.out / "run.json", json.dumps(about, indent=1))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("No TensorBoard here: pip install 'ganhub[train]' adds its curves.", file=sys.stderr)
        else:
            self._board = SummaryWriter(str(self.out / "tensorboard"))

    def log(self, **figures: float) -> None:
        """Adds a line of figures to `log.jsonl` and to TensorBoard."""
        self.last = figures
        line = json.dumps({key: round(value, 5) for key, value in figures.items()})
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._scalars("train", figures)

    def _scalars(self, group: str, figures: dict[str, Any]) -> None:
        if self._board:
            step = round(figures["kimg"] * 1000)
            for name, value in figures.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(f"{group}/{name}", value, step)

    def show(self, name: str, sheet: Image.Image, seen: int) -> None:
        if self._board:
            import numpy as np

            self._board.add_image(name, np.asarray(sheet.convert("RGB")), seen, dataformats="HWC")

    def say(self, seen: int, images: int, speed: float, left: float, figures: dict[str, float]) -> None:
        """One line for a person: how far, how fast, how long still."""
        hours = f"{left / 3600:.1f} h" if left > 5400 else f"{left / 60:.0f} min"
        shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        print(
            f"{seen / 1000:.1f} of {images / 1000:.0f} kimg  {speed:.1f}/s  {hours} left  {shown}",
            file=sys.stderr,
            flush=True,
        )

    def measured(self, seen: int, figures: dict[str, Any]) -> None:
        """Adds a line to `metrics.jsonl` and draws the curves anew."""
        from ganhub.metrics.plot import plot

        line = {"kimg": seen / 1000, **figures}
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._scalars("metrics", line)
        plot(self.out / "metrics.jsonl").save(self.out / "metrics.png")
        self.show("metrics", Image.open(self.out / "metrics.png"), seen)

    def save(self, state: dict[str, Any]) -> None:
        """The state to go on from, written beside the old one and then moved over it."""
        torch.save(state, self.out / "state.pt.part")
        os.replace(self.out / "state.pt.part", self.out / "state.pt")

    def saved(self) -> dict[str, Any] | None:
        """The state that `save` wrote; None where there is none."""
        file = self.out / "state.pt"
        return torch.load(file, weights_only=True) if file.exists() else None

    def close(self, seen: int) -> None:
        print(f"{'Stopped' if self.stopping else 'Done'} after {seen / 1000:.1f} kimg: {self.out}", file=sys.stderr)


def facts_of(data: PictureSet) -> dict[str, Any]:
    """What `run.json` says of a set."""
    return {
        "name": data.name,
        "path": str(data.path),
        "sha256": data.sha256,
        "pictures": len(data),
        "size": list(data.size),
        "channels": data.channels,
        "classes": data.classes,
        "license": data.license,
        "credit": data.credit,
        "source": data.source,
    }


def _commit() -> str | None:
    """The commit of the checkout that this package stands in, `+` where files differ from it."""
    folder = Path(ganhub.__file__).parent.parent
    if not (folder / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True).stdout.strip()

    head = git("rev-parse", "HEAD")
    return head + ("+" if git("status", "--porcelain", "--untracked-files=no", "ganhub") else "") if head else None


def _write(file: Path, text: str) -> None:
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, file)


def one_hot_of(G: Any, count: int) -> Tensor | None:
    """Classes 0, 1, 2, ... in turn, one-hot [count, c_dim]; None for a generator without classes."""
    return torch.eye(G.c_dim)[torch.arange(count) % G.c_dim] if G.c_dim else None


@torch.no_grad()
def draw(G: Any, seeds: Sequence[int], **how: Any) -> Tensor:
    """The pictures of seeds as the hub draws them (`how`: psi, ...), classes in turn: uint8 [N, H, W, C]."""
    device = next(G.parameters()).device
    z = torch.from_numpy(z_from_seeds(seeds, G.z_dim, G.z_distribution)).float().to(device)
    c = one_hot_of(G, len(z))
    parts = []
    for at in range(0, len(z), 64):
        labels = None if c is None else c[at : at + 64].to(device)
        parts.append(G(z[at : at + 64], labels, **how).cpu())
    return torch.from_numpy(to_uint8(torch.cat(parts)))


def grid(G: Any, columns: int = 10, rows: int = 8, scale: int = 1, **how: Any) -> Image.Image:
    """The pictures of seeds 0, 1, 2, ... side by side."""
    pictures = draw(G, range(columns * rows), **how)
    height, width, channels = pictures.shape[1:]
    sheet = pictures.view(rows, columns, height, width, channels).transpose(1, 2)
    sheet = sheet.reshape(rows * height, columns * width, channels).squeeze(2)
    return Image.fromarray(sheet.numpy()).resize((columns * width * scale, rows * height * scale))


def sheet_of(trainer: Trainer, G: Any) -> Image.Image:
    """What a snapshot shows: the recipe's own sheet, or pictures of seeds."""
    return trainer.sheet(G) if hasattr(trainer, "sheet") else grid(G)


def lerp(average: nn.Module, network: nn.Module, steps: int, decay: float) -> None:
    """Moves an average of weights towards a network; it starts short, so that it forgets the first weights."""
    decay = min(decay, (1 + steps) / (10 + steps))
    with torch.no_grad():
        for mean, now in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)


def half(network: nn.Module) -> dict[str, Tensor]:
    """Tensors as the hub ships them: matrices in half precision, everything else as it is."""
    return {k: v.detach().cpu().half() if v.dim() > 1 else v.detach().cpu() for k, v in network.state_dict().items()}


def ship(G: Any, family: str, file: Path, **facts: Any) -> None:
    """Writes a generator as the hub ships it."""
    checkpoint.save(file, {"G": Network(type(G).__name__, G.config, half(G))}, {"family": family, **facts})
