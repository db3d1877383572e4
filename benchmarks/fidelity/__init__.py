"""Puts a folder of reference cases through the project: `python -m benchmarks.fidelity DIR`.

A case is a `.npz` with arrays `in_*` (what another implementation was given) and `out_*` (what it answered), beside
the checkpoint that it ran. One file here per family says what the names of the arrays ask for: a list `RULES` made
with `rules.Rules`, found by the family's name. A family without such a file is skipped, with the reason.
"""
