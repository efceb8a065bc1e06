"""Everything PAL raises on purpose.

PALError
├── InputError (ValueError)         data or arguments that cannot be used: what was found, where, what to do
├── UnknownUserError (KeyError)     a user id the model has no weights for
├── EncoderError                    an encoder that cannot be found, loaded or run
├── SavedModelError                 a model folder that is missing, damaged or foreign
└── MissingExtraError (ImportError) an optional dependency that is not installed
"""

__all__ = ["EncoderError", "InputError", "MissingExtraError", "PALError", "SavedModelError", "UnknownUserError"]


class PALError(Exception):
    """Base of every error that PAL raises on purpose; its text is one clear line."""


class InputError(PALError, ValueError):
    """Data or arguments that cannot be used."""


class UnknownUserError(PALError, KeyError):
    """A user id the model has no weights for."""

    def __str__(self) -> str:  # KeyError would print the repr, with quotes
        return str(self.args[0]) if self.args else ""


class EncoderError(PALError):
    """An encoder that cannot be found, loaded or run."""


class SavedModelError(PALError):
    """A model folder that is missing, damaged or foreign."""


class MissingExtraError(PALError, ImportError):
    """An optional dependency that is not installed; the text names the command that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the '{extra}' extra: pip install 'pal-alignment[{extra}]'")
