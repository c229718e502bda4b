"""A study: methods × settings × seeds over processes, a row per run, and what the rows say.

STUDY.toml → cells (`design`) → runs over processes (`processes`, `cell`) → rows of two CSV files
(`rows`) → estimates with intervals over seeds (`results`) → page and pictures (`page`, `plots`).
"""
