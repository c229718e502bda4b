"""Seeing inside a run: what happened to single tokens, and whether it was signal or noise.

`recorder` (a run in progress → tokens.jsonl and ledger/*.parquet) · `rounding` (a run in progress →
what its rounding alone clips) · `ledger` (Parquet → columns) · `what_if` and `ledger_page` (columns
→ tables and plots) · `noise_floor` with `layouts` and `noise_page` (a model → its false-clip rates)
· `compare` (runs → differences with intervals).
"""
