"""What can go wrong in a training without an error, told in a sentence each."""

from __future__ import annotations

from typing import Any


def warnings(measured: dict[str, Any], logged: dict[str, float]) -> list[str]:
    """Sentences about a snapshot.

    Args:
        measured: as in `metrics.jsonl`; may be empty, or of a recipe that draws nothing from seeds.
        logged: the last line of `log.jsonl`.
    """
    said = []
    if "recall" in measured:
        near, own = measured["nearest_1_percent"], measured["real_nearest_1_percent"]
        if near < own / 2:
            said.append(
                f"Some pictures are copies of real ones (distance {near:.3g}, real ones among themselves {own:.3g}): "
                "look at nearest.png, and train on more pictures or with more augmentation."
            )
        if measured["recall"] < 0.02 or measured["coverage"] < 0.05:
            said.append(
                f"The generator draws only a part of what the set holds (recall {measured['recall']:.2f}, coverage "
                f"{measured['coverage']:.2f}): early in a training that is usual, later a collapse; go back to an "
                "earlier snapshot with --resume and a lower learning rate, or for stylegan2 a higher --gamma."
            )
    sign = logged.get("sign_real", 0.0)
    if sign > 0.9:
        said.append(
            f"D is sure of {(1 + sign) / 2:.0%} of the real pictures: early in a training that is usual, later it "
            "knows them by heart; use --aug ada, a stronger --augpipe or more pictures."
        )
    return said
