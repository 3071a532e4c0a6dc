"""Load the extensions that installed packages declare as entry points of softprompt.

A package that adds a metric declares, in its pyproject.toml, a module (or a function in it) that registers the metric:

    [project.entry-points."softprompt.metrics"]
    mine = "my_package.my_metrics"
"""

from importlib.metadata import entry_points

_loaded: set[str] = set()


def load_plugins(group: str) -> None:
    """Import what installed packages declare in `group` ("softprompt.metrics"), once in a process."""
    if group in _loaded:
        return
    _loaded.add(group)
    for plugin in entry_points(group=group):
        plugin.load()
