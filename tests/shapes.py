"""The type checker that the core's calls go through in the tests; an int is a float, as ever."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
