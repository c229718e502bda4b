"""The decision ledger: one row per token of every k-th update, as Parquet files that stand alone.

Letters: N tokens. A file `ledger/update_000010.parquet` holds one update and is complete: it is
written under another name and then renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from erclip.errors import UserError
from erclip.extras import need
from erclip.machine.files import whole_file
from erclip.runs.metrics import CORE_RULES

FOLDER = "ledger"
MEASURES = ("old_logprob", "new_logprob", "old_entropy", "new_entropy", "slope", "advantage")
PLACES = ("update", "rollout", "update_in_rollout", "response", "position", "token_id")
WEIGHT = "weight_"  # before the name of a weight in its column


@dataclass(frozen=True)
class Ledger:
    """Columns of [N] tokens. Log-probs and entropies in nats; `slope` is ⟨∇ log π(a), ∇H⟩.

    `flags` are the rules that fired during training and `weights` the shares of gradient that they
    left, by the names of `LossOutput`; `places` say where a token stands: `response` counts the
    rollout's sampled responses, dropped ones included. `texts` are those of the token ids.
    """

    places: Mapping[str, Tensor]
    texts: Mapping[int, str]
    measures: Mapping[str, Float[Tensor, " N"]]
    flags: Mapping[str, Bool[Tensor, " N"]]
    weights: Mapping[str, Float[Tensor, " N"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.places["token_id"])


def check_pyarrow() -> None:
    """Refuse before anything is sampled, not at the first write."""
    need("pyarrow", "the ledger", ", or set ledger.every = 0")


def write_update(
    folder: Path, update: int, columns: Mapping[str, Any], tokens: Mapping[int, str]
) -> Path:
    """Write one update's rows; `tokens` gives the text of every id that occurs."""
    import pyarrow as pa
    from pyarrow import parquet

    ids = list(tokens)
    index = {token_id: place for place, token_id in enumerate(ids)}
    texts = pa.array([tokens[token_id].encode("utf-8", "replace").decode() for token_id in ids])
    indices = pa.array([index[i] for i in columns["token_id"].tolist()], type=pa.int32())
    clash = {*PLACES, *MEASURES, "token"} & {n for n, v in columns.items() if v.dtype == bool}
    if clash:
        raise UserError(
            f"a rule of the loss reports under the name {min(clash)!r}, which is a column of the "
            "ledger; give it another name, or set ledger.every = 0"
        )
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    table = table.append_column("token", pa.DictionaryArray.from_arrays(indices, texts))
    folder.mkdir(exist_ok=True)
    target = folder / f"update_{update:06d}.parquet"
    with whole_file(target) as scratch:
        parquet.write_table(table, scratch, compression="zstd")
    return target


def read_ledger(run: Path) -> Ledger:
    """All rows of a run's ledger, in order of updates.

    Raises `UserError` where pyarrow is missing, or the run kept no ledger, or a file is damaged.
    """
    check_pyarrow()
    import pyarrow as pa
    from pyarrow import parquet

    files = sorted((run / FOLDER).glob("update_*.parquet"))
    if not files:
        raise UserError(f"{run} holds no ledger; train with --set ledger.every=10 to keep one")
    tables = []
    for file in files:
        try:
            tables.append(parquet.read_table(file))
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{file} cannot be read ({error}); remove it and try again") from None
    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    missing = {*PLACES, *MEASURES, "token"} - set(table.column_names)
    if missing:
        raise UserError(f"{run / FOLDER} lacks the columns {', '.join(sorted(missing))}")

    def column(name: str) -> Tensor:
        values = table[name]
        if values.null_count:  # an update whose loss did not have this rule
            values = values.fill_null(1.0 if name.startswith(WEIGHT) else False)
        return torch.from_numpy(values.to_numpy(zero_copy_only=False).copy())

    ids, firsts = np.unique(table["token_id"].to_numpy(), return_index=True)
    fields = {field.name: field.type for field in table.schema}
    none = torch.zeros(len(table), dtype=torch.bool)
    flags = {name: column(name) for name, kind in fields.items() if pa.types.is_boolean(kind)}
    return Ledger(
        places={name: column(name) for name in PLACES},
        texts=dict(zip(ids.tolist(), table["token"].take(firsts).to_pylist(), strict=True)),
        measures={
            name: column(name)
            for name, kind in fields.items()
            if pa.types.is_floating(kind) and not name.startswith(WEIGHT)
        },
        flags={**dict.fromkeys(CORE_RULES, none), **flags},
        weights={n.removeprefix(WEIGHT): column(n) for n in fields if n.startswith(WEIGHT)},
    )
