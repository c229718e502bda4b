"""A study: methods × regimes × settings × seeds over processes, a row per run, what the rows say.

STUDY.toml (`file`) → cells (`design`, `controls`) → runs over processes (`processes`, `cell`) →
rows of two CSV files (`rows`, `outcomes`, `machine`) → estimates with intervals over seeds
(`results`), pooled effects (`pooled`), frontiers (`frontier`), together the `findings` → sentences
(`answer`), tables (`tables`, `texts`) and pictures (`figures`, `plots`) of one page (`page`).
"""
