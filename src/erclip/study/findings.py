"""All that a study's rows come to, worked out once for the page, its tables and its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from erclip.pages.sheet import Table
from erclip.study.design import Study
from erclip.study.frontier import Frontier, frontiers
from erclip.study.pooled import Effect, effects
from erclip.study.results import Runs, by_regime
from erclip.study.tables import Regimes, outcomes_of, study_tables


class Findings(NamedTuple):
    """All that a study's rows come to."""

    study: Study
    regimes: Regimes
    pooled: list[Effect]
    fronts: list[Frontier]

    @classmethod
    def of(cls, study: Study, found: Mapping[str, Runs]) -> Findings:
        """Pool the effects, and draw the frontiers that the study file asks for."""
        regimes, asked = by_regime(found), study.file.frontier
        fronts = (
            []
            if asked is None
            else [
                own
                for kept in asked.kept
                for outcome in asked.outcomes or study.file.outcomes[:1]
                for own in frontiers(regimes, asked.gained, kept, outcome)
            ]
        )
        return cls(study, regimes, effects(regimes, outcomes_of(study.file)), fronts)

    def tables(self) -> dict[str, Table]:
        """Name → table."""
        return study_tables(self.regimes, self.pooled, self.fronts, self.study.file)
