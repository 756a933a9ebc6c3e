"""Puts the package `litmus` into a wheel. An editable install reads it here, by pyproject.toml's `dev-mode-dirs`."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LitmusPackage(BuildHookInterface):
    """Adds conf/package/litmus beside what a checkout has at its top level."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            build_data["force_include"]["conf/package/litmus"] = "/"  # below the prefix of `sources`
