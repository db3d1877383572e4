"""A direction on the Hub: its file, its card, the row by which others add it."""

from __future__ import annotations

import shutil
from pathlib import Path

from ganhub.directions import load_direction
from ganhub.errors import BadInput
from ganhub.hub import records, upload
from ganhub.metrics.plot import effect_plot
from ganhub.pipelines.learn import row_of
from ganhub.pipelines.publish import WEIGHTS, Publication, check_repository, slug
from ganhub.registry import PathSource, Registry, dump_row


def publish_direction(
    file: str | Path, to: str, registry: Registry, *, license: str | None = None, description: str = ""
) -> Publication:
    """Write what is to be published of a saved direction into `NAME.publish` beside it; nothing is sent.

    Args:
        file: what `save_direction` wrote.
        to: `OWNER/NAME` on the Hub.
        registry: that knows its generator, whose licence and credit it takes over.
        license: of the direction; the generator's by default.

    Raises:
        BadInput: it was not learned here, or its generator is unknown.
    """
    file, name = Path(file), check_repository(to)
    direction = load_direction(file)
    card = direction.card
    if "accuracy" not in card and not description:
        raise BadInput(f"Nobody labelled {file.name}: say with --description what it does before you publish it.")
    generator = registry.find(str(card.get("checkpoint", "")))
    folder = file.with_name(f"{file.stem}.publish")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / WEIGHTS)
    found = records.compute(folder / WEIGHTS)
    changes = {"id": slug(name), "source": PathSource(path=WEIGHTS), "sha256": found.sha256, "bytes": found.bytes}
    changes |= {"license": license or generator.license}
    row = row_of(direction, generator)
    changes["description"] = description.strip() or row.description
    row = row.model_copy(update=changes)
    files = ["README.md", WEIGHTS, upload.ROW_FILE]
    if card.get("effect"):
        effect_plot(card["effect"]).save(folder / "effect.png")
        files.append("effect.png")
    proof = ""
    if "accuracy" in card:
        low, high = card["accuracy_interval"]
        proof = (
            f"Learned from {card['labels']} ({card['with']} with, {card['without']} without). Held-out accuracy "
            f"{card['accuracy']:.1%} ({low:.1%} to {high:.1%}), AUC {card['auc']:.3f}; shuffled labels do as well in "
            f"{card['chance'] * 100:.1f} of 100 cases.\n\n"
        )
    text = (
        f"---\nlicense: {row.license.lower()}\nlibrary_name: ganhub\ntags: [gan, latent-direction]\n---\n\n"
        f"# {row.title}\n\n{row.description}\n\nA direction in the space {direction.space} of `{generator.id}` "
        f"({generator.title}), and of no other network: sha256 `{direction.generator.get('sha256', 'unknown')}`.\n\n"
        f"{proof}" + ("![What it does](effect.png)\n\n" if "effect.png" in files else "")
        + f"```shell\nganhub add hf://{to}\nganhub direction apply {generator.id} {row.id}\n```\n"
        + (f"\nCredit: {row.credit}\n" if row.credit else "")
    )  # fmt: skip
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / upload.ROW_FILE).write_text(dump_row(row), encoding="utf-8")
    return Publication(to, folder, files, row)
