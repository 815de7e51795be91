"""Keeps the outcome of every cell of the matrix; `--write-matrix` makes the table and the page of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from families.page import PAGE, TABLE, make_table, write

BELOW_US = (
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",  # peft 0.21 asks transformers 5.23 for it
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning",  # PaliGemma's and GLM-4V's processors
)
"""Warnings between the libraries below us, which no code of ours can avoid."""
outcomes = pytest.StashKey[dict[tuple[str, str], dict[str, Any]]]()
"""What was found, by check and family."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-matrix", action="store_true", help=f"Write {TABLE} and {PAGE} from this run.")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cell(check, family): one cell of the family matrix")
    for line in BELOW_US:
        config.addinivalue_line("filterwarnings", line)
    config.stash[outcomes] = {}
    config.pluginmanager.register(Keeper(config), "family-matrix")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("cell")
        if marker is not None:
            item.user_properties.append(("cell", list(marker.args)))


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keeps what a check found (layout, reason, difference), for the table."""

    def keep(**facts: Any) -> None:
        request.node.user_properties.append(("measured", facts))

    return keep


class Keeper:
    """Reads the reports of all tests, on the process that gathers them, and writes at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        cell = next((value for name, value in report.user_properties if name == "cell"), None)
        if cell is None or (report.when != "call" and report.passed):
            return
        found: dict[str, Any] = {"ok": report.passed}
        for name, value in report.user_properties:
            if name == "measured":
                found |= value
        if not report.passed:
            found["reason"] = reason_of(report)
        elif not found.pop("applies", True):
            found["ok"] = None
        self.config.stash[outcomes][cell[0], cell[1]] = found

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self.config.getoption("--write-matrix", default=False) or hasattr(self.config, "workerinput"):
            return
        write(make_table(self.config.stash[outcomes]), Path(self.config.rootpath))


def reason_of(report: pytest.TestReport) -> str:
    """Why a check did not pass: what was known before, or the first line of the error."""
    known = getattr(report, "wasxfail", "")
    if known:
        return str(known).removeprefix("reason: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    message = crash.message if crash is not None else str(report.longrepr)
    return str(message).strip().splitlines()[0][:300]
