"""What the Directions tab draws itself: what speaks for a direction, and the keys for labelling."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

KEYS_JS = """
() => {
  document.addEventListener('keydown', (event) => {
    const panel = document.querySelector('#directions-clicking');
    const busy = event.target.closest('input, textarea, [contenteditable], [role=slider], [role=listbox], [role=tab]');
    if (!panel || !panel.checkVisibility() || busy || event.altKey || event.ctrlKey || event.metaKey) return;
    const name = {ArrowLeft: 'no', ArrowRight: 'yes', ArrowDown: 'skip', Backspace: 'back'}[event.key];
    if (!name) return;
    event.preventDefault();
    const button = document.querySelector(`#directions-${name}`);
    if (button && !button.disabled) button.click();
  });
}
"""
"""Arrow keys label, as long as the picture is in view and nothing is being typed."""

NAMES = {"svm": "linear SVM", "logistic": "logistic regression", "mean": "difference of means"}


def proof(card: dict[str, Any], notes: Sequence[str] = ()) -> str:
    """HTML of what speaks for a direction, from its card; empty where nobody labelled it."""
    if "accuracy" not in card:
        words = f"From {card.get('labels', 'nobody')}: nobody has labelled it, so nothing is proved of it."
        return f'<div class="proof"><p>{_(words)}</p></div>'
    low, high = card["accuracy_interval"]
    first = (
        f"It tells {card['accuracy']:.0%} of held-out latents right; the truth lies between {low:.0%} and {high:.0%}. "
        f"Shuffled labels do as well in {_chance(card['chance'])}."
    )
    rows = [
        ("Labels", f"{card['with']} with, {card['without']} without; {card['labels']}"),
        ("AUC", f"{card['auc']:.3f} ({card['auc_interval'][0]:.3f} to {card['auc_interval'][1]:.3f})"),
        ("Method", NAMES.get(card["method"], card["method"]) + (f", C {card['C']:g}" if card.get("C") else "")),
    ]
    for name, values in card.get("other_methods", {}).items():
        rows.append((NAMES.get(name, name), f"accuracy {values['accuracy']:.0%}, cosine {values['cosine']:.2f}"))
    rows += [(f"Cosine with {name}", f"{value:+.2f}") for name, value in card.get("cosines", {}).items()]
    if card.get("independent_of"):
        left = f"; AUC of what is left {card['auc_left']:.3f}" if "auc_left" in card else ""
        rows.append(("Independent of", ", ".join(card["independent_of"]) + left))
    body = "".join(f"<div><dt>{_(name)}</dt><dd>{_(value)}</dd></div>" for name, value in rows)
    told = "".join(f"<li>{_(one)}</li>" for one in notes)
    return f'<div class="proof"><p>{_(first)}</p><dl>{body}</dl>{f"<ul>{told}</ul>" if told else ""}</div>'


def _chance(share: float) -> str:
    return "less than one of 500 cases: it is no chance" if share <= 0.002 else f"{share * 100:.1f} of 100 cases"


def estimate(words: str) -> str:
    """HTML of how far the labelling is."""
    return f'<p class="estimate" role="status">{_(words)}</p>'


def _(text: object) -> str:
    return html.escape(str(text), quote=True)
