"""The card of a published checkpoint: what a visitor of its page on the Hub should know before using it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ganhub.metrics.features import ROWS, TITLES
from ganhub.registry import Checkpoint, to_yaml

NETWORKS = {"stylegan2": "StyleGAN2", "stylegan3": "StyleGAN3", "dcgan": "DCGAN", "sagan": "SAGAN"}
NETWORKS |= {"mlp_gan": "fully connected GAN"}
FIGURES = {
    "frechet": "Fréchet distance to the training pictures, lower is better",
    "kernel": "kernel distance to the training pictures, lower is better",
    "precision": "precision: share of generated pictures that lie among real ones",
    "recall": "recall: share of real pictures that lie among generated ones",
    "density": "density: how closely generated pictures lie to real ones",
    "coverage": "coverage: share of real pictures that have a generated one beside them",
    "path_length": "perceptual path length: how much a small step changes the picture",
    "nearest_median": "distance to the nearest training picture or its mirror image, median",
    "nearest_1_percent": "the same of the nearest 1 %",
}
_HUB_LICENSES = re.compile(
    r"apache-2\.0|mit|bsd(-[23]-clause)?|unlicense|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.0|l?gpl-[23]\.[01]|agpl-3\.0"
    r"|openrail(\+\+)?|creativeml-openrail-m"
)
_OPEN = re.compile(r"(apache|mit|bsd|unlicense|cc0|public domain|pd|cc-by(-sa)?-\d)\b[^,;/+&]*")


@dataclass(frozen=True)
class Facts:
    """What the card is written from.

    Args:
        row: as it is published.
        repository: `owner/name`.
        run: `run.json`, without paths of the machine.
        network: plain facts of the generator, as the engine tells them.
        kimg: thousand pictures that the discriminator has seen, where that is known.
        seconds: of training, where that is known.
        measured: lines of figures, each with `features` and `pictures`.
        files: what is published.
        psi: truncation of the grid; None for a network that has none.
        labels: class of each row of the grid; empty for a network without classes.
    """

    row: Checkpoint
    repository: str
    run: dict[str, Any]
    network: dict[str, Any]
    kimg: float | None
    seconds: float | None
    measured: list[dict[str, Any]]
    files: list[str]
    psi: float | None
    labels: list[int]


def hub_license(name: str) -> dict[str, str]:
    """A licence as the Hub's front matter wants it: its own identifiers, else `other` with a name."""
    plain = re.sub(r"\s+", "-", name.strip().lower())
    if _HUB_LICENSES.fullmatch(plain):
        return {"license": plain}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", plain).strip("-") or "own"}


def is_open(license: str) -> bool:
    """Whether a licence is one of those known here to allow commercial use."""
    name = re.sub(r"\bcc[ -]by[ -]", "cc-by-", license.strip().lower())
    return _OPEN.fullmatch(name) is not None and not re.search(r"\bnc\b|non-?commercial|research", name)


def write(facts: Facts) -> str:
    """README.md of the repository."""
    row, data = facts.row, facts.run["data"]
    front: dict[str, Any] = {
        **hub_license(row.license),
        "library_name": "ganhub",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["gan", row.family.replace("_", "-"), "image-generation"],
    }
    hosted = re.fullmatch(r"https://huggingface\.co/datasets/([\w.-]+/[\w.-]+)/?", data.get("source", ""))
    if hosted:
        front["datasets"] = [hosted[1]]
    parts = [
        f"---\n{to_yaml(front)}---\n",
        f"# {row.title}\n",
        "Every picture that this network draws is generated: none is a photograph, none was painted by anybody.\n",
        _draws(facts),
        _use(facts),
        _data(facts),
        _training(facts),
        _figures(facts),
        _samples(facts),
        _limits(facts),
        _intended(),
    ]
    return "\n".join(parts)


def _draws(facts: Facts) -> str:
    row, network, data = facts.row, facts.network, facts.run["data"]
    height, width = network["img_size"]
    name = NETWORKS.get(row.family, row.family)
    colour = "colour" if network["img_channels"] == 3 else "grey"
    kind = f" of {network['c_dim']} classes ({_some(row.class_names)})" if row.class_names else ""
    kind = kind or (f" of {network['c_dim']} classes" if network["c_dim"] else "")
    caption = "Seeds 0 to 63, row by row, not chosen"
    if facts.psi is not None:
        caption += f", truncated to psi {facts.psi:g} (nearer to the average picture: cleaner, and less varied)"
    if facts.labels:
        names = row.class_names or [str(k) for k in range(network["c_dim"])]
        caption += ". Each row is one class: " + ", ".join(names[k] for k in facts.labels)
        more = network["c_dim"] - len(facts.labels)
        caption += f"; {more} more are not shown" if more > 0 else ""
    return (
        "## What it draws\n\n"
        + (f"{row.description}\n\n" if row.description else "")
        + f'Pictures{kind} like those of the set "{data["name"]}", {width}x{height} pixels, in {colour}. The network '
        f"is the generator of a {name} with {network['parameters']:,} parameters; it turns {network['z_dim']} random "
        f"numbers into a picture. The same seed gives the same picture.\n\n![Seeds 0 to 63](grid.png)\n\n{caption}.\n"
    )


def _use(facts: Facts) -> str:
    row = facts.row
    label = ", label=0" if facts.labels else ""
    option = f' --class "{row.class_names[0]}"' if row.class_names else " --class 0" if facts.labels else ""
    psi, psi_option = (f", psi={facts.psi:g}", f" --psi {facts.psi:g}") if facts.psi is not None else ("", "")
    return f"""## Use

With GAN Hub installed, in a shell:

```shell
ganhub add hf://{facts.repository}
ganhub generate {row.id} --seeds 0-7{option}{psi_option} --out pictures
```

and from then on, also without a network, in Python:

```python
import ganhub

with ganhub.load("{row.id}") as network:
    result = network.generate(seeds=range(8){label}{psi})
    result.save("pictures")
```

`ganhub add` checks the file against its hash and the picture of seed 0 against the one drawn here. The weights are
`model.safetensors`: tensors and, in its header, the config that the network is built from; there is no code in it.
"""


def _data(facts: Facts) -> str:
    data, license = facts.run["data"], facts.row.license
    height, width = _pair(data.get("size"))
    lines = [("Set", f"{data['name']}: {_count(data.get('pictures'))}" + (f" of {width}x{height}" if width else ""))]
    lines += [("Licence", data["license"]), ("Credit", data.get("credit")), ("Source", data.get("source"))]
    lines += [("sha256 of the prepared set", f"`{data['sha256']}`" if data.get("sha256") else "")]
    text = f"## Data and licences\n\n{_table(lines)}\n\nThe weights are published under **{license}**"
    text += f"; the pictures that they were trained on stay under {data['license']}.\n"
    if not is_open(data["license"]):
        text += (
            "Whether the licence of pictures reaches the weights that learned from them is not settled everywhere; "
            "keep to the stricter of both.\n"
        )
    return text


def _training(facts: Facts) -> str:
    run = facts.run
    lines = [("Recipe", run.get("recipe")), ("Seed", run.get("seed")), ("Made with", f"ganhub {run.get('ganhub', '')}")]
    if run.get("commit"):
        lines.append(("Commit", f"`{run['commit']}`"))
    if facts.kimg:
        lines.append(("Pictures shown to the discriminator", f"{facts.kimg * 1000:,.0f}"))
    if facts.seconds:
        hours = facts.seconds / 3600
        lines.append(("Time", f"{hours:.1f} hours" if hours >= 1 else f"{facts.seconds / 60:.0f} minutes"))
    if facts.row.paper:
        lines.append(("Paper", facts.row.paper))
    text = f"## Training\n\n{_table(lines)}\n"
    if run.get("command"):
        text += f"\n```shell\n{' '.join(run['command'])}\n```\n"
    if run.get("settings"):
        text += "\n```yaml\n" + "".join(f"{k}: {json.dumps(v)}\n" for k, v in run["settings"].items()) + "```\n"
    origin = _origin(run.get("command") or [])
    if origin:
        text += f"\nIt did not start from nothing but from `{origin}`: its licence and its pictures count here, too.\n"
    kept = [name for name in ("log.jsonl", "metrics.jsonl") if name in facts.files]
    if kept:
        text += f"\nThe figures of the whole run are in {' and '.join(f'[{name}]({name})' for name in kept)}.\n"
    return text


def _figures(facts: Facts) -> str:
    if not facts.measured:
        return "## Measured\n\nNothing was measured: there is no `metrics.jsonl` or `evaluation.json` in its run.\n"
    parts = ["## Measured\n"]
    for line in facts.measured:
        named = line.get("features")
        features = f"the features of `{ROWS.get(named, named)}`" if named else "features that the run does not name"
        at = f" after {line['kimg'] * 1000:,.0f} pictures of training" if "kimg" in line else ""
        commit = f", measured with commit `{str(line['commit'])[:12]}`" if line.get("commit") else ""
        parts.append(f"{_count(line.get('pictures'))}, compared in {features}{at}{commit}:\n")
        parts.append(_columns(line) + "\n")
        if named != "inception" and "frechet" in line:
            parts.append(
                "These features are not those of the Inception network: the distances compare trainings that were "
                "measured with the same ones, and are no FID or KID.\n"
            )
    if "metrics.png" in facts.files:
        parts.append("![Figures over the training](metrics.png)\n")
    return "\n".join(parts)


def _columns(line: Mapping[str, Any]) -> str:
    """A table of one measurement: each truncation, and real pictures in place of generated ones where they were."""
    columns = [(f"psi {line['psi']:g}" if "psi" in line else "generated", numbers(line))]
    columns += [(f"psi {other['psi']:g}", numbers(other)) for other in line.get("sweep", [])]
    real = {k.removeprefix("real_"): v for k, v in numbers(line).items() if k.startswith("real_")}
    below = ""
    if isinstance(line.get("half"), dict) and isinstance(line.get("real"), dict):
        columns.append(("generated, against half", numbers(line["half"])))
        real |= numbers(line["real"])
        below = (
            f"\n\nThe last two columns hold {_count(line['half'].get('pictures'))} against one half of the real ones: "
            "generated ones, then those of the other half, which no generator can be expected to beat. Distances to "
            "the nearest are those of real pictures to each other there."
        )
    columns += [("real", real)] if real else []
    standard = TITLES["inception"] if line.get("features") == "inception" else {}
    rows = []
    for key in dict.fromkeys(key for _, figures in columns for key in figures):
        if not key.startswith("real_") and key != "kernel_std":
            words = FIGURES.get(key, key.replace("_", " "))
            words = f"{standard[key]}: {words}" if key in standard else words[:1].upper() + words[1:]
            rows.append((words, *(f"{figures[key]:.4g}" if key in figures else "" for _, figures in columns)))
    return _table(rows, ("", *(name for name, _ in columns))) + below


def _samples(facts: Facts) -> str:
    if facts.psi is None:
        return "## Samples\n\nThe sheet above is what the network draws as it is: it has no truncation.\n"
    return (
        "## Samples\n\n![The same seeds without truncation](samples.png)\n\n"
        "The same seeds without truncation (psi 1): all that the network has learned, its failures among it.\n"
    )


def _limits(facts: Facts) -> str:
    data = facts.run["data"]
    figures: dict[str, float] = {}
    for line in facts.measured:
        figures |= numbers(line)
    height, width = facts.network["img_size"]
    points = [
        f"It has seen {_count(data.get('pictures'))} of one set and knows nothing else: what is rare there is drawn "
        "badly or not at all, and what is one-sided there is one-sided here.",
        f"Pictures have {width}x{height} pixels; enlarging them adds no detail.",
        "Some seeds give broken pictures; nothing here was sorted by hand.",
    ]
    if "recall" in figures:
        points.append(
            f"By the recall above it reaches about {figures['recall']:.0%} of the variety of its training pictures."
        )
    near, real = figures.get("nearest_1_percent"), figures.get("real_nearest_1_percent")
    if near is None or real is None:
        points.append("Nobody has looked whether it repeats training pictures; with a small set that can happen.")
    elif near < real:
        points.append(
            "Its pictures come nearer to training pictures than those come to each other (the nearest 1 % above): some "
            "may repeat what it was trained on."
        )
    else:
        points.append(
            "It repeats no training pictures as far as the distances above can tell (the nearest 1 % is no nearer than "
            "among real ones); a single picture may still be close to one."
        )
    if not facts.network["c_dim"]:
        points.append("There is no way to ask for a certain kind of picture, only for another seed.")
    return "## Limits\n\n" + "".join(f"- {point}\n" for point in points)


def _intended() -> str:
    return """## Intended use

Looking at what such a network learns, teaching, art and play, comparing methods, and as a small generator for tests.

Out of scope:

- passing its pictures off as photographs, as historical documents or as the work of a person;
- pictures meant to be taken for a real person or a real thing;
- deciding anything about people, and training data for such decisions;
- any use that a licence above does not allow.

## All outputs are generated

Files that GAN Hub writes say so inside (`ganhub provenance FILE` shows it, and the press's own mark for
"trained algorithmic media" is set). Keep that mark, and say it again where you show a picture.
"""


def _origin(command: list[str]) -> str:
    """The checkpoint that a training began with, where its command names one."""
    for word, following in zip(command, [*command[1:], "--"], strict=True):
        if word.startswith("--resume="):
            return word.removeprefix("--resume=")
        if word == "--resume" and not following.startswith("--"):
            return following
    return ""


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The figures in a line of measurements: finite numbers, without what was counted rather than measured."""
    counted = ("kimg", "pictures", "seconds", "seed", "psi")
    plain = {k: v for k, v in line.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return {k: float(v) for k, v in plain.items() if k not in counted and abs(v) < 1e30}


def _table(rows: Sequence[tuple[Any, ...]], head: tuple[str, ...] = ("", "")) -> str:
    """Rows whose second cell is not empty."""

    def line(cells: tuple[Any, ...]) -> str:
        texts = [cell if isinstance(cell, str) else json.dumps(cell) for cell in cells]
        return "| " + " | ".join(" ".join(text.split()).replace("|", "\\|") for text in texts) + " |"

    shown = [line(row) for row in rows if row[1] not in (None, "")]
    return "\n".join([line(head), "|" + "---|" * len(head), *shown])


def _count(pictures: Any) -> str:
    return f"{pictures:,} pictures" if isinstance(pictures, int) else "pictures, of which the run does not say how many"


def _pair(size: Any) -> tuple[Any, Any]:
    if isinstance(size, int):
        return size, size
    return (size[0], size[1]) if isinstance(size, (list, tuple)) and len(size) == 2 else (None, None)


def _some(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
