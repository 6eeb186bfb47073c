"""SQL over a ledger, by DuckDB."""

import re

import duckdb
import pyarrow as pa

from analysis.frames import as_ledger
from rekd.messages import one_line
from rekd.store.files import Store
from rekd.store.ledger import EPOCHS_SCHEMA, TRIALS_SCHEMA, Ledger


def query(store: Ledger | Store | str, sql: str) -> pa.Table:
    """The answer to one SQL statement over the tables `trials` and `epochs`, whose columns the ledger's schemas name.

    The statement sees these two tables and neither files nor the network. Raises ValueError where DuckDB refuses it.
    """
    ledger = as_ledger(store)
    # Epochs are a hundred times as many as trials: they are read where they are asked for.
    tables = {
        "trials": ledger.trials() if re.search(r"\btrials\b", sql, re.IGNORECASE) else TRIALS_SCHEMA.empty_table(),
        "epochs": ledger.epochs() if re.search(r"\bepochs\b", sql, re.IGNORECASE) else EPOCHS_SCHEMA.empty_table(),
    }
    # Locked, because what a statement switches on (a log in a file, say) could end the process.
    closed: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": "false",
        "lock_configuration": "true",
    }
    with duckdb.connect(config=closed) as connection:
        for name, table in tables.items():
            connection.register(name, table)
        try:
            answer = connection.sql(sql)
            rows = None if answer is None else answer.to_arrow_table()
        except (duckdb.Error, pa.ArrowException) as error:
            reason = one_line(str(error).partition("\n\nLINE ")[0]).rstrip(".")
            raise ValueError(
                f"The query cannot be answered: {reason}. `DESCRIBE trials` and `DESCRIBE epochs` list the columns."
            ) from error
        if rows is None:
            raise ValueError("The query returns no rows: give a SELECT over the tables trials and epochs.")
        return rows
