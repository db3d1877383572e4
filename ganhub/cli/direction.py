"""`ganhub direction`: learn a direction from labels, find some without, apply them, compare them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganhub.cli._shared import (
    Device,
    Exact,
    Format,
    Id,
    Json,
    Out,
    Rows,
    app,
    engine_of,
    entry_of,
    floats,
    follow,
    given,
    show_json,
    tell,
)
from ganhub.errors import BadInput

if TYPE_CHECKING:
    from ganhub.directions import Direction

direction = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Ways through a generator's latent space.")
app.add_typer(direction, name="direction")


class Space(str, Enum):
    w = "w"
    w_plus = "w+"
    z = "z"


class Method(str, Enum):
    svm = "svm"
    logistic = "logistic"
    mean = "mean"


class How(str, Enum):
    sefa = "sefa"
    ganspace = "ganspace"


Layers = Annotated[str | None, typer.Option(help="Which layers move, like 0-6 (default: as the direction says).")]


@direction.callback()
def _group() -> None:
    """Ways through a generator's latent space."""


@direction.command()
def learn(
    model: Id,
    name: Annotated[str, typer.Option(help="What it is called, like Sunglasses.")],
    photos: Annotated[Path | None, typer.Option("--with", metavar="DIR", help="Photos with the attribute.")] = None,
    others: Annotated[Path | None, typer.Option("--without", metavar="DIR", help="Photos without it.")] = None,
    consent: Annotated[bool, typer.Option("--consent", help="The people in the photos agree.")] = False,
    table: Annotated[Path | None, typer.Option(metavar="FILE", help="CSV: seed,label or latent,label.")] = None,
    latents: Annotated[Path | None, typer.Option(metavar="FILE", help="Saved latents (.npz) of the table.")] = None,
    text: Annotated[str | None, typer.Option(metavar="SENTENCE", help="What a CLIP sees where it is.")] = None,
    against: Annotated[str | None, typer.Option(metavar="SENTENCE", help="What it sees elsewhere.")] = None,
    clip: Annotated[str | None, typer.Option(metavar="ID", help="The CLIP that looks.")] = None,
    attribute: Annotated[str | None, typer.Option(metavar="ID:NAME", help="What an attribute network says.")] = None,
    space: Annotated[Space | None, typer.Option(help="w by default, z where there is no w.")] = None,
    layers: Annotated[str | None, typer.Option(help="First and last layer, like 0-6.")] = None,
    method: Annotated[Method, typer.Option(help="A linear SVM, logistic regression, or the means.")] = Method.svm,
    still: Annotated[list[str] | None, typer.Option(metavar="ID", help="A direction to be independent of.")] = None,
    samples: Annotated[int, typer.Option(help="Pictures that are drawn and scored.")] = 2000,
    share: Annotated[float, typer.Option("--share", help="Share of the scored kept on either side.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Of samples and shuffles.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Also offer it here wherever its generator is.")] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for file, row, strip and plot.")] = Path("out"),
    precision: Exact = None,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Learn a direction, prove it on what was held out, and show what it does."""
    from ganhub.directions import save_direction
    from ganhub.latents import load_latents
    from ganhub.metrics.plot import effect_plot
    from ganhub.pipelines import learn as pipeline
    from ganhub.pipelines.labels import Attribute, Piles, Sentences, read_table
    from ganhub.registry import dump_row

    if (latents is not None and table is None) or (against is not None and text is None):
        raise BadInput("--latents goes with --table, and --against with --text.")
    ways: dict[str, Any] = {}
    if photos or others:
        if not (photos and others):
            raise BadInput("Photos come in two piles: name both --with and --without.")
        ways["photos"] = Piles(_pile(photos), _pile(others), consent)
    if table:
        ways["table"] = read_table(table, load_latents(latents) if latents else None)
    if text:
        ways["text"] = Sentences(text, against or "", clip)
    if attribute:
        network, _, answer = attribute.partition(":")
        ways["attribute"] = Attribute(network, answer)
    if len(ways) != 1:
        raise BadInput(
            "Name one source of labels: --with and --without, --table, --text and --against, or --attribute."
        )
    how: dict[str, Any] = {
        "method": method.value,
        "still": still or (),
        "samples": samples,
        "keep": share,
        "seed": seed,
    }
    how |= {"space": space.value if space else None, "layers": _range(layers)}
    how["precision"] = precision.value if precision else None
    with engine_of(registry, device) as engine:
        (source,) = ways.values()
        request = pipeline.LearnRequest(engine.registry.find(model).id, name, source, **how)
        _, made = follow(pipeline.learn(engine, request))
        found: Direction = made.direction
        file = save_direction(found, out / f"{found.id}.safetensors")
        (out / f"{found.id}.yaml").write_text(dump_row(made.row), encoding="utf-8")
        written = [{"path": str(file)}, {"path": str(out / f"{found.id}.yaml")}]
        if made.strip:
            written.append(entry_of(made.strip.save(out), made.strip.provenance))
        if made.effect:
            effect_plot(made.effect.figures()).save(out / f"{found.id}_effect.png")
            written.append({"path": str(out / f"{found.id}_effect.png")})
        if keep:
            row = engine.registry.find(request.checkpoint)
            pipeline.keep(found, row, engine.registry, registry or given["registry"])
    if as_json:
        show_json({"id": found.id, "card": found.card, "written": written, "notes": list(made.notes)})
        return
    tell(written, False)
    for line in proof(found.card):
        print(line)
    for line in made.notes:
        print(line)


def proof(card: dict[str, Any]) -> list[str]:
    """What a card says of a direction, in lines."""
    if "accuracy" not in card:
        return [f"labelled by {card.get('labels', 'nobody')}"]
    low, high = card["accuracy_interval"]
    lines = [
        f"held-out accuracy {card['accuracy']:.1%} ({low:.1%} to {high:.1%}), AUC {card['auc']:.3f}, "
        f"{card['with']} with and {card['without']} without",
        f"by chance in {card['chance'] * 100:.1f} of 100 shuffles of the labels",
    ]
    others = [f"{name} {values['accuracy']:.1%}" for name, values in card["other_methods"].items()]
    lines.append(f"{card['method']}; others: {', '.join(others)}")
    lines += [f"cosine with {name}: {value:+.2f}" for name, value in card["cosines"].items()]
    return lines


@direction.command()
def find(
    model: Id,
    way: Annotated[How, typer.Argument(help="Closed form from the weights, or components of latents.")],
    count: Annotated[int, typer.Option(help="How many, the strongest first.")] = 8,
    out: Out = Path("out"),
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Find directions without labels, with a sheet of each to name it by."""
    from ganhub.directions import save_direction
    from ganhub.pipelines.found import find_directions
    from ganhub.pipelines.slide import SlideRequest, slide

    with engine_of(registry, device) as engine:
        _, found = follow(find_directions(engine, model, way.value, count))
        written = []
        for one in found:
            file = save_direction(one, out / f"{one.id}.safetensors")
            _, shown = follow(slide(engine, SlideRequest(model, one, seeds=range(4))))
            sheet = shown.grid.save(out)
            written.append({"path": str(file), "sheet": str(sheet), "share": one.card["share"]})
    tell(written, as_json)


@direction.command()
def apply(
    model: Id,
    along: Annotated[str, typer.Argument(metavar="DIRECTION", help="Id of a row (ID:3: a component), or a file.")],
    strengths: Annotated[str, typer.Option(help="How far; 1 is a clear change.")] = "-2,-1,0,1,2",
    seeds: Annotated[str, typer.Option(help="Seeds, like 0-3.")] = "0-3",
    latents: Annotated[Path | None, typer.Option(metavar="FILE", help="Saved latents in place of seeds.")] = None,
    across: Annotated[str | None, typer.Option(metavar="DIRECTION", help="A second one: grids over both.")] = None,
    first: Annotated[
        list[str] | None, typer.Option("--also", metavar="DIRECTION=X", help="Move by this first.")
    ] = None,
    layers: Layers = None,
    psi: Annotated[float, typer.Option(help="Truncation of the seeds.")] = 0.7,
    frames: Annotated[int, typer.Option(help="Make a video with so many frames there, and back.")] = 0,
    kind: Annotated[Format, typer.Option("--format", help="File format.")] = Format.png,
    out: Out = Path("out"),
    precision: Exact = None,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Move seeds or saved latents along a direction: pictures, a sheet of them all, or a video."""
    from ganhub.latents import load_latents, parse_layers, parse_seeds
    from ganhub.pipelines.slide import SlideRequest, slide

    moves = []
    for pair in first or ():
        which, sign, strength = pair.rpartition("=")
        moves.append((_which(which if sign else strength), floats("--also", strength)[0] if sign else 1.0))
    file = (out if out.suffix.lower() == ".mp4" else out / "direction.mp4") if frames else None
    with engine_of(registry, device) as engine:
        request = SlideRequest(
            engine.registry.find(model).id,
            _which(along),
            seeds=() if latents else parse_seeds(seeds),
            latents=load_latents(latents) if latents else None,
            strengths=floats("--strengths", strengths),
            across=_which(across) if across else None,
            with_=moves,
            layers=parse_layers(layers) if layers else None,
            psi=psi,
            frames=frames,
            file=file,
            precision=precision.value if precision else None,
        )
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
        written, made = follow(slide(engine, request), None if file else out, kind)
        if file:
            written = [entry_of(made.video, made.about)]
        else:
            written.append(entry_of(made.grid.save(out, kind.value), made.about))
    tell(written, as_json)


@direction.command()
def compare(
    model: Id,
    names: Annotated[list[str] | None, typer.Argument(metavar="[DIRECTION]...", help="Ids or files.")] = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Cosines between directions of a generator: all that are here by default."""
    from ganhub.cli._shared import registry_of
    from ganhub.directions import cosine, open_direction
    from ganhub.hub import status

    rows = registry_of(registry)
    generator = rows.find(model)
    chosen = list(names or ())
    if not chosen:
        chosen = [row.id for row in rows.directions_for(generator) if status(row).on_disk]
    found = [one if not isinstance(one := _which(n), str) else open_direction(rows, one, generator) for n in chosen]
    if len(found) < 2:
        raise BadInput(f"There are {len(found)} directions of '{generator.id}' here; name at least two to compare.")
    table = {a.id: {b.id: round(cosine(a, b), 3) for b in found} for a in found}
    if as_json:
        show_json(table)
        return
    width = max(len(name) for name in table)
    for name, line in table.items():
        print(name.ljust(width), *(f"{value:+.2f}" for value in line.values()))


def _which(name: str) -> Any:
    """A row's id, or the direction in a file."""
    from ganhub.directions import load_direction

    return load_direction(name) if name.endswith(".safetensors") else name


def _range(text: str | None) -> tuple[int, int] | None:
    if not text:
        return None
    from ganhub.latents import parse_layers

    layers = parse_layers(text)
    if layers != list(range(layers[0], layers[-1] + 1)):
        raise BadInput(f"The layers '{text[:40]}' must be one range, like 0-6.")
    return layers[0], layers[-1]


def _pile(folder: Path) -> list[tuple[str, Any]]:
    from ganhub.data.dataset import SUFFIXES

    if not folder.is_dir():
        raise BadInput(f"There is no folder {folder}.")
    return [(file.name, file) for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES]
