"""Every recipe and every table by name."""

from softprompt.errors import UnknownName
from softprompt.recipes import ours
from softprompt.recipes.tables import Table

TABLES: dict[str, Table] = {table.name: table for table in (ours.TABLE,)}


def get_table(name: str) -> Table:
    if name not in TABLES:
        raise UnknownName("table", name, TABLES)
    return TABLES[name]
