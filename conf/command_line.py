"""Words of a command line: values as Hydra reads them, and the quotes that it needs."""

import os
import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

PROGRAM = os.environ.get("LITMUS_PROGRAM", "python train.py")  # as the user started it
# A value without the characters that have a meaning for Hydra, but with an equals sign: runs/lr=0.01.
WITH_EQUALS_SIGN = re.compile(r"""([\w./@+~-]+)=([^'"\[\]{}(),$\\]*=[^'"\[\]{}(),$\\]*)""")
SENTENCE = re.compile(r"""(intended_use)=([^'"].*)""", re.DOTALL)  # its commas and brackets have no meaning


def quoted(arguments: list[str]) -> list[str]:
    """A command line whose sentences and values with an equals sign are quoted, as Hydra asks for.

    Our own files have such names: `init_from=logs/a/checkpoints/epoch=002.ckpt`.
    """
    return [_quoted(text) for text in arguments]


def _quoted(text: str) -> str:
    if match := SENTENCE.fullmatch(text):
        sentence = match[2].replace("'", "\\'")
        return f"{match[1]}='{sentence}'"
    return WITH_EQUALS_SIGN.sub(r"\1='\2'", text) if WITH_EQUALS_SIGN.fullmatch(text) else text


def value_of(override: str) -> str | None:
    """The text of a value as Hydra reads it, without quotes and escapes; None for null.

    A word that Hydra refuses is taken as it is: Hydra reports it when it composes the config.
    """
    try:
        value = OverridesParser.create().parse_override(override).value()
    except HydraException:
        return override.partition("=")[2]
    return None if value is None else str(value)
