"""All tables, and the page of one."""

from collections.abc import Mapping
from typing import Any

from experiment_table import Table
from table_acceleration import TABLE as ACCELERATION
from table_conversion import TABLE as CONVERSION
from table_guidance import TABLE as GUIDANCE
from table_inpainting import TABLE as INPAINTING
from table_length import TABLE as LENGTH
from table_levels import TABLE as LEVELS
from table_mixtures import TABLE as MIXTURES
from table_orders import TABLE as ORDERS
from table_reasoning import TABLE as REASONING
from table_solvers import TABLE as SOLVERS

ALL = "all"
TABLES: dict[str, Table] = {
    table.name: table
    for table in (LEVELS, LENGTH, MIXTURES, SOLVERS, INPAINTING, GUIDANCE, ACCELERATION, ORDERS, CONVERSION, REASONING)
}


def page_of(record: Mapping[str, Any]) -> str:
    """The record of a table in Markdown, with what it was made by."""
    table = TABLES[record["table"]]
    told = [
        f"`{record['command']}`: {record['seconds_of_jobs'] / 60:.0f} minutes of jobs, a thread each",
        f"machine: {', '.join(record['machines'])}; torch {record['packages']['torch']}",
        f"commits: {', '.join(record['commits'])}; training seeds: {', '.join(map(str, record['seeds']))}",
    ]
    return (
        f"# {table.name}\n\n{table.question}\n\n"
        + "\n".join(f"- {each}" for each in told)
        + f"\n\n{table.page(record)}"
    )
