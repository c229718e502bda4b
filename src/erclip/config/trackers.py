"""Who else is told the metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from erclip.config.section import Section, by_kind


class TrackioTracker(Section):
    """trackio, local or in a Space on the hub."""

    kind: Literal["trackio"] = "trackio"
    project: str = Field("erclip", description="where the run is filed")
    name: str | None = Field(None, description="of the run; None = its folder's name")
    space_id: str | None = Field(None, description="owner/space; None = local files")


class WandbTracker(Section):
    """Weights & Biases."""

    kind: Literal["wandb"] = "wandb"
    project: str = Field("erclip", description="where the run is filed")
    name: str | None = Field(None, description="of the run; None = its folder's name")
    entity: str | None = Field(None, description="user or team; None = the account's own")
    mode: Literal["online", "offline"] | None = Field(
        None, description="whether it is sent at once; None = WANDB_MODE, else online"
    )


class TensorboardTracker(Section):
    """TensorBoard's event files."""

    kind: Literal["tensorboard"] = "tensorboard"
    folder: str | None = Field(
        None, description="for events; None = tensorboard/ in the run folder"
    )


class MlflowTracker(Section):
    """MLflow."""

    kind: Literal["mlflow"] = "mlflow"
    experiment: str = Field("erclip", description="where the run is filed")
    name: str | None = Field(None, description="of the run; None = its folder's name")
    tracking_uri: str | None = Field(
        None,
        description="None = MLFLOW_TRACKING_URI, else mlflow.db in the run folder",
    )


TrackerConfig = Annotated[
    TrackioTracker | WandbTracker | TensorboardTracker | MlflowTracker,
    Field(discriminator="kind"),
    BeforeValidator(by_kind),
]
